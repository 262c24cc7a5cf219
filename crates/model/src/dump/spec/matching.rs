//! Whether a dump that is at hand is meant; the store asks the same of many in SQL.

use super::{Comparison, Condition, DumpName, Field, Specification, Test};
use crate::dump::{Dump, Leaf, found, is_hash, leaves};
use jiff::Timestamp;
use std::cmp::Ordering;

impl Specification {
    /// Tells whether a dump is meant by this, asked at `now`; how many others are is not asked.
    pub fn matches(&self, dump: &Dump, now: Timestamp) -> bool {
        self.condition.matches(dump, now)
    }
}

impl Condition {
    /// Tells whether a dump meets it, asked at `now`.
    pub fn matches(&self, dump: &Dump, now: Timestamp) -> bool {
        match self {
            Self::All(all) => all.iter().all(|one| one.matches(dump, now)),
            Self::Any(any) => any.iter().any(|one| one.matches(dump, now)),
            Self::Not(inner) => !inner.matches(dump, now),
            Self::Named(names) => names.iter().any(|name| match name {
                DumpName::Id(id) => dump.id == *id,
                DumpName::Hash(hash) => dump.hash.starts_with(hash),
            }),
            Self::Field(Field::Property(path), test) => property(dump, path, test),
            Self::Field(field, test) => passes(dump, field, test, now),
        }
    }
}

impl Comparison {
    /// Tells whether what compares so passes.
    pub const fn passes(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::Less => ordering.is_lt(),
            Self::AtMost => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::AtLeast => ordering.is_ge(),
        }
    }

    /// Returns the operator, which SQL has as well.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
        }
    }
}

fn passes(dump: &Dump, field: &Field, test: &Test, now: Timestamp) -> bool {
    let texts = || match field.of(dump) {
        Some(serde_json::Value::Array(texts)) => {
            texts.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
        }
        Some(serde_json::Value::String(text)) => vec![text],
        Some(serde_json::Value::Number(number)) => vec![number.to_string()],
        _ => Vec::new(),
    };
    match test {
        Test::Undefined => field.of(dump).is_none(),
        Test::Kinds(kinds) => kinds.contains(&dump.kind),
        Test::States(states) => states.contains(&dump.state),
        Test::Severities(severities) => dump.severity.is_some_and(|severity| severities.contains(&severity)),
        Test::Truth(truth) => dump.is_truncated == *truth,
        Test::Number(comparison, number) => {
            let of = if *field == Field::Size { i64::try_from(dump.size).ok() } else { dump.facts.pid.map(i64::from) };
            of.is_some_and(|of| comparison.passes(of.cmp(number)))
        }
        Test::Time(comparison, moment) => {
            let of = if *field == Field::Uploaded { Some(dump.uploaded_at) } else { dump.facts.time };
            of.is_some_and(|of| comparison.passes(of.cmp(&moment.at(now))))
        }
        // The beginning of a signature's id names it; that no other begins so is for the store to see.
        Test::Text(Comparison::Equal, text) if *field == Field::Signature && is_hash(text) => {
            texts().iter().any(|of| of.starts_with(text))
        }
        Test::Text(comparison, text) => texts().iter().any(|of| comparison.passes(of.as_str().cmp(text))),
        Test::Fits(glob) => texts().iter().any(|of| glob.fits(of)),
        // No field but a property is tested so.
        Test::Amount(..) | Test::Quoted(..) => false,
    }
}

fn property(dump: &Dump, path: &str, test: &Test) -> bool {
    let leaves = leaves(&dump.properties).unwrap_or_default();
    if *test == Test::Undefined {
        let is_inside = |of: &str| of.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        return !leaves.iter().any(|(of, _)| is_inside(of));
    }
    leaves.iter().filter(|(of, _)| of == path).any(|(_, leaf)| {
        let text = found(&leaf.text());
        match (test, leaf) {
            (Test::Amount(comparison, number), Leaf::Number(of)) => {
                let ordering = of.as_f64().and_then(|of| of.partial_cmp(number));
                ordering.is_some_and(|ordering| comparison.passes(ordering))
            }
            (Test::Text(comparison, with), _) => comparison.passes(text.cmp(&found(with))),
            (Test::Quoted(comparison, with), Leaf::Text(_)) => comparison.passes(text.cmp(&found(with))),
            (Test::Fits(glob), _) => glob.fits(&text),
            _ => false,
        }
    })
}
