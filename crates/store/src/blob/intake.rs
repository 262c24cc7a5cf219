//! The incoming content of an upload, gathered into parts of one size and counted against its limit.
//!
//! Copies what comes, because a source may hand out slices of buffers far larger than they are, or a byte at a time.

use super::error::{BlobError, BodyError};
use super::upload::PART_BYTES;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

/// A body that is being taken in.
pub(super) struct Intake<'a> {
    body: BoxStream<'a, Result<Bytes, BodyError>>,
    /// What came with the last part and did not fit it.
    rest: Bytes,
    taken_bytes: u64,
    max_bytes: u64,
}

impl<'a> Intake<'a> {
    pub(super) fn new(body: BoxStream<'a, Result<Bytes, BodyError>>, max_bytes: u64) -> Self {
        Self { body, rest: Bytes::new(), taken_bytes: 0, max_bytes }
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
    pub(super) async fn part(&mut self) -> Result<Bytes, BlobError> {
        // Most content is small, so that the first part grows; behind a full one there is likely another.
        let capacity = if self.taken_bytes > PART_BYTES as u64 { PART_BYTES } else { 0 };
        let mut part = BytesMut::with_capacity(capacity);
        while part.len() < PART_BYTES && self.has_more().await? {
            let fitting = self.rest.len().min(PART_BYTES - part.len());
            part.extend_from_slice(&self.rest[..fitting]);
            self.rest.advance(fitting);
        }
        Ok(part.freeze())
    }
}
