//! Becomes a debugger of a dump: finds the files that were mapped when it was made, and begins gdb, lldb, or what opens a
//! kernel, with them. Runs in a sandbox that has the dump beside it.
//!
//! What was mapped is sought as an analysis seeks it, by build id; what is not here the node is asked for (`errand.rs`), and
//! what is found goes into a folder where debuggers look (`ground.rs`). They check again what they find there. `json` is
//! here too: the one small tool that Thoth's analyzers take for granted and few machines have.

mod errand;
mod ground;

use crate::core::Core;
use crate::kernel::{Identity, identity};
use crate::kind::kind;
use crate::locate;
use crate::mapped::Mapped;
use crate::places::Places;
use errand::{Errand, say};
use ground::{Found, Ground};
use model::analysis::{Lack, Wanted};
use model::pack::check_build_id;
use model::report::DumpKind;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Where files are laid out by build id: the sandbox's own.
const FARM: &str = "/tmp/.quarry-debug";
/// Times that the node is asked: what comes first may show what else is missing.
const MAX_ERRANDS: usize = 3;
/// Folders that a debugger is told to search.
const MAX_FOLDERS: usize = 64;
/// Bytes of JSON that are read.
const MAX_JSON_BYTES: u64 = 64 << 20;
/// What a shell ends with if there is no such program.
const NO_PROGRAM: u8 = 127;

/// Becomes a debugger: the places come first, then the dump, then perhaps which (`--gdb`, `--lldb`, `--crash`, `--drgn`), then
/// its own arguments. With `json` first it prints what stands at a path in the JSON that it reads.
pub fn debugger(arguments: &[OsString]) -> ExitCode {
    let ended = match arguments {
        [word, names @ ..] if word == "json" => print(names),
        [places, dump, rest @ ..] => debug(places, Path::new(dump), rest),
        _ => Err("usage: PLACES-AS-JSON DUMP [--gdb|--lldb|--crash|--drgn] [ARGUMENT…]".to_owned()),
    };
    ended.unwrap_or_else(|why| {
        // Nobody listening is no reason to fail otherwise.
        let _ = writeln!(io::stderr(), "{why}");
        ExitCode::from(NO_PROGRAM)
    })
}

fn debug(places: &OsStr, dump: &Path, rest: &[OsString]) -> Result<ExitCode, String> {
    let mut places: Places =
        serde_json::from_slice(places.as_encoded_bytes()).map_err(|error| format!("the places are none: {error}"))?;
    // The machine's own files come last: what the dump came from goes before.
    places.roots.push(PathBuf::from("/"));
    places.debug.push(PathBuf::from("/usr/lib/debug"));
    let bytes = Mapped::open(dump).map_err(|error| format!("the dump cannot be read: {error}"))?;
    let said = rest.first().and_then(|word| word.to_str()?.strip_prefix("--"));
    let wanted = NAMES.into_iter().find(|name| said == Some(name));
    let rest = if wanted.is_some() { &rest[1..] } else { rest };
    let (begun, hint) = match (kind(&bytes), wanted) {
        (DumpKind::Illumos, _) => {
            return Err("only `mdb` on illumos opens this dump; `dump download` fetches it for there".to_owned());
        }
        (DumpKind::Kernel, None | Some("crash" | "drgn")) => (kernel(&bytes, &places, dump, rest), KERNELS),
        (DumpKind::Core, None | Some("gdb" | "lldb")) | (DumpKind::Kernel, Some(_)) => {
            let found = find(&bytes, &places);
            (vec![gdb(&found, &places, dump, rest), lldb(&found, &places, dump, rest)], CORES)
        }
        (DumpKind::Minidump, None | Some("lldb")) => (vec![lldb(&Found::default(), &places, dump, rest)], MINIDUMPS),
        (DumpKind::Core | DumpKind::Minidump, Some(name)) => {
            return Err(format!("`{name}` does not open such a dump; without its name, what does is taken"));
        }
        _ => return Err("this is no dump that a debugger opens; `dump show` tells what is in it".to_owned()),
    };
    let is_meant = |(name, _): &Begun| wanted.is_none_or(|wanted| wanted == *name);
    Err(begin_one(&begun.into_iter().filter(is_meant).collect::<Vec<_>>(), hint))
}

/// The debuggers, by their names; of those that open a dump the first is taken, unless somebody names another.
const NAMES: [&str; 4] = ["gdb", "lldb", "crash", "drgn"];
/// What is to be done where there is no debugger.
const CORES: &str = "install one of them there, such as Debian's `gdb`";
const MINIDUMPS: &str = "install it there (Debian: `lldb`)";
const KERNELS: &str = "install one of them there (Debian: `crash` or `python3-drgn`; PyPI: `drgn`)";

