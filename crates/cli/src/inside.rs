//! The node inside `quarry up`: the same agent as on a machine of its own, in the server's process, over a socket.
//!
//! A machine on which no sandbox can be built still gets a server; it says why there is no node. A node that breaks is begun
//! again, and the server goes on meanwhile: what the node held is given to whoever can run it.

use crate::node::offer::{self, Home, Offered};
use ::node::{Agent, NodeError, Settings};
use clap::Args;
use client::{Client, Options, Retry};
use server::Server;
use std::path::Path;
use std::time::Duration;
use store::chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long it may finish what it has: the server is drained after it, and whoever stops both waits for both.
const DRAIN: Duration = Duration::from_secs(20);
/// How long to wait before one that broke is begun again, at first and at most.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// How the node inside works.
#[derive(Args)]
pub(crate) struct InsideArgs {
    /// Do without a node: executions wait for nodes that join
    #[arg(long)]
    no_node: bool,
    #[command(flatten)]
    offered: Offered,
}

/// The node inside, while it runs.
pub(crate) struct Inside {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl InsideArgs {
    /// Starts the node, unless there is to be none.
    pub(crate) async fn start(
        &self,
        server: &mut Server,
        data: &Path,
        token_file: Option<&Path>,
    ) -> anyhow::Result<Inside> {
        let inside = Inside { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        if self.no_node {
            return Ok(inside);
        }
        let socket = server.serve_inside()?;
        let token = server.node_credential().await?;
        let retry =
            Retry { unreachable_max: Duration::from_secs(2), busy_max: Duration::from_secs(2), ..Retry::default() };
        let client = Client::new(
            "http://localhost",
            Some(&token),
            Options { socket: Some(socket), retry, ..Options::default() },
        )?;
        let settings = self.settings(data, token_file);
        match open(&settings, &client).await {
            Ok(agent) => {
                let (tasks, stop) = (inside.tasks.clone(), inside.stop.clone());
                inside.tasks.spawn(keep(agent, settings, client, tasks, stop));
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "there is no node inside; executions wait for nodes that join");
            }
        }
        Ok(inside)
    }

    fn settings(&self, data: &Path, token_file: Option<&Path>) -> Settings {
        self.offered.settings(Home {
            name: offer::machine_name(),
            state: data.join("node"),
            drain: DRAIN,
            hidden: std::iter::once(data).chain(token_file).map(Path::to_owned).collect(),
        })
    }
}

impl Inside {
    /// Stops the node in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn open(settings: &Settings, client: &Client) -> Result<Agent, NodeError> {
    let agent = Agent::open(settings.clone(), client.clone()).await?;
    for note in agent.notes() {
        tracing::info!(note, "what this machine has not");
    }
    Ok(agent)
}

/// Has a node, and begins it again when it breaks, until it is told to stop or was drained.
async fn keep(first: Agent, settings: Settings, client: Client, tasks: TaskTracker, stop: CancellationToken) {
    let mut next = Ok(first);
    let mut pause = PAUSE;
    loop {
        let began = Instant::now();
        let error = match next {
            Err(error) => anyhow::Error::from(error),
            // A task of its own, so that whatever becomes of it is heard here.
            Ok(agent) => match tasks.spawn(agent.run(stop.clone())).await {
                Ok(Ok(())) if stop.is_cancelled() => return,
                Ok(Ok(())) => {
                    tracing::warn!(
                        "the node inside was drained and has left; the next start of this server begins it again"
                    );
                    return;
                }
                Ok(Err(error)) => error.into(),
                Err(error) => error.into(),
            },
        };
        if stop.is_cancelled() {
            tracing::error!(error = chain(error.as_ref()), "the node did not end well");
            return;
        }
        if began.elapsed() > MAX_PAUSE {
            pause = PAUSE;
        }
        let pause_s = pause.as_secs();
        tracing::error!(
            error = chain(error.as_ref()),
            pause_s,
            "the node inside broke; it is begun again after a pause"
        );
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(MAX_PAUSE);
        next = open(&settings, &client).await;
    }
}
