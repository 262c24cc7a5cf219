//! Storing a blob: from a stream of unknown length to content under its digest.
//!
//! Content of one part or less is gathered, hashed and written at once. Longer content goes in parts, straight to its
//! key when the digest was announced and by way of `incoming/` when it was not. Either way the tree is there before
//! the blob is, and the hash is checked before anything can be seen.

use super::error::{BlobError, BodyError};
use super::intake::{Intake, Part};
use super::place::{Key, Place};
use super::tree::{BLOCK_BYTES, Tree};
use super::upload::{PART_BYTES, Upload};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use model::Digest;
use std::sync::Arc;

/// Bytes that a bucket copies at once; S3 says 5 GB and means either reading of that.
const MAX_COPY_BYTES: u64 = 5_000_000_000;
/// Bytes that are hashed in place; longer content would hold up the other tasks of the thread.
const MAX_INLINE_BYTES: usize = 256 << 10;

/// A blob that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
    /// Whether it was there before.
    pub already: bool,
}

pub(super) async fn put(
    place: &Arc<Place>,
    expected: Option<Digest>,
    body: BoxStream<'_, Result<Bytes, BodyError>>,
    max_bytes: u64,
) -> Result<Stored, BlobError> {
    let mut intake = Intake::new(place, body, max_bytes);
    let first = intake.part().await?;
    if intake.has_more().await? {
        put_in_parts(place, expected, first, intake).await
    } else {
        put_at_once(place, expected, first).await
    }
}

async fn put_at_once(place: &Place, expected: Option<Digest>, content: Part) -> Result<Stored, BlobError> {
    let size = content.bytes as u64;
    let tree = hash(place, &content).await?;
    let digest = tree.root();
    check_digest(expected, digest)?;
    let key = Key::Blob(digest);
    let already = place.size(&key).await? == Some(size);
    if already {
        place.settle(&key).await?;
    } else {
        write_tree(place, &tree, size).await?;
        place.write(&key, content.blocks).await?;
    }
    drop(content.share);
    Ok(Stored { digest, size, already })
}

async fn put_in_parts(
    place: &Arc<Place>,
    expected: Option<Digest>,
    first: Part,
    mut intake: Intake<'_>,
) -> Result<Stored, BlobError> {
    let key = expected.map_or_else(|| Key::Stage(crate::random()), Key::Blob);
    let found = match expected {
        Some(_) => place.size(&key).await?,
        None => None,
    };
    let mut upload = if found.is_some() { Upload::nowhere(place, key) } else { Upload::open(place, key).await? };
    let taken = match take(&mut upload, first, &mut intake).await {
        Ok(tree) => check_digest(expected, tree.root()).map(|()| tree),
        Err(error) => Err(error),
    };
    let size = intake.taken_bytes();
    match (taken, found) {
        (Err(error), _) => {
            upload.discard().await;
            Err(error)
        }
        (Ok(tree), Some(_)) => confirm(place, tree.root(), size).await,
        (Ok(tree), None) => publish(place, upload, key, &tree, size).await,
    }
}

/// Sends all parts off and returns the tree of them.
async fn take(upload: &mut Upload, first: Part, intake: &mut Intake<'_>) -> Result<Tree, BlobError> {
    upload.push(first).await?;
    while intake.has_more().await? {
        let part = intake.part().await?;
        upload.push(part).await?;
    }
    upload.finish().await
}

/// Answers for a blob that was there when its upload began, now that the caller has shown to have its content.
async fn confirm(place: &Place, digest: Digest, size: u64) -> Result<Stored, BlobError> {
    let key = Key::Blob(digest);
    match place.size(&key).await? {
        Some(found) if found == size => {
            place.settle(&key).await?;
            Ok(Stored { digest, size, already: true })
        }
        Some(found) => {
            // What is stored cannot be this content; without it the next upload stores the right one.
            tracing::error!(%digest, size, found, "a blob has the wrong length and is removed");
            place.delete(&key).await?;
            Err(BlobError::Vanished { digest })
        }
        None => Err(BlobError::Vanished { digest }),
    }
}

