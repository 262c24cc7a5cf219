//! What every request goes through: an id, a span, a clock that runs out, a count, and a net for panics.

use crate::app::App;
use crate::error::Failure;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use model::{ApiError, ErrorKind, RequestId};
use std::any::Any;
use std::time::Instant;
use store::random;
use tracing::Instrument;

/// Where a request's id stands in its answer.
pub(crate) const ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives the request its id and span, and counts it.
pub(crate) async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = RequestId::new(app.clock.now(), random()).to_string();
    let method = request.method().clone();
    // The pattern, not the path: ids must not become labels, and what matches nothing is one label together.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!(
        "request", id, %method, route, tenant = tracing::field::Empty, user = tracing::field::Empty
    );
    let begun = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let (elapsed, status) = (begun.elapsed(), response.status().as_u16());
    span.in_scope(|| tracing::debug!(status, elapsed_ms = elapsed.as_secs_f64() * 1e3, "answered"));
    let labels = [("method", label(&method).to_owned()), ("route", route.clone()), ("status", status.to_string())];
    metrics::counter!("quarry_requests_total", &labels).increment(1);
    metrics::histogram!("quarry_request_seconds", "route" => route).record(elapsed.as_secs_f64());
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns what a method is counted as: whatever a stranger sends must not become a counter of its own.
fn label(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| method == known).unwrap_or("other")
}

/// Ends a request that takes too long, from its first byte to the beginning of its answer.
pub(crate) async fn limit_time(State(app): State<App>, request: Request, next: Next) -> Response {
    let limit = app.config.server.request_timeout;
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let message = format!("the request took longer than {} s", limit.as_secs_f64());
            let mut response =
                Failure::from(ApiError::new(ErrorKind::TimedOut, "request_timed_out", message)).into_response();
            // The rest of its body may still come: this connection is of no more use.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

/// Answers for a path that leads nowhere.
pub(crate) async fn nowhere(request: Request) -> Failure {
    let path: String = request.uri().path().chars().take(200).collect();
    let error = ApiError::new(ErrorKind::NotFound, "route_not_found", format!("there is nothing at `{path}`"));
    error.with_hint("`/v1/openapi.json` lists what there is").into()
}

/// Answers for a method that a path does not have.
pub(crate) async fn no_such_method(request: Request) -> Failure {
    let message = format!("there is no `{}` here", request.method());
    ApiError::new(ErrorKind::MethodNotAllowed, "method_not_allowed", message).into()
}

/// Answers for a handler that panicked, and logs what it said.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Response<Body> {
    let said = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "something".to_owned());
    let mut response = Failure::from(ApiError::internal(format!("a handler panicked: {said}"))).into_response();
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    use tower_http::catch_panic::CatchPanicLayer;

    /// No route of ours panics on purpose, so the net is tried under one that does.
    #[tokio::test]
    async fn a_panic_is_answered_and_not_explained() {
        async fn panics(request: Request) -> String {
            match request.uri().path() {
                "/text" => panic!("a secret"),
                path => panic!("a secret at {path}"),
            }
        }
        let net = CatchPanicLayer::custom(|panic: Box<dyn Any + Send>| panicked(panic.as_ref()));
        let app = Router::new().route("/{path}", get(panics)).layer(net);
        for path in ["/text", "/string"] {
            let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
            let response = app.clone().oneshot(request).await.expect("answers");
            assert_eq!(response.status(), 500);
            let body = response.into_body().collect().await.expect("a body").to_bytes();
            let error: ApiError = serde_json::from_slice(&body).expect("an error");
            assert_eq!(error.code, "internal");
            assert!(!String::from_utf8_lossy(&body).contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn only_known_methods_are_counted_by_name() {
        let check = |method: &str, expected: &str| assert_eq!(label(&method.parse().expect("a method")), expected);
        check("GET", "GET");
        check("OPTIONS", "OPTIONS");
        check("get", "other");
        check("STRANGE", "other");
    }
}
