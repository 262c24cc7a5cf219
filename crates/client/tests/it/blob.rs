//! Blobs over a line that breaks, from a server that lies.

use crate::server::{Answer, Seen, Server, break_after, say};
use axum::body::{Body, Bytes};
use axum::response::Response;
use client::ClientError;
use client::blob::{ByteRange, Content};
use model::Digest;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

fn content() -> Bytes {
    (0..1_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

async fn digest_of(bytes: &Bytes) -> Digest {
    Content::Bytes(bytes.clone()).digest().await.expect("is read").0
}

/// Answers a request for a part, or for the whole, as it should be answered.
fn serve(bytes: Bytes) -> Answer {
    Box::new(move |seen: &Seen| match seen.headers.get("range") {
        None => Response::new(Body::from(bytes)),
        Some(range) => {
            let range = range.to_str().expect("is text").trim_start_matches("bytes=").to_owned();
            let (first, last) = range.split_once('-').expect("is a range");
            let first: usize = first.parse().expect("is a number");
            let last = last.parse().map_or(bytes.len(), |last: usize| last + 1);
            Response::builder().status(206).body(Body::from(bytes.slice(first..last))).expect("is an answer")
        }
    })
}

async fn fetch(server: &Server, digest: Digest, range: Option<ByteRange>) -> Result<Vec<u8>, ClientError> {
    let mut reader = server.client().blob_get(digest, range).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await? {
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(bytes.len() as u64, reader.size());
    Ok(bytes)
}

#[tokio::test]
async fn a_download_that_breaks_is_taken_up_where_it_broke() {
    let bytes = content();
    let headers = [("content-length", bytes.len().to_string())];
    let server = Server::start(vec![break_after(200, &headers, vec![bytes.slice(..1000)]), serve(bytes.clone())]).await;
    assert_eq!(fetch(&server, digest_of(&bytes).await, None).await.expect("arrives"), bytes);
    assert_eq!(server.seen()[1].headers["range"], "bytes=1000-999999");
}

#[tokio::test]
async fn a_part_is_a_part() {
    let bytes = content();
    let check = async |first: u64, last: Option<u64>, asked: &str, expected: Bytes| {
        let server = Server::start(vec![serve(bytes.clone())]).await;
        let found = fetch(&server, digest_of(&bytes).await, Some(ByteRange { first, last })).await.expect("arrives");
        assert_eq!(found, expected);
        assert_eq!(server.seen()[0].headers["range"], asked);
    };
    check(0, Some(0), "bytes=0-0", bytes.slice(..1)).await;
    check(10, Some(19), "bytes=10-19", bytes.slice(10..20)).await;
    check(999_990, None, "bytes=999990-", bytes.slice(999_990..)).await;
}

#[tokio::test]
async fn content_that_is_not_what_it_is_called_is_refused() {
    let digest = digest_of(&content()).await;
    for lie in [Bytes::from_static(b"something else"), Bytes::new()] {
        let server = Server::start(vec![serve(lie)]).await;
        let error = fetch(&server, digest, None).await.expect_err("is a lie");
        assert!(matches!(error, ClientError::Corrupt { expected, .. } if expected == digest), "{error:?}");
    }
    let server = Server::start(vec![say(200, "whole")]).await;
    let error = fetch(&server, digest, Some(ByteRange { first: 1, last: None })).await.expect_err("is no part");
    assert!(matches!(error, ClientError::Unexpected { .. }), "{error:?}");
}

#[tokio::test]
async fn an_upload_is_sent_again_whole() {
    let bytes = content();
    let file = tempfile::NamedTempFile::new().expect("is made");
    std::fs::write(file.path(), &bytes).expect("is written");
    let digest = digest_of(&bytes).await;
    let blob = format!(r#"{{"digest":"{digest}","size":1000000,"created_at":"2026-01-01T00:00:00Z"}}"#);
    for content in [Content::Bytes(bytes.clone()), Content::File(file.path().to_owned())] {
        assert_eq!(content.digest().await.expect("is read"), (digest, 1_000_000));
        let server = Server::start(vec![say(503, "{}"), say(201, &blob)]).await;
        let sent = Arc::new(AtomicU64::new(0));
        let told = sent.clone();
        let progress = Arc::new(move |bytes| told.store(bytes, Ordering::Relaxed));
        let stored = server.client().blob_put(digest, 1_000_000, &content, progress).await.expect("is stored");
        assert_eq!(stored.digest, digest);
        assert_eq!(sent.load(Ordering::Relaxed), 1_000_000);
        let seen = server.seen();
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|seen| seen.body == bytes && seen.headers["content-length"] == "1000000"));
    }
}

/// What cannot be read.
struct Broken;

impl AsyncRead for Broken {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Err(std::io::Error::other("the disk is gone")))
    }
}

#[tokio::test]
async fn a_file_that_changes_is_told_apart_from_a_server_that_is_away() {
    let file = tempfile::NamedTempFile::new().expect("is made");
    std::fs::write(file.path(), content()).expect("is written");
    let content = Content::File(file.path().to_owned());
    let (digest, size) = content.digest().await.expect("is read");
    std::fs::OpenOptions::new()
        .append(true)
        .open(file.path())
        .and_then(|mut file| file.write_all(b"more"))
        .expect("grows");
    let blob = format!(r#"{{"digest":"{digest}","size":{size},"created_at":"2026-01-01T00:00:00Z"}}"#);
    let server = Server::start(vec![say(201, &blob)]).await;
    let client = server.client();
    client.blob_put(digest, size, &content, Arc::new(|_| {})).await.expect("what was read first is sent");
    assert_eq!(server.seen()[0].body.len() as u64, size);
    for length in [size / 2, 0] {
        std::fs::File::create(file.path()).and_then(|file| file.set_len(length)).expect("shrinks");
        let error = client.blob_put(digest, size, &content, Arc::new(|_| {})).await.expect_err("is too short");
        let kind = if let ClientError::Content(error) = &error { error.kind() } else { panic!("{error:?}") };
        assert_eq!(kind, std::io::ErrorKind::UnexpectedEof);
    }
    let error = client.blob_post((&b"abc"[..]).chain(Broken), Arc::new(|_| {})).await.expect_err("breaks");
    assert!(matches!(&error, ClientError::Content(error) if error.to_string() == "the disk is gone"), "{error:?}");
}

#[tokio::test]
async fn what_can_be_read_only_once_is_sent_only_once() {
    let server = Server::start(vec![say(503, r#"{"code":"busy","message":"later"}"#)]).await;
    let error = server.client().blob_post(&b"abc"[..], Arc::new(|_| {})).await.expect_err("is busy");
    assert!(error.is_code("busy"), "{error:?}");
    assert_eq!(server.lines(), ["POST /v1/blobs"]);
    assert_eq!(server.seen()[0].body, "abc");
}

#[tokio::test]
async fn a_blob_is_looked_for_before_it_is_sent() {
    let digest = digest_of(&content()).await;
    let there: Answer = Box::new(|_| Response::builder().header("content-length", 7).body(Body::empty()).expect("ok"));
    let server = Server::start(vec![say(404, ""), there, say(403, "")]).await;
    assert_eq!(server.client().blob_size(digest).await.expect("is answered"), None);
    assert_eq!(server.client().blob_size(digest).await.expect("is answered"), Some(7));
    assert!(server.client().blob_size(digest).await.is_err());
}
