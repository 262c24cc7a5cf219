//! A crash in the real house: its dump comes by itself, is opened in a sandbox, and tells its function, file and line. On
//! both engines. Needs root, for sandboxes with limits, and a C compiler.

use crate::hand::Node;
use crate::stub::{Ran, run_with};
use crate::system::{Engine, House, Server, http};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A program that reads through a null pointer, in a function of its own, beside a thread that waits.
const PROGRAM: &str = "\
#include <pthread.h>
#include <unistd.h>
static void *wait_long(void *none) { pause(); return none; }
__attribute__((noinline)) static int total(const int *items) { return *items + 1; }
int main(int argc, char **argv) {
    pthread_t other;
    pthread_create(&other, 0, wait_long, 0);
    usleep(50000);
    return total(argc > 9 ? (const int *)argv : 0);
}
";
/// The line in it that crashes.
const LINE: u64 = 4;

/// A house with a node.
struct Scene {
    node: Node,
    server: Server,
    token: String,
    house: House,
}

impl Scene {
    fn open(engine: Engine) -> Option<Self> {
        Self::open_with(engine, &[])
    }

    /// Opens a house whose node is told more; files are named in the house's home.
    fn open_with(engine: Engine, more: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let house = House::new(engine)?;
        let server = house.start();
        let node = Node::start_with(&house, &server, more);
        let token = house.token();
        Some(Self { node, server, token, house })
    }

    fn run(&self, words: &[&str]) -> Ran {
        run_with(self.server.command(&self.token, words), b"")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.house.home().join(name)
    }

    fn compile(&self, to: &str, more: &[&str]) {
        std::fs::create_dir_all(self.path("root")).expect("is made");
        let source = self.path("crash.c");
        std::fs::write(&source, PROGRAM).expect("is written");
        let mut command = Command::new("cc");
        command.args(["-g", "-O1", "-pthread"]).args(more).arg("-o").arg(self.path(to)).arg(source);
        assert!(command.status().expect("there is a C compiler (Debian: gcc)").success());
    }

    fn get(&self, path: &str) -> Value {
        let (url, token) = (format!("{}{path}", self.server.url), self.token.clone());
        let asked = async move { http().get(url).bearer_auth(token).send().await?.json::<Value>().await };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
        runtime.block_on(asked).expect("is answered")
    }

    /// Runs a program that crashes, and returns the id of its dump.
    fn crash(&self, words: &[&str]) -> String {
        let ran = self.run(&[&["run"], words].concat());
        assert_eq!(ran.code, 139, "{ran:?}");
        let id = ran.err.lines().find_map(|line| line.strip_prefix("dump ")?.split_once(':'));
        id.unwrap_or_else(|| panic!("no dump is named: {ran:?}")).0.to_owned()
    }

    /// Returns a dump's report, once there is one.
    fn report(&self, dump: &str) -> Value {
        let shown = self.run(&["dump", "show", "--json", dump]);
        assert_eq!(shown.code, 0, "{shown:?}");
        serde_json::from_str(&shown.out).expect("is JSON")
    }

