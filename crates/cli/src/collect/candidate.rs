//! Finding dumps in folders by their names, and what a file's name and attributes tell of one.
//!
//! Links are not followed: whoever may write into a folder of dumps must not have other files sent. Attributes are those
//! that systemd-coredump writes (`user.coredump.*`); a name may hold segments `key=value`, as it could for `sdc-thoth`.

use crate::dump::packing::Packing;
use crate::dump::upload::instant;
use anyhow::Context;
use jiff::Timestamp;
use model::DumpKind;
use model::dump::{DumpFacts, MAX_WORD_CHARS};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How deep folders are looked through.
const MAX_DEPTH: usize = 8;
/// Files and folders that are looked at.
const MAX_ENTRIES: usize = 1_000_000;
/// Dumps that one run takes.
const MAX_DUMPS: usize = 100_000;
/// Bytes of an attribute.
const MAX_ATTRIBUTE_BYTES: usize = 4_096;

/// What sort of thing a file's name says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Of a program.
    Core,
    /// Of a machine.
    Crash,
}

impl Sort {
    /// Returns what sort of thing a kind of dump is; none if anything might have left it.
    pub(super) const fn of(kind: DumpKind) -> Option<Self> {
        match kind {
            DumpKind::Core | DumpKind::Minidump | DumpKind::Sanitizer | DumpKind::Traceback => Some(Self::Core),
            DumpKind::Kernel | DumpKind::Illumos => Some(Self::Crash),
            DumpKind::Unknown => None,
        }
    }

    /// Returns the words for it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Core => "of a program",
            Self::Crash => "of a machine",
        }
    }
}

/// A file that is a dump by its name.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    /// The folder that was looked through.
    root: Arc<Path>,
    /// Its name without what tells of its packing.
    pub(super) name: String,
    pub(super) sort: Sort,
    /// How long the file is.
    pub(super) bytes: u64,
}

/// Looks a folder through; what cannot be looked at is named.
pub(super) fn find(folder: &Path, found: &mut Vec<Candidate>) -> Vec<(PathBuf, std::io::Error)> {
    let root: Arc<Path> = folder.into();
    let (mut left, mut failed, mut seen) = (vec![(folder.to_owned(), 0)], Vec::new(), 0);
    while let Some((folder, depth)) = left.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                failed.push((folder, error));
                continue;
            }
        };
        for entry in entries.flatten() {
            seen += 1;
            if seen > MAX_ENTRIES || found.len() >= MAX_DUMPS {
                failed.push((folder, std::io::Error::other("there are too many files")));
                return failed;
            }
            // Not of what a link leads to.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && depth < MAX_DEPTH {
                left.push((entry.path(), depth + 1));
            } else if metadata.is_file() {
                found.extend(Candidate::of(&root, entry.path(), &metadata));
            }
        }
    }
    failed
}

impl Candidate {
    /// Takes a file if its name is a dump's.
    fn of(root: &Arc<Path>, path: PathBuf, metadata: &Metadata) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().into_owned();
        let stem = Packing::of(&name).1;
        let is_core = stem == "core" || stem.starts_with("core.") || stem.ends_with(".core") || stem.ends_with(".dmp");
        let is_crash = stem.starts_with("vmcore") || stem.starts_with("vmdump.");
        let sort = if is_core { Sort::Core } else { Sort::Crash };
        let name = stem.chars().take(MAX_WORD_CHARS).collect();
        let (root, bytes) = (Arc::clone(root), metadata.len());
        (is_core || is_crash).then_some(Self { path, root, name, sort, bytes })
    }

    /// Returns the file's whole name.
    pub(super) fn file_name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Opens the file: a link that has taken its place since, or that of a folder on the way to it, is not followed.
    pub(super) fn open(&self) -> anyhow::Result<File> {
        let cannot = || format!("`{}` cannot be read", self.path.display());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let root = File::open(&self.root).with_context(cannot)?;
        let inner = self.path.strip_prefix(&self.root).with_context(cannot)?;
        let file = File::from(openat2(&root, inner, flags, Mode::empty(), resolve).with_context(cannot)?);
        anyhow::ensure!(file.metadata()?.is_file(), "`{}` is not a file any more", self.path.display());
        Ok(file)
    }
}

/// What is known of a dump besides its content.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    pub(super) facts: DumpFacts,
    pub(super) ticket: Option<String>,
    pub(super) properties: BTreeMap<String, Value>,
    /// The program's path.
    pub(super) program: Option<String>,
}

