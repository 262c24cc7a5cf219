//! The client against a small real server that misbehaves on purpose.

mod blob;
mod change;
mod request;
mod server;
