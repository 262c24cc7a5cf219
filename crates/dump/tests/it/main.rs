//! Dumps on real parts: programs built here, libraries of this machine, and other tools that know the answer.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod locate;
mod pack;
mod programs;
mod symbol;
