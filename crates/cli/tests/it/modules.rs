//! Modules that a dump's analysis lacks, in a real house: from packs of whoever has the program, and from a real debuginfod;
//! and by whose rules dumps are signed. Needs root, a C compiler, gdb, and debuginfod for its part.

use crate::hand::Node;
use crate::stub::{Ran, run_with};
use crate::system::{Engine, House, Server, http};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program that reads through a null pointer, in a function of its own.
const PROGRAM: &str = "\
__attribute__((noinline)) static int total(const int *items) { return *items + 1; }
__attribute__((noinline)) static int middle(int argc, char **argv) { return 1 + total(argc > 9 ? (int *)argv : 0); }
int main(int argc, char **argv) { return 2 + middle(argc, argv); }
";
/// The same through a library.
const PLUGGED: &str = "\
extern int plug(int (*next)(const int *), const int *items);
__attribute__((noinline)) static int total(const int *items) { return *items + 1; }
__attribute__((noinline)) static int middle(int argc, char **argv) { return 1 + plug(total, argc > 9 ? (int *)argv : 0); }
int main(int argc, char **argv) { return 2 + middle(argc, argv); }
";
const PLUG: &str = "\
__attribute__((noinline)) static int inner(int (*next)(const int *), const int *items) { return next(items) + 3; }
int plug(int (*next)(const int *), const int *items) { return inner(next, items) + 7; }
";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Scene {
    node: Node,
    server: Server,
    token: String,
    house: House,
}

impl Scene {
    fn open(more: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let house = House::new(Engine::Sqlite)?;
        let server = house.start();
        let node = Node::start_with(&house, &server, more);
        let token = house.token();
        Some(Self { node, server, token, house })
    }

    fn close(self) {
        assert_eq!(self.node.stop(), Some(0));
        self.server.stop();
    }

    fn run(&self, words: &[&str]) -> Ran {
        run_with(self.server.command(&self.token, words), b"")
    }

    fn ok(&self, words: &[&str]) -> Ran {
        let ran = self.run(words);
        assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
        ran
    }

    fn path(&self, name: &str) -> PathBuf {
        self.house.home().join(name)
    }

    fn compile(&self, name: &str, flags: &[&str]) {
        std::fs::write(self.path("lost.c"), PROGRAM).expect("is written");
        tool("cc", &[flags, &["-O1", "-Wl,--build-id", "-o", name, "lost.c"]].concat(), self.house.home());
    }

    fn ask(&self, request: impl FnOnce(&reqwest::Client, &str) -> reqwest::RequestBuilder) -> Value {
        let request = request(&http(), &self.server.url).bearer_auth(&self.token);
        let asked = async move { request.send().await?.json::<Value>().await };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
        runtime.block_on(asked).expect("is answered")
    }

    /// Returns what a dump's record says, once somebody has looked into it.
    fn record(&self, dump: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.ask(|http, url| http.get(format!("{url}/v1/dumps/{dump}")));
            if found["state"] != "received" {
                return found;
            }
            assert!(Instant::now() < until, "nobody looks into it: {found}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn report(&self, dump: &str) -> Value {
        serde_json::from_str(&self.ok(&["dump", "show", "--json", dump]).out).expect("is JSON")
    }

    /// Runs a program that crashes, and returns its dump's id.
    fn crash(&self, program: &str) -> String {
        let ran = self.run(&["run", "--", program]);
        assert_eq!(ran.code, 139, "{ran:?}");
        let id = ran.err.lines().find_map(|line| line.strip_prefix("dump ")?.split_once(':'));
        id.unwrap_or_else(|| panic!("no dump is named: {ran:?}")).0.to_owned()
    }

    /// Returns the executions that analysed a dump, the last first.
    fn analyses(&self, dump: &str) -> Vec<Value> {
        let page = self.ask(|http, url| http.get(format!("{url}/v1/executions?limit=1000")));
        let items = page["items"].as_array().expect("is a page").iter();
        items.filter(|one| one["origin"]["kind"] == "dump" && one["origin"]["id"] == dump).cloned().collect()
    }
}

fn tool(program: &str, words: &[&str], folder: &Path) -> String {
    let ran = Command::new(program).args(words).current_dir(folder).stdin(Stdio::null()).output().expect("is there");
    assert!(ran.status.success(), "{program}: {ran:?}");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

/// Has gdb run a program until it crashes, and write a core.
fn gcore(scene: &Scene, program: &str, core: &str) {
    let save = format!("generate-core-file {}", scene.path(core).display());
    tool("gdb", &["-nx", "-batch", "-ex", "run", "-ex", &save, program], scene.house.home());
}

/// Returns the functions of the thread that crashed.
fn functions(report: &Value) -> Vec<&str> {
    let frames = report["threads"][0]["frames"].as_array().expect("has frames");
    frames.iter().filter_map(|frame| frame["function"].as_str()).collect()
}

/// Returns what was found of a module.
fn found<'r>(report: &'r Value, name: &str) -> &'r str {
    let modules = report["modules"].as_array().expect("has modules");
    let module = modules.iter().find(|module| module["path"].as_str().is_some_and(|path| path.ends_with(name)));
    module.and_then(|module| module["found"].as_str()).unwrap_or_else(|| panic!("no `{name}`: {report}"))
}

