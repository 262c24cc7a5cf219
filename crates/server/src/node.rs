//! Routes of nodes: join and sync, as a node lives; list, look, cordon, drain and remove, as its keeper works.

mod sync;

use crate::app::App;
use crate::body::{Asked, Body, Made, Named, Spoken};
use crate::caller::Caller;
use crate::error::Answer;
use crate::page::Entries;
use crate::session::watch::moved;
use axum::Json;
use axum::extract::State;
use jiff::SignedDuration;
use model::limits::{MAX_CAUSE_CHARS, MAX_NAME_CHARS, MAX_ROW_BYTES};
use model::node::{Cordon, HoldKind};
use model::{ApiError, NewNode, Node, NodeId, NodeQuery, Page, Scope, Sync, SyncAnswer};
use std::str::FromStr;
use store::NodeKey;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Returns the routes that are over soon.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(join, list))
        .routes(routes!(get, remove))
        .routes(routes!(cordon))
        .routes(routes!(uncordon))
        .routes(routes!(drain))
}

/// Returns the routes that last as long as there is nothing to say.
pub(crate) fn lasting_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(sync))
}

/// What a node goes by: its id or its name.
#[derive(Debug)]
struct Name(NodeKey);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match (1..=MAX_NAME_CHARS).contains(&text.len()) && text.bytes().all(good) {
            true => Ok(Self(NodeKey::from(text))),
            false => Err(format!("a node is named by 1 to {MAX_NAME_CHARS} letters, digits, `-`, `_`, `.`")),
        }
    }
}

/// Returns how long a lease lasts.
fn lease(app: &App) -> SignedDuration {
    SignedDuration::try_from(app.config.node.lease).unwrap_or(SignedDuration::from_secs(30))
}

