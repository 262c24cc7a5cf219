//! The server: routes, who may use them, the description of both, controllers, configuration and logging.
//!
//! It never runs or takes apart what foreign people send: contents go in and out as they are.
#![forbid(unsafe_code)]

mod analysis;
mod analyzer;
mod app;
mod body;
mod caller;
mod change;
mod chunk;
pub mod config;
mod connection;
mod content;
mod credential;
mod dump;
mod error;
mod execution;
mod fence;
mod health;
mod image;
pub mod issuer;
pub mod log;
mod node;
mod openapi;
mod pack;
mod page;
mod parcel;
pub mod rate;
mod registry;
mod request;
mod retention;
mod seal;
mod server;
mod session;
mod signature;
mod tenant;
pub mod tls;
mod token;
mod user;

pub use openapi::openapi_json;
pub use server::{Server, StartError, blob_config, store_config};
