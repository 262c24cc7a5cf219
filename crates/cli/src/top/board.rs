//! What the view shows: nodes, what has not ended, what ended lately. Fed by lists and changes; asks nobody anything.
//!
//! Everything held has a bound. Where more has not ended than is held, the counts are least counts and say so.

use crate::execution::outcome_text;
use crate::ps::Line;
use jiff::Timestamp;
use model::{Change, Class, Execution, ExecutionId, ExecutionState, Node, NodeId, NodeState, Page, Usage};
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
    /// What it has used so far, if its node has told.
    pub(super) usage: Option<Usage>,
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
        // One that ended long ago, and whose end has been counted.
        if change.state == "removed" {
            return;
        }
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

    /// Takes what those have used that run; nobody else is touched.
    pub(super) fn used(&mut self, running: &[Execution]) {
        for execution in running {
            if let Some(row) = self.live.get_mut(&execution.id).filter(|row| row.state != ExecutionState::Queued) {
                row.usage = execution.usage;
            }
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
        usage: execution.usage,
        command: cut(&line.command()),
    }
}

/// Returns as much of a text as is held, without what would steer a terminal.
fn cut(text: &str) -> String {
    crate::output::printable(&text.chars().take(MAX_COMMAND_CHARS).collect::<String>())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use model::node::Offer;
    use model::{LimitSet, Limits, Origin, Outcome, Platform, Recipe, SandboxKind, TenantId};

    const START: i64 = 1_767_225_600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(START + second).expect("is an instant")
    }

    pub(in super::super) fn node(number: u128, name: &str, busy: u32) -> Node {
        Node {
            id: NodeId::new(Timestamp::UNIX_EPOCH, number),
            tenant: TenantId::new(Timestamp::UNIX_EPOCH, 1),
            name: name.to_owned(),
            state: NodeState::Ready,
            hold: None,
            session: None,
            offer: Offer {
                version: "0.1.0".to_owned(),
                platform: Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None },
                kinds: vec![SandboxKind::Process],
                networks: Vec::new(),
                runtimes: Vec::new(),
                slots: 8,
                cpu_milli: 4_000,
                memory_bytes: 8 << 30,
                enforces: LimitSet::ALL,
                mounts: Vec::new(),
                labels: BTreeMap::new(),
            },
            busy: Some(busy),
            by: "ada".to_owned(),
            created_at: Timestamp::UNIX_EPOCH,
            joined_at: None,
            lease_until: None,
        }
    }

    /// Returns an execution that has ended, or runs if its number is even, or waits; every third one is batch.
    pub(in super::super) fn execution(number: u128, outcome: Option<Outcome>) -> Execution {
        let runs = number.is_multiple_of(2);
        let state = if runs { ExecutionState::Running } else { ExecutionState::Queued };
        let session = model::SessionId::new(Timestamp::UNIX_EPOCH, 1);
        Execution {
            id: ExecutionId::new(Timestamp::UNIX_EPOCH, number),
            tenant: TenantId::new(Timestamp::UNIX_EPOCH, 1),
            state: outcome.as_ref().map_or(state, Outcome::state),
            origin: Origin::default(),
            lane: None,
            class: if number.is_multiple_of(3) { Class::Batch } else { Class::Human },
            recipe: Recipe {
                image: None,
                image_id: None,
                command: vec!["solve".to_owned(), "x".repeat(4)],
                env: BTreeMap::new(),
                input: model::Input::None,
                limits: Limits::default(),
                sandbox: model::Sandbox::default(),
            },
            attempt: 1,
            losses: 0,
            lease: runs.then(|| model::Lease { node: NodeId::new(Timestamp::UNIX_EPOCH, 1), session }),
            by: "ada".to_owned(),
            created_at: at(0),
            started_at: None,
            ended_at: None,
            outcome,
            usage: None,
            dump: None,
            waiting: None,
        }
    }

    pub(in super::super) fn change(seq: u64, execution: &Execution) -> Change {
        let body = serde_json::to_string(execution).expect("serialises");
        Change {
            seq,
            at: at(58),
            tenant: execution.tenant,
            noun: model::Noun::Execution,
            id: execution.id.to_string(),
            state: execution.state.as_str().to_owned(),
            by: "nod".to_owned(),
            body: serde_json::value::RawValue::from_string(body).expect("is JSON"),
        }
    }

    fn listed(numbers: std::ops::RangeInclusive<u128>, next: Option<&str>) -> Board {
        let mut board = Board::new("http://quarry", at(0));
        let items = numbers.map(|number| execution(number, None)).collect();
        board.list(7, &Page { items, next: next.map(str::to_owned), as_of: 7 });
        board
    }

    #[test]
    fn changes_keep_the_list_right() {
        let mut board = listed(1..=6, None);
        let counts = |board: &Board| (board.running().len(), board.queued().map(|(_, count)| count));
        assert_eq!(counts(&board), (3, [2, 0, 1]));
        assert_eq!(board.oldest_queued(), Some(execution(1, None).id));
        // What the list knew already counts as an end and undoes nothing.
        board.change(&change(7, &execution(8, None)), at(1));
        assert_eq!(counts(&board), (3, [2, 0, 1]));
        board.change(&change(8, &execution(8, None)), at(1));
        board.change(&change(9, &execution(2, Some(Outcome::Exited { code: 0 }))), at(1));
        board.change(&change(10, &execution(1, Some(Outcome::Cancelled))), at(1));
        assert_eq!(counts(&board), (3, [1, 0, 1]));
        assert_eq!((board.ends(), board.failures().count()), ((2, 0), 0));
        board.change(&change(11, &execution(4, Some(Outcome::NodesLost { nodes: 3 }))), at(1));
        assert_eq!((board.ends(), board.failures().count()), ((3, 1), 1));
    }

    #[test]
    fn a_rate_is_of_seconds_that_are_over() {
        let mut board = listed(1..=1, None);
        for second in 0..20 {
            for number in 0..4 {
                let outcome = Outcome::Exited { code: i32::from(number == 0) };
                board.change(&change(8, &execution(number, Some(outcome))), at(second));
            }
        }
        assert_eq!(board.rate(at(19)), Rate { ended: 4.0, failed: 1.0 });
        assert_eq!(board.rate(at(25)), Rate { ended: 2.0, failed: 0.5 });
        assert_eq!(board.rate(at(90)), Rate { ended: 0.0, failed: 0.0 });
        assert_eq!(board.seconds(at(21), 4), [4, 4, 0, 0]);
        assert_eq!(board.seconds(at(21), 0), Vec::<u64>::new());
        assert_eq!(listed(1..=1, None).rate(at(0)), Rate { ended: 0.0, failed: 0.0 });
    }

    #[test]
    fn what_is_held_has_bounds() {
        let mut board = listed(1..=6, Some("exe_more"));
        assert!(board.is_partial());
        for second in 0..200 {
            let mut execution = execution(2, Some(Outcome::OutOfMemory));
            execution.recipe.command = vec!["\u{1b}[2J".repeat(1_000)];
            board.change(&change(8, &execution), at(second));
        }
        assert_eq!((board.seconds.len(), board.failures.len()), (MAX_SECONDS, MAX_FAILURES));
        let command = &board.failures().next().expect("is there").command;
        assert!(command.len() < 4_000 && !command.contains('\u{1b}'), "{command}");
        let mut board = Board::new("http://quarry", at(0));
        for number in 0..=MAX_LIVE as u128 {
            board.change(&change(8, &execution(number, None)), at(0));
        }
        assert_eq!((board.live.len(), board.is_partial()), (MAX_LIVE, true));
    }

    #[test]
    fn a_reason_lasts_as_long_as_the_waiting() {
        let mut board = listed(1..=2, None);
        board.waiting(execution(1, None).id, Some("no node".to_owned()));
        assert_eq!(board.why_waiting(), Some("no node"));
        board.change(&change(8, &execution(1, Some(Outcome::Cancelled))), at(0));
        assert_eq!(board.why_waiting(), None);
    }

    #[test]
    fn nodes_that_need_looking_after_come_first() {
        let mut board = listed(1..=1, None);
        let lost = Node { state: NodeState::Lost, ..node(3, "gamma", 2) };
        board.nodes(vec![node(1, "alpha", 1), node(2, "beta", 5), lost]);
        let names: Vec<_> = board.all_nodes().iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["gamma", "beta", "alpha"]);
        assert_eq!(board.slots(), (6, 16));
    }
}
