//! Dumps: what is in them, told as a `model::Report`.
//!
//! Everything here reads bytes that somebody hostile may have written, and runs in a sandboxed child: no network, no clock,
//! and every size, count and depth has a `MAX_`. What is missing or broken becomes a note in the report.
#![deny(unsafe_code)]

mod analyse;
mod core;
mod crash;
mod debugger;
mod finding;
mod id;
mod illumos;
mod kernel;
mod kind;
pub mod locate;
mod mapped;
mod memory;
mod minidump;
mod module;
pub mod pack;
pub mod parcel;
mod places;
pub mod redact;
pub mod signature;
pub mod symbol;
mod text;
mod unwind;

pub use analyse::{analyse, main};
pub use core::mapped_modules;
pub use core::{EXTRA_KIND, EXTRA_OWNER, Extra, MAX_EXTRA_BYTES};
pub use debugger::debugger;
pub use finding::{child, findings};
pub use id::{IdError, QuickId, quick_id};
pub use kind::{MAX_HEAD_BYTES, is_no_dump, kind};
pub use mapped::Mapped;
pub use memory::Memory;
pub use module::{ModuleError, ModuleFile};
pub use places::Places;
pub use symbol::{Place, Symbols};
pub use unwind::{Arch, Loaded, Registers, Unwinder, Walk, Walked};
