//! Nodes, as far as the protocol goes: a simulated one joins, syncs, is given work, loses answers, is cut off and drained.

use crate::app::TestApp;
use crate::dump;
use crate::engine::{Place, on_both_engines, on_postgres};
use jiff::SignedDuration;
use model::chunk::{Bytes, Content};
use model::dump::DumpFindings;
use model::image::{ArchiveKind, Layer, Platform};
use model::node::{Cordon, Finished, Held, Work, Written};
use model::parcel::{FrameQuery, FramesMissing};
use model::{
    Chunk, ChunkPage, Dump, DumpKind, DumpState, Execution, ExecutionId, ExecutionState, Image, ImageId, ImageSource,
    ImageState, Input, LimitSet, Manifest, Network, NewDump, NewExecution, NewImage, NewNode, NewRegistry, Node,
    NodeId, NodeState, Offer, Outcome, Retry, Role, SandboxKind, SessionId, Stream, Sync, SyncAnswer, Usage,
};
use reqwest::Method;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use store::{Clock, random};

on_both_engines!(
    is_given_work_and_ends_it_once,
    repairs_a_lost_answer,
    hears_of_a_cancellation_at_once,
    loses_what_it_holds_when_it_falls_silent,
    keeps_what_others_may_not_touch,
    is_cordoned_drained_and_quarantined,
    grows_no_older_than_it_may_and_is_replaced,
    takes_only_what_it_fits,
    makes_images_and_runs_in_them,
    reads_its_input,
    lets_an_older_sync_go,
    waits_on_while_it_reports,
    may_touch_the_blobs_of_what_it_holds,
    brings_the_dump_of_what_it_holds_and_analyses_it,
    keeps_what_it_holds_when_a_dump_cannot_be_read,
);
on_postgres!(serves_what_another_server_accepted);

/// A node that speaks and runs nothing.
#[derive(Clone)]
pub(crate) struct Sim {
    pub(crate) id: NodeId,
    session: SessionId,
    pub(crate) token: String,
    held: Vec<Held>,
}

fn offer() -> Offer {
    Offer {
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
    }
}

impl Sim {
    pub(crate) async fn join(app: &TestApp, token: &str, name: &str) -> Self {
        let id = NodeId::new(app.clock.now(), random());
        let sim =
            Self { id, session: SessionId::new(app.clock.now(), random()), token: token.to_owned(), held: vec![] };
        app.post(token, "/v1/nodes", &sim.new_node(name)).await.must(201);
        sim
    }

    fn new_node(&self, name: &str) -> NewNode {
        NewNode { id: self.id, name: name.to_owned(), session: self.session, offer: offer() }
    }

    pub(crate) fn says(&self) -> Sync {
        Sync {
            used: Vec::new(),
            session: self.session,
            free: 4,
            held: self.held.clone(),
            chunks: Vec::new(),
            finished: Vec::new(),
            wait_ms: 0,
            trouble: None,
            leaving: false,
        }
    }

    /// Says something, and keeps what it is given.
    async fn sync(&mut self, app: &TestApp, sync: &Sync) -> SyncAnswer {
        let path = format!("/v1/nodes/{}/sync", self.id);
        let answer: SyncAnswer = app.post(&self.token, &path, sync).await.must(200).json();
        self.held.extend(answer.assigned.iter().map(|assigned| assigned.held));
        self.held.retain(|held| !answer.forget.contains(held));
        answer
    }

    pub(crate) async fn ask(&mut self, app: &TestApp) -> SyncAnswer {
        self.sync(app, &self.says()).await
    }

    /// Waits until it hears something.
    async fn wait(&mut self, app: &TestApp) -> SyncAnswer {
        self.sync(app, &Sync { wait_ms: 10_000, ..self.says() }).await
    }

    fn done(&mut self, held: Held, outcome: Outcome) -> Sync {
        self.held.retain(|one| *one != held);
        let finished = Finished {
            held,
            outcome,
            usage: Usage { wall_ms: 3, ..Usage::default() },
            dump: None,
            manifest: None,
            findings: None,
            asked: None,
        };
        Sync { finished: vec![finished], ..self.says() }
    }
}

/// Lets a node in, for those who need one to be there.
pub(crate) async fn join(app: &TestApp, token: &str) -> Node {
    let sim = Sim::join(app, token, "some").await;
    app.get(token, &format!("/v1/nodes/{}", sim.id)).await.must(200).json()
}

/// Asks for an image, for those who need one to be there.
pub(crate) async fn image(app: &TestApp, token: &str) -> Image {
    let new = NewImage {
        id: ImageId::new(app.clock.now(), random()),
        execution: ExecutionId::new(app.clock.now(), random()),
        name: None,
        source: ImageSource::Registry { reference: "example.org/some".to_owned(), platform: None, runtime: None },
        plain_http: false,
    };
    app.post(token, "/v1/images", &new).await.must(201).json()
}

fn output(held: Held, number: u64, text: &str) -> Written {
    Written { held, chunk: chunk(number, Stream::Output, text) }
}

