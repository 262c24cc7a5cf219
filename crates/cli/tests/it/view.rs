//! `ps` and `top`: what runs and waits, against a stub and in a real house; how the screen looks is tested beside its
//! code.

use crate::execution::{execution, id, json, request};
use crate::stub::{Seen, Stub, quarry, refuse};
use crate::system::{Engine, Held, House, Server};
use axum::response::Response;
use model::node::{Hold, HoldKind, Offer};
use model::{Class, Execution, ExecutionState, Lease, LimitSet, Node, NodeId, NodeState, Page, Platform, SessionId};
use model::{SandboxKind, TenantId, Usage};
use std::io::Write;
use std::process::Stdio;

fn node(number: u128, name: &str, busy: u32) -> Node {
    Node {
        id: NodeId::new(jiff::Timestamp::UNIX_EPOCH, number),
        tenant: TenantId::new(jiff::Timestamp::UNIX_EPOCH, 1),
        name: name.to_owned(),
        state: NodeState::Ready,
        hold: None,
        session: None,
        offer: Offer {
            version: "0.1.0".to_owned(),
            platform: Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None },
            kinds: vec![SandboxKind::Process],
            networks: Vec::new(),
            runtimes: Vec::new(),
            slots: 4,
            cpu_milli: 4_000,
            memory_bytes: 8 << 30,
            enforces: LimitSet::ALL,
            mounts: Vec::new(),
            labels: std::collections::BTreeMap::new(),
        },
        busy: Some(busy),
        by: "ada".to_owned(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        joined_at: None,
        lease_until: None,
    }
}

fn nodes() -> Vec<Node> {
    let hold = Hold {
        kind: HoldKind::Cordon,
        cause: "a new \u{1b}[2J disk".to_owned(),
        by: "ada".to_owned(),
        at: jiff::Timestamp::UNIX_EPOCH,
    };
    vec![node(1, "alpha", 2), Node { hold: Some(hold), ..node(2, "beta", 0) }]
}

fn live(state: ExecutionState, number: u128) -> Execution {
    let session = SessionId::new(jiff::Timestamp::UNIX_EPOCH, 1);
    let has_node = state != ExecutionState::Queued;
    Execution {
        class: if number.is_multiple_of(2) { Class::Batch } else { Class::Human },
        // The second node is one that nobody can name.
        lease: has_node.then(|| Lease { node: NodeId::new(jiff::Timestamp::UNIX_EPOCH, number), session }),
        started_at: has_node.then(|| "2026-01-01T00:00:05Z".parse().expect("is an instant")),
        waiting: (state == ExecutionState::Queued).then(|| "no node has image `debian`".to_owned()),
        ..execution(&request(number), state, None)
    }
}

