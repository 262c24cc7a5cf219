//! Dumps on their way: cut here and sent in parcels, or fetched frame by frame and put together.
//!
//! Where frames are kept is a `Depot`: a tenant's own, by a user's token, or that of the tenant of an execution that a node
//! holds. Nothing is kept of how far a sending came: frames that are there already are not sent, so one that broke off is
//! simply begun again. A frame is packed before it is asked for, since its name is that of its packed bytes. While one
//! parcel is sent the next is gathered; with both, the frames on their way and the splitter's own, less than 64 MiB are
//! held. What is fetched is proved by its names, and the whole by its digest.

use bytes::Bytes;
use client::blob::{BlobReader, ByteRange, Fence};
use client::{Client, ClientError};
use dump::parcel::{Assembly, AssemblyError, Packed, SplitError};
use model::Digest;
use model::parcel::{
    Frame, FramePlace, FramePlaces, FrameQuery, FramesMissing, Index, MAX_ASKED_FRAMES, MAX_PARCEL_FRAMES, Manifest,
    Parcel,
};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet, block_in_place};

/// Bytes of a parcel, at most what the server writes at once: of a longer one the sender would hold more.
const PARCEL_BYTES: u64 = 3 << 20;
/// Frames, and bytes of them, that are asked for together.
const ASKED_FRAMES: usize = 1_024;
const ASKED_BYTES: usize = 1 << 20;
/// Frames between the splitter and whoever sends; there may be long ones among them.
const WAITING: usize = 2;
/// Bytes of neighbouring frames that are fetched at once.
const FETCHED_BYTES: u64 = 8 << 20;

/// Why a dump did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum ParcelError {
    /// The server did not take or give what it was asked for.
    #[error("the server did not do its part")]
    Client(#[from] ClientError),
    /// It could not be cut.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// It could not be put together.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    /// A frame of it is not there.
    #[error("frame `{0}` of the dump is not there")]
    Missing(Digest),
    /// What came is longer than what was asked for.
    #[error("{0} bytes came where at most {1} were asked for")]
    TooLong(u64, u64),
    /// A task of ours broke.
    #[error("the work on a dump was lost")]
    Lost(#[from] JoinError),
}

/// Where frames are kept.
pub trait Depot: Clone + Send + Sync + 'static {
    /// Returns those of some frames that are not there.
    fn missing(&self, query: &FrameQuery) -> impl Future<Output = Result<FramesMissing, ClientError>> + Send;

    /// Stores a parcel.
    fn put(&self, digest: Digest, parcel: Bytes) -> impl Future<Output = Result<Parcel, ClientError>> + Send;

    /// Says where frames stand.
    fn places(&self, query: &FrameQuery) -> impl Future<Output = Result<FramePlaces, ClientError>> + Send;

    /// Opens a part of a parcel.
    fn part(&self, parcel: Digest, range: ByteRange) -> impl Future<Output = Result<BlobReader, ClientError>> + Send;
}

impl Depot for Client {
    async fn missing(&self, query: &FrameQuery) -> Result<FramesMissing, ClientError> {
        self.frames_missing(query).await
    }

    async fn put(&self, digest: Digest, parcel: Bytes) -> Result<Parcel, ClientError> {
        self.parcel_put(digest, parcel, Arc::new(|_| ())).await
    }

    async fn places(&self, query: &FrameQuery) -> Result<FramePlaces, ClientError> {
        self.frame_places(query).await
    }

    async fn part(&self, parcel: Digest, range: ByteRange) -> Result<BlobReader, ClientError> {
        self.parcel_get(parcel, range).await
    }
}

/// The frames of the tenant of an execution that this node holds.
#[derive(Clone)]
pub(crate) struct Fenced {
    pub(crate) client: Client,
    pub(crate) fence: Fence,
}

impl Depot for Fenced {
    async fn missing(&self, query: &FrameQuery) -> Result<FramesMissing, ClientError> {
        self.client.execution_frames_missing(self.fence, query).await
    }

    async fn put(&self, digest: Digest, parcel: Bytes) -> Result<Parcel, ClientError> {
        self.client.execution_parcel_put(self.fence, digest, parcel).await
    }

