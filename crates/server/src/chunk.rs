//! Routes of chunks: what an execution writes, as pages and as one text; and what it is sent to read.
//!
//! Whoever waits is woken by what is added on this server, and looks by itself for what is added on another. A log is
//! read page by page while it is sent, so its length costs no memory.

mod text;

use crate::app::App;
use crate::body::{Asked, Body, Named};
use crate::caller::Caller;
use crate::error::Answer;
use axum::Json;
use axum::extract::State;
use model::limits::MAX_HOLD;
use model::page::page_limit;
use model::{ApiError, Chunk, ChunkPage, ChunkQuery, ErrorKind, ExecutionId, Scope, Stream, TenantId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::{ChunkCheck, StoreError};
use tokio::sync::Notify;
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// How long to wait for a bell before looking for what another server added.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Returns the routes that are over soon.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(input_send))
}

/// Returns the routes that last as long as there is something to wait for, or to send.
pub(crate) fn lasting_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(chunks)).routes(routes!(input)).routes(routes!(text::log))
}

/// Bells of executions that somebody follows; one that nobody follows has none.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    bells: Mutex<HashMap<ExecutionId, Arc<Notify>>>,
}

/// A place at an execution's bell.
pub(crate) struct Listener<'f> {
    followers: &'f Followers,
    id: ExecutionId,
    bell: Arc<Notify>,
}

impl Followers {
    /// Rings for everybody who follows an execution.
    pub(crate) fn ring(&self, id: ExecutionId) {
        if let Some(bell) = self.bells.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            bell.notify_waiters();
        }
    }

    fn listen(&self, id: ExecutionId) -> Listener<'_> {
        let bell = Arc::clone(self.bells.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default());
        Listener { followers: self, id, bell }
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let mut bells = self.followers.bells.lock().unwrap_or_else(PoisonError::into_inner);
        // Ours goes under the lock under which others take theirs: the last to leave finds the map's alone.
        drop(std::mem::take(&mut self.bell));
        if bells.get(&self.id).is_some_and(|bell| Arc::strong_count(bell) == 1) {
            bells.remove(&self.id);
        }
    }
}

/// Looks at chunks, and if there is none yet waits for the next, or the end.
async fn held(app: &App, check: ChunkCheck, until: Instant) -> Answer<ChunkPage> {
    let listener = app.followers.listen(check.id);
    loop {
        let rung = listener.bell.notified();
        tokio::pin!(rung);
        rung.as_mut().enable();
        let page = app.store.chunk_list(check).await?;
        let now = Instant::now();
        if !page.items.is_empty() || page.ended || now >= until || app.stop.is_cancelled() {
            return Ok(page);
        }
        tokio::select! {
            () = rung => {}
            () = tokio::time::sleep_until(until.min(now + LOOK_AGAIN)) => {}
            () = app.stop.cancelled() => {}
        }
    }
}

/// Returns until when a request may be held.
fn until(asked: &ChunkQuery) -> Answer<Instant> {
    let (wait_ms, max_ms) = (asked.wait_ms.unwrap_or(0), MAX_HOLD.as_millis());
    if u128::from(wait_ms) > max_ms {
        let message = format!("`wait_ms` is {wait_ms}; a request is held for {max_ms} at most");
        return Err(ApiError::invalid("wait_invalid", message).with_hint("ask again when the answer is empty").into());
    }
    Ok(Instant::now() + Duration::from_millis(wait_ms))
}

fn check(id: ExecutionId, tenant: Option<TenantId>, asked: &ChunkQuery) -> Answer<ChunkCheck> {
    let limit = page_limit(asked.limit)?;
    let after = asked.after.unwrap_or(0);
    if i64::try_from(after).is_err() {
        return Err(ApiError::invalid("after_invalid", "`after` is no chunk's number").into());
    }
    Ok(ChunkCheck { id, tenant, attempt: asked.attempt, after, limit })
}

/// Shows what an execution wrote, output and error in their order; waits for more as long as asked.
#[utoipa::path(
    get, path = "/v1/executions/{id}/chunks", tag = "execution", operation_id = "execution_chunks",
    params(("id" = ExecutionId, Path, description = "Which execution."), ChunkQuery),
    responses(
        (status = 200, description = "Some of it.", body = ChunkPage),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn chunks(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<ExecutionId>,
    Asked(asked): Asked<ChunkQuery>,
) -> Answer<Json<ChunkPage>> {
    caller.must(Scope::ExecutionRead)?;
    if asked.attempt == Some(0) {
        return Err(ApiError::invalid("attempt_invalid", "`attempt` is 0; the first is 1").into());
    }
    let check = check(id, caller.reach(), &asked)?;
    Ok(Json(held(&app, check, until(&asked)?).await?))
}

/// Shows what an execution was sent to read; for its users, and for the node that holds it.
#[utoipa::path(
    get, path = "/v1/executions/{id}/input", tag = "execution", operation_id = "execution_input",
    params(("id" = ExecutionId, Path, description = "Which execution."), ChunkQuery),
    responses(
        (status = 200, description = "Some of it.", body = ChunkPage),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn input(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<ExecutionId>,
    Asked(asked): Asked<ChunkQuery>,
) -> Answer<Json<ChunkPage>> {
    if !caller.may(Scope::NodeRun) {
        caller.must(Scope::ExecutionRead)?;
    }
    let until = until(&asked)?;
    let holds = caller.may(Scope::NodeRun) && app.store.execution_is_held_by(id, caller.owner()).await?;
    if !holds && !caller.may(Scope::ExecutionRead) {
        return Err(StoreError::NotFound { noun: "execution", id: id.to_string() }.into());
    }
    let reach = if holds { None } else { caller.reach() };
    let check = ChunkCheck { attempt: Some(0), ..check(id, reach, &asked)? };
    Ok(Json(held(&app, check, until).await?))
}

/// Sends an execution something to read while it runs, or the size of its terminal. The same number again is harmless.
///
/// An empty chunk is a sign of life: the node ends input that nobody has fed for two minutes, or as long as it was told to
/// wait.
#[utoipa::path(
    post, path = "/v1/executions/{id}/input", tag = "execution", operation_id = "execution_input_send",
    params(("id" = ExecutionId, Path, description = "Which execution.")), request_body = Chunk,
    responses(
        (status = 200, description = "It, as it was kept.", body = Chunk),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn input_send(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<ExecutionId>,
    Body(chunk): Body<Chunk>,
) -> Answer<Json<Chunk>> {
    caller.must(Scope::ExecutionWrite)?;
    chunk.check()?;
    if !matches!(chunk.stream, Stream::Input | Stream::Window) {
        let message = format!("`stream` is `{}`; an execution reads `input` and `window`", chunk.stream.as_str());
        return Err(ApiError::invalid("chunk_invalid", message).into());
    }
    let kept = app.store.input_send(id, caller.reach(), chunk).await?;
    app.followers.ring(id);
    Ok(Json(kept))
}

/// Makes the error for an execution whose log cannot be read on.
fn broken_off() -> ApiError {
    ApiError::new(ErrorKind::Unavailable, "log_broken_off", "the log cannot be read on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bell_stays_when_all_leave_at_once() {
        const ROUNDS: u128 = 2_000;
        let (followers, barrier) = (Followers::default(), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..ROUNDS {
                        let listener = followers.listen(ExecutionId::new(jiff::Timestamp::UNIX_EPOCH, round));
                        barrier.wait();
                        drop(listener);
                    }
                });
            }
        });
        assert_eq!(followers.bells.lock().expect("nobody panicked").len(), 0);
    }
}
