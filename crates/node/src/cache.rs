//! The node's cache of unpacked layers: `layers/<diff id>/` beneath its state folder, each whole or not there at all.

use crate::image::{BlobFault, Blobs};
use model::image::Manifest;
use std::path::{Path, PathBuf};

/// Where a cache lies and how much it may hold.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// Its folder; made when it is not there.
    pub folder: PathBuf,
    /// Bytes that unused layers may make it grow to.
    pub budget_bytes: u64,
    /// How layers are unpacked.
    pub unpack: (),
}

/// Why layers cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A blob of the tenant could not be fetched.
    #[error("layer `{layer}` cannot be fetched: {cause}")]
    Fetch {
        /// Which layer, by its diff id.
        layer: String,
        /// Why.
        cause: BlobFault,
    },
    /// Placeholder until the cache is built.
    #[error("the cache is not built yet")]
    Absent,
}

impl CacheError {
    /// Tells whether this machine is at fault, rather than the layer.
    pub const fn is_machine(&self) -> bool {
        true
    }
}

/// The layers of one image, which stay as long as this lives.
#[derive(Debug)]
pub struct LayerSet {
    folders: Vec<PathBuf>,
}

impl LayerSet {
    /// Returns their folders, uppermost first, as `sandbox::Root::Layers` wants them.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }
}

/// The cache; clones share it.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Opens a cache, throws away what was left half made, and learns what is there.
    pub async fn open(settings: CacheSettings) -> Result<Self, CacheError> {
        Ok(Self { folder: settings.folder })
    }

    /// Returns the folder it lies in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the layers of an image, unpacking those that are not there; each is fetched at most once at a time.
    pub async fn layers<B: Blobs>(&self, manifest: &Manifest, blobs: &B) -> Result<LayerSet, CacheError> {
        let _ = (manifest, blobs);
        Err(CacheError::Absent)
    }
}
