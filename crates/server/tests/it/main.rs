//! The server at its edge: started in process, spoken to over HTTP, on SQLite and, where the store matters, PostgreSQL.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod answer;
mod app;
mod blob;
mod change;
mod dump;
mod engine;
mod exchange;
mod execution;
mod fuzz;
mod health;
mod interface;
mod issuer;
mod node;
mod openapi;
mod privilege;
mod rate;
mod raw;
mod refusal;
mod session;
mod signature;
mod stop;
mod stream;
mod tenant;
mod tls;
mod token;
mod user;