/// Two of each state, two a page at most.
fn answer(seen: &Seen) -> Response {
    let line = &seen.line;
    let page = |state, numbers: &[u128]| {
        let items: Vec<_> = numbers.iter().map(|number| live(state, *number)).collect();
        json(200, &Page { items, next: None, as_of: 7 })
    };
    match line {
        _ if line.contains("state=running") => page(ExecutionState::Running, &[9, 1]),
        _ if line.contains("state=cancelling") => page(ExecutionState::Cancelling, &[1, 2]),
        _ if line.contains("state=queued") && line.contains("after=") => page(ExecutionState::Queued, &[4]),
        _ if line.contains("state=queued") => {
            let items = vec![live(ExecutionState::Queued, 6), live(ExecutionState::Queued, 5)];
            json(200, &Page { items, next: Some(id(5).to_string()), as_of: 8 })
        }
        _ if line.starts_with("GET /v1/nodes/alpha") => json(200, &node(1, "alpha", 2)),
        _ if line.starts_with("GET /v1/nodes") => json(200, &Page { items: nodes(), next: None, as_of: 7 }),
        _ if line.starts_with("GET /v1/executions/") => json(200, &live(ExecutionState::Queued, 5)),
        _ if line.starts_with("GET /v1/changes?limit=1") => {
            json(200, &Page::<()> { items: vec![], next: None, as_of: 7 })
        }
        _ => refuse(404, "lost"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_and_waits_is_shown() {
    let stub = Stub::start(answer).await;
    let ran = stub.run(&["ps"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    insta::assert_snapshot!(ran.out, @"
    ID                              STATE       CLASS  SINCE                 NODE                            COMMAND
    exe_00000000000000000000000009  running     human  2026-01-01T00:00:05Z  nod_00000000000000000000000009  sh -c 'exit 3'
    exe_00000000000000000000000001  running     human  2026-01-01T00:00:05Z  alpha                           sh -c 'exit 3'
    exe_00000000000000000000000002  cancelling  batch  2026-01-01T00:00:05Z  beta                            sh -c 'exit 3'
    exe_00000000000000000000000006  queued      batch  2026-01-01T00:00:00Z  -                               sh -c 'exit 3'
    exe_00000000000000000000000005  queued      human  2026-01-01T00:00:00Z  -                               sh -c 'exit 3'
    exe_00000000000000000000000004  queued      batch  2026-01-01T00:00:00Z  -                               sh -c 'exit 3'
    ");
    insta::assert_snapshot!(ran.err, @"3 wait: no node has image `debian`");
    insta::assert_snapshot!(stub.lines().join("\n"), @"
    GET /v1/executions?state=running&limit=101
    GET /v1/executions?state=cancelling&limit=101
    GET /v1/executions?state=queued&limit=101
    GET /v1/executions?state=queued&after=exe_00000000000000000000000005&limit=101
    GET /v1/nodes?limit=1000
    ");
    let ran = stub.run(&["ps", "--limit", "2"]).await;
    insta::assert_snapshot!(ran.out + &ran.err, @"
    ID                              STATE    CLASS  SINCE                 NODE                            COMMAND
    exe_00000000000000000000000009  running  human  2026-01-01T00:00:05Z  nod_00000000000000000000000009  sh -c 'exit 3'
    exe_00000000000000000000000001  running  human  2026-01-01T00:00:05Z  alpha                           sh -c 'exit 3'
    there are more than 2; see --limit
    ");
    let ran = stub.run(&["ps", "--node", "alpha", "--json"]).await;
    let page: Page<Execution> = serde_json::from_str(&ran.out).expect("is a page");
    assert_eq!(page.items.iter().map(|one| one.id).collect::<Vec<_>>(), [id(1)]);
    assert_eq!((page.next, page.as_of), (None, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_has_columns_once_it_is_known_and_nodes_may_be_nobodys_business() {
    let stub = Stub::start(|seen| {
        if seen.line.contains("state=running") {
            let usage = Usage { memory_peak_bytes: 3 << 20, cpu_ms: 1_500, ..Usage::default() };
            let known = Execution { usage: Some(usage), ..live(ExecutionState::Running, 1) };
            return json(200, &Page { items: vec![known, live(ExecutionState::Running, 3)], next: None, as_of: 7 });
        }
        if seen.line.contains("/v1/nodes") {
            return refuse(403, "forbidden");
        }
        json(200, &Page::<Execution> { items: vec![], next: None, as_of: 7 })
    })
    .await;
    let ran = stub.run(&["ps"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    insta::assert_snapshot!(ran.out, @"
    ID                              STATE    CLASS  SINCE                 NODE                            MEMORY  CPU    COMMAND
    exe_00000000000000000000000001  running  human  2026-01-01T00:00:05Z  nod_00000000000000000000000001  3 MiB   1.5 s  sh -c 'exit 3'
    exe_00000000000000000000000003  running  human  2026-01-01T00:00:05Z  nod_00000000000000000000000003  -       -      sh -c 'exit 3'
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_top_tells_how_things_stand() {
    let stub = Stub::start(answer).await;
    let ran = stub.run(&["top"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    insta::assert_snapshot!(ran.out, @r"
    2 nodes, 2 of 8 slots busy; 3 running; 3 queued: 1 human, 0 event, 2 batch

    NODE   STATE  BUSY  HELD
    beta   ready  0/4   cordon: a new \u{1b}[2J disk
    alpha  ready  2/4

    RUNNING                         CLASS  SINCE                 NODE                            COMMAND
    exe_00000000000000000000000009  human  2026-01-01T00:00:05Z  nod_00000000000000000000000009  sh -c 'exit 3'
    exe_00000000000000000000000002  batch  2026-01-01T00:00:05Z  beta                            sh -c 'exit 3'
    exe_00000000000000000000000001  human  2026-01-01T00:00:05Z  alpha                           sh -c 'exit 3'
    ");
    insta::assert_snapshot!(ran.err, @"3 wait: no node has image `debian`");
    let ran = stub.run(&["top", "--json"]).await;
    let snapshot: serde_json::Value = serde_json::from_str(&ran.out).expect("is JSON");
    insta::assert_snapshot!(snapshot["queued"], @r#"{"batch":2,"event":0,"human":1}"#);
    assert_eq!(snapshot["running"].as_array().expect("is a list").len(), 3);
    assert_eq!((&snapshot["is_partial"], &snapshot["as_of"]), (&false.into(), &7.into()));
    let stub = Stub::start(|_| refuse(401, "unauthorised")).await;
    assert_eq!(stub.run(&["top"]).await.code, 3);
}

/// A server in which execution 9 ends badly once somebody follows the log.
fn moving(seen: &Seen) -> Response {
    if !seen.line.starts_with("GET /v1/changes") || seen.line.contains("limit=1") {
        return answer(seen);
    }
    let ended = Execution {
        outcome: Some(model::Outcome::Signalled { signal: 11 }),
        state: ExecutionState::Failed,
        ..live(ExecutionState::Running, 9)
    };
    let body = serde_json::to_string(&ended).expect("serialises");
    let change = format!(
        r#"{{"seq":8,"at":"2026-01-01T00:00:00Z","tenant":"{}","noun":"execution","id":"{}","state":"failed","by":"nod","body":{body}}}"#,
        ended.tenant, ended.id
    );
    let event =
        futures_util::stream::iter([Ok::<_, std::io::Error>(format!("id: 8\nevent: change\ndata: {change}\n\n"))]);
    let stream = futures_util::StreamExt::chain(event, futures_util::stream::pending());
    crate::stub::answer(200, axum::body::Body::from_stream(stream))
}

/// Runs `top` at a terminal that `script` makes, ends it as `end` says once it shows the failure, and returns all that
/// the terminal was sent and the exit code.
async fn at_a_terminal(end: impl FnOnce(&mut std::process::ChildStdin) + Send + 'static) -> (String, i32) {
    let stub = Stub::start(moving).await;
    let mut command = quarry(&[], stub.home.path());
    let program = command.get_program().to_string_lossy().into_owned();
    command = std::process::Command::new("script");
    let line =
        format!("stty rows 30 cols 120; {program} top; echo code $?; stty -a | grep -o -e '-*icanon' -e '-*echo '");
    command.args(["-qfec", &line, "/dev/null"]).env("TERM", "xterm").env("HOME", stub.home.path());
    command.env("QUARRY_URL", &stub.url).env("QUARRY_TOKEN", "tok_secret");
    let shown = tokio::task::spawn_blocking(move || {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
        let mut keys = child.stdin.take().expect("is piped");
        let mut screen = child.stdout.take().expect("is piped");
        let (mut shown, mut end) = (Vec::new(), Some(end));
        let mut piece = [0; 4096];
        loop {
            let count = std::io::Read::read(&mut screen, &mut piece).expect("is read");
            if count == 0 {
                break;
            }
            shown.extend_from_slice(&piece[..count]);
            if String::from_utf8_lossy(&shown).contains("FAILED")
                && let Some(end) = end.take()
            {
                end(&mut keys);
            }
        }
        child.wait().expect("ends");
        String::from_utf8_lossy(&shown).into_owned()
    })
    .await
    .expect("ends");
    let code = shown.split("code ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    (shown.clone(), code.unwrap_or_else(|| panic!("there is no code: {shown}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_moves_and_gives_the_terminal_back() {
    let check = async |key: &'static [u8], expected: i32| {
        let (shown, code) = at_a_terminal(move |keys| keys.write_all(key).expect("is typed")).await;
        assert_eq!(code, expected, "{shown}");
        assert!(shown.contains("(SEGV)"), "{shown}");
        let (_, after) = shown.rsplit_once("\u{1b}[?1049l").expect("the other screen is left");
        assert!(after.contains("icanon") && !after.contains("-icanon") && !after.contains("-echo "), "{after}");
        assert!(!shown.contains("new \u{1b}[2J"), "what a node said steered the terminal");
    };
    check(b"q", 0).await;
    check(b"\x03", 130).await;
}

#[test]
fn what_runs_in_a_real_house_is_seen() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let up = house.command_with(&["up", "--slots", "2"], &house.data());
    let server = Server::begin(up, house.home()).expect("starts");
    let token = house.token();
    let mut command = server.command(&token, &["run", "--class", "batch", "--", "sh", "-c", "echo up; sleep 600"]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut program = Held::start(command);
    assert_eq!(program.lines().next().as_deref(), Some("up"));
    let said = |args: &[&str]| {
        let ran = server.run(&token, args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran.out
    };
    let shown = said(&["ps"]);
    assert!(shown.contains("running  batch") && shown.contains("sh -c 'echo up; sleep 600'"), "{shown}");
    let page: Page<Execution> = serde_json::from_str(&said(&["ps", "--json"])).expect("is a page");
    let shown = said(&["top"]);
    assert!(shown.starts_with("1 node, 1 of 2 slots busy; 1 running; 0 queued: "), "{shown}");
    said(&["execution", "cancel", &page.items[0].id.to_string()]);
    // It ends, and not well.
    assert_ne!(server.run(&token, &["execution", "wait", &page.items[0].id.to_string()]).code, 0);
    let page: Page<Execution> = serde_json::from_str(&said(&["ps", "--json"])).expect("is a page");
    assert!(page.items.is_empty());
    server.stop();
}
