//! The minder of one container: `laid out → created → started → ended → put away`, and out of each of these by an end. It
//! tells its node of the start and, when nothing is left, of the end. Nothing foreign is read here but the log, the number
//! and the exit status that a runtime leaves, and the names of users in the image.

use super::account::Account;
use super::ground::Ground;
use super::{Bundle, NOTE, Note, Runtime, Sort, config, machine, order, program, put_away, refusal};
use crate::descriptor;
use crate::event::{Fault, FaultKind, Status, Stop};
use crate::message::{self, EndingText, MAX_MESSAGE_BYTES, Reply, Request};
use crate::prompt;
use crate::system::{self, Waited};
use model::{LimitSet, Usage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

/// How long a runtime may take to create a container.
const MAX_BUILD: Duration = Duration::from_secs(30);
/// Longest log of a runtime that is read for the cause of a failure.
const MAX_LOG_BYTES: usize = 16 << 10;
/// Codes above this mean a signal, to shells and to runtimes with a kernel of their own.
const SIGNALS: i32 = 128;
const MAX_SIGNAL: i32 = 64;
/// How often, and how far apart, the lock of a container's folder is asked for.
const MAX_LOCK_TRIES: u32 = 300;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Runs a minder on the socket that is its standard input, until its container has ended.
pub fn main() -> ExitCode {
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else { return ExitCode::FAILURE };
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let Ok(null) = rustix::fs::open("/dev/null", flags, Mode::empty()) else { return ExitCode::FAILURE };
    if rustix::stdio::dup2_stdin(&null).is_err() {
        return ExitCode::FAILURE;
    }
    drop(null);
    system::occupy_stdio();
    prompt::end();
    descriptor::lower();
    // Ctrl-C in the node's terminal is for the node. Failing means that it is on its own already.
    let _ = rustix::process::setsid();
    // Everything that a runtime starts is in this namespace, and ends with its first process, which ends with this one.
    let child = system::clone_process(system::NEW_PIDS | system::NEW_MOUNTS, None, || {
        system::die_with_parent();
        mind(&socket);
        system::leave(0)
    });
    let Ok(child) = child else { return ExitCode::FAILURE };
    drop(socket);
    system::wait_for(child, 0);
    ExitCode::SUCCESS
}

/// Locks a container's folder, waiting for whoever is still putting it away; an error means that it is not there any more.
pub(super) fn lock(folder: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(folder, flags, Mode::empty())?;
    for _ in 0..MAX_LOCK_TRIES {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            other => return other.map(|()| file),
        }
    }
    Err(Errno::WOULDBLOCK)
}

fn mind(socket: &OwnedFd) {
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    let heard = message::hear::<Request<'_>>(socket, &mut buffer, RecvFlags::empty());
    let Ok(Some((Request::Contain { bundle }, fds))) = heard else { return };
    let bundle = bundle.into_owned();
    let ended = match <[OwnedFd; 3]>::try_from(fds) {
        Ok(stdio) => keep(socket, &mut buffer, &bundle, stdio),
        Err(_) => Err(refusal("three standard streams are needed")),
    };
    let reply = match ended {
        Ok(ending) => Reply::Ended { number: 0, ending, core: None },
        Err(fault) => Reply::Failed { number: 0, fault },
    };
    // A node that has gone does not need to know.
    let _ = message::say(socket.as_fd(), &reply, &[]);
}

/// Holds a container's folder while there is a container.
fn keep(socket: &OwnedFd, buffer: &mut [u8], bundle: &Bundle, stdio: [OwnedFd; 3]) -> Result<EndingText, Fault> {
    config::check(bundle)?;
    let noted = |error| machine("noted", error);
    fs::DirBuilder::new().mode(0o700).create(&bundle.folder).map_err(noted)?;
    let _lock = lock(&bundle.folder).map_err(|errno| machine("noted", errno))?;
    let note = Note { id: bundle.id.clone(), runtime: bundle.runtime.clone() };
    let note = serde_json::to_vec(&note).map_err(|error| machine("noted", error))?;
    fs::write(bundle.folder.join(NOTE), note).map_err(noted)?;
    let minder = Minder { socket, buffer, bundle, is_stopped: false, is_closed: false };
    let ended = minder.run(stdio);
    // Whatever the runtime left is in this namespace; what runs in it would keep control groups from being removed.
    let _ = system::kill(-1, libc::SIGKILL);
    while let Waited::State(..) = system::wait_any(0) {}
    put_away(&bundle.runtime, &bundle.folder, &bundle.id);
    // What cannot be removed now is tried again by the next sweep.
    let _ = fs::remove_dir_all(&bundle.folder);
    ended
}

