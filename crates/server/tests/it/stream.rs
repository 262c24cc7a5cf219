//! The log as server-sent events: without gap or repeat however often the connection breaks, and bounded for everybody
//! else by whoever does not read.

use crate::app::{TestApp, WAIT};
use crate::engine::{Place, on_both_engines, on_postgres, on_sqlite, soak};
use crate::raw::Raw;
use model::{Change, NewExecution, Role, UserChange, UserState};
use reqwest::Method;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use store::random;
use tokio::time::timeout;

on_both_engines!(
    every_change_comes_once_and_in_order_however_often_the_line_breaks,
    a_stream_shows_only_what_is_wanted,
    a_stream_ends_with_the_right_to_it,
    a_stream_ends_with_the_server,
);
on_sqlite!(who_does_not_read_stalls_nobody);
on_postgres!(two_servers_show_one_log);

/// An event.
#[derive(Debug, Default)]
struct Event {
    id: Option<u64>,
    kind: String,
    change: Option<Change>,
}

/// A stream of events that is being read.
struct Events {
    response: reqwest::Response,
    held: String,
}

impl Events {
    async fn open(app: &TestApp, token: &str, question: &str, last: Option<u64>) -> Self {
        let mut request = app.request(Method::GET, token, &format!("/v1/changes{question}"));
        request = request.header("accept", "text/event-stream").header("accept-encoding", "gzip, zstd");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = timeout(WAIT, request.timeout(WAIT * 4).send()).await.expect("in time").expect("answers");
        let header = |name: &str| response.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        assert_eq!(response.status(), 200);
        assert_eq!(header("content-type"), "text/event-stream");
        assert_eq!((header("cache-control"), header("content-encoding")), ("no-store".to_owned(), String::new()));
        assert!(header("x-request-id").starts_with("req_"));
        Self { response, held: String::new() }
    }

    /// Returns the next event, or nothing once the stream has ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.held.split_once("\n\n") {
                let event = read(event);
                self.held = rest.to_owned();
                return Some(event);
            }
            let piece = timeout(WAIT, self.response.chunk()).await.expect("something comes in time").ok().flatten()?;
            self.held.push_str(str::from_utf8(&piece).expect("text"));
        }
    }

    /// Returns the next change, passing over events that only move the cursor.
    async fn change(&mut self) -> Change {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if let Some(change) = event.change {
                assert_eq!((event.id, event.kind.as_str()), (Some(change.seq), "change"));
                return change;
            }
        }
    }

    /// Reads until the stream ends, which it must do in time.
    async fn end(mut self) {
        while self.next().await.is_some() {}
    }
}

fn read(text: &str) -> Event {
    let mut event = Event::default();
    for line in text.lines() {
        match line.split_once(':').map(|(field, value)| (field, value.trim_start())) {
            Some(("id", id)) => event.id = Some(id.parse().expect("a number")),
            Some(("event", kind)) => event.kind = kind.to_owned(),
            Some(("data", json)) => event.change = Some(serde_json::from_str(json).expect("a change")),
            Some(("retry" | "", _)) => {}
            _ => panic!("no line of an event: {line}"),
        }
    }
    event
}

async fn every_change_comes_once_and_in_order_however_often_the_line_breaks(place: &Place) {
    const WRITERS: usize = 8;
    let each: usize = if soak() { 5_000 } else { 125 };
    let app = TestApp::start(place).await;
    let one = app.admin("one").await;
    let begin = app.head().await;
    let write = async || {
        for at in 0..each {
            let made = app.execution(&one.secret).await;
            if at % 5 == 0 {
                // What others do lies in between and is not shown.
                app.execution(&app.house).await;
            }
            if at % 25 == 0 {
                app.order(&one.secret, &format!("/v1/executions/{}/cancel", made.id)).await.must(200);
            }
        }
    };
    let expected = WRITERS * (each + each.div_ceil(25));
    let (mut found, mut cursor, mut lines) = (Vec::<Change>::new(), begin, 0);
    let follow = async {
        while found.len() < expected {
            let mut events = Events::open(&app, &one.secret, "", Some(cursor)).await;
            lines += 1;
            // After so many bytes the line breaks, wherever in an event that is.
            let mut left = 1 + usize::try_from(random() % 40_000).unwrap();
            let mut held = Vec::new();
            while left > 0 && found.len() < expected {
                let piece = timeout(WAIT, events.response.chunk()).await.expect("in time").unwrap().unwrap();
                let taken = piece.len().min(left);
                left -= taken;
                held.extend_from_slice(&piece[..taken]);
                while let Some(end) = held.windows(2).position(|pair| pair == b"\n\n") {
                    let event = read(str::from_utf8(&held[..end]).expect("text"));
                    held.drain(..end + 2);
                    cursor = event.id.unwrap_or(cursor);
                    found.extend(event.change);
                }
            }
        }
    };
    let writers = futures_util::future::join_all((0..WRITERS).map(|_| write()));
    tokio::join!(writers, follow);
    assert!(lines > 5, "the line broke {lines} times only");
    assert!(found.is_sorted_by(|one, next| one.seq < next.seq), "out of order, or twice");
    // Nothing is missing: these are the very changes that a page shows.
    let mut shown = Vec::new();
    while shown.len() < expected {
        let after = shown.last().copied().unwrap_or(begin);
        let page = app.get(&one.secret, &format!("/v1/changes?limit=1000&after={after}")).await.value();
        shown.extend(page["items"].as_array().unwrap().iter().map(|change| change["seq"].as_u64().unwrap()));
    }
    assert_eq!(found.iter().map(|change| change.seq).collect::<Vec<_>>(), shown);
    app.stop().await;
}

