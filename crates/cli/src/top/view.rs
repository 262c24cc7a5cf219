//! How the picture looks: on a terminal, and as text.

use super::picture::Picture;
use crate::execution::{class_text, command_text, outcome_text};
use crate::node::hold_text;
use crate::output::{age, printable};
use crate::ps::node_text;
use model::{Class, Execution, Node, NodeState};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Row, Table};
use std::time::Instant;

/// Lines of nodes that are shown before executions get their part.
const MAX_NODE_LINES: u16 = 12;
/// Lines of failures.
const MAX_FAILURE_LINES: u16 = 6;
/// Cells of a bar.
const BAR: usize = 10;

/// Draws the picture.
pub(super) fn draw(frame: &mut Frame, picture: &Picture, url: &str) {
    let lines = |count: usize, max: u16| if count == 0 { 0 } else { u16::try_from(count).unwrap_or(max).min(max) + 2 };
    let nodes = picture.nodes.as_deref().unwrap_or_default();
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(lines(nodes.len(), MAX_NODE_LINES)),
        Constraint::Min(3),
        Constraint::Length(lines(picture.failures.len(), MAX_FAILURE_LINES)),
        Constraint::Length(1),
    ])
    .split(frame.area());
    for (index, line) in summary(picture, url).into_iter().enumerate() {
        let area = Rect { y: areas[0].y + u16::try_from(index).unwrap_or(0), height: 1, ..areas[0] };
        let style = if index == 0 { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
        frame.render_widget(Line::from(Span::styled(printable(&line), style)), area.intersection(areas[0]));
    }
    if !nodes.is_empty() {
        table(frame, areas[1], &NODE_HEAD, NODE_WIDTHS, nodes.iter().map(|node| (node_row(node), node_style(node))));
    }
    let rows = picture.running.iter().map(|execution| (running_row(picture, execution), Style::new()));
    table(frame, areas[2], &RUNNING_HEAD, RUNNING_WIDTHS, rows);
    if !picture.failures.is_empty() {
        let bad = Style::new().fg(Color::Red);
        let rows = picture.failures.iter().map(|execution| (failure_row(picture, execution), bad));
        table(frame, areas[3], &FAILURE_HEAD, FAILURE_WIDTHS, rows);
    }
    let foot = picture.note.clone().unwrap_or_else(|| "q quits".to_owned());
    frame.render_widget(Line::from(Span::styled(printable(&foot), Style::new().add_modifier(Modifier::DIM))), areas[4]);
}

/// Writes the picture as lines of text.
pub(super) fn text(picture: &Picture, url: &str) -> Vec<String> {
    let mut lines = summary(picture, url);
    let mut part = |head: &[&str], rows: Vec<Vec<String>>| {
        if rows.is_empty() {
            return;
        }
        let rows = rows.into_iter().map(|row| row.iter().map(|cell| printable(cell)).collect());
        let head = head.iter().map(|name| name.to_uppercase()).collect();
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
        lines.push(String::new());
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            lines.push(cells.collect::<Vec<_>>().join("  ").trim_end().to_owned());
        }
    };
    part(&NODE_HEAD, picture.nodes.iter().flatten().map(node_row).collect());
    part(&RUNNING_HEAD, picture.running.iter().map(|execution| running_row(picture, execution)).collect());
    lines
}

const NODE_HEAD: [&str; 5] = ["node", "state", "busy", "slots", "hold"];
const NODE_WIDTHS: [Constraint; 5] =
    [Constraint::Length(24), Constraint::Length(9), Constraint::Length(16), Constraint::Length(5), Constraint::Min(10)];
const RUNNING_HEAD: [&str; 6] = ["running", "class", "node", "age", "by", "command"];
const RUNNING_WIDTHS: [Constraint; 6] = [
    Constraint::Length(30),
    Constraint::Length(6),
    Constraint::Length(16),
    Constraint::Length(6),
    Constraint::Length(12),
    Constraint::Min(10),
];
const FAILURE_HEAD: [&str; 4] = ["failed", "age", "outcome", "command"];
const FAILURE_WIDTHS: [Constraint; 4] =
    [Constraint::Length(30), Constraint::Length(6), Constraint::Length(36), Constraint::Min(10)];

