//! The node's cache of unpacked layers: `layers/<diff id>/` beneath its state folder, each whole or not there at all.
//!
//! Invariants: a layer has its name only after its diff id was proven, by a rename; beside it stands a note of what it
//! takes and for whose ids it was unpacked (`cache/shelf.rs`). Two executions that need one layer wait for one
//! unpacking. What a sandbox uses is leased and never removed; the rest goes, least recently used first, when the budget
//! is passed. The cache knows nothing of images beyond their manifests and opens no archive itself.
//!
//! `layers/` can be walked but not listed by others, since whoever is root inside a sandbox must reach its layers.

mod shelf;

use crate::image::{BlobFault, Blobs};
use crate::scratch::Scratch;
use model::Digest;
use model::image::{Layer, Manifest, Packing};
use sandbox::unpack::{Settings, UnpackError, Unpacked, unpack};
use shelf::Shelf;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::spawn_blocking;

/// Where a cache lies and how much it may hold.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// Its folder; made when it is not there. One process at a time may have it open.
    pub folder: PathBuf,
    /// Bytes that all layers together may have.
    pub budget_bytes: u64,
    /// How layers are unpacked, and for whose ids.
    pub unpack: Settings,
}

/// Why layers cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The manifest names what no node could mount.
    #[error("{0}")]
    Manifest(String),
    /// A blob of the tenant could not be fetched.
    #[error("layer `{layer}` cannot be fetched: {cause}")]
    Fetch {
        /// Which layer, by its diff id.
        layer: String,
        /// Why.
        cause: BlobFault,
    },
    /// An archive could not be unpacked.
    #[error("{} cannot be unpacked: {cause}", titled(layer))]
    Unpack {
        /// Which layer, by its diff id; or `the archive`.
        layer: String,
        /// Why.
        cause: UnpackError,
    },
    /// A layer is more than this node may keep of all of them.
    #[error("{} has files of more than {budget} bytes, and this node keeps no more (`--cache`)", titled(layer))]
    Large {
        /// Which layer, by its diff id; or `the archive`.
        layer: String,
        /// Bytes that the cache may hold.
        budget: u64,
    },
    /// A layer is not what its image says it is.
    #[error("an image lied about a layer: asked {asked}, got {found}")]
    Lied {
        /// The diff id that the image names.
        asked: String,
        /// The diff id that the layer has.
        found: String,
    },
    /// The budget is used up by layers that are in use.
    #[error(
        "the layers in use take {used} of the {budget} bytes that this node may keep, and {wanted} more are needed"
    )]
    Budget {
        /// Bytes of the layers in use.
        used: u64,
        /// Bytes that the cache may hold.
        budget: u64,
        /// Bytes of the layer that does not fit.
        wanted: u64,
    },
    /// The disk is full, even without the layers that nobody uses.
    #[error("the disk of this node is full: {} does not fit", titled(layer))]
    Full {
        /// Which layer, by a digest of it; or `the archive`.
        layer: String,
    },
    /// The machine failed.
    #[error("{what}: {cause}")]
    Machine {
        /// What was being done.
        what: String,
        /// Why it failed.
        cause: io::Error,
    },
}

impl CacheError {
    /// Tells whether this machine is at fault, rather than the layer.
    pub const fn is_machine(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Machine { .. } | Self::Budget { .. } => true,
            Self::Unpack { cause, .. } => matches!(cause, UnpackError::Machine(_) | UnpackError::Full),
            Self::Manifest(_) | Self::Fetch { .. } | Self::Large { .. } | Self::Lied { .. } => false,
        }
    }

    pub(crate) fn machine(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |cause| Self::Machine { what, cause }
    }
}

/// One layer that stays as long as this lives.
#[derive(Debug)]
pub(crate) struct Lease {
    inner: Arc<Inner>,
    hex: String,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.shelf().release(&self.hex);
    }
}

/// The layers of one image, which stay as long as this lives.
#[derive(Debug)]
pub struct LayerSet {
    folders: Vec<PathBuf>,
    leases: Vec<Lease>,
}

impl LayerSet {
    /// Returns their folders, uppermost first, as `sandbox::Root::Layers` wants them.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Returns how many different layers they are.
    pub const fn count(&self) -> usize {
        self.leases.len()
    }
}

/// The cache; clones share it.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: CacheSettings,
    shelf: Mutex<Shelf>,
    /// One lock for each layer that is being made, so that it is made once.
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    next: AtomicU64,
}

/// A folder that was unpacked and has no place yet; it goes when this does, unless it was given one.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) folder: PathBuf,
    pub(crate) unpacked: Unpacked,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // Mostly on a thread that may block: only whoever is given up between two steps pays for it here. The child that
        // wrote it is gone, so nobody adds to it. What cannot be removed is thrown away when the cache is opened again;
        // what has its place is no longer under this name.
        let _ = shelf::remove(&self.folder);
    }
}

