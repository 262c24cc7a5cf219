//! What holds for every exchange, whatever it is about: compression, HEAD, wrong methods, wrong paths, broken HTTP.

use crate::app::TestApp;
use crate::engine::{Place, on_sqlite};
use crate::interface::Interface;
use crate::raw::Raw;
use model::{Execution, Page};
use reqwest::Method;
use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

on_sqlite!(
    answers_are_compressed_for_who_asks,
    every_get_has_its_head,
    a_wrong_method_or_path_is_answered_like_any_error,
    what_is_no_http_is_refused,
    requests_on_one_connection_are_answered_in_turn,
);

async fn answers_are_compressed_for_who_asks(place: &Place) {
    let app = TestApp::start(place).await;
    for _ in 0..20 {
        app.execution(&app.house).await;
    }
    let ask = async |path: &str, accepted: &str| {
        let request = app.request(Method::GET, &app.house, path);
        let request = if accepted.is_empty() { request } else { request.header("accept-encoding", accepted) };
        app.send(request).await.must(200)
    };
    let plain = ask("/v1/executions", "").await;
    assert_eq!(plain.json::<Page<Execution>>().items.len(), 20);
    let check = async |accepted: &str, encoding: &str| {
        let answer = ask("/v1/executions", accepted).await;
        assert_eq!(answer.header("content-encoding"), encoding, "{accepted}");
        assert!(answer.header("vary").contains("accept-encoding"), "{accepted}");
        let body = match encoding {
            "" => answer.body.to_vec(),
            "gzip" => unpack(flate2::read::GzDecoder::new(&answer.body[..])),
            "zstd" => zstd::decode_all(&answer.body[..]).unwrap(),
            other => panic!("{other} was not asked for"),
        };
        assert!(body == plain.body, "{accepted}: another body");
        assert_eq!(encoding.is_empty(), answer.body.len() == plain.body.len(), "{accepted}");
    };
    check("", "").await;
    check("identity", "").await;
    check("br", "").await;
    check("gzip", "gzip").await;
    check("zstd", "zstd").await;
    check("gzip;q=0", "").await;
    check("gzip;q=0.5, zstd;q=0.1", "gzip").await;
    check("nonsense;;q=,", "").await;
    assert_eq!(ask("/v1/openapi.json", "gzip").await.header("content-encoding"), "gzip");
    // Content has ranges of its own; a stream of events must not be gathered, which its own tests see to.
    let content = "content ".repeat(1_000);
    let stored = app.send(app.request(Method::POST, &app.house, "/v1/blobs").body(content.clone())).await.value();
    let found = ask(&format!("/v1/blobs/{}", stored["digest"].as_str().unwrap()), "gzip, zstd").await;
    assert_eq!((found.header("content-encoding"), found.text()), ("", content.as_str()));
    app.stop().await;
}

fn unpack(mut reader: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("is whole");
    bytes
}

async fn every_get_has_its_head(place: &Place) {
    let app = TestApp::start(place).await;
    let stored = app.send(app.request(Method::POST, &app.house, "/v1/blobs").body("content")).await.value();
    let execution = app.execution(&app.house).await;
    let interface = Interface::read();
    let mut paths: Vec<_> = vec!["/v1/openapi.json".to_owned()];
    for operation in interface.operations.iter().filter(|operation| operation.method == Method::GET) {
        paths.push(match operation.id.as_str() {
            "blob_get" => operation.path_with(stored["digest"].as_str().unwrap()),
            "execution_get" => operation.path_with(&execution.id.to_string()),
            _ => operation.any_path(),
        });
    }
    let ask = async |method: Method, path: &str| app.send(app.request(method, &app.house, path)).await;
    for path in paths.iter().filter(|path| *path != "/metrics") {
        let (get, head) = (ask(Method::GET, path).await, ask(Method::HEAD, path).await);
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        for name in ["content-type", "content-length", "etag", "www-authenticate"] {
            assert_eq!(head.header(name), get.header(name), "{name} of {path}");
        }
    }
    app.stop().await;
}

async fn a_wrong_method_or_path_is_answered_like_any_error(place: &Place) {
    let app = TestApp::start(place).await;
    let interface = Interface::read();
    let mut methods = BTreeMap::<&str, Vec<&Method>>::new();
    for operation in &interface.operations {
        methods.entry(&operation.path).or_default().push(&operation.method);
    }
    for (path, known) in methods {
        let path = path.replace("{id}", "x").replace("{digest}", "x");
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "QUARRY"] {
            let method: Method = method.parse().unwrap();
            if known.contains(&&method) || (method == Method::HEAD && known.contains(&&Method::GET)) {
                continue;
            }
            // Whoever asks: that there is no such method is no secret.
            for token in ["", &app.house] {
                let answer = app.send(app.request(method.clone(), token, &path)).await.must(405);
                let allowed = answer.header("allow").split(',').map(str::trim).collect::<Vec<_>>();
                assert!(known.iter().all(|method| allowed.contains(&method.as_str())), "{allowed:?} of {path}");
                if method != Method::HEAD {
                    let error = answer.error(405, "method_not_allowed");
                    assert!(error.message.contains(&format!("`{method}`")), "{error:?}");
                }
            }
        }
    }
    let long = format!("/{}", "x".repeat(5_000));
    for path in ["/", "/v1", "/v1/", "/v1/executions/", "/v2/executions", "/v1/executions/x/y", "/%00", "//", &long] {
        for method in [Method::GET, Method::POST] {
            let answer = app.send(app.request(method, &app.house, path)).await;
            let error = answer.error(404, "route_not_found");
            assert!(error.hint.is_some() && error.message.len() < 300, "{error:?}");
        }
    }
    app.stop().await;
}

