//! The store's conformance suite: one contract on two engines, and blobs on two places, all of them real.

mod blob;
mod bucket;
mod change;
mod claim;
mod content;
mod crash;
mod dump;
mod engine;
mod execution;
mod fleet;
mod image;
mod lane;
mod migration;
mod moves;
mod node;
mod removal;
mod retention;
mod sample;
mod signature;
mod specification;
mod statement;
mod tenant;
mod token;
mod transfer;
mod user;
mod writer;
