//! Sandboxes on the real kernel: what programs see, what stops them, what they leave. Each test has a spawner of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
mod cores;
mod escape;
mod house;
mod life;
