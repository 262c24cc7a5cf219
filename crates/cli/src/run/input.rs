//! Standard input: what it is, and, if nobody knows it whole before the program begins, the feeding of it.
//!
//! Input that ends soon and is short travels with the request; a file becomes a blob; all else is a stream, sent as
//! numbered chunks, so that a chunk that is sent twice counts once. Sizes of the terminal travel between them, and when
//! there is nothing to send, an empty chunk now and then: a node ends a stream that nobody seems to feed any more.

use super::terminal;
use crate::blob;
use crate::execution::create;
use client::{Client, ClientError};
use model::chunk::Bytes;
use model::limits::MAX_CHUNK_BYTES;
use model::sandbox::Window;
use model::{Chunk, Content, ErrorKind, ExecutionId, Input, NewExecution, Stream};
use rustix::fs::FileType;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, Stdin};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How long a pipe is given to end, before what it brings is sent piece by piece.
const SOON: Duration = Duration::from_millis(20);
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// Bytes sent as one chunk at most.
const CHUNK_BYTES: usize = 1 << 20;
/// Reads that wait while a chunk is sent; together they make the next one.
const READS_WAITING: usize = CHUNK_BYTES / READ_BYTES;
/// How long nothing is sent before a sign of life is: a small part of the time after which a node gives up.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// What is typed to say that nothing more comes.
const END_OF_TRANSMISSION: u8 = 4;

/// What is asked of standard input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wants {
    /// The program has a terminal.
    pub(super) terminal: bool,
    /// It is read even if somebody types it.
    pub(super) typed: bool,
    /// Nobody stays to feed it, so it is read whole before.
    pub(super) whole: bool,
}

/// Standard input on its way to a program.
pub(super) struct Feed {
    stdin: Stdin,
    first: Vec<u8>,
    is_terminal: bool,
    window: Option<Window>,
}

/// Finds out what standard input is, and writes it into the request; what is to be fed while the program runs is
/// returned.
pub(super) async fn look(client: &Client, wants: Wants, new: &mut NewExecution) -> anyhow::Result<Option<Feed>> {
    let is_typed = super::is_typed();
    let feed = |first| {
        let window = new.sandbox.terminal;
        Feed { stdin: tokio::io::stdin(), first, is_terminal: wants.terminal, window }
    };
    if wants.terminal {
        let feed = feed(Vec::new());
        new.input = Input::Stream;
        return Ok(Some(feed));
    }
    let kind = match rustix::fs::fstat(io::stdin()) {
        Ok(stat) if is_null(&stat) => return Ok(None),
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        // It is closed.
        Err(_) => return Ok(None),
    };
    if is_typed && !wants.typed {
        return Ok(None);
    }
    if wants.whole && !wants.typed && kind != FileType::RegularFile {
        return Ok(None);
    }
    if kind == FileType::RegularFile || wants.whole {
        let input = create::begin(client, tokio::io::stdin(), new).await?;
        new.input = if matches!(&input, Input::Text { text } if text.is_empty()) { Input::None } else { input };
        return Ok(None);
    }
    let mut feed = feed(Vec::new());
    if !is_typed && let Ok(ended) = tokio::time::timeout(SOON, feed.gather()).await {
        ended?;
        if feed.first.len() <= CHUNK_BYTES {
            let bytes = std::mem::take(&mut feed.first);
            new.input = if bytes.is_empty() { Input::None } else { create::short(client, bytes, new).await? };
            return Ok(None);
        }
    }
    new.input = Input::Stream;
    Ok(Some(feed))
}

/// Tells whether it is the device that is always empty.
fn is_null(stat: &rustix::fs::Stat) -> bool {
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    is_device && rustix::fs::major(stat.st_rdev) == 1 && rustix::fs::minor(stat.st_rdev) == 3
}

