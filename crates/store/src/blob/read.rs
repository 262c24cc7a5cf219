//! Reading a blob: whole or a range, every block checked before a byte of it is handed on.
//!
//! Content is fetched in windows of whole blocks, one window ahead of the reader; each window is a request of its own,
//! so a slow reader holds no connection open. A missing or broken tree is rebuilt from one pass over the content,
//! which must lead to the digest.

use super::MAX_CONTENT_BYTES;
use super::error::BlobError;
use super::place::{Key, Place};
use super::put::write_tree;
use super::tree::{self, BLOCK_BYTES, Tree};
use super::upload::PART_BYTES;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use model::Digest;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Blocks of one request, at most.
pub(super) const MAX_WINDOW_BLOCKS: u64 = 4;
/// Requests that may be under way for one reading: the one wanted and the one after it.
const MAX_WINDOWS: usize = 2;

/// A blob opened for reading.
pub struct Reading {
    /// The length of the whole blob.
    pub size: u64,
    /// The range that `stream` yields.
    pub range: Range<u64>,
    /// The content of the range; it ends after the first error.
    pub stream: BoxStream<'static, Result<Bytes, BlobError>>,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("size", &self.size).field("range", &self.range).finish_non_exhaustive()
    }
}

pub(super) async fn get(place: &Arc<Place>, digest: Digest, range: Option<Range<u64>>) -> Result<Reading, BlobError> {
    let size = place.size(&Key::Blob(digest)).await?.ok_or(BlobError::NotFound { digest })?;
    let range = fit(digest, size, range.as_ref())?;
    let tree =
        if size > BLOCK_BYTES as u64 { load_tree(place, digest, size).await? } else { Tree::of_one_block(digest) };
    if size == 0 && !tree.verifies(0, &[]) {
        return Err(corrupt(digest, size, 0));
    }
    let source = Arc::new(Source { place: place.clone(), tree, digest, size, range: range.clone() });
    let mut windows = windows(&range, place.window_blocks());
    let first = match windows.next() {
        Some(window) => source.clone().fetch(window).await?,
        None => Vec::new(),
    };
    let rest = stream::iter(windows).map(move |window| source.clone().fetch(window)).buffered(MAX_WINDOWS);
    let blocks = stream::once(async { Ok(first) }).chain(rest);
    let stream = blocks.flat_map(|window| match window {
        Ok(blocks) => stream::iter(blocks.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(error)]),
    });
    Ok(Reading { size, range, stream: until_error(stream).boxed() })
}

/// A blob that is being read, as the windows of it see it.
struct Source {
    place: Arc<Place>,
    tree: Tree,
    digest: Digest,
    size: u64,
    range: Range<u64>,
}

impl Source {
    /// Fetches a window of blocks, checks them, and cuts them to the range.
    async fn fetch(self: Arc<Self>, window: Range<u64>) -> Result<Vec<Bytes>, BlobError> {
        let block_bytes = BLOCK_BYTES as u64;
        let bytes = window.start * block_bytes..self.size.min(window.end * block_bytes);
        let key = Key::Blob(self.digest);
        let share = self.place.readings.take(bytes.end - bytes.start).await;
        let read =
            self.place.read_window(&key, bytes.clone()).await?.ok_or(BlobError::NotFound { digest: self.digest })?;
        if read.len() as u64 != bytes.end - bytes.start {
            return Err(corrupt(self.digest, self.size, window.start));
        }
        let source = self.clone();
        let checked = tokio::task::spawn_blocking(move || source.check(window.start, &read)).await;
        // Only the way here is bounded. How long a reader keeps what it is given is its own affair, and must not be that of
        // others who read.
        drop(share);
        checked.map_err(|error| self.place.failure("check", &key, error.into()))?
    }

    fn check(&self, first: u64, window: &Bytes) -> Result<Vec<Bytes>, BlobError> {
        let mut checked = Vec::with_capacity(window.len().div_ceil(BLOCK_BYTES));
        for (index, offset) in (first..).zip((0..window.len()).step_by(BLOCK_BYTES)) {
            let block = window.slice(offset..window.len().min(offset + BLOCK_BYTES));
            if !self.tree.verifies(index, &block) {
                return Err(corrupt(self.digest, self.size, index));
            }
            checked.push(self.cut(index * BLOCK_BYTES as u64, &block));
        }
        Ok(checked)
    }

    /// Returns what the range has of a block that begins at `start`.
    fn cut(&self, start: u64, block: &Bytes) -> Bytes {
        let inside = |place: u64| {
            usize::try_from(place.saturating_sub(start)).map_or(block.len(), |offset| offset.min(block.len()))
        };
        block.slice(inside(self.range.start)..inside(self.range.end))
    }
}

