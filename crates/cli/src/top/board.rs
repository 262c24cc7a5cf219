//! What the view shows: nodes, what has not ended, what ended lately. Fed by lists and changes; asks nobody anything.
//!
//! Everything held has a bound. Where more has not ended than is held, the counts are least counts and say so.

use crate::execution::outcome_text;
use crate::ps::Line;
use jiff::Timestamp;
use model::{Change, Class, Execution, ExecutionId, ExecutionState, Node, NodeId, NodeState, Page};
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// Executions that are held.
pub(super) const MAX_LIVE: usize = 20_000;
/// Failures that are held.
const MAX_FAILURES: usize = 50;
/// Characters of a command that are held.
const MAX_COMMAND_CHARS: usize = 300;
/// Seconds for which ends are counted.
const MAX_SECONDS: usize = 120;
/// Seconds over which a rate is taken.
const RATE_SECONDS: i64 = 10;

/// An execution that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) state: ExecutionState,
    pub(super) class: Class,
    /// When it was accepted, or when its node took it.
    pub(super) since: Timestamp,
    pub(super) node: Option<NodeId>,
    pub(super) command: String,
}

/// An execution that ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) id: ExecutionId,
    pub(super) at: Timestamp,
    pub(super) why: String,
    pub(super) command: String,
}

/// What ended in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Second {
    second: i64,
    ended: u64,
    failed: u64,
}

/// Ends a second, of late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    pub(super) ended: f64,
    pub(super) failed: f64,
}

/// What the view shows.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) url: String,
    since: Timestamp,
    nodes: Vec<Node>,
    names: BTreeMap<NodeId, String>,
    live: BTreeMap<ExecutionId, Row>,
    is_partial: bool,
    /// The last change that the list of what has not ended knew of.
    known: u64,
    seconds: VecDeque<Second>,
    failures: VecDeque<Failed>,
    ended: u64,
    failed: u64,
    waiting: Option<(ExecutionId, String)>,
    trouble: Option<String>,
}

impl Board {
    /// Makes an empty one for a server.
    pub(super) fn new(url: &str, now: Timestamp) -> Self {
        Self {
            url: url.to_owned(),
            since: now,
            nodes: Vec::new(),
            names: BTreeMap::new(),
            live: BTreeMap::new(),
            is_partial: false,
            known: 0,
            seconds: VecDeque::new(),
            failures: VecDeque::new(),
            ended: 0,
            failed: 0,
            waiting: None,
            trouble: None,
        }
    }

    /// Takes what has not ended, listed when the log stood at `head` or later.
    pub(super) fn list(&mut self, head: u64, page: &Page<Execution>) {
        self.live = page.items.iter().take(MAX_LIVE).map(|execution| (execution.id, row(execution))).collect();
        self.is_partial = page.next.is_some() || page.items.len() > MAX_LIVE;
        self.known = head;
    }

