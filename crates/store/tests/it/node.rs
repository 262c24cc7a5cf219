//! Nodes, sessions, chunks and images in the store: what a report does, who wins where two meet, and what a claim costs.

use crate::dump::left;
use crate::engine::{Fresh, on_both_engines};
use crate::sample::{accepted, at, check_replay, execution, laned, refused, tenant};
use futures_util::future::join_all;
use jiff::SignedDuration;
use model::chunk::{Bytes, Content};
use model::image::{Layer, Packing, Platform};
use model::limits::{MAX_CAUSE_CHARS, MAX_CHUNK_BYTES, MAX_MARK_BYTES};
use model::node::{Finished, Held, Used, Written};
use model::{
    Blob, Chunk, ExecutionId, ExecutionState, ImageConfig, ImageId, ImageSource, ImageState, LimitSet, Manifest,
    Network, NewExecution, NewImage, NewNode, NodeId, NodeState, Offer, Outcome, Purpose, SandboxKind, SessionId,
    SetUpFault, Stream, Sync, TenantId, Usage,
};
use std::collections::BTreeMap;
use store::{Assigned, ImageKey, MAX_SHAPES, Report, Store, StoreError, random};

on_both_engines!(
    hears_a_report_as_one,
    keeps_nothing_of_a_report_that_it_refuses,
    gives_what_had_its_place_before_it_asked,
    gives_back_what_a_silent_session_held,
    never_gives_to_a_session_that_is_gone,
    gives_only_what_fits,
    passes_over_what_nobody_serves,
    comes_to_every_need,
    forgets_what_is_long_gone,
    gives_up_what_nobody_serves,
    finishes_an_image_with_its_execution,
    keeps_a_log_within_its_limit,
    links_a_dump_that_is_there,
    notes_what_is_used_while_it_runs,
    keeps_as_much_of_a_cause_as_it_may_have,
    keeps_nothing_for_a_chunk_that_it_refuses,
);

const LEASE: SignedDuration = SignedDuration::from_secs(30);

/// Returns a node that nobody has seen before.
pub(crate) fn new_node(name: &str) -> NewNode {
    let offer = Offer {
        version: "test".to_owned(),
        platform: Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None },
        kinds: vec![SandboxKind::Process, SandboxKind::Oci],
        networks: vec![Network::None],
        runtimes: Vec::new(),
        slots: 4,
        cpu_milli: 4_000,
        memory_bytes: 8 << 30,
        enforces: LimitSet::ALL,
        mounts: Vec::new(),
        labels: BTreeMap::new(),
    };
    let (id, session) = (NodeId::new(at(0), random()), SessionId::new(at(0), random()));
    NewNode { id, name: name.to_owned(), session, offer }
}

/// Returns what a node says that holds nothing and would take one.
pub(crate) fn report(node: &NewNode, whose: TenantId, ms: i64) -> Report {
    let sync = Sync {
        session: node.session,
        free: 1,
        held: Vec::new(),
        chunks: Vec::new(),
        finished: Vec::new(),
        used: Vec::new(),
        wait_ms: 0,
        trouble: None,
        leaving: false,
    };
    let dumps = BTreeMap::new();
    Report { node: node.id, owner: (whose, "ann".to_owned()), sync, dumps, serves: None, at: at(ms), lease: LEASE }
}

/// Returns what an assignment stands for.
pub(crate) fn held(assigned: &Assigned) -> Held {
    Held { execution: assigned.execution.id, attempt: assigned.execution.attempt }
}

/// Returns what a node says whose execution has written something.
pub(crate) fn written(node: &NewNode, whose: TenantId, held: Held, ms: i64) -> Report {
    let content = Content::Inline { bytes: Bytes(vec![0, 1, 255]) };
    let chunk = Chunk { number: 1, stream: Stream::Output, at: at(ms), content, end: false };
    let mut report = report(node, whose, ms);
    report.sync.free = 0;
    report.sync.held = vec![held];
    report.sync.chunks = vec![Written { held, chunk }];
    report
}

