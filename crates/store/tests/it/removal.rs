//! The old end of the executions: what goes with them, what stays because something else names it, and a pass that broke
//! off.

use crate::dump::left;
use crate::engine::{Fresh, on_both_engines};
use crate::node::{held, new_node, report};
use crate::sample::{accepted, at, check_replay, execution, log, refused, tenant};
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use model::chunk::{Bytes, Content};
use model::node::{Finished, Held, Written};
use model::{
    Blob, Chunk, Digest, Execution, Input, NewExecution, NewNode, Noun, Outcome, Purpose, Stream, TenantId, Usage,
};
use store::{ChunkCheck, Removed, Report, Store};

on_both_engines!(
    takes_what_is_old_and_all_that_was_its_alone,
    leaves_what_something_else_names,
    puts_off_what_is_stored_again,
    goes_on_where_a_pass_broke_off,
    lets_two_servers_take_turns,
);

const DAY: i64 = 24 * 3_600_000;

fn blob(number: u8, ms: i64, passing: bool) -> Blob {
    Blob {
        digest: Digest::from_bytes([number; 32]),
        size: 100,
        created_at: at(ms),
        purpose: if passing { Purpose::Execution } else { Purpose::Kept },
    }
}

async fn node(store: &Store, whose: TenantId) -> NewNode {
    let node = new_node("one");
    store.node_join(node.clone(), whose, "ann", at(0), SignedDuration::from_hours(9_999)).await.expect("joins");
    node
}

/// Runs an execution to its end; it writes a line, and what these blobs hold.
async fn run(
    (store, whose, node): (&Store, TenantId, &NewNode),
    new: &NewExecution,
    ms: i64,
    logs: &[u8],
    dump: Option<u8>,
) -> Held {
    accepted(store, new, whose, ms).await;
    let long = |ms| Report { lease: SignedDuration::from_hours(9_999), ..report(node, whose, ms) };
    let heard = store.node_exchange(long(ms + 1)).await.expect("is heard");
    let held = held(&heard.assigned[0]);
    for number in logs.iter().chain(&dump) {
        store.blob_create(blob(*number, ms + 1, true), whose, "ann").await.expect("is noted");
    }
    let inline = Content::Inline { bytes: Bytes(b"a line\n".to_vec()) };
    let blobs = logs.iter().map(|number| Content::Blob { digest: blob(*number, 0, true).digest, size: 100 });
    let contents = std::iter::once(inline).chain(blobs);
    let chunks = contents.zip(1..).map(|(content, number)| Written {
        held,
        chunk: Chunk { number, stream: Stream::Output, at: at(ms), content, end: false },
    });
    let mut said = long(ms + 2);
    (said.sync.free, said.sync.chunks) = (0, chunks.collect());
    said.dumps.extend(dump.map(|number| (held, left(blob(number, 0, true).digest, &number.to_string(), ms))));
    let outcome = Outcome::Exited { code: 0 };
    said.sync.finished = vec![Finished {
        held,
        outcome,
        usage: Usage::default(),
        dump: None,
        manifest: None,
        findings: None,
        asked: None,
    }];
    assert_eq!(store.node_exchange(said).await.expect("is heard").refused, []);
    held
}

/// Passes until there is nothing more to do; returns how much was done.
async fn retain(store: &Store, before: Timestamp, now: Timestamp) -> (u64, u64) {
    let mut all = (0, 0);
    for _ in 0..100 {
        let Removed { executions, blobs, more } = store.executions_retain(before, now).await.expect("a pass");
        all = (all.0 + executions, all.1 + blobs);
        if !more {
            return all;
        }
    }
    panic!("a pass always finds more to do");
}

async fn has(store: &Store, whose: TenantId, number: u8) -> bool {
    store.blob_get(blob(number, 0, true).digest, whose).await.is_ok()
}

async fn takes_what_is_old_and_all_that_was_its_alone(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = node(&store, ours).await;
    store.blob_create(blob(1, 0, true), ours, "ann").await.expect("is noted");
    let reads = NewExecution { input: Input::Blob { digest: blob(1, 0, true).digest }, ..execution(10) };
    let old = run((&store, ours, &node), &reads, 10, &[2, 3], Some(4)).await;
    let young = run((&store, ours, &node), &execution(DAY), DAY, &[5], None).await;
    let waits = execution(20);
    accepted(&store, &waits, ours, 20).await;
    let head = store.log_bounds().await.expect("bounds").head;
    assert_eq!(retain(&store, at(5_000), at(2 * DAY)).await, (1, 0));
    // The last word on it is its own, whole.
    let said = log(&store, head).await;
    let removed = said.iter().find(|change| change.noun == Noun::Execution).expect("a change");
    let last: Execution = serde_json::from_str(removed.body.get()).expect("an execution");
    assert_eq!((removed.state.as_str(), last.id, last.dump.is_some()), ("removed", old.execution, true));
    let words = format!("execution `{}` does not exist", old.execution);
    refused(store.execution_get(old.execution, None).await, &words);
    let chunks = ChunkCheck { id: old.execution, tenant: None, attempt: None, after: 0, limit: 10 };
    refused(store.chunk_list(chunks).await, &words);
    store.execution_get(young.execution, None).await.expect("is young");
    store.execution_get(waits.id, None).await.expect("has not ended, however old it is");
    let raw = fresh.raw().await;
    assert_eq!(raw.number(&format!("SELECT count(*) FROM chunk WHERE execution = '{}'", old.execution)).await, 0);
    assert_eq!(raw.number("SELECT count(*) FROM execution_gone").await, 0);
    assert_eq!(raw.number("SELECT count(*) FROM blob_use").await, 0);
    // Content has a grace, for those who are about to name it.
    assert!(has(&store, ours, 1).await && has(&store, ours, 2).await);
    assert_eq!(retain(&store, at(5_000), at(2 * DAY + 3_600_000)).await, (0, 3));
    assert_eq!(store.removal_list(at(6 * DAY)).await.expect("a list").len(), 3);
    let left: Vec<_> = [has(&store, ours, 1).await, has(&store, ours, 2).await, has(&store, ours, 3).await].into();
    assert_eq!(left, [false; 3]);
    assert!(has(&store, ours, 4).await, "a dump stays");
    assert!(has(&store, ours, 5).await, "what the young one wrote stays");
    assert_eq!(retain(&store, at(5_000), at(900 * DAY)).await, (0, 0), "a dump stays for good");
    check_replay(&store, &raw).await;
    store.close().await;
}

