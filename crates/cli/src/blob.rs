//! `quarry blob`: content too large for a row, named by its digest.

use crate::draft::{Draft, Readers};
use crate::exit::{Exit, Failure};
use crate::list::{ListArgs, list};
use crate::progress::{bar, progress};
use crate::quantity;
use crate::session::Session;
use crate::source;
use anyhow::Context;
use clap::{Args, Subcommand};
use client::blob::{ByteRange, Content};
use client::{Client, ClientError};
use indicatif::ProgressBar;
use model::{Blob as Entity, Digest, PageQuery, Purpose};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes that are looked at before content that can be read only once is sent.
const FIRST_BYTES: usize = 64 << 10;

/// Stores and fetches blobs, content named by its BLAKE3 digest
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry blob put core.1234
  quarry blob get af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262 -o empty")]
pub(crate) enum Blob {
    /// Stores a file, unless it is stored already, and prints its digest
    #[command(after_help = "Example:
  quarry blob put core.1234
  quarry blob put - < core.1234")]
    Put {
        /// The file; `-` is standard input
        file: PathBuf,
    },
    Get(Get),
    /// Lists blobs
    #[command(after_help = "Example:\n  quarry blob ls")]
    Ls(ListArgs),
    /// Says whether a blob is stored, and how long it is
    #[command(
        after_help = "Example:\n  quarry blob info af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    )]
    Info {
        /// Which one
        digest: Digest,
    },
}

/// Fetches a blob, or a part of it; a whole one is checked against its digest
#[derive(Args)]
#[command(after_help = "Example:
  quarry blob get af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262 -o core
  quarry blob get af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262 --range 0-63 | xxd")]
pub(crate) struct Get {
    /// Which one
    digest: Digest,
    /// Write it into this file, whole or not at all; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only these bytes: from the first to the last, both included; `100-` means to the end
    #[arg(long, value_name = "FIRST-LAST", value_parser = range)]
    range: Option<ByteRange>,
}

fn range(text: &str) -> Result<ByteRange, String> {
    let refuse = || format!("`{text}` is not a range such as `0-63` or `100-`");
    let (first, last) = text.split_once('-').ok_or_else(refuse)?;
    let first = first.parse().map_err(|_| refuse())?;
    let last: Option<u64> = if last.is_empty() { None } else { Some(last.parse().map_err(|_| refuse())?) };
    if last.is_some_and(|last| last < first) { Err(refuse()) } else { Ok(ByteRange { first, last }) }
}

impl Blob {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        match self {
            Self::Put { file } => put(session, &client, &file).await,
            Self::Get(get) => get.run(session, &client).await,
            Self::Ls(args) => {
                let row = |blob: &Entity, session: &Session| {
                    vec![blob.digest.to_string(), session.output.time(blob.created_at), size_text(session, blob.size)]
                };
                list(session, args, &["digest", "created", "size"], row, async |after, limit| {
                    client.blob_list(&PageQuery { after, limit, tenant: None }).await
                })
                .await
            }
            Self::Info { digest } => {
                let size = client.blob_size(digest).await?.ok_or_else(|| missing(digest))?;
                if session.output.is_json() {
                    session.output.json(&serde_json::json!({ "digest": digest, "size": size }))?;
                } else {
                    let size = size_text(session, size);
                    session.output.fields(&[("digest", Some(digest.to_string())), ("size", Some(size))])?;
                }
                Ok(Exit::Ok)
            }
        }
    }
}

fn missing(digest: Digest) -> Failure {
    Failure::new(Exit::NotFound, "blob_not_found", format!("blob `{digest}` does not exist"))
}

/// A pipe gets the exact number.
fn size_text(session: &Session, size: u64) -> String {
    if session.output.is_terminal() { quantity::bytes_text(size) } else { size.to_string() }
}

async fn put(session: &mut Session, client: &Client, file: &Path) -> anyhow::Result<Exit> {
    let stored = store(session, client, file, Purpose::Kept).await?;
    if stored.is_old {
        session.output.say("it was stored already");
    }
    if session.output.is_json() {
        session.output.json(&stored.shown)?;
    } else {
        session.output.line(&stored.digest.to_string())?;
    }
    Ok(Exit::Ok)
}

/// What came of storing a file.
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    is_old: bool,
    shown: serde_json::Value,
}

/// Stores a file, or standard input if it is called `-`, and shows how it goes. No image is made of nothing.
pub(crate) async fn store(session: &Session, client: &Client, file: &Path, purpose: Purpose) -> anyhow::Result<Stored> {
    if file == Path::new("-") {
        return store_once(session, client, tokio::io::stdin(), purpose).await;
    }
    if let Some(pipe) = source::pipe(session, file).await? {
        return store_once(session, client, pipe, purpose).await;
    }
    let content = Content::File(file.to_owned());
    let (digest, size) = content.digest().await.with_context(|| format!("`{}` cannot be read", file.display()))?;
    if size == 0 && purpose == Purpose::Image {
        return Err(empty().into());
    }
    if is_there(client, digest, size, purpose).await? {
        return Ok(Stored { digest, is_old: true, shown: serde_json::json!({ "digest": digest, "size": size }) });
    }
    let bar = bar(session, Some(size));
    let stored = match purpose {
        Purpose::Kept => client.blob_put(digest, size, &content, progress(&bar)).await,
        other => client.blob_put_for(other, digest, size, &content, progress(&bar)).await,
    };
    let blob = stored.map_err(|error| about(file, error))?;
    bar.finish_and_clear();
    Ok(Stored { digest, is_old: false, shown: serde_json::to_value(blob)? })
}

