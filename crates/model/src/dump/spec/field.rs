//! What of a dump can be asked for, shown and counted by its name.

use super::{excerpt, refuse};
use crate::dump::{Dump, MAX_PATH_CHARS};
use crate::error::ApiError;
use crate::report::DumpKind;
use serde_json::Value;
use std::str::FromStr;

/// What every property's name begins with.
const PROPERTIES: &str = "properties.";

/// A field of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// The name it has had since Thoth.
    Hash,
    /// The BLAKE3 of its content.
    Digest,
    /// The name of the file it came in.
    File,
    /// What sort of thing it is, in Thoth's words: `core`, `crash`, and those that Thoth did not have.
    Type,
    /// What sort of thing it is.
    Kind,
    /// Where it is in its life.
    State,
    /// Whether its end is missing.
    Truncated,
    /// When it happened.
    Time,
    /// When it was uploaded first.
    Uploaded,
    /// The command.
    Cmd,
    /// The command with its arguments.
    Psargs,
    /// The number of the process.
    Pid,
    /// The machine.
    Node,
    /// The version of the machine's system.
    Platform,
    /// The ticket it belongs to.
    Ticket,
    /// The functions of the thread that crashed.
    Stack,
    /// The id of its signature.
    Signature,
    /// What its signature says.
    SignatureText,
    /// What went wrong.
    Class,
    /// How bad that may be.
    Severity,
    /// Why nothing could be made of it.
    Cause,
    /// The execution that died.
    Execution,
    /// How long it is.
    Size,
    /// Who uploaded it first.
    By,
    /// What was noted on it, by the names on the way with a dot between each two.
    Property(String),
}

/// The names; the first of several for a field is the one that is shown.
const NAMES: [(&str, Field); 30] = [
    ("hash", Field::Hash),
    ("name", Field::Hash),
    ("id", Field::Hash),
    ("digest", Field::Digest),
    ("file", Field::File),
    ("dump", Field::File),
    ("type", Field::Type),
    ("kind", Field::Kind),
    ("state", Field::State),
    ("truncated", Field::Truncated),
    ("time", Field::Time),
    ("mtime", Field::Time),
    ("otime", Field::Time),
    ("uploaded", Field::Uploaded),
    ("cmd", Field::Cmd),
    ("psargs", Field::Psargs),
    ("pid", Field::Pid),
    ("node", Field::Node),
    ("platform", Field::Platform),
    ("ticket", Field::Ticket),
    ("stack", Field::Stack),
    ("signature", Field::Signature),
    ("signature.id", Field::Signature),
    ("signature.text", Field::SignatureText),
    ("class", Field::Class),
    ("severity", Field::Severity),
    ("cause", Field::Cause),
    ("execution", Field::Execution),
    ("size", Field::Size),
    ("by", Field::By),
];

impl FromStr for Field {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        if let Some(path) = text.strip_prefix(PROPERTIES) {
            if path.is_empty() || path.chars().count() > MAX_PATH_CHARS || path.contains('\0') {
                return Err(refuse(format!("`{}` is no property's name", excerpt(text))));
            }
            return Ok(Self::Property(path.to_owned()));
        }
        let known = NAMES.iter().find(|(name, _)| *name == text).map(|(_, field)| field.clone());
        known.ok_or_else(|| {
            let hint = match text.chars().next().is_some_and(char::is_alphabetic) && text.len() <= MAX_PATH_CHARS {
                true => format!("what was noted on dumps is `properties.{text}`; "),
                false => String::new(),
            };
            let names =
                ["type", "cmd", "node", "platform", "ticket", "stack", "mtime", "uploaded", "signature", "class"];
            refuse(format!("`{}` is no property of dumps", excerpt(text)))
                .with_hint(format!("{hint}dumps have {} and more", names.map(|name| format!("`{name}`")).join(", ")))
        })
    }
}

/// Returns the word that Thoth has for a kind, as far as it had one.
pub const fn kind_type(kind: DumpKind) -> &'static str {
    match kind {
        DumpKind::Core => "core",
        DumpKind::Kernel | DumpKind::Illumos => "crash",
        DumpKind::Minidump => "minidump",
        DumpKind::Sanitizer => "sanitizer",
        DumpKind::Traceback => "traceback",
        DumpKind::Unknown => "unknown",
    }
}

impl Field {
    /// Returns what a dump has there, if anything.
    pub fn of(&self, dump: &Dump) -> Option<Value> {
        let text = |text: &Option<String>| text.clone().map(Value::from);
        let signature = dump.signature.as_ref();
        match self {
            Self::Hash => Some(dump.hash.as_str().into()),
            Self::Digest => Some(dump.digest.to_string().into()),
            Self::File => Some(dump.name.as_str().into()),
            Self::Type => Some(kind_type(dump.kind).into()),
            Self::Kind => serde_json::to_value(dump.kind).ok(),
            Self::State => Some(dump.state.as_str().into()),
            Self::Truncated => Some(dump.is_truncated.into()),
            Self::Time => dump.facts.time.map(|time| time.to_string().into()),
            Self::Uploaded => Some(dump.uploaded_at.to_string().into()),
            Self::Cmd => text(&dump.facts.cmd),
            Self::Psargs => text(&dump.facts.psargs),
            Self::Pid => dump.facts.pid.map(Value::from),
            Self::Node => text(&dump.facts.node),
            Self::Platform => text(&dump.facts.platform),
            Self::Ticket => text(&dump.ticket),
            Self::Stack => Some(&dump.stack).filter(|stack| !stack.is_empty()).map(|stack| stack.as_slice().into()),
            Self::Signature => signature.map(|signature| signature.id.as_str().into()),
            Self::SignatureText => signature.map(|signature| signature.text.as_str().into()),
            Self::Class => text(&dump.class),
            Self::Severity => dump.severity.and_then(|severity| serde_json::to_value(severity).ok()),
            Self::Cause => text(&dump.cause),
            Self::Execution => dump.execution.map(|id| id.to_string().into()),
            Self::Size => Some(dump.size.into()),
            Self::By => Some(dump.by.as_str().into()),
            Self::Property(path) => {
                let (first, rest) = heads(path).find_map(|(head, rest)| Some((dump.properties.get(head)?, rest)))?;
                inside(first, rest).cloned()
            }
        }
    }
}

/// Returns each beginning of a path that ends at a dot, the longest first, and what is behind it: names may hold dots.
fn heads(path: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let dots = path.char_indices().rev().filter(|(_, one)| *one == '.').map(|(at, _)| at);
    std::iter::once((path, None)).chain(dots.map(|at| (&path[..at], Some(&path[at + 1..]))))
}

fn inside<'v>(value: &'v Value, path: Option<&str>) -> Option<&'v Value> {
    let Some(path) = path else { return Some(value) };
    let object = value.as_object()?;
    heads(path).find_map(|(head, rest)| inside(object.get(head)?, rest))
}