fn chunk(number: u64, stream: Stream, text: &str) -> Chunk {
    let content = Content::Inline { bytes: Bytes(text.as_bytes().to_vec()) };
    Chunk { number, stream, at: jiff::Timestamp::UNIX_EPOCH, content, end: false }
}

async fn execution(app: &TestApp, id: ExecutionId) -> Execution {
    app.get(&app.house, &format!("/v1/executions/{id}")).await.must(200).json()
}

const GOOD: Outcome = Outcome::Exited { code: 0 };

async fn is_given_work_and_ends_it_once(place: &Place) {
    let app = TestApp::start(place).await;
    let mut sim = Sim::join(&app, &app.house, "one").await;
    // The same words again change nothing; another node cannot have the name, nor another user the id.
    app.post(&app.house, "/v1/nodes", &sim.new_node("one")).await.must(200);
    let twin = NewNode { id: NodeId::new(app.clock.now(), random()), ..sim.new_node("one") };
    app.post(&app.house, "/v1/nodes", &twin).await.error(409, "node_exists");
    let otto = app.somebody("house", "otto", Role::Operator).await;
    app.post(&otto.secret, "/v1/nodes", &sim.new_node("two")).await.error(409, "node_exists");
    let path = format!("/v1/nodes/{}/sync", sim.id);
    app.post(&otto.secret, &path, &sim.says()).await.error(409, "session_gone");

    let first = sim.ask(&app).await;
    assert_eq!((first.state, first.assigned.len()), (NodeState::Ready, 0));
    assert!(first.lease_ms > 10_000, "{first:?}");
    let begun = Instant::now();
    let mut waiting = sim.clone();
    let (answer, made) = tokio::join!(waiting.wait(&app), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        app.execution(&app.house).await
    });
    assert!(begun.elapsed() < Duration::from_secs(5), "it was woken, not left to wait");
    sim = waiting;
    let held = answer.assigned[0].held;
    assert_eq!((held.execution, held.attempt), (made.id, 1));
    assert_eq!(execution(&app, made.id).await.state, ExecutionState::Running);
    let node: Node = app.get(&app.house, "/v1/nodes/one").await.must(200).json();
    assert_eq!((node.busy, node.session), (Some(1), Some(sim.session)));

    let chunks = vec![output(held, 1, "hello "), output(held, 2, "world")];
    let said = Sync { chunks: chunks.clone(), ..sim.says() };
    assert_eq!(sim.sync(&app, &said).await.refused, []);
    // Again the same; other words; a gap.
    let said = Sync { chunks: [chunks, vec![output(held, 2, "x"), output(held, 4, "x")]].concat(), ..sim.says() };
    let refused = sim.sync(&app, &said).await.refused;
    assert_eq!(refused.iter().map(|one| one.error.code.as_str()).collect::<Vec<_>>(), ["chunk_exists", "chunk_gap"]);

    let done = sim.done(held, GOOD);
    for _ in 0..2 {
        let answer = sim.sync(&app, &done).await;
        assert_eq!((answer.refused.len(), answer.forget.len()), (0, 0));
    }
    let ended = execution(&app, made.id).await;
    assert_eq!(
        (ended.state, ended.attempt, ended.usage.map(|usage| usage.wall_ms)),
        (ExecutionState::Succeeded, 1, Some(3))
    );
    let other = sim.done(held, Outcome::Exited { code: 1 });
    assert_eq!(sim.sync(&app, &other).await.refused[0].error.code, "execution_succeeded");
    let log = app.get(&app.house, &format!("/v1/executions/{}/log?follow=true", made.id)).await.must(200);
    assert_eq!(&*log.body, b"hello world");
    let path = format!("/v1/executions/{}/chunks?limit=1&after=1&wait_ms=9000", made.id);
    let page: ChunkPage = app.get(&app.house, &path).await.must(200).json();
    assert_eq!((page.next, page.attempt, page.items.len()), (2, 1, 1));

    let retry = Retry { id: ExecutionId::new(app.clock.now(), random()) };
    let path = format!("/v1/executions/{}/retry", made.id);
    let again: Execution = app.post(&app.house, &path, &retry).await.must(201).json();
    assert_eq!((again.origin.id, again.recipe), (Some(made.id.to_string()), made.recipe));
    app.post(&app.house, &path, &retry).await.must(200);
    let path = format!("/v1/executions/{}/retry", retry.id);
    app.post(&app.house, &path, &Retry { id: made.id }).await.error(409, "execution_running");
    app.stop().await;
}

async fn repairs_a_lost_answer(place: &Place) {
    let app = TestApp::start(place).await;
    let mut sim = Sim::join(&app, &app.house, "one").await;
    let made = app.execution(&app.house).await;
    assert_eq!(sim.ask(&app).await.assigned.len(), 1);
    // The answer never came: the node holds nothing, and is given the same attempt again.
    sim.held.clear();
    let again = sim.ask(&app).await;
    assert_eq!(
        again.assigned.iter().map(|one| (one.held.execution, one.held.attempt)).collect::<Vec<_>>(),
        [(made.id, 1)]
    );
    assert_eq!(sim.ask(&app).await.assigned.len(), 0);
    // What it holds without having been given it, it has to forget.
    let stray = Held { execution: made.id, attempt: 7 };
    let said = Sync { held: [sim.held.clone(), vec![stray]].concat(), ..sim.says() };
    assert_eq!(sim.sync(&app, &said).await.forget, [stray]);
    let said = sim.clone().done(stray, GOOD);
    assert_eq!(sim.sync(&app, &said).await.refused[0].error.code, "attempt_stale");
    assert_eq!(execution(&app, made.id).await.state, ExecutionState::Running);
    app.stop().await;
}

