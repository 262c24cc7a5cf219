//! `quarry dump`: what programs and machines left when they died.

mod download;
mod object;
mod parcels;
mod show;
mod upload;

use crate::exit::Exit;
use crate::session::Session;
use clap::Subcommand;

/// Stores dumps, shows what is in them, and fetches them again
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry dump upload core.1234
  quarry dump show 76998f82a450a891
  quarry dump download 76998f82a450a891 -o core")]
pub(crate) enum Dump {
    Upload(upload::Upload),
    Show(show::Show),
    Download(download::Download),
    Object(object::Object),
}

impl Dump {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        match self {
            Self::Upload(upload) => upload.run(session).await,
            Self::Show(show) => show.run(session).await,
            Self::Download(download) => download.run(session).await,
            Self::Object(object) => object.run(session).await,
        }
    }
}
