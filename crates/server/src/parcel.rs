//! Routes of parcels and frames: which are there, where they stand, and parcels and manifests in and out as they are.
//!
//! Nothing is unpacked here. A frame is named by the BLAKE3 of its packed bytes, so while a parcel streams by, each of its
//! frames is proved: nobody can put other bytes under the name of somebody's frame. A parcel is one blob, and one write to
//! the disk for all of its frames.

use crate::app::App;
use crate::body::{Asked, Body, Made, Named, TenantQuery};
use crate::caller::Caller;
use crate::content::{self, Sent, failure, paced};
use crate::error::Answer;
use axum::Json;
use axum::body::BodyDataStream;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::Response;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use jiff::SignedDuration;
use model::parcel::{
    FramePlaces, FrameQuery, FramesMissing, Index, MAX_MANIFEST_BYTES, MAX_PARCEL_BYTES, PARCEL_HEAD_BYTES, Parcel,
    ParcelError,
};
use model::{ApiError, Blob, Digest, Purpose, Scope, TenantId};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::blob::{BlobError, BodyError};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// How long a parcel that no dump names stays: an upload that broke off may be taken up again for as long.
const LOOSE: SignedDuration = SignedDuration::from_hours(24);
/// Parcels that one pass removes at most.
const MAX_PASS: u32 = 256;
/// How often to look for parcels that no dump names.
const EVERY: Duration = Duration::from_secs(600);
/// In whose name they are removed.
const KEEPER: &str = "house";

/// Returns the routes that are over soon.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(frames_missing)).routes(routes!(frame_places))
}

/// Returns the routes that last as long as the content takes.
pub(crate) fn lasting_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(put, get)).routes(routes!(manifest_put))
}

/// Tells which of some frames the tenant does not have.
#[utoipa::path(
    post, path = "/v1/frames/missing", tag = "dump", operation_id = "frames_missing",
    params(TenantQuery), request_body = FrameQuery,
    responses(
        (status = 200, description = "Those that are not there.", body = FramesMissing),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn frames_missing(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(query): Body<FrameQuery>,
) -> Answer<Json<FramesMissing>> {
    caller.must(Scope::DumpWrite)?;
    query.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(FramesMissing { missing: app.store.frames_missing(query.digests, tenant, app.clock.now()).await? }))
}

/// Tells where frames stand: in which parcel, and where in it.
#[utoipa::path(
    post, path = "/v1/frames/places", tag = "dump", operation_id = "frame_places",
    params(TenantQuery), request_body = FrameQuery,
    responses(
        (status = 200, description = "Those that are there.", body = FramePlaces),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn frame_places(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(query): Body<FrameQuery>,
) -> Answer<Json<FramePlaces>> {
    caller.must(Scope::DumpRead)?;
    query.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(FramePlaces { places: app.store.frame_places(query.digests, tenant).await? }))
}

