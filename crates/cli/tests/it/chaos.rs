//! Three nodes and a server are killed, stopped past the lease and cut off at random, while executions are made.
//!
//! Whatever was accepted must end, exactly once, and as its program says; its log must be that of the attempt that counted.
//! When the nodes have stopped, nothing of theirs may be left: no process, no mount, no cgroup. Some hundred executions by
//! default, ten thousand with `QUARRY_SOAK`, any number with `QUARRY_CHAOS`. Needs root, for network namespaces and
//! sandboxes with limits.

mod fleet;

use crate::kill::moment;
use crate::system::{Engine, House, Server};
use client::{Client, Options, Retry};
use fleet::Fleet;
use futures_util::future::join_all;
use model::change::ChangeQuery;
use model::chunk::{ChunkQuery, Content};
use model::{Execution, ExecutionId, ExecutionState, Limits, NewExecution, Noun, Outcome};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long the executions of one node outlive its silence.
const LEASE: Duration = Duration::from_secs(3);
/// How long after the last disturbance everything must have ended.
const MAX_CALM: Duration = Duration::from_secs(120);
const NODES: usize = 3;
const CALLERS: u64 = 4;
/// Executions that wait at a time: with more, most of them would only run when all is calm again.
const MAX_WAITING: usize = 200;
/// One in so many, at most, may lose three nodes.
const MIN_WHOLE: usize = 50;

fn executions() -> u64 {
    let some = std::env::var("QUARRY_CHAOS").ok().and_then(|count| count.parse().ok());
    some.unwrap_or(if std::env::var_os("QUARRY_SOAK").is_some() { 10_000 } else { 240 })
}

/// What an execution is to do, by its number: most are short, some take a moment, some fail.
fn request(house: &str, number: u64) -> (NewExecution, ExecutionState) {
    let pause = if number.is_multiple_of(7) { "sleep 0.3; " } else { "" };
    let (code, state) =
        if number.is_multiple_of(5) { (3, ExecutionState::Failed) } else { (0, ExecutionState::Succeeded) };
    let new = NewExecution {
        id: client::id::fresh(ExecutionId::new),
        lane: number.is_multiple_of(11).then(|| format!("lane-{}", number % 3)),
        class: model::Class::ALL[usize::try_from(number % 3).expect("is small")],
        image: None,
        command: ["sh", "-c"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("{pause}echo {number}; exit {code}")])
            .collect(),
        env: [("HOUSE".to_owned(), house.to_owned())].into(),
        input: model::Input::None,
        limits: Limits { memory_bytes: 64 << 20, wall_ms: 60_000, ..Limits::default() },
        sandbox: model::Sandbox::default(),
    };
    (new, state)
}

