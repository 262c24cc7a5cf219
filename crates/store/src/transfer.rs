//! Transfer: all that one store holds, moved into another, whichever their engines; blobs' bytes are not its business.
//!
//! The target takes everything in one transaction or nothing of it: a transfer that broke off leaves the target as
//! empty as it was, and is simply begun again. Into a target that already holds something nothing is copied, since
//! two histories cannot share one log. The log keeps its numbers, its floor and its segments, so every cursor that
//! was good before is good after. The source is only read; whoever calls keeps others from writing to it meanwhile,
//! and should they write all the same, the transfer notices it and is undone.

use crate::change::retention::{FRESH_PARTITIONS, partition};
use crate::database::Database;
use crate::error::StoreError;
use crate::postgres;
use crate::sqlite::{self, Synchronous, now};
use crate::store::Store;
use crate::transaction::{Operation, Session, Tx};
use crate::value::{Row, Value};
use deadpool_postgres::Object;
use futures_util::future::try_join_all;
use std::sync::{Arc, Mutex};

/// Rows that are read and written at a time: at 16 KiB of recipe and as much of the rest, some 16 MiB.
const PAGE: u64 = 500;

/// A table, how its rows are paged through by their key, and how they are written.
struct Table {
    name: &'static str,
    count: &'static str,
    page: &'static str,
    insert: &'static str,
    /// Which columns are the key.
    key: &'static [usize],
    /// What is below every key.
    first: First,
}

/// What is below every key of a table.
#[derive(Clone, Copy)]
enum First {
    Number,
    Text,
    /// A text, and numbers behind it.
    Mixed,
    /// A text, and bytes behind it.
    Bytes,
}

macro_rules! tables {
    ($(
        $name:literal by $key:literal = [$($place:literal),+] > $after:literal limit $limit:literal from $first:ident:
        $columns:literal = $values:literal;
    )+) => {
        /// Every table but the log's own row, which goes last, and the schema's history, which is the target's own.
        const TABLES: &[Table] = &[$(Table {
            name: $name,
            count: concat!("SELECT count(*) FROM \"", $name, "\""),
            page: concat!(
                "SELECT ", $columns, " FROM \"", $name, "\" WHERE (", $key, ") > (", $after, ") ORDER BY ", $key,
                " LIMIT ", $limit
            ),
            insert: concat!("INSERT INTO \"", $name, "\" (", $columns, ") VALUES (", $values, ")"),
            key: &[$($place),+],
            first: First::$first,
        }),+];
    };
}

