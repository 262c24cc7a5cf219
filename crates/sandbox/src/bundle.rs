//! Bundles: sandboxes by other OCI runtimes than our own engine, driven by the standard interface: a folder with a
//! `config.json` and a root, and the verbs `run`, `kill` and `delete`.
//!
//! The root is laid out by us, in a mount namespace that lives no longer than the runtime: nothing stays mounted, whatever
//! becomes of either. Such a sandbox is confined by what its runtime makes of the configuration, and by no filter or cores
//! of ours; it cannot be parked. Needs the superuser, since the runtimes do.
#![expect(unsafe_code, reason = "the root is mounted between fork and exec")]

use crate::event::{Ending, Fault, FaultKind, Status};
use crate::plan::{Order, Place, Plan, Root};
use model::{Access, Network, Usage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};
use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest log of a runtime that is read for the cause of a failure.
const MAX_LOG_BYTES: usize = 16 << 10;
/// Codes above this mean a signal, to shells and runtimes alike.
const SIGNALS: i32 = 128;
const MAX_SIGNAL: i32 = 64;

/// Another OCI runtime.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Its program.
    pub program: PathBuf,
    /// What it is told before all else, as `--network=none` for gVisor's.
    pub arguments: Vec<String>,
    /// Where it keeps what it knows of its containers.
    pub state: PathBuf,
}

/// What a runtime is to run, and where.
#[derive(Clone, Copy, Debug)]
pub struct Bundle<'a> {
    /// Its name, unlike any other at this time.
    pub id: &'a str,
    /// An empty folder of its own that everybody may pass through.
    pub folder: &'a Path,
    /// Where in the machine's user ids its own lie.
    pub place: Place,
    /// What it is made of.
    pub plan: &'a Plan,
    /// What is to run.
    pub order: &'a Order,
}

/// A runtime at work.
#[derive(Debug)]
pub struct Container {
    runtime: Runtime,
    id: String,
    log: PathBuf,
    child: Child,
    begin: Instant,
    wall: Duration,
    grace: Duration,
}

impl Runtime {
    /// Starts a bundle's program.
    pub fn run(&self, bundle: Bundle<'_>, stdio: [OwnedFd; 3]) -> Result<Container, Fault> {
        let mounts = Mounts::new(bundle)?;
        let config = serde_json::to_vec(&config(bundle)?).map_err(|error| machine("described", error))?;
        std::fs::write(bundle.folder.join("config.json"), config).map_err(|error| machine("written", error))?;
        let log = bundle.folder.join("log");
        let [input, output, error] = stdio;
        let mut command = self.command();
        command
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json", "run"])
            .arg("--bundle")
            .arg(bundle.folder)
            .arg(bundle.id);
        command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(error));
        // SAFETY: between fork and exec only system calls are made, on strings that were made before.
        unsafe { command.pre_exec(move || mounts.make()) };
        let child = command.spawn().map_err(|error| machine("started", error))?;
        Ok(Container {
            runtime: self.clone(),
            id: bundle.id.to_owned(),
            log,
            child,
            begin: Instant::now(),
            wall: Duration::from_millis(bundle.plan.limits.wall_ms),
            grace: Duration::from_millis(bundle.plan.limits.grace_ms),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg("--root").arg(&self.state);
        command
    }

    /// Has the runtime do something to a container; that it cannot, because there is none any more, is no error.
    fn tell(&self, words: &[&str]) {
        let mut command = self.command();
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let _ = command.status();
    }
}

impl Container {
    /// Waits for the end, and brings it about when the time is up or `stop` can be read.
    pub fn wait(mut self, stop: BorrowedFd<'_>) -> Result<Ending, Fault> {
        let pid = Pid::from_child(&self.child);
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| machine("watched", error))?;
        let (mut is_stopped, mut is_timed_out) = (false, false);
        let mut ladder = ["INT", "TERM", "KILL"].into_iter();
        let mut next = self.begin + self.wall;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            let mut ready = [PollFd::new(&process, PollFlags::IN), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
            let count = if is_stopped || is_timed_out { 1 } else { 2 };
            let _ = poll(&mut ready[..count], Some(&left));
            if !ready[0].revents().is_empty() {
                break;
            }
            let is_asked = count == 2 && !ready[1].revents().is_empty();
            if is_asked || Instant::now() >= next {
                is_timed_out |= count == 2 && !is_asked;
                is_stopped |= is_asked;
                self.runtime.tell(&["kill", &self.id, ladder.next().unwrap_or("KILL")]);
                next = Instant::now() + self.grace;
            }
        }
        let status = self.child.wait().map_err(|error| machine("waited for", error))?;
        let wall = self.begin.elapsed();
        self.runtime.tell(&["delete", "--force", &self.id]);
        let usage = Usage { wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX), ..Usage::default() };
        let ending = Ending { status: read(status), is_timed_out, is_stopped, usage, core: None };
        self.failure(status).map_or(Ok(ending), Err)
    }

    /// Returns why the program never ran, if the runtime has said so.
    fn failure(&self, status: ExitStatus) -> Option<Fault> {
        let text = std::fs::read(&self.log).ok().filter(|text| !text.is_empty() && !status.success())?;
        let lines = text[..text.len().min(MAX_LOG_BYTES)].split(|byte| *byte == b'\n').rev();
        let words = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let told =
            words.filter(|word| word["level"] == "error").find_map(|word| Some(word["msg"].as_str()?.to_owned()))?;
        let name = self.runtime.program.display();
        Some(Fault { kind: FaultKind::Order, cause: format!("the runtime `{name}` could not run it: {told}") })
    }
}

