//! The agent: a node's life, from its folder and its spawner to its last goodbye.

use crate::attempt::{DUMPS, SYMBOLS, Shop};
use crate::cache::{Cache, CacheError, CacheSettings};
use crate::debuginfod::{Debuginfod, DebuginfodError};
use crate::dispatcher::Dispatcher;
use crate::files::Files;
use crate::meter::Meters;
use crate::runtime::Runtimes;
use crate::sandboxes::Sandboxes;
use crate::settings::Settings;
use crate::worker::Workers;
use client::{Client, ClientError};
use model::image::Platform;
use model::{Network, NodeId, Offer};
use sandbox::{SandboxError, Spawner};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why a node did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its folder.
    #[error("the node's folder `{path}` cannot be used")]
    Folder {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// Its spawner.
    #[error("the spawner of sandboxes cannot be started")]
    Spawner(#[from] SandboxError),
    /// Its cache.
    #[error("the cache cannot be opened")]
    Cache(#[from] CacheError),
    /// Whom it asks for modules.
    #[error("the debuginfod servers cannot be used")]
    Debuginfod(#[from] DebuginfodError),
    /// The server does not want it.
    #[error("the server refused this node")]
    Refused(#[source] Box<ClientError>),
    /// The spawner died.
    #[error("the spawner of sandboxes died, and all sandboxes with it")]
    SpawnerGone,
    /// A task of its own died.
    #[error("a task of the node broke: {0}")]
    Broken(String),
}

/// A node that is ready to join.
pub struct Agent {
    shop: Arc<Shop>,
    client: Client,
    id: NodeId,
    offer: Offer,
    notes: Vec<String>,
    joined: watch::Sender<Option<NodeId>>,
    /// The folder is this node's while this is open.
    claim: File,
}

impl Agent {
    /// Opens the node's folder, starts its spawner and finds out what the machine can do. Speaks with nobody yet.
    pub async fn open(settings: Settings, client: Client) -> Result<Self, NodeError> {
        let folder = |source| NodeError::Folder { path: settings.state.display().to_string(), source };
        let id = settings.identity().map_err(folder)?;
        // What is mounted is named by whole paths.
        let state = fs::canonicalize(&settings.state).map_err(folder)?;
        let settings = Settings { state, ..settings };
        let claim = settings
            .claim()
            .map_err(|source| NodeError::Folder { path: settings.state.display().to_string(), source })?;
        let folder = |source| NodeError::Folder { path: settings.state.display().to_string(), source };
        let mut hidden = settings.hidden.clone();
        hidden.push(settings.state.clone());
        let spawning = sandbox::Settings {
            program: settings.helper.clone(),
            arguments: vec!["spawner".to_owned()],
            state: settings.state.join("spawner"),
            place: settings.place(),
            cells: settings.slots + settings.warm,
            hidden,
        };
        // That of a node which was killed a moment ago may still be putting things away.
        let starting = tokio::task::spawn_blocking(move || Spawner::start(&spawning));
        let (spawner, events) = starting.await.map_err(|error| NodeError::Broken(error.to_string()))??;
        let sandboxes = Sandboxes::new(spawner, events);
        let unpack = sandbox::unpack::Settings {
            program: settings.helper.clone(),
            ..sandbox::unpack::Settings::new(settings.place())
        };
        let layers =
            CacheSettings { folder: settings.state.join("layers"), budget_bytes: settings.cache_bytes, unpack };
        let cache = Cache::open(layers).await?;
        let files = Files::open(settings.state.join("files"), settings.cache_bytes / 4).map_err(folder)?;
        fresh(&settings.state.join(DUMPS)).map_err(folder)?;
        private(&settings.state.join(SYMBOLS)).map_err(folder)?;
        let runtimes = Runtimes::open(&settings).map_err(folder)?;
        let offer = offer(&settings, &sandboxes, &runtimes);
        let notes = [&sandboxes.abilities().notes, runtimes.notes()].concat();
        let workers = Workers::new(sandboxes.clone(), settings.warm, settings.slots + settings.warm);
        let (meters, networks) = (Meters::default(), TaskTracker::new());
        let debuginfod = settings.debuginfod().map(Debuginfod::open).transpose()?;
        let shop =
            Arc::new(Shop { settings, sandboxes, runtimes, workers, cache, files, debuginfod, meters, networks });
        Ok(Self { shop, client, id, offer, notes, joined: watch::Sender::new(None), claim })
    }

    /// Returns the node's id, which it keeps over restarts.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Returns what it offers.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Returns what this machine lacks, one clear sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns a view of the node's id, once it has joined.
    pub fn joined(&self) -> watch::Receiver<Option<NodeId>> {
        self.joined.subscribe()
    }

    /// Joins, and works until told to stop or drained by the server.
    pub async fn run(self, stop: CancellationToken) -> Result<(), NodeError> {
        let Self { shop, client, id, offer, joined, claim, .. } = self;
        let ended = Dispatcher::new(shop, client, id, offer, joined).run(stop).await;
        drop(claim);
        ended
    }
}

/// Makes a folder that nobody else on this machine may enter, unless it is there.
fn private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// Makes a folder of this process's own, without what an earlier one left in it.
fn fresh(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(folder)
}

fn offer(settings: &Settings, sandboxes: &Sandboxes, runtimes: &Runtimes) -> Offer {
    let abilities = sandboxes.abilities();
    let mut networks = abilities.networks.clone();
    networks.retain(|network| *network != Network::Host || settings.host_network);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Offer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        platform: platform(),
        kinds: abilities.kinds.clone(),
        networks,
        runtimes: runtimes.names(),
        slots: settings.slots,
        cpu_milli: u32::try_from(cores * 1_000).unwrap_or(u32::MAX),
        memory_bytes: memory_bytes().unwrap_or(0),
        enforces: abilities.limits,
        mounts: settings.mounts.iter().map(ToString::to_string).collect(),
        labels: settings.labels.clone(),
    }
}

/// Returns this machine's platform by the words that registries use.
pub(crate) fn platform() -> Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", Some("v8".to_owned())),
        other => (other, None),
    };
    Platform { os: std::env::consts::OS.to_owned(), architecture: architecture.to_owned(), variant }
}

/// Returns the machine's memory, as the kernel tells it.
fn memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
