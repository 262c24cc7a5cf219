//! The server: routes, who may use them, the description of both, controllers, configuration and logging.
//!
//! It never runs or takes apart what foreign people send: contents go in and out as they are.
#![forbid(unsafe_code)]

mod app;
mod body;
mod caller;
mod change;
pub mod config;
mod connection;
mod content;
mod credential;
mod error;
mod execution;
mod health;
pub mod issuer;
pub mod log;
mod openapi;
pub mod rate;
mod request;
mod retention;
mod server;
mod tenant;
pub mod tls;
mod token;
mod user;

pub use openapi::openapi_json;
pub use server::{Server, StartError, blob_config, store_config};
