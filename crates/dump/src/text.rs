//! What programs, their runtimes, sanitizers and debuggers print when something goes wrong, read as a report.
//!
//! Each speaker has a parser that finds its own beginning; the first one in `SPEAKERS` that finds it is believed. Frames
//! are told by somebody else's walk, so nothing is looked up here. All is one pass over a bounded number of bounded lines: of
//! a text that has more, the first and the last ones, since the crash that a log tells of stands at its end.

mod debugger;
mod go;
mod java;
mod javascript;
pub(crate) mod line;
mod prefix;
mod python;
mod rust;
mod sanitizer;
mod undefined;

use crate::kernel;
use crate::kind::is_text;
use model::report::{
    Address, Crash, DumpKind, Frame, MAX_FRAMES, MAX_NAME_CHARS, MAX_TAIL_FRAMES, NoteCode, Report, Severity, Signal,
    Thread,
};

/// Bytes of a text that are read of its beginning, and as many of its end.
pub(crate) const MAX_TEXT_BYTES: usize = 8 << 20;
/// Lines of either.
const MAX_LINES: usize = 200_000;
/// Bytes of one line; what is beyond is left out.
const MAX_LINE_BYTES: usize = 8192;
/// Characters of a message.
const MAX_MESSAGE_CHARS: usize = 8192;
/// Stacks of one report, those of who allocated and freed included.
const MAX_STACKS: usize = 1024;
/// Addresses below this are taken for a null pointer with an offset.
const NEAR_NULL: u64 = 64 << 10;

type Parser = fn(&[&str]) -> Option<Report>;

/// Who may have printed a text, those first whose words are the surest.
const SPEAKERS: [Parser; 10] = [
    sanitizer::report,
    undefined::report,
    kernel::told,
    go::report,
    rust::report,
    python::report,
    java::report,
    javascript::report,
    debugger::report,
    sanitizer::summary,
];

/// Returns what sort of report a text holds, by its beginning.
pub(crate) fn kind(head: &[u8]) -> DumpKind {
    report(head).map_or(DumpKind::Unknown, |report| report.kind)
}

/// Returns the report of a text; none if it is not a text, or nobody's that is known.
pub(crate) fn report(bytes: &[u8]) -> Option<Report> {
    if !is_text(bytes) {
        return None;
    }
    let (first, rest) = bytes.split_at(beginning(bytes));
    let (between, last) = rest.split_at(rest.len() - end(rest));
    let texts = [first, last].map(String::from_utf8_lossy);
    let [first, last] = texts.each_ref().map(|text| plain(text));
    let [first, last] = [&first, &last].map(|text| {
        let lines: Vec<&str> = text.lines().map(|line| line::cut(line, MAX_LINE_BYTES)).collect();
        prefix::without(&lines)
    });
    // Nothing that was begun before what is left out goes on behind it.
    let gap = (!between.is_empty()).then_some("");
    let lines: Vec<&str> = first.into_iter().chain(gap).chain(last).collect();
    let mut report = SPEAKERS.iter().find_map(|parse| parse(&lines))?;
    if !between.is_empty() {
        let all = bytes.len();
        let text = format!("the middle of the text was not looked at: {} of its {all} bytes", between.len());
        report.note(NoteCode::Cut, text);
    }
    bound(&mut report);
    Some(report)
}

/// Returns how many bytes of a text's beginning are read: whole lines, unless there is none.
fn beginning(bytes: &[u8]) -> usize {
    let head = &bytes[..bytes.len().min(MAX_TEXT_BYTES)];
    let mut ends = head.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).take(MAX_LINES);
    match head.len() == bytes.len() {
        true => ends.nth(MAX_LINES - 1).unwrap_or(head.len()),
        false => ends.last().unwrap_or(head.len()),
    }
}

/// Returns how many bytes of a text's end are read, by the same measure.
fn end(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(MAX_TEXT_BYTES)..];
    // The last line's own end does not begin another one.
    let inner = tail.strip_suffix(b"\n").unwrap_or(tail);
    let is_start = |at: &usize| inner[at - 1] == b'\n';
    let starts = (1..=inner.len()).rev().filter(is_start).take(MAX_LINES);
    match tail.len() == bytes.len() {
        true => starts.map(|at| tail.len() - at).nth(MAX_LINES - 1).unwrap_or(tail.len()),
        false => starts.map(|at| tail.len() - at).last().unwrap_or(tail.len()),
    }
}