/// Returns the range as the blob has it.
fn fit(digest: Digest, size: u64, range: Option<&Range<u64>>) -> Result<Range<u64>, BlobError> {
    let Some(&Range { start, end }) = range else { return Ok(0..size) };
    if start > end || start >= size.max(1) {
        return Err(BlobError::OutOfRange { digest, size, start, end });
    }
    Ok(start..end.min(size))
}

/// Returns the windows of blocks that cover a range.
fn windows(range: &Range<u64>, window: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let blocks = if range.is_empty() { 0..0 } else { range.start / BLOCK_BYTES as u64..tree::blocks(range.end) };
    let end = blocks.end;
    let step = usize::try_from(window).expect("a few blocks");
    blocks.step_by(step).map(move |first| first..end.min(first + window))
}

/// Returns the tree of a blob longer than one block.
async fn load_tree(place: &Arc<Place>, digest: Digest, size: u64) -> Result<Tree, BlobError> {
    if size > MAX_CONTENT_BYTES {
        return Err(corrupt(digest, size, 0));
    }
    // One byte more than it should have, so that a longer one shows.
    let stored = place.read(&Key::Tree(digest), 0..tree::encoded_bytes(size) + 1).await?;
    let found = stored.is_some();
    match stored.and_then(|stored| Tree::decode(&stored, digest, size)) {
        Some(tree) => Ok(tree),
        None => rebuild_tree(place, digest, size, found).await,
    }
}

async fn rebuild_tree(place: &Arc<Place>, digest: Digest, size: u64, found: bool) -> Result<Tree, BlobError> {
    tracing::warn!(%digest, size, found, "the tree of a blob is missing or broken and is rebuilt from its content");
    let mut values = Vec::new();
    for start in (0..size).step_by(PART_BYTES) {
        let end = size.min(start + PART_BYTES as u64);
        let key = Key::Blob(digest);
        let _share = place.readings.take(end - start).await;
        let part = place.read(&key, start..end).await?.ok_or(BlobError::NotFound { digest })?;
        let first = start / BLOCK_BYTES as u64;
        let hashed = tokio::task::spawn_blocking(move || tree::block_values(first, part.chunks(BLOCK_BYTES))).await;
        values.extend(hashed.map_err(|error| place.failure("check", &key, error.into()))?);
    }
    let tree = Tree::of_values(values).filter(|tree| tree.root() == digest).ok_or_else(|| corrupt(digest, size, 0))?;
    if let Err(error) = write_tree(place, &tree, size).await {
        tracing::warn!(%digest, %error, "a rebuilt tree could not be written");
    }
    Ok(tree)
}

/// Corruption is worth a line of its own whatever the caller makes of the error: somebody must look at the disk.
fn corrupt(digest: Digest, size: u64, block: u64) -> BlobError {
    tracing::error!(%digest, size, block, "a stored blob is corrupt");
    BlobError::Corrupt { digest }
}

fn until_error(
    stream: impl futures_util::Stream<Item = Result<Bytes, BlobError>> + Send + 'static,
) -> impl futures_util::Stream<Item = Result<Bytes, BlobError>> + Send + 'static {
    stream.scan(false, |failed, item| {
        let past = std::mem::replace(failed, item.is_err());
        std::future::ready((!past).then_some(item))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_fitted() {
        let digest = Tree::of(b"x").root();
        let check = |size: u64, range: Option<Range<u64>>, expected: Option<Range<u64>>| {
            assert_eq!(fit(digest, size, range.as_ref()).ok(), expected, "{size} {range:?}");
        };
        check(10, None, Some(0..10));
        check(10, Some(0..10), Some(0..10));
        check(10, Some(3..3), Some(3..3));
        check(10, Some(9..u64::MAX), Some(9..10));
        check(10, Some(10..11), None);
        check(10, Some(u64::MAX..u64::MAX), None);
        #[expect(clippy::reversed_empty_ranges, reason = "a caller may say such a thing")]
        check(10, Some(5..4), None);
        check(0, None, Some(0..0));
        check(0, Some(0..5), Some(0..0));
        check(0, Some(1..5), None);
    }

    #[test]
    fn windows_cover_the_range_in_whole_blocks() {
        let block = BLOCK_BYTES as u64;
        let check = |range: Range<u64>, expected: &[(u64, u64)]| {
            let found: Vec<_> = windows(&range, MAX_WINDOW_BLOCKS).map(|window| (window.start, window.end)).collect();
            assert_eq!(found, expected, "{range:?}");
        };
        check(5..5, &[]);
        check(0..1, &[(0, 1)]);
        check(block - 1..block + 1, &[(0, 2)]);
        check(block..2 * block, &[(1, 2)]);
        check(0..9 * block + 1, &[(0, 4), (4, 8), (8, 10)]);
        check(3 * block..8 * block, &[(3, 7), (7, 8)]);
    }
}
