//! The note that our own capture adds to a core: what the kernel does not write and is gone once the process is.
//!
//! It is an ELF note whose owner is `QUARRY`, of kind 1, and its content is JSON. A field that is not known is left out;
//! one that is not understood is passed over, so that older readers read newer notes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The owner's name in the note.
pub const EXTRA_OWNER: &[u8] = b"QUARRY";
/// The note's kind.
pub const EXTRA_KIND: u32 = 1;
/// Bytes of the note's content.
pub const MAX_EXTRA_BYTES: usize = 4 << 20;

/// What a core lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extra {
    /// The command line, whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// Those variables of the environment that may be kept, `NAME=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Vec<String>>,
    /// The path of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Its control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The container it ran in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Names of threads by their number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub threads: BTreeMap<u64, String>,
    /// `/proc/PID/limits`, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
    /// The machine's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The kernel's release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Seconds since 1970 at which it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crashed_at: Option<u64>,
}

impl Extra {
    /// Reads a note's content; none if it is not what it should be.
    pub fn read(content: &[u8]) -> Option<Self> {
        // The length of notes is counted in fours, so zeros may follow the last bracket.
        let end = content.iter().rposition(|byte| *byte != 0)? + 1;
        (content.len() <= MAX_EXTRA_BYTES).then(|| serde_json::from_slice(&content[..end]).ok()).flatten()
    }

    /// Returns the whole note as it stands in a core of little-endian numbers; none if it is longer than it may be.
    pub fn write(&self) -> Option<Vec<u8>> {
        let content = serde_json::to_vec(self).ok().filter(|content| content.len() <= MAX_EXTRA_BYTES)?;
        let name_bytes = u32::try_from(EXTRA_OWNER.len() + 1).ok()?;
        let mut note = Vec::with_capacity(content.len() + 24);
        for number in [name_bytes, u32::try_from(content.len()).ok()?, EXTRA_KIND] {
            note.extend(number.to_le_bytes());
        }
        note.extend(EXTRA_OWNER);
        note.push(0);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend(content);
        note.resize(note.len().next_multiple_of(4), 0);
        Some(note)
    }
}
