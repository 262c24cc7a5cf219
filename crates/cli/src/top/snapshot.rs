//! How things stand at one moment, as text or JSON, for whoever has no terminal.

use super::board::Board;
use super::screen::{hold_text, standing_text, usage_texts};
use crate::execution::class_text;
use crate::ps;
use crate::session::Session;
use model::{Execution, ExecutionState, Node, Page};
use serde::Serialize;

/// Executions that are shown.
const MAX_SHOWN: usize = 50;

/// How things stand, for programs.
#[derive(Serialize)]
struct Snapshot<'a> {
    nodes: &'a [Node],
    running: Vec<&'a Execution>,
    queued: Queued,
    /// Whether there was more than could be listed, so that the counts are least counts.
    is_partial: bool,
    as_of: u64,
}

#[derive(Serialize)]
struct Queued {
    human: usize,
    event: usize,
    batch: usize,
}

/// Shows how things stand.
pub(super) fn show(session: &mut Session, board: &Board, page: &Page<Execution>) -> anyhow::Result<()> {
    if session.output.is_json() {
        let [(_, human), (_, event), (_, batch)] = board.queued();
        let running = page.items.iter().filter(|execution| execution.state != ExecutionState::Queued).collect();
        let snapshot = Snapshot {
            nodes: board.all_nodes(),
            running,
            queued: Queued { human, event, batch },
            is_partial: board.is_partial(),
            as_of: page.as_of,
        };
        session.output.json(&snapshot)?;
        return Ok(());
    }
    let nodes = board.all_nodes();
    session.output.line(&standing_text(board))?;
    session.output.line("")?;
    let row = |node: &Node| {
        let busy = format!("{}/{}", node.busy.unwrap_or(0), node.offer.slots);
        vec![node.name.clone(), node.state.as_str().to_owned(), busy, hold_text(node)]
    };
    session.output.table(Some(&["node", "state", "busy", "held"]), nodes.iter().map(row).collect())?;
    session.output.line("")?;
    let running = board.running();
    let is_terminal = session.output.is_terminal();
    let now = session.output.now();
    let knows_usage = running.iter().any(|(_, row)| row.usage.is_some());
    let rows = running.iter().take(MAX_SHOWN).map(|(id, row)| {
        let since = if is_terminal { crate::output::age(row.since, now) } else { row.since.to_string() };
        let mut cells = vec![id.to_string(), class_text(row.class).to_owned(), since, board.name(row.node)];
        if knows_usage {
            cells.extend(usage_texts(row.usage.as_ref()));
        }
        cells.push(row.command.clone());
        cells
    });
    let mut head = vec!["running", "class", if is_terminal { "age" } else { "since" }, "node"];
    head.extend(["memory", "cpu"].iter().filter(|_| knows_usage));
    head.push("command");
    session.output.table(Some(&head), rows.collect())?;
    if running.len() > MAX_SHOWN {
        session.output.say(&format!("{} more run; see `quarry ps --limit 0`", running.len() - MAX_SHOWN));
    }
    for reason in ps::reasons(&page.items) {
        session.output.say(&reason);
    }
    Ok(())
}
