//! `quarry dump upload`: hash, ask, send what is missing, make known.

use super::object::{Hashed, hash_of};
use super::packing::Packing;
use super::packs;
use super::parcels::send;
use super::redaction::{LeftOut, left_out};
use crate::exit::{Exit, Failure};
use crate::progress::{bar, doing, progress};
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use client::{Client, ClientError};
use dump::parcel::{Head, Split, SplitError, split_file_by, split_stream_by};
use dump::redact::RedactionRules;
use jiff::Timestamp;
use model::dump::{Arrival, DumpArrived, DumpFacts, MAX_WORD_CHARS};
use model::pack::PackName;
use model::{Digest, Dump, DumpId, ErrorKind, NewDump};
use node::parcel::Sent;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Uploads dumps, unless they are there already
///
/// What of a dump is there is not sent again: not when an upload that broke off is repeated, nor when another dump has
/// the same memory. Holes and zero pages are never sent. What is packed (zstd, lz4, xz, gzip) is unpacked. What a file is, and
/// how it is packed, its content says; where its name says otherwise, that is told.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump upload core.1234 core.1235
  quarry dump upload --name core.java - < core
  quarry dump upload --redact leave-out.toml core.1234")]
pub(crate) struct Upload {
    /// The dumps; `-` is one from standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What to call it, in place of its file's name
    #[arg(long)]
    name: Option<String>,
    /// A file of rules (docs/redaction.md) that say which memory and which of the environment is left out, here, before
    /// anything is sent; a dump in which it cannot be found is not sent
    #[arg(long, value_name = "RULES")]
    redact: Option<PathBuf>,
    /// Do not send what it takes to walk stacks through the modules of a dump that are found on this machine
    #[arg(long = "no-packs")]
    no_packs: bool,
}

impl Upload {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        if self.name.is_some() && self.files.len() > 1 {
            return Err(Failure::usage("usage", "one name does not fit several dumps").into());
        }
        let rules = self.redact.as_deref().map(left_out).transpose()?;
        let client = session.client()?;
        let mut exit = Exit::Ok;
        for path in &self.files {
            let name = self.name.as_deref();
            let done = match path == Path::new("-") {
                true => from_input(session, &client, name.unwrap_or("stdin"), rules.clone()).await,
                false => from_file(session, &client, (path, name), (rules.clone(), !self.no_packs)).await,
            };
            match done {
                Ok((dump, shown)) if session.output.is_json() => {
                    session.output.json(&shown)?;
                    drop(dump);
                }
                Ok((dump, _)) => session.output.line(&dump.hash)?,
                Err(error) => {
                    let error = error.context(format!("`{}` was not uploaded", path.display()));
                    exit = exit.or(session.report(&error));
                }
            }
        }
        Ok(exit)
    }
}

/// Returns what a file is called, as far as a dump's name may be long, without what tells how it is packed, if it is.
fn name_of(path: &Path, packing: Packing) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let bare = if packing == Packing::None { &*name } else { Packing::of(&name).1 };
    bare.chars().take(MAX_WORD_CHARS).collect()
}

/// A dump, and the JSON that tells of it.
type Done = (Dump, serde_json::Value);

async fn from_file(
    session: &Session,
    client: &Client,
    (path, name): (&Path, Option<&str>),
    (rules, has_packs): (LeftOut, bool),
) -> anyhow::Result<Done> {
    let cannot = || format!("`{}` cannot be read", path.display());
    // A pipe with a name would only be opened once somebody writes into it.
    if !std::fs::metadata(path).with_context(cannot)?.is_file() {
        let failure = Failure::usage("usage", format!("`{}` is not a file", path.display()));
        return Err(failure.hint("a dump from a pipe is uploaded with `-`").into());
    }
    let file = File::open(path).with_context(cannot)?;
    let metadata = file.metadata()?;
    let reading = doing(session, "finding out what it is called");
    let hashed = hash_of(path).await;
    reading.finish_and_clear();
    let Hashed { hash, head, packing, told } = hashed?;
    told.into_iter().for_each(|told| session.output.say(&told));
    let name = &name.map_or_else(|| name_of(path, packing), str::to_owned);
    let size = metadata.len();
    let is_truncated = head.end > size;
    let is_enough = |there: &Dump| match packing {
        Packing::None => is_as_full(there, size, is_truncated),
        // How long it is unpacked is not known before it is read.
        _ => there.manifest.is_some() && !there.is_truncated,
    };
    if let Some(there) = there(client, &hash).await?.filter(is_enough) {
        session.output.say(&format!("{name} is already there as {hash}"));
        if has_packs && packing == Packing::None {
            packs::ship(session, client, path).await;
        }
        let shown = serde_json::to_value(DumpArrived { dump: there.clone(), arrival: Arrival::Known })?;
        return Ok((there, shown));
    }
    if size == 0 {
        session.output.say(&format!("{name} is empty: whatever wrote it had no room, or never began"));
    }
    session.output.say(&format!("creating {hash}"));
    session.output.say(&format!("uploading {name} to {hash}"));
    let bar = bar(session, Some(size));
    let known = told_by(&head, rules.as_deref());
    let split = move |sink: &mut dyn FnMut(_) -> _| match packing {
        Packing::None => split_file_by(&file, rules.as_deref(), sink),
        _ => {
            let reader = packing.open(&file, Packing::patience()).map_err(SplitError::Unreadable)?;
            split_stream_by(reader, rules.as_deref(), sink)
        }
    };
    let sent = send(client, split, &progress(&bar)).await;
    bar.finish_and_clear();
    let sent = sent?;
    let packs = match has_packs && packing == Packing::None {
        // Before anybody looks into the dump, who would miss them.
        true => packs::ship(session, client, path).await,
        false => Vec::new(),
    };
    let facts = DumpFacts { time: metadata.modified().ok().and_then(instant), ..known };
    make_known(session, client, sent, (name, facts, packs)).await
}

