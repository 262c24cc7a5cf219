//! `quarry dump object`: the name that a dump has or would have, found out on this side.

use super::packing::Packing;
use crate::exit::Exit;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use client::blob::Content;
use dump::parcel::{Head, head_of_file, head_of_stream};
use model::Digest;
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Prints the hash by which a dump is known or would be, without asking a server
///
/// Of a core only the headers and notes are read, however long it is.
#[derive(Args)]
#[command(after_help = "Example:\n  quarry dump object core.1234")]
pub(crate) struct Object {
    /// The dumps
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Object {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let mut exit = Exit::Ok;
        for path in &self.files {
            match hash_of(path).await {
                Ok((hash, _)) if session.output.is_json() => {
                    session.output.json_line(&json!({ "file": path, "hash": hash }))?;
                }
                Ok((hash, _)) => session.output.line(&hash)?,
                Err(error) => exit = exit.or(session.report(&error)),
            }
        }
        Ok(exit)
    }
}

/// Returns a file's hash, and what its head told; of one that is packed, those of what it holds.
pub(super) async fn hash_of(path: &Path) -> anyhow::Result<(String, Head)> {
    let cannot = || format!("`{}` cannot be read", path.display());
    let (opened, packing) = (path.to_owned(), packing_of(path));
    let read = move || {
        // Nobody may ever write into a pipe with a name.
        anyhow::ensure!(opened.metadata()?.is_file(), "it is not a file");
        let file = File::open(opened)?;
        if packing == Packing::None {
            return anyhow::Ok((head_of_file(&file)?, None));
        }
        let head = head_of_stream(packing.open(&file, Packing::patience())?)?;
        let mut whole = blake3::Hasher::new();
        if head.hash.is_none() {
            whole.update_reader(packing.open(&file, Packing::patience())?)?;
        }
        Ok((head, Some(Digest::from_bytes(*whole.finalize().as_bytes()))))
    };
    let (head, unpacked) = tokio::task::spawn_blocking(read).await?.with_context(cannot)?;
    if let Some(hash) = head.hash {
        return Ok((hash.to_string(), head));
    }
    // What Thoth had no name for goes by its content.
    let digest = match unpacked {
        Some(digest) => digest,
        None => Content::File(path.to_owned()).digest().await.with_context(cannot)?.0,
    };
    Ok((digest.to_string().chars().take(32).collect(), head))
}

/// Tells by its name how a file is packed.
pub(super) fn packing_of(path: &Path) -> Packing {
    path.file_name().map_or(Packing::None, |name| Packing::of(&name.to_string_lossy()).0)
}
