//! `quarry migrate`: brings a database's schema up to date, and moves an embedded install to a database and a bucket.

use crate::command::Session;
use crate::exit::{Exit, Failure};
use clap::Args;
use std::path::PathBuf;

/// Brings a database up to date, or moves everything from a data folder to a database and a bucket
#[derive(Args)]
#[command(after_help = "Example:
  quarry migrate --db postgres://quarry@db.example.org/quarry
  quarry migrate --db postgres://quarry@db.example.org/quarry --check
  quarry migrate --from ./quarry-data --to postgres://quarry@db.example.org/quarry --blobs s3://quarry-blobs")]
pub(crate) struct Migrate {
    /// The database to bring up to date
    #[arg(long, value_name = "URL", required_unless_present = "from", conflicts_with = "from")]
    pub(crate) db: Option<String>,
    /// The data folder to move away from
    #[arg(long, value_name = "DIR", requires = "to")]
    pub(crate) from: Option<PathBuf>,
    /// The database to move to
    #[arg(long, value_name = "URL", requires = "from")]
    pub(crate) to: Option<String>,
    /// Where the blobs shall stand after the move
    #[arg(long, value_name = "URL", requires = "from")]
    pub(crate) blobs: Option<String>,
    /// Change nothing, and say what would be changed
    #[arg(long)]
    pub(crate) check: bool,
}

impl Migrate {
    /// Runs the command.
    #[expect(clippy::unused_async, reason = "the migrations are yet to be called from here")]
    pub(crate) async fn run(self, _session: &mut Session) -> anyhow::Result<Exit> {
        let Self { db: _, from: _, to: _, blobs: _, check: _ } = &self;
        Err(Failure::absent("migrate").into())
    }
}
