//! Blobs from the command line.

use crate::stub::{Stub, answer};
use axum::response::Response;

/// The digest of `hello`.
const HELLO: &str = "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f";

fn blob() -> Response {
    answer(201, format!(r#"{{"digest":"{HELLO}","size":5,"created_at":"2026-01-01T00:00:00Z"}}"#))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_sent_unless_it_is_there() {
    let stub = Stub::start(|seen| if seen.line.starts_with("HEAD") { answer(404, "") } else { blob() }).await;
    std::fs::write(stub.home.path().join("file"), "hello").expect("is written");
    let ran = stub.run(&["blob", "put", "file"]).await;
    assert_eq!((ran.code, ran.out, ran.err), (0, format!("{HELLO}\n"), String::new()));
    assert_eq!(stub.lines(), [format!("HEAD /v1/blobs/{HELLO}"), format!("PUT /v1/blobs/{HELLO}")]);
    let ran = stub.run_with(&["blob", "put", "-"], b"hello").await;
    assert_eq!((ran.code, ran.out), (0, format!("{HELLO}\n")));
    let seen = stub.take();
    assert_eq!((seen[0].line.as_str(), &seen[0].body[..]), ("POST /v1/blobs", &b"hello"[..]));

    let stub = Stub::start(|_| Response::builder().header("content-length", 5).body("hello".into()).expect("ok")).await;
    std::fs::write(stub.home.path().join("file"), "hello").expect("is written");
    let ran = stub.run(&["blob", "put", "file"]).await;
    assert_eq!((ran.code, ran.out, ran.err.as_str()), (0, format!("{HELLO}\n"), "it was stored already\n"));
    assert_eq!(stub.lines(), [format!("HEAD /v1/blobs/{HELLO}")]);
    assert_eq!(stub.run(&["blob", "put", "nowhere"]).await.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_arrives_whole_or_not_at_all() {
    let stub = Stub::start(|_| answer(200, "hello")).await;
    let file = stub.home.path().join("file");
    let ran = stub.run(&["blob", "get", HELLO]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "hello"));
    let ran = stub.run(&["blob", "get", HELLO, "-o", "file"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    assert_eq!(std::fs::read(&file).expect("is there"), b"hello");

    let other = "0".repeat(64);
    let ran = stub.run(&["blob", "get", &other, "-o", "other"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("arrived with the content of"), "{}", ran.err);
    assert_eq!(std::fs::read_dir(stub.home.path()).expect("is read").count(), 1, "something is left over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_not_there() {
    let stub = Stub::start(|_| answer(404, "")).await;
    let ran = stub.run(&["blob", "info", HELLO]).await;
    assert_eq!((ran.code, ran.err), (2, format!("error: blob `{HELLO}` does not exist\n")));
}
