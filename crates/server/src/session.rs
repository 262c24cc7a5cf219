//! The sessions that this server speaks with: what each holds, who waits, and whom to wake when there is something to do.
//!
//! All of it is memory: what the database would say, had it been asked again. A sync that changes nothing is answered
//! from here, and the database is asked when a lease is due, when something was said, when a bell rang, or when a node's
//! words do not fit what is known. A new execution wakes one node that it fits, not all of them. What other servers do
//! is found by [`watch`], once a second.

mod unserved;
pub(crate) mod watch;

use jiff::{SignedDuration, Timestamp};
use model::node::{Held, Sync};
use model::{ExecutionId, ExecutionState, ImageId, Node, NodeState, SessionId, Shape, TenantId};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use store::{Heard, Queue};
use tokio::sync::Notify;

/// Waiting nodes that are looked at for one execution; the pass behind looks at all.
const MAX_LOOKED_AT: usize = 512;
/// Fitting nodes among which the one with the most free slots is chosen.
const MAX_CHOICE: usize = 8;
/// Images that a node is remembered to have been given.
const MAX_IMAGES: usize = 32;
/// After how long a node is told again to stop what it has not stopped.
pub(crate) const TELL_AGAIN: Duration = Duration::from_secs(2);

/// What has to be done about a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The database must hear it.
    Exchange,
    /// The lease must be renewed, and what the session holds looked at.
    Renew,
    /// Nothing.
    Nothing,
}

/// What had happened when the need of a sync was found: what comes later the database may not know when it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// How much had come into the queue.
    queue: u64,
    /// How often the session had been woken for something.
    rung: u64,
}

/// A session, as far as this server knows.
#[derive(Debug)]
struct Entry {
    node: Arc<Node>,
    serves: Option<TenantId>,
    expires_at: Timestamp,
    renew_at: Timestamp,
    held: BTreeMap<ExecutionId, (u32, ExecutionState)>,
    images: VecDeque<ImageId>,
    /// What its node holds and how much more it would take: as it last said, and what it was given since.
    said: Vec<Held>,
    free: u32,
    /// The state of the queue at which there was nothing more for it; none if there may be.
    sated_at: Option<u64>,
    /// How often it was woken for something that came into the queue.
    rung: u64,
    /// Whether something happened that its node must be told.
    is_stirred: bool,
    told: Option<(NodeState, bool)>,
    told_to_stop: (BTreeSet<ExecutionId>, Option<Instant>),
}

impl Entry {
    /// Tells whether its node takes anything new.
    fn takes(&self) -> bool {
        self.node.state == NodeState::Ready && self.node.hold.is_none()
    }
}

/// Where the syncs of one session meet, known or not.
#[derive(Debug, Default)]
struct Door {
    /// The newest sync's number.
    turn: u64,
    bell: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<SessionId, Entry>,
    doors: HashMap<SessionId, Door>,
    waiting: BTreeSet<SessionId>,
    cursor: Option<SessionId>,
    /// Counts what came into the queue while nobody who waits could be found for it.
    queue: u64,
}

/// The sessions that this server speaks with.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    inner: Mutex<Inner>,
}

/// What memory answers.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) expires_at: Timestamp,
    pub(crate) node: Arc<Node>,
    pub(crate) cancel: Vec<ExecutionId>,
    /// Whether the node does not know it yet.
    pub(crate) is_news: bool,
}

/// One sync's place among those of its session.
#[derive(Debug)]
pub(crate) struct Turn {
    session: SessionId,
    number: u64,
    pub(crate) bell: Arc<Notify>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether a session is somebody's; nothing, if it is not known.
    pub(crate) fn is_of(&self, session: SessionId, owner: (TenantId, &str)) -> Option<bool> {
        let inner = self.lock();
        let node = &inner.entries.get(&session)?.node;
        Some((node.tenant, node.by.as_str()) == owner)
    }

