//! A transcript: what an execution wrote, read in order and to its end, or to where it stands now.
//!
//! It knows where it is, so a broken connection is taken up there. When the attempt that it reads is lost and another
//! one begins to write, it says so and begins again: what the next attempt writes is a row of chunks of its own.

use crate::session::Session;
use client::{Client, ClientError};
use model::limits::MAX_PAGE;
use model::{Chunk, ChunkQuery, Content, ExecutionId, Stream};

/// How long one question for more is held by the server.
const HOLD_MS: u64 = 25_000;

/// How far to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// To the end, however long it takes.
    End,
    /// As far as it is written.
    Now,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Some more of it.
    Chunks(Vec<Chunk>),
    /// The attempt of this number begins from the beginning.
    Again(u32),
    /// Nothing more.
    Nothing,
}

/// Somebody who reads what an execution writes.
pub(crate) struct Transcript<'a> {
    client: &'a Client,
    id: ExecutionId,
    /// The attempt that was asked for.
    asked: Option<u32>,
    /// The attempt that is read.
    attempt: u32,
    after: u64,
    is_over: bool,
}

impl<'a> Transcript<'a> {
    /// Begins at the beginning of one attempt, or of the last one that wrote anything.
    pub(crate) const fn new(client: &'a Client, id: ExecutionId, attempt: Option<u32>) -> Self {
        Self { client, id, asked: attempt, attempt: 0, after: 0, is_over: false }
    }

    /// Returns what comes next, waiting for it if the end is what is wanted.
    pub(crate) async fn next(&mut self, until: Until) -> Result<Next, ClientError> {
        loop {
            if self.is_over {
                return Ok(Next::Nothing);
            }
            let query = ChunkQuery {
                after: Some(self.after),
                attempt: self.asked,
                limit: Some(MAX_PAGE),
                wait_ms: (until == Until::End).then_some(HOLD_MS),
            };
            let page = self.client.execution_chunks(self.id, &query).await?;
            if page.attempt != self.attempt {
                let before = std::mem::replace(&mut self.attempt, page.attempt);
                if self.after > 0 {
                    self.after = 0;
                    if before > 0 {
                        return Ok(Next::Again(page.attempt));
                    }
                    continue;
                }
            }
            // Asked for again, a page must not be shown again.
            let items: Vec<_> = page.items.into_iter().filter(|chunk| chunk.number > self.after).collect();
            self.after = items.last().map_or(self.after, |chunk| chunk.number);
            self.is_over = page.ended && page.next <= self.after || until == Until::Now && items.is_empty();
            if !items.is_empty() {
                return Ok(Next::Chunks(items));
            }
            if page.ended {
                self.is_over = true;
            }
        }
    }
}

/// Writes a chunk's bytes to where their stream goes.
pub(crate) async fn write(session: &Session, client: &Client, chunk: &Chunk, to: Stream) -> anyhow::Result<()> {
    match &chunk.content {
        Content::Inline { bytes } => session.output.relay(to, &bytes.0).await?,
        Content::Blob { digest, .. } => {
            let mut reader = client.blob_get(*digest, None).await?;
            while let Some(piece) = reader.next().await? {
                session.output.relay(to, &piece).await?;
            }
        }
    }
    Ok(())
}
