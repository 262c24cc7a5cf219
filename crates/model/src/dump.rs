//! A dump: what was left of a process or a machine that died, and all that is known and noted of it.
//!
//! Who uploads a dump names it by the hash that Thoth gave it; there is one dump of a hash in a tenant, and uploading it
//! again merges. What somebody noted on it, its ticket and its properties, no upload and no analysis ever resets.
//! How dumps are asked for is in `dump/spec.rs` and `dump/query.rs`.

pub mod known;
pub mod query;
pub mod spec;

use crate::digest::Digest;
use crate::error::ApiError;
use crate::id::{DumpId, ExecutionId, TenantId};
use crate::limits::{MAX_NAME_CHARS, MAX_ROW_BYTES};
use crate::pack::PackName;
use crate::parcel::MAX_DUMP_BYTES;
use crate::report::{DumpKind, Severity};
use crate::signature::Signed;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Number, Value};
use std::collections::BTreeMap;
use std::fmt;
use utoipa::ToSchema;

/// Characters of a dump's file name, its command, its node or its platform.
pub const MAX_WORD_CHARS: usize = 256;
/// Characters of a ticket.
pub const MAX_TICKET_CHARS: usize = MAX_NAME_CHARS * 4;
/// Properties of one dump, nested ones counted singly.
pub const MAX_PROPERTIES: usize = 256;
/// How deep properties may be nested.
pub const MAX_PROPERTY_DEPTH: usize = 16;
/// Characters of a property's path: its names, with a dot between each two.
pub const MAX_PATH_CHARS: usize = 256;
/// Bytes of a property's text that it can be found by; what is longer is found by its beginning.
pub const MAX_FOUND_BYTES: usize = 512;
/// Functions of a stack that a dump can be found by.
pub const MAX_STACK: usize = 256;
/// Characters of one of them.
pub const MAX_CALL_CHARS: usize = 512;

/// Life of a dump: `Received → {Analysed, Truncated, Unreadable} → Purged`; a fuller copy leads back to `Received`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DumpState {
    /// Its content is here, and nobody has looked into it yet.
    Received,
    /// Its report is here.
    Analysed,
    /// Its end is missing; its report tells what was there.
    Truncated,
    /// Nothing could be made of it.
    Unreadable,
    /// Its content was dropped; what was known of it stays.
    Purged,
}

impl DumpState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Received, Self::Analysed, Self::Truncated, Self::Unreadable, Self::Purged];

    /// Returns the states from which a move into `self` is legal. No wildcard arm: a new state must be decided here.
    pub const fn reachable_from(self) -> &'static [Self] {
        match self {
            // A fuller copy came, or what had been dropped came again.
            Self::Received => &[Self::Received, Self::Analysed, Self::Truncated, Self::Unreadable, Self::Purged],
            // Whoever analyses again, with more symbols for instance, replaces what was found.
            Self::Analysed | Self::Truncated | Self::Unreadable => {
                &[Self::Received, Self::Analysed, Self::Truncated, Self::Unreadable]
            }
            Self::Purged => &[Self::Received, Self::Analysed, Self::Truncated, Self::Unreadable],
        }
    }

    /// Returns the state's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Analysed => "analysed",
            Self::Truncated => "truncated",
            Self::Unreadable => "unreadable",
            Self::Purged => "purged",
        }
    }
}

/// What a dump itself, or who brought it, says of where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DumpFacts {
    /// When it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// The command, as the kernel names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<String>,
    /// The command with its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psargs: Option<String>,
    /// The number of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The version of the machine's system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

impl DumpFacts {
    fn check(&self) -> Result<(), ApiError> {
        let words = [("cmd", &self.cmd), ("node", &self.node), ("platform", &self.platform)];
        for (name, word) in words {
            word.as_ref().map_or(Ok(()), |word| check_text(name, word, MAX_WORD_CHARS))?;
        }
        self.psargs.as_ref().map_or(Ok(()), |text| check_text("psargs", text, MAX_WORD_CHARS * 4))
    }

