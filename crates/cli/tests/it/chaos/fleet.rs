//! Nodes to be treated badly: each a process of its own in a network namespace of its own, with a line to the host that can
//! be cut. Everything is named at random, and removed when the test is over, however it ends.

use crate::stub::quarry;
use crate::system::House;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an orderly stop of a node may take.
const MAX_STOP: Duration = Duration::from_secs(40);

pub(super) struct Fleet {
    home: PathBuf,
    token_file: PathBuf,
    port: u16,
    seats: Vec<Seat>,
}

/// A node's place: its folder, its namespace, and the process that runs there now.
struct Seat {
    name: String,
    state: PathBuf,
    log: PathBuf,
    line: Line,
    child: Option<Child>,
    /// Until when it is stopped, or cut off.
    paused_until: Option<Instant>,
    cut_until: Option<Instant>,
}

/// A network namespace and the veth pair that leads to it.
struct Line {
    namespace: String,
    outer: String,
    /// The host's address on it.
    address: String,
}

fn ip(words: &[&str]) {
    let ran = Command::new("ip").args(words).output().expect("`ip` is there (Debian: iproute2)");
    assert!(ran.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

impl Line {
    fn new() -> Self {
        let tag = format!("{:08x}", u32::try_from(store::random() >> 96).expect("has 32 bits"));
        let subnet = u8::try_from(store::random() % 250 + 2).expect("is small");
        let third = u8::try_from(store::random() % 250 + 2).expect("is small");
        let line = Self {
            namespace: format!("quarry-{tag}"),
            outer: format!("qv{tag}"),
            address: format!("10.{subnet}.{third}.1"),
        };
        let Self { namespace, outer, address } = &line;
        let inner = format!("10.{subnet}.{third}.2/30");
        ip(&["netns", "add", namespace]);
        ip(&["link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", namespace]);
        ip(&["addr", "add", &format!("{address}/30"), "dev", outer]);
        ip(&["link", "set", outer, "up"]);
        ip(&["-n", namespace, "addr", "add", &inner, "dev", "eth0"]);
        ip(&["-n", namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", namespace, "link", "set", "lo", "up"]);
        line
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The veth goes with its namespace; a test that fails has its own reason.
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).output();
        let _ = Command::new("ip").args(["link", "del", &self.outer]).output();
    }
}

impl Fleet {
    /// Starts that many nodes.
    pub(super) fn start(house: &House, count: usize) -> Self {
        let mut fleet = Self {
            home: house.home().to_owned(),
            token_file: house.token_file(),
            port: house.port(),
            seats: Vec::new(),
        };
        for number in 0..count {
            let name = format!("node-{number}");
            let seat = Seat {
                state: fleet.home.join(&name),
                log: fleet.home.join(format!("{name}.log")),
                line: Line::new(),
                name,
                child: None,
                paused_until: None,
                cut_until: None,
            };
            fleet.seats.push(seat);
            fleet.begin(number);
        }
        fleet
    }

    fn begin(&mut self, number: usize) {
        let seat = &mut self.seats[number];
        let url = format!("http://{}:{}", seat.line.address, self.port);
        let plain = quarry(&["node", "--join", &url, "--name", &seat.name, "--slots", "4", "--warm", "2"], &self.home);
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", seat.line.namespace))
            .arg(plain.get_program())
            .args(plain.get_args());
        command.arg("--token-file").arg(&self.token_file).arg("--state").arg(&seat.state);
        command.env_clear().env("HOME", &self.home).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let log = fs::File::options().append(true).create(true).open(&seat.log).expect("is made");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        seat.child = Some(child.expect("`nsenter` is there (Debian: util-linux)"));
    }

    /// Kills a node as a power cut would, and starts it again.
    pub(super) fn kill(&mut self, number: usize) {
        let seat = &mut self.seats[number];
        if let Some(mut child) = seat.child.take() {
            child.kill().expect("is ours");
            child.wait().expect("ends");
        }
        seat.paused_until = None;
        self.begin(number);
    }

    /// Stops a node in its tracks for a while.
    pub(super) fn pause(&mut self, number: usize, span: Duration) {
        let seat = &mut self.seats[number];
        seat.signal(Signal::STOP);
        seat.paused_until = Some(Instant::now() + span);
    }

    /// Cuts a node's line for a while.
    pub(super) fn cut(&mut self, number: usize, span: Duration) {
        let seat = &mut self.seats[number];
        ip(&["link", "set", &seat.line.outer, "down"]);
        seat.cut_until = Some(Instant::now() + span);
    }

    /// Undoes what has lasted long enough.
    pub(super) fn tend(&mut self) {
        let now = Instant::now();
        for seat in &mut self.seats {
            if seat.paused_until.is_some_and(|until| until <= now) {
                seat.go_on();
            }
            if seat.cut_until.is_some_and(|until| until <= now) {
                seat.join_up();
            }
        }
    }

    /// Undoes everything.
    pub(super) fn mend(&mut self) {
        self.seats.iter_mut().for_each(|seat| {
            seat.go_on();
            seat.join_up();
        });
    }

    /// Stops all nodes in order; nothing of theirs may be left.
    pub(super) fn stop(mut self) {
        self.mend();
        for seat in &mut self.seats {
            seat.signal(Signal::TERM);
        }
        for seat in &mut self.seats {
            let mut child = seat.child.take().expect("runs");
            let begun = Instant::now();
            let status = loop {
                if let Some(status) = child.try_wait().expect("is ours") {
                    break status;
                }
                assert!(begun.elapsed() < MAX_STOP, "{} does not stop", seat.name);
                std::thread::sleep(Duration::from_millis(50));
            };
            assert!(status.success(), "{}: {status}\n{}", seat.name, fs::read_to_string(&seat.log).expect("is text"));
        }
        let left = left_behind(&self.home);
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// Returns what the nodes have written about themselves.
    pub(super) fn said(&self) -> String {
        let said = |seat: &Seat| format!("== {}\n{}", seat.name, fs::read_to_string(&seat.log).unwrap_or_default());
        self.seats.iter().map(said).collect()
    }
}

impl Seat {
    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("runs");
        kill_process(Pid::from_child(child), signal).expect("is ours");
    }

    fn go_on(&mut self) {
        if self.paused_until.take().is_some() {
            self.signal(Signal::CONT);
        }
    }

    fn join_up(&mut self) {
        if self.cut_until.take().is_some() {
            ip(&["link", "set", &self.line.outer, "up"]);
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for seat in &mut self.seats {
            if let Some(mut child) = seat.child.take() {
                // It may be stopped; a kill ends it all the same.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Returns processes, mounts and cgroups that stem from nodes in a folder.
fn left_behind(home: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let home = home.display().to_string();
    for entry in fs::read_dir("/proc").expect("lists").flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_ours = |word: &[u8]| environment.windows(word.len()).any(|window| window == word);
        if is_ours(format!("HOUSE={home}").as_bytes()) {
            left.push(format!("process {}", entry.file_name().to_string_lossy()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("is text");
    left.extend(mounts.lines().filter(|line| line.contains(&home)).map(|line| format!("mount {line}")));
    left
}