    async fn places(&self, query: &FrameQuery) -> Result<FramePlaces, ClientError> {
        self.client.execution_frame_places(self.fence, query).await
    }

    async fn part(&self, parcel: Digest, range: ByteRange) -> Result<BlobReader, ClientError> {
        self.client.execution_blob_part(self.fence, parcel, range).await
    }
}

/// What hands frames on.
pub type Sink<'s> = &'s mut dyn FnMut(Packed) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// How much of a dump was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of frames that were not there before.
    pub bytes: u64,
    /// How many frames those were.
    pub frames: u64,
}

/// Cuts a dump, or hands on the frames of one that was cut, sends what is not there, and returns what the cutter returned.
/// `progress` is told how much was read.
pub async fn send<D: Depot, T: Send + 'static>(
    depot: &D,
    split: impl FnOnce(Sink<'_>) -> Result<T, SplitError> + Send + 'static,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(T, Sent), ParcelError> {
    let (ready, mut frames) = mpsc::channel(WAITING);
    let splitting = tokio::task::spawn_blocking(move || {
        split(&mut |packed| ready.blocking_send(packed).map_err(|_| "nobody takes frames any more".into()))
    });
    let mut sending = Sending::new(depot);
    let sent = async {
        while let Some(packed) = frames.recv().await {
            progress(packed.reached);
            sending.push(packed).await?;
        }
        sending.finish().await
    };
    let sent = sent.await;
    // A splitter that waits for us to take more finds that nobody does.
    drop(frames);
    let split = splitting.await?;
    // Why nobody took frames any more explains why cutting failed.
    let sent = sent?;
    Ok((split?, sent))
}

struct Sending<'d, D> {
    depot: &'d D,
    /// Frames that have not been asked for.
    unasked: Vec<Packed>,
    unasked_bytes: usize,
    /// The parcel that gathers.
    index: Index,
    parcel: Vec<Packed>,
    /// Frames that are not there yet but will be: in the parcel that gathers, and in the one under way.
    gathered: HashSet<Digest>,
    flying: HashSet<Digest>,
    flight: JoinSet<Result<Parcel, ClientError>>,
    sent: Sent,
}

impl<'d, D: Depot> Sending<'d, D> {
    fn new(depot: &'d D) -> Self {
        Self {
            depot,
            unasked: Vec::new(),
            unasked_bytes: 0,
            index: Index::default(),
            parcel: Vec::new(),
            gathered: HashSet::new(),
            flying: HashSet::new(),
            flight: JoinSet::new(),
            sent: Sent::default(),
        }
    }

