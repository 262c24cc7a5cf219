//! The folder or bucket behind the blobs: keys, single requests, and errors that name both.
//!
//! Decides nothing; what is written when, and what is checked, is up to its callers.

use super::config::{BlobConfig, Bucket, Patience};
use super::error::BlobError;
use super::folder::Folders;
use bytes::Bytes;
use model::Digest;
use object_store::aws::AmazonS3;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The name of an object, below the prefix of the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// The content of a blob.
    Blob(Digest),
    /// The chaining values of its blocks.
    Tree(Digest),
    /// Content whose digest is not known yet.
    Stage(u128),
    /// A note of an unfinished multipart upload.
    Note(u128),
    /// A throw-away object.
    Probe(u128, &'static str),
}

/// The folder of blobs and trees.
pub(super) const BLOBS: &str = "blobs";
/// The folder of staged content and notes.
pub(super) const INCOMING: &str = "incoming";
/// The folder of throw-away objects.
pub(super) const PROBE: &str = "probe";
/// How the key of a tree ends.
pub(super) const TREE_SUFFIX: &str = ".tree";
/// How the key of a note ends.
pub(super) const NOTE_SUFFIX: &str = ".upload";

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(digest) => {
                let [first, second, ..] = digest.as_bytes();
                write!(f, "{BLOBS}/{first:02x}/{second:02x}/{digest}")
            }
            Self::Tree(digest) => write!(f, "{}{TREE_SUFFIX}", Self::Blob(*digest)),
            Self::Stage(number) => write!(f, "{INCOMING}/{number:032x}"),
            Self::Note(number) => write!(f, "{INCOMING}/{number:032x}{NOTE_SUFFIX}"),
            Self::Probe(number, name) => write!(f, "{PROBE}/{number:032x}-{name}"),
        }
    }
}

/// What answers: a folder or a bucket.
#[derive(Clone)]
pub(super) enum Backend {
    Local(LocalFileSystem, Folders),
    S3(AmazonS3),
}

/// The folder or bucket behind the blobs.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) backend: Backend,
    prefix: Path,
    name: Arc<str>,
}

impl fmt::Debug for Place {
    /// Writes the name alone, so that no secret hangs on how carefully a foreign client writes itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({})", self.name)
    }
}