/// Reads how a runtime tells of its program's end: as shells do.
fn read(status: ExitStatus) -> Status {
    match (status.code(), status.signal()) {
        (Some(code), _) if (SIGNALS + 1..=SIGNALS + MAX_SIGNAL).contains(&code) => Status::Signalled(code - SIGNALS),
        (Some(code), _) => Status::Exited(code),
        (None, signal) => Status::Signalled(signal.unwrap_or(libc::SIGKILL)),
    }
}

fn machine(what: &str, error: impl std::fmt::Display) -> Fault {
    Fault { kind: FaultKind::Machine, cause: format!("the bundle could not be {what}: {error}") }
}

fn refusal(cause: &str) -> Fault {
    Fault { kind: FaultKind::Plan, cause: cause.to_owned() }
}

/// What is mounted for a bundle, as strings that are ready.
struct Mounts {
    scratch: CString,
    size: CString,
    root: CString,
    layers: CString,
    upper: CString,
    work: CString,
    owner: u32,
}

impl Mounts {
    fn new(bundle: Bundle<'_>) -> Result<Self, Fault> {
        let Root::Layers(layers) = &bundle.plan.root else {
            return Err(refusal("another runtime than our own needs an image"));
        };
        let (scratch, root) = (bundle.folder.join("scratch"), bundle.folder.join("rootfs"));
        for folder in [&scratch, &root] {
            std::fs::create_dir(folder).map_err(|error| machine("laid out", error))?;
        }
        let text = |path: &Path| path.to_str().filter(|path| !path.contains([':', ',', '\\'])).map(str::to_owned);
        let names: Option<Vec<_>> = layers.iter().map(|layer| text(layer)).collect();
        let (Some(names), Some(place)) = (names, text(&scratch)) else {
            return Err(refusal("a layer's path holds a colon, a comma or a backslash"));
        };
        let string = |text: String| CString::new(text).map_err(|error| machine("laid out", error));
        let options = format!("userxattr,lowerdir={},upperdir={place}/upper,workdir={place}/work", names.join(":"));
        Ok(Self {
            size: string(format!("size={},mode=0711", bundle.plan.limits.disk_bytes))?,
            root: string(root.display().to_string())?,
            layers: string(options)?,
            upper: string(format!("{place}/upper"))?,
            work: string(format!("{place}/work"))?,
            scratch: string(place)?,
            owner: match bundle.place {
                Place::Range { first, .. } => first,
                Place::Own => 0,
            },
        })
    }

