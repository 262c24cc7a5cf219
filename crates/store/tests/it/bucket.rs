//! A real S3 server in the test's own process: `s3s-fs` behind a socket of the loopback, checking its access key.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, HttpRequest, HttpResponse};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use store::blob::BlobConfig;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const BUCKET: &str = "quarry";
const PREFIX: &str = "some/prefix";
const ACCESS_KEY: &str = "AKTEST";
pub(crate) const SECRET_KEY: &str = "a-very-secret-text";

/// A bucket that lives as long as this does.
pub(crate) struct Bucket {
    address: String,
    folder: tempfile::TempDir,
    watched: Watched,
    /// Aborted when dropped.
    _server: JoinSet<()>,
}

impl Bucket {
    pub(crate) async fn serve() -> Self {
        Self::serve_except(|_| false).await
    }

    /// Serves a bucket that refuses what `refuse` says, given a description like `PUT x-id=… copy`.
    pub(crate) async fn serve_except(refuse: fn(&str) -> bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket is a folder");
        let files = s3s_fs::FileSystem::new(folder.path()).expect("the folder can be served");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let watched = Watched { inner: builder.build(), refuse, part_bytes: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port can be bound");
        let address = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let mut server = JoinSet::new();
        server.spawn(accept(listener, watched.clone()));
        Self { address, folder, watched, _server: server }
    }

    pub(crate) fn config(&self, secret: &str) -> BlobConfig {
        config(&self.address, secret)
    }

    /// Returns where everything lies that the server keeps.
    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Returns where the objects below our prefix lie.
    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.path().join(BUCKET).join(PREFIX)
    }

    /// Returns how many bytes of parts have been taken in.
    pub(crate) fn part_bytes(&self) -> u64 {
        self.watched.part_bytes.load(Ordering::SeqCst)
    }
}

/// Returns the configuration of a bucket at `address`.
pub(crate) fn config(address: &str, secret: &str) -> BlobConfig {
    BlobConfig::S3 {
        bucket: BUCKET.into(),
        prefix: PREFIX.into(),
        endpoint: Some(address.into()),
        region: "eu-test-1".into(),
        access_key_id: ACCESS_KEY.into(),
        secret_access_key: secret.into(),
        allow_http: address.starts_with("http://"),
    }
}

async fn accept(listener: TcpListener, watched: Watched) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let service = TowerToHyperService::new(watched.clone());
        connections.spawn(async move {
            // A client that goes away in the middle is part of the tests.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

/// The server, counted and made to refuse some requests.
#[derive(Clone)]
struct Watched {
    inner: S3Service,
    refuse: fn(&str) -> bool,
    part_bytes: Arc<AtomicU64>,
}

impl<B> tower::Service<HttpRequest<B>> for Watched
where
    B: Send + 'static,
    S3Service: tower::Service<HttpRequest<B>, Response = HttpResponse, Error = HttpError>,
    <S3Service as tower::Service<HttpRequest<B>>>::Future: Send,
{
    type Response = HttpResponse;
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<B>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let copy = if request.headers().contains_key("x-amz-copy-source") { "copy" } else { "" };
        if (self.refuse)(&format!("{} {query} {copy}", request.method())) {
            let mut response = HttpResponse::new(Body::empty());
            *response.status_mut() = 400.try_into().expect("a status");
            return Box::pin(std::future::ready(Ok(response)));
        }
        let length = request.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let length = if query.contains("partNumber=") { length.unwrap_or(0) } else { 0 };
        let part_bytes = self.part_bytes.clone();
        let answer = tower::Service::call(&mut self.inner, request);
        Box::pin(async move {
            let response = answer.await;
            part_bytes.fetch_add(length, Ordering::SeqCst);
            response
        })
    }
}