/// Stores a parcel of frames; sending it again is harmless.
#[utoipa::path(
    put, path = "/v1/parcels/{digest}", tag = "dump", operation_id = "parcel_put",
    params(("digest" = Digest, Path, description = "The BLAKE3 of the parcel."), TenantQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Stored.", body = Parcel),
        (status = 200, description = "The tenant had it.", body = Parcel),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn put(
    State(app): State<App>,
    caller: Caller,
    Named(digest): Named<Digest>,
    Asked(asked): Asked<TenantQuery>,
    request: Request,
) -> Answer<Made<Parcel>> {
    caller.must(Scope::DumpWrite)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    store(&app, &caller.user, tenant, digest, request).await
}

/// Stores a parcel that comes with a request, for a tenant.
pub(crate) async fn store(
    app: &App,
    by: &str,
    tenant: TenantId,
    digest: Digest,
    request: Request,
) -> Answer<Made<Parcel>> {
    let max_bytes = content::announced(&request, MAX_PARCEL_BYTES)?;
    let (index, checked) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
    let proof =
        Proof { body: request.into_body().into_data_stream(), index: Arc::clone(&index), checked: checked.clone() };
    let body = proof.stream(app);
    let stored = app.blobs.put(Some(digest), body, max_bytes).await;
    let stored = match (stored, checked.get()) {
        (Err(_), Some(why)) => return Err(ApiError::from(*why).into()),
        (stored, _) => stored.map_err(|error| failure(&error))?,
    };
    let index = index.get().cloned().unwrap_or_default();
    let blob = Blob { digest: stored.digest, size: stored.size, created_at: app.clock.now(), purpose: Purpose::Kept };
    let (parcel, is_new) = app.store.parcel_create(blob, index, tenant, by).await?;
    if is_new && content::is_going(app, digest).await? {
        app.store.parcel_drop(digest, tenant, by, app.clock.now()).await?;
        return Err(failure(&BlobError::Vanished { digest }));
    }
    Ok((parcel, is_new).into())
}

/// Fetches a parcel, whole or a range of it.
#[utoipa::path(
    get, path = "/v1/parcels/{digest}", tag = "dump", operation_id = "parcel_get",
    params(("digest" = Digest, Path, description = "Which parcel."), TenantQuery),
    responses(
        (status = 200, description = "The parcel.", content_type = "application/octet-stream", body = Vec<u8>),
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
    caller.must(Scope::DumpRead)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let blob = app.store.parcel_get(digest, tenant).await?;
    content::serve(&app, blob, &Method::GET, request.headers()).await
}

/// Stores the manifest of a dump, which is then to be made known; sending it again is harmless.
#[utoipa::path(
    put, path = "/v1/manifests/{digest}", tag = "dump", operation_id = "manifest_put",
    params(("digest" = Digest, Path, description = "The BLAKE3 of the manifest."), TenantQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Stored.", body = Blob),
        (status = 200, description = "The tenant had it.", body = Blob),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn manifest_put(
    State(app): State<App>,
    caller: Caller,
    Named(digest): Named<Digest>,
    Asked(asked): Asked<TenantQuery>,
    request: Request,
) -> Answer<Made<Blob>> {
    caller.must(Scope::DumpWrite)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let sent = Sent { digest: Some(digest), purpose: Purpose::Kept };
    content::store_at_most(&app, &caller.user, tenant, (sent, MAX_MANIFEST_BYTES), request).await
}

/// Removes what no dump has named for long, a pass at a time, until told to stop. Two servers may do so at once.
pub(crate) async fn run(app: App) {
    loop {
        let now = app.clock.now();
        let before = now.saturating_sub(LOOSE).unwrap_or(now);
        match app.store.parcel_gc(before, MAX_PASS, KEEPER, now).await {
            Ok(freed) if freed.parcels > 0 => {
                tracing::info!(parcels = freed.parcels, bytes = freed.bytes, "removed parcels that no dump needs");
                crate::image::remove_contents(&app).await;
                if freed.parcels == u64::from(MAX_PASS) && !app.stop.is_cancelled() {
                    continue;
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = error.chain(), "parcels that no dump needs could not be removed"),
        }
        if app.stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}

/// A parcel on its way in, each of whose frames is proved as it goes by.
struct Proof {
    body: BodyDataStream,
    /// Where its index goes once it has been read.
    index: Arc<OnceLock<Index>>,
    /// Where it is said why it was refused.
    checked: Arc<OnceLock<ParcelError>>,
}

impl Proof {
    fn stream(self, app: &App) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
        let (index, checked) = (self.index, self.checked);
        let mut prover = Prover::default();
        let end = futures_util::stream::once(std::future::ready(Ok(None)));
        let pieces = paced(app, self.body).map(|piece| piece.map(Some)).chain(end);
        pieces.filter_map(move |piece: Result<Option<Bytes>, BodyError>| {
            let proved = piece.and_then(|piece| {
                let proved = match &piece {
                    Some(bytes) => prover.push(bytes.clone()),
                    None => prover.finish().map(|found| drop(index.set(found))),
                };
                proved.map(|()| piece).map_err(|why| {
                    let _ = checked.set(why);
                    why.into()
                })
            });
            std::future::ready(proved.transpose())
        })
    }
}

/// What has been seen of a parcel.
#[derive(Default)]
struct Prover {
    /// The head and the index, as far as they have come.
    head: BytesMut,
    index: Option<Index>,
    hasher: blake3::Hasher,
    /// The frame that comes, and how much of it has come.
    frame: usize,
    seen: u32,
}

impl Prover {
    fn push(&mut self, mut bytes: Bytes) -> Result<(), ParcelError> {
        while self.index.is_none() && bytes.has_remaining() {
            let wanted = match self.head.first_chunk::<PARCEL_HEAD_BYTES>() {
                Some(head) => Index::bytes(head)?,
                None => PARCEL_HEAD_BYTES,
            };
            let part = bytes.split_to(bytes.len().min(wanted - self.head.len()));
            self.head.extend_from_slice(&part);
            if self.head.len() > PARCEL_HEAD_BYTES && self.head.len() == wanted {
                self.index = Some(Index::decode(&self.head)?);
            }
        }
        let Some(index) = &self.index else { return Ok(()) };
        while bytes.has_remaining() {
            let frame = index.frames.get(self.frame).ok_or(ParcelError::new("something stands behind the frames"))?;
            let part = bytes.split_to(bytes.len().min((frame.packed - self.seen) as usize));
            self.hasher.update(&part);
            self.seen += u32::try_from(part.len()).expect("it is a part of a frame");
            if self.seen == frame.packed {
                if self.hasher.finalize().as_bytes() != frame.digest.as_bytes() {
                    return Err(ParcelError::new("a frame is not what its name says"));
                }
                self.hasher.reset();
                (self.frame, self.seen) = (self.frame + 1, 0);
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Index, ParcelError> {
        let index = self.index.take().ok_or(ParcelError::new("a parcel breaks off before its frames"))?;
        if self.frame == index.frames.len() { Ok(index) } else { Err(ParcelError::new("a parcel breaks off")) }
    }
}
