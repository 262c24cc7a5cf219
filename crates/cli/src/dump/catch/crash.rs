//! A crash as the kernel announces it, and what `/proc` still knows of the process: what a core does not hold.
//!
//! The process is as hostile as its core. Files are read as far as a bound and cut there; nothing is parsed that is not
//! lines of text, and no module is opened. What comes of it is a dump's property `process`, small enough for a row.

use super::account::MAX_PROGRAM_BYTES;
use super::settings::Settings;
use anyhow::Context;
use model::dump::{DumpFacts, MAX_WORD_CHARS};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of any of the process's files that are read.
const MAX_FILE_BYTES: u64 = 256 << 10;
/// Bytes of the file of its mappings.
const MAX_MAPS_BYTES: u64 = 4 << 20;
/// Characters of any text that is kept.
const MAX_TEXT_CHARS: usize = 1_024;
/// Characters of the command line.
const MAX_LINE_CHARS: usize = 3_072;
/// Variables that are kept.
const MAX_VARIABLES: usize = 32;
/// Modules that are named.
const MAX_MODULES: usize = 96;
/// Fields of a process's state, as proc(5) counts them: the first behind the program's name, and how it ended.
const FIRST_FIELD: usize = 3;
const EXIT_CODE: usize = 52;
/// Bytes of all of it; beyond that the longest parts are left out.
const MAX_BYTES: usize = 12 << 10;

/// A crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crash {
    /// The process, as the machine itself counts.
    pub(crate) pid: u32,
    /// Whose it was.
    pub(crate) uid: Option<u32>,
    /// Of which group.
    pub(crate) gid: Option<u32>,
    /// What ended it.
    pub(crate) signal: Option<u32>,
    /// When, in seconds since 1970.
    pub(crate) time: Option<i64>,
    /// Its own limit on cores.
    pub(crate) core_limit: Option<u64>,
    /// The machine.
    pub(crate) host: Option<String>,
    /// What the kernel calls the program.
    pub(crate) comm: Option<String>,
}

impl Crash {
    /// Reads the words that the kernel makes of `%P %u %g %s %t %c %h %e`; only the first must be there.
    pub(crate) fn of_words(words: &[OsString]) -> anyhow::Result<Self> {
        let text = |at: usize| words.get(at).map(|word| word.to_string_lossy().into_owned());
        let pid =
            text(0).and_then(|word| word.parse().ok()).context("the first word is not the number of a process")?;
        Ok(Self {
            pid,
            uid: text(1).and_then(|word| word.parse().ok()),
            gid: text(2).and_then(|word| word.parse().ok()),
            signal: text(3).and_then(|word| word.parse().ok()),
            time: text(4).and_then(|word| word.parse().ok()),
            core_limit: text(5).and_then(|word| word.parse().ok()),
            host: text(6).filter(|word| !word.is_empty()).map(|word| short(&word, MAX_WORD_CHARS)),
            comm: text(7).filter(|word| !word.is_empty()).map(|word| short(&word, MAX_WORD_CHARS)),
        })
    }
}

impl Crash {
    /// Returns the crash of a process that connected, of which the kernel says no more than whose it is; `/proc` says what
    /// the kernel's words would have said.
    pub(crate) fn of_peer(pid: u32, uid: u32, gid: u32) -> Self {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let (state, limits) = (read(&folder, "stat", MAX_FILE_BYTES), read(&folder, "limits", MAX_FILE_BYTES));
        Self {
            pid,
            uid: Some(uid),
            gid: Some(gid),
            signal: dying_of(&state),
            core_limit: core_limit(&limits),
            ..Self::default()
        }
    }
}

/// Returns the signal that a process is dying of: it is in the last field of its state from the moment that its other
/// threads are stopped, and so while its core is written.
fn dying_of(state: &str) -> Option<u32> {
    // Whatever the program is called, no bracket follows it.
    let fields = state.get(state.rfind(')')? + 1..)?;
    let status: u32 = fields.split_whitespace().nth(EXIT_CODE - FIRST_FIELD)?.parse().ok()?;
    Some(status & 0x7f).filter(|signal| *signal != 0)
}

/// Returns the limit on cores that holds for a process.
fn core_limit(limits: &str) -> Option<u64> {
    match field(limits, "Max core file size")?.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        bytes => bytes.parse().ok(),
    }
}

