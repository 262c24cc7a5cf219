//! Rules that say what is left out of dumps, read from a file that somebody names.

use crate::exit::Failure;
use anyhow::Context;
use dump::redact::{MAX_RULES_BYTES, RedactionRules};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// What is left out of dumps.
pub(crate) type LeftOut = Option<Arc<RedactionRules>>;

/// Reads a file of rules.
pub(crate) fn left_out(path: &Path) -> anyhow::Result<Arc<RedactionRules>> {
    let cannot = || format!("`{}` cannot be read", path.display());
    let mut text = String::new();
    let file = File::open(path).with_context(cannot)?;
    file.take(MAX_RULES_BYTES as u64 + 1).read_to_string(&mut text).with_context(cannot)?;
    let refuse = |why| Failure::usage("redaction_invalid", format!("`{}`: {why}", path.display()));
    Ok(Arc::new(RedactionRules::read(&text).map_err(refuse)?))
}

/// Reads a file of rules that an option names.
pub(crate) fn parse(path: &str) -> Result<Arc<RedactionRules>, String> {
    left_out(Path::new(path)).map_err(|error| format!("{error:#}"))
}
