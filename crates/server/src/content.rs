//! Routes of blobs: content streamed in and out, named by its digest, seen only by the tenants that stored it.
//!
//! The bytes go to the folder or bucket first, the row that makes them the tenant's comes after: a row always has its
//! content. Who stores what another tenant has must still send all of it: knowing a digest proves nothing.

mod range;

use crate::app::App;
use crate::body::{Asked, Made, Named, TenantQuery};
use crate::caller::Caller;
use crate::error::{Answer, Failure};
use crate::page::{Entries, after};
use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use model::limits::MAX_BLOB_BYTES;
use model::{ApiError, Blob, Digest, ErrorKind, Page, PageQuery, Purpose, Scope, TenantId};
use range::Wanted;
use serde::Deserialize;
use std::time::Duration;
use store::blob::{BlobError, Blobs, BodyError};
use store::{chain, is_full};
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Says by a header that a tenant has content for its images only, so that whoever wants to keep it sends it again.
const PURPOSE: header::HeaderName = header::HeaderName::from_static("quarry-purpose");

/// Whose content is, and what for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PutQuery {
    /// Whose; only an admin of the house may name another tenant than their own.
    #[serde(default)]
    tenant: Option<String>,
    /// What for: content that is stored for an image goes when no image needs it any more.
    #[serde(default)]
    #[param(inline)]
    purpose: Purpose,
}

/// Returns the routes that are over soon.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Returns the routes that last as long as the content takes.
pub(crate) fn lasting_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(post)).routes(routes!(put, get, head))
}

