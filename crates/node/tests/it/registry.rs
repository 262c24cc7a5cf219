//! Pulling: from Debian's registry in its three moods, and from one that breaks off.

use crate::peer::{Asked, Auth, Documents, Hub, Line, Peer, archive, sha256};
use crate::room::{Room, Sample, list_layers};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use model::image::Credential;
use std::sync::atomic::Ordering;

fn me(secret: &str) -> Option<Credential> {
    Some(Credential { user: "me".to_owned(), secret: secret.to_owned() })
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_and_by_digest() {
    let (sample, folder, room) = (Sample::new(), tempfile::tempdir().expect("is made"), Room::new().await);
    let hub = Hub::start(folder.path(), &Auth::None);
    hub.push(&sample, "me/sample:v1");
    let made = room.pull(&format!("{}/me/sample:v1", hub.host), None).await.expect("it is pulled");
    assert_eq!((made.config.clone(), made.layers.len()), (Sample::config(), 3));
    assert_eq!(list_layers(&room.layers(&made).await), sample.listing());
    let pinned = room.pull(&format!("{}/me/sample@{}", hub.host, made.digest), None).await.expect("it is pulled");
    assert_eq!(pinned, made);
    let error = room.pull(&format!("{}/me/sample:v2", hub.host), None).await.expect_err("is not there");
    let expected =
        format!("registry `{}` says 404: manifest `v2` of `me/sample` is not to be had: manifest unknown", hub.host);
    assert_eq!(error.to_string(), expected);
    assert!(!error.is_machine());
    let nothing = format!("sha256:{}", "0".repeat(64));
    let error = room.pull(&format!("{}/me/sample@{nothing}", hub.host), None).await.expect_err("is not there");
    assert!(error.to_string().contains("says 404"), "{error}");
}

#[tokio::test]
async fn a_registry_that_wants_a_password_gets_it() {
    let (sample, folder, room) = (Sample::new(), tempfile::tempdir().expect("is made"), Room::new().await);
    Hub::start(folder.path(), &Auth::None).push(&sample, "a:b");
    let hub = Hub::start(folder.path(), &Auth::Basic);
    let name = format!("{}/a:b", hub.host);
    assert_eq!(room.pull(&name, me("hush")).await.expect("it is pulled").config, Sample::config());
    let check = async |credential, expected: &str| {
        let error = room.pull(&name, credential).await.expect_err("is refused").to_string();
        assert!(error.contains(expected) && !error.contains("wrong"), "{error}");
    };
    check(None, "says 401: manifest `b` of `a` needs a credential").await;
    check(me("wrong"), "says 401: manifest `b` of `a` is not for `me`").await;
}

#[tokio::test]
async fn a_registry_that_wants_a_token_gets_one_from_its_service() {
    let (sample, folder, room) = (Sample::new(), tempfile::tempdir().expect("is made"), Room::new().await);
    Hub::start(folder.path(), &Auth::None).push(&sample, "a/b:c");
    let key = rcgen::KeyPair::generate().expect("a key is made");
    let certificate =
        rcgen::CertificateParams::new(vec!["test".to_owned()]).expect("is valid").self_signed(&key).expect("is signed");
    let mut header = Header::new(Algorithm::ES256);
    let encoded = certificate.pem().lines().filter(|line| !line.starts_with("--")).collect::<String>();
    header.x5c = Some(vec![encoded]);
    let signer = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).expect("is a key");
    let service = Peer::start(move |asked: &Asked, line: &mut Line| {
        let may = asked.header("authorization") == Some("Basic bWU6aHVzaA==");
        let asks = asked.path().contains("service=hub") && asked.path().contains("scope=repository%3Aa%2Fb%3Apull");
        if !may || !asks {
            return line.reply("401 Unauthorized", "", b"{}");
        }
        let access = serde_json::json!([{"type": "repository", "name": "a/b", "actions": ["pull"]}]);
        let claims = serde_json::json!({"iss": "test", "aud": "hub", "sub": "me", "nbf": 0, "iat": 0, "jti": "1", "exp": 4_102_444_800_u64, "access": access});
        let token = encode(&header, &claims, &signer).expect("is signed");
        line.reply("200 OK", "", format!(r#"{{"token":"{token}"}}"#).as_bytes());
    });
    let realm = format!("http://{}/token", service.host);
    let hub = Hub::start(folder.path(), &Auth::Bearer { realm: &realm, certificate: &certificate.pem() });
    let name = format!("{}/a/b:c", hub.host);
    assert_eq!(room.pull(&name, me("hush")).await.expect("it is pulled").config, Sample::config());
    let error = room.pull(&name, me("wrong")).await.expect_err("is refused");
    assert!(error.to_string().contains("says 401: a token is not for `me`"), "{error}");
}

#[tokio::test]
async fn a_layer_that_breaks_off_is_taken_up_where_it_broke() {
    const PIECE: usize = 700_000;
    let content: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let documents = Documents::new(archive("f", &content));
    let (good, length) = (documents.clone(), documents.layer.len());
    let peer = Peer::start(move |asked: &Asked, line: &mut Line| {
        if !good.is_layer(asked) {
            return good.answer(asked, line);
        }
        let first = asked.first();
        let range = format!("Content-Range: bytes {first}-{}/{length}\r\n", length - 1);
        let (status, range) = if first > 0 { ("206 Partial Content", range.as_str()) } else { ("200 OK", "") };
        line.head(status, range, length - first);
        line.send(&good.layer[first..length.min(first + PIECE)]);
    });
    let room = Room::new().await;
    let made = room.pull(&format!("{}/a", peer.host), None).await.expect("it is pulled");
    assert_eq!(made.layers[0].digest, sha256(&documents.layer));
    // Each byte of the layer came once; the rest is headers and documents.
    let sent = usize::try_from(peer.sent.load(Ordering::SeqCst)).expect("is small");
    assert!((length..length + 4096).contains(&sent), "{sent} bytes for a layer of {length}");
}

#[tokio::test]
async fn a_registry_without_ranges_is_asked_from_the_beginning_again() {
    let documents = Documents::new(archive("f", &[7; 500_000]));
    let good = documents.clone();
    let peer = Peer::start(move |asked: &Asked, line: &mut Line| {
        if good.is_layer(asked) && asked.first() == 0 {
            line.head("200 OK", "", good.layer.len());
            return line.send(&good.layer[..300_000]);
        }
        if good.is_layer(asked) {
            return line.reply("200 OK", "", &good.layer);
        }
        good.answer(asked, line);
    });
    let made = Room::new().await.pull(&format!("{}/a", peer.host), None).await.expect("it is pulled");
    assert_eq!(made.layers[0].digest, sha256(&documents.layer));
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let documents = Documents::new(archive("f", b"x"));
    let peer = Peer::start(move |asked: &Asked, line: &mut Line| match asked.before {
        0 => line.reply("429 Too Many Requests", "Retry-After: 0\r\n", b""),
        1 | 3 => line.reply("503 Service Unavailable", "", b""),
        _ => documents.answer(asked, line),
    });
    Room::new().await.pull(&format!("{}/a", peer.host), None).await.expect("it is pulled");
}

#[tokio::test]
async fn a_redirect_is_followed_without_the_credential() {
    let documents = Documents::new(archive("f", b"x"));
    let storage = documents.clone();
    let storage = Peer::start(move |asked: &Asked, line: &mut Line| {
        assert_eq!(asked.header("authorization"), None, "the credential went elsewhere");
        storage.answer(asked, line);
    });
    let elsewhere = storage.host.clone();
    let peer = Peer::start(move |asked: &Asked, line: &mut Line| {
        if asked.header("authorization") != Some("Basic bWU6aHVzaA==") {
            return line.reply("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", b"");
        }
        if documents.is_layer(asked) {
            let location = format!("Location: http://{elsewhere}{}\r\n", asked.path());
            return line.reply("307 Temporary Redirect", &location, b"");
        }
        documents.answer(asked, line);
    });
    Room::new().await.pull(&format!("{}/a", peer.host), me("hush")).await.expect("it is pulled");
}
