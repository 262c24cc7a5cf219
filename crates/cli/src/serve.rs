//! `quarry serve`: the server alone, as often as one likes beside a shared database and bucket.

use crate::exit::Exit;
use crate::server::ServerArgs;
use crate::session::Session;
use clap::Args;

/// Starts the server alone: the interface and the controllers, but no sandboxes
///
/// Any number of them may share one PostgreSQL database and one bucket. A server brings the schema up to date when it
/// starts; `quarry migrate` does so before.
#[derive(Args)]
#[command(after_help = "Example:
  quarry serve --db postgres://quarry@db.example.org/quarry --blobs s3://quarry-blobs
  quarry serve --config /etc/quarry.toml --listen 0.0.0.0:8080")]
pub(crate) struct Serve {
    #[command(flatten)]
    server: ServerArgs,
}

impl Serve {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        self.server.run(None, session).await
    }
}
