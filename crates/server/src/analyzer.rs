//! Routes of analyzers: stored, listed, looked at, removed, and set to work on dumps. Nothing of them is run here.

pub(crate) mod arrival;

use crate::app::App;
use crate::body::{Asked, Body, Named, TenantQuery};
use crate::caller::Caller;
use crate::error::Answer;
use crate::page::{Entries, after};
use axum::Json;
use axum::extract::State;
use model::analyzer::{Analyzer, AnalyzerChange, AnalyzerStored, AnalyzerVersion, NewStudies, Studies, check_name};
use model::page::after_invalid;
use model::{ApiError, Execution, Page, PageQuery, Scope, Shape};
use std::str::FromStr;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Returns the routes.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(put, get, remove))
        .routes(routes!(versions))
        .routes(routes!(study))
}

/// What an analyzer goes by.
#[derive(Debug)]
struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        check_name(text).map(|()| Self(text.to_owned())).map_err(|error| error.message)
    }
}

/// Stores an analyzer, or says something else of it. What is not named stays as it is; a content that it had before makes
/// the version current again that it was.
#[utoipa::path(
    put, path = "/v1/analyzers/{name}", tag = "dump", operation_id = "analyzer_put",
    params(
        ("name" = String, Path, description = "Its name.", pattern = "^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$"), TenantQuery,
    ),
    request_body = AnalyzerChange,
    responses(
        (status = 200, description = "It, as it is now.", body = AnalyzerStored),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn put(
    State(app): State<App>,
    caller: Caller,
    Named(Name(name)): Named<Name>,
    Asked(asked): Asked<TenantQuery>,
    Body(change): Body<AnalyzerChange>,
) -> Answer<Json<AnalyzerStored>> {
    may_study(&caller)?;
    change.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(app.store.analyzer_put(&name, change, tenant, (&caller.user, app.clock.now())).await?))
}

/// An analyzer's studies are executions, and what they note stands on dumps.
fn may_study(caller: &Caller) -> Answer<()> {
    caller.must(Scope::DumpWrite)?;
    caller.must(Scope::ExecutionWrite)?;
    Ok(())
}

/// Lists analyzers by their names.
#[utoipa::path(
    get, path = "/v1/analyzers", tag = "dump", operation_id = "analyzer_list", params(PageQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Analyzer>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn list(State(app): State<App>, caller: Caller, Asked(asked): Asked<PageQuery>) -> Answer<Json<Page<Analyzer>>> {
    caller.must(Scope::DumpRead)?;
    let entries = Entries::asked(asked.limit)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let after = asked.after.as_deref().unwrap_or_default();
    if !after.is_empty() && check_name(after).is_err() {
        return Err(after_invalid().into());
    }
    let found = app.store.analyzer_list(tenant, after, entries.limit()).await?;
    Ok(entries.page(found, |last| last.name.clone()))
}

/// Shows one analyzer, as its current version stands.
#[utoipa::path(
    get, path = "/v1/analyzers/{name}", tag = "dump", operation_id = "analyzer_get",
    params(
        ("name" = String, Path, description = "Its name.", pattern = "^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$"), TenantQuery,
    ),
    responses(
        (status = 200, description = "It.", body = Analyzer),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Named(Name(name)): Named<Name>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<Analyzer>> {
    caller.must(Scope::DumpRead)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(app.store.analyzer_get(&name, tenant).await?))
}

/// Lists the versions of an analyzer, the newest first.
#[utoipa::path(
    get, path = "/v1/analyzers/{name}/versions", tag = "dump", operation_id = "analyzer_versions",
    params(
        ("name" = String, Path, description = "Its name.", pattern = "^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$"), PageQuery,
    ),
    responses(
        (status = 200, description = "A page of them.", body = Page<AnalyzerVersion>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn versions(
    State(app): State<App>,
    caller: Caller,
    Named(Name(name)): Named<Name>,
    Asked(asked): Asked<PageQuery>,
) -> Answer<Json<Page<AnalyzerVersion>>> {
    caller.must(Scope::DumpRead)?;
    let entries = Entries::asked(asked.limit)?;
    let before = after(&asked)?.unwrap_or(u32::MAX);
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let found = app.store.analyzer_versions(&name, tenant, before, entries.limit()).await?;
    Ok(entries.page(found, |last| last.version.to_string()))
}

/// Removes an analyzer, its versions, and what is remembered of their studies; what they noted on dumps stays.
#[utoipa::path(
    delete, path = "/v1/analyzers/{name}", tag = "dump", operation_id = "analyzer_remove",
    params(
        ("name" = String, Path, description = "Its name.", pattern = "^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$"), TenantQuery,
    ),
    responses(
        (status = 200, description = "It, as it was.", body = Analyzer),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn remove(
    State(app): State<App>,
    caller: Caller,
    Named(Name(name)): Named<Name>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<Analyzer>> {
    caller.must(Scope::DumpWrite)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(app.store.analyzer_remove(&name, tenant, (&caller.user, app.clock.now())).await?))
}

/// Has an analyzer study some dumps, each as an execution of its own; or only tells which. What a version has studied to the
/// end it does not study again, unless that is asked for. Asking twice is harmless.
#[utoipa::path(
    post, path = "/v1/analyzers/{name}/studies", tag = "dump", operation_id = "studies_begin",
    params(
        ("name" = String, Path, description = "Its name.", pattern = "^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$"), TenantQuery,
    ),
    request_body = NewStudies,
    responses(
        (status = 200, description = "How each stands.", body = Studies),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn study(
    State(app): State<App>,
    caller: Caller,
    Named(Name(name)): Named<Name>,
    Asked(asked): Asked<TenantQuery>,
    Body(new): Body<NewStudies>,
) -> Answer<Json<Studies>> {
    may_study(&caller)?;
    new.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let (studies, begun) = app.store.studies_begin(&name, new, tenant, (&caller.user, app.clock.now())).await?;
    ring(&app, &begun);
    Ok(Json(studies))
}

/// Wakes the nodes that may take what was begun.
fn ring(app: &App, begun: &[Arc<Execution>]) {
    for execution in begun {
        let shape = Shape::of(&execution.recipe, execution.origin.kind, None);
        app.sessions.ring(&shape, execution.tenant, None);
    }
}
