//! One request: sending, judging the answer, and trying again where that is harmless.
//!
//! Harmless (`Replay::Safe`) are reading, and creating under an id that the client made: the second time the server
//! finds what the first time made. Only a lost connection, 429, 502, 503 and 504 are tried again, with a growing and
//! jittered pause, and never beyond what `Retry` allows. `Retry-After` is obeyed, or the request given up. A server that
//! has no room left is as good as absent: nobody makes room while a person waits.

use crate::error::{ClientError, root};
use crate::id::random;
use crate::{Client, MAX_CONNECT};
use model::{ApiError, ErrorKind, Page, PageQuery};
use reqwest::header::{AUTHORIZATION, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::Instant;

/// How long a server may take to answer, held requests aside.
pub(crate) const MAX_ANSWER: Duration = Duration::from_secs(60);
/// How long a stream may stay silent before the connection counts as dead; servers speak every 15 seconds.
pub(crate) const MAX_SILENCE: Duration = Duration::from_secs(45);
/// Bytes of one JSON answer: a page of a thousand of the largest rows fits in.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Bytes of a refusal; what is longer did not come from our server.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// The first pause before trying again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What a server says that has no room left.
const FULL: [&str; 2] = ["store_full", "blobs_full"];

/// For how long a request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// While the server cannot be reached at all, or has no room left.
    pub unreachable_max: Duration,
    /// While the server says that it cannot answer now.
    pub busy_max: Duration,
    /// While a stream that once stood cannot be taken up again.
    pub follow_max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            unreachable_max: Duration::from_secs(10),
            busy_max: Duration::from_secs(30),
            follow_max: Duration::from_secs(300),
        }
    }
}

impl Retry {
    /// Tries once and never again.
    pub const NEVER: Self =
        Self { unreachable_max: Duration::ZERO, busy_max: Duration::ZERO, follow_max: Duration::ZERO };
}

/// Whether a request may be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replay {
    /// The second time finds what the first one made.
    Safe,
    /// The second time might do it twice.
    Never,
}

/// A failed try, and whether another one has a chance.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) error: ClientError,
    pub(crate) again: Again,
}

/// Whether another try has a chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// It would end the same way.
    Never,
    /// The server was not there, or had no room left.
    Unreachable,
    /// The server asked for patience, perhaps for so long.
    Busy(Option<Duration>),
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        Self { error, again: Again::Never }
    }
}

/// The pauses between tries: doubling, jittered, and finite.
#[derive(Debug)]
pub(crate) struct Backoff {
    retry: Retry,
    began: Instant,
    pause: Duration,
}

impl Backoff {
    pub(crate) fn new(retry: Retry) -> Self {
        Self { retry, began: Instant::now(), pause: FIRST_PAUSE }
    }

    /// Returns how long to wait before the next try, or nothing when it is time to give up.
    pub(crate) fn pause(&mut self, again: Again) -> Option<Duration> {
        let (max, asked) = match again {
            Again::Never => return None,
            Again::Unreachable => (self.retry.unreachable_max, None),
            Again::Busy(asked) => (self.retry.busy_max, asked),
        };
        let pause = asked.unwrap_or_else(|| jittered(self.pause));
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        (self.began.elapsed() + pause <= max).then_some(pause)
    }
}

/// Takes off up to half, so that many clients do not come back at one moment.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + 0.5 * f64::from(u32::try_from(random() >> 96).unwrap_or(0)) / f64::from(u32::MAX))
}

