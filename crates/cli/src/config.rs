//! `quarry config`: what the configuration comes to. The reading itself belongs to `server::config`.

use crate::command::Session;
use crate::exit::{Exit, Failure};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Checks and shows the server's configuration
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry config check --config /etc/quarry.toml
  quarry config show")]
pub(crate) enum Config {
    /// Says whether the configuration is in order, and what is wrong with it
    #[command(after_help = "Example:\n  quarry config check --config /etc/quarry.toml")]
    Check(ConfigArgs),
    /// Shows every value and where it comes from; secrets are masked
    #[command(after_help = "Example:\n  quarry config show --config /etc/quarry.toml")]
    Show(ConfigArgs),
}

/// Which configuration.
#[derive(Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file; `quarry.toml` in the current folder if there is one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A value that goes before those of the file and the environment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

impl Config {
    /// Runs the command.
    #[expect(clippy::unused_async, reason = "reading the configuration is yet to be called from here")]
    pub(crate) async fn run(self, _session: &mut Session) -> anyhow::Result<Exit> {
        let (Self::Check(args) | Self::Show(args)) = &self;
        let (_, _) = (&args.config, &args.set);
        Err(Failure::absent("config").into())
    }
}