    /// Mounts all of it where nobody else sees it.
    fn make(&self) -> std::io::Result<()> {
        // SAFETY: this is the fresh child, whose only thread this is.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)? };
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        // crun will not work on a machine with both versions of control groups unless it sees one only.
        let _ = unmount(c"/sys/fs/cgroup/unified", UnmountFlags::DETACH);
        mount(
            c"none",
            self.scratch.as_c_str(),
            c"tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            self.size.as_c_str(),
        )?;
        for folder in [&self.upper, &self.work] {
            rustix::fs::mkdir(folder.as_c_str(), rustix::fs::Mode::from_raw_mode(0o755))?;
            let owner = (rustix::fs::Uid::from_raw(self.owner), rustix::fs::Gid::from_raw(self.owner));
            rustix::fs::chown(folder.as_c_str(), Some(owner.0), Some(owner.1))?;
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        Ok(mount(c"overlay", self.root.as_c_str(), c"overlay", flags, self.layers.as_c_str())?)
    }
}

/// Describes a bundle in the standard's words.
fn config(bundle: Bundle<'_>) -> Result<Value, Fault> {
    let (plan, order) = (bundle.plan, bundle.order);
    let Place::Range { first, count } = bundle.place else {
        return Err(refusal("another runtime than our own needs ids of its own, which an ordinary user has not"));
    };
    if plan.network == Network::Egress {
        return Err(refusal("another runtime than our own gives no network of the kind `egress`"));
    }
    let (user, group) = order.user.split_once(':').unwrap_or((&order.user, "0"));
    let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id < count);
    let (Some(uid), Some(gid)) = (number(user), number(group)) else {
        return Err(refusal("another runtime than our own takes users by number only"));
    };
    let kept: &[&str] = if plan.file_capabilities { &FILE_CAPABILITIES } else { &[] };
    let env: Vec<_> = order.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mapping = json!([{"containerID": 0, "hostID": first, "size": count}]);
    let mut namespaces = vec!["pid", "mount", "ipc", "uts", "cgroup", "user"];
    namespaces.extend((plan.network == Network::None).then_some("network"));
    let namespaces: Vec<_> = namespaces.into_iter().map(|kind| json!({"type": kind})).collect();
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": false},
        "hostname": plan.hostname,
        "process": {
            "terminal": false, "noNewPrivileges": true, "cwd": order.cwd, "args": order.command, "env": env,
            "user": {"uid": uid, "gid": gid},
            "capabilities": {"bounding": kept, "effective": kept, "permitted": kept},
            "oomScoreAdj": 500,
        },
        "mounts": mounts(plan),
        "linux": {
            "namespaces": namespaces,
            "uidMappings": mapping,
            "gidMappings": mapping,
            "resources": resources(plan),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"],
        },
    }))
}

const FILE_CAPABILITIES: [&str; 9] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
];

fn mounts(plan: &Plan) -> Vec<Value> {
    let one = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        one("/proc", "proc", &["nosuid", "nodev", "noexec"]),
        one("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
        one("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        one("/dev/shm", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
        one("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
    ];
    for bind in &plan.binds {
        let access = if bind.access == Access::ReadOnly { "ro" } else { "rw" };
        mounts.push(json!({
            "destination": bind.target, "source": bind.source, "type": "none",
            "options": ["rbind", access, "nosuid", "nodev"],
        }));
    }
    mounts
}

fn resources(plan: &Plan) -> Value {
    let limits = &plan.limits;
    json!({
        "memory": {"limit": limits.memory_bytes, "swap": limits.memory_bytes},
        "pids": {"limit": limits.pids},
        "cpu": {"quota": u64::from(limits.cpu_milli) * 100, "period": 100_000},
    })
}
