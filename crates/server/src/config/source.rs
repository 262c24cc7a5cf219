//! The three sources and their merging. A value of the wrong type leaves the older one in place and is reported; the rest
//! is still read, so that one look shows everything that is wrong.

use crate::config::leaf::{Given, Slot};
use crate::config::problem::{Problem, Problems, excerpt, nearest};
use crate::config::section::{Draft, ISSUER, Section};
use crate::config::{IssuerConfig, Origin};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Bytes of a configuration file.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Issuers that may be trusted.
const MAX_ISSUERS: usize = 64;

/// What every variable of ours begins with.
const PREFIX: &str = "QUARRY_";
/// Variables that begin like ours and belong to the command line, the client or the tests.
const FOREIGN: [&str; 7] = [
    "QUARRY_URL",
    "QUARRY_TOKEN",
    "QUARRY_CA_FILE",
    "QUARRY_CONFIG",
    "QUARRY_SOAK",
    "QUARRY_BIN",
    "QUARRY_SCHEMATHESIS",
];

/// The configuration file.
#[derive(Clone, Default)]
pub enum ConfigFile {
    /// There is none.
    #[default]
    Absent,
    /// One that was asked for, so it must exist.
    Named(PathBuf),
    /// The usual one, which may be missing.
    Usual(PathBuf),
    /// Its content, already read.
    Text {
        /// The name that messages use.
        path: PathBuf,
        /// What it says.
        text: String,
    },
}

/// Where a configuration is read from. It holds secrets in the clear, so it cannot be printed.
#[derive(Clone, Default)]
pub struct Sources {
    file: ConfigFile,
    environment: Vec<(OsString, OsString)>,
    flags: Vec<FlagGiven>,
}

#[derive(Clone)]
struct FlagGiven {
    key: String,
    value: String,
    flag: String,
}

impl Sources {
    /// Begins with no source, which gives the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads this file.
    #[must_use]
    pub fn file(mut self, file: ConfigFile) -> Self {
        self.file = file;
        self
    }

    /// Reads these variables; those that are not ours are passed over.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Reads one flag: the key it sets, its value, and the flag as it was typed.
    #[must_use]
    pub fn flag(mut self, key: impl Into<String>, value: impl Into<String>, flag: impl Into<String>) -> Self {
        self.flags.push(FlagGiven { key: key.into(), value: value.into(), flag: flag.into() });
        self
    }
}

/// Where each value came from; a key that is not in here has its default.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Returns where the value of a key came from.
    pub(super) fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or(Origin::Default)
    }
}

/// Reads all sources, the strongest last.
pub(super) fn merge(sources: &Sources, problems: &mut Problems) -> (Draft, Origins) {
    let mut merge = Merge { draft: Draft::default(), origins: Origins::default(), keys: Draft::keys(), problems };
    merge.file(&sources.file);
    merge.environment(&sources.environment);
    merge.flags(&sources.flags);
    (merge.draft, merge.origins)
}

struct Merge<'p> {
    draft: Draft,
    origins: Origins,
    keys: Vec<String>,
    problems: &'p mut Problems,
}

impl Merge<'_> {
    fn file(&mut self, file: &ConfigFile) {
        let (path, read) = match file {
            ConfigFile::Absent => return,
            ConfigFile::Text { path, text } => (path, Ok(text.clone())),
            ConfigFile::Named(path) => (path, text_read(path)),
            ConfigFile::Usual(path) => match text_read(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                read => (path, read),
            },
        };
        match read {
            Ok(text) => FileMerge { lines: Lines::of(&text), path, merge: self }.text(&text),
            Err(error) => self.problems.push(|| {
                let origin = Origin::File { path: path.clone(), line: None };
                Problem::new(origin, format!("the configuration file cannot be read: {error}"))
            }),
        }
    }

    fn environment(&mut self, variables: &[(OsString, OsString)]) {
        let known: BTreeMap<String, String> = self.keys.iter().map(|key| (variable_name(key), key.clone())).collect();
        for (name, value) in variables {
            // A name that is not even text cannot be one of ours.
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX) && !FOREIGN.contains(name)) else {
                continue;
            };
            let origin = Origin::Environment { name: excerpt(name) };
            match (known.get(name), value.to_str()) {
                (Some(key), Some(value)) => self.take(&key.clone(), Given::Text(value), origin),
                (Some(key), None) => self.problems.push(|| Problem::new(origin, "is not UTF-8 text").key(key)),
                (None, _) if name.starts_with("QUARRY_ISSUER") => self.problems.push(|| {
                    let hint = "a secret can stay out of the file: `key_file` names the file that holds it";
                    Problem::new(origin, "issuers can only be set in the configuration file").hint(hint)
                }),
                (None, _) => self.problems.push(|| {
                    let near = nearest(name, known.keys().map(String::as_str));
                    let hint = format!("the nearest one is `{near}`; see `quarry config show`");
                    Problem::new(origin, "the configuration knows no such variable").hint(hint)
                }),
            }
        }
    }

    fn flags(&mut self, flags: &[FlagGiven]) {
        for FlagGiven { key, value, flag } in flags {
            let origin = Origin::Flag { name: excerpt(flag) };
            if self.draft.slot(key).is_some() {
                self.take(key, Given::Text(value), origin);
            } else {
                self.unknown(key, origin);
            }
        }
    }

    fn take(&mut self, key: &str, given: Given<'_>, origin: Origin) {
        let slot = self.draft.slot(key).expect("the caller found the key among the known ones");
        settle(slot, key, given, origin, (&mut self.origins, self.problems));
    }

    fn unknown(&mut self, key: &str, origin: Origin) {
        let known = self.keys.iter().map(String::as_str);
        self.problems.push(|| {
            let hint = format!("the nearest one is `{}`", nearest(key, known));
            Problem::new(origin, "is not a known key").key(excerpt(key)).hint(hint)
        });
    }
}

