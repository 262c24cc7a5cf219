//! Dumps on real parts: programs built here and made to crash, libraries of this machine, and other tools that know the
//! answer: `eu-stack`, `gdb` and their like.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod accuracy;
mod arm;
mod core;
mod document;
mod hostile;
mod illumos;
mod kernel;
mod locate;
mod minidump;
mod narrow;
mod pack;
mod parcel;
mod program;
mod redact;
mod seed;
mod symbol;
mod text;
