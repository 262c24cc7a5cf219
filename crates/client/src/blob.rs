//! Blobs: list, look, put, get. Content is streamed both ways and never held whole.
//!
//! A put by digest can be sent again, since its content can be read again; a put without a digest cannot. Content that
//! cannot be read to its end is the fault of this side, and nothing is sent again for it. A get that breaks off is taken up
//! where it broke, and a whole blob is hashed while it arrives: the last piece is handed out only if all pieces together are
//! what was asked for.

use crate::request::{Again, Backoff, Fault, MAX_ANSWER, MAX_SILENCE, Replay};
use crate::{Client, ClientError};
use bytes::Bytes;
use futures_util::{Stream, stream};
use model::node::Held;
use model::parcel::Parcel;
use model::{Blob, Digest, ErrorKind, Page, PageQuery, Purpose, SessionId};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, RANGE};
use reqwest::{Body, Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Bytes of a piece that is read, hashed and sent at once.
const PIECE_BYTES: usize = 256 << 10;

/// The header that says what a tenant has a blob for.
const PURPOSE: &str = "quarry-purpose";

/// What is known of a blob that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// How long it is.
    pub size: u64,
    /// What the tenant has it for. What it has for an image only must be stored again by whoever wants to keep it.
    pub purpose: Purpose,
}

/// Content that can be read as often as needed.
#[derive(Clone, Debug)]
pub enum Content {
    /// Held in memory.
    Bytes(Bytes),
    /// Stands in a file. If it becomes shorter meanwhile, the sending fails with `UnexpectedEof`; what is added to it
    /// is not sent.
    File(PathBuf),
}

/// Told how many bytes have been handed to the network so far; falls back when a request is sent again.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// What is known of a body while it is on its way.
#[derive(Clone, Default)]
struct Flow {
    sent: Arc<AtomicU64>,
    /// Why it could not be read on; whoever sends it only learns that it ended.
    broken: Arc<Mutex<Option<io::Error>>>,
}

/// A part of a blob: from its first byte to its last, both included; no last means to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: Option<u64>,
}

/// By what right a node touches the blobs of an execution's tenant: it holds this attempt under this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The attempt.
    pub held: Held,
    /// The session.
    pub session: SessionId,
}

/// Where a blob is asked for.
#[derive(Clone, Debug)]
struct Address {
    path: String,
    query: Vec<(&'static str, String)>,
}

impl Content {
    /// Returns the digest and the length of the content.
    pub async fn digest(&self) -> io::Result<(Digest, u64)> {
        match self {
            Self::Bytes(bytes) => Ok((Digest::from_bytes(*blake3::hash(bytes).as_bytes()), bytes.len() as u64)),
            Self::File(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || digest_of_file(&path)).await.map_err(io::Error::other)?
            }
        }
    }

    async fn body(&self, size: u64, flow: &Flow, progress: &Progress) -> io::Result<Body> {
        flow.sent.store(0, Ordering::Relaxed);
        let size = Some(size);
        Ok(match self {
            Self::Bytes(bytes) => Body::wrap_stream(pieces(io::Cursor::new(bytes.clone()), size, flow, progress)),
            Self::File(path) => Body::wrap_stream(pieces(tokio::fs::File::open(path).await?, size, flow, progress)),
        })
    }
}

impl Flow {
    /// Notes why the body could not be read, and returns what to tell whoever sends it.
    fn breaks(&self, error: io::Error) -> io::Error {
        let told = io::Error::new(error.kind(), error.to_string());
        *self.broken.lock().expect("nobody panics who holds it") = Some(error);
        told
    }

    /// Returns what a request failed of: of its own body, if that could not be read.
    fn blame(&self, fault: Fault) -> Fault {
        let broken = self.broken.lock().expect("nobody panics who holds it").take();
        broken.map_or(fault, |error| ClientError::Content(error).into())
    }
}

fn said(purpose: Purpose) -> (&'static str, String) {
    ("purpose", purpose.as_str().to_owned())
}

fn digest_of_file(path: &Path) -> io::Result<(Digest, u64)> {
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut buffer, mut size) = (blake3::Hasher::new(), vec![0; PIECE_BYTES], 0);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((Digest::from_bytes(*hasher.finalize().as_bytes()), size));
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

/// Turns a reader into a stream of pieces that counts what it hands out; of a known length, if one is said.
fn pieces(
    reader: impl AsyncRead + Unpin + Send + 'static,
    size: Option<u64>,
    flow: &Flow,
    progress: &Progress,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let state = (reader, size, flow.clone(), progress.clone());
    stream::try_unfold(state, |(mut reader, left, flow, progress)| async move {
        let piece = piece(&mut reader, left).await.map_err(|error| flow.breaks(error))?;
        if piece.is_empty() {
            return Ok(None);
        }
        let count = piece.len() as u64;
        progress(flow.sent.fetch_add(count, Ordering::Relaxed) + count);
        Ok(Some((piece, (reader, left.map(|left| left - count), flow, progress))))
    })
}

