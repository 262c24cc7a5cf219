//! Routes of dumps: made known, listed, looked at, noted on, and what they are made of.
//!
//! A dump's content is not put together here: whoever wants it fetches the manifest, asks where the frames stand, and
//! fetches ranges of parcels. A node that analyses a dump does so by the routes of its execution. What means many dumps is
//! in `dump/query.rs`.

mod query;

use crate::app::App;
use crate::body::{Asked, Body, Named, TenantQuery};
use crate::caller::Caller;
use crate::content::{self, failure};
use crate::error::{Answer, Failure};
use crate::page::{Entries, after};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use futures_util::TryStreamExt;
use model::dump::{Arrival, DumpArrived, DumpChange, MAX_HASH_CHARS, check_size, is_hash};
use model::parcel::{MAX_MANIFEST_BYTES, Manifest};
use model::{ApiError, Blob, Dump, ErrorKind, NewDump, Page, PageQuery, Scope, TenantId};
use std::str::FromStr;
use std::sync::Arc;
use store::{DumpKey, Taken};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Returns the routes that are over soon.
pub(crate) fn routes() -> OpenApiRouter<App> {
    let one = OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get, change)).routes(routes!(purge));
    one.merge(query::routes())
}

/// Returns the routes that last as long as the content takes.
pub(crate) fn lasting_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(manifest))
}

/// What a dump goes by: its id, its hash, or a beginning of its hash that no other has.
#[derive(Debug)]
struct Name(DumpKey);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(id) => Ok(Self(DumpKey::Id(id))),
            Err(_) if is_hash(text) => Ok(Self(DumpKey::Hash(text.to_owned()))),
            Err(_) => {
                Err(format!("a dump is named by its id, or by 1 to {MAX_HASH_CHARS} hexadecimal digits of its hash"))
            }
        }
    }
}

async fn taken(app: &App, caller: &Caller, asked: &TenantQuery) -> Answer<Taken> {
    Ok(Taken { reach: caller.reach(), namespace: caller.tenant(app, asked.tenant.as_deref()).await? })
}

/// Makes a dump known whose manifest and frames are there; the same hash again merges and resets nothing.
#[utoipa::path(
    post, path = "/v1/dumps", tag = "dump", operation_id = "dump_create", params(TenantQuery), request_body = NewDump,
    responses(
        (status = 201, description = "Nobody knew it.", body = DumpArrived),
        (status = 200, description = "It was known.", body = DumpArrived),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(new): Body<NewDump>,
) -> Answer<(StatusCode, Json<DumpArrived>)> {
    caller.must(Scope::DumpWrite)?;
    new.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let (manifest, _room) = read_manifest(&app, manifest_blob(&app, &new, tenant).await?).await?;
    check_size(manifest.size)?;
    let parcels = app.store.frame_parcels(&manifest.frames, tenant).await?;
    let made = (manifest.digest, manifest.size);
    let arrived = app.store.dump_create(new, made, parcels, tenant, (&caller.user, app.clock.now())).await?;
    app.arrivals.notify_one();
    if arrived.arrival == Arrival::New {
        return Ok((StatusCode::CREATED, Json(arrived)));
    }
    // Of two manifests one is left over; while its name stands among the removals, nobody could store it again.
    crate::image::remove_contents(&app).await;
    Ok((StatusCode::OK, Json(arrived)))
}

/// Bytes of manifests that are looked into at once; several times as much is in hand meanwhile, and the other ones wait.
const MAX_MANIFESTS_BYTES: u64 = 2 * MAX_MANIFEST_BYTES;

/// How much of what manifests say may be in hand at once.
#[derive(Debug)]
pub(crate) struct Manifests(Arc<Semaphore>);

impl Default for Manifests {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(usize::try_from(MAX_MANIFESTS_BYTES).unwrap_or(Semaphore::MAX_PERMITS))))
    }
}

/// Returns the blob of a dump's manifest, which its tenant must have.
pub(crate) async fn manifest_blob(app: &App, new: &NewDump, tenant: TenantId) -> Answer<Blob> {
    let blob = app.store.blob_get(new.manifest, tenant).await?;
    if blob.size > MAX_MANIFEST_BYTES {
        let message = format!("blob `{}` is too long for a dump's manifest", blob.digest);
        return Err(ApiError::new(ErrorKind::TooLarge, "manifest_invalid", message).into());
    }
    Ok(blob)
}

