//! Network namespaces, made ahead: each holds nothing but its own loopback device, which is up. To make one and to take it
//! down costs the kernel as much as half a program's start, so a thread makes them beside the spawner's work, and one that
//! comes back is used again if nothing ever moved in it: if all its counters are what they are in a new one. Nobody inside
//! could have changed anything else, as it belongs to nobody inside.
//!
//! The thread does nothing but system calls: it takes no lock and no memory, so that the spawner may clone at any moment.

use crate::{prompt, system};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};

/// Namespaces that are kept ready.
const MAX_SPARE: usize = 32;
/// Bytes of the thread's stack.
const STACK_BYTES: usize = 256 * 1024;
const WORD: usize = size_of::<RawFd>();
/// The word for a namespace that is to be made.
const NEW: RawFd = -1;
/// What the kernel counts in a namespace.
const COUNTERS: [&str; 3] =
    ["/proc/thread-self/net/dev", "/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"];
/// Bytes of all that together; a namespace whose counters are longer is not used again.
const MAX_COUNTER_BYTES: usize = 16 * 1024;

/// Namespaces that are ready, and the thread that makes them.
#[derive(Debug)]
pub(crate) struct Spare {
    ready: Vec<OwnedFd>,
    wishes: OwnedFd,
    made: OwnedFd,
    wished: usize,
}

impl Spare {
    /// Starts the thread and wishes for some namespaces.
    pub(crate) fn open(count: usize) -> rustix::io::Result<Self> {
        let (wished, wishes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (made, makes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // It ends when the pipe of wishes is closed, or with the process; nothing waits for it.
        std::thread::Builder::new()
            .name("networks".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || serve(&wished, &makes))
            .map_err(|_| rustix::io::Errno::AGAIN)?;
        let mut spare = Self { ready: Vec::with_capacity(MAX_SPARE), wishes, made, wished: 0 };
        (0..count.min(MAX_SPARE)).for_each(|_| spare.wish());
        Ok(spare)
    }

    /// Takes a namespace if one is ready; if not, wishes for another.
    pub(crate) fn take(&mut self) -> Option<OwnedFd> {
        let mut word = [0; WORD];
        while let Ok(WORD) = rustix::io::read(&self.made, &mut word) {
            self.wished = self.wished.saturating_sub(1);
            let fd = RawFd::from_ne_bytes(word);
            if fd >= 0 {
                self.ready.push(system::own(fd));
            }
        }
        if self.ready.is_empty() {
            self.wish();
        }
        self.ready.pop()
    }

    /// Takes back a namespace in which nobody is any more.
    pub(crate) fn give_back(&mut self, namespace: OwnedFd) {
        if self.ready.len() + self.wished < MAX_SPARE {
            self.ask(namespace.into_raw_fd());
        }
    }

    fn wish(&mut self) {
        if self.wished < MAX_SPARE {
            self.ask(NEW);
        }
    }

    fn ask(&mut self, word: RawFd) {
        // At most `MAX_SPARE` words wait, so the pipe takes them all at once.
        if rustix::io::write(&self.wishes, &word.to_ne_bytes()).is_ok() {
            self.wished += 1;
        }
    }
}

fn serve(wished: &OwnedFd, makes: &OwnedFd) {
    prompt::end();
    // Each page written between two clones would be copied once more.
    let Ok(memory) = system::uncopied(2 * MAX_COUNTER_BYTES) else { return };
    let (fresh, present) = memory.split_at_mut(MAX_COUNTER_BYTES);
    let mut fresh_bytes = None;
    let mut word = [0; WORD];
    while let Ok(WORD) = rustix::io::read(wished, &mut word) {
        let fd = RawFd::from_ne_bytes(word);
        let old = (fd >= 0)
            .then(|| system::own(fd))
            .filter(|old| fresh_bytes.is_some_and(|bytes| is_fresh(old, &fresh[..bytes], present)));
        let made = old.map_or_else(make, Ok);
        if made.is_ok() && fresh_bytes.is_none() {
            fresh_bytes = count(fresh);
        }
        let made = made.map_or(-1, IntoRawFd::into_raw_fd);
        if rustix::io::write(makes, &made.to_ne_bytes()).is_err() {
            return;
        }
    }
}

/// Tells whether nothing ever moved in a namespace; the calling thread is in it afterwards.
fn is_fresh(namespace: &OwnedFd, fresh: &[u8], present: &mut [u8]) -> bool {
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).is_ok()
        && count(present).is_some_and(|bytes| present[..bytes] == *fresh)
}

/// Reads the counters of the calling thread's namespace; returns their length if they fit.
fn count(counters: &mut [u8]) -> Option<usize> {
    let mut length = 0;
    for path in COUNTERS {
        let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        loop {
            match rustix::io::read(&file, &mut counters[length..]).ok()? {
                0 if length == counters.len() => return None,
                0 => break,
                bytes => length += bytes,
            }
        }
    }
    Some(length)
}

fn make() -> rustix::io::Result<OwnedFd> {
    system::unshare_network()?;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    system::interface_up(socket.as_fd(), c"lo", None)?;
    super::open_ports();
    rustix::fs::openat(CWD, c"/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
