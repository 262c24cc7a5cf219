//! `quarry serve`: the server alone, as often as one likes beside a shared database and bucket.

use crate::command::Session;
use crate::exit::{Exit, Failure};
use crate::up::ServerArgs;
use clap::Args;

/// Starts the server alone: the interface, the page and the controllers, but no sandboxes
///
/// Any number of them may share one PostgreSQL database and one bucket. The schema must stand: see `quarry migrate`.
#[derive(Args)]
#[command(after_help = "Example:
  quarry serve --db postgres://quarry@db.example.org/quarry --blobs s3://quarry-blobs
  quarry serve --config /etc/quarry.toml --listen 0.0.0.0:8080")]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

impl Serve {
    /// Runs the command.
    #[expect(clippy::unused_async, reason = "the server is yet to be called from here")]
    pub(crate) async fn run(self, _session: &mut Session) -> anyhow::Result<Exit> {
        self.server.nothing_yet();
        Err(Failure::absent("serve").into())
    }
}