    /// Begins a sync. One that waits, or is the last, lets go an older one of the same session that waits; one that only
    /// reports leaves it where it is, and what waits goes on with what the node said last (see `need`).
    pub(crate) fn enter(&self, session: SessionId, replaces: bool) -> Turn {
        let mut inner = self.lock();
        if replaces {
            inner.waiting.remove(&session);
        }
        let door = inner.doors.entry(session).or_default();
        if !replaces {
            return Turn { session, number: door.turn, bell: Arc::clone(&door.bell) };
        }
        door.turn += 1;
        door.bell.notify_waiters();
        // A bell of its own: what rang for the older one is found in what is known of the session.
        door.bell = Arc::default();
        Turn { session, number: door.turn, bell: Arc::clone(&door.bell) }
    }

    /// Tells whether no newer sync of the session has come.
    pub(crate) fn is_newest(&self, turn: &Turn) -> bool {
        self.lock().doors.get(&turn.session).is_some_and(|door| door.turn == turn.number)
    }

    /// Tells what has to be done about a sync, and what had happened by now. What a sync says that is new is kept; one that
    /// has waited says what was said since.
    pub(crate) fn need(&self, sync: &mut Sync, is_new: bool, owner: (TenantId, &str), now: Timestamp) -> (Need, Seen) {
        let says = !(sync.chunks.is_empty() && sync.finished.is_empty() && sync.used.is_empty())
            || sync.trouble.is_some()
            || sync.leaving;
        let mut inner = self.lock();
        let queue = inner.queue;
        let Some(entry) = inner.entries.get_mut(&sync.session) else {
            return (Need::Exchange, Seen { queue, rung: 0 });
        };
        let seen = Seen { queue, rung: entry.rung };
        if is_new {
            (entry.said, entry.free) = (sync.held.clone(), sync.free);
        } else {
            (sync.held, sync.free) = (entry.said.clone(), entry.free);
        }
        let wants = sync.free > 0 && entry.takes() && entry.sated_at != Some(queue);
        let is_ours = (entry.node.tenant, entry.node.by.as_str()) == owner;
        let need = if says
            || wants
            || entry.is_stirred
            || !is_ours
            || entry.expires_at <= now
            || !agrees(&entry.held, &sync.held)
        {
            Need::Exchange
        } else if entry.renew_at <= now {
            Need::Renew
        } else {
            Need::Nothing
        };
        (need, seen)
    }

    /// Takes in what the database said of a session. After a mere renewal, what does not fit is asked for again. Of what
    /// came into the queue after the need was found, the database may not have known when it was asked.
    pub(crate) fn learn(
        &self,
        sync: &Sync,
        heard: &Heard,
        (need, seen): (Need, Seen),
        about: (Option<TenantId>, SignedDuration),
    ) {
        let (serves, lease) = about;
        let mut inner = self.lock();
        if heard.node.session != Some(sync.session) {
            inner.forget(sync.session);
            return;
        }
        let node = Arc::new(heard.node.clone());
        let renew_at = heard.expires_at - lease * 2 / 3;
        let old = inner.entries.remove(&sync.session);
        // What its node has said meanwhile is newer than this.
        let newer = old.as_ref().filter(|old| (&old.said, old.free) != (&sync.held, sync.free));
        let newer = newer.map(|old| (old.said.clone(), old.free));
        let (rung, sated) = old.as_ref().map_or((0, None), |old| (old.rung, old.sated_at));
        let (told, told_to_stop, mut images) = match old {
            Some(old) => (old.told, old.told_to_stop, old.images),
            None => (None, (BTreeSet::new(), None), VecDeque::new()),
        };
        for image in heard.assigned.iter().filter_map(|assigned| assigned.execution.recipe.image_id) {
            if !images.contains(&image) {
                images.push_back(image);
            }
            if images.len() > MAX_IMAGES {
                images.pop_front();
            }
        }
        let held = heard.held.clone();
        // Of two syncs that overtake each other, the one that waits may have said what is over by now.
        let is_past = newer.as_ref().is_some_and(|(said, _)| !agrees(&held, said));
        let is_stirred = is_past || (need == Need::Renew && !agrees(&held, &sync.held));
        let sated_at = match need {
            // Woken meanwhile, there is more.
            Need::Exchange => (heard.is_sated && rung == seen.rung).then_some(seen.queue),
            Need::Renew | Need::Nothing => sated,
        };
        let given = heard.assigned.iter().map(|assigned| &assigned.execution);
        let given = given.map(|execution| Held { execution: execution.id, attempt: execution.attempt });
        let (said, free) = newer.unwrap_or_else(|| {
            let free = sync.free.saturating_sub(u32::try_from(heard.assigned.len()).unwrap_or(u32::MAX));
            (sync.held.iter().copied().chain(given).collect(), free)
        });
        let expires_at = heard.expires_at;
        let entry = Entry {
            node,
            serves,
            expires_at,
            renew_at,
            held,
            images,
            said,
            free,
            sated_at,
            rung,
            is_stirred,
            told,
            told_to_stop,
        };
        inner.entries.insert(sync.session, entry);
        if is_past {
            inner.rouse(sync.session);
        }
    }

