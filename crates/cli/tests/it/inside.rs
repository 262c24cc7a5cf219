//! The node inside `quarry up`: what becomes of it, and of the house, when it breaks, is drained, or is to be had twice.
//! Needs root, for sandboxes with limits.

use crate::stub::Ran;
use crate::system::{Engine, Held, House, Server};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long a node may take to be there again; the debug build beside other tests on a busy machine.
const MAX_RETURN: Duration = Duration::from_secs(20);

struct Whole {
    house: House,
    server: Server,
    token: String,
}

impl Whole {
    fn open() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let house = House::new(Engine::Sqlite).expect("needs nothing").at_one_address();
        let server = begin(&house);
        let token = house.token();
        Some(Self { house, server, token })
    }

    fn run(&self, words: &str) -> Ran {
        self.server.run(&self.token, &words.split(' ').collect::<Vec<_>>())
    }

    fn done(&self, words: &str) -> String {
        let ran = self.run(words);
        assert_eq!(ran.code, 0, "{words}: {ran:?}");
        ran.out
    }

    /// Waits until the server has written this.
    fn await_word(&self, word: &str) {
        let begun = Instant::now();
        while !self.server.said().contains(word) {
            assert!(begun.elapsed() < MAX_RETURN, "{}", self.server.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn begin(house: &House) -> Server {
    Server::begin(house.command_with(&["up"], &house.data()), house.home()).expect("starts")
}

/// Returns the process that runs our program under this word, of those that this server began.
fn child(server: &Server, word: &str) -> Pid {
    let id = server.pid().as_raw_nonzero();
    let tasks = fs::read_dir(format!("/proc/{id}/task")).expect("is ours").flatten();
    let children = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let children = children.collect::<Vec<_>>().join(" ");
    let is_it = |pid: &&str| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(word.as_bytes())
    };
    let pid = children.split_whitespace().find(is_it).expect("is there");
    pid.parse().ok().and_then(Pid::from_raw).expect("is a number")
}

#[test]
fn a_spawner_that_dies_costs_the_house_nothing() {
    let Some(whole) = Whole::open() else { return };
    assert_eq!(whole.done("run -- echo before"), "before\n");
    let words = ["run", "--detach", "--", "sh", "-c", "echo begun; sleep 2; echo done"];
    let ran = whole.server.run(&whole.token, &words);
    let id = ran.out.trim();
    let mut followed = whole.server.command(&whole.token, &["execution", "logs", "-f", id]);
    followed.stdout(Stdio::piped());
    let mut followed = Held::start(followed);
    let mut lines = followed.lines();
    assert_eq!(lines.next().as_deref(), Some("begun"));
    kill_process(child(&whole.server, "spawner"), Signal::KILL).expect("is ours");
    // Whoever asks meanwhile waits for the node, and what it held is begun again.
    assert_eq!(whole.done("run -- echo after"), "after\n");
    assert!(whole.done(&format!("execution wait {id}")).contains("exit code 0"));
    let info: serde_json::Value =
        serde_json::from_str(&whole.done(&format!("--json execution info {id}"))).expect("is JSON");
    assert_eq!(info["attempt"], 2, "{info}");
    assert!(whole.server.said().contains("the node inside broke; it is begun again"), "{}", whole.server.said());
    whole.server.stop();
}

#[test]
fn what_no_node_can_take_fails_with_its_cause_when_its_time_is_over() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let house = House::new(Engine::Sqlite).expect("needs nothing").with(&["--set", "node.unserved_max=2s"]);
    let whole = Whole { server: begin(&house), token: house.token(), house };
    let ran = whole.run("run --memory 900G -- true");
    let cause = "error: never began: no node could take it for 2s: 1 node: needs 921600 MiB of memory\n";
    assert!(ran.code == 125 && ran.err.contains(cause), "{ran:?}");
    assert_eq!(whole.done("run -- echo well"), "well\n");
    whole.server.stop();
}

#[test]
fn a_node_inside_that_was_drained_is_back_with_the_next_start() {
    let Some(whole) = Whole::open() else { return };
    assert_eq!(whole.done("run -- echo before"), "before\n");
    let nodes: serde_json::Value = serde_json::from_str(&whole.done("--json node ls")).expect("is JSON");
    let id = nodes["items"][0]["id"].as_str().expect("is one").to_owned();
    // A second one in its folder is refused at once, and says what to do.
    let state = whole.house.data().join("node").display().to_string();
    let begun = Instant::now();
    let ran = whole.run(&format!("node --join {} --state {state} --name second", whole.server.url));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(ran.code == 1 && ran.err.contains("another node works in it") && ran.err.contains("--state"), "{ran:?}");
    whole.done(&format!("node drain --wait {id}"));
    whole.await_word("the next start of this server begins it again");
    let Whole { house, server, token } = whole;
    server.stop();
    let server = begin(&house);
    let ran = server.run(&token, &["run", "--", "echo", "after"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "after\n"), "{ran:?}");
    server.stop();
}