/// Reads the next piece, which is empty at the end; the end may not come before what is left of a known length.
async fn piece(reader: &mut (impl AsyncRead + Unpin), left: Option<u64>) -> io::Result<Bytes> {
    let mut buffer = bytes::BytesMut::with_capacity(PIECE_BYTES);
    reader.take(left.unwrap_or(u64::MAX)).read_buf(&mut buffer).await?;
    if buffer.is_empty() && left.is_some_and(|left| left > 0) {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was sent"));
    }
    Ok(buffer.freeze())
}

impl Client {
    /// Returns a page of the tenant's blobs.
    pub async fn blob_list(&self, query: &PageQuery) -> Result<Page<Blob>, ClientError> {
        self.list("/v1/blobs", query).await
    }

    /// Returns the length of a blob, or nothing when the tenant does not have it.
    pub async fn blob_size(&self, digest: Digest) -> Result<Option<u64>, ClientError> {
        Ok(self.blob_find(digest).await?.map(|found| found.size))
    }

    /// Returns what is known of a blob, or nothing when the tenant does not have it.
    pub async fn blob_find(&self, digest: Digest) -> Result<Option<Found>, ClientError> {
        self.retried(Replay::Safe, || async move {
            let request = self.request(Method::HEAD, &blob_path(digest)).query(&self.tenant_query());
            match self.send(request.timeout(MAX_ANSWER)).await {
                Ok(response) => {
                    let word = response.headers().get(PURPOSE).and_then(|purpose| purpose.to_str().ok());
                    let is = |purpose: &Purpose| word == Some(purpose.as_str());
                    let purpose = [Purpose::Image, Purpose::Execution].into_iter().find(is).unwrap_or_default();
                    Ok(Some(Found { size: size_of(&self.url, &response)?, purpose }))
                }
                Err(Fault { error, .. }) if error.api().is_some_and(|api| api.kind == ErrorKind::NotFound) => Ok(None),
                Err(fault) => Err(fault),
            }
        })
        .await
    }

    /// Stores content under its digest; it is sent again if the connection breaks.
    pub async fn blob_put(
        &self,
        digest: Digest,
        size: u64,
        content: &Content,
        progress: Progress,
    ) -> Result<Blob, ClientError> {
        self.blob_put_at(&self.blob_address(digest), size, content, progress).await
    }

    /// Stores content under its digest for an image or an execution, with which it goes.
    pub async fn blob_put_for(
        &self,
        purpose: Purpose,
        digest: Digest,
        size: u64,
        content: &Content,
        progress: Progress,
    ) -> Result<Blob, ClientError> {
        let mut address = self.blob_address(digest);
        address.query.push(said(purpose));
        self.blob_put_at(&address, size, content, progress).await
    }

    /// Stores content for the tenant of an execution that a node holds.
    pub async fn execution_blob_put(
        &self,
        fence: Fence,
        digest: Digest,
        size: u64,
        content: &Content,
    ) -> Result<Blob, ClientError> {
        self.blob_put_at(&fence.address(digest), size, content, Arc::new(|_| ())).await
    }

    /// Stores a parcel for the tenant of an execution that a node holds.
    pub async fn execution_parcel_put(
        &self,
        fence: Fence,
        digest: Digest,
        parcel: Bytes,
    ) -> Result<Parcel, ClientError> {
        let path = format!("/v1/executions/{}/parcels/{digest}", fence.held.execution);
        let (address, size) = (Address { path, query: fence.query() }, parcel.len() as u64);
        self.blob_put_at(&address, size, &Content::Bytes(parcel), Arc::new(|_| ())).await
    }

    /// Opens a blob of the tenant of an execution that a node holds.
    pub async fn execution_blob_get(&self, fence: Fence, digest: Digest) -> Result<BlobReader, ClientError> {
        self.blob_get_at(fence.address(digest), digest, None).await
    }

    /// Opens a part of a blob of the tenant of an execution that a node holds: of a parcel, a few frames.
    pub async fn execution_blob_part(
        &self,
        fence: Fence,
        digest: Digest,
        range: ByteRange,
    ) -> Result<BlobReader, ClientError> {
        self.blob_get_at(fence.address(digest), digest, Some(range)).await
    }

