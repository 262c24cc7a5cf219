//! What the start of a program costs: bare, in others' sandboxes, and in ours, cold and warm. Used by `bench/execution`.
//!
//! One JSON object a line: the program, what started it, the quantiles of one start after the other (all kinds in turns, so
//! that a busy moment of the machine meets all of them), and how many a second from two callers at once. A peer that is not
//! installed is left out with a word on standard error. `--only KIND` measures one of them;
//! `--spawner PROGRAM` lets the binary that users run be the spawner, rather than this one, which is smaller.
#![expect(unsafe_code, reason = "a peer is started in a mount namespace of its own, between fork and exec")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what it is for")]

mod peer;

use model::{Limits, Network};
use peer::Peers;
use sandbox::{Event, Events, Order, Place, Plan, Root, Settings, Spawner};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the rate of each kind is measured.
const RATE: Duration = Duration::from_secs(2);
/// Starts under way at once while the rate of ours is measured.
const AT_ONCE: usize = 4;

fn main() {
    if std::env::args().nth(1).as_deref() == Some("spawner") {
        std::process::exit(if sandbox::spawner::main() == std::process::ExitCode::SUCCESS { 0 } else { 1 });
    }
    let starts = std::env::args().skip_while(|arg| arg != "--starts").nth(1);
    let starts: usize = starts.and_then(|count| count.parse().ok()).unwrap_or(200);
    let only = std::env::args().skip_while(|arg| arg != "--only").nth(1);
    let scratch = tempfile::tempdir().expect("a folder");
    let root = scratch.path().join("root");
    let no_op = make_root(&root);
    let mut ours = Ours::open(scratch.path(), &root);
    let peers = Peers::find(scratch.path(), &root);
    for (name, program) in [("/bin/true", Path::new("/bin/true")), ("static no-op", &no_op)] {
        let kinds = ["raw", "cold process", "cold oci", "warm process", "warm oci"].into_iter().chain(peers.names());
        let kinds: Vec<_> = kinds.filter(|kind| only.as_deref().is_none_or(|only| *kind == only)).collect();
        measure((name, program), &kinds, starts, &mut ours, &peers);
    }
}

fn measure((name, program): (&str, &Path), kinds: &[&str], starts: usize, ours: &mut Ours, peers: &Peers) {
    let raw = || run(&mut Command::new(program));
    let mut kinds: Vec<(String, Vec<Duration>)> = kinds.iter().map(|kind| ((*kind).to_owned(), Vec::new())).collect();
    // What is slow by hundreds is not started as often.
    for round in 0..starts {
        for (kind, times) in &mut kinds {
            let took = match kind.as_str() {
                "raw" => raw(),
                "cold process" => ours.cold(&Root::Host, program),
                "cold oci" => ours.cold(&ours.layers(), program),
                "warm process" => ours.warm(&Root::Host, program),
                "warm oci" => ours.warm(&ours.layers(), program),
                peer if round % peers.every(peer) != 0 => continue,
                peer => run(&mut peers.command(peer, program)),
            };
            times.push(took);
        }
    }
    for (kind, mut times) in kinds {
        times.sort_unstable();
        let quantile =
            |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)].as_secs_f64() * 1e3;
        let before = (processor_ms(), Instant::now());
        let rate = match kind.as_str() {
            "raw" => rate(|| Command::new(program)),
            "cold process" => ours.rate(&Root::Host, program, Start::Cold),
            "cold oci" => ours.rate(&ours.layers(), program, Start::Cold),
            "warm process" => ours.rate(&Root::Host, program, Start::Warm),
            "warm oci" => ours.rate(&ours.layers(), program, Start::Warm),
            peer => rate(|| peers.command(peer, program)),
        };
        let processor = (processor_ms() - before.0) / (rate * before.1.elapsed().as_secs_f64());
        println!(
            "{}",
            serde_json::json!({
                "program": name, "what": kind, "p50_ms": quantile(0.5), "p99_ms": quantile(0.99), "per_second": rate,
                "processor_ms": processor,
            })
        );
    }
}

