//! The binary as its users meet it: words in, words and an exit code out.

mod blob;
mod change;
mod connection;
mod doctor;
mod entity;
mod execution;
mod stub;
mod usage;
