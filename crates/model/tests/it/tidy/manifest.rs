//! The rules on what is not Rust: which crate may know which, why each dependency is there, and what documents must say.

use super::Violation;
use toml::{Table, Value};

const MAX_ARCHITECTURE_LINES: usize = 200;

/// Which of our crates each of them may be built on, as ARCHITECTURE.md has it. Tests may use any.
const EDGES: [(&str, &[&str]); 8] = [
    ("model", &[]),
    ("store", &["model"]),
    ("client", &["model"]),
    ("sandbox", &["model"]),
    ("dump", &["model"]),
    ("server", &["model", "store"]),
    ("node", &["client", "dump", "model", "sandbox"]),
    ("cli", &["client", "dump", "model", "node", "server", "store"]),
];

/// A crate stands on those of ours that the plan gives it.
pub(super) fn edges(path: &str, name: &str, text: &str) -> Vec<Violation> {
    let violation = |line, what| Violation { path: path.to_owned(), line, what };
    let Some((_, known)) = EDGES.iter().find(|(crate_name, _)| *crate_name == name) else {
        let what = format!("the plan does not know the crate `{name}` (hint: ARCHITECTURE.md, then EDGES in tidy)");
        return vec![violation(1, what)];
    };
    let mut violations = Vec::new();
    for (key, package) in dependencies(&parse(path, text)) {
        let is_ours = EDGES.iter().any(|(crate_name, _)| *crate_name == package);
        if is_ours && !known.contains(&package.as_str()) {
            violations.push(violation(line_of(text, &key), format!("`{name}` may not stand on `{package}`")));
        }
    }
    violations
}

/// Each dependency of the workspace that is not our own has a sentence right above it.
pub(super) fn reasons(path: &str, text: &str) -> Vec<Violation> {
    let manifest = parse(path, text);
    let dependencies = manifest.get("workspace").and_then(|workspace| workspace.get("dependencies"));
    let names: Vec<_> = dependencies
        .and_then(Value::as_table)
        .into_iter()
        .flatten()
        .filter(|(_, value)| value.get("path").is_none())
        .map(|(name, _)| name)
        .collect();
    let section = text.lines().position(|line| line.trim() == "[workspace.dependencies]");
    let lines: Vec<_> = text.lines().collect();
    let lacks_reason = |name: &&String| {
        let after = section? + 1;
        // A key may be written dotted, `name.version = …`.
        let at = after + lines.get(after..)?.iter().position(|line| key_of(line) == name.as_str())?;
        let above = lines.get(at.checked_sub(1)?)?.trim();
        let is_sentence = above.starts_with("# ") && above.ends_with('.');
        (!is_sentence).then(|| Violation {
            path: path.to_owned(),
            line: at + 1,
            what: format!("no sentence above `{name}` says why it is here"),
        })
    };
    names.iter().filter_map(lacks_reason).collect()
}

/// The plan of the house is read in ten minutes.
pub(super) fn architecture_length(path: &str, text: &str) -> Vec<Violation> {
    let lines = text.lines().count();
    if lines <= MAX_ARCHITECTURE_LINES {
        return Vec::new();
    }
    let what = format!("the document has {lines} lines, over {MAX_ARCHITECTURE_LINES}");
    vec![Violation { path: path.to_owned(), line: MAX_ARCHITECTURE_LINES + 1, what }]
}

/// Every bench is told about where people look for it.
pub(super) fn unnamed_benches(path: &str, text: &str, benches: &[String]) -> Vec<Violation> {
    let is_unnamed = |bench: &&String| !text.contains(&format!("`{bench}`"));
    let violation = |bench| Violation { path: path.to_owned(), line: 1, what: format!("does not name `{bench}`") };
    benches.iter().filter(is_unnamed).map(violation).collect()
}

fn parse(path: &str, text: &str) -> Table {
    text.parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns key and package of everything a crate is built on, whatever the platform; its tests' needs are left out.
fn dependencies(manifest: &Table) -> Vec<(String, String)> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flatten();
    let mut places = vec![manifest];
    places.extend(targets.filter_map(|(_, target)| target.as_table()));
    let mut found = Vec::new();
    for place in places {
        for section in ["dependencies", "build-dependencies"] {
            for (key, value) in place.get(section).and_then(Value::as_table).into_iter().flatten() {
                let package = value.get("package").and_then(Value::as_str).unwrap_or(key);
                found.push((key.clone(), package.to_owned()));
            }
        }
    }
    found
}

/// Returns the line on which a key is first set, or the first line.
fn line_of(text: &str, key: &str) -> usize {
    text.lines()
        .position(|line| key_of(line) == key || line.ends_with(&format!("dependencies.{key}]")))
        .map_or(1, |at| at + 1)
}

/// Returns the first part of the key that a line sets.
fn key_of(line: &str) -> &str {
    line.split(['=', '.', ' ']).next().unwrap_or_default().trim_matches('"')
}

/// Expects violations on exactly these lines.
#[track_caller]
fn check(found: &[Violation], lines: &[usize]) {
    assert_eq!(found.iter().map(|violation| violation.line).collect::<Vec<_>>(), lines, "{found:?}");
}

#[test]
fn edges_bites() {
    let check = |name: &str, text: &str, lines: &[usize]| check(&edges("Cargo.toml", name, text), lines);
    check("server", "[dependencies]\nmodel.workspace = true\nstore = { path = \"../store\" }\naxum = \"0.8\"", &[]);
    check("server", "[dependencies]\nmodel.workspace = true\n[dev-dependencies]\nclient.workspace = true", &[]);
    check("server", "[dependencies]\nmodel.workspace = true\nclient.workspace = true", &[3]);
    check("node", "[dependencies]\nstore = { workspace = true }", &[2]);
    check("cli", "[dependencies]\nsandbox.workspace = true", &[2]);
    check("model", "[build-dependencies]\nclient = { path = \"../client\" }", &[2]);
    check("client", "[target.'cfg(unix)'.dependencies]\nstore.workspace = true", &[2]);
    check("dump", "[dependencies.store]\npath = \"../store\"", &[1]);
    check("dump", "[dependencies]\nshelf = { path = \"../store\", package = \"store\" }", &[2]);
    check("attic", "[dependencies]", &[1]);
}

#[test]
fn reasons_bites() {
    let check = |text: &str, lines: &[usize]| {
        check(&reasons("Cargo.toml", &format!("[workspace.dependencies]\n{text}")), lines);
    };
    check("# Does this.\na = \"1\"\n# Does that,\n# and more.\nb = { version = \"1\" }", &[]);
    check("model = { path = \"crates/model\" }", &[]);
    check("a = \"1\"", &[2]);
    check("# Does this.\na = \"1\"\nb.version = \"1\"", &[4]);
    check("# Does this.\n\na = \"1\"", &[4]);
    check("# -- heading --\na = \"1\"\n# two words\nb = \"1\"", &[3, 5]);
}

#[test]
fn architecture_length_bites() {
    check(&architecture_length("ARCHITECTURE.md", &"line\n".repeat(MAX_ARCHITECTURE_LINES)), &[]);
    check(&architecture_length("ARCHITECTURE.md", &"line\n".repeat(MAX_ARCHITECTURE_LINES + 1)), &[201]);
}

#[test]
fn unnamed_benches_bites() {
    let benches = ["store".to_owned(), "start".to_owned()];
    check(&unnamed_benches("README.md", "`store` and `start`", &benches), &[]);
    check(&unnamed_benches("README.md", "`store` and starting", &benches), &[1]);
}
