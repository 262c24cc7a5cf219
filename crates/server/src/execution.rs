//! Routes of executions: make, list, look, cancel, retry.

pub(crate) mod core;
pub(crate) mod waiting;

use crate::app::App;
use crate::body::{Asked, Body, Made, Named, TenantQuery};
use crate::caller::Caller;
use crate::error::Answer;
use crate::page::Entries;
use crate::session::watch::moved;
use axum::Json;
use axum::extract::State;
use model::analyzer::DumpIn;
use model::{
    ApiError, Execution, ExecutionId, ExecutionQuery, Image, NewExecution, OriginKind, Page, Retry, Scope, Shape,
    TenantId,
};
use std::sync::Arc;
use store::{DumpKey, Taken, TenantKey};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get))
        .routes(routes!(cancel))
        .routes(routes!(retry))
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
    Body(mut new): Body<NewExecution>,
) -> Answer<Made<Arc<Execution>>> {
    caller.must(Scope::ExecutionWrite)?;
    new.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    if let Some(dump) = &new.sandbox.dump {
        look(&app, &caller, dump, tenant).await?;
    }
    let now = app.clock.now();
    let image = match &new.image {
        Some(name) => Some(resolve(&app, name, tenant, &new).await?),
        None => None,
    };
    let manifest = image.as_ref().and_then(|image| image.manifest.as_ref());
    if image.is_some()
        && new.sandbox.runtime.is_none()
        && manifest.is_none_or(|manifest| manifest.config.runtime.is_none())
    {
        new.sandbox.runtime = app.store.tenant_get(TenantKey::Id(tenant)).await?.runtime;
    }
    let shape = Shape::of(&new.recipe(), OriginKind::Hand, manifest);
    shape.check()?;
    // A node that waits asks at once: what it asks is written behind this, and so at the same time.
    let ring = || app.sessions.ring(&shape, tenant, image.as_ref().map(|image| image.id));
    let by = (caller.user.as_str(), now);
    let (execution, is_new) = match &image {
        Some(image) => app.store.execution_accept_in(&new, image, by, ring).await?,
        None => app.store.execution_accept(&new, tenant, by, ring).await?,
    };
    Ok((execution, is_new).into())
}

/// Makes sure that a dump may be beside an execution, and is there.
async fn look(app: &App, caller: &Caller, dump: &DumpIn, tenant: TenantId) -> Answer<()> {
    caller.must(Scope::DumpRead)?;
    if dump.may_write() {
        caller.must(Scope::DumpWrite)?;
    }
    app.store.dump_get(DumpKey::Id(dump.id), Taken { reach: Some(tenant), namespace: tenant }).await?;
    if let Some(analyzer) = &dump.analyzer {
        app.store.analyzer_get(&analyzer.name, tenant).await?;
    }
    Ok(())
}

/// Finds the image that an execution is to run in.
async fn resolve(app: &App, name: &str, tenant: TenantId, new: &NewExecution) -> Answer<Image> {
    if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("`image` of execution `{}` must be plain characters without spaces", new.id);
        return Err(ApiError::invalid("execution_invalid", message).into());
    }
    Ok(app.store.image_resolve(name, tenant).await?)
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
    let entries = Entries::asked(asked.limit)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let found = app.store.execution_list(tenant, &asked, entries.limit()).await?;
    Ok(entries.page(found, |last| last.id.to_string()))
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
    let mut execution = app.store.execution_get(id, caller.reach()).await?;
    execution.waiting = waiting::cause(&app, &execution).await?;
    Ok(Json(execution))
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
    let execution = app.store.execution_cancel(id, caller.reach(), &caller.user, app.clock.now()).await?;
    match execution.lease {
        Some(lease) => app.sessions.touch(lease.session),
        None => moved(&app, std::slice::from_ref(&execution)),
    }
    Ok(Json(execution))
}

/// Tries once more what has ended, as a new execution with the same recipe.
#[utoipa::path(
    post, path = "/v1/executions/{id}/retry", tag = "execution", operation_id = "execution_retry",
    params(("id" = ExecutionId, Path, description = "Which execution.")), request_body = Retry,
    responses(
        (status = 201, description = "The new one.", body = Execution),
        (status = 200, description = "It had been accepted before.", body = Execution),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn retry(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<ExecutionId>,
    Body(Retry { id: new }): Body<Retry>,
) -> Answer<Made<Arc<Execution>>> {
    caller.must(Scope::ExecutionWrite)?;
    let now = app.clock.now();
    let (execution, is_new) = app.store.execution_retry(id, new, caller.reach(), &caller.user, now).await?;
    if is_new {
        moved(&app, std::slice::from_ref(&*execution));
    }
    Ok((execution, is_new).into())
}
