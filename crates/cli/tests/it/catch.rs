//! `dump catch`, `dump send` and `dump install-handler`: what becomes of a crash without a server and with one, what is
//! counted, what is cut, and what a hostile core cannot do.

use crate::dump::{core, noise};
use crate::stub::{Ran, quarry, run_with};
use crate::system::{Engine, House};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A machine with a spool.
struct Machine {
    home: tempfile::TempDir,
}

impl Machine {
    fn new(settings: &str) -> Self {
        let home = tempfile::tempdir().expect("is made");
        let spool = home.path().join("spool");
        // There is always room on a test's disk, however full it is.
        let text = format!("spool = {spool:?}\nfree_bytes_min = 0\n{settings}\n");
        std::fs::write(home.path().join("catch.toml"), text).expect("is written");
        Self { home }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut all = vec!["dump", words[0], "--config", "catch.toml"];
        all.extend(&words[1..]);
        quarry(&all, self.home.path())
    }

    /// Catches what crashed as the process that runs this test.
    fn catch(&self, input: &[u8], comm: &str) -> Ran {
        let pid = std::process::id().to_string();
        let words = ["catch", "--json", &pid, "1000", "100", "11", "1790000000", "0", "a-host", comm];
        run_with(self.command(&words), input)
    }

    fn kept(&self, input: &[u8], comm: &str) -> Value {
        let ran = self.catch(input, comm);
        assert_eq!(ran.code, 0, "{}", ran.err);
        serde_json::from_str(&ran.out).expect("is JSON")
    }

