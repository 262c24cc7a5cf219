//! What comes in with a request: JSON bodies, questions behind a `?`, and ids in the path, each refused by name.

use crate::app::App;
use crate::caller::Caller;
use crate::error::{Answer, Failure};
use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::{StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use model::limits::MAX_SYNC_BYTES;
use model::{ApiError, ErrorKind, Scope};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::IntoParams;

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Answer<Self> {
        json(request, app.config.server.body_bytes_max.as_usize()).await.map(Self)
    }
}

/// What a node says: longer than other bodies, and on a route that may last, so its arrival has a limit of its own.
#[derive(Debug)]
pub(crate) struct Spoken<T>(pub(crate) T, pub(crate) Attention);

/// Bytes of long speeches that are listened to at once; the other speakers wait. Several times as much is in hand while
/// they are understood and written.
const MAX_HEARING_BYTES: usize = 2 * MAX_SYNC_BYTES;
/// Bytes up to which a speech is short, and heard at once.
const SHORT_BYTES: usize = 16 << 10;

/// How long to wait for attention before speaking all the same: words that come slowly must not silence everybody.
const MAX_PATIENCE: Duration = Duration::from_secs(2);

/// How much of what nodes say may be in hand at once.
#[derive(Debug)]
pub(crate) struct Hearing(Arc<Semaphore>);

/// A part of it, given back when dropped: when what was said has been written.
#[derive(Debug)]
pub(crate) struct Attention {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Default for Hearing {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_HEARING_BYTES)))
    }
}

impl Hearing {
    /// Waits until there is attention for a request's body.
    async fn attend(&self, announced: Option<usize>) -> Attention {
        let bytes = announced.unwrap_or(MAX_SYNC_BYTES).min(MAX_SYNC_BYTES);
        if bytes <= SHORT_BYTES {
            return Attention { _permit: None };
        }
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = tokio::time::timeout(MAX_PATIENCE, Arc::clone(&self.0).acquire_many_owned(wanted)).await;
        Attention { _permit: permit.ok().and_then(Result::ok) }
    }
}

/// Returns how long a request says that its body is.
fn announced(request: &Request) -> Option<usize> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl<T: DeserializeOwned> FromRequest<App> for Spoken<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Answer<Self> {
        // Nobody else's words are listened to: what is in hand is memory.
        let caller = request.extensions().get::<Caller>();
        caller.ok_or_else(|| ApiError::internal("a route was reached without a caller"))?.must(Scope::NodeRun)?;
        let attention = app.hearing.attend(announced(&request)).await;
        let limit = app.config.server.request_timeout;
        let read = tokio::time::timeout(limit, json(request, MAX_SYNC_BYTES)).await;
        let late = || {
            let message = format!("the body took longer than {} s", limit.as_secs_f64());
            Failure::from(ApiError::new(ErrorKind::TimedOut, "body_too_slow", message))
        };
        let said = read.map_err(|_| late())??;
        Ok(Self(said, attention))
    }
}

async fn json<T: DeserializeOwned>(request: Request, bytes_max: usize) -> Answer<T> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = format!("the body's type is `{}`, not `application/json`", kind.escape_debug());
        return Err(ApiError::new(ErrorKind::UnsupportedMedia, "body_not_json", message).into());
    }
    let bytes = read(request, bytes_max).await?;
    let refuse = |why: String| {
        let message = format!("the body is not what this route takes: {why}");
        Failure::from(ApiError::invalid("body_invalid", message).with_hint("`/v1/openapi.json` says what it takes"))
    };
    // A list would be read as the fields in their order, which is nothing that we promise.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(refuse("it is a list, not an object".to_owned()));
    }
    serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))
}

async fn read(request: Request, bytes_max: usize) -> Answer<Vec<u8>> {
    let too_large = || {
        let message = format!("the body is larger than {bytes_max} bytes");
        ApiError::new(ErrorKind::TooLarge, "body_too_large", message).with_hint("put large content into a blob")
    };
    let mut bytes = Vec::with_capacity(announced(&request).unwrap_or(0).min(bytes_max));
    let mut body = Limited::new(request.into_body(), bytes_max);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                // What comes behind a body is nothing that we know.
                let Ok(piece) = frame.into_data() else { continue };
                bytes.extend_from_slice(&piece);
            }
            Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => return Err(too_large().into()),
            Err(error) => {
                return Err(ApiError::invalid("body_broken", format!("the body broke off: {error}")).into());
            }
        }
    }
    Ok(bytes)
}

/// What stands behind the `?`.
#[derive(Debug)]
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(rejection) => {
                let message = format!("the query is not what this route takes: {}", rejection.body_text());
                Err(ApiError::invalid("query_invalid", message).into())
            }
        }
    }
}

/// The id in the path.
#[derive(Debug)]
pub(crate) struct Named<T>(pub(crate) T);

impl<T, S> FromRequestParts<S> for Named<T>
where
    T: FromStr<Err: std::fmt::Display>,
    S: Send + Sync,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let broken = |why: String| Failure::from(ApiError::invalid("id_invalid", why));
        let Path(text) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|why| broken(why.body_text()))?;
        text.parse().map(Self).map_err(|why: T::Err| broken(why.to_string()))
    }
}

/// The two ids in the path.
#[derive(Debug)]
pub(crate) struct Pair<A, B>(pub(crate) A, pub(crate) B);

impl<A, B, S> FromRequestParts<S> for Pair<A, B>
where
    A: FromStr<Err: std::fmt::Display>,
    B: FromStr<Err: std::fmt::Display>,
    S: Send + Sync,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let broken = |why: String| Failure::from(ApiError::invalid("id_invalid", why));
        let Path((first, second)) =
            Path::<(String, String)>::from_request_parts(parts, state).await.map_err(|why| broken(why.body_text()))?;
        let first = first.parse().map_err(|why: A::Err| broken(why.to_string()))?;
        let second = second.parse().map_err(|why: B::Err| broken(why.to_string()))?;
        Ok(Self(first, second))
    }
}

/// Answers what was made: 201 if it is new, 200 if it was there.
pub(crate) struct Made<T> {
    pub(crate) thing: T,
    pub(crate) new: bool,
}

impl<T> From<(T, bool)> for Made<T> {
    fn from((thing, new): (T, bool)) -> Self {
        Self { thing, new }
    }
}

impl<T: Serialize> IntoResponse for Made<T> {
    fn into_response(self) -> Response {
        (if self.new { StatusCode::CREATED } else { StatusCode::OK }, Json(self.thing)).into_response()
    }
}

/// In whose name something is made.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TenantQuery {
    /// Whose; only an admin of the house may name another tenant than their own.
    #[serde(default)]
    pub(crate) tenant: Option<String>,
}
