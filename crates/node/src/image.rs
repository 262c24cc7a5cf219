//! Making an image on a node: pull it from a registry or read it from an archive, verify every byte, unpack every layer
//! into the cache (which proves its diff id), and store each layer as a blob of the image's tenant.
//!
//! Nothing is believed: a digest names what was asked for, so it is compared with what came. Archives are opened by the
//! confined child of `sandbox::unpack` only; what is parsed here is bounded JSON. This module does not speak to our own
//! server: it stores and fetches through `Blobs`, which the agent implements for the execution at hand.

mod archive;
mod document;
mod reach;
mod registry;

pub(crate) use reach::Reach;
pub use reach::{AllowedRegistry, Authorities, Registries};
pub use registry::{Patience, RegistryError};

use crate::cache::{Cache, CacheError, Lease, is_full};
use crate::scratch::Scratch;
use archive::{Contents, Hashed};
use document::{Configuration, Document};
use model::image::{ArchiveKind, ImageConfig, ImageOrder, ImageSource, Layer, Manifest, Packing, Platform};
use model::{Digest, Reference, ReferenceError};
use registry::{Registry, Wanted};
use sandbox::unpack::UnpackError;
use std::error::Error;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A registry is asked what the image is.
    Asking {
        /// Which registry.
        host: String,
    },
    /// A registry is asked the same once more.
    Again {
        /// What came of it before.
        why: String,
        /// How often it was asked in vain.
        tried: u32,
        /// How often it is asked at most.
        tries: u32,
    },
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
pub type Progress<'a> = dyn Fn(Step) + Send + Sync + 'a;

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// What is to be pulled has no meaning.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The registry gave nothing, or something wrong.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A document of the image makes no sense, or is not for this machine.
    #[error("{0}")]
    Document(String),
    /// The archive is not what it should be.
    #[error("the archive cannot be imported: {0}")]
    Archive(String),
    /// A layer could not be unpacked or kept.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A blob could not be stored or fetched.
    #[error("{what}: {cause}")]
    Blob {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        cause: BlobFault,
    },
    /// The machine failed.
    #[error("{what}: {cause}")]
    Machine {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        cause: io::Error,
    },
}

impl ImageError {
    /// Tells whether this machine is at fault, rather than the order, the registry or the archive.
    pub const fn is_machine(&self) -> bool {
        match self {
            Self::Cache(error) => error.is_machine(),
            Self::Machine { .. } | Self::Registry(RegistryError::Write(_)) => true,
            Self::Reference(_) | Self::Registry(_) | Self::Document(_) | Self::Archive(_) | Self::Blob { .. } => false,
        }
    }

    const fn machine(what: &'static str, cause: io::Error) -> Self {
        Self::Machine { what, cause }
    }
}

/// Makes the image that an order asks for, and returns what it is made of.
pub async fn make<B: Blobs>(
    order: &ImageOrder,
    cache: &Cache,
    blobs: &B,
    registries: &Registries,
    progress: &Progress<'_>,
) -> Result<Manifest, ImageError> {
    let making = Making { order, cache, blobs, registries, progress };
    let mut manifest = match &order.source {
        ImageSource::Registry { reference, platform, runtime } => {
            let mut manifest = making.pull(reference, platform.as_ref()).await?;
            manifest.config.runtime.clone_from(runtime);
            manifest
        }
        ImageSource::Archive { blob, archive, reference, config } => {
            making.import(*blob, (*archive, reference.clone()), config).await?
        }
    };
    if manifest.check().is_err() {
        // Labels are notes that nothing here depends on, and some makers write books into them.
        manifest.config.labels.clear();
    }
    manifest.check().map_err(|error| ImageError::Document(error.message.to_string()))?;
    Ok(manifest)
}

/// An image in the making.
struct Making<'a, B> {
    order: &'a ImageOrder,
    cache: &'a Cache,
    blobs: &'a B,
    registries: &'a Registries,
    progress: &'a Progress<'a>,
}

/// A layer's file at hand, and which of how many it is.
struct Ready<'a> {
    file: &'a Path,
    hashed: Hashed,
    diff_id: &'a str,
    layer: usize,
    layers: usize,
}

