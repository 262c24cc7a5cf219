//! The old end of the log: how long and how much is kept.
//!
//! The log is cut into segments. The newest one is closed when it is full or old, and the oldest ones are dropped whole:
//! on PostgreSQL a segment is a partition, so dropping it costs nothing; on SQLite its rows are deleted in slices, so
//! that no writer waits long. The floor moves first: from then on a cursor below it is told that it is too old.

use crate::error::StoreError;
use crate::postgres;
use crate::statement::statements;
use crate::transaction::{Operation, Session, Tx};
use crate::value::Value;
use jiff::{SignedDuration, Timestamp};

statements! {
    CURRENT = "SELECT segment, first_seq, head, first_at, last_at, bytes FROM log";
    HOLD = "UPDATE log SET segment = segment WHERE segment = $1 RETURNING segment";
    CLOSE = "INSERT INTO log_segment (number, first_seq, last_seq, last_at, bytes) \
             SELECT segment, first_seq, head, last_at, bytes FROM log WHERE segment = $1";
    NEXT = "UPDATE log SET segment = segment + 1, first_seq = head + 1, first_at = $1, bytes = 0 WHERE segment = $2";
    CLOSED = "SELECT number, last_seq, last_at, bytes FROM log_segment ORDER BY number";
    FLOOR = "UPDATE log SET floor = $1 WHERE floor < $2";
    SLICE_SQLITE = "DELETE FROM change WHERE seq IN (SELECT seq FROM change WHERE seq <= $1 ORDER BY seq LIMIT $2)";
    FORGET = "DELETE FROM log_segment WHERE number <= $1";
}

/// Rows that one transaction deletes.
const SLICE: u64 = 2_000;

/// How much of the log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// How long a change is kept.
    pub age: SignedDuration,
    /// How many bytes of changes are kept.
    pub bytes: u64,
}

impl Retention {
    /// Returns the size at which a segment is closed: small enough that dropping one comes close to what was asked.
    fn segment_bytes(&self) -> u64 {
        (self.bytes / 16).clamp(64 << 10, 64 << 20)
    }

    /// Returns the age at which a segment is closed.
    fn segment_age(&self) -> SignedDuration {
        self.age / 16
    }
}

/// Closes the newest segment if it is full or old.
pub(crate) struct SegmentClose {
    pub(crate) retention: Retention,
    pub(crate) now: Timestamp,
}

impl Operation for SegmentClose {
    type Answer = bool;

    async fn run(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let row = tx.row(CURRENT, &[]).await?.ok_or(StoreError::Broken { column: 0, why: "is missing: no log" })?;
        let (segment, first, head) = (row.int(0)?, row.count(1)?, row.count(2)?);
        let old = self.now.duration_since(row.time(3)?) >= self.retention.segment_age();
        let full = row.count(5)? >= self.retention.segment_bytes();
        if head < first || !(old || full) {
            return Ok(false);
        }
        // From here on nobody appends until we have committed, so the segment ends where the next one begins; and of
        // two servers only one goes on, for the other finds the number moved.
        if tx.write(HOLD, &[segment.into()]).await?.is_empty() {
            return Ok(false);
        }
        tx.execute(CLOSE, &[segment.into()]).await?;
        tx.execute(NEXT, &[self.now.into(), segment.into()]).await?;
        if let Session::Postgres(client) = tx.session() {
            // One ahead: an append that waits for us now has already looked which partitions there are.
            postgres::script(client, &partition(segment + 2)).await?;
        }
        Ok(true)
    }
}

/// The segments for which a database has partitions when it is new.
pub(crate) const FRESH_PARTITIONS: [i64; 2] = [1, 2];

/// Returns the SQL that makes a segment's partition. Attaching, unlike creating in place, lets readers and writers go on.
pub(crate) fn partition(segment: i64) -> String {
    format!(
        "CREATE TABLE change_{segment} (LIKE change INCLUDING ALL); \
         ALTER TABLE change ATTACH PARTITION change_{segment} FOR VALUES IN ({segment})"
    )
}

/// What one pass of retention did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Segments dropped.
    pub segments: u64,
    /// Whether there is more to do at once.
    pub more: bool,
}

/// Moves the floor above what is too old or too much, and returns the last segment and number below it.
pub(crate) struct FloorRaise {
    pub(crate) retention: Retention,
    pub(crate) now: Timestamp,
}

/// What lies below the floor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Below {
    pub(crate) segment: i64,
    pub(crate) seq: u64,
    pub(crate) segments: u64,
}

impl Operation for FloorRaise {
    type Answer = Option<Below>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Option<Below>, StoreError> {
        let row = tx.row(CURRENT, &[]).await?.ok_or(StoreError::Broken { column: 0, why: "is missing: no log" })?;
        let mut kept = row.count(5)?;
        let closed = tx.rows(CLOSED, &[]).await?;
        let mut below = None;
        for (place, row) in closed.iter().enumerate().rev() {
            kept += row.count(3)?;
            let old = self.now.duration_since(row.time(2)?) > self.retention.age;
            if old || kept > self.retention.bytes {
                below = Some(Below { segment: row.int(0)?, seq: row.count(1)?, segments: place as u64 + 1 });
                break;
            }
        }
        if let Some(below) = below {
            tx.execute(FLOOR, &[below.seq.into(), below.seq.into()]).await?;
        }
        Ok(below)
    }
}

/// Deletes a slice of what lies below the floor on SQLite; tells whether there was a whole slice, and so maybe more.
pub(crate) struct SliceDelete {
    pub(crate) seq: u64,
}

impl Operation for SliceDelete {
    type Answer = bool;

    async fn run(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        Ok(tx.execute(SLICE_SQLITE, &[self.seq.into(), SLICE.into()]).await? == SLICE)
    }
}

/// Drops the partitions below the floor on PostgreSQL, and forgets the segments on both.
pub(crate) struct SegmentForget {
    pub(crate) segment: i64,
}

impl Operation for SegmentForget {
    type Answer = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        if let Session::Postgres(client) = tx.session() {
            // Dropping a partition needs the table for itself for a moment: rather come again than make all wait.
            postgres::script(client, "SET LOCAL lock_timeout = '500ms'").await?;
            for row in tx.rows(CLOSED, &[]).await? {
                let number = row.int(0)?;
                if number <= self.segment {
                    postgres::script(client, &format!("DROP TABLE IF EXISTS change_{number}")).await?;
                }
            }
        }
        tx.execute(FORGET, &[Value::Int(self.segment)]).await.map(drop)
    }
}