async fn leaves_what_something_else_names(fresh: &Fresh) {
    let store = fresh.open().await;
    let [ours, theirs] = [tenant(&store, "ours").await, tenant(&store, "theirs").await];
    let node = node(&store, ours).await;
    // 1: stored by hand before, 2: by hand after, 3: written by a younger one too, 4: a younger one's input,
    // 5: another tenant's as well, 6: nobody else's, 7: a younger one's file, 8: a younger one's dump.
    store.blob_create(blob(1, 0, false), ours, "ann").await.expect("is noted");
    run((&store, ours, &node), &execution(10), 10, &[1, 2, 3, 4, 5, 6, 7, 8], None).await;
    let (kept, is_new) = store.blob_create(blob(2, 20, false), ours, "ann").await.expect("is noted");
    assert!(!is_new && kept.purpose == Purpose::Kept);
    store.blob_create(blob(5, 20, false), theirs, "eve").await.expect("is noted");
    let mut young = NewExecution { input: Input::Blob { digest: blob(4, 0, true).digest }, ..execution(DAY) };
    let file = model::sandbox::FileIn { target: "/x".into(), digest: blob(7, 0, true).digest, executable: false };
    young.sandbox.files.push(file);
    run((&store, ours, &node), &young, DAY, &[3], Some(8)).await;
    assert_eq!(retain(&store, at(5_000), at(2 * DAY)).await, (1, 0));
    assert_eq!(retain(&store, at(5_000), at(3 * DAY)).await, (0, 2));
    let check = async |expected: &[u8]| {
        let mut there = Vec::new();
        for number in 1..=8 {
            if has(&store, ours, number).await {
                there.push(number);
            }
        }
        assert_eq!(there, expected);
    };
    check(&[1, 2, 3, 4, 7, 8]).await;
    assert!(has(&store, theirs, 5).await);
    // Its bytes are somebody's still.
    assert_eq!(store.removal_list(at(6 * DAY)).await.expect("a list"), [blob(6, 0, true).digest]);
    // What the young one named goes with it.
    assert_eq!(retain(&store, at(2 * DAY), at(4 * DAY)).await, (1, 0));
    assert_eq!(retain(&store, at(2 * DAY), at(5 * DAY)).await, (0, 3));
    check(&[1, 2, 8]).await;
    store.close().await;
}

async fn puts_off_what_is_stored_again(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    // It was stored and never named: a day is enough.
    store.blob_create(blob(1, 0, true), ours, "ann").await.expect("is noted");
    assert_eq!(retain(&store, at(0), at(DAY - 1)).await, (0, 0));
    // Whoever stores it now is about to name it.
    assert!(!store.blob_create(blob(1, DAY - 1, true), ours, "ann").await.expect("is noted").1);
    assert_eq!(retain(&store, at(0), at(DAY + 3_599_000)).await, (0, 0));
    assert_eq!(retain(&store, at(0), at(DAY + 3_600_000)).await, (0, 1));
    assert!(!has(&store, ours, 1).await);
    store.close().await;
}

async fn goes_on_where_a_pass_broke_off(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = node(&store, ours).await;
    let new = execution(10);
    run((&store, ours, &node), &new, 10, &[1], None).await;
    // As a server leaves it that dies after the first of its steps.
    let raw = fresh.raw().await;
    raw.script(&format!("DELETE FROM execution WHERE id = '{}'", new.id)).await;
    raw.script(&format!("INSERT INTO execution_gone (id, tenant) VALUES ('{}', '{ours}')", new.id)).await;
    store.close().await;
    let store = fresh.open().await;
    assert_eq!(retain(&store, at(0), at(DAY)).await, (0, 0));
    assert_eq!(raw.number("SELECT (SELECT count(*) FROM chunk) + (SELECT count(*) FROM execution_gone)").await, 0);
    assert_eq!(retain(&store, at(0), at(2 * DAY)).await, (0, 1));
    store.close().await;
}

async fn lets_two_servers_take_turns(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    let news: Vec<_> = (0..300).map(|_| execution(1)).collect();
    join_all(news.iter().map(|new| accepted(&stores[0], new, ours, 1))).await;
    for new in &news {
        stores[0].execution_cancel(new.id, None, "ann", at(2)).await.expect("stops");
    }
    let head = stores[0].log_bounds().await.expect("bounds").head;
    let done = join_all(stores.iter().map(|store| retain(store, at(3), at(DAY)))).await;
    assert_eq!(done.iter().map(|done| done.0).sum::<u64>(), 300);
    assert_eq!(log(&stores[0], head).await.len(), 300, "each is removed once");
    check_replay(&stores[0], &fresh.raw().await).await;
    for store in stores {
        store.close().await;
    }
}