/// Stores what can be read only once.
async fn store_once(
    session: &Session,
    client: &Client,
    mut input: impl AsyncRead + Unpin + Send + 'static,
    purpose: Purpose,
) -> anyhow::Result<Stored> {
    let mut first = Vec::with_capacity(FIRST_BYTES);
    input.read_buf(&mut first).await?;
    if first.is_empty() && purpose == Purpose::Image {
        return Err(empty().into());
    }
    let (bar, input) = (bar(session, None), io::Cursor::new(first).chain(input));
    let blob = match purpose {
        Purpose::Kept => client.blob_post(input, progress(&bar)).await?,
        other => client.blob_post_for(other, input, progress(&bar)).await?,
    };
    bar.finish_and_clear();
    Ok(Stored { digest: blob.digest, is_old: false, shown: serde_json::to_value(blob)? })
}

fn empty() -> Failure {
    Failure::new(Exit::Failed, "archive_empty", "the archive is empty")
}

/// Says of a file what went wrong with its sending, if that is the file's fault.
fn about(file: &Path, error: ClientError) -> anyhow::Error {
    let name = file.display();
    let message = match &error {
        ClientError::Content(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
            format!("`{name}` cannot be read: {source}")
        }
        // What kept its length may still have another content than when it was first read.
        error if matches!(error, ClientError::Content(_)) || error.is_code("digest_mismatch") => {
            format!("`{name}` changed while it was sent")
        }
        _ => return error.into(),
    };
    Failure::new(Exit::Failed, "unreadable", message).into()
}

/// Tells whether content need not be sent: what the tenant has for an image only goes with it, and what it has for an
/// execution may be about to go.
async fn is_there(client: &Client, digest: Digest, size: u64, purpose: Purpose) -> Result<bool, ClientError> {
    let found = client.blob_find(digest).await?;
    let stays = |there| there == Purpose::Kept || (there == Purpose::Image && purpose == Purpose::Image);
    Ok(found.is_some_and(|found| found.size == size && stays(found.purpose)))
}

/// Stores content that is held in memory, for an execution, and returns its digest.
pub(crate) async fn put_bytes(client: &Client, bytes: Vec<u8>) -> anyhow::Result<Digest> {
    Ok(put_content(client, &Content::Bytes(bytes.into())).await?)
}

/// Stores a file for an execution, and returns its digest.
pub(crate) async fn put_file(session: &Session, client: &Client, file: &Path) -> anyhow::Result<Digest> {
    source::check(file).await?;
    if let Some(pipe) = source::pipe(session, file).await? {
        return Ok(client.blob_post_for(Purpose::Execution, pipe, Arc::new(|_| {})).await?.digest);
    }
    put_content(client, &Content::File(file.to_owned())).await.map_err(|error| about(file, error))
}

async fn put_content(client: &Client, content: &Content) -> Result<Digest, ClientError> {
    let (digest, size) = content.digest().await.map_err(ClientError::Content)?;
    if !is_there(client, digest, size, Purpose::Execution).await? {
        client.blob_put_for(Purpose::Execution, digest, size, content, Arc::new(|_| {})).await?;
    }
    Ok(digest)
}

impl Get {
    async fn run(self, session: &mut Session, client: &Client) -> anyhow::Result<Exit> {
        let file = self.output.as_deref().filter(|path| *path != Path::new("-"));
        if self.output.is_none() && session.output.is_terminal() {
            let failure = Failure::usage("usage", "a blob may hold bytes that upset a terminal");
            return Err(failure.hint("name a file with -o, or insist with `-o -`").into());
        }
        let mut draft = file.map(|path| Draft::begin(path, Readers::Anybody)).transpose()?;
        let mut reader = client.blob_get(self.digest, self.range).await?;
        let bar = if draft.is_some() { bar(session, Some(reader.size())) } else { ProgressBar::hidden() };
        while let Some(piece) = reader.next().await? {
            match &mut draft {
                Some(draft) => draft.write(&piece)?,
                None => session.output.bytes(&piece)?,
            }
            bar.inc(piece.len() as u64);
        }
        bar.finish_and_clear();
        if let Some(draft) = draft {
            draft.keep()?;
        }
        Ok(Exit::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let check = |text: &str, expected: Option<(u64, Option<u64>)>| {
            assert_eq!(range(text).ok().map(|range| (range.first, range.last)), expected, "{text}");
        };
        check("0-63", Some((0, Some(63))));
        check("100-", Some((100, None)));
        check("5-5", Some((5, Some(5))));
        for bad in ["", "-", "-5", "5", "6-5", "a-b", "1-2-3", "99999999999999999999-"] {
            check(bad, None);
        }
    }
}
