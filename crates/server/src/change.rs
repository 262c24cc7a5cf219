//! Routes of the log: as a page, as a request that is held until something happens, and as a stream of events.

mod stream;

use crate::app::App;
use crate::body::Asked;
use crate::caller::Caller;
use crate::error::Answer;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use model::limits::MAX_HOLD;
use model::page::page_limit;
use model::{ApiError, Change, ChangeQuery, Noun, Page, Scope};
use std::sync::Arc;
use store::{ChangeFilter, ChangePage};
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(follow))
}

/// Follows the log. `next` is where to go on, whether or not the page holds anything; `as_of` is the newest number.
///
/// With `Accept: text/event-stream` the answer is a stream of server-sent events that never ends; `Last-Event-ID`
/// resumes it. With `wait_ms` a request that finds nothing is held until something happens.
#[utoipa::path(
    get, path = "/v1/changes", tag = "change", operation_id = "change_list", params(ChangeQuery),
    responses(
        (status = 200, description = "Changes of what the caller may see, in the order of their commits.", content(
            (Page<Change> = "application/json"), (String = "text/event-stream"),
        )),
        (status = 410, description = "The cursor points before the oldest change that is kept.", body = ApiError),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn follow(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Asked(asked): Asked<ChangeQuery>,
) -> Answer<Response> {
    caller.must(Scope::ChangeRead)?;
    let limit = page_limit(asked.limit)? as usize;
    check_bounds(&asked)?;
    let filter = filter(&app, &caller, &asked).await?;
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    if accept.contains("text/event-stream") {
        return stream::answer(&app, caller, headers, asked.after, filter).await;
    }
    let after = match asked.after {
        Some(after) => after,
        None => app.store.log_bounds().await?.floor,
    };
    let page = held(&app, after, filter, limit, &asked).await?;
    let items: Vec<Arc<Change>> = page.items;
    Ok(Json(Page { items, next: Some(page.next.to_string()), as_of: page.head }).into_response())
}

/// Refuses what is out of bounds.
fn check_bounds(asked: &ChangeQuery) -> Answer<()> {
    /// Characters of the name of anything that has changes; a digest has 64.
    const MAX_ID_CHARS: usize = 128;
    if asked.id.as_ref().is_some_and(|id| id.chars().count() > MAX_ID_CHARS) {
        let message = format!("`id` has more than {MAX_ID_CHARS} characters");
        return Err(ApiError::invalid("id_invalid", message).into());
    }
    let (wait_ms, max_ms) = (asked.wait_ms.unwrap_or(0), MAX_HOLD.as_millis());
    if u128::from(wait_ms) > max_ms {
        let message = format!("`wait_ms` is {wait_ms}; a request is held for {max_ms} at most");
        return Err(ApiError::invalid("wait_invalid", message).with_hint("ask again when the answer is empty").into());
    }
    Ok(())
}

/// Returns what whoever sees the changes of a noun must be allowed: what shows them the thing itself.
const fn scope(noun: Noun) -> Scope {
    match noun {
        Noun::Execution => Scope::ExecutionRead,
        Noun::Tenant => Scope::TenantRead,
        // One's own tokens are shown otherwise.
        Noun::User | Noun::Token => Scope::UserRead,
        Noun::Blob => Scope::BlobRead,
        Noun::Image => Scope::ImageRead,
        Noun::Node => Scope::NodeRead,
        Noun::Registry => Scope::RegistryRead,
        Noun::Dump | Noun::Signature | Noun::Analyzer => Scope::DumpRead,
    }
}

/// Returns whose changes the caller may not see.
fn hidden(caller: &Caller) -> Vec<Noun> {
    Noun::ALL.into_iter().filter(|noun| caller.must(scope(*noun)).is_err()).collect()
}

/// Returns which changes the caller asks for and may see.
async fn filter(app: &App, caller: &Caller, asked: &ChangeQuery) -> Answer<ChangeFilter> {
    let tenant = match asked.tenant.as_deref() {
        Some("*") if caller.keeps_the_house() => None,
        name => Some(caller.tenant(app, name).await?),
    };
    if let Some(noun) = asked.noun {
        caller.must(scope(noun))?;
    }
    Ok(ChangeFilter { tenant, noun: asked.noun, id: asked.id.clone(), hidden: hidden(caller) })
}

/// Refuses a cursor that no change could have had.
fn check_cursor(after: u64, head: u64) -> Answer<()> {
    if after <= head {
        return Ok(());
    }
    let message = format!("cursor {after} is ahead of the log, which ends at {head}");
    Err(ApiError::invalid("cursor_ahead", message).with_hint("take `as_of` or `next` of a page of this server").into())
}

/// Looks at the log, and if there is nothing waits as long as asked.
async fn held(app: &App, after: u64, filter: ChangeFilter, limit: usize, asked: &ChangeQuery) -> Answer<ChangePage> {
    let mut page = app.store.log_page(after, &filter, limit).await?;
    check_cursor(after, page.head)?;
    let until = Instant::now() + asked.hold();
    let mut follower = app.store.log_follow(page.next, filter);
    while page.items.is_empty() {
        let next = tokio::select! {
            next = tokio::time::timeout_at(until, follower.next(limit)) => next,
            () = app.stop.cancelled() => break,
        };
        match next {
            Ok(next) => page = next?,
            Err(_) => break,
        }
    }
    page.head = page.head.max(page.next);
    Ok(page)
}