/// Lets a node in and opens its session. Whatever an older session of the node holds is lost at once.
#[utoipa::path(
    post, path = "/v1/nodes", tag = "node", operation_id = "node_join", request_body = NewNode,
    responses(
        (status = 201, description = "It is new.", body = Node),
        (status = 200, description = "It has been here before.", body = Node),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn join(State(app): State<App>, caller: Caller, Body(new): Body<NewNode>) -> Answer<Made<Node>> {
    caller.must(Scope::NodeRun)?;
    new.check()?;
    let bytes = serde_json::to_vec(&new.offer).map_or(usize::MAX, |text| text.len());
    if bytes > MAX_ROW_BYTES {
        let message = format!("`offer` of node `{}` has {bytes} bytes of at most {MAX_ROW_BYTES}", new.id);
        return Err(ApiError::invalid("node_invalid", message).into());
    }
    let (tenant, now) = (caller.tenant.id, app.clock.now());
    let (node, is_new, lost) = app.store.node_join(new, tenant, &caller.user, now, lease(&app)).await?;
    moved(&app, &lost);
    Ok((node, is_new).into())
}

/// Hears all that a node holds and what has happened to it, and tells it what to do; held while there is nothing to say.
///
/// What is not said to be held is assigned again, what is held and is not its own comes back in `forget`. A newer sync of
/// the same session that waits lets an older one go, which then answers with nothing; one that does not wait leaves it.
#[utoipa::path(
    post, path = "/v1/nodes/{id}/sync", tag = "node", operation_id = "node_sync", request_body = Sync,
    params(("id" = NodeId, Path, description = "Which node.")),
    responses(
        (status = 200, description = "What it is to do.", body = SyncAnswer),
        (status = 409, description = "The session is not the node's, or its lease ran out.", body = ApiError),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn sync(
    State(app): State<App>,
    caller: Caller,
    Named(id): Named<NodeId>,
    Spoken(sync, attention): Spoken<Sync>,
) -> Answer<Json<SyncAnswer>> {
    caller.must(Scope::NodeRun)?;
    sync.check()?;
    Ok(Json(sync::answer(&app, &caller, id, sync, attention).await?))
}

/// Lists nodes, newest first: the tenant's own, or all for an admin of the house.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "node", operation_id = "node_list", params(NodeQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Node>),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn list(State(app): State<App>, caller: Caller, Asked(asked): Asked<NodeQuery>) -> Answer<Json<Page<Node>>> {
    caller.must(Scope::NodeRead)?;
    let entries = Entries::asked(asked.limit)?;
    let found = app.store.node_list(caller.reach(), &asked, entries.limit()).await?;
    Ok(entries.page(found, |last| last.id.to_string()))
}

/// Shows one node, by its id or name.
#[utoipa::path(
    get, path = "/v1/nodes/{id}", tag = "node", operation_id = "node_get",
    params(("id" = String, Path, description = "Which node.", pattern = "^[A-Za-z0-9._-]{1,64}$")),
    responses(
        (status = 200, description = "It.", body = Node),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn get(State(app): State<App>, caller: Caller, Named(Name(key)): Named<Name>) -> Answer<Json<Node>> {
    caller.must(Scope::NodeRead)?;
    find(&app, &caller, key).await.map(Json)
}

async fn find(app: &App, caller: &Caller, key: NodeKey) -> Answer<Node> {
    Ok(app.store.node_get(key, caller.reach(), caller.tenant.id).await?)
}

/// Has a node hear what was done to it.
fn told(app: &App, node: Node) -> Answer<Json<Node>> {
    if let Some(session) = node.session {
        app.sessions.touch(session);
    }
    Ok(Json(node))
}

/// Keeps a node from taking anything new; what it holds goes on.
#[utoipa::path(
    post, path = "/v1/nodes/{id}/cordon", tag = "node", operation_id = "node_cordon", request_body = Cordon,
    params(("id" = String, Path, description = "Which node.", pattern = "^[A-Za-z0-9._-]{1,64}$")),
    responses(
        (status = 200, description = "It, as it is now.", body = Node),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn cordon(
    State(app): State<App>,
    caller: Caller,
    Named(Name(key)): Named<Name>,
    Body(Cordon { cause }): Body<Cordon>,
) -> Answer<Json<Node>> {
    caller.must(Scope::NodeWrite)?;
    if cause.chars().count() > MAX_CAUSE_CHARS || cause.contains('\0') {
        let message = format!("`cause` has at most {MAX_CAUSE_CHARS} characters and no NUL");
        return Err(ApiError::invalid("cordon_invalid", message).into());
    }
    let node = find(&app, &caller, key).await?;
    let held = app.store.node_hold(&node, (HoldKind::Cordon, cause), &caller.user, app.clock.now()).await?;
    told(&app, held)
}

/// Lifts what keeps a node from taking anything new: a cordon, a quarantine, its age.
#[utoipa::path(
    post, path = "/v1/nodes/{id}/uncordon", tag = "node", operation_id = "node_uncordon",
    params(("id" = String, Path, description = "Which node.", pattern = "^[A-Za-z0-9._-]{1,64}$")),
    responses(
        (status = 200, description = "It, as it is now.", body = Node),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn uncordon(State(app): State<App>, caller: Caller, Named(Name(key)): Named<Name>) -> Answer<Json<Node>> {
    caller.must(Scope::NodeWrite)?;
    let node = find(&app, &caller, key).await?;
    told(&app, app.store.node_lift(&node, &caller.user, app.clock.now()).await?)
}

/// Has a node finish what it holds, take nothing new, and leave.
#[utoipa::path(
    post, path = "/v1/nodes/{id}/drain", tag = "node", operation_id = "node_drain",
    params(("id" = String, Path, description = "Which node.", pattern = "^[A-Za-z0-9._-]{1,64}$")),
    responses(
        (status = 200, description = "It, as it is now.", body = Node),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn drain(State(app): State<App>, caller: Caller, Named(Name(key)): Named<Name>) -> Answer<Json<Node>> {
    caller.must(Scope::NodeWrite)?;
    let node = find(&app, &caller, key).await?;
    told(&app, app.store.node_drain(&node, &caller.user, app.clock.now()).await?)
}

/// Removes a node that is lost; one that has left is removed already.
#[utoipa::path(
    delete, path = "/v1/nodes/{id}", tag = "node", operation_id = "node_remove",
    params(("id" = String, Path, description = "Which node.", pattern = "^[A-Za-z0-9._-]{1,64}$")),
    responses(
        (status = 200, description = "It, as it is now.", body = Node),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn remove(State(app): State<App>, caller: Caller, Named(Name(key)): Named<Name>) -> Answer<Json<Node>> {
    caller.must(Scope::NodeWrite)?;
    let node = find(&app, &caller, key).await?;
    Ok(Json(app.store.node_remove(&node, &caller.user, app.clock.now()).await?))
}
