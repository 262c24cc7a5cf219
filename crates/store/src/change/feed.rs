//! The log as followers in this process see it: a ring of the newest changes for all of them, so that a thousand
//! followers cost what one does.
//!
//! This process's writer hands in what it has committed, which joins the ring if it goes on where the ring ends. What
//! does not, because another server wrote in between or because nobody followed until now, is read from the database by
//! one reader. That is woken by the writer, by other servers (PostgreSQL's NOTIFY, at most 20 a second and never in a
//! transaction that matters) and, where other servers can be, by a clock every second, on which alone correctness rests.

use super::{ChangeFilter, ChangePage, LogBounds, LogRead, MAX_SCAN};
use crate::database::Database;
use crate::error::StoreError;
use crate::postgres;
use crate::transaction::NewChange;
use crate::writer::Written;
use jiff::Timestamp;
use model::Change;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Changes in the ring.
const MAX_RING: usize = 8_192;
/// Bytes of their bodies.
const MAX_RING_BYTES: usize = 8 << 20;
/// How often to look where other servers may write.
const POLL: Duration = Duration::from_secs(1);
/// The least time between two messages to other servers.
const HUSH: Duration = Duration::from_millis(50);
/// How long to wait after the database failed.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Ring {
    /// Whether it is known where the log stood when it began.
    is_begun: bool,
    /// The number before the first change held.
    before: u64,
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
}

impl Ring {
    /// Returns the number of the newest change held, or of the one before the next.
    fn head(&self) -> u64 {
        self.before + self.changes.len() as u64
    }

    fn push(&mut self, change: Arc<Change>) {
        self.bytes += change.body.get().len();
        self.changes.push_back(change);
        while self.changes.len() > MAX_RING || self.bytes > MAX_RING_BYTES {
            let Some(old) = self.changes.pop_front() else { break };
            self.bytes -= old.body.get().len();
            self.before = old.seq;
        }
    }
}

/// The newest changes, and a bell that rings when there are more.
#[derive(Debug)]
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    head: watch::Sender<u64>,
    /// Rung when this process has written something that the ring does not hold.
    written: Notify,
    /// Rung when this process has written something that the ring holds, and other servers are to be told.
    taken: Notify,
    /// Rung when another server says that it has written.
    heard: Notify,
    /// Whether other servers write to the same log.
    is_shared: bool,
    /// Whoever owns the feed stops it, and all who wait for it.
    stop: CancellationToken,
}

impl Feed {
    pub(crate) fn new(is_shared: bool, stop: CancellationToken) -> Self {
        let [written, taken, heard] = std::array::from_fn(|_| Notify::new());
        Self { ring: Mutex::default(), head: watch::Sender::new(0), written, taken, heard, is_shared, stop }
    }

    /// Has the database looked at: this process has written, and has not said what.
    pub(crate) fn look(&self) {
        self.written.notify_one();
    }

    /// Takes what this process has committed.
    pub(crate) fn take(&self, written: Written) {
        let Written { before, changes } = written;
        if changes.is_empty() {
            return;
        }
        if self.head.receiver_count() == 0 {
            return self.look();
        }
        let changes: Option<Vec<_>> = (before + 1..).zip(changes).map(|(seq, change)| shown(seq, change)).collect();
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        match changes {
            Some(changes) if ring.is_begun && ring.head() == before => {
                changes.into_iter().for_each(|change| ring.push(change));
                self.head.send_replace(ring.head());
                drop(ring);
                if self.is_shared {
                    self.taken.notify_one();
                }
            }
            _ => self.look(),
        }
    }

    /// Returns a bell that rings when the log has moved; from now on the feed follows the database.
    pub(crate) fn head(&self) -> watch::Receiver<u64> {
        let head = self.head.subscribe();
        self.heard.notify_one();
        head
    }

