//! Analyzers and debuggers in the real house: a program crashes, scripts study its dump in sandboxes, what they ask for is
//! noted, and gdb opens it. The examples of Thoth's README, by the binary that is called `thoth`. On both engines. Needs
//! root, for sandboxes with limits, a C compiler and gdb.

use crate::hand::Node;
use crate::stub::{Ran, run_with};
use crate::system::{Engine, House, Server};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A program that crashes in a function of its own; its name makes each its own dump.
const PROGRAM: &str = "\
__attribute__((noinline)) int utmpx_postfork(const int *items) { return *items + 1; }
int main(int argc, char **argv) { return utmpx_postfork(argc > 9 ? (const int *)argv : 0); }
";

/// The README's first example, but for the debugger.
const DIAGNOSE: &str = r#"
    #
    # This analyzer only applies to core files
    #
    if [[ "$THOTH_TYPE" != "core" ]]; then
    	exit 0
    fi

    #
    # This is only relevant for svc.startd
    #
    if [[ `cat $THOTH_INFO | json cmd` != "svc.startd" ]]; then
    	exit 0
    fi

    #
    # This is only OS-2359 if we have utmpx_postfork in our stack
    #
    if ( ! debug -batch -ex bt 2>/dev/null | grep utmpx_postfork > /dev/null ); then
    	exit 0
    fi

    #
    # We have a winner! Set the ticket.
    #
    thoth_ticket OS-2359
    echo $THOTH_NAME: successfully diagnosed as OS-2359
"#;

struct Scene {
    node: Node,
    server: Server,
    token: String,
    program: PathBuf,
    house: House,
}

impl Scene {
    fn open(engine: Engine) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let house = House::new(engine)?;
        let server = house.start();
        let node = Node::start(&house, &server);
        let (token, program) = (house.token(), house.home().join("thoth"));
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_quarry"), &program).expect("is made");
        Some(Self { node, server, token, program, house })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.house.home().join(name)
    }

    fn thoth_with(&self, words: &[&str], input: &str) -> Ran {
        let mut command = Command::new(&self.program);
        command.args(words).env_clear().env("HOME", self.house.home()).current_dir(self.house.home());
        command.env("QUARRY_URL", &self.server.url).env("QUARRY_TOKEN", &self.token);
        run_with(command, input.as_bytes())
    }

    fn thoth(&self, words: &[&str]) -> Ran {
        self.thoth_with(words, "")
    }

    fn ok(&self, words: &[&str]) -> Ran {
        let ran = self.thoth(words);
        assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
        ran
    }

    /// Stores an analyzer.
    fn store(&self, name: &str, script: &str) {
        let stored = self.thoth_with(&["analyzer", name], script);
        assert_eq!(stored.code, 0, "{stored:?}");
    }

    fn compile(&self, name: &str, more: &[&str]) -> PathBuf {
        let (source, program) = (self.path("crash.c"), self.path(name));
        std::fs::create_dir_all(program.parent().expect("has a folder")).expect("is made");
        std::fs::write(&source, PROGRAM).expect("is written");
        let mut command = Command::new("cc");
        command.args(["-g", "-O1"]).args(more).arg("-o").arg(&program).arg(source);
        assert!(command.status().expect("there is a C compiler (Debian: gcc)").success());
        program
    }

    /// Runs words that crash, and returns the hash of the dump once somebody has looked into it.
    fn crash(&self, words: &[&str]) -> String {
        let ran = run_with(self.server.command(&self.token, &[&["run"], words].concat()), b"");
        assert_eq!(ran.code, 139, "{ran:?}");
        let id = ran.err.lines().find_map(|line| line.strip_prefix("dump ")?.split_once(':')).expect("is named").0;
        self.until(|| {
            let info = self.info(id);
            (info["state"] != "received").then(|| info["id"].as_str().expect("is a hash").to_owned())
        })
    }

    fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < until, "it never comes: {}", self.server.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn info(&self, dump: &str) -> Value {
        serde_json::from_str(&self.ok(&["info", dump]).out).expect("is JSON")
    }
}

/// Replaces what is another each time: ids of executions, and how long they took.
fn masked(text: &str) -> String {
    let word = |word: &str| match word.strip_suffix('\n').unwrap_or(word) {
        id if id.starts_with("exe_") => word.replace(id, "EXE"),
        time if time.starts_with("0h") && time.ends_with('s') => word.replace(time, "TIME"),
        _ => word.to_owned(),
    };
    text.split_inclusive([' ', '\n'])
        .map(|one| one.strip_suffix(' ').map_or_else(|| word(one), |one| word(one) + " "))
        .collect()
}

