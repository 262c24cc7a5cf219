//! The log: every row seen exactly once and in order, by whoever follows, however slow, from wherever.

use crate::engine::{Fresh, on_both_engines, soak};
use crate::sample::{accept, accepted, at, execution, log, refused, tenant, user};
use futures_util::future::join_all;
use jiff::Timestamp;
use model::{Change, Noun, Role, TenantId};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use store::{ChangeFilter, Engine, Follower, Store};

on_both_engines!(
    shows_every_row_once_and_in_order,
    shows_all_to_those_who_come_late,
    hands_on_what_the_database_shows,
    filters,
    pages,
    wakes_a_follower,
    lets_its_followers_go_when_it_closes,
);

/// Writers at a time.
const WRITERS: usize = 8;
/// What each of them has on its way at a time.
const BATCH: usize = 16;

/// Returns how many rows are written.
fn rows() -> usize {
    if soak() { 100_000 } else { 10_000 }
}

/// Accepts `count` executions from eight writers, which take turns with the stores.
async fn write(stores: &[Store], ours: TenantId, count: usize) {
    let writer = |n: usize| async move {
        for _ in 0..count / WRITERS / BATCH {
            let news: Vec<_> = (0..BATCH).map(|_| execution(1)).collect();
            for made in join_all(news.iter().map(|new| accept(&stores[n % stores.len()], new, ours, 1))).await {
                assert!(made.expect("accepted").1);
            }
        }
    };
    join_all((0..WRITERS).map(writer)).await;
}

/// Follows until `last` was seen, and makes sure that it saw everything once and in order.
async fn follow(mut follower: Follower, last: u64, limit: usize) {
    let mut ids = HashSet::new();
    let mut cursor = follower.cursor();
    while cursor < last {
        let page = follower.next(limit).await.expect("a page");
        assert!(!page.items.is_empty() && page.items.len() <= limit);
        for change in page.items {
            cursor += 1;
            assert_eq!(change.seq, cursor, "no hole, no turn");
            assert!(ids.insert(change.id.clone()), "{} was seen twice", change.id);
        }
        assert_eq!((page.next, follower.cursor()), (cursor, cursor));
        assert!(page.head >= page.next, "head {} behind {}", page.head, page.next);
    }
    assert_eq!(cursor, last);
}

async fn shows_every_row_once_and_in_order(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    let count = rows() / WRITERS / BATCH * WRITERS * BATCH;
    let last = 1 + count as u64;
    // This one takes nothing until all is written: the ring has long gone on without it.
    let slow = stores[0].log_follow(1, ChangeFilter::default());
    let from = |store: &Store, after| store.log_follow(after, ChangeFilter::default());
    let half = async {
        let mut sees = from(&stores[1], 1);
        while sees.next(500).await.expect("a page").next < last / 2 {}
        follow(from(&stores[1], 0), last, 333).await;
    };
    futures_util::join!(
        write(&stores, ours, count),
        follow(from(&stores[0], 0), last, 1_000),
        follow(from(&stores[1], 0), last, 7),
        half,
    );
    follow(slow, last, 1_000).await;
    assert_eq!(log(&stores[0], 0).await.len() as u64, last);
    for store in stores {
        store.close().await;
    }
}

async fn shows_all_to_those_who_come_late(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    // Nobody follows while this is written, and it is more than the ring holds.
    write(&stores[..1], ours, 8_960).await;
    for after in [0, 1, 4_000, 8_959, 8_960] {
        for store in &stores {
            follow(store.log_follow(after, ChangeFilter::default()), 8_961, 900).await;
        }
    }
    for store in stores {
        store.close().await;
    }
}

async fn hands_on_what_the_database_shows(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    let mut follower = stores[0].log_follow(0, ChangeFilter::default());
    let mut seen = follower.next(9).await.expect("a page").items;
    // Finer than what is kept, and by turns through the store that is followed and another one.
    let at = Timestamp::from_nanosecond(1_700_000_000_123_456_789).expect("is an instant");
    for turn in 0..12 {
        let made = stores[turn / 3 % 2].execution_accept(&execution(1), ours, ("ann", at), || {}).await;
        assert!(made.expect("is accepted").1);
        seen.extend(follower.next(9).await.expect("a page").items);
    }
    let shown = log(&stores[0], 0).await;
    let text = |changes: &[Arc<Change>]| changes.iter().map(|change| json(change)).collect::<Vec<_>>();
    assert_eq!(text(&seen), text(&shown));
    for store in stores {
        store.close().await;
    }
}

fn json(change: &Change) -> String {
    serde_json::to_string(change).expect("can be written")
}

