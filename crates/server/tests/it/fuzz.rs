//! The interface, fuzzed by its own description. Runs where `QUARRY_SCHEMATHESIS` names the program that does it.
#![expect(clippy::print_stderr, reason = "whoever runs the tests must see what was skipped")]

use crate::app::TestApp;
use crate::engine::{Place, on_both_engines};
use crate::interface::Interface;
use model::Role;
use std::path::Path;
use std::process::{Command, Stdio};
use tokio::task::spawn_blocking;

on_both_engines!(openapi_fuzz);

async fn openapi_fuzz(place: &Place) {
    if std::env::var_os("QUARRY_SCHEMATHESIS").is_none() {
        eprintln!("skipped: QUARRY_SCHEMATHESIS names no program (hint: scripts/install test)");
        return;
    }
    let app = TestApp::start(place).await;
    // Something to find.
    app.admin("one").await;
    app.execution(&app.house).await;
    app.send(app.request(reqwest::Method::POST, &app.house, "/v1/blobs").body("content")).await.must(201);
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/fuzz-openapi"));
    let victim = app.somebody("house", "vic", Role::User).await;
    command.args([app.url.clone(), victim.token.id.to_string(), victim.user.id.to_string()]);
    command.env("QUARRY_TOKEN", &app.house).stdin(Stdio::null());
    // The script ends in its own time.
    let ended = spawn_blocking(move || command.output()).await.expect("no panic").expect("the script runs");
    let (out, error) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    eprintln!("{out}");
    assert!(ended.status.success(), "{error}");
    let all = format!("Tested: {}\n", Interface::read().operations.len());
    assert!(out.contains(&all), "not every operation was tried: {error}");
    app.get("", "/readyz").await.must(200);
    app.get(&app.house, "/v1/whoami").await.must(200);
    app.stop().await;
}
