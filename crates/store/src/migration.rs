//! Migrations: the schema's history. They only add, and none is ever edited once it has been released.
//!
//! One text serves both engines; `{text}`, `{bytes}`, `{clustered}` and `{now}` stand for what they spell differently. The log's table
//! is the one thing that differs in shape: on PostgreSQL its segments are partitions.

use crate::error::StoreError;
use crate::postgres::{self, Postgres};
use crate::sqlite;
use crate::statement::Engine;
use crate::store::Place;
use jiff::Timestamp;
use rusqlite::Connection;

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
    Migration {
        version: 12,
        name: "dump counts",
        both: include_str!("migration/0012_dump_counts.sql"),
        sqlite: include_str!("migration/0012_dump_counts.sqlite.sql"),
        postgres: include_str!("migration/0012_dump_counts.postgres.sql"),
    },
    Migration {
        version: 13,
        name: "dump properties",
        both: include_str!("migration/0013_dump_properties.sql"),
        sqlite: include_str!("migration/0013_dump_properties.sqlite.sql"),
        postgres: include_str!("migration/0013_dump_properties.postgres.sql"),
    },
    Migration::shared(14, "pack uses", include_str!("migration/0014_pack_uses.sql")),
    Migration::shared(15, "runtimes of tenants", "ALTER TABLE tenant ADD COLUMN runtime {text};"),
    Migration {
        version: 16,
        name: "dump texts",
        both: include_str!("migration/0016_dump_texts.sql"),
        sqlite: "",
        // A change of what no index has can then stay beside its row, and the indexes need not hear of it.
        postgres: "ALTER TABLE dump SET (fillfactor = 90);",
    },
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
        match place {
            Place::Folder(folder) => {
                let engine = format!("SQLite {}", rusqlite::version());
                let path = folder.join("quarry.db");
                let known = newest();
                if !path.exists() {
                    return Ok(Self { engine, found: 0, known });
                }
                let connection = sqlite::reader(&path)?;
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
pub(crate) fn on_sqlite(connection: &Connection, now: Timestamp) -> Result<Vec<i64>, StoreError> {
    const DOING: &str = "migrating";
    sqlite::script(connection, "BEGIN IMMEDIATE", DOING)?;
    let work = || {
        sqlite::script(connection, HISTORY, DOING)?;
        let rows = sqlite::rows(connection, "SELECT max(version) FROM migration", &[])?;
        let found = rows.first().map(|row| row.maybe_int(0)).transpose()?.flatten().unwrap_or(0);
        let mut applied = Vec::new();
        for migration in pending(found)? {
            sqlite::script(connection, &render(migration.both, Engine::Sqlite, now), DOING)?;
            sqlite::script(connection, &render(migration.sqlite, Engine::Sqlite, now), DOING)?;
            sqlite::script(connection, &record(migration, now), DOING)?;
            applied.push(migration.version);
        }
        Ok(applied)
    };
    let applied = work();
    sqlite::script(connection, if applied.is_ok() { "COMMIT" } else { "ROLLBACK" }, DOING)?;
    applied
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
        let mut applied = Vec::new();
        for migration in pending(found)? {
            postgres::script(&client, &render(migration.both, Engine::Postgres, now)).await?;
            postgres::script(&client, &render(migration.postgres, Engine::Postgres, now)).await?;
            postgres::script(&client, &record(migration, now)).await?;
            applied.push(migration.version);
        }
        Ok(applied)
    };
    let applied = work.await;
    postgres::script(&client, if applied.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    applied
}
