//! The description of the interface, made from the handlers themselves, and the router that they make up.

use crate::app::App;
use crate::{
    analyzer, caller, change, chunk, content, dump, execution, fence, health, image, log, node, pack, parcel, registry,
    request, signature, tenant, token, user,
};
use axum::Router;
use axum::http::header;
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::get;
use std::any::Any;
use std::sync::Arc;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

#[derive(OpenApi)]
#[openapi(info(
    title = "Quarry",
    description = "Runs programs nobody trusts, and keeps, explains and hunts down every crash they leave.",
    license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
))]
struct Interface;

/// Routes whose requests or answers may last: streams, held requests, large contents.
fn lasting() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(change::routes())
        .merge(content::lasting_routes())
        .merge(chunk::lasting_routes())
        .merge(fence::lasting_routes())
        .merge(dump::lasting_routes())
        .merge(parcel::lasting_routes())
        .merge(pack::lasting_routes())
        .merge(node::lasting_routes())
}

/// Routes that are over soon.
fn brief() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(execution::routes())
        .merge(fence::routes())
        .merge(tenant::routes())
        .merge(user::routes())
        .merge(token::routes())
        .merge(content::routes())
        .merge(chunk::routes())
        .merge(dump::routes())
        .merge(analyzer::routes())
        .merge(parcel::routes())
        .merge(pack::routes())
        .merge(node::routes())
        .merge(image::routes())
        .merge(registry::routes())
        .merge(signature::routes())
        .merge(log::route::routes())
}

/// Returns the whole interface's description.
fn describe(routes: OpenApiRouter<App>) -> utoipa::openapi::OpenApi {
    let mut interface = Interface::openapi();
    interface.merge(routes.into_openapi());
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("One of our tokens, or a JWT of an issuer that the server trusts."))
        .build();
    let components = interface.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    interface.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    interface
}

/// Returns the interface's description as JSON.
pub fn openapi_json() -> String {
    let all = health::open_routes().merge(health::metrics_route()).merge(brief()).merge(lasting());
    let text = serde_json::to_string_pretty(&describe(all)).unwrap_or_default();
    // OpenAPI's registry of formats knows `uint32`; the crate writes `u-int32`.
    let mut text = text.replace("\"format\": \"u-int", "\"format\": \"uint");
    text.push('\n');
    text
}

/// Returns the router of the whole interface.
pub(crate) fn router(app: &App) -> Router {
    let identify = || middleware::from_fn_with_state(app.clone(), caller::identify);
    let limit_time = || middleware::from_fn_with_state(app.clone(), request::limit_time);
    let metrics = match app.config.server.metrics_public {
        true => Router::from(health::metrics_route()),
        false => Router::from(health::metrics_route()).route_layer(identify()),
    };
    let description: Arc<str> = openapi_json().into();
    let json = [(header::CONTENT_TYPE, "application/json")];
    let description = move || std::future::ready((json, description.to_string()).into_response());
    let brief = Router::from(brief()).route_layer(identify()).merge(metrics).merge(Router::from(health::open_routes()));
    let brief = brief.route("/v1/openapi.json", get(description)).route_layer(limit_time());
    let lasting = Router::from(lasting()).route_layer(identify());
    // Contents are served as they are: their ranges are those of the content.
    let compress = CompressionLayer::new()
        .compress_when(DefaultPredicate::new().and(NotForContentType::const_new("application/octet-stream")));
    brief
        .merge(lasting)
        .fallback(request::nowhere)
        .method_not_allowed_fallback(request::no_such_method)
        .layer(compress)
        .layer(CatchPanicLayer::custom(|panic: Box<dyn Any + Send>| request::panicked(panic.as_ref())))
        .layer(middleware::from_fn_with_state(app.clone(), request::observe))
        .with_state(app.clone())
}
