//! `quarry node`: the machines that offer sandboxes; and, with `--join`, being one (`role.rs`).

pub(crate) mod offer;
mod role;

use crate::exit::{Exit, Failure};
use crate::list::{ListArgs, list};
use crate::quantity;
use crate::session::Session;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use client::Client;
use futures_util::StreamExt;
use model::node::{Cordon, Hold, HoldKind};
use model::{ChangeQuery, Node as Entity, NodeQuery, NodeState, Noun};
use role::Role;
use std::pin::pin;

/// Makes this machine a node, which runs executions in sandboxes; or shows and keeps those that there are
///
/// With --join it joins a server and works for it until it is told to stop: SIGTERM or Ctrl-C lets it finish what it has,
/// a second one ends it at once. It ends by itself once it is drained. The token needs the scope `node:run`. Sandboxes
/// with limits need root; without it a node does what it can, and says what it cannot.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Example:
  quarry node --join https://quarry.example.org --token-file ./token
  quarry node --join http://localhost:8080 --token-file ./token --slots 8 --label disk=ssd --allow-mount /usr/share:ro
  quarry node ls
  quarry node drain builder-3 --wait")]
pub(crate) struct Node {
    #[command(flatten)]
    role: Role,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// What to do about nodes.
#[derive(Subcommand)]
enum Verb {
    Ls(Ls),
    /// Shows a node
    #[command(after_help = "Example:\n  quarry node info builder-3")]
    Info {
        /// Which one, by name or id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        node: String,
    },
    /// Keeps nodes from taking anything new; what they have goes on
    #[command(after_help = "Example:\n  quarry node cordon builder-3 --cause 'its disk is slow'")]
    Cordon {
        /// Which ones, by name or id
        #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
        node: Vec<String>,
        /// Why, for those who look
        #[arg(long, default_value = "")]
        cause: String,
    },
    /// Lets nodes take executions again, whatever kept them from it
    #[command(after_help = "Example:\n  quarry node uncordon builder-3")]
    Uncordon {
        /// Which ones, by name or id
        #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
        node: Vec<String>,
    },
    /// Lets nodes finish what they have, and leave
    #[command(after_help = "Example:\n  quarry node drain builder-3 --wait")]
    Drain {
        /// Which ones, by name or id
        #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
        node: Vec<String>,
        /// Wait until they have left
        #[arg(long)]
        wait: bool,
    },
    /// Removes nodes that are lost, and forgets those that have left
    #[command(after_help = "Example:\n  quarry node rm builder-3")]
    Rm {
        /// Which ones, by name or id
        #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
        node: Vec<String>,
    },
}

/// Lists nodes, newest first
#[derive(Args)]
#[command(after_help = "Example:
  quarry node ls
  quarry node ls --state lost")]
struct Ls {
    /// Only those in this state: joining, ready, draining, lost or gone; all but gone, if nothing is said
    #[arg(long, value_parser = state)]
    state: Option<NodeState>,
    #[command(flatten)]
    list: ListArgs,
}

fn state(text: &str) -> Result<NodeState, String> {
    let known = || NodeState::ALL.map(NodeState::as_str).join(", ");
    let found = NodeState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| format!("it is none of: {}", known()))
}

impl Node {
    /// Tells whether it is to be a node, which has its own way to stop.
    pub(crate) const fn is_role(&self) -> bool {
        self.verb.is_none()
    }

    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let Some(verb) = self.verb else { return self.role.run(session).await };
        let client = session.client()?;
        match verb {
            Verb::Ls(Ls { state, list: args }) => {
                let head = ["id", "state", "busy", "slots", "joined", "name", "hold"];
                list(session, args, &head, row, async |after, limit| {
                    let after = after.map(|after| after.parse()).transpose().map_err(|_| bad_cursor(&client))?;
                    client.node_list(&NodeQuery { state, after, limit }).await
                })
                .await
            }
            Verb::Info { node } => show(session, &client.node_get(&node).await?),
            Verb::Cordon { node, cause } => {
                let cordon = Cordon { cause };
                each(session, node, async |node| Ok(client.node_cordon(node, &cordon).await?)).await
            }
            Verb::Uncordon { node } => each(session, node, async |node| Ok(client.node_uncordon(node).await?)).await,
            Verb::Drain { node, wait } => {
                each(session, node, async |node| {
                    // Where the log stands comes first: what happens after that is in the log.
                    let head = client.head().await?;
                    let drained = client.node_drain(node).await?;
                    if wait { left(&client, drained, head).await } else { Ok(drained) }
                })
                .await
            }
            Verb::Rm { node } => each(session, node, async |node| Ok(client.node_remove(node).await?)).await,
        }
    }
}

