//! The old end of the log: dropped by age and by size, wholly, and never under somebody who keeps up.

use crate::engine::{Fresh, Raw, on_both_engines};
use crate::sample::{Chance, accept, at, execution, log, refused, tenant};
use futures_util::future::join_all;
use jiff::SignedDuration;
use model::TenantId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::{ChangeFilter, Engine, Retention, Store, StoreError};

on_both_engines!(
    drops_by_age,
    drops_by_size,
    keeps_by_the_clock_that_is_ahead,
    tells_a_cursor_that_is_too_old,
    wakes_from_a_sleep_in_which_all_was_dropped,
    finishes_what_a_crash_broke_off,
    takes_nothing_from_those_who_keep_up,
);

const FOREVER: SignedDuration = SignedDuration::from_hours(24 * 365);
/// Rows that fill a segment of the smallest size, and more.
const SEGMENT: usize = 200;

async fn write(store: &Store, ours: TenantId, count: usize, ms: i64) {
    let news: Vec<_> = (0..count).map(|_| execution(ms)).collect();
    for made in join_all(news.iter().map(|new| accept(store, new, ours, ms))).await {
        made.expect("accepted");
    }
}

/// Makes sure that the tables say what the floor says, and returns floor and head.
async fn check_tables(store: &Store, raw: &Raw) -> (u64, u64) {
    let bounds = store.log_bounds().await.expect("bounds");
    assert_eq!(raw.number("SELECT coalesce(min(seq), 0) FROM change WHERE seq <= (SELECT floor FROM log)").await, 0);
    assert_eq!(raw.number("SELECT count(*) FROM change").await, bounds.head - bounds.floor);
    let segments = raw.texts("SELECT number, first_seq, last_seq FROM log_segment ORDER BY number").await;
    let current = raw.texts("SELECT segment, first_seq, head FROM log").await;
    let mut next = bounds.floor + 1;
    for segment in segments.iter().chain(&current) {
        assert_eq!(segment[1], next.to_string(), "segments follow each other: {segments:?} {current:?}");
        next = segment[2].parse::<u64>().expect("a number") + 1;
        let of = format!(
            "SELECT count(*) FROM change WHERE segment = {} AND NOT seq BETWEEN {} AND {}",
            segment[0], segment[1], segment[2]
        );
        assert_eq!(raw.number(&of).await, 0, "a segment holds its own rows");
    }
    if matches!(raw, Raw::Postgres(_)) {
        // One ahead is ready, for those who append while a segment is being closed.
        let last: u64 = current[0][0].parse().expect("a number");
        let numbers = segments.iter().chain(&current).map(|segment| segment[0].clone()).chain([(last + 1).to_string()]);
        let mut partitions: Vec<_> = numbers.map(|number| format!("change_{number}")).collect();
        partitions.sort();
        let there = raw
            .texts("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'change\\_%' ORDER BY relname COLLATE \"C\"")
            .await;
        assert_eq!(there.concat(), partitions, "one partition for each segment, and no other");
    }
    (bounds.floor, bounds.head)
}

async fn drops_by_age(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let retention = Retention { age: SignedDuration::from_secs(160), bytes: u64::MAX };
    let mut seconds = 0;
    while seconds < 600 {
        // Segments are closed when they are a sixteenth of the age old.
        seconds += 11;
        write(&store, ours, 5, seconds * 1_000).await;
        store.log_retain(retention, at(seconds * 1_000)).await.expect("a pass");
        let (floor, _) = check_tables(&store, &fresh.raw().await).await;
        let kept = log(&store, floor).await;
        let age = |at_ms: jiff::Timestamp| at(seconds * 1_000).duration_since(at_ms);
        assert!(kept.iter().all(|change| age(change.at) <= SignedDuration::from_secs(160 + 22)), "nothing older stays");
        if seconds > 200 {
            assert!(age(kept[0].at) >= SignedDuration::from_secs(160 - 22), "and nothing younger goes");
        }
    }
    let dropped = store.log_retain(retention, at(10_000_000)).await.expect("a pass");
    assert!(dropped.segments > 0);
    let (floor, head) = check_tables(&store, &fresh.raw().await).await;
    assert_eq!(floor, head, "in the end everything is too old");
    assert_eq!(store.log_retain(retention, at(10_000_000)).await.expect("a pass").segments, 0);
    store.close().await;
}

async fn drops_by_size(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let retention = Retention { age: FOREVER, bytes: 512 << 10 };
    let mut dropped = 0;
    for round in 0..12 {
        write(&store, ours, SEGMENT, round).await;
        dropped += store.log_retain(retention, at(round)).await.expect("a pass").segments;
        let (floor, _) = check_tables(&store, &fresh.raw().await).await;
        let kept: usize = log(&store, floor).await.iter().map(|change| change.body.get().len() + 120).sum();
        assert!(kept < (512 + 192) << 10, "{kept} bytes are kept");
        assert!(floor == 0 || kept > (512 - 256) << 10, "only {kept} bytes are kept");
    }
    assert!(dropped > 4, "{dropped} segments were dropped");
    store.close().await;
}

async fn keeps_by_the_clock_that_is_ahead(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    // The last to write has a clock that is far behind the others'.
    for ms in [100_000, 100_001, 5] {
        write(&store, ours, 1, ms).await;
    }
    let retention = Retention { age: SignedDuration::from_secs(60), bytes: u64::MAX };
    for (seconds, floor) in [(120, 0), (160, 0), (161, 4)] {
        store.log_retain(retention, at(seconds * 1_000)).await.expect("a pass");
        assert_eq!(store.log_bounds().await.expect("bounds").floor, floor, "after {seconds} s");
    }
    store.close().await;
}