/// Writes what matters most in two lines.
fn summary(picture: &Picture, url: &str) -> Vec<String> {
    let nodes = picture.nodes.as_deref().unwrap_or_default();
    let ready = nodes.iter().filter(|node| node.state == NodeState::Ready && node.hold.is_none());
    let (count, slots) = ready.fold((0, 0), |(count, slots), node| (count + 1, slots + node.offer.slots));
    let nodes = match &picture.nodes {
        None => "nodes are not yours to see".to_owned(),
        Some(nodes) => format!("{count} of {} nodes take executions, {slots} slots", nodes.len()),
    };
    let plus = |has_more: bool| if has_more { "+" } else { "" };
    let queue = &picture.queue;
    let classes = Class::ALL.iter().zip(queue.counts).map(|(class, count)| format!("{} {count}", class_text(*class)));
    let waiting = format!(
        "{}{} queued ({})",
        queue.counts.iter().sum::<usize>(),
        plus(queue.has_more),
        classes.collect::<Vec<_>>().join(", ")
    );
    let running = format!("{}{} running", picture.running.len(), plus(picture.has_more));
    let rate = picture.rate(Instant::now()).map(|(rate, failed)| format!(", {rate:.1} end a second, {failed} failed"));
    vec![format!("{url}: {nodes}"), format!("{running}, {waiting}{}", rate.unwrap_or_default())]
}

fn node_row(node: &Node) -> Vec<String> {
    let slots = node.offer.slots.max(1) as usize;
    let busy = node.busy.unwrap_or(0) as usize;
    let full = (busy * BAR).div_ceil(slots).min(BAR);
    let bar = format!("{}{} {busy}", "#".repeat(full), ".".repeat(BAR - full));
    vec![
        node.name.clone(),
        node.state.as_str().to_owned(),
        bar,
        node.offer.slots.to_string(),
        node.hold.as_ref().map(hold_text).unwrap_or_default(),
    ]
}

fn node_style(node: &Node) -> Style {
    match node.state {
        NodeState::Ready if node.hold.is_none() => Style::new(),
        NodeState::Lost => Style::new().fg(Color::Red),
        NodeState::Ready | NodeState::Joining | NodeState::Draining | NodeState::Gone => Style::new().fg(Color::Yellow),
    }
}

fn running_row(picture: &Picture, execution: &Execution) -> Vec<String> {
    vec![
        execution.id.to_string(),
        class_text(execution.class).to_owned(),
        node_text(execution, &picture.names),
        age(execution.started_at.unwrap_or(execution.created_at), picture.at),
        execution.by.clone(),
        command_text(&execution.recipe.command),
    ]
}

fn failure_row(picture: &Picture, execution: &Execution) -> Vec<String> {
    vec![
        execution.id.to_string(),
        age(execution.ended_at.unwrap_or(execution.created_at), picture.at),
        execution.outcome.as_ref().map(outcome_text).unwrap_or_default(),
        command_text(&execution.recipe.command),
    ]
}