/// What was found out about a crash, all of it bounded.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Which program it was, for its account.
    pub(crate) program: String,
    /// What the dump's file would be called.
    pub(crate) name: String,
    /// What a dump's record has fields for.
    pub(crate) facts: DumpFacts,
    /// The rest.
    pub(crate) process: Value,
}

/// Looks at the process while it is still there.
pub(crate) fn look(crash: &Crash, settings: &Settings, now: jiff::Timestamp) -> Found {
    let folder = PathBuf::from(format!("/proc/{}", crash.pid));
    let program = link(&folder, "exe").map(|path| path.trim_end_matches(" (deleted)").to_owned());
    let comm = crash.comm.clone().or_else(|| line(&folder, "comm")).unwrap_or_else(|| "unknown".to_owned());
    let words = read(&folder, "cmdline", MAX_FILE_BYTES);
    let arguments: Vec<_> = split(&words).map(|word| shown(word, settings)).collect();
    let command_line = short(&arguments.join(" "), MAX_LINE_CHARS);
    let time = crash.time.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()).unwrap_or(now);
    let process = describe(&folder, crash, settings, (program.as_deref(), &command_line));
    let names = rustix::system::uname();
    let word = |text: &str| Some(short(text, MAX_WORD_CHARS)).filter(|text| !text.is_empty());
    let name: String = comm.chars().map(|c| if c.is_control() || c == '/' { '_' } else { c }).take(64).collect();
    Found {
        program: cut_bytes(program.as_deref().unwrap_or(&comm), MAX_PROGRAM_BYTES),
        name: format!("core.{name}.{}", crash.pid),
        facts: DumpFacts {
            time: Some(time),
            cmd: word(&comm),
            psargs: word(&command_line).map(|_| short(&command_line, MAX_WORD_CHARS * 4)),
            pid: Some(crash.pid),
            node: crash.host.clone().or_else(|| word(&names.nodename().to_string_lossy())),
            platform: word(&names.release().to_string_lossy()),
        },
        process,
    }
}

fn describe(folder: &Path, crash: &Crash, settings: &Settings, (program, line): (Option<&str>, &str)) -> Value {
    let mut all = Map::new();
    let mut put = |name: &str, value: Value| {
        let is_empty = value.is_null() || value == json!("") || value == json!({}) || value == json!([]);
        if !is_empty {
            all.insert(name.to_owned(), value);
        }
    };
    let text = |text: Option<&str>| text.map_or(Value::Null, |text| short(text, MAX_TEXT_CHARS).into());
    put("signal", json!(crash.signal));
    put("uid", json!(crash.uid));
    put("gid", json!(crash.gid));
    put("core_limit", json!(crash.core_limit));
    put("program", text(program));
    put("command_line", line.into());
    put("folder", text(link(folder, "cwd").as_deref()));
    let root = link(folder, "root").filter(|root| root != "/");
    put("root", text(root.as_deref()));
    let groups = read(folder, "cgroup", MAX_FILE_BYTES);
    let group = cgroup(&groups);
    put("cgroup", text(group));
    let environment = read(folder, "environ", MAX_FILE_BYTES);
    put("container", text(group.and_then(container)));
    put("unit", text(group.and_then(unit)));
    put("environment", variables(&environment, settings));
    put("limits", limits(&read(folder, "limits", MAX_FILE_BYTES)));
    let status = read(folder, "status", MAX_FILE_BYTES);
    for (name, key) in [("threads", "Threads:"), ("parent", "PPid:"), ("seccomp", "Seccomp:")] {
        put(name, field(&status, key).and_then(|text| text.parse::<u64>().ok()).map_or(Value::Null, Value::from));
    }
    put("inner_pid", field(&status, "NSpid:").and_then(inner).map_or(Value::Null, Value::from));
    put("modules", modules(&read(folder, "maps", MAX_MAPS_BYTES)));
    // A row holds only so much: the longest parts go first, and it is said that they did.
    for part in ["modules", "environment", "limits", "command_line"] {
        if serde_json::to_vec(&all).map_or(0, |bytes| bytes.len()) <= MAX_BYTES {
            break;
        }
        if all.remove(part).is_some() {
            all.insert("left_out".to_owned(), format!("`{part}` and what was longer").into());
        }
    }
    Value::Object(all)
}