async fn hears_of_a_cancellation_at_once(place: &Place) {
    let app = TestApp::start(place).await;
    let mut sim = Sim::join(&app, &app.house, "one").await;
    let made = app.execution(&app.house).await;
    sim.ask(&app).await;
    let begun = Instant::now();
    let mut waiting = sim.clone();
    let (answer, _) = tokio::join!(waiting.wait(&app), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        app.order(&app.house, &format!("/v1/executions/{}/cancel", made.id)).await.must(200)
    });
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(answer.cancel, [made.id]);
    // Until it has stopped it is told again, and not all the time.
    let begun = Instant::now();
    assert_eq!(sim.wait(&app).await.cancel, [made.id]);
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    let done = sim.done(sim.held[0], Outcome::Cancelled);
    assert_eq!(sim.sync(&app, &done).await.cancel, []);
    assert_eq!(execution(&app, made.id).await.state, ExecutionState::Cancelled);
    app.stop().await;
}

async fn until(app: &TestApp, id: ExecutionId, state: ExecutionState) -> Execution {
    loop {
        let found = execution(app, id).await;
        if found.state == state {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn loses_what_it_holds_when_it_falls_silent(place: &Place) {
    let clock = Clock::manual(Clock::System.now());
    let app = TestApp::start_at(place, clock.clone(), |_| ()).await;
    let mut sim = Sim::join(&app, &app.house, "one").await;
    let made = app.execution(&app.house).await;
    let held = sim.ask(&app).await.assigned[0].held;
    clock.advance(SignedDuration::from_secs(29));
    sim.ask(&app).await;
    clock.advance(SignedDuration::from_secs(29));
    assert_eq!(sim.ask(&app).await.lease_ms, 30_000, "each sync that came late renewed the lease");
    clock.advance(SignedDuration::from_secs(31));
    let lost = until(&app, made.id, ExecutionState::Queued).await;
    assert_eq!((lost.losses, lost.attempt, lost.lease), (1, 1, None));
    let node: Node = app.get(&app.house, "/v1/nodes/one").await.must(200).json();
    assert_eq!((node.state, node.session), (NodeState::Lost, None));
    let path = format!("/v1/nodes/{}/sync", sim.id);
    app.post(&app.house, &path, &sim.says()).await.error(409, "session_gone");
    // It comes again, under a new session, and what it says of the old attempt does not count.
    sim.session = SessionId::new(app.clock.now(), random());
    app.post(&app.house, "/v1/nodes", &sim.new_node("one")).await.must(200);
    let done = sim.done(held, GOOD);
    let answer = sim.sync(&app, &done).await;
    assert_eq!(answer.refused[0].error.code, "attempt_stale");
    assert_eq!((answer.assigned[0].held.attempt, answer.state), (2, NodeState::Ready));
    // Joining anew while it holds something costs a loss; leaving in order costs none.
    sim.session = SessionId::new(app.clock.now(), random());
    app.post(&app.house, "/v1/nodes", &sim.new_node("one")).await.must(200);
    assert_eq!(execution(&app, made.id).await.losses, 2);
    sim.held.clear();
    assert_eq!(sim.ask(&app).await.assigned[0].held.attempt, 3);
    let bye = Sync { leaving: true, ..sim.says() };
    assert_eq!(sim.sync(&app, &bye).await.state, NodeState::Gone);
    let back = execution(&app, made.id).await;
    assert_eq!((back.state, back.losses), (ExecutionState::Queued, 2));
    app.post(&app.house, &path, &sim.says()).await.error(409, "session_gone");
    app.stop().await;
}

async fn keeps_what_others_may_not_touch(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    app.admin("other").await;
    let eve = app.somebody("other", "eve", Role::Admin).await;
    // A tenant's own node serves that tenant alone, and nobody else sees it.
    let mut sim = Sim::join(&app, &ada.secret, "own").await;
    let theirs = app.execution(&eve.secret).await;
    let ours = app.execution(&ada.secret).await;
    let given: Vec<_> = sim.ask(&app).await.assigned.iter().map(|one| one.held.execution).collect();
    assert_eq!(given, [ours.id]);
    app.get(&eve.secret, &format!("/v1/nodes/{}", sim.id)).await.error(404, "node_not_found");
    app.get(&eve.secret, &format!("/v1/executions/{}/log", ours.id)).await.error(404, "execution_not_found");
    app.get(&eve.secret, &format!("/v1/executions/{}/input", ours.id)).await.error(404, "execution_not_found");
    app.post(&eve.secret, &format!("/v1/nodes/{}/sync", sim.id), &sim.says()).await.error(409, "session_gone");
    // The house's node serves both.
    let mut house = Sim::join(&app, &app.house, "house").await;
    assert_eq!(house.ask(&app).await.assigned[0].held.execution, theirs.id);
    app.stop().await;
}

async fn is_cordoned_drained_and_quarantined(place: &Place) {
    let app = TestApp::start(place).await;
    let mut sim = Sim::join(&app, &app.house, "one").await;
    sim.ask(&app).await;
    let cordon = Cordon { cause: "a new disk".to_owned() };
    app.post(&app.house, "/v1/nodes/one/cordon", &cordon).await.must(200);
    let made = app.execution(&app.house).await;
    let answer = sim.ask(&app).await;
    assert_eq!((answer.assigned.len(), answer.hold.map(|hold| hold.cause)), (0, Some("a new disk".to_owned())));
    app.order(&app.house, "/v1/nodes/one/uncordon").await.must(200);
    assert_eq!(sim.ask(&app).await.assigned[0].held.execution, made.id);
    // A node in trouble says so, and takes nothing until a user lifts it.
    let said = Sync { trouble: Some("no overlay".to_owned()), ..sim.says() };
    assert_eq!(sim.sync(&app, &said).await.hold.map(|hold| hold.cause), Some("no overlay".to_owned()));
    let second = app.execution(&app.house).await;
    assert_eq!(sim.ask(&app).await.assigned.len(), 0);
    app.order(&app.house, "/v1/nodes/one/uncordon").await.must(200);
    assert_eq!(sim.ask(&app).await.assigned[0].held.execution, second.id);
    // A drained one finishes what it has.
    let begun = Instant::now();
    let mut waiting = sim.clone();
    let (answer, _) = tokio::join!(waiting.wait(&app), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        app.order(&app.house, "/v1/nodes/one/drain").await.must(200)
    });
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(answer.state, NodeState::Draining);
    let third = app.execution(&app.house).await;
    let held = sim.held[0];
    let done = sim.done(held, GOOD);
    assert_eq!(sim.sync(&app, &done).await.assigned.len(), 0);
    app.send(app.request(Method::DELETE, &app.house, "/v1/nodes/one")).await.error(409, "node_draining");
    let bye = Sync { leaving: true, ..sim.says() };
    sim.sync(&app, &bye).await;
    assert_eq!(execution(&app, second.id).await.losses, 0);
    assert_eq!(execution(&app, third.id).await.state, ExecutionState::Queued);
    app.send(app.request(Method::DELETE, &app.house, &format!("/v1/nodes/{}", sim.id))).await.must(200);
    app.stop().await;
}

async fn grows_no_older_than_it_may_and_is_replaced(place: &Place) {
    let clock = Clock::manual(Clock::System.now());
    let age = Duration::from_secs(3_600);
    let app = TestApp::start_at(place, clock.clone(), |config| config.node.max_age = Some(age)).await;
    let mut sim = Sim::join(&app, &app.house, "one").await;
    let made = app.execution(&app.house).await;
    assert_eq!(sim.ask(&app).await.assigned[0].held.execution, made.id);
    // It lives on for as long as it may.
    for _ in 0..179 {
        clock.advance(SignedDuration::from_secs(20));
        let answer = sim.ask(&app).await;
        assert_eq!((answer.state, answer.hold), (NodeState::Ready, None));
    }
    clock.advance(SignedDuration::from_secs(25));
    let next = app.execution(&app.house).await;
    let begun = Instant::now();
    let answer = loop {
        let answer = sim.ask(&app).await;
        if answer.state == NodeState::Draining {
            break answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{answer:?}");
        // The pass that looks at ages comes every second; till then the node is free to take what waits.
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let hold = answer.hold.expect("is held");
    assert!(hold.kind == model::node::HoldKind::Age && hold.cause.contains("grows no older than"), "{hold:?}");
    // It finishes what it has, leaves, and begins anew under its own name, young again.
    for held in sim.held.clone() {
        let done = sim.done(held, GOOD);
        assert_eq!(sim.sync(&app, &done).await.refused.len(), 0);
    }
    let bye = Sync { leaving: true, ..sim.says() };
    assert_eq!(sim.sync(&app, &bye).await.state, NodeState::Gone);
    sim.session = SessionId::new(app.clock.now(), random());
    app.post(&app.house, "/v1/nodes", &sim.new_node("one")).await.must(200);
    let answer = sim.ask(&app).await;
    assert_eq!((answer.state, answer.hold), (NodeState::Ready, None));
    let ended = execution(&app, made.id).await;
    assert_eq!((ended.state, ended.losses), (ExecutionState::Succeeded, 0));
    let next = execution(&app, next.id).await;
    assert!(next.losses == 0 && matches!(next.state, ExecutionState::Succeeded | ExecutionState::Running), "{next:?}");
    app.stop().await;
}

async fn takes_only_what_it_fits(place: &Place) {
    let clock = Clock::manual(Clock::System.now());
    let app = TestApp::start_at(place, clock.clone(), |_| ()).await;
    let mut new = app.new_execution();
    new.sandbox.labels = BTreeMap::from([("gpu".to_owned(), "1".to_owned())]);
    let made: Execution = app.post(&app.house, "/v1/executions", &new).await.must(201).json();
    assert_eq!(execution(&app, made.id).await.waiting, None, "it has only just begun to wait");
    clock.advance(SignedDuration::from_secs(3));
    let why = async || execution(&app, made.id).await.waiting.unwrap_or_default();
    assert_eq!(why().await, "no node has joined that could take it");
    let mut plain = Sim::join(&app, &app.house, "plain").await;
    assert_eq!(plain.ask(&app).await.assigned.len(), 0);
    assert_eq!(why().await, "1 node: needs label `gpu=1` (offered by `quarry node --label gpu=1`)");
    let mut fitting = plain.clone();
    (fitting.id, fitting.session) = (NodeId::new(app.clock.now(), random()), SessionId::new(app.clock.now(), random()));
    let mut new = fitting.new_node("gpu");
    new.offer.labels.insert("gpu".to_owned(), "1".to_owned());
    app.post(&app.house, "/v1/nodes", &new).await.must(201);
    app.post(&app.house, "/v1/nodes/gpu/cordon", &Cordon { cause: "later".to_owned() }).await.must(200);
    assert_eq!(why().await, "1 node: cordoned: later");
    app.order(&app.house, "/v1/nodes/gpu/uncordon").await.must(200);
    assert_eq!(fitting.ask(&app).await.assigned[0].held.execution, made.id);
    assert_eq!(plain.ask(&app).await.assigned.len(), 0);
    app.stop().await;
}

fn manifest(blob: &model::Blob, architecture: &str) -> Manifest {
    let digest = |one: &str| format!("sha256:{}", one.repeat(64));
    let layer = Layer {
        blob: blob.digest,
        size: blob.size,
        packing: model::image::Packing::Gzip,
        digest: digest("a"),
        diff_id: digest("b"),
    };
    let platform = Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None };
    Manifest { digest: digest("c"), platform, config: model::ImageConfig::default(), layers: vec![layer] }
}

async fn makes_images_and_runs_in_them(place: &Place) {
    let app = TestApp::start(place).await;
    let mut sim = Sim::join(&app, &app.house, "one").await;
    let in_image = |name: &str| NewExecution { image: Some(name.to_owned()), ..app.new_execution() };
    let error =
        app.post(&app.house, "/v1/executions", &in_image("example.org:5000/box")).await.error(404, "image_not_found");
    assert!(error.hint.unwrap_or_default().contains("quarry image pull"));
    let secret = NewRegistry { user: "me".to_owned(), secret: "hush".to_owned() };
    app.json(Method::PUT, &app.house, "/v1/registries/example.org:5000", &secret).await.must(200);
    let listed = app.get(&app.house, "/v1/registries").await.must(200);
    assert!(!String::from_utf8_lossy(&listed.body).contains("hush"));
    let source = ImageSource::Registry { reference: "example.org:5000/box".to_owned(), platform: None, runtime: None };
    let new_image = |source: &ImageSource, name: Option<&str>| NewImage {
        id: ImageId::new(app.clock.now(), random()),
        execution: ExecutionId::new(app.clock.now(), random()),
        name: name.map(str::to_owned),
        source: source.clone(),
        plain_http: true,
    };
    let new = new_image(&source, None);
    app.post(&app.house, "/v1/images", &new).await.must(201);
    app.post(&app.house, "/v1/images", &new).await.must(200);
    app.post(&app.house, "/v1/executions", &in_image("example.org:5000/box")).await.error(409, "image_importing");
    let given = sim.ask(&app).await.assigned;
    let Work::Image { order } = &given[0].work else { panic!("{given:?}") };
    assert_eq!((order.id, order.plain_http), (new.id, true));
    assert_eq!(order.credential.as_ref().map(|shown| shown.secret.as_str()), Some("hush"));
    // Its layers are stored by the right of holding the execution that makes it.
    let content = b"a layer";
    let digest = model::Digest::from_bytes(*blake3::hash(content).as_bytes());
    let held = given[0].held;
    let path = format!("/v1/executions/{}/blobs/{digest}?session={}&attempt=1", held.execution, sim.session);
    let blob: model::Blob =
        app.send(app.request(Method::PUT, &app.house, &path).body(content.to_vec())).await.must(201).json();
    let head = app.send(app.request(Method::HEAD, &app.house, &format!("/v1/blobs/{digest}"))).await.must(200);
    assert_eq!(head.header("quarry-purpose"), "image", "it goes with the image");
    let mut done = sim.done(held, GOOD);
    done.finished[0].manifest = Some(manifest(&blob, "amd64"));
    assert_eq!(sim.sync(&app, &done).await.refused, []);
    let path = "/v1/images/example.org:5000%2Fbox";
    let image: Image = app.get(&app.house, path).await.must(200).json();
    assert_eq!((image.id, image.state), (new.id, ImageState::Ready));
    // Whoever runs in it is given what it is made of, even when it has been removed since.
    let made: Execution =
        app.post(&app.house, "/v1/executions", &in_image("example.org:5000/box")).await.must(201).json();
    assert_eq!(made.recipe.image_id, Some(new.id));
    app.send(app.request(Method::DELETE, &app.house, &format!("/v1/images/{}", new.id))).await.must(200);
    let freed: model::image::ImageFreed = app.order(&app.house, "/v1/images/gc").await.must(200).json();
    assert_eq!(freed.blobs, 0, "something waits to run in it");
    let given = sim.ask(&app).await.assigned;
    let Work::Run { image: Some(found), dump: None } = &given[0].work else { panic!("{given:?}") };
    assert_eq!(*found, manifest(&blob, "amd64"));
    let done = sim.done(given[0].held, GOOD);
    sim.sync(&app, &done).await;
    let freed: model::image::ImageFreed = app.order(&app.house, "/v1/images/gc").await.must(200).json();
    assert_eq!((freed.blobs, freed.bytes), (1, 7));
    app.get(&app.house, &format!("/v1/blobs/{digest}")).await.error(404, "blob_not_found");
    // What is gone can be stored again.
    let put = app.request(Method::PUT, &app.house, &format!("/v1/blobs/{digest}")).body(content.to_vec());
    app.send(put).await.must(201);
    app.get(&app.house, &format!("/v1/blobs/{digest}")).await.must(200);
    // An import that comes to nothing says why.
    let source = ImageSource::Archive {
        blob: digest,
        archive: ArchiveKind::Auto,
        reference: None,
        config: model::ImageConfig::default(),
    };
    let new = new_image(&source, Some("mine"));
    app.post(&app.house, "/v1/images", &new).await.must(201);
    let held = sim.ask(&app).await.assigned[0].held;
    let done = sim
        .done(held, Outcome::SetUpFailed { cause: "it is no archive".to_owned(), fault: model::SetUpFault::Refused });
    sim.sync(&app, &done).await;
    let image: Image = app.get(&app.house, &format!("/v1/images/{}", new.id)).await.must(200).json();
    assert_eq!((image.state, image.cause.as_deref()), (ImageState::Failed, Some("it is no archive")));
    // An image for another machine is not run on this one.
    app.stop().await;
}

async fn reads_its_input(place: &Place) {
    let app = TestApp::start(place).await;
    let mut sim = Sim::join(&app, &app.house, "one").await;
    let new = NewExecution { input: Input::Stream, ..app.new_execution() };
    app.post(&app.house, "/v1/executions", &new).await.must(201);
    sim.ask(&app).await;
    let path = format!("/v1/executions/{}/input", new.id);
    let waiting = async {
        let page = app.get(&app.house, &format!("{path}?wait_ms=9000")).await.must(200);
        page.json::<ChunkPage>()
    };
    let (page, _) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        app.post(&app.house, &path, &chunk(1, Stream::Input, "one")).await.must(200)
    });
    assert_eq!((page.items.len(), page.next, page.ended), (1, 1, false));
    app.post(&app.house, &path, &chunk(1, Stream::Input, "one")).await.must(200);
    app.post(&app.house, &path, &chunk(1, Stream::Input, "two")).await.error(409, "chunk_exists");
    app.post(&app.house, &path, &chunk(3, Stream::Input, "three")).await.error(409, "chunk_gap");
    app.post(&app.house, &path, &chunk(2, Stream::Output, "two")).await.error(400, "chunk_invalid");
    app.post(&app.house, &path, &Chunk { end: true, ..chunk(2, Stream::Input, "") }).await.must(200);
    let page: ChunkPage = app.get(&app.house, &path).await.must(200).json();
    assert_eq!((page.items.len(), page.ended), (2, true));
    let plain = app.execution(&app.house).await;
    let path = format!("/v1/executions/{}/input", plain.id);
    app.post(&app.house, &path, &chunk(1, Stream::Input, "x")).await.error(409, "input_not_streamed");
    app.stop().await;
}

async fn lets_an_older_sync_go(place: &Place) {
    let app = TestApp::start(place).await;
    let mut sim = Sim::join(&app, &app.house, "one").await;
    sim.ask(&app).await;
    let (mut older, mut newer) = (sim.clone(), sim.clone());
    let begun = Instant::now();
    let (older, _) = tokio::join!(older.wait(&app), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        newer.sync(&app, &Sync { wait_ms: 1, ..newer.says() }).await
    });
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(older.assigned.is_empty());
    app.stop().await;
}

