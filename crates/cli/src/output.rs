//! What is written: the result to standard output, talk to standard error. Nothing else in this crate writes to either.
//!
//! A person at a terminal gets tables cut to its width, colours and "3 min ago"; a pipe gets plain aligned text with
//! whole instants; `--json` gets the API's own JSON. Text from outside never carries control characters to a terminal.

use crate::connection::Global;
use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table};
use jiff::{SignedDuration, Timestamp};
use model::Stream;
use serde::Serialize;
use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use tokio::io::AsyncWriteExt;

/// Whether to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    // No doc comments on these: they would stretch the help of every command to its long form.
    #[default]
    Auto,
    Always,
    Never,
}

impl Colour {
    /// Returns what a command line says of colour, before the rest of it is understood.
    pub(crate) fn spoken(args: &[OsString]) -> Self {
        let words = || args.iter().take_while(|arg| *arg != "--").filter_map(|arg| arg.to_str());
        let after = words().zip(words().skip(1)).filter(|(flag, _)| *flag == "--color").map(|(_, when)| when);
        let joined = words().filter_map(|word| word.strip_prefix("--color="));
        after.chain(joined).last().and_then(|when| Self::from_str(when, false).ok()).unwrap_or_default()
    }

    fn applies(self, is_terminal: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }
}

/// How a word looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Strong,
    Good,
    Faint,
    Doubtful,
    Bad,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Strong => "1",
            Self::Good => "32",
            Self::Faint => "2",
            Self::Doubtful => "33",
            Self::Bad => "1;31",
        }
    }
}

/// What a line feed does at the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineFeed {
    /// It goes to the beginning of the next line.
    Cooked,
    /// It goes down, and no further.
    Raw,
}

/// Standard output; what goes wrong with it says so, wherever it is told.
struct Out(Stdout);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(of_output)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(of_output)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "errors are mapped by it")]
fn of_output(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output cannot be written: {error}"))
}

/// The way out.
pub(crate) struct Output {
    out: BufWriter<Out>,
    is_json: bool,
    is_quiet: bool,
    is_terminal: bool,
    colours: (bool, bool),
    width: Option<u16>,
    now: Timestamp,
    /// Whether the terminal needs to be told to go back to the beginning of a line.
    is_raw: Cell<bool>,
    /// Whether a line of talk was begun and not ended.
    is_open: Cell<bool>,
    /// What begins each line of talk, if anything.
    speaker: Option<&'static str>,
}

