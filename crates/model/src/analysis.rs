//! The analysis of a dump: what a node is told of it, and what came of it besides the report.
//!
//! A node opens nothing foreign itself: a child in a sandbox writes the findings, bounded here, and the report behind them.

use crate::digest::Digest;
use crate::dump::DumpFindings;
use crate::id::DumpId;
use crate::image::Manifest;
use crate::sandbox::FileIn;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes of findings as JSON, whose longest part is the explanation of a signature.
pub const MAX_FINDINGS_BYTES: usize = 256 << 10;

/// A dump that a node is to analyse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DumpOrder {
    /// Which dump.
    pub id: DumpId,
    /// What its content is made of; none if that was dropped meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// How long it is.
    pub size: u64,
    /// The files that the execution that died had brought along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileIn>,
    /// The image that it ran in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Manifest>,
}

impl DumpFindings {
    /// Returns how long they are as JSON.
    pub fn bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |text| text.len())
    }
}