/// What waits goes on with what the node says meanwhile: here that its only slot is free again.
async fn waits_on_while_it_reports(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    let mut sim = Sim::join(&app, &app.house, "one").await;
    let only = |sim: &Sim, free, wait_ms| Sync { free, wait_ms, ..sim.says() };
    app.execution(&ada.secret).await;
    let first = only(&sim, 1, 0);
    let held = sim.sync(&app, &first).await.assigned[0].held;
    for _ in 0..3 {
        let before = sim.held[0];
        let (mut waiting, asked) = (sim.clone(), only(&sim, 0, 10_000));
        let begun = Instant::now();
        let (answer, next) = tokio::join!(waiting.sync(&app, &asked), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let ended = Sync { free: 1, ..sim.done(before, GOOD) };
            let told = sim.sync(&app, &ended).await;
            assert!(told.assigned.is_empty() && told.refused.is_empty(), "{told:?}");
            app.execution(&ada.secret).await
        });
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert_eq!(answer.assigned.iter().map(|one| one.held.execution).collect::<Vec<_>>(), [next.id]);
        assert_eq!(answer.forget, [], "what has ended is not held any more");
        sim.held = vec![answer.assigned[0].held];
    }
    assert_eq!(execution(&app, held.execution).await.state, ExecutionState::Succeeded);
    app.stop().await;
}

