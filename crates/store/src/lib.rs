//! The store: the only SQL of the house, the log that everything follows, and the blobs.
//!
//! One contract on two engines, SQLite and PostgreSQL. Time and randomness come in from outside (`Clock`, [`random`]).
#![forbid(unsafe_code)]

mod analyzer;
pub mod blob;
mod bulk;
mod change;
mod chunk;
pub mod clock;
mod content;
mod database;
mod dump;
mod error;
mod execution;
mod image;
mod migration;
mod node;
mod pack;
mod parcel;
mod postgres;
mod registry;
mod signature;
mod sqlite;
mod statement;
mod store;
mod tenant;
mod token;
mod transaction;
mod transfer;
mod user;
mod value;
mod writer;

pub use analyzer::arrival::MAX_ARRIVAL_STUDIES;
pub use change::retention::Retained;
pub use change::{Bounds, ChangeFilter, ChangePage, Follower, Retention};
pub use chunk::ChunkCheck;
pub use clock::{Clock, random};
pub use dump::bulk::DumpsOrder;
pub use dump::query::DumpsAsked;
pub use dump::retention::{DumpRetention, Purged};
pub use dump::signed::StacksAsked;
pub use dump::{DumpKey, DumpLeft, Taken};
pub use error::{StoreError, chain, is_full};
pub use execution::ExecutionEnd;
pub use execution::claim::{Claim, MAX_SHAPES, Queue};
pub use execution::retention::Removed;
pub use image::ImageKey;
pub use migration::Schema;
pub use node::NodeKey;
pub use node::session::{Assigned, Exchange, Heard, Report};
pub use pack::Idle;
pub use parcel::ParcelsFreed;
pub use registry::Sealed;
pub use signature::settle::Settled;
pub use signature::{Representing, SignatureFound, SignatureKey};
pub use sqlite::Synchronous;
pub use statement::{Engine, statements_of};
pub use store::{Place, Store, StoreConfig};
pub use tenant::TenantKey;
pub use token::{Bearer, TokenRow};
pub use transfer::{Progress, Summary, transfer};
pub use user::UserKey;
