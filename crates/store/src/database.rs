//! The database behind the store: which engine, and how to read from it.

use crate::error::StoreError;
use crate::postgres::Postgres;
use crate::sqlite::Readers;
use crate::statement::Engine;
use crate::transaction::{Operation, Session, Tx};

/// The database behind the store.
#[derive(Clone)]
pub(crate) enum Database {
    /// A file of our own.
    Sqlite(Readers),
    /// A server that others may share.
    Postgres(Box<Postgres>),
}

impl Database {
    /// Returns which engine it is.
    pub(crate) const fn engine(&self) -> Engine {
        match self {
            Self::Sqlite(_) => Engine::Sqlite,
            Self::Postgres(_) => Engine::Postgres,
        }
    }

    /// Waits for those who read, and lets nobody read any more.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(readers) => readers.close().await,
            Self::Postgres(postgres) => postgres.close(),
        }
    }

    /// Runs an operation that only reads.
    pub(crate) async fn read<O: Operation>(&self, operation: O) -> Result<O::Answer, StoreError> {
        match self {
            Self::Sqlite(readers) => readers.run(operation).await,
            Self::Postgres(postgres) => {
                let _turn = if O::ASKS { Some(postgres.turn().await?) } else { None };
                let client = postgres.client().await?;
                operation.run(&Tx::new(Session::Postgres(&client))).await
            }
        }
    }
}
