//! A finding: what was looked at, what was found, what it means for whoever runs Quarry here, and how to mend it.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Something will not work, or not well.
    Warning,
    /// `quarry up` cannot work.
    Failed,
}

impl Level {
    /// Returns the level's word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    pub(crate) found: String,
    pub(crate) meaning: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mend: Option<String>,
}

impl Finding {
    /// Makes a finding with nothing to mend.
    pub(crate) fn new(name: &'static str, level: Level, found: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { name, level, found: found.into(), meaning: meaning.into(), mend: None }
    }

    /// Adds how to mend it.
    #[must_use]
    pub(crate) fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}
