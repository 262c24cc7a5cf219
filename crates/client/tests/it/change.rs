//! Following the log over a line that breaks.

use crate::server::{Answer, Server, break_after, say};
use axum::body::Bytes;
use client::ClientError;
use futures_util::StreamExt;
use model::{ChangeQuery, Noun};
use std::pin::pin;

fn change(seq: u64) -> String {
    let tenant = model::TenantId::new(jiff::Timestamp::UNIX_EPOCH, 1);
    format!(
        r#"{{"seq":{seq},"at":"2026-01-01T00:00:00Z","tenant":"{tenant}","noun":"execution","id":"x","state":"queued","by":"me","body":{{}}}}"#
    )
}

fn event(seq: u64) -> String {
    format!("id: {seq}\nevent: change\ndata: {}\n\n", change(seq))
}

fn stream(pieces: &[String]) -> Answer {
    let pieces = pieces.iter().cloned().map(Bytes::from).collect();
    break_after(200, &[("content-type", "text/event-stream".to_owned())], pieces)
}

fn after(seq: u64) -> ChangeQuery {
    ChangeQuery { after: Some(seq), ..ChangeQuery::default() }
}

/// Follows until the stream ends, and returns the numbers seen and what ended it.
async fn follow(server: &Server, query: &ChangeQuery) -> (Vec<u64>, ClientError) {
    let mut changes = pin!(server.client().follow(query));
    let mut seen = Vec::new();
    loop {
        match changes.next().await {
            Some(Ok(change)) => seen.push(change.seq),
            Some(Err(error)) => {
                assert!(changes.next().await.is_none(), "an error ends the stream");
                return (seen, error);
            }
            None => panic!("a stream does not end without a reason"),
        }
    }
}

fn gone() -> Answer {
    say(410, r#"{"code":"cursor_gone","message":"change 3 is no longer in the log"}"#)
}

fn asked_after(server: &Server) -> Vec<String> {
    let seen = server.seen();
    seen.iter().map(|seen| seen.headers["last-event-id"].to_str().expect("is text").to_owned()).collect()
}

#[tokio::test]
async fn a_broken_line_is_taken_up_where_it_broke() {
    let half = event(5)[..30].to_owned();
    let server = Server::start(vec![
        stream(&[event(3), event(4), half]),
        say(503, "{}"),
        stream(&[event(4), event(5)]),
        stream(&[": still here\n\n".to_owned(), "id: 9\n\n".to_owned()]),
        stream(&[event(10)]),
        gone(),
    ])
    .await;
    let (seen, error) = follow(&server, &after(2)).await;
    assert_eq!(seen, [3, 4, 5, 10]);
    assert!(error.is_code("cursor_gone"), "{error:?}");
    assert_eq!(asked_after(&server), ["2", "4", "4", "5", "9", "10"]);
}

#[tokio::test]
async fn following_from_now_on_has_a_place_from_the_first_moment() {
    let page = r#"{"items":[],"next":"41","as_of":41}"#;
    let server = Server::start(vec![say(200, page), stream(&[]), stream(&[event(42)]), gone()]).await;
    let query = ChangeQuery { noun: Some(Noun::Execution), ..ChangeQuery::default() };
    let (seen, _) = follow(&server, &query).await;
    assert_eq!(seen, [42]);
    assert_eq!(
        server.lines(),
        [
            "GET /v1/changes?limit=1",
            "GET /v1/changes?after=41&noun=execution",
            "GET /v1/changes?after=41&noun=execution",
            "GET /v1/changes?after=42&noun=execution",
        ]
    );
}

#[tokio::test]
async fn what_is_no_change_ends_the_stream_after_all_that_came_before() {
    let check = async |damage: String, what: &str| {
        let server = Server::start(vec![stream(&[event(3), event(4) + &damage])]).await;
        let (seen, error) = follow(&server, &after(2)).await;
        assert_eq!(seen, [3, 4]);
        assert!(matches!(&error, ClientError::Unexpected { what: said, .. } if said.contains(what)), "{error:?}");
    };
    check("id: 5\ndata: {\"seq\": 5}\n\n".to_owned(), "not a change").await;
    check("data: <html>\n\n".to_owned(), "not a change").await;
    check("id: five\n\n".to_owned(), "not a number").await;
    check(format!("data: {}", "x".repeat(2 << 20)), "more than").await;
}

#[tokio::test]
async fn a_server_that_lets_nobody_follow_is_believed_at_once() {
    let server = Server::start(vec![say(401, r#"{"code":"unauthorised","message":"who are you"}"#)]).await;
    let (seen, error) = follow(&server, &after(0)).await;
    assert!(seen.is_empty() && error.is_code("unauthorised"), "{error:?}");
    assert_eq!(server.lines().len(), 1);
}