/// Sets a flag when whoever waits goes away, so that the child they waited for is killed.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Cache {
    /// Opens a cache, throws away what was left half made, and learns what is there.
    pub async fn open(settings: CacheSettings) -> Result<Self, CacheError> {
        blocking(move || {
            let shelf = Shelf::open(&settings.folder, settings.unpack.place).map_err(CacheError::machine(format!(
                "the cache in `{}` cannot be opened",
                settings.folder.display()
            )))?;
            let inner =
                Inner { settings, shelf: Mutex::new(shelf), flights: Mutex::default(), next: AtomicU64::new(0) };
            Ok(Self { inner: Arc::new(inner) })
        })
        .await
    }

    /// Returns the folder it lies in.
    pub fn folder(&self) -> &Path {
        &self.inner.settings.folder
    }

    /// Returns the bytes of all layers it holds.
    pub fn bytes(&self) -> u64 {
        self.inner.shelf().bytes()
    }

    /// Returns the layers of an image, unpacking those that are not there; each is fetched at most once at a time.
    pub async fn layers<B: Blobs>(&self, manifest: &Manifest, blobs: &B) -> Result<LayerSet, CacheError> {
        manifest.check().map_err(|error| CacheError::Manifest(error.message.to_string()))?;
        let (mut leases, mut folders) = (Vec::new(), Vec::<PathBuf>::new());
        for layer in manifest.layers.iter().rev() {
            let folder = self.inner.layer_folder(hex_of(&layer.diff_id));
            // An overlay refuses a folder that it has already; below itself a layer adds nothing anyway.
            if !folders.contains(&folder) {
                leases.push(self.layer(layer, blobs).await?);
                folders.push(folder);
            }
        }
        Ok(LayerSet { folders, leases })
    }

    async fn layer<B: Blobs>(&self, layer: &Layer, blobs: &B) -> Result<Lease, CacheError> {
        let hex = hex_of(&layer.diff_id);
        if let Some(lease) = self.lease(hex, layer.blob) {
            return Ok(lease);
        }
        let flight = self.flight(hex);
        let _turn = flight.lock().await;
        if let Some(lease) = self.lease(hex, layer.blob) {
            return Ok(lease);
        }
        let file = self.fetch(layer, blobs).await?;
        let fresh = self.unpack(file.path(), layer.packing, &layer.diff_id).await?;
        self.keep(fresh, layer.blob, Some(&layer.diff_id)).await
    }

    /// Fetches the file of a layer. A full disk is answered by removing what nobody uses, once.
    async fn fetch<B: Blobs>(&self, layer: &Layer, blobs: &B) -> Result<Scratch, CacheError> {
        let file = self.scratch()?;
        match blobs.fetch(layer.blob, file.path()).await {
            Ok(()) => return Ok(file),
            Err(cause) if is_full(&*cause) => {}
            Err(cause) => return Err(CacheError::Fetch { layer: layer.diff_id.clone(), cause }),
        }
        drop(file);
        self.make_room().await?;
        let file = self.scratch()?;
        match blobs.fetch(layer.blob, file.path()).await {
            Ok(()) => Ok(file),
            Err(cause) if is_full(&*cause) => Err(CacheError::Full { layer: layer.diff_id.clone() }),
            Err(cause) => Err(CacheError::Fetch { layer: layer.diff_id.clone(), cause }),
        }
    }

    /// Removes all layers that nobody uses.
    pub(crate) async fn make_room(&self) -> Result<(), CacheError> {
        self.inner.clone().evict(0).await
    }

    /// Unpacks the file of a layer that is at hand already, unless it was seen before to be what it should, and leases it.
    pub(crate) async fn provide(&self, file: &Path, layer: &Layer) -> Result<Lease, CacheError> {
        let hex = hex_of(&layer.diff_id);
        let flight = self.flight(hex);
        let _turn = flight.lock().await;
        if let Some(lease) = self.lease(hex, layer.blob) {
            return Ok(lease);
        }
        let fresh = self.unpack(file, layer.packing, &layer.diff_id).await?;
        self.keep(fresh, layer.blob, Some(&layer.diff_id)).await
    }

    /// Returns a name for a file that goes when the name does.
    pub(crate) fn scratch(&self) -> Result<Scratch, CacheError> {
        let parent = self.inner.settings.folder.join("scratch");
        Scratch::new(&parent).map_err(CacheError::machine(format!("`{}` takes no file", parent.display())))
    }

    /// Unpacks an archive into a folder without a place. A full disk is answered by removing what nobody uses, once.
    pub(crate) async fn unpack(&self, file: &Path, packing: Packing, layer: &str) -> Result<Fresh, CacheError> {
        let first = self.unpack_once(file, packing, layer).await;
        if !matches!(&first, Err(CacheError::Unpack { cause: UnpackError::Full, .. })) {
            return first;
        }
        self.make_room().await?;
        match self.unpack_once(file, packing, layer).await {
            Err(CacheError::Unpack { cause: UnpackError::Full, layer }) => Err(CacheError::Full { layer }),
            second => second,
        }
    }

    async fn unpack_once(&self, file: &Path, packing: Packing, layer: &str) -> Result<Fresh, CacheError> {
        let folder = self.inner.settings.folder.join("layers").join(format!(".new-{}", self.inner.number()));
        let (inner, file, layer) = (self.inner.clone(), file.to_owned(), layer.to_owned());
        let stop = StopOnDrop(Arc::default());
        let is_stopped = stop.0.clone();
        let done = blocking(move || {
            let mut settings = inner.settings.unpack.clone();
            settings.bytes_max = settings.bytes_max.min(inner.settings.budget_bytes);
            // Who was given up before this thread began is not to find anything later.
            if is_stopped.load(Ordering::Relaxed) {
                return Err(CacheError::Unpack { layer, cause: UnpackError::Stopped });
            }
            let input =
                File::open(&file).map_err(CacheError::machine(format!("`{}` cannot be read", file.display())))?;
            std::fs::create_dir(&folder)
                .map_err(CacheError::machine(format!("`{}` cannot be made", folder.display())))?;
            let unpacked = unpack(&settings, input, packing, &folder, &is_stopped);
            match unpacked {
                Ok(unpacked) if !is_stopped.load(Ordering::Relaxed) => Ok(Fresh { folder, unpacked }),
                other => {
                    shelf::remove(&folder).map_err(CacheError::machine("a broken layer cannot be removed"))?;
                    Err(match other.err().unwrap_or(UnpackError::Stopped) {
                        UnpackError::Large(most) if most < inner.settings.unpack.bytes_max => {
                            CacheError::Large { layer, budget: most }
                        }
                        cause => CacheError::Unpack { layer, cause },
                    })
                }
            }
        });
        let done = done.await;
        drop(stop);
        done
    }

    /// Gives what a blob unpacked to its place, if it is what it should be, and makes room for it.
    pub(crate) async fn keep(&self, fresh: Fresh, blob: Digest, asked: Option<&str>) -> Result<Lease, CacheError> {
        let found = fresh.unpacked.diff_id.clone();
        if let Some(asked) = asked.filter(|asked| *asked != found) {
            self.discard(fresh).await?;
            return Err(CacheError::Lied { asked: asked.to_owned(), found });
        }
        let wanted = shelf::cost(&fresh.unpacked);
        let budget = self.inner.settings.budget_bytes;
        // What is there already takes nothing more; this only proved that it comes from this blob too.
        if !self.inner.shelf().has(hex_of(&found)) {
            self.inner.clone().evict(budget.saturating_sub(wanted)).await?;
            let used = self.bytes();
            if used.saturating_add(wanted) > budget {
                self.discard(fresh).await?;
                return Err(CacheError::Budget { used, budget, wanted });
            }
        }
        let inner = self.inner.clone();
        blocking(move || {
            let hex = hex_of(&found).to_owned();
            let placed = inner.shelf().place(&hex, &fresh.folder, wanted, blob);
            placed.map_err(CacheError::machine("a layer cannot be given its place"))?;
            Ok(Lease { inner, hex })
        })
        .await
    }

    /// Removes what was unpacked.
    pub(crate) async fn discard(&self, fresh: Fresh) -> Result<(), CacheError> {
        blocking(move || shelf::remove(&fresh.folder).map_err(CacheError::machine("a folder cannot be removed"))).await
    }

    fn lease(&self, hex: &str, blob: Digest) -> Option<Lease> {
        self.inner.shelf().lease(hex, blob).then(|| Lease { inner: self.inner.clone(), hex: hex.to_owned() })
    }

    /// Returns the lock under which a layer is made, forgetting those that nobody holds any more.
    fn flight(&self, hex: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.inner.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        flights.entry(hex.to_owned()).or_default().clone()
    }
}

