//! Questions about dumps and orders to many of them: which ones, counted by what, changed how.

use super::spec::{Condition, DumpName, Field, MAX_NAMED, Specification};
use super::{Dump, DumpChange, DumpState, is_hash};
use crate::error::ApiError;
use crate::id::DumpId;
use crate::page::after_invalid;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Dumps that one order may change.
pub const MAX_BULK: usize = 10_000;
/// Values that one step may set, those of all dumps together: nobody else writes meanwhile.
pub const MAX_BULK_VALUES: usize = 100_000;
/// Values that one report counts; of more, the most frequent are told.
pub const MAX_REPORT_VALUES: usize = 10_000;
/// Dumps that the answer to an order tells by name; where it was only asked what would be done, all of them are told.
pub const MAX_TOLD: usize = 1_000;

/// Which dumps are meant. With neither words nor names it is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// The words of a specification, as on the command line (`docs/dumps.md`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub words: Vec<String>,
    /// Dumps by their hashes, beginnings of these, or ids; each of them must be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 4096)]
    pub names: Vec<String>,
}

impl Selection {
    /// Returns what the words say, narrowed to the names if there are any.
    pub fn parse(&self) -> Result<Specification, ApiError> {
        let mut specification = Specification::parse(&self.words)?;
        if specification.is_stdin && self.names.is_empty() {
            let message = "\"stdin\" specified, but no dumps provided";
            return Err(ApiError::invalid("specification_invalid", message.to_owned()));
        }
        if self.names.len() > MAX_NAMED {
            let message = format!("{} dumps are named; at most {MAX_NAMED} are allowed", self.names.len());
            return Err(ApiError::invalid("specification_invalid", message).with_hint("name them in several requests"));
        }
        specification.is_stdin = false;
        if !self.names.is_empty() {
            let named = self.names.iter().map(|name| name.parse::<DumpName>()).collect::<Result<_, _>>()?;
            let before = std::mem::take(&mut specification.condition);
            let named = Condition::Named(named);
            specification.condition = if before.is_everything() { named } else { Condition::All(vec![named, before]) };
        }
        Ok(specification)
    }
}

/// In which order dumps are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DumpOrder {
    /// By when they happened, the oldest first; those of which nobody knows it come before all.
    #[default]
    Oldest,
    /// The other way round.
    Newest,
}

/// A question for a list of dumps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DumpQuery {
    /// Which ones.
    pub of: Selection,
    /// In which order.
    pub order: DumpOrder,
    /// Where the page begins; a page's `next` goes here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub after: Option<String>,
    /// How many on the page at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

/// Where a page of dumps begins: behind this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DumpCursor {
    /// When it happened, in microseconds; 0 where nobody knows it.
    pub time: i64,
    /// It.
    pub id: DumpId,
}

impl std::fmt::Display for DumpCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.time, self.id)
    }
}

impl std::str::FromStr for DumpCursor {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        let parsed = text.split_once('.').and_then(|(time, id)| Some((time.parse().ok()?, id.parse().ok()?)));
        parsed.map(|(time, id)| Self { time, id }).ok_or_else(after_invalid)
    }
}

impl DumpCursor {
    /// Returns the cursor that points behind a dump.
    pub fn behind(dump: &Dump) -> Self {
        Self { time: dump.facts.time.map_or(0, jiff::Timestamp::as_microsecond), id: dump.id }
    }
}

/// A question for how often the values of a field occur.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportQuery {
    /// Among which dumps.
    #[serde(default)]
    pub of: Selection,
    /// The field; without one, only the dumps are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 300)]
    pub property: Option<String>,
}

impl ReportQuery {
    /// Returns the field, refusing what is none.
    pub fn field(&self) -> Result<Option<Field>, ApiError> {
        self.property.as_deref().map(str::parse).transpose()
    }
}

/// How often a value occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ValueCount {
    /// The value, as a text; of a stack its functions, with a comma between each two.
    pub value: String,
    /// How many dumps have it.
    pub count: u64,
}

/// How often the values of a field occur.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DumpReport {
    /// How many dumps are meant; of those that lack the field no value is counted.
    pub dumps: u64,
    /// The values, the rarest first.
    pub values: Vec<ValueCount>,
    /// Whether there are rarer values than these.
    #[serde(default)]
    pub has_more: bool,
}

/// Whether an order is only tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Earnest {
    /// It is carried out.
    #[default]
    Real,
    /// It is only told what would be done.
    Dry,
}

/// What is to be noted on many dumps, in one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DumpsChange {
    /// On which ones.
    pub of: Selection,
    /// What.
    #[serde(default)]
    pub change: DumpChange,
    /// Whether it is only tried.
    #[serde(default)]
    pub earnest: Earnest,
}

/// Which dumps' content is to be dropped, in one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DumpsPurge {
    /// Whose.
    pub of: Selection,
    /// Whether it is only tried.
    #[serde(default)]
    pub earnest: Earnest,
}

/// Which dumps are to be looked into again, in one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DumpsAnalyse {
    /// Which ones.
    pub of: Selection,
    /// Whether it is only tried.
    #[serde(default)]
    pub earnest: Earnest,
}

/// A dump that an order touched, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DumpTold {
    /// Its id.
    pub id: DumpId,
    /// Its hash.
    pub hash: String,
    /// Where it is in its life now.
    pub state: DumpState,
}

/// What came of an order to many dumps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DumpsChanged {
    /// How many were meant.
    pub matched: u64,
    /// How many of them are different now, or would be.
    pub changed: u64,
    /// Those that are different: the first thousand of them, or all that would be.
    pub dumps: Vec<DumpTold>,
}

/// Refuses an order that means every dump of a tenant because nobody said which.
pub fn check_meant(of: &Selection) -> Result<(), ApiError> {
    if of.words.iter().any(|word| !word.starts_with("limit=")) || !of.names.is_empty() {
        return Ok(());
    }
    let error = ApiError::invalid("specification_invalid", "it is not said which dumps are meant".to_owned());
    Err(error.with_hint("every dump there is has a hash: `hash=*`"))
}

/// Tells whether a text names a dump.
pub fn is_name(text: &str) -> bool {
    is_hash(text) || text.parse::<DumpId>().is_ok()
}
