//! A dump on its way to the server: split on one side, on the other asked for and sent in parcels.
//!
//! Nothing is kept of how far an upload came: frames that are there already are not sent, so one that broke off is simply
//! begun again. A frame is packed before it is asked for, since its name is that of its packed bytes. While one parcel is
//! sent the next is gathered; with both, the frames on their way and the splitter's own, less than 64 MiB are held.

use anyhow::Context;
use client::Client;
use client::blob::Progress;
use dump::parcel::{Packed, SplitError};
use model::Digest;
use model::parcel::{FrameQuery, Index, MAX_PARCEL_FRAMES, Parcel};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Bytes of a parcel: what the server writes at once.
const PARCEL_BYTES: u64 = 8 << 20;
/// Frames, and bytes of them, that are asked for together.
const ASKED_FRAMES: usize = 1_024;
const ASKED_BYTES: usize = 4 << 20;
/// Frames between the splitter and whoever sends; there may be long ones among them.
const WAITING: usize = 4;

/// What hands frames on.
type Sink<'s> = &'s mut dyn FnMut(Packed) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// How much of a dump was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Bytes of frames that the server did not have.
    pub(crate) bytes: u64,
    /// How many frames those were.
    pub(crate) frames: u64,
}

/// Splits a dump, or hands on the frames of one that was split, sends what the server does not have, and returns what the
/// splitter returned.
pub(crate) async fn send<T: Send + 'static>(
    client: &Client,
    split: impl FnOnce(Sink<'_>) -> Result<T, SplitError> + Send + 'static,
    progress: &Progress,
) -> anyhow::Result<(T, Sent)> {
    let (ready, mut frames) = mpsc::channel(WAITING);
    let splitting = tokio::task::spawn_blocking(move || {
        split(&mut |packed| ready.blocking_send(packed).map_err(|_| "nobody takes frames any more".into()))
    });
    let mut sending = Sending::new(client);
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
    let split = splitting.await.context("the dump could not be split")?;
    // Why nobody took frames any more explains why splitting them failed.
    let sent = sent?;
    Ok((split?, sent))
}

struct Sending<'c> {
    client: &'c Client,
    /// Frames that have not been asked for.
    unasked: Vec<Packed>,
    unasked_bytes: usize,
    /// The parcel that gathers.
    index: Index,
    parcel: Vec<Packed>,
    /// Frames that the server does not have yet but will: in the parcel that gathers, and in the one under way.
    gathered: HashSet<Digest>,
    flying: HashSet<Digest>,
    flight: JoinSet<Result<Parcel, client::ClientError>>,
    sent: Sent,
}

impl<'c> Sending<'c> {
    fn new(client: &'c Client) -> Self {
        Self {
            client,
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

    async fn push(&mut self, packed: Packed) -> anyhow::Result<()> {
        self.unasked_bytes += packed.bytes.len();
        self.unasked.push(packed);
        if self.unasked.len() >= ASKED_FRAMES || self.unasked_bytes >= ASKED_BYTES {
            self.ask().await?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> anyhow::Result<Sent> {
        self.ask().await?;
        self.launch().await?;
        self.land().await?;
        Ok(self.sent)
    }

    /// Asks which of the waiting frames the server does not have, and puts those into the parcel.
    async fn ask(&mut self) -> anyhow::Result<()> {
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
        let missing = self.client.frames_missing(&FrameQuery { digests }).await?.missing;
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
    async fn launch(&mut self) -> anyhow::Result<()> {
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
        let client = self.client.clone();
        self.flight.spawn(async move {
            let digest = Digest::from_bytes(*blake3::hash(&bytes).as_bytes());
            client.parcel_put(digest, bytes.into(), Arc::new(|_| ())).await
        });
        Ok(())
    }

    /// Waits for the parcel under way.
    async fn land(&mut self) -> anyhow::Result<()> {
        while let Some(landed) = self.flight.join_next().await {
            landed.context("a parcel was not sent")??;
        }
        self.flying.clear();
        Ok(())
    }
}
