//! A transcript: what an execution wrote, read in order and to its end, or to where it stands now.
//!
//! It knows where it is, so a broken connection is taken up there. When the attempt that it reads is lost and another one
//! begins, it says so and begins again: what the next attempt writes is a row of chunks of its own. The end of an attempt
//! is the end of the transcript only if the execution has ended, too.

use crate::session::Session;
use client::{Client, ClientError};
use model::limits::MAX_PAGE;
use model::{Chunk, ChunkPage, ChunkQuery, Content, Execution, ExecutionId, Stream};
use std::time::Duration;

/// How long one question for more is held by the server.
const HOLD_MS: u64 = 25_000;
/// How long to wait before asking again what was answered too early.
const PAUSE: Duration = Duration::from_millis(100);

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
    /// Nothing more; with the execution, if its end is what was waited for.
    Nothing(Option<Box<Execution>>),
}

/// Somebody who reads what an execution writes.
pub(crate) struct Transcript<'a> {
    client: &'a Client,
    id: ExecutionId,
    /// The attempt that somebody wants, whatever comes after it.
    asked: Option<u32>,
    /// The attempt that is waited for, once another one is known to be lost.
    awaited: Option<u32>,
    /// The attempt that is read; 0 as long as none has begun.
    attempt: u32,
    after: u64,
    /// Whether the attempt that is read has been read to its end.
    is_read: bool,
}

impl<'a> Transcript<'a> {
    /// Begins at the beginning of one attempt, or of the last one that wrote anything.
    pub(crate) const fn new(client: &'a Client, id: ExecutionId, attempt: Option<u32>) -> Self {
        Self { client, id, asked: attempt, awaited: None, attempt: 0, after: 0, is_read: false }
    }

    /// Returns what comes next, waiting for it if the end is what is wanted.
    pub(crate) async fn next(&mut self, until: Until) -> Result<Next, ClientError> {
        loop {
            if self.is_read {
                if until == Until::Now {
                    return Ok(Next::Nothing(None));
                }
                if let Some(next) = self.settle().await? {
                    return Ok(next);
                }
            }
            let query = ChunkQuery {
                after: Some(self.after),
                attempt: self.asked.or(self.awaited),
                limit: Some(MAX_PAGE),
                wait_ms: (until == Until::End).then_some(HOLD_MS),
            };
            let page = self.client.execution_chunks(self.id, &query).await?;
            if let Some(next) = self.turn(page.attempt) {
                return Ok(next);
            }
            let items = self.take(page, until);
            if !items.is_empty() {
                return Ok(Next::Chunks(items));
            }
        }
    }

    /// Turns to the attempt that a page is of, if it is another one than before.
    fn turn(&mut self, attempt: u32) -> Option<Next> {
        let before = std::mem::replace(&mut self.attempt, attempt);
        if before == attempt || self.after == 0 {
            return None;
        }
        self.after = 0;
        self.awaited = Some(attempt);
        Some(Next::Again(attempt))
    }

    /// Takes the chunks of a page that are new, and notes whether it was the last.
    fn take(&mut self, page: ChunkPage, until: Until) -> Vec<Chunk> {
        // What is asked for again is not shown again; and what a program reads is not what it writes.
        let is_new = |chunk: &Chunk| chunk.number > self.after && !chunk.stream.is_inward();
        let items: Vec<_> = page.items.into_iter().filter(is_new).collect();
        self.after = items.last().map_or(self.after, |chunk| chunk.number);
        self.is_read = page.ended || (until == Until::Now && items.is_empty());
        items
    }

    /// Finds out what the end of an attempt means; nothing, if more is to be waited for.
    async fn settle(&mut self) -> Result<Option<Next>, ClientError> {
        let execution = self.client.execution_get(self.id).await?;
        if self.asked.is_none() && execution.attempt > self.attempt {
            let is_shown = self.after > 0;
            self.awaited = Some(execution.attempt);
            (self.attempt, self.after, self.is_read) = (execution.attempt, 0, false);
            return Ok(is_shown.then_some(Next::Again(execution.attempt)));
        }
        if execution.state.is_final() || self.asked.is_some() {
            return Ok(Some(Next::Nothing(Some(Box::new(execution)))));
        }
        self.is_read = false;
        tokio::time::sleep(PAUSE).await;
        Ok(None)
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
