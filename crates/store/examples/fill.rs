//! Puts executions into a store through the store itself: many callers, each waiting for its own answer.
//!
//! `fill (--folder DIR | --url postgres://…) [--rows N] [--callers N] [--follow]` prints one line of JSON. The rows
//! belong to the house's own tenant if a server has made it, so that they can be listed. With `--follow` one reader follows
//! the log meanwhile, and whatever it misses, sees twice or sees too early ends the program.
#![expect(clippy::print_stdout, reason = "it prints its result")]
#![expect(clippy::disallowed_methods, reason = "a program for benches reads the clock")]

use jiff::Timestamp;
use model::tenant::HOUSE;
use model::{Class, ExecutionId, Input, Limits, NewExecution, Origin, TenantId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use store::{ChangeFilter, Place, Store, StoreConfig, TenantKey, random};
use tokio::task::JoinSet;

/// Changes that the follower takes at once.
const PAGE: usize = 1_000;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let option = |name: &str| words.iter().skip_while(|word| *word != name).nth(1);
    let number = |name: &str, default: u64| {
        option(name).map_or(default, |word| word.parse().unwrap_or_else(|_| panic!("`{name}` needs a number")))
    };
    let place = match (option("--folder"), option("--url")) {
        (Some(folder), None) => Place::Folder(folder.into()),
        (None, Some(url)) => Place::Postgres { url: url.clone(), readers: 4 },
        _ => panic!("name a place: --folder DIR or --url postgres://…"),
    };
    let (rows, callers) = (number("--rows", 100_000), number("--callers", 256));
    let follows = words.iter().any(|word| word == "--follow");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("starts");
    let seconds = runtime.block_on(async {
        let store = Store::open(&StoreConfig::new(place), Timestamp::now()).await.expect("opens");
        let seconds = fill(&store, rows, callers, follows).await;
        store.close().await;
        seconds
    });
    let per_second = rows as f64 / seconds;
    println!(r#"{{"rows": {rows}, "callers": {callers}, "seconds": {seconds:.3}, "per_second": {per_second:.0}}}"#);
}

/// Makes the executions, and returns how many seconds it took until all were acknowledged and, if asked, seen.
async fn fill(store: &Store, rows: u64, callers: u64, follows: bool) -> f64 {
    let tenant = match store.tenant_get(TenantKey::Name(HOUSE.to_owned())).await {
        Ok(house) => house.id,
        Err(_) => TenantId::new(Timestamp::now(), random()),
    };
    let before = store.log_bounds().await.expect("is read").head;
    let left = Arc::new(AtomicU64::new(rows));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    if follows {
        tasks.spawn(follow(store.clone(), before, before + rows));
    }
    for _ in 0..callers {
        tasks.spawn(call(store.clone(), tenant, Arc::clone(&left)));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("nobody panics");
    }
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(store.log_bounds().await.expect("is read").head, before + rows, "the log grew by another number");
    seconds
}

async fn call(store: Store, tenant: TenantId, left: Arc<AtomicU64>) {
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let at = Timestamp::now();
        let new = execution(at);
        let made = store.execution_create(&new, tenant, Origin::default(), "fill", at).await;
        assert!(made.expect("accepted").1, "every id is new");
    }
}

/// Follows the log to its end; every change must be the very next one.
async fn follow(store: Store, before: u64, end: u64) {
    let mut follower = store.log_follow(before, ChangeFilter::default());
    let mut seen = before;
    while seen < end {
        for change in follower.next(PAGE).await.expect("goes on").items {
            assert_eq!(change.seq, seen + 1, "a change is missing, or came twice, or too early");
            seen = change.seq;
        }
    }
}

fn execution(at: Timestamp) -> NewExecution {
    NewExecution {
        id: ExecutionId::new(at, random()),
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