/// Makes executions from several callers, each of whom asks until it is answered.
async fn make(client: &Client, house: &str, count: u64) -> HashMap<ExecutionId, (u64, ExecutionState)> {
    let caller = |caller: u64| async move {
        let mut made = Vec::new();
        for number in (caller..count).step_by(usize::try_from(CALLERS).expect("is small")) {
            let (new, state) = request(house, number);
            while let Err(error) = client.execution_create(&new).await {
                assert!(error.api().is_none_or(|error| error.kind.status() >= 500), "{error}");
            }
            made.push((new.id, (number, state)));
            if made.len().is_multiple_of(25) {
                while is_crowded(client).await {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        made
    };
    join_all((0..CALLERS).map(caller)).await.into_iter().flatten().collect()
}

/// Tells whether so many executions wait that no more should be made now.
async fn is_crowded(client: &Client) -> bool {
    let limit = u32::try_from(MAX_WAITING).expect("is small");
    let query = model::ExecutionQuery { state: Some(ExecutionState::Queued), limit: Some(limit), ..Default::default() };
    client.execution_list(&query).await.is_ok_and(|page| page.items.len() == MAX_WAITING)
}

/// Reads the whole log, and returns each execution's ends in order.
async fn ends(client: &Client) -> HashMap<ExecutionId, Vec<Execution>> {
    let mut ends: HashMap<ExecutionId, Vec<Execution>> = HashMap::new();
    let mut query =
        ChangeQuery { after: Some(0), noun: Some(Noun::Execution), limit: Some(1_000), ..ChangeQuery::default() };
    loop {
        let page = client.changes(&query).await.expect("is answered");
        for change in &page.items {
            let execution: Execution = serde_json::from_str(change.body.get()).expect("is an execution");
            if execution.state.is_final() {
                ends.entry(execution.id).or_default().push(execution);
            }
        }
        let next = page.next.and_then(|next| next.parse().ok()).expect("a page says where it ends");
        if page.items.is_empty() && next >= page.as_of {
            return ends;
        }
        query.after = Some(next);
    }
}

/// Returns what an execution's last attempt wrote.
async fn log(client: &Client, execution: &Execution) -> String {
    let query = ChunkQuery { attempt: Some(execution.attempt), limit: Some(1_000), ..ChunkQuery::default() };
    let page = client.execution_chunks(execution.id, &query).await.expect("is answered");
    let texts = page.items.iter().map(|chunk| match &chunk.content {
        Content::Inline { bytes } => String::from_utf8_lossy(&bytes.0).into_owned(),
        Content::Blob { .. } => panic!("a line is no blob"),
    });
    texts.collect()
}

async fn check(client: &Client, made: &HashMap<ExecutionId, (u64, ExecutionState)>) {
    let ends = ends(client).await;
    let mut aside = 0;
    for (id, (number, state)) in made {
        let [end] = ends.get(id).map_or(&[][..], Vec::as_slice) else {
            panic!("{id} ended {} times", ends.get(id).map_or(0, Vec::len));
        };
        if end.state == ExecutionState::Quarantined {
            assert!(matches!(end.outcome, Some(Outcome::NodesLost { .. })), "{id}: {:?}", end.outcome);
            aside += 1;
            continue;
        }
        assert_eq!(end.state, *state, "{id}: {:?}", end.outcome);
        assert_eq!(log(client, end).await, format!("{number}\n"), "{id}");
    }
    assert_eq!(ends.len(), made.len(), "what ended was made");
    assert!(aside * MIN_WHOLE <= made.len(), "{aside} of {} lost three nodes", made.len());
}

async fn disturbed(engine: Engine) {
    if !rustix::process::geteuid().is_root() {
        // Network namespaces and limits need root.
        return;
    }
    let Some(house) = House::new(engine) else { return };
    let lease = format!("node.lease={}s", LEASE.as_secs());
    let house = house.everywhere().with(&["--set", "rate.per_second=0", "--set", "log.level=warn", "--set", &lease]);
    let mut server = house.start();
    let token = house.token();
    let home = house.home().display().to_string();
    let retry =
        Retry { unreachable_max: Duration::from_secs(60), busy_max: Duration::from_secs(60), ..Retry::default() };
    let client = Client::new(&server.url, Some(&token), Options { retry, ..Options::default() }).expect("is made");
    let mut fleet = Fleet::start(&house, NODES);
    let making = make(&client, &home, executions());
    tokio::pin!(making);
    let made = loop {
        tokio::select! {
            made = &mut making => break made,
            () = tokio::time::sleep(moment(Duration::from_millis(1_500))) => {
                server = disturb(&house, server, &mut fleet);
            }
        }
    };
    for _ in 0..4 {
        tokio::time::sleep(moment(Duration::from_secs(1))).await;
        server = disturb(&house, server, &mut fleet);
    }
    fleet.mend();
    let begun = Instant::now();
    loop {
        let waiting =
            join_all([ExecutionState::Queued, ExecutionState::Running, ExecutionState::Cancelling].map(|state| {
                let query = model::ExecutionQuery { state: Some(state), ..model::ExecutionQuery::default() };
                let client = &client;
                async move { client.execution_list(&query).await.expect("is answered").items.len() }
            }));
        let waiting: usize = waiting.await.into_iter().sum();
        if waiting == 0 {
            break;
        }
        assert!(begun.elapsed() < MAX_CALM, "{waiting} executions do not end\n{}\n{}", server.said(), fleet.said());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    check(&client, &made).await;
    fleet.stop();
    server.stop();
}

/// Does one bad thing, chosen at random; whatever was done to a node before is undone first.
fn disturb(house: &House, server: Server, fleet: &mut Fleet) -> Server {
    tokio::task::block_in_place(|| {
        let choice = store::random() % 8;
        let node = usize::try_from(store::random() % NODES as u128).expect("is small");
        match choice {
            0..=2 => fleet.kill(node),
            3 | 4 => fleet.pause(node, LEASE + Duration::from_secs(1)),
            5 | 6 => fleet.cut(node, LEASE + Duration::from_secs(1)),
            _ => {
                server.kill();
                return house.start();
            }
        }
        fleet.tend();
        server
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_done_twice_on_sqlite() {
    disturbed(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_done_twice_on_postgres() {
    disturbed(Engine::Postgres).await;
}
