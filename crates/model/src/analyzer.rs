//! An analyzer: a script or program that looks at dumps, one after the other or many at once; and a study, its look at one.
//!
//! An analyzer has a name in its tenant and versions, each of them one content; storing a content again makes its version
//! the current one again. What else is said of it, how much a study may use and on which dumps it runs by itself, belongs to
//! the name. A study is an execution that has a dump beside it; what it asks to be noted comes with its end.

use crate::digest::Digest;
use crate::dump::query::Earnest;
use crate::dump::spec::Specification;
use crate::dump::{Dump, DumpChange};
use crate::error::ApiError;
use crate::id::{DumpId, ExecutionId, TenantId};
use crate::limits::{MAX_MEMORY_BYTES, MAX_NAME_CHARS, MAX_WALL_MS};
use crate::sandbox::{Access, is_default};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// Bytes of an analyzer.
pub const MAX_ANALYZER_BYTES: u64 = 16 << 20;
/// Analyzers of one tenant.
pub const MAX_ANALYZERS: usize = 1_000;
/// Analyzers of one tenant that run by themselves.
pub const MAX_ON_ARRIVAL: usize = 16;
/// Studies that one request begins.
pub const MAX_STUDIES: usize = 200;
/// Bytes of what a study asks to be noted, and of an analyzer that was edited beside a dump.
pub const MAX_ASKED_BYTES: usize = 1 << 20;
/// Words of the specification on whose dumps an analyzer runs by itself.
pub const MAX_ARRIVAL_WORDS: usize = 64;

/// Memory of a study, unless its analyzer says otherwise.
const USUAL_MEMORY_BYTES: u64 = 1 << 30;
/// How long a study may take, unless its analyzer says otherwise.
const USUAL_WALL_MS: u64 = 600_000;

/// How much a study may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StudyLimits {
    /// Memory.
    #[schema(minimum = 1_048_576, maximum = 1_099_511_627_776_u64)]
    pub memory_bytes: u64,
    /// Time by the clock on the wall.
    #[schema(minimum = 1, maximum = 2_592_000_000_u64)]
    pub wall_ms: u64,
}

impl Default for StudyLimits {
    fn default() -> Self {
        Self { memory_bytes: USUAL_MEMORY_BYTES, wall_ms: USUAL_WALL_MS }
    }
}

/// An analyzer, as its current version stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Analyzer {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name.
    pub name: String,
    /// The number of the version that is current.
    pub version: u32,
    /// What that is, a blob.
    pub script: Digest,
    /// How long it is.
    pub size: u64,
    /// How much a study may use.
    pub limits: StudyLimits,
    /// The words of the specification on whose dumps it runs by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_arrival: Option<Vec<String>>,
    /// Who stored the version.
    pub by: String,
    /// When.
    pub created_at: Timestamp,
}

/// A version of an analyzer: one content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnalyzerVersion {
    /// Its number.
    pub version: u32,
    /// What it is, a blob.
    pub script: Digest,
    /// How long it is.
    pub size: u64,
    /// Who stored it first.
    pub by: String,
    /// When.
    pub created_at: Timestamp,
}

/// What is to be said of an analyzer; what is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AnalyzerChange {
    /// What it is: a blob that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<Digest>,
    /// How much a study may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<StudyLimits>,
    /// The words of the specification on whose dumps it runs by itself; `null` takes it away.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub on_arrival: Option<Option<Vec<String>>>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Vec<String>>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn refuse(message: String) -> ApiError {
    ApiError::invalid("analyzer_invalid", message)
}

impl AnalyzerChange {
    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<(), ApiError> {
        if let Some(StudyLimits { memory_bytes, wall_ms }) = self.limits {
            if !(1 << 20..=MAX_MEMORY_BYTES).contains(&memory_bytes) {
                return Err(refuse(format!("`memory_bytes` must be {} to {MAX_MEMORY_BYTES}", 1 << 20)));
            }
            if !(1..=MAX_WALL_MS).contains(&wall_ms) {
                return Err(refuse(format!("`wall_ms` must be 1 to {MAX_WALL_MS}")));
            }
        }
        match &self.on_arrival {
            Some(Some(words)) => check_arrival(words),
            _ => Ok(()),
        }
    }
}

fn check_arrival(words: &[String]) -> Result<(), ApiError> {
    let bytes: usize = words.iter().map(String::len).sum();
    if words.is_empty() || words.len() > MAX_ARRIVAL_WORDS || bytes > 4096 {
        let message = format!("a specification for dumps that arrive has 1 to {MAX_ARRIVAL_WORDS} words");
        return Err(refuse(message).with_hint("every dump there is has a hash: `hash=*`"));
    }
    let specification = Specification::parse(words)?;
    if specification.is_stdin || specification.limit.is_some() {
        return Err(refuse("`limit=` and `stdin` mean nothing for dumps that arrive one by one".to_owned()));
    }
    Ok(())
}

