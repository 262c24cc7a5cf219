//! Transfers: everything arrives, under its own numbers, and life goes on in the target; or nothing does.

use crate::engine::{Fresh, Raw, run};
use crate::sample::{
    accepted, at, check_replay, end, execution, house, laned, lease, log, refused, tenant, token, user,
};
use crate::tally;
use futures_util::future::join_all;
use jiff::SignedDuration;
use model::dump::query::Earnest;
use model::dump::spec::Specification;
use model::{Blob, Class, Digest, ExecutionQuery, NewExecution, Outcome, Purpose, Role, TenantId};
use std::collections::BTreeMap;
use store::{ChangeFilter, DumpsOrder, Engine, Progress, Retention, Store, StoreError, UserKey, transfer};

/// Makes every ordered pair of engines a test.
macro_rules! on_every_pair {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            use store::Engine::{Postgres, Sqlite};

            #[test]
            fn sqlite_to_postgres() {
                super::between(Sqlite, Postgres, super::$case);
            }

            #[test]
            fn postgres_to_sqlite() {
                super::between(Postgres, Sqlite, super::$case);
            }

            #[test]
            fn sqlite_to_sqlite() {
                super::between(Sqlite, Sqlite, super::$case);
            }

            #[test]
            fn postgres_to_postgres() {
                super::between(Postgres, Postgres, super::$case);
            }
        }
    )+};
}

on_every_pair!(moves_everything, refuses_what_is_not_empty, leaves_nothing_of_one_that_breaks_off);

fn between(from: Engine, to: Engine, case: impl AsyncFnOnce(&Fresh, &Fresh)) {
    run(from, async |from| {
        let Some(to) = Fresh::new(to).await else { return };
        case(from, &to).await;
        to.remove().await;
    });
}

/// Fills a store with some of everything, in every state, and a log whose old end is gone.
async fn fill(store: &Store) -> Vec<TenantId> {
    let (house_tenant, admin, row) = house();
    store.house_open(house_tenant.clone(), admin, row).await.expect("opens");
    let mut tenants = vec![house_tenant.id];
    for name in ["a", "b"] {
        let whose = tenant(store, name).await;
        let ann = user(store, whose, "ann", Role::Admin).await;
        for n in 0..3 {
            let row = token(whose, ann.id, &format!("t{n}"));
            store.token_create(row.clone(), "ann").await.expect("a token");
            store.token_use(row.token.id, at(5)).await.expect("is noted");
        }
        let (tokens, _) = store.token_list(whose, None, None, 9).await.expect("a page");
        store.token_revoke(tokens[0].id, whose, None, "ann", at(6)).await.expect("is revoked");
        for n in 0..5 {
            let blob = Blob {
                digest: Digest::from_bytes([n; 32]),
                size: n.into(),
                created_at: at(n.into()),
                purpose: [Purpose::Kept, Purpose::Image, Purpose::Execution][n as usize % 3],
            };
            store.blob_create(blob, whose, "ann").await.expect("is noted");
        }
        tenants.push(whose);
    }
    for round in 0..4 {
        let of = |n: i64| NewExecution { class: Class::ALL[n as usize % 3], ..execution(n) };
        let news: Vec<_> = (0..300).map(of).chain((0..40).map(|n| laned(n, &format!("lane ✓ {}", n % 4)))).collect();
        join_all(news.iter().zip(0..).map(|(new, n)| accepted(store, new, tenants[n % 3], round * 10_000))).await;
        // Of what is claimed some end, some are to be stopped, some are lost, and some run on.
        let (kept, lost) = (lease(), lease());
        let held = store.execution_claim(kept, 60, at(round * 10_000 + 1)).await.expect("a claim");
        for one in &held[..20] {
            store
                .execution_finish(end(one, Outcome::Exited { code: 1 }), "node", at(round * 10_000 + 2))
                .await
                .expect("ends");
        }
        for one in &held[20..30] {
            store.execution_cancel(one.id, None, "user", at(round * 10_000 + 3)).await.expect("stops");
        }
        store.execution_claim(lost, 10, at(round * 10_000 + 4)).await.expect("a claim");
        store.session_lose(lost.session, "server", at(round * 10_000 + 5)).await.expect("is lost");
        let retention = Retention { age: SignedDuration::from_secs(15), bytes: u64::MAX };
        store.log_retain(retention, at(round * 10_000 + 6)).await.expect("a pass");
    }
    crate::analyzer::fill(store, tenants[1]).await;
    crate::specification::fill(store, tenants[2], 40).await;
    fill_nodes(store, tenants[1]).await;
    let bounds = store.log_bounds().await.expect("bounds");
    assert!(bounds.floor > 0 && bounds.head - bounds.floor > 700, "{bounds:?}");
    tenants
}

