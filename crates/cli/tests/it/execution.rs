//! Executions from the command line.

use crate::stub::{Stub, answer, refuse};
use axum::body::Body;
use axum::response::Response;
use model::{Execution, ExecutionId, ExecutionState, NewExecution, Outcome, TenantId};

pub(crate) fn id(number: u128) -> ExecutionId {
    ExecutionId::new(jiff::Timestamp::UNIX_EPOCH, number)
}

/// Returns the execution that a request makes.
pub(crate) fn execution(new: &NewExecution, state: ExecutionState, outcome: Option<Outcome>) -> Execution {
    Execution {
        id: new.id,
        tenant: TenantId::new(jiff::Timestamp::UNIX_EPOCH, 1),
        state,
        origin: model::Origin::default(),
        lane: new.lane.clone(),
        class: new.class,
        recipe: new.recipe(),
        attempt: 0,
        losses: 0,
        lease: None,
        by: "ada".to_owned(),
        created_at: "2026-01-01T00:00:00Z".parse().expect("is an instant"),
        started_at: None,
        ended_at: None,
        outcome,
        usage: None,
        dump: None,
        waiting: None,
    }
}

/// Returns a request by its number.
pub(crate) fn request(number: u128) -> NewExecution {
    let limits = model::Limits::default();
    let command = vec!["sh".to_owned(), "-c".to_owned(), "exit 3".to_owned()];
    let env = [("LEVEL".to_owned(), "3".to_owned())].into();
    NewExecution {
        id: id(number),
        lane: None,
        class: model::Class::Human,
        image: None,
        command,
        env,
        input: model::Input::None,
        limits,
        sandbox: model::Sandbox::default(),
    }
}

/// Makes an answer of what is sent.
pub(crate) fn json(status: u16, value: &impl serde::Serialize) -> Response {
    answer(status, serde_json::to_string(value).expect("serialises"))
}

