//! `quarry dump object`: the name that a dump has or would have, found out on this side.

use super::packing::Packing;
use crate::exit::Exit;
use crate::progress::doing;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use dump::parcel::{Head, head_of_file, head_of_stream};
use model::dump::MAX_HASH_CHARS;
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

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
            let reading = doing(session, "finding out what it is called");
            let hashed = hash_of(path).await;
            reading.finish_and_clear();
            match hashed {
                Ok(Hashed { hash, told, .. }) => {
                    told.into_iter().for_each(|told| session.output.say(&told));
                    match session.output.is_json() {
                        true => session.output.json_line(&json!({ "file": path, "hash": hash }))?,
                        false => session.output.line(&hash)?,
                    }
                }
                Err(error) => exit = exit.or(session.report(&error)),
            }
        }
        Ok(exit)
    }
}

/// What is known of a file once it is named.
pub(super) struct Hashed {
    pub(super) hash: String,
    /// What its head told; of one that is packed, that of what it holds.
    pub(super) head: Head,
    pub(super) packing: Packing,
    /// That its name says otherwise, if it does.
    pub(super) told: Option<String>,
}

/// Returns a file's hash, and what its head told; of one that is packed, those of what it holds.
pub(super) async fn hash_of(path: &Path) -> anyhow::Result<Hashed> {
    let cannot = || format!("`{}` cannot be read", path.display());
    let opened = path.to_owned();
    let read = move || {
        // Nobody may ever write into a pipe with a name.
        anyhow::ensure!(opened.metadata()?.is_file(), "it is not a file");
        let file = File::open(&opened)?;
        let name = opened.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (packing, told) = Packing::of_file(&name, &file)?;
        let (head, hash) = named(&file, packing, Packing::patience())?;
        anyhow::Ok(Hashed { hash, head, packing, told })
    };
    tokio::task::spawn_blocking(read).await?.with_context(cannot)
}

/// Returns what a file's head tells, and its hash: Thoth's, or where that had none that of its content.
pub(crate) fn named(file: &File, packing: Packing, until: Instant) -> anyhow::Result<(Head, String)> {
    let head = match packing {
        Packing::None => head_of_file(file)?,
        _ => head_of_stream(packing.open(file, until)?)?,
    };
    if let Some(hash) = head.hash {
        return Ok((head, hash.to_string()));
    }
    let mut whole = blake3::Hasher::new();
    whole.update_reader(packing.open(file, until)?)?;
    let hash = whole.finalize().to_hex().chars().take(MAX_HASH_CHARS).collect();
    Ok((head, hash))
}
