//! An answer, read whole, and what must hold for every one of them: a request id, and a whole error where it is one.

use bytes::Bytes;
use model::ApiError;
use reqwest::header::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An answer that has been read whole.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What was asked, for messages.
    pub(crate) asked: String,
}

impl Answer {
    /// Reads an answer whole and holds it against what every answer must have.
    pub(crate) async fn read(asked: String, response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.unwrap_or_else(|error| panic!("{asked}: {error:?}"));
        let answer = Self { status, headers, body, asked };
        assert!(answer.header("x-request-id").starts_with("req_"), "no request id: {answer:?}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{answer:?}");
        assert!(status < 500 || status == 503, "{answer:?}");
        answer
    }

    /// Returns a header's text, empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the body as text.
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Refuses any other status than this.
    #[track_caller]
    pub(crate) fn must(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.asked, String::from_utf8_lossy(&self.body));
        self
    }

    /// Returns the body, which must be what is wanted.
    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        assert!(self.status < 300, "{}: {} {}", self.asked, self.status, String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns the body as it stands.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns the error that the body must be.
    #[track_caller]
    pub(crate) fn error(&self, status: u16, code: &str) -> ApiError {
        let error = self.any_error();
        assert_eq!((self.status, error.code.as_str()), (status, code), "{}: {error:?}", self.asked);
        error
    }

    /// Returns the error that the body must be, whichever it is.
    #[track_caller]
    pub(crate) fn any_error(&self) -> ApiError {
        assert!(self.status >= 400, "{}: {} {}", self.asked, self.status, String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        let error: ApiError = serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert!(!error.code.is_empty() && !error.message.is_empty(), "{}: {error:?}", self.asked);
        assert!(!error.message.ends_with('.'), "{}: {error:?}", self.asked);
        if self.status == 401 {
            assert_eq!(self.header("www-authenticate"), "Bearer", "{self:?}");
        }
        error
    }
}