async fn what_is_no_http_is_refused(place: &Place) {
    // What is fine is answered, and the connection then closed for silence.
    let app = TestApp::start_with(place, |config| config.server.header_timeout = Duration::from_millis(300)).await;
    let check = async |text: &str, statuses: &[&str]| {
        let mut raw = Raw::connect(app.address).await;
        // A server that has read enough may close before all is written.
        let _ = raw.try_write(text.as_bytes()).await;
        let answer = raw.rest().await;
        let fits = |status: &&str| answer.get(8..).is_some_and(|rest| rest.starts_with(&format!(" {status} ")));
        let shown: String = text.chars().take(200).collect();
        assert!(statuses.is_empty() && answer.is_empty() || statuses.iter().any(fits), "{shown:?}: {answer}");
    };
    check("", &[]).await;
    check("nonsense\r\n\r\n", &["400"]).await;
    check("GET / HTTP/9.9\r\n\r\n", &["400", "505"]).await;
    check("GET /v1/whoami\r\n\r\n", &["400"]).await;
    check("GET / HTTP/1.1\r\nno colon\r\n\r\n", &["400"]).await;
    check("GET / HTTP/1.1\r\nhost: x\r\na b: c\r\n\r\n", &["400"]).await;
    check("GET /\u{1} HTTP/1.1\r\nhost: x\r\n\r\n", &["400"]).await;
    let many: String = (0..1_000).map(|at| format!("x-{at}: y\r\n")).collect();
    check(&format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{many}\r\n"), &["431"]).await;
    let large = "y".repeat(1 << 20);
    check(&format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {large}\r\n\r\n"), &["431"]).await;
    check(&format!("GET /{large} HTTP/1.1\r\nhost: x\r\n\r\n"), &["414", "431"]).await;
    // Two lengths that differ are how requests are smuggled past a proxy.
    let post = |lines: &str, body: &str| {
        let head = "POST /v1/blobs HTTP/1.1\r\nhost: x\r\n";
        format!("{head}authorization: Bearer {}\r\n{lines}\r\n\r\n{body}", app.house)
    };
    check(&post("content-length: 3\r\ncontent-length: 4", "abcd"), &["400"]).await;
    check(&post("content-length: 3, 4", "abcd"), &["400"]).await;
    check(&post("content-length: +3", "abc"), &["400"]).await;
    check(&post("content-length: -1", ""), &["400"]).await;
    check(&post("transfer-encoding: gzip, chunked, identity", "0\r\n\r\n"), &["400"]).await;
    // HTTP/1.0, and a host that is nobody's, are fine.
    check("GET /healthz HTTP/1.0\r\n\r\n", &["200"]).await;
    check("GET /healthz HTTP/1.1\r\n\r\n", &["200", "400"]).await;
    check("GET http://elsewhere.example/healthz HTTP/1.1\r\nhost: elsewhere.example\r\n\r\n", &["200"]).await;
    check("OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", &["404", "405"]).await;
    check("CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", &["404", "405", "400"]).await;
    app.get(&app.house, "/v1/whoami").await.must(200);
    app.stop().await;
}

async fn requests_on_one_connection_are_answered_in_turn(place: &Place) {
    let app = TestApp::start(place).await;
    let mut raw = Raw::connect(app.address).await;
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", app.house);
    let many = ["/v1/whoami", "/healthz", "/v1/nothing", "/v1/executions", "/v1/whoami"];
    raw.write(many.map(ask).concat().as_bytes()).await;
    for expected in ["\"user\":\"admin\"", "\"database\":\"sqlite\"", "route_not_found", "\"as_of\":", "\"user\":"] {
        raw.until("x-request-id: req_").await;
        raw.until(expected).await;
    }
    // A refused body does not become the next request.
    let body = ask("/v1/whoami");
    let head = "POST /v1/executions HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\n";
    let token = format!("authorization: Bearer {}\r\n", app.house);
    raw.write(format!("{head}{token}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
    raw.write(ask("/v1/executions").as_bytes()).await;
    raw.until("HTTP/1.1 415 ").await;
    raw.shut().await;
    let rest = raw.rest().await;
    assert!(!rest.contains("\"user\""), "the body was taken for a request: {rest}");
    app.stop().await;
}
