//! The log as server-sent events: one event per change, its number as the event's id.
//!
//! A follower that reads slowly is not waited for by anybody: it has a page of its own, asks for the next one when it
//! has sent it, and is let go when the server stops or its cursor falls below the floor.

use super::check_cursor;
use crate::app::App;
use crate::error::Answer;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use model::{ApiError, Change};
use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;
use store::{ChangeFilter, Follower};
use tokio_util::sync::CancellationToken;

/// Events sent at once.
const CHUNK: usize = 256;
/// How long to be silent before moving the follower's cursor: also what tells a broken connection.
const SILENCE: Duration = Duration::from_secs(15);

/// Begins a stream after `Last-Event-ID`, or after `after`, or at the newest change.
pub(super) async fn answer(
    app: &App,
    headers: &HeaderMap,
    after: Option<u64>,
    filter: ChangeFilter,
) -> Answer<Response> {
    let bounds = app.store.log_bounds().await?;
    let after = last_event(headers)?.or(after).unwrap_or(bounds.head);
    check_cursor(after, bounds.head)?;
    if after < bounds.floor {
        return Err(store::StoreError::CursorGone { cursor: after, floor: bounds.floor }.into());
    }
    let tail = Tail { follower: app.store.log_follow(after, filter), stop: app.stop.clone(), begun: false };
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
    follower: Follower,
    stop: CancellationToken,
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
        let next = tokio::select! {
            next = tokio::time::timeout(SILENCE, self.follower.next(CHUNK)) => next,
            () = self.stop.cancelled() => return (": the server stops\n\n".to_owned(), false),
        };
        match next {
            Ok(Ok(page)) => {
                let mut text = String::new();
                page.items.iter().for_each(|change| write_event(&mut text, change));
                if page.items.last().is_none_or(|last| last.seq < page.next) {
                    // Only other people's changes: the cursor moves, nothing is dispatched.
                    let _ = write!(text, "id: {}\n\n", page.next);
                }
                (text, true)
            }
            Ok(Err(error)) => {
                let error = ApiError::from(error);
                if let Some(cause) = &error.internal {
                    tracing::error!(code = error.code, cause, "a stream of changes ends");
                }
                let body = serde_json::to_string(&error).unwrap_or_default();
                (format!("event: error\ndata: {body}\n\n"), false)
            }
            Err(_) => (format!("id: {}\n\n", self.follower.cursor()), true),
        }
    }
}

fn write_event(text: &mut String, change: &Change) {
    let body = serde_json::to_string(change).unwrap_or_default();
    let _ = write!(text, "id: {}\nevent: change\ndata: {body}\n\n", change.seq);
}