/// Refuses what is no analyzer's name: what the shell, a debugger or a path would take for something else.
pub fn check_name(name: &str) -> Result<(), ApiError> {
    let good = |one: char| one.is_ascii_alphanumeric() || "-_.+".contains(one);
    let is_good = (1..=MAX_NAME_CHARS * 2).contains(&name.len())
        && name.chars().all(good)
        && name.starts_with(|one: char| one.is_ascii_alphanumeric());
    if is_good {
        return Ok(());
    }
    let excerpt: String = name.chars().take(MAX_NAME_CHARS).collect();
    let most = MAX_NAME_CHARS * 2;
    Err(refuse(format!(
        "`{excerpt}` is no analyzer's name, which begins with a letter or digit and has at most {most} letters, digits, \
         `-`, `_`, `.`, `+`"
    )))
}

/// What came of storing an analyzer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Storing {
    /// Nobody knew the name.
    Added,
    /// It has another version now, or other settings.
    Changed,
    /// It was so before.
    Same,
}

/// An analyzer, and what came of storing it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnalyzerStored {
    /// It, as it is now.
    pub analyzer: Analyzer,
    /// What came of it.
    pub storing: Storing,
}

/// A dump beside an execution: its file, what is known of it, and the files it came from, to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DumpIn {
    /// Which.
    pub id: DumpId,
    /// Whether what runs may have something noted on it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access: Access,
    /// An analyzer that is there too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analyzer: Option<AnalyzerIn>,
}

impl DumpIn {
    /// Returns how many bytes it takes in a row.
    pub(crate) fn bytes(&self) -> usize {
        128 + self.analyzer.as_ref().map_or(0, |analyzer| analyzer.name.len())
    }

    /// Tells whether something may be written by whoever has it beside them.
    pub fn may_write(&self) -> bool {
        let is_edited = self.analyzer.as_ref().is_some_and(|analyzer| analyzer.access == Access::ReadWrite);
        self.access == Access::ReadWrite || is_edited
    }
}

/// An analyzer beside an execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnalyzerIn {
    /// Its name.
    #[schema(max_length = 128)]
    pub name: String,
    /// Which version.
    pub version: u32,
    /// Whether what it was edited to becomes a version if the execution ends well.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access: Access,
}

/// A request for the study of one dump. The execution's id is the client's, so that asking twice is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewStudy {
    /// Of which dump.
    pub dump: DumpId,
    /// The id that its execution shall have.
    pub id: ExecutionId,
}

/// A request for studies of some dumps by one analyzer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewStudies {
    /// By which version; none means the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Of which dumps.
    #[schema(max_items = 200)]
    pub studies: Vec<NewStudy>,
    /// Whether those are studied again that this version has studied.
    #[serde(default)]
    pub again: bool,
    /// Whether it is only tried.
    #[serde(default)]
    pub earnest: Earnest,
}

impl NewStudies {
    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<(), ApiError> {
        if self.studies.len() > MAX_STUDIES {
            return Err(refuse(format!("at most {MAX_STUDIES} studies are begun at once")));
        }
        Ok(())
    }
}

/// How a study stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StudyState {
    /// It has just been begun.
    Begun,
    /// It had been begun, and has not ended.
    Running,
    /// This version had studied this content to its end before.
    Done,
    /// The dump has no content that could be studied, or is not there.
    Absent,
}

/// The study of a dump by a version of an analyzer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Study {
    /// Of which dump.
    pub dump: DumpId,
    /// How it stands.
    pub state: StudyState,
    /// Its execution, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<ExecutionId>,
}

/// Studies by one analyzer, in the order in which they were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Studies {
    /// By which version.
    pub version: u32,
    /// They.
    pub studies: Vec<Study>,
}

/// What an execution asked to be done about the dump beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Asked {
    /// What is to be noted on it.
    pub change: DumpChange,
    /// What the analyzer was edited to, a blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<Digest>,
    /// Whether more was asked for than could be done: then the study has not done what it was there for.
    #[serde(skip_serializing_if = "is_default")]
    pub is_cut: bool,
}

/// What a node is told of the dump beside an execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Beside {
    /// What it is made of, and what it came from.
    pub order: crate::analysis::DumpOrder,
    /// What is known of it.
    pub dump: Dump,
    /// What the analyzer is that comes with it, a blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Digest>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for good in ["fmri", "MANTA-1817-diagnose", "a.b+c_1"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "x".repeat(129);
        for bad in ["", "::stack", "$c", "a/b", "cmd=x", "-x", ".x", "a b", "ü", &long] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let arrival = |words: &[&str]| AnalyzerChange {
            on_arrival: Some(Some(words.iter().map(|word| (*word).to_owned()).collect())),
            ..AnalyzerChange::default()
        };
        assert!(arrival(&["type=core", "cmd=svc*"]).check().is_ok());
        for bad in [&[][..], &["limit=3"], &["dump=stdin"], &["mtime=3q"], &["x"; MAX_ARRIVAL_WORDS + 1]] {
            assert!(arrival(bad).check().is_err(), "{bad:?}");
        }
        let limits = |memory_bytes, wall_ms| AnalyzerChange {
            limits: Some(StudyLimits { memory_bytes, wall_ms }),
            ..AnalyzerChange::default()
        };
        assert!(limits(1 << 20, 1).check().is_ok());
        assert!(limits(1, 1).check().is_err() && limits(1 << 20, 0).check().is_err());
    }
}
