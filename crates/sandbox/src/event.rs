//! Events: what a spawner tells of its sandboxes, each of which has a number that its node chose.

use model::Usage;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::OwnedFd;

/// How a program ended, as the kernel says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It returned.
    Exited(i32),
    /// A signal ended it.
    Signalled(i32),
}

/// How a sandbox is to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// INT, a grace, TERM, a grace, KILL of everything inside.
    Gently,
    /// KILL of everything inside.
    Now,
}

/// What sort of thing went wrong before the program ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// The order cannot be followed: no such user or folder, for instance.
    Order,
    /// The order names a program that is not there.
    NoProgram,
    /// The order names a program that cannot be executed.
    NotExecutable,
    /// The plan cannot be followed here: a mount that is not there, a limit that cannot be enforced.
    Plan,
    /// The machine failed: out of memory, processes, ids or space. This is what counts towards a node's quarantine.
    Machine,
}

/// Why a program never ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{cause}")]
pub struct Fault {
    /// What sort of thing went wrong.
    pub kind: FaultKind,
    /// One sentence without a full stop that names the thing.
    pub cause: String,
}

/// The core of a process that died in a sandbox: an ELF core file, without a name in any folder.
#[derive(Debug)]
pub struct Core {
    /// The file, to be read from its beginning.
    pub file: File,
    /// How long it is.
    pub bytes: u64,
    /// The signal.
    pub signal: i32,
    /// The process as it was known inside.
    pub pid: i32,
    /// Its program's name, at most 15 bytes.
    pub program: String,
    /// Whether the limit cut it short.
    pub is_truncated: bool,
}

/// How a sandbox ended; everything inside is gone by then.
#[derive(Debug)]
pub struct Ending {
    /// How its program ended.
    pub status: Status,
    /// Whether it had to be stopped because its time was up.
    pub is_timed_out: bool,
    /// Whether it was stopped on order.
    pub is_stopped: bool,
    /// What it used; `log_bytes` is left to whoever reads its output.
    pub usage: Usage,
    /// The first core that was left inside, preferably by the program itself.
    pub core: Option<Core>,
}

/// What a spawner tells.
#[derive(Debug)]
pub enum Event {
    /// A sandbox is built and parked.
    Built {
        /// Which.
        number: u64,
        /// With `Network::Egress`, the sandbox's end of the wire: a TUN device whose other end is the sandbox's `eth0`.
        wire: Option<OwnedFd>,
    },
    /// The program runs.
    Started {
        /// In which sandbox.
        number: u64,
        /// With a terminal, its master side, for output, input and changes of size.
        terminal: Option<OwnedFd>,
    },
    /// What was asked for by `measure`.
    Measured {
        /// Of which sandbox.
        number: u64,
        /// What it has used so far, as far as control groups tell.
        usage: Usage,
    },
    /// The sandbox could not be built, or its program not be started. It is gone.
    Failed {
        /// Which.
        number: u64,
        /// Why.
        fault: Fault,
    },
    /// The sandbox is gone.
    Ended {
        /// Which.
        number: u64,
        /// How.
        ending: Box<Ending>,
    },
}