    /// Returns what the ring holds after a cursor, unless it begins later or the cursor is ahead of it.
    fn held(&self, after: u64) -> Option<(Vec<Arc<Change>>, u64)> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let head = ring.head();
        if after < ring.before || after > head || head == 0 {
            return None;
        }
        let skip = usize::try_from(after - ring.before).unwrap_or(usize::MAX);
        Some((ring.changes.iter().skip(skip).take(MAX_SCAN as usize).cloned().collect(), head))
    }

    /// Follows the database until told to stop.
    pub(crate) async fn run(&self, database: &Database) {
        let listen = async {
            if let Database::Postgres(postgres) = database {
                postgres.listen(|| self.heard.notify_one(), self.stop.clone()).await;
            }
        };
        futures_util::join!(listen, self.tail(database));
    }

    async fn tail(&self, database: &Database) {
        let stop = &self.stop;
        if self.begin(database).await.is_none() {
            return;
        }
        let mut told = Instant::now();
        let (mut to_look, mut to_tell) = (true, false);
        loop {
            if self.head.receiver_count() == 0 && !to_tell {
                // Nobody follows, so nobody reads.
                tokio::select! {
                    () = self.heard.notified() => {}
                    () = self.written.notified(), if self.is_shared => to_tell = true,
                    () = stop.cancelled() => return,
                }
                if let Err(error) = self.skip(database).await {
                    tracing::warn!(error = error.chain(), "the log cannot be read; trying again");
                }
                to_look = true;
            }
            if to_look {
                match self.advance(database).await {
                    Ok(is_moved) if is_moved => continue,
                    Ok(_) => to_look = false,
                    Err(error) => {
                        tracing::warn!(error = error.chain(), "the log cannot be read; trying again");
                        if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                            return;
                        }
                        continue;
                    }
                }
            }
            if to_tell && told.elapsed() >= HUSH {
                (told, to_tell) = (Instant::now(), false);
                tell(database).await;
            }
            let later = if to_tell { told + HUSH } else { Instant::now() + POLL };
            tokio::select! {
                () = self.taken.notified() => to_tell = true,
                () = self.written.notified() => (to_look, to_tell) = (true, self.is_shared),
                () = self.heard.notified() => to_look = true,
                () = tokio::time::sleep_until(later), if self.is_shared => to_look = !to_tell,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Waits for the database, and begins the ring at its newest change.
    async fn begin(&self, database: &Database) -> Option<()> {
        loop {
            match database.read(LogBounds).await {
                Ok(bounds) => {
                    self.restart(bounds.head);
                    return Some(());
                }
                Err(error) => tracing::warn!(error = error.chain(), "the log cannot be read; trying again"),
            }
            self.stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await?;
        }
    }

    /// Begins the ring anew, empty, behind a change, unless it has come further meanwhile.
    fn restart(&self, before: u64) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if !ring.is_begun || ring.head() < before {
            *ring = Ring { is_begun: true, before, ..Ring::default() };
            self.head.send_replace(before);
        }
    }

    /// Returns where the ring ends.
    fn cursor(&self) -> u64 {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).head()
    }

    /// Begins the ring anew if more has happened since it ended than it could hold.
    async fn skip(&self, database: &Database) -> Result<(), StoreError> {
        let head = database.read(LogBounds).await?.head;
        if head.saturating_sub(self.cursor()) > MAX_RING as u64 {
            self.restart(head);
        }
        Ok(())
    }

    /// Takes in what is new in the database; tells whether there was anything.
    async fn advance(&self, database: &Database) -> Result<bool, StoreError> {
        let (_, found) = match database.read(LogRead { after: self.cursor(), scan: MAX_SCAN }).await {
            // It was dropped before we read it; whoever still wanted it is told so.
            Err(StoreError::CursorGone { floor, .. }) => {
                self.restart(floor);
                return Ok(true);
            }
            read => read?,
        };
        let is_moved = !found.is_empty();
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for change in found {
            // The writer may have handed some of it in meanwhile.
            if change.seq == ring.head() + 1 {
                ring.push(change);
            }
        }
        self.head.send_replace(ring.head());
        Ok(is_moved)
    }
}

/// Returns a change as the database would show it, which keeps microseconds; nothing if it could not.
fn shown(seq: u64, change: NewChange) -> Option<Arc<Change>> {
    let NewChange { at, tenant, noun, id, state, by, body } = change;
    let at = Timestamp::from_microsecond(at.as_microsecond()).ok()?;
    let body = RawValue::from_string(body).ok()?;
    Some(Arc::new(Change { seq, at, tenant, noun, id, state: state.to_owned(), by, body }))
}

/// One reader of the log: it sees every change after its cursor, once and in order, for as long as it keeps up with
/// what is dropped at the old end.
pub struct Follower {
    feed: Arc<Feed>,
    database: Database,
    head: watch::Receiver<u64>,
    cursor: u64,
    filter: ChangeFilter,
}

impl Follower {
    pub(crate) fn new(feed: &Arc<Feed>, database: &Database, after: u64, filter: ChangeFilter) -> Self {
        Self { feed: Arc::clone(feed), database: database.clone(), head: feed.head(), cursor: after, filter }
    }

    /// Waits until the log has moved past the cursor, and returns what is wanted of at most two thousand changes; that
    /// may be nothing, and the cursor has moved all the same.
    pub async fn next(&mut self, limit: usize) -> Result<ChangePage, StoreError> {
        loop {
            self.head.borrow_and_update();
            let page = match self.feed.held(self.cursor) {
                Some((found, head)) => ChangePage::pick(&found, self.cursor, head, &self.filter, limit),
                None => super::page(&self.database, self.cursor, &self.filter, limit).await?,
            };
            if page.next > self.cursor {
                self.cursor = page.next;
                return Ok(page);
            }
            tokio::select! {
                changed = self.head.changed() => changed.map_err(|_| StoreError::Unavailable { source: None })?,
                () = self.feed.stop.cancelled() => return Err(StoreError::Unavailable { source: None }),
            }
        }
    }

    /// Returns the number of the last change seen.
    pub const fn cursor(&self) -> u64 {
        self.cursor
    }
}

/// Tells the other servers that the log has moved. If the message is lost, their clocks find out.
async fn tell(database: &Database) {
    if let Database::Postgres(postgres) = database {
        let sent = async { postgres::script(&postgres.client().await?, "NOTIFY quarry_log").await };
        if let Err(error) = sent.await {
            tracing::debug!(error = error.chain(), "other servers could not be told");
        }
    }
}
