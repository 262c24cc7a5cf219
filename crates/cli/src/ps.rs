//! `quarry ps`: what runs and what waits, on which node, for how long.
//!
//! All of it is read before any of it is shown, so that the columns stand under each other; how much that may be has a
//! bound.

use crate::execution::{class_text, command_text};
use crate::exit::Exit;
use crate::output::age;
use crate::quantity;
use crate::session::Session;
use clap::Args;
use client::{Client, ClientError};
use jiff::Timestamp;
use model::limits::MAX_PAGE;
use model::{ErrorKind, Execution, ExecutionId, ExecutionQuery, ExecutionState, NodeId, NodeQuery, Page};
use std::collections::{BTreeMap, BTreeSet};

/// Executions that are held at once, whatever is asked for.
const MAX_SHOWN: usize = 100_000;
/// Nodes whose names are learnt.
const MAX_NODES: usize = 20_000;
/// Reasons to wait that are told.
const MAX_REASONS: usize = 5;

/// The states of what has not ended, in the order in which they are shown.
pub(crate) const LIVE: [ExecutionState; 3] =
    [ExecutionState::Running, ExecutionState::Cancelling, ExecutionState::Queued];

/// Shows what runs and what waits
#[derive(Args)]
#[command(after_help = "Example:
  quarry ps
  quarry ps --node builder-1 --limit 0
  quarry ps --json")]
pub(crate) struct Ps {
    /// Only what this node has, by name or id
    #[arg(long)]
    node: Option<String>,
    /// How many at most; 0 means all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

impl Ps {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let node = match self.node {
            Some(node) => Some(client.node_get(&node).await?.id),
            None => None,
        };
        let limit = if self.limit == 0 { MAX_SHOWN } else { self.limit.min(MAX_SHOWN) };
        let page = live(&client, node, limit).await?;
        if session.output.is_json() {
            session.output.json(&page)?;
            return Ok(Exit::Ok);
        }
        let names = names(&client).await?;
        let lines = page.items.iter().map(|execution| Line { execution, names: &names }).collect::<Vec<_>>();
        show(session, &lines)?;
        if page.next.is_some() {
            session.output.say(&format!("there are more than {}; see --limit", page.items.len()));
        }
        for reason in reasons(&page.items) {
            session.output.say(&reason);
        }
        Ok(Exit::Ok)
    }
}

/// Returns what has not ended, newest first in each state; `next` is there if there is more.
pub(crate) async fn live(client: &Client, node: Option<NodeId>, limit: usize) -> Result<Page<Execution>, ClientError> {
    let (mut items, mut next, mut as_of) = (Vec::new(), None, None);
    // One more than is shown tells that there is more; of one node's share nobody knows the size.
    let wanted = node.map_or_else(|| u32::try_from(limit + 1).unwrap_or(MAX_PAGE).min(MAX_PAGE), |_| MAX_PAGE);
    // What changes its state meanwhile may be met twice.
    let mut met = BTreeSet::new();
    for state in LIVE {
        let mut after: Option<ExecutionId> = None;
        loop {
            let query = ExecutionQuery { state: Some(state), after, limit: Some(wanted), tenant: None };
            let page = client.execution_list(&query).await?;
            as_of.get_or_insert(page.as_of);
            let cursor = page.next.as_deref().and_then(|next| next.parse().ok());
            let is_ours =
                |execution: &Execution| node.is_none_or(|node| execution.lease.is_some_and(|lease| lease.node == node));
            for execution in page.items.into_iter().filter(is_ours) {
                if items.len() < limit && met.insert(execution.id) {
                    items.push(execution);
                } else if items.len() >= limit {
                    next = items.last().map(|last| last.id.to_string());
                }
            }
            // A server that sends us back to where we were would keep us for ever.
            if next.is_some() || cursor.is_none() || cursor == after {
                break;
            }
            after = cursor;
        }
    }
    Ok(Page { items, next, as_of: as_of.unwrap_or(0) })
}

