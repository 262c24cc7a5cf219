//! The dispatcher: the one task that speaks with the server and owns what this node holds.
//!
//! Everything that can happen is one `Event`; each is handled at once and none waits for another. At most two calls are under
//! way: a *held* one that waits at the server for something to do, and a *report* of what has happened, which the server
//! answers when it is on disk. What a report carried comes back into the outbox if the report failed.
//!
//! The lease is counted from the moment a call was sent, on a clock that runs while the machine sleeps, and a tenth of it is
//! left for what ends to end. When it is over, everything ends here before anything begins elsewhere, and the node joins
//! again under a new session.

use crate::agent::NodeError;
use crate::attempt::{Attempt, Ended, Fence, Shop, Wish};
use crate::outbox::{Outbox, Parcel};
use crate::sandboxes::boot_ms;
use crate::worker::COOLING;
use client::{Client, ClientError, Retry};
use model::node::{Assignment, Held, Sync, SyncAnswer, Used, Written};
use model::{ExecutionId, NewNode, Node, NodeId, NodeState, Offer, Outcome, SessionId};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How long a held call waits at most; a third of the lease if that is shorter.
const MAX_WAIT_MS: u64 = 25_000;
/// How long to wait after a call that failed, at first and at most.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(3);
/// How long it stays untold, at least, what is used by what runs.
const TELL_USED: Duration = Duration::from_secs(2);
/// How often the lease is looked at.
const BEAT: Duration = Duration::from_millis(250);
/// How long a session is thought to last at most, until the first answer under it tells.
const FIRST_LEASE_MS: u64 = 60_000;
/// How long the first held call waits, which must not outlast a lease of unknown length.
const FIRST_WAIT_MS: u64 = 500;
/// How long the server may be away for what an attempt asks of it: the lease ends it sooner.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Failures of the machine in a row after which a node says that it is in trouble.
const MAX_FAILURES: u32 = 5;
/// Attempts that are remembered, so that an answer that comes late begins none of them twice.
const MAX_KNOWN: usize = 16_384;
/// Chunks that wait between the attempts and this task.
const CHUNKS_WAITING: usize = 256;

/// All that can happen.
enum Event {
    /// An attempt wrote something.
    Said(Written),
    /// An attempt came to its end.
    Ended(Box<Result<Ended, JoinError>>),
    /// A call came back.
    Answered(Result<Answered, JoinError>),
    /// Some time has passed.
    Beat,
    /// Some more time has passed.
    Cool,
    /// Workers that were used are to be replaced.
    Refill,
    /// Somebody wants this node to stop.
    Stop,
    /// The spawner died.
    SpawnerGone,
}

/// What sort of call it was, and what it carried.
enum Call {
    Join,
    Wait,
    Report(Parcel),
    Leave(Parcel),
}

struct Answered {
    call: Call,
    session: SessionId,
    sent_ms: u64,
    /// Whether it told of trouble.
    has_told: bool,
    answer: Result<Answer, ClientError>,
}

enum Answer {
    Joined(Box<Node>),
    Synced(Box<SyncAnswer>),
}

/// Where the node is with its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It must join, once nothing of an older session is left.
    Apart,
    /// It has a session.
    Joined,
}

/// The one that speaks with the server.
pub(crate) struct Dispatcher {
    shop: Arc<Shop>,
    client: Client,
    /// For the attempts.
    patient: Client,
    id: NodeId,
    offer: Offer,
    session: SessionId,
    standing: Standing,
    /// When the call was sent whose answer tells the lease's length.
    lease_from_ms: u64,
    lease_ms: u64,
    /// Whether the server has not told yet how long it lasts.
    is_lease_assumed: bool,
    /// How long a held call waits.
    wait_ms: u64,
    state: NodeState,
    outbox: Outbox,
    running: HashMap<Held, watch::Sender<Wish>>,
    known: (HashSet<Held>, VecDeque<Held>),
    attempts: JoinSet<Ended>,
    calls: JoinSet<Answered>,
    is_waiting: bool,
    is_busy: bool,
    pause: Duration,
    not_before: Instant,
    used_told: Instant,
    say: mpsc::Sender<Written>,
    said: mpsc::Receiver<Written>,
    failures: u32,
    trouble: Option<String>,
    stop_by: Option<Instant>,
    is_leaving: bool,
    /// Whether the time to finish is over.
    is_over: bool,
    has_left: bool,
    /// What broke of its own, if anything did: then it gives back what it has, and ends with this.
    broken: Option<NodeError>,
    joined: watch::Sender<Option<NodeId>>,
}

