//! `quarry registry`: credentials that nodes show when they pull; and what a node is told of registries when it starts.

use crate::exit::{Exit, Failure};
use crate::list::{ListArgs, list};
use crate::session::Session;
use ::node::image::{AllowedRegistry, Authorities, Registries};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use model::{NewRegistry, PageQuery, Registry as Entity};
use std::io::{self, IsTerminal, Read};

/// Bytes of a password.
const MAX_SECRET_BYTES: u64 = 8_192;

/// Keeps credentials for registries, which nodes show when they pull
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry registry login registry.example.org --user ada --password-stdin < password
  quarry registry ls")]
pub(crate) enum Registry {
    Login(Login),
    /// Lists the registries that there are credentials for
    #[command(after_help = "Example:\n  quarry registry ls")]
    Ls(ListArgs),
    /// Forgets the credential for a registry
    #[command(after_help = "Example:\n  quarry registry logout registry.example.org")]
    Logout {
        /// Its host, with a port if it is not the usual one
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        host: String,
    },
}

/// Stores the credential for a registry; it is kept encrypted and shown to nobody again
#[derive(Args)]
#[command(after_help = "Example:
  quarry registry login registry.example.org --user ada
  quarry registry login localhost:5000 --user ada --password-stdin < password")]
pub(crate) struct Login {
    /// Its host, with a port if it is not the usual one
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    host: String,
    /// The user to show there
    #[arg(long)]
    user: String,
    /// Read the password from standard input; without this it is asked for
    #[arg(long)]
    password_stdin: bool,
}

/// Which registries a node reaches, and whom it believes.
#[derive(Args)]
pub(crate) struct Reach {
    /// A registry, token service or storage that images may be pulled from although its address is not public; several
    /// times for several; `https://HOST` if it is on this machine and speaks TLS
    #[arg(long, value_name = "HOST[:PORT]", value_parser = AllowedRegistry::parse)]
    allow_registry: Vec<AllowedRegistry>,
    /// A file of certificates of authorities that registries are believed by, besides those of this machine
    #[arg(long, value_name = "FILE", value_parser = Authorities::read)]
    registry_ca: Option<Authorities>,
}

impl Reach {
    /// Returns the same in the node's words.
    pub(crate) fn registries(&self) -> Registries {
        let authorities = self.registry_ca.clone().unwrap_or_default();
        Registries { allowed: self.allow_registry.clone(), authorities, ..Registries::default() }
    }
}

impl Registry {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        match self {
            Self::Login(login) => {
                let (host, new) = login.credential(session).await?;
                let registry = client.registry_put(&host, &new).await?;
                show(session, &registry)
            }
            Self::Ls(args) => {
                let row = |registry: &Entity, session: &Session| {
                    vec![session.output.time(registry.created_at), registry.user.clone(), registry.host.clone()]
                };
                list(session, args, &["created", "user", "host"], row, async |after, limit| {
                    client.registry_list(&PageQuery { after, limit, tenant: None }).await
                })
                .await
            }
            Self::Logout { host } => {
                client.registry_remove(&host).await?;
                session.output.say(&format!("the credential for `{host}` is forgotten"));
                Ok(Exit::Ok)
            }
        }
    }
}

impl Login {
    async fn credential(self, session: &Session) -> anyhow::Result<(String, NewRegistry)> {
        let secret = if self.password_stdin {
            tokio::task::spawn_blocking(|| secret_from(io::stdin().lock())).await??
        } else if io::stdin().is_terminal() {
            crate::login::ask(session, "password: ", || secret_from_line(io::stdin().lock())).await?
        } else {
            let failure = Failure::usage("no_password", "no password was given");
            return Err(failure.hint("use --password-stdin").into());
        };
        let new = NewRegistry { user: self.user, secret };
        new.check()?;
        Ok((self.host, new))
    }
}

fn secret_from(reader: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    reader.take(MAX_SECRET_BYTES + 2).read_to_string(&mut text)?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(Failure::usage("no_password", "no password was given").into());
    }
    Ok(secret.to_owned())
}

fn secret_from_line(reader: impl io::BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    io::BufRead::read_line(&mut reader.take(MAX_SECRET_BYTES + 2), &mut line)?;
    secret_from(line.as_bytes())
}

fn show(session: &mut Session, registry: &Entity) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json(registry)?;
        return Ok(Exit::Ok);
    }
    let created = session.output.time(registry.created_at);
    session.output.fields(&[
        ("host", Some(registry.host.clone())),
        ("user", Some(registry.user.clone())),
        ("stored", Some(created)),
    ])?;
    Ok(Exit::Ok)
}
