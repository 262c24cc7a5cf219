//! Which tenant has which content.

use crate::engine::{Fresh, on_both_engines};
use crate::sample::{at, log, refused, tenant};
use futures_util::future::join_all;
use model::{Blob, Digest, Noun};

on_both_engines!(notes_it_once, pages);

fn blob(number: u8, ms: i64) -> Blob {
    Blob {
        digest: Digest::from_bytes([number; 32]),
        size: u64::from(number) << 40,
        created_at: at(ms),
        purpose: model::Purpose::Kept,
    }
}

async fn notes_it_once(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let store = &stores[0];
    let (ours, theirs) = (tenant(store, "ours").await, tenant(store, "theirs").await);
    let head = store.log_bounds().await.expect("bounds").head;
    let made = join_all((0..16).map(|n| stores[n % 2].blob_create(blob(7, n as i64), ours, "ann"))).await;
    let made: Vec<_> = made.into_iter().map(|made| made.expect("is noted")).collect();
    assert_eq!(made.iter().filter(|(_, is_new)| *is_new).count(), 1);
    let there = made[0].0;
    assert!(made.iter().all(|(blob, _)| *blob == there), "the first time counts");
    assert_eq!(store.blob_get(there.digest, ours).await.expect("is there"), there);
    let words = format!("blob `{}` does not exist", there.digest);
    refused(store.blob_get(there.digest, theirs).await, &words);
    assert!(store.blob_create(blob(7, 50), theirs, "eve").await.expect("is noted").1, "each tenant has its own");
    assert_eq!(store.blob_get(there.digest, theirs).await.expect("is there").created_at, at(50));
    let changes = log(store, head).await;
    let seen: Vec<_> = changes.iter().map(|one| (one.noun, one.state.as_str(), one.tenant, one.by.as_str())).collect();
    assert_eq!(seen, [(Noun::Blob, "stored", ours, "ann"), (Noun::Blob, "stored", theirs, "eve")]);
    assert_eq!(changes[0].body.get(), serde_json::to_string(&there).expect("JSON"));
    for store in stores {
        store.close().await;
    }
}

async fn pages(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    for number in [9, 3, 200, 7, 1, 90, 15] {
        store.blob_create(blob(number, 1), ours, "ann").await.expect("is noted");
    }
    store.blob_create(blob(8, 1), theirs, "eve").await.expect("is noted");
    let head = store.log_bounds().await.expect("bounds").head;
    let mut found: Vec<Blob> = Vec::new();
    loop {
        let after = found.last().map(|blob| blob.digest);
        let (page, as_of) = store.blob_list(ours, after, 3).await.expect("a page");
        assert_eq!(as_of, head);
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, [1, 3, 7, 9, 15, 90, 200].map(|number| blob(number, 1)));
    store.close().await;
}
