//! The writer: one per process, it gathers operations into one transaction and answers each after the commit.
//!
//! While one group is being committed the next one gathers, so a lone caller never waits for company; whoever comes while
//! a group's operations still run comes along. In a group every operation sees what those before it did. When one must be
//! undone, because it failed or because it refused after having written, the whole group is undone and each of its
//! operations runs again in a transaction of its own: the others never notice. The changes of a group are numbered last,
//! from a row whose lock is held until the commit, so the log is in commit order and has no holes. What was committed is
//! handed to the [`Feed`], so that nobody who follows it here has to read it.

use crate::bulk::Bulk;
use crate::change::append;
use crate::change::feed::Feed;
use crate::error::{StoreError, is_full};
use crate::postgres::{self, Postgres};
use crate::sqlite::{self, now};
use crate::transaction::{NewChange, Operation, Session, Tx};
use futures_util::future::{BoxFuture, Either, FutureExt, join_all, select};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Operations in one transaction: more would make the first of them wait for the last.
pub(crate) const MAX_GROUP: usize = 256;
/// Operations that may wait; a full queue makes callers wait, which is the back-pressure.
const MAX_WAITING: usize = 4_096;
/// How long a caller waits for a place in the queue.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often an operation is tried that only met another server's at the wrong moment.
const MAX_TRIES: u32 = 5;

/// The way to the writer.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
}

impl Writer {
    /// Makes a writer and the work that its owner must run: on SQLite on a thread of its own, on PostgreSQL as a task.
    /// Both end when the last `Writer` is gone and everything queued is written.
    pub(crate) fn new(group: usize, feed: Arc<Feed>) -> (Self, Work) {
        let (queue, jobs) = mpsc::channel(MAX_WAITING);
        (Self { queue }, Work { jobs, group: group.clamp(1, MAX_GROUP), feed })
    }

    /// Tells whether there is somebody who writes.
    pub(crate) fn is_there(&self) -> bool {
        !self.queue.is_closed()
    }

    /// Runs one operation, and returns once it is on the disk. `placed` is called as soon as it has its place in the
    /// queue: whatever is queued from then on sees what it did, mostly in the same transaction.
    pub(crate) async fn run<O: Operation>(&self, operation: O, placed: impl FnOnce()) -> Result<O::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Ticket { operation, result: None, reply });
        match self.queue.send_timeout(job, PATIENCE).await {
            Ok(()) => {
                placed();
                answer.await.map_err(|_| StoreError::Unavailable { source: None })?
            }
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(StoreError::Busy),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(StoreError::Unavailable { source: None }),
        }
    }
}

/// An operation in the queue, whatever its type.
trait Job: Send {
    fn overlaps(&self) -> bool;
    /// Runs the operation and keeps its result; tells whether a group can go on with it.
    fn run<'t>(&'t mut self, tx: &'t Tx<'t>) -> BoxFuture<'t, Verdict>;
    /// Forgets what an earlier run came to, which another transaction saw.
    fn forget(&mut self);
    /// Returns what the operation itself said against it, when it was last run.
    fn error(&self) -> Option<&StoreError>;
    /// Hands the result to whoever asked; `failure` replaces it when the commit did not happen.
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

/// What an operation means for the group it ran in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Go on.
    Kept,
    /// The group must be undone.
    Undo,
}

struct Ticket<O: Operation> {
    operation: O,
    result: Option<Result<O::Answer, StoreError>>,
    reply: oneshot::Sender<Result<O::Answer, StoreError>>,
}

impl<O: Operation> Job for Ticket<O> {
    fn overlaps(&self) -> bool {
        O::OVERLAPS
    }

    fn run<'t>(&'t mut self, tx: &'t Tx<'t>) -> BoxFuture<'t, Verdict> {
        async move {
            let result = self.operation.run(tx).await;
            let undo = result.as_ref().is_err_and(|error| error.is_failure() || tx.wrote());
            self.result = Some(result);
            if undo { Verdict::Undo } else { Verdict::Kept }
        }
        .boxed()
    }

    fn forget(&mut self) {
        self.result = None;
    }

    fn error(&self) -> Option<&StoreError> {
        self.result.as_ref()?.as_ref().err()
    }

    fn answer(self: Box<Self>, failure: Option<StoreError>) {
        let result = match (failure, self.result) {
            (Some(failure), _) => Err(failure),
            (None, Some(result)) => result,
            (None, None) => Err(StoreError::Unavailable { source: None }),
        };
        // Whoever asked may have gone; what is written is written.
        drop(self.reply.send(result));
    }
}

/// The writer's side of the queue.
pub(crate) struct Work {
    jobs: mpsc::Receiver<Box<dyn Job>>,
    group: usize,
    feed: Arc<Feed>,
}