impl Inner {
    /// What it guards is changed in whole steps, so a panic elsewhere leaves nothing half done.
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layer_folder(&self, hex: &str) -> PathBuf {
        self.settings.folder.join("layers").join(hex)
    }

    fn number(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// Removes unused layers, least recently used first, until no more than so many bytes are held.
    async fn evict(self: Arc<Self>, bytes_max: u64) -> Result<(), CacheError> {
        blocking(move || {
            let removed = self.shelf().evict(bytes_max).map_err(CacheError::machine("a layer cannot be put aside"))?;
            removed
                .iter()
                .try_for_each(|folder| shelf::remove(folder))
                .map_err(CacheError::machine("a layer cannot be removed"))
        })
        .await
    }
}

fn titled(layer: &str) -> String {
    if layer.starts_with("sha256:") { format!("layer `{layer}`") } else { layer.to_owned() }
}

/// Tells whether a fault comes of a full disk.
pub(crate) fn is_full(fault: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(fault);
    while let Some(error) = next {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Returns the hexadecimal part of a digest that was checked before.
fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
) -> Result<T, CacheError> {
    let done = spawn_blocking(work).await;
    done.map_err(|error| CacheError::Machine {
        what: "work on the cache was lost".to_owned(),
        cause: io::Error::other(error),
    })?
}
