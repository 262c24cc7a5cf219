//! The schema: made once, by one server at a time, and never touched when it is newer than we are.

use crate::engine::{Fresh, Raw, on_both_engines};
use crate::sample::{accepted, execution, refused, tenant};
use futures_util::future::join_all;
use store::Engine;

on_both_engines!(makes_the_schema_once, refuses_a_newer_schema, lets_two_servers_start_at_once);

/// Steps in the schema's history.
const MIGRATIONS: usize = 20;

async fn schema(raw: &Raw) -> Vec<Vec<String>> {
    raw.texts(match raw {
        Raw::Sqlite(_) => "SELECT type, name, sql FROM sqlite_master ORDER BY name",
        Raw::Postgres(_) => {
            "SELECT table_name, column_name, data_type FROM information_schema.columns \
             WHERE table_schema = 'public' ORDER BY table_name, ordinal_position"
        }
    })
    .await
}

async fn makes_the_schema_once(fresh: &Fresh) {
    let store = fresh.open().await;
    let id = accepted(&store, &execution(1), tenant(&store, "ours").await, 1).await.id;
    store.close().await;
    let raw = fresh.raw().await;
    let (before, history) = (schema(&raw).await, raw.texts("SELECT version, name, at FROM migration").await);
    assert!(before.len() > 9, "there is a schema");
    assert_eq!(history.len(), MIGRATIONS);
    let store = fresh.open().await;
    assert_eq!(schema(&raw).await, before);
    assert_eq!(raw.texts("SELECT version, name, at FROM migration").await, history);
    assert_eq!(store.execution_get(id, None).await.expect("is there").id, id);
    assert_eq!(store.log_bounds().await.expect("bounds").head, 2);
    store.close().await;
}

async fn refuses_a_newer_schema(fresh: &Fresh) {
    fresh.open().await.close().await;
    let raw = fresh.raw().await;
    raw.script("INSERT INTO migration (version, name, at) VALUES (901, 'of tomorrow', 5); DROP TABLE blob").await;
    let before = schema(&raw).await;
    let words = "the database has schema 901, written by a newer quarry; this one knows up to 20";
    for _ in 0..2 {
        refused(fresh.try_open().await, words);
    }
    assert_eq!(schema(&raw).await, before);
    assert_eq!(raw.number("SELECT count(*) FROM migration").await, MIGRATIONS as u64 + 1);
    if let Raw::Postgres(client) = &raw {
        let waits = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database \
                     WHERE locktype = 'advisory' AND datname = current_database()";
        assert_eq!(client.query_one(waits, &[]).await.expect("counts").get::<_, i64>(0), 0, "the lock is given back");
    }
}

async fn lets_two_servers_start_at_once(fresh: &Fresh) {
    let opened = join_all((0..4).map(|_| fresh.try_open())).await;
    let count = opened.iter().filter(|opened| opened.is_ok()).count();
    match fresh.engine() {
        Engine::Postgres => assert_eq!(count, 4, "{opened:?}"),
        Engine::Sqlite => {
            assert_eq!(count, 1, "a folder has one server");
            let words = format!("folder `{}` is in use by another quarry", fresh.folder().display());
            for refusal in opened.iter().filter_map(|opened| opened.as_ref().err()) {
                assert_eq!(refusal.to_string(), words);
            }
        }
    }
    assert_eq!(fresh.raw().await.number("SELECT count(*) FROM migration").await, MIGRATIONS as u64);
    for store in opened.into_iter().flatten() {
        store.close().await;
    }
    // Once let go of, the folder is free.
    fresh.open().await.close().await;
}
