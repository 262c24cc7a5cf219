//! The view as it is drawn: what it shows is the board's, where it stands and how it looks is decided here.

use super::board::Board;
use crate::execution::class_text;
use crate::output::{age, printable};
use crate::quantity;
use jiff::Timestamp;
use model::node::HoldKind;
use model::{ExecutionState, Node, NodeState, Usage};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table};

/// How wide the history of ends is at most.
const MAX_HISTORY: u16 = 60;
/// Failures that are shown at most.
const MAX_FAILURES: u16 = 6;
/// How wide the mark of a node's business is.
const BAR_CHARS: u32 = 10;

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Palette {
    Colours,
    Plain,
}

impl Palette {
    fn of(self, colour: Color) -> Style {
        if self == Self::Colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn faint(self) -> Style {
        if self == Self::Colours { Style::new().add_modifier(Modifier::DIM) } else { Style::new() }
    }
}

/// Draws the view.
pub(super) fn draw(frame: &mut Frame<'_>, board: &Board, now: Timestamp, palette: Palette) {
    let area = frame.area();
    let node_rows = u16::try_from(board.all_nodes().len()).unwrap_or(u16::MAX).min(area.height / 3).max(1);
    let failure_rows = u16::try_from(board.failures().count()).unwrap_or(u16::MAX).min(MAX_FAILURES);
    let failure_rows = if failure_rows == 0 { 0 } else { failure_rows + 2 };
    let [head, numbers, history, nodes, running, failures, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Length(2),
        Constraint::Length(node_rows + 2),
        Constraint::Min(3),
        Constraint::Length(failure_rows),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(frame, head, board, now, palette);
    frame.render_widget(Paragraph::new(numbers_text(board, now, palette)), numbers);
    let width = history.width.min(MAX_HISTORY);
    let counts = board.seconds(now, width.into());
    let history = Rect { width, height: 1.min(history.height), ..history };
    frame.render_widget(Sparkline::default().data(&counts).style(palette.of(Color::Green)), history);
    draw_nodes(frame, nodes, board, palette);
    draw_running(frame, running, board, now, palette);
    draw_failures(frame, failures, board, now, palette);
    frame.render_widget(Paragraph::new(foot_text(board, palette)), foot);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, board: &Board, now: Timestamp, palette: Palette) {
    let clock = now.to_string().chars().skip(11).take(8).collect::<String>() + "Z";
    let title = Line::from(vec![
        Span::styled("quarry top", palette.strong()),
        Span::raw("  "),
        Span::styled(printable(&board.url), palette.faint()),
    ]);
    frame.render_widget(Paragraph::new(title), area);
    frame.render_widget(Paragraph::new(Line::from(clock).right_aligned()), area);
}

fn numbers_text(board: &Board, now: Timestamp, palette: Palette) -> Vec<Line<'static>> {
    let rate = board.rate(now);
    let (ended, failed) = board.ends();
    let bad = if failed > 0 { palette.of(Color::Red) } else { Style::new() };
    let second = Line::from(vec![
        Span::raw(format!("{ended} ended, {:.1} a second; ", rate.ended)),
        Span::styled(format!("{failed} failed, {:.1} a second", rate.failed), bad),
    ]);
    vec![Line::raw(standing_text(board)), second]
}

/// Writes how much is taken, how many run and how many wait; a sign says that there are more.
pub(super) fn standing_text(board: &Board) -> String {
    let (busy, slots) = board.slots();
    let (nodes, running) = (board.all_nodes().len(), board.running().len());
    let more = if board.is_partial() { "+" } else { "" };
    let queued = board.queued();
    let all: usize = queued.iter().map(|(_, count)| count).sum();
    let classes = queued.map(|(class, count)| format!("{count} {}", class_text(class))).join(", ");
    let word = if nodes == 1 { "node" } else { "nodes" };
    format!("{nodes} {word}, {busy} of {slots} slots busy; {running}{more} running; {all}{more} queued: {classes}")
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, board: &Board, palette: Palette) {
    let room = usize::from(area.height.saturating_sub(2));
    let all = board.all_nodes();
    let rows = all.iter().take(room).map(|node| {
        let (hold, style) = (hold_text(node), node_style(node, palette));
        Row::new([
            Cell::new(printable(&node.name)),
            Cell::new(node.state.as_str()).style(style),
            Cell::new(busy_text(node)),
            Cell::new(hold).style(style),
        ])
    });
    let more = if all.len() > room { format!("NODE ({} more)", all.len() - room) } else { "NODE".to_owned() };
    let widths = [Constraint::Length(24), Constraint::Length(9), Constraint::Length(22), Constraint::Min(10)];
    let head = Row::new([more, "STATE".to_owned(), "BUSY".to_owned(), "HELD".to_owned()]).style(palette.strong());
    frame.render_widget(Table::new(rows, widths).header(head).column_spacing(2), area);
}

fn node_style(node: &Node, palette: Palette) -> Style {
    match (node.state, node.hold.is_some()) {
        (NodeState::Lost, _) => palette.of(Color::Red),
        (NodeState::Ready, false) => palette.of(Color::Green),
        (NodeState::Ready, true) | (NodeState::Joining | NodeState::Draining | NodeState::Gone, _) => {
            palette.of(Color::Yellow)
        }
    }
}

/// Writes how much of a node is taken: `███░░░░░░░ 3/10`.
pub(super) fn busy_text(node: &Node) -> String {
    let (busy, slots) = (node.busy.unwrap_or(0), node.offer.slots);
    // Something that runs is always seen.
    let full = (u64::from(busy) * u64::from(BAR_CHARS)).div_ceil(u64::from(slots.max(1))).min(u64::from(BAR_CHARS));
    let full = usize::try_from(full).expect("a mark is short");
    format!("{}{} {busy}/{slots}", "█".repeat(full), "░".repeat(BAR_CHARS as usize - full))
}

/// Writes what keeps a node from taking anything new.
pub(super) fn hold_text(node: &Node) -> String {
    let Some(hold) = &node.hold else { return String::new() };
    let kind = match hold.kind {
        HoldKind::Cordon => "cordon",
        HoldKind::Quarantine => "quarantine",
        HoldKind::Age => "age",
    };
    let cause = if hold.cause.is_empty() { format!("by {}", hold.by) } else { hold.cause.clone() };
    printable(&format!("{kind}: {cause}"))
}

fn draw_running(frame: &mut Frame<'_>, area: Rect, board: &Board, now: Timestamp, palette: Palette) {
    let room = usize::from(area.height.saturating_sub(1));
    let running = board.running();
    // What no node tells needs no column.
    let knows_usage = running.iter().any(|(_, row)| row.usage.is_some());
    let rows = running.iter().take(room).map(|(id, row)| {
        let style = if row.state == ExecutionState::Cancelling { palette.of(Color::Yellow) } else { Style::new() };
        let mut cells = vec![id.to_string(), class_text(row.class).to_owned(), age(row.since, now)];
        cells.push(printable(&board.name(row.node)));
        if knows_usage {
            cells.extend(usage_texts(row.usage.as_ref()));
        }
        cells.push(row.command.clone());
        Row::new(cells).style(style)
    });
    let mut widths = [30, 5, 5, 16].map(Constraint::Length).to_vec();
    if knows_usage {
        widths.extend([9, 8].map(Constraint::Length));
    }
    widths.push(Constraint::Min(10));
    let more =
        if running.len() > room { format!("RUNNING ({} more)", running.len() - room) } else { "RUNNING".to_owned() };
    let mut head = vec![more.as_str(), "CLASS", "AGE", "NODE"];
    head.extend(["MEMORY", "CPU"].iter().filter(|_| knows_usage));
    head.push("COMMAND");
    let head = Row::new(head).style(palette.strong());
    frame.render_widget(Table::new(rows, widths).header(head).column_spacing(2), area);
}

/// Writes the most memory and the processors' time that something has used, as `ps` does.
pub(super) fn usage_texts(usage: Option<&Usage>) -> [String; 2] {
    let text = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let memory = usage.map(|usage| quantity::bytes_text(usage.memory_peak_bytes));
    [text(memory), text(usage.map(|usage| quantity::ms_text(usage.cpu_ms)))]
}

fn draw_failures(frame: &mut Frame<'_>, area: Rect, board: &Board, now: Timestamp, palette: Palette) {
    if area.height < 2 {
        return;
    }
    // A line of air above.
    let area = Rect { y: area.y + 1, height: area.height - 1, ..area };
    let rows = board.failures().take(usize::from(area.height) - 1).map(|failed| {
        let cells = [failed.id.to_string(), age(failed.at, now), failed.why.clone(), failed.command.clone()];
        Row::new(cells)
    });
    let widths = [Constraint::Length(30), Constraint::Length(5), Constraint::Length(36), Constraint::Min(10)];
    let head = Row::new(["FAILED", "AGO", "WHY", "COMMAND"]).style(palette.strong());
    frame.render_widget(Table::new(rows, widths).header(head).column_spacing(2), area);
}

fn foot_text(board: &Board, palette: Palette) -> Line<'static> {
    if let Some(why) = board.why_stale() {
        return Line::styled(format!("not up to date: {}", printable(why)), palette.of(Color::Red));
    }
    match board.why_waiting() {
        Some(why) => Line::styled(format!("the queue waits: {}", printable(why)), palette.of(Color::Yellow)),
        None => Line::styled("q quits", palette.faint()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::board::tests::{change, execution, node};
    use super::*;
    use model::node::Hold;
    use model::{Outcome, Page};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(board: &Board, columns: u16, rows: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("is made");
        let now = "2026-01-01T00:01:00Z".parse().expect("is an instant");
        terminal.draw(|frame| draw(frame, board, now, Palette::Plain)).expect("is drawn");
        let buffer = terminal.backend().buffer();
        let line = |row| (0..columns).map(|column| buffer[(column, row)].symbol()).collect::<String>();
        (0..rows).map(|row| line(row).trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    fn board() -> Board {
        let at = |second: i64| Timestamp::from_second(1_767_225_600 + second).expect("is an instant");
        let mut board = Board::new("http://127.0.0.1:8080", at(0));
        let items = (1..=6).map(|number| execution(number, None)).collect();
        board.list(7, &Page { items, next: None, as_of: 7 });
        let hold =
            Hold { kind: HoldKind::Quarantine, cause: "no \u{1b}space".to_owned(), by: "beta".to_owned(), at: at(0) };
        board.nodes(vec![node(1, "alpha", 3), Node { hold: Some(hold), ..node(2, "beta", 0) }]);
        board.change(&change(8, &execution(2, Some(Outcome::Exited { code: 0 }))), at(57));
        board.change(&change(9, &execution(4, Some(Outcome::OutOfMemory))), at(58));
        board.waiting(execution(1, None).id, Some("no node has label `gpu=yes`".to_owned()));
        board
    }

    #[test]
    fn the_view_shows_what_matters() {
        insta::assert_snapshot!(drawn(&board(), 110, 20), @r"
        quarry top  http://127.0.0.1:8080                                                                    00:01:00Z
        2 nodes, 3 of 16 slots busy; 1 running; 3 queued: 2 human, 0 event, 1 batch
        2 ended, 0.2 a second; 1 failed, 0.1 a second
                                                                ██

        NODE                      STATE      BUSY                    HELD
        beta                      ready      ░░░░░░░░░░ 0/8          quarantine: no \u{1b}space
        alpha                     ready      ████░░░░░░ 3/8

        RUNNING                         CLASS  AGE    NODE              COMMAND
        exe_00000000000000000000000006  batch  60s    alpha             solve xxxx






        FAILED                          AGO    WHY                                   COMMAND
        exe_00000000000000000000000004  2s     needed more memory than its limit     solve xxxx
        the queue waits: no node has label `gpu=yes`
        ");
        let mut board = board();
        board.trouble(Some("the server does not answer".to_owned()));
        assert!(drawn(&board, 110, 20).ends_with("not up to date: the server does not answer"));
    }

    #[test]
    fn no_terminal_is_too_small() {
        let board = board();
        for (columns, rows) in [(1, 1), (10, 3), (40, 6), (300, 4), (20, 100)] {
            assert_eq!(drawn(&board, columns, rows).split('\n').count(), usize::from(rows));
        }
    }

    #[test]
    fn business_is_seen_at_a_glance() {
        let check = |busy: u32, slots: u32, expected: &str| {
            let mut node = node(1, "alpha", busy);
            node.offer.slots = slots;
            assert_eq!(busy_text(&node), expected);
        };
        check(0, 4, "░░░░░░░░░░ 0/4");
        check(1, 1_000, "█░░░░░░░░░ 1/1000");
        check(2, 4, "█████░░░░░ 2/4");
        check(9, 4, "██████████ 9/4");
        check(0, 0, "░░░░░░░░░░ 0/0");
    }
}