    async fn push(&mut self, packed: Packed) -> Result<(), ParcelError> {
        self.unasked_bytes += packed.bytes.len();
        self.unasked.push(packed);
        if self.unasked.len() >= ASKED_FRAMES || self.unasked_bytes >= ASKED_BYTES {
            self.ask().await?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<Sent, ParcelError> {
        self.ask().await?;
        self.launch().await?;
        self.land().await?;
        Ok(self.sent)
    }

    /// Asks which of the waiting frames are not there, and puts those into the parcel.
    async fn ask(&mut self) -> Result<(), ParcelError> {
        self.unasked_bytes = 0;
        let waiting = std::mem::take(&mut self.unasked);
        let mut once = HashSet::new();
        let is_new = |digest: &Digest| !self.gathered.contains(digest) && !self.flying.contains(digest);
        let digests: Vec<_> = waiting
            .iter()
            .map(|packed| packed.frame.digest)
            .filter(|digest| is_new(digest) && once.insert(*digest))
            .collect();
        if digests.is_empty() {
            return Ok(());
        }
        let missing = self.depot.missing(&FrameQuery { digests }).await?.missing;
        let mut missing: HashSet<_> = missing.into_iter().collect();
        for packed in waiting {
            if !missing.remove(&packed.frame.digest) {
                continue;
            }
            if self.index.bytes_with(&packed.frame) > PARCEL_BYTES || self.index.frames.len() >= MAX_PARCEL_FRAMES {
                self.launch().await?;
            }
            self.index.frames.push(packed.frame);
            self.gathered.insert(packed.frame.digest);
            self.parcel.push(packed);
        }
        Ok(())
    }

    /// Sends the parcel that has gathered, once the one before has arrived.
    async fn launch(&mut self) -> Result<(), ParcelError> {
        self.land().await?;
        if self.parcel.is_empty() {
            return Ok(());
        }
        let index = std::mem::take(&mut self.index);
        self.flying = std::mem::take(&mut self.gathered);
        let mut bytes = index.encode();
        bytes.reserve_exact(usize::try_from(index.parcel_bytes()).unwrap_or(0).saturating_sub(bytes.len()));
        for packed in self.parcel.drain(..) {
            self.sent.bytes += packed.bytes.len() as u64;
            self.sent.frames += 1;
            bytes.extend_from_slice(&packed.bytes);
        }
        let depot = self.depot.clone();
        self.flight.spawn(async move {
            let digest = Digest::from_bytes(*blake3::hash(&bytes).as_bytes());
            depot.put(digest, bytes.into()).await
        });
        Ok(())
    }

    /// Waits for the parcel under way.
    async fn land(&mut self) -> Result<(), ParcelError> {
        while let Some(landed) = self.flight.join_next().await {
            landed??;
        }
        self.flying.clear();
        Ok(())
    }
}

/// Reads something short.
pub async fn read(mut reader: BlobReader, max_bytes: u64) -> Result<Vec<u8>, ParcelError> {
    if reader.size() > max_bytes {
        return Err(ParcelError::TooLong(reader.size(), max_bytes));
    }
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Puts a dump together in a file, which must be empty. `progress` is told how far it is there.
pub async fn fetch<D: Depot>(
    depot: &D,
    manifest: &Manifest,
    file: &File,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), ParcelError> {
    let mut assembly = Assembly::new(manifest, file);
    for frames in manifest.frames.chunks(MAX_ASKED_FRAMES) {
        let places = places(depot, frames).await?;
        let mut left = frames;
        while let Some(first) = left.first() {
            let missing = |frame: &Frame| ParcelError::Missing(frame.digest);
            let (parcel, range, count) = run(&places, left).ok_or_else(|| missing(first))?;
            let range = ByteRange { first: range.start, last: Some(range.end - 1) };
            let bytes = read(depot.part(parcel, range).await?, FETCHED_BYTES * 2).await?;
            let mut rest = &bytes[..];
            for frame in &left[..count] {
                let (packed, behind) = rest.split_at_checked(frame.packed as usize).ok_or_else(|| missing(frame))?;
                cross(&mut assembly).await;
                block_in_place(|| assembly.push(packed))?;
                rest = behind;
            }
            progress(assembly.reached());
            left = &left[count..];
        }
    }
    cross(&mut assembly).await;
    Ok(block_in_place(|| assembly.finish())?)
}

/// Hashes the hole before what comes next, in parts between which others have their turn and whoever waits may give up.
async fn cross(assembly: &mut Assembly<'_>) {
    while block_in_place(|| assembly.cross()) {
        tokio::task::yield_now().await;
    }
}

async fn places<D: Depot>(depot: &D, frames: &[Frame]) -> Result<HashMap<Digest, FramePlace>, ParcelError> {
    let digests = frames.iter().map(|frame| frame.digest).collect();
    let places = depot.places(&FrameQuery { digests }).await?.places;
    Ok(places.into_iter().map(|place| (place.digest, place)).collect())
}

/// Returns where the first of some frames stands, with those behind it that follow it there too.
fn run(places: &HashMap<Digest, FramePlace>, frames: &[Frame]) -> Option<(Digest, Range<u64>, usize)> {
    let place = |frame: &Frame| places.get(&frame.digest).filter(|place| place.packed == frame.packed);
    let first = place(frames.first()?)?;
    let mut end = first.offset.checked_add(first.packed.into())?;
    let mut count = 1;
    for next in frames[1..].iter().map_while(place) {
        let longer = end.checked_add(next.packed.into())?;
        if next.parcel != first.parcel || next.offset != end || longer - first.offset > FETCHED_BYTES {
            break;
        }
        (end, count) = (longer, count + 1);
    }
    Some((first.parcel, first.offset..end, count))
}
