//! How fast executions are accepted durably: 256 callers in groups, the same callers with a transaction each, and one
//! caller alone beside the engine's own commit. Prints a table of medians and ratios from one run.
//!
//! SQLite always; PostgreSQL when `TEST_POSTGRES_URL` names a server. `--seconds N` and `--rounds N` change its length.
#![expect(clippy::print_stdout, reason = "a bench prints its result")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock and owns its tasks")]

use jiff::Timestamp;
use model::{Class, ExecutionId, Input, Limits, NewExecution, Origin, TenantId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use store::{Place, Store, StoreConfig, random};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CALLERS: usize = 256;
const LONE_CALLS: usize = 400;

fn main() {
    let option = |name: &str, default: u64| {
        let mut words = std::env::args().skip_while(|word| word != name).skip(1);
        words.next().and_then(|word| word.parse().ok()).unwrap_or(default)
    };
    let (seconds, rounds) = (option("--seconds", 3), option("--rounds", 3));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("starts");
    runtime.block_on(async {
        println!("| engine | grouped/s | one each/s | ratio | lone p50 | lone p99 | engine's own commit p50 | p99 |");
        println!("|---|---|---|---|---|---|---|---|");
        measure("sqlite, synchronous=full", None, Duration::from_secs(seconds), rounds).await;
        if let Ok(url) = std::env::var("TEST_POSTGRES_URL") {
            measure("postgresql, synchronous_commit=on", Some(url), Duration::from_secs(seconds), rounds).await;
        }
    });
}

async fn measure(name: &str, url: Option<String>, span: Duration, rounds: u64) {
    let (mut grouped, mut single, mut lone, mut own) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let fresh = Fresh::new(url.as_deref()).await;
        let store = fresh.open(256).await;
        grouped.push(flood(&store, span).await);
        lone.extend(alone(&store).await);
        store.close().await;
        let store = fresh.open(1).await;
        single.push(flood(&store, span).await);
        store.close().await;
        own.extend(fresh.commits().await);
    }
    let rate = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (grouped, single) = (rate(&mut grouped), rate(&mut single));
    let at = |times: &mut Vec<Duration>, share: f64| {
        times.sort();
        format!("{:.2} ms", times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e3)
    };
    println!(
        "| {name} | {grouped:.0} | {single:.0} | {:.1}x | {} | {} | {} | {} |",
        grouped / single,
        at(&mut lone, 0.5),
        at(&mut lone, 0.99),
        at(&mut own, 0.5),
        at(&mut own, 0.99),
    );
}

/// A database of its own for one round.
struct Fresh {
    folder: tempfile::TempDir,
    url: Option<String>,
}

impl Fresh {
    async fn new(url: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut fresh = Self { folder, url: None };
        if let Some(url) = url {
            let name = format!("bench_{:x}", random() >> 64);
            let client = connect(url).await;
            client.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
            let (server, _) = url.rsplit_once('/').expect("an address ends in a database");
            fresh.url = Some(format!("{server}/{name}"));
        }
        fresh
    }

    async fn open(&self, group: usize) -> Store {
        let place = match &self.url {
            Some(url) => Place::Postgres { url: url.clone(), readers: 4 },
            None => Place::Folder(self.folder.path().to_owned()),
        };
        let config = StoreConfig { group, ..StoreConfig::new(place) };
        Store::open(&config, Timestamp::now()).await.expect("opens")
    }

    /// Times the engine's own smallest durable commit: one row, on a connection of its own, nobody else there.
    async fn commits(&self) -> Vec<Duration> {
        let mut times = Vec::new();
        if let Some(url) = &self.url {
            let client = connect(url).await;
            client.batch_execute("CREATE TABLE own (n bigint)").await.expect("a table");
            let insert = client.prepare("INSERT INTO own VALUES ($1)").await.expect("prepares");
            for n in 0..LONE_CALLS as i64 {
                let begun = Instant::now();
                client.execute(&insert, &[&n]).await.expect("commits");
                times.push(begun.elapsed());
            }
        } else {
            let own = rusqlite::Connection::open(self.folder.path().join("own.db")).expect("opens");
            own.execute_batch("PRAGMA journal_mode=wal; PRAGMA synchronous=full; CREATE TABLE own (n integer)")
                .expect("a table");
            for n in 0..LONE_CALLS as i64 {
                let begun = Instant::now();
                own.execute("INSERT INTO own VALUES (?1)", [n]).expect("commits");
                times.push(begun.elapsed());
            }
        }
        times
    }
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

fn execution() -> NewExecution {
    NewExecution {
        id: ExecutionId::new(Timestamp::now(), random()),
        lane: None,
        class: Class::Batch,
        image: Some("docker.io/library/busybox@sha256:0000".to_owned()),
        command: vec!["sh".to_owned(), "-c".to_owned(), "echo $MSG".to_owned()],
        env: BTreeMap::from([("MSG".to_owned(), "hello".to_owned())]),
        input: Input::None,
        limits: Limits::default(),
        sandbox: model::Sandbox::default(),
    }
}

/// Returns how many executions a second 256 callers got accepted.
async fn flood(store: &Store, span: Duration) -> f64 {
    let tenant = TenantId::new(Timestamp::now(), random());
    let over = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (store, over) = (store.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut count = 0u64;
                while !over.load(Ordering::Relaxed) {
                    let new = execution();
                    let made = store.execution_create(&new, tenant, Origin::default(), "bench", Timestamp::now()).await;
                    assert!(made.expect("accepted").1, "every id is new");
                    count += 1;
                }
                count
            })
        })
        .collect();
    tokio::time::sleep(span).await;
    over.store(true, Ordering::Relaxed);
    let mut count = 0;
    for caller in callers {
        count += caller.await.expect("no caller panics");
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Times a caller who has the store to itself.
async fn alone(store: &Store) -> Vec<Duration> {
    let tenant = TenantId::new(Timestamp::now(), random());
    let mut times = Vec::new();
    for _ in 0..LONE_CALLS {
        let new = execution();
        let begun = Instant::now();
        store.execution_create(&new, tenant, Origin::default(), "bench", Timestamp::now()).await.expect("accepted");
        times.push(begun.elapsed());
    }
    times
}