impl Work {
    /// Writes to SQLite until the queue is closed and empty, and returns the connection; blocks its thread.
    pub(crate) fn on_sqlite(mut self, connection: rusqlite::Connection) -> rusqlite::Connection {
        let connection = Mutex::new(connection);
        let session = Session::Sqlite(&connection);
        let mut group = Vec::with_capacity(self.group);
        while self.jobs.blocking_recv_many(&mut group, self.group) > 0 {
            now(self.write(session, std::mem::take(&mut group)));
        }
        connection.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to PostgreSQL until the queue is closed and empty.
    pub(crate) async fn on_postgres(mut self, database: Postgres) {
        let mut group = Vec::with_capacity(self.group);
        while self.jobs.recv_many(&mut group, self.group).await > 0 {
            let jobs = std::mem::take(&mut group);
            match connect(&database).await {
                Ok(client) => self.write(Session::Postgres(&client), jobs).await,
                Err(error) => {
                    tracing::error!(error = error.chain(), operations = jobs.len(), "cannot reach the database");
                    jobs.into_iter().for_each(|job| job.answer(Some(unavailable(&error))));
                }
            }
        }
    }

    /// Writes a group, as one transaction if that can be, else each operation in its own.
    async fn write(&mut self, session: Session<'_>, mut group: Vec<Box<dyn Job>>) {
        let Self { jobs, group: max, feed } = self;
        let written = attempt(session, &mut group, |group| join(jobs, group, *max)).await;
        metrics::histogram!("quarry_store_group_operations").record(group.len() as f64);
        match written {
            Ok(log) => {
                feed.take(log);
                group.into_iter().for_each(|job| job.answer(None));
            }
            // The database is not there: it would be there for none of them. What they came to meanwhile does not count,
            // for they saw each other's work, which is lost.
            Err(error @ StoreError::Unavailable { .. }) => {
                // Nobody knows whether a commit that was broken off has happened.
                feed.look();
                group.into_iter().for_each(|job| job.answer(Some(unavailable(&error))));
            }
            Err(_) => {
                for job in group {
                    alone(session, job).await;
                    feed.look();
                }
            }
        }
    }
}

/// Takes in what has come into the queue meanwhile, as far as there is room; tells whether there was anything.
fn join(jobs: &mut mpsc::Receiver<Box<dyn Job>>, group: &mut Vec<Box<dyn Job>>, max: usize) -> bool {
    let before = group.len();
    while group.len() < max
        && let Ok(job) = jobs.try_recv()
    {
        group.push(job);
    }
    group.len() > before
}

/// Returns the connection that writes, with a few tries: a database that restarts is back within seconds.
async fn connect(database: &Postgres) -> Result<deadpool_postgres::Object, StoreError> {
    const TRIES: u32 = 4;
    let mut pause = Duration::from_millis(100);
    for _ in 1..TRIES {
        match postgres::get(&database.writer).await {
            Ok(client) => return Ok(client),
            Err(error) => tracing::warn!(error = error.chain(), "the database does not answer; trying again"),
        }
        tokio::time::sleep(pause).await;
        pause *= 3;
    }
    postgres::get(&database.writer).await
}

/// Tells one of a group what all of them met, in words; that a disk is full stays more than a word.
fn unavailable(error: &StoreError) -> StoreError {
    let said = error.chain();
    let source = if is_full(error) { io::Error::new(io::ErrorKind::StorageFull, said).into() } else { said.into() };
    StoreError::Unavailable { source: Some(source) }
}

/// Writes one operation in a transaction of its own, again if it only met another server's at the wrong moment.
async fn alone(session: Session<'_>, job: Box<dyn Job>) {
    let mut group = vec![job];
    let mut failure = attempt(session, &mut group, |_| false).await.err();
    for _ in 1..MAX_TRIES {
        match &failure {
            Some(error) if group[0].error().unwrap_or(error).is_passing() => {}
            _ => break,
        }
        failure = attempt(session, &mut group, |_| false).await.err();
    }
    let job = group.remove(0);
    let failure = match (failure, job.error()) {
        // Its own word on why it was undone.
        (Some(_), Some(own)) if !own.is_passing() => None,
        (Some(_), Some(own)) => Some(unavailable(own)),
        (failure, _) => failure.map(|error| unavailable(&error)),
    };
    job.answer(failure);
}

/// What a group has added to the log.
pub(crate) struct Written {
    /// The number before the first change.
    pub(crate) before: u64,
    /// The changes, in their order.
    pub(crate) changes: Vec<NewChange>,
}

/// Runs a group, and those that come along, in one transaction. An error means that nothing of it is written.
async fn attempt(
    session: Session<'_>,
    group: &mut Vec<Box<dyn Job>>,
    more: impl FnMut(&mut Vec<Box<dyn Job>>) -> bool,
) -> Result<Written, StoreError> {
    group.iter_mut().for_each(|job| job.forget());
    let outcome = async {
        let changes = run(session, group, more).await?;
        let before = finish(session, &changes).await?;
        Ok(Written { before, changes })
    };
    let outcome = outcome.await;
    if outcome.is_err() {
        undo(session).await;
    }
    outcome
}

/// Begins the transaction and runs the group's operations in their order, and then those that have come meanwhile.
async fn run(
    session: Session<'_>,
    group: &mut Vec<Box<dyn Job>>,
    mut more: impl FnMut(&mut Vec<Box<dyn Job>>) -> bool,
) -> Result<Vec<NewChange>, StoreError> {
    let mut begin = match session {
        // Where statements are done when called, one that ran without a transaction would stay.
        Session::Sqlite(_) => {
            begin(session).await?;
            None
        }
        Session::Postgres(_) => Some(begin(session).boxed()),
    };
    let mut changes = Vec::with_capacity(group.len());
    let mut done = 0;
    while done < group.len() || more(group) {
        let rest = &mut group[done..];
        let together = match session {
            // Every statement is done when its call returns: there is nothing to share.
            Session::Sqlite(_) => 1,
            Session::Postgres(_) => rest.iter().take_while(|job| job.overlaps()).count().max(1),
        };
        let these = &mut rest[..together];
        done += together;
        let bulk = Bulk::default();
        let see = || if together > 1 { Tx::together(session, &bulk) } else { Tx::new(session) };
        let sees: Vec<Tx<'_>> = these.iter().map(|_| see()).collect();
        let work = work(session, &bulk, these.iter_mut().zip(&sees).map(|(job, tx)| job.run(tx)));
        // What begins the transaction is polled first, so its message goes first; the answers come back together.
        let (begun, verdicts) = match begin.take() {
            Some(begin) => futures_util::join!(begin, work),
            None => (Ok(()), work.await),
        };
        begun?;
        if verdicts.contains(&Verdict::Undo) {
            return Err(StoreError::Again);
        }
        changes.extend(sees.into_iter().flat_map(Tx::into_changes));
    }
    Ok(changes)
}

/// Runs operations side by side, and inserts the rows that they hand in together.
async fn work<'t>(
    session: Session<'_>,
    bulk: &Bulk,
    operations: impl Iterator<Item = BoxFuture<'t, Verdict>>,
) -> Vec<Verdict> {
    let work = join_all(operations);
    let Session::Postgres(client) = session else { return work.await };
    let serve = bulk.serve(client);
    futures_util::pin_mut!(work, serve);
    // The operations are polled first: what they hand in is then sent in the same turn.
    match select(work, serve).await {
        Either::Left((verdicts, _)) => verdicts,
        Either::Right(((), work)) => work.await,
    }
}

