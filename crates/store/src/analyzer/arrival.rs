//! Arrivals: dumps that have just been analysed meet the analyzers of their tenant that run by themselves.
//!
//! That a dump arrived is written down in the transaction that records what its analysis found, and crossed out in the one
//! that has begun its studies; so each is looked at once, whichever server does it, and none is lost. Whom a dump meets is
//! found out before that transaction, by reading alone: what somebody's specification comes to must not stop everybody's dumps.

use super::study::{Manner, begin};
use super::{ON_ARRIVAL, read};
use crate::dump::query::{DumpsAsked, page};
use crate::error::StoreError;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Tx};
use jiff::Timestamp;
use model::analyzer::{Analyzer, MAX_ON_ARRIVAL, NewStudy};
use model::dump::query::{DumpOrder, Earnest, Selection};
use model::{Dump, DumpId, DumpState, Execution, ExecutionId, TenantId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Arrivals that one pass looks at.
const MAX_TAKEN: u64 = 32;
/// Ids of executions that one pass needs at most.
pub const MAX_ARRIVAL_STUDIES: usize = 4 * MAX_ON_ARRIVAL;

statements! {
    NOTE = "INSERT INTO dump_arrival (dump, tenant) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    WAIT = "SELECT dump FROM dump_arrival LIMIT 1";
    NEXT = "SELECT dump, tenant FROM dump_arrival ORDER BY dump LIMIT $1";
    TAKE = "DELETE FROM dump_arrival WHERE dump = $1 RETURNING dump";
}

async fn analyzers(tx: &Tx<'_>, tenant: TenantId, most: usize) -> Result<Vec<Analyzer>, StoreError> {
    tx.rows(ON_ARRIVAL, &[tenant.into(), (most as u64).into()]).await?.iter().map(read).collect()
}

/// Writes down that a dump has been analysed, if an analyzer waits for such.
pub(crate) async fn note(tx: &Tx<'_>, dump: &Dump) -> Result<(), StoreError> {
    let is_analysed = matches!(dump.state, DumpState::Analysed | DumpState::Truncated);
    if !is_analysed || analyzers(tx, dump.tenant, 1).await?.is_empty() {
        return Ok(());
    }
    tx.execute(NOTE, &[dump.id.into(), dump.tenant.into()]).await.map(drop)
}

/// Tells whether an analyzer's specification means a dump. One that cannot be answered any more means none: the beginning of
/// an id that was one dump's or signature's alone may be another's too by now, and what is costly takes too long.
async fn is_meant(tx: &Tx<'_>, analyzer: &Analyzer, dump: DumpId, now: Timestamp) -> Result<bool, StoreError> {
    let words = analyzer.on_arrival.clone().unwrap_or_default();
    // It was looked at when it was stored; one that is not understood any more means nothing.
    let Ok(of) = (Selection { words, names: vec![dump.to_string()] }).parse() else { return Ok(false) };
    let asked = DumpsAsked { of, tenant: analyzer.tenant, order: DumpOrder::Oldest, after: None, limit: 1, now };
    match page(tx, &asked).await {
        Err(StoreError::NotFound { .. } | StoreError::Refused(_) | StoreError::Slow { .. }) => Ok(false),
        found => Ok(!found?.is_empty()),
    }
}

/// The analyzers, by their names, that a dump meets.
struct Arrival {
    dump: DumpId,
    tenant: TenantId,
    meets: BTreeSet<String>,
}

/// Finds out whom some dumps meet.
struct ArrivalsLook {
    at: Timestamp,
}

impl Operation for ArrivalsLook {
    type Answer = Vec<Arrival>;
    const ASKS: bool = true;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Arrival>, StoreError> {
        let mut arrivals = Vec::new();
        for row in tx.rows(NEXT, &[MAX_TAKEN.into()]).await? {
            let (dump, tenant) = (row.parsed(0)?, row.parsed(1)?);
            let mut meets = BTreeSet::new();
            for analyzer in analyzers(tx, tenant, MAX_ON_ARRIVAL).await? {
                if is_meant(tx, &analyzer, dump, self.at).await? {
                    meets.insert(analyzer.name);
                }
            }
            arrivals.push(Arrival { dump, tenant, meets });
        }
        Ok(arrivals)
    }
}

/// Begins the studies of dumps that have arrived, as long as there are ids for all that one dump may need.
struct ArrivalsTake {
    arrivals: Vec<Arrival>,
    ids: Vec<ExecutionId>,
    at: Timestamp,
}

impl Operation for ArrivalsTake {
    type Answer = (u64, Vec<Arc<Execution>>);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let (mut taken, mut begun) = (0, Vec::new());
        let mut ids = self.ids.iter().copied();
        for Arrival { dump, tenant, meets } in &self.arrivals {
            let (dump, tenant) = (*dump, *tenant);
            let mut analyzers = analyzers(tx, tenant, MAX_ON_ARRIVAL).await?;
            analyzers.retain(|analyzer| meets.contains(&analyzer.name));
            if ids.len() < analyzers.len() {
                break;
            }
            // Another server may have been quicker.
            if tx.write(TAKE, &[dump.into()]).await?.is_empty() {
                continue;
            }
            taken += 1;
            for analyzer in &analyzers {
                let manner = Manner { again: false, earnest: Earnest::Real };
                if let Some(id) = ids.next() {
                    let new = (NewStudy { dump, id }, manner);
                    begun.extend(begin(tx, analyzer, new, (&analyzer.by, self.at)).await?.1);
                }
            }
        }
        Ok((taken, begun))
    }
}

/// Tells whether a dump has arrived that nobody has looked at.
struct ArrivalsWait;

impl Operation for ArrivalsWait {
    type Answer = bool;

    async fn run(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        Ok(tx.row(WAIT, &[]).await?.is_some())
    }
}

impl Store {
    /// Tells whether a dump has arrived that the analyzers of its tenant have not met.
    pub async fn arrivals_wait(&self) -> Result<bool, StoreError> {
        self.read(ArrivalsWait).await
    }

    /// Begins the studies of some dumps that have arrived; returns how many dumps, and the executions.
    pub async fn arrivals_take(
        &self,
        ids: Vec<ExecutionId>,
        at: Timestamp,
    ) -> Result<(u64, Vec<Arc<Execution>>), StoreError> {
        let arrivals = self.read(ArrivalsLook { at }).await?;
        self.write(ArrivalsTake { arrivals, ids, at }).await
    }
}
