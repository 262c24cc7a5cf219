//! `collect` in a real house: what lies about is brought once, packed as it may be, with what its attributes tell.

use crate::dump::{core, noise};
use crate::stub::{Ran, run_with};
use crate::system::{Engine, House, Server};
use rustix::fs::{XattrFlags, setxattr};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

struct Fleet {
    house: House,
    server: Server,
    token: String,
}

impl Fleet {
    fn new() -> Self {
        let house = House::new(Engine::Sqlite).expect("needs nothing");
        let server = house.start();
        let token = house.token();
        std::fs::create_dir_all(house.home().join("cores/deeper")).expect("is made");
        Self { house, server, token }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.house.home().join("cores").join(name)
    }

    fn core(&self, name: &str, seed: u64) -> PathBuf {
        let path = self.path(name);
        core(&path, &seed.to_le_bytes(), &noise(seed, 300_000));
        path
    }

    fn collect(&self, words: &[&str]) -> Ran {
        let lock = self.house.home().join("lock");
        let all = [&["collect", "cores", "--lock", lock.to_str().expect("is text")], words].concat();
        self.server.run(&self.token, &all)
    }

    /// Returns the lines of the result, without how long it took, sorted; and the exit code.
    fn lines(&self, words: &[&str]) -> (i32, Vec<String>) {
        let ran = self.collect(words);
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let masked = |line: &str| line.replace(&host, "HOST").replace(" in 0h0m0s", "").replace(" in 0h0m1s", "");
        let mut lines: Vec<_> = ran.out.lines().map(masked).collect();
        lines.sort();
        (ran.code, lines)
    }

