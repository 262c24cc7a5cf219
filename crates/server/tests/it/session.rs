//! Sessions are their nodes': what strangers say under their names changes nothing.

use crate::app::TestApp;
use crate::engine::{Place, on_both_engines};
use crate::node::Sim;
use model::{Role, Sync, SyncAnswer};
use reqwest::Method;
use std::time::{Duration, Instant};

on_both_engines!(hears_no_stranger_in_its_place);

async fn hears_no_stranger_in_its_place(place: &Place) {
    let app = TestApp::start(place).await;
    app.admin("other").await;
    let eve = app.somebody("other", "eve", Role::Admin).await;
    let mut sim = Sim::join(&app, &app.house, "house").await;
    sim.ask(&app).await;
    let path = format!("/v1/nodes/{}/sync", sim.id);
    let waits = Sync { free: 1, wait_ms: 10_000, ..sim.says() };
    let stranger = Sync { free: 4_000, ..sim.says() };
    let leaves = Sync { leaving: true, ..sim.says() };
    let begun = Instant::now();
    let (answer, ()) = tokio::join!(app.post(&sim.token, &path, &waits), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for words in [&stranger, &leaves] {
            app.post(&eve.secret, &path, words).await.error(409, "session_gone");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        for _ in 0..3 {
            app.execution(&app.house).await;
        }
    });
    let answer: SyncAnswer = answer.must(200).json();
    assert_eq!(answer.assigned.len(), 1, "it is given what it said that it takes");
    assert!(begun.elapsed() >= Duration::from_millis(600), "nobody else lets it go");
    // Who may not speak for nodes at all is not even listened to.
    let vera = app.somebody("other", "vera", Role::Viewer).await;
    let said = app.request(Method::POST, &vera.secret, &path).header("content-type", "application/json").body("{");
    app.send(said).await.must(403);
    app.stop().await;
}