/// Adds a node that has written something, an image that has been removed, and a credential.
async fn fill_nodes(store: &Store, whose: TenantId) {
    let (node, layer) = (crate::node::new_node("one"), [9; 32]);
    let lease = SignedDuration::from_secs(30);
    store.node_join(node.clone(), whose, "ann", at(50_000), lease).await.expect("joins");
    let input = model::Input::Blob { digest: Digest::from_bytes([1; 32]) };
    accepted(store, &NewExecution { input, ..execution(50_000) }, whose, 50_000).await;
    let heard = store.node_exchange(crate::node::report(&node, whose, 50_001)).await.expect("is heard");
    let held = crate::node::held(&heard.assigned[0]);
    let said = crate::node::written(&node, whose, held, 50_002);
    assert_eq!(store.node_exchange(said).await.expect("is heard").refused, []);
    let registry = model::Registry { host: "h".to_owned(), user: "u".to_owned(), created_at: at(50_003) };
    store.registry_put(store::Sealed { registry, secret: vec![1, 2, 3] }, whose, "ann").await.expect("is stored");
    let blob = Blob { digest: Digest::from_bytes(layer), size: 9, created_at: at(50_003), purpose: Purpose::Image };
    store.blob_create(blob, whose, "ann").await.expect("is noted");
    crate::node::image(store, whose, &node, blob).await;
    store.image_gc(whose, "ann", at(50_009)).await.expect("drops");
}

/// Reads all tables but the schema's history, each as the texts of its rows in their order.
async fn tables(raw: &Raw) -> BTreeMap<String, Vec<Vec<String>>> {
    let names = match raw {
        Raw::Sqlite(_) => "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'",
        Raw::Postgres(_) => {
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition \
             AND relnamespace = 'public'::regnamespace"
        }
    };
    let mut found = BTreeMap::new();
    for name in raw.texts(names).await.concat() {
        if name == "migration" {
            continue;
        }
        // The columns stand in the same order on both; a hash is compared in its own test.
        let mut rows = raw.texts(&format!("SELECT * FROM \"{name}\"")).await;
        if ["token", "chunk", "registry", "frame"].contains(&name.as_str()) {
            rows.iter_mut().for_each(|row| drop(row.pop()));
        }
        rows.sort();
        found.insert(name, rows);
    }
    found
}

