//! Bundles: sandboxes by other OCI runtimes than our own engine, driven by the standard interface: a folder with a
//! `config.json` and a root, and the verbs `create`, `start`, `kill` and `delete`.
//!
//! Each has a *minder* (`minder.rs`): a process of ours that lays out the root, has the runtime create and start the
//! container, stops it, and puts everything away. It is the first of a process namespace and has mounts of its own, so
//! neither a process nor a mount outlives it, whoever is killed; when its node's socket closes, it ends the container in
//! order. What a killed minder leaves are empty control groups and the folder that names its container: `sweep` has the
//! runtime delete those. Such a sandbox is confined by what its runtime makes of the configuration (`config.rs`), the
//! profile of system calls included (`filter.rs`); it leaves no cores and cannot be parked. Needs the superuser, since the
//! runtimes do.

mod account;
mod config;
mod filter;
mod ground;
mod minder;
mod order;
mod program;

pub use minder::main;

use crate::error::SandboxError;
use crate::event::{Event, Fault, FaultKind, Stop};
use crate::message::{self, Request};
use crate::plan::{Order, Place, Plan};
use crate::spawner::{Events, send, share};
use rustix::net::Shutdown;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How long a runtime may take to say which it is.
const MAX_PROBE: Duration = Duration::from_secs(5);
/// Bytes of what it says that are kept.
const MAX_VERSION_BYTES: usize = 128;
/// In a container's folder, what says how to delete it.
const NOTE: &str = "container.json";
/// In a container's folder, the runtime's own.
const STATE: &str = "state";

/// How a runtime runs programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sort {
    /// Under the machine's kernel, as `runc` and `crun` do.
    Plain,
    /// Under a kernel of its own, as gVisor's `runsc` does.
    Sentry,
}

/// Another OCI runtime.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Runtime {
    /// By what executions and images name it.
    pub name: String,
    /// Its program.
    pub program: PathBuf,
    /// How it runs programs.
    pub sort: Sort,
    /// What it says of its version.
    pub version: String,
}

/// What a runtime is to run, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bundle {
    /// Its name, unlike any other on this machine at this time.
    pub id: String,
    /// The runtime.
    pub runtime: Runtime,
    /// Its folder, which is not there yet and will not be there afterwards.
    pub folder: PathBuf,
    /// Where in the machine's user ids its own lie.
    pub place: Place,
    /// What it is made of.
    pub plan: Plan,
    /// What is to run.
    pub order: Order,
}

/// A container that has a minder; the end of this is its end.
#[derive(Debug)]
pub struct Container {
    socket: Arc<OwnedFd>,
}

/// What a container's minder tells, in order.
#[derive(Debug)]
pub struct Vigil {
    events: Events,
    child: Child,
    folder: PathBuf,
}

/// What deletes a container that nobody minds any more.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    id: String,
    runtime: Runtime,
}

impl Runtime {
    /// Asks a program which runtime it is, or says in one sentence why it is none.
    pub fn probe(name: &str, program: &Path) -> Result<Self, String> {
        let said = |why: &str| format!("the runtime `{name}` is not offered: `{}` {why}", program.display());
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null());
        let text = order::output(command, MAX_PROBE).map_err(|why| said(&why))?;
        let line = text.lines().next().unwrap_or_default().trim();
        if !line.contains("version") {
            return Err(said("does not say its version"));
        }
        let mut version = line.to_owned();
        version.truncate(line.floor_char_boundary(MAX_VERSION_BYTES));
        let sort = if line.starts_with("runsc") { Sort::Sentry } else { Sort::Plain };
        Ok(Self { name: name.to_owned(), program: program.to_owned(), sort, version })
    }

    /// Returns the command by which it is told anything about the containers of a folder.
    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(folder.join(STATE)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

impl Container {
    /// Starts a container's minder by a program that calls `bundle::main`; `Event::Started` or `Event::Failed` follows.
    pub fn start(
        helper: &Path,
        role: &str,
        bundle: &Bundle,
        stdio: &[OwnedFd; 3],
    ) -> Result<(Self, Vigil), SandboxError> {
        let failed = |source| SandboxError::Start { program: helper.display().to_string(), source };
        let (ours, theirs) = message::pair().map_err(|errno| failed(errno.into()))?;
        let socket = Arc::new(ours);
        let child =
            Command::new(helper).arg(role).stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn().map_err(failed)?;
        let vigil = Vigil { events: Events::of(&socket), child, folder: bundle.folder.clone() };
        share(stdio);
        let fds: Vec<_> = stdio.iter().map(AsFd::as_fd).collect();
        send(socket.as_fd(), &Request::Contain { bundle: Cow::Borrowed(bundle) }, &fds)?;
        Ok((Self { socket }, vigil))
    }

    /// Stops what runs inside; `Event::Ended` follows, or `Event::Failed` if its program never ran.
    pub fn stop(&self, stop: Stop) -> Result<(), SandboxError> {
        send(self.socket.as_fd(), &Request::Stop { number: 0, stop }, &[])
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }
}

impl Vigil {
    /// Waits for the next event; none after the last one, and when the minder was killed.
    #[expect(clippy::should_implement_trait, reason = "an iterator would invite adapters that hold events back")]
    pub fn next(&mut self) -> Option<Event> {
        self.events.next()
    }

    /// Returns the minder's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.events.socket, Shutdown::Write);
        let _ = self.child.wait();
        clear(&self.folder);
    }
}

/// Deletes the containers whose folders lie in this one, which a node that was killed left behind; waits for minders that are
/// still at it. Returns how many there were.
pub fn sweep(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| clear(&entry.path())).count()
}

/// Deletes what is left of one container; nothing is, if its minder came to its end.
fn clear(folder: &Path) {
    let Ok(_lock) = minder::lock(folder) else { return };
    if let Some(note) = fs::read(folder.join(NOTE)).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok()) {
        put_away(&note.runtime, folder, &note.id);
    }
    // What cannot be removed now is tried again by the next sweep.
    let _ = fs::remove_dir_all(folder);
}

/// Has the runtime forget a container, and removes the control groups that it did not.
fn put_away(runtime: &Runtime, folder: &Path, id: &str) {
    let mut command = runtime.command(folder);
    command.args(["delete", "--force", id]);
    if folder.join(STATE).join(id).exists() {
        let _ = order::obeyed(command, order::MAX_ORDER);
    }
    account::remove(id);
}

fn machine(what: &str, error: impl std::fmt::Display) -> Fault {
    Fault { kind: FaultKind::Machine, cause: format!("the bundle could not be {what}: {error}") }
}

fn refusal(cause: impl Into<String>) -> Fault {
    Fault { kind: FaultKind::Plan, cause: cause.into() }
}