impl Client {
    /// Asks for JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, query: &impl Serialize) -> Result<T, ClientError> {
        self.json(Replay::Safe, || self.request(Method::GET, path).query(query).timeout(MAX_ANSWER)).await
    }

    /// Asks for a page of a list that needs no other question.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &PageQuery,
    ) -> Result<Page<T>, ClientError> {
        let mut query = query.clone();
        query.tenant = query.tenant.or_else(|| self.tenant.clone());
        self.get(path, &query).await
    }

    /// Creates a thing under an id that the request names.
    pub(crate) async fn create<T: DeserializeOwned>(&self, path: &str, new: &impl Serialize) -> Result<T, ClientError> {
        self.json(Replay::Safe, || {
            self.request(Method::POST, path).query(&self.tenant_query()).json(new).timeout(MAX_ANSWER)
        })
        .await
    }

    /// Does something to a thing, once.
    pub(crate) async fn act<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, ClientError> {
        self.json(Replay::Never, || {
            let request = self.request(method.clone(), path).query(&self.tenant_query()).timeout(MAX_ANSWER);
            if let Some(body) = body { request.json(body) } else { request }
        })
        .await
    }

    /// Returns the question of whose things this client speaks.
    pub(crate) fn tenant_query(&self) -> Vec<(&'static str, &str)> {
        self.tenant.iter().map(|tenant| ("tenant", tenant.as_str())).collect()
    }

    /// Begins a request that shows the credential.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token { request.header(AUTHORIZATION, token.clone()) } else { request }
    }

    /// Sends what `build` makes until it is answered, and reads the answer.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        replay: Replay,
        build: impl Fn() -> RequestBuilder,
    ) -> Result<T, ClientError> {
        self.retried(replay, || {
            let request = build();
            async move { self.json_once(request).await }
        })
        .await
    }

    /// Sends a request once, and reads the answer.
    pub(crate) async fn json_once<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Fault> {
        let response = self.send(request).await?;
        self.read(response).await
    }

    /// Reads an answer's JSON.
    pub(crate) async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, Fault> {
        let request = request_id(&response);
        let bytes = self.body(response, MAX_ANSWER_BYTES).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ClientError::Unexpected { url: self.url.clone(), what: error.to_string(), request }.into())
    }

    /// Tries until it succeeds, cannot succeed, or has been tried for long enough.
    pub(crate) async fn retried<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        replay: Replay,
        // Not an `AsyncFn`: what it returns could not be proved to be `Send`, and no task could own it.
        once: impl Fn() -> F,
    ) -> Result<T, ClientError> {
        let mut backoff = Backoff::new(self.retry);
        loop {
            let Fault { error, again } = match once().await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let pause = if replay == Replay::Safe { backoff.pause(again) } else { None };
            let Some(pause) = pause else { return Err(error) };
            tracing::debug!(%error, ?pause, "trying again");
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends one request and returns an answer that is a success.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Fault> {
        let response = request.send().await.map_err(|error| self.lost(error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// Judges a request that was not answered.
    pub(crate) fn lost(&self, error: reqwest::Error) -> Fault {
        if error.is_builder() {
            return ClientError::invalid(root(&error), "this request cannot be sent").into();
        }
        if error.is_timeout() {
            let within = if error.is_connect() { MAX_CONNECT } else { MAX_ANSWER };
            let source = format!("no answer within {} s", within.as_secs());
            return Fault { error: ClientError::unreachable(&self.url, source), again: Again::Unreachable };
        }
        Fault { error: ClientError::unreachable(&self.url, Box::new(error)), again: Again::Unreachable }
    }

    /// Judges an answer that is not a success.
    pub(crate) async fn refusal(&self, response: Response) -> Fault {
        let status = response.status();
        let request = request_id(&response);
        let again = match status.as_u16() {
            429 | 503 => Again::Busy(retry_after(&response)),
            502 | 504 => Again::Busy(None),
            _ => Again::Never,
        };
        let body = self.body(response, MAX_ERROR_BYTES).await.unwrap_or_default();
        let mut error =
            serde_json::from_slice::<ApiError>(&body).unwrap_or_else(|_| foreign_refusal(&self.url, status));
        error.kind = ErrorKind::from_status(status.as_u16());
        let again = if FULL.contains(&error.code.as_str()) { Again::Unreachable } else { again };
        Fault { error: ClientError::Api { error: Box::new(error), request }, again }
    }

    /// Reads an answer's body, up to a bound.
    async fn body(&self, mut response: Response, max: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.lost(error))? {
            if bytes.len() + chunk.len() > max {
                return Err(ClientError::unexpected(&self.url, format!("it has more than {max} bytes")).into());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// Writes a name so that it stands in a path as one piece.
pub(crate) fn segment(name: &str) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~:@".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// Makes the error for a refusal that is not in our words: a proxy's, or some other program's.
fn foreign_refusal(url: &str, status: StatusCode) -> ApiError {
    let kind = ErrorKind::from_status(status.as_u16());
    let said = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    ApiError::new(kind, format!("http_{}", status.as_u16()), format!("`{url}` answered {}", said.trim_end()))
        .with_hint("something else than a Quarry server may be listening there, such as a proxy")
}

fn request_id(response: &Response) -> Option<String> {
    const MAX_CHARS: usize = 64;
    let text = response.headers().get("x-request-id")?.to_str().ok()?;
    (text.len() <= MAX_CHARS).then(|| text.to_owned())
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end() {
        let mut backoff = Backoff::new(Retry::default());
        let mut tries = 0;
        while let Some(pause) = backoff.pause(Again::Unreachable) {
            assert!(pause >= FIRST_PAUSE / 2 && pause <= MAX_PAUSE, "{pause:?}");
            tokio::time::sleep(pause).await;
            tries += 1;
        }
        assert!((5..=15).contains(&tries), "{tries}");
        assert!(backoff.began.elapsed() <= Retry::default().unreachable_max);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_asks_for_is_obeyed_or_given_up() {
        let check = |again, expected| assert_eq!(Backoff::new(Retry::default()).pause(again), expected);
        let seconds = Duration::from_secs;
        check(Again::Busy(Some(seconds(3))), Some(seconds(3)));
        check(Again::Busy(Some(seconds(31))), None);
        check(Again::Busy(Some(seconds(u64::MAX / 2))), None);
        check(Again::Never, None);
        assert_eq!(Backoff::new(Retry::NEVER).pause(Again::Unreachable), None);
    }

    #[test]
    fn a_name_is_one_piece_of_a_path() {
        let check = |name: &str, expected: &str| assert_eq!(segment(name), expected);
        check("nod_01", "nod_01");
        check("library/busybox:1.36@sha256:ab", "library%2Fbusybox:1.36@sha256:ab");
        check("a b?#%", "a%20b%3F%23%25");
    }

    #[test]
    fn a_foreign_refusal_names_its_status_once() {
        let check = |status: u16, expected: &str| {
            let status = StatusCode::from_u16(status).expect("is a status");
            assert_eq!(foreign_refusal("http://x", status).message, expected);
        };
        check(502, "`http://x` answered 502 Bad Gateway");
        check(599, "`http://x` answered 599");
    }
}