pub(crate) fn finished(node: &NewNode, whose: TenantId, held: Held, ms: i64) -> Report {
    let mut report = report(node, whose, ms);
    report.sync.free = 0;
    let outcome = Outcome::Exited { code: 0 };
    report.sync.finished = vec![Finished {
        held,
        outcome,
        usage: Usage::default(),
        dump: None,
        manifest: None,
        findings: None,
        asked: None,
    }];
    report
}

pub(crate) fn new_image(ms: i64) -> NewImage {
    NewImage {
        id: ImageId::new(at(ms), random()),
        execution: ExecutionId::new(at(ms), random()),
        name: Some("box".to_owned()),
        source: ImageSource::Registry { reference: "example.org/box".to_owned(), platform: None, runtime: None },
        plain_http: false,
    }
}

pub(crate) fn manifest(blob: Blob, architecture: &str) -> Manifest {
    let digest = |one: &str| format!("sha256:{}", one.repeat(64));
    let layer =
        Layer { blob: blob.digest, size: blob.size, packing: Packing::Tar, digest: digest("a"), diff_id: digest("b") };
    let platform = Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None };
    Manifest { digest: digest("c"), platform, config: ImageConfig::default(), layers: vec![layer] }
}

/// Makes an image of one layer and removes it again.
pub(crate) async fn image(store: &Store, whose: TenantId, node: &NewNode, blob: Blob) {
    // Older than all that waits, so it comes first; what the node holds it is given once more.
    let new = new_image(-1);
    store.image_create(new.clone(), whose, "ann", at(-1)).await.expect("is asked for");
    let mut claim = report(node, whose, 50_005);
    (claim.sync.free, claim.serves) = (2, Some(whose));
    let heard = store.node_exchange(claim).await.expect("is heard");
    let held = heard.assigned.iter().find(|one| one.image.is_some()).map(held).expect("is given the image");
    let mut done = finished(node, whose, held, 50_006);
    done.sync.finished[0].manifest = Some(manifest(blob, "amd64"));
    assert_eq!(store.node_exchange(done).await.expect("is heard").refused, []);
    store.image_remove(new.id, None, "ann", at(50_007)).await.expect("is removed");
}

pub(crate) async fn join(store: &Store, whose: TenantId, name: &str, ms: i64) -> NewNode {
    let node = new_node(name);
    store.node_join(node.clone(), whose, "ann", at(ms), LEASE).await.expect("joins");
    node
}

async fn gives_what_had_its_place_before_it_asked(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    for ms in (2..20).step_by(2) {
        let (new, (place, placed)) = (execution(ms), tokio::sync::oneshot::channel());
        let accepting = store.execution_accept(&new, ours, ("ann", at(ms)), || place.send(()).expect("is waited for"));
        let asking = async {
            placed.await.expect("has its place");
            store.node_exchange(report(&node, ours, ms)).await.expect("is heard")
        };
        let (made, heard) = futures_util::join!(accepting, asking);
        assert!(made.expect("is accepted").1);
        let given: Vec<_> = heard.assigned.iter().map(held).collect();
        assert_eq!(given.iter().map(|held| held.execution).collect::<Vec<_>>(), [new.id]);
        store.node_exchange(finished(&node, ours, given[0], ms + 1)).await.expect("is heard");
    }
    store.close().await;
}

