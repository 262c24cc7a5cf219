//! Migrations: the schema's history. They only add, and none is ever edited once it has been released.
//!
//! One text serves both engines; `{text}`, `{bytes}`, `{clustered}` and `{now}` stand for what they spell differently. The log's table
//! is the one thing that differs in shape: on PostgreSQL its segments are partitions.

mod step;

use crate::error::StoreError;
use crate::postgres::{self, Postgres};
use crate::sqlite;
use crate::statement::Engine;
use crate::store::Place;
use jiff::Timestamp;
use rusqlite::Connection;
use std::pin::pin;
use step::{Progress, statements};

struct Migration {
    version: i64,
    name: &'static str,
    both: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

impl Migration {
    /// Returns one that is the same on both engines.
    const fn shared(version: i64, name: &'static str, both: &'static str) -> Self {
        Self { version, name, both, sqlite: "", postgres: "" }
    }

    /// Returns it with what each engine has besides.
    const fn besides(self, sqlite: &'static str, postgres: &'static str) -> Self {
        Self { sqlite, postgres, ..self }
    }

    /// Returns its text for an engine.
    fn text(&self, engine: Engine, now: Timestamp) -> String {
        let own = match engine {
            Engine::Sqlite => self.sqlite,
            Engine::Postgres => self.postgres,
        };
        render(&format!("{}\n{own}\n", self.both), engine, now)
    }
}

/// What is still to be done: of each migration its text for the engine.
struct Pending {
    all: Vec<(&'static Migration, String)>,
    progress: Progress,
}

impl Pending {
    fn new(found: i64, engine: Engine, now: Timestamp) -> Result<Self, StoreError> {
        let all: Vec<_> = pending(found)?.iter().map(|migration| (migration, migration.text(engine, now))).collect();
        let steps = all.iter().map(|(_, text)| statements(text).len()).sum();
        Ok(Self { all, progress: Progress::new(found, newest(), steps) })
    }
}

/// The schema's history, oldest first.
const MIGRATIONS: &[Migration] = &[
    GROUND,
    Migration::shared(2, "nodes", include_str!("migration/0002_nodes.sql")),
    Migration::shared(3, "layers", include_str!("migration/0003_layers.sql")),
    Migration::shared(4, "retention", include_str!("migration/0004_retention.sql")),
    Migration::shared(5, "dumps", include_str!("migration/0005_dumps.sql")),
    Migration::shared(6, "dump questions", include_str!("migration/0006_dump_questions.sql")),
    Migration::shared(7, "analyses", include_str!("migration/0007_analyses.sql")),
    Migration::shared(8, "signatures", include_str!("migration/0008_signatures.sql")),
    Migration::shared(9, "packs", include_str!("migration/0009_packs.sql")),
    Migration::shared(10, "analyses again", include_str!("migration/0010_analyses_again.sql")),
    Migration::shared(11, "analyzers", include_str!("migration/0011_analyzers.sql")),
    Migration::shared(12, "dump counts", include_str!("migration/0012_dump_counts.sql")).besides(
        include_str!("migration/0012_dump_counts.sqlite.sql"),
        include_str!("migration/0012_dump_counts.postgres.sql"),
    ),
    Migration::shared(13, "dump properties", include_str!("migration/0013_dump_properties.sql")).besides(
        include_str!("migration/0013_dump_properties.sqlite.sql"),
        include_str!("migration/0013_dump_properties.postgres.sql"),
    ),
    Migration::shared(14, "pack uses", include_str!("migration/0014_pack_uses.sql")),
    Migration::shared(15, "runtimes of tenants", "ALTER TABLE tenant ADD COLUMN runtime {text};"),
    Migration::shared(16, "dump texts", include_str!("migration/0016_dump_texts.sql")).besides(
        "",
        // A change of what no index has can then stay beside its row, and the indexes need not hear of it. What is known of
        // the texts' beginnings is otherwise only found out when many dumps have changed.
        "ALTER TABLE dump SET (fillfactor = 90);
            DO $$ BEGIN IF EXISTS (SELECT 1 FROM dump) THEN ANALYZE dump; END IF; END $$;",
    ),
    Migration::shared(17, "dump reports", include_str!("migration/0017_dump_reports.sql")),
    Migration::shared(18, "removals", include_str!("migration/0018_removals.sql")),
    Migration::shared(19, "pack digests", include_str!("migration/0019_pack_digests.sql")),
    Migration::shared(20, "signature decisions", include_str!("migration/0020_signature_decisions.sql")),
];

const GROUND: Migration = Migration {
    version: 1,
    name: "ground",
    both: include_str!("migration/0001_ground.sql"),
    sqlite: "CREATE TABLE change (
        seq integer PRIMARY KEY, segment integer NOT NULL, at integer NOT NULL, tenant text NOT NULL,
        noun text NOT NULL, id text NOT NULL, state text NOT NULL, moved_by text NOT NULL, body text NOT NULL
    );",
    postgres: "CREATE TABLE change (
        seq bigint NOT NULL, segment bigint NOT NULL, at bigint NOT NULL, tenant {text} NOT NULL,
        noun {text} NOT NULL, id {text} NOT NULL, state {text} NOT NULL, moved_by {text} NOT NULL,
        body {text} NOT NULL, PRIMARY KEY (seq, segment)
    ) PARTITION BY LIST (segment);
    CREATE TABLE change_1 PARTITION OF change FOR VALUES IN (1);
    CREATE TABLE change_2 PARTITION OF change FOR VALUES IN (2);",
};

