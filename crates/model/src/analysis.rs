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

/// Bytes of the line that a child begins with.
pub const MAX_TOLD_BYTES: usize = MAX_FINDINGS_BYTES + (256 << 10);
/// Modules that a child may wish for.
pub const MAX_WANTED: usize = 512;
/// Files of symbols that one analysis leaves for the next.
pub const MAX_SYMBOL_FILES: usize = 512;
/// Bytes of all of them.
pub const MAX_SYMBOLS_BYTES: u64 = 256 << 20;

/// What a child says first. Behind it, without anything between, follow the report and the files of symbols.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// What goes into the dump's record.
    pub findings: DumpFindings,
    /// How long the report is.
    pub report_bytes: u64,
    /// What would tell more if it were there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<Wanted>,
    /// What was found out about symbols, for the next dump.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub symbols: Vec<SymbolFile>,
}

/// A module of which there is less than there might be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Its build id.
    pub build_id: String,
    /// What there is too little of.
    pub lack: Lack,
    /// Whether a frame lies in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_frames: bool,
}

/// What of a module is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    /// Its file, and its debug information.
    Module,
    /// Its debug information.
    Debug,
}

/// A file of symbols.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SymbolFile {
    /// Where it belongs in the folder of symbols: `ab/cdef….symbols`.
    pub name: String,
    /// How long it is.
    pub bytes: u64,
}

impl SymbolFile {
    /// Returns the folder it belongs in and what it is called there, if both are what they should be.
    pub fn place(&self) -> Option<(&str, &str)> {
        let (folder, name) = self.name.split_once('/')?;
        let stem = name.strip_suffix(".symbols")?;
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let fits = folder.len() == 2 && is_plain(folder) && !stem.is_empty() && name.len() <= 250 && is_plain(stem);
        fits.then_some((folder, name))
    }
}

/// The rules that a tenant lays over the house's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RulesOrder {
    /// What the file is called.
    pub name: String,
    /// Its text, a blob.
    pub blob: Digest,
}

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
    /// By whose rules it is signed besides the house's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<RulesOrder>,
}

impl DumpFindings {
    /// Returns how long they are as JSON.
    pub fn bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |text| text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_symbols_stay_in_their_folder() {
        let check = |name: &str, expected: bool| {
            let file = SymbolFile { name: name.to_owned(), bytes: 0 };
            assert_eq!(file.place().is_some(), expected, "{name}");
        };
        check("ab/cdef-0123.symbols", true);
        check("no/ne-0123.symbols", true);
        for bad in ["ab", "../x.symbols", "ab/../x.symbols", "ab/.symbols", "a/b.symbols", "ab/c/d.symbols", "ab/c"] {
            check(bad, false);
        }
        check(&format!("ab/{}.symbols", "c".repeat(300)), false);
    }
}