#[test]
fn packs_tell_what_this_machine_does_not_have() {
    let Some(scene) = Scene::open(&[]) else { return };
    scene.compile("lost", &[]);
    gcore(&scene, "./lost", "core.lost");
    // The node is on the machine that has the program, so it is put aside.
    let (here, aside) = (scene.path("lost"), scene.path("aside"));
    std::fs::rename(&here, &aside).expect("is moved");
    let hash = scene.ok(&["dump", "upload", "core.lost"]).out.trim().to_owned();
    assert_eq!(scene.record(&hash)["state"], "analysed");
    let before = scene.report(&hash);
    assert!(!functions(&before).contains(&"total"), "{before}");
    assert_eq!(found(&before, "/lost"), "missing");
    std::fs::rename(&aside, &here).expect("is moved");
    assert!(scene.ok(&["dump", "packs", "core.lost"]).out.contains("/lost"));
    std::fs::rename(&here, &aside).expect("is moved");

    // What is there now tells more; nothing is done by a specification unless that was said.
    let record = scene.record(&hash);
    let dump = record["id"].as_str().expect("has one");
    assert_eq!(scene.ok(&["dump", "reanalyse", "--dry-run", "kind=core"]).out.trim(), hash);
    let refused = scene.run(&["dump", "reanalyse", "kind=core"]);
    assert!(refused.code == 64 && refused.err.contains("1 dump would be looked into again"), "{refused:?}");
    assert_eq!(scene.run(&["dump", "reanalyse", "cmd=nobody"]).code, 2);
    assert_eq!(scene.analyses(dump).len(), 1);
    scene.ok(&["dump", "reanalyse", "--yes", "kind=core"]);
    let record = scene.record(&hash);
    let after = scene.report(&hash);
    assert_eq!(functions(&after)[..3], ["total", "middle", "main"], "{after}");
    assert_eq!((found(&after, "/lost"), &record["class"]), ("symbols", &json!("null_read")));
    assert_eq!(record["signature"]["text"], "null_access | total");
    let analyses = scene.analyses(dump);
    assert_eq!(analyses.len(), 2);
    let log = scene.ok(&["execution", "logs", analyses[0]["id"].as_str().expect("has one")]);
    assert!(log.out.contains("files of modules were fetched") || log.err.contains("files of modules"), "{log:?}");

    // Debuggers know it, too, and disassemble what the core itself has.
    for (which, words) in [("--gdb", ["-batch", "-ex", "bt"]), ("--lldb", ["-b", "-o", "bt"])] {
        if is_there(which.trim_start_matches('-')) {
            let ran = scene.ok(&[&["dump", "debug", which, &hash, "--"], &words[..]].concat());
            let at = ["total", "middle", "main"]
                .map(|name| ran.out.find(&format!("{name} (")).or(ran.out.find(&format!("`{name}"))));
            assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{which}: {ran:?}");
        }
    }
    // Nobody asks for what everybody has: the same debugger where the program is.
    std::fs::rename(&aside, &here).expect("is moved");
    let ran = scene.ok(&["dump", "debug", &hash, "--", "-batch", "-ex", "info symbol total"]);
    assert!(ran.out.contains("total in section .text"), "{ran:?}");
    std::fs::rename(&here, &aside).expect("is moved");

    // What was found out is what dumps are found by.
    let words = ["class=null_read", "severity>=low", "cause=undefined", "class", "severity"];
    let listed = scene.ok(&[&["dump", "ls"], &words[..]].concat());
    assert!(listed.out.contains("CLASS") && listed.out.contains("null_read low"), "{listed:?}");
    assert!(scene.ok(&["dump", "report", "severity"]).out.contains("low"));
    scene.close();
}

