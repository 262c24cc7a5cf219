//! Fetching a layer into a file: hashed while it comes, taken up where it broke off, given up when nothing comes any more.

use super::{MAX_LAYER_BYTES, Registry, RegistryError, named};
use model::Digest;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::time::timeout;

/// A layer as its manifest names it.
pub(in crate::image) struct Wanted<'a> {
    pub(in crate::image) digest: &'a str,
    pub(in crate::image) bytes: u64,
}

/// A layer as it came.
pub(in crate::image) struct Fetched {
    pub(in crate::image) blob: Digest,
}

/// What came so far.
struct Part {
    file: File,
    bytes: u64,
    sha256: Sha256,
    blake3: blake3::Hasher,
}

impl Registry<'_> {
    /// Fetches a layer into a new file and verifies its length and digest.
    pub(in crate::image) async fn fetch(
        &self,
        wanted: &Wanted<'_>,
        file: &Path,
        came: &(dyn Fn(u64) + Sync),
    ) -> Result<Fetched, RegistryError> {
        if wanted.bytes > MAX_LAYER_BYTES {
            return Err(self.odd(format!("has a layer of {} bytes, of at most {MAX_LAYER_BYTES}", wanted.bytes)));
        }
        let file = File::create(file).await.map_err(RegistryError::Write)?;
        let mut part = Part { file, bytes: 0, sha256: Sha256::new(), blake3: blake3::Hasher::new() };
        let path = format!("{}/blobs/{}", self.repository, wanted.digest);
        let what = format!("layer `{}`", wanted.digest);
        let (mut tried, mut furthest) = (0, 0);
        loop {
            let broken = match self.get(&path, None, part.bytes, &what).await {
                Ok(response) => self.take(response, wanted, &mut part, came).await,
                Err(error) => return Err(error),
            };
            let error = match broken {
                // An end that came badly after the last byte is an end.
                _ if part.bytes == wanted.bytes => break,
                // It ended early and says that this is all: once more, in case somebody between us cut it off.
                Ok(()) => self.odd(format!("sent {} bytes of a layer that has {}", part.bytes, wanted.bytes)),
                Err(error) if error.may_pass() => error,
                Err(error) => return Err(error),
            };
            // Who gets further may try again; a registry that drips is held back by the execution's own time.
            if part.bytes > furthest {
                (tried, furthest) = (0, part.bytes);
            }
            self.again(&mut tried, error, None).await?;
        }
        part.file.flush().await.map_err(RegistryError::Write)?;
        self.compare(Some(wanted.digest), named(&part.sha256.finalize()))?;
        Ok(Fetched { blob: Digest::from_bytes(*part.blake3.finalize().as_bytes()) })
    }

    /// Takes what comes until it ends.
    async fn take(
        &self,
        mut response: Response,
        wanted: &Wanted<'_>,
        part: &mut Part,
        came: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
            let start = range.strip_prefix("bytes ").and_then(|range| range.split('-').next()?.parse::<u64>().ok());
            if start != Some(part.bytes) {
                return Err(self.odd(format!("was asked for byte {} and sent `{}`", part.bytes, range.escape_debug())));
            }
        } else if part.bytes > 0 {
            // It knows no ranges: all from the beginning.
            part.file.rewind().await.map_err(RegistryError::Write)?;
            part.file.set_len(0).await.map_err(RegistryError::Write)?;
            (part.bytes, part.sha256, part.blake3) = (0, Sha256::new(), blake3::Hasher::new());
        }
        loop {
            let piece = match timeout(self.patience.stall, response.chunk()).await {
                Err(_) => return Err(self.stalled(&format!("layer `{}`", wanted.digest))),
                Ok(Err(error)) => return Err(self.unreachable(&error)),
                Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(piece))) => piece,
            };
            if part.bytes + piece.len() as u64 > wanted.bytes {
                return Err(self.odd(format!("sends more than the {} bytes that a layer has", wanted.bytes)));
            }
            part.sha256.update(&piece);
            part.blake3.update(&piece);
            part.file.write_all(&piece).await.map_err(RegistryError::Write)?;
            part.bytes += piece.len() as u64;
            came(part.bytes);
        }
    }
}
