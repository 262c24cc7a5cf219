//! `quarry up`: a whole house in one process.

use crate::command::Session;
use crate::exit::{Exit, Failure};
use clap::Args;
use std::path::PathBuf;

/// Starts everything in one process, with its database and blobs in one folder
///
/// The first start makes an admin and shows its token once; --token-file keeps it as well. Ctrl-C or SIGTERM stops in
/// order, a second one at once.
#[derive(Args)]
#[command(after_help = "Example:
  quarry up
  quarry up --data /var/lib/quarry --listen 0.0.0.0:8080 --token-file /root/quarry-token
  quarry up --set log.format=json --set tls.certificate=cert.pem --set tls.key=key.pem")]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Where a server keeps its things and listens; what is not said here comes from the environment and the file.
#[derive(Args)]
pub(crate) struct ServerArgs {
    /// The folder for everything that is kept
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The address to listen at; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,
    /// Write the first admin's token here, for its owner alone to read
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The configuration file; `quarry.toml` in the current folder if there is one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The database: `sqlite:FILE` or `postgres://…`; a file in the data folder, if nothing is said
    #[arg(long, value_name = "URL")]
    pub(crate) db: Option<String>,
    /// Where blobs stand: `file:DIR` or `s3://BUCKET/PREFIX`; a folder in the data folder, if nothing is said
    #[arg(long, value_name = "URL")]
    pub(crate) blobs: Option<String>,
    /// Any other value of the configuration
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

impl Up {
    /// Runs the command.
    #[expect(clippy::unused_async, reason = "the server is yet to be called from here")]
    pub(crate) async fn run(self, _session: &mut Session) -> anyhow::Result<Exit> {
        self.server.nothing_yet();
        Err(Failure::absent("up").into())
    }
}

impl ServerArgs {
    /// Reads every field, until the server does.
    pub(crate) fn nothing_yet(&self) {
        let Self { data: _, listen: _, token_file: _, config: _, db: _, blobs: _, set: _ } = self;
    }
}
