//! Other OCI runtimes in a real house: whoever runs in one sees what a program run by hand would show, and nothing is left.

use crate::stub::run_with;
use crate::system::{Engine, House, Server};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long what was killed may take to be gone.
const MAX_END: Duration = Duration::from_secs(20);

/// A house with a node, an image of busybox called `box`, and the runtimes that its node found.
struct Place {
    house: House,
    server: Server,
    token: String,
    runtimes: Vec<String>,
}

impl Place {
    /// Makes one; none where there are no other runtimes, or nobody who may use them.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let house = House::new(Engine::Sqlite).expect("needs nothing").at_one_address();
        let server = up(&house);
        let token = house.token();
        let bin = house.home().join("root/bin");
        std::fs::create_dir_all(&bin).expect("is made");
        std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox is there");
        for name in ["sh", "cat", "sleep", "dd", "id"] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).expect("is linked");
        }
        let etc = house.home().join("root/etc");
        std::fs::create_dir_all(&etc).expect("is made");
        std::fs::write(etc.join("plain"), "no program").expect("is written");
        let mut place = Self { house, server, token, runtimes: Vec::new() };
        let root = place.house.home().join("root");
        place.expect(&["image", "import", "--name", "box", &root.to_string_lossy()], b"", 0);
        let nodes = place.expect(&["node", "ls", "--json"], b"", 0).0;
        let nodes: serde_json::Value = serde_json::from_str(&nodes).expect("is JSON");
        let offer = nodes.pointer("/items/0/offer").or_else(|| nodes.get("offer")).expect("it offers something");
        let names = offer["runtimes"].as_array().cloned().unwrap_or_default();
        place.runtimes = names.iter().map(|name| name.as_str().expect("is text").to_owned()).collect();
        (!place.runtimes.is_empty()).then_some(place)
    }

    /// Runs a command, which must end so; returns what it wrote.
    fn expect(&self, args: &[&str], input: &[u8], code: i32) -> (String, String) {
        let ran = run_with(self.server.command(&self.token, args), input);
        assert_eq!(ran.code, code, "{args:?}: {} {}", ran.out, ran.err);
        (ran.out, ran.err)
    }
}

fn up(house: &House) -> Server {
    Server::begin(house.command_with(&["up"], &house.data()), house.home()).expect("starts")
}

/// Finds folders whose names hold this, a few levels deep.
fn named(folder: &Path, words: &str, depth: u32) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let found = folders.flat_map(|entry| {
        let path = entry.path();
        let mut found = if depth > 0 { named(&path, words, depth - 1) } else { Vec::new() };
        found.extend(entry.file_name().to_string_lossy().contains(words).then(|| path.display().to_string()));
        found
    });
    found.collect()
}

#[test]
fn a_tenants_runtime_is_for_whoever_names_none() {
    let Some(place) = Place::new() else { return };
    let Some(runtime) = place.runtimes.iter().find(|name| *name != "runsc") else { return };
    let ran = |more: &[&str]| {
        let id = place.expect(
            &[&["run", "--detach", "--image", "box"], more, &["--", "/bin/cat", "/proc/1/comm"]].concat(),
            b"",
            0,
        );
        let id = id.0.trim().to_owned();
        place.expect(&["execution", "wait", &id], b"", 0);
        let shown = place.expect(&["execution", "info", "--json", &id], b"", 0).0;
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("is JSON");
        let log = place.expect(&["execution", "logs", &id], b"", 0).0;
        (shown.pointer("/sandbox/runtime").and_then(|name| name.as_str()).map(str::to_owned), log)
    };
    let (named, own) = ran(&[]);
    assert_eq!(named, None);
    let set = place.expect(&["tenant", "set", "house", "--runtime", runtime, "--json"], b"", 0).0;
    let set: serde_json::Value = serde_json::from_str(&set).expect("is JSON");
    assert_eq!(set["runtime"], runtime.as_str());
    // There the program is the first process itself; in our own sandbox that is an init.
    assert_eq!(ran(&[]), (Some(runtime.clone()), "cat\n".to_owned()));
    assert_eq!(ran(&["--runtime", "quarry"]), (Some("quarry".to_owned()), own.clone()));
    assert_ne!(own, "cat\n");
    place.expect(&["tenant", "set", "house", "--runtime", "quarry"], b"", 0);
    assert_eq!(ran(&[]), (None, own));
}

