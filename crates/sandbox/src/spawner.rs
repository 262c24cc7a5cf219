//! The handle by which a node speaks to its spawner, and the events that come back. The spawner itself is a process of its
//! own (`keeper.rs`); this side never waits for it but in `start`, in `Events::next`, when it is dropped, and for a moment
//! where more is said at once than its socket holds.

pub use crate::keeper::main;

use crate::error::SandboxError;
use crate::event::{Core, Event, Stop};
use crate::lean;
use crate::message::{self, MAX_MESSAGE_BYTES, Reply, Request};
use crate::plan::{Order, Place, Plan};
use crate::system;
use model::{LimitSet, Network, SandboxKind};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, fchmod, fstatfs};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Sandboxes that one spawner holds.
pub const MAX_SANDBOXES: usize = 4_096;

/// How long a message waits for room in the spawner's socket, and how long for word of some.
const MAX_BUSY: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// How long a spawner may take to end, and how often that is looked at.
const MAX_END: Duration = Duration::from_secs(20);
const END_PAUSE: Duration = Duration::from_millis(2);

/// How a spawner is started and what it may use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// The program that calls `keeper::main`; usually `/proc/self/exe`.
    pub program: PathBuf,
    /// Its arguments, by which it knows what it is to be.
    pub arguments: Vec<String>,
    /// A folder of its own; it is locked, and nothing in it outlives the spawner.
    pub state: PathBuf,
    /// Where in the machine's user ids all its sandboxes lie.
    pub place: Place,
    /// How many sandboxes it gets ready for; more are made room for on the way.
    pub cells: u32,
    /// Folders that no sandbox over the machine's own files sees, besides those that none ever does.
    pub hidden: Vec<PathBuf>,
}

/// What a spawner can do on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// The limits that it enforces.
    pub limits: LimitSet,
    /// The networks that it gives.
    pub networks: Vec<Network>,
    /// The kinds of sandboxes that it builds.
    pub kinds: Vec<SandboxKind>,
    /// What this machine has not, a sentence each.
    pub notes: Vec<String>,
}

/// A spawner, as its node holds it; it ends when this is dropped.
#[derive(Debug)]
pub struct Spawner {
    socket: Arc<OwnedFd>,
    child: Mutex<Child>,
    abilities: Abilities,
}

/// What a spawner tells, in order.
#[derive(Debug)]
pub struct Events {
    pub(crate) socket: Arc<OwnedFd>,
    buffer: Vec<u8>,
}

impl Spawner {
    /// Starts a spawner and waits until it is ready.
    pub fn start(settings: &Settings) -> Result<(Self, Events), SandboxError> {
        let failed = |source| SandboxError::Start { program: settings.program.display().to_string(), source };
        let (ours, theirs) = message::pair().map_err(|errno| failed(errno.into()))?;
        for end in [&ours, &theirs] {
            // A few hundred orders may wait; the kernel may grant less, and then `Busy` comes sooner.
            let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(end, 4 << 20)
                .or_else(|_| rustix::net::sockopt::set_socket_send_buffer_size(end, 4 << 20));
        }
        let mut command = Command::new(&settings.program);
        command.args(&settings.arguments).stdin(Stdio::from(theirs)).stdout(Stdio::null());
        // Each sandbox begins as a copy of this process, and a huge page costs it dearly.
        system::begin_without_huge_pages(&mut command);
        lean::mark(&mut command);
        let mut child = command.spawn().map_err(failed)?;
        let socket = Arc::new(ours);
        let mut events = Events::of(&socket);
        let opened = send(socket.as_fd(), &Request::Open { settings: Cow::Borrowed(settings) }, &[]);
        let answer = opened.and_then(|()| events.reply());
        let cause = match answer {
            Ok(Some((Reply::Ready { abilities }, _))) => {
                return Ok((Self { socket, child: Mutex::new(child), abilities }, events));
            }
            Ok(Some((Reply::Refused { cause }, _))) => cause,
            _ => "it ended before it was ready".to_owned(),
        };
        drop((socket, events));
        // The wire is closed, so it ends by itself; a process that does not speak to us at all is not worth waiting for.
        let _ = child.kill();
        let _ = child.wait();
        Err(SandboxError::Refused { cause })
    }

    /// Returns what the spawner can do here.
    pub fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// Returns the spawner's process id.
    pub fn pid(&self) -> u32 {
        self.child.lock().map_or_else(|poisoned| poisoned.into_inner().id(), |child| child.id())
    }

    /// Has a sandbox built and parked; `Event::Built` or `Event::Failed` follows.
    pub fn build(&self, number: u64, plan: &Plan) -> Result<(), SandboxError> {
        self.send(&Request::Build { number, plan: Cow::Borrowed(plan) }, &[])
    }

    /// Starts a program in a parked sandbox; `Event::Started` or `Event::Failed` follows.
    pub fn start_program(&self, number: u64, order: &Order, stdio: &[OwnedFd; 3]) -> Result<(), SandboxError> {
        share(stdio);
        self.send(&Request::Start { number, order: Cow::Borrowed(order) }, stdio)
    }

