//! The node agent: takes executions from a server, runs them in sandboxes, and says what became of them.
//!
//! Two actors. The *dispatcher* (`dispatcher.rs`) alone speaks with the server and owns what this node holds; each *attempt*
//! (`attempt.rs`) is a task of its own that prepares, starts and follows one execution, and tells the dispatcher. A node holds
//! no credential but its own token, keeps nothing but a cache, and trusts nothing that an image or a program says.
#![forbid(unsafe_code)]

mod agent;
mod attempt;
pub mod cache;
pub mod debuginfod;
mod dispatcher;
pub mod egress;
mod files;
pub mod image;
mod input;
mod meter;
mod outbox;
mod output;
pub mod parcel;
mod recipe;
mod runtime;
mod sandboxes;
mod scratch;
mod settings;
mod worker;

pub use agent::{Agent, NodeError};
pub use runtime::NamedRuntime;
pub use sandbox::Lean;
pub use settings::{AllowedMount, Settings};

/// Has the threads that this one will start go on soon once they are woken: those of a server, a node and a spawner.
pub fn be_prompt() {
    sandbox::prompt::begin();
}

/// Lets this process open as many files as it may: connections, pipes and sandboxes each need some.
pub fn raise_open_files() {
    sandbox::descriptor::raise();
}

/// Becomes the spawner of a node; what a node starts its own program for.
pub fn spawner() -> std::process::ExitCode {
    sandbox::spawner::main()
}

/// Becomes the minder of one container of another OCI runtime; what a node starts its own program for.
pub fn minder() -> std::process::ExitCode {
    sandbox::bundle::main()
}

/// Becomes the child that opens one dump; what a node starts its own program for, in a sandbox.
pub fn analyser() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(2).map(|one| one.to_string_lossy().into_owned()).collect();
    dump::child(&arguments)
}

/// Becomes a debugger of a dump, in a sandbox that has the dump beside it.
pub fn debugger() -> std::process::ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(2).collect();
    dump::debugger(&arguments)
}

/// Becomes the child that unpacks one layer; what a node starts its own program for.
pub fn unpack() -> std::process::ExitCode {
    sandbox::unpack::main()
}
