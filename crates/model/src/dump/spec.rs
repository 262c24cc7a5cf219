//! Specifications: which dumps are meant, in the words of a command line.
//!
//! A word is a constraint (`cmd=svc*`), a dump's name (the beginning of its hash, or its id), or one of `AND`, `OR`, `NOT`,
//! `(` and `)`; `limit=N` stands beside them. Words are parsed where they are typed, so that mistakes are told at once, and
//! again where they are obeyed. What a constraint means is settled here, per field, so that whoever looks for dumps (the
//! store in SQL, `matching.rs` in memory) need not interpret anything. Everything is bounded; nothing here reads a clock.

mod field;
mod glob;
mod matching;
mod moment;
mod value;

pub use field::{Field, kind_type};
pub use glob::{Glob, Piece};
pub use moment::Moment;

use super::is_hash;
use crate::error::ApiError;
use crate::id::DumpId;
use crate::report::{DumpKind, Severity};
use crate::{DumpState, dump::MAX_HASH_CHARS};
use std::str::FromStr;

/// Words of one specification.
pub const MAX_WORDS: usize = 256;
/// Constraints and names of one specification.
pub const MAX_TERMS: usize = 64;
/// How deep parentheses and `NOT` may be nested.
pub const MAX_DEPTH: usize = 16;
/// Characters of one word.
pub const MAX_TERM_CHARS: usize = 2_048;
/// Dumps that a specification may name one by one.
pub const MAX_NAMED: usize = 4_096;

/// How a field compares with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// It is the same.
    Equal,
    /// It comes before.
    Less,
    /// It comes before or is the same.
    AtMost,
    /// It comes behind.
    Greater,
    /// It comes behind or is the same.
    AtLeast,
}

/// What is asked of a field. A field that is not set passes none but `Undefined`.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// It is not set.
    Undefined,
    /// It is one of these kinds.
    Kinds(Vec<DumpKind>),
    /// It is one of these states.
    States(Vec<DumpState>),
    /// It is estimated so.
    Severities(Vec<Severity>),
    /// It is so.
    Truth(bool),
    /// It is a whole number that compares so.
    Number(Comparison, i64),
    /// It is a number of any sort that compares so; a property's.
    Amount(Comparison, f64),
    /// It is an instant that compares so.
    Time(Comparison, Moment),
    /// Its text compares so, byte by byte. Of a property that is no text, this is the text that JSON has for it.
    Text(Comparison, String),
    /// It is a text, not a number that looks like it, and compares so; a property's.
    Quoted(Comparison, String),
    /// Its text fits a pattern.
    Fits(Glob),
}

/// One dump, as somebody names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpName {
    /// By its id.
    Id(DumpId),
    /// By its hash, or a beginning of it that no other has.
    Hash(String),
}

impl FromStr for DumpName {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) if is_hash(text) => Ok(Self::Hash(text.to_owned())),
            Err(_) => Err(refuse(format!("`{}` is neither a constraint nor a dump's name", excerpt(text))).with_hint(
                format!("a dump is named by 1 to {MAX_HASH_CHARS} digits of its hash or by its id; a constraint is `cmd=java`"),
            )),
        }
    }
}

/// What a dump must be to be meant.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// All of these; with none of them, every dump.
    All(Vec<Self>),
    /// One of these at least.
    Any(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
    /// One of these dumps, each of which there must be.
    Named(Vec<DumpName>),
    /// A field passes a test.
    Field(Field, Test),
}

impl Default for Condition {
    fn default() -> Self {
        Self::All(Vec::new())
    }
}

impl Condition {
    /// Tells whether every dump is meant.
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::All(all) if all.iter().all(Self::is_everything))
    }

    /// Returns the conditions that must all be met, each of which may be looked up on its own.
    pub fn conjuncts(&self) -> Vec<&Self> {
        match self {
            Self::All(all) => all.iter().flat_map(Self::conjuncts).collect(),
            one => vec![one],
        }
    }

    /// Tells whether it is about nothing but dumps that were named.
    pub fn is_named(&self) -> bool {
        matches!(&self.conjuncts()[..], [Self::Named(_)])
    }
}

/// Which dumps are meant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Specification {
    /// What they must be.
    pub condition: Condition,
    /// How many of them at most.
    pub limit: Option<u32>,
    /// Whether they are named on standard input, which whoever has it must read.
    pub is_stdin: bool,
}

