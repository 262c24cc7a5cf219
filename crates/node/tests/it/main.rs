//! The node, against real registries, real archives and a real disk.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cache;
mod debuginfod;
mod egress;
mod hostile;
mod image;
mod peer;
mod registry;
mod room;