/// Puts a value into its place, or says why it does not fit there.
fn settle(
    mut slot: Box<dyn Slot + '_>,
    key: &str,
    given: Given<'_>,
    origin: Origin,
    (origins, problems): (&mut Origins, &mut Problems),
) {
    match slot.take(given) {
        Ok(()) => drop(origins.0.insert(key.to_owned(), origin)),
        Err(message) => problems.push(|| Problem::new(origin, message).key(key)),
    }
}

/// Returns the variable of the environment that sets a key.
pub(super) fn variable_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

fn text_read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

/// Finds lines by offset.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|end| *end < offset) + 1
    }
}

/// Reads a file, whose values have a line.
struct FileMerge<'a, 'b, 'p> {
    lines: Lines,
    path: &'a Path,
    merge: &'b mut Merge<'p>,
}

impl FileMerge<'_, '_, '_> {
    fn origin(&self, span: Range<usize>) -> Origin {
        Origin::File { path: self.path.to_owned(), line: Some(self.lines.at(span.start)) }
    }

    fn text(&mut self, text: &str) {
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let origin = error.span().map_or_else(|| self.origin(0..0), |span| self.origin(span));
            // Its full text would repeat the line, and with it perhaps a secret.
            self.merge.problems.push(|| Problem::new(origin, format!("is not TOML: {}", error.message())));
        }
        for (name, value) in root.get_ref() {
            match (name.get_ref().as_ref(), value.get_ref()) {
                (ISSUER, DeValue::Array(issuers)) => self.issuers(issuers),
                (ISSUER, _) => self.wrong_shape(ISSUER, name.span(), "expected one or more sections `[[issuer]]`"),
                (section, DeValue::Table(table)) if Draft::has_section(section) => self.section(section, table),
                (section, _) if Draft::has_section(section) => {
                    self.wrong_shape(section, name.span(), &format!("expected a section `[{section}]`"));
                }
                (unknown, DeValue::Table(_)) => self.unknown_section(unknown, name.span()),
                (unknown, _) => self.merge.unknown(unknown, self.origin(name.span())),
            }
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key = format!("{section}.{}", name.get_ref());
            let origin = self.origin(name.span());
            match value.get_ref() {
                DeValue::Table(nested) if Draft::has_section(&key) => self.section(&key, nested),
                _ if Draft::has_section(&key) => {
                    self.wrong_shape(&key, name.span(), &format!("expected a section `[{key}]`"));
                }
                // A quoted name with a dot in it would otherwise reach a nested section.
                value if !name.get_ref().contains('.') && self.merge.draft.slot(&key).is_some() => {
                    self.merge.take(&key, Given::Toml(value), origin);
                }
                _ if name.get_ref().contains('.') => {
                    self.merge.unknown(&format!("{section}.\"{}\"", name.get_ref()), origin);
                }
                _ => self.merge.unknown(&key, origin),
            }
        }
    }

    fn issuers(&mut self, issuers: &[Spanned<DeValue<'_>>]) {
        for (index, value) in issuers.iter().enumerate().take(MAX_ISSUERS) {
            match value.get_ref() {
                DeValue::Table(table) => self.issuer(index, value.span(), table),
                _ => self.wrong_shape(ISSUER, value.span(), "expected one or more sections `[[issuer]]`"),
            }
        }
        if let Some(excess) = issuers.get(MAX_ISSUERS) {
            self.wrong_shape(ISSUER, excess.span(), &format!("at most {MAX_ISSUERS} issuers are possible"));
        }
    }

    fn issuer(&mut self, index: usize, span: Range<usize>, table: &DeTable<'_>) {
        let mut issuer = IssuerConfig::default();
        let prefix = format!("{ISSUER}[{index}]");
        // The section itself has a place too: what is missing is missing there.
        self.merge.origins.0.insert(prefix.clone(), self.origin(span));
        for (name, value) in table {
            let key = format!("{prefix}.{}", excerpt(name.get_ref()));
            let origin = self.origin(name.span());
            let names = issuer.names();
            match issuer.slot(name.get_ref()) {
                Some(slot) => {
                    let Merge { origins, problems, .. } = &mut *self.merge;
                    settle(slot, &key, Given::Toml(value.get_ref()), origin, (origins, problems));
                }
                None => self.merge.problems.push(|| {
                    let near = nearest(name.get_ref(), names.iter().copied());
                    Problem::new(origin, "is not a known key").key(key).hint(format!("the nearest one is `{near}`"))
                }),
            }
        }
        self.merge.draft.issuers.push(issuer);
    }

    fn wrong_shape(&mut self, key: &str, span: Range<usize>, expected: &str) {
        let origin = self.origin(span);
        self.merge.problems.push(|| Problem::new(origin, format!("has the wrong shape; {expected}")).key(key));
    }

    fn unknown_section(&mut self, name: &str, span: Range<usize>) {
        let origin = self.origin(span);
        let sections = Draft::sections().chain([ISSUER]);
        self.merge.problems.push(|| {
            let hint = format!("the nearest one is `[{}]`", nearest(name, sections));
            Problem::new(origin, "is not a known section").key(excerpt(name)).hint(hint)
        });
    }
}
