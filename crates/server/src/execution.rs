//! Routes of executions: make, list, look, cancel.

use crate::app::App;
use crate::body::{Asked, Body, Made, Named, TenantQuery};
use crate::caller::Caller;
use crate::error::Answer;
use axum::Json;
use axum::extract::State;
use model::page::page_limit;
use model::{ApiError, Execution, ExecutionId, ExecutionQuery, NewExecution, Origin, Page, Scope};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get)).routes(routes!(cancel))
}

/// Accepts an execution; asking again with the same id and content is harmless.
#[utoipa::path(
    post, path = "/v1/executions", tag = "execution", operation_id = "execution_create",
    params(TenantQuery), request_body = NewExecution,
    responses(
        (status = 201, description = "Accepted.", body = Execution),
        (status = 200, description = "It had been accepted before.", body = Execution),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(new): Body<NewExecution>,
) -> Answer<Made<Arc<Execution>>> {
    caller.must(Scope::ExecutionWrite)?;
    new.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let now = app.clock.now();
    Ok(app.store.execution_create(&new, tenant, Origin::default(), &caller.user, now).await?.into())
}

/// Lists executions, newest first.
#[utoipa::path(
    get, path = "/v1/executions", tag = "execution", operation_id = "execution_list",
    params(ExecutionQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Execution>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<ExecutionQuery>,
) -> Answer<Json<Page<Execution>>> {
    caller.must(Scope::ExecutionRead)?;
    let limit = page_limit(asked.limit)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let (items, as_of) = app.store.execution_list(tenant, &asked, limit).await?;
    let next = items.get(limit as usize - 1).map(|last| last.id.to_string());
    Ok(Json(Page { items, next, as_of }))
}

/// Shows one execution.
#[utoipa::path(
    get, path = "/v1/executions/{id}", tag = "execution", operation_id = "execution_get",
    params(("id" = ExecutionId, Path, description = "Which execution.")),
    responses(
        (status = 200, description = "It.", body = Execution),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn get(State(app): State<App>, caller: Caller, Named(id): Named<ExecutionId>) -> Answer<Json<Execution>> {
    caller.must(Scope::ExecutionRead)?;
    Ok(Json(app.store.execution_get(id, caller.reach()).await?))
}

/// Stops an execution: at once while it waits, through its node once it runs. Asking again is harmless.
#[utoipa::path(
    post, path = "/v1/executions/{id}/cancel", tag = "execution", operation_id = "execution_cancel",
    params(("id" = ExecutionId, Path, description = "Which execution.")),
    responses(
        (status = 200, description = "It, as it is now.", body = Execution),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn cancel(State(app): State<App>, caller: Caller, Named(id): Named<ExecutionId>) -> Answer<Json<Execution>> {
    caller.must(Scope::ExecutionWrite)?;
    Ok(Json(app.store.execution_cancel(id, caller.reach(), &caller.user, app.clock.now()).await?))
}
