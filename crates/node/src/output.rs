//! Output: what a program writes, read from its pipes, gathered into chunks, capped with a mark.
//!
//! A chunk goes when enough has gathered or a moment has passed, whichever comes first. Few bytes travel inside the
//! chunk; many become a blob first, so that no message grows with what a program writes. What lies beyond the log limit
//! is read and dropped, so the program never stands still because of it.

use crate::attempt::Fence;
use client::blob::Content as BlobContent;
use model::chunk::{Bytes, Chunk, Content, Stream};
use model::limits::MAX_CHUNK_BYTES;
use model::node::Written;
use rustix::io::Errno;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long few bytes wait for more.
const GATHER: Duration = Duration::from_millis(20);
/// How long they wait where somebody looks on through a terminal.
const GATHER_TERMINAL: Duration = Duration::from_millis(4);
/// Bytes that become one chunk at most.
const GATHER_BYTES: usize = 1 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// Reads whose results wait for the one task that numbers chunks; more would only hold more memory.
const READS_WAITING: usize = 4;

/// How long it may be quiet after everything inside has ended; then somebody outside holds the output open.
pub(crate) const MAX_AFTERMATH: Duration = Duration::from_secs(10);
/// Reads after that end: more than the largest pipes hold comes from outside.
const MAX_LATE_READS: usize = 64;

/// Where a chunk goes: to the dispatcher, which says it with the next sync.
pub(crate) type Say = mpsc::Sender<Written>;

/// What is known about an attempt's output at its end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// All that was written, kept or not.
    pub(crate) bytes: u64,
    /// Whether something could not be kept for another reason than the limit.
    pub(crate) is_broken: bool,
}

/// A descriptor that is read without blocking.
pub(crate) struct Source {
    pub(crate) stream: Stream,
    pub(crate) fd: OwnedFd,
}

/// Makes chunks of an attempt's output until all its sources are closed.
pub(crate) struct Output {
    fence: Arc<Fence>,
    say: Say,
    limit: u64,
    gather: Duration,
    number: u64,
    kept: u64,
    told: Told,
    /// Why something could not be kept, until it is said.
    broken: Option<String>,
    /// All that was written so far, for whoever looks on.
    written: Arc<AtomicU64>,
    /// What has gathered, and of which stream.
    gathered: Option<(Stream, Vec<u8>)>,
}

impl Output {
    pub(crate) fn new(fence: Arc<Fence>, say: Say, limit: u64) -> Self {
        let (written, told) = (Arc::default(), Told::default());
        Self { fence, say, limit, gather: GATHER, number: 0, kept: 0, told, broken: None, written, gathered: None }
    }

