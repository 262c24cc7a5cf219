//! Listing what is stored and removing what failed uploads left behind.
//!
//! Never removes a blob: which blobs are still wanted is for the rows to say.

use super::error::BlobError;
use super::place::{BLOBS, Backend, INCOMING, Key, NOTE_SUFFIX, PROBE, Place};
use super::upload::Note;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use model::Digest;
use object_store::ObjectMeta;
use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use std::sync::Arc;

/// Bytes of a note; ours are far shorter, but anybody may write to a bucket.
const MAX_NOTE_BYTES: u64 = 16 << 10;

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Staged contents and throw-away objects.
    pub staged: u64,
    /// Temporary files of a local folder.
    pub files: u64,
    /// Unfinished multipart uploads of a bucket.
    pub uploads: u64,
    /// Trees whose blob never came.
    pub trees: u64,
}

pub(super) fn list(place: &Arc<Place>) -> BoxStream<'static, Result<(Digest, u64), BlobError>> {
    let found = place.clone();
    objects(place, BLOBS)
        .try_filter_map(move |meta| {
            let blob = found.digest_at(&meta.location).filter(|(_, is_tree)| !is_tree);
            std::future::ready(Ok(blob.map(|(digest, _)| (digest, meta.size))))
        })
        .boxed()
}

/// Returns where the throw-away objects lie.
pub(super) fn probes(place: &Arc<Place>) -> BoxStream<'static, Result<Path, BlobError>> {
    objects(place, PROBE).map_ok(|meta| meta.location).boxed()
}

pub(super) async fn sweep(place: &Arc<Place>, older_than: Timestamp) -> Result<Swept, BlobError> {
    let older_than_us = older_than.as_microsecond();
    let mut swept = Swept::default();
    for folder in [INCOMING, PROBE] {
        let mut leftovers = old_objects(place, folder, older_than_us);
        while let Some(meta) = leftovers.try_next().await? {
            match &place.backend {
                Backend::S3(store) if meta.location.as_ref().ends_with(NOTE_SUFFIX) => {
                    swept.uploads += u64::from(give_up(place, store, &meta).await?);
                }
                _ => {
                    place.delete_at(&meta.location).await?;
                    swept.staged += 1;
                }
            }
        }
    }
    swept.trees = sweep_trees(place, older_than_us).await?;
    if let Backend::Local(_, folders) = &place.backend {
        swept.files = folders.sweep(older_than_us).await.map_err(|source| place.sweeping_failure(source))?;
    }
    if swept != Swept::default() {
        tracing::info!(?swept, place = place.name(), "removed what failed uploads left behind");
    }
    Ok(swept)
}

/// Removes trees whose blob never came. A tree is written afresh by every upload, so an old one has no upload.
async fn sweep_trees(place: &Arc<Place>, older_than_us: i64) -> Result<u64, BlobError> {
    let mut removed = 0;
    // A bucket lists in order, the tree right behind its blob, which saves a request for nearly all of them.
    let mut last_blob = None;
    let mut stored = objects(place, BLOBS);
    while let Some(meta) = stored.try_next().await? {
        let Some((digest, is_tree)) = place.digest_at(&meta.location) else { continue };
        if !is_tree {
            last_blob = Some(digest);
            continue;
        }
        let suspect = last_blob != Some(digest) && is_old(&meta, older_than_us);
        if suspect && place.size(&Key::Blob(digest)).await?.is_none() {
            place.delete_at(&meta.location).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Gives up the upload that a note speaks of, then removes the note. A note we cannot follow stays for the next sweep,
/// one that is none is removed.
async fn give_up(place: &Place, store: &AmazonS3, meta: &ObjectMeta) -> Result<bool, BlobError> {
    let mut given_up = false;
    if let Some(note) = read_note(place, meta).await? {
        match store.abort_multipart(&Path::from(note.path.as_str()), &note.upload).await {
            Ok(()) => given_up = true,
            // It was finished or given up after all.
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(note = %meta.location, %error, "an unfinished upload could not be given up");
                return Ok(false);
            }
        }
    }
    place.delete_at(&meta.location).await?;
    Ok(given_up)
}

async fn read_note(place: &Place, meta: &ObjectMeta) -> Result<Option<Note>, BlobError> {
    use object_store::ObjectStoreExt;
    if meta.size == 0 || meta.size > MAX_NOTE_BYTES {
        return Ok(None);
    }
    let text = match place.store().get_range(&meta.location, 0..meta.size).await {
        Ok(text) => text,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(place.listing_failure(meta.location.as_ref(), error)),
    };
    let note: Option<Note> = serde_json::from_slice(&text).ok();
    // Only what is ours: a note of a stranger must not make us meddle with the rest of the bucket.
    Ok(note.filter(|note| {
        let path = Path::from(note.path.as_str());
        [BLOBS, INCOMING, PROBE].iter().any(|folder| path.prefix_matches(&place.folder(folder)))
    }))
}

fn objects(place: &Arc<Place>, folder: &'static str) -> BoxStream<'static, Result<ObjectMeta, BlobError>> {
    let listed = place.store().list(Some(&place.folder(folder)));
    let place = place.clone();
    listed.map_err(move |error| place.listing_failure(folder, error)).boxed()
}

fn old_objects(
    place: &Arc<Place>,
    folder: &'static str,
    older_than_us: i64,
) -> BoxStream<'static, Result<ObjectMeta, BlobError>> {
    objects(place, folder).try_filter(move |meta| std::future::ready(is_old(meta, older_than_us))).boxed()
}

const fn is_old(meta: &ObjectMeta, older_than_us: i64) -> bool {
    meta.last_modified.timestamp_micros() < older_than_us
}
