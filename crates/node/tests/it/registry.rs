//! Pulling: from Debian's registry in its three moods, and from one that breaks off.

use crate::peer::{Asked, Auth, Documents, Hub, Line, Peer, archive, sha256};
use crate::room::{Room, Sample, impatient, list_layers, pulled};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use model::image::{Credential, ImageOrder};
use node::image::{AllowedRegistry, Authorities};
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

#[tokio::test]
async fn a_registry_without_a_public_address_is_reached_only_if_the_operator_says_so() {
    let documents = Documents::new(archive("f", b"x"));
    let peer = Peer::start(move |asked: &Asked, line: &mut Line| documents.answer(asked, line));
    let mut room = Room::new().await;
    let (_, port) = peer.host.split_once(':').expect("has a port");
    let allow = |texts: &[&str]| texts.iter().map(|text| AllowedRegistry::parse(text).expect("is one")).collect();
    // Neither a name for this machine nor a number of it in another notation leads there, nor another's port.
    let others = ["localhost:1", "127.0.0.1:1", "registry.internal"];
    for host in [peer.host.clone(), format!("localhost:{port}"), format!("2130706433.:{port}"), format!("[::1]:{port}")]
    {
        room.registries.allowed = allow(&others);
        if let Err(error) = room.pull(&format!("{host}/a"), me("hush")).await {
            let text = error.to_string();
            let is_clear = text.contains(
                "has no public address, and this node reaches no other (hint: start it with `--allow-registry",
            );
            assert!(
                is_clear || text.contains("a host that is none") || text.contains("cannot be resolved"),
                "{host}: {text}"
            );
            assert!(!error.is_machine() && !text.contains('\n'), "{text}");
        } else {
            panic!("{host} was reached");
        }
    }
    assert_eq!(peer.sent.load(Ordering::SeqCst), 0);
    for allowed in [peer.host.as_str(), "127.0.0.1"] {
        room.registries.allowed = allow(&[allowed]);
        room.pull(&format!("{}/a", peer.host), None).await.expect("it is pulled");
    }
    room.registries.allowed = allow(&[&format!("localhost:{port}")]);
    room.pull(&format!("localhost:{port}/a"), None).await.expect("it is pulled by name");
}

#[tokio::test]
async fn a_registry_leads_nobody_to_what_is_not_public() {
    let inner = Peer::start(|asked: &Asked, _: &mut Line| panic!("it was asked: {}", asked.head));
    let check = async |answer: fn(&Documents, &str, &Asked, &mut Line)| {
        let (documents, elsewhere) = (Documents::new(archive("f", b"x")), inner.host.clone());
        let peer = Peer::start(move |asked: &Asked, line: &mut Line| answer(&documents, &elsewhere, asked, line));
        let mut room = Room::new().await;
        room.registries.allowed = vec![AllowedRegistry::parse(&peer.host).expect("is one")];
        let error = room.pull(&format!("{}/a", peer.host), me("hush")).await.expect_err("is refused").to_string();
        assert!(error.starts_with(&format!("registry `{}` cannot be used: `", peer.host)), "{error}");
        assert!(error.contains("has no public address"), "{error}");
        error
    };
    let error = check(|documents, elsewhere, asked, line| {
        if documents.is_layer(asked) {
            return line.reply("307 Go", &format!("Location: http://{elsewhere}/layer\r\n"), b"");
        }
        documents.answer(asked, line);
    })
    .await;
    assert!(error.contains(&format!("--allow-registry {}", inner.host)), "{error}");
    check(|_, _, _, line| line.reply("302 Go", "Location: http://169.254.169.254/latest/meta-data\r\n", b"")).await;
    check(|_, _, _, line| line.reply("302 Go", "Location: http://localhost:9/x\r\n", b"")).await;
    check(|_, elsewhere, _, line| {
        let wants = format!("WWW-Authenticate: Bearer realm=\"http://{elsewhere}/token\"\r\n");
        line.reply("401 No", &wants, b"");
    })
    .await;
}

#[tokio::test]
async fn a_registry_is_believed_by_an_authority_of_ones_own() {
    let (sample, folder, mut room) = (Sample::new(), tempfile::tempdir().expect("is made"), Room::new().await);
    Hub::start(folder.path(), &Auth::None).push(&sample, "a:b");
    let (hub, authority) = Hub::start_tls(folder.path());
    let name = format!("{}/a:b", hub.host);
    room.registries.allowed = vec![AllowedRegistry::parse(&format!("https://{}", hub.host)).expect("is one")];
    let error = room.pull(&name, None).await.expect_err("is not believed").to_string();
    assert!(error.contains("cannot be reached: invalid peer certificate: UnknownIssuer"), "{error}");
    room.registries.authorities = Authorities::read(&authority.display().to_string()).expect("is read");
    assert_eq!(room.pull(&name, None).await.expect("it is pulled").config, Sample::config());
    // Without TLS nobody answers there, and no credential goes out in the open because somebody asks for it.
    let order = ImageOrder { plain_http: true, ..pulled(&name, me("hush")) };
    room.make(&order, impatient()).await.expect("the operator's word goes first");
    let check = |text: &str, why: &str| {
        let path = folder.path().join("bad.pem");
        std::fs::write(&path, text).expect("is written");
        let error = Authorities::read(&path.display().to_string()).expect_err("is refused");
        assert!(error.contains(why), "{error}");
    };
    check("", "it holds none");
    check("-----BEGIN CERTIFICATE-----\nAAAA\n", "cannot be read");
    assert!(Authorities::read("/nowhere").expect_err("is refused").contains("No such file"));
}
