//! What two servers do to the same row at the same moment: what either was told stands. The other server is a connection of
//! the test's own, which holds its transaction open until this one is seen to wait for it. SQLite has one writer.

use crate::dump::{create, digest, everybody, new, note, parcel};
use crate::engine::{Fresh, on_both_engines};
use crate::node::{join, report};
use crate::sample::{accepted, at, execution, tenant};
use crate::specification::meant;
use model::dump::query::Earnest;
use model::{Blob, NewDump, Purpose};
use serde_json::json;
use std::pin::pin;
use std::time::Duration;
use store::{DumpKey, DumpsOrder, Engine, StoreError};

on_both_engines!(
    a_ticket_and_a_property_are_both_kept,
    a_parcel_that_another_dump_names_is_not_loose,
    content_that_is_named_is_not_dropped,
    a_dump_that_is_not_meant_any_more_is_left_alone,
    an_order_that_cannot_be_answered_stops_nobody,
);

/// How long the store is waited for to reach the lock; it waits there itself, so only a broken one is missed by too short a time.
const REACH: Duration = Duration::from_millis(500);

/// Does something beside another server's transaction, which is committed meanwhile.
async fn beside<T: Send + 'static>(fresh: &Fresh, theirs: &str, ours: impl Future<Output = T> + Send + 'static) -> T {
    let raw = fresh.raw().await;
    raw.script(&format!("BEGIN; {theirs}")).await;
    let mut ours = pin!(ours);
    let early = tokio::time::timeout(REACH, &mut ours).await;
    assert!(early.is_err(), "it waits for whoever came first");
    raw.script("COMMIT").await;
    ours.await
}

async fn a_ticket_and_a_property_are_both_kept(fresh: &Fresh) {
    if fresh.engine() == Engine::Sqlite {
        return;
    }
    let store = fresh.open().await;
    let whose = tenant(&store, "ours").await;
    let dump = create(&store, whose, &new("a"), ("x", 1), &[]).await.expect("is made").dump;
    let theirs = format!("UPDATE dump SET ticket = 'OS-1' WHERE id = '{}'", dump.id);
    let (other, found) = (store.clone(), dump.clone());
    let noted =
        beside(fresh, &theirs, async move { note(&other, &found, json!({"properties": {"a": 1}})).await }).await;
    let kept = store.dump_get(DumpKey::Id(dump.id), everybody(whose)).await.expect("is there");
    assert_eq!((kept.ticket.as_deref(), &kept.properties["a"]), (Some("OS-1"), &json!(1)));
    assert_eq!(noted.ticket.as_deref(), Some("OS-1"), "and the log says so");
    store.close().await;
}

async fn a_parcel_that_another_dump_names_is_not_loose(fresh: &Fresh) {
    if fresh.engine() == Engine::Sqlite {
        return;
    }
    let store = fresh.open().await;
    let whose = tenant(&store, "ours").await;
    parcel(&store, whose, &["one"], 1).await;
    let dump = create(&store, whose, &new("a"), ("x", 1), &["one"]).await.expect("is made").dump;
    let second = NewDump { manifest: digest("second"), ..new("b") };
    let other = create(&store, whose, &second, ("y", 1), &[]).await.expect("is made").dump;
    let theirs = format!(
        "UPDATE parcel SET loose_at = NULL; \
         INSERT INTO dump_parcel (dump, parcel, tenant) SELECT '{}', number, tenant FROM parcel",
        other.id
    );
    let purger = store.clone();
    let purge = async move { purger.dump_purge(DumpKey::Id(dump.id), everybody(whose), "ann", at(9)).await };
    beside(fresh, &theirs, purge).await.expect("is purged");
    let raw = fresh.raw().await;
    assert_eq!(raw.number("SELECT count(*) FROM parcel WHERE loose_at IS NULL").await, 1);
    // One that was marked by mistake is not removed either.
    raw.script("UPDATE parcel SET loose_at = 1").await;
    assert_eq!(store.parcel_gc(at(99), 10, "house", at(99)).await.expect("a pass").parcels, 0);
    assert_eq!(raw.number("SELECT count(*) FROM parcel WHERE loose_at IS NULL").await, 1);
    store.close().await;
}

