//! Becomes a debugger of a dump: finds the files that were mapped when it was made, and begins gdb, lldb, or what opens a
//! kernel, with them. Runs in a sandbox that has the dump beside it.
//!
//! What was mapped is sought as an analysis seeks it, by build id; what is found goes into a folder laid out by build ids,
//! where debuggers look. They check again what they find there. `json` is here too: the one small tool that Thoth's
//! analyzers take for granted and few machines have.

use crate::core::Core;
use crate::core::note::AT_ENTRY;
use crate::kind::kind;
use crate::locate::{self, Sought, hex};
use crate::mapped::Mapped;
use crate::memory::read_some;
use crate::places::Places;
use model::report::DumpKind;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Where files are laid out by build id: the sandbox's own.
const FARM: &str = "/tmp/.quarry-debug";
/// Bytes of a module's beginning that tell it from others if it has no build id.
const PAGE_BYTES: usize = 4096;
/// Folders that a debugger is told to search.
const MAX_FOLDERS: usize = 64;
/// Bytes of JSON that are read.
const MAX_JSON_BYTES: u64 = 64 << 20;
/// What a shell ends with if there is no such program.
const NO_PROGRAM: u8 = 127;

/// What was found for a debugger.
#[derive(Debug, Default)]
struct Found {
    /// The program that died.
    program: Option<PathBuf>,
    /// Every file that was mapped.
    files: Vec<PathBuf>,
    /// Folders of debug information.
    debug: Vec<PathBuf>,
}

/// Becomes a debugger: the places come first, then the dump, then `--gdb` or `--lldb`, then its own arguments. With `json`
/// first it prints what stands at a path in the JSON that it reads.
pub fn debugger(arguments: &[OsString]) -> ExitCode {
    let ended = match arguments {
        [word, names @ ..] if word == "json" => print(names),
        [places, dump, rest @ ..] => debug(places, Path::new(dump), rest),
        _ => Err("usage: PLACES-AS-JSON DUMP [--gdb|--lldb] [ARGUMENT…]".to_owned()),
    };
    ended.unwrap_or_else(|why| {
        // Nobody listening is no reason to fail otherwise.
        let _ = writeln!(io::stderr(), "{why}");
        ExitCode::from(NO_PROGRAM)
    })
}

fn debug(places: &OsStr, dump: &Path, rest: &[OsString]) -> Result<ExitCode, String> {
    let places: Places =
        serde_json::from_slice(places.as_encoded_bytes()).map_err(|error| format!("the places are none: {error}"))?;
    let bytes = Mapped::open(dump).map_err(|error| format!("the dump cannot be read: {error}"))?;
    let (wanted, rest) = match rest {
        [word, rest @ ..] if word == "--gdb" || word == "--lldb" => (Some(word == "--lldb"), rest),
        rest => (None, rest),
    };
    let kind = kind(&bytes);
    match (kind, wanted) {
        (DumpKind::Kernel | DumpKind::Illumos, None) => Err(begin_one(&kernel(dump, rest))),
        (DumpKind::Core, _) | (DumpKind::Kernel, Some(_)) => {
            let found = find(&bytes, places);
            // gdb unless somebody says otherwise, or there is none.
            let usual =
                if wanted == Some(true) { vec![lldb(&found, dump, rest)] } else { vec![gdb(&found, dump, rest)] };
            let other = wanted.is_none().then(|| lldb(&found, dump, rest));
            Err(begin_one(&usual.into_iter().chain(other).collect::<Vec<_>>()))
        }
        (DumpKind::Minidump, _) => Err(begin_one(&[lldb(&Found::default(), dump, rest)])),
        _ => Err("this is no dump that a debugger opens; `dump show` tells what is in it".to_owned()),
    }
}

/// Begins the first of some programs that is there; returns why none is.
fn begin_one(programs: &[(&str, Vec<OsString>)]) -> String {
    for (program, arguments) in programs {
        let error = Command::new(program).args(arguments).exec();
        if error.kind() != io::ErrorKind::NotFound {
            return format!("`{program}` cannot be begun: {error}");
        }
    }
    let names: Vec<_> = programs.iter().map(|(program, _)| format!("`{program}`")).collect();
    format!("this node has no {}, which opens such a dump", names.join(" and no "))
}

fn kernel(dump: &Path, rest: &[OsString]) -> Vec<(&'static str, Vec<OsString>)> {
    let with = |words: &[&str]| {
        let own = words.iter().map(OsString::from).chain([dump.into()]);
        own.chain(rest.iter().cloned()).collect::<Vec<_>>()
    };
    vec![("crash", with(&[])), ("drgn", with(&["-c"]))]
}

