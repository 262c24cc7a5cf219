//! The server at its edge: started in process, spoken to over HTTP, on SQLite and, where the store matters, PostgreSQL.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod answer;
mod app;
mod engine;
mod execution;
mod interface;
mod openapi;
mod privilege;
mod raw;
mod refusal;