impl Told {
    /// Reads a file's name and attributes.
    pub(super) fn of(candidate: &Candidate, file: &File) -> Self {
        let names = rustix::system::uname();
        let attribute = |name: &str| attribute(file, name);
        let own = |text: &str| Some(text.chars().take(MAX_WORD_CHARS).collect::<String>());
        let written = file.metadata().ok().and_then(|metadata| metadata.modified().ok()).and_then(instant);
        let crashed = attribute("timestamp").and_then(|text| Timestamp::from_microsecond(text.parse().ok()?).ok());
        let facts = DumpFacts {
            time: crashed.or(written),
            cmd: attribute("comm").and_then(|text| own(&text)),
            psargs: None,
            pid: attribute("pid").and_then(|text| text.parse().ok()),
            node: attribute("hostname")
                .or_else(|| own(&names.nodename().to_string_lossy()))
                .and_then(|text| own(&text)),
            platform: own(&names.release().to_string_lossy()),
        };
        let program = attribute("exe");
        let number = |name: &str| attribute(name).and_then(|text| text.parse::<u64>().ok());
        let mut process = Map::new();
        for (name, value) in [
            ("signal", json!(number("signal"))),
            ("uid", json!(number("uid"))),
            ("gid", json!(number("gid"))),
            ("core_limit", json!(number("rlimit"))),
            ("program", json!(program)),
        ] {
            if !value.is_null() {
                process.insert(name.to_owned(), value);
            }
        }
        let (ticket, mut properties) = segments(&candidate.name);
        if !process.is_empty() {
            properties.insert("process".to_owned(), Value::Object(process));
        }
        Self { facts, ticket, properties, program }
    }

    /// Tells whether the dump is of a program of that name.
    pub(super) fn is_of(&self, name: &str, candidate: &Candidate) -> bool {
        let base = self.program.as_deref().and_then(|path| path.rsplit('/').next());
        base == Some(name) || self.facts.cmd.as_deref() == Some(name) || candidate.name.split('.').nth(1) == Some(name)
    }
}

/// Reads one of the attributes that systemd-coredump writes.
fn attribute(file: &File, name: &str) -> Option<String> {
    let mut bytes = vec![0; MAX_ATTRIBUTE_BYTES];
    let length = rustix::fs::fgetxattr(file, format!("user.coredump.{name}"), &mut bytes[..]).ok()?;
    bytes.truncate(length);
    let text = String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " ");
    Some(text).filter(|text| !text.is_empty())
}

/// Returns the ticket and the properties that segments `key=value` of a name are.
fn segments(name: &str) -> (Option<String>, BTreeMap<String, Value>) {
    let pairs = name.split('.').skip(1).filter_map(|segment| segment.split_once('='));
    let is_word = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let (mut ticket, mut properties) = (None, BTreeMap::new());
    for (key, value) in pairs.filter(|(key, value)| is_word(key) && !value.is_empty() && !value.contains('=')) {
        match key {
            "ticket" => ticket = Some(value.to_owned()),
            _ => drop(properties.insert(key.to_owned(), value.into())),
        }
    }
    (ticket, properties)
}

/// Returns what is noted of this machine on each dump.
pub(super) fn machine() -> Value {
    let names = rustix::system::uname();
    let text =
        |text: &std::ffi::CStr| Value::from(text.to_string_lossy().chars().take(MAX_WORD_CHARS).collect::<String>());
    let mut told = Map::from_iter([
        ("Hostname".to_owned(), text(names.nodename())),
        ("Kernel".to_owned(), text(names.release())),
        ("Machine".to_owned(), text(names.machine())),
    ]);
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    for (name, key) in [("System", "ID="), ("System_Version", "VERSION_ID=")] {
        if let Some(value) = release.lines().find_map(|line| line.strip_prefix(key)) {
            told.insert(
                name.to_owned(),
                value.trim_matches('"').chars().take(MAX_WORD_CHARS).collect::<String>().into(),
            );
        }
    }
    Value::Object(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_of_dumps() {
        let file = tempfile::tempfile().expect("is made").metadata().expect("is there");
        let check = |name: &str, expected: Option<(&str, Sort)>| {
            let found = Candidate::of(&Path::new("/a").into(), Path::new("/a").join(name), &file);
            assert_eq!(found.as_ref().map(|found| (&*found.name, found.sort)), expected, "{name}");
        };
        check("core", Some(("core", Sort::Core)));
        check("core.bc.24388", Some(("core.bc.24388", Sort::Core)));
        check("core.sh.0.ab.7.17.zst", Some(("core.sh.0.ab.7.17", Sort::Core)));
        check("vmcore-dmesg", Some(("vmcore-dmesg", Sort::Crash)));
        check("vmdump.3", Some(("vmdump.3", Sort::Crash)));
        check("minidump.dmp.xz", Some(("minidump.dmp", Sort::Core)));
        for other in ["encore", "score.c", "core-utils", "dump", "x.zst"] {
            check(other, None);
        }
    }

    #[test]
    fn segments_become_properties_and_a_ticket() {
        let (ticket, properties) = segments("core.bc.7.ticket=OS-1.zone=west.=x.bad key=1.a=b=c.empty=");
        assert_eq!(
            (ticket.as_deref(), properties),
            (Some("OS-1"), BTreeMap::from([("zone".to_owned(), json!("west"))]))
        );
        assert_eq!(segments("a=b"), (None, BTreeMap::new()));
    }
}
