//! docs/report.md is a contract: it names every field and every word of a report, no other, and its example is one.

use model::report::Report;
use std::collections::{BTreeMap, BTreeSet};

const DOCUMENT: &str = include_str!("../../../../docs/report.md");
const TYPES: &str = include_str!("../../../model/src/report.rs");
/// Where classes of crashes are given.
const SOURCES: [&str; 3] = [
    include_str!("../../src/crash.rs"),
    include_str!("../../src/minidump.rs"),
    include_str!("../../src/kernel/oops.rs"),
];

type Names = BTreeMap<String, BTreeSet<String>>;

fn snake(name: &str) -> String {
    let mut text = String::new();
    for (at, sign) in name.chars().enumerate() {
        if sign.is_ascii_uppercase() && at > 0 {
            text.push('_');
        }
        text.push(sign.to_ascii_lowercase());
    }
    text
}

/// Returns the fields of each type of a report, and the words of each enum.
fn types() -> Names {
    let mut names = Names::new();
    let mut of = None;
    for line in TYPES.lines().take_while(|line| !line.starts_with("#[cfg(test)]")) {
        let word = |rest: &str| rest.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
        if let Some(rest) = line.strip_prefix("pub struct ").or(line.strip_prefix("pub enum ")) {
            of = line.ends_with('{').then(|| word(rest));
        } else if line == "}" {
            of = None;
        }
        let Some(of) = &of else { continue };
        let field =
            line.strip_prefix("    pub ").and_then(|rest| rest.split_once(':')).map(|(name, _)| name.to_owned());
        let bare = line.strip_prefix("    ").and_then(|rest| rest.strip_suffix(','));
        let variant = bare.filter(|name| name.chars().all(char::is_alphanumeric)).map(snake);
        names.entry(of.clone()).or_default().extend(field.or(variant));
    }
    names
}

/// Returns what stands first in the tables under each heading.
fn documented() -> Names {
    let mut names = Names::new();
    let mut under = "";
    for line in DOCUMENT.lines() {
        under = line.strip_prefix("## ").unwrap_or(under);
        if let Some((name, _)) = line.strip_prefix("| `").and_then(|rest| rest.split_once('`')) {
            names.entry(under.to_owned()).or_default().insert(name.to_owned());
        }
    }
    names
}

#[test]
fn every_field_and_word_is_documented() {
    let (types, documented) = (types(), documented());
    assert!(types.len() >= 15 && types["Report"].len() >= 11, "{types:?}");
    for (name, fields) in &types {
        let found = documented.get(name).cloned().unwrap_or_default();
        let missing: Vec<_> = fields.difference(&found).collect();
        let others: Vec<_> = found.difference(fields).collect();
        assert!(
            missing.is_empty() && others.is_empty(),
            "`{name}` of docs/report.md lacks {missing:?}, and has {others:?}"
        );
    }
    for name in documented.keys() {
        assert!(types.contains_key(name), "docs/report.md has a table of `{name}`, which no report holds");
    }
}

#[test]
fn every_class_is_documented() {
    let classes = DOCUMENT.split("## Classes").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("is there");
    let is_class = |word: &str| word.len() > 2 && word.chars().all(|sign| sign.is_ascii_lowercase() || sign == '_');
    let mut seen = 0;
    for source in SOURCES {
        for start in ["Verdict::new(\"", "class: \""] {
            for word in
                source.split(start).skip(1).filter_map(|rest| rest.split('"').next()).filter(|word| is_class(word))
            {
                assert!(classes.contains(&format!("`{word}`")), "docs/report.md does not tell of the class `{word}`");
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "only {seen} classes were found");
}

#[test]
fn the_example_is_a_report() {
    let example = DOCUMENT.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("has an example");
    let report: Report = serde_json::from_str(example).expect("is a report");
    let back = serde_json::to_value(&report).expect("is JSON");
    assert_eq!(back, serde_json::from_str::<serde_json::Value>(example).expect("is JSON"), "nothing in it is ignored");
}
