//! Dumps: what is in them, told as a `model::Report`.
//!
//! Everything here reads bytes that somebody hostile may have written, and runs in a sandboxed child: no network, no clock,
//! and every size, count and depth has a `MAX_`. What is missing or broken becomes a note in the report.
#![deny(unsafe_code)]

mod mapped;
mod module;
mod places;
pub mod signature;

pub use mapped::Mapped;
pub use module::{ModuleError, ModuleFile};
pub use places::Places;
