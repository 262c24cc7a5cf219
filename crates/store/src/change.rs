//! The log: every transition of every thing, numbered without holes in the order of their commits.
//!
//! A reader that has seen change `n` and asks for those after `n` misses nothing, ever. What is dropped is dropped from
//! the old end, by whole segments, and a cursor that points there is told so.

pub(crate) mod append;
pub(crate) mod feed;
pub(crate) mod retention;

use crate::database::Database;
use crate::error::StoreError;
use crate::statement::statements;
use crate::transaction::{Operation, Tx};
use crate::value::Row;
use model::{Change, Noun, TenantId};
use std::sync::Arc;

pub use feed::Follower;
pub use retention::Retention;

statements! {
    /// The newest number, and the number before the oldest change that is kept.
    BOUNDS = "SELECT head, floor FROM log";
    PAGE = "SELECT seq, at, tenant, noun, id, state, moved_by, body FROM change \
            WHERE seq > $1 AND seq <= $2 ORDER BY seq";
}

/// Changes that one look at the log goes through; a filter may keep few of them, or none.
pub(crate) const MAX_SCAN: u64 = 2_000;

/// Which changes a reader wants.
#[derive(Clone, Debug, Default)]
pub struct ChangeFilter {
    /// Whose; nobody named means everybody's.
    pub tenant: Option<TenantId>,
    /// Only those about this noun.
    pub noun: Option<Noun>,
    /// Only those about this one thing.
    pub id: Option<String>,
    /// Those about these nouns not.
    pub hidden: Vec<Noun>,
}

impl ChangeFilter {
    /// Tells whether the reader wants every change.
    fn is_all(&self) -> bool {
        self.tenant.is_none() && self.noun.is_none() && self.id.is_none() && self.hidden.is_empty()
    }

    /// Tells whether the reader wants this change.
    pub fn wants(&self, change: &Change) -> bool {
        self.tenant.is_none_or(|tenant| tenant == change.tenant)
            && self.noun.is_none_or(|noun| noun == change.noun)
            && self.id.as_ref().is_none_or(|id| *id == change.id)
            && !self.hidden.contains(&change.noun)
    }
}

/// A look at the log.
#[derive(Clone, Debug, Default)]
pub struct ChangePage {
    /// The changes wanted, in order.
    pub items: Vec<Arc<Change>>,
    /// How far the look went: the cursor to go on from.
    pub next: u64,
    /// The newest number there is.
    pub head: u64,
}

impl ChangePage {
    /// Picks at most `limit` of some changes that follow each other, the first of them right after `after`.
    fn pick(found: &[Arc<Change>], after: u64, head: u64, filter: &ChangeFilter, limit: usize) -> Self {
        let mut page = Self { items: Vec::new(), next: after, head };
        for change in found {
            if page.items.len() == limit {
                break;
            }
            page.next = change.seq;
            if filter.wants(change) {
                page.items.push(Arc::clone(change));
            }
        }
        page
    }
}

/// The ends of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The newest number; 0 when nothing has happened yet.
    pub head: u64,
    /// The number before the oldest change that is kept.
    pub floor: u64,
}

/// Reads the ends of the log.
pub(crate) struct LogBounds;

impl Operation for LogBounds {
    type Answer = Bounds;

    async fn run(&self, tx: &Tx<'_>) -> Result<Bounds, StoreError> {
        bounds(tx).await
    }
}

/// Reads the ends of the log.
pub(crate) async fn bounds(tx: &Tx<'_>) -> Result<Bounds, StoreError> {
    let row = tx.row(BOUNDS, &[]).await?.ok_or(StoreError::Broken { column: 0, why: "is missing: no log" })?;
    Ok(Bounds { head: row.count(0)?, floor: row.count(1)? })
}

/// Reads the changes after a cursor.
pub(crate) struct LogRead {
    pub(crate) after: u64,
    /// How many of them at most.
    pub(crate) scan: u64,
}

impl Operation for LogRead {
    type Answer = (Bounds, Vec<Arc<Change>>);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let bounds = bounds(tx).await?;
        if self.after < bounds.floor {
            return Err(StoreError::CursorGone { cursor: self.after, floor: bounds.floor });
        }
        let rows = tx.rows(PAGE, &[self.after.into(), self.after.saturating_add(self.scan).into()]).await?;
        let found = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        // A segment that was dropped between the two reads leaves a hole at the front.
        if found.first().is_some_and(|first| first.seq != self.after + 1) {
            return Err(StoreError::CursorGone { cursor: self.after, floor: found[0].seq - 1 });
        }
        // What was committed between the two reads is past the head that the first one saw.
        let head = found.last().map_or(bounds.head, |last| bounds.head.max(last.seq));
        Ok((Bounds { head, ..bounds }, found))
    }
}

/// Looks at the log after a cursor, in the database itself.
pub(crate) async fn page(
    database: &Database,
    after: u64,
    filter: &ChangeFilter,
    limit: usize,
) -> Result<ChangePage, StoreError> {
    // Where everything is wanted, no more need be read than will be shown.
    let scan = if filter.is_all() { MAX_SCAN.min(limit as u64) } else { MAX_SCAN };
    let (bounds, found) = database.read(LogRead { after, scan }).await?;
    Ok(ChangePage::pick(&found, after, bounds.head, filter, limit))
}

fn read(row: &Row) -> Result<Arc<Change>, StoreError> {
    let broken = |_| StoreError::Broken { column: 7, why: "is not JSON" };
    Ok(Arc::new(Change {
        seq: row.count(0)?,
        at: row.time(1)?,
        tenant: row.parsed(2)?,
        noun: row.word(3)?,
        id: row.text(4)?.to_owned(),
        state: row.text(5)?.to_owned(),
        by: row.text(6)?.to_owned(),
        body: serde_json::value::RawValue::from_string(row.text(7)?.to_owned()).map_err(broken)?,
    }))
}
