//! Unwind packs: what of a module's file it takes to walk stacks through it, and to name what is found.
//!
//! A pack goes by its module's build id and its own digest: who has another file with the same build id sends another
//! pack, and whoever sends a dump names the packs that tell of it. What a pack holds is the `dump` crate's business,
//! and proved where it is used; here it is bytes under a build id.

use crate::digest::Digest;
use crate::error::ApiError;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes of one pack.
pub const MAX_PACK_BYTES: u64 = 200 << 20;
/// Bytes of a build id, which is twice as many hexadecimal digits.
pub const MAX_BUILD_ID_BYTES: usize = 64;
/// Packs that one question may be about, or one dump name.
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

/// What one pack goes by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PackName {
    /// The build id of its module.
    #[schema(pattern = "^([0-9a-f]{2}){2,64}$")]
    pub build_id: String,
    /// The BLAKE3 of its content.
    pub digest: Digest,
}

/// Some packs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PackNames {
    /// Which.
    #[schema(max_items = 1024)]
    pub packs: Vec<PackName>,
}

impl PackNames {
    /// Refuses too many, and what is no build id.
    pub fn check(&self) -> Result<(), ApiError> {
        check_names(&self.packs)
    }
}

/// Refuses too many names of packs, and what is no build id.
pub(crate) fn check_names(packs: &[PackName]) -> Result<(), ApiError> {
    check_count(packs.len())?;
    packs.iter().try_for_each(|pack| check_build_id(&pack.build_id))
}

fn check_count(count: usize) -> Result<(), ApiError> {
    if count <= MAX_ASKED_PACKS {
        return Ok(());
    }
    let message = format!("{count} packs are asked for; at most {MAX_ASKED_PACKS} are allowed");
    Err(ApiError::invalid("packs_too_many", message).with_hint("ask in several requests"))
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
        check_count(self.build_ids.len())?;
        self.build_ids.iter().try_for_each(|id| check_build_id(id))
    }
}

/// Which packs are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PacksMissing {
    /// Those of the question, in its order.
    pub missing: Vec<PackName>,
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