/// Starts a program, waits for its end, and returns how long both took.
fn run(command: &mut Command) -> Duration {
    let begun = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("starts");
    let took = begun.elapsed();
    assert!(status.success(), "{command:?} ended with {status}");
    took
}

/// Returns the time of processors that this process, the spawner and all their children have used so far, in milliseconds.
/// On a busy machine it tells more than any time that passed.
fn processor_ms() -> f64 {
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let task = |pid: &str| -> f64 {
        let text = read(format!("/proc/{pid}/stat"));
        let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
        fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
    };
    let children = read("/proc/thread-self/children".to_owned());
    let ticks: f64 = children.split_whitespace().chain(["self"]).map(task).sum();
    ticks * 1e3 / rustix::param::clock_ticks_per_second() as f64
}

/// Returns how many starts two callers make a second.
fn rate(command: impl Fn() -> Command + Sync) -> f64 {
    let end = Instant::now() + RATE;
    let begun = Instant::now();
    let caller = || {
        let mut count = 0;
        while Instant::now() < end {
            run(&mut command());
            count += 1;
        }
        count
    };
    let count: u32 = std::thread::scope(|scope| {
        let callers = [scope.spawn(caller), scope.spawn(caller)];
        callers.into_iter().map(|caller| caller.join().expect("ends")).sum()
    });
    f64::from(count) / begun.elapsed().as_secs_f64()
}

/// Makes a small root folder with `true` and what it needs, and a program that does nothing and needs nothing.
fn make_root(root: &Path) -> PathBuf {
    for folder in ["bin", "tmp", "proc", "dev", "sys", "etc"] {
        std::fs::create_dir_all(root.join(folder)).expect("is made");
    }
    copy(root, Path::new("/bin/true"));
    let told = Command::new("ldd").arg("/bin/true").output().expect("`ldd` is there");
    for word in String::from_utf8_lossy(&told.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        copy(root, Path::new(word));
    }
    let source = root.with_extension("c");
    std::fs::write(&source, "int main(void) { return 0; }\n").expect("is written");
    // Beside this bench's own binary: seen over the machine's files, and copied to the same place in the image.
    let no_op = std::env::current_exe().expect("has a name").with_file_name("quarry-bench-no-op");
    let built = Command::new("gcc").args(["-O1", "-static", "-o"]).arg(&no_op).arg(&source).status();
    assert!(built.is_ok_and(|status| status.success()), "`gcc` is needed");
    copy(root, &no_op);
    no_op
}

fn copy(root: &Path, file: &Path) {
    let target = root.join(file.strip_prefix("/").expect("is absolute"));
    std::fs::create_dir_all(target.parent().expect("has a folder")).expect("is made");
    std::fs::copy(file, target).expect("is copied");
}

/// Returns what becomes the spawner: the program named after `--spawner`, whose size then counts, or this bench itself.
fn spawner_program() -> PathBuf {
    let named = std::env::args().skip_while(|arg| arg != "--spawner").nth(1);
    named.map_or_else(|| std::env::current_exe().expect("has a name"), PathBuf::from)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Cold,
    Warm,
}

/// Our own sandboxes.
struct Ours {
    spawner: Spawner,
    events: Events,
    next: u64,
    root: PathBuf,
}