/// A program whose crash is in a function that is inlined; another of its build id; and how both are made.
const INLINED: &str = "\
static inline __attribute__((always_inline)) int total(const int *items) {
    int sum = 0;
    for (int i = 0; i < items[3]; i++) sum += items[i];
    return sum;
}
int *volatile nothing;
__attribute__((noinline)) static int middle(void) { return 1 + total(nothing); }
int main(void) { return 2 + middle(); }
";
const LIE: &str = "\
int *volatile nothing;
__attribute__((noinline)) static int lie(void) { return 1 + nothing[3]; }
int main(void) { return 2 + lie(); }
";
const SAME_ID: &str = "-Wl,--build-id=0x00112233445566778899aabbccddeeff00112233";

#[test]
fn a_crash_is_told_alike_wherever_it_is_looked_into_and_whoever_lies() {
    let Some(scene) = Scene::open(&[]) else { return };
    let compile = |name: &str, text: &str| {
        let source = format!("{name}.c");
        std::fs::write(scene.path(&source), text).expect("is written");
        tool("cc", &["-O1", "-g", SAME_ID, "-o", name, &source], scene.house.home());
    };
    // Somebody was first with a pack of this build id.
    compile("lie", LIE);
    scene.ok(&["dump", "packs", "--module", &scene.path("lie").display().to_string()]);
    compile("inlined", INLINED);
    let (here, aside) = (scene.path("inlined"), scene.path("aside"));
    let signature = |dump: &str| scene.record(dump)["signature"]["text"].clone();
    let ran = scene.crash("./inlined");
    assert_eq!(signature(&ran), "null_access | total", "{}", scene.report(&ran));
    // Looked into where the program is not: by what came with the dump.
    gcore(&scene, "./inlined", "core.inlined");
    let without = |words: &[&str]| {
        scene.ok(&["node", "cordon", "hand"]);
        let hash = scene.ok(words).out.trim().to_owned();
        std::fs::rename(&here, &aside).expect("is moved");
        scene.ok(&["node", "uncordon", "hand"]);
        let (told, report) = (signature(&hash), scene.report(&hash));
        std::fs::rename(&aside, &here).expect("is moved");
        (hash, told, report)
    };
    let (hash, told, report) = without(&["dump", "upload", "core.inlined"]);
    assert_eq!((&told, found(&report, "/inlined")), (&json!("null_access | total"), "debug"), "{report}");
    let first = &report["threads"][0]["frames"][0];
    assert_eq!((&first["function"], &first["line"]), (&json!("total"), &json!(3)), "{report}");
    // Of who names none, nobody knows better.
    scene.ok(&["dump", "rm", &hash]);
    let (_, told, _) = without(&["dump", "upload", "--no-packs", "core.inlined"]);
    assert_ne!(told, "null_access | total");
    scene.close();
}

