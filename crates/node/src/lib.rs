//! The node agent: takes executions from a server, runs them in sandboxes, and says what became of them.
//!
//! Two actors. The *dispatcher* (`dispatcher.rs`) alone speaks with the server and owns what this node holds; each *attempt*
//! (`attempt.rs`) is a task of its own that prepares, starts and follows one execution, and tells the dispatcher. A node holds
//! no credential but its own token, keeps nothing but a cache, and trusts nothing that an image or a program says.
#![forbid(unsafe_code)]

pub mod cache;
pub mod image;
