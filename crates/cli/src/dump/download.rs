//! `quarry dump download`: a dump put together again on this side, with its holes, proved by its digest.

use super::parcels::plain;
use crate::draft::{Draft, Readers};
use crate::exit::{Exit, Failure};
use crate::output::printable;
use crate::progress::bar;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use model::Dump;
use model::parcel::{MAX_MANIFEST_BYTES, Manifest};
use node::parcel::{fetch, read};
use std::path::{Path, PathBuf};

/// Bytes of a file's name, with room for what a draft of it is called.
const MAX_NAME_BYTES: usize = 200;

/// Fetches a dump, which is there whole or not at all
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump download 76998f82a450a891
  quarry dump download 76998f82a450a891 -o core")]
pub(crate) struct Download {
    /// Its hash, the beginning of its hash, or its id
    #[arg(value_name = "DUMP", value_parser = NonEmptyStringValueParser::new())]
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
        let manifest = client.dump_manifest(&dump.id.to_string(), manifest).await?;
        let manifest = read(manifest, MAX_MANIFEST_BYTES).await.map_err(plain)?;
        let manifest = Manifest::decode(&manifest).context("the dump's manifest cannot be read")?;
        // It may hold what the process knew.
        let draft = Draft::begin(&path, Readers::Owner)?;
        let bar = bar(session, Some(manifest.size));
        fetch(&client, &manifest, draft.file(), &|reached| bar.set_position(reached)).await.map_err(plain)?;
        bar.finish_and_clear();
        draft.keep()?;
        match session.output.is_json() {
            true => session.output.json(&dump)?,
            false => session.output.line(&printable(&path.display().to_string()))?,
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
        let is_plain =
            !dump.name.contains(['/', '\0']) && !dump.name.starts_with('.') && dump.name.len() <= MAX_NAME_BYTES;
        let path = PathBuf::from(if is_plain { dump.name.clone() } else { format!("core.{}", dump.hash) });
        if path.symlink_metadata().is_ok() {
            let failure = Failure::new(Exit::Refused, "file_exists", format!("`{}` is there already", path.display()));
            return Err(failure.hint("name another file with -o").into());
        }
        Ok(path)
    }
}
