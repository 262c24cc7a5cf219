//! SQLite: one connection that writes, on a thread of its own, and a few that read.

use crate::error::StoreError;
use crate::transaction::{Operation, Session, Tx};
use crate::value::{Row, Value};
use futures_util::FutureExt;
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, params_from_iter};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How surely a commit is on the disk when it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// It survives the loss of power.
    #[default]
    Full,
    /// It survives the loss of the process; the loss of power may take the last commits, never the file.
    Normal,
}

/// Statements kept ready per connection; there are fewer in all.
const STATEMENTS: usize = 256;
/// Bytes of a page: twice the default, since nearly all that is written is appended.
const PAGE_BYTES: u32 = 8_192;
/// Pages in the write-ahead log before they are carried over: 32 MiB, fewer and longer pauses than the default.
const CHECKPOINT_PAGES: u32 = 4_000;
/// Steps of SQLite's machine between two looks at the clock: well under a millisecond.
const LOOK_STEPS: i32 = 10_000;
/// Readers at a time; more would only wait for the disk.
const READERS: usize = 4;

/// Opens the connection that writes.
pub(crate) fn writer(path: &Path, synchronous: Synchronous) -> Result<Connection, StoreError> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    let synchronous = match synchronous {
        Synchronous::Full => "full",
        Synchronous::Normal => "normal",
    };
    let set = |name: &str, value: &dyn rusqlite::ToSql| {
        connection.pragma_update(None, name, value).map_err(|source| StoreError::Sqlite { doing: "setting up", source })
    };
    set("page_size", &PAGE_BYTES)?;
    set("journal_mode", &"wal")?;
    set("synchronous", &synchronous)?;
    set("wal_autocheckpoint", &CHECKPOINT_PAGES)?;
    set("journal_size_limit", &(64 << 20))?;
    set("cache_size", &-16_384)?;
    Ok(connection)
}

/// Opens a connection that only reads.
pub(crate) fn reader(path: &Path) -> Result<Connection, StoreError> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::Sqlite { doing: "opening the database", source };
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.busy_timeout(Duration::from_secs(10)).map_err(failed)?;
    connection.pragma_update(None, "foreign_keys", false).map_err(failed)?;
    connection.pragma_update(None, "temp_store", "memory").map_err(failed)?;
    keep_plans(&connection, true)?;
    Ok(connection)
}

/// Has statements planned once, without a look at their values, or anew whenever values change that a plan might follow
/// from. To plan one takes longer than to run one that comes often.
fn keep_plans(connection: &Connection, keep: bool) -> Result<(), StoreError> {
    let set = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, keep);
    set.map(drop).map_err(|source| StoreError::Sqlite { doing: "setting up", source })
}

/// Reads rows.
pub(crate) fn rows(connection: &Connection, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
    let failed = |source| StoreError::Sqlite { doing: "running a statement", source };
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    found(&mut statement, values)
}

/// Reads rows by a text that will hardly come again, and so must not push out those that do; gives up after a while.
pub(crate) fn ask(
    connection: &mut Connection,
    sql: &str,
    values: &[Value],
    patience: Duration,
) -> Result<Vec<Row>, StoreError> {
    patiently(connection, sql, patience, |statement| found(statement, values))
}

/// Counts the values in the only column of such an answer, where they are not more than so many: SQLite would put all rows
/// in the order of their values first, which takes several times as long.
pub(crate) fn tally(
    connection: &mut Connection,
    sql: &str,
    values: &[Value],
    (patience, most): (Duration, usize),
) -> Result<Option<Vec<(Value, u64)>>, StoreError> {
    let failed = |source| StoreError::Sqlite { doing: "counting values", source };
    patiently(connection, sql, patience, |statement| {
        let mut rows = statement.query(params_from_iter(values)).map_err(failed)?;
        let (mut texts, mut numbers, mut others) = (HashMap::<Box<[u8]>, u64>::new(), HashMap::<i64, u64>::new(), 0);
        while let Some(row) = rows.next().map_err(failed)? {
            match row.get_ref(0).map_err(failed)? {
                ValueRef::Integer(number) => *numbers.entry(number).or_default() += 1,
                // A text that is known need not be copied to be counted.
                ValueRef::Text(text) => match texts.get_mut(text) {
                    Some(count) => *count += 1,
                    None => drop(texts.insert(text.into(), 1)),
                },
                _ => others += 1,
            }
            if texts.len() + numbers.len() > most {
                return Ok(None);
            }
        }
        let texts = texts.into_iter().map(|(text, count)| (String::from_utf8_lossy(&text).as_ref().into(), count));
        let numbers = numbers.into_iter().map(|(number, count)| (number.into(), count));
        let others = (others > 0).then_some((Value::Null, others));
        Ok(Some(texts.chain(numbers).chain(others).collect()))
    })
}

fn patiently<T>(
    connection: &mut Connection,
    sql: &str,
    patience: Duration,
    work: impl FnOnce(&mut rusqlite::Statement<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let failed = |source| StoreError::Sqlite { doing: "asking something", source };
    let begun = Instant::now();
    connection.progress_handler(LOOK_STEPS, Some(move || begun.elapsed() > patience)).map_err(failed)?;
    // The pattern that is asked for may lead through an index.
    keep_plans(connection, false)?;
    let answer = connection.prepare(sql).map_err(failed).and_then(|mut statement| work(&mut statement));
    keep_plans(connection, true)?;
    connection.progress_handler(0, None::<fn() -> bool>).map_err(failed)?;
    answer.map_err(|error| match error {
        StoreError::Sqlite { source, .. } if source.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            StoreError::Slow { after: patience }
        }
        error => error,
    })
}

