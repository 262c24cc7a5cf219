//! The store: one contract over two databases. A method is one operation and one transaction, its noun first in its name.

use crate::change::feed::Feed;
use crate::change::retention::{FloorRaise, Retained, SegmentClose, SegmentForget, SliceDelete};
use crate::change::{self, Bounds, ChangeFilter, ChangePage, Follower, LogBounds, Retention};
use crate::content::{BlobCreate, BlobGet, BlobList};
use crate::database::Database;
use crate::error::StoreError;
use crate::execution::claim::SessionLose;
use crate::execution::claim::Turns;
use crate::execution::{
    ExecutionCancel, ExecutionCreate, ExecutionEnd, ExecutionFinish, ExecutionGet, ExecutionList, ExecutionsWaiting,
};
use crate::migration;
use crate::postgres::Postgres;
use crate::sqlite::{self, Readers, Synchronous};
use crate::statement::Engine;
use crate::tenant::{HouseOpen, TenantCreate, TenantGet, TenantKey, TenantList, TenantUpdate};
use crate::token::{Bearer, BearerGet, TokenCreate, TokenGet, TokenList, TokenRevoke, TokenRow, TokenUse};
use crate::transaction::Operation;
use crate::user::{UserCreate, UserGet, UserKey, UserList, UserUpdate};
use crate::writer::{MAX_GROUP, Writer};
use jiff::Timestamp;
use model::{
    Blob, Digest, Execution, ExecutionId, ExecutionQuery, NewExecution, NewTenant, NewUser, Origin, SessionId, Tenant,
    TenantChange, TenantId, Token, TokenId, User, UserChange, UserId,
};
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where the store is, and how it writes.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Which database.
    pub place: Place,
    /// How surely a commit is on the disk; PostgreSQL decides this for itself.
    pub synchronous: Synchronous,
    /// Operations in one transaction; 1 gives each its own.
    pub group: usize,
}

impl StoreConfig {
    /// Returns the usual configuration of a place.
    pub const fn new(place: Place) -> Self {
        Self { place, synchronous: Synchronous::Full, group: MAX_GROUP }
    }
}

/// Which database.
#[derive(Clone)]
pub enum Place {
    /// A SQLite file in this folder, which this process then has to itself.
    Folder(PathBuf),
    /// A PostgreSQL database at this address.
    Postgres {
        /// The address, with its password.
        url: String,
        /// Connections that read.
        readers: usize,
    },
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => f.debug_tuple("Folder").field(folder).finish(),
            // The address may hold a password.
            Self::Postgres { readers, .. } => {
                f.debug_struct("Postgres").field("readers", readers).finish_non_exhaustive()
            }
        }
    }
}

/// The store. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    writer: Mutex<Option<Writer>>,
    feed: Arc<Feed>,
    tasks: TaskTracker,
    stop: CancellationToken,
    turns: Arc<Turns>,
    /// The writer's thread on SQLite; it ends with its connection and the lock on the folder in hand.
    thread: Mutex<Option<std::thread::JoinHandle<(rusqlite::Connection, File)>>>,
}

