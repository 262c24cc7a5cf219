//! `quarry config`: what the configuration comes to. The reading itself belongs to `server::config`.

use crate::exit::Exit;
use crate::server::{ConfigArgs, refused};
use crate::session::Session;
use clap::Subcommand;
use server::config::Loaded;
use server::issuer::Issuers;
use server::tls::Tls;

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

impl Config {
    /// Runs the command.
    pub(crate) fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        match self {
            Self::Check(args) => {
                let loaded = args.load(Vec::new())?;
                check(&loaded)?;
                session.output.say("the configuration is in order");
            }
            Self::Show(args) => {
                let loaded = args.load(Vec::new())?;
                let output = &mut session.output;
                if output.is_json() {
                    output.json(&loaded.settings)?;
                } else {
                    for line in loaded.settings.to_string().lines() {
                        output.line(line)?;
                    }
                }
            }
        }
        Ok(Exit::Ok)
    }
}

/// Looks at all that a configuration names: its files, and whether keys and certificates can be used.
fn check(loaded: &Loaded) -> anyhow::Result<()> {
    loaded.check_files().map_err(|errors| refused(&errors))?;
    let config = &loaded.config;
    config.tls.as_ref().map(Tls::load).transpose().map_err(|error| crate::server::explain(&error.into()))?;
    Issuers::load(&config.issuers).map_err(|error| crate::server::explain(&error.into()))?;
    Ok(())
}