impl<B: Blobs> Making<'_, B> {
    async fn pull(&self, reference: &str, platform: Option<&Platform>) -> Result<Manifest, ImageError> {
        let reference: Reference = reference.parse()?;
        let shown = (self.order.credential.as_ref(), self.order.plain_http);
        let registry = Registry::new(&reference, shown, self.registries, self.progress)?;
        (self.progress)(Step::Asking { host: reference.host().to_owned() });
        let wanted = platform.cloned().unwrap_or_else(document::own_platform);
        let (mut text, digest) = registry.manifest(reference.version()).await?;
        let mut is_chosen = false;
        let (config, layers) = loop {
            match document::document(&text).map_err(ImageError::Document)? {
                Document::Manifest { config, layers } => break (config, layers),
                Document::Index(_) if is_chosen => {
                    return Err(ImageError::Document("an index leads to another index".to_owned()));
                }
                Document::Index(index) => {
                    let chosen = document::choose(&index, &wanted).map_err(ImageError::Document)?;
                    text = registry.manifest(&chosen.digest).await?.0;
                    is_chosen = true;
                }
            }
        };
        let found = registry.blob(&config.digest).await?;
        let found = document::configuration(&found).map_err(ImageError::Document)?;
        if (&found.platform.os, &found.platform.architecture) != (&wanted.os, &wanted.architecture) {
            return Err(ImageError::Document(format!("the image is for {}, not for {wanted}", found.platform)));
        }
        count_fits(layers.len(), found.diff_ids.len())?;
        let mut made = Vec::new();
        // What is made stays in the cache until the whole image is.
        let mut leases = Vec::new();
        for (at, (layer, diff_id)) in layers.iter().zip(&found.diff_ids).enumerate() {
            let (number, layers) = (at + 1, layers.len());
            if document::is_locked(layer) {
                return Err(ImageError::Document(format!("layer `{}` is encrypted", layer.digest)));
            }
            let came = |bytes| {
                (self.progress)(Step::Fetching { layer: number, layers, bytes, bytes_total: layer.size });
            };
            let wanted = Wanted { digest: &layer.digest, bytes: layer.size };
            let (file, blob) = self.fetch_layer(&registry, &wanted, &came).await?;
            let packing = beginning(file.path()).await?;
            let hashed = Hashed { blob, digest: layer.digest.clone(), bytes: layer.size, packing };
            let ready = Ready { file: file.path(), hashed, diff_id, layer: number, layers };
            let (layer, lease) = self.finish(ready).await?;
            made.push(layer);
            leases.push(lease);
        }
        Ok(Manifest { digest, platform: found.platform, config: found.config, layers: made })
    }

    /// Fetches a layer from its registry. A full disk is answered by removing what nobody uses, once.
    async fn fetch_layer(
        &self,
        registry: &Registry<'_>,
        wanted: &Wanted<'_>,
        came: &(dyn Fn(u64) + Sync),
    ) -> Result<(Scratch, Digest), ImageError> {
        let file = self.cache.scratch()?;
        match registry.fetch(wanted, file.path(), came).await {
            Err(error) if is_full(&error) => {}
            fetched => return Ok((file, fetched?.blob)),
        }
        drop(file);
        self.cache.make_room().await?;
        let file = self.cache.scratch()?;
        match registry.fetch(wanted, file.path(), came).await {
            Err(error) if is_full(&error) => Err(full(wanted.digest)),
            fetched => Ok((file, fetched?.blob)),
        }
    }

    /// Fetches the archive that is to be imported, with the same answer to a full disk.
    async fn fetch_archive(&self, blob: Digest) -> Result<Scratch, ImageError> {
        let fault = |cause| ImageError::Blob { what: "the archive cannot be fetched", cause };
        let file = self.cache.scratch()?;
        match self.blobs.fetch(blob, file.path()).await {
            Err(cause) if is_full(&*cause) => {}
            fetched => return fetched.map(|()| file).map_err(fault),
        }
        drop(file);
        self.cache.make_room().await?;
        let file = self.cache.scratch()?;
        match self.blobs.fetch(blob, file.path()).await {
            Err(cause) if is_full(&*cause) => Err(full("the archive")),
            fetched => fetched.map(|()| file).map_err(fault),
        }
    }

    async fn import(
        &self,
        blob: Digest,
        (kind, reference): (ArchiveKind, Option<String>),
        order: &ImageConfig,
    ) -> Result<Manifest, ImageError> {
        let file = self.fetch_archive(blob).await?;
        let path = file.path().to_owned();
        let whole = blocking(move || archive::hash(&path)).await?;
        (self.progress)(Step::Unpacking { layer: 1, layers: 1 });
        let fresh =
            self.cache.unpack(file.path(), whole.packing, "the archive").await.map_err(|error| match error {
                CacheError::Unpack { cause: cause @ (UnpackError::Archive(_) | UnpackError::Large(_)), .. } => {
                    ImageError::Archive(cause.to_string())
                }
                error => ImageError::Cache(error),
            })?;
        let folder = fresh.folder.clone();
        let contents = blocking(move || archive::look(&folder, kind, reference.as_deref())).await;
        match contents {
            Ok(Contents::Root) if fresh.unpacked.entries == 0 => {
                self.cache.discard(fresh).await?;
                Err(ImageError::Archive("there is nothing in it".to_owned()))
            }
            Ok(Contents::Root) => {
                let diff_id = fresh.unpacked.diff_id.clone();
                let lease = self.cache.keep(fresh, blob, None).await?;
                drop(lease);
                let digest = whole.digest.clone();
                // The archive is the layer, and the tenant has it already.
                let layer = Layer { blob, size: whole.bytes, packing: whole.packing, digest: whole.digest, diff_id };
                Ok(Manifest { digest, platform: document::own_platform(), config: order.clone(), layers: vec![layer] })
            }
            Ok(Contents::Image { digest, configuration, files }) => {
                let made = self.import_layers(&fresh.folder, &configuration, &files).await;
                self.cache.discard(fresh).await?;
                let config = document::overridden(configuration.config, order);
                Ok(Manifest { digest, platform: configuration.platform, config, layers: made? })
            }
            Err(error) => {
                self.cache.discard(fresh).await?;
                Err(error)
            }
        }
    }

    async fn import_layers(
        &self,
        folder: &Path,
        configuration: &Configuration,
        files: &[PathBuf],
    ) -> Result<Vec<Layer>, ImageError> {
        count_fits(files.len(), configuration.diff_ids.len())?;
        if configuration.platform.os != "linux" {
            return Err(ImageError::Document(format!("the image is for {}, not for Linux", configuration.platform)));
        }
        let mut made = Vec::new();
        let mut leases = Vec::new();
        for (at, (name, diff_id)) in files.iter().zip(&configuration.diff_ids).enumerate() {
            let file = self.cache.scratch()?;
            let (folder, name, path) = (folder.to_owned(), name.clone(), file.path().to_owned());
            let hashed = blocking(move || archive::extract(&folder, &name, &path)).await?;
            let ready = Ready { file: file.path(), hashed, diff_id, layer: at + 1, layers: files.len() };
            let (layer, lease) = self.finish(ready).await?;
            made.push(layer);
            leases.push(lease);
        }
        Ok(made)
    }

    /// Unpacks a layer, which proves what it is, and stores it.
    async fn finish(&self, ready: Ready<'_>) -> Result<(Layer, Lease), ImageError> {
        let Ready { file, hashed, diff_id, layer: number, layers } = ready;
        let Hashed { blob, digest, bytes: size, packing } = hashed;
        let layer = Layer { blob, size, packing, digest, diff_id: diff_id.to_owned() };
        (self.progress)(Step::Unpacking { layer: number, layers });
        let lease = self.cache.provide(file, &layer).await?;
        (self.progress)(Step::Storing { layer: number, layers });
        let stored = self.blobs.store(blob, size, file).await;
        stored.map_err(|cause| ImageError::Blob { what: "a layer cannot be stored", cause })?;
        Ok((layer, lease))
    }
}

fn count_fits(layers: usize, diff_ids: usize) -> Result<(), ImageError> {
    if layers == diff_ids {
        return Ok(());
    }
    Err(ImageError::Document(format!("the image has {layers} layers, and its configuration names {diff_ids}")))
}

fn full(layer: &str) -> ImageError {
    ImageError::Cache(CacheError::Full { layer: layer.to_owned() })
}

/// Tells how a file is packed.
async fn beginning(file: &Path) -> Result<Packing, ImageError> {
    let file = file.to_owned();
    blocking(move || {
        let fault = |error| ImageError::machine("a layer cannot be read", error);
        let mut bytes = Vec::new();
        File::open(file).map_err(fault)?.take(8).read_to_end(&mut bytes).map_err(fault)?;
        Ok(archive::packing(&bytes))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ImageError::machine("work on an image was lost", io::Error::other(error)))?
}
