//! Network namespaces, made ahead: each holds nothing but its own loopback device, which is up. To make one takes the kernel
//! as long as half a program's start, so a thread does it beside the spawner's work. Each is used by one sandbox and never
//! again, since closed connections stay in it for a while.
//!
//! The thread does nothing but system calls: it takes no lock and no memory, so that the spawner may clone at any moment.

use crate::system;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};

/// Namespaces that are kept ready.
const MAX_SPARE: usize = 32;
/// Bytes of the thread's stack.
const STACK_BYTES: usize = 64 * 1024;
const WORD: usize = size_of::<RawFd>();

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

    /// Takes a namespace if one is ready, and wishes for another.
    pub(crate) fn take(&mut self) -> Option<OwnedFd> {
        let mut word = [0; WORD];
        while let Ok(WORD) = rustix::io::read(&self.made, &mut word) {
            self.wished = self.wished.saturating_sub(1);
            let fd = RawFd::from_ne_bytes(word);
            if fd >= 0 {
                self.ready.push(system::own(fd));
            }
        }
        let taken = self.ready.pop();
        self.wish();
        taken
    }

    fn wish(&mut self) {
        if self.ready.len() + self.wished < MAX_SPARE && rustix::io::write(&self.wishes, &[0]).is_ok() {
            self.wished += 1;
        }
    }
}

fn serve(wished: &OwnedFd, makes: &OwnedFd) {
    let mut word = [0_u8; 1];
    while let Ok(1) = rustix::io::read(wished, &mut word) {
        let made = make().map_or(-1, IntoRawFd::into_raw_fd);
        if rustix::io::write(makes, &made.to_ne_bytes()).is_err() {
            return;
        }
    }
}

fn make() -> rustix::io::Result<OwnedFd> {
    system::unshare_network()?;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    system::interface_up(socket.as_fd(), c"lo", None)?;
    rustix::fs::openat(CWD, c"/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
