//! Sandboxes: prepared, parked, started, stopped, accounted for; and the cores of what dies in them.
//!
//! A *spawner* is a process of its own that does one thing at a time (`keeper.rs`). It holds the privileges, builds
//! sandboxes by `clone3` and starts programs in them on order; this crate's `Spawner` is the handle by which a node speaks
//! to it. What a sandbox is made of stands in a `Plan`, what runs in it in an `Order`. This is the only crate that says
//! `unsafe`.

pub mod bundle;
mod cell;
mod confine;
mod core;
pub mod descriptor;
mod error;
mod event;
mod ids;
mod init;
mod keeper;
mod lean;
mod message;
mod network;
mod person;
mod plan;
mod profile;
mod program;
pub mod prompt;
mod root;
mod seccomp;
mod spare;
pub mod spawner;
mod system;
mod trace;
pub mod unpack;

pub use bundle::{Bundle, Container, Runtime, Sort, Vigil};
pub use error::SandboxError;
pub use event::{Core, Ending, Event, Fault, FaultKind, Status, Stop};
pub use lean::Lean;
pub use plan::{Bind, Order, Place, Plan, Root};
pub use spawner::{Abilities, Events, MAX_SANDBOXES, Settings, Spawner};
