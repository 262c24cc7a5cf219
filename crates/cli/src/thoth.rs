//! The binary when it is called as `thoth`: the verbs of dumps at top level, Thoth's way of talking, and its exit codes.

use crate::connection::Global;
use crate::dump::Dump;
use crate::exit::Exit;
use clap::Parser;
use std::ffi::OsStr;
use std::path::Path;

/// What it calls itself when it talks.
pub(crate) const NAME: &str = "thoth";

/// Where Thoth kept analyzers.
pub(crate) const ANALYZERS: &str = "/thoth/stor/thoth/analyzers/";

/// Keeps, finds and explains what programs and machines left when they died.
#[derive(Parser)]
#[command(
    name = "thoth",
    version,
    propagate_version = false,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "Example:
  thoth upload core.1234
  thoth ls mtime=6h
  thoth info 76998f82a450a891

Exit codes: 0 ok, 1 failed, 2 not found. The server and who one is there are told by `quarry login`, or by QUARRY_URL and
QUARRY_TOKEN.")]
pub(crate) struct Thoth {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Dump,
}

/// Tells whether the binary is called so.
pub(crate) fn is_called(program: Option<&OsStr>) -> bool {
    program.and_then(|program| Path::new(program).file_stem()).is_some_and(|name| name == NAME)
}

/// Returns how a command ended as Thoth counts it.
pub(crate) const fn exit(exit: Exit) -> Exit {
    match exit {
        Exit::Failed | Exit::Refused | Exit::Unreachable | Exit::Usage => Exit::Failed,
        Exit::Ok | Exit::NotFound | Exit::Interrupted | Exit::Program(_) => exit,
    }
}
