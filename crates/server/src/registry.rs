//! Routes of registries: a tenant's credentials, stored sealed, listed without their secrets, forgotten.

use crate::app::App;
use crate::body::{Asked, Body, Named, TenantQuery};
use crate::caller::Caller;
use crate::error::Answer;
use crate::page::{self, Entries};
use axum::Json;
use axum::extract::State;
use model::{ApiError, NewRegistry, Page, PageQuery, Registry, Scope};
use std::str::FromStr;
use store::Sealed;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(put, remove))
}

/// The name of a registry's host, with a port if it has one.
#[derive(Debug)]
struct Host(String);

/// Characters of a registry's host; a page's `next` has room for it.
const MAX_HOST_CHARS: usize = 128;

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b".:-[]_".contains(&byte);
        match (1..=MAX_HOST_CHARS).contains(&text.len()) && text.bytes().all(good) {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err("a registry is named by its host, such as `registry.example.org:5000`".to_owned()),
        }
    }
}

/// Stores a credential for a registry, in place of an older one. Its secret is never shown again.
#[utoipa::path(
    put, path = "/v1/registries/{host}", tag = "registry", operation_id = "registry_put",
    params(
        ("host" = String, Path, description = "Which host.", pattern = "^[A-Za-z0-9._:\\[\\]-]{1,128}$"), TenantQuery,
    ),
    request_body = NewRegistry,
    responses(
        (status = 200, description = "It, without its secret.", body = Registry),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn put(
    State(app): State<App>,
    caller: Caller,
    Named(Host(host)): Named<Host>,
    Asked(asked): Asked<TenantQuery>,
    Body(new): Body<NewRegistry>,
) -> Answer<Json<Registry>> {
    caller.must(Scope::RegistryWrite)?;
    new.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let secret = app.seal.close(tenant, &host, &new.secret);
    let registry = Registry { host, user: new.user, created_at: app.clock.now() };
    Ok(Json(app.store.registry_put(Sealed { registry, secret }, tenant, &caller.user).await?))
}

/// Lists the registries that the tenant has credentials for.
#[utoipa::path(
    get, path = "/v1/registries", tag = "registry", operation_id = "registry_list", params(PageQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Registry>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn list(State(app): State<App>, caller: Caller, Asked(asked): Asked<PageQuery>) -> Answer<Json<Page<Registry>>> {
    caller.must(Scope::RegistryRead)?;
    let entries = Entries::asked(asked.limit)?;
    let after = page::after::<Host>(&asked)?.map(|Host(host)| host);
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let found = app.store.registry_list(tenant, after, entries.limit()).await?;
    Ok(entries.page(found, |last| last.host.clone()))
}

/// Forgets the credential for a registry.
#[utoipa::path(
    delete, path = "/v1/registries/{host}", tag = "registry", operation_id = "registry_remove",
    params(
        ("host" = String, Path, description = "Which host.", pattern = "^[A-Za-z0-9._:\\[\\]-]{1,128}$"), TenantQuery,
    ),
    responses(
        (status = 200, description = "What was there.", body = Registry),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn remove(
    State(app): State<App>,
    caller: Caller,
    Named(Host(host)): Named<Host>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<Registry>> {
    caller.must(Scope::RegistryWrite)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(app.store.registry_remove(&host, tenant, &caller.user, app.clock.now()).await?))
}
