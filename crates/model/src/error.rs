//! The one error that crosses the wire: a stable `code`, a `message` for the caller and a `hint` when there is a next step.
//!
//! The HTTP status and the command line's exit code follow from its kind. `internal` is for the server's log alone and
//! never leaves the process.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// What sort of failure it is, whatever it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is malformed or asks for something outside the limits.
    Invalid,
    /// Nobody has proved who is asking.
    Unauthorised,
    /// Who is asking may not do this.
    Forbidden,
    /// The thing does not exist, or not for this caller.
    NotFound,
    /// There is no such method on this path.
    MethodNotAllowed,
    /// The request did not arrive in time.
    TimedOut,
    /// The thing is in a state that does not allow this.
    Conflict,
    /// The thing was here, and has been dropped.
    Gone,
    /// The body is larger than allowed.
    TooLarge,
    /// The body is of a type that is not understood.
    UnsupportedMedia,
    /// The range asked for lies outside the content.
    RangeNotSatisfiable,
    /// Too many requests from one caller.
    TooMany,
    /// Our fault.
    #[default]
    Internal,
    /// Not now; again later.
    Unavailable,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Invalid,
        Self::Unauthorised,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::TimedOut,
        Self::Conflict,
        Self::Gone,
        Self::TooLarge,
        Self::UnsupportedMedia,
        Self::RangeNotSatisfiable,
        Self::TooMany,
        Self::Internal,
        Self::Unavailable,
    ];

    /// Returns the HTTP status of this kind.
    pub const fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorised => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TimedOut => 408,
            Self::Conflict => 409,
            Self::Gone => 410,
            Self::TooLarge => 413,
            Self::UnsupportedMedia => 415,
            Self::RangeNotSatisfiable => 416,
            Self::TooMany => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// Returns the kind that an HTTP status stands for; a foreign one is taken for the nearest of its hundred.
    pub fn from_status(status: u16) -> Self {
        let exact = Self::ALL.into_iter().find(|kind| kind.status() == status);
        exact.unwrap_or(match status {
            400..500 => Self::Invalid,
            502..=504 => Self::Unavailable,
            _ => Self::Internal,
        })
    }
}

/// An error as the caller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// Stable text for programs, such as `execution_not_found`.
    pub code: String,
    /// What went wrong, naming the thing.
    pub message: String,
    /// What to do next, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What sort of failure it is; on the wire this is the HTTP status.
    #[serde(skip)]
    pub kind: ErrorKind,
    /// What only the log may know.
    #[serde(skip)]
    pub internal: Option<String>,
}

impl ApiError {
    /// Makes an error of any kind.
    pub fn new(kind: ErrorKind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), hint: None, kind, internal: None }
    }

    /// Makes the error for a value that is refused as it stands.
    pub fn invalid(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, code, message)
    }

    /// Makes the error for a thing that does not exist, or not for this caller.
    pub fn not_found(noun: &str, name: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("{noun}_not_found"), format!("{noun} `{name}` does not exist"))
    }

    /// Makes the error for something that failed inside; only the log learns what.
    pub fn internal(cause: impl Into<String>) -> Self {
        let mut error = Self::new(ErrorKind::Internal, "internal", "the server failed; its log has the cause");
        error.internal = Some(cause.into());
        error.with_hint("ask the operator for the log lines of this request id")
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what only the log may know.
    #[must_use]
    pub fn with_internal(mut self, cause: impl Into<String>) -> Self {
        self.internal = Some(cause.into());
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_statuses_are_one_to_one() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_status(kind.status()), kind);
        }
        assert_eq!(ErrorKind::from_status(422), ErrorKind::Invalid);
        assert_eq!(ErrorKind::from_status(502), ErrorKind::Unavailable);
    }

    #[test]
    fn the_internal_cause_never_travels() {
        let text = serde_json::to_string(&ApiError::internal("disk on fire")).expect("serialises");
        assert!(!text.contains("fire"), "{text}");
    }
}
