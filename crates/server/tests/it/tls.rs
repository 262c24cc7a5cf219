//! The server over TLS, and new certificates while it runs.

use crate::app::{TestApp, WAIT, http};
use crate::engine::{Place, on_sqlite};
use crate::raw::Raw;
use model::Execution;
use reqwest::Method;
use server::config::TlsConfig;
use std::path::Path;
use std::time::{Duration, Instant};

on_sqlite!(
    the_whole_interface_is_served_over_tls,
    a_new_certificate_is_taken_without_a_restart,
    a_broken_certificate_stops_the_start,
    nothing_waits_for_a_slow_handshake,
);

/// Writes a new certificate with its key, and returns it.
fn certify(folder: &Path) -> (TlsConfig, Vec<u8>) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let config = TlsConfig { certificate: folder.join("certificate.pem"), key: folder.join("key.pem") };
    std::fs::write(&config.certificate, pair.cert.pem()).expect("is written");
    std::fs::write(&config.key, pair.signing_key.serialize_pem()).expect("is written");
    (config, pair.cert.pem().into_bytes())
}

async fn start(place: &Place) -> TestApp {
    let (tls, pem) = certify(place.folder());
    let mut app = TestApp::start_with(place, |config| config.tls = Some(tls)).await;
    app.http = http(Some(&pem));
    app
}

async fn the_whole_interface_is_served_over_tls(place: &Place) {
    let app = start(place).await;
    assert!(app.url.starts_with("https://"));
    let made = app.execution(&app.house).await;
    let found: Execution = app.get(&app.house, &format!("/v1/executions/{}", made.id)).await.must(200).json();
    assert_eq!(found, made);
    let content = vec![7; 3 << 20];
    let stored = app.send(app.request(Method::POST, &app.house, "/v1/blobs").body(content.clone())).await.must(201);
    let path = format!("/v1/blobs/{}", stored.value()["digest"].as_str().unwrap());
    assert!(app.get(&app.house, &path).await.must(200).body == content);
    let path = format!("/v1/changes?after={}&wait_ms=20000", app.head().await);
    let (page, made) = tokio::join!(app.get(&app.house, &path), app.execution(&app.house));
    assert_eq!(page.value()["items"][0]["id"], made.id.to_string());
    // Who does not trust the certificate sends nothing, and who speaks no TLS is not understood.
    let stranger = http(None).get(format!("{}/healthz", app.url)).send().await;
    assert!(stranger.is_err_and(|error| error.is_connect()), "an unknown certificate was trusted");
    let mut raw = Raw::connect(app.address).await;
    raw.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!raw.rest().await.contains("HTTP/1.1 200"), "answered without TLS");
    app.stop().await;
}

async fn a_new_certificate_is_taken_without_a_restart(place: &Place) {
    let app = start(place).await;
    let ask = async |pem: &[u8]| http(Some(pem)).get(format!("{}/healthz", app.url)).send().await;
    // By order.
    let (_, second) = certify(place.folder());
    assert!(ask(&second).await.is_err(), "a file that changes is not a certificate that is served");
    app.server().reload().await;
    ask(&second).await.expect("the second is served");
    // A broken one changes nothing.
    std::fs::write(place.folder().join("key.pem"), "no key").unwrap();
    app.server().reload().await;
    ask(&second).await.expect("the second is still served");
    // By itself, once the files have changed.
    let (_, third) = certify(place.folder());
    let begun = Instant::now();
    while ask(&third).await.is_err() {
        assert!(begun.elapsed() < WAIT, "the new certificate is not served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Whoever came by an older one stays connected as long as they like.
    app.stop().await;
}

async fn a_broken_certificate_stops_the_start(place: &Place) {
    let (tls, _) = certify(place.folder());
    std::fs::write(&tls.key, "no key").unwrap();
    let mut config = place.config();
    config.tls = Some(tls.clone());
    let started = server::Server::start(config.clone(), None, store::Clock::System).await;
    let error = started.expect_err("a server without a key");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains(&tls.key.display().to_string()), "{cause}");
    // It let go of the folder, so that the next one can start.
    let app = TestApp::start(place).await;
    app.stop().await;
}

async fn nothing_waits_for_a_slow_handshake(place: &Place) {
    let (tls, _) = certify(place.folder());
    let app = TestApp::start_with(place, |config| {
        config.tls = Some(tls);
        config.server.header_timeout = Duration::from_millis(300);
    });
    let app = app.await;
    for beginning in [&b""[..], b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00"] {
        let mut raw = Raw::connect(app.address).await;
        raw.write(beginning).await;
        raw.rest().await;
    }
    app.stop().await;
}
