//! Blobs over HTTP: streamed both ways, named by their digest, each tenant's own.

use crate::answer::Answer;
use crate::app::{TestApp, WAIT};
use crate::engine::{Place, on_both_engines, on_sqlite};
use crate::raw::Raw;
use bytes::Bytes;
use model::{Blob, Digest, Page, Role};
use reqwest::Method;
use std::time::{Duration, Instant};

on_both_engines!(what_is_stored_comes_back, each_tenant_has_its_own, the_list_is_read_page_by_page,);
on_sqlite!(
    a_part_is_served_as_the_standard_says,
    a_copy_that_is_known_is_not_sent_again,
    what_breaks_off_leaves_nothing,
    what_does_not_come_in_time_is_broken_off,
    twenty_mebibytes_go_through,
    more_than_may_be_is_refused_at_once,
);

fn digest(content: &[u8]) -> Digest {
    Digest::from_bytes(*blake3::hash(content).as_bytes())
}

fn path(content: &[u8]) -> String {
    format!("/v1/blobs/{}", digest(content))
}

/// Returns content in which no two places look alike.
fn content(length: usize) -> Bytes {
    (0_u32..).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).take(length).collect()
}

async fn put(app: &TestApp, token: &str, path: &str, content: &[u8]) -> Answer {
    app.send(app.request(Method::PUT, token, path).body(content.to_vec())).await
}

async fn what_is_stored_comes_back(place: &Place) {
    let app = TestApp::start(place).await;
    for content in [&b""[..], b"x", b"{\"not\": \"our business\"}", &content(300_000)] {
        let path = path(content);
        let head = app.head().await;
        let stored: Blob = put(&app, &app.house, &path, content).await.must(201).json();
        assert_eq!((stored.digest, stored.size), (digest(content), content.len() as u64));
        let again: Blob = put(&app, &app.house, &path, content).await.must(200).json();
        assert_eq!((again, app.head().await), (stored, head + 1), "storing it again changes nothing");
        let posted = app.request(Method::POST, &app.house, "/v1/blobs").body(content.to_vec());
        assert_eq!(app.send(posted).await.must(200).json::<Blob>(), stored);

        let found = app.get(&app.house, &path).await.must(200);
        assert_eq!(found.body, content);
        let seen = app.send(app.request(Method::HEAD, &app.house, &path)).await.must(200);
        for answer in [&found, &seen] {
            assert_eq!(answer.header("content-length"), content.len().to_string(), "{}", answer.asked);
            assert_eq!(answer.header("content-type"), "application/octet-stream");
            assert_eq!(answer.header("accept-ranges"), "bytes");
            assert_eq!(answer.header("etag"), format!("\"{}\"", stored.digest));
            assert!(answer.header("cache-control").contains("private"), "what one may see is nobody else's");
        }
        assert_eq!(seen.body, "");
    }
    // The server finds out the digest by itself.
    let posted = app.request(Method::POST, &app.house, "/v1/blobs").body("new content");
    assert_eq!(app.send(posted).await.must(201).json::<Blob>().digest, digest(b"new content"));
    let error = put(&app, &app.house, &path(b"this"), b"that").await.error(400, "digest_mismatch");
    assert!(error.message.contains(&digest(b"this").to_string()), "{error:?}");
    app.get(&app.house, &path(b"this")).await.error(404, "blob_not_found");
    app.get(&app.house, &path(b"that")).await.error(404, "blob_not_found");
    app.stop().await;
}

async fn each_tenant_has_its_own(place: &Place) {
    let app = TestApp::start(place).await;
    let (one, other) = (app.admin("one").await, app.admin("other").await);
    let vera = app.somebody("one", "vera", Role::Viewer).await;
    let secret = b"known to one alone";
    let path = path(secret);
    put(&app, &one.secret, &path, secret).await.must(201);
    // Knowing the digest proves nothing.
    app.get(&other.secret, &path).await.error(404, "blob_not_found");
    app.send(app.request(Method::HEAD, &other.secret, &path)).await.must(404);
    app.get(&app.house, &path).await.error(404, "blob_not_found");
    put(&app, &other.secret, &path, b"").await.error(400, "digest_mismatch");
    app.get(&other.secret, &path).await.error(404, "blob_not_found");
    let listed: Page<Blob> = app.get(&other.secret, "/v1/blobs").await.json();
    assert_eq!(listed.items, []);
    // Nor does it by way of an execution, which would be handed what the node has of somebody else's.
    let file = serde_json::json!({ "sandbox": { "files": [{ "digest": digest(secret), "target": "/work/secret" }] } });
    let input = serde_json::json!({ "input": { "kind": "blob", "digest": digest(secret) } });
    for part in [file, input] {
        let mut new = serde_json::to_value(app.new_execution()).expect("is JSON");
        new.as_object_mut().expect("an object").extend(part.as_object().expect("an object").clone());
        app.post(&other.secret, "/v1/executions", &new).await.error(404, "blob_not_found");
        app.post(&one.secret, "/v1/executions", &new).await.must(201);
        app.post(&one.secret, "/v1/executions", &new).await.must(200);
    }
    // Having the content does, and it is new to them.
    let head = app.head().await;
    put(&app, &other.secret, &path, secret).await.must(201);
    assert_eq!(app.head().await, head + 1);
    assert_eq!(app.get(&other.secret, &path).await.must(200).body, &secret[..]);
    assert_eq!(app.get(&vera.secret, &path).await.must(200).body, &secret[..]);
    // Who keeps the house says whose they mean.
    assert_eq!(app.get(&app.house, &format!("{path}?tenant=one")).await.must(200).body, &secret[..]);
    put(&app, &app.house, &format!("{path}?tenant=house"), secret).await.must(201);
    app.stop().await;
}