/// What is being done, for errors.
const DOING: &str = "migrating";

/// A name for the lock under which one server at a time migrates.
const LOCK: i64 = 0x0071_7561_7272_7931;

const HISTORY: &str =
    "CREATE TABLE IF NOT EXISTS migration (version bigint PRIMARY KEY, name text NOT NULL, at bigint NOT NULL)";

/// Returns the newest schema that this program knows.
pub(crate) fn newest() -> i64 {
    MIGRATIONS.last().map_or(0, |migration| migration.version)
}

/// A database's schema, as it stands and as this program would have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The engine and its version.
    pub engine: String,
    /// The schema's version; 0 if there is none yet.
    pub found: i64,
    /// The newest version that this program knows.
    pub known: i64,
}

impl Schema {
    /// Looks at a database and changes nothing; a SQLite file that is not there yet has schema 0.
    pub async fn look(place: &Place) -> Result<Self, StoreError> {
        const FOUND: &str = "SELECT max(version) FROM migration";
        const IS_THERE: &str = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'migration'";
        match place {
            Place::Folder(folder) => {
                let engine = format!("SQLite {}", rusqlite::version());
                let path = folder.join("quarry.db");
                let known = newest();
                if !path.exists() {
                    return Ok(Self { engine, found: 0, known });
                }
                let connection = sqlite::reader(&path)?;
                if sqlite::rows(&connection, IS_THERE, &[])?.first().map_or(Ok(0), |row| row.count(0))? == 0 {
                    return Ok(Self { engine, found: 0, known });
                }
                let rows = sqlite::rows(&connection, FOUND, &[])?;
                let found = rows.first().map(|row| row.maybe_int(0)).transpose()?.flatten().unwrap_or(0);
                Ok(Self { engine, found, known })
            }
            Place::Postgres { url, .. } => {
                const ABOUT: &str = "SELECT current_setting('server_version'), \
                    cast(to_regclass('migration') IS NOT NULL AS text)";
                let client = Postgres::open(url, 1).await?.client().await?;
                let about = postgres::rows(&client, ABOUT, &[]).await?;
                let about = about.first().ok_or(StoreError::Broken { column: 0, why: "is missing: no version" })?;
                let mut found = 0;
                if about.text(1)? == "true" {
                    let rows = postgres::rows(&client, FOUND, &[]).await?;
                    found = rows.first().map(|row| row.maybe_int(0)).transpose()?.flatten().unwrap_or(0);
                }
                Ok(Self { engine: format!("PostgreSQL {}", about.text(0)?), found, known: newest() })
            }
        }
    }
}

fn render(text: &str, engine: Engine, now: Timestamp) -> String {
    let (word, bytes, clustered) = match engine {
        // A table kept in the order of its key needs no second tree for the key.
        Engine::Sqlite => ("text", "blob", " WITHOUT ROWID"),
        // Ids and names sort by their bytes on both engines, whatever the database's language.
        Engine::Postgres => ("text COLLATE \"C\"", "bytea", ""),
    };
    text.replace("{text}", word)
        .replace("{bytes}", bytes)
        .replace("{clustered}", clustered)
        .replace("{now}", &now.as_microsecond().to_string())
}

fn pending(found: i64) -> Result<&'static [Migration], StoreError> {
    let known = newest();
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    Ok(&MIGRATIONS[MIGRATIONS.iter().take_while(|migration| migration.version <= found).count()..])
}

fn record(migration: &Migration, now: Timestamp) -> String {
    let Migration { version, name, .. } = migration;
    format!("INSERT INTO migration (version, name, at) VALUES ({version}, '{name}', {})", now.as_microsecond())
}

/// Brings a SQLite file up to date; returns the versions it applied.
pub(crate) fn on_sqlite(connection: &mut Connection, now: Timestamp) -> Result<Vec<i64>, StoreError> {
    sqlite::script(connection, "BEGIN IMMEDIATE", DOING)?;
    let applied = apply(connection, now);
    sqlite::script(connection, if applied.is_ok() { "COMMIT" } else { "ROLLBACK" }, DOING)?;
    applied
}

