//! Tokens over HTTP: the secret is shown once, the use is noted, the end is an end. Who may make which is told in
//! `privilege.rs`.

use crate::app::TestApp;
use crate::engine::{Place, on_both_engines, on_postgres};
use jiff::SignedDuration;
use model::limits::MAX_TOKEN_LIFE;
use model::{NewToken, Page, Scope, Token, TokenIssued};
use store::Clock;

on_both_engines!(a_secret_is_shown_once, a_token_ends_for_good, a_use_is_noted_to_the_minute, bounds_are_kept);
on_postgres!(another_server_forgets_a_token_in_time);

async fn a_secret_is_shown_once(place: &Place) {
    let app = TestApp::start(place).await;
    let new = NewToken { scopes: vec![Scope::BlobRead], ..app.new_token("mine") };
    let issued: TokenIssued = app.post(&app.house, "/v1/tokens", &new).await.must(201).json();
    assert_eq!((issued.token.id, issued.token.scopes.as_slice()), (new.id, [Scope::BlobRead].as_slice()));
    let (_, random) = issued.secret.rsplit_once('_').expect("a secret");
    let path = format!("/v1/tokens/{}", new.id);
    for path in [path.as_str(), "/v1/tokens", "/v1/changes?tenant=*", "/metrics", "/v1/whoami"] {
        let shown = app.get(&app.house, path).await.must(200);
        assert!(!shown.text().contains(random), "{path} shows the secret");
        let hash = blake3::hash(&blake3::Hash::from_hex(random).unwrap().as_bytes()[..]).to_hex();
        assert!(!shown.text().contains(hash.as_str()), "{path} shows the hash");
    }
    // Nor does the disk know it.
    for entry in std::fs::read_dir(place.folder()).unwrap().map(|entry| entry.unwrap().path()) {
        let bytes = if entry.is_file() { std::fs::read(&entry).unwrap() } else { Vec::new() };
        let raw = *blake3::Hash::from_hex(random).unwrap().as_bytes();
        let holds = |secret: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
        assert!(!holds(random.as_bytes()) && !holds(&raw), "{} holds the secret", entry.display());
    }
    app.stop().await;
}

async fn a_token_ends_for_good(place: &Place) {
    let app = TestApp::start(place).await;
    let issued = app.narrow(&app.house, &[]).await;
    app.get(&issued.secret, "/v1/whoami").await.must(200);
    let path = format!("/v1/tokens/{}/revoke", issued.token.id);
    // With the very token that it ends.
    let revoked: Token = app.order(&issued.secret, &path).await.must(200).json();
    assert!(revoked.revoked_at.is_some());
    let error = app.get(&issued.secret, "/v1/whoami").await.error(401, "token_refused");
    assert!(error.message.contains("revoked"), "{error:?}");
    let head = app.head().await;
    let again: Token = app.order(&app.house, &path).await.must(200).json();
    assert_eq!((again.revoked_at, app.head().await), (revoked.revoked_at, head), "the first time stays");
    let listed: Page<Token> = app.get(&app.house, "/v1/tokens").await.json();
    assert!(listed.items.iter().any(|token| token.id == revoked.id && token.revoked_at == revoked.revoked_at));
    app.stop().await;
}

async fn a_use_is_noted_to_the_minute(place: &Place) {
    let clock = Clock::manual(Clock::System.now());
    let app = TestApp::start_at(place, clock.clone(), |_| ()).await;
    let issued = app.narrow(&app.house, &[]).await;
    let path = format!("/v1/tokens/{}", issued.token.id);
    let used_at = async || app.get(&app.house, &path).await.must(200).json::<Token>().used_at;
    assert_eq!(used_at().await, None);
    let head = app.head().await;
    let first = clock.now();
    for seconds in [0, 1, 30, 28] {
        clock.advance(SignedDuration::from_secs(seconds));
        app.get(&issued.secret, "/v1/whoami").await.must(200);
        assert_eq!(used_at().await, Some(first));
    }
    clock.advance(SignedDuration::from_secs(1));
    app.get(&issued.secret, "/v1/whoami").await.must(200);
    assert_eq!(used_at().await, Some(clock.now()));
    assert_eq!(app.head().await, head, "a use is no change");
    app.stop().await;
}

async fn bounds_are_kept(place: &Place) {
    let app = TestApp::start(place).await;
    let (now, life) = (app.clock.now(), SignedDuration::try_from(MAX_TOKEN_LIFE).unwrap());
    for at in [now, now - SignedDuration::from_secs(1), now + life + SignedDuration::from_mins(10)] {
        let new = NewToken { expires_at: Some(at), ..app.new_token("odd") };
        let error = app.post(&app.house, "/v1/tokens", &new).await.error(400, "token_invalid");
        assert!(error.message.contains("`expires_at`"), "{error:?}");
    }
    let new = NewToken { expires_at: Some(now + life), ..app.new_token("long") };
    let issued: TokenIssued = app.post(&app.house, "/v1/tokens", &new).await.must(201).json();
    let found: Token = app.get(&app.house, &format!("/v1/tokens/{}", new.id)).await.must(200).json();
    assert_eq!(found, issued.token);
    let many = NewToken { scopes: vec![Scope::BlobRead; 33], ..app.new_token("many") };
    app.post(&app.house, "/v1/tokens", &many).await.error(400, "token_invalid");
    app.stop().await;
}

/// Each server remembers for a moment who was good; what one is told, the others find out after that moment.
async fn another_server_forgets_a_token_in_time(place: &Place) {
    let clock = Clock::manual(Clock::System.now());
    let first = TestApp::start_at(place, clock.clone(), |_| ()).await;
    let second = TestApp::start_at(place, clock.clone(), |_| ()).await;
    let issued = first.narrow(&first.house, &[]).await;
    second.get(&issued.secret, "/v1/whoami").await.must(200);
    first.order(&first.house, &format!("/v1/tokens/{}/revoke", issued.token.id)).await.must(200);
    first.get(&issued.secret, "/v1/whoami").await.error(401, "token_refused");
    clock.advance(SignedDuration::from_secs(5));
    second.get(&issued.secret, "/v1/whoami").await.error(401, "token_refused");
    first.stop().await;
    second.stop().await;
}
