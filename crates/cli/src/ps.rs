//! `quarry ps`: what runs and what waits, at this moment.

use crate::exit::Exit;
use crate::output;
use crate::quantity;
use crate::session::Session;
use clap::Args;
use client::{Client, ClientError};
use model::limits::MAX_PAGE;
use model::{Execution, ExecutionQuery, ExecutionState, NodeId, NodeQuery};
use std::collections::HashMap;

/// Shows the executions that run and those that wait, newest first
#[derive(Args)]
#[command(after_help = "Example:
  quarry ps
  quarry ps --limit 0 --json")]
pub(crate) struct Ps {
    /// How many of each state at most; 0 means all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
}

/// Some executions of one state.
pub(crate) struct Found {
    pub(crate) items: Vec<Execution>,
    pub(crate) has_more: bool,
}

impl Ps {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let limit = if self.limit == 0 { u64::MAX } else { self.limit };
        let (mut items, mut has_more) = (Vec::new(), false);
        for state in [ExecutionState::Running, ExecutionState::Cancelling, ExecutionState::Queued] {
            let found = of_state(&client, state, limit).await?;
            items.extend(found.items);
            has_more |= found.has_more;
        }
        if session.output.is_json() {
            session.output.json(&serde_json::json!({ "items": items }))?;
            return Ok(Exit::Ok);
        }
        let names = node_names(&client).await;
        let rows = items.iter().map(|execution| row(execution, &names, session)).collect();
        let head = ["id", "state", "class", "node", "age", "cpu", "memory", "command"];
        session.output.table(Some(&head), rows)?;
        if has_more {
            session.output.say(&format!("there are more than {limit} of a state; see --limit"));
        }
        Ok(Exit::Ok)
    }
}

/// Returns the newest executions of a state.
pub(crate) async fn of_state(client: &Client, state: ExecutionState, limit: u64) -> Result<Found, ClientError> {
    let (mut items, mut after) = (Vec::new(), None);
    loop {
        let left = limit - items.len() as u64;
        let wanted = u32::try_from(left).unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let query = ExecutionQuery { state: Some(state), after, limit: Some(wanted), tenant: None };
        let page = client.execution_list(&query).await?;
        let got = page.items.len();
        items.extend(page.items);
        after = page.next.as_deref().and_then(|next| next.parse().ok());
        let is_full = items.len() as u64 >= limit;
        if got == 0 || after.is_none() || is_full {
            let has_more = after.is_some() && got > 0;
            items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            return Ok(Found { items, has_more });
        }
    }
}

/// Returns what nodes are called; nothing, to somebody who may not see them.
async fn node_names(client: &Client) -> HashMap<NodeId, String> {
    let query = NodeQuery { limit: Some(MAX_PAGE), ..NodeQuery::default() };
    let nodes = client.node_list(&query).await.map(|page| page.items).unwrap_or_default();
    nodes.into_iter().map(|node| (node.id, node.name)).collect()
}

/// Returns the name of the node that has an execution.
pub(crate) fn node_text(execution: &Execution, names: &HashMap<NodeId, String>) -> String {
    let named = |node: NodeId| names.get(&node).cloned().unwrap_or_else(|| node.to_string());
    execution.lease.map_or_else(|| "-".to_owned(), |lease| named(lease.node))
}

fn row(execution: &Execution, names: &HashMap<NodeId, String>, session: &Session) -> Vec<String> {
    let limits = &execution.recipe.limits;
    let since = execution.started_at.unwrap_or(execution.created_at);
    let used = execution.usage.as_ref();
    // What it uses is known at its end; until then its limits are what can be said.
    let cpu = used.map_or_else(
        || format!("<{}.{}", limits.cpu_milli / 1_000, limits.cpu_milli % 1_000 / 100),
        |usage| quantity::ms_text(usage.cpu_ms),
    );
    let memory = used.map_or_else(
        || format!("<{}", quantity::bytes_text(limits.memory_bytes)),
        |usage| quantity::bytes_text(usage.memory_peak_bytes),
    );
    vec![
        execution.id.to_string(),
        execution.state.as_str().to_owned(),
        crate::execution::class_text(execution.class).to_owned(),
        node_text(execution, names),
        output::age(since, session.output.now()),
        cpu,
        memory,
        crate::execution::command_text(&execution.recipe.command),
    ]
}