async fn hears_a_report_as_one(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let [first, second] = [laned(1, "l"), laned(2, "l")];
    accepted(&store, &first, ours, 1).await;
    accepted(&store, &second, ours, 2).await;
    let heard = store.node_exchange(report(&node, ours, 3)).await.expect("is heard");
    assert_eq!((heard.node.state, heard.is_sated), (NodeState::Ready, false));
    let one = held(&heard.assigned[0]);
    assert_eq!((one.execution, one.attempt), (first.id, 1));
    // What is finished and what is claimed go together: the next of the lane comes with the end of the one before.
    let mut said = finished(&node, ours, one, 4);
    said.sync.free = 5;
    let heard = store.node_exchange(said.clone()).await.expect("is heard");
    assert_eq!(heard.assigned.iter().map(|one| one.execution.id).collect::<Vec<_>>(), [second.id]);
    assert!(heard.is_sated);
    let two = held(&heard.assigned[0]);
    // Said again, it is given again, and ends nothing twice.
    let again = store.node_exchange(said).await.expect("is heard");
    assert_eq!((again.assigned.iter().map(held).collect::<Vec<_>>(), again.refused), (vec![two], vec![]));
    let heard = store.node_exchange(written(&node, ours, two, 5)).await.expect("is heard");
    assert_eq!((heard.assigned.len(), heard.forget.len(), heard.refused.len()), (0, 0, 0));
    let heard = store.session_renew(written(&node, ours, two, 6)).await.expect("is renewed");
    assert_eq!(heard.held, BTreeMap::from([(second.id, (1, ExecutionState::Running))]));
    // Its lease always lasts two thirds of a whole one, and is a whole one again when that was all that was left.
    for (now, renewed) in [(9_999, None), (10_004, Some(10_004)), (19_000, None), (20_100, Some(20_100))] {
        let heard = store.node_exchange(written(&node, ours, two, now)).await.expect("is heard");
        assert!(heard.expires_at > at(now) + LEASE * 2 / 3 && heard.expires_at <= at(now) + LEASE, "{now}");
        assert!(renewed.is_none_or(|renewed| heard.expires_at == at(renewed) + LEASE), "{now}");
    }
    // Nobody else speaks for it.
    let mut foreign = report(&node, ours, 7);
    foreign.owner.1 = "eve".to_owned();
    let words = format!("session `{}` is not the node's, or its lease ran out", node.session);
    refused(store.node_exchange(foreign).await.map(|_| ()), &words);
    check_replay(&store, &fresh.raw().await).await;
    store.close().await;
}

/// What is said and who says it are looked at together, so the first must not count without the second.
async fn keeps_nothing_of_a_report_that_it_refuses(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let new = execution(1);
    accepted(&store, &new, ours, 1).await;
    let heard = store.node_exchange(report(&node, ours, 2)).await.expect("is heard");
    let one = held(&heard.assigned[0]);
    let mut foreign = finished(&node, ours, one, 3);
    foreign.sync.chunks = written(&node, ours, one, 3).sync.chunks;
    let mut late = Report { at: at(40_000), ..foreign.clone() };
    late.sync.free = 4;
    foreign.owner.1 = "eve".to_owned();
    let words = format!("session `{}` is not the node's, or its lease ran out", node.session);
    for (ms, told) in [(4, foreign), (5, late)] {
        // Whoever is written in the same transaction loses nothing by it.
        let beside = execution(ms);
        let (told, made) = futures_util::join!(
            store.node_exchange(told),
            store.execution_accept(&beside, ours, ("ann", at(ms)), || ())
        );
        refused(told.map(|_| ()), &words);
        assert!(made.expect("is accepted").1);
    }
    let raw = fresh.raw().await;
    let running = "SELECT count(*) FROM execution WHERE state = 'running'";
    let count = ["SELECT count(*) FROM chunk", running, "SELECT count(*) FROM change WHERE state = 'succeeded'"];
    for (sql, number) in count.into_iter().zip([0, 1, 0]) {
        assert_eq!(raw.number(sql).await, number, "{sql}");
    }
    // Who may speak says the same, and it counts.
    assert_eq!(store.node_exchange(finished(&node, ours, one, 6)).await.expect("is heard").moved.len(), 1);
    check_replay(&store, &raw).await;
    store.close().await;
}

