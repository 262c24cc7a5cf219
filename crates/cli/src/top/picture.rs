//! A picture of the house at one moment: nodes, queue, what runs; and, from the log, what has just ended.

use crate::ps;
use client::{Client, ClientError};
use jiff::Timestamp;
use model::limits::MAX_PAGE;
use model::{Change, Class, ErrorKind, Execution, ExecutionState, Node, NodeId, NodeQuery};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The stretch of time over which ends are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// Failures that are kept to be shown.
const MAX_FAILURES: usize = 20;
/// Ends that are counted at most; more in one stretch only make the rate a lower bound.
const MAX_ENDS: usize = 100_000;
/// Executions of a state that are looked at.
const MAX_SEEN: u64 = MAX_PAGE as u64;

/// What waits, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) counts: [usize; 3],
    /// Whether there is more than was looked at.
    pub(super) has_more: bool,
}

/// The house at one moment.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) at: Timestamp,
    /// None, to somebody who may not see nodes.
    pub(super) nodes: Option<Vec<Node>>,
    pub(super) names: HashMap<NodeId, String>,
    pub(super) queue: Queue,
    /// Newest first.
    pub(super) running: Vec<Execution>,
    pub(super) has_more: bool,
    /// Newest first.
    pub(super) failures: VecDeque<Execution>,
    /// What stands in the way of a better picture.
    pub(super) note: Option<String>,
    ends: VecDeque<Instant>,
    failed: u64,
    since: Option<Instant>,
}

impl Picture {
    /// Takes a picture.
    pub(super) async fn take(client: &Client) -> Result<Self, ClientError> {
        let query = NodeQuery { limit: Some(MAX_PAGE), ..NodeQuery::default() };
        let nodes = match client.node_list(&query).await {
            Ok(page) => Some(page.items),
            Err(error) if error.api().is_some_and(|error| error.kind == ErrorKind::Forbidden) => None,
            Err(error) => return Err(error),
        };
        let mut running = ps::of_state(client, ExecutionState::Running, MAX_SEEN).await?;
        running.items.extend(ps::of_state(client, ExecutionState::Cancelling, MAX_SEEN).await?.items);
        running.items.sort_by_key(|execution| std::cmp::Reverse((execution.started_at, execution.id)));
        let queued = ps::of_state(client, ExecutionState::Queued, MAX_SEEN).await?;
        let count = |class: Class| queued.items.iter().filter(|execution| execution.class == class).count();
        Ok(Self {
            at: client::id::now(),
            names: nodes.iter().flatten().map(|node| (node.id, node.name.clone())).collect(),
            nodes,
            queue: Queue { counts: Class::ALL.map(count), has_more: queued.has_more },
            running: running.items,
            has_more: running.has_more,
            failures: VecDeque::new(),
            note: None,
            ends: VecDeque::new(),
            failed: 0,
            since: None,
        })
    }

    /// Takes what a newer picture shows, and keeps what the log has told.
    pub(super) fn renew(&mut self, newer: Self) {
        let failures = std::mem::take(&mut self.failures);
        let ends = std::mem::take(&mut self.ends);
        *self = Self { failures, ends, failed: self.failed, since: self.since, ..newer };
    }

    /// Sees a change of an execution.
    pub(super) fn see(&mut self, change: &Change, now: Instant) {
        let Ok(execution) = serde_json::from_str::<Execution>(change.body.get()) else { return };
        if !execution.state.is_final() {
            return;
        }
        self.ends.push_back(now);
        if self.ends.len() > MAX_ENDS {
            self.ends.pop_front();
        }
        self.running.retain(|running| running.id != execution.id);
        if matches!(execution.state, ExecutionState::Failed | ExecutionState::Quarantined) {
            self.failed += 1;
            self.failures.push_front(execution);
            self.failures.truncate(MAX_FAILURES);
        }
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        while self.ends.front().is_some_and(|end| now.duration_since(*end) > WINDOW) {
            self.ends.pop_front();
        }
        self.at = client::id::now();
    }

    /// Returns how many ended in a second, lately, and how many failed since this began; nothing, if nobody follows.
    pub(super) fn rate(&self, now: Instant) -> Option<(f64, u64)> {
        let watched = now.duration_since(self.since?).clamp(Duration::from_secs(1), WINDOW);
        let ends = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        Some((f64::from(ends) / watched.as_secs_f64(), self.failed))
    }

    /// Returns the picture as a document.
    pub(super) fn document(&self) -> serde_json::Value {
        let queue: HashMap<_, _> =
            Class::ALL.map(crate::execution::class_text).into_iter().zip(self.queue.counts).collect();
        serde_json::json!({ "at": self.at, "nodes": self.nodes, "queued": queue, "running": self.running })
    }
}

#[cfg(test)]
impl Picture {
    /// Makes a picture of nothing but nodes.
    pub(super) fn for_tests(nodes: Vec<Node>, names: HashMap<NodeId, String>) -> Self {
        Self {
            at: "2026-01-01T00:01:00Z".parse().expect("is an instant"),
            nodes: Some(nodes),
            names,
            queue: Queue::default(),
            running: Vec::new(),
            has_more: false,
            failures: VecDeque::new(),
            note: None,
            ends: VecDeque::new(),
            failed: 0,
            since: None,
        }
    }
}
