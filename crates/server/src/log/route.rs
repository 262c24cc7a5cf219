//! Routes of what the server writes about itself: look at the levels, change them.

use crate::app::App;
use crate::body::Body;
use crate::caller::Caller;
use crate::error::Answer;
use crate::log::Log;
use axum::Json;
use axum::extract::State;
use model::log::{LogChange, LogLevels};
use model::{ApiError, ErrorKind, Scope};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get, set))
}

fn log(app: &App) -> Answer<&Log> {
    let none =
        || ApiError::new(ErrorKind::Unavailable, "log_unavailable", "this server's log is kept by another program");
    Ok(app.log.as_ref().ok_or_else(none)?)
}

/// Shows what each module writes.
#[utoipa::path(
    get, path = "/v1/log/levels", tag = "log", operation_id = "log_levels",
    responses(
        (status = 200, description = "The levels.", body = LogLevels),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn get(State(app): State<App>, caller: Caller) -> Answer<Json<LogLevels>> {
    caller.must(Scope::LogRead)?;
    Ok(Json(log(&app)?.levels()))
}

/// Changes what each module named writes, for good or for a time.
#[utoipa::path(
    put, path = "/v1/log/levels", tag = "log", operation_id = "log_set", request_body = LogChange,
    responses(
        (status = 200, description = "The levels, as they are now.", body = LogLevels),
        (status = "default", description = "Refused.", body = ApiError),
    )
)]
async fn set(State(app): State<App>, caller: Caller, Body(change): Body<LogChange>) -> Answer<Json<LogLevels>> {
    caller.must(Scope::LogWrite)?;
    let levels = log(&app)?.change(&change, app.clock.now())?;
    tracing::info!(by = caller.user, ?change, "log levels changed");
    Ok(Json(levels))
}