async fn the_list_is_read_page_by_page(place: &Place) {
    let app = TestApp::start(place).await;
    let mut stored = Vec::new();
    for at in 0..25 {
        let content = format!("blob {at}");
        stored.push(put(&app, &app.house, &path(content.as_bytes()), content.as_bytes()).await.json::<Blob>());
    }
    stored.sort_unstable_by_key(|blob| blob.digest);
    for limit in [1, 10, 25, 26] {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page: Page<Blob> = app.get(&app.house, &format!("/v1/blobs?limit={limit}{after}")).await.json();
            assert_eq!(page.as_of, app.head().await);
            found.extend(page.items);
            let Some(next) = page.next else { break };
            after = format!("&after={next}");
        }
        assert_eq!(found, stored, "pages of {limit}");
    }
    app.stop().await;
}

async fn a_part_is_served_as_the_standard_says(place: &Place) {
    let app = TestApp::start(place).await;
    let all = content(200_000);
    let (path, size) = (path(&all), all.len());
    put(&app, &app.house, &path, &all).await.must(201);
    let tag = format!("\"{}\"", digest(&all));
    let get = async |path: &str, fields: &[(&str, &str)]| {
        let request = app.request(Method::GET, &app.house, path);
        app.send(fields.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    };
    let check = async |range: &str, from: usize, to: usize| {
        let answer = get(&path, &[("range", range)]).await.must(206);
        assert_eq!(answer.body, all[from..to], "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes {from}-{}/{size}", to - 1));
        assert_eq!(answer.header("content-length"), (to - from).to_string());
        assert_eq!(answer.header("etag"), tag);
    };
    check("bytes=0-0", 0, 1).await;
    check("bytes=0-", 0, size).await;
    check("bytes=199999-", size - 1, size).await;
    check("bytes=-1", size - 1, size).await;
    check("bytes=-1000000", 0, size).await;
    check("bytes=1023-1024", 1023, 1025).await;
    check("bytes=65535-131072", 65_535, 131_073).await;
    check("bytes=100000-99999999", 100_000, size).await;
    for range in ["bytes=200000-", "bytes=200000-200001", "bytes=-0", "bytes=18446744073709551615-"] {
        let answer = get(&path, &[("range", range)]).await;
        answer.error(416, "range_invalid");
        assert_eq!(answer.header("content-range"), format!("bytes */{size}"));
    }
    // What is no range, several of them, and other units are answered with the whole.
    for range in ["bytes=5-4", "bytes=0-1,5-6", "lines=1-2", "bytes", "bytes=", "bytes=a-b", "bytes=1-2-3"] {
        let answer = get(&path, &[("range", range)]).await.must(200);
        assert_eq!((answer.body.len(), answer.header("content-range")), (size, ""), "{range}");
    }
    // A part fits only onto the same whole.
    let part = get(&path, &[("range", "bytes=0-9"), ("if-range", &tag)]).await.must(206);
    assert_eq!(part.body.len(), 10);
    for known in ["\"other\"", &format!("W/{tag}"), "Sat, 21 Nov 2026 10:00:00 GMT"] {
        assert_eq!(get(&path, &[("range", "bytes=0-9"), ("if-range", known)]).await.must(200).body.len(), size);
    }
    let (nothing, empty) = (self::path(b""), get(&path, &[]).await);
    assert_eq!(empty.body, all);
    put(&app, &app.house, &nothing, b"").await.must(201);
    get(&nothing, &[("range", "bytes=0-0")]).await.error(416, "range_invalid");
    app.stop().await;
}

async fn a_copy_that_is_known_is_not_sent_again(place: &Place) {
    let app = TestApp::start(place).await;
    let path = path(b"content");
    put(&app, &app.house, &path, b"content").await.must(201);
    let tag = format!("\"{}\"", digest(b"content"));
    let check = async |known: &str, status: u16| {
        let request = app.request(Method::GET, &app.house, &path).header("if-none-match", known);
        let answer = app.send(request).await.must(status);
        assert_eq!(answer.body.is_empty(), status == 304, "{known}");
        assert_eq!(answer.header("etag"), tag);
    };
    check(&tag, 304).await;
    check("*", 304).await;
    check(&format!("W/{tag}"), 304).await;
    check(&format!("\"other\", {tag}"), 304).await;
    check("\"other\"", 200).await;
    check("", 200).await;
    check(&digest(b"content").to_string(), 200).await;
    // Who may not see it learns nothing by a guess.
    let other = app.admin("other").await;
    let request = app.request(Method::GET, &other.secret, &path).header("if-none-match", "*");
    app.send(request).await.error(404, "blob_not_found");
    app.stop().await;
}

