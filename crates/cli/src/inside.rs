//! The node inside `quarry up`: the same agent as on a machine of its own, in the server's process, over a socket.
//!
//! A machine on which no sandbox can be built still gets a server; it says why there is no node.

use crate::exit::{Exit, Failure};
use crate::node::offer::{self, Home, Offered};
use ::node::{Agent, NodeError, Settings};
use clap::Args;
use client::{Client, Options, Retry};
use server::Server;
use std::path::Path;
use std::time::Duration;
use store::chain;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long it may finish what it has: the server is drained after it, and whoever stops both waits for both.
const DRAIN: Duration = Duration::from_secs(20);

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
    tasks: JoinSet<Result<(), NodeError>>,
}

impl InsideArgs {
    /// Starts the node, unless there is to be none.
    pub(crate) async fn start(
        &self,
        server: &mut Server,
        data: &Path,
        token_file: Option<&Path>,
    ) -> anyhow::Result<Inside> {
        let mut inside = Inside { stop: CancellationToken::new(), tasks: JoinSet::new() };
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
        match Agent::open(self.settings(data, token_file), client).await {
            Ok(agent) => {
                for note in agent.notes() {
                    tracing::info!(note, "what this machine has not");
                }
                let stop = inside.stop.clone();
                inside.tasks.spawn(async move { agent.run(stop).await });
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
    /// Waits until the node has ended by itself, which it does only when something broke.
    pub(crate) async fn broken(&mut self) -> anyhow::Error {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return Failure::new(Exit::Failed, "node_broken", chain(&error)).into(),
                Some(Err(error)) => return error.into(),
                None => std::future::pending().await,
            }
        }
    }

    /// Stops the node in order.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::error!(error = chain(&error), "the node did not end well");
            }
        }
    }
}