/// Reads one of the process's files, as far as its bound.
fn read(folder: &Path, name: &str, max_bytes: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(folder.join(name)) {
        // What was read before something went wrong is better than nothing.
        let _ = file.take(max_bytes).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn line(folder: &Path, name: &str) -> Option<String> {
    let text = read(folder, name, MAX_FILE_BYTES);
    text.lines().next().filter(|line| !line.is_empty()).map(|line| short(line, MAX_WORD_CHARS))
}

fn link(folder: &Path, name: &str) -> Option<String> {
    let target = std::fs::read_link(folder.join(name)).ok()?;
    Some(target.to_string_lossy().into_owned())
}

/// Returns what zeros separate.
fn split(text: &str) -> impl Iterator<Item = &str> {
    text.trim_end_matches('\0').split('\0').filter(|_| !text.is_empty())
}

/// Returns the group of version 2, or else the first that is not the root.
fn cgroup(text: &str) -> Option<&str> {
    let paths = || text.lines().filter_map(|line| line.splitn(3, ':').nth(2).map(|path| (line, path)));
    let unified = paths().find(|(line, path)| line.starts_with("0::") && *path != "/");
    unified.or_else(|| paths().find(|(_, path)| *path != "/")).map(|(_, path)| path)
}

/// Returns a container's id as its group's name tells it: 64 hexadecimal digits, with the runtime's word around them.
fn container(group: &str) -> Option<&str> {
    let is_id = |part: &&str| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    group.split(['/', '-', '.', ':']).find(is_id)
}

/// Returns the service or scope that a group belongs to.
fn unit(group: &str) -> Option<&str> {
    group.rsplit('/').find(|part| part.ends_with(".service") || part.ends_with(".scope"))
}

/// Returns an argument as it is noted: without its value, if rules leave that out of the core.
fn shown<'w>(word: &'w str, settings: &Settings) -> Cow<'w, str> {
    match (word.split_once('='), &settings.left_out) {
        (Some((name, _)), Some(rules)) if rules.leaves_out(name) => Cow::Owned(format!("{name}=…")),
        _ => Cow::Borrowed(word),
    }
}

fn variables(text: &str, settings: &Settings) -> Value {
    let is_kept =
        |name: &str| settings.keeps(name) && settings.left_out.as_ref().is_none_or(|rules| !rules.leaves_out(name));
    let kept = split(text).filter_map(|one| one.split_once('=')).filter(|(name, _)| is_kept(name));
    let short = |(name, value): (&str, &str)| (short(name, 64), Value::from(short(value, 256)));
    Value::Object(kept.take(MAX_VARIABLES).map(short).collect())
}

/// Returns the limits by name, each as the kernel shows it: soft, hard and unit.
fn limits(text: &str) -> Value {
    let mut all = Map::new();
    for line in text.lines().skip(1).take(32).filter(|line| line.len() > 26 && line.is_char_boundary(26)) {
        let (name, rest) = line.split_at(26);
        let name = name.trim().trim_start_matches("Max ").replace(' ', "_");
        let rest: Vec<_> = rest.split_whitespace().take(2).collect();
        all.insert(short(&name, 64), short(&rest.join(" "), 64).into());
    }
    Value::Object(all)
}

fn field<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

/// Returns the process's number within its innermost namespace, if it has another there.
fn inner(text: &str) -> Option<u64> {
    let mut numbers = text.split_whitespace();
    numbers.next()?;
    numbers.next_back()?.parse().ok()
}

/// Returns the files that were mapped to be executed.
fn modules(text: &str) -> Value {
    let path = |line: &str| {
        let at = line.find('/')?;
        let is_executable = line.split_whitespace().nth(1).is_some_and(|flags| flags.contains('x'));
        is_executable.then(|| short(line.get(at..)?, 256).into())?
    };
    let paths: BTreeSet<String> = text.lines().filter_map(path).take(MAX_MODULES).collect();
    Value::from(paths.into_iter().collect::<Vec<_>>())
}