fn bad_cursor(client: &Client) -> client::ClientError {
    let what = "the next page is not named by a node".to_owned();
    client::ClientError::Unexpected { url: client.url().to_owned(), what, request: None }
}

/// Does something to each and says where it stands then.
async fn each(
    session: &mut Session,
    nodes: Vec<String>,
    act: impl AsyncFn(&str) -> anyhow::Result<Entity>,
) -> anyhow::Result<Exit> {
    let mut exit = Exit::Ok;
    for node in nodes {
        exit = exit.or(match act(&node).await {
            Ok(node) => said(session, &node)?,
            Err(error) => session.report(&error),
        });
        session.output.flush()?;
    }
    Ok(exit)
}

/// Waits until a node has left, or is lost.
async fn left(client: &Client, mut node: Entity, head: u64) -> anyhow::Result<Entity> {
    let query = ChangeQuery {
        after: Some(head),
        noun: Some(Noun::Node),
        id: Some(node.id.to_string()),
        ..ChangeQuery::default()
    };
    let mut changes = pin!(client.follow(&query));
    while !matches!(node.state, NodeState::Gone | NodeState::Lost) {
        let change = changes.next().await.transpose()?;
        let change = change.ok_or_else(|| Failure::new(Exit::Failed, "unexpected", "the log ended"))?;
        node = match serde_json::from_str(change.body.get()) {
            Ok(node) => node,
            Err(_) => client.node_get(&node.id.to_string()).await?,
        };
    }
    Ok(node)
}

/// Writes what keeps a node from taking anything new.
pub(crate) fn hold_text(hold: &Hold) -> String {
    let word = match hold.kind {
        HoldKind::Cordon => "cordoned",
        HoldKind::Quarantine => "quarantined",
        HoldKind::Age => "too old",
    };
    if hold.cause.is_empty() { format!("{word} by {}", hold.by) } else { format!("{word}: {}", hold.cause) }
}

fn row(node: &Entity, session: &Session) -> Vec<String> {
    vec![
        node.id.to_string(),
        node.state.as_str().to_owned(),
        node.busy.map_or_else(|| "-".to_owned(), |busy| busy.to_string()),
        node.offer.slots.to_string(),
        session.output.time_or(node.joined_at, "never"),
        node.name.clone(),
        node.hold.as_ref().map(hold_text).unwrap_or_default(),
    ]
}

fn said(session: &mut Session, node: &Entity) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json_line(node)?;
    } else {
        let hold = node.hold.as_ref().map(|hold| format!("  {}", hold_text(hold))).unwrap_or_default();
        let line = format!("{}  {}  {}{hold}", node.id, node.state.as_str(), node.name);
        session.output.line(&crate::output::printable(&line))?;
    }
    Ok(Exit::Ok)
}

fn show(session: &mut Session, node: &Entity) -> anyhow::Result<Exit> {
    let output = &mut session.output;
    if output.is_json() {
        output.json(node)?;
        return Ok(Exit::Ok);
    }
    let offer = &node.offer;
    let some = |words: Vec<String>| (!words.is_empty()).then(|| words.join(" "));
    let busy = node.busy.map(|busy| format!("{busy} of {}", offer.slots));
    let machine = format!(
        "{}, {} cores, {} memory",
        offer.platform,
        offer.cpu_milli / 1_000,
        quantity::bytes_text(offer.memory_bytes)
    );
    let lacks = model::LimitSet::ALL.without(offer.enforces);
    let fields = [
        ("id", Some(node.id.to_string())),
        ("name", Some(node.name.clone())),
        ("state", Some(node.state.as_str().to_owned())),
        ("hold", node.hold.as_ref().map(|hold| format!("{}, since {}", hold_text(hold), output.time(hold.at)))),
        ("busy", busy),
        ("machine", Some(machine)),
        ("version", Some(offer.version.clone())),
        ("sandboxes", some(offer.kinds.iter().map(|kind| kind.as_str().to_owned()).collect())),
        ("networks", some(offer.networks.iter().map(|network| network.as_str().to_owned()).collect())),
        ("runtimes", some(offer.runtimes.clone())),
        ("enforces", Some(offer.enforces.to_string()).filter(|words| !words.is_empty())),
        ("lacks", Some(lacks.to_string()).filter(|words| !words.is_empty())),
        ("mounts", some(offer.mounts.clone())),
        ("labels", some(offer.labels.iter().map(|(name, value)| format!("{name}={value}")).collect())),
        ("tenant", Some(node.tenant.to_string())),
        ("by", Some(node.by.clone())),
        ("session", node.session.map(|session| session.to_string())),
        ("created", Some(output.time(node.created_at))),
        ("joined", node.joined_at.map(|at| output.time(at))),
        ("lease until", node.lease_until.map(|at| output.time(at))),
    ];
    output.fields(&fields)?;
    Ok(Exit::Ok)
}
