//! Input: what a program reads, put into its standard input; and what a user types into its terminal.
//!
//! A text or blob is known from the start. A stream is fetched chunk by chunk, in order, from the beginning: an attempt that
//! follows a lost one reads again what its predecessor read. A program that does not read holds up nobody but this task.
//!
//! Whoever feeds a stream gives a sign of life now and then, an empty chunk if there is nothing to say. When none has come
//! for too long, the stream ends here: its feeder was killed or cut off, and the program would wait for ever.

use crate::attempt::{Fence, Trouble};
use crate::sandboxes::Handle;
use model::chunk::{Chunk, ChunkQuery, Content, Stream};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// How long one question for more input is held by the server.
const HOLD: Duration = Duration::from_secs(25);
/// How long to wait after a question that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What tells a program at a terminal that nothing more comes: the first may only end a line that was begun.
const END_OF_TRANSMISSION: [u8; 2] = [4, 4];

/// Where a program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// From a pipe, whose end is seen when it is closed.
    Pipe,
    /// From a terminal, which has no end but a word for it.
    Terminal,
}

/// How feeding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    /// All of it was passed on, or nobody reads any more.
    Whole,
    /// Whoever fed it gave no sign of life any more.
    Abandoned,
}

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

/// Follows what a user sends and hands it to the program until its end, until nobody reads, or until nothing has come for
/// longer than `silence_max`.
pub(crate) async fn follow(
    fence: Arc<Fence>,
    handle: Handle,
    (to, sort): (OwnedFd, Sort),
    silence_max: Duration,
) -> Result<Fed, Trouble> {
    let broken = |error: io::Error| Trouble::Machine(format!("standard input cannot be written: {error}"));
    let mut sink = Sink::new(to).map_err(broken)?;
    let (mut after, mut heard) = (0, Instant::now());
    loop {
        let hold = silence_max.saturating_sub(heard.elapsed()).min(HOLD);
        let wait_ms = u64::try_from(hold.as_millis()).unwrap_or(0);
        let query = ChunkQuery { after: Some(after), wait_ms: Some(wait_ms), ..ChunkQuery::default() };
        let page = match fence.client.execution_input(fence.held.execution, &query).await {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(execution = %fence.held.execution, %error, "input cannot be fetched");
                tokio::time::sleep(PAUSE).await;
                // Who feeds it may not reach the server either.
                heard = Instant::now();
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
                return Ok(Fed::Whole);
            }
        }
        after = page.next;
        if page.ended {
            return Ok(Fed::Whole);
        }
        if !page.items.is_empty() {
            heard = Instant::now();
        } else if heard.elapsed() >= silence_max {
            if sort == Sort::Terminal {
                // A terminal whose programs do not read has no room, and nobody to be told.
                let _ = rustix::io::write(sink.0.get_ref(), &END_OF_TRANSMISSION);
            }
            return Ok(Fed::Abandoned);
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