impl Place {
    pub(super) fn open(config: BlobConfig, patience: Patience) -> Result<Self, BlobError> {
        let BlobConfig::Local { folder } = &config else {
            let Bucket { client, prefix, name } = Bucket::open(config, patience)?;
            return Ok(Self { backend: Backend::S3(client), prefix, name: name.into() });
        };
        let name: Arc<str> = format!("folder `{}`", folder.display()).into();
        let folders = Folders::open(folder, &[BLOBS, INCOMING, PROBE]).map_err(|source| BlobError::Folder {
            place: name.clone(),
            verb: "open",
            key: ".".into(),
            source,
        })?;
        let store = LocalFileSystem::new_with_prefix(folders.root())
            .map_err(|source| failure(&name, "open", ".".into(), source))?
            .with_fsync(true);
        Ok(Self { backend: Backend::Local(store, folders), prefix: Path::default(), name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn store(&self) -> &dyn ObjectStore {
        match &self.backend {
            Backend::Local(store, _) => store,
            Backend::S3(store) => store,
        }
    }

    /// Returns where an object lies, the bucket's prefix included.
    pub(super) fn path(&self, key: &Key) -> Path {
        self.folder(&key.to_string())
    }

    /// Returns where a folder lies, the bucket's prefix included.
    pub(super) fn folder(&self, name: &str) -> Path {
        self.prefix.parts().chain(Path::from(name).parts()).collect()
    }

    /// Returns the digest of the blob or tree that lies at `path`, and whether it is the tree.
    pub(super) fn digest_at(&self, path: &Path) -> Option<(Digest, bool)> {
        let name = path.filename()?;
        let (stem, is_tree) = name.strip_suffix(TREE_SUFFIX).map_or((name, false), |stem| (stem, true));
        let digest = stem.parse().ok()?;
        let key = if is_tree { Key::Tree(digest) } else { Key::Blob(digest) };
        (self.path(&key) == *path).then_some((digest, is_tree))
    }

    /// Returns the length of an object, or none when it is not there.
    pub(super) async fn size(&self, key: &Key) -> Result<Option<u64>, BlobError> {
        match self.store().head(&self.path(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failure("look up", key, error)),
        }
    }

    /// Reads a range, or what the object has of it; none when the object is not there.
    pub(super) async fn read(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, BlobError> {
        match self.store().get_range(&self.path(key), range.clone()).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => match self.size(key).await {
                // A range behind the end is an error to both back ends, each in its own words.
                Ok(Some(size)) if size <= range.start => Ok(Some(Bytes::new())),
                _ => Err(self.failure("read", key, error)),
            },
        }
    }

    /// Writes an object at once; it is durable and visible afterwards, or neither.
    pub(super) async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), BlobError> {
        self.prepare(key).await?;
        self.store().put(&self.path(key), bytes.into()).await.map_err(|error| self.failure("write", key, error))?;
        Ok(())
    }

    /// Copies an object inside the folder or bucket.
    pub(super) async fn copy(&self, from: &Key, to: &Key) -> Result<(), BlobError> {
        self.prepare(to).await?;
        self.store().copy(&self.path(from), &self.path(to)).await.map_err(|error| self.failure("copy to", to, error))
    }

    /// Removes an object; removing what is not there is harmless.
    pub(super) async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        self.delete_at(&self.path(key)).await
    }

    /// Removes what lies at `path`.
    pub(super) async fn delete_at(&self, path: &Path) -> Result<(), BlobError> {
        match self.store().delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failure(&self.name, "remove", path.to_string(), error)),
        }
    }

    /// Makes the folder of a key durable, where there are folders.
    pub(super) async fn prepare(&self, key: &Key) -> Result<(), BlobError> {
        let (Backend::Local(_, folders), Some(leaf)) = (&self.backend, leaf(key)) else { return Ok(()) };
        folders.prepare(leaf).await.map_err(|source| self.folder_failure("make the folder of", key, source))
    }

    /// Makes sure that an object we found, rather than wrote, outlasts a power cut as well.
    pub(super) async fn settle(&self, key: &Key) -> Result<(), BlobError> {
        let (Backend::Local(_, folders), Some(leaf)) = (&self.backend, leaf(key)) else { return Ok(()) };
        folders.settle(leaf).await.map_err(|source| self.folder_failure("sync the folder of", key, source))
    }

    /// Wraps an error of the back end together with what was being done.
    pub(super) fn failure(&self, verb: &'static str, key: &Key, source: object_store::Error) -> BlobError {
        failure(&self.name, verb, key.to_string(), source)
    }

    /// Wraps an error that is about a folder rather than one object.
    pub(super) fn listing_failure(&self, folder: &str, source: object_store::Error) -> BlobError {
        failure(&self.name, "list", folder.to_owned(), source)
    }

    /// Wraps an error of a sweep through the folders.
    pub(super) fn sweeping_failure(&self, source: std::io::Error) -> BlobError {
        BlobError::Folder { place: self.name.clone(), verb: "sweep", key: ".".into(), source }
    }

    fn folder_failure(&self, verb: &'static str, key: &Key, source: std::io::Error) -> BlobError {
        BlobError::Folder { place: self.name.clone(), verb, key: key.to_string(), source }
    }
}

const fn leaf(key: &Key) -> Option<[u8; 2]> {
    match key {
        Key::Blob(digest) | Key::Tree(digest) => {
            let [first, second, ..] = *digest.as_bytes();
            Some([first, second])
        }
        Key::Stage(_) | Key::Note(_) | Key::Probe(..) => None,
    }
}

fn failure(place: &Arc<str>, verb: &'static str, key: String, source: object_store::Error) -> BlobError {
    let place = place.clone();
    match source {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            BlobError::Refused { place, verb, key, source: Box::new(source) }
        }
        source => BlobError::Place { place, verb, key, source: Box::new(source) },
    }
}
