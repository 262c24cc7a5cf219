//! Routes of images: have one made, list, look, remove, and clear away what none of them needs.
//!
//! The server takes no image apart: an execution on a node does, and reports what it is made of.

use crate::app::App;
use crate::body::{Asked, Body, Made, Named, TenantQuery};
use crate::caller::Caller;
use crate::error::Answer;
use crate::page::Entries;
use axum::Json;
use axum::extract::State;
use model::image::ImageFreed;
use model::limits::MAX_IMAGE_CHARS;
use model::{ApiError, Image, ImageId, ImageQuery, NewImage, Page, Scope, Shape};
use std::str::FromStr;
use std::time::Duration;
use store::{ImageKey, chain};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(gc)).routes(routes!(get)).routes(routes!(remove))
}

/// What an image goes by: an id, a name, or the digest of its manifest.
#[derive(Debug)]
struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (1..=MAX_IMAGE_CHARS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("an image is named by 1 to {MAX_IMAGE_CHARS} plain characters without spaces")),
        }
    }
}

/// Has an image made, by an execution on a node; asking again with the same ids is harmless.
#[utoipa::path(
    post, path = "/v1/images", tag = "image", operation_id = "image_create",
    params(TenantQuery), request_body = NewImage,
    responses(
        (status = 201, description = "Accepted.", body = Image),
        (status = 200, description = "It had been accepted before.", body = Image),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked<TenantQuery>,
    Body(new): Body<NewImage>,
) -> Answer<Made<Image>> {
    caller.must(Scope::ImageWrite)?;
    new.check()?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let (image, execution) = app.store.image_create(new, tenant, &caller.user, app.clock.now()).await?;
    if let Some(execution) = &execution {
        app.sessions.ring(&Shape::of(&execution.recipe, execution.origin.kind, None), tenant, None);
    }
    Ok((image, execution.is_some()).into())
}

/// Lists images, newest first; those that were removed only if asked for.
#[utoipa::path(
    get, path = "/v1/images", tag = "image", operation_id = "image_list", params(ImageQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Image>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn list(State(app): State<App>, caller: Caller, Asked(asked): Asked<ImageQuery>) -> Answer<Json<Page<Image>>> {
    caller.must(Scope::ImageRead)?;
    let entries = Entries::asked(asked.limit)?;
    if let Some(name) = &asked.name {
        Name::from_str(name).map_err(|why| ApiError::invalid("name_invalid", why))?;
    }
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let found = app.store.image_list(tenant, &asked, entries.limit()).await?;
    Ok(entries.page(found, |last| last.id.to_string()))
}

/// Shows an image, by its id, or the newest that can be used by its name or digest.
#[utoipa::path(
    get, path = "/v1/images/{name}", tag = "image", operation_id = "image_get",
    params(("name" = String, Path, description = "Which image.", pattern = "^[!-~]{1,512}$"), TenantQuery),
    responses(
        (status = 200, description = "It.", body = Image),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Named(Name(name)): Named<Name>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Json<Image>> {
    caller.must(Scope::ImageRead)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    Ok(Json(app.store.image_get(ImageKey::from(name.as_str()), caller.reach(), tenant).await?))
}

/// Removes an image; what runs in it or waits for it is not touched.
#[utoipa::path(
    delete, path = "/v1/images/{name}", tag = "image", operation_id = "image_remove",
    params(("name" = ImageId, Path, description = "Which image.")),
    responses(
        (status = 200, description = "It, as it is now.", body = Image),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn remove(State(app): State<App>, caller: Caller, Named(id): Named<ImageId>) -> Answer<Json<Image>> {
    caller.must(Scope::ImageWrite)?;
    Ok(Json(app.store.image_remove(id, caller.reach(), &caller.user, app.clock.now()).await?))
}

/// Drops the layers that no image, and nothing that runs or waits in one, needs.
#[utoipa::path(
    post, path = "/v1/images/gc", tag = "image", operation_id = "image_gc", params(TenantQuery),
    responses(
        (status = 200, description = "What was dropped.", body = ImageFreed),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn gc(State(app): State<App>, caller: Caller, Asked(asked): Asked<TenantQuery>) -> Answer<Json<ImageFreed>> {
    caller.must(Scope::ImageWrite)?;
    let tenant = caller.tenant(&app, asked.tenant.as_deref()).await?;
    let freed = app.store.image_gc(tenant, &caller.user, app.clock.now()).await?;
    remove_contents(&app).await;
    Ok(Json(freed))
}

/// How long whoever removes content waits for another who does.
const MAX_TURN: Duration = Duration::from_secs(2);

/// Removes the content that nobody has any more; what fails is tried again by the next pass.
pub(crate) async fn remove_contents(app: &App) {
    // Whoever has the turn for long is about to remove this too, or the next pass does.
    let Ok(_turn) = tokio::time::timeout(MAX_TURN, app.removing.lock()).await else { return };
    if let Err(error) = app.store.removal_give_up(app.clock.now()).await {
        return tracing::warn!(error = error.chain(), "cannot tell which content somebody has after all");
    }
    let pending = match app.store.removal_list(app.clock.now()).await {
        Ok(pending) => pending,
        Err(error) => return tracing::warn!(error = error.chain(), "cannot tell which content is to be removed"),
    };
    for digest in pending {
        match app.store.removal_take(digest, app.clock.now()).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => return tracing::warn!(error = error.chain(), "content that nobody has could not be taken"),
        }
        if let Err(error) = app.blobs.delete(digest).await {
            return tracing::warn!(error = chain(&error), %digest, "content that nobody has could not be removed");
        }
        if let Err(error) = app.store.removal_end(digest).await {
            return tracing::warn!(error = error.chain(), %digest, "the removal of content could not be noted");
        }
    }
}
