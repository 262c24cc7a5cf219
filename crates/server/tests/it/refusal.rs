//! What every route refuses, whichever routes there are: no token, a bad one, one that may less, one of another tenant,
//! and everything malformed.

use crate::answer::Answer;
use crate::app::TestApp;
use crate::engine::{Place, on_both_engines, on_sqlite};
use crate::interface::{Interface, Operation, text_of};
use crate::raw::Raw;
use jiff::SignedDuration;
use model::{Blob, Execution, NewToken, Role, Scope, TokenIssued, UserChange, UserState};
use reqwest::Method;
use std::time::Duration;
use store::Clock;

on_both_engines!(
    no_route_takes_a_bad_token,
    no_route_writes_for_a_viewer,
    no_route_does_what_the_token_may_not,
    no_route_shows_what_another_tenant_has,
    no_route_takes_a_malformed_name,
);
on_sqlite!(no_route_takes_a_malformed_body, no_route_waits_for_a_slow_body, nothing_waits_for_slow_headers);

/// What only nodes do: their sessions are the fence, and a stranger's is as good as none.
const BY_NODES: [&str; 7] = [
    "node_sync",
    "execution_blob_put",
    "execution_blob_get",
    "execution_frame_places",
    "execution_frames_missing",
    "execution_pack_places",
    "execution_parcel_put",
];

/// What asks with a body, because what is asked for does not fit a path, and changes nothing.
const ASKING: [&str; 5] = ["frame_places", "pack_places", "dump_query", "dump_report", "signature_stacks_query"];

/// Calls an operation as it wants to be called, but for the token and the path.
async fn call(app: &TestApp, interface: &Interface, operation: &Operation, token: &str, path: &str) -> Answer {
    let mut request = app.request(operation.method.clone(), token, path);
    if let Some(body) = interface.body(operation) {
        request = request.json(&body);
    } else if operation.takes_bytes {
        request = request.header("content-type", "application/octet-stream").body("some content");
    }
    app.send(request).await
}

/// Returns the error of an answer; one to HEAD has none but its status.
fn refusal(operation: &Operation, answer: &Answer) -> (u16, String) {
    match operation.method == Method::HEAD {
        true => (answer.status, String::new()),
        false => (answer.status, answer.any_error().code),
    }
}