fn table<const N: usize>(
    frame: &mut Frame,
    area: Rect,
    head: &[&str; N],
    widths: [Constraint; N],
    rows: impl Iterator<Item = (Vec<String>, Style)>,
) {
    let strong = Style::new().add_modifier(Modifier::BOLD);
    let cells = |row: Vec<String>| row.into_iter().map(|cell| printable(&cell)).collect::<Vec<_>>();
    // What lies below the edge is not worth being prepared.
    let rows = rows.take(area.height.into()).map(|(row, style)| Row::new(cells(row)).style(style));
    let head = Row::new(head.map(str::to_uppercase)).style(strong);
    frame.render_widget(Table::new(rows, widths).header(head).column_spacing(2), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::picture::Queue;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::collections::{HashMap, VecDeque};

    const NODE: &str = r#"{"id":"nod_00000000000000000000000001","tenant":"ten_00000000000000000000000001",
        "name":"builder","state":"ready","session":"ses_00000000000000000000000001","busy":3,"by":"ada",
        "offer":{"version":"1","platform":{"os":"linux","architecture":"amd64"},"kinds":["process"],"networks":["none"],
        "slots":8,"cpu_milli":2000,"memory_bytes":1073741824,"enforces":{}},"created_at":"2026-01-01T00:00:00Z"}"#;

    fn execution(state: &str, outcome: &str) -> Execution {
        let text = format!(
            r#"{{"id":"exe_00000000000000000000000001","tenant":"ten_00000000000000000000000001","state":"{state}",
            "origin":{{"kind":"hand"}},"class":"human","command":["sh","-c","\u001b[2Jexit 3"],"attempt":1,"losses":0,
            "lease":{{"node":"nod_00000000000000000000000001","session":"ses_00000000000000000000000001"}},"by":"ada",
            "created_at":"2026-01-01T00:00:00Z","started_at":"2026-01-01T00:00:05Z","outcome":{outcome}}}"#
        );
        serde_json::from_str(&text).expect("is an execution")
    }

    fn picture() -> Picture {
        let mut node: Node = serde_json::from_str(NODE).expect("is a node");
        let mut lost = node.clone();
        (lost.name, lost.state, lost.busy) = ("older".to_owned(), NodeState::Lost, None);
        node.hold = None;
        let names = HashMap::from([(node.id, node.name.clone())]);
        let mut picture = Picture::for_tests(vec![node, lost], names);
        picture.queue = Queue { counts: [1, 0, 12], has_more: true };
        picture.running = vec![execution("running", "null")];
        picture.failures = VecDeque::from([execution("failed", r#"{"kind":"signalled","signal":11}"#)]);
        picture
    }

    #[test]
    fn a_screen_shows_all_of_it_and_a_small_one_what_fits() {
        let drawn = |columns, rows| {
            let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("is one");
            terminal.draw(|frame| draw(frame, &picture(), "http://house")).expect("is drawn");
            terminal.backend().to_string()
        };
        insta::assert_snapshot!(drawn(110, 16), @r#"
        "http://house: 1 of 2 nodes take executions, 8 slots                                                           "
        "1 running, 13+ queued (human 1, event 0, batch 12)                                                            "
        "NODE                      STATE      BUSY              SLOTS  HOLD                                            "
        "builder                   ready      ####...... 3      8                                                      "
        "older                     lost       .......... 0      8                                                      "
        "                                                                                                              "
        "RUNNING                         CLASS   NODE              AGE     BY            COMMAND                       "
        "exe_00000000000000000000000001  human   builder           55s     ada           sh -c '\u{1b}[2Jexit 3'       "
        "                                                                                                              "
        "                                                                                                              "
        "                                                                                                              "
        "                                                                                                              "
        "FAILED                          AGE     OUTCOME                               COMMAND                         "
        "exe_00000000000000000000000001  60s     ended by signal 11 (SEGV)             sh -c '\u{1b}[2Jexit 3'         "
        "                                                                                                              "
        "q quits                                                                                                       "
        "#);
        for (columns, rows) in [(1, 1), (20, 5), (300, 2), (2, 200)] {
            drawn(columns, rows);
        }
    }

    #[test]
    fn text_shows_the_same() {
        insta::assert_snapshot!(text(&picture(), "http://house").join("\n"), @r"
        http://house: 1 of 2 nodes take executions, 8 slots
        1 running, 13+ queued (human 1, event 0, batch 12)

        NODE     STATE  BUSY          SLOTS  HOLD
        builder  ready  ####...... 3  8
        older    lost   .......... 0  8

        RUNNING                         CLASS  NODE     AGE  BY   COMMAND
        exe_00000000000000000000000001  human  builder  55s  ada  sh -c '\u{1b}[2Jexit 3'
        ");
    }
}