/// Tells whether there is such a program.
fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Begins a debuginfod server of what is in `served`, and waits until it has what was stripped off a file.
fn serve(scene: &Scene, port: u16, file: &str) -> Running {
    let server = Command::new("debuginfod")
        .args(["-F", "-p", &port.to_string(), "-d", ":memory:", "-t", "1"])
        .arg(scene.path("served"))
        .env_remove("DEBUGINFOD_URLS")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let server = Running(server.expect("starts"));
    let notes = tool("readelf", &["-n", file], scene.house.home());
    let id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).expect("has one").to_owned();
    let until = Instant::now() + PATIENCE;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
    let url = format!("http://127.0.0.1:{port}/buildid/{id}/debuginfo");
    let has_it = || runtime.block_on(http().get(&url).send()).is_ok_and(|answer| answer.status() == 200);
    while !has_it() {
        assert!(Instant::now() < until, "it never has it");
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

#[test]
fn what_several_share_is_fetched_by_its_own_name() {
    if !is_there("debuginfod") || !is_there("dwz") {
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("is free").port();
    let url = format!("http://127.0.0.1:{port}");
    let Some(scene) = Scene::open(&["--debuginfod", &url, "--allow-debuginfod", "127.0.0.1"]) else { return };
    std::fs::create_dir(scene.path("served")).expect("is made");
    for (name, more) in [("lost", "-DLOST"), ("twin", "-DTWIN")] {
        scene.compile(name, &["-g", "-include", "stdio.h", "-fno-eliminate-unused-debug-types", more]);
        tool("objcopy", &["--only-keep-debug", name, &format!("served/{name}.debug")], scene.house.home());
        tool("strip", &["--strip-all", name], scene.house.home());
    }
    let words = ["-m", "served/shared.debug", "-M", "/nowhere/shared.debug", "served/lost.debug", "served/twin.debug"];
    tool("dwz", &words, scene.house.home());
    let server = serve(&scene, port, "served/shared.debug");
    let dump = scene.crash("./lost");
    let report = scene.report(&dump);
    assert_eq!(functions(&report)[..3], ["total", "middle", "main"], "{report}");
    let modules = report["modules"].as_array().expect("has modules");
    assert!(modules.iter().all(|module| module["supplementary"].is_null()), "{report}");
    let ran = scene.ok(&["dump", "debug", &dump, "--", "-batch", "-ex", "bt"]);
    assert!(ran.out.contains("total (items=0x0) at") && ran.out.contains("lost.c:1"), "{ran:?}");
    assert!(!ran.err.contains("could not find"), "{ran:?}");
    drop(server);
    scene.close();
}

#[test]
fn debuginfod_tells_what_was_stripped() {
    if !is_there("debuginfod") {
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("is free").port();
    let url = format!("http://127.0.0.1:{port}");
    let Some(scene) = Scene::open(&["--debuginfod", &url, "--allow-debuginfod", "127.0.0.1"]) else { return };
    scene.compile("lost", &["-g"]);
    std::fs::create_dir(scene.path("served")).expect("is made");
    tool("objcopy", &["--only-keep-debug", "lost", "served/lost.debug"], scene.house.home());
    tool("strip", &["--strip-all", "lost"], scene.house.home());
    // Nobody answers yet: that is said, and what is known without is told.
    let early = scene.crash("./lost");
    let (before, record) = (scene.report(&early), scene.record(&early));
    assert!(!functions(&before).contains(&"total"), "{before}");
    let analysis = scene.analyses(record["id"].as_str().expect("has one")).remove(0);
    let log = scene.ok(&["execution", "logs", analysis["id"].as_str().expect("has one")]);
    assert!(log.out.contains("gave nothing") || log.err.contains("gave nothing"), "{log:?}");

    let server = serve(&scene, port, "lost");
    scene.ok(&["dump", "reanalyse", &early]);
    scene.record(&early);
    let after = scene.report(&early);
    let first = &after["threads"][0]["frames"][0];
    assert_eq!((&first["function"], &first["line"]), (&json!("total"), &json!(1)), "{after}");
    assert!(first["file"].as_str().is_some_and(|file| file.ends_with("lost.c")), "{after}");
    assert_eq!(found(&after, "/lost"), "debug");
    let ran = scene.ok(&["dump", "debug", &early, "--", "-batch", "-ex", "bt"]);
    assert!(ran.out.contains("total (items=0x0) at") && ran.out.contains("lost.c:1"), "{ran:?}");
    // What was fetched is kept by the node.
    drop(server);
    let again = scene.crash("./lost");
    assert_eq!(functions(&scene.report(&again))[..3], ["total", "middle", "main"]);
    // Nothing of any analysis is left behind, and what was found out about symbols is in place.
    assert_eq!(scene.path("node/dumps").read_dir().expect("is there").count(), 0);
    let tenant = record["tenant"].as_str().expect("is somebody's");
    let symbols = scene.path("node/symbols").join(tenant);
    let kept = symbols.read_dir().expect("is there").flatten().flat_map(|folder| folder.path().read_dir()).flatten();
    assert!(kept.flatten().all(|file| file.path().extension().is_some_and(|ending| ending == "symbols")));
    scene.close();
}

#[test]
fn debuggers_follow_stacks_through_libraries_that_are_nowhere() {
    let Some(scene) = Scene::open(&[]) else { return };
    std::fs::write(scene.path("plug.c"), PLUG).expect("is written");
    std::fs::write(scene.path("lost.c"), PLUGGED).expect("is written");
    tool("cc", &["-O1", "-shared", "-fPIC", "-Wl,--build-id", "-o", "libplug.so", "plug.c"], scene.house.home());
    let words = ["-O1", "-Wl,--build-id", "-o", "lost", "lost.c", "-L.", "-lplug", "-Wl,-rpath,$ORIGIN"];
    tool("cc", &words, scene.house.home());
    gcore(&scene, "./lost", "core.lost");
    scene.ok(&["dump", "packs", "core.lost"]);
    std::fs::create_dir(scene.path("aside")).expect("is made");
    let names = ["total", "inner", "plug", "middle", "main"];
    let check = |aside: &[&str]| {
        aside
            .iter()
            .for_each(|file| std::fs::rename(scene.path(file), scene.path("aside").join(file)).expect("is moved"));
        let hash = scene.ok(&["dump", "upload", "core.lost"]).out.trim().to_owned();
        scene.record(&hash);
        assert_eq!(functions(&scene.report(&hash))[..5], names, "{aside:?}");
        for (which, words) in [("--gdb", ["-batch", "-ex", "bt"]), ("--lldb", ["-b", "-o", "bt"])] {
            if !is_there(which.trim_start_matches('-')) {
                continue;
            }
            let ran = scene.ok(&[&["dump", "debug", which, &hash, "--"], &words[..]].concat());
            let at = names.map(|name| ran.out.find(&format!(" {name} (")).or(ran.out.find(&format!("`{name}"))));
            assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{aside:?} {which}: {ran:?}");
        }
        aside
            .iter()
            .for_each(|file| std::fs::rename(scene.path("aside").join(file), scene.path(file)).expect("is moved"));
    };
    check(&["lost", "libplug.so"]);
    check(&["libplug.so"]);
    check(&["lost"]);
    check(&[]);
    scene.close();
}

#[test]
fn dumps_are_signed_by_their_tenants_rules() {
    let Some(scene) = Scene::open(&[]) else { return };
    scene.compile("lost", &["-g"]);
    let rules = "[[rule]]\nrole = \"skip\"\nwhy = \"it is never its fault\"\nfunction = [\"total\"]\n";
    std::fs::write(scene.path("ours.toml"), rules).expect("is written");
    scene.ok(&["signature", "apply-rules", "ours.toml"]);
    let dump = scene.crash("./lost");
    assert_eq!(scene.record(&dump)["signature"]["text"], "null_access | middle");
    assert_eq!(scene.report(&dump)["notes"].as_array().map(Vec::len), Some(0));

    // Nobody reads rules on the way; what is none changes nothing but a note.
    std::fs::write(scene.path("bad.toml"), "[[rule]]\nrole = \"sing\"\n").expect("is written");
    let blob = scene.ok(&["blob", "put", "bad.toml"]).out.split_whitespace().next().expect("is named").to_owned();
    let new = json!({"name": "bad.toml", "blob": blob, "rules": "0".repeat(32)});
    let put = scene.ask(|http, url| http.put(format!("{url}/v1/signature-rules")).json(&new));
    assert_eq!(put["name"], "bad.toml", "{put}");
    scene.compile("other", &["-g", "-DOTHER", "-fno-omit-frame-pointer"]);
    let dump = scene.crash("./other");
    let report = scene.report(&dump);
    let notes = report["notes"].as_array().expect("has notes");
    let is_told = |note: &Value| note["text"].as_str().is_some_and(|text| text.contains("the house's rules alone"));
    assert!(notes.iter().any(is_told), "{notes:?}");
    assert_eq!(scene.record(&dump)["state"], "analysed");
    scene.close();
}
