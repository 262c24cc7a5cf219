//! Sandboxes on the real kernel: what programs see, what stops them, what they leave. Each test has a spawner of its own.

mod bench;
mod life;
mod unpack;
