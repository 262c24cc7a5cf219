//! Orders to many dumps, each of them one transaction: all of it happens, or nothing.

use super::analysis::renewed;
use super::query::{DumpsAsked, page};
use super::{dropped, noted};
use crate::error::StoreError;
use crate::store::Store;
use crate::transaction::{Operation, Tx};
use jiff::Timestamp;
use model::dump::query::{DumpCursor, DumpOrder, DumpTold, DumpsChanged, Earnest, MAX_BULK, MAX_BULK_VALUES, MAX_TOLD};
use model::dump::spec::Specification;
use model::dump::{DumpChange, DumpState};
use model::{ApiError, Dump, TenantId};

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

struct DumpsChange {
    of: Specification,
    order: DumpsOrder,
    earnest: Earnest,
    tenant: TenantId,
    by: String,
    at: Timestamp,
}

impl DumpsChange {
    /// Does it to one dump; returns the dump, if that makes a difference.
    async fn apply(&self, tx: &Tx<'_>, dump: &Dump) -> Result<Option<Dump>, StoreError> {
        let who = (self.by.as_str(), self.at);
        match (&self.order, self.earnest) {
            (DumpsOrder::Note(change), Earnest::Real) => noted(tx, dump, change, who).await,
            (DumpsOrder::Purge, Earnest::Real) => dropped(tx, dump, who).await,
            (DumpsOrder::Analyse, Earnest::Real) => renewed(tx, dump, who).await,
            (DumpsOrder::Analyse, Earnest::Dry) => {
                let is_there = dump.manifest.is_some() && dump.state != DumpState::Received;
                Ok(is_there.then(|| dump.clone()))
            }
            (DumpsOrder::Note(change), Earnest::Dry) => {
                let after = change.apply(&dump.properties).map_err(|error| StoreError::Refused(Box::new(error)))?;
                let is_other_ticket = change.ticket.as_ref().is_some_and(|ticket| *ticket != dump.ticket);
                Ok((is_other_ticket || after != dump.properties).then(|| dump.clone()))
            }
            (DumpsOrder::Purge, Earnest::Dry) => Ok((dump.state != DumpState::Purged).then(|| dump.clone())),
        }
    }
}

impl Operation for DumpsChange {
    type Answer = DumpsChanged;
    const ASKS: bool = true;

    async fn run(&self, tx: &Tx<'_>) -> Result<DumpsChanged, StoreError> {
        let mut changed = DumpsChanged::default();
        let told = match self.earnest {
            // Whoever only asks wants to know all of them.
            Earnest::Dry => MAX_BULK,
            Earnest::Real => MAX_TOLD,
        };
        let of_each = if let DumpsOrder::Note(change) = &self.order { change.values().max(1) } else { 1 };
        let bulk = MAX_BULK.min(MAX_BULK_VALUES / of_each).max(1);
        let most = self.of.limit.map_or(u64::MAX, u64::from);
        let (of, now) = (Specification { limit: None, ..self.of.clone() }, self.at);
        // Of a limited number it is those that a list shows.
        let order = if self.of.limit.is_some() { DumpOrder::Newest } else { DumpOrder::Oldest };
        let mut asked = DumpsAsked { of, tenant: self.tenant, order, after: None, limit: PAGE, now };
        loop {
            asked.limit = u32::try_from(most - changed.matched).unwrap_or(PAGE).min(PAGE);
            let found = page(tx, &asked).await?;
            for dump in &found {
                changed.matched += 1;
                if changed.matched > bulk as u64 {
                    let why = match bulk {
                        MAX_BULK => "the most for one step".to_owned(),
                        _ => format!("the most for one step that sets {of_each} values"),
                    };
                    let message = format!("more than {bulk} dumps are meant, which is {why}");
                    let error = ApiError::invalid("specification_too_wide", message);
                    let hint = format!("narrow it, or take part of them with `limit={bulk}`");
                    return Err(StoreError::Refused(Box::new(error.with_hint(hint))));
                }
                if let Some(dump) = self.apply(tx, dump).await? {
                    changed.changed += 1;
                    if changed.dumps.len() < told {
                        changed.dumps.push(DumpTold { id: dump.id, hash: dump.hash, state: dump.state });
                    }
                }
            }
            // What follows comes behind the last one, whatever became of its ticket and properties.
            asked.after = found.last().map(DumpCursor::behind);
            if found.len() < asked.limit as usize || changed.matched >= most {
                return Ok(changed);
            }
        }
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
        let order = DumpsChange { of, order, earnest, tenant, by: by.to_owned(), at };
        match earnest {
            Earnest::Real => self.write(order).await,
            Earnest::Dry => self.read(order).await,
        }
    }
}