/// Lists the tenant's blobs, by digest.
#[utoipa::path(
    get, path = "/v1/blobs", tag = "blob", operation_id = "blob_list", params(PageQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Blob>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn list(State(app): State<App>, caller: Caller, Asked(asked): Asked<PageQuery>) -> Answer<Json<Page<Blob>>> {
    caller.must(Scope::BlobRead)?;
    let entries = Entries::asked(asked.limit)?;
    let after = after(&asked)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let found = app.store.blob_list(tenant, after, entries.limit()).await?;
    Ok(entries.page(found, |last| last.digest.to_string()))
}

/// Stores content whose digest the caller does not know yet.
#[utoipa::path(
    post, path = "/v1/blobs", tag = "blob", operation_id = "blob_create", params(PutQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Stored.", body = Blob),
        (status = 200, description = "The tenant had it.", body = Blob),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn post(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<PutQuery>,
    request: Request,
) -> Answer<Made<Blob>> {
    put_for(&app, &caller, asked, None, request).await
}

/// Stores content under its digest; asking again is harmless.
#[utoipa::path(
    put, path = "/v1/blobs/{digest}", tag = "blob", operation_id = "blob_put",
    params(("digest" = Digest, Path, description = "The BLAKE3 of the content."), PutQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Stored.", body = Blob),
        (status = 200, description = "The tenant had it.", body = Blob),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn put(
    State(app): State<App>,
    caller: Caller,
    Named(digest): Named<Digest>,
    Asked(asked): Asked<PutQuery>,
    request: Request,
) -> Answer<Made<Blob>> {
    put_for(&app, &caller, asked, Some(digest), request).await
}

async fn put_for(
    app: &App,
    caller: &Caller,
    asked: PutQuery,
    digest: Option<Digest>,
    request: Request,
) -> Answer<Made<Blob>> {
    caller.must(Scope::BlobWrite)?;
    let tenant = caller.tenant(app, asked.tenant.as_deref()).await?;
    store(app, &caller.user, tenant, Sent { digest, purpose: asked.purpose }, request).await
}

/// What is known of content before it comes.
pub(crate) struct Sent {
    pub(crate) digest: Option<Digest>,
    pub(crate) purpose: Purpose,
}

/// Stores content that comes with a request, for a tenant.
pub(crate) async fn store(app: &App, by: &str, tenant: TenantId, sent: Sent, request: Request) -> Answer<Made<Blob>> {
    store_at_most(app, by, tenant, (sent, MAX_BLOB_BYTES), request).await
}

/// Stores content that comes with a request and is no longer than this, for a tenant.
pub(crate) async fn store_at_most(
    app: &App,
    by: &str,
    tenant: TenantId,
    (sent, max_bytes): (Sent, u64),
    request: Request,
) -> Answer<Made<Blob>> {
    let max_bytes = announced(&request, max_bytes)?;
    let body = paced(app, request.into_body().into_data_stream());
    let stored = app.blobs.put(sent.digest, body, max_bytes).await.map_err(|error| failure(&error))?;
    let blob = Blob { digest: stored.digest, size: stored.size, created_at: app.clock.now(), purpose: sent.purpose };
    let (blob, is_new) = app.store.blob_create(blob, tenant, by).await?;
    if is_new && is_going(app, blob.digest).await? {
        app.store.blob_drop(blob.digest, tenant, by, app.clock.now()).await?;
        return Err(failure(&BlobError::Vanished { digest: blob.digest }));
    }
    Ok((blob, is_new).into())
}

/// Returns how long content may be that comes with a request: no longer than it says itself.
pub(crate) fn announced(request: &Request, max_bytes: u64) -> Answer<u64> {
    let said = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    match said {
        Some(length) if length > max_bytes => Err(failure(&BlobError::TooLong { max_bytes })),
        said => Ok(said.unwrap_or(max_bytes)),
    }
}

/// Tells whether content was removed after it was found there and before its row was made, or is being removed now.
pub(crate) async fn is_going(app: &App, digest: Digest) -> Answer<bool> {
    Ok(app.store.removal_is_pending(digest).await?
        || app.blobs.head(digest).await.map_err(|error| failure(&error))?.is_none())
}

/// Bytes a second that content must bring, on the whole, while others wait for the room that it has taken.
const MIN_BYTES_PER_SECOND: u64 = 64 << 10;
/// How often to look whether anybody waits.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A piece of content did not come in time.
#[derive(Debug, thiserror::Error)]
enum TooSlow {
    #[error("nothing came for {0:?}")]
    Silent(Duration),
    #[error("others wait, and less than {MIN_BYTES_PER_SECOND} bytes a second came")]
    Crowding,
}

/// Content as it comes, and how fast it does.
struct Pace {
    body: BodyDataStream,
    blobs: Blobs,
    limit: Duration,
    /// How long we have waited for it, our own slowness left out.
    waited: Duration,
    bytes: u64,
}

impl Pace {
    async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        let asked_at = Instant::now();
        let piece = loop {
            let silent = asked_at.elapsed();
            if silent >= self.limit {
                return Some(Err(TooSlow::Silent(self.limit).into()));
            }
            if self.is_crowding(silent) {
                return Some(Err(TooSlow::Crowding.into()));
            }
            if let Ok(piece) = tokio::time::timeout(LOOK_AGAIN.min(self.limit - silent), self.body.next()).await {
                break piece?;
            }
        };
        self.waited += asked_at.elapsed();
        Some(piece.inspect(|bytes| self.count(bytes.len())).map_err(BodyError::from))
    }

    fn count(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Tells whether others wait for something that takes its time.
    fn is_crowding(&self, silent: Duration) -> bool {
        let allowed = self.limit + Duration::from_secs(self.bytes / MIN_BYTES_PER_SECOND);
        self.waited + silent > allowed && self.blobs.is_crowded()
    }
}

/// Breaks content off when nothing of it comes for too long, or too little while others wait; else how long all of it takes
/// is the sender's business.
pub(crate) fn paced(app: &App, body: BodyDataStream) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
    let (blobs, limit) = (app.blobs.clone(), app.config.server.request_timeout);
    let pace = Pace { body, blobs, limit, waited: Duration::ZERO, bytes: 0 };
    futures_util::stream::unfold(Some(pace), |pace| async move {
        let mut pace = pace?;
        let piece = pace.next().await?;
        let rest = piece.is_ok().then_some(pace);
        Some((piece, rest))
    })
    .fuse()
}

/// Fetches content, whole or a range of it; every byte has been checked against the digest.
#[utoipa::path(
    get, path = "/v1/blobs/{digest}", tag = "blob", operation_id = "blob_get",
    params(("digest" = Digest, Path, description = "Which blob."), TenantQuery),
    responses(
        (status = 200, description = "The content.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The range asked for.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 304, description = "The caller has it."),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Named(digest): Named<Digest>,
    Asked(asked): Asked<TenantQuery>,
    request: Request,
) -> Answer<Response> {
    let blob = find(&app, &caller, digest, asked).await?;
    serve(&app, blob, request.method(), request.headers()).await
}

/// Tells how long content is.
#[utoipa::path(
    head, path = "/v1/blobs/{digest}", tag = "blob", operation_id = "blob_head",
    params(("digest" = Digest, Path, description = "Which blob."), TenantQuery),
    responses(
        (
            status = 200, description = "It is there; `Content-Length` is its length. `Quarry-Purpose` is `image` where \
            it goes when no image needs it any more, `execution` where it goes when nothing names it any more.",
        ),
        (status = "default", description = "Refused."),
    )
)]
async fn head(
    State(app): State<App>,
    caller: Caller,
    Named(digest): Named<Digest>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Response> {
    let blob = find(&app, &caller, digest, asked).await?;
    serve(&app, blob, &Method::HEAD, &HeaderMap::new()).await
}

async fn find(app: &App, caller: &Caller, digest: Digest, asked: TenantQuery) -> Answer<Blob> {
    caller.must(Scope::BlobRead)?;
    let tenant = caller.tenant(app, asked.tenant.as_deref()).await?;
    Ok(app.store.blob_get(digest, tenant).await?)
}

pub(crate) async fn serve(app: &App, blob: Blob, method: &Method, headers: &HeaderMap) -> Answer<Response> {
    let tag = format!("\"{}\"", blob.digest);
    let seen = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if seen.is_some_and(|tags| tags == "*" || tags.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)) {
        return Ok(dress(StatusCode::NOT_MODIFIED.into_response(), &tag));
    }
    let wanted = range::wanted(headers, blob.size, &tag);
    let (status, range) = match wanted {
        Wanted::Whole => (StatusCode::OK, 0..blob.size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Nothing => {
            let message = format!("the range lies outside blob `{}` of {} bytes", blob.digest, blob.size);
            let error = ApiError::new(ErrorKind::RangeNotSatisfiable, "range_invalid", message);
            let mut response = Failure::from(error).into_response();
            set(&mut response, header::CONTENT_RANGE, &format!("bytes */{}", blob.size));
            return Ok(response);
        }
    };
    let length = range.end - range.start;
    let body = match *method == Method::HEAD || blob.size == 0 {
        true => Body::empty(),
        false => Body::from_stream(
            app.blobs.get(blob.digest, Some(range.clone())).await.map_err(|error| failure(&error))?.stream,
        ),
    };
    let mut response = dress((status, body).into_response(), &tag);
    set(&mut response, header::CONTENT_TYPE, "application/octet-stream");
    set(&mut response, header::CONTENT_LENGTH, &length.to_string());
    if blob.purpose != Purpose::Kept {
        set(&mut response, PURPOSE, blob.purpose.as_str());
    }
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {}-{}/{}", range.start, range.end - 1, blob.size);
        set(&mut response, header::CONTENT_RANGE, &text);
    }
    Ok(response)
}

fn dress(mut response: Response, tag: &str) -> Response {
    set(&mut response, header::ETAG, tag);
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    // Content never changes under its digest, but who may see it can.
    set(&mut response, header::CACHE_CONTROL, "private, max-age=31536000, immutable");
    response
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

pub(crate) fn failure(error: &BlobError) -> Failure {
    let message = error.to_string();
    let (kind, code) = match error {
        BlobError::NotFound { .. } => (ErrorKind::NotFound, "blob_not_found"),
        BlobError::Mismatch { .. } => (ErrorKind::Invalid, "digest_mismatch"),
        BlobError::TooLong { .. } => (ErrorKind::TooLarge, "blob_too_large"),
        BlobError::Body { source } if source.is::<TooSlow>() => (ErrorKind::TimedOut, "body_too_slow"),
        BlobError::Body { .. } => (ErrorKind::Invalid, "body_broken"),
        BlobError::OutOfRange { .. } => (ErrorKind::RangeNotSatisfiable, "range_invalid"),
        BlobError::Vanished { .. } => (ErrorKind::Unavailable, "blob_vanished"),
        BlobError::Corrupt { .. } => (ErrorKind::Internal, "blob_corrupt"),
        BlobError::Config { .. } | BlobError::Refused { .. } | BlobError::Place { .. } | BlobError::Folder { .. } => {
            if is_full(error) {
                let message = "there is no room left where blobs are kept";
                return ApiError::new(ErrorKind::Unavailable, "blobs_full", message)
                    .with_hint("somebody has to make room on the server's disk; try again then")
                    .with_internal(chain(error))
                    .into();
            }
            let message = "the place where blobs are kept does not answer as it should";
            return ApiError::new(ErrorKind::Unavailable, "blobs_unavailable", message)
                .with_hint("try again; `quarry doctor` on the server says what is wrong")
                .with_internal(chain(error))
                .into();
        }
    };
    let error = ApiError::new(kind, code, message.clone());
    if kind == ErrorKind::Internal { error.with_internal(message).into() } else { error.into() }
}