macro_rules! on_both_engines {
    ($($play:ident),+) => {
        mod sqlite { $(#[test] fn $play() { super::on(super::Engine::Sqlite, super::$play); })+ }
        mod postgres { $(#[test] fn $play() { super::on(super::Engine::Postgres, super::$play); })+ }
    };
}
on_both_engines!(the_readme_is_true, what_is_asked_is_bounded, dumps_that_arrive_are_studied, debuggers_open_dumps);

fn on(engine: Engine, play: impl FnOnce(&Scene)) {
    let Some(scene) = Scene::open(engine) else { return };
    play(&scene);
    let Scene { node, server, house: _house, .. } = scene;
    assert_eq!(node.stop(), Some(0));
    server.stop();
}

fn the_readme_is_true(scene: &Scene) {
    scene.compile("svc.startd", &[]);
    scene.compile("other", &[]);
    let (first, other, last) =
        (scene.crash(&["./svc.startd"]), scene.crash(&["./other"]), scene.crash(&["./svc.startd"]));

    let stored = scene.thoth_with(&["analyzer", "OS-2359-diagnose"], DIAGNOSE);
    let said = "thoth: reading analyzer 'OS-2359-diagnose' from stdin\nthoth: added analyzer 'OS-2359-diagnose'\n";
    assert_eq!((stored.code, &*stored.out, &*stored.err), (0, "", said));
    assert_eq!(scene.ok(&["analyzer", "OS-2359-diagnose", "--show"]).out, DIAGNOSE);

    // One dump by its name, then all that are meant.
    let wet = scene.ok(&["analyze", "--dry-run", "type=core", "OS-2359-diagnose"]);
    assert_eq!(wet.out, format!("{first}\n{other}\n{last}\n"));
    assert_eq!(scene.info(&first)["ticket"], Value::Null);
    let one = scene.ok(&["analyze", &last, "OS-2359-diagnose"]);
    assert_eq!(one.out, format!("{last}: successfully diagnosed as OS-2359\n"));
    let said = "thoth: created job EXE\nthoth: waiting for completion of job EXE\nthoth: job EXE completed in TIME\n\
                thoth: version 1 of 'OS-2359-diagnose' studied 1 dump\n";
    assert_eq!(masked(&one.err), said);
    assert_eq!(scene.info(&last)["ticket"], "OS-2359");
    let rest = scene.ok(&["analyze", "type=core", "OS-2359-diagnose"]);
    assert_eq!(rest.out, format!("{first}: successfully diagnosed as OS-2359\n"));
    let said = "thoth: created job EXE and 1 more\n\
                thoth: waiting for completion of job EXE and 1 more\n\
                thoth: job EXE and 1 more completed in TIME\n\
                thoth: version 1 of 'OS-2359-diagnose' studied 2 dumps; it had studied 1 dump before (--again)\n";
    assert_eq!(masked(&rest.err), said);
    let tickets = [&first, &other, &last].map(|hash| scene.info(hash)["ticket"].clone());
    assert_eq!(tickets, [json!("OS-2359"), Value::Null, json!("OS-2359")]);

    // In the order of the dumps, however long each takes.
    let again = scene.ok(&["analyze", "--again", "cmd=svc*", "OS-2359-diagnose"]);
    let diagnosed = |hash: &str| format!("{hash}: successfully diagnosed as OS-2359\n");
    assert_eq!(again.out, diagnosed(&first) + &diagnosed(&last));
    let told = scene.ok(&["analyze", "--json", "--again", &other, "OS-2359-diagnose"]);
    let told: Value = serde_json::from_str(&told.out).expect("is JSON");
    assert_eq!((&told["hash"], &told["outcome"]["code"], &told["output"]), (&json!(other), &json!(0), &json!("")));

    // The second example: a property from what a program says.
    scene.store("fmri", "fmri=$(printf svc:/a=b)\nthoth_set fmri $fmri\necho $THOTH_NAME: $fmri\n");
    assert_eq!(scene.ok(&["analyze", &first, "fmri"]).out, format!("{first}: svc:/a=b\n"));
    assert_eq!(scene.info(&first)["properties"]["fmri"], "svc:/a=b");
    assert_eq!(scene.ok(&["ls", "properties.fmri=svc*"]).out.lines().count(), 2);
    // Another content is another version, which has studied nothing; the old content is the old version.
    scene.store("fmri", "thoth_unset fmri; echo '{\"a\": [1]}' | thoth_set typed; thoth_unticket\n");
    let detached = scene.ok(&["analyze", "--detach", &first, "fmri"]);
    assert!(detached.out.starts_with(&format!("{first} exe_")), "{detached:?}");
    let properties = scene.until(|| Some(scene.info(&first)["properties"].clone()).filter(|all| all["fmri"].is_null()));
    assert_eq!(properties, json!({ "typed": { "a": [1] } }));
    assert_eq!(scene.info(&first)["ticket"], Value::Null);
    let back = scene
        .thoth_with(&["analyzer", "fmri"], "fmri=$(printf svc:/a=b)\nthoth_set fmri $fmri\necho $THOTH_NAME: $fmri\n");
    assert!(back.err.ends_with("thoth: changed analyzer 'fmri', which is version 1 now\n"), "{back:?}");
    assert_eq!(scene.ok(&["analyze", &first, "fmri"]).out, "");

    let paths = "/thoth/stor/thoth/analyzers/OS-2359-diagnose\n/thoth/stor/thoth/analyzers/fmri\n";
    assert_eq!(scene.ok(&["analyzers"]).out, paths);
    let listed: Value = serde_json::from_str(&scene.ok(&["analyzers", "--json"]).out).expect("is JSON");
    assert_eq!((&listed["items"][1]["name"], &listed["items"][1]["version"]), (&json!("fmri"), &json!(1)), "{listed}");
    assert_eq!(scene.thoth(&["set", &first, "typed", "null"]).code, 1, "null is no value");
    let versions: Value =
        serde_json::from_str(&scene.ok(&["analyzer", "fmri", "--versions", "--json"]).out).expect("is JSON");
    let numbers: Vec<_> = versions["items"].as_array().expect("is a list").iter().map(|one| &one["version"]).collect();
    assert_eq!(numbers, [2, 1]);
    let second = "thoth_unset fmri; echo '{\"a\": [1]}' | thoth_set typed; thoth_unticket\n";
    assert_eq!(scene.ok(&["analyzer", "fmri", "--show", "--version", "2"]).out, second);

    for (words, code, said) in [
        (&["analyze", &first, "nobody"][..], 2, "thoth: analyzer `nobody` does not exist"),
        (&["analyze", "cmd=nothing", "fmri"], 2, "thoth: no dump is meant"),
        (&["analyze", &first, "::stack"], 1, "is no analyzer's name"),
        (&["analyze", &first, "more", "fmri"], 1, "is no part of a specification"),
        (&["analyzer", "fmri"], 1, "an analyzer has 1 to"),
        (&["analyzer", "fmri", "--show", "--version", "3"], 2, "thoth: analyzer `fmri` has no version 3"),
        (&["analyzer", "nobody", "--versions"], 2, "thoth: analyzer `nobody` does not exist"),
        (&["analyzer", "a/b"], 1, "is no analyzer's name"),
        (&["debug", "cmd=svc*"], 1, "specification matches 2 dumps; cannot debug interactively"),
    ] {
        let ran = scene.thoth(words);
        assert!(ran.code == code && ran.out.is_empty() && ran.err.contains(said), "{words:?}: {ran:?}");
    }
    assert_eq!(scene.ok(&["analyzer", "fmri", "--rm"]).err, "thoth: removed analyzer 'fmri'\n");
    assert_eq!(scene.thoth(&["analyzer", "fmri", "--show"]).code, 2);
}

fn what_is_asked_is_bounded(scene: &Scene) {
    scene.compile("crash", &[]);
    let dump = scene.crash(&["./crash"]);
    let analyze = |name: &str| scene.thoth(&["analyze", &dump, name]);
    // Who fails in the end has said what he has said; the others go on.
    scene.store("fails", "thoth_set kept 1; exit 3");
    let ran = analyze("fails");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains(&format!("thoth: {dump}: exit code 3\n")), "{ran:?}");
    assert_eq!(analyze("fails").code, 1, "one that failed is studied again");
    assert_eq!(scene.info(&dump)["properties"], json!({ "kept": 1 }));
    // Who is ended in the middle is not heard.
    scene.store("waits", "thoth_set lost 1; sleep 100");
    assert_eq!(scene.ok(&["analyzer", "waits", "--time", "1s", "--memory", "64M"]).code, 0);
    let ran = analyze("waits");
    assert!(ran.code == 1 && ran.err.contains("needed more time than its limit"), "{ran:?}");
    // What cannot be noted is told, and the rest noted; what is too much is not heard at all.
    scene.store("mixed", "thoth_ticket a=b; thoth_set fine yes; printf 'rm\\0' > $QUARRY_ASK");
    let ran = analyze("mixed");
    assert!(ran.code == 0 && ran.err.contains("`a=b` is no ticket") && ran.err.contains("not understood"), "{ran:?}");
    scene.store("floods", "thoth_set many 1; head -c 3000000 /dev/zero > $QUARRY_ASK; echo done");
    let ran = analyze("floods");
    assert!(ran.code == 0 && ran.out == "done\n" && ran.err.contains("is not heard"), "{ran:?}");
    assert_eq!(scene.info(&dump)["properties"], json!({ "kept": 1, "fine": "yes" }));
    // There is no network, nothing to write beside the dump, and nobody else's files.
    let script = "#!/usr/bin/python3\nimport os, socket\n\
        for path in (os.environ['THOTH_DUMP'], os.environ['THOTH_INFO'], '/run/quarry/thoth/bin/thoth_set', '/run/quarry/thoth/x'):\n\
        \x20   try: open(path, 'ab'); print('wrote', path)\n    except OSError: pass\n\
        try: socket.create_connection(('127.0.0.1', 1), 1)\n\
        except OSError as error: print(type(error).__name__)\n\
        print(sorted(os.listdir('/run/quarry')), os.environ.get('QUARRY_TOKEN'))\n";
    scene.store("looks", script);
    let ran = analyze("looks");
    let there = "['analyzer', 'dump', 'files', 'modules', 'program', 'thoth'] None";
    assert_eq!(ran.out, format!("ConnectionRefusedError\n{there}\n"), "{ran:?}");
    // Nothing can be tried once more that writes on a dump, and nothing studied that has no content.
    let executions = scene.ok(&["analyze", "--json", "--again", &dump, "looks"]).out;
    let told: Value = serde_json::from_str(&executions).expect("is JSON");
    let retried = run_with(
        scene.server.command(&scene.token, &["execution", "retry", told["execution"].as_str().expect("has one")]),
        b"",
    );
    assert!(retried.code == 3 && retried.err.contains("looked at a dump"), "{retried:?}");
    assert_eq!(scene.ok(&["rm", &dump]).code, 0);
    let ran = analyze("floods");
    assert!(ran.code == 1 && ran.err.contains("of 1 dump there is no content"), "{ran:?}");
}

fn dumps_that_arrive_are_studied(scene: &Scene) {
    scene.compile("early", &[]);
    scene.compile("late", &[]);
    let before = scene.crash(&["./early"]);
    scene.store("greets", "thoth_set greeted $(json cmd < $THOTH_INFO)");
    let set = scene.ok(&["analyzer", "greets", "--on-arrival", "type=core cmd=late*"]);
    assert_eq!(set.err, "thoth: changed analyzer 'greets', which is version 1 now\n");
    assert!(scene.ok(&["analyzers", "--json"]).out.contains("cmd=late*"));
    let refused = scene.thoth(&["analyzer", "greets", "--on-arrival", "limit=1"]);
    assert!(refused.code == 1 && refused.err.contains("mean nothing for dumps that arrive"), "{refused:?}");
    let (late, early) = (scene.crash(&["./late"]), scene.crash(&["./early"]));
    let greeted = scene.until(|| Some(scene.info(&late)["properties"].clone()).filter(|all| !all["greeted"].is_null()));
    assert_eq!(greeted, json!({ "greeted": "late" }));
    // It is studied already, by whoever asks.
    let asked = scene.ok(&["analyze", &late, "greets"]);
    assert!(asked.err.contains("it had studied 1 dump before"), "{asked:?}");
    assert_eq!(scene.ok(&["analyzer", "greets", "--no-arrival"]).code, 0);
    let third = scene.crash(&["./late"]);
    // Nobody begins anything of which nothing is written down: what would come has come with the next analysis.
    scene.crash(&["./early"]);
    for hash in [&before, &early, &third] {
        assert_eq!(scene.info(hash)["properties"], json!({}), "{hash}");
    }
}

fn debuggers_open_dumps(scene: &Scene) {
    let program = scene.compile("crash", &["-Wl,--build-id"]);
    let dump = scene.crash(&["./crash"]);
    std::fs::remove_file(&program).expect("is there");
    let ran = scene.ok(&["debug", &dump, "--", "-batch", "-ex", "bt"]);
    assert!(ran.out.contains("#0  utmpx_postfork (items=0x0) at") && ran.out.contains("crash.c:1"), "{ran:?}");
    assert!(ran.out.contains("#1 ") && ran.out.contains(" in main ("), "{ran:?}");
    assert!(ran.err.starts_with(&format!("thoth: debugging {dump}\n")), "{ran:?}");
    assert_eq!(scene.thoth(&["debug", &dump, "--gdb", "--", "-batch", "-ex", "quit 7"]).code, 7);
    assert_eq!(scene.thoth(&["debug", "0000000000000000"]).code, 2);
    // A program of an image is found in the image's layers.
    scene.compile("root/inside", &["-static"]);
    let imported =
        scene.server.run(&scene.token, &["image", "import", "--name", "crash:1", "root", "--cmd", "/inside"]);
    assert_eq!(imported.code, 0, "{imported:?}");
    let inside = scene.crash(&["--image", "crash:1"]);
    let ran = scene.ok(&["debug", &inside, "--", "-batch", "-ex", "bt"]);
    assert!(ran.out.contains("utmpx_postfork (items=0x0) at"), "{ran:?}");
    // What no debugger opens says so.
    std::fs::write(scene.path("text"), "thread 'main' panicked at src/main.rs:7:5:\nno more apples\n")
        .expect("is written");
    let text = scene.ok(&["upload", "text"]).out;
    let text = text.trim();
    let quarry = |words: &[&str]| scene.server.run(&scene.token, &[&["dump", "debug"], words].concat());
    let ran = quarry(&[text]);
    let said =
        format!("error: dump `{text}` is a text that was printed, which no debugger opens\nhint: `dump show` tells");
    assert!(ran.code == 3 && ran.err.starts_with(&said), "{ran:?}");
    assert_eq!(scene.thoth(&["debug", text]).code, 1);
    // An analyzer may look at it all the same, but not at what is not there any more.
    scene.store("looks", "cat $THOTH_DUMP\n");
    let looked = scene.thoth_with(&["debug", text, "looks"], "thoth_analyze\n");
    assert!(looked.code == 0 && looked.out.contains("no more apples"), "{looked:?}");
    scene.ok(&["rm", text]);
    for words in [&[text][..], &[text, "looks"]] {
        let ran = quarry(words);
        let said = format!("error: dump `{text}` cannot be opened: its content was dropped at ");
        assert!(ran.code == 3 && ran.err.starts_with(&said), "{ran:?}");
        assert!(ran.err.contains("hint: `dump show` and `dump info` tell what was found out before"), "{ran:?}");
    }
    assert_eq!(quarry(&["0000000000000000"]).code, 2);

    // A kernel's dump wants its own debugger, and says what to install.
    let mut kernel = b"makedumpfile\0\0\0\0".to_vec();
    kernel.resize(64 << 10, 0);
    std::fs::write(scene.path("vmcore"), kernel).expect("is written");
    let vmcore = scene.ok(&["upload", "vmcore"]).out;
    let ran = scene.thoth(&["debug", vmcore.trim()]);
    if !["crash", "drgn"].iter().any(|name| Path::new("/usr/bin").join(name).exists()) {
        assert_eq!(ran.code, 127, "{ran:?}");
        assert!(ran.err.contains("this node has no `drgn` and no `crash`") && ran.err.contains("install"), "{ran:?}");
        assert!(ran.err.contains("the kernel's `vmlinux` is not here"), "{ran:?}");
    }

    // The shell beside a dump.
    scene.store("MANTA-1817-diagnose", "thoth_set tried 1\n");
    let shell = |input: &str| scene.thoth_with(&["debug", &dump, "MANTA-1817-diagnose"], input);
    let left = shell("echo nonsense > $THOTH_ANALYZER; exit 4\n");
    let said = format!(
        "thoth: debugging {dump}\n \
         * created interactive job -- EXE\n \
         * waiting for session... - established\n\
         thoth: dump info is in $THOTH_INFO\n\
         thoth: analyzer \"MANTA-1817-diagnose\" is in $THOTH_ANALYZER\n\
         thoth: run \"thoth_analyze\" to run $THOTH_ANALYZER\n\
         thoth: any changes to $THOTH_ANALYZER will be stored upon successful exit\n"
    );
    assert_eq!((left.code, masked(&left.err)), (4, said.clone()));
    let unchanged = shell("thoth_analyze\n");
    assert_eq!((unchanged.code, masked(&unchanged.err)), (0, said.clone()));
    assert_eq!(scene.info(&dump)["properties"], json!({ "tried": 1 }));
    let edited = shell("echo 'echo better $THOTH_NAME' > $THOTH_ANALYZER; thoth_analyze\n");
    assert_eq!((edited.code, edited.out), (0, format!("better {dump}\n")));
    assert_eq!(masked(&edited.err), said + "thoth: stored analyzer 'MANTA-1817-diagnose', which is version 2 now\n");
    assert_eq!(scene.ok(&["analyze", &dump, "MANTA-1817-diagnose"]).out, format!("better {dump}\n"));
    assert!(
        Path::new("/run/quarry").read_dir().map_or(true, |mut all| all.next().is_none()),
        "nothing is left outside"
    );
}
