//! Routes of modules: their unwind packs, in and out as they are, by build id.
//!
//! Nothing is looked into: whoever uses a pack proves that it is one, of that module, in a sandbox. What it says may be a lie
//! all the same, so a dump is told by the packs that its sender named; others' are for those who had none.

use crate::app::App;
use crate::body::{Asked, Body, Made, Named, TenantQuery};
use crate::caller::Caller;
use crate::content::{self, Sent};
use crate::error::Answer;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::Response;
use model::pack::{MAX_PACK_BYTES, Pack, PackNames, PackPlaces, PackQuery, PacksMissing, check_build_id};
use model::{ApiError, Blob, Purpose, Scope};
use std::str::FromStr;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Returns the routes that are over soon.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(missing)).routes(routes!(places))
}

/// Returns the routes that last as long as the content takes.
pub(crate) fn lasting_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(put, get))
}

/// What a module goes by.
#[derive(Debug)]
struct BuildId(String);

impl FromStr for BuildId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        check_build_id(text).map(|()| Self(text.to_owned())).map_err(|error| error.to_string())
    }
}

/// Tells which packs the tenant does not have.
#[utoipa::path(
    post, path = "/v1/modules/missing", tag = "dump", operation_id = "packs_missing",
    params(TenantQuery), request_body = PackNames,
    responses(
        (status = 200, description = "Those that are not there.", body = PacksMissing),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn missing(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(query): Body<PackNames>,
) -> Answer<Json<PacksMissing>> {
    caller.must(Scope::DumpWrite)?;
    query.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(PacksMissing { missing: app.store.packs_missing(query.packs, tenant, app.clock.now()).await? }))
}

/// Tells the first packs of some modules: each is a blob, whose digest proves it.
#[utoipa::path(
    post, path = "/v1/modules/places", tag = "dump", operation_id = "pack_places",
    params(TenantQuery), request_body = PackQuery,
    responses(
        (status = 200, description = "Those that are there.", body = PackPlaces),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn places(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(query): Body<PackQuery>,
) -> Answer<Json<PackPlaces>> {
    caller.must(Scope::DumpRead)?;
    query.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(PackPlaces { packs: app.store.packs_find(query.build_ids, tenant, None, app.clock.now()).await? }))
}

/// Stores an unwind pack of a module.
#[utoipa::path(
    put, path = "/v1/modules/{build_id}", tag = "dump", operation_id = "pack_put",
    params(
        ("build_id" = String, Path, description = "The module's build id.", pattern = "^([0-9a-f]{2}){2,64}$"),
        TenantQuery,
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Stored.", body = Pack),
        (status = 200, description = "It was there.", body = Pack),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn put(
    State(app): State<App>,
    caller: Caller,
    Named(BuildId(build_id)): Named<BuildId>,
    Asked(asked): Asked<TenantQuery>,
    request: Request,
) -> Answer<Made<Pack>> {
    caller.must(Scope::DumpWrite)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let sent = Sent { digest: None, purpose: Purpose::Kept };
    let made = content::store_at_most(&app, &caller.user, tenant, (sent, MAX_PACK_BYTES), request).await?;
    Ok(app.store.pack_put(&build_id, made.thing, tenant, &caller.user).await?.into())
}

/// Fetches the unwind pack of a module that came first.
#[utoipa::path(
    get, path = "/v1/modules/{build_id}", tag = "dump", operation_id = "pack_get",
    params(
        ("build_id" = String, Path, description = "The module's build id.", pattern = "^([0-9a-f]{2}){2,64}$"),
        TenantQuery,
    ),
    responses(
        (status = 200, description = "The pack.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The range asked for.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 304, description = "The caller has it."),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Named(BuildId(build_id)): Named<BuildId>,
    Asked(asked): Asked<TenantQuery>,
    request: Request,
) -> Answer<Response> {
    caller.must(Scope::DumpRead)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let pack = app.store.pack_get(&build_id, tenant).await?;
    let blob = Blob { digest: pack.digest, size: pack.size, created_at: pack.created_at, purpose: Purpose::Kept };
    content::serve(&app, blob, &Method::GET, request.headers()).await
}
