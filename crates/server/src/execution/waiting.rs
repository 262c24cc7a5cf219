//! Why nobody has taken an execution yet, in words for whoever looks at it.

use crate::app::App;
use crate::error::Answer;
use jiff::SignedDuration;
use model::tenant::HOUSE;
use model::{Execution, ExecutionState, Node, NodeState};
use std::collections::BTreeMap;
use store::{MAX_SHAPES, Queue, TenantKey};

/// How long an execution waits before anybody asks why.
const PATIENCE: SignedDuration = SignedDuration::from_secs(2);
/// Reasons that are told one by one.
const MAX_REASONS: usize = 5;

/// Returns why an execution waits for more than its turn, if it does.
pub(super) async fn cause(app: &App, execution: &Execution) -> Answer<Option<String>> {
    let age = app.clock.now().duration_since(execution.created_at);
    if execution.state != ExecutionState::Queued || age < PATIENCE {
        return Ok(None);
    }
    let Some(shape) = app.store.execution_shape(execution.id).await? else {
        // Without a lane it has been taken since it was looked at.
        return Ok(execution.lane.as_ref().map(|_| "another execution of its lane is before it".to_owned()));
    };
    let house = app.store.tenant_get(TenantKey::Name(HOUSE.to_owned())).await?;
    let mut nodes = app.store.nodes_living().await?;
    nodes.retain(|node| node.tenant == house.id || node.tenant == execution.tenant);
    if nodes.is_empty() {
        return Ok(Some("no node has joined that could take it".to_owned()));
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut fitting = Vec::new();
    for node in &nodes {
        match shape.as_ref().map_or(Ok(()), |shape| node.offer.fits(shape)) {
            Ok(()) => fitting.push(node),
            Err(lacks) => *reasons.entry(lacks).or_default() += 1,
        }
    }
    if fitting.is_empty() {
        return Ok(Some(tell(&reasons)));
    }
    if is_crowded(app, execution).await? {
        let why = format!("its tenant's executions of its class have more than {MAX_SHAPES} different needs");
        return Ok(Some(format!("{why}, which are looked at in turns")));
    }
    reasons = BTreeMap::new();
    for node in fitting {
        *reasons.entry(held_by(node)).or_default() += 1;
    }
    Ok(Some(tell(&reasons)))
}

/// Tells whether claims do not look at all that its tenant has waiting in its class.
async fn is_crowded(app: &App, execution: &Execution) -> Answer<bool> {
    let queues = app.store.queue_list().await?;
    let is_beside = |queue: &&Queue| (queue.tenant, queue.class) == (execution.tenant, execution.class);
    Ok(queues.iter().filter(is_beside).count() as u64 > MAX_SHAPES)
}

/// Says why a node that fits takes nothing.
fn held_by(node: &Node) -> String {
    match (&node.hold, node.state) {
        (Some(hold), _) => {
            let word = match hold.kind {
                model::node::HoldKind::Cordon => "cordoned",
                model::node::HoldKind::Quarantine => "quarantined",
                model::node::HoldKind::Age => "too old",
            };
            if hold.cause.is_empty() { word.to_owned() } else { format!("{word}: {}", hold.cause) }
        }
        (None, NodeState::Draining) => "draining".to_owned(),
        (None, _) => "fits and has no slot free".to_owned(),
    }
}

/// Puts reasons together, the most frequent first.
pub(crate) fn tell(reasons: &BTreeMap<String, usize>) -> String {
    let mut told: Vec<_> = reasons.iter().collect();
    told.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let one = |(reason, count): &(&String, &usize)| {
        let noun = if **count == 1 { "node" } else { "nodes" };
        format!("{count} {noun}: {reason}")
    };
    let more = told.len().saturating_sub(MAX_REASONS);
    let mut text = told.iter().take(MAX_REASONS).map(one).collect::<Vec<_>>().join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} other reasons"));
    }
    text
}