/// Reads a manifest that was stored; it is our own form, bounded, and names frames without holding any. What it says is in
/// hand until the second answer is dropped.
pub(crate) async fn read_manifest(app: &App, blob: Blob) -> Answer<(Manifest, OwnedSemaphorePermit)> {
    let bytes = u32::try_from(blob.size.min(MAX_MANIFEST_BYTES)).unwrap_or(u32::MAX);
    let room = Arc::clone(&app.manifests.0).acquire_many_owned(bytes).await;
    let room = room.map_err(|error| Failure::from(ApiError::internal(error.to_string())))?;
    let reading = app.blobs.get(blob.digest, None).await.map_err(|error| failure(&error))?;
    let gather = |mut all: Vec<u8>, part: bytes::Bytes| async move {
        all.extend_from_slice(&part);
        Ok(all)
    };
    let bytes = reading.stream.try_fold(Vec::new(), gather).await.map_err(|error| failure(&error))?;
    let read = tokio::task::spawn_blocking(move || Manifest::decode(&bytes)).await;
    let read = read.map_err(|error| Failure::from(ApiError::internal(error.to_string())))?;
    let manifest = read.map_err(|why| ApiError::invalid("manifest_invalid", why.to_string()))?;
    Ok((manifest, room))
}

/// Lists dumps, those that were uploaded last first.
#[utoipa::path(
    get, path = "/v1/dumps", tag = "dump", operation_id = "dump_list", params(PageQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Dump>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn list(State(app): State<App>, caller: Caller, Asked(asked): Asked<PageQuery>) -> Answer<Json<Page<Dump>>> {
    caller.must(Scope::DumpRead)?;
    let entries = Entries::asked(asked.limit)?;
    let after = after(&asked)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let found = app.store.dump_list(tenant, after, entries.limit()).await?;
    Ok(entries.page(found, |last| last.id.to_string()))
}

/// Shows a dump, by its id, its hash, or a beginning of its hash that no other has.
#[utoipa::path(
    get, path = "/v1/dumps/{name}", tag = "dump", operation_id = "dump_get",
    params(("name" = String, Path, description = "Which dump.", pattern = "^(dmp_[0-9a-z]{26}|[0-9a-f]{1,32})$"), TenantQuery),
    responses(
        (status = 200, description = "It.", body = Dump),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Named(Name(key)): Named<Name>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<Dump>> {
    caller.must(Scope::DumpRead)?;
    Ok(Json(app.store.dump_get(key, taken(&app, &caller, &asked).await?).await?))
}

/// Notes something on a dump: its ticket, its properties.
#[utoipa::path(
    patch, path = "/v1/dumps/{name}", tag = "dump", operation_id = "dump_change",
    params(("name" = String, Path, description = "Which dump.", pattern = "^(dmp_[0-9a-z]{26}|[0-9a-f]{1,32})$"), TenantQuery),
    request_body = DumpChange,
    responses(
        (status = 200, description = "It, as it is now.", body = Dump),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn change(
    State(app): State<App>,
    caller: Caller,
    Named(Name(key)): Named<Name>,
    Asked(asked): Asked<TenantQuery>,
    Body(change): Body<DumpChange>,
) -> Answer<Json<Dump>> {
    caller.must(Scope::DumpWrite)?;
    change.check()?;
    let taken = taken(&app, &caller, &asked).await?;
    Ok(Json(app.store.dump_note(key, taken, change, &caller.user, app.clock.now()).await?))
}

/// Drops a dump's content, and keeps what is known of it.
#[utoipa::path(
    post, path = "/v1/dumps/{name}/purge", tag = "dump", operation_id = "dump_purge",
    params(("name" = String, Path, description = "Which dump.", pattern = "^(dmp_[0-9a-z]{26}|[0-9a-f]{1,32})$"), TenantQuery),
    responses(
        (status = 200, description = "It, as it is now.", body = Dump),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn purge(
    State(app): State<App>,
    caller: Caller,
    Named(Name(key)): Named<Name>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<Dump>> {
    caller.must(Scope::DumpWrite)?;
    let taken = taken(&app, &caller, &asked).await?;
    let dump = app.store.dump_purge(key, taken, &caller.user, app.clock.now()).await?;
    crate::image::remove_contents(&app).await;
    Ok(Json(dump))
}

/// Fetches what a dump is made of.
#[utoipa::path(
    get, path = "/v1/dumps/{name}/manifest", tag = "dump", operation_id = "dump_manifest",
    params(("name" = String, Path, description = "Which dump.", pattern = "^(dmp_[0-9a-z]{26}|[0-9a-f]{1,32})$"), TenantQuery),
    responses(
        (status = 200, description = "The manifest.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The range asked for.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 304, description = "The caller has it."),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn manifest(
    State(app): State<App>,
    caller: Caller,
    Named(Name(key)): Named<Name>,
    Asked(asked): Asked<TenantQuery>,
    request: Request,
) -> Answer<Response> {
    caller.must(Scope::DumpRead)?;
    let dump = app.store.dump_get(key, taken(&app, &caller, &asked).await?).await?;
    let gone = || {
        let message = format!("the content of dump `{}` was dropped", dump.hash);
        ApiError::new(ErrorKind::Gone, "dump_purged", message).with_hint("upload it again, if you have it")
    };
    let blob = app.store.blob_get(dump.manifest.ok_or_else(gone)?, dump.tenant).await?;
    content::serve(&app, blob, &Method::GET, request.headers()).await
}