async fn a_stream_shows_only_what_is_wanted(place: &Place) {
    let app = TestApp::start(place).await;
    let (one, other) = (app.admin("one").await, app.admin("other").await);
    let made = app.execution(&one.secret).await;
    let begin = app.head().await;
    let id = format!("?id={}", made.id);
    let mut all = Events::open(&app, &one.secret, "", None).await;
    let mut nouns = Events::open(&app, &one.secret, "?noun=token", None).await;
    let mut ids = Events::open(&app, &one.secret, &id, None).await;
    let mut theirs = Events::open(&app, &other.secret, "", None).await;
    let mut house = Events::open(&app, &app.house, "?tenant=*", None).await;
    for events in [&mut all, &mut nouns, &mut ids, &mut theirs, &mut house] {
        assert_eq!(events.next().await.unwrap().id, Some(begin), "a stream begins at the newest, and says so at once");
    }
    app.execution(&one.secret).await;
    let token = app.narrow(&one.secret, &[]).await.token;
    app.order(&one.secret, &format!("/v1/executions/{}/cancel", made.id)).await.must(200);
    let last = app.execution(&other.secret).await;

    let mut numbers = Vec::new();
    for _ in 0..3 {
        numbers.push(all.change().await.seq);
    }
    assert_eq!(numbers, [begin + 1, begin + 2, begin + 3]);
    assert_eq!(nouns.change().await.id, token.id.to_string());
    let change = ids.change().await;
    assert_eq!((change.seq, change.state.as_str()), (begin + 3, "cancelled"));
    assert_eq!(theirs.change().await.id, last.id.to_string());
    for seq in begin + 1..=begin + 4 {
        assert_eq!(house.change().await.seq, seq);
    }
    // What is not shown still moves the cursor, so that who resumes does not read it all again.
    for events in [&mut all, &mut nouns, &mut ids] {
        while events.next().await.unwrap().id != Some(begin + 4) {}
    }
    // `Last-Event-ID` goes before `after`, which a browser repeats with every new connection.
    let mut resumed = Events::open(&app, &one.secret, "?after=0", Some(begin + 1)).await;
    assert_eq!(resumed.change().await.seq, begin + 2);
    let mut after = Events::open(&app, &one.secret, &format!("?after={begin}"), None).await;
    assert_eq!(after.change().await.seq, begin + 1);
    app.stop().await;
}

async fn a_stream_ends_with_the_right_to_it(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("one").await;
    let ulla = app.somebody("one", "ulla", Role::User).await;
    let short = app.narrow(&ada.secret, &[]).await;
    let mut lasting = Events::open(&app, &ada.secret, "", None).await;
    let revoked = Events::open(&app, &short.secret, "", None).await;
    let disabled = Events::open(&app, &ulla.secret, "", None).await;
    app.order(&ada.secret, &format!("/v1/tokens/{}/revoke", short.token.id)).await.must(200);
    revoked.end().await;
    let change = UserChange { state: Some(UserState::Disabled), role: None };
    app.json(Method::PATCH, &ada.secret, &format!("/v1/users/{}", ulla.user.id), &change).await.must(200);
    disabled.end().await;
    // Everybody else's goes on.
    let made = app.execution(&ada.secret).await;
    while lasting.change().await.id != made.id.to_string() {}
    app.stop().await;
}