fn apply(connection: &mut Connection, now: Timestamp) -> Result<Vec<i64>, StoreError> {
    sqlite::script(connection, HISTORY, DOING)?;
    let rows = sqlite::rows(connection, "SELECT max(version) FROM migration", &[])?;
    let found = rows.first().map(|row| row.maybe_int(0)).transpose()?.flatten().unwrap_or(0);
    let Pending { all, mut progress } = Pending::new(found, Engine::Sqlite, now)?;
    let mut applied = Vec::new();
    for (migration, text) in all {
        for statement in statements(&text) {
            progress.step(migration.name);
            let meanwhile = progress.clone();
            sqlite::step(connection, statement, DOING, move || meanwhile.tick())?;
            progress.tick();
        }
        sqlite::script(connection, &record(migration, now), DOING)?;
        applied.push(migration.version);
    }
    progress.end();
    Ok(applied)
}

/// Brings a PostgreSQL database up to date; returns the versions it applied. Servers that start together take turns.
pub(crate) async fn on_postgres(database: &Postgres, now: Timestamp) -> Result<Vec<i64>, StoreError> {
    let client = postgres::get(&database.writer).await?;
    postgres::script(&client, "BEGIN").await?;
    let work = async {
        postgres::script(&client, &format!("SELECT pg_advisory_xact_lock({LOCK})")).await?;
        postgres::script(&client, HISTORY).await?;
        let rows = postgres::rows(&client, "SELECT max(version) FROM migration", &[]).await?;
        let found = rows.first().map(|row| row.maybe_int(0)).transpose()?.flatten().unwrap_or(0);
        let Pending { all, mut progress } = Pending::new(found, Engine::Postgres, now)?;
        let mut applied = Vec::new();
        for (migration, text) in all {
            for statement in statements(&text) {
                progress.step(migration.name);
                let mut work = pin!(postgres::script(&client, statement));
                loop {
                    match tokio::time::timeout(Progress::pause(), &mut work).await {
                        Ok(done) => break done?,
                        Err(_) => progress.tick(),
                    }
                }
                progress.tick();
            }
            postgres::script(&client, &record(migration, now)).await?;
            applied.push(migration.version);
        }
        progress.end();
        Ok(applied)
    };
    let applied = work.await;
    postgres::script(&client, if applied.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    applied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(connection: &Connection) -> Vec<(String, String)> {
        let asked = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name";
        let mut statement = connection.prepare(asked).expect("is understood");
        let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("is asked");
        found.collect::<Result<_, _>>().expect("is read")
    }

    /// The schema that `quarry` had before it kept count of dumps, with one in it, becomes the one that is made anew.
    #[test]
    fn what_was_there_is_brought_up_to_date() {
        let (now, old) = (Timestamp::UNIX_EPOCH, 11);
        let mut connection = Connection::open_in_memory().expect("opens");
        connection.execute_batch(HISTORY).expect("is made");
        for migration in &MIGRATIONS[..old] {
            connection.execute_batch(&migration.text(Engine::Sqlite, now)).expect("is made");
            connection.execute_batch(&record(migration, now)).expect("is noted");
        }
        let dump = "INSERT INTO dump (id, tenant, hash, digest, size, kind, state, is_truncated, name, time, properties, \
                    psargs, created_by, uploaded_at) \
                    VALUES ('d', 't', 'h', 'b', 1, 'core', 'received', 1, 'core.1', 5, '{}', 'x -y', 'ann', 7)";
        connection.execute_batch(dump).expect("is there");
        let applied = on_sqlite(&mut connection, now).expect("is brought up to date");
        assert_eq!(applied, (12..=newest()).collect::<Vec<_>>());
        let mut fresh = Connection::open_in_memory().expect("opens");
        on_sqlite(&mut fresh, now).expect("is made");
        assert_eq!(schema(&connection), schema(&fresh));
        let count = "SELECT dumps FROM dump_count WHERE tenant = 't' AND field = 'created_by' AND value = 'ann'";
        assert_eq!(connection.query_row(count, [], |row| row.get::<_, i64>(0)).expect("is counted"), 1);
    }

    #[test]
    fn each_migration_is_all_of_its_statements() {
        for migration in MIGRATIONS {
            for engine in [Engine::Sqlite, Engine::Postgres] {
                let text = migration.text(engine, Timestamp::UNIX_EPOCH);
                let statements = statements(&text);
                assert!(text.starts_with(&statements.concat()), "{}", migration.name);
                for statement in statements {
                    let words = statement.matches("CREATE ").count();
                    assert!(words <= 1, "{}: {statement}", migration.name);
                }
            }
        }
    }
}
