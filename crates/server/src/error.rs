//! The one way out for what went wrong: an [`ApiError`] with its status, and one line in the log if it was our fault.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::{ApiError, ErrorKind};
use store::StoreError;

/// An error on its way to the caller.
#[derive(Debug)]
pub(crate) struct Failure {
    error: ApiError,
    retry_after_seconds: Option<u64>,
}

impl Failure {
    /// Says when to come again.
    pub(crate) const fn after_seconds(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// Returns what sort of failure it is.
    pub(crate) const fn kind(&self) -> ErrorKind {
        self.error.kind
    }

    /// Returns what the log may know of it.
    pub(crate) fn cause(&self) -> &str {
        self.error.internal.as_deref().unwrap_or(&self.error.message)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let retry_after_seconds = matches!(error.kind, ErrorKind::Unavailable | ErrorKind::TooMany).then_some(1);
        Self { error, retry_after_seconds }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        ApiError::from(error).into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let error = self.error;
        if let Some(cause) = &error.internal {
            tracing::error!(code = error.code, cause, "a request failed");
        }
        let status = StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&error)).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if error.kind == ErrorKind::Unauthorised {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// What a handler answers.
pub(crate) type Answer<T> = Result<T, Failure>;