impl Ours {
    fn open(scratch: &Path, root: &Path) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let settings = Settings {
            program: spawner_program(),
            arguments: vec!["spawner".to_owned()],
            state: scratch.join("spawner"),
            place: if is_root { Place::Range { first: 1_000_000_000, count: 65_536 } } else { Place::Own },
            cells: 8,
            hidden: Vec::new(),
        };
        let (spawner, events) = Spawner::start(&settings).expect("starts");
        for note in &spawner.abilities().notes {
            eprintln!("note: {note}");
        }
        eprintln!("limits enforced: {}", spawner.abilities().limits);
        Self { spawner, events, next: 0, root: root.to_owned() }
    }

    fn layers(&self) -> Root {
        Root::Layers(vec![self.root.clone()])
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Builds, starts and awaits one.
    fn cold(&mut self, root: &Root, program: &Path) -> Duration {
        let (number, plan, order, stdio) = (self.number(), plan(root), order(program), stdio());
        let begun = Instant::now();
        self.spawner.run(number, &plan, &order, &stdio).expect("is heard");
        self.end(number);
        begun.elapsed()
    }

    /// Builds one, and only then measures its start and end.
    fn warm(&mut self, root: &Root, program: &Path) -> Duration {
        let (number, order, stdio) = (self.number(), order(program), stdio());
        self.build(number, root);
        let begun = Instant::now();
        self.spawner.start_program(number, &order, &stdio).expect("is heard");
        self.end(number);
        begun.elapsed()
    }

    fn build(&mut self, number: u64, root: &Root) {
        self.spawner.build(number, &plan(root)).expect("is heard");
        loop {
            match self.events.next().expect("the spawner lives") {
                Event::Built { number: built, .. } if built == number => return,
                Event::Failed { fault, .. } => panic!("{fault}"),
                Event::Built { .. } | Event::Started { .. } | Event::Measured { .. } | Event::Ended { .. } => {}
            }
        }
    }

    /// Waits for an end, and returns whose it was.
    fn any_end(&mut self) -> u64 {
        loop {
            match self.events.next().expect("the spawner lives") {
                Event::Ended { number, ending } => {
                    assert_eq!(ending.status, sandbox::Status::Exited(0));
                    return number;
                }
                Event::Failed { fault, .. } => panic!("{fault}"),
                Event::Built { .. } | Event::Started { .. } | Event::Measured { .. } => {}
            }
        }
    }

    /// Starts whatever is built until something ends.
    fn next_end(&mut self, order: &Order, stdio: &[OwnedFd; 3]) {
        loop {
            match self.events.next().expect("the spawner lives") {
                Event::Built { number, .. } => self.spawner.start_program(number, order, stdio).expect("is heard"),
                Event::Ended { .. } => return,
                Event::Failed { fault, .. } => panic!("{fault}"),
                Event::Started { .. } | Event::Measured { .. } => {}
            }
        }
    }

    fn end(&mut self, number: u64) {
        while self.any_end() != number {}
    }

    /// Returns how many starts a second there are, some under way at once; for warm ones the building counts too, as it
    /// must be done by somebody.
    fn rate(&mut self, root: &Root, program: &Path, start: Start) -> f64 {
        let (plan, order, stdio) = (plan(root), order(program), stdio());
        let (begun, mut count, mut under_way) = (Instant::now(), 0u32, 0);
        let begin = |ours: &mut Self| {
            let number = ours.number();
            match start {
                Start::Cold => ours.spawner.run(number, &plan, &order, &stdio).expect("is heard"),
                Start::Warm => ours.spawner.build(number, &plan).expect("is heard"),
            }
        };
        while begun.elapsed() < RATE {
            while under_way < AT_ONCE {
                begin(self);
                under_way += 1;
            }
            self.next_end(&order, &stdio);
            under_way -= 1;
            count += 1;
        }
        while under_way > 0 {
            self.next_end(&order, &stdio);
            under_way -= 1;
        }
        f64::from(count) / begun.elapsed().as_secs_f64()
    }
}

fn plan(root: &Root) -> Plan {
    Plan {
        root: root.clone(),
        binds: Vec::new(),
        hostname: "sandbox".to_owned(),
        network: Network::None,
        limits: Limits { memory_bytes: 256 << 20, pids: 64, ..Limits::default() },
        ptrace: false,
        terminal: false,
        file_capabilities: false,
    }
}

fn order(program: &Path) -> Order {
    Order {
        command: vec![program.display().to_string()],
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        cwd: "/".to_owned(),
        user: "0:0".to_owned(),
        window: None,
    }
}

fn stdio() -> [OwnedFd; 3] {
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").expect("is there"));
    [null(), null(), null()]
}