    /// Returns these facts, with the others' where these say nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            time: self.time.or(other.time),
            cmd: self.cmd.or(other.cmd),
            psargs: self.psargs.or(other.psargs),
            pid: self.pid.or(other.pid),
            node: self.node.or(other.node),
            platform: self.platform.or(other.platform),
        }
    }
}

/// Which crashes a dump is one of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DumpSignature {
    /// The signature's id.
    pub id: String,
    /// What it says.
    pub text: String,
}

/// When, by whom and why a dump's content was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DumpPurged {
    /// When.
    pub at: Timestamp,
    /// Who did it; `quarry` if a rule of retention did.
    pub by: String,
    /// Why, in a sentence.
    pub why: String,
}

/// What was left out of a dump by rules, before any of it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Redaction {
    /// A digest of the rules.
    #[schema(max_length = 64)]
    pub rules: String,
    /// How many values of the environment were left out.
    pub values: u64,
    /// How many parts of the memory were left out.
    pub ranges: u64,
    /// How many bytes all that was left out had.
    pub bytes: u64,
}

impl fmt::Display for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rules, values, ranges, bytes } = self;
        write!(
            f,
            "values of the environment: {values}; parts of memory: {ranges}; bytes: {bytes}; by the rules `{rules}`"
        )
    }
}

/// A dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dump {
    /// Its id.
    pub id: DumpId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The name it has had since Thoth: 32 hexadecimal digits.
    pub hash: String,
    /// The BLAKE3 of its content.
    pub digest: Digest,
    /// How long it is.
    pub size: u64,
    /// What its content is made of, a blob; none once that was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// What sort of thing it is.
    pub kind: DumpKind,
    /// Where it is in its life.
    pub state: DumpState,
    /// Whether its end is missing.
    #[serde(default)]
    pub is_truncated: bool,
    /// The name of the file it came in.
    pub name: String,
    /// Where it comes from.
    #[serde(flatten)]
    pub facts: DumpFacts,
    /// The ticket it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// What was noted on it.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub properties: BTreeMap<String, Value>,
    /// The functions of the thread that crashed, the innermost first.
    #[serde(default)]
    pub stack: Vec<String>,
    /// Which crashes it is one of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<DumpSignature>,
    /// What went wrong: a word of `docs/report.md`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// How bad that may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// Why nothing could be made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The execution that died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<ExecutionId>,
    /// Its report, a blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Digest>,
    /// What was left out of it by rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redaction: Option<Redaction>,
    /// When and why its content was dropped, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<DumpPurged>,
    /// Who uploaded it first.
    pub by: String,
    /// When it was uploaded first.
    pub uploaded_at: Timestamp,
}

/// A dump to be made known, whose frames and manifest are there. The id is the client's, so that asking twice is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDump {
    /// The id it shall have, unless its hash is known.
    pub id: DumpId,
    /// The name it has had since Thoth.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub hash: String,
    /// What its content is made of.
    pub manifest: Digest,
    /// What sort of thing it is, as far as its first bytes tell.
    pub kind: DumpKind,
    /// Whether its end is missing.
    #[serde(default)]
    pub is_truncated: bool,
    /// The name of the file it came in.
    #[schema(min_length = 1, max_length = 256)]
    pub name: String,
    /// Where it comes from.
    #[serde(default)]
    pub facts: DumpFacts,
    /// The execution that died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<ExecutionId>,
    /// What was left out of it by rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redaction: Option<Redaction>,
    /// The packs that tell of its modules: its analysis believes no others of theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1024)]
    pub packs: Vec<PackName>,
}

impl NewDump {
    /// Refuses what no row could hold.
    pub fn check(&self) -> Result<(), ApiError> {
        if !is_hash(&self.hash) || self.hash.len() != MAX_HASH_CHARS {
            return Err(refuse(format!("the hash of dump `{}` is not 32 lower-case hexadecimal digits", self.id)));
        }
        check_text("name", &self.name, MAX_WORD_CHARS)?;
        crate::pack::check_names(&self.packs)?;
        self.redaction.as_ref().map_or(Ok(()), |redaction| check_text("rules", &redaction.rules, MAX_NAME_CHARS))?;
        self.facts.check()
    }
}

