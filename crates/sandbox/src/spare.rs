//! Namespaces made ahead for sandboxes that have no wire: one of the network, with its loopback up, and one of System V's and
//! POSIX's queues, semaphores and shared memory. To make the first takes a third of a millisecond and to take it down about
//! as long, the second a tenth for both, all of it in the kernel. So a thread makes them beside the spawner's work, and those
//! that come back are used again if nothing was ever in them. For that the filter tells init of what is made (`trace.rs`).
//! Nobody inside could have changed anything else, as neither belongs to anybody inside. Sockets of the machine's own sort are
//! not told of, and one that has a name would live on with whoever was handed it: so a sandbox that sees anything of the
//! machine's besides its root, through which it could hand one on, leaves nothing to be used again.
//!
//! The thread does nothing but system calls: it takes no lock and no memory, so that the spawner may clone at any moment.

use crate::{network, prompt, system};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::thread::LinkNameSpaceType;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};

/// Pairs that are kept ready.
const MAX_SPARE: usize = 32;
/// Bytes of the thread's stack.
const STACK_BYTES: usize = 256 * 1024;
/// The number of a namespace that is to be made.
const NEW: RawFd = -1;
/// What is known to be as new after a sandbox: nobody inside has made a socket, nor a queue or its like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Untouched {
    pub(crate) net: bool,
    pub(crate) ipc: bool,
}

/// The namespaces of one sandbox.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) net: OwnedFd,
    pub(crate) ipc: OwnedFd,
}

impl Pair {
    pub(crate) fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self { net: self.net.try_clone()?, ipc: self.ipc.try_clone()? })
    }

    /// Enters both.
    pub(crate) fn enter(&self) -> rustix::io::Result<()> {
        enter(&self.net, LinkNameSpaceType::Network)?;
        enter(&self.ipc, LinkNameSpaceType::InterProcessCommunication)
    }

    /// Returns the numbers of both.
    pub(crate) fn numbers(&self) -> [RawFd; 2] {
        [self.net.as_raw_fd(), self.ipc.as_raw_fd()]
    }
}

fn enter(namespace: &OwnedFd, kind: LinkNameSpaceType) -> rustix::io::Result<()> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
}

/// What thread and spawner say to each other: the numbers of a network and of what belongs with it.
type Word = [RawFd; 2];
const WORD_BYTES: usize = size_of::<Word>();

fn say(pipe: &OwnedFd, [net, ipc]: Word) -> bool {
    let mut bytes = [0; WORD_BYTES];
    bytes[..WORD_BYTES / 2].copy_from_slice(&net.to_ne_bytes());
    bytes[WORD_BYTES / 2..].copy_from_slice(&ipc.to_ne_bytes());
    // As many wait as there are spares at most, so the pipe takes each whole and at once.
    rustix::io::write(pipe, &bytes).is_ok()
}

fn hear(pipe: &OwnedFd) -> Option<[Option<OwnedFd>; 2]> {
    let mut bytes = [0; WORD_BYTES];
    if rustix::io::read(pipe, &mut bytes) != Ok(WORD_BYTES) {
        return None;
    }
    let number = |at: usize| RawFd::from_ne_bytes(std::array::from_fn(|byte| bytes[at * size_of::<RawFd>() + byte]));
    Some([0, 1].map(|at| Some(number(at)).filter(|fd| *fd >= 0).map(system::own)))
}

/// Pairs that are ready, and the thread that makes them.
#[derive(Debug)]
pub(crate) struct Spare {
    ready: Vec<Pair>,
    wishes: OwnedFd,
    made: OwnedFd,
    wished: usize,
}

impl Spare {
    /// Starts the thread and wishes for some pairs.
    pub(crate) fn open(count: usize) -> rustix::io::Result<Self> {
        let (wished, wishes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (made, makes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // It ends when the pipe of wishes is closed, or with the process; nothing waits for it.
        std::thread::Builder::new()
            .name("spares".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || serve(&wished, &makes))
            .map_err(|_| rustix::io::Errno::AGAIN)?;
        let mut spare = Self { ready: Vec::with_capacity(MAX_SPARE), wishes, made, wished: 0 };
        (0..count.min(MAX_SPARE)).for_each(|_| spare.wish());
        Ok(spare)
    }

    /// Takes a pair if one is ready; if not, wishes for another.
    pub(crate) fn take(&mut self) -> Option<Pair> {
        while let Some(pair) = hear(&self.made) {
            self.wished = self.wished.saturating_sub(1);
            if let [Some(net), Some(ipc)] = pair {
                self.ready.push(Pair { net, ipc });
            }
        }
        if self.ready.is_empty() {
            self.wish();
        }
        self.ready.pop()
    }

    /// Takes back a pair in which nobody is any more.
    pub(crate) fn give_back(&mut self, pair: Pair, untouched: Untouched) {
        if self.ready.len() + self.wished >= MAX_SPARE {
            return;
        }
        let Pair { net, ipc } = pair;
        match untouched {
            Untouched { net: true, ipc: true } => self.ready.push(Pair { net, ipc }),
            Untouched { net: true, ipc: false } => self.ask([net.into_raw_fd(), NEW]),
            Untouched { net: false, ipc: true } => self.ask([NEW, ipc.into_raw_fd()]),
            Untouched { net: false, ipc: false } => self.ask([NEW, NEW]),
        }
    }

    fn wish(&mut self) {
        if self.wished < MAX_SPARE {
            self.ask([NEW, NEW]);
        }
    }

    fn ask(&mut self, word: Word) {
        if say(&self.wishes, word) {
            self.wished += 1;
        }
    }
}

fn serve(wished: &OwnedFd, makes: &OwnedFd) {
    prompt::end();
    while let Some([net, ipc]) = hear(wished) {
        let net = net.map_or_else(make_network, Ok);
        let ipc = ipc.map_or_else(make_queues, Ok);
        if !say(makes, [net, ipc].map(|made| made.map_or(NEW, IntoRawFd::into_raw_fd))) {
            return;
        }
    }
}

fn make_network() -> rustix::io::Result<OwnedFd> {
    system::unshare_network()?;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    system::interface_up(socket.as_fd(), c"lo", None)?;
    network::open_ports();
    rustix::fs::openat(CWD, c"/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn make_queues() -> rustix::io::Result<OwnedFd> {
    system::unshare_queues()?;
    rustix::fs::openat(CWD, c"/proc/thread-self/ns/ipc", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
