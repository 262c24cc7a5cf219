//! The store: the only SQL of the house, the log that everything follows, and the blobs.
//!
//! One contract on two engines, SQLite and PostgreSQL. Time and randomness come in from outside (`Clock`, [`random`]).
#![forbid(unsafe_code)]

pub mod blob;
mod bulk;
mod change;
pub mod clock;
mod content;
mod database;
mod error;
mod execution;
mod migration;
mod postgres;
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

pub use change::{Bounds, ChangeFilter, ChangePage, Follower, Retention};
pub use clock::{Clock, random};
pub use error::{StoreError, chain};
pub use execution::ExecutionEnd;
pub use migration::Schema;
pub use sqlite::Synchronous;
pub use statement::{Engine, statements_of};
pub use store::{Place, Store, StoreConfig};
pub use tenant::TenantKey;
pub use token::{Bearer, TokenRow};
pub use transfer::{Progress, Summary, transfer};
pub use user::UserKey;
