//! The store: the only SQL, the log, and the blobs.
#![forbid(unsafe_code)]

pub mod blob;
pub mod clock;

pub use clock::{Clock, random};
