//! What is said between a node and its spawner, and between a spawner and its sandboxes: JSON, one message a packet, open
//! files beside it. Every packet and every number of files is bounded; a packet that was cut is an error, never a message.

use crate::bundle::Bundle;
use crate::event::{Ending, Fault, Status, Stop};
use crate::plan::{Order, Plan};
use crate::spare::Untouched;
use crate::spawner::{Abilities, Settings};
use model::Usage;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of one message.
pub(crate) const MAX_MESSAGE_BYTES: usize = 160 * 1024;
/// Open files that travel with one message.
pub(crate) const MAX_FDS: usize = 3;

/// What a node asks of its spawner, or of a container's minder.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request<'a> {
    Open {
        settings: Cow<'a, Settings>,
    },
    Build {
        number: u64,
        plan: Cow<'a, Plan>,
    },
    Start {
        number: u64,
        order: Cow<'a, Order>,
    },
    Run {
        number: u64,
        plan: Cow<'a, Plan>,
        order: Cow<'a, Order>,
    },
    Resize {
        number: u64,
        rows: u16,
        columns: u16,
    },
    Signal {
        number: u64,
        signal: i32,
    },
    Stop {
        number: u64,
        stop: Stop,
    },
    Measure {
        number: u64,
    },
    /// To a container's minder, once.
    Contain {
        bundle: Cow<'a, Bundle>,
    },
}

/// What a spawner tells its node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Ready { abilities: Abilities },
    Refused { cause: String },
    Built { number: u64 },
    Started { number: u64 },
    Measured { number: u64, usage: Usage },
    Failed { number: u64, fault: Fault },
    Ended { number: u64, ending: EndingText, core: Option<CoreText> },
}

/// An ending without its open file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EndingText {
    pub(crate) status: Status,
    pub(crate) is_timed_out: bool,
    pub(crate) is_stopped: bool,
    pub(crate) usage: Usage,
}

impl EndingText {
    pub(crate) fn into_ending(self, core: Option<crate::event::Core>) -> Ending {
        Ending {
            status: self.status,
            is_timed_out: self.is_timed_out,
            is_stopped: self.is_stopped,
            usage: self.usage,
            core,
        }
    }
}

/// A core without its open file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CoreText {
    pub(crate) bytes: u64,
    pub(crate) signal: i32,
    pub(crate) pid: i32,
    pub(crate) program: String,
    pub(crate) is_truncated: bool,
}

/// What a sandbox's own processes tell their spawner.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// The program's process is confined and waits for its order; with it comes the wire, if there is one.
    Built,
    /// The program is about to run; with it comes the terminal, if there is one.
    Terminal,
    /// It will never run.
    Failed(Fault),
    /// It ran, and nothing but init is left; with it comes the core, if there is one.
    Ended(Report),
    /// A file for a core is wanted; the answer is a packet with one.
    CoreWanted,
}

/// What init knows of the program's end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) status: Status,
    pub(crate) cpu_us: u64,
    pub(crate) memory_peak_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) write_bytes: u64,
    pub(crate) core: Option<CoreText>,
    pub(crate) untouched: Untouched,
}

/// What a spawner tells init.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// A signal for the program and its process group.
    Program(i32),
    /// A signal for everything inside.
    Everything(i32),
    /// The file for a core comes with this packet, if one can be had.
    CoreFile,
}

/// Returns two ends of a wire that keeps messages apart.
pub(crate) fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends one message with open files, without waiting.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags).map(|_| ())
    })
}

/// Sends one message that is JSON.
pub(crate) fn say<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let bytes = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
    send(socket, &bytes, fds)
}

/// One message as it came.
pub(crate) struct Packet {
    pub(crate) bytes: usize,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Receives one message into `buffer`; no bytes mean that the other end is closed.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> rustix::io::Result<Packet> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut slices = [IoSliceMut::new(&mut *buffer)];
        rustix::net::recvmsg(socket, &mut slices, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds: Vec<_> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    // There is no room for more open files. What came of them is of no use, but the message can be answered.
    if received.flags.contains(ReturnFlags::CTRUNC) {
        fds.clear();
    }
    Ok(Packet { bytes: received.bytes, fds })
}

/// Receives one message that is JSON; none if the other end is closed.
pub(crate) fn hear<T: for<'de> Deserialize<'de>>(
    socket: impl AsFd,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> rustix::io::Result<Option<(T, Vec<OwnedFd>)>> {
    let packet = receive(socket.as_fd(), buffer, flags)?;
    if packet.bytes == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[..packet.bytes]).map_err(|_| Errno::BADMSG)?;
    Ok(Some((message, packet.fds)))
}
