//! Routes by which a node serves an execution that it holds: what it stores for the execution's tenant, and what of the
//! tenant's it fetches. The attempt under the node's session is the fence: whoever holds it no longer is refused.

use crate::app::App;
use crate::body::{Asked, Body, Made, Named, Pair};
use crate::caller::Caller;
use crate::error::Answer;
use crate::{content, parcel};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use model::node::Held;
use model::pack::{PackPlaces, PackQuery};
use model::parcel::{FramePlaces, FrameQuery, FramesMissing, Parcel};
use model::{ApiError, Blob, Digest, ExecutionId, OriginKind, Purpose, Scope, SessionId, TenantId};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Returns the routes that are over soon.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(frames_missing)).routes(routes!(frame_places)).routes(routes!(pack_places))
}

/// Returns the routes that last as long as the content takes.
pub(crate) fn lasting_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(blob_put, blob_get)).routes(routes!(parcel_put))
}

/// By what right a node touches a tenant's blobs.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FenceQuery {
    /// The node's session.
    #[param(value_type = String)]
    session: SessionId,
    /// The attempt that it holds.
    attempt: u32,
}

/// Returns the tenant of an execution that the caller's node holds.
async fn fenced(app: &App, caller: &Caller, execution: ExecutionId, asked: FenceQuery) -> Answer<TenantId> {
    let held = Held { execution, attempt: asked.attempt };
    Ok(app.store.fence_check(held, asked.session, caller.owner()).await?)
}

/// Stores content for the tenant of an execution that the caller's node holds.
#[utoipa::path(
    put, path = "/v1/executions/{id}/blobs/{digest}", tag = "execution", operation_id = "execution_blob_put",
    params(
        ("id" = ExecutionId, Path, description = "Which execution."),
        ("digest" = Digest, Path, description = "The BLAKE3 of the content."), FenceQuery,
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Stored.", body = Blob),
        (status = 200, description = "The tenant had it.", body = Blob),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn blob_put(
    State(app): State<App>,
    caller: Caller,
    Pair(id, digest): Pair<ExecutionId, Digest>,
    Asked(asked): Asked<FenceQuery>,
    request: Request,
) -> Answer<Made<Blob>> {
    caller.must(Scope::NodeRun)?;
    let tenant = fenced(&app, &caller, id, asked).await?;
    let made = app.store.execution_get(id, Some(tenant)).await?;
    // What is not a layer of an image is named by a sync that follows: by a chunk, or as a dump.
    let purpose = if made.origin.kind == OriginKind::Image { Purpose::Image } else { Purpose::Execution };
    let sent = content::Sent { digest: Some(digest), purpose };
    content::store(&app, &caller.user, tenant, sent, request).await
}

/// Fetches content of the tenant of an execution that the caller's node holds.
#[utoipa::path(
    get, path = "/v1/executions/{id}/blobs/{digest}", tag = "execution", operation_id = "execution_blob_get",
    params(
        ("id" = ExecutionId, Path, description = "Which execution."),
        ("digest" = Digest, Path, description = "Which blob."), FenceQuery,
    ),
    responses(
        (status = 200, description = "The content.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The range asked for.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 304, description = "The caller has it."),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn blob_get(
    State(app): State<App>,
    caller: Caller,
    Pair(id, digest): Pair<ExecutionId, Digest>,
    Asked(asked): Asked<FenceQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    caller.must(Scope::NodeRun)?;
    let tenant = fenced(&app, &caller, id, asked).await?;
    let blob = app.store.blob_get(digest, tenant).await?;
    content::serve(&app, blob, &Method::GET, &headers).await
}

/// Tells where frames of the tenant of an execution stand that the caller's node holds; their parcels are blobs.
#[utoipa::path(
    post, path = "/v1/executions/{id}/frames", tag = "execution", operation_id = "execution_frame_places",
    params(("id" = ExecutionId, Path, description = "Which execution."), FenceQuery), request_body = FrameQuery,
    responses(
        (status = 200, description = "Those that are there.", body = FramePlaces),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn frame_places(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<ExecutionId>,
    Asked(asked): Asked<FenceQuery>,
    Body(query): Body<FrameQuery>,
) -> Answer<Json<FramePlaces>> {
    caller.must(Scope::NodeRun)?;
    query.check()?;
    let tenant = fenced(&app, &caller, id, asked).await?;
    Ok(Json(FramePlaces { places: app.store.frame_places(query.digests, tenant).await? }))
}

/// Tells the unwind packs of some modules that the tenant of an execution has which the caller's node holds: those that the
/// dump's sender named, else those that came first. They are blobs.
#[utoipa::path(
    post, path = "/v1/executions/{id}/modules", tag = "execution", operation_id = "execution_pack_places",
    params(("id" = ExecutionId, Path, description = "Which execution."), FenceQuery), request_body = PackQuery,
    responses(
        (status = 200, description = "Those that are there.", body = PackPlaces),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn pack_places(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<ExecutionId>,
    Asked(asked): Asked<FenceQuery>,
    Body(query): Body<PackQuery>,
) -> Answer<Json<PackPlaces>> {
    caller.must(Scope::NodeRun)?;
    query.check()?;
    let tenant = fenced(&app, &caller, id, asked).await?;
    let made = app.store.execution_get(id, Some(tenant)).await?;
    let (origin, beside) = (&made.origin, &made.recipe.sandbox.dump);
    let analysed = origin.id.as_deref().filter(|_| origin.kind == OriginKind::Dump).and_then(|id| id.parse().ok());
    let dump = analysed.or(beside.as_ref().map(|dump| dump.id));
    Ok(Json(PackPlaces { packs: app.store.packs_find(query.build_ids, tenant, dump, app.clock.now()).await? }))
}

/// Tells which of some frames the tenant of an execution does not have that the caller's node holds.
#[utoipa::path(
    post, path = "/v1/executions/{id}/frames/missing", tag = "execution", operation_id = "execution_frames_missing",
    params(("id" = ExecutionId, Path, description = "Which execution."), FenceQuery), request_body = FrameQuery,
    responses(
        (status = 200, description = "Those that are not there.", body = FramesMissing),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn frames_missing(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<ExecutionId>,
    Asked(asked): Asked<FenceQuery>,
    Body(query): Body<FrameQuery>,
) -> Answer<Json<FramesMissing>> {
    caller.must(Scope::NodeRun)?;
    query.check()?;
    let tenant = fenced(&app, &caller, id, asked).await?;
    Ok(Json(FramesMissing { missing: app.store.frames_missing(query.digests, tenant, app.clock.now()).await? }))
}

/// Stores a parcel of frames for the tenant of an execution that the caller's node holds.
#[utoipa::path(
    put, path = "/v1/executions/{id}/parcels/{digest}", tag = "execution", operation_id = "execution_parcel_put",
    params(
        ("id" = ExecutionId, Path, description = "Which execution."),
        ("digest" = Digest, Path, description = "The BLAKE3 of the parcel."), FenceQuery,
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Stored.", body = Parcel),
        (status = 200, description = "The tenant had it.", body = Parcel),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn parcel_put(
    State(app): State<App>,
    caller: Caller,
    Pair(id, digest): Pair<ExecutionId, Digest>,
    Asked(asked): Asked<FenceQuery>,
    request: Request,
) -> Answer<Made<Parcel>> {
    caller.must(Scope::NodeRun)?;
    let tenant = fenced(&app, &caller, id, asked).await?;
    parcel::store(&app, &caller.user, tenant, digest, request).await
}