async fn gives_back_what_a_silent_session_held(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let new = execution(1);
    accepted(&store, &new, ours, 1).await;
    store.node_exchange(report(&node, ours, 10_002)).await.expect("is heard");
    assert_eq!(store.sessions_expire(at(40_001)).await.expect("a pass").len(), 0);
    let ended = join_all([store.sessions_expire(at(40_002)), store.sessions_expire(at(40_002))]).await;
    let back: Vec<_> = ended.into_iter().flat_map(|ended| ended.expect("a pass")).flat_map(|(_, lost)| lost).collect();
    assert_eq!(back.iter().map(|one| (one.id, one.losses)).collect::<Vec<_>>(), [(new.id, 1)]);
    let words = format!("session `{}` is not the node's, or its lease ran out", node.session);
    refused(store.node_exchange(report(&node, ours, 40_003)).await.map(|_| ()), &words);
    let node = store.node_get(node.id.to_string().as_str().into(), None, ours).await.expect("is there");
    assert_eq!((node.state, node.session), (NodeState::Lost, None));
    check_replay(&store, &fresh.raw().await).await;
    store.close().await;
}

async fn never_gives_to_a_session_that_is_gone(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    for round in 0..6_i64 {
        let node = join(&stores[0], ours, &format!("n{round}"), 0).await;
        let news: Vec<_> = (0..8).map(|_| execution(1)).collect();
        join_all(news.iter().map(|new| accepted(&stores[0], new, ours, 1))).await;
        // One server hears the node in the last moment, the other finds it silent in the same one.
        let mut said = report(&node, ours, 29_999);
        said.sync.free = 8;
        let (heard, ended) = futures_util::join!(stores[0].node_exchange(said), stores[1].sessions_expire(at(30_000)));
        ended.expect("a pass");
        let raw = fresh.raw().await;
        let sql = format!("SELECT count(*) FROM execution WHERE session = '{}'", node.session);
        let sessions = format!("SELECT count(*) FROM session WHERE id = '{}'", node.session);
        match heard {
            Ok(_) => assert_eq!((raw.number(&sql).await, raw.number(&sessions).await), (8, 1)),
            Err(error) => {
                assert!(matches!(error, StoreError::Refused(_)), "{error}");
                assert_eq!((raw.number(&sql).await, raw.number(&sessions).await), (0, 0));
            }
        }
        stores[0].sessions_expire(at(999_999)).await.expect("a pass");
        for new in news {
            stores[0].execution_cancel(new.id, None, "user", at(999_999)).await.expect("stops");
        }
    }
    for store in stores {
        store.close().await;
    }
}

async fn gives_only_what_fits(fresh: &Fresh) {
    let store = fresh.open().await;
    let [ours, theirs] = [tenant(&store, "ours").await, tenant(&store, "theirs").await];
    let node = join(&store, ours, "one", 0).await;
    let large = NewExecution { limits: model::Limits { memory_bytes: 64 << 30, ..Default::default() }, ..execution(1) };
    let (good, foreign) = (execution(2), execution(3));
    accepted(&store, &large, ours, 1).await;
    accepted(&store, &foreign, theirs, 2).await;
    accepted(&store, &good, ours, 3).await;
    let mut said = report(&node, ours, 4);
    (said.sync.free, said.serves) = (9, Some(ours));
    let heard = store.node_exchange(said.clone()).await.expect("is heard");
    assert_eq!(heard.assigned.iter().map(|one| one.execution.id).collect::<Vec<_>>(), [good.id]);
    (said.sync.held, said.serves) = (vec![held(&heard.assigned[0])], None);
    let heard = store.node_exchange(said).await.expect("is heard");
    assert_eq!(heard.assigned.iter().map(|one| one.execution.id).collect::<Vec<_>>(), [foreign.id]);
    let shape = store.execution_shape(large.id).await.expect("reads").flatten().expect("waits");
    assert_eq!(node.offer.fits(&shape), Err("needs 65536 MiB of memory".to_owned()));
    store.close().await;
}

/// A claim walks from one shape to the next: what nobody serves, however much of it, costs one step.
async fn passes_over_what_nobody_serves(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let large =
        |ms| NewExecution { limits: model::Limits { memory_bytes: 64 << 30, ..Default::default() }, ..execution(ms) };
    let news: Vec<_> = (0..3_000).map(large).collect();
    join_all(news.iter().map(|new| accepted(&store, new, ours, 1))).await;
    let good = execution(9_000);
    accepted(&store, &good, ours, 9_000).await;
    assert_eq!(store.queue_list().await.expect("queues").len(), 2);
    let heard = store.node_exchange(report(&node, ours, 9_001)).await.expect("is heard");
    assert_eq!(heard.assigned[0].execution.id, good.id);
    store.close().await;
}