async fn from_input(session: &Session, client: &Client, name: &str, rules: LeftOut) -> anyhow::Result<Done> {
    session.output.say(&format!("uploading {name}"));
    let bar = bar(session, None);
    let applied = rules.clone();
    let split = move |sink: &mut dyn FnMut(_) -> _| {
        let (packing, reader) = Packing::of_stream(std::io::stdin()).map_err(SplitError::Unreadable)?;
        let reader = packing.unpack(reader, Packing::patience()).map_err(SplitError::Unreadable)?;
        split_stream_by(reader, rules.as_deref(), sink)
    };
    let sent = send(client, split, &progress(&bar)).await;
    bar.finish_and_clear();
    let sent = sent?;
    session.output.say(&format!("creating {}", sent.0.hash()));
    let facts = DumpFacts { time: Some(client::id::now()), ..told_by(&sent.0.head, applied.as_deref()) };
    make_known(session, client, sent, (name, facts, Vec::new())).await
}

/// Returns what a dump's head tells of its process. Where something is to be left out, whatever is looked into the dump for
/// comes from what is sent.
pub(crate) fn told_by(head: &Head, rules: Option<&RedactionRules>) -> DumpFacts {
    if rules.is_none() { head.facts.clone() } else { DumpFacts::default() }
}

/// Returns an instant as the server keeps it.
pub(crate) fn instant(time: std::time::SystemTime) -> Option<Timestamp> {
    Timestamp::from_microsecond(Timestamp::try_from(time).ok()?.as_microsecond()).ok()
}

/// Returns the dump of a hash, if there is one.
pub(crate) async fn there(client: &Client, hash: &str) -> Result<Option<Dump>, ClientError> {
    match client.dump_get(hash).await {
        Ok(dump) => Ok(Some(dump)),
        // Who may bring dumps and not look at them brings them, and the server says what it had.
        Err(error) if error.api().is_some_and(|api| matches!(api.kind, ErrorKind::NotFound | ErrorKind::Forbidden)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Tells whether nothing would be gained by uploading a file of this size.
pub(crate) fn is_as_full(there: &Dump, size: u64, is_truncated: bool) -> bool {
    there.manifest.is_some() && (there.size == size || (is_truncated && there.size > size))
}

/// Makes a dump known whose frames are there.
pub(crate) async fn announce(
    client: &Client,
    split: &Split,
    (name, facts, packs): (&str, DumpFacts, Vec<PackName>),
) -> anyhow::Result<DumpArrived> {
    let manifest = split.manifest.encode();
    let digest = Digest::from_bytes(*blake3::hash(&manifest).as_bytes());
    client.manifest_put(digest, manifest.into()).await?;
    let new = NewDump {
        id: client::id::fresh(DumpId::new),
        hash: split.hash(),
        manifest: digest,
        kind: split.head.kind(),
        is_truncated: split.is_truncated(),
        name: name.to_owned(),
        facts,
        execution: None,
        redaction: split.redaction.clone(),
        packs,
    };
    Ok(client.dump_create(&new).await?)
}

async fn make_known(
    session: &Session,
    client: &Client,
    (split, sent): (Split, Sent),
    (name, facts, packs): (&str, DumpFacts, Vec<PackName>),
) -> anyhow::Result<Done> {
    let arrived = announce(client, &split, (name, facts, packs)).await?;
    if let Some(redaction) = &split.redaction {
        session.output.say(&format!("left out: {redaction}"));
    }
    let dump = &arrived.dump;
    if split.is_truncated() {
        let (size, end) = (split.manifest.size, split.head.end);
        session.output.say(&format!("{name} is truncated: it has {size} bytes, and its headers tell of {end}"));
    }
    match arrived.arrival {
        Arrival::New => {}
        Arrival::Replaced if dump.is_truncated => {
            session.output.say(&format!("{} now has more of its content, {} bytes", dump.hash, dump.size));
        }
        Arrival::Replaced => session.output.say(&format!("{} now has its whole content", dump.hash)),
        Arrival::Known if dump.digest == split.manifest.digest => {
            session.output.say(&format!("{name} is already there as {}", dump.hash));
        }
        Arrival::Known => {
            let (hash, size) = (&dump.hash, dump.size);
            session.output.say(&format!("{hash} keeps the content that it has, of {size} bytes"));
        }
    }
    let mut shown = serde_json::to_value(&arrived)?;
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("sent_bytes".to_owned(), sent.bytes.into());
        shown.insert("sent_frames".to_owned(), sent.frames.into());
    }
    Ok((arrived.dump, shown))
}
