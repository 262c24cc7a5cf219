//! Registries and archives that lie: one clear error each, and nothing is left in the cache.

use crate::peer::{Asked, Documents, Line, Peer, archive, sha256};
use crate::room::{Room, pulled};
use model::image::{ArchiveKind, ImageConfig};
use node::image::Patience;
use std::time::Duration;

async fn refused(why: &str, answer: impl Fn(&Asked, &mut Line) + Send + Sync + 'static) {
    refused_as("a", why, answer).await;
}

async fn refused_as(name: &str, why: &str, answer: impl Fn(&Asked, &mut Line) + Send + Sync + 'static) {
    let peer = Peer::start(answer);
    let patience = Patience { stall: Duration::from_secs(1), tries: 2, pause: Duration::from_millis(5) };
    let room = Room::new().await;
    let error = room.make(&pulled(&format!("{}/{name}", peer.host), None), patience).await.expect_err("is refused");
    let text = error.to_string();
    assert!(text.contains(why), "`{text}` does not say `{why}`");
    assert!(!error.is_machine() && text.len() < 500 && !text.contains('\n'), "{text:?}");
    assert_eq!(room.cache.bytes(), 0, "{why}");
}

fn good() -> Documents {
    Documents::new(archive("f", b"content"))
}

/// Answers with other documents than those that digests name.
async fn lying(why: &str, change: impl Fn(&mut Documents)) {
    let (honest, mut documents) = (good(), good());
    change(&mut documents);
    refused(why, move |asked, line| {
        if asked.path().contains("/manifests/") {
            line.reply("200 OK", "", &documents.manifest);
        } else if asked.path().ends_with(&sha256(&honest.config)) {
            line.reply("200 OK", "", &documents.config);
        } else if honest.is_layer(asked) {
            line.reply("200 OK", "", &documents.layer);
        } else {
            line.reply("404 Not Found", "", b"");
        }
    })
    .await;
}

#[tokio::test]
async fn registries_that_lie_about_digests_and_lengths() {
    lying("lied about a digest: asked sha256:", |documents| documents.config.push(b' ')).await;
    lying("lied about a digest: asked sha256:", |documents| documents.layer[600] ^= 1).await;
    lying("sends more than the", |documents| documents.layer.push(0)).await;
    lying("bytes of a layer that has", |documents| documents.layer.truncate(1000)).await;
    let pinned = format!("a@{}", sha256(b"another"));
    refused_as(&pinned, "lied about a digest: asked sha256:", |asked, line| good().answer(asked, line)).await;
    refused("lied about a digest: asked sha256:", |asked, line| {
        let told = format!("Docker-Content-Digest: {}\r\n", sha256(b"another"));
        if asked.path().contains("/manifests/") {
            line.reply("200 OK", &told, &good().manifest);
        } else {
            good().answer(asked, line);
        }
    })
    .await;
    let claims = Documents::lying(archive("f", b"x"), &sha256(b"another"));
    refused("an image lied about a layer: asked sha256:", move |asked, line| claims.answer(asked, line)).await;
}

#[tokio::test]
async fn registries_that_stall_or_break() {
    let of_layer = |act: fn(&Documents, &mut Line)| {
        move |asked: &Asked, line: &mut Line| {
            if good().is_layer(asked) { act(&good(), line) } else { good().answer(asked, line) }
        }
    };
    refused("stalled: no byte of layer `sha256:", of_layer(|_, line| line.hang())).await;
    refused(
        "stalled: no byte of layer `sha256:",
        of_layer(|good, line| {
            line.head("200 OK", "", good.layer.len());
            line.send(&good.layer[..100]);
            line.hang();
        }),
    )
    .await;
    refused("cannot be reached: ", of_layer(|good, line| line.head("200 OK", "", good.layer.len()))).await;
    refused("says 500: layer `sha256:", of_layer(|_, line| line.reply("500 Oops", "", b"<html>"))).await;
    refused("was asked for byte 100 and sent `bytes 0-", {
        move |asked, line| match (good().is_layer(asked), asked.first()) {
            (true, 0) => {
                line.head("200 OK", "", good().layer.len());
                line.send(&good().layer[..100]);
            }
            (true, _) => line.reply("206 Partial Content", "Content-Range: bytes 0-99/9999\r\n", &good().layer),
            (false, _) => good().answer(asked, line),
        }
    })
    .await;
    refused("stalled: no byte of manifest `latest`", |_, line| line.hang()).await;
    let nobody = Room::new().await.pull("127.0.0.1:1/a", None).await.expect_err("nobody is there").to_string();
    assert!(nobody.starts_with("registry `127.0.0.1:1` cannot be reached: "), "{nobody}");
}