/// Who has more needs waiting than a claim looks at is served all the same: those behind take turns.
async fn comes_to_every_need(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let odd = |number: u32| {
        let limits = model::Limits { memory_bytes: u64::from(100_000 + number) << 20, ..Default::default() };
        NewExecution { limits, ..execution(number.into()) }
    };
    let news: Vec<_> = (0..MAX_SHAPES as u32 * 3 + 10).map(odd).collect();
    join_all(news.iter().map(|new| accepted(&store, new, ours, 1))).await;
    // By its text it comes last.
    let limits = model::Limits { memory_bytes: 1_099 << 20, ..Default::default() };
    let good = NewExecution { limits, ..execution(9_000) };
    accepted(&store, &good, ours, 9_000).await;
    let (mut seen, mut has) = (Vec::new(), Vec::new());
    for turn in 0..4 {
        let queues = store.queue_turn().await.expect("queues");
        assert_eq!(store.queue_list().await.expect("queues"), queues, "claims see the same until the next turn");
        let mut said = report(&node, ours, 9_001 + turn);
        said.sync.held.clone_from(&has);
        let heard = store.node_exchange(said).await.expect("is heard");
        has.extend(heard.assigned.iter().map(held));
        seen.push((queues.len(), heard.assigned.iter().map(|one| one.execution.id).collect::<Vec<_>>()));
    }
    let few = MAX_SHAPES as usize;
    let (none, found) = (Vec::new(), vec![good.id]);
    assert_eq!(seen, [(few * 2, none.clone()), (few + 11, found), (few * 2, none.clone()), (few * 2, none)]);
    store.close().await;
}

async fn finishes_an_image_with_its_execution(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let blob = Blob { digest: model::Digest::from_bytes([7; 32]), size: 5, created_at: at(0), purpose: Purpose::Kept };
    // A layer that was not stored makes no image.
    for (ms, stored) in [(10, false), (20, true)] {
        if stored {
            store.blob_create(blob, ours, "ann").await.expect("is noted");
        }
        let new = new_image(ms);
        store.image_create(new.clone(), ours, "ann", at(ms)).await.expect("is asked for");
        assert!(store.image_create(new.clone(), ours, "ann", at(ms)).await.expect("is there").1.is_none());
        let heard = store.node_exchange(report(&node, ours, ms + 1)).await.expect("is heard");
        let mut done = finished(&node, ours, held(&heard.assigned[0]), ms + 2);
        done.sync.finished[0].manifest = Some(manifest(blob, "arm64"));
        store.node_exchange(done).await.expect("is heard");
        let image = store.image_get(ImageKey::Id(new.id), None, ours).await.expect("is there");
        let state = if stored { ImageState::Ready } else { ImageState::Failed };
        assert_eq!(image.state, state, "{:?}", image.cause);
    }
    // It is made for another machine, and no execution in it comes to this node.
    let image = store.image_resolve("box", ours).await.expect("is ready");
    assert_eq!(store.image_resolve(&format!("sha256:{}", "c".repeat(64)), ours).await.expect("is ready"), image);
    let new = NewExecution { image: Some("box".to_owned()), ..execution(30) };
    store.execution_accept_in(&new, &image, ("ann", at(30)), || {}).await.expect("is accepted");
    let heard = store.node_exchange(report(&node, ours, 31)).await.expect("is heard");
    assert_eq!(heard.assigned.len(), 0);
    let shape = store.execution_shape(new.id).await.expect("reads").flatten().expect("waits");
    assert_eq!(node.offer.fits(&shape), Err("needs platform `linux/arm64`".to_owned()));
    // A cancelled execution leaves no image that is being made for ever.
    let gone = new_image(40);
    store.image_create(gone.clone(), ours, "ann", at(40)).await.expect("is asked for");
    store.execution_cancel(gone.execution, None, "ann", at(41)).await.expect("stops");
    let image = store.image_get(ImageKey::Id(gone.id), None, ours).await.expect("is there");
    assert_eq!((image.state, image.cause.as_deref()), (ImageState::Failed, Some("its execution was cancelled")));
    check_replay(&store, &fresh.raw().await).await;
    store.close().await;
}

