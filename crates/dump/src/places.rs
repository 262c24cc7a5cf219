//! Where files of modules, their debug information and what was made of them are looked for.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Folders that are looked through; none of them need exist.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Places {
    /// Folders that stand for `/` of the machine a dump comes from: an image's root, or `/` itself.
    pub roots: Vec<PathBuf>,
    /// Folders of debug information, laid out as `/usr/lib/debug` is.
    pub debug: Vec<PathBuf>,
    /// Files by build id, `ab/cdef….{elf,debug}`: unwind packs, and what a debuginfod server gave.
    pub by_build_id: Vec<PathBuf>,
    /// Unwind packs by build id, laid out alike; each is proved to be one before it is used.
    pub packs: Vec<PathBuf>,
    /// Where symbol caches are kept; nothing is kept without it.
    pub cache: Option<PathBuf>,
    /// Where symbol caches that were made or have grown are put instead, if nothing may be written to `cache`.
    pub fresh: Option<PathBuf>,
}