impl Feed {
    /// Reads until the end, or until there is more than one chunk.
    async fn gather(&mut self) -> io::Result<()> {
        while self.first.len() <= CHUNK_BYTES {
            self.first.reserve(READ_BYTES);
            if self.stdin.read_buf(&mut self.first).await? == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends all of it, until it ends or nobody wants it any more.
    pub(super) async fn run(self, client: &Client, id: ExecutionId) -> anyhow::Result<()> {
        let Self { mut stdin, first, is_terminal, window } = self;
        let resized = is_terminal.then(|| signal(SignalKind::window_change())).transpose()?;
        let (sender, pieces) = mpsc::channel(READS_WAITING);
        let read = async move {
            loop {
                let mut piece = Vec::with_capacity(READ_BYTES);
                let count = stdin.read_buf(&mut piece).await?;
                if count == 0 || sender.send(piece).await.is_err() {
                    return Ok::<_, io::Error>(());
                }
            }
        };
        let mut sender = Sender { client, id, number: 0, is_terminal, window };
        // Whoever reads ends first and closes the channel; then what is left is sent.
        let (read, sent) = tokio::join!(read, sender.run(first, pieces, resized));
        sent?;
        Ok(read?)
    }
}

/// Whoever numbers and sends chunks.
struct Sender<'a> {
    client: &'a Client,
    id: ExecutionId,
    number: u64,
    is_terminal: bool,
    window: Option<Window>,
}

impl Sender<'_> {
    async fn run(
        &mut self,
        first: Vec<u8>,
        mut pieces: mpsc::Receiver<Vec<u8>>,
        mut resized: Option<Signal>,
    ) -> anyhow::Result<()> {
        // It may have changed between the request and now.
        self.resize().await?;
        let mut held = first;
        loop {
            if held.is_empty() {
                let turned = async {
                    match &mut resized {
                        Some(signal) => drop(signal.recv().await),
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    piece = pieces.recv() => match piece {
                        Some(piece) => held = piece,
                        None => return self.finish().await,
                    },
                    () = turned => {
                        self.resize().await?;
                        continue;
                    }
                    () = tokio::time::sleep(SIGN_OF_LIFE) => {}
                }
            }
            while held.len() < CHUNK_BYTES
                && let Ok(piece) = pieces.try_recv()
            {
                held.extend(piece);
            }
            if !self.send(Stream::Input, std::mem::take(&mut held), false).await? {
                return Ok(());
            }
        }
    }

    /// Says that nothing more comes.
    async fn finish(&mut self) -> anyhow::Result<()> {
        // A program at a terminal is told as by whoever types.
        let bytes = if self.is_terminal { vec![END_OF_TRANSMISSION] } else { Vec::new() };
        self.send(Stream::Input, bytes, true).await.map(drop)
    }

    /// Tells the size of the terminal, if it is another one than before.
    async fn resize(&mut self) -> anyhow::Result<()> {
        let now = terminal::size().filter(|now| self.is_terminal && Some(*now) != self.window);
        if let Some(now) = now {
            self.window = Some(now);
            self.send(Stream::Window, format!("{} {}", now.rows, now.columns).into_bytes(), false).await?;
        }
        Ok(())
    }

    /// Sends a chunk; tells whether the program still wants more.
    async fn send(&mut self, stream: Stream, bytes: Vec<u8>, end: bool) -> anyhow::Result<bool> {
        let content = if bytes.len() <= MAX_CHUNK_BYTES {
            Content::Inline { bytes: Bytes(bytes) }
        } else {
            let size = bytes.len() as u64;
            Content::Blob { digest: blob::put_bytes(self.client, bytes).await?, size }
        };
        self.number += 1;
        let chunk = Chunk { number: self.number, stream, at: client::id::now(), content, end };
        match self.client.execution_input_send(self.id, &chunk).await {
            Ok(_) => Ok(true),
            // It has ended; what it did not read is of no interest.
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_conflict(error: &ClientError) -> bool {
    error.api().is_some_and(|error| error.kind == ErrorKind::Conflict)
}
