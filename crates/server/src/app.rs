//! What every handler shares: the store, the rules, the clock. Made once by the server, never changed.

use crate::body::Hearing;
use crate::caller::Known;
use crate::chunk::Followers;
use crate::config::Config;
use crate::dump::Manifests;
use crate::issuer::Issuers;
use crate::log::Log;
use crate::rate::Rates;
use crate::seal::Seal;
use crate::session::Sessions;
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::Arc;
use store::blob::Blobs;
use store::{Clock, Store};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

/// What every handler shares.
#[derive(Clone)]
pub(crate) struct App {
    inner: Arc<Parts>,
}

/// The parts themselves.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) blobs: Blobs,
    pub(crate) issuers: Issuers,
    pub(crate) rates: Rates,
    pub(crate) known: Known,
    pub(crate) log: Option<Log>,
    pub(crate) clock: Clock,
    pub(crate) sessions: Sessions,
    pub(crate) followers: Followers,
    pub(crate) hearing: Hearing,
    pub(crate) manifests: Manifests,
    /// Rung when a dump has come that nobody has looked into.
    pub(crate) arrivals: Notify,
    /// Held by whoever removes content, so that who asked for it answers when it is gone.
    pub(crate) removing: Mutex<()>,
    /// Rung when a dump has been analysed.
    pub(crate) analysed: Notify,
    pub(crate) seal: Seal,
    pub(crate) metrics: PrometheusHandle,
    /// Cancelled when the server is told to stop: whoever waits for changes is let go.
    pub(crate) stop: CancellationToken,
}

impl App {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { inner: Arc::new(parts) }
    }
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.inner
    }
}
