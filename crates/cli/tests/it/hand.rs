//! The whole house, by hand: a server, a node that joins it, and `run` as its users meet it. Needs root, for sandboxes
//! with limits.

use crate::stub::{Ran, run_with};
use crate::system::{Engine, House, Server, http};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A node of a house; it ends with the test at the latest.
pub(crate) struct Node {
    child: Child,
    joined: String,
}

impl Node {
    /// Starts a node and waits until it has joined.
    pub(crate) fn start(house: &House, server: &Server) -> Self {
        Self::start_with(house, server, &[])
    }

    /// Starts a node that is told more, and waits until it has joined.
    pub(crate) fn start_with(house: &House, server: &Server, more: &[&str]) -> Self {
        let state = house.home().join("node").display().to_string();
        let words = ["node", "--join", &server.url, "--name", "hand", "--slots", "4", "--warm", "1", "--state", &state];
        let mut command = server.command(&house.token(), &[&words, more].concat());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null()).stdout(Stdio::piped());
        let log = std::fs::File::create(house.home().join("node.log")).expect("is made");
        let mut child = command.stderr(log).spawn().expect("starts");
        let mut joined = String::new();
        let out = child.stdout.as_mut().expect("is piped");
        BufReader::new(out).read_line(&mut joined).expect("is text");
        Self { child, joined }
    }

    /// Lets it finish, and returns its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("is ours");
        self.child.wait().expect("ends").code()
    }

    /// Waits until it has ended by itself.
    fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("ends").code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The test fails for a reason of its own; what the node runs shall not outlive it.
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// A house with one node, and its user.
struct Hand {
    node: Node,
    server: Server,
    token: String,
    house: House,
}

impl Hand {
    /// Opens the house, where sandboxes with limits can be built.
    fn open() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let house = House::new(Engine::Sqlite).expect("needs nothing");
        let server = house.start();
        let node = Node::start(&house, &server);
        let said = std::fs::read_to_string(house.home().join("node.log")).expect("is text");
        assert!(node.joined.starts_with("node `hand` (nod_"), "{:?}: {said}", node.joined);
        let token = house.token();
        Some(Self { node, server, token, house })
    }

    fn home(&self) -> &Path {
        self.house.home()
    }

    fn command(&self, args: &[&str]) -> Command {
        self.server.command(&self.token, args)
    }

    fn run(&self, args: &[&str], input: &[u8]) -> Ran {
        run_with(self.command(&[&["run"], args].concat()), input)
    }

    #[track_caller]
    fn check(&self, args: &[&str], input: &[u8], expected: (i32, &str, &str)) {
        let ran = self.run(args, input);
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), expected, "{args:?}");
    }

    fn executable(&self, name: &str, text: &str) {
        let path = self.home().join(name);
        std::fs::write(&path, text).expect("is written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("is set");
    }
}

#[test]
fn programs_run_as_if_by_hand() {
    let Some(hand) = Hand::open() else { return };
    ends(&hand);
    inputs(&hand);
    files(&hand);
    signals(&hand);
    terminal(&hand);
    later(&hand);
    images(&hand);
    assert_eq!(hand.node.stop(), Some(0));
}