impl Dispatcher {
    pub(crate) fn new(
        shop: Arc<Shop>,
        client: Client,
        id: NodeId,
        offer: Offer,
        joined: watch::Sender<Option<NodeId>>,
    ) -> Self {
        let (say, said) = mpsc::channel(CHUNKS_WAITING);
        let patient = client.with_retry(Retry { unreachable_max: PATIENCE, busy_max: PATIENCE, follow_max: PATIENCE });
        Self {
            shop,
            client,
            patient,
            id,
            offer,
            session: client::id::fresh(SessionId::new),
            standing: Standing::Apart,
            lease_from_ms: 0,
            lease_ms: 0,
            is_lease_assumed: true,
            wait_ms: 0,
            state: NodeState::Joining,
            outbox: Outbox::default(),
            running: HashMap::new(),
            known: (HashSet::new(), VecDeque::new()),
            attempts: JoinSet::new(),
            calls: JoinSet::new(),
            is_waiting: false,
            is_busy: false,
            pause: PAUSE,
            not_before: Instant::now(),
            used_told: Instant::now(),
            say,
            said,
            failures: 0,
            trouble: None,
            stop_by: None,
            is_leaving: false,
            is_over: false,
            has_left: false,
            broken: None,
            joined,
        }
    }

    /// Works until told to stop, or until the server has drained this node.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), NodeError> {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut cool = tokio::time::interval(COOLING);
        let sandboxes = self.shop.sandboxes.clone();
        let shop = Arc::clone(&self.shop);
        while !self.has_left {
            self.speak();
            let event = tokio::select! {
                biased;
                Some(answered) = self.calls.join_next() => Event::Answered(answered),
                Some(ended) = self.attempts.join_next() => Event::Ended(Box::new(ended)),
                Some(written) = self.said.recv(), if !self.outbox.is_full() => Event::Said(written),
                () = stop.cancelled(), if self.stop_by.is_none() && !self.is_over => Event::Stop,
                () = sandboxes.gone(), if self.broken.is_none() => Event::SpawnerGone,
                _ = beat.tick() => Event::Beat,
                _ = cool.tick() => Event::Cool,
                () = shop.workers.due() => Event::Refill,
            };
            self.handle(event)?;
        }
        self.shop.workers.clear();
        self.broken.map_or(Ok(()), Err)
    }

    fn handle(&mut self, event: Event) -> Result<(), NodeError> {
        match event {
            Event::Said(written) => {
                if self.running.contains_key(&written.held) {
                    self.outbox.put_chunk(written);
                }
            }
            Event::Ended(ended) => self.ended((*ended).map_err(|error| NodeError::Broken(error.to_string()))?),
            Event::Answered(Ok(answered)) => self.answered(answered)?,
            Event::Answered(Err(error)) => return Err(NodeError::Broken(error.to_string())),
            Event::Beat => self.beat(),
            Event::Cool => self.shop.workers.cool(),
            Event::Refill => self.shop.workers.refill(),
            Event::Stop => {
                tracing::info!(running = self.running.len(), "finishing what is held, taking nothing new");
                self.stop_by = Some(Instant::now() + self.shop.settings.drain);
                self.is_leaving = true;
            }
            Event::SpawnerGone => {
                tracing::error!(
                    running = self.running.len(),
                    "the spawner of sandboxes died; what ran in them goes back"
                );
                self.abandon_all();
                (self.is_leaving, self.is_over, self.stop_by) = (true, true, None);
                self.broken = Some(NodeError::SpawnerGone);
            }
        }
        Ok(())
    }

    /// Begins the calls that are due.
    fn speak(&mut self) {
        if self.is_busy || Instant::now() < self.not_before {
            return;
        }
        match self.standing {
            // Two sessions' attempts must not overlap: what the old one ran has to be gone first.
            Standing::Apart if self.running.is_empty() && !self.is_waiting => {
                if self.is_leaving {
                    self.has_left = true;
                } else {
                    self.join();
                }
            }
            Standing::Apart => {}
            Standing::Joined if self.is_leaving && self.running.is_empty() => {
                let parcel = self.outbox.take();
                let is_last = self.outbox.is_empty();
                self.sync(if is_last { Call::Leave(parcel) } else { Call::Report(parcel) });
            }
            Standing::Joined if !self.outbox.is_empty() || self.trouble.is_some() || self.has_used() => {
                let parcel = self.outbox.take();
                self.sync(Call::Report(parcel));
            }
            Standing::Joined if !self.is_waiting => self.sync(Call::Wait),
            Standing::Joined => {}
        }
    }

    fn join(&mut self) {
        self.session = client::id::fresh(SessionId::new);
        self.is_busy = true;
        let new = NewNode {
            id: self.id,
            name: self.shop.settings.name.clone(),
            session: self.session,
            offer: self.offer.clone(),
        };
        let (client, session, sent_ms) = (self.client.clone(), self.session, boot_ms());
        self.calls.spawn(async move {
            let answer = client.node_join(&new).await.map(|node| Answer::Joined(Box::new(node)));
            Answered { call: Call::Join, session, sent_ms, has_told: false, answer }
        });
    }

    fn sync(&mut self, call: Call) {
        let parcel = match &call {
            Call::Join | Call::Wait => Parcel::default(),
            Call::Report(parcel) | Call::Leave(parcel) => parcel.clone(),
        };
        let wait_ms = match &call {
            Call::Wait => self.wait_ms,
            Call::Join | Call::Report(_) | Call::Leave(_) => 0,
        };
        if wait_ms > 0 {
            self.is_waiting = true;
        } else {
            self.is_busy = true;
        }
        // What has ended and is still to be said is held until it is said, or the server would give it out again.
        let waiting = self.outbox.ends();
        let said: HashSet<_> = parcel.finished.iter().map(|finished| finished.held).collect();
        let held = self.running.keys().copied().chain(waiting).filter(|held| !said.contains(held)).collect();
        let used = if matches!(call, Call::Report(_)) { self.take_used() } else { Vec::new() };
        let sync = Sync {
            session: self.session,
            free: self.free(),
            held,
            chunks: parcel.chunks,
            finished: parcel.finished,
            used,
            wait_ms,
            trouble: self.trouble.clone(),
            leaving: matches!(call, Call::Leave(_)),
        };
        let has_told = self.trouble.is_some();
        let (client, id, session, sent_ms) = (self.client.clone(), self.id, self.session, boot_ms());
        self.calls.spawn(async move {
            let answer = client.node_sync(id, &sync).await.map(|answer| Answer::Synced(Box::new(answer)));
            Answered { call, session, sent_ms, has_told, answer }
        });
    }

    /// Tells whether it is time to tell what is being used.
    fn has_used(&self) -> bool {
        self.used_told.elapsed() >= TELL_USED && !self.shop.meters.is_empty()
    }

    /// Takes what is to be told of it. It is said once: should it be lost, there is a newer one soon.
    fn take_used(&mut self) -> Vec<Used> {
        if !self.has_used() {
            return Vec::new();
        }
        self.used_told = Instant::now();
        let mut used = self.shop.meters.take();
        used.retain(|used| self.running.contains_key(&used.held));
        used
    }

    fn free(&self) -> u32 {
        if self.is_leaving || self.trouble.is_some() {
            return 0;
        }
        self.shop.settings.slots.saturating_sub(u32::try_from(self.running.len()).unwrap_or(u32::MAX))
    }

    fn answered(&mut self, answered: Answered) -> Result<(), NodeError> {
        let Answered { call, session, sent_ms, has_told, answer } = answered;
        match &call {
            Call::Wait => self.is_waiting = false,
            Call::Join | Call::Report(_) | Call::Leave(_) => self.is_busy = false,
        }
        if session != self.session {
            return Ok(());
        }
        match answer {
            Ok(Answer::Joined(node)) => self.begin(&node, sent_ms),
            Ok(Answer::Synced(answer)) => {
                self.pause = PAUSE;
                match call {
                    Call::Leave(_) => self.has_left = true,
                    // What came up since it was sent is still to be said.
                    Call::Report(_) if has_told => self.trouble = None,
                    Call::Report(_) => {}
                    Call::Join | Call::Wait => {}
                }
                self.heed(*answer, sent_ms);
            }
            Err(error) if error.is_code("session_gone") || error.is_code("node_not_found") => {
                tracing::warn!("the server has given up this session; everything that ran under it ends");
                self.lose();
            }
            Err(error) => self.failed(call, error)?,
        }
        Ok(())
    }

    fn begin(&mut self, node: &Node, sent_ms: u64) {
        self.standing = Standing::Joined;
        self.state = node.state;
        self.pause = PAUSE;
        // The first sync tells the true length; until then the node holds nothing, and must not think that it has for ever.
        (self.lease_from_ms, self.lease_ms) = (sent_ms, FIRST_LEASE_MS);
        self.is_lease_assumed = true;
        self.wait_ms = FIRST_WAIT_MS;
        tracing::info!(node = %node.id, name = node.name, "joined");
        self.joined.send_replace(Some(node.id));
    }

    /// Does what the server says.
    fn heed(&mut self, answer: SyncAnswer, sent_ms: u64) {
        // Answers overtake each other, and one to a later question may tell of an earlier end: a lease only ever grows.
        if self.is_lease_assumed || sent_ms + answer.lease_ms >= self.lease_from_ms + self.lease_ms {
            (self.lease_from_ms, self.lease_ms) = (sent_ms, answer.lease_ms);
            self.is_lease_assumed = false;
        }
        let left_ms = (self.lease_from_ms + self.lease_ms).saturating_sub(boot_ms());
        self.wait_ms = (left_ms / 3).clamp(1, MAX_WAIT_MS);
        self.state = answer.state;
        for refused in &answer.refused {
            tracing::warn!(execution = %refused.held.execution, error = %refused.error, "what was said did not count");
        }
        for held in answer.forget {
            self.outbox.forget(held);
            self.wish(held, Wish::Abandon);
        }
        for execution in answer.cancel {
            self.cancel(execution);
        }
        for assignment in answer.assigned {
            self.take(assignment);
        }
        if answer.state == NodeState::Draining {
            self.is_leaving = true;
        }
    }

    fn take(&mut self, assignment: Assignment) {
        let held = assignment.held;
        // What the server gave out before it heard that this node leaves is run: nobody else will until the lease is gone.
        if self.is_over || !self.known.0.insert(held) {
            return;
        }
        self.known.1.push_back(held);
        if self.known.1.len() > MAX_KNOWN
            && let Some(oldest) = self.known.1.pop_front()
        {
            self.known.0.remove(&oldest);
        }
        let (wish, wished) = watch::channel(Wish::Run);
        self.running.insert(held, wish);
        let fence = Fence { client: self.patient.clone(), session: self.session, held };
        let attempt = Attempt {
            shop: Arc::clone(&self.shop),
            fence: Arc::new(fence),
            assignment,
            say: self.say.clone(),
            wish: wished,
        };
        self.attempts.spawn(attempt.run());
    }

    fn cancel(&mut self, execution: ExecutionId) {
        let held: Vec<_> = self.running.keys().filter(|held| held.execution == execution).copied().collect();
        held.into_iter().for_each(|held| self.wish(held, Wish::Cancel));
    }

    fn wish(&self, held: Held, wish: Wish) {
        if let Some(sender) = self.running.get(&held) {
            sender.send_if_modified(|now| {
                // Nothing comes back from being abandoned.
                let is_new = *now != wish && *now != Wish::Abandon;
                if is_new {
                    *now = wish;
                }
                is_new
            });
        }
    }

    fn ended(&mut self, ended: Ended) {
        // What it wrote last is still between us.
        while let Ok(written) = self.said.try_recv() {
            if self.running.contains_key(&written.held) {
                self.outbox.put_chunk(written);
            }
        }
        self.running.remove(&ended.held);
        self.shop.meters.forget(ended.held);
        match ended.failure {
            Some(cause) => {
                self.failures += 1;
                if self.failures >= MAX_FAILURES {
                    self.failures = 0;
                    self.trouble = Some(format!("{MAX_FAILURES} set-ups failed in a row; the last: {cause}"));
                }
            }
            // What was refused before it began proves nothing about the machine.
            None if ended.finished.as_ref().is_some_and(|finished| has_begun(&finished.outcome)) => self.failures = 0,
            None => {}
        }
        if let Some(finished) = ended.finished {
            self.outbox.put_finished(finished);
        }
    }

    fn beat(&mut self) {
        if self.standing == Standing::Joined && boot_ms() >= self.lease_from_ms + self.lease_ms / 10 * 9 {
            tracing::warn!("the lease ran out; everything that ran under it ends");
            self.lose();
        }
        if self.stop_by.is_some_and(|by| Instant::now() >= by) && !self.running.is_empty() {
            tracing::warn!(running = self.running.len(), "the time to finish is over; what still runs goes back");
            self.abandon_all();
            (self.is_over, self.stop_by) = (true, None);
        }
    }

    /// Ends everything that ran under a session that is gone.
    fn lose(&mut self) {
        self.abandon_all();
        self.outbox = Outbox::default();
        self.standing = Standing::Apart;
        self.session = client::id::fresh(SessionId::new);
        self.is_waiting = false;
        self.is_busy = false;
        // Answers to the calls of the old session would only confuse.
        self.calls = JoinSet::new();
    }

    fn abandon_all(&mut self) {
        self.running.keys().for_each(|held| self.wish(*held, Wish::Abandon));
    }

    /// Puts back what could not be said and waits a little, or gives up if the server will never listen.
    fn failed(&mut self, call: Call, error: ClientError) -> Result<(), NodeError> {
        let is_first = self.joined.borrow().is_none();
        let is_final = error.is_final();
        match call {
            Call::Join if is_first && is_final => return Err(NodeError::Refused(Box::new(error))),
            Call::Join | Call::Wait => {}
            Call::Report(parcel) | Call::Leave(parcel) => {
                if is_final {
                    // Saying the same again would be refused again and block everything behind it; under a new session
                    // the server gives the work out anew.
                    tracing::error!(%error, chunks = parcel.chunks.len(), ends = parcel.finished.len(), "a report was refused");
                    self.lose();
                    return Ok(());
                }
                self.outbox.put_back(parcel);
            }
        }
        tracing::warn!(%error, pause_ms = self.pause.as_millis(), "the server does not answer as it should");
        self.not_before = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        if self.is_leaving && self.running.is_empty() && self.outbox.is_empty() && self.pause == MAX_PAUSE {
            // Nobody to say goodbye to, and nothing to say; the lease will run out by itself.
            self.has_left = true;
        }
        Ok(())
    }
}

/// Tells whether something ran before it came to this.
const fn has_begun(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::SetUpFailed { .. } | Outcome::Cancelled | Outcome::NodesLost { .. })
}
