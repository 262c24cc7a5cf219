//! The folder or bucket behind the blobs: keys, single requests, and errors that name both.
//!
//! Decides nothing; what is written when, and what is checked, is up to its callers.

use super::block::Blocks;
use super::config::{BlobConfig, Bucket, Patience};
use super::error::BlobError;
use super::folder::Folders;
use super::read::MAX_WINDOW_BLOCKS;
use super::room::Room;
use super::tree::BLOCK_BYTES;
use super::upload::PART_BYTES;
use bytes::Bytes;
use model::Digest;
use object_store::aws::AmazonS3;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt, PutPayload};
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
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

/// Bytes that all uploads together may hold: six parts of long content, or many times as many of short content.
pub(super) const UPLOADS_BYTES: u64 = 6 * PART_BYTES as u64;
/// Bytes that all readings together may be fetching.
const READINGS_BYTES: u64 = 4 * MAX_WINDOW_BLOCKS * BLOCK_BYTES as u64;
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
    /// What they lie in.
    pub(super) blocks: Blocks,
    /// Where parts of uploads lie until they are written.
    pub(super) uploads: Room,
    /// Where windows of readings lie until they are checked.
    pub(super) readings: Room,
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
            return Ok(Self::new(Backend::S3(client), prefix, name.into()));
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
        Ok(Self::new(Backend::Local(store, folders), Path::default(), name))
    }

    fn new(backend: Backend, prefix: Path, name: Arc<str>) -> Self {
        let (uploads, readings) = (Room::new(UPLOADS_BYTES), Room::new(READINGS_BYTES));
        Self { backend, blocks: Blocks::default(), uploads, readings, prefix, name }
    }

    /// Returns how many blocks are read at once: a request to a bucket costs money and a way there and back, a folder's
    /// nothing.
    pub(super) const fn window_blocks(&self) -> u64 {
        match self.backend {
            Backend::Local(..) => 1,
            Backend::S3(_) => MAX_WINDOW_BLOCKS,
        }
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

    /// Reads like `read`, a window of content that nobody may keep for long: from a folder, into a block that is used again.
    pub(super) async fn read_window(&self, key: &Key, window: Range<u64>) -> Result<Option<Bytes>, BlobError> {
        let wanted = usize::try_from(window.end - window.start).unwrap_or(usize::MAX);
        if !matches!(self.backend, Backend::Local(..)) || wanted > BLOCK_BYTES {
            return self.read(key, window).await;
        }
        let range = Some(GetRange::Bounded(window.clone()));
        let found = match self.store().get_opts(&self.path(key), GetOptions { range, ..GetOptions::default() }).await {
            Ok(found) => found,
            // The plain way says what is wrong.
            Err(_) => return self.read(key, window).await,
        };
        let GetResultPayload::File(mut file, _) = found.payload else { return self.read(key, window).await };
        let mut block = self.blocks.take(wanted);
        let read = move || {
            file.seek(SeekFrom::Start(window.start))?;
            block.read(file.take(window.end - window.start))?;
            Ok(block.freeze())
        };
        let read = tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        read.map(Some).map_err(|source| self.folder_failure("read", key, source))
    }

    /// Writes an object at once; it is durable and visible afterwards, or neither.
    pub(super) async fn write(&self, key: &Key, blocks: Vec<Bytes>) -> Result<(), BlobError> {
        self.prepare(key).await?;
        let content: PutPayload = blocks.into_iter().collect();
        self.store().put(&self.path(key), content).await.map_err(|error| self.failure("write", key, error))?;
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
    pub(super) fn sweeping_failure(&self, source: io::Error) -> BlobError {
        BlobError::Folder { place: self.name.clone(), verb: "sweep", key: ".".into(), source }
    }

    fn folder_failure(&self, verb: &'static str, key: &Key, source: io::Error) -> BlobError {
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
