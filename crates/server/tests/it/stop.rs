//! The end of a server: what is under way finishes, nobody new comes in, and nothing takes longer than it may.

use crate::app::{TestApp, WAIT};
use crate::engine::{Place, on_both_engines, on_sqlite};
use crate::raw::Raw;
use model::Execution;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

on_both_engines!(what_is_under_way_finishes);
on_sqlite!(
    nothing_outlasts_its_time,
    the_address_is_free_again,
    there_are_no_more_connections_than_places,
    a_second_server_finds_what_the_first_left,
);

/// Waits until nobody is let in any more: the order to stop has arrived.
async fn closed(app_address: std::net::SocketAddr) {
    let begun = Instant::now();
    while TcpStream::connect(app_address).await.is_ok() {
        assert!(begun.elapsed() < WAIT, "still lets in");
        tokio::task::yield_now().await;
    }
}

async fn what_is_under_way_finishes(place: &Place) {
    let app = TestApp::start(place).await;
    let (address, house, new) = (app.address, app.house.clone(), app.new_execution());
    let body = serde_json::to_string(&new).unwrap();
    let (first, second) = body.split_at(20);
    let mut raw = Raw::connect(address).await;
    let head = "POST /v1/executions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n";
    let length = body.len();
    raw.write(format!("{head}authorization: Bearer {house}\r\ncontent-length: {length}\r\n\r\n").as_bytes()).await;
    // Only a handler that waits for the body asks for it.
    raw.until("100 Continue\r\n\r\n").await;
    raw.write(first.as_bytes()).await;
    // This one has begun to ask whether the server is ready, and the server has surely seen that by the time it has
    // answered all of these.
    let mut ready = Raw::connect(address).await;
    ready.write(b"GET /readyz HTTP/1.1\r\n").await;
    for _ in 0..50 {
        app.get("", "/readyz").await.must(200);
    }
    let finish = async {
        closed(address).await;
        ready.write(b"host: x\r\n\r\n").await;
        ready.until("HTTP/1.1 503 ").await;
        ready.until("\"status\":\"stopping\"").await;
        raw.write(second.as_bytes()).await;
        let made = raw.until("HTTP/1.1 201 ").await + &raw.rest().await;
        assert!(made.contains("connection: close"), "{made}");
    };
    tokio::join!(app.stop(), finish);
    // It was acknowledged, so it is there.
    let app = TestApp::start(place).await;
    let admin = app.server().admin_credential().await.expect("a credential");
    let found: Execution = app.get(&admin, &format!("/v1/executions/{}", new.id)).await.must(200).json();
    assert_eq!(found.recipe, new.recipe());
    app.stop().await;
}

async fn nothing_outlasts_its_time(place: &Place) {
    const DRAIN: Duration = Duration::from_millis(700);
    let app = TestApp::start_with(place, |config| config.server.drain_timeout = DRAIN).await;
    // Content that never comes, and answers that nobody takes.
    let mut raw = Raw::connect(app.address).await;
    let head = "POST /v1/blobs HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10\r\n";
    raw.write(format!("{head}authorization: Bearer {}\r\n\r\n", app.house).as_bytes()).await;
    raw.until("100 Continue").await;
    let silent = Raw::connect(app.address).await;
    let begun = Instant::now();
    app.stop().await;
    let elapsed = begun.elapsed();
    assert!(elapsed >= DRAIN, "what was under way had no time to finish: {elapsed:?}");
    assert!(elapsed < DRAIN + WAIT / 4, "stopping took {elapsed:?}");
    drop((raw, silent));
}

async fn the_address_is_free_again(place: &Place) {
    let app = TestApp::start(place).await;
    let address = app.address;
    app.get(&app.house, "/v1/whoami").await.must(200);
    app.stop().await;
    for _ in 0..3 {
        let app = TestApp::start_with(place, |config| config.server.listen = address).await;
        assert_eq!(app.address, address);
        // A connection that is open when the server goes must not keep the next one from coming.
        let mut open = Raw::connect(address).await;
        open.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        open.until("\"ok\"").await;
        app.stop().await;
        open.rest().await;
    }
}

async fn there_are_no_more_connections_than_places(place: &Place) {
    const PLACES: usize = 5;
    let app = TestApp::start_with(place, |config| config.server.connections_max = PLACES).await;
    let ask = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut seated = Vec::new();
    for _ in 0..PLACES {
        let mut raw = Raw::connect(app.address).await;
        raw.write(ask).await;
        raw.until("\"ok\"").await;
        seated.push(raw);
    }
    for _ in 0..3 {
        let mut raw = Raw::connect(app.address).await;
        let _ = raw.try_write(ask).await;
        assert_eq!(raw.rest().await, "", "one too many was let in");
    }
    for raw in &mut seated {
        raw.write(ask).await;
        raw.until("\"ok\"").await;
    }
    // Who goes makes room.
    seated.pop();
    let begun = Instant::now();
    loop {
        let mut raw = Raw::connect(app.address).await;
        let written = raw.try_write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        if written.is_ok() && raw.rest().await.contains("\"ok\"") {
            break;
        }
        assert!(begun.elapsed() < WAIT, "there is no room again");
    }
    drop(seated);
    app.stop().await;
}

async fn a_second_server_finds_what_the_first_left(place: &Place) {
    let app = TestApp::start(place).await;
    let house = app.house.clone();
    let made = app.execution(&house).await;
    // The folder belongs to one at a time.
    let log = None;
    let other = server::Server::start(place.config(), log, app.clock.clone()).await;
    let error = other.expect_err("two servers on one folder");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("in use"), "{error:?}");
    app.stop().await;
    let app = TestApp::start(place).await;
    assert_eq!(app.house, "", "the house is opened once, and so is its first credential shown");
    let found: Execution = app.get(&house, &format!("/v1/executions/{}", made.id)).await.must(200).json();
    assert_eq!(found, made);
    app.stop().await;
}