async fn may_touch_the_blobs_of_what_it_holds(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    let mut sim = Sim::join(&app, &app.house, "house").await;
    let put = app.request(Method::POST, &ada.secret, "/v1/blobs").body("theirs");
    let blob: model::Blob = app.send(put).await.must(201).json();
    let made = app.execution(&ada.secret).await;
    let held = sim.ask(&app).await.assigned[0].held;
    let path = |attempt: u32, session: SessionId| {
        format!("/v1/executions/{}/blobs/{}?session={session}&attempt={attempt}", made.id, blob.digest)
    };
    let got = app.get(&app.house, &path(1, sim.session)).await.must(200);
    assert_eq!(&*got.body, b"theirs");
    app.get(&app.house, &path(2, sim.session)).await.error(409, "attempt_stale");
    app.get(&app.house, &path(1, SessionId::new(app.clock.now(), 1))).await.error(409, "attempt_stale");
    let eve = app.somebody("one", "eve", Role::Operator).await;
    app.get(&eve.secret, &path(1, sim.session)).await.error(409, "attempt_stale");
    // A long piece of log is a blob of the tenant's.
    let content = Content::Blob { digest: blob.digest, size: blob.size };
    let written = Written { held, chunk: Chunk { content, ..chunk(1, Stream::Error, "") } };
    let said = Sync { chunks: vec![written, output(held, 2, "!")], ..sim.says() };
    assert_eq!(sim.sync(&app, &said).await.refused, []);
    let log = app.get(&ada.secret, &format!("/v1/executions/{}/log", made.id)).await.must(200);
    assert_eq!(&*log.body, b"theirs!");
    let log = app.get(&ada.secret, &format!("/v1/executions/{}/log?stream=output", made.id)).await.must(200);
    assert_eq!(&*log.body, b"!");
    let done = sim.done(held, GOOD);
    sim.sync(&app, &done).await;
    app.get(&app.house, &path(1, sim.session)).await.error(409, "attempt_stale");
    app.stop().await;
}