/// What came of uploading a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// Nobody knew it.
    New,
    /// What was known of it now has this content: it was cut short, or had been dropped.
    Replaced,
    /// It was there, and at least as full.
    Known,
}

/// A dump, and what came of uploading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DumpArrived {
    /// It, as it is now.
    pub dump: Dump,
    /// What came of it.
    pub arrival: Arrival,
}

/// What is to be noted on a dump; what is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DumpChange {
    /// The ticket; `null` takes it away.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ticket: Option<Option<String>>,
    /// Properties by their names; `null` takes one away.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub properties: BTreeMap<String, Value>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl DumpChange {
    /// Refuses what no row could hold.
    pub fn check(&self) -> Result<(), ApiError> {
        match &self.ticket {
            // A specification given where a ticket was meant would put it on every dump.
            Some(Some(ticket)) if ticket.contains('=') => {
                Err(refuse(format!("`{}` is no ticket, since it holds `=`", excerpt(ticket))))
            }
            Some(Some(ticket)) => check_text("ticket", ticket, MAX_TICKET_CHARS),
            _ => Ok(()),
        }
    }

    /// Returns how many values it sets or takes away, those within others counted one by one.
    pub fn values(&self) -> usize {
        fn leaves(value: &Value) -> usize {
            match value {
                Value::Object(fields) => fields.values().map(leaves).sum::<usize>().max(1),
                Value::Array(items) => items.iter().map(leaves).sum::<usize>().max(1),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
            }
        }
        usize::from(self.ticket.is_some()) + self.properties.values().map(leaves).sum::<usize>()
    }

    /// Returns how long it is as JSON.
    pub fn bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |text| text.len())
    }

    /// Returns the properties as this change leaves them, refusing those that no row could hold.
    pub fn apply(&self, before: &BTreeMap<String, Value>) -> Result<BTreeMap<String, Value>, ApiError> {
        let mut after = before.clone();
        for (name, value) in &self.properties {
            if value.is_null() {
                after.remove(name);
            } else {
                check_text("property", name, MAX_PATH_CHARS)?;
                after.insert(name.clone(), value.clone());
            }
        }
        let bytes = serde_json::to_vec(&after).map_or(usize::MAX, |text| text.len());
        if bytes > MAX_ROW_BYTES {
            return Err(refuse(format!("the properties of a dump have at most {MAX_ROW_BYTES} bytes, not {bytes}")));
        }
        leaves(&after).map(|_| after)
    }
}

/// What a property is, for those who look for it.
#[derive(Clone, Debug, PartialEq)]
pub enum Leaf {
    /// A truth.
    Truth(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
    /// An empty list or object.
    Empty,
}

impl Leaf {
    /// Returns the text that it is found by, which is the one that JSON has for it.
    pub fn text(&self) -> String {
        match self {
            Self::Truth(truth) => truth.to_string(),
            // Of a whole number every digit counts, however many they are.
            Self::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(number) => number.to_string(),
                None => number.to_string(),
            },
            Self::Text(text) => text.clone(),
            Self::Empty => String::new(),
        }
    }
}