/// What nobody serves is given up when its time is over, and nothing else is; whoever waits behind it in its lane goes on.
async fn gives_up_what_nobody_serves(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let limits = model::Limits { memory_bytes: 64 << 30, ..Default::default() };
    let large = |ms| NewExecution { limits, ..laned(ms, "lane") };
    let (old, next, young, other) = (large(1), large(2), NewExecution { limits, ..execution(50) }, execution(3));
    for (new, ms) in [(&old, 1), (&next, 2), (&young, 50), (&other, 3)] {
        accepted(&store, new, ours, ms).await;
    }
    let queues = store.queue_list().await.expect("queues");
    let queue = queues.iter().find(|queue| queue.shape.as_ref().is_some_and(|shape| shape.memory_bytes > 1 << 35));
    let give_up = async |before| {
        let queue = queue.expect("it waits");
        let failed = store.executions_give_up(queue, at(before), "no node has that".to_owned(), at(60)).await;
        failed.expect("looks").iter().map(|failed| (failed.id, failed.state)).collect::<Vec<_>>()
    };
    assert_eq!(give_up(1).await, []);
    assert_eq!(give_up(40).await, [(old.id, ExecutionState::Failed)]);
    assert_eq!(give_up(40).await, [(next.id, ExecutionState::Failed)]);
    assert_eq!(give_up(40).await, []);
    let found = store.execution_get(old.id, None).await.expect("is there");
    let cause = "no node has that".to_owned();
    assert_eq!(found.outcome, Some(Outcome::SetUpFailed { cause, fault: SetUpFault::Refused }));
    for waits in [&young, &other] {
        let state = store.execution_get(waits.id, None).await.expect("is there").state;
        assert_eq!(state, ExecutionState::Queued);
    }
    check_replay(&store, &fresh.raw().await).await;
    store.close().await;
}

/// What is gone, and what came to nothing, is forgotten once it is as old as executions may grow, or when a user says so.
async fn forgets_what_is_long_gone(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let leave = async |node: &NewNode, ms| {
        let mut said = report(node, ours, ms);
        (said.sync.free, said.sync.leaving) = (0, true);
        store.node_exchange(said).await.expect("is heard");
    };
    let (old, held) = (join(&store, ours, "old", 0).await, join(&store, ours, "held", 1).await);
    let (stays, young) = (join(&store, ours, "stays", 2).await, join(&store, ours, "young", 500).await);
    for node in [&old, &held, &young] {
        leave(node, 600).await;
    }
    let found = store.node_get("held".into(), None, ours).await.expect("is found by its name, although it has left");
    store.node_hold(&found, (model::node::HoldKind::Cordon, "slow".to_owned()), "ann", at(601)).await.expect("is held");
    let gone = store.node_get("young".into(), None, ours).await.expect("is there");
    let refusal = store.node_lift(&gone, "ann", at(602)).await.expect_err("has left");
    assert!(refusal.to_string().contains("node `young` is gone"), "{refusal}");
    let image = new_image(3);
    store.image_create(image.clone(), ours, "ann", at(3)).await.expect("is asked for");
    store.execution_cancel(image.execution, None, "ann", at(4)).await.expect("stops");
    let is_image = async || store.image_get(ImageKey::Id(image.id), None, ours).await.is_ok();
    let nodes = async || {
        let mut there = Vec::new();
        for node in [&old, &held, &young, &stays] {
            there.push(store.node_get(node.id.to_string().as_str().into(), None, ours).await.is_ok());
        }
        there
    };
    assert_eq!((store.nodes_retain(at(0), at(700)).await.expect("looks"), nodes().await), (0, vec![true; 4]));
    assert_eq!((store.images_retain(at(4), at(700)).await.expect("looks"), is_image().await), (0, true));
    assert_eq!(store.nodes_retain(at(400), at(701)).await.expect("forgets"), 1);
    assert_eq!(nodes().await, [false, true, true, true]);
    assert_eq!((store.images_retain(at(400), at(701)).await.expect("forgets"), is_image().await), (1, false));
    store.node_remove(&gone, "ann", at(702)).await.expect("is forgotten");
    assert_eq!(nodes().await, [false, true, false, true]);
    let words = fresh.raw().await.texts("SELECT noun, state FROM change WHERE state = 'removed' ORDER BY seq").await;
    assert_eq!(words, [["node", "removed"], ["image", "removed"], ["node", "removed"]]);
    join(&store, ours, "young", 800).await;
    store.close().await;
}