async fn created(args: &[&str], input: &[u8]) -> (NewExecution, Vec<String>, String) {
    let stub = Stub::start(|seen| {
        if seen.line.starts_with("POST /v1/executions") {
            let new: NewExecution = serde_json::from_slice(&seen.body).expect("is a request");
            return json(201, &execution(&new, ExecutionState::Queued, None));
        }
        if seen.line.starts_with("HEAD") {
            return answer(404, "");
        }
        let digest = format!("{}", client_digest(&seen.body));
        answer(
            201,
            format!(r#"{{"digest":"{digest}","size":{},"created_at":"2026-01-01T00:00:00Z"}}"#, seen.body.len()),
        )
    })
    .await;
    std::fs::write(stub.home.path().join("large"), vec![b'x'; 20_000]).expect("is written");
    std::fs::write(stub.home.path().join("small"), "three\n").expect("is written");
    let ran = stub.run_with(&[&["execution", "create"], args].concat(), input).await;
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
    let seen = stub.take();
    let new = serde_json::from_slice(&seen.last().expect("was asked").body).expect("is a request");
    (new, seen.into_iter().map(|seen| seen.line).collect(), ran.out)
}

/// The stub need not hash; any digest will do where only its passing on is looked at.
fn client_digest(bytes: &[u8]) -> model::Digest {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
    model::Digest::from_bytes(digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn words_become_a_request() {
    let args = "--image debian --lane l --class batch --env A=1 --env B=x=y --memory 64M --cpus 0.5 --pids 9 --time 1m30s --log-bytes 1K -- sort -n";
    let (new, lines, out) = created(&args.split(' ').collect::<Vec<_>>(), b"").await;
    assert_eq!(lines, ["POST /v1/executions"]);
    assert_eq!(out, format!("{}\n", new.id));
    assert_eq!(
        (new.command.join(" "), new.image.as_deref(), new.lane.as_deref()),
        ("sort -n".to_owned(), Some("debian"), Some("l"))
    );
    assert_eq!((new.class, new.env["A"].as_str(), new.env["B"].as_str()), (model::Class::Batch, "1", "x=y"));
    let limits = model::Limits {
        memory_bytes: 64 << 20,
        cpu_milli: 500,
        pids: 9,
        wall_ms: 90_000,
        log_bytes: 1024,
        demand: model::LimitSet { memory: true, cpu: true, pids: true, io: false },
        ..model::Limits::default()
    };
    assert_eq!(new.limits, limits);
    let own = id(7).to_string();
    assert_eq!(created(&["--id", &own, "--", "true"], b"").await.0.id, id(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn input_is_a_text_or_becomes_a_blob() {
    let check = async |args: &[&str], stdin: &[u8], expected: Option<&str>| {
        let (new, lines, _) = created(&[args, &["--", "cat"]].concat(), stdin).await;
        match (new.input, expected) {
            (model::Input::Text { text }, Some(expected)) => assert_eq!(text, expected, "{args:?}"),
            (model::Input::Blob { .. }, None) => assert!(lines.len() > 1, "{args:?}: {lines:?}"),
            (input, _) => panic!("{args:?} became {input:?}"),
        }
    };
    let large = vec![b'x'; 20_000];
    check(&["--input", "hello"], b"", Some("hello")).await;
    check(&["--input", "@small"], b"", Some("three\n")).await;
    check(&["--input", "-"], b"from a pipe", Some("from a pipe")).await;
    check(&["--input", "-"], b"", Some("")).await;
    check(&["--input", "@large"], b"", None).await;
    check(&["--input", "-"], &large, None).await;
    check(&["--input", "-"], b"a\0b", None).await;
    check(&["--input", "-"], b"\xff\xfe", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_server_would_take_is_not_sent() {
    let stub = Stub::start(|_| refuse(500, "asked")).await;
    for args in
        [&["--pids", "0", "--", "true"][..], &["--input", "@/nowhere", "--", "true"], &["--time", "90d", "--", "true"]]
    {
        let ran = stub.run(&[&["execution", "create"], args].concat()).await;
        assert!(matches!(ran.code, 1 | 64) && ran.err.starts_with("error: "), "{args:?}: {}", ran.err);
        assert!(stub.take().is_empty(), "{args:?} was sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_goes_on_to_its_limit() {
    let stub = Stub::start(|seen| {
        let first = if seen.line.contains("after=") { 1_u128 } else { 3 };
        let items: Vec<_> =
            (first - 1..=first).rev().map(|n| execution(&request(n), ExecutionState::Queued, None)).collect();
        let next = (first == 3).then(|| id(2).to_string());
        json(200, &model::Page { items, next, as_of: 40 })
    })
    .await;
    let ran = stub.run(&["execution", "ls", "--state", "queued"]).await;
    insta::assert_snapshot!(ran.out, @"
    ID                              STATE   CLASS  CREATED               BY   COMMAND
    exe_00000000000000000000000003  queued  human  2026-01-01T00:00:00Z  ada  sh -c 'exit 3'
    exe_00000000000000000000000002  queued  human  2026-01-01T00:00:00Z  ada  sh -c 'exit 3'
    exe_00000000000000000000000001  queued  human  2026-01-01T00:00:00Z  ada  sh -c 'exit 3'
    exe_00000000000000000000000000  queued  human  2026-01-01T00:00:00Z  ada  sh -c 'exit 3'
    ");
    insta::assert_snapshot!(stub.lines().join("\n"), @"
    GET /v1/executions?state=queued&limit=100
    GET /v1/executions?state=queued&after=exe_00000000000000000000000002&limit=98
    ");
    let ran = stub.run(&["execution", "ls", "--limit", "1", "--json", "--tenant", "blue"]).await;
    let page: model::Page<Execution> = serde_json::from_str(&ran.out).expect("is a page");
    assert_eq!((page.items.len(), page.as_of, page.next), (1, 40, Some(id(2).to_string())));
    insta::assert_snapshot!(stub.lines().join("\n"), @"GET /v1/executions?limit=1&tenant=blue");
    let ran = stub.run(&["execution", "ls", "--limit", "0", "--json"]).await;
    let page: model::Page<Execution> = serde_json::from_str(&ran.out).expect("is a page");
    assert_eq!((page.items.len(), page.next), (4, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_is_shown_whole() {
    let stub = Stub::start(|_| {
        let mut execution = execution(&request(1), ExecutionState::Failed, Some(Outcome::Exited { code: 3 }));
        execution.usage =
            Some(model::Usage { wall_ms: 1_500, cpu_ms: 20, memory_peak_bytes: 3 << 20, ..model::Usage::default() });
        execution.by = "\u{1b}[31mmallory".to_owned();
        json(200, &execution)
    })
    .await;
    let ran = stub.run(&["execution", "info", &id(1).to_string()]).await;
    insta::assert_snapshot!(ran.out, @r"
    id       exe_00000000000000000000000001
    state    failed
    outcome  exit code 3
    command  sh -c 'exit 3'
    env      LEVEL=3
    limits   512 MiB memory, 1 cores, 256 processes, 60 min, 256 MiB of files, 16 MiB of log
    used     1.5 s, 20 ms of processor, 3 MiB memory
    class    human
    by       \u{1b}[31mmallory
    attempt  0
    created  2026-01-01T00:00:00Z
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_are_cancelled_and_each_is_told() {
    let stub = Stub::start(|seen| {
        if seen.line.contains(&id(2).to_string()) {
            return refuse(404, "execution_not_found");
        }
        json(200, &execution(&request(1), ExecutionState::Cancelled, Some(Outcome::Cancelled)))
    })
    .await;
    let ran = stub.run(&["execution", "cancel", &id(2).to_string(), &id(1).to_string()]).await;
    assert_eq!(ran.code, 2);
    insta::assert_snapshot!(ran.out + &ran.err, @"
    exe_00000000000000000000000001  cancelled  stopped by a user
    error: the stub says execution_not_found
    hint: ask the stub
    ");
}

/// A log in which execution 1 runs at first and then ends, and execution 2 has ended before.
async fn waiting(outcome: Outcome) -> Stub {
    Stub::start(move |seen| {
        let ended = execution(&request(1), outcome.state(), Some(outcome.clone()));
        if let Some(rest) = seen.line.strip_prefix("GET /v1/executions/") {
            return match rest {
                rest if rest == id(1).to_string() => json(200, &execution(&request(1), ExecutionState::Running, None)),
                rest if rest == id(2).to_string() => {
                    json(200, &execution(&request(2), ExecutionState::Succeeded, Some(Outcome::Exited { code: 0 })))
                }
                _ => refuse(404, "execution_not_found"),
            };
        }
        if seen.line.contains("limit=1") {
            return answer(200, r#"{"items":[],"next":"7","as_of":7}"#);
        }
        assert!(seen.line.contains("after=7"), "{}", seen.line);
        let body = serde_json::to_string(&ended).expect("serialises");
        let (tenant, state) = (ended.tenant, ended.state.as_str());
        let change = format!(
            r#"{{"seq":8,"at":"2026-01-01T00:00:00Z","tenant":"{tenant}","noun":"execution","id":"{}","state":"{state}","by":"nod","body":{body}}}"#,
            id(1)
        );
        answer(200, Body::from(format!("id: 8\nevent: change\ndata: {change}\n\n")))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_with_the_executions() {
    let both = [id(1).to_string(), id(2).to_string()];
    let stub = waiting(Outcome::Exited { code: 0 }).await;
    let ran = stub.run(&["execution", "wait", &both[0], &both[1]]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    insta::assert_snapshot!(ran.out, @"
    exe_00000000000000000000000002  succeeded  exit code 0
    exe_00000000000000000000000001  succeeded  exit code 0
    ");
    let stub = waiting(Outcome::Signalled { signal: 11 }).await;
    let ran = stub.run(&["execution", "wait", &both[0]]).await;
    assert_eq!(ran.code, 139, "{}", ran.err);
    insta::assert_snapshot!(ran.out, @"exe_00000000000000000000000001  failed  ended by signal 11 (SEGV)");
    let stub = waiting(Outcome::Exited { code: 9 }).await;
    assert_eq!(stub.run(&["execution", "wait", &both[0], &both[1]]).await.code, 1);
    let stub = waiting(Outcome::Exited { code: 9 }).await;
    assert_eq!(stub.run(&["execution", "wait", &both[0]]).await.code, 9);
    assert_eq!(stub.run(&["execution", "wait", &id(9).to_string()]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_has_an_end() {
    let stub = Stub::start(|seen| {
        if seen.line.starts_with("GET /v1/executions/") {
            return json(200, &execution(&request(1), ExecutionState::Running, None));
        }
        if seen.line.contains("limit=1") {
            return answer(200, r#"{"items":[],"next":"7","as_of":7}"#);
        }
        answer(200, Body::from_stream(futures_util::stream::pending::<Result<String, std::io::Error>>()))
    })
    .await;
    let ran = stub.run(&["execution", "wait", &id(1).to_string(), "--timeout", "200ms"]).await;
    assert_eq!(ran.code, 1);
    insta::assert_snapshot!(ran.err, @"error: execution `exe_00000000000000000000000001` has not ended");
}
