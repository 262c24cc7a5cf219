//! Orders to many dumps, each of them one transaction: all of it happens, or nothing.
//!
//! Which dumps are meant is asked beforehand, by reading alone: what somebody's specification costs must not stop all who
//! write. The transaction then goes by their ids, and whoever has become another dump meanwhile must still be meant.

use super::analysis::renewed;
use super::condition::pinned;
use super::query::DumpsAsked;
use super::{dropped, locked, noted};
use crate::error::StoreError;
use crate::store::Store;
use crate::transaction::{Operation, Tx};
use crate::value::to_json;
use jiff::Timestamp;
use model::dump::query::{DumpCursor, DumpOrder, DumpTold, DumpsChanged, Earnest, MAX_BULK, MAX_BULK_VALUES, MAX_TOLD};
use model::dump::spec::Specification;
use model::dump::{DumpChange, DumpState};
use model::{ApiError, Dump, DumpId, TenantId};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Dumps that are in hand at once.
const PAGE: u32 = 200;

/// What is to be done.
#[derive(Clone, Debug)]
pub enum DumpsOrder {
    /// Something is noted.
    Note(DumpChange),
    /// The content is dropped.
    Purge,
    /// It is looked into again.
    Analyse,
}

impl DumpsOrder {
    /// Tells whether it would make a difference to a dump.
    fn matters_to(&self, dump: &Dump) -> Result<bool, StoreError> {
        Ok(match self {
            Self::Note(change) => {
                let after = change.apply(&dump.properties).map_err(|error| StoreError::Refused(Box::new(error)))?;
                change.ticket.as_ref().is_some_and(|ticket| *ticket != dump.ticket) || after != dump.properties
            }
            Self::Purge => dump.state != DumpState::Purged,
            Self::Analyse => dump.manifest.is_some() && dump.state != DumpState::Received,
        })
    }

    /// Returns how many dumps it may be given to, and why no more.
    fn most(&self) -> (usize, String) {
        let values = if let Self::Note(change) = self { change.values().max(1) } else { 1 };
        match (MAX_BULK_VALUES / values).max(1) {
            fewer if fewer < MAX_BULK => (fewer, format!("the most for one step that sets {values} values")),
            _ => (MAX_BULK, "the most for one step".to_owned()),
        }
    }
}

/// The dumps to which an order matters.
#[derive(Default)]
struct Meant {
    /// How many dumps the specification means.
    matched: u64,
    /// Those of them to which it matters.
    seen: Vec<Seen>,
}

/// A dump as somebody has seen it who only read.
#[derive(Clone, Debug)]
struct Seen {
    told: DumpTold,
    /// What all that is known of it comes to.
    print: u64,
}

impl Seen {
    fn of(dump: &Dump) -> Self {
        Self { told: told(dump), print: print(dump) }
    }
}

fn told(dump: &Dump) -> DumpTold {
    DumpTold { id: dump.id, hash: dump.hash.clone(), state: dump.state }
}

fn print(dump: &Dump) -> u64 {
    let mut hasher = DefaultHasher::new();
    to_json(dump).hash(&mut hasher);
    hasher.finish()
}

/// Returns a specification that can be held against dumps without a look at anything else.
struct SpecificationPin {
    of: Specification,
    tenant: TenantId,
}

impl Operation for SpecificationPin {
    type Answer = Specification;

    async fn run(&self, tx: &Tx<'_>) -> Result<Specification, StoreError> {
        let condition = pinned(tx, self.tenant, &self.of.condition).await?;
        Ok(Specification { condition, ..self.of.clone() })
    }
}

struct DumpsChange {
    /// What they were chosen by.
    of: Specification,
    seen: Vec<Seen>,
    order: DumpsOrder,
    by: String,
    at: Timestamp,
}

impl DumpsChange {
    /// Does it to one dump; returns the dump, if that makes a difference.
    async fn apply(&self, tx: &Tx<'_>, id: DumpId, print: u64) -> Result<Option<Dump>, StoreError> {
        let (dump, who) = (locked(tx, id).await?, (self.by.as_str(), self.at));
        if self::print(&dump) != print && !self.of.matches(&dump, self.at) {
            return Ok(None);
        }
        match &self.order {
            DumpsOrder::Note(change) => noted(tx, &dump, change, who).await,
            DumpsOrder::Purge => dropped(tx, &dump, who).await,
            DumpsOrder::Analyse => renewed(tx, &dump, who).await,
        }
    }
}

impl Operation for DumpsChange {
    type Answer = DumpsChanged;

    async fn run(&self, tx: &Tx<'_>) -> Result<DumpsChanged, StoreError> {
        let mut changed = DumpsChanged::default();
        for Seen { told, print } in &self.seen {
            if let Some(dump) = self.apply(tx, told.id, *print).await? {
                changed.changed += 1;
                if changed.dumps.len() < MAX_TOLD {
                    changed.dumps.push(self::told(&dump));
                }
            }
        }
        Ok(changed)
    }
}

impl Store {
    /// Does something to all dumps that are meant, in one transaction; or only tells what would be done.
    pub async fn dumps_change(
        &self,
        of: Specification,
        (order, earnest): (DumpsOrder, Earnest),
        tenant: TenantId,
        (by, at): (&str, Timestamp),
    ) -> Result<DumpsChanged, StoreError> {
        let of = self.read(SpecificationPin { of, tenant }).await?;
        let Meant { matched, seen } = self.dumps_meant(&of, &order, tenant, at).await?;
        if earnest == Earnest::Dry || seen.is_empty() {
            // Whoever only asks wants to know all of them.
            let dumps: Vec<_> = seen.into_iter().map(|seen| seen.told).collect();
            return Ok(DumpsChanged { matched, changed: dumps.len() as u64, dumps });
        }
        let changed = self.write(DumpsChange { of, seen, order, by: by.to_owned(), at }).await?;
        Ok(DumpsChanged { matched, ..changed })
    }

    /// Finds those to which an order matters of the dumps that are meant, which must not be too many.
    async fn dumps_meant(
        &self,
        of: &Specification,
        order: &DumpsOrder,
        tenant: TenantId,
        now: Timestamp,
    ) -> Result<Meant, StoreError> {
        let (bulk, why) = order.most();
        let most = of.limit.map_or(u64::MAX, u64::from);
        // Of a limited number it is those that a list shows.
        let shown = if of.limit.is_some() { DumpOrder::Newest } else { DumpOrder::Oldest };
        let of = Specification { limit: None, ..of.clone() };
        let mut asked = DumpsAsked { of, tenant, order: shown, after: None, limit: PAGE, now };
        let mut meant = Meant::default();
        loop {
            asked.limit = u32::try_from(most - meant.matched).unwrap_or(PAGE).min(PAGE);
            let (found, _) = self.dumps_find(asked.clone()).await?;
            meant.matched += found.len() as u64;
            if meant.matched > bulk as u64 {
                let message = format!("more than {bulk} dumps are meant, which is {why}");
                let error = ApiError::invalid("specification_too_wide", message);
                let hint = format!("narrow it, or take part of them with `limit={bulk}`");
                return Err(StoreError::Refused(Box::new(error.with_hint(hint))));
            }
            for dump in &found {
                if order.matters_to(dump)? {
                    meant.seen.push(Seen::of(dump));
                }
            }
            // What follows comes behind the last one, whatever becomes of its ticket and properties.
            asked.after = found.last().map(DumpCursor::behind);
            if found.len() < asked.limit as usize || meant.matched >= most {
                return Ok(meant);
            }
        }
    }
}
