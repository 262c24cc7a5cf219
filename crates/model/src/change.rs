//! The log's entry: one transition of one thing, numbered without gaps, in the order in which it was committed.

use crate::id::TenantId;
use crate::limits::MAX_HOLD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

/// What a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Noun {
    /// An execution.
    Execution,
    /// A tenant.
    Tenant,
    /// A user.
    User,
    /// A token.
    Token,
    /// A blob.
    Blob,
    /// An image.
    Image,
    /// A node.
    Node,
    /// A registry that a tenant has a credential for.
    Registry,
    /// A dump.
    Dump,
    /// A signature.
    Signature,
    /// An analyzer.
    Analyzer,
}

impl Noun {
    /// Every noun.
    pub const ALL: [Self; 11] = [
        Self::Execution,
        Self::Tenant,
        Self::User,
        Self::Token,
        Self::Blob,
        Self::Image,
        Self::Node,
        Self::Registry,
        Self::Dump,
        Self::Signature,
        Self::Analyzer,
    ];

    /// Returns the noun's word, as it stands in rows and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Execution => "execution",
            Self::Tenant => "tenant",
            Self::User => "user",
            Self::Token => "token",
            Self::Blob => "blob",
            Self::Image => "image",
            Self::Node => "node",
            Self::Registry => "registry",
            Self::Dump => "dump",
            Self::Signature => "signature",
            Self::Analyzer => "analyzer",
        }
    }
}

/// One row of the log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// Its number; the next change has the next number.
    pub seq: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// Whose thing it is about.
    pub tenant: TenantId,
    /// What it is about.
    pub noun: Noun,
    /// Which one.
    pub id: String,
    /// The state it moved into.
    pub state: String,
    /// Who moved it.
    pub by: String,
    /// The thing itself, as its own endpoint shows it.
    #[schema(value_type = Object)]
    pub body: Box<RawValue>,
}

/// Which changes to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChangeQuery {
    /// Only those after this number; without it a page begins at the oldest and a stream at the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// How many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// How long to hold the request open when there is nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(maximum = 30000)]
    pub wait_ms: Option<u64>,
    /// Only those about this noun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub noun: Option<Noun>,
    /// Only those about this one thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(max_length = 128)]
    pub id: Option<String>,
    /// Whose; only an admin of the house may name another tenant than their own, or `*` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

impl ChangeQuery {
    /// Returns how long to hold the request open.
    pub fn hold(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.wait_ms.unwrap_or(0)).min(MAX_HOLD)
    }
}
