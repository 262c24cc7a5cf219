//! Whether the server is alive, whether it can serve, and what it has counted.

use crate::app::App;
use crate::caller::Caller;
use crate::error::Answer;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use model::health::Health;
use model::{ApiError, Scope};
use std::time::Duration;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// How long the database may take to answer before the server counts as not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns the routes that need no token.
pub(crate) fn open_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

/// Returns the route of the counts, which needs a token unless the configuration says otherwise.
pub(crate) fn metrics_route() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(metrics))
}

fn health(app: &App, status: impl Into<String>) -> Json<Health> {
    Json(Health {
        status: status.into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        database: app.store.engine().as_str().to_owned(),
    })
}

/// Tells that the process is alive.
#[utoipa::path(
    get, path = "/healthz", tag = "health", operation_id = "healthz", security(()),
    responses(
        (status = 200, description = "Alive.", body = Health),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn healthz(State(app): State<App>) -> Json<Health> {
    health(&app, "ok")
}

/// Tells whether requests can be served: the database answers and the server is not stopping.
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "readyz", security(()),
    responses(
        (status = 200, description = "Ready.", body = Health),
        (status = 503, description = "Not ready; `status` says why.", body = Health),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn readyz(State(app): State<App>) -> (StatusCode, Json<Health>) {
    if app.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, health(&app, "stopping"));
    }
    match tokio::time::timeout(PATIENCE, app.store.ping()).await {
        Ok(Ok(())) => (StatusCode::OK, health(&app, "ok")),
        Ok(Err(error)) => {
            tracing::warn!(error = error.chain(), "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, health(&app, "the database does not answer"))
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, health(&app, "the database does not answer in time")),
    }
}

/// Shows what has been counted, as Prometheus reads it.
#[utoipa::path(
    get, path = "/metrics", tag = "health", operation_id = "metrics",
    responses(
        (status = 200, description = "Counters, gauges and histograms.", body = String, content_type = "text/plain"),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn metrics(State(app): State<App>, caller: Option<Extension<Caller>>) -> Answer<Response> {
    if let Some(Extension(caller)) = caller {
        caller.must(Scope::LogRead)?;
    }
    let bounds = app.store.log_bounds().await?;
    metrics::gauge!("quarry_log_head").set(bounds.head as f64);
    metrics::gauge!("quarry_log_floor").set(bounds.floor as f64);
    metrics::gauge!("quarry_executions_waiting").set(app.store.executions_waiting().await? as f64);
    app.metrics.run_upkeep();
    let mut response = app.metrics.render().into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
