//! Panics of Rust programs, with a backtrace and without.

use super::line::{hex, number, set_place};
use super::{Verdict, thread};
use model::report::{Address, DumpKind, Frame, NoteCode, Report, Severity, Signal, Thread, Trust};

/// Lines of one message.
const MAX_MESSAGE_LINES: usize = 64;

/// A panic, as it was printed.
struct Panic {
    thread: Thread,
    message: String,
}

/// Returns the report of the first panic, with those of other threads behind it.
pub(super) fn report(lines: &[&str]) -> Option<Report> {
    let begins: Vec<usize> = (0..lines.len()).filter(|at| header(lines[*at]).is_some()).collect();
    let mut report = Report::new(DumpKind::Traceback);
    if begins.is_empty() {
        return without_panic(lines, report);
    }
    let end = |at: usize| begins.get(at + 1).copied().unwrap_or(lines.len());
    let panics = begins.iter().enumerate().take(super::MAX_STACKS);
    let mut panics = panics.filter_map(|(at, begin)| panic(&lines[*begin..end(at)]));
    let mut first = panics.next()?;
    first.thread.is_crashed = true;
    report.threads.push(first.thread);
    report.threads.extend(panics.map(|panic| panic.thread));
    if lines
        .iter()
        .any(|line| line.contains("panicked while processing panic") || line.contains("panic in a destructor"))
    {
        report.note(NoteCode::Hint, "it panicked again while it dealt with the panic, and gave up");
    }
    let verdict = Verdict::new("panic", Severity::Low, "it panicked").saying(first.message);
    report.crash = Some(verdict.crash());
    Some(report)
}

/// Tells of those ends that are not panics.
fn without_panic(lines: &[&str], mut report: Report) -> Option<Report> {
    let (name, verdict) = if let Some(name) = lines.iter().find_map(|line| deep(line)) {
        report.signal = Some(Signal { number: 6, name: "SIGABRT".to_owned(), ..Signal::default() });
        (Some(name.to_owned()), Verdict::new("stack_overflow", Severity::Low, "it used more stack than it has"))
    } else {
        let starts = |line: &&&str| line.starts_with("memory allocation of ") && line.ends_with(" bytes failed");
        let line = lines.iter().find(starts)?;
        (
            None,
            Verdict::new("out_of_memory", Severity::Low, "there was no memory left, or too much was asked for")
                .saying(*line),
        )
    };
    report.threads = vec![Thread { is_crashed: true, ..thread(0, name, Vec::new()) }];
    report.crash = Some(verdict.crash());
    Some(report)
}

/// Returns the name of the thread of which a line says that its stack ran out.
fn deep(line: &str) -> Option<&str> {
    let (name, rest) = line.strip_prefix("thread '")?.split_once('\'')?;
    rest.contains("has overflowed its stack").then_some(name)
}

/// Splits `thread 'main' (12) panicked at src/main.rs:3:4:` into the thread's name, its number, and what follows `at`.
fn header(line: &str) -> Option<(&str, u64, &str)> {
    let rest = line.trim_start().strip_prefix("thread ")?;
    let (who, told) = rest.split_once(" panicked at ")?;
    let (name, id) =
        match who.rsplit_once(" (").and_then(|(name, id)| Some((name, id.strip_suffix(')')?.parse().ok()?))) {
            Some((name, id)) => (name, id),
            None => (who, 0),
        };
    Some((name.trim_matches('\''), id, told))
}

fn panic(lines: &[&str]) -> Option<Panic> {
    let (name, id, told) = header(lines.first()?)?;
    let begin = lines.iter().position(|line| line.trim_end() == "stack backtrace:");
    let end = begin.unwrap_or(lines.len());
    let mut place = Frame::new(Trust::Told);
    // Before 1.73 the message stood first, in quotes: `'index out of bounds', src/main.rs:3:4`.
    let message = if let Some(quoted) = told.strip_prefix('\'')
        && let Some((message, source)) = quoted.rsplit_once("', ")
    {
        set_place(&mut place, source.trim());
        message.to_owned()
    } else {
        set_place(&mut place, told.trim().trim_end_matches(':'));
        let said = lines[1..end].iter().take(MAX_MESSAGE_LINES).take_while(|line| !is_note(line));
        said.copied().collect::<Vec<_>>().join("\n").trim().to_owned()
    };
    let mut frames = begin.map_or_else(Vec::new, |begin| backtrace(&lines[begin + 1..]));
    if frames.is_empty() && place.file.is_some() {
        frames.push(place);
    }
    Some(Panic { thread: thread(id, Some(name.to_owned()), frames), message })
}

fn is_note(line: &str) -> bool {
    line.starts_with("note: ") || line.starts_with("stack backtrace:") || line.starts_with("fatal runtime error")
}

/// Returns the frames of `3: name` and `at file:line:column` lines.
fn backtrace(lines: &[&str]) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    for line in lines {
        let line = line.trim();
        if let Some(place) = line.strip_prefix("at ") {
            if let Some(last) = frames.last_mut() {
                set_place(last, place);
            }
        } else if let Some(frame) = frame(line) {
            frames.push(frame);
        } else if line.starts_with('[') {
            // `[... omitted 2 frames ...]`
        } else if !frames.is_empty() {
            break;
        }
    }
    frames
}

fn frame(line: &str) -> Option<Frame> {
    let (_, rest) = number(line)?;
    let mut name = rest.strip_prefix(':')?.trim();
    let mut frame = Frame::new(Trust::Told);
    if name.starts_with("0x")
        && let Some((address, rest)) = hex(name)
        && let Some(rest) = rest.strip_prefix(" - ")
    {
        frame.address = Some(Address(address));
        name = rest.trim();
    }
    frame.function = Some(without_builds(name)).filter(|name| name != "<unknown>" && !name.is_empty());
    Some(frame)
}

/// Returns a name without the crates' hashes, `core[c1f1a4ba060b9bfa]::fmt`, which differ from build to build.
fn without_builds(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('[') {
        let (before, after) = rest.split_at(at);
        text.push_str(before);
        let inner = after[1..].split(']').next().unwrap_or_default();
        let is_hash = (8..=16).contains(&inner.len()) && inner.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_crate = before.ends_with(|sign: char| sign.is_ascii_alphanumeric() || sign == '_');
        rest = if is_hash && is_crate && after.len() > inner.len() + 1 {
            &after[inner.len() + 2..]
        } else {
            text.push('[');
            &after[1..]
        };
    }
    text.push_str(rest);
    text
}