async fn brings_the_dump_of_what_it_holds_and_analyses_it(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    let mut sim = Sim::join(&app, &app.house, "house").await;
    let crash = async |sim: &mut Sim, dump: Option<NewDump>| {
        let made = app.execution(&ada.secret).await;
        let held = sim.ask(&app).await.assigned[0].held;
        let mut done = sim.done(held, Outcome::Signalled { signal: 11 });
        done.finished[0].dump = dump;
        (made.id, held, done)
    };
    let get = async |id: ExecutionId| -> Execution {
        app.get(&ada.secret, &format!("/v1/executions/{id}")).await.must(200).json()
    };
    let (index, bytes) = dump::parcel(&[b"one", b"two"]);
    let whole = dump::manifest(&index.frames).encode();
    let new = dump::new(&app, &whole);
    // One that is not there is none; the execution has ended all the same.
    let (id, _, done) = crash(&mut sim, Some(new.clone())).await;
    assert_eq!(sim.sync(&app, &done).await.refused, []);
    assert_eq!((get(id).await.state, get(id).await.dump), (ExecutionState::Failed, None));

    let (id, held, done) = crash(&mut sim, Some(new.clone())).await;
    let path =
        |what: &str, attempt: u32| format!("/v1/executions/{id}/{what}?session={}&attempt={attempt}", sim.session);
    let query = FrameQuery { digests: index.frames.iter().map(|frame| frame.digest).collect() };
    app.post(&app.house, &path("frames/missing", 2), &query).await.error(409, "attempt_stale");
    let missing: FramesMissing = app.post(&app.house, &path("frames/missing", 1), &query).await.must(200).json();
    assert_eq!(missing.missing, query.digests);
    let put = async |what: &str, bytes: &[u8], attempt: u32| {
        let path = path(&format!("{what}/{}", dump::digest(bytes)), attempt);
        app.send(app.request(Method::PUT, &app.house, &path).body(bytes.to_vec())).await
    };
    put("parcels", &bytes, 2).await.error(409, "attempt_stale");
    put("parcels", b"no parcel", 1).await.error(400, "parcel_invalid");
    put("parcels", &bytes, 1).await.must(201);
    put("blobs", &whole, 1).await.must(201);
    let mut given = None;
    for _ in 0..2 {
        let answer = sim.sync(&app, &done).await;
        assert_eq!(answer.refused, [], "saying it again is harmless");
        given = given.or(answer.assigned.first().cloned());
    }
    let linked = get(id).await.dump.expect("is linked");
    let record: Dump = app.get(&ada.secret, &format!("/v1/dumps/{linked}")).await.must(200).json();
    assert_eq!((record.id, record.execution, record.tenant), (new.id, Some(held.execution), ada.user.tenant));

    // It is given to be analysed without anybody asking, and what is found out goes into its record.
    let given = loop {
        match given {
            Some(given) => break given,
            None => given = sim.wait(&app).await.assigned.first().cloned(),
        }
    };
    let Work::Dump { order } = &given.work else { panic!("it is to analyse: {given:?}") };
    assert_eq!((order.id, order.manifest), (linked, Some(new.manifest)));
    let mut done = sim.done(given.held, GOOD);
    let class = Some("null_read".to_owned());
    done.finished[0].findings = Some(DumpFindings { class, ..DumpFindings::new(DumpState::Analysed, DumpKind::Core) });
    assert_eq!(sim.sync(&app, &done).await.refused, []);
    let record: Dump = app.get(&ada.secret, &format!("/v1/dumps/{linked}")).await.must(200).json();
    assert_eq!((record.state, record.class.as_deref()), (DumpState::Analysed, Some("null_read")));
    app.stop().await;
}