    fn dump(&self, path: &Path) -> Value {
        let object = self.server.run(&self.token, &["dump", "object", path.to_str().expect("is text")]);
        let ran = self.server.run(&self.token, &["dump", "download", object.out.trim(), "-o", "back", "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let (back, file) = (self.house.home().join("back"), std::fs::read(path).expect("is read"));
        assert!(std::fs::read(&back).expect("is there") == file, "it is not what was there");
        serde_json::from_str(&ran.out).expect("is JSON")
    }
}

fn pack(tool: &str, words: &[&str], path: &Path) {
    let ran = Command::new(tool).args(words).arg(path).output().expect("runs");
    assert!(ran.status.success(), "{ran:?}");
}

#[test]
fn what_lies_about_is_brought_once() {
    let fleet = Fleet::new();
    fleet.core("core.bc.1.ticket=OS-7.zone=west", 1);
    fleet.core("deeper/core.bc.2", 2);
    std::fs::write(fleet.path("notes.txt"), "no dump").expect("is written");
    // A link may lead to what nobody meant to send.
    std::os::unix::fs::symlink("/etc/hostname", fleet.path("core.link")).expect("is made");
    let (code, lines) = fleet.lines(&["--dry-run"]);
    let expected = [
        "HOST: would upload 2 (128.5 MiB), 0 already uploaded, 0 failed",
        "cores/core.bc.1.ticket=OS-7.zone=west: would upload core.bc.1.ticket=OS-7.zone=west (64.2 MiB)",
        "cores/deeper/core.bc.2: would upload core.bc.2 (64.2 MiB)",
    ];
    assert_eq!((code, lines), (0, expected.map(str::to_owned).to_vec()));
    let (code, lines) = fleet.lines(&[]);
    assert_eq!(code, 0, "{lines:?}");
    assert!(lines[0].starts_with("HOST: 2 uploaded (") && lines[0].ends_with(" sent), 0 already uploaded, 0 failed"));
    assert_eq!(lines[1..], ["cores/core.bc.1.ticket=OS-7.zone=west: succeeded", "cores/deeper/core.bc.2: succeeded"]);
    let (code, lines) = fleet.lines(&[]);
    let expected = [
        "HOST: 0 uploaded (0 B sent), 2 already uploaded, 0 failed",
        "cores/core.bc.1.ticket=OS-7.zone=west: already uploaded",
        "cores/deeper/core.bc.2: already uploaded",
    ];
    assert_eq!((code, lines), (0, expected.map(str::to_owned).to_vec()));
    let dump = fleet.dump(&fleet.path("core.bc.1.ticket=OS-7.zone=west"));
    assert_eq!((&dump["ticket"], &dump["properties"]["zone"]), (&json!("OS-7"), &json!("west")), "{dump}");
    assert!(dump["properties"]["sysinfo"]["Kernel"].is_string(), "{dump}");
    // One that somebody uploaded by hand gets what it lacks.
    fleet.core("core.other.3", 3);
    assert_eq!(fleet.server.run(&fleet.token, &["dump", "upload", "cores/core.other.3"]).code, 0);
    assert!(fleet.dump(&fleet.path("core.other.3"))["properties"]["sysinfo"].is_null());
    let (code, lines) = fleet.lines(&["--type", "other"]);
    assert_eq!((code, &*lines[1]), (0, "cores/core.other.3: already uploaded"), "{lines:?}");
    assert!(fleet.dump(&fleet.path("core.other.3"))["properties"]["sysinfo"].is_object());
    fleet.server.stop();
}

#[test]
fn a_trial_tells_what_would_be_done() {
    let fleet = Fleet::new();
    std::fs::write(fleet.path("core.panic"), "thread 'main' panicked at src/main.rs:7:5:\nno more apples\n")
        .expect("is written");
    std::fs::write(fleet.path("core.notes"), "what I know of cores\n").expect("is written");
    std::fs::write(fleet.path("core.empty"), "").expect("is written");
    let mut kernel = b"makedumpfile\0\0\0\0".to_vec();
    kernel.resize(8 << 10, 1);
    std::fs::write(fleet.path("core.machine"), kernel).expect("is written");
    let none = ["cores/core.empty: no dump", "cores/core.notes: no dump"].map(str::to_owned);
    let check = |words: &[&str], sum: &str, machine: &str, panic: &str| {
        let (code, lines) = fleet.lines(words);
        let [empty, notes] = none.clone();
        let machine = format!("cores/core.machine: {machine}");
        let expected =
            [format!("HOST: {sum}, 2 no dumps"), empty, machine, notes, format!("cores/core.panic: {panic}")];
        assert_eq!((code, lines), (0, expected.to_vec()), "{words:?}");
    };
    let would = "would upload 2 (8 KiB), 0 already uploaded, 0 failed";
    check(&["-n"], would, "would upload core.machine (8 KiB)", "would upload core.panic (58 B)");
    assert_eq!(fleet.server.run(&fleet.token, &["dump", "report"]).out, "0\n");
    let (code, lines) = fleet.lines(&[]);
    assert!(code == 0 && lines[0].starts_with("HOST: 2 uploaded (") && lines[0].ends_with(", 2 no dumps"), "{lines:?}");
    // What is named by its content is known as well, and what was dropped does not come back.
    let known = "0 uploaded (0 B sent), 2 already uploaded, 0 failed";
    check(&["-n"], known, "already uploaded", "already uploaded");
    assert_eq!(fleet.server.run(&fleet.token, &["dump", "rm", "hash=*", "--yes"]).code, 0);
    check(&["-n"], known, "already uploaded", "already uploaded");
    check(&[], known, "already uploaded", "already uploaded");
    // What it is, and not what it is called.
    let ran = fleet.collect(&["-n", "--type", "core"]);
    assert!(ran.out.contains("core.panic") && !ran.out.contains("core.machine"), "{ran:?}");
    assert_eq!(ran.err, "note: `cores/core.machine` is not what its name says, but of a machine\n");
    let ran = fleet.collect(&["-n", "--type", "crash"]);
    assert!(ran.out.contains("core.machine: already") && !ran.out.contains("core.panic"), "{ran:?}");
    fleet.server.stop();
}

#[test]
fn content_tells_how_it_is_packed() {
    let fleet = Fleet::new();
    let plain = fleet.core("core.plain.1", 31);
    let hash = fleet.server.run(&fleet.token, &["dump", "object", "cores/core.plain.1"]).out;
    let packed = zstd::encode_all(&*std::fs::read(&plain).expect("is read"), 1).expect("is packed");
    std::fs::write(fleet.path("core.wrong.1.xz"), &packed).expect("is written");
    std::fs::write(fleet.path("core.bare.1"), &packed).expect("is written");
    std::fs::rename(plain, fleet.path("core.plain.1.gz")).expect("is renamed");
    let told = [
        ("core.wrong.1.xz", "`core.wrong.1.xz` is packed with zstd, and not with xz as its name says\n"),
        ("core.bare.1", "`core.bare.1` is packed with zstd, which its name does not say\n"),
        ("core.plain.1.gz", "`core.plain.1.gz` is not packed with gzip, whatever its name says\n"),
    ];
    for (name, said) in told {
        let object = fleet.server.run(&fleet.token, &["dump", "object", &format!("cores/{name}")]);
        assert_eq!((object.code, &object.out, &*object.err), (0, &hash, said), "{name}");
    }
    let ran = fleet.collect(&["--dry-run"]);
    assert!(ran.out.contains(": would upload 3 ("), "{ran:?}");
    assert!(told.iter().all(|(_, said)| ran.err.contains(&format!("note: {said}"))), "{ran:?}");
    let ran = fleet.server.run(&fleet.token, &["dump", "upload", "--no-packs", "cores/core.wrong.1.xz"]);
    assert!(ran.out == hash && ran.err.starts_with(told[0].1), "{ran:?}");
    let ran = run_with(fleet.server.command(&fleet.token, &["dump", "upload", "-"]), &packed);
    assert!(ran.out == hash && ran.err.contains("stdin is already there"), "{ran:?}");
    let ran = fleet.collect(&[]);
    assert!(ran.code == 0 && ran.out.contains(": 0 uploaded (0 B sent), 3 already uploaded"), "{ran:?}");
    fleet.server.stop();
}

#[test]
fn what_rules_leave_out_is_not_collected() {
    let fleet = Fleet::new();
    let rules = fleet.house.home().join("rules.toml");
    std::fs::write(&rules, crate::signature::secretive(&fleet.path("core.app.1"))).expect("is written");
    std::fs::copy(fleet.path("core.app.1"), fleet.house.home().join("same")).expect("is copied");
    pack("zstd", &["-q", "--rm"], &fleet.path("core.app.1"));
    fleet.core("core.bare.2", 2);
    let (code, lines) = fleet.lines(&["--dry-run", "--redact", rules.to_str().expect("is text")]);
    assert!(code == 1 && lines[1].contains("core.app.1.zst: would upload core.app.1 ("), "{lines:?}");
    assert!(lines[2].contains("core.bare.2: failed (upload): what the rules leave out cannot be found"), "{lines:?}");
    let (code, lines) = fleet.lines(&["--redact", rules.to_str().expect("is text")]);
    assert!(code == 1 && lines[1].ends_with("core.app.1.zst: succeeded"), "{lines:?}");
    assert!(lines[2].contains("core.bare.2: failed (upload): what the rules leave out cannot be found"), "{lines:?}");
    let hash = fleet.server.run(&fleet.token, &["dump", "object", "same"]).out;
    let ran = fleet.server.run(&fleet.token, &["dump", "download", hash.trim(), "-o", "back", "--json"]);
    let dump: Value = serde_json::from_str(&ran.out).expect("is JSON");
    assert_eq!((&dump["redaction"]["values"], &dump["redaction"]["bytes"]), (&json!(2), &json!(123)), "{dump}");
    let back = std::fs::read(fleet.house.home().join("back")).expect("is there");
    assert!(!back.windows(7).any(|window| window == b"hunter2"));
    fleet.server.stop();
}

#[test]
fn modules_of_what_is_collected_go_along() {
    let fleet = Fleet::new();
    let mut child = Command::new("sleep").arg("1000").spawn().expect("starts");
    let (pid, path) = (child.id().to_string(), fleet.path("core.sleep.1"));
    let save = format!("generate-core-file {}", path.display());
    let gdb = Command::new("gdb").args(["-nx", "-batch", "-p", &pid, "-ex", &save]).output().expect("runs");
    assert!(path.exists(), "{gdb:?}");
    child.kill().expect("is ours");
    child.wait().expect("ends");
    let (code, lines) = fleet.lines(&[]);
    assert!(code == 0 && lines[1].ends_with("core.sleep.1: succeeded"), "{lines:?}");
    // All of them are there, so none is sent.
    let packs = fleet.server.run(&fleet.token, &["dump", "packs", "cores/core.sleep.1"]);
    assert_eq!((packs.code, &*packs.out), (0, ""), "{packs:?}");
    assert!(packs.err.starts_with("packs of modules: 0 sent, ") && packs.err.contains(" there already"), "{packs:?}");
    let named = ["dump", "packs", "--json", "cores/core.sleep.1", "--module", "/nowhere/libnone.so"];
    let packs = fleet.server.run(&fleet.token, &named);
    let told: Value = serde_json::from_str(&packs.out).expect("is JSON");
    assert_eq!((&told["sent"], &told["missing"]), (&json!([]), &json!(["/nowhere/libnone.so"])), "{told}");
    assert!(told["known"].as_array().is_some_and(|known| known.iter().any(|one| one["path"] == "/usr/bin/sleep")));
    for (out, said) in [("1 sent, 0", true), ("0 sent, 1", false)] {
        let packs = fleet.server.run(&fleet.token, &["dump", "packs", "--module", "/usr/bin/true"]);
        assert_eq!((packs.code, &*packs.err), (0, &*format!("packs of modules: {out} there already\n")), "{packs:?}");
        assert_eq!(packs.out.ends_with(" /usr/bin/true\n"), said, "{packs:?}");
    }
    fleet.server.stop();
}

#[test]
fn systemds_store_is_understood() {
    let fleet = Fleet::new();
    for (seed, tool, words, ending) in [
        (11, "zstd", &["-q", "--rm"][..], "zst"),
        (12, "lz4", &["-q", "-m", "--rm"][..], "lz4"),
        (13, "xz", &["-1"][..], "xz"),
    ] {
        let name = format!("core.demo.1000.0123abcd.{seed}.1700000000000000");
        let plain = fleet.core(&name, seed);
        let kept = fleet.house.home().join(&name);
        std::fs::copy(&plain, &kept).expect("is copied");
        pack(tool, words, &plain);
        let packed = fleet.path(&format!("{name}.{ending}"));
        let told = [
            ("pid", "4711"),
            ("uid", "1000"),
            ("signal", "11"),
            ("timestamp", "1700000000000000"),
            ("comm", "demo"),
            ("exe", "/usr/bin/demo"),
            ("hostname", "far-away"),
        ];
        for (key, value) in told {
            let key = format!("user.coredump.{key}");
            setxattr(&packed, &*key, value.as_bytes(), XattrFlags::empty()).expect("is noted");
        }
        let (code, lines) = fleet.lines(&[]);
        assert_eq!(code, 0, "{lines:?}");
        let dump = fleet.dump(&kept);
        assert_eq!((&dump["name"], &dump["cmd"], &dump["node"]), (&json!(name), &json!("demo"), &json!("far-away")));
        assert_eq!((&dump["pid"], &dump["time"]), (&json!(4711), &json!("2023-11-14T22:13:20Z")), "{dump}");
        let process = json!({ "signal": 11, "uid": 1000, "program": "/usr/bin/demo" });
        assert_eq!(dump["properties"]["process"], process, "{dump}");
    }
    let (code, lines) = fleet.lines(&["--type", "demo", "--parallel", "2"]);
    assert_eq!((code, &*lines[0]), (0, "HOST: 0 uploaded (0 B sent), 3 already uploaded, 0 failed"), "{lines:?}");
    assert_eq!(fleet.lines(&["--type", "nobody"]).1, ["HOST: 0 uploaded (0 B sent), 0 already uploaded, 0 failed"]);
    fleet.server.stop();
}

#[test]
fn one_that_fails_does_not_keep_the_others() {
    let fleet = Fleet::new();
    fleet.core("core.good.1", 21);
    let bad = fleet.core("core.bad.2", 22);
    pack("zstd", &["-q", "--rm"], &bad);
    let bad = fleet.path("core.bad.2.zst");
    let mut bytes = std::fs::read(&bad).expect("is read");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4_000].fill(0x55);
    std::fs::write(&bad, bytes).expect("is written");
    // A bomb: little that unpacks to much is only zeros, and costs time that is bounded.
    std::fs::write(fleet.path("vmcore.zst"), "\x28\u{0}").expect("is written");
    let ran = fleet.collect(&["--json"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
    let of = |name: &str| lines.iter().find(|line| line["file"].as_str().is_some_and(|file| file.ends_with(name)));
    assert_eq!(of("core.good.1").map(|line| line["result"].clone()), Some(json!("uploaded")), "{lines:?}");
    for name in ["core.bad.2.zst", "vmcore.zst"] {
        assert_eq!(of(name).map(|line| line["result"].clone()), Some(json!("failed")), "{lines:?}");
    }
    let sum = lines.last().expect("there is a sum");
    assert_eq!((&sum["uploaded"], &sum["failed"], &sum["found"]), (&json!(1), &json!(2), &json!(3)), "{sum}");
    // One at a time.
    let lock = std::fs::File::create(fleet.house.home().join("lock")).expect("is made");
    lock.lock().expect("is locked");
    assert_eq!(fleet.collect(&[]).code, 3);
    drop(lock);
    let missing = fleet.server.run(&fleet.token, &["collect", "nowhere", "--lock", "lock"]);
    assert!(missing.code == 1 && missing.err.contains("`nowhere` cannot be looked through"), "{}", missing.err);
    let mut away = fleet.server.command(&fleet.token, &["collect", "cores", "--lock", "lock"]);
    away.env("QUARRY_URL", "http://127.0.0.1:9");
    assert_eq!(run_with(away, b"").code, 4);
    fleet.server.stop();
}

/// Returns the note that tells of a process.
fn person(name: &str, arguments: &str, pid: u32) -> Vec<u8> {
    let mut content = [0_u8; 136];
    content[24..28].copy_from_slice(&pid.to_le_bytes());
    content[40..40 + name.len()].copy_from_slice(name.as_bytes());
    content[56..56 + arguments.len()].copy_from_slice(arguments.as_bytes());
    let head = [5_u32, 136, 3].map(u32::to_le_bytes).concat();
    [&head[..], b"CORE\0\0\0\0", &content].concat()
}

#[test]
fn a_core_says_itself_whose_it_is() {
    let fleet = Fleet::new();
    let told = |path: &Path| {
        let dump = fleet.dump(path);
        ["cmd", "psargs", "pid"].map(|name| dump[name].clone())
    };
    let ours = |pid: u32| [json!("renamed"), json!("/opt/renamed -v"), json!(pid)];
    let first = fleet.path("core.1");
    core(&first, &person("renamed", "/opt/renamed -v ", 1), &noise(1, 300_000));
    fleet.core("core.2", 2);
    let (code, lines) = fleet.lines(&["--type", "renamed"]);
    assert_eq!((code, &lines[1..]), (0, &["cores/core.1: succeeded".to_owned()][..]), "{lines:?}");
    assert_eq!(told(&first), ours(1));
    // By hand and from a pipe it is the same.
    let second = fleet.path("second");
    core(&second, &person("renamed", "/opt/renamed -v ", 2), &noise(2, 300_000));
    assert_eq!(fleet.server.run(&fleet.token, &["dump", "upload", "cores/second"]).code, 0);
    assert_eq!(told(&second), ours(2));
    let third = fleet.path("third");
    core(&third, &person("renamed", "/opt/renamed -v ", 3), &noise(3, 300_000));
    let bytes = std::fs::read(&third).expect("is read");
    let ran = run_with(fleet.server.command(&fleet.token, &["dump", "upload", "-"]), &bytes);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(told(&third), ours(3));
    fleet.server.stop();
}