/// Returns a text without the escapes that colour it.
fn plain(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains('\u{1b}') {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len());
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        if sign != '\u{1b}' {
            plain.push(sign);
        } else if signs.next_if_eq(&'[').is_some() {
            while signs.next_if(|next| next.is_ascii_digit() || ";?".contains(*next)).is_some() {}
            signs.next_if(char::is_ascii_alphabetic);
        }
    }
    plain.into()
}

/// Keeps what was told within what a report may hold.
pub(crate) fn bound(report: &mut Report) {
    if report.threads.len() > MAX_STACKS {
        report.note(NoteCode::Cut, format!("of {} stacks {MAX_STACKS} are kept", report.threads.len()));
        report.threads.truncate(MAX_STACKS);
    }
    for thread in &mut report.threads {
        if thread.frames.len() > MAX_FRAMES {
            let tail = thread.frames.len() - MAX_TAIL_FRAMES;
            let head = MAX_FRAMES - MAX_TAIL_FRAMES;
            thread.frames_cut += (tail - head) as u64;
            thread.frames_cut_at = Some(head);
            thread.frames.drain(head..tail);
        }
        for frame in &mut thread.frames {
            for text in [&mut frame.function, &mut frame.file, &mut frame.module_name].into_iter().flatten() {
                *text = line::cut(text, MAX_NAME_CHARS).to_owned();
            }
        }
        thread.name = thread.name.take().map(|name| line::cut(&name, MAX_NAME_CHARS).to_owned());
    }
    if let Some(message) = report.crash.as_mut().and_then(|crash| crash.message.as_mut()) {
        *message = line::cut(message.trim(), MAX_MESSAGE_CHARS).to_owned();
    }
}

/// What went wrong, as a speaker says it.
pub(crate) struct Verdict {
    pub(crate) class: String,
    pub(crate) message: Option<String>,
    pub(crate) address: Option<u64>,
    pub(crate) severity: Severity,
    pub(crate) reasons: Vec<String>,
}

impl Verdict {
    pub(crate) fn new(class: impl Into<String>, severity: Severity, reason: impl Into<String>) -> Self {
        Self { class: class.into(), message: None, address: None, severity, reasons: vec![reason.into()] }
    }

    fn saying(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into()).filter(|message| !message.trim().is_empty());
        self
    }

    pub(crate) fn about(mut self, address: Option<u64>) -> Self {
        self.address = address;
        self
    }

    pub(crate) fn because(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }

    pub(crate) fn crash(self) -> Crash {
        Crash {
            class: self.class,
            message: self.message,
            address: self.address.map(Address),
            severity: self.severity,
            reasons: self.reasons,
        }
    }
}

/// Returns what a signal that a text names tells: the signal, and what went wrong.
pub(crate) fn of_signal(name: &str, address: Option<u64>) -> (Signal, Verdict) {
    let number = (1..64).find(|number| crate::core::signal::name(*number) == name).unwrap_or(0);
    let signal = Signal { number, name: name.to_owned(), address: address.map(Address), ..Signal::default() };
    let verdict = match (name, address) {
        ("SIGSEGV" | "SIGBUS", Some(near)) if near < NEAR_NULL => {
            Verdict::new("null_access", Severity::Low, "it used a null pointer, to read or to write")
        }
        ("SIGSEGV" | "SIGBUS", Some(_)) => {
            Verdict::new("wild_access", Severity::Medium, "it used an address that is not its own, to read or to write")
        }
        ("SIGSEGV" | "SIGBUS", None) => {
            Verdict::new("wild_access", Severity::Unknown, "it used an address that is not its own; which is not told")
        }
        ("SIGABRT", _) => Verdict::new("abort", Severity::Low, "it gave up by itself"),
        ("SIGFPE", _) => Verdict::new("arithmetic", Severity::Low, "a number was computed that does not exist"),
        ("SIGILL", _) => Verdict::new("illegal_instruction", Severity::Medium, "what it executed is no instruction"),
        ("SIGTRAP", _) => Verdict::new("trap", Severity::Low, "it executed an instruction that is there to stop it"),
        _ => Verdict::new("killed", Severity::Unknown, format!("{name} ended it")),
    };
    (signal, verdict.about(address))
}

/// Returns a thread that was told.
fn thread(id: u64, name: Option<String>, frames: Vec<Frame>) -> Thread {
    Thread { id, name, frames, ..Thread::default() }
}
