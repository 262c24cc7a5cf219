//! Rules of redaction: which values of an environment and which memory is left out of a core. They are data, TOML.
//!
//! ```toml
//! [environment]
//! leave_out = ["*TOKEN*", "*SECRET*"]   # of names, in whatever case; `*` is anything, `?` one character
//! keep = ["TOKEN_KIND"]                 # of those
//!
//! [[memory]]                            # each says one thing: a mapping, an area, or addresses
//! mapping = ["*/libkeys.so*"]
//! [[memory]]
//! area = "anonymous"                    # or "stack"
//! [[memory]]
//! from = "0x7f0000000000"
//! to = "0x7f0000100000"
//! ```

use crate::signature::Pattern;
use serde::Deserialize;
use std::ops::Range;

/// Bytes of one file of rules.
pub const MAX_RULES_BYTES: usize = 64 * 1024;
/// Rules and patterns of one file.
const MAX_RULES: usize = 1_000;

/// Why a file of rules is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RedactionError(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    environment: EnvironmentText,
    #[serde(default)]
    memory: Vec<MemoryText>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EnvironmentText {
    leave_out: Vec<String>,
    keep: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryText {
    mapping: Option<Vec<String>>,
    area: Option<Area>,
    from: Option<String>,
    to: Option<String>,
}

/// A sort of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Area {
    /// The stack that the program began with.
    Stack,
    /// All that is neither a file's nor that stack.
    Anonymous,
}

/// Which values of an environment and which memory is left out.
#[derive(Clone, Debug)]
pub struct RedactionRules {
    leave_out: Vec<Pattern>,
    keep: Vec<Pattern>,
    mappings: Vec<Pattern>,
    areas: Vec<Area>,
    addresses: Vec<Range<u64>>,
    digest: String,
}

impl PartialEq for RedactionRules {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for RedactionRules {}

impl RedactionRules {
    /// Reads a file of rules.
    pub fn read(text: &str) -> Result<Self, RedactionError> {
        let refuse = |why: String| RedactionError(why);
        if text.len() > MAX_RULES_BYTES {
            return Err(refuse(format!("{} bytes of rules of at most {MAX_RULES_BYTES}", text.len())));
        }
        let file: FileText = toml::from_str(text).map_err(|error| refuse(error.to_string()))?;
        let pattern = |text: &String| Pattern::parse(text).map_err(|why| refuse(format!("`{text}`: {why}")));
        // Names of an environment count in whatever case they are written.
        let name = |text: &String| pattern(&text.to_ascii_uppercase());
        let mut rules = Self {
            leave_out: file.environment.leave_out.iter().map(name).collect::<Result<_, _>>()?,
            keep: file.environment.keep.iter().map(name).collect::<Result<_, _>>()?,
            mappings: Vec::new(),
            areas: Vec::new(),
            addresses: Vec::new(),
            digest: blake3::hash(text.as_bytes()).to_hex().chars().take(32).collect(),
        };
        for memory in file.memory {
            match memory {
                MemoryText { mapping: Some(mapping), area: None, from: None, to: None } => {
                    let mappings: Vec<_> = mapping.iter().map(pattern).collect::<Result<_, _>>()?;
                    rules.mappings.extend(mappings);
                }
                MemoryText { mapping: None, area: Some(area), from: None, to: None } => rules.areas.push(area),
                MemoryText { mapping: None, area: None, from: Some(from), to: Some(to) } => {
                    let range = address(&from)?..address(&to)?;
                    if range.is_empty() {
                        return Err(refuse(format!("nothing lies from `{from}` to `{to}`")));
                    }
                    rules.addresses.push(range);
                }
                _ => {
                    let why = "a rule on memory has either `mapping`, or `area`, or `from` and `to`";
                    return Err(refuse(why.to_owned()));
                }
            }
        }
        let count = rules.leave_out.len() + rules.keep.len() + rules.mappings.len() + rules.areas.len();
        if count + rules.addresses.len() > MAX_RULES {
            return Err(refuse(format!("more than {MAX_RULES} rules")));
        }
        Ok(rules)
    }

    /// Returns a digest of their text, which says by which rules something was left out.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Tells whether the value of a name, of a variable or of an argument `NAME=VALUE`, is left out.
    pub fn leaves_out(&self, name: &str) -> bool {
        let name = name.to_ascii_uppercase();
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(&name));
        any(&self.leave_out) && !any(&self.keep)
    }

    /// Tells whether all memory of a mapping, of a file if it is one's, is left out.
    pub(crate) fn leaves_out_load(&self, file: Option<&str>, is_stack: bool) -> bool {
        let is_of = |area: &Area| match area {
            Area::Stack => is_stack,
            Area::Anonymous => file.is_none() && !is_stack,
        };
        self.areas.iter().any(is_of)
            || file.is_some_and(|file| self.mappings.iter().any(|pattern| pattern.matches(file)))
    }

    /// Returns the addresses that are left out.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Range<u64>> {
        self.addresses.iter()
    }

    /// Tells whether anything of the environment is left out.
    pub(crate) fn has_environment(&self) -> bool {
        !self.leave_out.is_empty()
    }

    /// Tells whether the stack that the program began with is left out.
    pub(crate) fn has_stack(&self) -> bool {
        self.areas.contains(&Area::Stack)
    }

    /// Tells whether any other memory is left out.
    pub(crate) fn has_memory(&self) -> bool {
        !(self.mappings.is_empty() && self.areas.is_empty() && self.addresses.is_empty())
    }
}

fn address(text: &str) -> Result<u64, RedactionError> {
    let digits = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
    digits.ok_or_else(|| RedactionError(format!("`{text}` is no address; one begins with `0x`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_or_refused() {
        let check = |text: &str, expected: Option<&str>| {
            let error = RedactionRules::read(text).err().map(|error| error.to_string());
            match (error, expected) {
                (None, None) => {}
                (Some(error), Some(expected)) => assert!(error.contains(expected), "{error}"),
                other => panic!("{text}: {other:?}"),
            }
        };
        check("", None);
        check("[environment]\nleave_out = ['*']\nkeep = ['PATH']\n[[memory]]\narea = 'stack'\n", None);
        check("[[memory]]\nfrom = '0x10'\nto = '0x20'\n", None);
        check("[[memory]]\nfrom = '0x20'\nto = '0x10'\n", Some("nothing lies from `0x20` to `0x10`"));
        check("[[memory]]\nfrom = '16'\nto = '0x20'\n", Some("`16` is no address"));
        check("[[memory]]\nfrom = '0x10'\n", Some("either `mapping`, or `area`"));
        check("[[memory]]\narea = 'heap'\n", Some("unknown variant `heap`"));
        check("[environment]\nleave_out = ['']\n", Some("an empty pattern matches nothing"));
        check("[environment]\nleaveout = []\n", Some("unknown field `leaveout`"));
        check(&format!("[environment]\nkeep = [{}]\n", "'a',".repeat(1_001)), Some("more than 1000 rules"));
    }

    #[test]
    fn memory_is_told_apart() {
        let text = "[[memory]]\nmapping = ['*/libkeys.so*']\n[[memory]]\narea = 'anonymous'\n";
        let rules = RedactionRules::read(text).expect("are rules");
        let check = |file, is_stack, expected| assert_eq!(rules.leaves_out_load(file, is_stack), expected);
        check(Some("/lib/libkeys.so.1"), false, true);
        check(Some("/lib/libc.so.6"), false, false);
        check(None, false, true);
        check(None, true, false);
    }
}
