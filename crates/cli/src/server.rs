//! What `up` and `serve` share: where the configuration comes from, the start, the signals, the way back.
//!
//! SIGTERM or Ctrl-C stops in order, a second one at once; SIGHUP reads certificates and issuers' keys again.

use crate::draft::{Draft, Readers};
use crate::exit::{Exit, Failure};
use crate::inside::InsideArgs;
use crate::output::Output;
use crate::session::Session;
use clap::Args;
use server::config::{Config, ConfigErrors, ConfigFile, Loaded, Sources};
use server::log::{Log, LogOutput};
use server::{Server, StartError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use store::{Clock, StoreError, chain};
use tokio::signal::unix::{SignalKind, signal};

/// How a server starts; what is not said here comes from the environment and the file.
#[derive(Args)]
pub(crate) struct ServerArgs {
    /// The address to listen at; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Keep an admin's token here, for its owner alone to read; a new one is made if the file is not there
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Where a server keeps its things.
#[derive(Args)]
pub(crate) struct PlaceArgs {
    /// The folder for everything that is kept
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The database: `sqlite`, a file in the data folder, or `postgres://…`
    #[arg(long, value_name = "URL")]
    db: Option<String>,
    /// Where blobs stand: `s3://BUCKET/PREFIX`; a folder in the data folder, if nothing is said
    #[arg(long, value_name = "URL")]
    blobs: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl PlaceArgs {
    /// Reads the configuration, with what the flags say of the place and some more.
    pub(crate) fn load(&self, mut flags: Vec<(&str, String, &str)>) -> anyhow::Result<Loaded> {
        let data = self.data.as_ref().map(|data| data.display().to_string());
        flags.extend(data.map(|data| ("server.data", data, "--data")));
        flags.extend(self.db.as_ref().map(|db| ("store.database", db.clone(), "--db")));
        flags.extend(self.blobs.as_ref().map(|blobs| ("blob.url", blobs.clone(), "--blobs")));
        self.config.load(flags)
    }
}

/// Which configuration.
#[derive(Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file; `quarry.toml` in the current folder if there is one
    #[arg(long, value_name = "FILE", env = "QUARRY_CONFIG")]
    config: Option<PathBuf>,
    /// Any other value of the configuration; it goes before those of the file and the environment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    /// Reads the configuration, with some more flags that go before all else.
    pub(crate) fn load(&self, flags: Vec<(&str, String, &str)>) -> anyhow::Result<Loaded> {
        let usual = || ConfigFile::Usual(PathBuf::from("quarry.toml"));
        let file = self.config.clone().map_or_else(usual, ConfigFile::Named);
        let mut sources = Sources::new().file(file).environment(std::env::vars_os());
        for text in &self.set {
            let malformed = || Failure::usage("set_invalid", format!("`--set {text}` is not of the form `KEY=VALUE`"));
            let (key, value) = text.split_once('=').ok_or_else(malformed)?;
            sources = sources.flag(key, value, "--set");
        }
        for (key, value, flag) in flags {
            sources = sources.flag(key, value, flag);
        }
        Config::load(&sources).map_err(|errors| refused(&errors).into())
    }
}

/// Returns the failure of a configuration that is not in order.
pub(crate) fn refused(errors: &ConfigErrors) -> Failure {
    Failure::usage("config_invalid", errors.to_string())
}

impl ServerArgs {
    /// Runs a server until it is told to stop.
    pub(crate) async fn run(self, inside: Option<&InsideArgs>, session: &mut Session) -> anyhow::Result<Exit> {
        let listen = self.listen.as_ref().map(|listen| ("server.listen", listen.clone(), "--listen"));
        let config = self.place.load(listen.into_iter().collect())?.config;
        let clock = Clock::System;
        let data = config.server.data.clone();
        make_folder(&data)?;
        self.try_token_file()?;
        let output = LogOutput::of(&config.log, &config.server.data);
        let log = Log::start(&config.log, output, clock.clone())?;
        let (mut stop, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut reload = signal(SignalKind::hangup())?;
        // A database that is brought up to date may take long; what is not committed when this ends is undone.
        let mut server = tokio::select! {
            opened = Server::open(config, Some(log), clock) => opened.map_err(|error| explain_at(&data, &error))?,
            _ = stop.recv() => return Ok(given_up(Exit::Ok)),
            _ = interrupt.recv() => return Ok(given_up(Exit::Interrupted)),
        };
        // Whoever waits until the server is ready then finds the token where it was asked for.
        let greeted = self.greet(session, &server).await;
        if let Err(error) = greeted.and_then(|()| server.serve().map_err(|error| explain(&error))) {
            server.stop().await;
            return Err(error);
        }
        tracing::info!(address = %server.address, version = env!("CARGO_PKG_VERSION"), "ready");
        let node = match inside {
            None => None,
            Some(inside) => Some(inside.start(&mut server, &data, self.token_file.as_deref()).await?),
        };
        loop {
            tokio::select! {
                _ = stop.recv() => break,
                _ = interrupt.recv() => break,
                _ = reload.recv() => server.reload().await,
            }
        }
        tracing::info!("stopping: no new connections; those under way may finish");
        let ending = async move {
            if let Some(node) = node {
                node.stop().await;
            }
            server.stop().await;
        };
        tokio::select! {
            () = ending => {
                tracing::info!("stopped");
                Ok(Exit::Ok)
            }
            _ = stop.recv() => Ok(Exit::Failed),
            _ = interrupt.recv() => Ok(Exit::Interrupted),
        }
    }

    /// Says where the server is, and the first token if there is one.
    async fn greet(&self, session: &mut Session, server: &Server) -> anyhow::Result<()> {
        let url = format!("{}://{}", if server.speaks_tls() { "https" } else { "http" }, server.address);
        let mut token = server.first_credential.clone();
        if let Some(file) = &self.token_file {
            if token.is_none() && !file.exists() {
                token = Some(server.admin_credential().await?);
            }
            if let Some(token) = &token {
                let cannot = |error| shown_late("token_file", &unwritable(file, &error), token);
                write_token(file, token).map_err(cannot)?;
            }
        }
        let shown = show(&mut session.output, &url, token.as_deref());
        shown.map_err(|error| match &token {
            Some(token) if self.token_file.is_none() => shown_late("output_failed", &error.to_string(), token).into(),
            _ => anyhow::Error::from(error),
        })
    }

    /// Sees to it that a token can be kept where it shall be, while there is none yet that only this start would know.
    fn try_token_file(&self) -> anyhow::Result<()> {
        // One that is there need not be written again, unless the house is new.
        let Some(file) = self.token_file.as_deref().filter(|file| !file.is_file()) else { return Ok(()) };
        let refuse =
            |why: String| Failure::new(Exit::Failed, "token_file", why).hint("name another one with --token-file");
        if file.is_dir() {
            return Err(refuse(format!("`{}` is a folder, not a token's file", file.display())).into());
        }
        // What is begun here vanishes at once.
        match Draft::begin(file, Readers::Owner) {
            Ok(_) => Ok(()),
            Err(error) => Err(refuse(unwritable(file, error.root_cause())).into()),
        }
    }
}

/// Makes the folder for everything that is kept, which is for the server alone: hashes of tokens, inputs, contents.
fn make_folder(folder: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| {
        let name = folder.display();
        let is_other = folder.exists() && !folder.is_dir();
        let why = if is_other { "it is not a folder".to_owned() } else { error.to_string() };
        let failure =
            Failure::new(Exit::Failed, "data_folder", format!("the data folder `{name}` cannot be made: {why}"));
        failure.hint("name another one with --data")
    })
}

/// Writes where the server is, and a token if there is one.
fn show(output: &mut Output, url: &str, token: Option<&str>) -> std::io::Result<()> {
    if output.is_json() {
        output.json(&serde_json::json!({ "url": url, "token": token }))?;
        return output.flush();
    }
    output.line(&format!("quarry {} listens at {url}", env!("CARGO_PKG_VERSION")))?;
    if let Some(token) = token {
        output.line(&format!("an admin's token, shown this once: {token}"))?;
        output.line(&format!("next, in another terminal: export QUARRY_URL={url} QUARRY_TOKEN={token}"))?;
    }
    output.flush()
}

/// Makes the failure of a start whose token did not get where it should: it is told here, since nobody tells it again.
fn shown_late(code: &'static str, why: &str, token: &str) -> Failure {
    let message = format!("{why}\nan admin's token, shown this once: {token}");
    Failure::new(Exit::Failed, code, message).hint("`quarry up --token-file NEW` makes another")
}

fn unwritable(file: &Path, error: &dyn std::fmt::Display) -> String {
    format!("the token cannot be written to `{}`: {error}", file.display())
}

/// Says that it ends before it has begun.
fn given_up(exit: Exit) -> Exit {
    tracing::info!("stopped before it was ready; what was not finished is begun again by the next start");
    exit
}

/// Writes a token where only its owner can read it; the file is never there half-written or open to others.
fn write_token(file: &Path, token: &str) -> std::io::Result<()> {
    let draft = file.with_extension("new");
    // What a start that was killed left behind may be open to others, and would stay so.
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut opened = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
    writeln!(opened, "{token}")?;
    opened.sync_all()?;
    std::fs::rename(&draft, file)
}

/// Says what to do about a start that failed in a folder.
pub(crate) fn explain_at(data: &Path, error: &StartError) -> anyhow::Error {
    let StartError::Store(error @ StoreError::Sqlite { .. }) = error else { return explain(error) };
    let message = format!("the database `{}` cannot be used: {}", data.join("quarry.db").display(), chain(error));
    let failure = Failure::new(Exit::Failed, "start_failed", message);
    failure.hint("is it whole, and may this user write it? --data names another folder").into()
}

/// Says what to do about a start that failed.
pub(crate) fn explain(error: &StartError) -> anyhow::Error {
    let (exit, code, hint) = match error {
        StartError::Store(StoreError::Locked { .. }) => {
            (Exit::Refused, "folder_in_use", "stop the other one, or name another folder with --data")
        }
        StartError::Store(StoreError::Newer { .. }) => {
            (Exit::Refused, "schema_newer", "use the version that wrote it, or a newer one")
        }
        StartError::Store(StoreError::Unavailable { .. }) => (
            Exit::Unreachable,
            "database_unreachable",
            "is it running, and is --db right? `quarry doctor --db …` looks",
        ),
        StartError::Listen { .. } => {
            (Exit::Failed, "address_in_use", "name another one with --listen; port 0 takes a free one")
        }
        StartError::Tls(_) | StartError::Issuer(_) => {
            (Exit::Usage, "config_invalid", "`quarry config check` looks at every file that is named")
        }
        StartError::Store(_) | StartError::Blob(_) | StartError::Inside { .. } | StartError::Seal(_) => {
            (Exit::Failed, "start_failed", "`quarry doctor` looks at this machine")
        }
    };
    Failure::new(exit, code, chain(error)).hint(hint).into()
}