    fn status(&self) -> Value {
        let ran = run_with(self.command(&["catch", "--status", "--json"]), b"");
        assert_eq!(ran.code, 0, "{}", ran.err);
        serde_json::from_str(&ran.out).expect("is JSON")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Makes a core with so many bytes that hardly pack.
    fn core(&self, seed: u64, bytes: usize) -> Vec<u8> {
        let path = self.path("a core");
        core(&path, &seed.to_le_bytes(), &noise(seed, bytes));
        let mut content = std::fs::read(&path).expect("is read");
        // The hole behind it would take a while to be piped.
        content.truncate(8192 + bytes);
        let length = (bytes as u64).to_le_bytes();
        content[64 + 56 + 32..64 + 56 + 40].copy_from_slice(&length);
        content
    }
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_there() {
        assert!(Instant::now() < until, "{what} never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_real_crash_is_caught_without_a_server_and_sent_once() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let machine = Machine::new("environment = [\"PATH\"]");
    // A real process with a real core, made by the debugger while it lives.
    let mut child = Command::new("sleep").arg("1000").spawn().expect("starts");
    let (pid, path) = (child.id().to_string(), machine.path("real"));
    let save = format!("generate-core-file {}", path.display());
    let gdb = Command::new("gdb").args(["-nx", "-batch", "-p", &pid, "-ex", &save]).output().expect("runs");
    assert!(path.exists(), "{gdb:?}");
    let bytes = std::fs::read(&path).expect("is read");
    let words = ["catch", "--json", &pid, "0", "0", "11", "1790000000", "18446744073709551615", "a-host", "sleep"];
    let caught = run_with(machine.command(&words), &bytes);
    child.kill().expect("is ours");
    child.wait().expect("ends");
    assert_eq!(caught.code, 0, "{}", caught.err);
    let caught: Value = serde_json::from_str(&caught.out).expect("is JSON");
    let mode = machine.path("spool").metadata().expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "others may look at what processes knew");

    // Nobody is there yet.
    let mut nowhere = machine.command(&["send"]);
    nowhere.env("QUARRY_URL", "http://127.0.0.1:9").env("QUARRY_TOKEN", "none");
    let ran = run_with(nowhere, b"");
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert_eq!(machine.status()["spool"]["caught"]["dumps"][0]["about"]["hash"], caught["hash"]);

    let server = house.start();
    let token = house.token();
    let send = || {
        let mut command = machine.command(&["send"]);
        command.env("QUARRY_URL", &server.url).env("QUARRY_TOKEN", &token);
        run_with(command, b"")
    };
    let ran = send();
    assert_eq!((ran.code, ran.out.trim()), (0, caught["hash"].as_str().expect("is text")), "{}", ran.err);
    let again = send();
    assert_eq!((again.code, &*again.out), (0, ""), "{}", again.err);
    assert_eq!(machine.status()["spool"]["sent"]["dumps"].as_array().map(Vec::len), Some(1));
    let name = caught["hash"].as_str().expect("is text");
    let back = server.run(&token, &["dump", "download", name, "-o", "back", "--json"]);
    assert_eq!(back.code, 0, "{}", back.err);
    assert!(std::fs::read(house.home().join("back")).expect("is there") == bytes, "it is not what was caught");
    let dump: Value = serde_json::from_str(&back.out).expect("is JSON");
    let told = |name: &str| dump["properties"]["process"][name].clone();
    assert_eq!(
        (&dump["cmd"], &dump["node"], &dump["psargs"]),
        (&json!("sleep"), &json!("a-host"), &json!("sleep 1000"))
    );
    assert_eq!((told("signal"), told("command_line")), (json!(11), json!("sleep 1000")), "{dump}");
    assert!(told("environment")["PATH"].is_string() && told("limits")["open_files"].is_string(), "{dump}");
    assert!(told("program").as_str().is_some_and(|path| path.ends_with("/sleep")), "{dump}");
    assert_eq!(dump["is_truncated"], false);
    // By the same name as from a file: the one is the other.
    std::fs::write(house.home().join("copy"), &bytes).expect("is written");
    let copy = server.run(&token, &["dump", "upload", "copy"]);
    assert!(copy.err.contains("copy is already there as"), "{}", copy.err);
    server.stop();
}

#[test]
fn what_rules_leave_out_never_enters_the_spool() {
    let machine = Machine::new("redact = \"rules.toml\"\nenvironment = [\"KIND\", \"GH_*\"]");
    let refused = machine.catch(b"", "app");
    assert!(refused.code == 1 && refused.err.contains("rules.toml"), "{refused:?}");
    let rules = crate::signature::secretive(&machine.path("core.app"));
    std::fs::write(machine.path("rules.toml"), rules).expect("is written");
    let bytes = std::fs::read(machine.path("core.app")).expect("is read");
    // Somebody whose secrets are noted beside the core, too.
    let mut command = Command::new("bash");
    command.args(["-c", "exec -a --token=t0psecret sleep 1000"]);
    let mut child = command.env("GH_TOKEN", "hunter2hunter2").env("KIND", "other").spawn().expect("starts");
    let pid = child.id().to_string();
    wait_for("the program", || {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"--token")
    });
    let words = ["catch", "--json", &pid, "1000", "100", "11", "1790000000", "0", "a-host", "app"];
    let ran = run_with(machine.command(&words), &bytes);
    child.kill().expect("is ours");
    child.wait().expect("ends");
    assert_eq!(ran.code, 0, "{ran:?}");
    let about: Value = serde_json::from_str(&ran.out).expect("is JSON");
    let counts = ["values", "ranges", "bytes"].map(|name| about["redaction"][name].as_u64().expect("a count"));
    assert_eq!(counts, [2, 1, 9 + 14 + 100], "{about}");
    let process = &about["properties"]["process"];
    assert_eq!(
        (&process["command_line"], &process["environment"]["KIND"]),
        (&json!("--token=… 1000"), &json!("other"))
    );
    assert!(!ran.out.contains("hunter2") && !ran.out.contains("t0psecret"), "{}", ran.out);
    // What it cannot be found in is not kept, and counted.
    let ran = machine.catch(b"panicked at src/main.rs", "app");
    assert!(ran.code == 3 && ran.err.contains("what is to be left out of it cannot be found"), "{ran:?}");
    assert_eq!(machine.status()["sum"]["dropped"]["redaction"], 1);
    assert_eq!(machine.status()["spool"]["caught"]["dumps"].as_array().map(Vec::len), Some(1));

    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let server = house.start();
    let mut command = machine.command(&["send", "--no-packs"]);
    command.env("QUARRY_URL", &server.url).env("QUARRY_TOKEN", house.token());
    let ran = run_with(command, b"");
    assert_eq!(ran.code, 0, "{ran:?}");
    let back = server.run(&house.token(), &["dump", "download", ran.out.trim(), "-o", "back", "--json"]);
    let dump: Value = serde_json::from_str(&back.out).expect("is JSON");
    assert_eq!(dump["redaction"], about["redaction"], "{dump}");
    let back = std::fs::read(house.home().join("back")).expect("is there");
    let differing = bytes.iter().zip(&back).filter(|(one, other)| one != other).count();
    assert_eq!((back.len(), differing), (bytes.len(), 9 + 14 + 100));
    server.stop();
}

#[test]
fn what_rules_leave_out_never_enters_the_spool_of_what_is_cut() {
    let core = Machine::new("");
    let rules = crate::signature::secretive(&core.path("core.app"));
    let bytes = std::fs::read(core.path("core.app")).expect("is read");
    let holds = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    let place = |text: &[u8]| bytes.windows(text.len()).position(|part| part == text).expect("is there");
    let end = place(b"/bin/app\0");
    assert!(holds(&bytes, b"t0psecret") && holds(&bytes, b"hunter2"));
    let mut cuts = vec![64, 100, 180, 250, 8191, 8192, 9000, bytes.len() - 1, bytes.len()];
    cuts.extend([b"--token=", b"t0psecre", b"GH_TOKEN", b"hunter2h", b"PATH=/bi"].map(|text| place(text) + 4));
    cuts.extend([end - 1, end, end + 1]);
    for cut in cuts {
        let machine = Machine::new(&format!("redact = \"rules.toml\"\ndump_bytes_max = {cut}"));
        std::fs::write(machine.path("rules.toml"), &rules).expect("is written");
        let ran = machine.catch(&bytes, "app");
        let caught: Vec<_> = std::fs::read_dir(machine.path("spool/caught")).into_iter().flatten().collect();
        assert_eq!(std::fs::read_dir(machine.path("spool/coming")).map_or(0, Iterator::count), 0, "{cut}");
        if cut < end {
            assert_eq!((ran.code, caught.len()), (3, 0), "{cut}: {ran:?}");
            assert_eq!(machine.status()["sum"]["dropped"]["redaction"], 1, "{cut}");
            continue;
        }
        assert_eq!((ran.code, caught.len()), (0, 1), "{cut}: {ran:?}");
        let frames = caught[0].as_ref().expect("is read").path().join("frames");
        let kept = zstd::decode_all(std::fs::File::open(frames).expect("is there")).expect("are frames");
        assert!(holds(&kept, b"GH_TOKEN=\0") && !holds(&kept, b"t0psecret") && !holds(&kept, b"hunter2"), "{cut}");
    }
    // What has not come by the deadline is cut too.
    let machine = Machine::new("redact = \"rules.toml\"\ndeadline_ms = 500");
    std::fs::write(machine.path("rules.toml"), &rules).expect("is written");
    let mut command = machine.command(&["catch", "4294967290", "0", "0", "6", "1790000000", "0", "h", "slow"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("is piped");
    stdin.write_all(&bytes[..place(b"hunter2h") + 3]).expect("is taken");
    assert_eq!(child.wait().expect("ends").code(), Some(3));
    drop(stdin);
    assert_eq!(machine.status()["sum"]["dropped"]["redaction"], 1);
}

#[test]
fn a_program_that_crashes_often_is_counted_exactly() {
    let machine = Machine::new("rate_count = 3");
    let core = machine.core(1, 20_000);
    let children: Vec<Child> = (0..16)
        .map(|_| {
            let words = ["catch", "4294967290", "0", "0", "11", "1790000000", "0", "h", "often"];
            let mut command = machine.command(&words);
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().expect("starts");
            let _ = child.stdin.take().expect("is piped").write_all(&core);
            child
        })
        .collect();
    let codes: Vec<_> = children.into_iter().map(|mut child| child.wait().expect("ends").code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 3, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(3)).count(), 13, "{codes:?}");
    let status = machine.status();
    let often = &status["programs"]["often"];
    assert_eq!((&often["seen"], &often["kept"], &often["dropped"]["rate"]), (&json!(16), &json!(3), &json!(13)));
    // Another program is not held by it.
    machine.kept(&machine.core(2, 20_000), "other");
}

#[test]
fn a_budget_holds() {
    let machine = Machine::new("spool_bytes_max = 6000000\nrate_count = 100");
    machine.kept(&machine.core(1, 2_000_000), "first");
    // It does not fit whole: what fits is kept, and says so.
    let second = machine.kept(&machine.core(2, 40_000_000), "second");
    assert_eq!((&second["cut"], &second["is_truncated"]), (&json!("budget"), &json!(true)), "{second}");
    let size = second["size"].as_u64().expect("is a number");
    assert!((1_000_000..4_500_000).contains(&size), "{size}");
    let used = |status: &Value| status["spool"]["caught"]["bytes"].as_u64().expect("is a number");
    let status = machine.status();
    assert!(used(&status) <= 6_000_000, "{status}");
    assert_eq!((&status["sum"]["kept"], &status["sum"]["cut"]), (&json!(2), &json!(1)));

    let full = Machine::new("spool_bytes_max = 100000\nrate_count = 100");
    let ran = full.catch(&full.core(1, 2_000_000), "none");
    assert_eq!(ran.code, 3, "{}", ran.err);
    let status = full.status();
    assert_eq!((&status["sum"]["kept"], &status["sum"]["dropped"]["budget"]), (&json!(0), &json!(1)), "{status}");
    assert_eq!(status["spool"]["coming"]["dumps"], json!([]));
}

#[test]
fn what_was_sent_makes_way_the_oldest_first() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let server = house.start();
    let machine = Machine::new("spool_bytes_max = 10000000\nrate_count = 100");
    let first = machine.kept(&machine.core(1, 3_000_000), "first");
    let second = machine.kept(&machine.core(2, 3_000_000), "second");
    let mut send = machine.command(&["send"]);
    send.env("QUARRY_URL", &server.url).env("QUARRY_TOKEN", house.token());
    assert_eq!(run_with(send, b"").code, 0);
    let third = machine.kept(&machine.core(3, 4_000_000), "third");
    assert_eq!(third["cut"], Value::Null, "{third}");
    let status = machine.status();
    let ids = |stage: &str| -> Vec<Value> {
        let dumps = status["spool"][stage]["dumps"].as_array().expect("is a list");
        dumps.iter().map(|dump| dump["id"].clone()).collect()
    };
    assert_eq!((ids("sent"), ids("caught")), (vec![second["id"].clone()], vec![third["id"].clone()]), "{first}");
    server.stop();
}

#[test]
fn nobody_is_held_for_longer_than_the_deadline() {
    let machine = Machine::new("deadline_ms = 1000");
    let core = machine.core(1, 3_000_000);
    let mut command =
        machine.command(&["catch", "--json", "4294967290", "0", "0", "6", "1790000000", "0", "h", "slow"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("is piped");
    stdin.write_all(&core[..1_000_000]).expect("is taken");
    // Nothing more comes, and the pipe stays open.
    let ended = child.wait_with_output().expect("ends");
    let took = begun.elapsed();
    drop(stdin);
    assert!(ended.status.success() && took < Duration::from_secs(20), "{took:?}");
    let about: Value = serde_json::from_slice(&ended.stdout).expect("is JSON");
    assert_eq!((&about["cut"], &about["size"]), (&json!("deadline"), &json!(1_000_000)));
    assert_eq!(about["properties"]["process"]["cut"], "deadline");
    let size = Machine::new("dump_bytes_max = 500000");
    let about = size.kept(&core, "long");
    assert_eq!((&about["cut"], &about["size"]), (&json!("size"), &json!(500_000)));
    let exact = Machine::new(&format!("dump_bytes_max = {}", core.len()));
    assert_eq!(exact.kept(&core, "long")["cut"], Value::Null);
}

#[test]
fn whoever_is_ended_in_the_middle_is_counted_by_the_next() {
    let machine = Machine::new("");
    let core = machine.core(1, 3_000_000);
    let mut command = machine.command(&["catch", "4294967290", "0", "0", "6", "1790000000", "0", "h", "ended"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("is piped");
    stdin.write_all(&core[..1_000_000]).expect("is taken");
    let coming = || std::fs::read_dir(machine.path("spool/coming")).map_or(0, Iterator::count);
    wait_for("the dump", || coming() == 1);
    // Whoever holds it is not taken for gone.
    machine.kept(&core, "meanwhile");
    assert_eq!((coming(), machine.status()["sum"]["dropped"].clone()), (1, json!({})));
    child.kill().expect("is ours");
    child.wait().expect("ends");
    machine.kept(&core, "after");
    let status = machine.status();
    assert_eq!((coming(), &status["programs"]["ended"]["dropped"]["interrupted"]), (0, &json!(1)), "{status}");
    assert_eq!((&status["sum"]["seen"], &status["sum"]["kept"]), (&json!(3), &json!(2)));
}

#[test]
fn what_is_not_what_it_was_is_put_aside() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let server = house.start();
    let machine = Machine::new("");
    let first = machine.kept(&machine.core(1, 300_000), "first");
    let second = machine.kept(&machine.core(2, 300_000), "second");
    let path = machine.path("spool/caught").join(first["id"].as_str().expect("is text")).join("frames");
    let mut frames = std::fs::read(&path).expect("is read");
    frames[100_000] ^= 1;
    std::fs::write(&path, frames).expect("is written");
    let mut send = machine.command(&["send"]);
    send.env("QUARRY_URL", &server.url).env("QUARRY_TOKEN", house.token());
    let ran = run_with(send, b"");
    assert_eq!((ran.code, ran.out.trim()), (1, second["hash"].as_str().expect("is text")), "{}", ran.err);
    assert!(ran.err.contains("in the spool is not what it was"), "{}", ran.err);
    assert_eq!(machine.status()["spool"]["broken"]["dumps"][0]["id"], first["id"]);
    server.stop();
}

#[test]
fn hostile_cores_are_kept_like_others() {
    let machine = Machine::new("rate_count = 100");
    let empty = machine.catch(b"", "empty");
    assert_eq!(empty.code, 3, "{}", empty.err);
    assert_eq!(machine.status()["sum"]["dropped"]["empty"], 1);
    let mut wild = machine.core(1, 100_000);
    // 65,534 segments, all of which are noise; then notes of half a universe; then headers behind the end.
    wild[56..58].copy_from_slice(&0xfffe_u16.to_le_bytes());
    machine.kept(&wild, "segments");
    let mut wild = machine.core(2, 100_000);
    wild[64 + 32..64 + 40].copy_from_slice(&(u64::MAX - 4096).to_le_bytes());
    machine.kept(&wild, "notes");
    let mut wild = machine.core(3, 100_000);
    wild[32..40].copy_from_slice(&(u64::MAX - 8).to_le_bytes());
    machine.kept(&wild, "headers");
    for length in [1, 3, 63, 64, 100, 8192] {
        machine.kept(&wild[..length], "short");
    }
    machine.kept(&noise(4, 100_000), "noise");
    // Names that lead elsewhere lead nowhere.
    let about = machine.kept(&machine.core(5, 1_000), "../../etc/-- x");
    assert_eq!(about["name"].as_str().map(|name| name.contains('/')), Some(false), "{about}");
    let usage = run_with(machine.command(&["catch", "no number"]), b"");
    assert_eq!(usage.code, 64, "{}", usage.err);
}

/// Connects as the kernel does, and lets `talk` speak.
fn connect(machine: &Machine, talk: impl FnOnce(&mut UnixStream)) -> Value {
    let path = machine.path("socket");
    let mut command = machine.command(&["catch", "--listen"]);
    command.arg(&path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("starts");
    let mut greeting = [0; 12];
    child.stdout.as_mut().expect("is piped").read_exact(&mut greeting).expect("it greets");
    assert_eq!(path.metadata().expect("is there").permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).expect("listens");
    talk(&mut stream);
    drop(stream);
    let mut status = Value::Null;
    wait_for("its account", || {
        status = machine.status();
        let counted = status["sum"]["kept"].as_u64().unwrap_or(0)
            + status["sum"]["dropped"].as_object().map_or(0, |all| all.len() as u64);
        // It is counted a moment before it has its place.
        counted == 1 && status["spool"]["coming"]["dumps"] == json!([])
    });
    end(&mut child, &path);
    status
}

/// Ends a listener as a service is ended; its socket is gone afterwards.
fn end(child: &mut Child, path: &Path) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("is ours");
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    assert!(!path.exists(), "nobody may take the socket for one that is served");
}

/// Speaks the kernel's side of the question, as its documentation has it; returns the answer's length and mask.
fn ask(stream: &mut UnixStream, bytes: u32, mask: u64) -> (u32, u64) {
    let mut question = bytes.to_ne_bytes().to_vec();
    question.extend(16_u32.to_ne_bytes());
    question.extend(mask.to_ne_bytes());
    question.resize(bytes as usize, 7);
    stream.write_all(&question).expect("is taken");
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).expect("is answered");
    let (size, rest) = answer.split_first_chunk().expect("is long enough");
    let (spare, mask) = rest.split_first_chunk::<4>().expect("is long enough");
    assert_eq!(*spare, [0; 4], "the spare bytes must be zero");
    (u32::from_ne_bytes(*size), u64::from_ne_bytes(mask.try_into().expect("eight are left")))
}

#[test]
fn the_kernels_socket_is_served() {
    // The kernel writes at once.
    let machine = Machine::new("");
    let core = machine.core(1, 200_000);
    let status = connect(&machine, |stream| stream.write_all(&core).expect("is taken"));
    let about = &status["spool"]["caught"]["dumps"][0]["about"];
    assert_eq!((&about["size"], &about["facts"]["pid"]), (&json!(core.len()), &json!(std::process::id())), "{status}");
    let direct = machine.path("direct");
    std::fs::write(&direct, &core).expect("is written");
    let object = run_with(quarry(&["dump", "object", "direct"], machine.home.path()), b"");
    assert_eq!(about["hash"], object.out.trim());

    // The kernel asks first; a longer question of a later kernel is understood as far as it goes.
    for bytes in [16, 64] {
        let machine = Machine::new("");
        let status = connect(&machine, |stream| {
            assert_eq!(ask(stream, bytes, 0b1111), (16, 0b1001));
            stream.write_all(&0_u32.to_ne_bytes()).expect("is taken");
            stream.write_all(&core).expect("is taken");
        });
        assert_eq!(status["spool"]["caught"]["dumps"][0]["about"]["size"], core.len(), "{status}");
    }
    // What is not wanted is refused before anything is written.
    let machine = Machine::new("rate_count = 0");
    let status = connect(&machine, |stream| assert_eq!(ask(stream, 16, 0b1111), (16, 0b0100)));
    assert_eq!(status["sum"]["dropped"]["rate"], 1, "{status}");
    // Nonsense is counted.
    let machine = Machine::new("");
    let status = connect(&machine, |stream| stream.write_all(&[0xff; 64]).expect("is taken"));
    assert_eq!(status["sum"]["dropped"]["failed"], 1, "{status}");
    assert_eq!(status["spool"]["coming"]["dumps"], json!([]));
}

#[test]
fn a_handler_is_shown_installed_and_removed() {
    let home = tempfile::tempdir().expect("is made");
    let root = home.path().join("root");
    let kernel = root.join("proc/sys/kernel");
    std::fs::create_dir_all(&kernel).expect("is made");
    let put = |name: &str, text: &str| std::fs::write(kernel.join(name), text).expect("is written");
    let get = |path: &Path| std::fs::read_to_string(path).expect("is read");
    put("core_pattern", "core\n");
    put("core_pipe_limit", "0\n");
    put("osrelease", "6.1.0-18-amd64\n");
    let run = |words: &[&str]| {
        let mut all = vec!["dump", "install-handler", "--root", "root"];
        all.extend(words);
        run_with(quarry(&all, home.path()), b"")
    };
    let program = ["--program", "/opt/q%/quarry"];
    let shown = run(&program);
    assert_eq!((shown.code, &*shown.err), (0, "nothing was changed; --apply does it\n"));
    assert!(shown.out.contains("  - core\n  + |/opt/q%%/quarry dump catch %P %u %g %s %t %c %h %e\n"), "{}", shown.out);
    assert_eq!(get(&kernel.join("core_pattern")), "core\n");
    assert!(!root.join("etc").exists());

    let applied = run(&[&program[..], &["--apply"]].concat());
    assert_eq!(applied.code, 0, "{}", applied.err);
    assert_eq!(get(&kernel.join("core_pattern")), "|/opt/q%%/quarry dump catch %P %u %g %s %t %c %h %e\n");
    assert_eq!(get(&kernel.join("core_pipe_limit")), "16\n");
    let sysctl = root.join("etc/sysctl.d/60-quarry-catch.conf");
    assert!(get(&sysctl).contains("kernel.core_pattern=|/opt/q%%/quarry dump catch %P"));
    let again = run(&[&program[..], &["--apply"]].concat());
    assert_eq!((again.code, &*again.err), (0, "there is nothing to change\n"));
    // Installed anew from elsewhere, what was there first is still what comes back.
    assert_eq!(run(&["--program", "/opt/other/quarry", "--apply"]).code, 0);
    assert!(get(&kernel.join("core_pattern")).starts_with("|/opt/other/quarry "));
    let removed = run(&["--remove", "--apply"]);
    assert_eq!(removed.code, 0, "{}", removed.err);
    assert_eq!(
        (get(&kernel.join("core_pattern")), get(&kernel.join("core_pipe_limit"))),
        ("core\n".into(), "0\n".into())
    );
    assert!(!sysctl.exists() && !root.join("var/lib/quarry/handler.json").exists());
    assert_eq!(run(&["--remove", "--apply"]).err, "nothing was installed here\nthere is nothing to change\n");

    // What somebody else has changed since stays.
    assert_eq!(run(&[&program[..], &["--apply"]].concat()).code, 0);
    put("core_pattern", "|/usr/lib/systemd/systemd-coredump\n");
    let removed = run(&["--remove", "--apply"]);
    assert!(removed.err.contains("core_pattern` was changed by somebody else and stays"), "{}", removed.err);
    assert_eq!(get(&kernel.join("core_pattern")), "|/usr/lib/systemd/systemd-coredump\n");
    assert!(!sysctl.exists());

    assert_eq!(run(&["--socket", "/run/q.socket"]).code, 3);
    put("osrelease", "6.18.1\n");
    assert!(run(&["--socket", "/run/q.socket"]).out.contains("  + @@/run/q.socket\n"));
    assert_eq!(run(&["--program", &format!("/{}", "x".repeat(100))]).code, 64);
    assert_eq!(run(&["--program", "/a b"]).code, 64);
}

#[test]
fn what_stacks_are_walked_by_is_sent_once() {
    let house = House::new(Engine::Sqlite).expect("needs nothing");
    let server = house.start();
    let token = house.token();
    let machine = Machine::new("");
    let mut child = Command::new("sleep").arg("1000").spawn().expect("starts");
    let path = house.home().join("core.sleep");
    let (pid, save) = (child.id().to_string(), format!("generate-core-file {}", path.display()));
    let gdb = Command::new("gdb").args(["-nx", "-batch", "-p", &pid, "-ex", &save]).output().expect("runs");
    assert!(path.exists(), "{gdb:?}");
    let bytes = std::fs::read(&path).expect("is read");
    let words = ["catch", &pid, "0", "0", "11", "1790000000", "0", "a-host", "sleep"];
    assert_eq!(run_with(machine.command(&words), &bytes).code, 0);
    child.kill().expect("is ours");
    child.wait().expect("ends");

    let kept = server.run(&token, &["dump", "upload", "--no-packs", "core.sleep"]);
    assert!(kept.code == 0 && !kept.err.contains("unwound"), "{}", kept.err);
    let upload = server.run(&token, &["dump", "upload", "core.sleep"]);
    assert!(upload.err.contains("sent what 3 modules are unwound by"), "{}", upload.err);
    let again = server.run(&token, &["dump", "upload", "core.sleep"]);
    assert!(again.code == 0 && !again.err.contains("unwound"), "{}", again.err);
    let again = server.run(&token, &["dump", "packs", "core.sleep"]);
    assert_eq!((again.out.as_str(), again.err.contains("packs of modules: 0 sent, 3 there already")), ("", true));
    // Each is a pack of its build id, proved where it is used.
    let libc =
        ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"].map(Path::new).into_iter().find(|path| path.exists());
    let Some(libc) = libc else { return };
    let file = ::dump::ModuleFile::open(libc).expect("is a module");
    let id = file.build_id().expect("has one");
    let text = id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("is made");
    let get = |path: String| {
        runtime.block_on(async {
            let answer = crate::system::http().get(format!("{}{path}", server.url)).bearer_auth(&token).send().await;
            let answer = answer.expect("is answered");
            (answer.status().as_u16(), answer.bytes().await.expect("comes").to_vec())
        })
    };
    let (status, pack) = get(format!("/v1/modules/{text}"));
    assert_eq!(status, 200);
    let pack = ::dump::pack::accept(Path::new("pack"), pack, id).expect("is a pack");
    assert!(pack.bytes().len() < file.bytes().len() / 2);
    assert_eq!(get("/v1/modules/00ff".to_owned()).0, 404);
    assert_eq!(get("/v1/modules/..%2f".to_owned()).0, 400);

    // What was caught brings its modules too: another program's, since these are there.
    let mut other = Command::new("tail").args(["-f", "/dev/null"]).spawn().expect("starts");
    let pid = other.id().to_string();
    wait_for("its program", || std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path.ends_with("tail")));
    let words = ["catch", &pid, "0", "0", "11", "1790000000", "0", "a-host", "tail"];
    assert_eq!(run_with(machine.command(&words), &machine.core(9, 10_000)).code, 0);
    other.kill().expect("is ours");
    other.wait().expect("ends");
    let mut send = machine.command(&["send"]);
    send.env("QUARRY_URL", &server.url).env("QUARRY_TOKEN", &token);
    let ran = run_with(send, b"");
    assert_eq!((ran.code, ran.err.contains("was not sent")), (0, false), "{}", ran.err);
    let tail = ["/usr/bin/tail", "/bin/tail"].map(Path::new).into_iter().find(|path| path.exists()).expect("runs");
    let tail = ::dump::ModuleFile::open(tail).expect("is a module");
    let text = tail.build_id().expect("has one").iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(get(format!("/v1/modules/{text}")).0, 200);
    server.stop();
}
