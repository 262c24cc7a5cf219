//! The node agent: takes executions from a server, runs them in sandboxes, and says what became of them.
#![forbid(unsafe_code)]

pub mod egress;
