//! A sandbox: where an execution happens, as far as its user may choose. What it is made of is the node's affair.

use crate::analyzer::{DumpIn, check_name};
use crate::digest::Digest;
use crate::limits::{
    MAX_EGRESS_RULES, MAX_ENTRYPOINT_WORDS, MAX_FILES, MAX_LABEL_CHARS, MAX_LABELS, MAX_MOUNTS, MAX_NAME_CHARS,
    MAX_PATH_BYTES,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// What sort of sandbox it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SandboxKind {
    /// Namespaces over the node's own files.
    Process,
    /// The same over an image's layers.
    Oci,
    /// A machine of its own.
    Vm,
}

impl SandboxKind {
    /// Returns the kind's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Oci => "oci",
            Self::Vm => "vm",
        }
    }
}

/// What an execution may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nothing but itself.
    #[default]
    None,
    /// What `egress` lists, outwards only.
    Egress,
    /// All that its node reaches; only where the node offers it.
    Host,
}

impl Network {
    /// Returns the network's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Egress => "egress",
            Self::Host => "host",
        }
    }
}

/// What may be done with a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It is only read.
    #[default]
    #[serde(rename = "ro")]
    ReadOnly,
    /// It is written too.
    #[serde(rename = "rw")]
    ReadWrite,
}

/// A folder or file of the node, seen in the sandbox. The node must offer it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Where it is on the node.
    #[schema(max_length = 4096)]
    pub source: String,
    /// Where it is seen.
    #[schema(max_length = 4096)]
    pub target: String,
    /// What may be done with it.
    #[serde(default)]
    pub access: Access,
}

/// A blob, seen in the sandbox as a file that can be read, and run if it says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileIn {
    /// Where it is seen.
    #[schema(max_length = 4096)]
    pub target: String,
    /// Which blob.
    pub digest: Digest,
    /// Whether it can be run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// Where an execution happens, as far as its user may choose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// The folder it begins in; none means the image's own, or `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub cwd: Option<String>,
    /// Who it is inside, as `USER` or `USER:GROUP`, by name or number; none means the image's own choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64)]
    pub user: Option<String>,
    /// What goes before the command, in place of the image's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// What it may reach.
    #[serde(skip_serializing_if = "is_default")]
    pub network: Network,
    /// With `network: egress`, whom: `host`, `host:port`, `*.domain:port`, `address/bits:port`; nothing listed means nobody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<String>,
    /// Folders and files of the node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Blobs, as files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileIn>,
    /// A dump, with what is known of it and the files that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dump: Option<DumpIn>,
    /// A terminal of this size in place of pipes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Window>,
    /// Whether processes inside may trace each other, as debuggers do.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ptrace: bool,
    /// Another OCI runtime than our own, by the name under which nodes offer it; `quarry` is our own, whatever the image or
    /// the tenant says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64, pattern = "^[!-~]+$")]
    pub runtime: Option<String>,
    /// Labels that the node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The name of our own engine, where other OCI runtimes are named.
pub const OWN_RUNTIME: &str = "quarry";

/// Says what is wrong with the name of a runtime.
pub(crate) fn runtime_check(name: &str) -> Result<(), String> {
    if is_word(name, MAX_NAME_CHARS) && name.is_ascii() {
        return Ok(());
    }
    Err(format!("must have 1 to {MAX_NAME_CHARS} characters of ASCII without spaces"))
}