/// Makes finished parts visible as the blob, unless somebody else was faster.
async fn publish(place: &Arc<Place>, upload: Upload, key: Key, tree: &Tree, size: u64) -> Result<Stored, BlobError> {
    let digest = tree.root();
    let staged = key != Key::Blob(digest);
    let ready = async {
        if staged && place.size(&Key::Blob(digest)).await? == Some(size) {
            place.settle(&Key::Blob(digest)).await?;
            return Ok(true);
        }
        write_tree(place, tree, size).await?;
        Ok(false)
    };
    let already = match ready.await {
        Ok(false) => {
            upload.publish().await?;
            false
        }
        stop => {
            upload.discard().await;
            stop?
        }
    };
    if staged && !already {
        let moved = move_stage(place, key, digest, size).await;
        if let Err(error) = place.delete(&key).await {
            tracing::warn!(%key, %error, "staged content is left to the next sweep");
        }
        moved?;
    }
    Ok(Stored { digest, size, already })
}

/// Brings staged content to its key: by a copy inside the bucket or, where that does not go, through our hands.
async fn move_stage(place: &Arc<Place>, stage: Key, digest: Digest, size: u64) -> Result<(), BlobError> {
    if size <= MAX_COPY_BYTES {
        match place.copy(&stage, &Key::Blob(digest)).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::warn!(%digest, error = ?error, "a copy failed; the content is written again instead");
            }
        }
    }
    rewrite(place, stage, digest, size).await
}

/// Reads staged content and writes it to its key, checking it once more on the way.
async fn rewrite(place: &Arc<Place>, stage: Key, digest: Digest, size: u64) -> Result<(), BlobError> {
    let mut upload = Upload::open(place, Key::Blob(digest)).await?;
    let rewritten = async {
        for start in (0..size).step_by(PART_BYTES) {
            let end = size.min(start + PART_BYTES as u64);
            let share = place.uploads.take(end - start).await;
            let part = place.read(&stage, start..end).await?.ok_or(BlobError::Vanished { digest })?;
            let blocks = (0..part.len()).step_by(BLOCK_BYTES);
            let blocks = blocks.map(|start| part.slice(start..part.len().min(start + BLOCK_BYTES))).collect();
            upload.push(Part { blocks, bytes: part.len(), share }).await?;
        }
        let root = upload.finish().await?.root();
        if root == digest { Ok(()) } else { Err(BlobError::Corrupt { digest }) }
    };
    match rewritten.await {
        Ok(()) => upload.publish().await,
        Err(error) => {
            upload.discard().await;
            Err(error)
        }
    }
}

/// Writes the list of chaining values beside a blob that has one.
pub(super) async fn write_tree(place: &Place, tree: &Tree, size: u64) -> Result<(), BlobError> {
    match tree.encode(size) {
        Some(list) => place.write(&Key::Tree(tree.root()), vec![list]).await,
        None => Ok(()),
    }
}

async fn hash(place: &Place, content: &Part) -> Result<Tree, BlobError> {
    if content.bytes <= MAX_INLINE_BYTES {
        return Ok(Tree::of_blocks(&content.blocks));
    }
    let blocks = content.blocks.clone();
    tokio::task::spawn_blocking(move || Tree::of_blocks(&blocks))
        .await
        .map_err(|error| place.failure("hash content for", &Key::Stage(0), error.into()))
}

fn check_digest(expected: Option<Digest>, actual: Digest) -> Result<(), BlobError> {
    match expected {
        Some(expected) if expected != actual => Err(BlobError::Mismatch { expected, actual }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BlobConfig, Patience};
    use super::*;

    #[tokio::test]
    async fn staged_content_too_long_to_copy_is_rewritten() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let config = BlobConfig::Local { folder: folder.path().into() };
        let place = Arc::new(Place::open(config, Patience::default()).expect("a folder can be opened"));
        let content: Bytes = (0..2 * PART_BYTES + 77).map(|number| (number % 251) as u8).collect();
        let (stage, size) = (Key::Stage(7), content.len() as u64);
        let digest = Tree::of(&content).root();
        place.write(&stage, vec![content.clone()]).await.expect("it can be staged");

        rewrite(&place, stage, digest, size).await.expect("it can be rewritten");
        let read = place.read(&Key::Blob(digest), 0..size).await.expect("it can be read");
        assert_eq!(read, Some(content));

        let other = Tree::of(b"other").root();
        let error = rewrite(&place, stage, other, size).await.expect_err("the digest is checked");
        assert!(matches!(error, BlobError::Corrupt { .. }), "{error}");
        assert_eq!(place.size(&Key::Blob(other)).await.expect("it can be looked up"), None);
    }
}
