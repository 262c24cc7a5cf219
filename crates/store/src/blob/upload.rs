//! An upload in parts: hashed and written side by side, invisible until it is published.
//!
//! Two parts are on their way while a third is gathered, which is all the memory an upload takes. An upload that is
//! dropped removes its temporary file on a local folder; on a bucket its note stays under `incoming/` and leads the
//! next sweep to it.

use super::error::BlobError;
use super::folder::Claim;
use super::intake::Part;
use super::place::{Backend, Key, Place};
use super::tree::{BLOCK_BYTES, Tree, block_values};
use blake3::hazmat::ChainingValue;
use bytes::Bytes;
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Bytes of one part; content up to this is written at once instead.
pub(super) const PART_BYTES: usize = 8 << 20;
/// Parts of one upload; S3 takes no more.
pub(super) const MAX_PARTS: u64 = 10_000;
/// Parts on their way at any time.
const MAX_RUNNING: usize = 2;
const BLOCKS_PER_PART: u64 = (PART_BYTES / BLOCK_BYTES) as u64;

/// What a note says of an unfinished multipart upload.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Note {
    /// Where the object would lie.
    pub(super) path: String,
    /// What the bucket calls the upload.
    pub(super) upload: String,
}

/// Where the parts go.
enum Target {
    /// Nowhere: the content is there already and only its hash is wanted.
    Nowhere,
    Local(Box<dyn MultipartUpload>, Claim),
    S3 {
        store: AmazonS3,
        path: Path,
        upload: String,
        note: Key,
    },
}

/// A part that arrived.
struct Arrived {
    index: u64,
    values: Vec<ChainingValue>,
    id: Option<PartId>,
}

/// An upload that is not visible yet.
pub(super) struct Upload {
    place: Arc<Place>,
    key: Key,
    target: Target,
    running: JoinSet<Result<Arrived, object_store::Error>>,
    started: u64,
    arrived: Vec<Arrived>,
}

impl Upload {
    /// Returns an upload that is hashed and not kept.
    pub(super) fn nowhere(place: &Arc<Place>, key: Key) -> Self {
        Self::new(place, key, Target::Nowhere)
    }

    /// Opens an upload to `key`.
    pub(super) async fn open(place: &Arc<Place>, key: Key) -> Result<Self, BlobError> {
        place.prepare(&key).await?;
        let path = place.path(&key);
        let target = match &place.backend {
            Backend::Local(store, folders) => {
                let claim = folders.claim(&key.to_string());
                let upload = store.put_multipart(&path).await.map_err(|error| place.failure("write", &key, error))?;
                Target::Local(upload, claim)
            }
            Backend::S3(store) => open_bucket_upload(place, store, key, path).await?,
        };
        Ok(Self::new(place, key, target))
    }

    fn new(place: &Arc<Place>, key: Key, target: Target) -> Self {
        Self { place: place.clone(), key, target, running: JoinSet::new(), started: 0, arrived: Vec::new() }
    }

    /// Sends the next part off, once there is room for it. Every part but the last must be full.
    pub(super) async fn push(&mut self, part: Part) -> Result<(), BlobError> {
        let Part { blocks, share, .. } = part;
        while self.running.len() >= MAX_RUNNING {
            self.arrive().await?;
        }
        let index = self.started;
        self.started += 1;
        let content = blocks.clone();
        let payload: PutPayload = blocks.into_iter().collect();
        let hashing = async move {
            let hash = move || block_values(index * BLOCKS_PER_PART, content.iter().map(Bytes::as_ref));
            tokio::task::spawn_blocking(hash).await.map_err(object_store::Error::from)
        };
        match &mut self.target {
            Target::Nowhere => {
                self.running.spawn(async move {
                    let values = hashing.await?;
                    drop(share);
                    Ok(Arrived { index, values, id: None })
                });
            }
            Target::Local(upload, _) => {
                let writing = upload.put_part(payload);
                self.running.spawn(async move {
                    let (values, ()) = futures_util::try_join!(hashing, writing)?;
                    drop(share);
                    Ok(Arrived { index, values, id: None })
                });
            }
            Target::S3 { store, path, upload, .. } => {
                let (store, path, upload) = (store.clone(), path.clone(), upload.clone());
                self.running.spawn(async move {
                    let number = usize::try_from(index).expect("there are at most ten thousand parts");
                    let writing = store.put_part(&path, &upload, number, payload);
                    let (values, id) = futures_util::try_join!(hashing, writing)?;
                    drop(share);
                    Ok(Arrived { index, values, id: Some(id) })
                });
            }
        }
        Ok(())
    }

