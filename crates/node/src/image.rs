//! Making an image on a node: pull it from a registry or read it from an archive, verify every byte, unpack every layer
//! into the cache (which proves its diff id), and store each layer as a blob of the image's tenant.
//!
//! Nothing is believed: a digest names what was asked for, so it is compared with what came. Archives are opened by the
//! confined child of `sandbox::unpack` only; what is parsed here is bounded JSON. This module does not speak to our own
//! server: it stores and fetches through `Blobs`, which the agent implements for the execution at hand.

use crate::cache::{Cache, CacheError};
use model::Digest;
use model::image::{ImageOrder, Manifest};
use std::error::Error;
use std::future::Future;
use std::path::Path;

/// Why a blob could not be stored or fetched.
pub type BlobFault = Box<dyn Error + Send + Sync>;

/// The tenant's blobs, as the execution at hand may see them.
pub trait Blobs: Send + Sync {
    /// Stores a file of so many bytes under its digest; harmless when it is there already.
    fn store(&self, digest: Digest, bytes: u64, file: &Path) -> impl Future<Output = Result<(), BlobFault>> + Send;

    /// Fetches a blob into a new file, verified.
    fn fetch(&self, digest: Digest, file: &Path) -> impl Future<Output = Result<(), BlobFault>> + Send;
}

/// What is being done, for whoever looks on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A layer, or the archive, arrives.
    Fetching {
        /// Which layer, from 1.
        layer: usize,
        /// Of how many.
        layers: usize,
        /// Bytes so far.
        bytes: u64,
        /// Of how many.
        bytes_total: u64,
    },
    /// A layer is unpacked.
    Unpacking {
        /// Which layer, from 1.
        layer: usize,
        /// Of how many.
        layers: usize,
    },
    /// A layer is stored as a blob of the tenant.
    Storing {
        /// Which layer, from 1.
        layer: usize,
        /// Of how many.
        layers: usize,
    },
}

/// Told of every step; must not block.
pub type Progress = dyn Fn(Step) + Send + Sync;

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A layer could not be unpacked or kept.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl ImageError {
    /// Tells whether this machine is at fault, rather than the order, the registry or the archive.
    pub const fn is_machine(&self) -> bool {
        match self {
            Self::Cache(error) => error.is_machine(),
        }
    }
}

/// Makes the image that an order asks for, and returns what it is made of.
pub async fn make<B: Blobs>(
    order: &ImageOrder,
    cache: &Cache,
    blobs: &B,
    progress: &Progress,
) -> Result<Manifest, ImageError> {
    let _ = (order, cache, blobs, progress);
    Err(ImageError::Cache(CacheError::Absent))
}
