//! Routes of users: the admins of a tenant make and change them; everybody may ask who they are.

use crate::app::App;
use crate::body::{Asked, Body, Made, Named, TenantQuery};
use crate::caller::Caller;
use crate::error::Answer;
use crate::page::{Entries, after};
use axum::Json;
use axum::extract::State;
use model::user::WhoAmI;
use model::{ApiError, NewUser, Page, PageQuery, Scope, User, UserChange, UserId};
use store::UserKey;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get, update)).routes(routes!(whoami))
}

/// Tells who is asking.
#[utoipa::path(
    get, path = "/v1/whoami", tag = "user", operation_id = "whoami",
    responses(
        (status = 200, description = "The caller.", body = WhoAmI),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn whoami(caller: Caller) -> Json<WhoAmI> {
    Json(caller.describe())
}

/// Makes a user.
#[utoipa::path(
    post, path = "/v1/users", tag = "user", operation_id = "user_create", params(TenantQuery), request_body = NewUser,
    responses(
        (status = 201, description = "Made.", body = User),
        (status = 200, description = "They had been made before.", body = User),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(new): Body<NewUser>,
) -> Answer<Made<User>> {
    caller.must(Scope::UserWrite)?;
    new.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(app.store.user_create(new, tenant, &caller.user, app.clock.now()).await?.into())
}

/// Lists a tenant's users, oldest first.
#[utoipa::path(
    get, path = "/v1/users", tag = "user", operation_id = "user_list", params(PageQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<User>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn list(State(app): State<App>, caller: Caller, Asked(asked): Asked<PageQuery>) -> Answer<Json<Page<User>>> {
    caller.must(Scope::UserRead)?;
    let entries = Entries::asked(asked.limit)?;
    let after = after(&asked)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let found = app.store.user_list(tenant, after, entries.limit()).await?;
    Ok(entries.page(found, |last| last.id.to_string()))
}

/// Shows one user.
#[utoipa::path(
    get, path = "/v1/users/{id}", tag = "user", operation_id = "user_get",
    params(("id" = UserId, Path, description = "Which user."), TenantQuery),
    responses(
        (status = 200, description = "They.", body = User),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<UserId>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<User>> {
    if caller.user_id != Some(id) {
        caller.must(Scope::UserRead)?;
    }
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(app.store.user_get(UserKey::Id(id), tenant).await?))
}

/// Changes a user's role or state; a disabled user's tokens are refused from then on.
#[utoipa::path(
    patch, path = "/v1/users/{id}", tag = "user", operation_id = "user_update",
    params(("id" = UserId, Path, description = "Which user."), TenantQuery), request_body = UserChange,
    responses(
        (status = 200, description = "They, as they are now.", body = User),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<UserId>,
    Asked(asked): Asked<TenantQuery>,
    Body(change): Body<UserChange>,
) -> Answer<Json<User>> {
    caller.must(Scope::UserWrite)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let user = app.store.user_update(id, tenant, change, &caller.user, app.clock.now()).await?;
    app.known.forget_user(id);
    Ok(Json(user))
}
