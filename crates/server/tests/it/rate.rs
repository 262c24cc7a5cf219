//! How often a caller may ask: each by their own measure, and nobody by another's.

use crate::answer::Answer;
use crate::app::TestApp;
use crate::engine::{Place, on_sqlite};
use reqwest::Method;
use server::config::{Config, JwtAlgorithm, Secret};

on_sqlite!(
    who_asks_too_often_is_told_when_to_come_again,
    a_flood_of_strangers_locks_nobody_out,
    who_holds_a_stream_pays_once,
    the_work_of_a_node_costs_nothing,
);

fn refused(answer: &Answer) -> u64 {
    let error = answer.error(429, "too_many_requests");
    let seconds: u64 = answer.header("retry-after").parse().expect("says when to come again");
    assert!(error.hint.is_some_and(|hint| hint.contains(&seconds.to_string())), "{answer:?}");
    seconds
}

async fn who_asks_too_often_is_told_when_to_come_again(place: &Place) {
    let slow = |config: &mut Config| {
        config.rate.per_second = 0.01;
        config.rate.burst = 10.0;
    };
    let app = TestApp::start_with(place, slow).await;
    // The house has asked three times to make her, and has five more to go after these.
    let ada = app.admin("one").await;
    for _ in 0..10 {
        app.get(&ada.secret, "/v1/whoami").await.must(200);
    }
    for path in ["/v1/whoami", "/v1/executions", "/v1/blobs", "/v1/changes", "/metrics"] {
        let seconds = refused(&app.get(&ada.secret, path).await);
        assert!((50..=101).contains(&seconds), "one request in a hundred seconds, and not after {seconds}");
    }
    refused(&app.post(&ada.secret, "/v1/executions", &app.new_execution()).await);
    // Others go on, another token of the same person too, and what needs no token anyway.
    for _ in 0..5 {
        app.get(&app.house, "/v1/whoami").await.must(200);
    }
    for _ in 0..20 {
        app.get("", "/healthz").await.must(200);
        app.get(&ada.secret, "/readyz").await.must(200);
    }
    app.stop().await;
}

async fn a_flood_of_strangers_locks_nobody_out(place: &Place) {
    let strict = |config: &mut Config| {
        config.rate.anonymous_per_second = 0.01;
        config.rate.anonymous_burst = 5.0;
        config.issuers.push(crate::issuer::trusted("gate", JwtAlgorithm::Hs256, |issuer| {
            issuer.key = Some(Secret::new("0123456789abcdef0123456789abcdef"));
            issuer.header = "X-JWT".to_owned();
            issuer.tenant = Some("one".to_owned());
        }));
    };
    let app = TestApp::start_with(place, strict).await;
    let ada = app.admin("one").await;
    let garbage = ["", "garbage", "qry_garbage", "eyJ.eyJ.x"];
    let mut statuses = Vec::new();
    for at in 0..20 {
        statuses.push(app.get(garbage[at % garbage.len()], "/v1/whoami").await.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 5, "{statuses:?}");
    refused(&app.get("", "/v1/executions").await);
    // A token that was never seen before, one that was, and one that another vouches for, all from the same address.
    app.get(&ada.secret, "/v1/whoami").await.must(200);
    app.get(&app.house, "/v1/whoami").await.must(200);
    let jwt = crate::issuer::hs256(&app, "0123456789abcdef0123456789abcdef", &serde_json::json!({ "sub": "jo" }));
    for _ in 0..10 {
        app.send(app.request(Method::GET, "", "/v1/whoami").header("x-jwt", &jwt)).await.must(200);
    }
    app.stop().await;
}

async fn who_holds_a_stream_pays_once(place: &Place) {
    let slow = |config: &mut Config| {
        config.rate.per_second = 0.01;
        config.rate.burst = 3.0;
    };
    let app = TestApp::start_with(place, slow).await;
    let head = app.head().await;
    let held = app.get(&app.house, &format!("/v1/changes?after={head}&wait_ms=100")).await.must(200);
    assert_eq!(held.value()["as_of"], head);
    app.get(&app.house, "/v1/whoami").await.must(200);
    app.get(&app.house, "/v1/whoami").await.must(200);
    refused(&app.get(&app.house, "/v1/changes").await);
    app.stop().await;
}

async fn the_work_of_a_node_costs_nothing(place: &Place) {
    let slow = |config: &mut Config| {
        config.rate.per_second = 0.01;
        config.rate.burst = 3.0;
    };
    let app = TestApp::start_with(place, slow).await;
    let (id, digest) = (app.new_execution().id, "0".repeat(64));
    let asks = [
        (Method::PUT, format!("blobs/{digest}")),
        (Method::PUT, format!("parcels/{digest}")),
        (Method::POST, "frames".to_owned()),
        (Method::POST, "frames/missing".to_owned()),
        (Method::POST, "modules".to_owned()),
        (Method::GET, "input".to_owned()),
    ];
    for (method, what) in &asks {
        for _ in 0..3 {
            let answer =
                app.send(app.request(method.clone(), &app.house, &format!("/v1/executions/{id}/{what}"))).await;
            assert_ne!(answer.status, 429, "{what}");
        }
    }
    for _ in 0..3 {
        assert_ne!(app.order(&app.house, &format!("/v1/executions/{id}/input")).await.status, 429);
    }
    refused(&app.order(&app.house, &format!("/v1/executions/{id}/input")).await);
    app.stop().await;
}
