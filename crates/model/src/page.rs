//! A page of a list, and where the next one begins.

use crate::error::ApiError;
use crate::limits::{DEFAULT_PAGE, MAX_PAGE};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// What to pass as `after` to get the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The number of the last change this page knows of: follow `/v1/changes?after=` it and nothing is missed.
    pub as_of: u64,
}

/// Which page of a list that needs no other question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Where the page begins; a page's `next` goes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(max_length = 128)]
    pub after: Option<String>,
    /// How many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// Whose; only an admin of the house may name another tenant than their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// Returns the refusal of an `after` that no page gave.
pub fn after_invalid() -> ApiError {
    ApiError::invalid("after_invalid", "`after` is no page's `next`")
}

/// Returns how many entries a page has, refusing what is out of bounds.
pub fn page_limit(limit: Option<u32>) -> Result<u32, ApiError> {
    match limit {
        None => Ok(DEFAULT_PAGE),
        Some(limit @ 1..=MAX_PAGE) => Ok(limit),
        Some(limit) => {
            Err(ApiError::invalid("limit_invalid", format!("`limit` is {limit}; it must be 1 to {MAX_PAGE}")))
        }
    }
}
