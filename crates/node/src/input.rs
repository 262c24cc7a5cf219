//! Input: what a program reads, put into its standard input; and what a user types into its terminal.
//!
//! A text or blob is known from the start. A stream is fetched chunk by chunk, in order, from the beginning: an attempt that
//! follows a lost one reads again what its predecessor read. A program that does not read holds up nobody but this task.

use crate::attempt::{Fence, Trouble};
use crate::sandboxes::Handle;
use model::chunk::{Chunk, ChunkQuery, Content, Stream};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// How long one question for more input is held by the server.
const HOLD_MS: u64 = 25_000;
/// How long to wait after a question that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes everything into a descriptor, then closes it. A reader that has gone is no error.
pub(crate) async fn pour(to: OwnedFd, bytes: &[u8]) -> io::Result<()> {
    let mut sink = Sink::new(to)?;
    sink.write(bytes).await.map(drop)
}

/// A descriptor that is written without blocking.
struct Sink(AsyncFd<OwnedFd>);

impl Sink {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for the sake of types that change their descriptor; an `OwnedFd` does not"
        )]
        let fd = AsyncFd::with_interest(fd, tokio::io::Interest::WRITABLE)?;
        Ok(Self(fd))
    }

    /// Writes all of it; tells whether anybody still reads.
    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match rustix::io::write(self.0.get_ref(), bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::IO) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// Follows what a user sends and hands it to the program until its end, or until nobody reads.
pub(crate) async fn follow(fence: Arc<Fence>, handle: Handle, to: OwnedFd) -> Result<(), Trouble> {
    let broken = |error: io::Error| Trouble::Machine(format!("standard input cannot be written: {error}"));
    let mut sink = Sink::new(to).map_err(broken)?;
    let mut after = 0;
    loop {
        let query = ChunkQuery { after: Some(after), wait_ms: Some(HOLD_MS), ..ChunkQuery::default() };
        let page = match fence.client.execution_input(fence.held.execution, &query).await {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(execution = %fence.held.execution, %error, "input cannot be fetched");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        for chunk in &page.items {
            let is_read = match chunk.stream {
                Stream::Window => {
                    resize(&handle, chunk);
                    true
                }
                Stream::Input | Stream::Output | Stream::Error => {
                    sink.write(&fence.content(&chunk.content).await?).await.map_err(broken)?
                }
            };
            if chunk.end || !is_read {
                return Ok(());
            }
        }
        after = page.next;
        if page.ended {
            return Ok(());
        }
    }
}

/// Tells a terminal its size; what is not two numbers is passed over.
fn resize(handle: &Handle, chunk: &Chunk) {
    let Content::Inline { bytes } = &chunk.content else { return };
    let text = String::from_utf8_lossy(&bytes.0);
    let mut numbers = text.split(' ').map(str::parse::<u16>);
    if let (Some(Ok(rows)), Some(Ok(columns)), None) = (numbers.next(), numbers.next(), numbers.next()) {
        handle.resize(rows, columns);
    }
}