async fn moves_everything(from: &Fresh, to: &Fresh) {
    let source = from.open().await;
    let tenants = fill(&source).await;
    // As a server leaves it that dies while it removes old executions.
    let gone = "INSERT INTO execution_gone (id, tenant) VALUES ('exe_gone', 'ten_any')";
    from.raw().await.script(gone).await;
    let before = tables(&from.raw().await).await;
    for (name, rows) in &before {
        assert!(!rows.is_empty(), "table `{name}` is empty: fill it, and make sure that a transfer moves it");
    }
    let target = to.open().await;
    let mut seen: Vec<Progress> = Vec::new();
    let summary = transfer(&source, &target, |progress| seen.push(progress)).await.expect("moves");
    for (table, rows) in &summary.tables {
        assert_eq!(before[*table].len() as u64, *rows);
        let last = seen.iter().rfind(|progress| progress.table == *table).expect("was told of");
        assert_eq!((last.rows, last.of), (*rows, *rows));
    }
    tally::check(&from.raw().await).await;
    let after = tables(&to.raw().await).await;
    assert!(before.keys().eq(after.keys()));
    for (name, rows) in before {
        assert_eq!(rows, after[&name], "{name}");
    }
    tally::check(&to.raw().await).await;
    check_same(&source, &target, &tenants).await;
    source.close().await;
    go_on(&target, tenants[1], summary.head).await;
    tally::check(&to.raw().await).await;
    target.close().await;
    // And after a restart.
    let target = to.open().await;
    let head = target.log_bounds().await.expect("bounds").head;
    go_on(&target, tenants[2], head).await;
    tally::check(&to.raw().await).await;
    target.close().await;
}

/// Compares what two stores answer.
async fn check_same(source: &Store, target: &Store, tenants: &[TenantId]) {
    let bounds = source.log_bounds().await.expect("bounds");
    assert_eq!(target.log_bounds().await.expect("bounds"), bounds);
    let lists = async |store: &Store| {
        let mut found = Vec::new();
        for whose in tenants {
            found.push(format!("{:?}", store.execution_list(*whose, &ExecutionQuery::default(), 9_999).await));
            found.push(format!("{:?}", store.user_list(*whose, None, 99).await));
            found.push(format!("{:?}", store.token_list(*whose, None, None, 99).await));
            found.push(format!("{:?}", store.blob_list(*whose, None, 99).await));
        }
        for token in store.token_list(tenants[1], None, None, 99).await.expect("a page").0 {
            // With the hash of its secret, so whoever had a token still has one.
            found.push(format!("{:?}", store.token_bearer(token.id).await.expect("reads").expect("is there")));
        }
        found.push(format!("{:?}", store.tenant_list(None, 99).await));
        found.push(format!("{:?}", store.executions_waiting().await));
        found
    };
    assert_eq!(lists(source).await, lists(target).await);
    let mut cursor = bounds.floor;
    while cursor < bounds.head {
        let page = async |store: &Store| store.log_page(cursor, &ChangeFilter::default(), 450).await.expect("a page");
        let (ours, theirs) = (page(source).await, page(target).await);
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
        cursor = ours.next;
    }
    let words = format!("the log begins after change {}; cursor 0 is too old", bounds.floor);
    refused(target.log_page(0, &ChangeFilter::default(), 1).await, &words);
}

/// Works in the target: the log goes on behind `head`, lanes and nodes where they were.
async fn go_on(store: &Store, whose: TenantId, head: u64) {
    let mut follower = store.log_follow(head, ChangeFilter::default());
    let mut late = store.log_follow(head - 5, ChangeFilter::default());
    let new = laned(1, "lane ✓ 1");
    let (_, page) = futures_util::join!(accepted(store, &new, whose, 90_000), follower.next(10));
    let page = page.expect("a page");
    assert_eq!((page.items[0].seq, page.items[0].id.clone()), (head + 1, new.id.to_string()));
    let mut seen = 0;
    while seen < 6 {
        seen += late.next(2).await.expect("a page").items.len();
    }
    let held = store.execution_claim(lease(), 20, at(90_001)).await.expect("a claim");
    assert_eq!(held.len(), 20);
    for one in &held {
        store.execution_finish(end(one, Outcome::Exited { code: 0 }), "node", at(90_002)).await.expect("ends");
    }
    user(store, whose, &format!("new{head}"), Role::User).await;
    let dumps = Specification::default();
    store.dumps_change(dumps, (DumpsOrder::Purge, Earnest::Real), whose, ("ann", at(90_003))).await.expect("is done");
    let retention = Retention { age: SignedDuration::from_secs(70), bytes: u64::MAX };
    for seconds in [91, 92, 99] {
        store.log_retain(retention, at(seconds * 1_000)).await.expect("a pass");
        accepted(store, &execution(1), whose, seconds * 1_000).await;
    }
    let bounds = store.log_bounds().await.expect("bounds");
    assert_eq!(log(store, bounds.floor).await.len() as u64, bounds.head - bounds.floor);
    store.user_get(UserKey::Name("ann".to_owned()), whose).await.expect("is there");
}

