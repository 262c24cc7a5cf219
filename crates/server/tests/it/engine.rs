//! A fresh place for every test, on either engine, and the macros that make one case a test on one or both.
//!
//! PostgreSQL is the server that `TEST_POSTGRES_URL` names; each test makes a database there and drops it. Without the
//! variable those tests pass, saying that they were skipped. Nothing here knows what is tested.
#![expect(clippy::print_stderr, reason = "whoever runs the tests must see what was skipped")]

use futures_util::FutureExt;
use server::config::{Config, Database, Secret};
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use store::random;
use tokio_util::task::TaskTracker;

/// Makes each case two tests: `sqlite::NAME` and `postgres::NAME`.
macro_rules! on_both_engines {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {$(
            #[test]
            fn $case() {
                crate::engine::run(crate::engine::Engine::Sqlite, super::$case);
            }
        )+}

        mod postgres {$(
            #[test]
            fn $case() {
                crate::engine::run(crate::engine::Engine::Postgres, super::$case);
            }
        )+}
    };
}
pub(crate) use on_both_engines;

/// Makes each case, to which the engine is all one, a test on SQLite.
macro_rules! on_sqlite {
    ($($case:ident),+ $(,)?) => {
        mod sqlite_only {$(
            #[test]
            fn $case() {
                crate::engine::run(crate::engine::Engine::Sqlite, super::$case);
            }
        )+}
    };
}
pub(crate) use on_sqlite;

/// Makes each case, which needs two servers on one database, a test on PostgreSQL.
macro_rules! on_postgres {
    ($($case:ident),+ $(,)?) => {
        mod postgres_only {$(
            #[test]
            fn $case() {
                crate::engine::run(crate::engine::Engine::Postgres, super::$case);
            }
        )+}
    };
}
pub(crate) use on_postgres;

/// How long one case may take; one that takes longer hangs.
const MAX_CASE: Duration = Duration::from_secs(100);
/// The same for a soak.
const MAX_SOAK: Duration = Duration::from_secs(1_800);

/// Which database is behind the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// Tells whether the tests that are long by nature run at their full size.
pub(crate) fn soak() -> bool {
    std::env::var_os("QUARRY_SOAK").is_some()
}

/// Runs one case on a fresh place.
pub(crate) fn run(engine: Engine, case: impl AsyncFnOnce(&Place)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        let Some(place) = Place::new(engine).await else {
            eprintln!("skipped: TEST_POSTGRES_URL names no server (hint: scripts/with-postgres COMMAND)");
            return;
        };
        let limit = if soak() { MAX_SOAK } else { MAX_CASE };
        let ended = AssertUnwindSafe(tokio::time::timeout(limit, case(&place))).catch_unwind().await;
        place.remove().await;
        match ended {
            Ok(ended) => ended.expect("the case ends in its time"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
}

/// A folder, and a database, that only one test knows.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    /// The server, the name and the address of the database, on PostgreSQL.
    database: Option<(String, String, String)>,
    tasks: TaskTracker,
}

impl Place {
    async fn new(engine: Engine) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut place = Self { folder, database: None, tasks: TaskTracker::new() };
        if engine == Engine::Postgres {
            let server = std::env::var("TEST_POSTGRES_URL").ok()?;
            let name = format!("server_{:x}", random() >> 64);
            place.script(&server, &format!("CREATE DATABASE {name}")).await;
            let (base, _) = server.rsplit_once('/').expect("an address ends in a database's name");
            let url = format!("{base}/{name}");
            place.database = Some((server, name, url));
        }
        Some(place)
    }

    async fn remove(self) {
        if let Some((server, name, _)) = &self.database {
            self.script(server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
        }
    }

    async fn script(&self, url: &str, sql: &str) {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("connects");
        self.tasks.spawn(connection);
        client.batch_execute(sql).await.expect("the script runs");
    }

    /// Returns the folder.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Returns a configuration that keeps everything here, listens on a free port and limits nobody's rate.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::default();
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.server.data = self.folder.path().to_owned();
        config.rate.per_second = 0.0;
        config.rate.anonymous_per_second = 0.0;
        if let Some((_, _, url)) = &self.database {
            config.store.database = Database::Postgres(Secret::new(url.clone()));
            config.store.pool_size = 4;
        }
        config
    }
}
