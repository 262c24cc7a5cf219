//! The incoming content of an upload, gathered into parts of one size and counted against its limit.
//!
//! Room is taken for a part before the first byte of it is. Copies what comes, because a source may hand out slices of
//! buffers far larger than they are, or a byte at a time.

use super::block::Block;
use super::error::{BlobError, BodyError};
use super::place::Place;
use super::room::Share;
use super::tree::BLOCK_BYTES;
use super::upload::PART_BYTES;
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

/// Content that is at hand, and the room that it lies in.
#[derive(Debug)]
pub(super) struct Part {
    /// All but the last are whole blocks.
    pub(super) blocks: Vec<Bytes>,
    pub(super) bytes: usize,
    pub(super) share: Share,
}

/// A body that is being taken in.
pub(super) struct Intake<'a> {
    place: &'a Place,
    body: BoxStream<'a, Result<Bytes, BodyError>>,
    /// What came with the last part and did not fit it.
    rest: Bytes,
    taken_bytes: u64,
    max_bytes: u64,
}

impl<'a> Intake<'a> {
    pub(super) fn new(place: &'a Place, body: BoxStream<'a, Result<Bytes, BodyError>>, max_bytes: u64) -> Self {
        Self { place, body, rest: Bytes::new(), taken_bytes: 0, max_bytes }
    }

    /// Returns how much has come so far.
    pub(super) const fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    /// Returns whether anything is still to come.
    pub(super) async fn has_more(&mut self) -> Result<bool, BlobError> {
        while self.rest.is_empty() {
            let Some(piece) = self.body.next().await else { return Ok(false) };
            self.rest = piece.map_err(|source| BlobError::Body { source })?;
            self.taken_bytes = self.taken_bytes.saturating_add(self.rest.len() as u64);
            if self.taken_bytes > self.max_bytes {
                return Err(BlobError::TooLong { max_bytes: self.max_bytes });
            }
        }
        Ok(true)
    }

    /// Returns the next part: full, unless it is the last one.
    pub(super) async fn part(&mut self) -> Result<Part, BlobError> {
        let came = self.taken_bytes - self.rest.len() as u64;
        let most = usize::try_from(self.max_bytes - came).map_or(PART_BYTES, |most| most.min(PART_BYTES));
        let share = self.place.uploads.take(most as u64).await;
        let (mut part, mut last) = (Part { blocks: Vec::new(), bytes: 0, share }, None::<Block>);
        while part.bytes < PART_BYTES && self.has_more().await? {
            let mut block = last.take().unwrap_or_else(|| self.place.blocks.take(BLOCK_BYTES.min(most - part.bytes)));
            let fitting = block.fill(&self.rest);
            self.rest.advance(fitting);
            part.bytes += fitting;
            if block.len() == BLOCK_BYTES {
                part.blocks.push(block.freeze());
            } else {
                last = Some(block);
            }
        }
        part.blocks.extend(last.map(Block::freeze));
        Ok(part)
    }
}
