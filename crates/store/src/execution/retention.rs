//! The old end of the executions: those that ended long ago go, with what they wrote and were sent to read.
//!
//! First the row goes, with a word in the log, and its name is noted; then its chunks, slice by slice, and the note last.
//! A server that dies in between leaves the note, which the next pass finds. The blobs that its chunks and its recipe named
//! become loose (`content/loose.rs`). The dump that it left stays.

use super::{columns, note_as, read};
use crate::content::loose;
use crate::error::StoreError;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Session, Tx};
use crate::value::Row;
use jiff::Timestamp;
use model::{Digest, ExecutionId, TenantId};

/// Executions that one transaction removes.
const MAX_REMOVED: u64 = 128;
/// Executions whose chunks one transaction looks at.
const MAX_EMPTIED: u64 = 64;
/// Chunks of one execution that one transaction removes.
const SLICE: u64 = 500;
/// The last word of the log on an execution.
const REMOVED: &str = "removed";

statements! {
    OLD_SQLITE = concat!(
        "SELECT ", columns!(), " FROM execution WHERE ended_at IS NOT NULL AND ended_at < $1 ORDER BY ended_at LIMIT $2"
    );
    OLD_POSTGRES = concat!(
        "SELECT ", columns!(), " FROM execution WHERE ended_at IS NOT NULL AND ended_at < $1 \
         ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED"
    );
    REMOVE = "DELETE FROM execution WHERE id = $1 AND ended_at IS NOT NULL";
    GONE = "INSERT INTO execution_gone (id, tenant) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    PENDING_SQLITE = "SELECT id, tenant FROM execution_gone ORDER BY id LIMIT $1";
    PENDING_POSTGRES = "SELECT id, tenant FROM execution_gone ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED";
    CHUNKS = "SELECT attempt, number, blob FROM chunk WHERE execution = $1 ORDER BY attempt, number LIMIT $2";
    EMPTY = "DELETE FROM chunk WHERE execution = $1 AND (attempt < $2 OR (attempt = $3 AND number <= $4))";
    USES = "DELETE FROM blob_use WHERE execution = $1 RETURNING digest";
    DONE = "DELETE FROM execution_gone WHERE id = $1";
}

/// What one pass of retention did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Executions removed.
    pub executions: u64,
    /// Blobs dropped.
    pub blobs: u64,
    /// Whether there is more to do at once.
    pub more: bool,
}

/// Removes executions that ended before an instant, as far as one transaction goes.
struct ExecutionsRemove {
    before: Timestamp,
    now: Timestamp,
}

impl Operation for ExecutionsRemove {
    type Answer = u64;

    async fn run(&self, tx: &Tx<'_>) -> Result<u64, StoreError> {
        let old = match tx.session() {
            Session::Sqlite(_) => OLD_SQLITE,
            Session::Postgres(_) => OLD_POSTGRES,
        };
        let mut removed = 0;
        for row in tx.rows(old, &[self.before.into(), MAX_REMOVED.into()]).await? {
            let execution = read(&row)?;
            if tx.execute(REMOVE, &[execution.id.into()]).await? == 0 {
                continue;
            }
            tx.execute(GONE, &[execution.id.into(), execution.tenant.into()]).await?;
            note_as(tx, &execution, REMOVED, self.now, "quarry");
            removed += 1;
        }
        Ok(removed)
    }
}

/// Removes the chunks of executions that are gone, as far as one transaction goes; tells whether there is more.
struct ChunksRemove {
    now: Timestamp,
}

impl Operation for ChunksRemove {
    type Answer = bool;

    async fn run(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let pending = match tx.session() {
            Session::Sqlite(_) => PENDING_SQLITE,
            Session::Postgres(_) => PENDING_POSTGRES,
        };
        let (mut emptied, mut chunks) = (0, 0);
        for row in tx.rows(pending, &[MAX_EMPTIED.into()]).await? {
            let (id, tenant): (ExecutionId, TenantId) = (row.parsed(0)?, row.parsed(1)?);
            let slice = tx.rows(CHUNKS, &[id.into(), SLICE.into()]).await?;
            chunks += slice.len() as u64;
            self.empty(tx, id, tenant, &slice).await?;
            if slice.len() as u64 == SLICE {
                return Ok(true);
            }
            for row in tx.write(USES, &[id.into()]).await? {
                loose::loosen(tx, tenant, row.parsed(0)?, self.now).await?;
            }
            tx.execute(DONE, &[id.into()]).await?;
            emptied += 1;
            if chunks >= SLICE {
                return Ok(true);
            }
        }
        Ok(emptied == MAX_EMPTIED)
    }
}

impl ChunksRemove {
    async fn empty(&self, tx: &Tx<'_>, id: ExecutionId, tenant: TenantId, slice: &[Row]) -> Result<(), StoreError> {
        let Some(last) = slice.last() else { return Ok(()) };
        let (attempt, number) = (last.count(0)?, last.count(1)?);
        tx.execute(EMPTY, &[id.into(), attempt.into(), attempt.into(), number.into()]).await?;
        for row in slice {
            if let Some(digest) = row.maybe_parsed::<Digest>(2)? {
                loose::loosen(tx, tenant, digest, self.now).await?;
            }
        }
        Ok(())
    }
}

impl Store {
    /// Removes what ended before an instant, and the content that nothing names any more, as far as one pass goes. Each
    /// step is short, so that no writer waits long.
    pub async fn executions_retain(&self, before: Timestamp, now: Timestamp) -> Result<Removed, StoreError> {
        let executions = self.write(ExecutionsRemove { before, now }).await?;
        let has_chunks = self.write(ChunksRemove { now }).await?;
        let looked = self.write(loose::LooseDrop { now }).await?;
        let more = executions == MAX_REMOVED || has_chunks || looked.more;
        Ok(Removed { executions, blobs: looked.dropped, more })
    }
}