#[test]
fn a_program_in_another_runtime_is_as_one_run_by_hand() {
    let Some(place) = Place::new() else { return };
    for runtime in &place.runtimes {
        let run = |more: &[&str], script: &str, input: &[u8], code: i32| {
            let args = [&["run", "--runtime", runtime, "--image", "box"], more, &["--", "/bin/sh", "-c", script]];
            place.expect(&args.concat(), input, code)
        };
        let (out, err) = run(&[], "cat; echo aside >&2; exit 5", b"fed\n", 5);
        assert_eq!((out.as_str(), err.contains("aside")), ("fed\n", true), "{runtime}: {err}");
        let (_, err) = run(&["--memory", "64M"], "a=x; while :; do a=$a$a; done", b"", 137);
        assert!(err.contains("more memory than its limit"), "{runtime}: {err}");
        let (_, err) = run(&["--time", "300ms"], "while :; do :; done", b"", 124);
        assert!(err.contains("more time than its limit"), "{runtime}: {err}");
        let (_, err) = run(&["--net", "egress"], "true", b"", 125);
        assert!(err.contains(&format!("`{runtime}` has no network `egress`")), "{err}");
        for (program, code) in [("absent", 127), ("/bin/absent", 127), ("/etc/plain", 126), ("/bin", 126)] {
            let (_, err) = place.expect(&["run", "--runtime", runtime, "--image", "box", "--", program], b"", code);
            assert!(err.contains(&format!("the runtime `{runtime}` could not run it")), "{program}: {err}");
        }
        let own = format!("box:{runtime}");
        let root = place.house.home().join("root");
        let root = root.to_string_lossy();
        let shown = place.expect(&["image", "import", "--name", &own, "--runtime", runtime, &root], b"", 0).0;
        assert!(shown.contains(runtime.as_str()), "{shown}");
        // Only what names no runtime runs as its image says.
        let (kernel, _) = place.expect(&["run", "--image", &own, "--", "/bin/cat", "/proc/1/cmdline"], b"", 0);
        assert!(kernel.contains("/bin/cat"), "{runtime}: with our own engine the first process is init: {kernel}");
    }
}

#[test]
fn a_runtime_that_broke_holds_its_node_back_and_what_it_refuses_does_not() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let (program, works) = (house.home().join("odd"), house.home().join("works"));
    let answer = "[ \"$1\" = --version ] && exec echo odd version 1";
    let script = format!("#!/bin/sh\n[ -e {} ] && {answer}\nexit 1\n", works.display());
    std::fs::write(&program, script).expect("is written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("is set");
    std::fs::write(&works, "").expect("is written");
    let named = format!("odd={}", program.display());
    let up = house.command_with(&["up", "--runtime", &named], &house.data());
    let server = Server::begin(up, house.home()).expect("starts");
    let (token, root) = (house.token(), house.home().join("root/bin"));
    std::fs::create_dir_all(&root).expect("is made");
    std::fs::copy("/bin/busybox", root.join("busybox")).expect("busybox is there");
    let run = |args: &[&str], code: i32| {
        let ran = server.run(&token, args);
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        ran.out + &ran.err
    };
    run(&["image", "import", "--name", "box", &house.home().join("root").to_string_lossy()], 0);
    let refused = |words: &str| {
        // One more than the failures of its own after which a node is held back.
        for _ in 0..6 {
            let args = ["run", "--detach", "--runtime", "odd", "--image", "box", "--", "/bin/busybox", "true"];
            let id = run(&args, 0);
            let said = run(&["execution", "wait", id.trim()], 125);
            assert!(said.contains(words), "{said}");
            if run(&["node", "ls"], 0).contains("quarantined") {
                return true;
            }
        }
        false
    };
    assert!(!refused("the runtime `odd` could not run it"), "it says no more than that it will not");
    std::fs::remove_file(&works).expect("is there");
    assert!(refused("the runtime `odd` is not offered"), "it does not answer any more");
    run(&["node", "ls"], 0);
    server.stop();
}

#[test]
fn a_runtime_that_no_node_has_is_waited_for() {
    let Some(place) = Place::new() else { return };
    let args = ["run", "--runtime", "absent", "--image", "box", "--", "/bin/sh"];
    let mut command = place.server.command(&place.token, &args);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("is piped")).lines().map(|line| line.expect("is text"));
    let said = lines.find(|line| line.contains("waiting"));
    assert!(said.as_ref().is_some_and(|line| line.contains("needs runtime `absent`")), "{said:?}");
    child.kill().expect("is ours");
    child.wait().expect("ends");
}

#[test]
fn a_stopped_program_and_a_killed_node_leave_nothing() {
    let Some(mut place) = Place::new() else { return };
    for runtime in place.runtimes.clone() {
        let script = "trap 'echo int' INT; trap 'echo term; exit 3' TERM; echo up; while :; do sleep 0.1; done";
        let begin = |place: &Place| {
            let args = ["run", "--runtime", &runtime, "--image", "box", "--detach", "--", "/bin/sh", "-c", script];
            let id = place.expect(&args, b"", 0).0.trim().to_owned();
            let mut follow = place.server.command(&place.token, &["execution", "logs", "-f", &id]);
            let mut child = follow.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("starts");
            let lines =
                BufReader::new(child.stdout.take().expect("is piped")).lines().map(|line| line.expect("is text"));
            (id, child, lines)
        };
        let (id, mut child, mut lines) = begin(&place);
        assert_eq!(lines.next().as_deref(), Some("up"), "{runtime}");
        place.expect(&["execution", "cancel", &id], b"", 0);
        assert_eq!(lines.next().as_deref(), Some("int"), "{runtime}");
        child.wait().expect("ends");
        let containers = place.house.data().join("node/containers");
        let (id, mut child, mut lines) = begin(&place);
        assert_eq!(lines.next().as_deref(), Some("up"), "{runtime}");
        assert_eq!(named(&containers, &id, 0).len(), 1, "{runtime}");
        assert!(!named(Path::new("/sys/fs/cgroup"), &id, 4).is_empty(), "{runtime}");
        place.server.signal(Signal::KILL);
        let end = Instant::now() + MAX_END;
        let left = || [named(&containers, &id, 0), named(Path::new("/sys/fs/cgroup"), &id, 4)].concat();
        while !left().is_empty() {
            assert!(Instant::now() < end, "{runtime}: {:?}", left());
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        child.wait().expect("ends");
        place.server = up(&place.house);
    }
}
