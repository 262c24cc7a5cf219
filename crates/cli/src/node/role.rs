//! Being a node: the agent of the `node` crate, from its start to its goodbye.
//!
//! It is told where to join and what to offer; it says in one line that it has joined, and what this machine lacks. The
//! first signal lets it finish what it has, the second ends it at once; what it then leaves is cleared by its next start.

use crate::connection;
use crate::exit::{Exit, Failure};
use crate::node::offer::{self, Home, Offered};
use crate::output::Style;
use crate::quantity;
use crate::server::ConfigArgs;
use crate::session::Session;
use ::node::{Agent, NodeError, Settings};
use anyhow::Context;
use clap::Args;
use client::{Client, Retry};
use jiff::SignedDuration;
use model::ErrorKind;
use model::limits::MAX_CREDENTIAL_CHARS;
use server::log::{Log, LogOutput};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use store::{Clock, chain};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a call to the server is tried again by itself; the agent knows better what to say after that.
const RETRY: Duration = Duration::from_secs(2);
/// How long a drain may take that a server does not know of.
const DRAIN: Duration = Duration::from_secs(30);

/// Where to join, and what to offer there.
#[derive(Args)]
pub(super) struct Role {
    /// The server to join
    #[arg(long, value_name = "URL")]
    join: Option<String>,
    /// The file that holds the token to show there; it goes before --token and QUARRY_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What to be called there; the machine's own name, if nothing is said
    #[arg(long)]
    name: Option<String>,
    /// The folder for its identity and its cache; one node each
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    offered: Offered,
    /// Drain by itself after this time, such as `7d`
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    max_age: Option<SignedDuration>,
    /// How long it may finish what it has when told to stop, such as `30s`
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    drain: Option<SignedDuration>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl Role {
    /// Is a node until told to stop, or drained.
    pub(super) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let Some(url) = self.join.clone() else {
            let failure = Failure::usage("usage", "it is not said which server to join");
            return Err(failure.hint("name it with --join URL; `quarry node --help` shows the verbs").into());
        };
        let client = self.client(&url, session)?;
        let config = self.config.load(Vec::new())?.config;
        Log::start(&config.log, LogOutput::Stderr, Clock::System)?;
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let settings = self.settings()?;
        let (name, slots) = (settings.name.clone(), settings.slots);
        let agent = tokio::select! {
            opened = Agent::open(settings, client.clone()) => opened.map_err(|error| explain(&error))?,
            _ = terminate.recv() => return Ok(Exit::Ok),
            _ = interrupt.recv() => return Ok(Exit::Interrupted),
        };
        let label = session.output.err_style(Style::Doubtful, "note:");
        agent.notes().iter().for_each(|note| session.output.complain(&label, note));
        let (id, mut joined) = (agent.id(), agent.joined());
        let stop = CancellationToken::new();
        let mut running = pin!(agent.run(stop.clone()));
        let mut old = pin!(grow_old(self.max_age, &client, id, &stop));
        let mut is_told = false;
        loop {
            tokio::select! {
                ended = &mut running => return ended.map(|()| Exit::Ok).map_err(|error| explain(&error)),
                _ = joined.changed(), if !is_told => {
                    is_told = joined.borrow_and_update().is_some();
                    if is_told {
                        greet(session, &format!("node `{name}` ({id}) has joined {url} with {slots} slots"), id)?;
                    }
                }
                () = &mut old => {}
                _ = terminate.recv() => if stop.is_cancelled() { return Ok(Exit::Failed) } else { stop.cancel() },
                _ = interrupt.recv() => if stop.is_cancelled() { return Ok(Exit::Interrupted) } else { stop.cancel() },
            }
        }
    }

    fn client(&self, url: &str, session: &Session) -> anyhow::Result<Client> {
        let token = match &self.token_file {
            Some(path) => Some(token_from(path)?),
            None => session.global.token.clone(),
        };
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            let failure = Failure::usage("no_token", "no token was given");
            return Err(failure
                .hint("name one with --token-file or QUARRY_TOKEN; it needs the scope `node:run`")
                .into());
        };
        let retry = Retry { unreachable_max: RETRY, busy_max: RETRY, ..Retry::default() };
        connection::open_with(url, &token, retry, &session.global)
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let state = match &self.state {
            Some(state) => state.clone(),
            None => usual_state()?,
        };
        Ok(self.offered.settings(Home {
            name: self.name.clone().unwrap_or_else(offer::machine_name),
            state: std::path::absolute(&state)?,
            drain: self.drain.map_or(DRAIN, SignedDuration::unsigned_abs),
            // Whoever may read the token may be this node.
            hidden: self.token_file.iter().filter_map(|path| std::path::absolute(path).ok()).collect(),
        }))
    }
}

/// Waits until a node is old enough and has it drained, by the server if that is allowed.
async fn grow_old(max_age: Option<SignedDuration>, client: &Client, id: model::NodeId, stop: &CancellationToken) {
    match max_age {
        None => std::future::pending().await,
        Some(age) => tokio::time::sleep(age.unsigned_abs()).await,
    }
    tracing::info!("this node is as old as it may get, and drains");
    if let Err(error) = client.node_drain(&id.to_string()).await {
        tracing::debug!(%error, "the server does not drain this node; it does so by itself");
        stop.cancel();
    }
    // It is done once; the agent ends when nothing is left.
    std::future::pending::<()>().await;
}

fn greet(session: &mut Session, text: &str, id: model::NodeId) -> anyhow::Result<()> {
    let output = &mut session.output;
    if output.is_json() {
        output.json_line(&serde_json::json!({ "node": id }))?;
    } else {
        output.line(text)?;
    }
    // Whoever started it may have stopped reading; that is no reason to stop working.
    let _ = output.flush();
    Ok(())
}

fn token_from(path: &Path) -> anyhow::Result<String> {
    let cannot = || format!("`{}` cannot be read", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(cannot)?;
    file.take(MAX_CREDENTIAL_CHARS as u64 + 2).read_to_string(&mut text).with_context(cannot)?;
    Ok(text.trim().to_owned())
}

/// Returns the folder that a node has when nobody names one.
fn usual_state() -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/quarry-node"));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    let none =
        || Failure::usage("no_home", "there is no place for the node's folder").hint("name one with --state DIR");
    Ok(folder.ok_or_else(none)?.join("quarry-node"))
}

/// Says what to do about a node that did not start, or ended by itself.
fn explain(error: &NodeError) -> anyhow::Error {
    let (exit, hint) = match error {
        NodeError::Refused(refusal) if refusal.api().is_some_and(|api| api.kind == ErrorKind::Invalid) => {
            (Exit::Usage, "--name, --slots, --label and what else is offered are shown by `quarry node --help`")
        }
        NodeError::Folder { .. } => (Exit::Failed, "name another one with --state; each node needs its own"),
        NodeError::Spawner(_) => (Exit::Failed, "`quarry doctor` says what this machine has for sandboxes"),
        NodeError::Cache(_) => (Exit::Failed, "the cache holds nothing that cannot be had again; it may be removed"),
        NodeError::Debuginfod(_) => (Exit::Usage, "servers are named with --debuginfod URL"),
        NodeError::Refused(_) => (Exit::Refused, "the token needs the scope `node:run`; names are unique among nodes"),
        NodeError::SpawnerGone | NodeError::Broken(_) => {
            (Exit::Failed, "start it again; the log says what came before")
        }
    };
    Failure::new(exit, "node_failed", chain(error)).hint(hint).into()
}
