//! A real HTTP server on a free port, whose answers a test writes down, and which remembers what it was asked.

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::response::Response;
use client::{Client, Options, Retry};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

/// What a test says to one request.
pub(crate) type Answer = Box<dyn FnOnce(&Seen) -> Response + Send>;

/// What came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) body: Bytes,
}

/// The server; it ends with the test.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    _task: JoinSet<()>,
}

impl Server {
    /// Starts a server that gives these answers, one after the other, and 418 when they are used up.
    pub(crate) async fn start(answers: Vec<Answer>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("is bound"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, memory) = (Arc::new(Mutex::new(VecDeque::from(answers))), seen.clone());
        let router = Router::new().fallback(move |request: Request| {
            let (script, memory) = (script.clone(), memory.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 64 << 20).await.unwrap_or_default();
                let line = format!("{} {}", parts.method, parts.uri);
                let seen = Seen { line, headers: parts.headers, body };
                memory.lock().expect("is whole").push(seen.clone());
                let answer = script.lock().expect("is whole").pop_front();
                answer.map_or_else(|| status(418, "{}"), |answer| answer(&seen))
            }
        });
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.expect("serves") });
        Self { url, seen, _task: task }
    }

    /// Returns a client that is impatient enough for a test.
    pub(crate) fn client(&self) -> Client {
        let retry = Retry {
            unreachable_max: Duration::from_secs(5),
            busy_max: Duration::from_secs(5),
            follow_max: Duration::from_secs(5),
        };
        Client::new(&self.url, Some("tok_secret"), Options { retry, ..Options::default() }).expect("is valid")
    }

    /// Returns what came in so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("is whole").clone()
    }

    /// Returns the first lines of what came in so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

/// Makes an answer of any status and text.
pub(crate) fn status(status: u16, body: &str) -> Response {
    Response::builder()
        .status(status)
        .header("x-request-id", "req_1")
        .body(axum::body::Body::from(body.to_owned()))
        .expect("is an answer")
}

/// Writes an answer down.
pub(crate) fn say(code: u16, body: &str) -> Answer {
    let body = body.to_owned();
    Box::new(move |_| status(code, &body))
}

/// Writes down an answer that breaks off after these pieces.
pub(crate) fn break_after(code: u16, headers: &[(&'static str, String)], pieces: Vec<Bytes>) -> Answer {
    let headers = headers.to_vec();
    Box::new(move |_| {
        let broken = std::io::Error::other("broken on purpose");
        let items = pieces.into_iter().map(Ok).chain([Err(broken)]);
        // A breath between the pieces, so that they leave before the connection is torn down.
        let stream = futures_util::StreamExt::then(futures_util::stream::iter(items), async |item| {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            item
        });
        let response = Response::builder().status(code);
        let response = headers.into_iter().fold(response, |response, (name, value)| response.header(name, value));
        response.body(axum::body::Body::from_stream(stream)).expect("is an answer")
    })
}
