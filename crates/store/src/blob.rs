//! Blobs: content named by its digest, on a local folder or a bucket.
//!
//! Owns the content alone; which tenant has which blob is a matter of rows. The layout is `blobs/ab/cd/<64 hex>` and,
//! beside a blob longer than one block, `<64 hex>.tree` with the chaining values of its blocks. Invariants:
//! - A blob is visible under its digest only when it is whole and its hash was checked.
//! - No byte is handed out before the block it lies in was checked against the digest.
//! - Success is reported only for what is on stable storage: files and folders of a local folder are fsynced.
//! - Whatever the length of a blob, one upload holds at most 24 MiB of it, and one reading at most three windows. All
//!   uploads together hold no more than `place::UPLOADS_BYTES`, whatever their number; the others wait, and so do those
//!   who send.
//!
//! Conditions of the bucket (`If-None-Match` and the like) are probed and reported but never relied upon.

mod block;
mod config;
mod error;
mod folder;
mod intake;
mod place;
mod probe;
mod put;
mod read;
mod room;
mod sweep;
mod tree;
mod upload;

pub use config::{BlobConfig, Patience};
pub use error::{BlobError, BodyError};
pub use probe::{Capabilities, Capability};
pub use put::Stored;
pub use read::Reading;
pub use sweep::Swept;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use model::Digest;
use place::{Key, Place};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of the longest blob: what ten thousand parts, the most a bucket takes, can carry.
pub const MAX_CONTENT_BYTES: u64 = upload::PART_BYTES as u64 * upload::MAX_PARTS;

/// All blobs of one folder or bucket; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Blobs {
    place: Arc<Place>,
}

impl Blobs {
    /// Opens the folder, which is created when it is missing, or the bucket, which is not contacted yet.
    pub fn open(config: BlobConfig) -> Result<Self, BlobError> {
        Self::open_with(config, Patience::default())
    }

    /// Opens like `open`, with other time limits towards a bucket.
    pub fn open_with(config: BlobConfig, patience: Patience) -> Result<Self, BlobError> {
        Ok(Self { place: Arc::new(Place::open(config, patience)?) })
    }

    /// Stores content and returns its digest. Storing what is there already is harmless, but the content is read and
    /// hashed all the same: knowing a digest must not be enough to claim a blob.
    ///
    /// The time that `body` takes is the caller's to limit. A call dropped half-way leaves nothing visible; what it
    /// left out of sight goes with the next `sweep`. Whoever knows how much will come says so by `max_bytes`: no more room
    /// is taken for it.
    pub async fn put(
        &self,
        expected: Option<Digest>,
        body: impl Stream<Item = Result<Bytes, BodyError>> + Send,
        max_bytes: u64,
    ) -> Result<Stored, BlobError> {
        put::put(&self.place, expected, Box::pin(body), max_bytes.min(MAX_CONTENT_BYTES)).await
    }

    /// Tells whether uploads wait for room that others hold.
    pub fn is_crowded(&self) -> bool {
        self.place.uploads.is_crowded()
    }

    /// Opens a blob for reading, whole or the part of `range` that it has. What comes first is read and checked before
    /// this returns, so that most failures show here and not in the middle of the stream.
    pub async fn get(&self, digest: Digest, range: Option<Range<u64>>) -> Result<Reading, BlobError> {
        read::get(&self.place, digest, range).await
    }

    /// Returns the length of a blob, or none when it is not there.
    pub async fn head(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        self.place.size(&Key::Blob(digest)).await
    }

    /// Removes a blob; removing what is not there is harmless.
    pub async fn delete(&self, digest: Digest) -> Result<(), BlobError> {
        self.place.delete(&Key::Blob(digest)).await?;
        self.place.delete(&Key::Tree(digest)).await
    }

    /// Returns every blob and its length, in no promised order.
    pub fn list(&self) -> BoxStream<'static, Result<(Digest, u64), BlobError>> {
        sweep::list(&self.place)
    }

    /// Removes what uploads that ended before `older_than` left behind: staged content, temporary files, trees
    /// without a blob, and unfinished multipart uploads. On a bucket, an upload that is still going on and began before
    /// `older_than` fails by it, so leave uploads time, a day for instance; on a folder, those of this process are safe.
    ///
    /// `object_store` cannot list the multipart uploads of a bucket. Each of ours leaves a note under `incoming/`
    /// while it lasts, and the note is what is followed here; only an upload whose process died between opening it and
    /// writing the note is left to the bucket's own lifecycle rule.
    pub async fn sweep(&self, older_than: Timestamp) -> Result<Swept, BlobError> {
        sweep::sweep(&self.place, older_than).await
    }

    /// Tries what the folder or bucket can do, on throw-away objects under `probe/`. Fails only when something as
    /// plain as writing and reading back does.
    pub async fn probe(&self) -> Result<Capabilities, BlobError> {
        probe::probe(&self.place).await
    }
}