tables! {
    "tenant" by "id" = [0] > "$1" limit "$2" from Text:
        "id, name, created_at, runtime" = "$1, $2, $3, $4";
    "user" by "id" = [0] > "$1" limit "$2" from Text:
        "id, tenant, name, role, state, created_at" = "$1, $2, $3, $4, $5, $6";
    "token" by "id" = [0] > "$1" limit "$2" from Text:
        "id, tenant, user_id, name, scopes, created_at, expires_at, used_at, revoked_at, hash" =
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10";
    "blob" by "tenant, digest" = [0, 1] > "$1, $2" limit "$3" from Text:
        "tenant, digest, size, created_at, layer_at, passing" = "$1, $2, $3, $4, $5, $6";
    "blob_removal" by "digest" = [0] > "$1" limit "$2" from Text:
        "digest, at, taken_at" = "$1, $2, $3";
    "blob_use" by "execution, digest" = [0, 1] > "$1, $2" limit "$3" from Text:
        "execution, digest" = "$1, $2";
    "blob_loose" by "tenant, digest" = [0, 1] > "$1, $2" limit "$3" from Text:
        "tenant, digest, at" = "$1, $2, $3";
    "execution_gone" by "id" = [0] > "$1" limit "$2" from Text:
        "id, tenant" = "$1, $2";
    "lane" by "tenant, name" = [0, 1] > "$1, $2" limit "$3" from Text:
        "tenant, name, next, head" = "$1, $2, $3, $4";
    "execution" by "id" = [0] > "$1" limit "$2" from Text:
        "id, tenant, state, ready, origin_kind, origin_id, lane, position, class, recipe, attempt, losses, node, \
         session, created_by, created_at, started_at, ended_at, outcome, usage, dump, image_id, shape" =
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23";
    "node" by "id" = [0] > "$1" limit "$2" from Text:
        "id, tenant, name, state, hold, session, offer, created_by, created_at, joined_at" =
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10";
    "session" by "id" = [0] > "$1" limit "$2" from Text:
        "id, node, expires_at" = "$1, $2, $3";
    "image" by "id" = [0] > "$1" limit "$2" from Text:
        "id, tenant, name, state, source, plain_http, execution, manifest, digest, cause, created_by, created_at, \
         ended_at" =
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13";
    "registry" by "tenant, host" = [0, 1] > "$1, $2" limit "$3" from Text:
        "tenant, host, account, created_at, secret" = "$1, $2, $3, $4, $5";
    "chunk" by "execution, attempt, number" = [0, 1, 2] > "$1, $2, $3" limit "$4" from Mixed:
        "execution, attempt, number, stream, at, size, total, is_end, blob, bytes" =
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10";
    "parcel" by "tenant, number" = [0, 1] > "$1, $2" limit "$3" from Mixed:
        "tenant, number, digest, size, created_at, loose_at" = "$1, $2, $3, $4, $5, $6";
    "frame" by "tenant, digest" = [0, 1] > "$1, $2" limit "$3" from Bytes:
        "tenant, digest, parcel, place, packed, raw" = "$1, $2, $3, $4, $5, $6";
    "dump" by "id" = [0] > "$1" limit "$2" from Text:
        "id, tenant, hash, digest, size, manifest, kind, state, is_truncated, name, time, cmd, psargs, pid, node, \
         platform, ticket, properties, stack, signature, signature_text, execution, report, created_by, uploaded_at, \
         signed, purged_at, purged_by, purged_why, redaction, analysis, class, severity, cause, tries, \
         analyse_at" =
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, \
         $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36";
    "signature" by "tenant, id" = [0, 1] > "$1, $2" limit "$3" from Text:
        "tenant, id, text, title, state, merged_into, stack, dumps, first_seen, last_seen, fixed_at, rules, height, \
         is_due, created_at, decided" =
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16";
    "signature_alias" by "tenant, kind, name" = [0, 1, 2] > "$1, $2, $3" limit "$4" from Text:
        "tenant, kind, name, signature, made_by, at" = "$1, $2, $3, $4, $5, $6";
    "signed_stack" by "tenant, number" = [0, 1] > "$1, $2" limit "$3" from Mixed:
        "tenant, number, shape, stack" = "$1, $2, $3, $4";
    "signing" by "tenant, number" = [0, 1] > "$1, $2" limit "$3" from Mixed:
        "tenant, number, id, text, proto, rules, explanation, signature, dumps, is_moving" =
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10";
    "signature_rules" by "tenant" = [0] > "$1" limit "$2" from Text:
        "tenant, name, digest, rules, made_by, at" = "$1, $2, $3, $4, $5, $6";
    "dump_parcel" by "dump, parcel" = [0, 1] > "$1, $2" limit "$3" from Mixed:
        "dump, parcel, tenant" = "$1, $2, $3";
    "dump_property" by "dump, ordinal" = [0, 1] > "$1, $2" limit "$3" from Mixed:
        "dump, ordinal, tenant, path, kind, text, number, time" = "$1, $2, $3, $4, $5, $6, $7, $8";
    "stack" by "tenant, number" = [0, 1] > "$1, $2" limit "$3" from Mixed:
        "tenant, number, calls" = "$1, $2, $3";
    "call" by "tenant, number" = [0, 1] > "$1, $2" limit "$3" from Mixed:
        "tenant, number, text" = "$1, $2, $3";
    "stack_call" by "tenant, call, stack, position" = [0, 1, 2, 3] > "$1, $2, $3, $4" limit "$5" from Mixed:
        "tenant, call, stack, position" = "$1, $2, $3, $4";
    "pack" by "tenant, build_id, digest" = [0, 1, 2] > "$1, $2, $3" limit "$4" from Text:
        "tenant, build_id, digest, size, created_by, created_at, used_at" = "$1, $2, $3, $4, $5, $6, $7";
    "pack_use" by "dump, build_id" = [0, 1] > "$1, $2" limit "$3" from Text:
        "dump, build_id, digest, tenant" = "$1, $2, $3, $4";
    "analyzer" by "tenant, name" = [0, 1] > "$1, $2" limit "$3" from Text:
        "tenant, name, version, memory_bytes, wall_ms, arrival" = "$1, $2, $3, $4, $5, $6";
    "analyzer_version" by "tenant, name, script" = [0, 1, 3] > "$1, $2, $3" limit "$4" from Text:
        "tenant, name, version, script, size, created_by, created_at" = "$1, $2, $3, $4, $5, $6, $7";
    "study" by "execution" = [5] > "$1" limit "$2" from Text:
        "tenant, dump, analyzer, version, digest, execution, state, ended_at" = "$1, $2, $3, $4, $5, $6, $7, $8";
    "dump_arrival" by "dump" = [0] > "$1" limit "$2" from Text:
        "dump, tenant" = "$1, $2";
    "log_segment" by "number" = [0] > "$1" limit "$2" from Number:
        "number, first_seq, last_seq, last_at, bytes" = "$1, $2, $3, $4, $5";
    "change" by "seq" = [0] > "$1" limit "$2" from Number:
        "seq, segment, at, tenant, noun, id, state, moved_by, body" = "$1, $2, $3, $4, $5, $6, $7, $8, $9";
}

