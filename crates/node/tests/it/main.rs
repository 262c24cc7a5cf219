//! The node, against real registries, real archives and a real disk.

mod cache;
mod egress;
mod hostile;
mod image;
mod peer;
mod registry;
mod room;