    /// Takes all nodes, those first that need looking after, then the busiest.
    pub(super) fn nodes(&mut self, mut nodes: Vec<Node>) {
        let is_well = |node: &Node| node.hold.is_none() && node.state == NodeState::Ready;
        nodes.sort_by(|a, b| {
            let key = |node: &Node| (is_well(node), Reverse(node.busy));
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        self.names = nodes.iter().map(|node| (node.id, node.name.clone())).collect();
        self.nodes = nodes;
    }

    /// Takes a change of an execution.
    pub(super) fn change(&mut self, change: &Change, now: Timestamp) {
        let Ok(execution) = serde_json::from_str::<Execution>(change.body.get()) else { return };
        let is_final = execution.state.is_final();
        if is_final {
            self.end(&execution, change.at, now);
        }
        // What the list knew already must not be undone by an older word.
        if change.seq <= self.known {
            return;
        }
        if is_final {
            self.live.remove(&execution.id);
        } else if self.live.len() < MAX_LIVE || self.live.contains_key(&execution.id) {
            self.live.insert(execution.id, row(&execution));
        } else {
            self.is_partial = true;
        }
    }

    /// Takes why an execution waits for more than its turn.
    pub(super) fn waiting(&mut self, id: ExecutionId, why: Option<String>) {
        self.waiting = why.map(|why| (id, why));
    }

    /// Takes what keeps the view from being true, or that nothing does.
    pub(super) fn trouble(&mut self, trouble: Option<String>) {
        self.trouble = trouble;
    }

    fn end(&mut self, execution: &Execution, at: Timestamp, now: Timestamp) {
        let is_bad = matches!(execution.state, ExecutionState::Failed | ExecutionState::Quarantined);
        let second = now.as_second();
        if self.seconds.back().is_none_or(|last| last.second != second) {
            self.seconds.push_back(Second { second, ..Second::default() });
        }
        if self.seconds.len() > MAX_SECONDS {
            self.seconds.pop_front();
        }
        if let Some(last) = self.seconds.back_mut() {
            last.ended += 1;
            last.failed += u64::from(is_bad);
        }
        self.ended += 1;
        if !is_bad {
            return;
        }
        self.failed += 1;
        self.failures.truncate(MAX_FAILURES - 1);
        let why = execution.outcome.as_ref().map(outcome_text).unwrap_or_default();
        let command = row(execution).command;
        self.failures.push_front(Failed { id: execution.id, at, why: cut(&why), command });
    }

    /// Returns all nodes.
    pub(super) fn all_nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns how many executions nodes have, and how many they could have.
    pub(super) fn slots(&self) -> (u64, u64) {
        let living = || self.nodes.iter().filter(|node| !matches!(node.state, NodeState::Lost | NodeState::Gone));
        let busy = living().map(|node| u64::from(node.busy.unwrap_or(0))).sum();
        (busy, living().map(|node| u64::from(node.offer.slots)).sum())
    }

    /// Returns what a node is called.
    pub(super) fn name(&self, node: Option<NodeId>) -> String {
        let Some(node) = node else { return "-".to_owned() };
        self.names.get(&node).cloned().unwrap_or_else(|| node.to_string())
    }

    /// Returns how many wait, by class, first served first.
    pub(super) fn queued(&self) -> [(Class, usize); 3] {
        Class::ALL.map(|class| (class, self.in_queue().filter(|(_, row)| row.class == class).count()))
    }

    /// Returns the one that has waited longest of those served first.
    pub(super) fn oldest_queued(&self) -> Option<ExecutionId> {
        self.in_queue().min_by_key(|(id, row)| (row.class.rank(), **id)).map(|(id, _)| *id)
    }

    fn in_queue(&self) -> impl Iterator<Item = (&ExecutionId, &Row)> {
        self.live.iter().filter(|(_, row)| row.state == ExecutionState::Queued)
    }

    /// Returns what nodes have, what began last first.
    pub(super) fn running(&self) -> Vec<(ExecutionId, &Row)> {
        let has = self.live.iter().filter(|(_, row)| row.state != ExecutionState::Queued);
        let mut rows: Vec<_> = has.map(|(id, row)| (*id, row)).collect();
        rows.sort_by_key(|(id, row)| Reverse((row.since, *id)));
        rows
    }

    /// Tells whether more has not ended than is held.
    pub(super) const fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Returns how many have ended, and how many of them badly, since the view began.
    pub(super) const fn ends(&self) -> (u64, u64) {
        (self.ended, self.failed)
    }

    /// Returns how many end in a second, over the last ones that are over.
    pub(super) fn rate(&self, now: Timestamp) -> Rate {
        let second = now.as_second();
        // A view that began lately has seen no more than that.
        let span = RATE_SECONDS.min(second - self.since.as_second()).max(1);
        let late = || self.seconds.iter().filter(|one| (second - span..second).contains(&one.second));
        let (ended, failed) = late().fold((0, 0), |sum, one| (sum.0 + one.ended, sum.1 + one.failed));
        #[expect(clippy::cast_precision_loss, reason = "nobody reads more than three digits of a rate")]
        let a_second = |count: u64| count as f64 / span as f64;
        Rate { ended: a_second(ended), failed: a_second(failed) }
    }

    /// Returns how many ended in each of the last seconds, oldest first.
    pub(super) fn seconds(&self, now: Timestamp, count: usize) -> Vec<u64> {
        let last = now.as_second();
        let mut counts = vec![0; count];
        for one in &self.seconds {
            let ago = usize::try_from(last - one.second).unwrap_or(usize::MAX);
            if let Some(place) = count.checked_sub(1).and_then(|end| end.checked_sub(ago)) {
                counts[place] = one.ended;
            }
        }
        counts
    }

    /// Returns what ended badly, newest first.
    pub(super) fn failures(&self) -> impl Iterator<Item = &Failed> {
        self.failures.iter()
    }

    /// Returns why the first of the queue waits for more than its turn.
    pub(super) fn why_waiting(&self) -> Option<&str> {
        let (id, why) = self.waiting.as_ref()?;
        self.live.get(id).filter(|row| row.state == ExecutionState::Queued).map(|_| why.as_str())
    }

    /// Returns what keeps the view from being true.
    pub(super) fn why_stale(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

fn row(execution: &Execution) -> Row {
    let names = BTreeMap::new();
    let line = Line { execution, names: &names };
    Row {
        state: execution.state,
        class: execution.class,
        since: execution.started_at.unwrap_or(execution.created_at),
        node: execution.lease.map(|lease| lease.node),
        command: cut(&line.command()),
    }
}

/// Returns as much of a text as is held, without what would steer a terminal.
fn cut(text: &str) -> String {
    crate::output::printable(&text.chars().take(MAX_COMMAND_CHARS).collect::<String>())
}