    /// Has a sandbox built and its program started at once; `Event::Started` or `Event::Failed` follows.
    pub fn run(&self, number: u64, plan: &Plan, order: &Order, stdio: &[OwnedFd; 3]) -> Result<(), SandboxError> {
        share(stdio);
        self.send(&Request::Run { number, plan: Cow::Borrowed(plan), order: Cow::Borrowed(order) }, stdio)
    }

    /// Gives a sandbox's terminal another size.
    pub fn resize(&self, number: u64, rows: u16, columns: u16) -> Result<(), SandboxError> {
        self.send(&Request::Resize { number, rows, columns }, &[])
    }

    /// Sends the program and its process group a signal.
    pub fn signal(&self, number: u64, signal: i32) -> Result<(), SandboxError> {
        self.send(&Request::Signal { number, signal }, &[])
    }

    /// Stops a sandbox; `Event::Ended` follows, or `Event::Failed` if its program never ran.
    pub fn stop(&self, number: u64, stop: Stop) -> Result<(), SandboxError> {
        self.send(&Request::Stop { number, stop }, &[])
    }

    /// Asks what a sandbox has used so far; `Event::Measured` follows, unless its program does not run.
    pub fn measure(&self, number: u64) -> Result<(), SandboxError> {
        self.send(&Request::Measure { number }, &[])
    }

    fn send(&self, request: &Request<'_>, fds: &[OwnedFd]) -> Result<(), SandboxError> {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        send(self.socket.as_fd(), request, &fds)
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        let child = self.child.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // It has to end what is left and to put it away; one that does not come to its end must not keep the node from its own.
        let until = Instant::now() + MAX_END;
        while Instant::now() < until {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(END_PAUSE);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Events {
    pub(crate) fn of(socket: &Arc<OwnedFd>) -> Self {
        Self { socket: Arc::clone(socket), buffer: vec![0; MAX_MESSAGE_BYTES] }
    }

    /// Waits for the next event; none when the spawner is gone.
    #[expect(clippy::should_implement_trait, reason = "an iterator would invite adapters that hold events back")]
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let (reply, mut fds) = self.reply().ok()??;
            return Some(match reply {
                Reply::Built { number } => Event::Built { number, wire: fds.pop() },
                Reply::Started { number } => Event::Started { number, terminal: fds.pop() },
                Reply::Measured { number, usage } => Event::Measured { number, usage },
                Reply::Failed { number, fault } => Event::Failed { number, fault },
                Reply::Ended { number, ending, core } => {
                    let core = core.zip(fds.pop()).map(|(text, file)| Core {
                        file: File::from(file),
                        bytes: text.bytes,
                        signal: text.signal,
                        pid: text.pid,
                        program: text.program,
                        is_truncated: text.is_truncated,
                    });
                    Event::Ended { number, ending: Box::new(ending.into_ending(core)) }
                }
                Reply::Ready { .. } | Reply::Refused { .. } => continue,
            });
        }
    }

    fn reply(&mut self) -> Result<Option<(Reply, Vec<OwnedFd>)>, SandboxError> {
        message::hear(&self.socket, &mut self.buffer, RecvFlags::empty()).map_err(|errno| failure(errno, 0))
    }
}

/// Lets whoever it is inside open its own streams by name, as scripts do with `/dev/stderr`. Only who holds a pipe without
/// a name reaches it, so its mode guards nothing.
pub(crate) fn share(stdio: &[OwnedFd; 3]) {
    for stream in stdio {
        if fstatfs(stream).is_ok_and(|found| found.f_type == PIPES) {
            // One that is somebody else's refuses, and stays as it is.
            let _ = fchmod(stream, Mode::from_raw_mode(0o666));
        }
    }
}

/// By which the kernel knows pipes without a name.
const PIPES: libc::__fsword_t = 0x5049_5045;

pub(crate) fn send(socket: BorrowedFd<'_>, request: &Request<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
    let bytes = serde_json::to_vec(request).map_err(|error| SandboxError::Socket(error.into()))?;
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(SandboxError::TooLong { bytes: bytes.len(), max: MAX_MESSAGE_BYTES });
    }
    let until = Instant::now() + MAX_BUSY;
    loop {
        match message::send(socket, &bytes, fds) {
            // It hears in a moment: it never waits for whoever speaks to it.
            Err(Errno::AGAIN) if Instant::now() < until => {
                let _ = rustix::event::poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&BUSY_PAUSE));
            }
            sent => return sent.map_err(|errno| failure(errno, bytes.len())),
        }
    }
}

fn failure(errno: Errno, bytes: usize) -> SandboxError {
    match errno {
        Errno::AGAIN | Errno::NOBUFS => SandboxError::Busy,
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => SandboxError::Gone,
        Errno::MSGSIZE => SandboxError::TooLong { bytes, max: MAX_MESSAGE_BYTES },
        errno => SandboxError::Socket(errno.into()),
    }
}
