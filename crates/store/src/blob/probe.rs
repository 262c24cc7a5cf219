//! What a folder or bucket can do, found out by trying.
//!
//! Only plain writing and reading back must work; the rest is reported, so that the operator learns at the start what
//! would otherwise show at the first large upload. Nothing here decides how blobs are stored.

use super::error::BlobError;
use super::place::{Key, Place};
use super::sweep;
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CONTENT: &[u8] = b"may be removed at any time";

/// What a folder or bucket can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The folder, or the bucket and its endpoint.
    pub place: String,
    /// How long it took to write a small object.
    pub write_us: u64,
    /// How long it took to read it back.
    pub read_us: u64,
    /// Creating an object only where there is none; reported, never relied upon.
    pub conditional_put: Capability,
    /// Uploads in parts, which every blob above 8 MiB needs.
    pub multipart: Capability,
    /// Reading a range, which every blob above 1 MiB needs.
    pub range_reads: Capability,
    /// Listing, which sweeping and moving need.
    pub list: Capability,
    /// Copying inside, which saves traffic for large blobs without an announced digest.
    pub copy: Capability,
    /// Removing.
    pub delete: Capability,
}

/// Whether something works and, when it does not, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Whether it works.
    pub works: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

impl From<Result<(), String>> for Capability {
    fn from(result: Result<(), String>) -> Self {
        Self { works: result.is_ok(), cause: result.err() }
    }
}

pub(super) async fn probe(place: &Arc<Place>) -> Result<Capabilities, BlobError> {
    let number = crate::random();
    let plain = Key::Probe(number, "plain");
    let [copied, created, parts] = ["copied", "created", "parts"].map(|name| Key::Probe(number, name));
    let (write, read) = write_and_read(place, &plain).await?;
    let mut found = Capabilities {
        place: place.name().to_owned(),
        write_us: micros(write),
        read_us: micros(read),
        conditional_put: try_conditions(place, &created).await.into(),
        multipart: try_parts(place, &parts).await.into(),
        range_reads: try_range(place, &plain).await.into(),
        list: try_list(place, &plain).await.into(),
        copy: try_copy(place, &plain, &copied).await.into(),
        delete: Ok(()).into(),
    };
    for key in [&plain, &copied, &created, &parts] {
        if let Err(error) = try_delete(place, key).await {
            found.delete = Err(error).into();
        }
    }
    tracing::debug!(?found, "probed the store of blobs");
    Ok(found)
}

async fn write_and_read(place: &Place, key: &Key) -> Result<(Duration, Duration), BlobError> {
    let begun = Instant::now();
    place.write(key, vec![Bytes::from_static(CONTENT)]).await?;
    let write = begun.elapsed();
    let content = place.store().get(&place.path(key)).await;
    let content = match content {
        Ok(found) => found.bytes().await,
        Err(error) => Err(error),
    };
    let read = begun.elapsed().saturating_sub(write);
    match content {
        Ok(content) if content == CONTENT => Ok((write, read)),
        Ok(_) => {
            let source = "what was read is not what was written".into();
            Err(place.failure("read back", key, Error::Generic { store: "probe", source }))
        }
        Err(error) => Err(place.failure("read back", key, error)),
    }
}

async fn try_conditions(place: &Place, key: &Key) -> Result<(), String> {
    let create = || {
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        let (content, path) = (Bytes::from_static(CONTENT), place.path(key));
        async move { place.store().put_opts(&path, content.into(), options).await }
    };
    create().await.map_err(|error| explain(&error))?;
    match create().await {
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(()),
        Err(error) => Err(explain(&error)),
        Ok(_) => Err("an object that was there was created a second time".into()),
    }
}

async fn try_parts(place: &Place, key: &Key) -> Result<(), String> {
    let path = place.path(key);
    let mut upload = place.store().put_multipart(&path).await.map_err(|error| explain(&error))?;
    let sent = upload.put_part(Bytes::from_static(CONTENT).into()).await;
    let sent = match sent {
        Ok(()) => upload.complete().await.map(|_| ()),
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        let cause = explain(&error);
        return Err(match upload.abort().await {
            Ok(()) => cause,
            Err(error) => format!("{cause}; giving the upload up: {}", explain(&error)),
        });
    }
    same(place.read(key, 0..CONTENT.len() as u64).await, CONTENT)
}

async fn try_range(place: &Place, key: &Key) -> Result<(), String> {
    same(place.read(key, 4..9).await, &CONTENT[4..9])
}

async fn try_list(place: &Arc<Place>, key: &Key) -> Result<(), String> {
    let mut listed = sweep::probes(place);
    while let Some(path) = listed.try_next().await.map_err(|error| explain(&error))? {
        if path == place.path(key) {
            return Ok(());
        }
    }
    Err("an object that was written is not listed".into())
}

async fn try_copy(place: &Place, from: &Key, to: &Key) -> Result<(), String> {
    place.copy(from, to).await.map_err(|error| explain(&error))?;
    same(place.read(to, 0..CONTENT.len() as u64).await, CONTENT)
}

async fn try_delete(place: &Place, key: &Key) -> Result<(), String> {
    place.delete(key).await.map_err(|error| explain(&error))?;
    match place.size(key).await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err("an object that was removed is still there".into()),
        Err(error) => Err(explain(&error)),
    }
}

fn same(read: Result<Option<Bytes>, BlobError>, expected: &[u8]) -> Result<(), String> {
    match read {
        Ok(Some(bytes)) if bytes == expected => Ok(()),
        Ok(Some(_)) => Err("what was read is not what was written".into()),
        Ok(None) => Err("an object that was written is not there".into()),
        Err(error) => Err(explain(&error)),
    }
}

/// Writes an error with all that led to it on one line.
fn explain(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let mut text = String::new();
    for cause in chain.map(ToString::to_string) {
        // Many of these repeat their source already.
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    text.replace('\n', " ")
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