    /// Returns how a session stands, and whether its node has to hear of it now.
    pub(crate) fn word(&self, session: SessionId) -> Option<Word> {
        let inner = self.lock();
        let entry = inner.entries.get(&session)?;
        let stops = entry.held.iter().filter(|(_, (_, state))| *state == ExecutionState::Cancelling);
        let cancel: Vec<_> = stops.map(|(id, _)| *id).collect();
        let (stopped, at) = &entry.told_to_stop;
        let is_late = at.is_none_or(|at| at.elapsed() >= TELL_AGAIN);
        let stop = !cancel.is_empty() && (is_late || cancel.iter().any(|id| !stopped.contains(id)));
        let is_news = stop || entry.told != Some((entry.node.state, entry.node.hold.is_some()));
        Some(Word { expires_at: entry.expires_at, node: Arc::clone(&entry.node), cancel, is_news })
    }

    /// Notes what a node is told now.
    pub(crate) fn told(&self, session: SessionId, word: &Word) {
        if let Some(entry) = self.lock().entries.get_mut(&session) {
            entry.told = Some((word.node.state, word.node.hold.is_some()));
            let at = (!word.cancel.is_empty()).then(Instant::now);
            entry.told_to_stop = (word.cancel.iter().copied().collect(), at);
        }
    }

    /// Puts a session among those that wait; tells whether there is nothing to do for it meanwhile.
    pub(crate) fn wait(&self, turn: &Turn) -> bool {
        let mut inner = self.lock();
        let queue = inner.queue;
        let is_newest = inner.doors.get(&turn.session).is_some_and(|door| door.turn == turn.number);
        // What came in since it was last asked for would ring for nobody.
        let is_quiet = inner.entries.get(&turn.session).is_some_and(|entry| {
            let is_sated = entry.sated_at == Some(queue) || entry.free == 0 || !entry.takes();
            is_sated && !entry.is_stirred
        });
        if is_newest && is_quiet {
            inner.waiting.insert(turn.session);
        }
        is_newest && is_quiet
    }

    /// Takes a session from among those that wait, unless a newer sync has come.
    pub(crate) fn leave(&self, turn: &Turn) {
        let mut inner = self.lock();
        if inner.doors.get(&turn.session).is_some_and(|door| door.turn == turn.number) {
            inner.waiting.remove(&turn.session);
        }
    }

    /// Wakes one node for an execution that comes into the queue: whoever asks from now on finds it there.
    pub(crate) fn ring(&self, shape: &Shape, tenant: TenantId, image: Option<ImageId>) {
        let fits =
            |entry: &Entry| entry.serves.is_none_or(|serves| serves == tenant) && entry.node.offer.fits(shape).is_ok();
        let mut inner = self.lock();
        if !inner.wake(fits, image, MAX_LOOKED_AT) {
            inner.queue += 1;
        }
    }

    /// Notes that something may have come into the queue, nobody knows for whom.
    pub(crate) fn stir(&self) {
        let mut inner = self.lock();
        if !inner.wake(|_| true, None, MAX_LOOKED_AT) {
            inner.queue += 1;
        }
    }

    /// Wakes a node for each of these queues, where one waits that it suits.
    pub(crate) fn serve(&self, queues: &[Queue]) {
        let mut inner = self.lock();
        for queue in queues {
            inner.wake(|entry| queue.suits(&entry.node.offer, entry.serves), None, usize::MAX);
        }
    }

