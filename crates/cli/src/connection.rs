//! Where the server is and who we are there: flags and environment first, then what `quarry login` keeps.
//!
//! The stored token goes only to the address it was stored with, never to one that a flag or the environment names.

use crate::exit::Failure;
use crate::login::Login;
use crate::output::Colour;
use clap::Args;
use client::{Client, Options, Retry};
use std::path::PathBuf;
use std::time::Duration;

/// How long a person waits for a server that is not there.
const UNREACHABLE_MAX: Duration = Duration::from_secs(2);
/// How long a command that has begun something there goes on asking for it.
const PATIENCE: Duration = Duration::from_secs(300);

/// The options of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The server's address
    #[arg(long, global = true, env = "QUARRY_URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
    /// The token to show there
    #[arg(long, global = true, env = "QUARRY_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// A file of certificates (PEM) to trust besides the system's
    #[arg(long, global = true, env = "QUARRY_CA_FILE", hide_env_values = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Another tenant than one's own; only for admins of the house
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Whether to colour; `auto` does on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Colour,
    /// Print nothing but the result
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// Makes a client for the server that is named.
pub(crate) fn client(global: &Global) -> anyhow::Result<Client> {
    named(global, Retry { unreachable_max: UNREACHABLE_MAX, ..Retry::default() })
}

/// Makes a client that bears a server's absence for long.
pub(crate) fn patient(global: &Global) -> anyhow::Result<Client> {
    named(global, Retry { unreachable_max: PATIENCE, busy_max: PATIENCE, follow_max: PATIENCE })
}

fn named(global: &Global, retry: Retry) -> anyhow::Result<Client> {
    let stored = Login::load()?;
    let url = given(global.url.as_deref()).or(stored.as_ref().map(|stored| stored.url.as_str())).ok_or_else(|| {
        Failure::usage("no_server", "no server is named")
            .hint("use --url or QUARRY_URL, or `quarry login URL` once; `quarry up` starts one")
    })?;
    let stored = stored.as_ref().filter(|stored| stored.url == url.trim_end_matches('/'));
    let token = given(global.token.as_deref()).or(stored.map(|stored| stored.token.as_str()));
    let ca_file = global.ca_file.clone().or_else(|| stored.and_then(|stored| stored.ca_file.clone()));
    made(url, token, Options { ca_file, tenant: global.tenant.clone(), retry, ..Options::default() })
}

/// Makes a client for a server and a token.
pub(crate) fn open(
    url: &str,
    token: Option<&str>,
    ca_file: Option<PathBuf>,
    global: &Global,
) -> anyhow::Result<Client> {
    let retry = Retry { unreachable_max: UNREACHABLE_MAX, ..Retry::default() };
    made(url, token, Options { ca_file, tenant: global.tenant.clone(), retry, ..Options::default() })
}

fn made(url: &str, token: Option<&str>, mut options: Options) -> anyhow::Result<Client> {
    options.ca_file = options.ca_file.filter(|path| !path.as_os_str().is_empty());
    Ok(Client::new(url, token, options)?)
}

/// An empty variable is as good as none.
fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}