    /// Returns a count of all that is written, kept or not.
    pub(crate) fn written(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.written)
    }

    /// Makes chunks go sooner, for somebody who looks on.
    pub(crate) fn hurry(&mut self) {
        self.gather = GATHER_TERMINAL;
    }

    /// Writes a line of the node's own, as standard error.
    pub(crate) async fn remark(&mut self, text: &str) {
        self.add(Stream::Error, text.as_bytes()).await;
        self.flush().await;
    }

    /// Reads the sources to their ends, or, once everything inside has `ended`, to what is not from inside any more.
    /// Everything that was written is on its way when this returns, however long it takes to be taken.
    pub(crate) async fn follow(&mut self, sources: Vec<Source>, ended: CancellationToken) {
        let (sender, mut pieces) = mpsc::channel(READS_WAITING);
        let mut readers: Vec<_> = sources.into_iter().map(|source| Box::pin(read(source, sender.clone()))).collect();
        drop(sender);
        let mut reading = Box::pin(async move { drive(&mut readers).await });
        let mut is_reading = true;
        let mut due: Option<Instant> = None;
        let mut late_reads = 0;
        while late_reads <= MAX_LATE_READS {
            let at = due.unwrap_or_else(Instant::now);
            // It is quiet while this task waits here, and not while it waits for a chunk to be taken.
            let quiet = async {
                ended.cancelled().await;
                tokio::time::sleep(MAX_AFTERMATH).await;
            };
            tokio::select! {
                biased;
                piece = pieces.recv() => match piece {
                    None => break,
                    Some((stream, bytes)) => {
                        late_reads += usize::from(ended.is_cancelled());
                        self.add(stream, &bytes).await;
                        due = self.gathered.is_some().then(|| due.unwrap_or_else(|| Instant::now() + self.gather));
                    }
                },
                () = tokio::time::sleep_until(at), if due.is_some() => {
                    self.flush().await;
                    due = None;
                }
                () = &mut reading, if is_reading => is_reading = false,
                () = quiet => {
                    tracing::warn!(execution = %self.fence.held.execution, "output is held open from outside");
                    break;
                }
            }
        }
        self.flush().await;
    }

    /// Says what is left, with the mark if the limit was passed, and tells how much there was.
    pub(crate) async fn finish(mut self) -> Told {
        self.flush().await;
        if let Some(why) = self.broken.take() {
            self.told.is_broken = false;
            self.send(Stream::Error, format!("\n[what follows could not be stored: {why}]\n").into_bytes()).await;
            self.told.is_broken = true;
        } else if self.told.bytes > self.kept {
            let mark = mark(self.kept, self.told.bytes);
            self.send(Stream::Error, mark.into_bytes()).await;
        }
        self.told
    }

    async fn add(&mut self, stream: Stream, bytes: &[u8]) {
        self.told.bytes += bytes.len() as u64;
        self.written.store(self.told.bytes, Ordering::Relaxed);
        let room = usize::try_from(self.limit.saturating_sub(self.kept)).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        if bytes.is_empty() || self.told.is_broken {
            return;
        }
        self.kept += bytes.len() as u64;
        if self.gathered.as_ref().is_some_and(|(of, _)| *of != stream) {
            self.flush().await;
        }
        // No chunk is longer than what the server stores as one piece.
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let (_, gathered) = self.gathered.get_or_insert_with(|| (stream, Vec::new()));
            let (fitting, rest) = bytes.split_at(bytes.len().min(GATHER_BYTES - gathered.len()));
            gathered.extend_from_slice(fitting);
            if gathered.len() == GATHER_BYTES {
                self.flush().await;
            }
            bytes = rest;
        }
    }

    async fn flush(&mut self) {
        if let Some((stream, bytes)) = self.gathered.take() {
            self.send(stream, bytes).await;
        }
    }

    async fn send(&mut self, stream: Stream, bytes: Vec<u8>) {
        if self.told.is_broken {
            return;
        }
        let content = if bytes.len() <= MAX_CHUNK_BYTES {
            Content::Inline { bytes: Bytes(bytes) }
        } else {
            match self.fence.store(BlobContent::Bytes(bytes.into())).await {
                Ok((digest, size)) => Content::Blob { digest, size },
                Err(error) => {
                    tracing::warn!(execution = %self.fence.held.execution, %error, "output cannot be stored");
                    self.told.is_broken = true;
                    self.broken = Some(error.to_string());
                    return;
                }
            }
        };
        self.number += 1;
        let chunk = Chunk { number: self.number, stream, at: client::id::now(), content, end: false };
        // A closed channel means that the dispatcher has let go of this attempt.
        let _ = self.say.send(Written { held: self.fence.held, chunk }).await;
    }
}

/// Says what the limit has cost. Whoever reads it may take the program for broken off, so it is said that it was not.
fn mark(kept: u64, written: u64) -> String {
    let lost = written - kept;
    format!(
        "\n[the log limit was reached: the first {kept} bytes are kept and the other {lost} are not; the program itself \
         went on (hint: `--log-bytes` sets another limit)]\n"
    )
}

type Reader = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Drives all readers in one task until each has ended.
async fn drive<F: Future<Output = ()> + Unpin>(readers: &mut [F]) {
    futures_util::future::join_all(readers.iter_mut()).await;
}

fn read(source: Source, to: mpsc::Sender<(Stream, Vec<u8>)>) -> Reader {
    Box::pin(async move {
        let stream = source.stream;
        if let Err(error) = pass_on(source, &to).await {
            tracing::debug!(?stream, %error, "a program's output ended oddly");
        }
    })
}

async fn pass_on(source: Source, to: &mpsc::Sender<(Stream, Vec<u8>)>) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&source.fd, true)?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe for the sake of types that change their descriptor; an `OwnedFd` does not"
    )]
    let fd = AsyncFd::with_interest(source.fd, tokio::io::Interest::READABLE)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let mut ready = fd.readable().await?;
        let count = match rustix::io::read(fd.get_ref(), &mut buffer) {
            Err(Errno::AGAIN) => {
                ready.clear_ready();
                continue;
            }
            Err(Errno::INTR) => continue,
            // A terminal whose programs have all gone answers so in place of an end.
            Ok(0) | Err(Errno::IO) => return Ok(()),
            Err(error) => return Err(error.into()),
            Ok(count) => count,
        };
        if to.send((source.stream, buffer[..count].to_vec())).await.is_err() {
            return Ok(());
        }
    }
}