#[tokio::test]
async fn registries_that_send_nonsense() {
    let manifest = |text: String| move |_: &Asked, line: &mut Line| line.reply("200 OK", "", text.as_bytes());
    let hex = "0".repeat(64);
    refused("sends more than 4194304 bytes", manifest(" ".repeat(5 << 20))).await;
    refused("makes no sense", manifest("[".repeat(1 << 20))).await;
    refused("makes no sense", manifest("\0\n\u{1b}[31m".to_owned())).await;
    refused("first version", manifest(r#"{"schemaVersion":1}"#.to_owned())).await;
    let index =
        format!(r#"{{"manifests":[{{"digest":"sha256:{hex}","platform":{{"os":"plan9","architecture":"z80"}}}}]}}"#);
    refused("the image is not there for linux/", manifest(index)).await;
    let huge = format!(
        r#"{{"config":{{"digest":"{}"}},"layers":[{{"digest":"sha256:{hex}","size":{}}}]}}"#,
        sha256(&good().config),
        1_u64 << 50
    );
    refused("has a layer of 1125899906842624 bytes", move |asked, line| {
        if asked.path().contains("/manifests/") {
            line.reply("200 OK", "", huge.as_bytes());
        } else {
            good().answer(asked, line);
        }
    })
    .await;
    refused("leads on and on", |asked, line| line.reply("302 Found", &format!("Location: {}\r\n", asked.path()), b""))
        .await;
    refused("leads nowhere", |_, line| line.reply("302 Found", "", b"")).await;
    refused("leads to an address by `file`", |_, line| {
        line.reply("302 Found", "Location: file:///etc/passwd\r\n", b"");
    })
    .await;
    refused("wants to be shown something", |_, line| line.reply("401 No", "WWW-Authenticate: Negotiate\r\n", b""))
        .await;
    refused("token service without an address", |_, line| {
        line.reply("401 No", "WWW-Authenticate: Bearer realm=\"x\"\r\n", b"");
    })
    .await;
    let noise = Documents::new(b"this is no archive at all, but long enough".repeat(30));
    refused("cannot be unpacked: it is no tar archive", move |asked, line| noise.answer(asked, line)).await;
    let up = Documents::new(up());
    refused("cannot be unpacked: the path `../f` leads upwards", move |asked, line| up.answer(asked, line)).await;
}

#[tokio::test]
async fn references_that_are_none() {
    let error = Room::new().await.pull("Not A Name", None).await.expect_err("is refused");
    assert_eq!(error.to_string(), "reference `Not A Name` has capital letters in its name, which no registry allows");
}

/// An archive of one file that would leave its folder.
fn up() -> Vec<u8> {
    let mut bytes = archive("abcf", b"x");
    bytes[..4].copy_from_slice(b"../f");
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&bytes[..512]);
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    bytes
}

/// Writes an archive of files.
fn files(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).expect("a vector takes it");
    }
    builder.into_inner().expect("a vector takes it")
}

#[tokio::test]
async fn archives_that_lie() {
    let check = async |bytes: Vec<u8>, kind: ArchiveKind, why: &str| {
        let room = Room::new().await;
        let error = room.import(&bytes, kind, ImageConfig::default()).await.expect_err("is refused").to_string();
        assert!(error.contains(why), "`{error}` does not say `{why}`");
        assert_eq!(room.cache.bytes(), 0, "{why}");
    };
    let layer = archive("f", b"x");
    let documents = Documents::lying(layer.clone(), &sha256(b"another"));
    let config = String::from_utf8(documents.config).expect("is text");
    let saved = |config: &str, layers: &str| format!(r#"[{{"Config":"{config}","Layers":[{layers}]}}]"#);
    check(b"no archive".to_vec(), ArchiveKind::Auto, "cannot be imported: it ends in the middle").await;
    check(up(), ArchiveKind::Auto, "cannot be imported: the path `../f` leads upwards").await;
    check(archive("f", b"x"), ArchiveKind::OciLayout, "its `index.json` cannot be read").await;
    check(archive("f", b"x"), ArchiveKind::DockerArchive, "its `manifest.json` cannot be read").await;
    check(files(&[("manifest.json", b"[]")]), ArchiveKind::DockerArchive, "it holds no image").await;
    let two = "[{\"Config\":\"a\",\"Layers\":[]},{\"Config\":\"a\",\"Layers\":[]}]";
    check(files(&[("manifest.json", two.as_bytes())]), ArchiveKind::DockerArchive, "it holds several images").await;
    let outside = saved("c", "\"../../../../../../etc/hostname\"");
    let escape = files(&[("manifest.json", outside.as_bytes()), ("c", config.as_bytes())]);
    check(escape, ArchiveKind::Auto, "cannot be read").await;
    let wrong = files(&[("manifest.json", saved("c", "\"l\"").as_bytes()), ("c", config.as_bytes()), ("l", &layer)]);
    check(wrong, ArchiveKind::Auto, "an image lied about a layer").await;
    let more =
        files(&[("manifest.json", saved("c", "\"l\",\"l\"").as_bytes()), ("c", config.as_bytes()), ("l", &layer)]);
    check(more, ArchiveKind::Auto, "has 2 layers, and its configuration names 1").await;
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}"}}]}}"#, sha256(b"honest"));
    let hex = sha256(b"honest").replace("sha256:", "blobs/sha256/");
    let lie = files(&[("oci-layout", b"{}"), ("index.json", index.as_bytes()), (&hex, b"other")]);
    check(lie, ArchiveKind::Auto, "lied about a digest").await;
}

#[tokio::test]
async fn a_diff_id_of_anothers_layer_gives_nobody_its_files() {
    let room = Room::new().await;
    let secret = archive("secret", b"of another tenant");
    room.import(&secret, ArchiveKind::Root, ImageConfig::default()).await.expect("it is made");
    let before = room.cache.bytes();
    let claims = Documents::lying(archive("f", b"x"), &sha256(&secret));
    let peer = Peer::start(move |asked, line| claims.answer(asked, line));
    let error = room.pull(&format!("{}/a", peer.host), None).await.expect_err("is refused");
    assert!(error.to_string().contains("an image lied about a layer"), "{error}");
    assert_eq!(room.cache.bytes(), before);
}
