//! A fresh database for every test, on either engine, and the macro that makes one case a test on both.
//!
//! PostgreSQL is the server that `TEST_POSTGRES_URL` names; each test makes a database there and drops it. Without the
//! variable those tests pass, saying that they were skipped. Nothing here knows what is tested.
#![expect(clippy::print_stderr, reason = "whoever runs the tests must see what was skipped")]

use crate::sample::at;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use store::{Engine, Place, Store, StoreConfig, StoreError, random};
use tokio_util::task::TaskTracker;

/// Makes each case two tests: `sqlite::NAME` and `postgres::NAME`.
macro_rules! on_both_engines {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {$(
            #[test]
            fn $case() {
                crate::engine::run(store::Engine::Sqlite, super::$case);
            }
        )+}

        mod postgres {$(
            #[test]
            fn $case() {
                crate::engine::run(store::Engine::Postgres, super::$case);
            }
        )+}
    };
}
pub(crate) use on_both_engines;

/// How long one case may take; one that takes longer hangs.
const MAX_CASE: Duration = Duration::from_secs(100);
/// The same for a soak.
const MAX_SOAK: Duration = Duration::from_secs(1_800);

/// Tells whether the tests that are long by nature run at their full size.
pub(crate) fn soak() -> bool {
    std::env::var_os("QUARRY_SOAK").is_some()
}

/// Runs one case on a fresh database of an engine.
pub(crate) fn run(engine: Engine, case: impl AsyncFnOnce(&Fresh)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        let Some(fresh) = Fresh::new(engine).await else {
            eprintln!("skipped: TEST_POSTGRES_URL names no server (hint: scripts/with-postgres COMMAND)");
            return;
        };
        let limit = if soak() { MAX_SOAK } else { MAX_CASE };
        let ended = AssertUnwindSafe(tokio::time::timeout(limit, case(&fresh))).catch_unwind().await;
        fresh.remove().await;
        match ended {
            Ok(ended) => ended.expect("the case ends in its time"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
}

/// A database that only one test knows.
pub(crate) struct Fresh {
    folder: tempfile::TempDir,
    /// The server, the name and the address of the database, on PostgreSQL.
    database: Option<(String, String, String)>,
    tasks: TaskTracker,
}

impl Fresh {
    /// Makes a database, if there is a server for it.
    pub(crate) async fn new(engine: Engine) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut fresh = Self { folder, database: None, tasks: TaskTracker::new() };
        if engine == Engine::Postgres {
            let server = std::env::var("TEST_POSTGRES_URL").ok()?;
            let name = format!("it_{:x}", random() >> 64);
            fresh.connect(&server).await.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
            let (base, _) = server.rsplit_once('/').expect("an address ends in a database's name");
            let url = format!("{base}/{name}");
            fresh.database = Some((server, name, url));
        }
        Some(fresh)
    }

    /// Drops the database.
    pub(crate) async fn remove(self) {
        if let Some((server, name, _)) = &self.database {
            let drop = format!("DROP DATABASE {name} WITH (FORCE)");
            self.connect(server).await.batch_execute(&drop).await.expect("the database can be dropped");
        }
    }

    async fn connect(&self, url: &str) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("connects");
        self.tasks.spawn(connection);
        client
    }

    /// Returns which engine this is.
    pub(crate) const fn engine(&self) -> Engine {
        if self.database.is_some() { Engine::Postgres } else { Engine::Sqlite }
    }

    /// Returns where the database is.
    pub(crate) fn place(&self) -> Place {
        match &self.database {
            Some((_, _, url)) => Place::Postgres { url: url.clone(), readers: 4 },
            None => Place::Folder(self.folder.path().to_owned()),
        }
    }

    /// Returns the folder of the SQLite file.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Opens the database, which must succeed.
    pub(crate) async fn open(&self) -> Store {
        self.try_open().await.expect("the store opens")
    }

    /// Opens the database.
    pub(crate) async fn try_open(&self) -> Result<Store, StoreError> {
        Store::open(&StoreConfig::new(self.place()), at(0)).await
    }

    /// Opens two stores on the one database where the engine allows it, else the one store twice.
    pub(crate) async fn open_two(&self) -> [Store; 2] {
        let first = self.open().await;
        let second = if self.database.is_some() { self.open().await } else { first.clone() };
        [first, second]
    }

    /// Opens a connection past the store.
    pub(crate) async fn raw(&self) -> Raw {
        match &self.database {
            Some((_, _, url)) => Raw::Postgres(self.connect(url).await),
            None => {
                let path = self.folder.path().join("quarry.db");
                Raw::Sqlite(rusqlite::Connection::open(path).expect("the file opens"))
            }
        }
    }
}

/// A connection past the store, to see what really stands in the tables.
pub(crate) enum Raw {
    Sqlite(rusqlite::Connection),
    Postgres(tokio_postgres::Client),
}

impl Raw {
    /// Runs statements that answer nothing.
    pub(crate) async fn script(&self, sql: &str) {
        match self {
            Self::Sqlite(connection) => connection.execute_batch(sql).expect("the script runs"),
            Self::Postgres(client) => client.batch_execute(sql).await.expect("the script runs"),
        }
    }

    /// Reads rows, every value as text and nothing as an empty one.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<Vec<String>> {
        match self {
            Self::Sqlite(connection) => {
                let mut statement = connection.prepare(sql).expect("prepares");
                let columns = statement.column_count();
                let text = |row: &rusqlite::Row<'_>, index| match row.get_ref(index)? {
                    rusqlite::types::ValueRef::Null => Ok(String::new()),
                    rusqlite::types::ValueRef::Integer(number) => Ok(number.to_string()),
                    rusqlite::types::ValueRef::Blob(bytes) => Ok(format!("{bytes:?}")),
                    other => other.as_str().map(str::to_owned).map_err(rusqlite::Error::from),
                };
                let rows = statement.query_map([], |row| (0..columns).map(|index| text(row, index)).collect());
                rows.expect("queries").collect::<Result<_, _>>().expect("reads")
            }
            Self::Postgres(client) => {
                let messages = client.simple_query(sql).await.expect("queries");
                let row = |message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => {
                        Some((0..row.len()).map(|index| row.get(index).unwrap_or_default().to_owned()).collect())
                    }
                    _ => None,
                };
                messages.into_iter().filter_map(row).collect()
            }
        }
    }

    /// Reads one number.
    pub(crate) async fn number(&self, sql: &str) -> u64 {
        self.texts(sql).await[0][0].parse().expect("a number")
    }

    /// Takes the database away from every writer until [`Raw::release`].
    pub(crate) async fn seize(&self) {
        match self {
            Self::Sqlite(_) => self.script("BEGIN IMMEDIATE").await,
            Self::Postgres(_) => self.script("BEGIN; LOCK TABLE execution IN ACCESS EXCLUSIVE MODE").await,
        }
    }

    /// Gives it back.
    pub(crate) async fn release(&self) {
        self.script("ROLLBACK").await;
    }
}