fn ends(hand: &Hand) {
    hand.check(&["--", "echo", "hello"], b"", (0, "hello\n", ""));
    hand.check(&["echo", "-n", "--", "x"], b"", (0, "-- x", ""));
    hand.check(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"], b"", (7, "out\n", "err\n"));
    hand.check(&["--env", "A=1", "--", "sh", "-c", "echo $A"], b"", (0, "1\n", ""));
    hand.check(
        &["--", "frobnicate"],
        b"",
        (
            127,
            "",
            "error: never began: the program `frobnicate` does not exist inside\n\
             hint: programs are looked up on the node; write `./NAME` to send one of yours\n",
        ),
    );
    assert_eq!(hand.run(&["--", "/etc"], b"").code, 126);
    assert_eq!(hand.run(&["--cwd", "/nowhere", "--", "true"], b"").code, 125);
    hand.check(
        &["--time", "300ms", "--", "sleep", "60"],
        b"",
        (124, "", "error: needed more time than its limit\nhint: it was 300 ms; --time sets another one\n"),
    );
    let ran = hand.run(&["--", "sh", "-c", "kill -SEGV $$"], b"");
    assert!(ran.code == 139 && ran.err.starts_with("error: ended by signal 11 (SEGV)\n"), "{ran:?}");
    // The dump that it left is had by the words that name it.
    let words = ran.err.split("`quarry ").nth(1).and_then(|rest| rest.split('`').next()).expect("it names its dump");
    let fetched = run_with(hand.command(&words.split(' ').collect::<Vec<_>>()), b"");
    assert!(fetched.code == 0 && fetched.out.contains("\nsignal     SIGSEGV, "), "{words}: {fetched:?}");
}

fn inputs(hand: &Hand) {
    hand.check(&["--", "cat"], b"", (0, "", ""));
    hand.check(&["--", "cat"], b"hi\n", (0, "hi\n", ""));
    hand.check(&["--", "sh", "-c", "read line; echo $line"], b"one\ntwo\n", (0, "one\n", ""));
    let large: String = (0..300_000).map(|line| format!("{line}\n")).collect();
    let ran = hand.run(&["--", "cat"], large.as_bytes());
    assert!(ran.code == 0 && ran.out == large, "{} bytes came back of {}", ran.out.len(), large.len());
    // What comes bit by bit is passed on bit by bit.
    let mut command = hand.command(&["run", "--", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let (mut stdin, stdout) = (child.stdin.take().expect("is piped"), child.stdout.take().expect("is piped"));
    let mut lines = BufReader::new(stdout).lines();
    for word in ["first", "second", "third"] {
        writeln!(stdin, "{word}").expect("is read");
        assert_eq!(lines.next().expect("comes").expect("is text"), word);
    }
    drop(stdin);
    assert!(lines.next().is_none() && child.wait().expect("ends").success());
}

fn files(hand: &Hand) {
    hand.executable("tool", "#!/bin/sh\necho \"$0 $1\"; cat numbers\n");
    std::fs::write(hand.home().join("numbers"), "1 2 3\n").expect("is written");
    hand.check(&["--file", "numbers", "--", "./tool", "x"], b"", (0, "/work/tool x\n1 2 3\n", ""));
    hand.check(&["--file", "numbers:/opt/n", "--", "cat", "/opt/n"], b"", (0, "1 2 3\n", ""));
}

/// Runs a program that says `ready`, and sends signals then.
fn signalled(hand: &Hand, script: &str, signals: &[Signal]) -> Ran {
    let mut command = hand.command(&["run", "--", "sh", "-c", script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    let (mut out, mut err) = (BufReader::new(child.stdout.take().expect("is piped")), String::new());
    let mut line = String::new();
    out.read_line(&mut line).expect("is text");
    assert_eq!(line, "ready\n");
    let pid = Pid::from_child(&child);
    for (index, signal) in signals.iter().enumerate() {
        kill_process(pid, *signal).expect("is ours");
        if index + 1 < signals.len() {
            // The first has been taken once the program was told.
            line.clear();
            out.read_line(&mut line).expect("is text");
        }
    }
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("is text");
    child.stderr.take().expect("is piped").read_to_string(&mut err).expect("is text");
    Ran { code: child.wait().expect("ends").code().expect("was not killed"), out: rest, err }
}

fn signals(hand: &Hand) {
    let check = |script: &str, signals: &[Signal], code: i32, out: &str, err: &str| {
        let ran = signalled(hand, script, signals);
        assert!((ran.code, ran.out.as_str()) == (code, out) && ran.err.contains(err), "{script}: {ran:?}");
    };
    let polite = "trap 'echo bye; exit 0' INT; echo ready; while :; do sleep 0.05; done";
    check(polite, &[Signal::INT], 130, "bye\n", "stopped by a user");
    check(polite, &[Signal::TERM], 143, "bye\n", "stopped by a user");
    let stubborn = "trap 'echo told' INT TERM; echo ready; while :; do sleep 0.05; done";
    check(stubborn, &[Signal::INT, Signal::INT], 130, "", "is left to itself");
    // Whether it is still writing when nobody reads any more, or was quicker.
    for (program, line) in [("sh -c 'while :; do echo y; done'", "y\n"), ("seq 1 200000", "1\n")] {
        let ran = Command::new("sh")
            .args(["-c", &format!("\"$QUARRY\" run -- {program} | head -n 1")])
            .env("QUARRY", env!("CARGO_BIN_EXE_quarry"))
            .envs([("QUARRY_URL", hand.server.url.as_str()), ("QUARRY_TOKEN", hand.token.as_str())])
            .output()
            .expect("ends");
        assert_eq!(String::from_utf8_lossy(&ran.stdout), line);
        assert_eq!(String::from_utf8_lossy(&ran.stderr), "");
    }
}

fn terminal(hand: &Hand) {
    let inner = format!("stty rows 33 cols 101; '{}' run -t -- sh", env!("CARGO_BIN_EXE_quarry"));
    let mut command = Command::new("script");
    command.args(["-qec", &inner, "/dev/null"]).current_dir(hand.home()).env("HOME", hand.home());
    command.envs([("QUARRY_URL", hand.server.url.as_str()), ("QUARRY_TOKEN", hand.token.as_str())]);
    let ran = run_with(command, b"stty size; test -t 0 && echo on a terminal; exit 9\n");
    assert!(ran.code == 9 && ran.out.contains("33 101") && ran.out.contains("on a terminal"), "{ran:?}");
    // A signal from outside ends it, and the terminal is as before.
    let quarry = env!("CARGO_BIN_EXE_quarry");
    let inner = format!(
        "stty -g > before; timeout --foreground --preserve-status -s TERM 1 '{quarry}' run -t -- sleep 60; \
         echo $? > code; stty -g > after"
    );
    let mut command = Command::new("script");
    command.args(["-qec", &inner, "/dev/null"]).current_dir(hand.home()).env("HOME", hand.home());
    command.envs([("QUARRY_URL", hand.server.url.as_str()), ("QUARRY_TOKEN", hand.token.as_str())]);
    let ran = run_with(command, b"");
    let read = |name: &str| std::fs::read_to_string(hand.home().join(name)).expect("is written");
    assert_eq!((read("code").as_str(), read("before")), ("143\n", read("after")), "{ran:?}");
}

/// What is left to itself is found, read, waited for and tried again.
fn later(hand: &Hand) {
    let ran = hand.run(&["--detach", "--", "sh", "-c", "echo out; echo err >&2; exit 4"], b"");
    let id = ran.out.trim().to_owned();
    let verb = |args: &[&str]| run_with(hand.command(&[&["execution"], args].concat()), b"");
    let ran = verb(&["logs", "-f", &id]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "out\n", "err\n"));
    assert_eq!(verb(&["wait", &id]).code, 4);
    assert_eq!(verb(&["wait", &id, "--timeout", "0s"]).code, 4, "of what has ended no time is too short to say so");
    let again = verb(&["retry", &id]).out.trim().to_owned();
    assert_eq!(verb(&["wait", &again]).code, 4);
    assert_eq!(verb(&["wait", &id, &again]).code, 1);
    assert_eq!(verb(&["logs", &again, "--stream", "error"]).out, "err\n");
}

/// A folder becomes an image, and a program runs in it that sees nothing else.
fn images(hand: &Hand) {
    let root = hand.home().join("root");
    std::fs::create_dir_all(root.join("bin")).expect("is made");
    std::fs::create_dir_all(root.join("etc")).expect("is made");
    std::fs::write(root.join("etc/motd"), "welcome\n").expect("is written");
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("is there (Debian: busybox-static)");
    for name in ["cat", "sh"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("is linked");
    }
    std::fs::write(root.join("etc/passwd"), "app:x:1000:1000::/home/app:/bin/sh\n").expect("is written");
    let verb = |args: &str| run_with(hand.command(&args.split(' ').collect::<Vec<_>>()), b"");
    let ran = verb("image import --name tools:1 root --cmd cat --cmd /etc/motd --env PATH=/bin");
    assert_eq!(ran.code, 0, "{ran:?}");
    hand.check(&["--image", "tools:1"], b"", (0, "welcome\n", ""));
    hand.check(&["--image", "tools:1", "--", "cat"], b"hi\n", (0, "hi\n", ""));
    assert_eq!(hand.run(&["--image", "tools:1", "--", "sort"], b"").code, 127);
    // At home is whoever runs, as the image has it, unless somebody says otherwise.
    for (more, home) in [
        (&[][..], "/root\n"),
        (&["--user", "app"], "/home/app\n"),
        (&["--user", "1000:5"], "/home/app\n"),
        (&["--user", "77"], "/\n"),
        (&["--user", "app", "--env", "HOME=/mine"], "/mine\n"),
    ] {
        let words = [&["--image", "tools:1"], more, &["--", "sh", "-c", "echo $HOME"]].concat();
        hand.check(&words, b"", (0, home, ""));
    }
    let ran = hand.run(&["--image", "localhost:1/absent", "--", "true"], b"");
    assert!(ran.code == 1 && ran.err.contains("image `localhost:1/absent` could not be made: "), "{ran:?}");
    let ran = hand.run(&["--pull", "never", "--image", "absent", "--", "true"], b"");
    assert!(ran.code == 2 && ran.err.contains("image `absent` does not exist"), "{ran:?}");
    let ran = verb("image rm tools:1");
    assert!(ran.code == 0 && ran.out.contains("  gone  tools:1"), "{ran:?}");
    assert_eq!(verb("image gc").code, 0);
}

#[test]
fn a_server_that_comes_back_is_taken_up_where_it_was_left() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let house = House::new(Engine::Sqlite).expect("needs nothing").at_one_address();
    let server = house.start();
    let node = Node::start(&house, &server);
    let count = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; sleep 0.1; done; exit 5";
    let mut command = server.command(&house.token(), &["run", "--", "sh", "-c", count]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    assert_eq!(lines.next().expect("comes").expect("is text"), "1");
    server.kill();
    let _server = house.start();
    let rest: Vec<_> = lines.map(|line| line.expect("is text")).collect();
    let mut said = String::new();
    child.stderr.take().expect("is piped").read_to_string(&mut said).expect("is text");
    assert_eq!(rest, (2..=40).map(|number| number.to_string()).collect::<Vec<_>>(), "{said}");
    assert_eq!((child.wait().expect("ends").code(), said.as_str()), (Some(5), ""));
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn a_drained_node_ends_by_itself_and_what_waits_says_why() {
    let Some(hand) = Hand::open() else { return };
    let verb = |args: &[&str]| run_with(hand.command(args), b"");
    assert_eq!(verb(&["node", "cordon", "hand", "--cause", "its disk is slow"]).code, 0);
    let mut command = hand.command(&["run", "--", "echo", "at last"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("starts");
    let mut why = String::new();
    BufReader::new(child.stderr.take().expect("is piped")).read_line(&mut why).expect("is text");
    assert!(why.starts_with("waiting: "), "{why}");
    assert_eq!(verb(&["node", "uncordon", "hand"]).code, 0);
    let ended = child.wait_with_output().expect("ends");
    assert_eq!((ended.status.code(), ended.stdout.as_slice()), (Some(0), &b"at last\n"[..]));
    let ran = verb(&["node", "drain", "--wait", "hand"]);
    assert!(ran.code == 0 && ran.out.contains("  gone  hand"), "{ran:?}");
    let id = ran.out.split(' ').next().expect("is one").to_owned();
    let Hand { node, server, token, house: _house } = hand;
    assert_eq!(node.wait(), Some(0));
    let ran = server.run(&token, &["node", "uncordon", "hand"]);
    assert!(ran.code == 3 && ran.err.contains("start it again"), "{ran:?}");
    for (name, code) in [("hand", 0), ("hand", 2), (id.as_str(), 2)] {
        let ran = server.run(&token, &["node", "rm", name]);
        assert_eq!(ran.code, code, "{ran:?}");
    }
}

#[test]
fn what_is_not_there_speaks_against_no_node() {
    let Some(hand) = Hand::open() else { return };
    let (url, token) = (format!("{}/v1/executions", hand.server.url), hand.token.clone());
    let runtime = tokio::runtime::Runtime::new().expect("is made");
    let done = |words: &[&str]| {
        let ran = run_with(hand.command(words), b"what is lost");
        assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
    };
    done(&["blob", "put", "-"]);
    done(&["node", "cordon", "hand"]);
    // One more than the failures of its own after which a node is held back.
    let ids = (0..6).map(|number| format!("exe_{number:026}"));
    for id in ids.clone() {
        let digest = blake3::hash(b"what is lost").to_string();
        let body = json!({ "id": id, "command": ["true"], "input": { "kind": "blob", "digest": digest } });
        let asked = http().post(&url).bearer_auth(&token).json(&body).send();
        let asked = async { asked.await?.error_for_status() };
        runtime.block_on(asked).expect("is taken");
    }
    hand.house.sql("DELETE FROM blob");
    done(&["node", "uncordon", "hand"]);
    for id in ids {
        let ran = run_with(hand.command(&["execution", "wait", &id]), b"");
        assert!(ran.code == 125 && ran.out.contains("does not exist"), "{ran:?}");
    }
    let nodes = run_with(hand.command(&["node", "ls"]), b"");
    assert!(nodes.out.contains("ready") && !nodes.out.contains("quarantined"), "{nodes:?}");
    assert_eq!(run_with(hand.command(&["run", "--", "true"]), b"").code, 0);
}

/// Longer than a call is tried again by itself, and than an output that somebody holds open is waited for.
const OUTAGE: Duration = Duration::from_secs(12);

#[test]
fn what_was_said_while_the_server_was_away_is_kept() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let house = House::new(Engine::Sqlite).expect("needs nothing").at_one_address();
    let server = house.start();
    let node = Node::start(&house, &server);
    let text = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); echo line $i; done";
    let said = format!("echo begun; sleep 1; {text}; exit 5");
    let mut command = server.command(&house.token(), &["run", "--", "sh", "-c", &said]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    assert_eq!(lines.next().expect("comes").expect("is text"), "begun");
    server.kill();
    // The program writes and ends meanwhile.
    std::thread::sleep(OUTAGE);
    let _server = house.start();
    let told: Vec<_> = lines.map(|line| line.expect("is text")).collect();
    assert!(told.iter().enumerate().all(|(index, line)| *line == format!("line {}", index + 1)));
    assert_eq!((told.len(), child.wait().expect("ends").code()), (200_000, Some(5)));
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn a_node_keeps_its_lease_whatever_it_says_and_when() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let house = House::new(Engine::Sqlite).expect("needs nothing").with(&["--set", "node.lease=3s"]);
    let server = house.start();
    let node = Node::start(&house, &server);
    let token = house.token();
    // Each says a word at another moment of the lease, and nothing more until long after that would be over.
    let runs = [0.1, 0.5, 0.9, 1.3].map(|pause| {
        let script = format!("sleep {pause}; echo; sleep 4.5");
        let ran = server.run(&token, &["run", "--detach", "--", "sh", "-c", &script]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out.trim().to_owned()
    });
    for id in &runs {
        let ran = server.run(&token, &["execution", "wait", id, "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let told = server.run(&token, &["execution", "info", id, "--json"]);
        let told: serde_json::Value = serde_json::from_str(&told.out).expect("is JSON");
        assert_eq!((&told["attempt"], &told["losses"]), (&json!(1), &json!(0)), "{told}");
    }
    node.stop();
    server.stop();
}