async fn a_stream_ends_with_the_server(place: &Place) {
    let app = TestApp::start_with(place, |config| config.server.drain_timeout = WAIT).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(Events::open(&app, &app.house, "", None).await);
    }
    // One that is held, too, and has surely arrived: it came with the one before it, which is answered.
    let (mut held, head) = (Raw::connect(app.address).await, app.head().await);
    let first = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let second = format!("GET /v1/changes?wait_ms=30000&after={head} HTTP/1.1\r\nhost: x\r\n");
    held.write(format!("{first}{second}authorization: Bearer {}\r\n\r\n", app.house).as_bytes()).await;
    held.until("\"status\":\"ok\"").await;
    let begun = Instant::now();
    app.stop().await;
    assert!(begun.elapsed() < WAIT / 2, "the server waited for those who follow it");
    for events in streams {
        events.end().await;
    }
    let answer = held.rest().await;
    assert!(
        answer.contains(" 200 OK")
            && answer.ends_with(&format!("{{\"items\":[],\"next\":\"{head}\",\"as_of\":{head}}}"))
    );
}

async fn two_servers_show_one_log(place: &Place) {
    const EACH: usize = 100;
    let (first, second) = (TestApp::start(place).await, TestApp::start(place).await);
    let house = first.house.clone();
    let begin = first.head().await;
    let mut streams = [Events::open(&first, &house, "", None).await, Events::open(&second, &house, "", None).await];
    let write = async |app: &TestApp| {
        for _ in 0..EACH {
            app.execution(&house).await;
        }
    };
    tokio::join!(write(&first), write(&second));
    for events in &mut streams {
        for seq in begin + 1..=begin + 2 * EACH as u64 {
            assert_eq!(events.change().await.seq, seq);
        }
    }
    // One that is held on one server hears of what the other does.
    let path = format!("/v1/changes?wait_ms=30000&after={}", first.head().await);
    let begun = Instant::now();
    let (page, made) = tokio::join!(first.get(&house, &path), second.execution(&house));
    assert_eq!(page.value()["items"][0]["id"], made.id.to_string());
    assert!(begun.elapsed() < WAIT / 2, "the other server's change came late");
    first.stop().await;
    second.stop().await;
}

/// Returns the memory that this process has, server and test together.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}

async fn who_does_not_read_stalls_nobody(place: &Place) {
    const SLEEPERS: usize = 40;
    const CHANGES: usize = 400;
    /// More than what all share, and what other tests in this process take; far less than a copy for everybody.
    const MAX_GROWTH: usize = 150 << 20;
    let app = TestApp::start_with(place, |config| config.server.drain_timeout = Duration::from_millis(500)).await;
    let begin = app.head().await;
    let mut sleepers = Vec::new();
    for _ in 0..SLEEPERS {
        let mut raw = Raw::connect_narrow(app.address).await;
        let head = "GET /v1/changes HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n";
        raw.write(format!("{head}authorization: Bearer {}\r\n\r\n", app.house).as_bytes()).await;
        raw.until(&format!("id: {begin}\n\n")).await;
        sleepers.push(raw);
    }
    let mut late = Events::open(&app, &app.house, "", None).await;
    let mut awake = Events::open(&app, &app.house, "", None).await;
    let before = resident_bytes();
    let made = AtomicUsize::new(0);
    let write = async || {
        while made.fetch_add(1, Ordering::Relaxed) < CHANGES {
            let large = model::Input::Text { text: "x".repeat(15_000) };
            let new = NewExecution { input: large, ..app.new_execution() };
            app.post(&app.house, "/v1/executions", &new).await.must(201);
        }
    };
    let follow = async {
        for seq in begin + 1..=begin + CHANGES as u64 {
            assert_eq!(awake.change().await.seq, seq);
        }
    };
    tokio::join!(write(), write(), write(), write(), follow);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < MAX_GROWTH, "{SLEEPERS} who do not read cost {} MiB", grown >> 20);
    // Who wakes up reads all of it.
    for seq in begin + 1..=begin + CHANGES as u64 {
        assert_eq!(late.change().await.seq, seq);
    }
    // Nor do they hold up the server's end for longer than it may take.
    let begun = Instant::now();
    app.stop().await;
    assert!(begun.elapsed() < WAIT / 2, "the server waited for those who do not read");
    drop(sleepers);
}
