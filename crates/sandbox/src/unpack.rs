//! Unpacking: a layer's archive becomes a folder, in a child process that has nothing but that folder.
//!
//! Whoever made the archive is hostile. So its bytes are read only by a child that has confined itself first
//! (`unpack/child.rs`): a user namespace whose ids the caller chose, a mount namespace whose root *is* the destination,
//! no network, no privileges beyond those over the files it makes, a list of system calls, and bounds on memory,
//! processor time, bytes and entries. The caller only maps its ids, waits, and kills it when its time is up. What an
//! archive may say and what becomes of it stands in `unpack/layer.rs`. This file never looks at the archive.

mod archive;
mod child;
mod layer;
mod stream;
mod tree;

pub use child::main;

use crate::Place;
use model::image::Packing;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes that one archive may have unpacked, at most.
pub const MAX_UNPACKED_BYTES: u64 = 64 << 30;
/// Entries that one archive may have, at most.
pub const MAX_ENTRIES: u64 = 2_000_000;
/// How long an unpacking may take, at most.
pub const MAX_UNPACK: Duration = Duration::from_secs(3600);
/// Bytes of what parent and child tell each other.
const MAX_MESSAGE_BYTES: u64 = 64 << 10;
/// How often a caller's wish to stop is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// The lowest id of the machine that may be used inside: those below it belong to its own services.
const MIN_FIRST: u32 = 1_000;

/// How unpacking is done on this machine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program that calls `unpack::main` when it is started with `args`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where the ids of what is unpacked lie.
    pub place: Place,
    /// Bytes that one archive may have unpacked; at most `MAX_UNPACKED_BYTES`.
    pub bytes_max: u64,
    /// Entries that one archive may have; at most `MAX_ENTRIES`.
    pub entries_max: u64,
    /// How long one archive may take; at most `MAX_UNPACK`.
    pub time_max: Duration,
}

impl Settings {
    /// Returns the settings of a program that hands over to `unpack::main` when its first argument is `unpack`.
    pub fn new(place: Place) -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            args: vec!["unpack".to_owned()],
            place,
            bytes_max: MAX_UNPACKED_BYTES,
            entries_max: MAX_ENTRIES,
            time_max: MAX_UNPACK,
        }
    }
}

/// What was unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// The SHA-256 of the archive without its packing: `sha256:…`.
    pub diff_id: String,
    /// How long that is.
    pub archive_bytes: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Entries that were left out: device nodes, and sorts that no layer has.
    pub skipped: u64,
}

/// Why an archive was not unpacked. The destination may hold a part of it and is to be thrown away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum UnpackError {
    /// The archive is at fault.
    #[error("{0}")]
    Archive(String),
    /// The archive holds more than it may.
    #[error("its files have more than {0} bytes")]
    Large(u64),
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// It took too long.
    #[error("unpacking took longer than {0} seconds")]
    Late(u64),
    /// The caller no longer wants it.
    #[error("unpacking was stopped")]
    Stopped,
    /// The machine is at fault.
    #[error("{0}")]
    Machine(String),
}

impl UnpackError {
    fn machine(what: &str, error: &io::Error) -> Self {
        if error.raw_os_error() == Some(libc::ENOSPC) || error.raw_os_error() == Some(libc::EDQUOT) {
            return Self::Full;
        }
        Self::Machine(format!("{what}: {error}"))
    }
}

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    place: Place,
    packing: Packing,
    bytes_max: u64,
    entries_max: u64,
    seconds_max: u64,
}

/// What the child answers at its end.
type Outcome = Result<Unpacked, UnpackError>;

/// Unpacks an archive into an empty folder, in a child that is gone when this returns.
///
/// Blocks, so it belongs on a thread of its own. `stop` is looked at often; once it is true the child is killed.
pub fn unpack(settings: &Settings, input: File, packing: Packing, folder: &Path, stop: &AtomicBool) -> Outcome {
    check_place(settings.place)?;
    prepare(folder, settings.place)?;
    let (mut ours, theirs) =
        UnixStream::pair().map_err(|error| UnpackError::machine("no socket for an unpacking", &error))?;
    let child = Command::new(&settings.program)
        .args(&settings.args)
        .env_clear()
        .current_dir(folder)
        .stdin(input)
        .stdout(std::os::fd::OwnedFd::from(theirs))
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| UnpackError::machine("an unpacking cannot be started", &error))?;
    let mut child = Killed(child);
    let task = Task {
        place: settings.place,
        packing,
        bytes_max: settings.bytes_max.min(MAX_UNPACKED_BYTES),
        entries_max: settings.entries_max.min(MAX_ENTRIES),
        seconds_max: settings.time_max.min(MAX_UNPACK).as_secs().max(1),
    };
    let deadline = Instant::now() + settings.time_max.min(MAX_UNPACK);
    let talked = talk(&mut ours, &task, child.0.id(), &|| {
        if stop.load(Ordering::Relaxed) {
            return Err(UnpackError::Stopped);
        }
        if Instant::now() >= deadline { Err(UnpackError::Late(task.seconds_max)) } else { Ok(()) }
    });
    if !matches!(talked, Ok(Some(_))) {
        // Harmless when it is gone already; without it we might wait for ever.
        let _ = child.0.kill();
    }
    let status = child.0.wait().map_err(|error| UnpackError::machine("an unpacking was lost", &error))?;
    talked?.unwrap_or_else(|| Err(silent(status)))
}

