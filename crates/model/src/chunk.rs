//! A chunk: a piece of what an execution reads or writes, in the order in which it was read or written.
//!
//! Standard output and error share one numbering, so their order is kept; what a user sends has its own. Numbers begin at
//! 1 and have no gaps. A chunk of an attempt stays when the attempt is lost: each attempt has its own row of chunks.

use crate::digest::Digest;
use crate::error::ApiError;
use crate::limits::MAX_CHUNK_BYTES;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::{IntoParams, ToSchema};

/// Where a chunk was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard input, sent by a user.
    Input,
    /// The size of the user's terminal, as `ROWS COLUMNS`, sent between the chunks of input.
    Window,
    /// Standard output, or all that a terminal shows.
    Output,
    /// Standard error.
    Error,
}

impl Stream {
    /// Returns the stream's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Window => "window",
            Self::Output => "output",
            Self::Error => "error",
        }
    }

    /// Tells whether a user writes it and an execution reads it.
    pub const fn is_inward(self) -> bool {
        matches!(self, Self::Input | Self::Window)
    }
}

/// Bytes, as base64 in JSON.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
    }
}

impl utoipa::PartialSchema for Bytes {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        crate::id::text_schema("^[A-Za-z0-9+/]*={0,2}$")
    }
}

impl ToSchema for Bytes {}

/// What a chunk holds: few bytes themselves, many by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// The bytes.
    Inline {
        /// They, as base64.
        bytes: Bytes,
    },
    /// A blob of the execution's tenant.
    Blob {
        /// Which.
        digest: Digest,
        /// How long it is.
        size: u64,
    },
}

impl Content {
    /// Returns how many bytes it stands for.
    pub const fn size(&self) -> u64 {
        match self {
            Self::Inline { bytes } => bytes.0.len() as u64,
            Self::Blob { size, .. } => *size,
        }
    }
}

/// A piece of what an execution reads or writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// Its number, from 1, without gaps.
    #[schema(minimum = 1)]
    pub number: u64,
    /// Where it was read or written.
    pub stream: Stream,
    /// When.
    pub at: Timestamp,
    /// What.
    pub content: Content,
    /// Whether the stream ends with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end: bool,
}

impl Chunk {
    /// Refuses what no row could hold.
    pub fn check(&self) -> Result<(), ApiError> {
        let refuse = |why: String| Err(ApiError::invalid("chunk_invalid", format!("chunk {} {why}", self.number)));
        if self.number == 0 || self.number > i64::MAX as u64 {
            return refuse("must be numbered from 1".to_owned());
        }
        match &self.content {
            Content::Inline { bytes } if bytes.0.len() > MAX_CHUNK_BYTES => {
                refuse(format!("has {} bytes of {MAX_CHUNK_BYTES}; put them into a blob", bytes.0.len()))
            }
            Content::Blob { size, .. } if *size > i64::MAX as u64 => refuse("is too long".to_owned()),
            Content::Inline { .. } | Content::Blob { .. } => Ok(()),
        }
    }
}

/// Which chunks to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChunkQuery {
    /// Only those with a higher number; a page's `next` goes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Of which attempt; none means the last one that wrote any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// How many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// How long to wait if there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(maximum = 30000)]
    pub wait_ms: Option<u64>,
}

/// Some chunks of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChunkPage {
    /// Of which attempt they are; 0 means that none has begun, or that they are input.
    pub attempt: u32,
    /// They, in order.
    pub items: Vec<Chunk>,
    /// Where to go on.
    pub next: u64,
    /// Whether nothing more can come.
    pub ended: bool,
}
