//! A blob: content too large for a row, named by its digest.

use crate::digest::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The header of an answer that says of content that it is `passing`.
pub const PASSING_HEADER: &str = "quarry-passing";

/// A blob as everybody of its tenant sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Blob {
    /// The BLAKE3 of its content, and its name.
    pub digest: Digest,
    /// How long it is.
    pub size: u64,
    /// When the tenant first stored it.
    pub created_at: Timestamp,
    /// Whether it was stored for an execution alone, and goes when nothing names it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passing: bool,
}
