//! `quarry dump download`: a dump put together again on this side, with its holes, proved by its digest.

use crate::blob::bar;
use crate::draft::{Draft, Readers};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use client::Client;
use client::blob::{BlobReader, ByteRange};
use dump::parcel::Assembly;
use model::parcel::{Frame, FramePlace, FrameQuery, MAX_ASKED_FRAMES, MAX_MANIFEST_BYTES, Manifest};
use model::{Digest, Dump};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Bytes of neighbouring frames that are fetched at once.
const FETCHED_BYTES: u64 = 8 << 20;

/// Fetches a dump, which is there whole or not at all
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump download 76998f82a450a891
  quarry dump download 76998f82a450a891 -o core")]
pub(crate) struct Download {
    /// Its hash, the beginning of its hash, or its id
    #[arg(value_name = "DUMP")]
    name: String,
    /// Write it into this file, in place of one of the name that it had when it was uploaded
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Download {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let dump = client.dump_get(&self.name).await?;
        let Some(manifest) = dump.manifest else {
            let failure =
                Failure::new(Exit::NotFound, "dump_purged", format!("the content of dump `{}` was dropped", dump.hash));
            return Err(failure.hint("what is known of it is still there").into());
        };
        let path = self.path(&dump)?;
        let manifest = read(client.dump_manifest(&dump.id.to_string(), manifest).await?, MAX_MANIFEST_BYTES).await?;
        let manifest = Manifest::decode(&manifest).context("the dump's manifest cannot be read")?;
        // It may hold what the process knew.
        let draft = Draft::begin(&path, Readers::Owner)?;
        let bar = bar(session, Some(manifest.size));
        fetch(&client, &manifest, &draft, |reached| bar.set_position(reached)).await?;
        bar.finish_and_clear();
        draft.keep()?;
        match session.output.is_json() {
            true => session.output.json(&dump)?,
            false => session.output.line(&path.display().to_string())?,
        }
        Ok(Exit::Ok)
    }

    /// Returns where it goes.
    fn path(&self, dump: &Dump) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.output {
            if path == Path::new("-") {
                let failure = Failure::usage("usage", "a dump is written to a file, which can have holes");
                return Err(failure.hint("name one with -o").into());
            }
            return Ok(path.clone());
        }
        // The name is somebody else's word: it must not lead anywhere else, nor stand in the place of what is here.
        let is_plain = !dump.name.contains(['/', '\0']) && !dump.name.starts_with('.');
        let path = PathBuf::from(if is_plain { dump.name.clone() } else { format!("core.{}", dump.hash) });
        if path.symlink_metadata().is_ok() {
            let failure = Failure::new(Exit::Refused, "file_exists", format!("`{}` is there already", path.display()));
            return Err(failure.hint("name another file with -o").into());
        }
        Ok(path)
    }
}

/// Reads something short.
async fn read(mut reader: BlobReader, max_bytes: u64) -> anyhow::Result<Vec<u8>> {
    anyhow::ensure!(reader.size() <= max_bytes, "it has {} bytes; at most {max_bytes} are allowed", reader.size());
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

async fn fetch(client: &Client, manifest: &Manifest, draft: &Draft, progress: impl Fn(u64)) -> anyhow::Result<()> {
    let mut assembly = Assembly::new(manifest, draft.file());
    for frames in manifest.frames.chunks(MAX_ASKED_FRAMES) {
        let places = places(client, frames).await?;
        let mut left = frames;
        while let Some(first) = left.first() {
            let (parcel, range, count) = run(&places, left).with_context(|| missing(first))?;
            let range = ByteRange { first: range.start, last: Some(range.end - 1) };
            let bytes = read(client.parcel_get(parcel, range).await?, FETCHED_BYTES * 2).await?;
            let mut rest = &bytes[..];
            for frame in &left[..count] {
                let (packed, behind) = rest.split_at_checked(frame.packed as usize).with_context(|| missing(frame))?;
                tokio::task::block_in_place(|| assembly.push(packed))?;
                rest = behind;
            }
            progress(assembly.reached());
            left = &left[count..];
        }
    }
    Ok(tokio::task::block_in_place(|| assembly.finish())?)
}

fn missing(frame: &Frame) -> String {
    format!("frame `{}` of the dump is not there", frame.digest)
}

async fn places(client: &Client, frames: &[Frame]) -> anyhow::Result<HashMap<Digest, FramePlace>> {
    let digests = frames.iter().map(|frame| frame.digest).collect();
    let places = client.frame_places(&FrameQuery { digests }).await?.places;
    Ok(places.into_iter().map(|place| (place.digest, place)).collect())
}

/// Returns where the first of some frames stands, with those behind it that follow it there too.
fn run(places: &HashMap<Digest, FramePlace>, frames: &[Frame]) -> Option<(Digest, std::ops::Range<u64>, usize)> {
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