async fn keeps_what_it_holds_when_a_dump_cannot_be_read(place: &Place) {
    let app = TestApp::start_with(place, |config| config.node.lease = Duration::from_secs(6)).await;
    let ada = app.admin("one").await;
    let mut sim = Sim::join(&app, &app.house, "house").await;
    for index in 0..3 {
        app.execution(&ada.secret).await;
        let (_, bytes) = dump::parcel(&[&[index]]);
        app.send(app.request(Method::PUT, &ada.secret, &format!("/v1/parcels/{}", dump::digest(&bytes))).body(bytes))
            .await
            .must(201);
    }
    let given: Vec<_> = sim.ask(&app).await.assigned.iter().map(|assigned| assigned.held).collect();
    let mut crash = async |held: Held, index: u8, spoil: &dyn Fn(&std::path::Path)| {
        let whole = dump::manifest(&dump::parcel(&[&[index]]).0.frames).encode();
        let path = format!("/v1/manifests/{}", dump::digest(&whole));
        app.send(app.request(Method::PUT, &ada.secret, &path).body(whole.clone())).await.must(201);
        let digest = dump::digest(&whole).to_string();
        spoil(&place.folder().join("blob/blobs").join(&digest[..2]).join(&digest[2..4]).join(&digest));
        let mut done = sim.done(held, Outcome::Signalled { signal: 11 });
        done.finished[0].dump = Some(NewDump { hash: format!("{index:032x}"), ..dump::new(&app, &whole) });
        let answer = sim.sync(&app, &done).await;
        assert_eq!((answer.refused, answer.forget), (vec![], vec![]));
        assert!(answer.lease_ms > 2_000, "{}", answer.lease_ms);
        let path = format!("/v1/executions/{}", held.execution);
        let ended: Execution = app.get(&ada.secret, &path).await.must(200).json();
        assert_eq!(ended.state, ExecutionState::Failed);
        ended.dump
    };
    assert!(crash(given[0], 0, &|_| ()).await.is_some());
    let corrupt = |path: &std::path::Path| std::fs::write(path, "foreign").expect("is spoilt");
    assert_eq!(crash(given[1], 1, &corrupt).await, None, "what is corrupt stays so");
    let away = |path: &std::path::Path| {
        std::fs::remove_file(path).expect("is there");
        std::os::unix::fs::symlink(path, path).expect("is made");
    };
    let begun = Instant::now();
    assert_eq!(crash(given[2], 2, &away).await, None, "a place that does not answer is waited for, but not for ever");
    assert!(begun.elapsed() > Duration::from_secs(1), "it is waited for");
    app.stop().await;
}

async fn serves_what_another_server_accepted(place: &Place) {
    let one = TestApp::start(place).await;
    let two = TestApp::start(place).await;
    let house = one.house.clone();
    let mut sim = Sim::join(&one, &house, "one").await;
    sim.ask(&one).await;
    let mut waiting = sim.clone();
    let begun = Instant::now();
    let (answer, made) = tokio::join!(waiting.wait(&one), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        two.execution(&house).await
    });
    assert_eq!(answer.assigned[0].held.execution, made.id);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let mut sim = waiting;
    let mut waiting = sim.clone();
    let begun = Instant::now();
    let (answer, _) = tokio::join!(waiting.wait(&one), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        two.order(&house, &format!("/v1/executions/{}/cancel", made.id)).await.must(200)
    });
    assert_eq!(answer.cancel, [made.id]);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    // And it goes on with the other server as if nothing had been.
    let held = sim.held[0];
    let done = sim.done(held, Outcome::Cancelled);
    assert_eq!(sim.sync(&two, &done).await.refused, []);
    assert_eq!(sim.ask(&one).await.forget, []);
    two.stop().await;
    one.stop().await;
}
