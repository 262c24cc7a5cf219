//! The wire: whole IP packets, read from and written to the sandbox's TUN device, never waiting.
//!
//! It is also smoltcp's device: what was read last, or put back for another look, is what smoltcp receives next.

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;

/// Bytes of one packet. The sandbox's own end may have a smaller maximum and says so when it opens a connection.
pub(crate) const MAX_PACKET_BYTES: usize = 65_520;

/// One end of a sandbox's wire.
#[derive(Debug)]
pub(crate) struct Wire {
    fd: AsyncFd<OwnedFd>,
    inbox: Vec<u8>,
    /// How many bytes of `inbox` smoltcp is to receive.
    loaded_bytes: usize,
    outbox: Vec<u8>,
    is_clogged: bool,
}

impl Wire {
    /// Takes a wire over. It needs a runtime with I/O.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self {
            fd: watch(fd)?,
            inbox: vec![0; MAX_PACKET_BYTES],
            loaded_bytes: 0,
            outbox: vec![0; MAX_PACKET_BYTES],
            is_clogged: false,
        })
    }

    /// Reads the next packet into the inbox and returns how long it is, or sees to it that the task is woken for one.
    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(context))?;
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut self.inbox[..])?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    /// Returns the first bytes of the inbox.
    pub(crate) fn packet(&self, bytes: usize) -> &[u8] {
        &self.inbox[..bytes]
    }

    /// Lets smoltcp receive the first bytes of the inbox.
    pub(crate) fn load(&mut self, bytes: usize) {
        self.loaded_bytes = bytes;
    }

    /// Lets smoltcp receive a packet that was kept.
    pub(crate) fn put_back(&mut self, packet: &[u8]) {
        self.inbox[..packet.len()].copy_from_slice(packet);
        self.loaded_bytes = packet.len();
    }

    /// Writes a packet of this length, which `fill` makes.
    pub(crate) fn write(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        Outgoing { fd: &self.fd, outbox: &mut self.outbox, is_clogged: &mut self.is_clogged }.consume(bytes, fill);
    }

    /// Whether it took the last packet.
    pub(crate) fn is_free(&self) -> bool {
        !self.is_clogged
    }

    /// Is ready when the wire takes packets; a TUN device always does.
    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_clogged {
            ready!(self.fd.poll_write_ready(context))?.retain_ready();
            self.is_clogged = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[expect(deprecated, reason = "its successor is `unsafe`; an `OwnedFd` is one descriptor, open until it is dropped")]
fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// A packet that smoltcp is to receive.
pub(crate) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(self.0)
    }
}

/// Room for a packet to be sent.
pub(crate) struct Outgoing<'a> {
    fd: &'a AsyncFd<OwnedFd>,
    outbox: &'a mut [u8],
    is_clogged: &'a mut bool,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, fill: F) -> R {
        let packet = &mut self.outbox[..bytes];
        let result = fill(packet);
        let sent = self.fd.try_io(tokio::io::Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, packet)?));
        // A packet that finds no room is lost, as on any network; TCP sends it again. Other errors show when reading.
        if sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            *self.is_clogged = true;
        }
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Incoming<'a>;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let bytes = std::mem::take(&mut self.loaded_bytes);
        let outgoing = Outgoing { fd: &self.fd, outbox: &mut self.outbox, is_clogged: &mut self.is_clogged };
        (bytes > 0).then_some((Incoming(&self.inbox[..bytes]), outgoing))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        let is_free = !self.is_clogged;
        is_free.then_some(Outgoing { fd: &self.fd, outbox: &mut self.outbox, is_clogged: &mut self.is_clogged })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MAX_PACKET_BYTES;
        // The sandbox's kernel made these packets on this machine: there was no cable to garble them.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}
