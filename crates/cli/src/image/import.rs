//! `quarry image import`: an archive or a folder of this side becomes a blob, and the blob an image.

use super::pull::{make, request_of};
use super::{folder, show};
use crate::blob;
use crate::execution::recipe::variable;
use crate::exit::{Exit, Failure};
use crate::progress;
use crate::session::Session;
use crate::signals::Signals;
use anyhow::Context;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use client::Client;
use model::image::ArchiveKind;
use model::{Digest, ImageConfig, ImageSource, Purpose};
use std::path::{Path, PathBuf};

/// What makes a folder an OCI layout.
const LAYOUT: [&str; 2] = ["oci-layout", "index.json"];

/// What an archive is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Kind {
    // No doc comments on these: they would stretch the help to its long form.
    #[default]
    Auto,
    Root,
    OciLayout,
    DockerArchive,
}

impl Kind {
    /// Returns what a server is told of an archive, or of a folder that becomes one. Of a folder it is said what it is, so
    /// that a root with odd files in it stays one.
    fn archive(self, folder: Option<&Path>) -> Result<ArchiveKind, Failure> {
        let has = |folder: &Path, name: &str| folder.join(name).is_file();
        let is_layout = |folder: &Path| LAYOUT.iter().all(|name| has(folder, name));
        Ok(match (self, folder) {
            (Self::OciLayout, Some(folder)) if !is_layout(folder) => {
                let message = format!("`{}` is no OCI layout", folder.display());
                let failure = Failure::usage("not_a_layout", message);
                return Err(failure.hint("one holds the files `oci-layout` and `index.json`"));
            }
            (Self::Auto, Some(folder)) if is_layout(folder) => ArchiveKind::OciLayout,
            (Self::Root, _) | (Self::Auto, Some(_)) => ArchiveKind::Root,
            (Self::Auto, None) => ArchiveKind::Auto,
            (Self::OciLayout, _) => ArchiveKind::OciLayout,
            (Self::DockerArchive, _) => ArchiveKind::DockerArchive,
        })
    }
}

/// Makes an image of an archive or a folder
///
/// A folder is an OCI layout if it has `oci-layout` and `index.json`; or else it is taken as a root, with modes, links and
/// owners as they are. An archive may be a tar of a root, an OCI
/// layout or what `docker save` writes, packed by gzip or Zstandard or not at all. Of several images in one layout or archive
/// one is taken: that which --reference names, or else the only one for the node's machine.
#[derive(Args)]
#[command(after_help = "Example:
  quarry image import --name tools:1 ./rootfs --cmd /bin/sh --env PATH=/bin
  quarry image import --name debian:mine debian.tar
  quarry image import --name tools:2 ./layout --reference v2
  quarry image import --name busybox:1 - < busybox.tar")]
pub(crate) struct Import {
    /// What to call it
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// The archive or folder; `-` is an archive from standard input
    #[arg(value_name = "FILE|FOLDER|-")]
    source: PathBuf,
    /// Which of the images in it, where there are several: the tag that it has there, or its digest
    #[arg(long, value_name = "TAG", value_parser = NonEmptyStringValueParser::new())]
    reference: Option<String>,
    /// What the archive or folder is; found out by looking, if nothing is said
    #[arg(long, value_name = "KIND", default_value = "auto")]
    kind: Kind,
    /// A word of its command in place of the archive's; several times for several words
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// A word that goes before the command in place of the archive's; several times for several words
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// A variable of its environment
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The folder that it begins in
    #[arg(long, value_name = "FOLDER")]
    cwd: Option<String>,
    /// Who it is inside
    #[arg(long)]
    user: Option<String>,
    /// Another OCI runtime than Quarry's own for what runs in it, by the name under which nodes offer it
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
}

impl Import {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session, client: &Client) -> anyhow::Result<Exit> {
        let config = ImageConfig {
            entrypoint: self.entrypoint,
            cmd: self.cmd,
            env: self.env.into_iter().collect(),
            cwd: self.cwd,
            user: self.user,
            runtime: self.runtime,
            ..ImageConfig::default()
        };
        let cannot = || format!("`{}` cannot be read", self.source.display());
        let is_input = self.source == Path::new("-");
        let is_folder = !is_input && tokio::fs::metadata(&self.source).await.with_context(cannot)?.is_dir();
        let archive = self.kind.archive(is_folder.then_some(self.source.as_path()))?;
        let mut signals = Signals::new()?;
        let sending = async {
            match is_folder {
                true => send_folder(session, client, &self.source).await,
                false => Ok(blob::store(session, client, &self.source, Purpose::Image).await?.digest),
            }
        };
        let blob = match signals.during(sending).await {
            Ok(sent) => sent?,
            Err(exit) => return Ok(exit),
        };
        let source = ImageSource::Archive { blob, archive, reference: self.reference, config };
        match make((session, client), &request_of(source, Some(self.name), false)?, &mut signals).await? {
            Ok(image) => show(session, &image),
            Err(exit) => Ok(exit),
        }
    }
}

/// Stores a folder as an archive, while it is packed.
async fn send_folder(session: &Session, client: &Client, path: &Path) -> anyhow::Result<Digest> {
    let (reader, writer) = std::io::pipe()?;
    let reader = tokio::fs::File::from_std(std::fs::File::from(std::os::fd::OwnedFd::from(reader)));
    let folder = path.to_owned();
    let packing = tokio::task::spawn_blocking(move || folder::pack(&folder, std::io::BufWriter::new(writer)));
    let bar = progress::bar(session, None);
    let stored = client.blob_post_for(Purpose::Image, reader, progress::progress(&bar)).await;
    bar.finish_and_clear();
    // What went wrong here explains what went wrong there.
    let packed = match packing.await? {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => None,
        packed => Some(packed.with_context(|| format!("`{}` cannot be packed", path.display()))?),
    };
    let stored = stored?;
    if let Some(packed) = packed.filter(|packed| packed.left_out > 0) {
        session.output.say(&format!("devices and sockets left out: {}", packed.left_out));
    }
    Ok(stored.digest)
}