struct Minder<'a> {
    socket: &'a OwnedFd,
    buffer: &'a mut [u8],
    bundle: &'a Bundle,
    is_stopped: bool,
    /// Whether the node has gone.
    is_closed: bool,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    /// The process has ended.
    Ended,
    /// It is to be stopped, and the node may want it at once.
    Asked(Stop),
    /// The time is up.
    Late,
}

impl Minder<'_> {
    fn run(mut self, stdio: [OwnedFd; 3]) -> Result<EndingText, Fault> {
        let ground = Ground::make(self.bundle)?;
        let config = config::describe(self.bundle, &ground)?;
        let config = serde_json::to_vec(&config).map_err(|error| machine("described", error))?;
        fs::write(ground.bundle.join("config.json"), config).map_err(|error| machine("written", error))?;
        let pid = self.create(&ground, stdio)?;
        let process = Pid::from_raw(pid).ok_or(Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let process = process.map_err(|errno| machine("watched", errno))?;
        let account = Account::open(pid, &self.bundle.id, self.bundle.runtime.sort);
        let missing = self.bundle.plan.limits.demand.without(account.enforced());
        if !missing.is_empty() {
            let name = &self.bundle.runtime.name;
            return Err(refusal(format!(
                "the runtime `{name}` cannot enforce limits of {missing} here, which are demanded"
            )));
        }
        self.tell(&ground, &["start", &self.bundle.id])?;
        let begin = Instant::now();
        let _ = message::say(self.socket.as_fd(), &Reply::Started { number: 0 }, &[]);
        let is_timed_out = self.follow(&ground, &process, begin);
        let Waited::State(_, status) = system::wait_for(pid, 0) else {
            return Err(machine("waited for", "its process is not this one's child"));
        };
        let wall = begin.elapsed();
        let status = read(self.bundle.runtime.sort, status);
        Ok(EndingText { status, is_timed_out, is_stopped: self.is_stopped, usage: self.usage(&account, wall) })
    }

    /// Has the container created; returns its first process.
    fn create(&mut self, ground: &Ground, stdio: [OwnedFd; 3]) -> Result<i32, Fault> {
        let number = ground.bundle.join("pid");
        let mut command = self.command(ground);
        command.arg("create").arg("--bundle").arg(&ground.bundle).arg("--pid-file").arg(&number).arg(&self.bundle.id);
        let [input, output, error] = stdio;
        command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(error));
        let mut child = command.spawn().map_err(|error| machine("created", error))?;
        // The program's ends are its own now; ours would keep its output from ever ending.
        drop(command);
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let process = process.map_err(|errno| machine("created", errno))?;
        let end = Instant::now() + MAX_BUILD;
        let is_created = loop {
            match self.wait(&process, Some(end)) {
                Wake::Ended => break true,
                Wake::Asked(Stop::Gently) => {}
                Wake::Asked(Stop::Now) | Wake::Late => break false,
            }
        };
        if !is_created {
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| machine("waited for", error))?;
        if self.is_stopped {
            let cause = "it was stopped before its program ran".to_owned();
            return Err(Fault { kind: FaultKind::Order, cause });
        }
        if !is_created {
            let cause = format!("the runtime `{}` took too long to create the container", self.bundle.runtime.name);
            return Err(Fault { kind: FaultKind::Machine, cause });
        }
        if !status.success() {
            return Err(self.failure(ground));
        }
        let text = fs::read_to_string(&number).map_err(|error| machine("found", error))?;
        text.trim().parse().map_err(|error| machine("found", error))
    }

    /// Returns the beginning of what the runtime is told.
    fn command(&self, ground: &Ground) -> std::process::Command {
        let runtime = &self.bundle.runtime;
        let mut command = runtime.command(&self.bundle.folder);
        command.arg("--log").arg(ground.bundle.join("log")).args(["--log-format", "json"]);
        if runtime.sort == Sort::Sentry {
            command.arg(config::sentry(&self.bundle.plan));
        }
        command
    }

    /// Tells the runtime something, which it must do.
    fn tell(&self, ground: &Ground, words: &[&str]) -> Result<(), Fault> {
        let mut command = self.command(ground);
        command.args(words);
        let is_done = order::obeyed(command, order::MAX_ORDER).is_some_and(|status| status.success());
        if is_done { Ok(()) } else { Err(self.failure(ground)) }
    }

    /// Waits for the end, and brings it about when the time is up or the node says so; tells whether the time was up.
    fn follow(&mut self, ground: &Ground, process: &OwnedFd, begin: Instant) -> bool {
        let limits = self.bundle.plan.limits;
        let grace = Duration::from_millis(limits.grace_ms);
        let id = self.bundle.id.as_str();
        let mut rungs: &[&[&str]] = &[&["kill", id, "INT"], &["kill", "--all", id, "TERM"]];
        let (mut is_timed_out, mut is_stopping) = (false, self.is_stopped);
        let mut next = if is_stopping { Some(begin) } else { begin.checked_add(Duration::from_millis(limits.wall_ms)) };
        loop {
            match self.wait(process, next) {
                Wake::Ended => return is_timed_out,
                Wake::Asked(Stop::Gently) if is_stopping => continue,
                Wake::Asked(Stop::Now) => rungs = &[],
                Wake::Asked(Stop::Gently) => {}
                Wake::Late => is_timed_out |= !is_stopping,
            }
            is_stopping = true;
            if let [rung, rest @ ..] = rungs {
                // One that it cannot pass on is followed by the next all the same.
                let _ = self.tell(ground, rung);
                rungs = rest;
                next = Instant::now().checked_add(grace);
            } else {
                let _ = pidfd_send_signal(process, Signal::KILL);
                next = None;
            }
        }
    }

    /// Waits until a process ends, the node says something, or the time comes.
    fn wait(&mut self, process: &OwnedFd, until: Option<Instant>) -> Wake {
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut ready = [PollFd::new(process, PollFlags::IN), PollFd::new(self.socket, PollFlags::IN)];
            let count = if self.is_closed { 1 } else { 2 };
            let _ = poll(&mut ready[..count], timeout.as_ref());
            if !ready[0].revents().is_empty() {
                return Wake::Ended;
            }
            if count == 2 && !ready[1].revents().is_empty() {
                match message::hear::<Request<'_>>(self.socket, self.buffer, RecvFlags::DONTWAIT) {
                    Ok(Some((Request::Stop { stop, .. }, _))) => {
                        self.is_stopped = true;
                        return Wake::Asked(stop);
                    }
                    Ok(Some(_)) | Err(Errno::AGAIN | Errno::INTR) => {}
                    Ok(None) | Err(_) => {
                        (self.is_stopped, self.is_closed) = (true, true);
                        return Wake::Asked(Stop::Now);
                    }
                }
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Wake::Late;
            }
        }
    }

    fn usage(&self, account: &Account, wall: Duration) -> Usage {
        let (counts, limits) = (account.counts(), &self.bundle.plan.limits);
        let asked = LimitSet { io: limits.io_bytes_second > 0, ..LimitSet::ALL };
        Usage {
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            cpu_ms: counts.cpu_us.unwrap_or(0).div_ceil(1000),
            memory_peak_bytes: counts.memory_peak_bytes.unwrap_or(0),
            oom_kills: counts.oom_kills,
            unenforced: asked.without(account.enforced()),
            ..Usage::default()
        }
    }

    /// Returns why the runtime did not do what it was told, as it says itself. The machine is to blame only if the runtime
    /// does not even tell its version any more: by whatever else an image could hold nodes back for everybody.
    fn failure(&self, ground: &Ground) -> Fault {
        let runtime = &self.bundle.runtime;
        if let Err(cause) = Runtime::probe(&runtime.name, &runtime.program) {
            return Fault { kind: FaultKind::Machine, cause };
        }
        let text = fs::read(ground.bundle.join("log")).unwrap_or_default();
        let lines = text[text.len().saturating_sub(MAX_LOG_BYTES)..].split(|byte| *byte == b'\n').rev();
        let words = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let told = words
            .filter(|word| matches!(word["level"].as_str(), Some("error" | "fatal")))
            .find_map(|word| Some(word["msg"].as_str()?.trim().to_owned()));
        let told = told.unwrap_or_else(|| "it does not say why".to_owned());
        let cause = format!("the runtime `{}` could not run it: {told}", runtime.name);
        Fault { kind: program::blame(self.bundle, ground), cause }
    }
}

/// Reads how a container's first process ended. One that is a kernel of its own tells of its program as shells do.
fn read(sort: Sort, status: i32) -> Status {
    let code = libc::WEXITSTATUS(status);
    let means_signal = sort == Sort::Sentry && (SIGNALS + 1..=SIGNALS + MAX_SIGNAL).contains(&code);
    if libc::WIFSIGNALED(status) {
        Status::Signalled(libc::WTERMSIG(status))
    } else if means_signal {
        Status::Signalled(code - SIGNALS)
    } else {
        Status::Exited(code)
    }
}
