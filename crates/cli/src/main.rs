//! The binary `quarry`: a server when told to be one, and otherwise its user's hands. `command.rs` holds the rest.
#![forbid(unsafe_code)]

mod blob;
mod change;
mod command;
mod completion;
mod config;
mod connection;
mod doctor;
mod draft;
mod execution;
mod exit;
mod image;
mod list;
mod log;
mod login;
mod migrate;
mod output;
mod quantity;
mod registry;
mod run;
mod serve;
mod server;
mod session;
mod tenant;
mod token;
mod up;
mod user;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    command::run(&std::env::args_os().collect::<Vec<_>>())
}
