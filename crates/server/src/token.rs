//! Routes of tokens: everybody makes and revokes their own; whoever keeps users does so for them too.

use crate::app::App;
use crate::body::{Asked, Body, Named, TenantQuery};
use crate::caller::Caller;
use crate::credential::Credential;
use crate::error::Answer;
use crate::page::{Entries, after};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use model::{ApiError, ErrorKind, NewToken, Page, PageQuery, Scope, TenantId, Token, TokenId, TokenIssued, UserId};
use store::{TokenRow, UserKey};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get)).routes(routes!(revoke))
}

/// Returns whose tokens the caller may see or change: their own, or anybody's of the tenant with the scope for it.
fn reach(caller: &Caller, others: Scope) -> Answer<Option<UserId>> {
    if caller.must(others).is_ok() {
        return Ok(None);
    }
    let stranger = || ApiError::new(ErrorKind::Forbidden, "not_allowed", format!("`{others}` is needed for this"));
    // Somebody of a foreign issuer has no tokens of ours.
    Ok(Some(caller.user_id.ok_or_else(stranger)?))
}

/// Makes a token. Its secret stands in this answer and nowhere else.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "token", operation_id = "token_create",
    params(TenantQuery), request_body = NewToken,
    responses(
        (status = 201, description = "Made.", body = TokenIssued),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(new): Body<NewToken>,
) -> Answer<(StatusCode, Json<TokenIssued>)> {
    caller.must(Scope::TokenWrite)?;
    let now = app.clock.now();
    new.check(now)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let user = owner(&caller, &new)?;
    narrow(&app, &caller, &new, tenant, user).await?;
    let credential = Credential::new(Some(new.id), now);
    let token = Token {
        id: new.id,
        tenant,
        user,
        name: new.name,
        scopes: new.scopes,
        created_at: now,
        expires_at: new.expires_at,
        used_at: None,
        revoked_at: None,
    };
    let token = app.store.token_create(TokenRow { token, hash: credential.hash() }, &caller.user).await?;
    Ok((StatusCode::CREATED, Json(TokenIssued { token, secret: credential.to_string() })))
}

fn owner(caller: &Caller, new: &NewToken) -> Answer<UserId> {
    match (new.user, caller.user_id) {
        (Some(user), own) if Some(user) != own => caller.must(Scope::UserWrite).map(|()| user),
        (_, Some(own)) => Ok(own),
        (_, None) => {
            let error = ApiError::invalid("user_missing", "you are known by a foreign token only: name the `user`");
            Err(error.into())
        }
    }
}

/// Refuses a token that would allow more than whoever makes it may do.
async fn narrow(app: &App, caller: &Caller, new: &NewToken, tenant: TenantId, user: UserId) -> Answer<()> {
    let held = caller.scopes();
    if new.scopes.is_empty() && caller.is_narrowed() {
        // Even if it names all that its user may do today: they may do more tomorrow, it never will.
        let message = "a token without `scopes` can do all that its user may do, the one that makes it cannot";
        return Err(ApiError::new(ErrorKind::Forbidden, "not_allowed", message).with_hint("name its `scopes`").into());
    }
    let wanted = if new.scopes.is_empty() {
        let user = app.store.user_get(UserKey::Id(user), tenant).await?;
        let house = caller.tenant.is_house() && tenant == caller.tenant.id;
        Scope::ALL.into_iter().filter(|scope| user.role.has(*scope) && (house || !scope.is_of_the_house())).collect()
    } else {
        new.scopes.clone()
    };
    match wanted.into_iter().find(|scope| !held.contains(scope)) {
        None => Ok(()),
        Some(scope) => {
            let message = format!("a token cannot have `{scope}`: whoever makes it does not");
            let error = ApiError::new(ErrorKind::Forbidden, "not_allowed", message);
            Err(error.with_hint("name fewer `scopes`").into())
        }
    }
}

/// Lists tokens, oldest first: one's own, or the tenant's for whoever keeps its users.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "token", operation_id = "token_list", params(PageQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Token>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn list(State(app): State<App>, caller: Caller, Asked(asked): Asked<PageQuery>) -> Answer<Json<Page<Token>>> {
    caller.must(Scope::TokenRead)?;
    let entries = Entries::asked(asked.limit)?;
    let after = after(&asked)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let user = reach(&caller, Scope::UserRead)?;
    let found = app.store.token_list(tenant, user, after, entries.limit()).await?;
    Ok(entries.page(found, |last| last.id.to_string()))
}

/// Shows one token, without its secret.
#[utoipa::path(
    get, path = "/v1/tokens/{id}", tag = "token", operation_id = "token_get",
    params(("id" = TokenId, Path, description = "Which token."), TenantQuery),
    responses(
        (status = 200, description = "It.", body = Token),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<TokenId>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<Token>> {
    caller.must(Scope::TokenRead)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(app.store.token_get(id, tenant, reach(&caller, Scope::UserRead)?).await?))
}

/// Revokes a token, for good. Asking again is harmless.
#[utoipa::path(
    post, path = "/v1/tokens/{id}/revoke", tag = "token", operation_id = "token_revoke",
    params(("id" = TokenId, Path, description = "Which token."), TenantQuery),
    responses(
        (status = 200, description = "It, as it is now.", body = Token),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<TokenId>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<Token>> {
    caller.must(Scope::TokenWrite)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let user = reach(&caller, Scope::UserWrite)?;
    let token = app.store.token_revoke(id, tenant, user, &caller.user, app.clock.now()).await?;
    app.known.forget(id);
    Ok(Json(token))
}
