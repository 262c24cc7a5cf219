//! An operation and the transaction it runs in: one text of SQL for both engines.
//!
//! On SQLite every statement is done when its call returns; on PostgreSQL it is a round trip, and operations that say
//! so share it. An operation must check before it writes, and let the guard of a move stand in the move's own
//! `UPDATE … WHERE`: then it is right alone, in a group, and beside another server.

use crate::bulk::{Bulk, Insert};
use crate::error::StoreError;
use crate::postgres;
use crate::sqlite;
use crate::value::{Row, Value};
use jiff::Timestamp;
use model::{Noun, TenantId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a text that was put together for one question may run; where the code is tried out, one does on purpose.
const MAX_ASKED: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 10 });

/// One thing the store can do, as one transaction.
pub(crate) trait Operation: Send + Sync + 'static {
    /// What the caller gets.
    type Answer: Send + 'static;

    /// Whether it may share round trips with its equals: what it does must not depend on what they do.
    const OVERLAPS: bool = false;

    /// Whether it may take long, since it answers what somebody made up: such may not hold all that reads.
    const ASKS: bool = false;

    /// Does it. It may run more than once, each time as if it had never run before.
    fn run(&self, tx: &Tx<'_>) -> impl Future<Output = Result<Self::Answer, StoreError>> + Send;
}

/// A change that waits for its number, which it gets when the group it belongs to is about to be committed.
#[derive(Clone, Debug)]
pub(crate) struct NewChange {
    pub(crate) at: Timestamp,
    pub(crate) tenant: TenantId,
    pub(crate) noun: Noun,
    pub(crate) id: String,
    pub(crate) state: &'static str,
    pub(crate) by: String,
    pub(crate) body: String,
}

/// The connection that a transaction runs on.
#[derive(Clone, Copy)]
pub(crate) enum Session<'s> {
    /// SQLite. The lock is never contended; it lets a future that holds the transaction move between threads.
    Sqlite(&'s Mutex<rusqlite::Connection>),
    /// PostgreSQL.
    Postgres(&'s deadpool_postgres::Object),
}

/// What one operation sees of the transaction it runs in.
pub(crate) struct Tx<'s> {
    session: Session<'s>,
    bulk: Option<&'s Bulk>,
    changes: Mutex<Vec<NewChange>>,
    wrote: AtomicBool,
}

impl<'s> Tx<'s> {
    pub(crate) const fn new(session: Session<'s>) -> Self {
        Self { session, bulk: None, changes: Mutex::new(Vec::new()), wrote: AtomicBool::new(false) }
    }

    /// Returns one whose inserted rows go with those of others.
    pub(crate) fn together(session: Session<'s>, bulk: &'s Bulk) -> Self {
        Self { bulk: Some(bulk), ..Self::new(session) }
    }

    pub(crate) const fn session(&self) -> Session<'s> {
        self.session
    }

    /// Reads rows.
    pub(crate) async fn rows(&self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        match self.session {
            Session::Sqlite(connection) => {
                sqlite::rows(&connection.lock().unwrap_or_else(PoisonError::into_inner), sql, values)
            }
            Session::Postgres(client) => postgres::rows(client, sql, values).await,
        }
    }

    /// Reads rows by a text that was put together for this one question, and that no connection keeps ready. What takes
    /// too long is stopped: the engines plan such texts by what they guess.
    pub(crate) async fn ask(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        match self.session {
            Session::Sqlite(connection) => {
                sqlite::ask(&mut connection.lock().unwrap_or_else(PoisonError::into_inner), sql, values, MAX_ASKED)
            }
            Session::Postgres(client) => postgres::ask(client, sql, values, MAX_ASKED).await,
        }
    }

    /// Counts the values in the only column of such an answer; nothing, where the engine does so better itself, or if they
    /// are more than so many.
    pub(crate) fn tally(
        &self,
        sql: &str,
        values: &[Value],
        most: usize,
    ) -> Result<Option<Vec<(Value, u64)>>, StoreError> {
        match self.session {
            Session::Sqlite(connection) => {
                let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                sqlite::tally(&mut connection, sql, values, (MAX_ASKED, most))
            }
            Session::Postgres(_) => Ok(None),
        }
    }

    /// Reads one row, if there is one.
    pub(crate) async fn row(&self, sql: &'static str, values: &[Value]) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(sql, values).await?.pop())
    }

    /// Writes, and returns the rows that the statement returns.
    pub(crate) async fn write(&self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        let rows = self.rows(sql, values).await?;
        self.wrote.fetch_or(!rows.is_empty(), Ordering::Relaxed);
        Ok(rows)
    }

    /// Writes, and returns how many rows were touched.
    pub(crate) async fn execute(&self, sql: &'static str, values: &[Value]) -> Result<u64, StoreError> {
        let count = match self.session {
            Session::Sqlite(connection) => {
                sqlite::execute(&connection.lock().unwrap_or_else(PoisonError::into_inner), sql, values)?
            }
            Session::Postgres(client) => postgres::execute(client, sql, values).await?,
        };
        self.wrote.fetch_or(count > 0, Ordering::Relaxed);
        Ok(count)
    }

    /// Locks rows by a statement of its own, where there are others who write: what is read of them from then on stays true
    /// until the commit, and what others did to them before is seen.
    pub(crate) async fn hold(&self, sql_postgres: &'static str, values: &[Value]) -> Result<(), StoreError> {
        match self.session {
            Session::Sqlite(_) => Ok(()),
            Session::Postgres(client) => postgres::rows(client, sql_postgres, values).await.map(drop),
        }
    }

    /// Inserts a row unless its key is there; tells whether it is new.
    pub(crate) async fn insert(&self, into: &'static Insert, values: &[Value]) -> Result<bool, StoreError> {
        let is_new = match self.bulk {
            Some(bulk) => bulk.insert(into, values.to_vec()).await?,
            None => return Ok(self.execute(into.one, values).await? > 0),
        };
        self.wrote.fetch_or(is_new, Ordering::Relaxed);
        Ok(is_new)
    }

    /// Notes a change for the log.
    pub(crate) fn change(&self, change: NewChange) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }

    /// Tells whether anything was written, so that a refusal must undo it.
    pub(crate) fn wrote(&self) -> bool {
        self.wrote.load(Ordering::Relaxed)
    }

    /// Returns the changes noted.
    pub(crate) fn into_changes(self) -> Vec<NewChange> {
        self.changes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
