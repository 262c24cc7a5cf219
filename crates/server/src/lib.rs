//! The server.
#![forbid(unsafe_code)]

pub mod config;
pub mod issuer;
pub mod log;
pub mod rate;
pub mod tls;