/// Begins the first of some programs that is there; returns why none is.
fn begin_one(programs: &[Begun], hint: &str) -> String {
    for (program, arguments) in programs {
        let error = Command::new(program).args(arguments).exec();
        if error.kind() != io::ErrorKind::NotFound {
            return format!("`{program}` cannot be begun: {error}");
        }
    }
    let names: Vec<_> = programs.iter().map(|(program, _)| format!("`{program}`")).collect();
    format!("this node has no {}, which opens such a dump: {hint}", names.join(" and no "))
}

/// A program, and its arguments.
type Begun = (&'static str, Vec<OsString>);

/// Says how a kernel's dump is opened, with the kernel's own file if that can be found.
fn kernel(bytes: &[u8], places: &Places, dump: &Path, rest: &[OsString]) -> Vec<Begun> {
    let Identity { release, build_id } = identity(bytes);
    let id = build_id.as_deref().filter(|id| check_build_id(id).is_ok());
    let raw = id.and_then(bytes_of);
    let seek = || locate::kernel(raw.as_deref(), release.as_deref(), places).file;
    let mut file = seek();
    if let (None, Some(id), Some(mut errand)) = (&file, id, Errand::told()) {
        let wanted = Wanted { build_id: id.to_owned(), lack: Lack::Debug, has_frames: true };
        match errand.run(vec![wanted]) {
            Ok(_) => file = seek(),
            Err(error) => say(&format!("[the node cannot be asked for the kernel's file: {error}]")),
        }
    }
    let file = file.map(|file| file.path().as_os_str().to_owned());
    let is_bare = file.is_none();
    if is_bare {
        let release = release.as_deref().unwrap_or("unknown");
        let id = id.unwrap_or("unknown");
        say(&format!(
            "[the kernel's `vmlinux` is not here (release {release}, build id {id}): install its debug symbols on the \
             node, or have the node ask a debuginfod server for it]"
        ));
    }
    let with = |words: Vec<OsString>| words.into_iter().chain(rest.iter().cloned()).collect::<Vec<_>>();
    let crash = file.clone().into_iter().chain([dump.into()]).collect();
    let symbols = file.into_iter().flat_map(|file| ["-s".into(), file]);
    let drgn = ["-c".into(), dump.into()].into_iter().chain(symbols).collect();
    let mut begun = vec![("crash", with(crash)), ("drgn", with(drgn))];
    if is_bare {
        // crash does nothing without it; drgn reads memory.
        begun.reverse();
    }
    begun
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
}

/// Looks for the files that were mapped, asks the node for what is not here, and lays all of it out.
fn find(bytes: &[u8], places: &Places) -> Found {
    let Some(core) = Core::read(bytes) else { return Found::default() };
    let mut ground = Ground::find(&core, places);
    if let Some(mut errand) = Errand::told() {
        for _ in 0..MAX_ERRANDS {
            match errand.run(ground.wanted()) {
                Ok(true) => ground = Ground::find(&core, places),
                Ok(false) => break,
                Err(error) => {
                    say(&format!("[the node cannot be asked for what is not here: {error}]"));
                    break;
                }
            }
        }
    }
    ground.lay_out(&core, Path::new(FARM))
}

/// Returns the folders in which debug information is, ours first.
fn debug_folders(places: &Places) -> Vec<PathBuf> {
    let there = places.debug.iter().filter(|folder| folder.is_dir()).take(MAX_FOLDERS);
    [PathBuf::from(FARM)].into_iter().chain(there.cloned()).collect()
}

/// Returns what a debugger is to be told of, if its path is a plain word to it, and what is added to its addresses.
fn placed(found: &Found) -> impl Iterator<Item = (&str, u64)> {
    let is_plain = |path: &&str| path.bytes().all(|one| one.is_ascii_alphanumeric() || b"/-_.+".contains(&one));
    found.placed.iter().filter_map(move |(path, bias)| Some((path.to_str().filter(is_plain)?, *bias)))
}

fn gdb(found: &Found, places: &Places, dump: &Path, rest: &[OsString]) -> Begun {
    let folders: Vec<_> = debug_folders(places).iter().map(|folder| folder.display().to_string()).collect();
    let settings = [
        "set debuginfod enabled off".to_owned(),
        format!("set debug-file-directory {}", folders.join(":")),
        // Whatever this machine has under the same name is another machine's.
        format!("set sysroot {FARM}/root"),
        format!("set solib-search-path {FARM}/names"),
    ];
    let mut words: Vec<OsString> = settings.into_iter().flat_map(|one| ["-iex".into(), one.into()]).collect();
    for (file, bias) in placed(found) {
        // It would say which file it reads, and ask.
        let command = format!("pipe add-symbol-file {file} -o {bias:#x} | cat > /dev/null");
        words.extend(["-ex".into(), command.into()]);
    }
    words.extend(rest.iter().cloned());
    words.extend(found.program.iter().map(Into::into));
    words.extend(["-core".into(), dump.into()]);
    ("gdb", words)
}

fn lldb(found: &Found, places: &Places, dump: &Path, rest: &[OsString]) -> Begun {
    let mut words: Vec<OsString> = Vec::new();
    let mut settings = vec![format!("settings append target.exec-search-paths {FARM}/names")];
    for folder in debug_folders(places) {
        settings.push(format!("settings append target.debug-file-search-paths {}", folder.display()));
    }
    words.extend(settings.into_iter().flat_map(|one| ["-O".into(), one.into()]));
    for (file, bias) in placed(found) {
        let commands =
            [format!("target modules add {file}"), format!("target modules load --file {file} --slide {bias:#x}")];
        words.extend(commands.into_iter().flat_map(|one| ["-o".into(), one.into()]));
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

    /// Returns a kernel's dump with nothing in it but who the kernel is.
    fn vmcore(info: &str) -> Vec<u8> {
        let name = b"VMCOREINFO\0\0";
        let mut note: Vec<u8> = [11, info.len() as u32, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        note.extend_from_slice(name);
        note.extend_from_slice(info.as_bytes());
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        bytes.resize(16, 0);
        let mut put = |value: u64, width: usize| bytes.extend_from_slice(&value.to_le_bytes()[..width]);
        for (value, width) in
            [(4, 2), (62, 2), (1, 4), (0, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (1, 2), (0, 6)]
        {
            put(value, width);
        }
        for (value, width) in [(4, 4), (0, 4), (120, 8), (0, 8), (0, 8), (note.len() as u64, 8), (0, 8), (4, 8)] {
            put(value, width);
        }
        bytes.extend(note);
        bytes
    }

    #[test]
    fn a_kernel_is_opened_with_its_own_file() {
        let folder = tempfile::tempdir().expect("is made");
        let (source, root) = (folder.path().join("vmlinux.c"), folder.path().join("root"));
        std::fs::write(&source, "int main(void) { return 0; }").expect("is written");
        std::fs::create_dir_all(root.join("boot")).expect("is made");
        let file = root.join("boot/vmlinux-6.1.0-18-amd64");
        let words = ["-nostdlib", "-Wl,-e,main", "-Wl,--build-id=0x0123456789abcdef", "-o"];
        let made = Command::new("cc").args(words).arg(&file).arg(&source).status();
        assert!(made.expect("there is a C compiler (Debian: gcc)").success());
        let places = Places { roots: vec![root], ..Places::default() };
        let check = |info: &str, found: bool| {
            let bytes = vmcore(info);
            assert_eq!(kind(&bytes), DumpKind::Kernel, "{info}");
            let begun = kernel(&bytes, &places, Path::new("/dump"), &["-q".into()]);
            let file = found.then(|| file.display().to_string());
            let words =
                |words: &[OsString]| words.iter().map(|one| one.to_string_lossy().into_owned()).collect::<Vec<_>>();
            let crash: Vec<_> = file.iter().cloned().chain(["/dump".into(), "-q".into()]).collect();
            let symbols = file.iter().flat_map(|file| ["-s".to_owned(), file.clone()]);
            let drgn: Vec<_> = ["-c".into(), "/dump".into()].into_iter().chain(symbols).chain(["-q".into()]).collect();
            let mut expected = vec![("crash", crash), ("drgn", drgn)];
            if !found {
                expected.reverse();
            }
            assert_eq!(begun.iter().map(|(name, given)| (*name, words(given))).collect::<Vec<_>>(), expected, "{info}");
        };
        check("OSRELEASE=6.1.0-18-amd64\nBUILD-ID=0123456789abcdef\n", true);
        check("OSRELEASE=6.1.0-18-amd64\n", true);
        check("OSRELEASE=6.1.0-18-amd64\nBUILD-ID=0123456789abcd00\n", false);
        check("OSRELEASE=../vmlinux-6.1.0-18-amd64\nBUILD-ID=x\n", false);
        check("PAGESIZE=4096\n", false);
    }

    #[test]
    fn a_debugger_is_not_begun_on_what_it_does_not_open() {
        let folder = tempfile::tempdir().expect("is made");
        let check = |bytes: &[u8], word: &str, expected: &str| {
            let dump = folder.path().join("dump");
            std::fs::write(&dump, bytes).expect("is written");
            let why = debug("{}".as_ref(), &dump, &[word.into()]).expect_err("nothing is begun");
            assert!(why.contains(expected), "{word}: {why}");
        };
        // A core is what has no note of a kernel's.
        let core: Vec<u8> = vmcore("").iter().map(|byte| if *byte == b'V' { b'v' } else { *byte }).collect();
        assert_eq!(kind(&core), DumpKind::Core);
        check(&core, "--crash", "`crash` does not open such a dump");
        check(&core, "--drgn", "`drgn` does not open such a dump");
        check(b"MDMP", "--gdb", "`gdb` does not open such a dump");
        check(b"dear diary", "--lldb", "no dump that a debugger opens");
    }

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