const LOG: &str = "SELECT head, floor, segment, first_seq, first_at, last_at, bytes FROM log";
/// Keeps whoever else may have opened the target from committing anything before we have.
const HOLD: &str = "UPDATE log SET head = head RETURNING head, segment";
const SET: &str = "UPDATE log SET head = $1, floor = $2, segment = $3, first_seq = $4, first_at = $5, last_at = $6, \
                   bytes = $7";
const SEGMENTS: &str = "SELECT number FROM log_segment ORDER BY number";

/// Returns every statement of a transfer, by name.
pub(crate) fn statements() -> impl Iterator<Item = (&'static str, &'static str)> {
    let of_table = |table: &'static Table| [table.count, table.page, table.insert].map(|sql| (table.name, sql));
    let of_log = [("LOG", LOG), ("HOLD", HOLD), ("SET", SET), ("SEGMENTS", SEGMENTS)];
    TABLES.iter().flat_map(of_table).chain(of_log)
}

/// How far a transfer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The table being copied.
    pub table: &'static str,
    /// Its rows that are copied.
    pub rows: u64,
    /// Its rows in all.
    pub of: u64,
}

/// What a transfer moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Every table, with how many rows it has.
    pub tables: Vec<(&'static str, u64)>,
    /// The newest number of the log.
    pub head: u64,
}

/// Copies all that `from` holds into `to`, which must be empty, as one transaction.
pub async fn transfer(from: &Store, to: &Store, mut progress: impl FnMut(Progress)) -> Result<Summary, StoreError> {
    let mut target = Target::begin(to.database()).await?;
    let copied = copy(from, &target, &mut progress).await;
    target.end(copied.is_ok()).await?;
    to.ring();
    copied
}

async fn copy(from: &Store, target: &Target, progress: &mut impl FnMut(Progress)) -> Result<Summary, StoreError> {
    target.check_empty().await?;
    let log = from.read(All(LOG)).await?.pop().ok_or(StoreError::Broken { column: 0, why: "is missing: no log" })?;
    let mut segments = Vec::new();
    for row in from.read(All(SEGMENTS)).await? {
        segments.push(row.int(0)?);
    }
    target.partition(&segments, log.int(2)?).await?;
    let mut summary = Summary { tables: Vec::new(), head: log.count(0)? };
    for table in TABLES {
        let rows = copy_table(from, target, table, progress).await?;
        summary.tables.push((table.name, rows));
    }
    let after = from.read(All(LOG)).await?.pop();
    if after.as_ref() != Some(&log) {
        return Err(StoreError::Moved);
    }
    target.write(SET, vec![log.into_values()]).await?;
    Ok(summary)
}

async fn copy_table(
    from: &Store,
    target: &Target,
    table: &'static Table,
    progress: &mut impl FnMut(Progress),
) -> Result<u64, StoreError> {
    let of = from.read(All(table.count)).await?.first().map_or(Ok(0), |row| row.count(0))?;
    let mut done = Progress { table: table.name, rows: 0, of };
    let mut after = match table.first {
        First::Number => vec![Value::Int(i64::MIN); table.key.len()],
        First::Text => vec![Value::Text(String::new()); table.key.len()],
        First::Bytes => vec![Value::Text(String::new()), Value::Bytes(Vec::new())],
        First::Mixed => {
            let numbers = vec![Value::Int(i64::MIN); table.key.len() - 1];
            [vec![Value::Text(String::new())], numbers].concat()
        }
    };
    loop {
        let rows = from.read(After { table, key: after.clone() }).await?;
        let rows: Vec<_> = rows.into_iter().map(Row::into_values).collect();
        let Some(last) = rows.last() else { break };
        after = table.key.iter().map(|place| last[*place].clone()).collect();
        let count = rows.len() as u64;
        target.write(table.insert, rows).await?;
        done.rows += count;
        progress(done);
    }
    if done.rows == of { Ok(of) } else { Err(StoreError::Moved) }
}