async fn begin(session: Session<'_>) -> Result<(), StoreError> {
    match session {
        Session::Sqlite(connection) => {
            let begun = sqlite::execute(&lock(connection), "BEGIN IMMEDIATE", &[]);
            begun.map(drop).map_err(|error| unavailable(&error))
        }
        Session::Postgres(client) => postgres::script(client, "BEGIN").await,
    }
}

/// Numbers the changes and commits; returns the number before the first.
async fn finish(session: Session<'_>, changes: &[NewChange]) -> Result<u64, StoreError> {
    match session {
        Session::Sqlite(connection) => {
            let connection = lock(connection);
            let before = append::on_sqlite(&connection, changes)?;
            sqlite::execute(&connection, "COMMIT", &[]).map(|_| before)
        }
        Session::Postgres(client) => {
            append::prepare(client).await?;
            let (appended, committed) =
                futures_util::join!(append::on_postgres(client, changes), postgres::script(client, "COMMIT"));
            // A commit after a failed statement undoes everything and does not complain: the statement did.
            appended.and_then(|before| committed.map(|()| before))
        }
    }
}

async fn undo(session: Session<'_>) {
    let undone = match session {
        Session::Sqlite(connection) => {
            let connection = lock(connection);
            if connection.is_autocommit() { Ok(()) } else { sqlite::execute(&connection, "ROLLBACK", &[]).map(drop) }
        }
        Session::Postgres(client) if client.is_closed() => Ok(()),
        Session::Postgres(client) => postgres::script(client, "ROLLBACK").await,
    };
    if let Err(error) = undone {
        tracing::error!(error = error.chain(), "a transaction could not be undone");
    }
}

fn lock(connection: &Mutex<rusqlite::Connection>) -> std::sync::MutexGuard<'_, rusqlite::Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}
