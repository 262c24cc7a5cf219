//! Routes of tenants: only the house's admins make them; everybody sees their own.

use crate::app::App;
use crate::body::{Asked, Body, Made, Named};
use crate::caller::Caller;
use crate::error::Answer;
use crate::page::{Entries, after};
use axum::Json;
use axum::extract::State;
use model::{ApiError, NewTenant, Page, PageQuery, Scope, Tenant, TenantChange, TenantId};
use store::TenantKey;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get, update))
}

/// Makes a tenant.
#[utoipa::path(
    post, path = "/v1/tenants", tag = "tenant", operation_id = "tenant_create", request_body = NewTenant,
    responses(
        (status = 201, description = "Made.", body = Tenant),
        (status = 200, description = "It had been made before.", body = Tenant),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn create(State(app): State<App>, caller: Caller, Body(new): Body<NewTenant>) -> Answer<Made<Tenant>> {
    caller.must(Scope::TenantWrite)?;
    new.check()?;
    Ok(app.store.tenant_create(new, &caller.user, app.clock.now()).await?.into())
}

/// Lists the tenants that the caller can see: all for an admin of the house, else their own.
#[utoipa::path(
    get, path = "/v1/tenants", tag = "tenant", operation_id = "tenant_list", params(PageQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Tenant>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn list(State(app): State<App>, caller: Caller, Asked(asked): Asked<PageQuery>) -> Answer<Json<Page<Tenant>>> {
    caller.must(Scope::TenantRead)?;
    let entries = Entries::asked(asked.limit)?;
    let after = after(&asked)?;
    let only = match &asked.tenant {
        None if caller.keeps_the_house() => None,
        name => Some(caller.tenant(&app, name.as_deref()).await?),
    };
    let Some(only) = only else {
        let found = app.store.tenant_list(after, entries.limit()).await?;
        return Ok(entries.page(found, |last| last.id.to_string()));
    };
    let as_of = app.store.log_bounds().await?.head;
    let mut items = Vec::new();
    if after.is_none_or(|after| after < only) {
        items.push(app.store.tenant_get(TenantKey::Id(only)).await?);
    }
    Ok(Json(Page { items, next: None, as_of }))
}

/// Shows one tenant.
#[utoipa::path(
    get, path = "/v1/tenants/{id}", tag = "tenant", operation_id = "tenant_get",
    params(("id" = TenantId, Path, description = "Which tenant.")),
    responses(
        (status = 200, description = "It.", body = Tenant),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn get(State(app): State<App>, caller: Caller, Named(id): Named<TenantId>) -> Answer<Json<Tenant>> {
    caller.must(Scope::TenantRead)?;
    if !caller.keeps_the_house() && id != caller.tenant.id {
        return Err(ApiError::not_found("tenant", id).into());
    }
    Ok(Json(app.store.tenant_get(TenantKey::Id(id)).await?))
}

/// Changes what holds for a tenant; only the house's admins do.
#[utoipa::path(
    patch, path = "/v1/tenants/{id}", tag = "tenant", operation_id = "tenant_update",
    params(("id" = TenantId, Path, description = "Which tenant.")), request_body = TenantChange,
    responses(
        (status = 200, description = "It, as it is now.", body = Tenant),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<TenantId>,
    Body(change): Body<TenantChange>,
) -> Answer<Json<Tenant>> {
    caller.must(Scope::TenantWrite)?;
    if !caller.keeps_the_house() {
        return Err(ApiError::not_found("tenant", id).into());
    }
    change.check()?;
    Ok(Json(app.store.tenant_update(id, change, &caller.user, app.clock.now()).await?))
}