async fn no_route_takes_a_bad_token(place: &Place) {
    let clock = Clock::manual(Clock::System.now());
    let app = TestApp::start_at(place, clock.clone(), |_| ()).await;
    let interface = Interface::read();
    let revoked = app.narrow(&app.house, &[]).await;
    let second = clock.now() + SignedDuration::from_secs(1);
    let new = NewToken { expires_at: Some(second), ..app.new_token("short") };
    let expired: TokenIssued = app.post(&app.house, "/v1/tokens", &new).await.must(201).json();
    let gone = app.somebody("house", "gus", Role::Admin).await;
    for secret in [&revoked.secret, &expired.secret, &gone.secret] {
        app.get(secret, "/v1/whoami").await.must(200);
    }
    // From the next moment on, though all three have just been found good.
    app.order(&app.house, &format!("/v1/tokens/{}/revoke", revoked.token.id)).await.must(200);
    clock.advance(SignedDuration::from_secs(1));
    let disable = UserChange { state: Some(UserState::Disabled), role: None };
    app.json(Method::PATCH, &app.house, &format!("/v1/users/{}", gone.user.id), &disable).await.must(200);

    let (head, tail) = app.house.split_at(app.house.len() - 4);
    let wrong = format!("{head}{}", if tail == "0000" { "1111" } else { "0000" });
    let stranger = format!("qry_{}_{}", &text_of("^tok_[0-7]")[4..], "ab".repeat(32));
    let long = "x".repeat(20_000);
    let tokens = [
        ("", "token_missing"),
        ("garbage", "token_refused"),
        ("qry_garbage", "token_refused"),
        (&wrong, "token_refused"),
        (&stranger, "token_refused"),
        (&long, "token_refused"),
        (&revoked.secret, "token_refused"),
        (&expired.secret, "token_refused"),
        (&gone.secret, "token_refused"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.", "token_refused"),
    ];
    for operation in interface.guarded() {
        for (token, code) in tokens {
            let answer = call(&app, &interface, operation, token, &operation.any_path()).await;
            assert_eq!(answer.status, 401, "{} with `{token}`", operation.id);
            assert_eq!(answer.header("www-authenticate"), "Bearer", "{}", operation.id);
            if operation.method != Method::HEAD {
                answer.error(401, code);
            }
        }
        for scheme in ["Basic YTpi", "Bearer", "", "Bearer \u{e4}"] {
            let request = app.request(operation.method.clone(), "", &operation.any_path());
            let header = reqwest::header::HeaderValue::from_bytes(scheme.as_bytes()).unwrap();
            let answer = app.send(request.header("authorization", header)).await;
            assert_eq!(answer.status, 401, "{} with `{scheme}`", operation.id);
        }
    }
    for operation in interface.operations.iter().filter(|operation| operation.is_public) {
        for token in ["", "garbage", &revoked.secret] {
            call(&app, &interface, operation, token, &operation.path).await.must(200);
        }
    }
    app.get("", "/v1/openapi.json").await.must(200);
    app.stop().await;
}

async fn no_route_writes_for_a_viewer(place: &Place) {
    let app = TestApp::start(place).await;
    let interface = Interface::read();
    let viewer = app.somebody("house", "vera", Role::Viewer).await;
    let head = app.head().await;
    let mut refused = 0;
    for operation in interface.guarded().filter(|operation| !operation.is_read()) {
        let answer = call(&app, &interface, operation, &viewer.secret, &operation.any_path()).await;
        if ASKING.contains(&operation.id.as_str()) {
            answer.must(200);
            continue;
        }
        // A viewer's own tokens are the one thing they may make and revoke.
        if operation.id.starts_with("token_") {
            assert_ne!(answer.status, 403, "{}", operation.id);
            continue;
        }
        let error = answer.error(403, "not_allowed");
        assert!(Scope::ALL.iter().any(|scope| error.message.contains(&format!("`{scope}`"))), "{error:?}");
        assert!(error.hint.is_some_and(|hint| hint.contains("viewer")), "{}", operation.id);
        refused += 1;
    }
    assert!(refused >= 7, "only {refused} routes write");
    let changes = app.get(&app.house, &format!("/v1/changes?after={head}")).await.value();
    let nouns: Vec<_> = changes["items"].as_array().unwrap().iter().map(|change| &change["noun"]).collect();
    assert_eq!(nouns, ["token"], "nothing but the viewer's own token was made");
    app.stop().await;
}

/// A token with one scope opens the routes of that scope and no other.
async fn no_route_does_what_the_token_may_not(place: &Place) {
    let app = TestApp::start(place).await;
    let interface = Interface::read();
    let mut opened = Vec::new();
    let mut tokens = Vec::new();
    for scope in Scope::ALL {
        tokens.push((scope, app.narrow(&app.house, &[scope]).await.secret));
    }
    for operation in interface.guarded().filter(|operation| operation.id != "whoami") {
        let mut opening = Vec::new();
        for (scope, token) in &tokens {
            let answer = call(&app, &interface, operation, token, &operation.any_path()).await;
            let is_closed = answer.status == 403
                && (operation.method == Method::HEAD || answer.any_error().message.contains("is needed for this"));
            if !is_closed {
                opening.push(*scope);
            }
        }
        // What an execution reads is for its users, and for the node that it runs on.
        // What sets an analyzer to work writes dumps and executions.
        let expected = match operation.id.as_str() {
            "execution_input" => 2,
            "analyzer_put" | "studies_begin" => 0,
            _ => 1,
        };
        assert_eq!(opening.len(), expected, "`{}` is opened by {opening:?}", operation.id);
        opened.extend(opening);
    }
    opened.sort_unstable();
    opened.dedup();
    assert_eq!(opened, Scope::ALL, "a scope opens nothing");
    app.stop().await;
}

async fn no_route_shows_what_another_tenant_has(place: &Place) {
    let app = TestApp::start(place).await;
    let interface = Interface::read();
    let (one, other) = (app.admin("one").await, app.admin("other").await);
    let execution: Execution = app.execution(&one.secret).await;
    let put = app.request(Method::POST, &one.secret, "/v1/blobs").body("what one has");
    let blob: Blob = app.send(put).await.must(201).json();
    let node = crate::node::join(&app, &one.secret).await;
    let image = crate::node::image(&app, &one.secret).await;
    let dump = crate::dump::known(&app, &one.secret).await;
    let found = crate::signature::find(&app, &dump, "raise | last", &["raise", "last"]).await;
    let signature = found.signature.expect("it was signed");
    let module = "0123456789abcdef";
    let path = format!("/v1/modules/{module}");
    app.send(app.request(Method::PUT, &one.secret, &path).body("a pack")).await.must(201);
    let head = app.head().await;
    let mut tried = 0;
    for operation in interface.guarded().filter(|operation| operation.path_pattern().is_some()) {
        let pattern = operation.path_pattern().unwrap();
        if operation.id.starts_with("registry")
            || operation.id.starts_with("analyzer")
            || operation.id == "studies_begin"
            || operation.id == "pack_put"
            || BY_NODES.contains(&operation.id.as_str())
        {
            // A credential's host, an analyzer's name and a module's build id are names in one's own tenant; what nodes may touch is fenced by their sessions.
            continue;
        }
        let theirs = match pattern.split_once('_').map_or(pattern, |(prefix, _)| prefix) {
            "^exe" => execution.id.to_string(),
            "^tok" => one.token.id.to_string(),
            "^usr" => one.user.id.to_string(),
            "^ten" => one.user.tenant.to_string(),
            "^[0-9a-f]{64}$" => blob.digest.to_string(),
            "^img" | "^[!-~]{1,512}$" => image.id.to_string(),
            "^(dmp" => dump.hash.clone(),
            "^[0-9a-f]{1,32}$" => signature.id.clone(),
            "^([0-9a-f]{2}){2,64}$" => module.to_owned(),
            "^nod" | "^[A-Za-z0-9." => node.id.to_string(),
            other => panic!("make a thing named {other}, so that `{}` can be tried on it", operation.id),
        };
        let nothing = text_of(pattern);
        let ask = async |name: &str| {
            let answer = call(&app, &interface, operation, &other.secret, &operation.path_with(name)).await;
            let shape = String::from_utf8(answer.body.to_vec()).unwrap().replace(name, "NAME");
            (answer.status, shape, answer.headers.len())
        };
        let (found, missing) = (ask(&theirs).await, ask(&nothing).await);
        assert_eq!(found, missing, "`{}` tells another tenant's from nobody's", operation.id);
        // Storing content makes it one's own; it is the content that must fit.
        let is_stored = ["blob_put", "manifest_put", "parcel_put"].contains(&operation.id.as_str());
        // What only the house's own people may do is refused before anything is looked at.
        let is_theirs = operation.id == "tenant_update";
        let expected = if is_stored {
            400
        } else if is_theirs {
            403
        } else {
            404
        };
        assert_eq!(found.0, expected, "{}: {}", operation.id, found.1);
        tried += 1;
    }
    assert!(tried >= 9, "only {tried} routes name a thing");
    // Asking for the tenant by its name helps nobody.
    for operation in interface.guarded().filter(|operation| operation.questions().contains(&"tenant")) {
        for name in ["one", "ONE", "nowhere", "", "*", "house", "%00", "%F0%9F%A6%80"] {
            let path = format!("{}?tenant={name}", operation.any_path());
            let answer = call(&app, &interface, operation, &other.secret, &path).await;
            let expected = (404, if operation.method == Method::HEAD { "" } else { "tenant_not_found" }.to_owned());
            assert_eq!(refusal(operation, &answer), expected, "`{}` with `{name}`", operation.id);
        }
    }
    assert_eq!(app.head().await, head, "nothing has changed");
    app.stop().await;
}

async fn no_route_takes_a_malformed_name(place: &Place) {
    let app = TestApp::start(place).await;
    let interface = Interface::read();
    let long = "x".repeat(5_000);
    for operation in interface.guarded() {
        if let Some(pattern) = operation.path_pattern() {
            let good = text_of(pattern);
            let upper = good.to_uppercase();
            let names = ["x", "%00", "%FF", "..%2f..", "%20", "%F0%9F%A6%80", &upper, &good[1..], &long];
            // Where any word names a thing, only what is no word is malformed.
            let is_word = pattern.contains("{1,") || pattern.contains("{0,");
            for name in names.into_iter().filter(|name| !is_word || ["%00", "%FF", "%20", &long].contains(name)) {
                let answer = call(&app, &interface, operation, &app.house, &operation.path_with(name)).await;
                let code = if operation.method == Method::HEAD { "" } else { "id_invalid" };
                assert_eq!(refusal(operation, &answer), (400, code.to_owned()), "`{}` of `{name}`", operation.id);
            }
        }
        // A page of registries begins after a host, one of analyzers after a name, and any word is one.
        let is_named = ["registry_list", "analyzer_list"].contains(&operation.id.as_str());
        let is_host = |question: &&str| is_named && *question == "after";
        for question in operation.questions().into_iter().filter(|question| !is_host(question)) {
            // As the keeper of the house, who may ask for any tenant: even then nothing of this is one.
            let values: &[&str] = match question {
                "tenant" => &["%00", "%FF", "x%00y", "%F0%9F%A6%80", ""],
                "id" => &[&long],
                "name" => &["%00", "%FF", "%20", "%F0%9F%A6%80", ""],
                _ => &["%00", "x", "-1", "99999999999999999999999", "%FF", ""],
            };
            for value in values {
                let path = format!("{}?{question}={value}", operation.any_path());
                let answer = call(&app, &interface, operation, &app.house, &path).await;
                let expected: &[u16] = if question == "tenant" { &[400, 404] } else { &[400] };
                assert!(expected.contains(&answer.status), "{answer:?}");
                refusal(operation, &answer);
            }
            let path = format!("{}?{question}=1&nonsense=1", operation.any_path());
            let answer = call(&app, &interface, operation, &app.house, &path).await;
            let code = if operation.method == Method::HEAD { "" } else { "query_invalid" };
            assert_eq!(refusal(operation, &answer), (400, code.to_owned()), "{}", operation.id);
        }
    }
    app.stop().await;
}

async fn no_route_takes_a_malformed_body(place: &Place) {
    let app = TestApp::start(place).await;
    let interface = Interface::read();
    let head = app.head().await;
    let mut tried = 0;
    for operation in interface.guarded() {
        let Some(good) = interface.body(operation) else { continue };
        tried += 1;
        let path = operation.any_path();
        let request = || app.request(operation.method.clone(), &app.house, &path);
        let check = async |body: Vec<u8>, code: &str| {
            let answer = app.send(request().header("content-type", "application/json").body(body)).await;
            let error = answer.error(400, code);
            assert!(error.hint.is_some(), "{}: {error:?}", operation.id);
        };
        for body in ["", "{", "null", "[]", "\"x\"", "1", "{\"id\":1}", "\u{0}", "{}{}", "{} x"] {
            check(body.as_bytes().to_vec(), "body_invalid").await;
        }
        check(b"\xff\xfe".to_vec(), "body_invalid").await;
        check("[".repeat(100_000).into_bytes(), "body_invalid").await;
        let mut unknown = good.clone();
        unknown["nonsense"] = 1.into();
        check(serde_json::to_vec(&unknown).unwrap(), "body_invalid").await;

        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "", "\u{e4}"] {
            let kind = reqwest::header::HeaderValue::from_bytes(kind.as_bytes()).unwrap();
            let request = request().header("content-type", kind).body(good.to_string());
            app.send(request).await.error(415, "body_not_json");
        }
        app.send(request().body(good.to_string())).await.error(415, "body_not_json");
        // All of it is valid JSON, and too much of it.
        let mut large = good.to_string();
        let max_bytes = match operation.id.as_str() {
            "node_sync" => model::limits::MAX_SYNC_BYTES,
            _ => model::limits::MAX_BODY_BYTES,
        };
        large.push_str(&" ".repeat(max_bytes));
        let request = request().header("content-type", "application/json");
        app.send(request.body(large)).await.error(413, "body_too_large");
    }
    assert!(tried >= 6, "only {tried} routes take JSON");
    assert_eq!(app.head().await, head, "nothing has changed");
    app.stop().await;
}

