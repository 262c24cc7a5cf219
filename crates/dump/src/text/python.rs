//! Tracebacks of Python, chained ones and those of the interpreter's own end.
//!
//! Of exceptions that were raised from another one, the other one is told, as for Java; one that was met while another was
//! dealt with is a matter of its own, and is told itself.

use super::line::{between, is_logged, number};
use super::{Verdict, of_signal, thread};
use model::report::{DumpKind, Frame, NoteCode, Report, Severity, Thread, Trust};

const BEGIN: &str = "Traceback (most recent call last):";
const FATAL: &str = "Fatal Python error: ";
const RAISED_FROM: &str = "The above exception was the direct cause of the following exception:";
const WHILE: &str = "During handling of the above exception, another exception occurred:";
/// Exceptions of a source that could not be read: without a traceback if it was the program's own.
const UNREAD: [&str; 3] = ["SyntaxError", "IndentationError", "TabError"];
/// Lines of a source that are shown above such a one.
const MAX_SHOWN_LINES: usize = 4;
/// Lines of one message.
const MAX_MESSAGE_LINES: usize = 64;
/// Frames that the interpreter tells, unless it is told otherwise; outer ones are left out.
const TOLD_FRAMES: usize = 1000;
/// Frames of one traceback; where a recursion has more, it is said and no more.
const MAX_DEPTH: usize = 16 << 10;
const REPEATED: &str = "[Previous line repeated ";

struct Traceback {
    says: String,
    frames: Vec<Frame>,
    /// Whether it was raised from the one before it.
    is_wrapper: bool,
    notes: Vec<String>,
}

/// Returns the report of the last exception, or of what it was raised from.
pub(super) fn report(lines: &[&str]) -> Option<Report> {
    if let Some(at) = lines.iter().position(|line| line.starts_with(FATAL)) {
        return fatal(&lines[at..]);
    }
    let plain: Vec<&str> = lines.iter().map(|line| without_group(line)).collect();
    let begins: Vec<usize> = (0..plain.len()).filter(|at| plain[*at].trim_start().ends_with(BEGIN)).collect();
    let told = begins.iter().enumerate().take(super::MAX_STACKS).map(|(at, begin)| {
        let end = begins.get(at + 1).copied().unwrap_or(plain.len());
        let before = begin.checked_sub(1).and_then(|at| plain[..=at].iter().rfind(|line| !line.trim().is_empty()));
        traceback(&plain[begin + 1..end], at > 0 && before.is_some_and(|line| line.trim() == RAISED_FROM))
    });
    let mut told: Vec<Traceback> = told.filter(|told| !told.frames.is_empty() || !told.says.is_empty()).collect();
    if begins.is_empty() {
        told.extend(unread(&plain));
    }
    let mut at = told.len().checked_sub(1)?;
    while told[at].is_wrapper && at > 0 {
        at -= 1;
    }
    let crashed = told.remove(at);
    let mut report = Report::new(DumpKind::Traceback);
    for note in &crashed.notes {
        report.note(NoteCode::Hint, note.as_str());
    }
    let mut verdict = verdict(&crashed.says);
    let is_cut = crashed.frames.len() == TOLD_FRAMES;
    let broken = is_cut.then(|| format!("the interpreter tells {TOLD_FRAMES} frames at most"));
    report.threads.push(Thread { is_crashed: true, broken, ..thread(0, None, crashed.frames) });
    for (number, other) in told.into_iter().enumerate() {
        let what = if number < at { "before" } else { "wrapped in" };
        if number >= at {
            verdict = verdict.because(format!("it was {what} {}", super::line::cut(&other.says, 500)));
        }
        report.threads.push(thread(0, Some(format!("{what}: {}", other.says)), other.frames));
    }
    report.crash = Some(verdict.crash());
    Some(report)
}

/// Returns what is told of a program whose own source could not be read.
fn unread(lines: &[&str]) -> Option<Traceback> {
    let names = |line: &str| UNREAD.contains(&line.split(':').next().unwrap_or_default());
    let ends = |begin: &usize| lines[begin + 1..].iter().take(MAX_SHOWN_LINES).any(|line| names(line));
    let is_begin = |at: &usize| frame(lines[*at]).is_some_and(|frame| frame.function.is_none());
    let begin = (0..lines.len()).rev().filter(is_begin).find(ends)?;
    Some(traceback(&lines[begin..], false))
}