    /// Tells whether a queue suits any of the nodes that this server knows.
    pub(crate) fn suits(&self, queue: &Queue) -> bool {
        self.lock().entries.values().any(|entry| queue.suits(&entry.node.offer, entry.serves))
    }

    /// Has a session's node told what has happened to it.
    pub(crate) fn touch(&self, session: SessionId) {
        let mut inner = self.lock();
        if let Some(entry) = inner.entries.get_mut(&session) {
            entry.is_stirred = true;
            inner.rouse(session);
        }
    }

    /// Has the nodes told that hold something which is being stopped and do not know it.
    pub(crate) fn touch_stopping(&self, stopping: &[(SessionId, Held)]) {
        let mut inner = self.lock();
        for (session, held) in stopping {
            let known = inner.entries.get_mut(session);
            let state = known.as_ref().and_then(|entry| entry.held.get(&held.execution)).map(|(_, state)| *state);
            if let Some(entry) = known.filter(|_| state != Some(ExecutionState::Cancelling)) {
                entry.is_stirred = true;
                inner.rouse(*session);
            }
        }
    }

    /// Forgets a session that has ended.
    pub(crate) fn forget(&self, session: SessionId) {
        let mut inner = self.lock();
        inner.forget(session);
    }

    /// Forgets the sessions that this server has not heard of for as long as a lease lasts.
    pub(crate) fn forget_silent(&self, now: Timestamp) {
        let mut inner = self.lock();
        let silent: Vec<_> =
            inner.entries.iter().filter(|(_, entry)| entry.expires_at <= now).map(|(session, _)| *session).collect();
        for session in silent {
            inner.forget(session);
        }
        let Inner { doors, entries, .. } = &mut *inner;
        doors.retain(|session, door| entries.contains_key(session) || Arc::strong_count(&door.bell) > 1);
    }

    /// Returns the nodes that began before an instant and that nothing holds.
    pub(crate) fn older_than(&self, at: Timestamp) -> Vec<Arc<Node>> {
        let inner = self.lock();
        let old = inner.entries.values().map(|entry| &entry.node).filter(|node| {
            node.hold.is_none() && node.state == NodeState::Ready && node.joined_at.is_some_and(|begun| begun < at)
        });
        old.cloned().collect()
    }
}

impl Inner {
    /// Wakes the waiting node with the most free slots among a few that fit, one that has the image before others.
    fn wake(&mut self, fits: impl Fn(&Entry) -> bool, image: Option<ImageId>, max: usize) -> bool {
        let from = self.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let to = self.cursor.map_or(Bound::Unbounded, Bound::Included);
        let behind = self.waiting.range((from, Bound::Unbounded));
        let before = self.waiting.range((Bound::Unbounded, to)).filter(|_| self.cursor.is_some());
        let takes = |session: &&SessionId| {
            let entry = self.entries.get(*session);
            entry.is_some_and(|entry| entry.free > 0 && entry.takes() && !entry.is_stirred && fits(entry))
        };
        let some = behind.chain(before).take(max).filter(takes).take(MAX_CHOICE);
        let has = |entry: &Entry| image.is_some_and(|image| entry.images.contains(&image));
        let best = some.max_by_key(|session| self.entries.get(session).map(|entry| (has(entry), entry.free))).copied();
        let Some(session) = best else { return false };
        self.cursor = Some(session);
        if let Some(entry) = self.entries.get_mut(&session) {
            entry.sated_at = None;
            entry.rung += 1;
        }
        self.rouse(session);
        true
    }

    fn rouse(&mut self, session: SessionId) {
        self.waiting.remove(&session);
        if let Some(door) = self.doors.get(&session) {
            door.bell.notify_one();
        }
    }

    fn forget(&mut self, session: SessionId) {
        self.entries.remove(&session);
        self.rouse(session);
        self.doors.remove(&session);
    }
}

/// Tells whether a node says that it holds what it is known to hold.
fn agrees(held: &BTreeMap<ExecutionId, (u32, ExecutionState)>, said: &[Held]) -> bool {
    held.len() == said.len()
        && said.iter().all(|said| held.get(&said.execution).is_some_and(|(attempt, _)| *attempt == said.attempt))
}

#[cfg(test)]
mod tests;