async fn keeps_a_log_within_its_limit(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let new = NewExecution { limits: model::Limits { log_bytes: 10_000, ..Default::default() }, ..execution(1) };
    accepted(&store, &new, ours, 1).await;
    let heard = store.node_exchange(report(&node, ours, 2)).await.expect("is heard");
    let held = held(&heard.assigned[0]);
    let say = async |number: u64, bytes: usize| {
        let content = Content::Inline { bytes: Bytes(vec![b'x'; bytes]) };
        let chunk = Chunk { number, stream: Stream::Output, at: at(3), content, end: false };
        let mut said = report(&node, ours, 3);
        (said.sync.free, said.sync.held, said.sync.chunks) = (0, vec![held], vec![Written { held, chunk }]);
        let heard = store.node_exchange(said).await.expect("is heard");
        heard.refused.into_iter().map(|refused| refused.error.code).collect::<Vec<_>>()
    };
    // The limit, and room for the mark that says that it was reached; not a byte more.
    let room = 10_000 + usize::try_from(MAX_MARK_BYTES).expect("is small");
    let (whole, rest) = (room / MAX_CHUNK_BYTES, room % MAX_CHUNK_BYTES);
    for number in 1..=whole as u64 {
        assert_eq!(say(number, MAX_CHUNK_BYTES).await, Vec::<String>::new());
    }
    let last = whole as u64 + 1;
    assert_eq!(say(last, rest + 1).await, ["chunks_too_long"]);
    assert_eq!(say(last, rest).await, Vec::<String>::new());
    assert_eq!(say(last + 1, 1).await, ["chunks_too_long"]);
    assert_eq!(say(last + 1, 0).await, Vec::<String>::new());
    let kept = fresh.raw().await.number("SELECT cast(sum(size) AS bigint) FROM chunk").await;
    assert_eq!(kept, room as u64);
    store.close().await;
}

async fn links_a_dump_that_is_there(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let new = execution(1);
    accepted(&store, &new, ours, 1).await;
    let heard = store.node_exchange(report(&node, ours, 2)).await.expect("is heard");
    let held = held(&heard.assigned[0]);
    let core =
        Blob { digest: model::Digest::from_bytes([3; 32]), size: 5, created_at: at(0), purpose: Purpose::Execution };
    let crash = |held, ms| {
        let mut said = finished(&node, ours, held, ms);
        said.sync.finished[0].outcome = Outcome::Signalled { signal: 11 };
        said.dumps.insert(held, left(core.digest, "1", ms));
        said
    };
    // One whose manifest nobody stored is no dump; the execution has ended all the same.
    assert_eq!(store.node_exchange(crash(held, 3)).await.expect("is heard").refused, []);
    let there = store.execution_get(new.id, None).await.expect("is there");
    assert_eq!((there.state, there.dump), (ExecutionState::Failed, None));
    store.blob_create(core, ours, "ann").await.expect("is noted");
    accepted(&store, &execution(2), ours, 4).await;
    let heard = store.node_exchange(report(&node, ours, 5)).await.expect("is heard");
    let held = self::held(&heard.assigned[0]);
    let said = crash(held, 6);
    for _ in 0..2 {
        assert_eq!(store.node_exchange(said.clone()).await.expect("is heard").refused, []);
    }
    let there = store.execution_get(held.execution, None).await.expect("is there");
    let taken = store::Taken { reach: None, namespace: ours };
    let key = store::DumpKey::Id(there.dump.expect("is linked"));
    let dump = store.dump_get(key, taken).await.expect("is there");
    assert_eq!((dump.execution, dump.facts.time), (Some(held.execution), Some(at(6))));
    // What a stale attempt left is nobody's.
    let stale = Held { attempt: 9, ..held };
    let heard = store.node_exchange(crash(stale, 7)).await.expect("is heard");
    assert_eq!(heard.refused[0].error.code, "attempt_stale");
    check_replay(&store, &fresh.raw().await).await;
    store.close().await;
}

