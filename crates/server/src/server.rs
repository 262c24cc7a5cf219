//! The server's life: open the store, open the house, listen; and the way back, in which nothing is lost.
//!
//! Told to stop it takes no more connections, lets go of whoever waits for changes, gives requests that are under way
//! their time, then writes what waits and lets go of the database.

use crate::app::{App, Parts};
use crate::body::Hearing;
use crate::caller::Known;
use crate::chunk::Followers;
use crate::config::{Config, Database, Synchronous};
use crate::connection::Bounded;
use crate::credential::Credential;
use crate::dump::Manifests;
use crate::issuer::{IssuerError, Issuers};
use crate::log::Log;
use crate::rate::Rates;
use crate::seal::{Seal, SealError};
use crate::session::{self, Sessions};
use crate::tls::{POLL_EVERY, Tls, TlsError};
use crate::{analysis, analyzer, openapi, parcel, retention};
use axum_server::Handle;
use axum_server::accept::DefaultAcceptor;
use axum_server::tls_rustls::RustlsAcceptor;
use futures_util::FutureExt;
use hyper_util::rt::TokioTimer;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use model::tenant::HOUSE;
use model::user::UserState;
use model::{Role, Scope, Tenant, TenantId, Token, User, UserId};
use std::fs::{DirBuilder, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixListener};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::blob::{BlobConfig, BlobError, Blobs};
use store::{Bearer, Clock, Place, Store, StoreConfig, StoreError, TenantKey, TokenRow, UserKey, chain, random};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Bytes that a connection gathers before they are looked at, those of a request's head among them. Left to
/// itself it may grow to 400 KiB.
const CONNECTION_BYTES: usize = 64 << 10;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    /// The blobs.
    #[error("the place for blobs cannot be opened")]
    Blob(#[from] BlobError),
    /// A trusted issuer.
    #[error("the trusted issuers cannot be read")]
    Issuer(#[from] IssuerError),
    /// What secrets are sealed with.
    #[error("the key that secrets are sealed with cannot be read")]
    Seal(#[from] SealError),
    /// The certificate.
    #[error("the certificate cannot be used")]
    Tls(#[from] TlsError),
    /// The socket for the node in the same process.
    #[error("the socket for the node in `{folder}` cannot be made")]
    Inside {
        /// The folder it was to lie in.
        folder: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The address.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    /// The address it listens on.
    pub address: SocketAddr,
    /// The first admin's credential, when this start made the house. It is not kept anywhere.
    pub first_credential: Option<String>,
    app: App,
    /// Bound and not yet served; whoever connects meanwhile waits.
    listener: Option<TcpListener>,
    tls: Option<Arc<Tls>>,
    handle: Handle<SocketAddr>,
    inside: Handle<UnixSocketAddr>,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Returns where the store is, by a configuration.
pub fn store_config(config: &Config) -> StoreConfig {
    let place = match &config.store.database {
        Database::Sqlite => Place::Folder(config.server.data.clone()),
        Database::Postgres(url) => Place::Postgres { url: url.expose().to_owned(), readers: config.store.pool_size },
    };
    let synchronous = match config.store.synchronous {
        Synchronous::Full => store::Synchronous::Full,
        Synchronous::Normal => store::Synchronous::Normal,
    };
    StoreConfig { synchronous, ..StoreConfig::new(place) }
}

/// Returns where blobs are kept, by a configuration.
pub fn blob_config(config: &Config) -> BlobConfig {
    let blob = &config.blob;
    match blob.bucket() {
        None => BlobConfig::Local { folder: config.server.data.join("blob") },
        Some((bucket, prefix)) => BlobConfig::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: blob.endpoint.clone(),
            region: blob.region.clone().unwrap_or_else(|| "us-east-1".to_owned()),
            access_key_id: blob.access_key_id.clone().unwrap_or_default(),
            secret_access_key: blob.secret_access_key.as_ref().map(|key| key.expose().to_owned()).unwrap_or_default(),
            allow_http: blob.allow_http,
        },
    }
}

impl Server {
    /// Opens everything and binds the address, but does not serve yet. `log` is what the log routes change; without one
    /// they say so.
    pub async fn open(config: Config, log: Option<Log>, clock: Clock) -> Result<Self, StartError> {
        let store = Store::open(&store_config(&config), clock.now()).await?;
        match Self::open_with(config, log, clock, store.clone()).await {
            Ok(server) => Ok(server),
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    /// Opens everything and serves at once.
    pub async fn start(config: Config, log: Option<Log>, clock: Clock) -> Result<Self, StartError> {
        let mut server = Self::open(config, log, clock).await?;
        server.serve()?;
        Ok(server)
    }

    async fn open_with(config: Config, log: Option<Log>, clock: Clock, store: Store) -> Result<Self, StartError> {
        let blobs = Blobs::open(blob_config(&config))?;
        let tls = config.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
        let address = config.server.listen;
        let listener = listen(address).map_err(|source| StartError::Listen { address, source })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen { address, source })?;
        let issuers = Issuers::load(&config.issuers)?;
        let seal = Seal::open(&config.server)?;
        // This comes last: the credential of a start that failed would never be shown.
        let first_credential = open_house(&store, &clock).await?;
        let app = App::new(Parts {
            issuers,
            rates: Rates::new(&config.rate),
            known: Known::default(),
            sessions: Sessions::default(),
            followers: Followers::default(),
            hearing: Hearing::default(),
            manifests: Manifests::default(),
            arrivals: Notify::default(),
            removing: Mutex::default(),
            analysed: Notify::default(),
            seal,
            metrics: metrics_handle(),
            stop: CancellationToken::new(),
            config,
            store,
            blobs,
            log,
            clock,
        });
        let (listener, handle, tasks) = (Some(listener), Handle::new(), JoinSet::new());
        let inside = Handle::new();
        let mut server = Self { address, first_credential, listener, tls, handle, inside, tasks, app };
        server.spawn_controllers();
        Ok(server)
    }

    fn spawn_controllers(&mut self) {
        self.control("retention", |app| {
            retention::run(app.store.clone(), app.config.retention.clone(), app.clock.clone(), app.stop.clone())
        });
        self.control("blobs", look_at_blobs);
        self.control("parcels", parcel::run);
        self.control("analyses", analysis::run);
        self.control("arrivals", analyzer::arrival::run);
        self.control("sessions", session::watch::run);
        self.control("log levels", async |app: App| {
            if let Some(log) = &app.log {
                log.run(app.stop.clone()).await;
            }
        });
    }

    fn control<F>(&mut self, controller: &'static str, run: impl Fn(App) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (app, stop) = (self.app.clone(), self.app.stop.clone());
        self.tasks.spawn(kept_up(controller, stop, move || run(app.clone())));
    }

    /// Serves whoever connects, from now on. Whoever finds the server ready then finds all that its start made.
    pub fn serve(&mut self) -> Result<(), StartError> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let address = self.address;
        let failed = |source| StartError::Listen { address, source };
        let service = openapi::router(&self.app).into_make_service_with_connect_info::<SocketAddr>();
        let config = &self.app.config.server;
        let (header_timeout, connections_max) = (config.header_timeout, config.connections_max);
        let handle = self.handle.clone();
        macro_rules! serve {
            ($acceptor:expr) => {{
                // Whoever may also speak HTTP/2 is waited for without end until the first bytes have told which it is.
                let server = axum_server::from_tcp(listener).map_err(failed)?.acceptor($acceptor).http1_only();
                let mut server = server.handle(handle);
                let http = server.http_builder();
                http.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(CONNECTION_BYTES);
                self.tasks.spawn(async move {
                    if let Err(error) = server.serve(service).await {
                        tracing::error!(%error, "the listener ended");
                    }
                })
            }};
        }
        match self.tls.clone() {
            None => serve!(Bounded::new(DefaultAcceptor::new(), connections_max)),
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(tls.served()).handshake_timeout(header_timeout);
                let stop = self.app.stop.clone();
                self.tasks.spawn(tls.watch(POLL_EVERY, stop));
                serve!(Bounded::new(acceptor, connections_max))
            }
        };
        Ok(())
    }

    /// Serves the node of this process on a socket in the data folder, which leaves TLS and addresses out of it; returns
    /// where it is to be found, in this process only.
    pub fn serve_inside(&mut self) -> Result<PathBuf, StartError> {
        let folder = self.app.config.server.data.join("inside");
        let failed = |source| StartError::Inside { folder: folder.display().to_string(), source };
        let open = || {
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            DirBuilder::new().mode(0o700).create(&folder)?;
            let opened = File::open(&folder)?;
            // A socket's path is short or refused; this one is, wherever the folder lies.
            let path = PathBuf::from(format!("/proc/self/fd/{}/node", opened.as_raw_fd()));
            let listener = UnixListener::bind(&path)?;
            listener.set_nonblocking(true)?;
            Ok((opened, path, listener))
        };
        let (opened, path, listener) = open().map_err(failed)?;
        let server = axum_server::from_unix(listener).map_err(failed)?;
        let mut server = server.handle(self.inside.clone());
        server.http_builder().http1().timer(TokioTimer::new()).max_buf_size(CONNECTION_BYTES);
        let service = openapi::router(&self.app).into_make_service();
        self.tasks.spawn(async move {
            if let Err(error) = server.serve(service).await {
                tracing::error!(%error, "the socket for the node inside ended");
            }
            drop(opened);
        });
        Ok(path)
    }

    /// Returns a new credential for the house's first admin: whoever starts the server may always come in.
    pub async fn admin_credential(&self) -> Result<String, StoreError> {
        let store = &self.app.store;
        let tenant = store.tenant_get(TenantKey::Name(HOUSE.to_owned())).await?;
        let admin = store.user_get(UserKey::Name(FIRST_ADMIN.to_owned()), tenant.id).await?;
        let (row, secret) = new_token(&tenant, &admin, "start", self.app.clock.now());
        store.token_create(row, "quarry").await?;
        Ok(secret)
    }

    /// Returns the credential of the node in this process, good for being a node and for nothing else. It is kept nowhere
    /// and ends with the process; one server makes one.
    pub async fn node_credential(&self) -> Result<String, StoreError> {
        let store = &self.app.store;
        let tenant = store.tenant_get(TenantKey::Name(HOUSE.to_owned())).await?;
        let user = store.user_get(UserKey::Name(FIRST_ADMIN.to_owned()), tenant.id).await?;
        let (mut row, secret) = new_token(&tenant, &user, "node inside", self.app.clock.now());
        row.token.scopes = vec![Scope::NodeRun];
        // No use of it is noted: there is no row to note it in.
        row.token.used_at = Some(jiff::Timestamp::MAX);
        self.app.known.admit(Bearer { row, user, tenant });
        Ok(secret)
    }

    /// Tells whether it speaks TLS.
    pub fn speaks_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads the certificate and the issuers' keys again; what cannot be read is logged, and the old ones stay.
    pub async fn reload(&self) {
        let (app, tls) = (self.app.clone(), self.tls.clone());
        let work = move || (app.issuers.reload(), tls.map_or(Ok(()), |tls| tls.reload()));
        let Ok((issuers, tls)) = tokio::task::spawn_blocking(work).await else { return };
        for error in issuers {
            tracing::error!(error = chain(&error), "an issuer's keys could not be read again; the old ones stay");
        }
        if let Err(error) = tls {
            tracing::error!(error = chain(&error), "the certificate could not be read again; the old one stays");
        }
    }

    /// Returns the store, for whoever runs in the same process.
    pub fn store(&self) -> &Store {
        &self.app.store
    }

    /// Stops in order; returns once everything is written and closed.
    pub async fn stop(mut self) {
        let drain = self.app.config.server.drain_timeout;
        self.handle.graceful_shutdown(Some(drain));
        self.inside.graceful_shutdown(Some(drain));
        self.app.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the server did not end in order");
            }
        }
        self.app.store.close().await;
    }
}

/// Runs a controller until it ends. One that panics is told in the log and begins again a moment later, which all of them
/// can: one code path is for normal, restart and repair.
async fn kept_up<F: Future<Output = ()>>(controller: &'static str, stop: CancellationToken, run: impl Fn() -> F) {
    /// How long one that panicked rests.
    const REST: Duration = Duration::from_secs(1);
    while AssertUnwindSafe(run()).catch_unwind().await.is_err() {
        tracing::error!(controller, "a controller of the server panicked; it begins again");
        if stop.run_until_cancelled(tokio::time::sleep(REST)).await.is_none() {
            return;
        }
    }
}

/// Listens so that a restart does not have to wait for connections of before to be forgotten.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The name of the house's first user.
const FIRST_ADMIN: &str = "admin";

fn new_token(tenant: &Tenant, user: &User, name: &str, now: jiff::Timestamp) -> (TokenRow, String) {
    let credential = Credential::new(None, now);
    let token = Token {
        id: credential.id,
        tenant: tenant.id,
        user: user.id,
        name: name.to_owned(),
        scopes: Vec::new(),
        created_at: now,
        expires_at: None,
        used_at: None,
        revoked_at: None,
    };
    (TokenRow { token, hash: credential.hash() }, credential.to_string())
}

/// Makes the house's tenant, first admin and their token if nothing was ever made here; returns the credential.
async fn open_house(store: &Store, clock: &Clock) -> Result<Option<String>, StoreError> {
    let now = clock.now();
    let tenant = Tenant { id: TenantId::new(now, random()), name: HOUSE.to_owned(), runtime: None, created_at: now };
    let admin = User {
        id: UserId::new(now, random()),
        tenant: tenant.id,
        name: FIRST_ADMIN.to_owned(),
        role: Role::Admin,
        state: UserState::Active,
        created_at: now,
    };
    let (row, secret) = new_token(&tenant, &admin, "first", now);
    Ok(store.house_open(tenant, admin, row).await?.then_some(secret))
}

/// Says what the place for blobs can do, and clears away what broken-off uploads left there.
async fn look_at_blobs(app: App) {
    /// An upload that is still going on is younger than this.
    const LEFT: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);
    /// How often to clear away.
    const EVERY: Duration = Duration::from_secs(3600);
    match app.stop.run_until_cancelled(app.blobs.probe()).await {
        None => return,
        Some(Ok(able)) => tracing::info!(
            place = able.place,
            write_us = able.write_us,
            conditional_put = able.conditional_put.works,
            multipart = able.multipart.works,
            range_reads = able.range_reads.works,
            "looked at the place for blobs"
        ),
        Some(Err(error)) => {
            tracing::error!(error = chain(&error), "the place for blobs does not work; uploads will fail");
        }
    }
    loop {
        match app.stop.run_until_cancelled(app.blobs.sweep(app.clock.now() - LEFT)).await {
            None => return,
            Some(Ok(swept)) => tracing::debug!(?swept, "cleared away what uploads left"),
            Some(Err(error)) => tracing::warn!(error = chain(&error), "what uploads left could not be cleared away"),
        }
        if app.stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}

/// Returns the process's counters, set up on first use: there is one set of them per process.
fn metrics_handle() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let set_up = || {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::debug!("another recorder counts in this process");
        }
        handle
    };
    HANDLE.get_or_init(set_up).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_controller_that_panics_begins_again() {
        let runs = AtomicUsize::new(0);
        let run = async || assert!(runs.fetch_add(1, Ordering::Relaxed) > 0, "the first time it panics");
        kept_up("test", CancellationToken::new(), run).await;
        assert_eq!(runs.into_inner(), 2);
    }
}
