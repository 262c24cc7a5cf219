//! What can go wrong between a client and a server.

use model::{ApiError, Digest};
use std::error::Error;

/// Why a request brought no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused; what it said stands inside.
    #[error("{error}")]
    Api {
        /// What the server said; its kind comes from the HTTP status.
        error: Box<ApiError>,
        /// The request's id, to be named to the operator.
        request: Option<String>,
    },
    /// The server is not there, or the line to it broke.
    #[error("the server at `{url}` cannot be reached")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What happened.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The answer is not what this interface says it is.
    #[error("the answer of `{url}` makes no sense: {what}")]
    Unexpected {
        /// Where it came from.
        url: String,
        /// What is wrong with it.
        what: String,
        /// The request's id, to be named to the operator.
        request: Option<String>,
    },
    /// The client was set up with something unusable.
    #[error("{message}")]
    Invalid {
        /// What is unusable.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// A blob's content is not what its name says.
    #[error("blob `{expected}` arrived with the content of `{found}`")]
    Corrupt {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The content to send cannot be read.
    #[error("the content to send cannot be read")]
    Content(#[source] std::io::Error),
}

impl ClientError {
    /// Makes the error for something unusable that the client was set up with.
    pub(crate) fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), hint: hint.into() }
    }

    /// Makes the error for a server that is not there.
    pub(crate) fn unreachable(url: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unreachable { url: url.to_owned(), source: source.into() }
    }

    /// Makes the error for an answer that makes no sense.
    pub(crate) fn unexpected(url: &str, what: impl Into<String>) -> Self {
        Self::Unexpected { url: url.to_owned(), what: what.into(), request: None }
    }

    /// Returns what the server said, if it was the server who refused.
    pub fn api(&self) -> Option<&ApiError> {
        if let Self::Api { error, .. } = self { Some(error) } else { None }
    }

    /// Tells whether the server refused with this code.
    pub fn is_code(&self, code: &str) -> bool {
        self.api().is_some_and(|error| error.code == code)
    }

    /// Tells whether asking again would bring the same refusal.
    pub fn is_final(&self) -> bool {
        use model::ErrorKind as Kind;
        self.api().is_some_and(|error| match error.kind {
            Kind::Invalid | Kind::Forbidden | Kind::NotFound | Kind::Unauthorised | Kind::TooLarge => true,
            Kind::Conflict | Kind::MethodNotAllowed | Kind::UnsupportedMedia | Kind::RangeNotSatisfiable => true,
            Kind::Gone => true,
            Kind::TimedOut | Kind::TooMany | Kind::Internal | Kind::Unavailable => false,
        })
    }

    /// Returns the id of the request that failed, if the server gave it one.
    pub fn request(&self) -> Option<&str> {
        match self {
            Self::Api { request, .. } | Self::Unexpected { request, .. } => request.as_deref(),
            Self::Unreachable { .. } | Self::Invalid { .. } | Self::Corrupt { .. } | Self::Content(_) => None,
        }
    }
}

/// Returns the innermost cause of an error, which is the one that tells something.
pub(crate) fn root(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