/// Reads all that a statement without parameters finds.
struct All(&'static str);

impl Operation for All {
    type Answer = Vec<Row>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Row>, StoreError> {
        tx.rows(self.0, &[]).await
    }
}

/// Reads a table's rows after a key.
struct After {
    table: &'static Table,
    key: Vec<Value>,
}

impl Operation for After {
    type Answer = Vec<Row>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Row>, StoreError> {
        let values: Vec<_> = self.key.iter().cloned().chain([PAGE.into()]).collect();
        tx.rows(self.table.page, &values).await
    }
}

/// The transaction in the target, on a connection of its own, which goes with it: what is dropped half-way is undone.
enum Target {
    Sqlite(Arc<Mutex<rusqlite::Connection>>),
    Postgres(Option<Box<Object>>),
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Self::Postgres(client) = self {
            // Back in its pool, it would take an open transaction to the next who reads.
            drop(client.take().map(|client| Object::take(*client)));
        }
    }
}

impl Target {
    async fn begin(database: &Database) -> Result<Self, StoreError> {
        match database {
            Database::Sqlite(readers) => {
                let connection = sqlite::writer(readers.path(), Synchronous::Full)?;
                sqlite::script(&connection, "BEGIN IMMEDIATE", "beginning a transfer")?;
                Ok(Self::Sqlite(Arc::new(Mutex::new(connection))))
            }
            Database::Postgres(postgres) => {
                let target = Self::Postgres(Some(Box::new(postgres.client().await?)));
                target.script("BEGIN".to_owned()).await?;
                Ok(target)
            }
        }
    }

    /// Commits, or undoes everything.
    async fn end(&mut self, commit: bool) -> Result<(), StoreError> {
        let end = if commit { "COMMIT" } else { "ROLLBACK" };
        self.script(end.to_owned()).await?;
        if commit && matches!(self, Self::Postgres(_)) {
            // Until it knows how much there is, PostgreSQL would plan as for empty tables.
            self.script("ANALYZE".to_owned()).await?;
        }
        Ok(())
    }

    /// Refuses a target in which anything has ever happened.
    async fn check_empty(&self) -> Result<(), StoreError> {
        let log = self.rows(HOLD).await?;
        let log = log.first().ok_or(StoreError::Broken { column: 0, why: "is missing: no log" })?;
        for table in TABLES {
            if self.rows(table.count).await?.first().map_or(Ok(0), |row| row.count(0))? > 0 {
                return Err(StoreError::Occupied { table: table.name });
            }
        }
        // All may have been dropped, but numbers were given out.
        if (log.int(0)?, log.int(1)?) == (0, 1) { Ok(()) } else { Err(StoreError::Occupied { table: "log" }) }
    }

    /// Makes the partitions of the log's segments, where segments are partitions.
    async fn partition(&self, closed: &[i64], current: i64) -> Result<(), StoreError> {
        if let Self::Postgres(_) = self {
            for number in FRESH_PARTITIONS {
                self.script(format!("DROP TABLE change_{number}")).await?;
            }
            for number in closed.iter().copied().chain([current, current + 1]) {
                self.script(partition(number)).await?;
            }
        }
        Ok(())
    }

    /// Writes rows with one statement.
    async fn write(&self, sql: &'static str, rows: Vec<Vec<Value>>) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(connection) => {
                let connection = Arc::clone(connection);
                let work = move || {
                    let tx = Tx::new(Session::Sqlite(&connection));
                    rows.iter().try_for_each(|values| now(tx.execute(sql, values)).map(drop))
                };
                let worked = tokio::task::spawn_blocking(work).await;
                worked.map_err(|source| StoreError::Unavailable { source: Some(source.into()) })?
            }
            Self::Postgres(_) => {
                let tx = Tx::new(self.session());
                // They are sent one behind the other, and the answers come back together.
                try_join_all(rows.iter().map(|values| tx.execute(sql, values))).await.map(drop)
            }
        }
    }

    async fn rows(&self, sql: &'static str) -> Result<Vec<Row>, StoreError> {
        Tx::new(self.session()).rows(sql, &[]).await
    }

    async fn script(&self, sql: String) -> Result<(), StoreError> {
        match self.session() {
            Session::Sqlite(connection) => {
                let connection = connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                sqlite::script(&connection, &sql, "transferring")
            }
            Session::Postgres(client) => postgres::script(client, &sql).await,
        }
    }

    fn session(&self) -> Session<'_> {
        match self {
            Self::Sqlite(connection) => Session::Sqlite(connection),
            Self::Postgres(client) => {
                Session::Postgres(client.as_ref().expect("the connection is taken when the target is dropped"))
            }
        }
    }
}