/// A child that does not outlive its parent's interest in it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both are harmless when it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn check_place(place: Place) -> Result<(), UnpackError> {
    let is_root = rustix::process::geteuid().is_root();
    match place {
        Place::Range { first, count } if first < MIN_FIRST || count == 0 || first.checked_add(count).is_none() => {
            Err(UnpackError::Machine(format!("ids from {first} on cannot be those of an image")))
        }
        Place::Range { .. } if !is_root => {
            Err(UnpackError::Machine("a range of ids needs an unpacking to be started by root".to_owned()))
        }
        Place::Own if is_root => {
            Err(UnpackError::Machine("root's own id is never mapped: give images a range of ids".to_owned()))
        }
        Place::Range { .. } | Place::Own => Ok(()),
    }
}

/// Gives the folder to whoever will be root inside.
fn prepare(folder: &Path, place: Place) -> Result<(), UnpackError> {
    use std::os::unix::fs::{PermissionsExt, chown};
    let what = || format!("`{}` cannot be prepared", folder.display());
    let refuse = |error: io::Error| UnpackError::machine(&what(), &error);
    if folder.read_dir().map_err(refuse)?.next().is_some() {
        return Err(UnpackError::Machine(format!("`{}` is not empty", folder.display())));
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).map_err(refuse)?;
    match place {
        Place::Range { first, .. } => chown(folder, Some(first), Some(first)).map_err(refuse),
        Place::Own => Ok(()),
    }
}

/// Hands out the task, maps the child's ids when it asks for that, and waits for its answer; nothing if it never came.
fn talk(
    socket: &mut UnixStream,
    task: &Task,
    pid: u32,
    go_on: &dyn Fn() -> Result<(), UnpackError>,
) -> Result<Option<Outcome>, UnpackError> {
    let mut text = serde_json::to_vec(task).expect("a task is plain words and numbers");
    text.push(b'\n');
    let broken = |error: io::Error| UnpackError::machine("an unpacking broke off", &error);
    let mut answer = Vec::new();
    if socket.write_all(&text).is_err() {
        return Ok(None);
    }
    let mut is_mapped = false;
    loop {
        go_on()?;
        let mut ready = [PollFd::new(&*socket, PollFlags::IN)];
        let patience = Timespec::try_from(LOOK).expect("a tenth of a second fits");
        match poll(&mut ready, Some(&patience)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(broken(error.into())),
        }
        let mut piece = [0; 4096];
        let count = match socket.read(&mut piece) {
            Ok(count) => count,
            // It died with something of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(broken(error)),
        };
        answer.extend_from_slice(&piece[..count]);
        if !is_mapped && answer.first() == Some(&child::ASK) {
            map(pid, task.place)
                .map_err(|error| UnpackError::machine("the ids of an image cannot be mapped", &error))?;
            is_mapped = true;
            answer.remove(0);
            if socket.write_all(&[child::ASK]).is_err() {
                return Ok(None);
            }
        }
        if answer.len() as u64 > MAX_MESSAGE_BYTES {
            return Err(UnpackError::Archive("an unpacking said more than it should".to_owned()));
        }
        if count == 0 {
            return Ok(serde_json::from_slice(&answer).ok());
        }
    }
}

/// Maps the ids of a child that has just made its user namespace.
fn map(pid: u32, place: Place) -> io::Result<()> {
    let write = |name: &str, text: String| std::fs::write(format!("/proc/{pid}/{name}"), text);
    match place {
        Place::Range { first, count } => {
            write("uid_map", format!("0 {first} {count}"))?;
            write("gid_map", format!("0 {first} {count}"))
        }
        Place::Own => {
            write("setgroups", "deny".to_owned())?;
            write("uid_map", format!("0 {} 1", rustix::process::geteuid().as_raw()))?;
            write("gid_map", format!("0 {} 1", rustix::process::getegid().as_raw()))
        }
    }
}

/// Says why a child ended without an answer.
fn silent(status: ExitStatus) -> UnpackError {
    match status.signal() {
        // What Rust does when memory runs out.
        Some(libc::SIGABRT) => UnpackError::Archive("reading it takes more memory than any layer needs".to_owned()),
        Some(libc::SIGXCPU) => {
            UnpackError::Archive("reading it takes more processor time than any layer needs".to_owned())
        }
        Some(libc::SIGKILL) => UnpackError::Machine("an unpacking was killed".to_owned()),
        _ => UnpackError::Machine(format!("an unpacking ended without a word: {status}")),
    }
}