    /// Waits for all parts and returns the tree of what was sent.
    pub(super) async fn finish(&mut self) -> Result<Tree, BlobError> {
        while !self.running.is_empty() {
            self.arrive().await?;
        }
        self.arrived.sort_unstable_by_key(|part| part.index);
        let values = self.arrived.iter().flat_map(|part| part.values.iter().copied()).collect();
        Ok(Tree::of_values(values).expect("content that goes in parts is longer than a part, hence than a block"))
    }

    /// Makes a finished upload visible and durable.
    pub(super) async fn publish(self) -> Result<(), BlobError> {
        let Self { place, key, target, arrived, .. } = self;
        match target {
            Target::Nowhere => Ok(()),
            Target::Local(mut upload, _claim) => {
                upload.complete().await.map_err(|error| place.failure("finish", &key, error))?;
                Ok(())
            }
            Target::S3 { store, path, upload, note } => {
                let parts = arrived.into_iter().filter_map(|part| part.id).collect();
                store
                    .complete_multipart(&path, &upload, parts)
                    .await
                    .map_err(|error| place.failure("finish", &key, error))?;
                if let Err(error) = place.delete(&note).await {
                    tracing::debug!(%key, %error, "the note of a finished upload stays until the next sweep");
                }
                Ok(())
            }
        }
    }

    /// Gives an upload up, whatever became of its parts. What cannot be removed now is left to the next sweep.
    pub(super) async fn discard(mut self) {
        self.running.shutdown().await;
        let Self { place, key, target, .. } = self;
        let given_up = match target {
            Target::Nowhere => Ok(()),
            Target::Local(mut upload, _claim) => {
                upload.abort().await.map_err(|error| place.failure("give up", &key, error))
            }
            Target::S3 { store, path, upload, note } => match store.abort_multipart(&path, &upload).await {
                Ok(()) => place.delete(&note).await,
                Err(error) => Err(place.failure("give up", &key, error)),
            },
        };
        if let Err(error) = given_up {
            tracing::warn!(%key, %error, "an upload that failed is left to the next sweep");
        }
    }

    async fn arrive(&mut self) -> Result<(), BlobError> {
        let arrived = match self.running.join_next().await {
            None => return Ok(()),
            Some(Ok(result)) => result,
            Some(Err(error)) => Err(object_store::Error::from(error)),
        };
        self.arrived.push(arrived.map_err(|error| self.place.failure("write a part of", &self.key, error))?);
        Ok(())
    }
}

/// Opens a multipart upload and notes it, so that it can be given up by somebody else.
async fn open_bucket_upload(place: &Place, store: &AmazonS3, key: Key, path: Path) -> Result<Target, BlobError> {
    let upload = store.create_multipart(&path).await.map_err(|error| place.failure("write", &key, error))?;
    let note = Key::Note(crate::random());
    let text = serde_json::to_vec(&Note { path: path.to_string(), upload: upload.clone() })
        .expect("two texts can always be written as JSON");
    if let Err(error) = place.write(&note, vec![text.into()]).await {
        if let Err(error) = store.abort_multipart(&path, &upload).await {
            tracing::warn!(%key, %error, "an upload that could not be noted could not be given up either");
        }
        return Err(error);
    }
    Ok(Target::S3 { store: store.clone(), path, upload, note })
}