async fn refuses_what_is_not_empty(from: &Fresh, to: &Fresh) {
    let (source, target) = (from.open().await, to.open().await);
    tenant(&source, "ours").await;
    let theirs = tenant(&target, "theirs").await;
    let before = tables(&to.raw().await).await;
    for _ in 0..2 {
        let words = "table `tenant` of the target is not empty; a transfer needs a new database";
        refused(transfer(&source, &target, |_| {}).await, words);
    }
    let raw = to.raw().await;
    assert_eq!(tables(&raw).await, before, "nothing of it is touched");
    accepted(&target, &execution(1), theirs, 1).await;
    raw.script("DELETE FROM tenant").await;
    let words = "table `execution` of the target is not empty; a transfer needs a new database";
    refused(transfer(&source, &target, |_| {}).await, words);
    raw.script("DELETE FROM execution; DELETE FROM change").await;
    let words = "table `log` of the target is not empty; a transfer needs a new database";
    refused(transfer(&source, &target, |_| {}).await, words);
    source.close().await;
    target.close().await;
}

async fn leaves_nothing_of_one_that_breaks_off(from: &Fresh, to: &Fresh) {
    let source = from.open().await;
    let tenants = fill(&source).await;
    let target = to.open().await;
    let (empty, raw) = (tables(&to.raw().await).await, to.raw().await);

    // Whoever asked for it goes away in the middle.
    let mut pages = 0;
    let gone = async {
        let stop = tokio_util::sync::CancellationToken::new();
        let moved = transfer(&source, &target, |_| {
            pages += 1;
            if pages == 9 {
                stop.cancel();
            }
        });
        stop.run_until_cancelled(moved).await.is_none()
    };
    assert!(gone.await, "it was not done yet");
    wait_until_equal(&raw, &empty).await;

    // Somebody writes to the source all the same.
    let new = execution(1);
    let mut written = false;
    let moved = transfer(&source, &target, |progress| {
        if progress.table == "execution" && !std::mem::replace(&mut written, true) {
            let write = accepted(&source, &new, tenants[1], 90_000);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(write));
        }
    });
    let moved = moved.await;
    assert!(matches!(moved, Err(StoreError::Moved)), "{moved:?}");
    wait_until_equal(&raw, &empty).await;

    // The next one finds the target as if nothing had been.
    transfer(&source, &target, |_| {}).await.expect("moves");
    check_same(&source, &target, &tenants).await;
    assert_eq!(tables(&raw).await, tables(&from.raw().await).await);
    source.close().await;
    target.close().await;
}

/// Waits until the tables hold this; PostgreSQL hears of a connection's end a moment later.
async fn wait_until_equal(raw: &Raw, expected: &BTreeMap<String, Vec<Vec<String>>>) {
    while tables(raw).await != *expected {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[test]
fn an_empty_store_is_moved_as_well() {
    between(Engine::Sqlite, Engine::Postgres, async |from, to| {
        let (source, target) = (from.open().await, to.open().await);
        let summary = transfer(&source, &target, |progress| panic!("nothing is copied: {progress:?}")).await;
        assert_eq!(summary.expect("moves").head, 0);
        let ours = tenant(&target, "ours").await;
        accepted(&target, &execution(1), ours, 1).await;
        check_replay(&target, &to.raw().await).await;
        source.close().await;
        target.close().await;
    });
}