async fn filters(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let (ann, eve) = (user(&store, ours, "ann", Role::User).await, user(&store, theirs, "eve", Role::User).await);
    let mut ids = vec![ours.to_string(), theirs.to_string(), ann.id.to_string(), eve.id.to_string()];
    for (n, whose) in [ours, theirs, ours].into_iter().enumerate() {
        ids.push(accepted(&store, &execution(n as i64), whose, 1).await.id.to_string());
    }
    let check = async |filter: ChangeFilter, expected: &[usize]| {
        let expected: Vec<_> = expected.iter().map(|index| ids[*index].clone()).collect();
        let page = store.log_page(0, &filter, 100).await.expect("a page");
        assert_eq!(page.items.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), expected, "{filter:?}");
        assert_eq!((page.next, page.head), (7, 7), "the cursor moves past what is not wanted");
        let (mut follower, mut seen) = (store.log_follow(0, filter.clone()), Vec::new());
        while follower.cursor() < 7 {
            let page = follower.next(2).await.expect("a page");
            assert!(page.items.len() <= 2);
            seen.extend(page.items.iter().map(|one| one.id.clone()));
        }
        assert_eq!(seen, expected, "{filter:?}");
    };
    let all = ChangeFilter::default();
    check(all.clone(), &[0, 1, 2, 3, 4, 5, 6]).await;
    check(ChangeFilter { tenant: Some(ours), ..all.clone() }, &[0, 2, 4, 6]).await;
    check(ChangeFilter { noun: Some(Noun::User), ..all.clone() }, &[2, 3]).await;
    check(ChangeFilter { noun: Some(Noun::Execution), tenant: Some(theirs), ..all.clone() }, &[5]).await;
    check(ChangeFilter { id: Some(ids[6].clone()), ..all.clone() }, &[6]).await;
    check(ChangeFilter { id: Some(ids[6].clone()), tenant: Some(theirs), ..all.clone() }, &[]).await;
    check(ChangeFilter { noun: Some(Noun::Blob), ..all }, &[]).await;
    store.close().await;
}

async fn pages(fresh: &Fresh) {
    let store = fresh.open().await;
    let all = ChangeFilter::default();
    let empty = store.log_page(0, &all, 10).await.expect("a page");
    assert_eq!((empty.items.len(), empty.next, empty.head), (0, 0, 0));
    let ours = tenant(&store, "ours").await;
    write(std::slice::from_ref(&store), ours, 2_560).await;
    for (after, limit, count, next) in
        [(0, 10, 10, 10), (5, 1, 1, 6), (2_550, 100, 11, 2_561), (2_561, 100, 0, 2_561), (2_000, 1_000, 561, 2_561)]
    {
        let page = store.log_page(after, &all, limit).await.expect("a page");
        assert_eq!((page.items.len(), page.next, page.head), (count, next, 2_561));
        assert!(page.items.iter().map(|one| one.seq).eq(after + 1..=next));
    }
    // One look goes through so many and no more, even when nothing of it is wanted.
    let nothing = ChangeFilter { noun: Some(Noun::Blob), ..all.clone() };
    let page = store.log_page(0, &nothing, 10).await.expect("a page");
    assert_eq!((page.items.len(), page.next), (0, 2_000));
    // A cursor ahead of the log is kept as it is.
    for ahead in [3_000, i64::MAX as u64, u64::MAX] {
        let page = store.log_page(ahead, &all, 10).await.expect("a page");
        assert_eq!((page.items.len(), page.next, page.head), (0, ahead, 2_561));
    }
    store.close().await;
}

async fn wakes_a_follower(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    for store in &stores {
        let mut follower = store.log_follow(1, ChangeFilter::default());
        let early = tokio::time::timeout(Duration::from_millis(40), follower.next(10)).await;
        assert!(early.is_err(), "there is nothing to tell yet: {early:?}");
    }
    for round in 1..6 {
        let mut followers: Vec<_> =
            stores.iter().map(|store| store.log_follow(round, ChangeFilter::default())).collect();
        let hear = join_all(followers.iter_mut().map(|follower| follower.next(10)));
        let new = execution(1);
        let begun = std::time::Instant::now();
        let (_, heard) = futures_util::join!(accepted(&stores[0], &new, ours, 1), hear);
        for page in heard {
            let page = page.expect("a page");
            assert_eq!((page.items[0].id.clone(), page.next), (new.id.to_string(), round + 1));
        }
        // What another server writes is heard at the latest when its clock strikes.
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    for store in stores {
        store.close().await;
    }
}

async fn lets_its_followers_go_when_it_closes(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let mut follower = store.log_follow(0, ChangeFilter::default());
    assert_eq!(follower.next(10).await.expect("a page").next, 1);
    let (ended, ()) = futures_util::join!(follower.next(10), store.close());
    refused(ended, "the database is not available");
    refused(accept(&store, &execution(1), ours, 1).await, "the database is not available");
    refused(store.log_bounds().await, "the database is not available");
    if fresh.engine() == Engine::Sqlite {
        let wal = fresh.folder().join("quarry.db-wal");
        assert!(!wal.exists(), "all is in the one file once the store is closed");
    }
    store.close().await;
}

#[test]
fn a_change_of_another_tenant_is_never_wanted() {
    crate::engine::run(Engine::Sqlite, async |fresh| {
        let store = fresh.open().await;
        let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
        let change = log(&store, 0).await.remove(0);
        assert!(ChangeFilter { tenant: Some(ours), ..ChangeFilter::default() }.wants(&change));
        assert!(!ChangeFilter { tenant: Some(theirs), ..ChangeFilter::default() }.wants(&change));
        assert_eq!(change.at, at(0));
        store.close().await;
    });
}
