//! Sandboxes on the real kernel: what programs see, what stops them, what they leave. Each test has a spawner of its own.
//! They run as root; those that also make sense for an ordinary user start their spawner as one.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
mod bundles;
mod cores;
mod escape;
mod house;
mod leftover;
mod life;
mod limit;
mod root;
mod seccomp;
mod spare;
mod stop;
mod unpack;
mod warm;