/// Begins to store content, and says how much of it there will be.
async fn begin(app: &TestApp, content: &[u8], announced: usize) -> Raw {
    let mut raw = Raw::connect(app.address).await;
    let (path, token) = (path(content), &app.house);
    let head = format!("PUT {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
    raw.write(format!("{head}content-length: {announced}\r\n\r\n").as_bytes()).await;
    raw
}

async fn what_breaks_off_leaves_nothing(place: &Place) {
    let app = TestApp::start(place).await;
    let content = content(100_000);
    let head = app.head().await;
    for sent in [0, 1, 50_000, 99_999] {
        let mut raw = begin(&app, &content, content.len()).await;
        raw.write(&content[..sent]).await;
        raw.shut().await;
        let answer = raw.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    // Chunks that end in the middle, and chunks that are none.
    for rest in ["5\r\nabc", "zz\r\nabc\r\n0\r\n\r\n", "-1\r\n"] {
        let mut raw = Raw::connect(app.address).await;
        let line = format!("PUT {} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n", path(b"abc"));
        raw.write(format!("{line}authorization: Bearer {}\r\n\r\n{rest}", app.house).as_bytes()).await;
        raw.shut().await;
        let answer = raw.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    app.get(&app.house, &path(&content)).await.error(404, "blob_not_found");
    app.get(&app.house, &path(b"abc")).await.error(404, "blob_not_found");
    assert_eq!(app.head().await, head, "nothing is told of what never was");
    // The place itself is tried out when a server starts, and what broke off is cleared away behind the answer.
    let begun = Instant::now();
    while files(&place.folder().join("blob")) > 0 {
        assert!(begun.elapsed() < WAIT, "half a blob is left on the disk");
        tokio::task::yield_now().await;
    }
    put(&app, &app.house, &path(&content), &content).await.must(201);
    assert_eq!(files(&place.folder().join("blob")), 1);
    app.stop().await;
}

/// Counts the files in a folder and those below it.
fn files(folder: &std::path::Path) -> usize {
    // What is listed may be gone the next moment.
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

async fn what_does_not_come_in_time_is_broken_off(place: &Place) {
    const LIMIT: Duration = Duration::from_millis(400);
    let app = TestApp::start_with(place, |config| config.server.request_timeout = LIMIT).await;
    let content = content(10);
    let mut raw = begin(&app, &content, 10).await;
    raw.write(&content[..5]).await;
    let answer = raw.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"body_too_slow\""), "{answer}");
    app.get(&app.house, &path(&content)).await.error(404, "blob_not_found");
    // Slow and steady is another thing: all of it may take as long as it takes.
    let begun = Instant::now();
    let mut raw = begin(&app, &content, 10).await;
    for byte in &content {
        tokio::time::sleep(LIMIT / 8).await;
        raw.write(&[*byte]).await;
    }
    assert!(begun.elapsed() > LIMIT, "this was to take longer than the limit");
    raw.until("HTTP/1.1 201 ").await;
    crowders_give_way(&app).await;
    app.stop().await;
}

/// Those who take the room of all and bring next to nothing go when somebody else comes.
async fn crowders_give_way(app: &TestApp) {
    let mut crowders = Vec::new();
    for number in 0..6 {
        crowders.push(begin(app, &content(100 + number), 8 << 20).await);
    }
    let drip = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            for crowder in &mut crowders {
                // One that has been sent away takes nothing more.
                let _ = crowder.try_write(b"x").await;
            }
        }
    };
    let content = content(300_000);
    let place = path(&content);
    tokio::select! {
        answer = put(app, &app.house, &place, &content) => drop(answer.must(201)),
        () = drip => {}
    }
    let answer = crowders.swap_remove(0).rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"body_too_slow\""), "{answer}");
}

async fn twenty_mebibytes_go_through(place: &Place) {
    let app = TestApp::start(place).await;
    let all = content(20 << 20);
    let pieces: Vec<Result<Bytes, std::io::Error>> =
        (0..all.len()).step_by(100_000).map(|at| Ok(all.slice(at..all.len().min(at + 100_000)))).collect();
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let request = app.request(Method::PUT, &app.house, &path(&all)).timeout(WAIT * 3).body(body);
    assert_eq!(app.send(request).await.must(201).json::<Blob>().size, all.len() as u64);
    let found = app.send(app.request(Method::GET, &app.house, &path(&all)).timeout(WAIT * 3)).await.must(200);
    assert!(found.body == all, "what came back is not what was sent");
    app.stop().await;
}

async fn more_than_may_be_is_refused_at_once(place: &Place) {
    let app = TestApp::start(place).await;
    for announced in [model::limits::MAX_BLOB_BYTES + 1, 1 << 62] {
        let mut raw = begin(&app, b"", usize::try_from(announced).unwrap()).await;
        raw.until("HTTP/1.1 413 ").await;
        raw.until("\"code\":\"blob_too_large\"").await;
    }
    app.stop().await;
}