async fn tells_a_cursor_that_is_too_old(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let retention = Retention { age: SignedDuration::from_secs(10), bytes: u64::MAX };
    write(&store, ours, 50, 0).await;
    store.log_retain(retention, at(1_000)).await.expect("a pass");
    write(&store, ours, 50, 11_000).await;
    store.log_retain(retention, at(11_000)).await.expect("a pass");
    assert_eq!(check_tables(&store, &fresh.raw().await).await, (51, 101));
    let all = ChangeFilter::default();
    for cursor in [0, 1, 50] {
        let words = format!("the log begins after change 51; cursor {cursor} is too old");
        refused(store.log_page(cursor, &all, 10).await, &words);
        // What is still in memory a follower may get all the same, but then all of it.
        match store.log_follow(cursor, all.clone()).next(10).await {
            Ok(page) => assert_eq!(page.items[0].seq, cursor + 1),
            followed => refused(followed, &words),
        }
    }
    for cursor in [51, 60, 100] {
        assert_eq!(store.log_page(cursor, &all, 1).await.expect("a page").items[0].seq, cursor + 1);
        assert_eq!(store.log_follow(cursor, all.clone()).next(1).await.expect("a page").items[0].seq, cursor + 1);
    }
    store.close().await;
}

async fn wakes_from_a_sleep_in_which_all_was_dropped(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let retention = Retention { age: SignedDuration::from_secs(10), bytes: u64::MAX };
    // Somebody follows and goes away; what then comes is dropped before anybody follows again.
    store.log_follow(0, ChangeFilter::default()).next(10).await.expect("a page");
    write(&store, ours, 30, 0).await;
    store.log_retain(retention, at(60_000)).await.expect("a pass");
    assert_eq!(check_tables(&store, &fresh.raw().await).await, (31, 31));
    let mut follower = store.log_follow(31, ChangeFilter::default());
    let new = execution(2);
    let hear = tokio::time::timeout(Duration::from_secs(10), follower.next(10));
    let (made, heard) = futures_util::join!(accept(&store, &new, ours, 61_000), hear);
    made.expect("accepted");
    let page = heard.expect("the follower is woken").expect("a page");
    assert_eq!((page.next, page.items[0].id.clone()), (32, new.id.to_string()));
    store.close().await;
}

async fn finishes_what_a_crash_broke_off(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let raw = fresh.raw().await;
    let generous = Retention { age: FOREVER, bytes: 1 << 20 };
    for round in 0..6 {
        write(&store, ours, SEGMENT, round).await;
        assert!(store.log_retain(generous, at(round)).await.expect("a pass").more, "a segment was closed");
    }
    assert_eq!(check_tables(&store, &raw).await.0, 0, "and none dropped");
    // As if the server had died: the floor is raised, and some of what lies below it is already gone.
    raw.script("UPDATE log SET floor = (SELECT last_seq FROM log_segment WHERE number = 3)").await;
    match fresh.engine() {
        Engine::Sqlite => raw.script("DELETE FROM change WHERE seq <= 250").await,
        Engine::Postgres => raw.script("DROP TABLE change_1").await,
    }
    let floor = store.log_bounds().await.expect("bounds").floor;
    refused(
        store.log_page(floor - 1, &ChangeFilter::default(), 10).await,
        &format!("the log begins after change {floor}; cursor {} is too old", floor - 1),
    );
    assert_eq!(log(&store, floor).await[0].seq, floor + 1);
    store.close().await;
    let store = fresh.open().await;
    let small = Retention { age: FOREVER, bytes: 400 << 10 };
    store.log_retain(small, at(10)).await.expect("a pass");
    let (after, head) = check_tables(&store, &raw).await;
    assert!(after >= floor && after < head, "floor {floor} became {after}");
    store.close().await;
}

async fn takes_nothing_from_those_who_keep_up(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    let written = AtomicBool::new(false);
    let last = 1 + 8 * 40 * 20;
    let writers = async {
        let writer = |n: usize| {
            let store = &stores[n % 2];
            async move {
                for _ in 0..40 {
                    write(store, ours, 20, 1).await;
                }
            }
        };
        join_all((0..8).map(writer)).await;
        written.store(true, Ordering::Relaxed);
    };
    let retain = async |store: &Store| {
        let retention = Retention { age: FOREVER, bytes: 1 << 20 };
        let mut chance = Chance::new();
        let mut dropped = 0;
        while !written.load(Ordering::Relaxed) {
            match store.log_retain(retention, at(1)).await {
                Ok(done) => dropped += done.segments,
                // A partition that somebody reads at this moment is dropped the next time.
                Err(StoreError::Postgres { .. } | StoreError::Unavailable { .. })
                    if fresh.engine() == Engine::Postgres => {}
                Err(error) => panic!("{}", error.chain()),
            }
            // Passes shall meet the writers at ever other moments.
            tokio::time::sleep(Duration::from_millis(chance.below(40) as u64)).await;
        }
        dropped
    };
    let follow = async |store: &Store| {
        let mut follower = store.log_follow(0, ChangeFilter::default());
        let mut cursor = 0;
        while cursor < last {
            for change in follower.next(1_000).await.expect("it keeps up").items {
                cursor += 1;
                assert_eq!(change.seq, cursor);
            }
        }
    };
    let ((), first, second, (), ()) =
        futures_util::join!(writers, retain(&stores[0]), retain(&stores[1]), follow(&stores[0]), follow(&stores[1]));
    assert!(first + second > 10, "{first} and {second} segments were dropped");
    let quiet = Retention { age: FOREVER, bytes: 1 << 20 };
    stores[0].log_retain(quiet, at(2)).await.expect("a pass when nobody is in the way");
    let (_, head) = check_tables(&stores[0], &fresh.raw().await).await;
    assert_eq!(head, last);
    for store in stores {
        store.close().await;
    }
}