/// Looks for the files that were mapped, and lays them out by build id.
fn find(bytes: &[u8], places: Places) -> Found {
    let farm = Path::new(FARM);
    let mut places = places;
    // The machine's own files come last: what the dump came from goes before.
    places.roots.push(PathBuf::from("/"));
    places.debug.push(PathBuf::from("/usr/lib/debug"));
    let mut found = Found { debug: vec![farm.to_owned()], ..Found::default() };
    found.debug.extend(places.debug.iter().filter(|folder| folder.is_dir()).take(MAX_FOLDERS).cloned());
    let Some(core) = Core::read(bytes) else { return found };
    let entry = core.aux(AT_ENTRY);
    for image in core.images() {
        let head = if image.bias.is_some() { read_some(&core, image.start, PAGE_BYTES) } else { Vec::new() };
        let sought = Sought { path: &image.path, build_id: image.build_id.as_deref(), head: &head };
        let Some(file) = locate::module(&sought, &places).file else { continue };
        let path = file.path().to_owned();
        if let Some(id) = image.build_id.as_deref().filter(|id| id.len() > 1) {
            let folder = farm.join(".build-id").join(hex(&id[..1]));
            // One that cannot be laid out is looked for where it was.
            let _ = std::fs::create_dir_all(&folder);
            let _ = std::os::unix::fs::symlink(&path, folder.join(hex(&id[1..])));
        }
        if entry.is_some_and(|entry| (image.start..image.end).contains(&entry)) {
            found.program = Some(path.clone());
        }
        found.files.push(path);
    }
    found
}

fn joined(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(":")
}

/// Returns the folders that files lie in, each once.
fn folders(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in files.iter().filter_map(|file| file.parent()) {
        if folders.len() < MAX_FOLDERS && !folders.iter().any(|other| other == folder) {
            folders.push(folder.to_owned());
        }
    }
    folders
}

fn gdb(found: &Found, dump: &Path, rest: &[OsString]) -> (&'static str, Vec<OsString>) {
    let settings = [
        "set debuginfod enabled off".to_owned(),
        format!("set debug-file-directory {}", joined(&found.debug)),
        format!("set solib-search-path {}", joined(&folders(&found.files))),
    ];
    let mut words: Vec<OsString> = settings.into_iter().flat_map(|one| ["-iex".into(), one.into()]).collect();
    words.extend(rest.iter().cloned());
    words.extend(found.program.iter().map(Into::into));
    words.extend(["-core".into(), dump.into()]);
    ("gdb", words)
}

fn lldb(found: &Found, dump: &Path, rest: &[OsString]) -> (&'static str, Vec<OsString>) {
    let mut words: Vec<OsString> = Vec::new();
    for folder in folders(&found.files) {
        words.extend(["-O".into(), format!("settings append target.exec-search-paths {}", folder.display()).into()]);
    }
    for folder in &found.debug {
        let setting = format!("settings append target.debug-file-search-paths {}", folder.display());
        words.extend(["-O".into(), setting.into()]);
    }
    words.extend(rest.iter().cloned());
    words.extend(["--core".into(), dump.into()]);
    words.extend(found.program.iter().map(Into::into));
    ("lldb", words)
}

/// Prints what stands at each path in the JSON on standard input, a line each; a text without its quotes, nothing for what
/// is not there. Options of the tool that this stands for change nothing.
fn print(names: &[OsString]) -> Result<ExitCode, String> {
    let mut text = Vec::new();
    io::stdin().take(MAX_JSON_BYTES).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let json: Value = serde_json::from_slice(&text).map_err(|error| format!("json: this is no JSON: {error}"))?;
    let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).filter(|name| !name.starts_with('-')).collect();
    let mut out = io::stdout().lock();
    let mut tell = |value: &Value| match value {
        Value::String(text) => writeln!(out, "{text}"),
        other => writeln!(out, "{}", serde_json::to_string_pretty(other).unwrap_or_default()),
    };
    let told = match names.is_empty() {
        true => tell(&json),
        false => names.iter().filter_map(|name| at(&json, name)).try_for_each(tell),
    };
    told.map(|()| ExitCode::SUCCESS).map_err(|error| error.to_string())
}

/// Returns what stands at a path: names, or places in a list, with a dot between each two.
fn at<'v>(json: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(json, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_through_objects_and_lists() {
        let json = serde_json::json!({ "cmd": "bc", "properties": { "a": [1, { "b": "x" }] } });
        let check = |path: &str, expected: Option<Value>| assert_eq!(at(&json, path).cloned(), expected, "{path}");
        check("cmd", Some("bc".into()));
        check("properties.a.1.b", Some("x".into()));
        check("properties.a.2", None);
        check("cmd.x", None);
        check("", None);
    }
}