/// Tells whether a value is its type's default.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Sandbox {
    /// Refuses what no node could build, naming the field.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        self.cwd.as_ref().map_or(Ok(()), |path| check_path("sandbox.cwd", path))?;
        if self.mounts.len() > MAX_MOUNTS {
            return Err(("sandbox.mounts", format!("must be at most {MAX_MOUNTS}")));
        }
        for mount in &self.mounts {
            check_path("sandbox.mounts", &mount.source)?;
            check_path("sandbox.mounts", &mount.target)?;
        }
        if self.files.len() > MAX_FILES {
            return Err(("sandbox.files", format!("must be at most {MAX_FILES}")));
        }
        for file in &self.files {
            check_path("sandbox.files", &file.target)?;
        }
        self.check_targets()?;
        if self.egress.len() > MAX_EGRESS_RULES || self.egress.iter().any(|rule| !is_word(rule, 255)) {
            return Err(("sandbox.egress", format!("must be at most {MAX_EGRESS_RULES} rules without spaces")));
        }
        if !self.egress.is_empty() && self.network != Network::Egress {
            return Err(("sandbox.egress", "needs `network` to be `egress`".to_owned()));
        }
        if self.user.as_deref().is_some_and(|user| !is_word(user, MAX_NAME_CHARS)) {
            return Err(("sandbox.user", format!("must have 1 to {MAX_NAME_CHARS} characters without spaces")));
        }
        self.runtime.as_deref().map_or(Ok(()), runtime_check).map_err(|why| ("sandbox.runtime", why))?;
        let words = self.entrypoint.as_deref().unwrap_or_default();
        if words.len() > MAX_ENTRYPOINT_WORDS || words.iter().any(|word| word.contains('\0')) {
            return Err(("sandbox.entrypoint", format!("must have at most {MAX_ENTRYPOINT_WORDS} words and no NUL")));
        }
        if self.dump.as_ref().and_then(|dump| dump.analyzer.as_ref()).is_some_and(|one| check_name(&one.name).is_err())
        {
            return Err(("sandbox.dump", "must name an analyzer as analyzers are named".to_owned()));
        }
        if self.terminal.is_some_and(|window| window.rows == 0 || window.columns == 0) {
            return Err(("sandbox.terminal", "must have at least one row and one column".to_owned()));
        }
        check_labels("sandbox.labels", &self.labels)
    }

    /// Refuses two things in one place, of which only one would be seen, and one in place of everything.
    fn check_targets(&self) -> Result<(), (&'static str, String)> {
        let mounts = self.mounts.iter().map(|mount| ("sandbox.mounts", &mount.target));
        let files = self.files.iter().map(|file| ("sandbox.files", &file.target));
        let mut there = BTreeSet::new();
        for (field, target) in mounts.chain(files) {
            let parts: Vec<_> = target.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
            if parts.is_empty() {
                return Err((field, "must be seen at a place beneath `/`".to_owned()));
            }
            if !there.insert(parts) {
                return Err((field, format!("would hide each other: `{target}` is named twice")));
            }
        }
        Ok(())
    }

    /// Returns how many bytes its words take in a row.
    pub(crate) fn bytes(&self) -> usize {
        let mounts: usize = self.mounts.iter().map(|mount| mount.source.len() + mount.target.len() + 64).sum();
        let files: usize = self.files.iter().map(|file| file.target.len() + 128).sum();
        let words: usize = self.entrypoint.iter().flatten().chain(&self.egress).map(|word| word.len() + 4).sum();
        let labels: usize = self.labels.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        let dump = self.dump.as_ref().map_or(0, DumpIn::bytes);
        mounts + files + words + labels + dump + self.cwd.as_ref().map_or(0, String::len)
    }
}

/// Refuses labels that are too many or too long.
pub(crate) fn check_labels(
    field: &'static str,
    labels: &BTreeMap<String, String>,
) -> Result<(), (&'static str, String)> {
    let good = |text: &String| is_word(text, MAX_LABEL_CHARS) && !text.contains('=');
    if labels.len() > MAX_LABELS || labels.iter().any(|(name, value)| !good(name) || !good(value)) {
        return Err((
            field,
            format!(
                "must be at most {MAX_LABELS}, each `NAME=VALUE` of 1 to {MAX_LABEL_CHARS} characters without spaces"
            ),
        ));
    }
    Ok(())
}

pub(crate) fn is_word(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.chars().count()) && !text.chars().any(|one| one.is_whitespace() || one.is_control())
}

/// Refuses a path that is not absolute, is too long, or climbs.
fn check_path(field: &'static str, path: &str) -> Result<(), (&'static str, String)> {
    let climbs = path.split('/').any(|part| part == "..");
    if !path.starts_with('/') || path.len() > MAX_PATH_BYTES || path.contains('\0') || climbs {
        return Err((field, format!("must be absolute, of at most {MAX_PATH_BYTES} bytes, without `..`")));
    }
    Ok(())
}
