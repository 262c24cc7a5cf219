//! Unwind packs: what of a module's file it takes to walk stacks through it, kept once per build id in a tenant.
//!
//! What a pack holds is the `dump` crate's business, and proved where it is used; here it is bytes under a build id.

use crate::digest::Digest;
use crate::error::ApiError;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes of one pack.
pub const MAX_PACK_BYTES: u64 = 200 << 20;
/// Bytes of a build id, which is twice as many hexadecimal digits.
pub const MAX_BUILD_ID_BYTES: usize = 64;
/// Build ids that one question may be about.
pub const MAX_ASKED_PACKS: usize = 1_024;

/// A pack that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pack {
    /// The build id of its module.
    pub build_id: String,
    /// The BLAKE3 of its content, which is a blob.
    pub digest: Digest,
    /// How long it is.
    pub size: u64,
    /// Who sent it.
    pub by: String,
    /// When it was sent.
    pub created_at: Timestamp,
}

/// A question about packs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PackQuery {
    /// Of which modules.
    #[schema(max_items = 1024)]
    pub build_ids: Vec<String>,
}

impl PackQuery {
    /// Refuses a question about too many, or about what is no build id.
    pub fn check(&self) -> Result<(), ApiError> {
        if self.build_ids.len() > MAX_ASKED_PACKS {
            let message =
                format!("{} packs are asked for; at most {MAX_ASKED_PACKS} are allowed", self.build_ids.len());
            return Err(ApiError::invalid("packs_too_many", message).with_hint("ask in several requests"));
        }
        self.build_ids.iter().try_for_each(|id| check_build_id(id))
    }
}

/// Which packs are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PacksMissing {
    /// Those of the question, in its order.
    pub missing: Vec<String>,
}

/// Packs that are there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PackPlaces {
    /// Those of the question, in its order.
    pub packs: Vec<Pack>,
}

/// Refuses what is no build id: an even number of lower-case hexadecimal digits.
pub fn check_build_id(text: &str) -> Result<(), ApiError> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex && text.len() >= 4 && text.len().is_multiple_of(2) && text.len() <= 2 * MAX_BUILD_ID_BYTES {
        return Ok(());
    }
    let message = "a build id is an even number of lower-case hexadecimal digits, 4 to 128 of them";
    Err(ApiError::invalid("build_id_invalid", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_ids_are_hexadecimal() {
        let check = |text: &str, expected: bool| assert_eq!(check_build_id(text).is_ok(), expected, "{text}");
        check("c4cf7d1e9a", true);
        check(&"ab".repeat(64), true);
        for bad in ["", "ab", "abc12", "ABCD", "zzzz", "../..", &"ab".repeat(65)] {
            check(bad, false);
        }
    }
}
