//! The log as server-sent events: one event per change, its number as the event's id.
//!
//! A follower that reads slowly is not waited for by anybody: it has a page of its own, asks for the next one when it
//! has sent it, and is let go when the server stops, its cursor falls below the floor, or who follows may not any more.
//! Why a stream ended, whoever followed learns by asking again: a browser takes an event of ours for nothing else.

use super::{check_cursor, hidden};
use crate::app::App;
use crate::caller::{self, Caller};
use crate::error::Answer;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use model::{ApiError, Change, ErrorKind, Scope};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use store::{ChangeFilter, Follower};
use tokio::sync::watch;
use tokio::time::Instant;

/// Changes taken at once; they are shared with everybody who follows as closely.
const CHUNK: usize = 256;
/// Bytes written at once, and a change more: what a follower who does not read has to itself.
const PIECE_BYTES: usize = 64 << 10;
/// How long to be silent before moving the follower's cursor, which also tells a broken connection; and how long to go on
/// before making sure again that who follows still may.
const SILENCE: Duration = Duration::from_secs(15);

/// Begins a stream after `Last-Event-ID`, or after `after`, or at the newest change.
pub(super) async fn answer(
    app: &App,
    caller: Caller,
    headers: HeaderMap,
    after: Option<u64>,
    filter: ChangeFilter,
) -> Answer<Response> {
    let bounds = app.store.log_bounds().await?;
    let after = last_event(&headers)?.or(after).unwrap_or(bounds.head);
    check_cursor(after, bounds.head)?;
    if after < bounds.floor {
        return Err(store::StoreError::CursorGone { cursor: after, floor: bounds.floor }.into());
    }
    let follower = app.store.log_follow(after, filter);
    let (app, losses, ready) = (app.clone(), app.known.losses(), VecDeque::new());
    let tail = Tail { app, caller, headers, losses, looked_at: None, follower, ready, begun: false };
    let events = stream::unfold(Some(tail), |tail| async {
        let mut tail = tail?;
        let (text, more) = tail.next().await;
        Some((Ok::<_, Infallible>(Bytes::from(text)), more.then_some(tail)))
    });
    let mut response = Body::from_stream(events).into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy that gathers the answer would hold events back.
    fields.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn last_event(headers: &HeaderMap) -> Answer<Option<u64>> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let broken = || ApiError::invalid("cursor_invalid", "`Last-Event-ID` is not a number of the log");
    Ok(Some(value.to_str().ok().and_then(|text| text.trim().parse().ok()).ok_or_else(broken)?))
}

struct Tail {
    app: App,
    /// Who follows, and what they have shown.
    caller: Caller,
    headers: HeaderMap,
    losses: watch::Receiver<()>,
    /// When we last made sure that they may.
    looked_at: Option<Instant>,
    follower: Follower,
    /// What has been found and not been sent.
    ready: VecDeque<Arc<Change>>,
    begun: bool,
}

impl Tail {
    /// Returns the next piece of the stream, and whether another follows.
    async fn next(&mut self) -> (String, bool) {
        if !self.begun {
            // Something goes out at once, so that whoever connected knows it.
            self.begun = true;
            return (format!("retry: 1000\nid: {}\n\n", self.follower.cursor()), true);
        }
        while self.ready.is_empty() {
            if !self.may_go_on().await {
                return (": who follows may not any more\n\n".to_owned(), false);
            }
            let next = tokio::select! {
                biased;
                () = self.app.stop.cancelled() => return (": the server stops\n\n".to_owned(), false),
                _ = self.losses.changed() => {
                    self.looked_at = None;
                    continue;
                }
                next = tokio::time::timeout(SILENCE, self.follower.next(CHUNK)) => next,
            };
            match next {
                // Only other people's changes, or none at all: the cursor moves, nothing is dispatched.
                Ok(Ok(page)) if page.items.is_empty() => return (format!("id: {}\n\n", page.next), true),
                Err(_) => return (format!("id: {}\n\n", self.follower.cursor()), true),
                Ok(Ok(page)) => self.ready = page.items.into(),
                Ok(Err(error)) => {
                    let error = ApiError::from(error);
                    if let Some(cause) = &error.internal {
                        tracing::error!(code = error.code, cause, "a stream of changes ends");
                    }
                    return (format!(": {}\n\n", error.code), false);
                }
            }
        }
        (self.piece(), true)
    }

    /// Writes as much of what is ready as goes out at once.
    fn piece(&mut self) -> String {
        let mut text = String::new();
        while text.len() < PIECE_BYTES
            && let Some(change) = self.ready.pop_front()
        {
            write_event(&mut text, &change);
            if self.ready.is_empty() && change.seq < self.follower.cursor() {
                let _ = write!(text, "id: {}\n\n", self.follower.cursor());
            }
        }
        text
    }

    /// Makes sure, now and then and when somebody has lost something, that who follows still may.
    async fn may_go_on(&mut self) -> bool {
        if self.looked_at.is_some_and(|at| at.elapsed() < SILENCE) {
            return true;
        }
        self.looked_at = Some(Instant::now());
        let found = caller::find(&self.app, &self.headers).await;
        match found.and_then(|now| now.must(Scope::ChangeRead).map(|()| now)) {
            Ok(now) => now.reach() == self.caller.reach() && hidden(&now) == hidden(&self.caller),
            // Where nobody can be looked up at present, nobody has lost anything.
            Err(failure) => !matches!(failure.kind(), ErrorKind::Unauthorised | ErrorKind::Forbidden),
        }
    }
}

fn write_event(text: &mut String, change: &Change) {
    let body = serde_json::to_string(change).unwrap_or_default();
    let _ = write!(text, "id: {}\nevent: change\ndata: {body}\n\n", change.seq);
}
