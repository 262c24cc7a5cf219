//! What docs/STYLE.md and ARCHITECTURE.md ask and no compiler checks, held against every file of the repository.
//!
//! A rule is a function from text to violations, in `tidy/rust.rs` for Rust and in `tidy/manifest.rs` for the rest, and is
//! shown to bite there. Here each is put to the real files; a test names all violations at once, as `path:line: what`.
//! What hides in the arguments of a macro is not measured, except for words that may stand nowhere.

mod manifest;
mod rust;

use rust::Source;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.what)
    }
}

#[test]
fn files_open_with_their_purpose() {
    check_sources(rust::opening);
}

#[test]
fn files_are_short() {
    check_sources(rust::file_length);
}

#[test]
fn functions_are_short() {
    check_sources(rust::function_length);
}

#[test]
fn functions_take_few_parameters() {
    check_sources(rust::parameters);
}

#[test]
fn public_functions_take_no_bool() {
    check_sources(rust::bool_parameters);
}

#[test]
fn unsafe_stands_only_in_sandbox() {
    check_sources(rust::unsafe_words);
}

#[test]
fn crates_forbid_unsafe_code() {
    check_sources(rust::unsafe_forbidden);
}

#[test]
fn lints_are_expected_and_never_allowed() {
    check_sources(rust::allow_attributes);
}

#[test]
fn modules_are_nouns() {
    let paths: Vec<_> = rust_files().iter().map(|path| relative(path)).collect();
    report(&paths.iter().filter_map(|path| rust::file_name(path)).collect::<Vec<_>>());
}

#[test]
fn crates_depend_as_planned() {
    let names: Vec<_> = crate_folders().iter().map(|folder| file_name(folder)).collect();
    let check = |name: &String| {
        let path = root().join("crates").join(name).join("Cargo.toml");
        manifest::edges(&relative(&path), name, &read(&path))
    };
    report(&names.iter().flat_map(check).collect::<Vec<_>>());
}

#[test]
fn dependencies_carry_their_reason() {
    report(&manifest::reasons("Cargo.toml", &read(&root().join("Cargo.toml"))));
}

#[test]
fn architecture_is_short() {
    let path = root().join("ARCHITECTURE.md");
    let found = if path.exists() { manifest::architecture_length(&relative(&path), &read(&path)) } else { Vec::new() };
    report(&found);
}

#[test]
fn benches_are_named() {
    let folder = root().join("bench");
    let is_bench = |path: &PathBuf| {
        let metadata = fs::metadata(path).expect("what a folder lists exists");
        metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
    };
    let benches: Vec<_> = entries(&folder).iter().filter(|path| is_bench(path)).map(|path| file_name(path)).collect();
    report(&manifest::unnamed_benches("bench/README.md", &read(&folder.join("README.md")), &benches));
}

/// Fails when there are violations, and tells all of them.
fn report(violations: &[Violation]) {
    let lines: Vec<_> = violations.iter().map(Violation::to_string).collect();
    assert!(lines.is_empty(), "{} violations of docs/STYLE.md:\n{}\n", lines.len(), lines.join("\n"));
}

fn check_sources(rule: fn(&Source) -> Vec<Violation>) {
    let files = rust_files();
    // An empty list would make every rule hold.
    assert!(files.len() > crate_folders().len(), "found no sources under {}", root().display());
    report(&files.iter().flat_map(|path| rule(&Source::parse(&relative(path), &read(path)))).collect::<Vec<_>>());
}

/// Returns every Rust file of every crate, in a stable order.
fn rust_files() -> Vec<PathBuf> {
    let mut folders: Vec<_> =
        crate_folders().iter().flat_map(|folder| [folder.join("src"), folder.join("tests")]).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn crate_folders() -> Vec<PathBuf> {
    entries(&root().join("crates")).into_iter().filter(|path| path.join("Cargo.toml").exists()).collect()
}

/// Returns what a folder holds, sorted; nothing when there is no such folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    if !folder.is_dir() {
        return Vec::new();
    }
    let listing = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = listing.map(|entry| entry.expect("the folder stays while we list it").path()).collect();
    paths.sort();
    paths
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("this crate lies in the repository")
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("only the repository is walked").display().to_string()
}

fn file_name(path: &Path) -> String {
    path.file_name().expect("what a folder lists has a name").to_string_lossy().into_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
