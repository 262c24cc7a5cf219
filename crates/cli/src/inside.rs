//! The node inside `quarry up`: the same agent as on a machine of its own, in the server's process, over a socket.
//!
//! A machine on which no sandbox can be built still gets a server; it says why there is no node.

use crate::exit::{Exit, Failure};
use crate::registry::Reach;
use ::node::{Agent, AllowedMount, NamedRuntime, NodeError, Settings};
use clap::Args;
use client::{Client, Options, Retry};
use server::Server;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::chain;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Bytes that the cache may take.
const CACHE_BYTES: u64 = 20 << 30;
/// The first id, outside, of the users inside sandboxes: above those of people and packages.
pub(crate) const FIRST_ID: u32 = 1_000_000_000;

/// How the node inside works.
#[derive(Args)]
pub(crate) struct InsideArgs {
    /// Do without a node: executions wait for nodes that join
    #[arg(long)]
    no_node: bool,
    /// How many executions run at once; four for each core, if nothing is said
    #[arg(long, value_name = "N")]
    slots: Option<u32>,
    /// How many sandboxes are kept built ahead for each sort that is in demand
    #[arg(long, value_name = "N", default_value_t = 8)]
    warm: u32,
    /// A folder of this machine that executions may mount: `PATH:ro` or `PATH:rw`
    #[arg(long, value_name = "PATH[:ro|rw]", value_parser = AllowedMount::parse)]
    allow_mount: Vec<AllowedMount>,
    /// Another OCI runtime that executions and images may name; `crun`, `runc` and `runsc` are found by themselves
    #[arg(long = "runtime", value_name = "NAME=PATH", value_parser = NamedRuntime::parse)]
    runtimes: Vec<NamedRuntime>,
    /// Let executions ask for the network of this machine itself
    #[arg(long)]
    allow_host_network: bool,
    #[command(flatten)]
    reach: Reach,
    /// A word by which executions may choose this node
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// Returns this machine's name, as far as a node may be called so.
pub(crate) fn machine_name() -> String {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let good = |one: &char| one.is_ascii_alphanumeric() || "-_.".contains(*one);
    let name: String = hostname.chars().filter(good).take(48).collect();
    if name.is_empty() { "inside".to_owned() } else { name }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it looks like `NAME=VALUE`")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The node inside, while it runs.
pub(crate) struct Inside {
    stop: CancellationToken,
    tasks: JoinSet<Result<(), NodeError>>,
}

impl InsideArgs {
    /// Starts the node, unless there is to be none.
    pub(crate) async fn start(&self, server: &mut Server, data: &Path) -> anyhow::Result<Inside> {
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
        match Agent::open(self.settings(data), client).await {
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

    fn settings(&self, data: &Path) -> Settings {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Settings {
            name: machine_name(),
            state: data.join("node"),
            slots: self.slots.unwrap_or_else(|| u32::try_from(cores * 4).unwrap_or(8)),
            warm: self.warm,
            labels: self.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            mounts: self.allow_mount.clone(),
            runtimes: self.runtimes.clone(),
            host_network: self.allow_host_network,
            registries: self.reach.registries(),
            cache_bytes: CACHE_BYTES,
            first_id: FIRST_ID,
            drain: Duration::from_secs(20),
            helper: PathBuf::from("/proc/self/exe"),
            hidden: vec![data.to_owned()],
        }
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