/// Returns as much of a property's text as it can be found by, without what PostgreSQL keeps no text with.
pub fn found(text: &str) -> String {
    let text = text.replace('\0', "");
    let end = (0..=MAX_FOUND_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

/// Returns every property that holds no others, with its path: the names on the way, with a dot between each two. The
/// elements of a list share the path of the list.
pub fn leaves(properties: &BTreeMap<String, Value>) -> Result<Vec<(String, Leaf)>, ApiError> {
    let mut found = Vec::new();
    for (name, value) in properties {
        gather(name.clone(), value, MAX_PROPERTY_DEPTH, &mut found)?;
    }
    Ok(found)
}

fn gather(path: String, value: &Value, depth: usize, found: &mut Vec<(String, Leaf)>) -> Result<(), ApiError> {
    if depth == 0 {
        return Err(refuse(format!("properties are nested at most {MAX_PROPERTY_DEPTH} deep")));
    }
    if path.chars().count() > MAX_PATH_CHARS {
        return Err(refuse(format!("a property's path has at most {MAX_PATH_CHARS} characters")));
    }
    if path.contains('\0') {
        return Err(refuse("a property's path holds a character that no text may hold".to_owned()));
    }
    let leaf = match value {
        Value::Object(inner) if !inner.is_empty() => {
            return inner
                .iter()
                .try_for_each(|(name, value)| gather(format!("{path}.{name}"), value, depth - 1, found));
        }
        Value::Array(inner) if !inner.is_empty() => {
            return inner.iter().try_for_each(|value| gather(path.clone(), value, depth - 1, found));
        }
        Value::Object(_) | Value::Array(_) | Value::Null => Leaf::Empty,
        Value::Bool(truth) => Leaf::Truth(*truth),
        Value::Number(number) => Leaf::Number(number.clone()),
        Value::String(text) => Leaf::Text(text.clone()),
    };
    if found.len() >= MAX_PROPERTIES {
        return Err(refuse(format!("a dump has at most {MAX_PROPERTIES} properties")));
    }
    found.push((path, leaf));
    Ok(())
}

/// What an analysis found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DumpFindings {
    /// How it ended: `analysed`, `truncated` or `unreadable`.
    pub state: DumpState,
    /// What sort of thing it is.
    pub kind: DumpKind,
    /// Where it comes from; what is said here replaces what was said when it was uploaded.
    #[serde(default)]
    pub facts: DumpFacts,
    /// The functions of the thread that crashed.
    #[serde(default)]
    pub stack: Vec<String>,
    /// Which crashes it is one of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<DumpSignature>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// How bad that may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// Why nothing could be made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The signature with the stack that was signed and the reasons, which is what dumps are counted and compared by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Box<Signed>>,
    /// The report, a blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Digest>,
}

impl DumpFindings {
    /// Returns findings that say no more than how it ended.
    pub fn new(state: DumpState, kind: DumpKind) -> Self {
        Self {
            state,
            kind,
            facts: DumpFacts::default(),
            stack: Vec::new(),
            signature: None,
            class: None,
            severity: None,
            cause: None,
            signed: None,
            report: None,
        }
    }

    /// Returns the findings of an analysis that came to nothing, with the reason.
    pub fn unreadable(kind: DumpKind, cause: impl Into<String>) -> Self {
        Self { cause: Some(cause.into()), ..Self::new(DumpState::Unreadable, kind) }
    }

    /// Returns them cut to what a row may hold: they were made of foreign bytes, and a name too long must not lose them.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        self.stack.truncate(MAX_STACK);
        self.stack.iter_mut().for_each(|call| cut(call, MAX_CALL_CHARS));
        let mut left = MAX_ROW_BYTES / 2;
        let kept = self.stack.iter().take_while(|call| {
            let bytes = call.len() + 3;
            let fits = bytes <= left;
            left = left.saturating_sub(bytes);
            fits
        });
        let kept = kept.count();
        self.stack.truncate(kept);
        let facts = &mut self.facts;
        for word in [&mut facts.cmd, &mut facts.node, &mut facts.platform].into_iter().flatten() {
            cut(word, MAX_WORD_CHARS);
        }
        if let Some(text) = &mut facts.psargs {
            cut(text, MAX_WORD_CHARS * 4);
        }
        if let Some(class) = &mut self.class {
            cut(class, MAX_WORD_CHARS);
        }
        if let Some(cause) = &mut self.cause {
            cut(cause, MAX_WORD_CHARS * 4);
        }
        if let Some(signature) = &mut self.signature {
            cut(&mut signature.id, MAX_HASH_CHARS);
            cut(&mut signature.text, MAX_WORD_CHARS * 4);
        }
        // What is longer than an analysis ever makes it counts by its name alone.
        self.signed = self.signed.filter(|signed| signed.check().is_ok());
        self
    }
}

/// Cuts a text, and takes out what PostgreSQL keeps no text with.
fn cut(text: &mut String, chars: usize) {
    text.retain(|one| one != '\0');
    if let Some((end, _)) = text.char_indices().nth(chars) {
        text.truncate(end);
    }
}

