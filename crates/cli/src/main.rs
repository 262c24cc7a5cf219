//! The binary `quarry`: a server when told to be one, and otherwise its user's hands. `command.rs` holds the rest.
#![forbid(unsafe_code)]

mod blob;
mod change;
mod collect;
mod command;
mod completion;
mod config;
mod connection;
mod doctor;
mod draft;
mod dump;
mod execution;
mod exit;
mod image;
mod inside;
mod list;
mod log;
mod login;
mod migrate;
mod node;
mod output;
mod progress;
mod ps;
mod quantity;
mod registry;
mod run;
mod serve;
mod server;
mod session;
mod signals;
mod signature;
mod source;
mod tenant;
mod thoth;
mod token;
mod top;
mod up;
mod user;

#[global_allocator]
static ALLOCATOR: ::node::Lean<mimalloc::MiMalloc> = ::node::Lean::new(mimalloc::MiMalloc);

fn main() -> std::process::ExitCode {
    let args = std::env::args_os().collect::<Vec<_>>();
    // What a node starts itself as, before anything else has begun: no thread, no runtime, no output.
    match args.get(1).and_then(|role| role.to_str()) {
        Some("spawner") => ::node::spawner(),
        Some("minder") => ::node::minder(),
        Some("unpack") => ::node::unpack(),
        Some("analyser") => ::node::analyser(),
        Some("debugger") => ::node::debugger(),
        _ => command::run(&args),
    }
}