async fn no_route_waits_for_a_slow_body(place: &Place) {
    let app = TestApp::start_with(place, |config| config.server.request_timeout = Duration::from_millis(300)).await;
    let (interface, address) = (Interface::read(), app.address);
    let slow = |operation: &Operation, lines: &str| {
        let head = format!("{} {} HTTP/1.1", operation.method, operation.any_path());
        format!("{head}\r\nhost: x\r\nauthorization: Bearer {}\r\n{lines}\r\n\r\n", app.house)
    };
    let takes = |operation: &&Operation| operation.body.is_some() || operation.takes_bytes;
    // What only the holder of an execution may store is refused before it comes.
    let is_fenced = |operation: &&Operation| ["execution_blob_put", "execution_parcel_put"].contains(&&*operation.id);
    let cases = interface.guarded().filter(takes).filter(|operation| !is_fenced(operation));
    let checks = cases.flat_map(|operation| {
        // Announced and not sent; begun and not ended; in pieces that do not come.
        let announced = slow(operation, "content-type: application/json\r\ncontent-length: 10");
        let begun = slow(operation, "content-type: application/json\r\ncontent-length: 10") + "{";
        let pieces = slow(operation, "content-type: application/json\r\ntransfer-encoding: chunked") + "1\r\n{\r\n";
        [announced, begun, pieces].map(|text| async move {
            let mut raw = Raw::connect(address).await;
            raw.write(text.as_bytes()).await;
            let answer = raw.rest().await;
            assert!(answer.starts_with("HTTP/1.1 408 "), "{text}\n---\n{answer}");
            assert!(answer.contains("x-request-id: req_") && answer.contains("\"code\":"), "{answer}");
        })
    });
    assert!(futures_util::future::join_all(checks).await.len() >= 24);
    app.stop().await;
}

async fn nothing_waits_for_slow_headers(place: &Place) {
    let app = TestApp::start_with(place, |config| config.server.header_timeout = Duration::from_millis(300)).await;
    let address = app.address;
    let good = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let beginnings = [
        "",
        "G",
        "P",
        "GET / HTTP/1.1\r\n",
        &good[..good.len() - 1],
        // What another protocol begins with is no reason to wait any longer.
        "PRI * HTTP/2.0\r\n\r\nSM",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}",
    ];
    let checks = beginnings.into_iter().map(|text| async move {
        let mut raw = Raw::connect(address).await;
        raw.write(text.as_bytes()).await;
        let answer = raw.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{text:?}: {answer:?}");
    });
    futures_util::future::join_all(checks).await;
    // The same between two requests of one connection.
    let mut raw = Raw::connect(address).await;
    raw.write(good.as_bytes()).await;
    assert!(raw.rest().await.starts_with("HTTP/1.1 200 "));
    app.stop().await;
}
