//! The coredump socket of Linux 6.16 and later: the kernel connects for each crash, and no program is started.
//!
//! With `@/path` in `core_pattern` the core follows at once; with `@@/path` (6.17) the kernel asks first, in a struct of 16
//! bytes or more, and is answered in one: write the core and wait, or drop it. Which of the two it is, the first four bytes
//! tell: a struct's length, or the beginning of an ELF file. Numbers are the machine's own. What is asked for beyond what is
//! known here is passed over, as the protocol wants it.
//!
//! Who connects is told by the kernel (`SO_PEERCRED`), which connects in the name of the process that crashed.

use super::crash::Crash;
use super::intake::{Admitted, Taken, admit, take};
use super::settings::Settings;
use super::spool::Spool;
use anyhow::{Context, bail};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Crashes that are taken in at once; more wait in the kernel's queue.
pub(crate) const MAX_AT_ONCE: usize = 8;
/// Bytes of the kernel's question, of which the first sixteen are understood.
const MAX_REQUEST_BYTES: u32 = 4_096;
/// Bytes of the first published question and answer.
const FIRST_BYTES: u32 = 16;
/// How long the kernel may take to ask, and to say that it has understood.
const MAX_TALK: Duration = Duration::from_secs(5);

/// The kernel writes the core.
const KERNEL: u64 = 1;
/// There shall be no core.
const REJECT: u64 = 1 << 2;
/// The process stays until the connection is closed.
const WAIT: u64 = 1 << 3;
/// The mark that says that question and answer fit together.
const AGREED: u32 = 0;

/// Listens at a path, which nobody but the owner may connect to.
pub(crate) fn listen(path: &Path) -> anyhow::Result<tokio::net::UnixListener> {
    let cannot = || format!("`{}` cannot be listened at", path.display());
    // What another one left is in the way; anything else is somebody's.
    if path.symlink_metadata().is_ok_and(|there| there.file_type().is_socket()) && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path).with_context(cannot)?;
    }
    let listener = UnixListener::bind(path).with_context(cannot)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(cannot)?;
    listener.set_nonblocking(true)?;
    Ok(tokio::net::UnixListener::from_std(listener)?)
}

/// Takes in what one connection brings.
pub(crate) fn serve(place: (&Settings, &Spool), stream: UnixStream) -> anyhow::Result<Taken> {
    let until = Instant::now() + place.0.deadline();
    let peer = rustix::net::sockopt::socket_peercred(&stream).context("the kernel does not say who crashed")?;
    let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).context("a process has no such number")?;
    let crash = Crash::of_peer(pid, peer.uid.as_raw(), peer.gid.as_raw());
    stream.set_read_timeout(Some(MAX_TALK))?;
    stream.set_write_timeout(Some(MAX_TALK))?;
    let mut first = [0; 4];
    (&stream).read_exact(&mut first).context("nothing came")?;
    let mut admitted = admit(place, &crash, until)?;
    let source = if &first == b"\x7fELF" {
        Source { begun: first.to_vec(), stream }
    } else {
        match talk(&stream, u32::from_ne_bytes(first), &admitted) {
            Ok(()) => {}
            Err(error) => {
                if let Ok(admitted) = std::mem::replace(&mut admitted, Err(super::account::Drop::Failed)) {
                    admitted.fail(place.1)?;
                }
                return Err(error);
            }
        }
        Source { begun: Vec::new(), stream }
    };
    match admitted {
        Ok(admitted) => take(place, admitted, source, until),
        Err(why) => Ok(Taken::Dropped(why)),
    }
}

/// Hears what the kernel offers, and answers.
fn talk(mut stream: &UnixStream, bytes: u32, admitted: &Result<Admitted, super::account::Drop>) -> anyhow::Result<()> {
    if !(FIRST_BYTES..=MAX_REQUEST_BYTES).contains(&bytes) {
        bail!("what came is neither a core nor a question of the kernel");
    }
    let mut rest = vec![0; bytes as usize - 4];
    stream.read_exact(&mut rest).context("the kernel's question breaks off")?;
    let (size_ack, rest) = rest.split_first_chunk().context("the question is sixteen bytes long at least")?;
    let mask = rest.first_chunk().context("the question is sixteen bytes long at least")?;
    let (size_ack, offered) = (u32::from_ne_bytes(*size_ack), u64::from_ne_bytes(*mask));
    if size_ack < FIRST_BYTES {
        bail!("the kernel takes answers of {size_ack} bytes only");
    }
    let wanted = if admitted.is_ok() { KERNEL | WAIT } else { REJECT };
    let mut answer = Vec::with_capacity(FIRST_BYTES as usize);
    answer.extend(FIRST_BYTES.to_ne_bytes());
    answer.extend(0_u32.to_ne_bytes());
    answer.extend((wanted & offered).to_ne_bytes());
    stream.write_all(&answer).context("the kernel hears no answer")?;
    let mut mark = [0; 4];
    stream.read_exact(&mut mark).context("the kernel does not say whether it has understood")?;
    match u32::from_ne_bytes(mark) {
        AGREED => Ok(()),
        other => bail!("the kernel does not take the answer: mark {other}"),
    }
}

/// A connection of which the first bytes have been read.
struct Source {
    begun: Vec<u8>,
    stream: UnixStream,
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.begun.is_empty() {
            return self.stream.read(into);
        }
        let length = self.begun.len().min(into.len());
        into[..length].copy_from_slice(&self.begun[..length]);
        self.begun.drain(..length);
        Ok(length)
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