impl Output {
    /// Looks at where the output goes.
    pub(crate) fn new(global: &Global) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let width = rustix::termios::tcgetwinsize(io::stdout()).map(|size| size.ws_col).ok().filter(|cols| *cols > 0);
        let colours = (global.color.applies(is_terminal), global.color.applies(io::stderr().is_terminal()));
        let out = BufWriter::new(Out(io::stdout()));
        let now = client::id::now();
        Self {
            out,
            is_json: global.json,
            is_quiet: global.quiet,
            is_terminal,
            colours,
            width,
            now,
            is_raw: Cell::new(false),
            is_open: Cell::new(false),
            speaker: None,
        }
    }

    /// Has each line of talk begin with a program's name.
    #[must_use]
    pub(crate) fn speaking_as(self, name: &'static str) -> Self {
        Self { speaker: Some(name), ..self }
    }

    /// Tells whether the result is to be JSON.
    pub(crate) const fn is_json(&self) -> bool {
        self.is_json
    }

    /// Tells whether standard output is a terminal.
    pub(crate) const fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Tells whether moving things may be shown on standard error.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.is_quiet && !self.is_json && io::stderr().is_terminal()
    }

    /// Tells whether standard output is coloured.
    pub(crate) const fn is_coloured(&self) -> bool {
        self.colours.0
    }

    /// Writes one JSON document.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.out, value)?;
        writeln!(self.out)
    }

    /// Writes one JSON document on a line of its own.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        writeln!(self.out)
    }

    /// Writes a line of result.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// Writes bytes of result as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Sends on what is written so far.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes names and values, one pair a line; what has no value is left out.
    pub(crate) fn fields(&mut self, fields: &[(&str, Option<String>)]) -> io::Result<()> {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in fields {
            if let Some(value) = value {
                let name = self.style(Style::Faint, &format!("{name:width$}"));
                writeln!(self.out, "{name}  {}", printable(value))?;
            }
        }
        Ok(())
    }

    /// Writes rows under a head; without a head they go on under the last one.
    pub(crate) fn table(&mut self, head: Option<&[&str]>, rows: Vec<Vec<String>>) -> io::Result<()> {
        let columns = rows.first().map_or(0, Vec::len).max(head.map_or(0, <[_]>::len));
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if let Some(width) = self.width.filter(|_| self.is_terminal) {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        if let Some(head) = head {
            table.set_header(head.iter().map(|name| name.to_uppercase()));
        }
        for row in rows {
            let mut row = Row::from(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
            row.max_height(1);
            table.add_row(row);
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if index + 1 == columns { 0 } else { 2 }));
            // Whoever marks an id with the mouse wants it whole; only the last column is cut.
            if index + 1 < columns {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        for (index, line) in table.lines().enumerate() {
            let line = line.trim_end();
            let is_head = index == 0 && head.is_some();
            let line = if is_head { self.style(Style::Strong, line) } else { line.to_owned() };
            writeln!(self.out, "{line}")?;
        }
        Ok(())
    }

    /// Says something that is not the result, unless told to be quiet.
    pub(crate) fn say(&self, text: &str) {
        if !self.is_quiet && !self.is_json {
            self.close("");
            // If standard error is closed, nobody wants to hear it.
            let speaker = self.speaker.map(|name| format!("{name}: ")).unwrap_or_default();
            let _ = write!(io::stderr(), "{speaker}{}{}", printable(text), self.line_end());
        }
    }

    /// Begins a line of talk that `close` goes on with; whatever is said meanwhile stands on lines of its own.
    pub(crate) fn open(&self, text: &str) {
        if !self.is_quiet && !self.is_json {
            self.close("");
            let _ = write!(io::stderr(), "{}", printable(text));
            self.is_open.set(true);
        }
    }

    /// Ends the line of talk that was begun, if one is, with some last words.
    pub(crate) fn close(&self, text: &str) {
        if self.is_open.replace(false) {
            let _ = write!(io::stderr(), "{}{}", printable(text), self.line_end());
        }
    }

    /// Says what went wrong, quiet or not.
    pub(crate) fn complain(&self, label: &str, text: &str) {
        self.close("");
        let label = self.speaker.map_or_else(|| label.to_owned(), |name| format!("{name}:"));
        let _ = write!(io::stderr(), "{label} {}{}", printable(text), self.line_end());
    }

    /// Says one JSON document, on a line of its own, beside a result that is somebody else's.
    pub(crate) fn say_json(&self, value: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(value)?;
        // If standard error is closed, nobody wants to hear it.
        let _ = writeln!(io::stderr(), "{line}");
        Ok(())
    }

    /// Passes on what a program wrote, as it is and at once, to where it wrote it.
    pub(crate) async fn relay(&self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if stream == Stream::Error {
            let mut stderr = tokio::io::stderr();
            stderr.write_all(bytes).await?;
            return stderr.flush().await;
        }
        let mut stdout = tokio::io::stdout();
        stdout.write_all(bytes).await.map_err(of_output)?;
        stdout.flush().await.map_err(of_output)
    }

    /// Notes whether the terminal is in raw mode, where a line feed does not go back.
    pub(crate) fn set_raw(&self, mode: LineFeed) {
        self.is_raw.set(mode == LineFeed::Raw);
    }

    fn line_end(&self) -> &'static str {
        if self.is_raw.get() { "\r\n" } else { "\n" }
    }

    /// Asks something without ending the line.
    pub(crate) fn prompt(&self, text: &str) -> io::Result<()> {
        let mut stderr = io::stderr();
        write!(stderr, "{text}")?;
        stderr.flush()
    }

    /// Returns the text as it looks on standard output.
    pub(crate) fn style(&self, style: Style, text: &str) -> String {
        styled(self.colours.0, style, text)
    }

    /// Returns the text as it looks on standard error.
    pub(crate) fn err_style(&self, style: Style, text: &str) -> String {
        styled(self.colours.1, style, text)
    }

    /// Returns an instant as this output's reader wants it.
    pub(crate) fn time(&self, at: Timestamp) -> String {
        if self.is_terminal { relative(at, self.now) } else { at.to_string() }
    }

    /// Returns an instant as this output's reader wants it, or nothing.
    pub(crate) fn time_or(&self, at: Option<Timestamp>, otherwise: &str) -> String {
        at.map_or_else(|| otherwise.to_owned(), |at| self.time(at))
    }

    /// Returns the moment that ages are counted from.
    pub(crate) const fn now(&self) -> Timestamp {
        self.now
    }

    /// Takes a new look at the clock, for commands that go on for long.
    pub(crate) fn refresh(&mut self) {
        self.now = client::id::now();
    }
}

