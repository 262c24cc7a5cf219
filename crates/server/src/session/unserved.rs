//! Queues that no node could take from, although there are nodes. What waits there for too long fails with its cause.
//!
//! A node that is lost may come back, and counts as one that is there; whoever has no nodes at all waits for the first. How
//! long nobody could serve a queue is kept in memory: a server that starts again gives everybody their time anew.

use super::watch::moved;
use crate::app::App;
use crate::execution::waiting::tell;
use jiff::{SignedDuration, Timestamp};
use model::tenant::HOUSE;
use model::{Node, TenantId};
use std::collections::{BTreeMap, HashMap};
use store::{Queue, StoreError, TenantKey};

/// How long a queue is remembered that was not seen: of very many needs, only some are looked at in each turn.
const MEMORY: SignedDuration = SignedDuration::from_mins(10);

/// Since when which queues have been served by nobody, and when they were seen last.
#[derive(Default)]
pub(super) struct Unserved(HashMap<Queue, (Timestamp, Timestamp)>);

impl Unserved {
    /// Looks at the queues, and gives up what has waited in vain for too long.
    pub(super) async fn look(&mut self, app: &App, queues: &[Queue]) -> Result<(), StoreError> {
        let now = app.clock.now();
        let queues: Vec<_> = queues.iter().filter(|queue| !app.sessions.suits(queue)).collect();
        self.0.retain(|_, (_, seen)| now.duration_since(*seen) < MEMORY);
        if queues.is_empty() {
            return Ok(());
        }
        let house = app.store.tenant_get(TenantKey::Name(HOUSE.to_owned())).await?.id;
        let nodes = app.store.nodes_expected().await?;
        let patience = SignedDuration::try_from(app.config.node.unserved_max).unwrap_or(SignedDuration::MAX);
        for queue in queues {
            let Some(lacks) = lacking(queue, house, &nodes) else {
                self.0.remove(queue);
                continue;
            };
            let (since, seen) = self.0.entry(queue.clone()).or_insert((now, now));
            *seen = now;
            let Some(before) = now.checked_sub(patience).ok().filter(|before| *since <= *before) else { continue };
            let cause = format!("no node could take it for {patience:#}: {lacks}");
            let failed = app.store.executions_give_up(queue, before, cause, now).await?;
            if !failed.is_empty() {
                tracing::warn!(tenant = %queue.tenant, executions = failed.len(), lacks, "what no node could take has failed");
            }
            moved(app, &failed);
        }
        Ok(())
    }
}

/// Says what all nodes lack that could serve a queue's tenant; nothing, if one of them fits or there is none.
fn lacking(queue: &Queue, house: TenantId, nodes: &[Node]) -> Option<String> {
    let shape = queue.shape.as_ref()?;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.tenant == house || node.tenant == queue.tenant) {
        *reasons.entry(node.offer.fits(shape).err()?).or_default() += 1;
    }
    (!reasons.is_empty()).then(|| tell(&reasons))
}
