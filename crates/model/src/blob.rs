//! A blob: content too large for a row, named by its digest.

use crate::digest::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a tenant has a blob for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// For itself: it stays.
    #[default]
    Kept,
    /// For an image: it goes when no image needs it any more, unless it is stored for something else as well.
    Image,
    /// For an execution: it goes when nothing names it any more, unless it is stored for something else as well.
    Execution,
}

impl Purpose {
    /// Returns its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Image => "image",
            Self::Execution => "execution",
        }
    }
}

/// A blob as everybody of its tenant sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Blob {
    /// The BLAKE3 of its content, and its name.
    pub digest: Digest,
    /// How long it is.
    pub size: u64,
    /// When the tenant first stored it.
    pub created_at: Timestamp,
    /// What the tenant has it for.
    #[serde(default)]
    pub purpose: Purpose,
}