async fn content_that_is_named_is_not_dropped(fresh: &Fresh) {
    if fresh.engine() == Engine::Sqlite {
        return;
    }
    let store = fresh.open().await;
    let whose = tenant(&store, "ours").await;
    let input = Blob { digest: digest("input"), size: 9, created_at: at(0), purpose: Purpose::Execution };
    store.blob_create(input, whose, "ann").await.expect("is noted");
    let new = execution(1);
    accepted(&store, &new, whose, 1).await;
    let theirs = format!(
        "SELECT digest FROM blob FOR KEY SHARE; INSERT INTO blob_use (execution, digest) VALUES ('{}', '{}')",
        new.id,
        digest("input")
    );
    let (dropper, later) = (store.clone(), at(48 * 3_600_000));
    let drop = async move { dropper.executions_retain(at(0), later).await };
    assert_eq!(beside(fresh, &theirs, drop).await.expect("a pass").blobs, 0);
    assert!(store.blob_get(digest("input"), whose).await.is_ok());
    store.close().await;
}

/// Orders to many dumps go to those that still are as they must be, whatever was known when they were found.
async fn a_dump_that_is_not_meant_any_more_is_left_alone(fresh: &Fresh) {
    if fresh.engine() == Engine::Sqlite {
        return;
    }
    let store = fresh.open().await;
    let whose = tenant(&store, "ours").await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let new = NewDump { manifest: digest(name), ..new(name) };
        ids.push(create(&store, whose, &new, (name, 1), &[]).await.expect("is made").dump.id);
    }
    let theirs = format!(
        "UPDATE dump SET ticket = 'OS-1' WHERE id = '{}'; UPDATE dump SET name = 'other' WHERE id = '{}'",
        ids[0], ids[1]
    );
    let purger = store.clone();
    let purge = async move {
        let order = (DumpsOrder::Purge, Earnest::Real);
        purger.dumps_change(meant("ticket=undefined"), order, whose, ("ann", at(9))).await
    };
    let purged = beside(fresh, &theirs, purge).await.expect("is purged");
    assert_eq!((purged.matched, purged.changed), (3, 2));
    let kept = store.dump_get(DumpKey::Id(ids[0]), everybody(whose)).await.expect("is there");
    assert_eq!((kept.ticket.as_deref(), kept.purged), (Some("OS-1"), None));
    store.close().await;
}

/// What somebody asks beforehand holds up nobody who writes.
async fn an_order_that_cannot_be_answered_stops_nobody(fresh: &Fresh) {
    if fresh.engine() == Engine::Sqlite {
        return;
    }
    let store = fresh.open().await;
    let whose = tenant(&store, "ours").await;
    let node = join(&store, whose, "one", 0).await;
    let raw = fresh.raw().await;
    raw.script("BEGIN; LOCK TABLE dump IN ACCESS EXCLUSIVE MODE").await;
    let asking = store.dumps_change(meant("psargs=*x*"), (DumpsOrder::Purge, Earnest::Real), whose, ("ann", at(9)));
    let mut asking = pin!(asking);
    let early = tokio::time::timeout(REACH, &mut asking).await;
    assert!(early.is_err(), "it waits for the lock");
    let renewed = tokio::time::timeout(REACH, store.session_renew(report(&node, whose, 20_000))).await;
    assert!(renewed.is_ok_and(|renewed| renewed.is_ok()), "others go on");
    let asked = asking.await;
    assert!(matches!(asked, Err(StoreError::Slow { .. })), "{asked:?}");
    raw.script("COMMIT").await;
    store.close().await;
}