/// Returns a text's beginning, without what no row holds.
fn short(text: &str, max_chars: usize) -> String {
    text.chars().take(max_chars).map(|c| if c == '\0' { ' ' } else { c }).collect()
}

fn cut_bytes(text: &str, max_bytes: usize) -> String {
    text[..text.floor_char_boundary(max_bytes)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let crash = Crash::of_words(&words("77 1000 100 11 1790000000 0 host my program")).expect("is read");
        assert_eq!((crash.pid, crash.uid, crash.signal, crash.core_limit), (77, Some(1000), Some(11), Some(0)));
        assert_eq!((crash.host.as_deref(), crash.comm.as_deref()), (Some("host"), Some("my")));
        // No limit is more than a number of 64 bits can say as a signed one.
        let endless = Crash::of_words(&words("1 0 0 6 1790000000 18446744073709551615 h c")).expect("is read");
        assert_eq!(endless.core_limit, Some(u64::MAX));
        assert_eq!(Crash::of_words(&words("5")).expect("is enough").pid, 5);
        assert!(Crash::of_words(&words("x")).is_err());
        assert!(Crash::of_words(&[]).is_err());
    }

    #[test]
    fn what_a_process_dies_of_is_in_its_state() {
        let state =
            |code: &str| format!("77 (a) (b) S 1 {} {code}\n", "0 ".repeat(EXIT_CODE - FIRST_FIELD - 2).trim_end());
        assert_eq!(dying_of(&state("11")), Some(11));
        assert_eq!(dying_of(&state("134")), Some(6), "the bit says that there is a core");
        assert_eq!(dying_of(&state("256")), None, "it ended by itself");
        assert_eq!(dying_of(&state("0")), None);
        assert_eq!(dying_of("77 (a"), None);
        let limit = |words: &str| core_limit(&format!("Limit  Soft\nMax core file size        {words} bytes     \n"));
        assert_eq!(limit("0                    unlimited"), Some(0));
        assert_eq!(limit("unlimited            unlimited"), Some(u64::MAX));
        assert_eq!(core_limit(""), None);
        // This process lives, and its own files have all that is looked for.
        let crash = Crash::of_peer(std::process::id(), 1, 2);
        assert_eq!((crash.uid, crash.gid, crash.signal, crash.core_limit.is_some()), (Some(1), Some(2), None, true));
    }

    #[test]
    fn groups_tell_containers_and_units() {
        let id = "0123456789abcdef".repeat(4);
        let check = |group: &str, expected: (Option<&str>, Option<&str>)| {
            assert_eq!((container(group), unit(group)), expected, "{group}");
        };
        check(&format!("/system.slice/docker-{id}.scope"), (Some(&id), Some(&format!("docker-{id}.scope"))));
        check(&format!("/kubepods/burstable/pod1/{id}"), (Some(&id), None));
        check("/system.slice/ssh.service", (None, Some("ssh.service")));
        check("/", (None, None));
        assert_eq!(cgroup("1:name=systemd:/\n0::/a/b\n"), Some("/a/b"));
        assert_eq!(cgroup("2:memory:/job\n1:name=systemd:/\n0::/\n"), Some("/job"));
        assert_eq!(cgroup("0::/\n"), None);
    }

    #[test]
    fn a_living_process_is_told_of() {
        let settings = Settings { environment: vec!["PATH".to_owned()], ..Settings::default() };
        let crash = Crash { pid: std::process::id(), signal: Some(11), ..Crash::default() };
        let found = look(&crash, &settings, client::id::now());
        assert!(found.program.contains("/deps/"), "{found:?}");
        assert!(found.process["modules"][0].is_string() && found.process["limits"]["open_files"].is_string());
        assert!(found.process["environment"]["PATH"].is_string() && found.process["environment"]["HOME"].is_null());
        let bytes = serde_json::to_vec(&found.process).expect("is JSON").len();
        assert!(bytes <= MAX_BYTES, "{bytes}");
    }

    #[test]
    fn a_process_that_is_gone_is_told_of_too() {
        let crash = Crash { pid: u32::MAX, comm: Some("../a b\n".to_owned()), ..Crash::default() };
        let found = look(&crash, &Settings::default(), client::id::now());
        assert_eq!((&*found.program, &*found.name), ("../a b\n", "core..._a b_.4294967295"));
    }
}