fn verdict(says: &str) -> Verdict {
    let name = says.split([':', '\n']).next().unwrap_or_default();
    let verdict = match name.rsplit('.').next().unwrap_or_default() {
        "AssertionError" => Verdict::new("assert", Severity::Low, "an assertion did not hold"),
        "MemoryError" => Verdict::new("out_of_memory", Severity::Low, "there was no memory left"),
        "RecursionError" => Verdict::new("exception", Severity::Low, "it called itself too deep"),
        _ => Verdict::new("exception", Severity::Low, "an exception was caught by nobody, or logged"),
    };
    verdict.saying(says)
}

/// Returns a line without the rule that a group of exceptions draws beside it.
fn without_group(line: &str) -> &str {
    let inner = line.trim_start();
    let bar = inner.strip_prefix("| ").or_else(|| inner.strip_prefix("+ "));
    bar.filter(|rest| inner.starts_with('|') || rest.ends_with(BEGIN)).unwrap_or(line)
}

fn traceback(lines: &[&str], is_wrapper: bool) -> Traceback {
    let mut told = Traceback { says: String::new(), frames: Vec::new(), is_wrapper, notes: Vec::new() };
    let base = lines.first().map_or(0, |line| line.len() - line.trim_start().len()).saturating_sub(2);
    let mut lines = lines.iter().peekable();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        if let Some(frame) = frame(line) {
            told.frames.push(frame);
        } else if let Some((count, _)) = line.trim_start().strip_prefix(REPEATED).and_then(number) {
            let room = MAX_DEPTH.saturating_sub(told.frames.len());
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            let last = told.frames.last().cloned();
            told.frames.extend(last.into_iter().flat_map(|frame| std::iter::repeat_n(frame, count.min(room))));
            if count > room {
                told.notes.push(format!("of the recursion's frames only some are told: {}", line.trim()));
            }
        } else if indent > base || line.trim().is_empty() {
            // The source, and marks below it.
        } else {
            let goes_on = |next: &&&str| !is_over(next) && !is_logged(next);
            let more = std::iter::from_fn(|| lines.next_if(goes_on)).take(MAX_MESSAGE_LINES);
            told.says = more.fold(line.trim().to_owned(), |says, line| says + "\n" + line);
            break;
        }
    }
    // The innermost is printed last.
    told.frames.reverse();
    told
}

fn is_over(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line == RAISED_FROM || line == WHILE || line.starts_with("+-") || line.ends_with(BEGIN)
}

/// Reads `  File "x.py", line 3, in f`.
fn frame(line: &str) -> Option<Frame> {
    let rest = line.trim_start().strip_prefix("File \"")?;
    let (file, rest) = rest.split_once("\", line ")?;
    let (number, function) = match rest.split_once(", in ").or_else(|| rest.split_once(" in ")) {
        Some((number, function)) => (number, Some(function.trim())),
        None => (rest, None),
    };
    let mut frame = Frame::new(Trust::Told);
    frame.file = Some(file.to_owned());
    frame.line = Some(number.trim().parse().ok()?);
    frame.function = function.filter(|function| !function.is_empty()).map(str::to_owned);
    Some(frame)
}

/// Tells how the interpreter itself ended: `Fatal Python error: Segmentation fault`, then each thread from the innermost on.
fn fatal(lines: &[&str]) -> Option<Report> {
    let says = lines.first()?.strip_prefix(FATAL)?;
    let mut report = Report::new(DumpKind::Traceback);
    let signal = ["Segmentation fault", "Aborted", "Bus error", "Floating point exception", "Illegal instruction"];
    let names = ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"];
    let name = signal.iter().zip(names).find(|(words, _)| says.starts_with(**words)).map(|(_, name)| name);
    let verdict = match name {
        Some(name) => {
            let (signal, verdict) = of_signal(name, None);
            report.signal = Some(signal);
            verdict
        }
        None => Verdict::new("fatal_error", Severity::Low, "the interpreter cannot go on"),
    };
    for line in &lines[1..] {
        if line.ends_with("(most recent call first):") {
            let id = between(line, "0x", " ").and_then(|id| u64::from_str_radix(id, 16).ok()).unwrap_or(0);
            let is_crashed = line.starts_with("Current thread");
            report.threads.push(Thread { is_crashed, ..thread(id, None, Vec::new()) });
        } else if let (Some(frame), Some(last)) = (frame(line), report.threads.last_mut()) {
            last.frames.push(frame);
        }
        if report.threads.len() > super::MAX_STACKS {
            break;
        }
    }
    report.threads.sort_by_key(|thread| !thread.is_crashed);
    report.crash = Some(verdict.saying(says).crash());
    Some(report)
}