async fn notes_what_is_used_while_it_runs(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let new = execution(1);
    accepted(&store, &new, ours, 1).await;
    let heard = store.node_exchange(report(&node, ours, 2)).await.expect("is heard");
    let held = held(&heard.assigned[0]);
    let head = store.log_bounds().await.expect("bounds").head;
    let say = async |held: Held, wall_ms: u64, ms: i64| {
        let mut said = report(&node, ours, ms);
        (said.sync.free, said.sync.held) = (0, vec![held]);
        said.sync.used = vec![Used { held, usage: Usage { wall_ms, ..Usage::default() } }];
        store.node_exchange(said).await.expect("is heard");
        store.execution_get(new.id, None).await.expect("is there").usage.map(|usage| usage.wall_ms)
    };
    assert_eq!(say(held, 5, 3).await, Some(5));
    assert_eq!(say(held, 7, 4).await, Some(7));
    assert_eq!(say(Held { attempt: 2, ..held }, 9, 5).await, Some(7), "the fence holds for it too");
    assert_eq!(store.log_bounds().await.expect("bounds").head, head, "nobody is told");
    // An attempt that is lost has used nothing that counts.
    store.sessions_expire(at(60_000)).await.expect("a pass");
    let there = store.execution_get(new.id, None).await.expect("is there");
    assert_eq!((there.state, there.usage), (ExecutionState::Queued, None));
    check_replay(&store, &fresh.raw().await).await;
    store.close().await;
}

async fn keeps_as_much_of_a_cause_as_it_may_have(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let made = accepted(&store, &execution(1), ours, 1).await;
    let heard = store.node_exchange(report(&node, ours, 2)).await.expect("is heard");
    let mut done = finished(&node, ours, held(&heard.assigned[0]), 3);
    let cause = "ü".repeat(MAX_CAUSE_CHARS + 1);
    done.sync.finished[0].outcome = Outcome::SetUpFailed { cause: cause.clone(), fault: SetUpFault::Machine };
    done.sync.trouble = Some(cause);
    let heard = store.node_exchange(done).await.expect("is heard");
    assert_eq!(heard.node.hold.map(|hold| hold.cause.chars().count()), Some(MAX_CAUSE_CHARS));
    let ended = store.execution_get(made.id, None).await.expect("is there");
    let Some(Outcome::SetUpFailed { cause, .. }) = ended.outcome else { panic!("{ended:?}") };
    assert_eq!(cause.chars().count(), MAX_CAUSE_CHARS);
    store.close().await;
}

async fn keeps_nothing_for_a_chunk_that_it_refuses(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let layer =
        Blob { digest: model::Digest::from_bytes([7; 32]), size: 7, created_at: at(0), purpose: Purpose::Image };
    store.blob_create(layer, ours, "ann").await.expect("is noted");
    accepted(&store, &execution(1), ours, 1).await;
    let heard = store.node_exchange(report(&node, ours, 2)).await.expect("is heard");
    let mut says = written(&node, ours, held(&heard.assigned[0]), 3);
    says.sync.chunks[0].chunk.content = Content::Blob { digest: layer.digest, size: 8 };
    assert_eq!(store.node_exchange(says).await.expect("is heard").refused.len(), 1);
    let there = store.blob_get(layer.digest, ours).await.expect("is there");
    assert_eq!(there.purpose, Purpose::Image);
    store.close().await;
}
