//! One connection: bytes carried between the sandbox's end, a socket of smoltcp, and the outside's, a socket of the node.
//!
//! Nothing is kept but in the two sockets' own buffers: what one side does not take, the other side does not get to send.
//! An end of one side's sending is passed on as such; a reset, or an end that nobody asked for, as a reset.

use super::count::{Counters, add};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, SendError, Socket, SocketBuffer, State};
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};

/// Bytes on their way in one direction of one connection.
const MAX_BUFFER_BYTES: usize = 128 * 1024;
/// How long the sandbox may take to acknowledge that its connection was accepted.
const MAX_HANDSHAKE_TIME: Duration = Duration::from_secs(15);
/// Reads and writes of one connection before another has its turn.
const MAX_STEPS: usize = 4;

/// The outer end of a connection.
#[derive(Debug)]
pub(crate) enum Far {
    /// A peer.
    Peer(TcpStream),
    /// The DNS server, which is a task beside us.
    Names(UnixStream),
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) handle: SocketHandle,
    far: Far,
    /// The peer sends no more.
    has_far_ended: bool,
    /// The sandbox sends no more, and all it sent has been passed on.
    has_near_ended: bool,
    /// The sandbox's end said that it sends no more.
    is_near_ending: bool,
    /// One of the ends failed.
    is_broken: bool,
}

/// Makes the sandbox's end of a connection.
pub(crate) fn near() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; MAX_BUFFER_BYTES]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_timeout(Some(smoltcp::time::Duration::from(MAX_HANDSHAKE_TIME)));
    // Segments are taken in batches and acknowledged once after each; to wait longer only slows the sender.
    socket.set_ack_delay(None);
    socket.set_nagle_enabled(false);
    socket
}

/// How much there was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Everything that could be done now; the task is woken when there is more.
    Done,
    /// There may be more to do at once.
    More,
}

impl Connection {
    /// Makes one.
    pub(crate) fn new(handle: SocketHandle, far: Far) -> Self {
        Self { handle, far, has_far_ended: false, has_near_ended: false, is_near_ending: false, is_broken: false }
    }

    /// Carries what can be carried without waiting.
    pub(crate) fn carry(&mut self, near: &mut Socket, counters: &Counters, context: &mut Context<'_>) -> Progress {
        if near.timeout().is_some() && near.state() != State::SynReceived {
            // smoltcp would take a connection that is merely idle for a dead one. The sandbox's kernel lives as long as
            // the wire does.
            near.set_timeout(None);
        }
        let out = self.carry_out(near, counters, context);
        let back = self.carry_in(near, counters, context);
        match (out, back) {
            (Ok(Progress::Done), Ok(Progress::Done)) => Progress::Done,
            (Ok(_), Ok(_)) => Progress::More,
            (Err(_), _) | (_, Err(_)) => {
                self.is_broken = true;
                near.abort();
                Progress::Done
            }
        }
    }

    /// From the sandbox to the peer.
    fn carry_out(&mut self, near: &mut Socket, counters: &Counters, context: &mut Context<'_>) -> io::Result<Progress> {
        if matches!(near.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait) {
            self.is_near_ending = true;
        }
        for _ in 0..MAX_STEPS {
            if !near.can_recv() {
                if self.is_near_ending && !self.has_near_ended {
                    self.has_near_ended = true;
                    self.far.end()?;
                }
                return Ok(Progress::Done);
            }
            let written = near.recv(|content| match self.far.try_write(content) {
                Ok(bytes) => (bytes, Ok(bytes)),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Ok(bytes)) => add(&counters.bytes_out, bytes),
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.far.poll_write_ready(context)?.is_pending() {
                        return Ok(Progress::Done);
                    }
                }
                Ok(Err(error)) => return Err(error),
                Err(RecvError::Finished | RecvError::InvalidState) => return Ok(Progress::Done),
            }
        }
        Ok(Progress::More)
    }

    /// From the peer to the sandbox.
    fn carry_in(&mut self, near: &mut Socket, counters: &Counters, context: &mut Context<'_>) -> io::Result<Progress> {
        for _ in 0..MAX_STEPS {
            if self.has_far_ended || !near.can_send() {
                return Ok(Progress::Done);
            }
            let read = near.send(|room| match self.far.try_read(room) {
                Ok(bytes) => (bytes, Ok(bytes)),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok(0)) => {
                    self.has_far_ended = true;
                    near.close();
                }
                Ok(Ok(bytes)) => add(&counters.bytes_in, bytes),
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.far.poll_read_ready(context)?.is_pending() {
                        return Ok(Progress::Done);
                    }
                }
                Ok(Err(error)) => return Err(error),
                Err(SendError::InvalidState) => return Ok(Progress::Done),
            }
        }
        Ok(Progress::More)
    }

    /// Whether its far end is a peer, and not our own DNS server.
    pub(crate) fn is_to_peer(&self) -> bool {
        matches!(self.far, Far::Peer(_))
    }

    /// Whether nothing more will come of it.
    pub(crate) fn is_over(&self, near: &Socket) -> bool {
        match near.state() {
            State::TimeWait => self.has_near_ended,
            // What came before an orderly end may still be waiting for the peer to take it.
            State::Closed => self.is_broken || self.has_near_ended || !self.is_near_ending || !self.has_far_ended,
            _ => false,
        }
    }

    /// Lets go of the peer: with a reset, unless both sides have said that they were through.
    pub(crate) fn let_go(self) {
        let Far::Peer(stream) = self.far else { return };
        if !(self.has_near_ended && self.has_far_ended) {
            // Without it a peer would take half of a message for the whole. If it fails, the peer is gone already.
            stream.set_zero_linger().ok();
        }
    }
}

impl Far {
    fn try_read(&self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Peer(stream) => stream.try_read(room),
            Self::Names(stream) => stream.try_read(room),
        }
    }

    fn try_write(&self, content: &[u8]) -> io::Result<usize> {
        match self {
            Self::Peer(stream) => stream.try_write(content),
            Self::Names(stream) => stream.try_write(content),
        }
    }

    fn poll_read_ready(&self, context: &mut Context<'_>) -> io::Result<Poll<()>> {
        settle(match self {
            Self::Peer(stream) => stream.poll_read_ready(context),
            Self::Names(stream) => stream.poll_read_ready(context),
        })
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> io::Result<Poll<()>> {
        settle(match self {
            Self::Peer(stream) => stream.poll_write_ready(context),
            Self::Names(stream) => stream.poll_write_ready(context),
        })
    }

    /// Tells the peer that nothing more will come.
    fn end(&self) -> io::Result<()> {
        match self {
            Self::Peer(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write)?,
            Self::Names(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write)?,
        }
        Ok(())
    }
}

/// Turns a readiness that may be an error into an error that may be a readiness.
fn settle(ready: Poll<io::Result<()>>) -> io::Result<Poll<()>> {
    match ready {
        Poll::Ready(result) => result.map(Poll::Ready),
        Poll::Pending => Ok(Poll::Pending),
    }
}
