//! The log as followers in this process see it: one reader of the database, and a ring of the newest changes for all of
//! them, so that a thousand followers cost one read.
//!
//! It is woken by this process's writer, by other servers (PostgreSQL's NOTIFY, at most 20 a second and never in a
//! transaction that matters) and, where other servers can be, by a clock every second, on which alone correctness rests.

use super::{ChangeFilter, ChangePage, LogBounds, LogRead, MAX_SCAN};
use crate::database::Database;
use crate::error::StoreError;
use crate::postgres;
use model::Change;
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
    /// The number before the first change held.
    before: u64,
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
}

impl Ring {
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
    /// Rung by this process's writer after each commit.
    pub(crate) written: Arc<Notify>,
    /// Rung when another server says that it has written.
    heard: Notify,
    /// Whoever owns the feed stops it, and all who wait for it.
    stop: CancellationToken,
}

impl Feed {
    pub(crate) fn new(written: Arc<Notify>, stop: CancellationToken) -> Self {
        Self { ring: Mutex::default(), head: watch::Sender::new(0), written, heard: Notify::new(), stop }
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
        let head = ring.before + ring.changes.len() as u64;
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
        let Some(mut cursor) = self.begin(database).await else { return };
        let shared = matches!(database, Database::Postgres(_));
        let mut told = Instant::now();
        let mut to_tell = false;
        loop {
            if self.head.receiver_count() == 0 && !to_tell {
                // Nobody follows, so nobody reads.
                tokio::select! {
                    () = self.heard.notified() => {}
                    () = self.written.notified(), if shared => to_tell = true,
                    () = stop.cancelled() => return,
                }
                match self.skip(database, cursor).await {
                    Ok(next) => cursor = next,
                    Err(error) => tracing::warn!(error = error.chain(), "the log cannot be read; trying again"),
                }
            }
            match self.advance(database, cursor).await {
                Ok(next) if next == cursor => {}
                Ok(next) => {
                    cursor = next;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(error = error.chain(), "the log cannot be read; trying again");
                    if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                        return;
                    }
                    continue;
                }
            }
            if to_tell && told.elapsed() >= HUSH {
                (told, to_tell) = (Instant::now(), false);
                tell(database).await;
            }
            let later = if to_tell { told + HUSH } else { Instant::now() + POLL };
            tokio::select! {
                () = self.written.notified() => to_tell = shared,
                () = self.heard.notified() => {}
                () = tokio::time::sleep_until(later), if shared => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Waits for the database, and begins the ring at its newest change.
    async fn begin(&self, database: &Database) -> Option<u64> {
        loop {
            match database.read(LogBounds).await {
                Ok(bounds) => return Some(self.restart(bounds.head)),
                Err(error) => tracing::warn!(error = error.chain(), "the log cannot be read; trying again"),
            }
            self.stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await?;
        }
    }

    /// Begins the ring anew, empty, behind a change; returns that change's number.
    fn restart(&self, before: u64) -> u64 {
        *self.ring.lock().unwrap_or_else(PoisonError::into_inner) = Ring { before, ..Ring::default() };
        self.head.send_replace(before);
        before
    }

    /// Begins the ring anew if more has happened since a cursor than it could hold; returns where to go on.
    async fn skip(&self, database: &Database, cursor: u64) -> Result<u64, StoreError> {
        let head = database.read(LogBounds).await?.head;
        if head.saturating_sub(cursor) <= MAX_RING as u64 {
            return Ok(cursor);
        }
        Ok(self.restart(head))
    }

    /// Takes in what is new after a cursor, and returns the new cursor.
    async fn advance(&self, database: &Database, cursor: u64) -> Result<u64, StoreError> {
        let (_, found) = match database.read(LogRead { after: cursor, scan: MAX_SCAN }).await {
            // It was dropped before we read it; whoever still wanted it is told so.
            Err(StoreError::CursorGone { floor, .. }) => return Ok(self.restart(floor)),
            read => read?,
        };
        let Some(last) = found.last().map(|change| change.seq) else { return Ok(cursor) };
        {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            found.into_iter().for_each(|change| ring.push(change));
        }
        self.head.send_replace(last);
        Ok(last)
    }
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
