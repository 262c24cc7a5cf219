//! Cores of executions on their way in: a node stores their parcels for the tenant of an execution that it holds, and the
//! sync that tells of its end names them. Nothing is unpacked here.

use crate::app::App;
use crate::body::{Asked, Body, Made, Named, Pair};
use crate::caller::Caller;
use crate::chunk::{FenceQuery, fenced};
use crate::error::{Answer, Failure};
use crate::{dump, parcel};
use axum::Json;
use axum::extract::{Request, State};
use model::dump::check_size;
use model::node::{Finished, Held};
use model::parcel::{FrameQuery, FramesMissing, Parcel};
use model::{ApiError, Digest, ErrorKind, ExecutionId, NewDump, Scope, SessionId, TenantId};
use std::collections::BTreeMap;
use store::DumpLeft;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Returns the routes that are over soon.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(frames_missing))
}

/// Returns the routes that last as long as the content takes.
pub(crate) fn lasting_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(parcel_put))
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
    Ok(Json(FramesMissing { missing: app.store.frames_missing(query.digests, tenant).await? }))
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

/// Looks at the dumps that executions left by the word of a node's sync. One that cannot be had is none: its execution has
/// ended all the same. What fails for the moment fails the sync, which comes again.
pub(crate) async fn left(
    app: &App,
    caller: &Caller,
    session: SessionId,
    finished: &[Finished],
) -> Answer<BTreeMap<Held, DumpLeft>> {
    let mut dumps = BTreeMap::new();
    for finished in finished {
        let (Some(new), held) = (&finished.dump, finished.held) else { continue };
        let Ok(tenant) = app.store.fence_check(held, session, caller.owner()).await else { continue };
        match look(app, new, tenant).await {
            Ok(left) => drop(dumps.insert(held, left)),
            Err(failure) if matches!(failure.kind(), ErrorKind::Internal | ErrorKind::Unavailable) => {
                return Err(failure);
            }
            Err(failure) => {
                let error = failure.to_string();
                tracing::warn!(execution = %held.execution, error, "the dump of an execution is none");
            }
        }
    }
    Ok(dumps)
}

async fn look(app: &App, new: &NewDump, tenant: TenantId) -> Result<DumpLeft, Failure> {
    new.check()?;
    let manifest = dump::read_manifest(app, new, tenant).await?;
    check_size(manifest.size)?;
    let parcels = app.store.frame_parcels(&manifest.frames, tenant).await?;
    Ok(DumpLeft { new: new.clone(), digest: manifest.digest, size: manifest.size, parcels })
}
