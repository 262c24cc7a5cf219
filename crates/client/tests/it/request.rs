//! Trying again, and not trying again.

use crate::server::{Server, break_after, say};
use client::{Client, ClientError, Options, Retry};
use model::{ErrorKind, NewTenant, PageQuery, TenantId, UserChange, UserId};
use std::time::{Duration, Instant};

const WELL: &str = r#"{"status":"ok","version":"1","database":"sqlite"}"#;

fn refusal(code: &str) -> String {
    format!(r#"{{"code":"{code}","message":"no","hint":"try another"}}"#)
}

#[tokio::test]
async fn reading_is_tried_again_until_the_server_is_back() {
    let server = Server::start(vec![
        say(503, &refusal("starting")),
        say(502, "<html>bad gateway</html>"),
        break_after(200, &[("content-length", WELL.len().to_string())], vec![b"{\"sta".as_slice().into()]),
        say(200, WELL),
    ])
    .await;
    assert_eq!(server.client().health().await.expect("is well").status, "ok");
    assert_eq!(server.lines(), ["GET /healthz"; 4]);
}

#[tokio::test]
async fn creating_under_ones_own_id_is_tried_again_with_the_same_id() {
    let id = TenantId::new(jiff::Timestamp::UNIX_EPOCH, 1);
    let tenant = format!(r#"{{"id":"{id}","name":"blue","created_at":"2026-01-01T00:00:00Z"}}"#);
    let server = Server::start(vec![say(504, ""), say(201, &tenant)]).await;
    let new = NewTenant { id, name: "blue".to_owned() };
    assert_eq!(server.client().tenant_create(&new).await.expect("is created").id, id);
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!(seen[0].headers["authorization"], "Bearer tok_secret");
    assert!(seen[0].headers["user-agent"].to_str().expect("is text").starts_with("quarry/"));
}

#[tokio::test]
async fn what_might_happen_twice_is_sent_once() {
    let server = Server::start(vec![say(503, &refusal("busy"))]).await;
    let id = UserId::new(jiff::Timestamp::UNIX_EPOCH, 1);
    let error = server.client().user_change(id, &UserChange::default()).await.expect_err("is busy");
    assert!(error.is_code("busy"), "{error:?}");
    assert_eq!(server.lines(), [format!("PATCH /v1/users/{id}")]);
}

#[tokio::test]
async fn for_room_nobody_waits_longer_than_for_an_absent_server() {
    let retry = Retry { unreachable_max: Duration::ZERO, ..Retry::default() };
    let check = async |code: &str, is_tried_again: bool| {
        let server = Server::start(vec![say(503, &refusal(code)), say(200, WELL)]).await;
        let client = Client::new(&server.url, None, Options { retry, ..Options::default() }).expect("is valid");
        let answer = client.health().await;
        assert_eq!((answer.is_ok(), server.lines().len()), (is_tried_again, 1 + usize::from(is_tried_again)), "{code}");
        assert!(answer.is_ok() || answer.is_err_and(|error| error.is_code(code)), "{code}");
    };
    check("busy", true).await;
    check("blobs_unavailable", true).await;
    check("store_full", false).await;
    check("blobs_full", false).await;
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let wait = |seconds: u32| -> crate::server::Answer {
        Box::new(move |_| {
            let mut response = crate::server::status(429, &refusal("rate_limited"));
            response.headers_mut().insert("retry-after", seconds.into());
            response
        })
    };
    let server = Server::start(vec![wait(1), say(200, WELL), wait(3600)]).await;
    let began = Instant::now();
    server.client().health().await.expect("is well");
    assert!(began.elapsed() >= Duration::from_secs(1), "came back after {:?}", began.elapsed());
    let error = server.client().health().await.expect_err("an hour is too long");
    assert_eq!(error.api().expect("was refused").kind, ErrorKind::TooMany);
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn a_refusal_says_what_the_server_said() {
    let check = async |status: u16, body: &str, code: &str, kind: ErrorKind| {
        let server = Server::start(vec![say(status, body)]).await;
        let error = server.client().whoami().await.expect_err("is refused");
        let api = error.api().expect("was refused");
        assert_eq!((api.code.as_str(), api.kind), (code, kind));
        assert_eq!(error.request(), Some("req_1"));
        assert_eq!(server.lines(), ["GET /v1/whoami"], "was sent again");
    };
    check(401, &refusal("unauthorised"), "unauthorised", ErrorKind::Unauthorised).await;
    check(404, &refusal("user_not_found"), "user_not_found", ErrorKind::NotFound).await;
    check(500, &refusal("internal"), "internal", ErrorKind::Internal).await;
    check(404, "<html>nginx</html>", "http_404", ErrorKind::NotFound).await;
    check(302, "", "http_302", ErrorKind::Internal).await;
    check(400, &"x".repeat(1 << 20), "http_400", ErrorKind::Invalid).await;
}

#[tokio::test]
async fn garbage_is_named_and_not_asked_for_again() {
    for garbage in ["", "{", "[]", "<html>", r#"{"status":1}"#] {
        let server = Server::start(vec![say(200, garbage)]).await;
        let error = server.client().health().await.expect_err("is garbage");
        assert!(matches!(&error, ClientError::Unexpected { request: Some(_), .. }), "{garbage}: {error:?}");
        assert_eq!(server.lines().len(), 1);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable_after_a_while() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("is bound"));
    drop(listener);
    let retry = Retry { unreachable_max: Duration::from_millis(400), ..Retry::default() };
    let client = Client::new(&url, None, Options { retry, ..Options::default() }).expect("is valid");
    let error = client.health().await.expect_err("nobody is there");
    assert!(matches!(&error, ClientError::Unreachable { url: named, .. } if *named == url), "{error:?}");
}

#[tokio::test]
async fn the_tenant_named_goes_into_every_list_and_creation() {
    let server = Server::start(vec![]).await;
    let options = Options { tenant: Some("blue".to_owned()), retry: Retry::NEVER, ..Options::default() };
    let client = Client::new(&server.url, None, options).expect("is valid");
    let id = TenantId::new(jiff::Timestamp::UNIX_EPOCH, 1);
    let _ = client.user_list(&PageQuery { limit: Some(3), ..PageQuery::default() }).await;
    let _ = client.user_list(&PageQuery { tenant: Some("red".to_owned()), ..PageQuery::default() }).await;
    let _ = client.tenant_create(&NewTenant { id, name: "x".to_owned() }).await;
    let _ = client.changes(&model::ChangeQuery::default()).await;
    let _ = client.tenant_get(id).await;
    assert_eq!(
        server.lines(),
        [
            "GET /v1/users?limit=3&tenant=blue".to_owned(),
            "GET /v1/users?tenant=red".to_owned(),
            "POST /v1/tenants?tenant=blue".to_owned(),
            "GET /v1/changes?tenant=blue".to_owned(),
            format!("GET /v1/tenants/{id}"),
        ]
    );
}