    /// Returns what a dump's record says, once somebody has looked into it.
    fn record(&self, dump: &str) -> Value {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let found = self.get(&format!("/v1/dumps/{dump}"));
            if found["state"] != "received" {
                return found;
            }
            assert!(Instant::now() < until, "nobody looks into it: {found}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns the executions that analyse this dump.
    fn analyses(&self, dump: &str) -> Vec<Value> {
        let page = self.get("/v1/executions?limit=1000");
        let items = page["items"].as_array().expect("is a page").iter();
        items.filter(|one| one["origin"]["kind"] == "dump" && one["origin"]["id"] == dump).cloned().collect()
    }
}

macro_rules! on_both_engines {
    ($($play:ident),+) => {
        mod sqlite { $(#[test] fn $play() { super::on(super::Engine::Sqlite, super::$play); })+ }
        mod postgres { $(#[test] fn $play() { super::on(super::Engine::Postgres, super::$play); })+ }
    };
}
on_both_engines!(a_crash_is_explained, what_cannot_be_read_says_why);

fn on(engine: Engine, play: impl FnOnce(&Scene)) {
    let Some(scene) = Scene::open(engine) else { return };
    play(&scene);
    let Scene { node, server, house: _house, .. } = scene;
    assert_eq!(node.stop(), Some(0));
    server.stop();
}

/// Returns the frames of a thread that have this function.
fn frames<'r>(thread: &'r Value, function: &str) -> Vec<&'r Value> {
    let frames = thread["frames"].as_array().expect("has frames");
    frames.iter().filter(|frame| frame["function"] == function).collect()
}

#[track_caller]
fn explained(report: &Value) {
    let crashed = &report["threads"][0];
    assert_eq!((&report["kind"], &report["signal"]["name"]), (&"core".into(), &"SIGSEGV".into()), "{report}");
    assert_eq!((&report["crash"]["class"], &crashed["is_crashed"]), (&"null_read".into(), &true.into()), "{report}");
    let found = frames(crashed, "total");
    assert!(found.len() == 1 && found[0]["line"] == LINE, "{crashed}");
    assert!(found[0]["file"].as_str().is_some_and(|file| file.ends_with("crash.c")), "{crashed}");
    assert_eq!(frames(crashed, "main").len(), 1, "{crashed}");
    let others = report["threads"].as_array().expect("has threads");
    assert!(others.iter().any(|thread| !frames(thread, "wait_long").is_empty()), "{report}");
}

fn a_crash_is_explained(scene: &Scene) {
    scene.compile("crash", &[]);
    let dump = scene.crash(&["--", "./crash"]);
    explained(&scene.report(&dump));
    let record = scene.record(&dump);
    let words = ["state", "class", "severity", "cmd"].map(|name| record[name].as_str().unwrap_or_default());
    assert_eq!(words, ["analysed", "null_read", "low", "crash"], "{record}");
    assert_eq!(record["signature"]["text"], "null_access | total", "{record}");
    assert_eq!(record["stack"][0], "total", "{record}");
    assert!(record["time"].is_string() && record["pid"].is_number() && record["node"] == "hand", "{record}");
    // Linked both ways, and looked into once.
    let died = record["execution"].as_str().expect("is linked");
    assert_eq!(scene.get(&format!("/v1/executions/{died}"))["dump"], dump);
    let analyses = scene.analyses(&dump);
    assert!(
        analyses.len() == 1 && analyses[0]["class"] == "event" && analyses[0]["state"] == "succeeded",
        "{analyses:?}"
    );

    let shown = scene.run(&["dump", "show", &dump]);
    assert!(shown.code == 0 && shown.out.contains("  total at "), "{shown:?}");
    assert!(shown.out.contains("crash.c:4:") && shown.out.contains("1 more threads: "), "{shown:?}");
    let all = scene.run(&["dump", "show", &dump, "--thread", "all"]);
    assert!(all.out.contains("  wait_long at "), "{all:?}");
    assert_eq!(scene.run(&["dump", "show", &dump, "--thread", "99"]).code, 2);
    assert_eq!(scene.run(&["dump", "show", &dump, "--thread", "first"]).code, 64);

    // What was found out about symbols is its tenant's alone.
    let symbols = scene.path("node/symbols");
    let mode = std::os::unix::fs::PermissionsExt::mode(&symbols.metadata().expect("is there").permissions());
    assert_eq!(mode & 0o777, 0o700);
    let tenant = record["tenant"].as_str().expect("is somebody's");
    assert!(symbols.join(tenant).read_dir().expect("is there").count() > 0);
    assert_eq!(scene.path("node/dumps").read_dir().expect("is there").count(), 0, "nothing of a dump is left behind");

    // A program of an image is found in the image's layers.
    scene.compile("root/crash-inside", &["-static"]);
    assert_eq!(scene.run(&["image", "import", "--name", "crash:1", "root", "--cmd", "/crash-inside"]).code, 0);
    explained(&scene.report(&scene.crash(&["--image", "crash:1"])));
    // What was told not to leave a core leaves no dump.
    let ran = scene.run(&["run", "--detach", "--", "sh", "-c", "exit 3"]);
    let ended = scene.run(&["execution", "wait", ran.out.trim()]);
    assert_eq!(ended.code, 3);
}

/// Changes a word of a core that no stack depends on, so that it is called otherwise.
fn renamed(core: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(core).expect("is read");
    let note = bytes.windows(8).position(|window| window == b"CORE\0\0\0\0").expect("has notes");
    // The signals that wait, in the first thread's account.
    bytes[note + 8 + 16] ^= 1;
    bytes
}

fn what_cannot_be_read_says_why(scene: &Scene) {
    let upload = |name: &str, bytes: &[u8]| {
        std::fs::write(scene.path(name), bytes).expect("is written");
        let sent = scene.run(&["dump", "upload", "--json", name]);
        let sent: Value = serde_json::from_str(&sent.out).unwrap_or_else(|_| panic!("{sent:?}"));
        sent["dump"]["id"].as_str().expect("has an id").to_owned()
    };
    let nonsense = upload("nonsense", &[7; 9000]);
    let record = scene.record(&nonsense);
    assert_eq!((&record["state"], &record["report"].is_string()), (&"unreadable".into(), &true), "{record}");
    assert_eq!(record["cause"], "this is no sort of dump that is known");
    let text = upload("text", b"thread 'main' panicked at src/main.rs:7:5:\nno more apples\n");
    let record = scene.record(&text);
    assert_eq!((&record["state"], &record["kind"]), (&"analysed".into(), &"traceback".into()), "{record}");
    assert_eq!(record["class"], "panic");

    // One cut short is told as far as it goes.
    scene.compile("crash", &[]);
    let dump = scene.crash(&["--", "./crash"]);
    assert_eq!(scene.run(&["dump", "download", &dump, "-o", "core"]).code, 0);
    let whole = renamed(&scene.path("core"));
    let cut = upload("cut", &whole[..whole.len() * 2 / 3]);
    let record = scene.record(&cut);
    assert_eq!((&record["state"], &record["is_truncated"]), (&"truncated".into(), &true.into()), "{record}");
    // The whole in its place is looked into anew; this machine has the program where the core says, or has it not.
    let again = upload("whole", &whole);
    assert_eq!(again, cut);
    assert_eq!(scene.record(&again)["state"], "analysed");
    assert_eq!(scene.analyses(&again).len(), 2);

    // What nobody looks into any more is not tried for ever.
    assert_eq!(scene.run(&["node", "cordon", "hand"]).code, 0);
    let other = upload("other", b"thread 'main' panicked at src/main.rs:8:5:\nno more pears\n");
    let until = Instant::now() + Duration::from_secs(60);
    while scene.analyses(&other).is_empty() {
        assert!(Instant::now() < until, "no analysis is made");
        std::thread::sleep(Duration::from_millis(20));
    }
    let late = scene.run(&["dump", "show", "--wait", "100ms", &other]);
    assert!(late.code == 1 && late.err.contains("nobody has looked into dump"), "{late:?}");
    let analysis = scene.analyses(&other)[0]["id"].as_str().expect("has an id").to_owned();
    assert_eq!(scene.run(&["execution", "cancel", &analysis]).code, 0);
    let record = scene.record(&other);
    assert_eq!((&record["state"], &record["cause"]), (&"unreadable".into(), &"its analysis was cancelled".into()));
    let shown = scene.run(&["dump", "show", &other]);
    assert!(shown.code == 1 && shown.err.contains("has no report: its analysis was cancelled"), "{shown:?}");
    assert_eq!(scene.run(&["execution", "retry", &analysis]).code, 3);
    assert_eq!(scene.run(&["node", "uncordon", "hand"]).code, 0);
}

#[test]
fn what_rules_say_is_left_out_of_a_crash() {
    let rules = tempfile::NamedTempFile::new().expect("is made");
    std::fs::write(rules.path(), "[environment]\nleave_out = [\"*TOKEN*\"]\n").expect("is written");
    let named = rules.path().to_str().expect("is text");
    let Some(scene) = Scene::open_with(Engine::Sqlite, &["--redact", named]) else { return };
    scene.compile("crash", &[]);
    let dump = scene.crash(&["--env", "A_TOKEN=hush-8462", "--env", "KIND=plain-8462", "--", "./crash"]);
    explained(&scene.report(&dump));
    assert_eq!(scene.record(&dump)["redaction"]["values"], 1);
    let shown = scene.run(&["dump", "show", &dump]).out;
    assert!(shown.contains("\nleft out   values of the environment: 1; parts of memory: 0; bytes: "), "{shown}");
    let core = scene.path("core");
    let fetched = scene.run(&["dump", "download", &dump, "-o", core.to_str().expect("is text")]);
    assert_eq!(fetched.code, 0, "{fetched:?}");
    let content = std::fs::read(core).expect("is there");
    let holds = |word: &str| content.windows(word.len()).any(|part| part == word.as_bytes());
    assert!(holds("KIND=plain-8462") && !holds("hush-8462"));
    assert_eq!(scene.node.stop(), Some(0));
    scene.server.stop();
}

#[test]
fn the_demo_shows_it_all_and_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().expect("is made");
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/demo");
    let mut command = Command::new(demo);
    command.env("QUARRY", env!("CARGO_BIN_EXE_quarry")).env("TMPDIR", folder.path());
    let begun = Instant::now();
    let ran = run_with(command, b"");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
    for words in ["ended by signal 11 (SEGV)", "null_access | total", "  total at ", "demo.c:9", "quarry dump download"]
    {
        assert!(ran.out.contains(words), "`{words}` is missing: {ran:?}");
    }
    assert_eq!(folder.path().read_dir().expect("is there").count(), 0, "it leaves something behind");
}
