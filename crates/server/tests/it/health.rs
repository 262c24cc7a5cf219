//! Whether the server is well, what it has counted, and what it writes about itself.

use crate::app::{TestApp, WAIT};
use crate::engine::{Place, on_both_engines, on_sqlite};
use jiff::SignedDuration;
use model::health::Health;
use model::log::{LogChange, LogLevel, LogLevels};
use model::{Role, Scope};
use reqwest::Method;
use std::collections::BTreeMap;
use std::time::Instant;
use store::Clock;

on_both_engines!(health_names_the_database);
on_sqlite!(
    counts_are_shown_to_who_may_see_them,
    no_stranger_makes_counts_grow,
    levels_are_changed_for_good_and_for_a_time,
);

async fn health_names_the_database(place: &Place) {
    let app = TestApp::start(place).await;
    for path in ["/healthz", "/readyz"] {
        let health: Health = app.get("", path).await.must(200).json();
        let engine = app.store().engine().as_str().to_owned();
        assert_eq!((health.status, health.database), ("ok".to_owned(), engine));
        assert_eq!(health.version, env!("CARGO_PKG_VERSION"));
    }
    app.stop().await;
}

async fn counts_are_shown_to_who_may_see_them(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    let operator = app.somebody("house", "otto", Role::Operator).await;
    let user = app.somebody("house", "ulla", Role::User).await;
    app.execution(&user.secret).await;
    app.get("", "/metrics").await.error(401, "token_missing");
    app.get(&user.secret, "/metrics").await.error(403, "not_allowed");
    app.get(&ada.secret, "/metrics").await.error(403, "not_allowed");
    let scraper = app.narrow(&operator.secret, &[Scope::LogRead]).await;
    let shown = app.get(&scraper.secret, "/metrics").await.must(200);
    assert_eq!(shown.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    // The counts are the process's, and other tests may run in it: only what is counted is certain, not how often.
    for line in [
        "quarry_log_head ",
        "quarry_log_floor ",
        "quarry_executions_waiting ",
        "quarry_requests_total{method=\"POST\",route=\"/v1/executions\",status=\"201\"} ",
        "quarry_request_seconds_count{route=\"/v1/executions\"} ",
    ] {
        assert!(shown.text().contains(line), "{line} is missing:\n{}", shown.text());
    }
    app.stop().await;
    let app = TestApp::start_with(place, |config| config.server.metrics_public = true).await;
    assert!(app.get("", "/metrics").await.must(200).text().contains("quarry_log_head"));
    app.stop().await;
}

/// What a stranger sends must not become the name of a counter: there would be no end of them.
async fn no_stranger_makes_counts_grow(place: &Place) {
    let app = TestApp::start(place).await;
    for at in 0..20 {
        let method: Method = format!("STRANGE{at}").parse().unwrap();
        app.send(app.request(method, "", "/v1/executions")).await.must(405);
        app.get("", &format!("/strange/{at}")).await.must(404);
        app.get("", &format!("/v1/executions/strange-{at}?strange={at}")).await.must(401);
    }
    let shown = app.get(&app.house, "/metrics").await.must(200);
    assert!(shown.text().contains("method=\"other\",route=\"/v1/executions\",status=\"405\""), "{}", shown.text());
    assert!(!shown.text().to_lowercase().contains("strange"), "{}", shown.text());
    app.stop().await;
}

async fn levels_are_changed_for_good_and_for_a_time(place: &Place) {
    let clock = Clock::manual(Clock::System.now());
    let app = TestApp::start_at(place, clock.clone(), |_| ()).await;
    let operator = app.somebody("house", "otto", Role::Operator).await;
    let user = app.somebody("house", "ulla", Role::User).await;
    let path = "/v1/log/levels";
    let set = async |change: &LogChange| app.json(Method::PUT, &operator.secret, path, change).await;
    let get = async || app.get(&operator.secret, path).await.must(200).json::<LogLevels>();
    let before = get().await;
    assert_eq!((before.default, before.modules.len(), before.until), (LogLevel::Info, 0, None));
    let store =
        |level, seconds| LogChange { modules: BTreeMap::from([("store".to_owned(), level)]), seconds, default: None };

    let lasting: LogLevels = set(&store(LogLevel::Debug, None)).await.must(200).json();
    assert_eq!(lasting.modules, BTreeMap::from([("store".to_owned(), LogLevel::Debug)]));
    assert_eq!(get().await, lasting);
    let passing: LogLevels = set(&store(LogLevel::Trace, Some(60))).await.must(200).json();
    assert_eq!(passing.modules["store"], LogLevel::Trace);
    assert_eq!(passing.until, Some(clock.now() + SignedDuration::from_secs(60)));
    // It comes back by itself; the change for good that wakes whoever waits for that is none.
    clock.advance(SignedDuration::from_secs(61));
    set(&LogChange { default: Some(LogLevel::Info), ..LogChange::default() }).await.must(200);
    let begun = Instant::now();
    while get().await != lasting {
        assert!(begun.elapsed() < WAIT, "the level does not come back");
    }
    let modules = BTreeMap::from([("stroe".to_owned(), LogLevel::Debug)]);
    let error = set(&LogChange { modules, ..LogChange::default() }).await.error(400, "log_module_unknown");
    assert!(error.hint.unwrap().contains("`store`"), "no hint at the nearest name");
    set(&LogChange::default()).await.error(400, "log_change_invalid");
    for seconds in [0, 7 * 24 * 3600 + 1, u64::MAX] {
        set(&store(LogLevel::Off, Some(seconds))).await.error(400, "log_change_invalid");
    }
    assert_eq!(get().await, lasting, "what is refused changes nothing");
    app.get(&user.secret, path).await.error(403, "not_allowed");
    app.json(Method::PUT, &user.secret, path, &store(LogLevel::Off, None)).await.error(403, "not_allowed");
    app.stop().await;
}