fn found(statement: &mut rusqlite::Statement<'_>, values: &[Value]) -> Result<Vec<Row>, StoreError> {
    let failed = |source| StoreError::Sqlite { doing: "running a statement", source };
    let columns = statement.column_count();
    let mut found = statement.query(params_from_iter(values)).map_err(failed)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next().map_err(failed)? {
        rows.push(Row::from_sqlite(row, columns).map_err(failed)?);
    }
    Ok(rows)
}

/// Writes, and returns how many rows were touched.
pub(crate) fn execute(connection: &Connection, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
    let failed = |source| StoreError::Sqlite { doing: "running a statement", source };
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(params_from_iter(values)).map(|count| count as u64).map_err(failed)
}

/// Runs several statements that answer nothing.
pub(crate) fn script(connection: &Connection, sql: &str, doing: &'static str) -> Result<(), StoreError> {
    connection.execute_batch(sql).map_err(|source| StoreError::Sqlite { doing, source })
}

/// Runs a statement that may take long, and looks up from it every now and then.
pub(crate) fn step(
    connection: &mut Connection,
    sql: &str,
    doing: &'static str,
    mut meanwhile: impl FnMut() + Send + 'static,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::Sqlite { doing, source };
    let look = move || {
        meanwhile();
        false
    };
    connection.progress_handler(LOOK_STEPS, Some(look)).map_err(failed)?;
    let done = script(connection, sql, doing);
    connection.progress_handler(0, None::<fn() -> bool>).map_err(failed)?;
    done
}

/// The connections that read; each is used by one operation at a time.
#[derive(Clone)]
pub(crate) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Mutex<Connection>>>>,
    turns: Arc<Semaphore>,
    /// Those of them that questions may have which take long.
    asking: Arc<Semaphore>,
}

impl Readers {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            idle: Arc::default(),
            turns: Arc::new(Semaphore::new(READERS)),
            asking: Arc::new(Semaphore::new(READERS / 2)),
        }
    }

    /// Returns the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs an operation that only reads.
    pub(crate) async fn run<O: Operation>(&self, operation: O) -> Result<O::Answer, StoreError> {
        let closed = |_| StoreError::Unavailable { source: None };
        let asking = if O::ASKS { Some(Arc::clone(&self.asking).acquire_owned().await.map_err(closed)?) } else { None };
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(closed)?;
        let readers = self.clone();
        let work = move || {
            // The turn is the work's: whoever asked may go, and the thread goes on.
            let _turns = (turn, asking);
            let connection = readers.take()?;
            let answer = now(operation.run(&Tx::new(Session::Sqlite(&connection))));
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            answer
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|source| StoreError::Unavailable { source: Some(source.into()) })?
    }

    /// Waits for those who read, and lets nobody read any more.
    pub(crate) async fn close(&self) {
        if self.turns.acquire_many(READERS as u32).await.is_ok() {
            self.turns.close();
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn take(&self) -> Result<Mutex<Connection>, StoreError> {
        if let Some(connection) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(connection);
        }
        reader(&self.path).map(Mutex::new)
    }
}

/// Returns what a future answers at once; on SQLite every one does.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("an operation awaits nothing but statements, and SQLite's are done when called")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_outlives_the_values_it_was_made_for() {
        let folder = tempfile::tempdir().expect("is made");
        let connection = writer(&folder.path().join("db"), Synchronous::Normal).expect("opens");
        script(&connection, "CREATE TABLE t (a, b); CREATE INDEX i ON t (b) WHERE a = 1;", "a test").expect("is made");
        let sql = "SELECT b FROM t WHERE a = $1 AND b = $2";
        for at in 0_i64..3 {
            assert!(rows(&connection, sql, &[at.into(), at.into()]).expect("runs").is_empty());
        }
        let statement = connection.prepare_cached(sql).expect("is kept");
        assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0);
    }

    /// Reads until it is let go.
    struct Slow(Mutex<std::sync::mpsc::Receiver<()>>);

    impl Operation for Slow {
        type Answer = ();

        async fn run(&self, _: &Tx<'_>) -> Result<(), StoreError> {
            let until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            until.recv().map_err(|_| StoreError::Unavailable { source: None })
        }
    }

    #[tokio::test]
    async fn whoever_goes_leaves_no_turn_to_another_before_the_work_is_done() {
        let folder = tempfile::tempdir().expect("is made");
        let path = folder.path().join("db");
        writer(&path, Synchronous::Normal).expect("opens");
        let readers = Readers::new(&path);
        let (go, until) = std::sync::mpsc::channel();
        let asked = readers.run(Slow(Mutex::new(until)));
        assert!(asked.now_or_never().is_none(), "it waits");
        assert_eq!(readers.turns.available_permits(), READERS - 1);
        assert!(readers.close().now_or_never().is_none(), "somebody still reads");
        go.send(()).expect("it reads");
        readers.close().await;
    }

    #[test]
    fn what_takes_too_long_is_stopped_and_the_next_is_not() {
        const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
        let mut connection = Connection::open_in_memory().expect("opens");
        let patience = Duration::from_millis(20);
        let stopped = ask(&mut connection, ENDLESS, &[], patience).expect_err("never ends");
        assert!(matches!(stopped, StoreError::Slow { after } if after == patience), "{stopped:?}");
        let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000) SELECT max(i) FROM n";
        assert_eq!(rows(&connection, many, &[]).expect("ends")[0].int(0).expect("a number"), 1_000_000);
    }
}