impl Specification {
    /// Reads the words of a specification; no words mean every dump.
    pub fn parse<W: AsRef<str>>(words: &[W]) -> Result<Self, ApiError> {
        if words.len() > MAX_WORDS {
            return Err(refuse(format!("a specification has at most {MAX_WORDS} words, not {}", words.len())));
        }
        let mut specification = Self::default();
        let mut rest = Vec::with_capacity(words.len());
        for word in words.iter().map(AsRef::as_ref) {
            if word.chars().count() > MAX_TERM_CHARS {
                let message = format!("`{}…` has more than {MAX_TERM_CHARS} characters", excerpt(word));
                return Err(refuse(message).with_hint("look for a part of it with `*`"));
            }
            match Term::split(word) {
                Some(Term { name: "limit", operator: "=", value }) => {
                    specification.limit = Some(limit(value)?);
                }
                Some(Term { name: "dump" | "dumps" | "name", operator: "=", value: "stdin" }) => {
                    specification.is_stdin = true;
                }
                _ => rest.push(word),
            }
        }
        if specification.is_stdin && !rest.is_empty() {
            return Err(refuse("\"stdin\" cannot be used with subsequent specifications".to_owned())
                .with_hint("name the dumps on standard input and nothing else"));
        }
        let mut parser = Parser { words: &rest, at: 0, terms: 0 };
        if !rest.is_empty() {
            specification.condition = parser.any(MAX_DEPTH)?;
            if let Some(word) = parser.peek() {
                return Err(refuse(format!("there is no `(` before `{}`", excerpt(word))));
            }
        }
        Ok(specification)
    }

    /// Tells how many of some words are a specification's; what comes behind is a property, and then perhaps a value.
    pub fn length<W: AsRef<str>>(words: &[W]) -> usize {
        let mut wants_term = true;
        for (index, word) in words.iter().map(AsRef::as_ref).enumerate() {
            let is_bare = Term::split(word).is_none();
            match word {
                "AND" | "OR" | "NOT" | "(" => wants_term = true,
                ")" => wants_term = false,
                // No field's name is the beginning of a hash, so who asks for a column first is understood.
                _ if is_bare && (!wants_term || (index == 0 && word.parse::<Field>().is_ok())) => return index,
                _ => wants_term = false,
            }
        }
        words.len()
    }
}

/// Returns a text as a value that means nothing but this text, whatever is in it.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A constraint, taken apart.
#[derive(Clone, Copy)]
struct Term<'w> {
    name: &'w str,
    operator: &'w str,
    value: &'w str,
}

impl<'w> Term<'w> {
    fn split(word: &'w str) -> Option<Self> {
        let at = word.find(['=', '<', '>']).filter(|at| *at > 0)?;
        let before = if word[..at].ends_with('!') && word[at..].starts_with('=') { at - 1 } else { at };
        let after = if !word[at..].starts_with('=') && word[at + 1..].starts_with('=') { at + 2 } else { at + 1 };
        Some(Self { name: &word[..before], operator: &word[before..after], value: &word[after..] })
    }
}

fn limit(value: &str) -> Result<u32, ApiError> {
    let parsed = value.parse().ok().filter(|limit| *limit > 0);
    parsed.ok_or_else(|| refuse(format!("`limit={}` does not say how many", excerpt(value))).with_hint("`limit=5`"))
}

struct Parser<'w> {
    words: &'w [&'w str],
    at: usize,
    terms: usize,
}

impl<'w> Parser<'w> {
    fn peek(&self) -> Option<&'w str> {
        self.words.get(self.at).copied()
    }

    fn skip(&mut self, word: &str) -> bool {
        let is_it = self.peek() == Some(word);
        self.at += usize::from(is_it);
        is_it
    }

    fn any(&mut self, depth: usize) -> Result<Condition, ApiError> {
        let mut any = vec![self.all(depth)?];
        while self.skip("OR") {
            any.push(self.all(depth)?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Condition::Any(any) })
    }

    fn all(&mut self, depth: usize) -> Result<Condition, ApiError> {
        let mut all = vec![self.one(depth)?];
        while self.skip("AND") || !matches!(self.peek(), None | Some("OR" | ")")) {
            all.push(self.one(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Condition::All(all) })
    }

    fn one(&mut self, depth: usize) -> Result<Condition, ApiError> {
        if depth == 0 {
            return Err(refuse(format!("a specification is nested at most {MAX_DEPTH} deep")));
        }
        if self.skip("NOT") {
            return Ok(Condition::Not(Box::new(self.one(depth - 1)?)));
        }
        if self.skip("(") {
            let inner = self.any(depth - 1)?;
            if self.skip(")") {
                return Ok(inner);
            }
            return Err(refuse("a `(` has no `)`".to_owned()).with_hint("each stands as a word of its own"));
        }
        let before = if self.at == 0 { "" } else { self.words[self.at - 1] };
        let Some(word) = self.peek().filter(|word| !matches!(*word, "AND" | "OR" | ")")) else {
            let wanted = "a constraint or a dump's name";
            return Err(refuse(match self.peek() {
                Some(word) => format!("{wanted} is missing before `{word}`"),
                None => format!("{wanted} is missing behind `{}`", excerpt(before)),
            }));
        };
        self.at += 1;
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err(refuse(format!("a specification has at most {MAX_TERMS} constraints")));
        }
        match Term::split(word) {
            Some(term) => value::constraint(term),
            None if matches!(word, "or" | "and" | "not") => {
                let upper = word.to_uppercase();
                Err(refuse(format!("`{word}` is no constraint")).with_hint(format!("`{upper}` is written in capitals")))
            }
            None => Ok(Condition::Named(vec![word.parse()?])),
        }
    }
}

fn refuse(message: String) -> ApiError {
    ApiError::invalid("specification_invalid", message)
}

fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