/// Returns the names of all nodes; none, if it is not ours to know them.
pub(crate) async fn names(client: &Client) -> Result<BTreeMap<NodeId, String>, ClientError> {
    let named = nodes(client).await?.into_iter().map(|node| (node.id, node.name));
    Ok(named.collect())
}

/// Returns all nodes that have not left; none, if it is not ours to know them.
pub(crate) async fn nodes(client: &Client) -> Result<Vec<model::Node>, ClientError> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let query = NodeQuery { state: None, after, limit: Some(MAX_PAGE) };
        let page = match client.node_list(&query).await {
            Err(error) if error.api().is_some_and(|error| error.kind == ErrorKind::Forbidden) => return Ok(found),
            page => page?,
        };
        let next = page.next.as_deref().and_then(|next| next.parse().ok());
        found.extend(page.items);
        if next.is_none() || next == after || found.len() >= MAX_NODES {
            return Ok(found);
        }
        after = next;
    }
}

/// An execution as one line of a table.
pub(crate) struct Line<'a> {
    pub(crate) execution: &'a Execution,
    pub(crate) names: &'a BTreeMap<NodeId, String>,
}

impl Line<'_> {
    /// Returns who has it.
    pub(crate) fn node(&self) -> String {
        let Some(lease) = self.execution.lease else { return "-".to_owned() };
        self.names.get(&lease.node).cloned().unwrap_or_else(|| lease.node.to_string())
    }

    /// Returns for how long it has been where it is.
    pub(crate) fn age(&self, now: Timestamp) -> String {
        age(self.execution.started_at.unwrap_or(self.execution.created_at), now)
    }

    /// Returns what it runs, and in which image.
    pub(crate) fn command(&self) -> String {
        let recipe = &self.execution.recipe;
        let command = command_text(&recipe.command);
        match &recipe.image {
            None => command,
            Some(image) if command.is_empty() => format!("[{image}]"),
            Some(image) => format!("[{image}] {command}"),
        }
    }
}

fn show(session: &mut Session, lines: &[Line<'_>]) -> anyhow::Result<()> {
    // A pipe gets whole instants, as everywhere.
    let (now, is_terminal) = (session.output.now(), session.output.is_terminal());
    // What no node tells needs no column.
    let knows_usage = lines.iter().any(|line| line.execution.usage.is_some());
    let row = |line: &Line<'_>| {
        let execution = line.execution;
        let at = execution.started_at.unwrap_or(execution.created_at);
        let since = if is_terminal { line.age(now) } else { at.to_string() };
        let mut cells = vec![
            execution.id.to_string(),
            execution.state.as_str().to_owned(),
            class_text(execution.class).to_owned(),
            since,
            line.node(),
        ];
        if knows_usage {
            let usage = execution.usage.as_ref();
            let text = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            cells.push(text(usage.map(|usage| quantity::bytes_text(usage.memory_peak_bytes))));
            cells.push(text(usage.map(|usage| quantity::ms_text(usage.cpu_ms))));
        }
        cells.push(line.command());
        cells
    };
    let mut head = vec!["id", "state", "class", if is_terminal { "age" } else { "since" }, "node"];
    if knows_usage {
        head.extend(["memory", "cpu"]);
    }
    head.push("command");
    session.output.table(Some(&head), lines.iter().map(row).collect())?;
    Ok(())
}

/// Says why some wait for more than their turn, the commonest reasons first.
pub(crate) fn reasons(executions: &[Execution]) -> Vec<String> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for why in executions.iter().filter_map(|execution| execution.waiting.as_deref()) {
        *counts.entry(why).or_default() += 1;
    }
    let mut counts = counts.into_iter().collect::<Vec<_>>();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let text = |(why, count): (&str, usize)| match count {
        1 => format!("1 waits: {why}"),
        count => format!("{count} wait: {why}"),
    };
    counts.into_iter().take(MAX_REASONS).map(text).collect()
}
