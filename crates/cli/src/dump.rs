//! `quarry dump`: what programs and machines left when they died.

mod catch;
mod deliver;
mod download;
mod hook;
mod object;
pub(crate) mod packs;
pub(crate) mod parcels;
pub(crate) mod upload;

use crate::exit::Exit;
use crate::session::Session;
use clap::Subcommand;

/// Stores dumps, and fetches them again
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry dump upload core.1234
  quarry dump download 76998f82a450a891 -o core")]
pub(crate) enum Dump {
    Upload(upload::Upload),
    Download(download::Download),
    Object(object::Object),
    Packs(packs::Packs),
    Catch(catch::Catch),
    Send(deliver::Send),
    InstallHandler(hook::InstallHandler),
}

impl Dump {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        match self {
            Self::Upload(upload) => upload.run(session).await,
            Self::Download(download) => download.run(session).await,
            Self::Object(object) => object.run(session).await,
            Self::Packs(packs) => packs.run(session).await,
            Self::Catch(catch) => catch.run(session).await,
            Self::Send(send) => send.run(session).await,
            Self::InstallHandler(handler) => handler.run(session),
        }
    }
}