/// A store that was dropped rather than closed still writes what waits, but follows the log no more.
impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("engine", &self.engine()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database, brings its schema up to date and starts the writer and the feed.
    pub async fn open(config: &StoreConfig, now: Timestamp) -> Result<Self, StoreError> {
        let stop = CancellationToken::new();
        let feed = Arc::new(Feed::new(matches!(config.place, Place::Postgres { .. }), stop.clone()));
        let (writer, work) = Writer::new(config.group, Arc::clone(&feed));
        let tasks = TaskTracker::new();
        let (database, thread) = match &config.place {
            Place::Folder(folder) => {
                let lock = lock(folder)?;
                let path = folder.join("quarry.db");
                let (file, synchronous) = (path.clone(), config.synchronous);
                // It may take long, and whoever waits for it must be able to do something else.
                let open = move || {
                    let mut connection = sqlite::writer(&file, synchronous)?;
                    migration::on_sqlite(&mut connection, now)?;
                    Ok::<_, StoreError>(connection)
                };
                let opened = tokio::task::spawn_blocking(open).await;
                let connection = opened.map_err(|source| StoreError::Unavailable { source: Some(source.into()) })??;
                let thread = std::thread::Builder::new()
                    .name("store-writer".to_owned())
                    // The folder is ours for as long as anything may be written there.
                    .spawn(move || (work.on_sqlite(connection), lock))
                    .map_err(|source| StoreError::File {
                        doing: "starting the writer",
                        path: path.display().to_string(),
                        source,
                    })?;
                (Database::Sqlite(Readers::new(&path)), Some(thread))
            }
            Place::Postgres { url, readers } => {
                let postgres = Postgres::open(url, *readers).await?;
                migration::on_postgres(&postgres, now).await?;
                tasks.spawn(work.on_postgres(postgres.clone()));
                (Database::Postgres(Box::new(postgres)), None)
            }
        };
        tasks.spawn({
            let (feed, database) = (Arc::clone(&feed), database.clone());
            async move { feed.run(&database).await }
        });
        tasks.close();
        let (writer, thread) = (Mutex::new(Some(writer)), Mutex::new(thread));
        let turns = Arc::default();
        Ok(Self { inner: Arc::new(Inner { database, writer, feed, tasks, stop, turns, thread }) })
    }

    /// Takes nothing more in, writes what waits, and lets go of the database.
    pub async fn close(&self) {
        drop(self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.inner.stop.cancel();
        self.inner.tasks.wait().await;
        self.inner.database.close().await;
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The connection that writes goes last: as it goes, it carries the write-ahead log over into the file.
            let ended = tokio::task::spawn_blocking(move || {
                let (connection, lock) = thread.join().map_err(|_| "the store's writer did not end in order")?;
                let closed =
                    connection.close().map_err(|_| "the database did not close cleanly; the next start mends it");
                drop(lock);
                closed
            });
            match ended.await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => tracing::error!(why, "the store is closed, but not as it should be"),
                Err(error) => tracing::error!(%error, "the store is closed, but not as it should be"),
            }
        }
    }

    /// Returns whose turn it is among needs of which there are very many.
    pub(crate) fn turns(&self) -> Arc<Turns> {
        Arc::clone(&self.inner.turns)
    }

    /// Returns which engine is behind the store.
    pub fn engine(&self) -> Engine {
        self.inner.database.engine()
    }

    pub(crate) async fn write<O: Operation>(&self, operation: O) -> Result<O::Answer, StoreError> {
        self.write_noting(operation, || {}).await
    }

    /// Writes, and says when the operation has its place: whatever is written from then on sees what it did.
    pub(crate) async fn write_noting<O: Operation>(
        &self,
        operation: O,
        placed: impl FnOnce(),
    ) -> Result<O::Answer, StoreError> {
        let writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        writer.ok_or(StoreError::Unavailable { source: None })?.run(operation, placed).await
    }

    pub(crate) async fn read<O: Operation>(&self, operation: O) -> Result<O::Answer, StoreError> {
        self.inner.database.read(operation).await
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.database
    }

    /// Has the feed look at the log, which something other than the writer has moved.
    pub(crate) fn ring(&self) {
        self.inner.feed.look();
    }

    /// Makes sure that the database answers, and that there is still somebody who writes to it.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.read(LogBounds).await?;
        let writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match writer.as_ref().is_some_and(Writer::is_there) {
            true => Ok(()),
            false => Err(StoreError::Unavailable { source: Some("the store's writer has ended".into()) }),
        }
    }

    // -- the log --

    /// Returns the ends of the log.
    pub async fn log_bounds(&self) -> Result<Bounds, StoreError> {
        self.read(LogBounds).await
    }

    /// Looks at the log after a cursor.
    pub async fn log_page(&self, after: u64, filter: &ChangeFilter, limit: usize) -> Result<ChangePage, StoreError> {
        change::page(&self.inner.database, after, filter, limit).await
    }

    /// Returns a reader that waits for what comes after a cursor.
    pub fn log_follow(&self, after: u64, filter: ChangeFilter) -> Follower {
        Follower::new(&self.inner.feed, &self.inner.database, after, filter)
    }

    /// Drops what is too old or too much from the old end of the log.
    pub async fn log_retain(&self, retention: Retention, now: Timestamp) -> Result<Retained, StoreError> {
        let closed = self.write(SegmentClose { retention, now }).await?;
        let Some(below) = self.write(FloorRaise { retention, now }).await? else {
            return Ok(Retained { segments: 0, more: closed });
        };
        if self.engine() == Engine::Sqlite {
            while self.write(SliceDelete { seq: below.seq }).await? {}
        }
        self.write(SegmentForget { segment: below.segment }).await?;
        Ok(Retained { segments: below.segments, more: closed })
    }

    // -- executions --

    /// Accepts an execution; tells whether it is new.
    pub async fn execution_create(
        &self,
        new: &NewExecution,
        tenant: TenantId,
        origin: Origin,
        by: &str,
        at: Timestamp,
    ) -> Result<(Arc<Execution>, bool), StoreError> {
        self.write(ExecutionCreate::new(new, tenant, origin, by, at)).await
    }

    /// Accepts an execution that was asked for by hand; tells whether it is new. `placed` is called as soon as it is in
    /// the queue of what is written: a node that asks from then on is given it, mostly in the same transaction.
    pub async fn execution_accept(
        &self,
        new: &NewExecution,
        tenant: TenantId,
        (by, at): (&str, Timestamp),
        placed: impl FnOnce(),
    ) -> Result<(Arc<Execution>, bool), StoreError> {
        self.write_noting(ExecutionCreate::new(new, tenant, Origin::default(), by, at), placed).await
    }

    /// Returns one execution; of any tenant, if none is named.
    pub async fn execution_get(&self, id: ExecutionId, tenant: Option<TenantId>) -> Result<Execution, StoreError> {
        self.read(ExecutionGet { id, tenant }).await
    }

    /// Lists a tenant's executions, newest first, with the log's head at that moment.
    pub async fn execution_list(
        &self,
        tenant: TenantId,
        query: &ExecutionQuery,
        limit: u32,
    ) -> Result<(Vec<Execution>, u64), StoreError> {
        self.read(ExecutionList { tenant, state: query.state, after: query.after, limit }).await
    }

    /// Stops an execution, or has its node stop it.
    pub async fn execution_cancel(
        &self,
        id: ExecutionId,
        tenant: Option<TenantId>,
        by: &str,
        at: Timestamp,
    ) -> Result<Execution, StoreError> {
        self.write(ExecutionCancel { id, tenant, by: by.to_owned(), at }).await
    }

    /// Records the end of an attempt, once.
    pub async fn execution_finish(&self, end: ExecutionEnd, by: &str, at: Timestamp) -> Result<Execution, StoreError> {
        self.write(ExecutionFinish { end, at, by: by.to_owned() }).await
    }

    /// Gives back all that a lost session held.
    pub async fn session_lose(
        &self,
        session: SessionId,
        by: &str,
        at: Timestamp,
    ) -> Result<Vec<Execution>, StoreError> {
        self.write(SessionLose { session, at, by: by.to_owned() }).await
    }

    /// Counts the executions that a node could take now, up to ten thousand.
    pub async fn executions_waiting(&self) -> Result<u64, StoreError> {
        self.read(ExecutionsWaiting).await
    }

    // -- tenants, users, tokens --

    /// Makes the house's own tenant, its first admin and their token, if nothing was ever made here.
    pub async fn house_open(&self, tenant: Tenant, admin: User, token: TokenRow) -> Result<bool, StoreError> {
        self.write(HouseOpen { tenant, admin, token }).await
    }

    /// Makes a tenant; tells whether it is new.
    pub async fn tenant_create(&self, new: NewTenant, by: &str, at: Timestamp) -> Result<(Tenant, bool), StoreError> {
        self.write(TenantCreate { new, by: by.to_owned(), at }).await
    }

    /// Returns one tenant.
    pub async fn tenant_get(&self, key: TenantKey) -> Result<Tenant, StoreError> {
        self.read(TenantGet { key }).await
    }

    /// Lists tenants, with the log's head at that moment.
    pub async fn tenant_list(&self, after: Option<TenantId>, limit: u32) -> Result<(Vec<Tenant>, u64), StoreError> {
        self.read(TenantList { after, limit }).await
    }

    /// Makes a user; tells whether they are new.
    pub async fn user_create(
        &self,
        new: NewUser,
        tenant: TenantId,
        by: &str,
        at: Timestamp,
    ) -> Result<(User, bool), StoreError> {
        self.write(UserCreate { new, tenant, by: by.to_owned(), at }).await
    }

    /// Returns one user of a tenant.
    pub async fn user_get(&self, key: UserKey, tenant: TenantId) -> Result<User, StoreError> {
        self.read(UserGet { key, tenant }).await
    }

    /// Lists a tenant's users, with the log's head at that moment.
    pub async fn user_list(
        &self,
        tenant: TenantId,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<(Vec<User>, u64), StoreError> {
        self.read(UserList { tenant, after, limit }).await
    }

    /// Changes a user's role or state.
    pub async fn user_update(
        &self,
        id: UserId,
        tenant: TenantId,
        change: UserChange,
        by: &str,
        at: Timestamp,
    ) -> Result<User, StoreError> {
        self.write(UserUpdate { id, tenant, change, by: by.to_owned(), at }).await
    }

    /// Changes what holds for a tenant.
    pub async fn tenant_update(
        &self,
        id: TenantId,
        change: TenantChange,
        by: &str,
        at: Timestamp,
    ) -> Result<Tenant, StoreError> {
        self.write(TenantUpdate { id, change, by: by.to_owned(), at }).await
    }

    /// Makes a token.
    pub async fn token_create(&self, row: TokenRow, by: &str) -> Result<Token, StoreError> {
        self.write(TokenCreate { row, by: by.to_owned() }).await
    }

    /// Returns what must be known of whoever shows a token.
    pub async fn token_bearer(&self, id: TokenId) -> Result<Option<Bearer>, StoreError> {
        self.read(BearerGet { id }).await
    }

    /// Returns one token of a tenant, or of one user of it.
    pub async fn token_get(&self, id: TokenId, tenant: TenantId, user: Option<UserId>) -> Result<Token, StoreError> {
        self.read(TokenGet { id, tenant, user }).await
    }

    /// Lists a tenant's tokens, or one user's, with the log's head at that moment.
    pub async fn token_list(
        &self,
        tenant: TenantId,
        user: Option<UserId>,
        after: Option<TokenId>,
        limit: u32,
    ) -> Result<(Vec<Token>, u64), StoreError> {
        self.read(TokenList { tenant, user, after, limit }).await
    }

    /// Revokes a token of a tenant, or of one user of it.
    pub async fn token_revoke(
        &self,
        id: TokenId,
        tenant: TenantId,
        user: Option<UserId>,
        by: &str,
        at: Timestamp,
    ) -> Result<Token, StoreError> {
        self.write(TokenRevoke { get: TokenGet { id, tenant, user }, by: by.to_owned(), at }).await
    }

    /// Notes that a token was used.
    pub async fn token_use(&self, id: TokenId, at: Timestamp) -> Result<(), StoreError> {
        self.write(TokenUse { id, at }).await
    }

    // -- blobs --

    /// Notes that a tenant has some content, and what for; tells whether it is new.
    pub async fn blob_create(&self, blob: Blob, tenant: TenantId, by: &str) -> Result<(Blob, bool), StoreError> {
        self.write(BlobCreate { blob, tenant, by: by.to_owned() }).await
    }

    /// Returns what is known of a tenant's content.
    pub async fn blob_get(&self, digest: Digest, tenant: TenantId) -> Result<Blob, StoreError> {
        self.read(BlobGet { digest, tenant }).await
    }

    /// Lists a tenant's content, with the log's head at that moment.
    pub async fn blob_list(
        &self,
        tenant: TenantId,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<(Vec<Blob>, u64), StoreError> {
        self.read(BlobList { tenant, after, limit }).await
    }
}

/// Makes the folder if need be, and takes it for this process alone: two writers of one file would ruin its log.
fn lock(folder: &std::path::Path) -> Result<File, StoreError> {
    let failed = |doing, source| StoreError::File { doing, path: folder.display().to_string(), source };
    // What is kept is for the server alone: hashes of tokens, inputs, contents.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| failed("making the folder", source))?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))
        .map_err(|source| failed("opening its lock", source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Locked { folder: folder.display().to_string() }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed("locking it", source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::Tx;

    struct Panics;

    impl Operation for Panics {
        type Answer = ();

        async fn run(&self, _: &Tx<'_>) -> Result<(), StoreError> {
            panic!("as asked")
        }
    }

    #[tokio::test]
    async fn a_store_whose_writer_is_gone_does_not_answer() {
        let folder = tempfile::tempdir().expect("is made");
        let config = StoreConfig::new(Place::Folder(folder.path().to_owned()));
        let store = Store::open(&config, Timestamp::UNIX_EPOCH).await.expect("opens");
        store.ping().await.expect("answers");
        assert!(store.write(Panics).await.is_err());
        // Whoever asked hears of it a moment before the thread has ended.
        let told = loop {
            match store.ping().await {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        };
        assert!(matches!(told, StoreError::Unavailable { .. }), "{told}");
        store.close().await;
    }
}