fn styled(is_coloured: bool, style: Style, text: &str) -> String {
    if is_coloured { format!("\u{1b}[{}m{text}\u{1b}[0m", style.code()) } else { text.to_owned() }
}

/// Returns the text without what would steer a terminal or turn the writing around.
pub(crate) fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(steers) {
        return text.to_owned();
    }
    text.chars().map(|c| if steers(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Returns how long ago an instant was, in the fewest words: `7s`, `12m`, `3h`, `5d`.
pub(crate) fn age(at: Timestamp, now: Timestamp) -> String {
    match u64::try_from(now.duration_since(at).as_secs()).unwrap_or(0) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Returns how far an instant is from now, as people say it.
fn relative(at: Timestamp, now: Timestamp) -> String {
    let distance = now.duration_since(at);
    let seconds = distance.abs().as_secs();
    let amount = match seconds {
        0..5 => return "just now".to_owned(),
        5..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        172_800..8_640_000 => format!("{} d", seconds / 86_400),
        _ => return at.to_string().chars().take(10).collect(),
    };
    if distance >= SignedDuration::ZERO { format!("{amount} ago") } else { format!("in {amount}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_near_or_have_a_date() {
        let now: Timestamp = "2026-06-15T12:00:00Z".parse().expect("is an instant");
        let check = |at: &str, expected: &str| {
            assert_eq!(relative(at.parse().expect("is an instant"), now), expected);
        };
        check("2026-06-15T12:00:00Z", "just now");
        check("2026-06-15T11:59:30Z", "30 s ago");
        check("2026-06-15T11:57:00Z", "3 min ago");
        check("2026-06-15T09:00:00Z", "3 h ago");
        check("2026-06-10T12:00:00Z", "5 d ago");
        check("2026-06-15T12:10:00Z", "in 10 min");
        check("2026-09-13T12:00:00Z", "in 90 d");
        check("2020-01-01T00:00:00Z", "2020-01-01");
        check("9999-12-30T00:00:00Z", "9999-12-30");
    }

    #[test]
    fn nothing_from_outside_steers_the_terminal() {
        let check = |text: &str, expected: &str| assert_eq!(printable(text), expected);
        check("plain ä 漢", "plain ä 漢");
        check("a\u{1b}[2Jb", "a\\u{1b}[2Jb");
        check("a\nb\tc\r", "a\\nb\\tc\\r");
        check("\u{202e}evil", "\\u{202e}evil");
    }

    #[test]
    fn colour_is_read_before_the_rest() {
        let check = |line: &str, expected| {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(Colour::spoken(&args), expected, "{line}");
        };
        check("quarry up", Colour::Auto);
        check("quarry --color never up", Colour::Never);
        check("quarry up --color=always", Colour::Always);
        check("quarry execution create -- --color=always", Colour::Auto);
        check("quarry --color=mauve", Colour::Auto);
    }
}