/// Digits of a hash.
pub const MAX_HASH_CHARS: usize = 32;

/// Tells whether a text is a hash or the beginning of one.
pub fn is_hash(text: &str) -> bool {
    (1..=MAX_HASH_CHARS).contains(&text.len())
        && text.bytes().all(|one| one.is_ascii_digit() || (b'a'..=b'f').contains(&one))
}

/// Returns the length below which a dump may be, refusing a longer one.
pub fn check_size(size: u64) -> Result<(), ApiError> {
    if size <= MAX_DUMP_BYTES {
        return Ok(());
    }
    Err(refuse(format!("a dump has at most {MAX_DUMP_BYTES} bytes, not {size}")))
}

fn refuse(message: String) -> ApiError {
    ApiError::invalid("dump_invalid", message)
}

fn excerpt(text: &str) -> String {
    text.chars().take(MAX_NAME_CHARS).collect()
}

fn check_text(name: &str, text: &str, max_chars: usize) -> Result<(), ApiError> {
    if text.is_empty() || text.chars().count() > max_chars {
        return Err(refuse(format!("`{name}` must have 1 to {max_chars} characters")));
    }
    if text.contains('\0') {
        return Err(refuse(format!("`{name}` holds a character that no text may hold")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> BTreeMap<String, Value> {
        serde_json::from_value(value).expect("is an object")
    }

    #[test]
    fn properties_are_found_by_their_path() {
        let text = |text: &str| Leaf::Text(text.to_owned());
        let found = leaves(&object(json!({"a": {"b": {"c": 1.5}, "d": ["x", true]}, "e": "f", "g": {}})));
        let expected = [
            ("a.b.c", Leaf::Number(Number::from_f64(1.5).expect("is finite"))),
            ("a.d", text("x")),
            ("a.d", Leaf::Truth(true)),
            ("e", text("f")),
            ("g", Leaf::Empty),
        ];
        assert_eq!(found, Ok(expected.map(|(path, leaf)| (path.to_owned(), leaf)).to_vec()));
    }

    #[test]
    fn a_change_is_applied_or_refused() {
        let before = object(json!({"a": 1, "b": 2}));
        let check = |properties: Value, expected: Option<Value>| {
            let change = DumpChange { ticket: None, properties: object(properties) };
            assert_eq!(change.apply(&before).ok(), expected.map(object));
        };
        check(json!({"a": null, "c": [1]}), Some(json!({"b": 2, "c": [1]})));
        check(json!({}), Some(json!({"a": 1, "b": 2})));
        check(json!({"c": "x".repeat(MAX_ROW_BYTES)}), None);
        check(json!({"": 1}), None);
        check(json!({"c": {"d\0": 1}}), None);
        check(json!({"c": vec![1; MAX_PROPERTIES]}), None);
        let deep = (0..MAX_PROPERTY_DEPTH).fold(json!(1), |inner, _| json!({"a": inner}));
        check(json!({"c": deep}), None);
        let ticket = |text: Value| serde_json::from_value::<DumpChange>(json!({"ticket": text})).expect("is a change");
        assert_eq!(ticket(json!(null)).ticket, Some(None));
        assert!(ticket(json!("OS-1")).check().is_ok());
        assert!(ticket(json!("cmd=x")).check().is_err());
        assert!(ticket(json!("")).check().is_err());
    }

    #[test]
    fn findings_fit_a_row() {
        let findings = DumpFindings {
            facts: DumpFacts { cmd: Some("a\0b".repeat(1000)), ..DumpFacts::default() },
            stack: vec!["ü".repeat(1000); 1000],
            ..DumpFindings::new(DumpState::Analysed, DumpKind::Core)
        };
        let findings = findings.fitted();
        assert_eq!(findings.facts.cmd.map(|cmd| cmd.len()), Some(MAX_WORD_CHARS));
        assert!(serde_json::to_vec(&findings.stack).expect("is JSON").len() <= MAX_ROW_BYTES);
        assert!(findings.stack.len() > 3);
    }
}