    async fn blob_put_at<T: DeserializeOwned>(
        &self,
        address: &Address,
        size: u64,
        content: &Content,
        progress: Progress,
    ) -> Result<T, ClientError> {
        let (flow, progress) = (&Flow::default(), &progress);
        self.retried(Replay::Safe, || async move {
            let body = content.body(size, flow, progress).await.map_err(ClientError::Content)?;
            let request = self.request(Method::PUT, &address.path).query(&address.query).header(CONTENT_LENGTH, size);
            self.upload(request.body(body), flow).await
        })
        .await
    }

    /// Stores content at a path that names it.
    pub(crate) async fn put_named<T: DeserializeOwned>(
        &self,
        path: &str,
        content: &Content,
        size: u64,
        progress: Progress,
    ) -> Result<T, ClientError> {
        self.blob_put_at(&self.address(path.to_owned()), size, content, progress).await
    }

    /// Opens what stands at a path and has this digest, or a part of it.
    pub(crate) async fn get_named(
        &self,
        path: String,
        digest: Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader, ClientError> {
        self.blob_get_at(self.address(path), digest, range).await
    }

    fn blob_address(&self, digest: Digest) -> Address {
        self.address(blob_path(digest))
    }

    fn address(&self, path: String) -> Address {
        let query = self.tenant_query().into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        Address { path, query }
    }

    /// Stores content that can be read only once; the server tells its digest.
    pub async fn blob_post(
        &self,
        reader: impl AsyncRead + Unpin + Send + 'static,
        progress: Progress,
    ) -> Result<Blob, ClientError> {
        self.blob_post_with(reader, progress, &[]).await
    }

    /// Stores content that can be read only once for an image or an execution, with which it goes.
    pub async fn blob_post_for(
        &self,
        purpose: Purpose,
        reader: impl AsyncRead + Unpin + Send + 'static,
        progress: Progress,
    ) -> Result<Blob, ClientError> {
        self.blob_post_with(reader, progress, &[said(purpose)]).await
    }

    async fn blob_post_with(
        &self,
        reader: impl AsyncRead + Unpin + Send + 'static,
        progress: Progress,
        query: &[(&'static str, String)],
    ) -> Result<Blob, ClientError> {
        let flow = Flow::default();
        let body = Body::wrap_stream(pieces(reader, None, &flow, &progress));
        let request = self.request(Method::POST, "/v1/blobs").query(&self.tenant_query()).query(query).body(body);
        self.upload(request, &flow).await.map_err(|fault| fault.error)
    }

    /// Sends a request with a long body, watching that it moves.
    async fn upload<T: DeserializeOwned>(&self, request: RequestBuilder, flow: &Flow) -> Result<T, Fault> {
        let request = request.header(CONTENT_TYPE, "application/octet-stream");
        let stalled = async {
            let mut before = u64::MAX;
            loop {
                let now = flow.sent.load(Ordering::Relaxed);
                if now == before {
                    return;
                }
                before = now;
                tokio::time::sleep(MAX_ANSWER).await;
            }
        };
        let stored = async {
            let response = self.send(request).await?;
            self.read(response).await
        };
        tokio::select! {
            stored = stored => stored.map_err(|fault| flow.blame(fault)),
            () = stalled => Err(Fault {
                error: ClientError::unreachable(&self.url, "the upload does not move"),
                again: Again::Unreachable,
            }),
        }
    }

    /// Opens a blob, or a part of it, for reading.
    pub async fn blob_get(&self, digest: Digest, range: Option<ByteRange>) -> Result<BlobReader, ClientError> {
        self.blob_get_at(self.blob_address(digest), digest, range).await
    }

    async fn blob_get_at(
        &self,
        address: Address,
        digest: Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader, ClientError> {
        let mut reader = BlobReader {
            client: self.clone(),
            address,
            digest,
            hasher: range.is_none().then(blake3::Hasher::new),
            offset: range.map_or(0, |range| range.first),
            last: range.and_then(|range| range.last),
            size: 0,
            response: None,
            backoff: None,
        };
        let response = {
            let reader = &reader;
            self.retried(Replay::Safe, || reader.open(range.is_some())).await?
        };
        let size = size_of(&self.url, &response)?;
        reader.size = size;
        reader.last = Some(reader.offset.saturating_add(size).saturating_sub(1));
        reader.response = Some(response);
        if size == 0 {
            reader.verify(&Bytes::new())?;
        }
        Ok(reader)
    }
}

/// A blob on its way here.
pub struct BlobReader {
    client: Client,
    address: Address,
    digest: Digest,
    /// There when the whole blob was asked for.
    hasher: Option<blake3::Hasher>,
    /// Where the next piece begins.
    offset: u64,
    /// The last byte wanted.
    last: Option<u64>,
    size: u64,
    response: Option<Response>,
    backoff: Option<Backoff>,
}

impl BlobReader {
    /// Returns how many bytes there are to read in all.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Returns the next piece, or nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if self.is_done() {
                return Ok(None);
            }
            match self.advance().await {
                Ok(piece) => {
                    self.backoff = None;
                    return Ok(Some(piece));
                }
                Err(fault) => {
                    self.response = None;
                    let backoff = self.backoff.get_or_insert_with(|| Backoff::new(self.client.retry));
                    let Some(pause) = backoff.pause(fault.again) else { return Err(fault.error) };
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Writes all of it into a file, which is whole and verified once this returns.
    pub async fn save(mut self, file: &mut tokio::fs::File) -> Result<(), ClientError> {
        while let Some(piece) = self.next().await? {
            file.write_all(&piece).await.map_err(ClientError::Content)?;
        }
        file.flush().await.map_err(ClientError::Content)
    }

    fn is_done(&self) -> bool {
        self.size == 0 || self.last.is_some_and(|last| self.offset > last)
    }

    async fn advance(&mut self) -> Result<Bytes, Fault> {
        let broken = |what: &'static str| Fault {
            error: ClientError::unreachable(&self.client.url, what),
            again: Again::Unreachable,
        };
        let response = match &mut self.response {
            Some(response) => response,
            none => none.insert(self.client.blob_open(&self.address, Some((self.offset, self.last))).await?),
        };
        let piece = match timeout(MAX_SILENCE, response.chunk()).await {
            Err(_) => return Err(broken("the download fell silent")),
            Ok(Ok(None)) => return Err(broken("the download broke off")),
            Ok(Err(error)) => return Err(self.client.lost(error)),
            Ok(Ok(Some(piece))) => piece,
        };
        let left = self.last.map_or(0, |last| last + 1 - self.offset);
        if piece.len() as u64 > left {
            return Err(ClientError::unexpected(&self.client.url, "more bytes came than were asked for").into());
        }
        self.offset += piece.len() as u64;
        self.verify(&piece)?;
        Ok(piece)
    }

    /// Hashes a piece, and after the last one compares.
    fn verify(&mut self, piece: &Bytes) -> Result<(), ClientError> {
        let is_done = self.is_done();
        let Some(hasher) = &mut self.hasher else { return Ok(()) };
        hasher.update(piece);
        if is_done {
            let found = Digest::from_bytes(*hasher.finalize().as_bytes());
            if found != self.digest {
                return Err(ClientError::Corrupt { expected: self.digest, found });
            }
        }
        Ok(())
    }

    async fn open(&self, is_part: bool) -> Result<Response, Fault> {
        self.client.blob_open(&self.address, is_part.then_some((self.offset, self.last))).await
    }
}

impl Client {
    async fn blob_open(&self, address: &Address, part: Option<(u64, Option<u64>)>) -> Result<Response, Fault> {
        let mut request = self.request(Method::GET, &address.path).query(&address.query);
        if let Some((first, last)) = part {
            let last = last.map(|last| last.to_string()).unwrap_or_default();
            request = request.header(RANGE, format!("bytes={first}-{last}"));
        }
        let silent = || Fault {
            error: ClientError::unreachable(&self.url, "no answer to the request for a blob"),
            again: Again::Unreachable,
        };
        let response = timeout(MAX_ANSWER, self.send(request)).await.map_err(|_| silent())??;
        let expected = if part.is_some() { 206 } else { 200 };
        if response.status().as_u16() != expected {
            let what = format!("it has status {} instead of {expected}", response.status().as_u16());
            return Err(ClientError::unexpected(&self.url, what).into());
        }
        Ok(response)
    }
}

impl Fence {
    fn address(&self, digest: Digest) -> Address {
        let path = format!("/v1/executions/{}/blobs/{digest}", self.held.execution);
        Address { path, query: self.query() }
    }

    fn query(&self) -> Vec<(&'static str, String)> {
        vec![("session", self.session.to_string()), ("attempt", self.held.attempt.to_string())]
    }
}

impl Client {
    /// Asks something by the right of the node that holds an execution.
    pub(crate) async fn ask_fenced<T: DeserializeOwned>(
        &self,
        fence: Fence,
        what: &str,
        query: &impl Serialize,
    ) -> Result<T, ClientError> {
        let path = format!("/v1/executions/{}/{what}", fence.held.execution);
        self.json(Replay::Safe, || self.request(Method::POST, &path).query(&fence.query()).json(query)).await
    }
}

fn blob_path(digest: Digest) -> String {
    format!("/v1/blobs/{digest}")
}

fn size_of(url: &str, response: &Response) -> Result<u64, ClientError> {
    let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    length.ok_or_else(|| ClientError::unexpected(url, "a blob came without its length"))
}
