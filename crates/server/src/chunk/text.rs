//! A log as one text: output and error in the order in which they were written, as far as they are or until their end.

use super::{broken_off, check, held};
use crate::app::App;
use crate::body::{Asked, Named};
use crate::caller::Caller;
use crate::error::Answer;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use model::{ApiError, ChunkPage, ChunkQuery, Content, ExecutionId, Scope, Stream};
use serde::Deserialize;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;
use store::ChunkCheck;
use tokio::time::Instant;

/// How long one wait for more lasts.
const WAIT: Duration = Duration::from_secs(15);
/// Chunks that are read at once.
const PAGE: u32 = 64;

/// What of a log to send.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogQuery {
    /// Whether to go on until the execution ends.
    #[serde(default)]
    follow: bool,
    /// Only this stream.
    #[serde(default)]
    #[param(inline)]
    stream: Option<Stream>,
}

/// Sends what an execution wrote, as one text; with `follow` until the execution ends.
#[utoipa::path(
    get, path = "/v1/executions/{id}/log", tag = "execution", operation_id = "execution_log",
    params(("id" = ExecutionId, Path, description = "Which execution."), LogQuery),
    responses(
        (status = 200, description = "The text.", content_type = "text/plain", body = String),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
pub(crate) async fn log(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<ExecutionId>,
    Asked(asked): Asked<LogQuery>,
) -> Answer<Response> {
    caller.must(Scope::ExecutionRead)?;
    let first = ChunkQuery { limit: Some(PAGE), ..ChunkQuery::default() };
    let check = check(id, caller.reach(), &first)?;
    // The first page is read before anything is said, so that a refusal is one.
    let page = held(&app, check, Instant::now()).await?;
    let mut tail =
        Tail { app, check, follow: asked.follow, only: asked.stream, ready: VecDeque::new(), blob: None, ended: false };
    tail.take(page);
    let pieces = stream::try_unfold(tail, |mut tail| async move {
        Ok::<_, io::Error>(tail.next().await?.map(|piece| (piece, tail)))
    });
    let mut response = Body::from_stream(pieces).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

struct Tail {
    app: App,
    check: ChunkCheck,
    follow: bool,
    only: Option<Stream>,
    ready: VecDeque<Content>,
    blob: Option<BoxStream<'static, Result<Bytes, store::blob::BlobError>>>,
    ended: bool,
}

impl Tail {
    fn take(&mut self, page: ChunkPage) {
        // From the first chunk on it is one attempt's log, whatever is tried later.
        if !page.items.is_empty() {
            self.check.attempt = Some(page.attempt);
        }
        self.ended = page.ended || (page.items.is_empty() && !self.follow);
        self.check.after = page.next;
        let wanted = page.items.into_iter().filter(|chunk| self.only.is_none_or(|only| only == chunk.stream));
        self.ready.extend(wanted.map(|chunk| chunk.content));
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(blob) = &mut self.blob {
                match blob.next().await {
                    Some(piece) => return piece.map(Some).map_err(io::Error::other),
                    None => self.blob = None,
                }
            }
            match self.ready.pop_front() {
                Some(Content::Inline { bytes }) if bytes.0.is_empty() => {}
                Some(Content::Inline { bytes }) => return Ok(Some(bytes.0.into())),
                Some(Content::Blob { digest, .. }) => {
                    let found = self.app.blobs.get(digest, None).await.map_err(io::Error::other)?;
                    self.blob = Some(found.stream);
                }
                None if self.ended || self.app.stop.is_cancelled() => return Ok(None),
                None => {
                    let wait = if self.follow { WAIT } else { Duration::ZERO };
                    let page = held(&self.app, self.check, Instant::now() + wait).await;
                    self.take(page.map_err(|_| io::Error::other(broken_off()))?);
                }
            }
        }
    }
}
