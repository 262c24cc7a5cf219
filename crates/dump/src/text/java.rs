//! Exceptions of Java and its kin, with what caused them and what was suppressed on the way.
//!
//! What is told to have crashed is the deepest cause, since what wraps it depends on who passed it on; those that wrap it,
//! and those that were suppressed, are threads with a name that says so.

use super::line::{between, number};
use super::{Verdict, thread};
use model::report::{DumpKind, Frame, NoteCode, Report, Severity, Thread, Trust};

/// Lines of one message.
const MAX_MESSAGE_LINES: usize = 32;
/// Exceptions of one report.
const MAX_LINKS: usize = 256;
/// Frames of one exception that the virtual machine tells, unless it is told otherwise; outer ones are left out.
const TOLD_FRAMES: usize = 1024;
/// What stands in place of an exception that was told before.
const CIRCULAR: &str = "[CIRCULAR REFERENCE:";
/// How some logs write a tab.
const TAB: &str = "#011";

/// One exception: what it says, and its frames.
#[derive(Debug, Default)]
struct Link {
    is_suppressed: bool,
    depth: usize,
    says: String,
    frames: Vec<Frame>,
    /// How many frames it has in common with the one it was wrapped in.
    common: usize,
    /// What was told before, and is its cause or was suppressed on its way again.
    circle: Option<String>,
}

/// Returns the report of the first exception.
pub(super) fn report(lines: &[&str]) -> Option<Report> {
    let first = lines.iter().position(|line| frame(line).is_some())?;
    let from = first.saturating_sub(MAX_MESSAGE_LINES);
    let begin = (from..first).rev().find(|at| is_header(lines[*at]))?;
    let (name, links) = links(lines, begin, first);
    let mut report = Report::new(DumpKind::Traceback);
    let mut whole: Vec<(String, bool, Vec<Frame>)> = Vec::new();
    let mut enclosing: Vec<(usize, Vec<Frame>)> = Vec::new();
    for link in links {
        if let Some(circle) = &link.circle {
            report
                .note(NoteCode::Hint, format!("the causes go in a circle, back to {}", super::line::cut(circle, 500)));
        }
        while enclosing.last().is_some_and(|(depth, _)| *depth > link.depth) {
            enclosing.pop();
        }
        let mut frames = link.frames;
        if let Some((_, outer)) = enclosing.last() {
            let shared = outer.len().saturating_sub(link.common);
            frames.extend(outer[shared..].iter().take(model::report::MAX_FRAMES).cloned());
        }
        enclosing.push((link.depth, frames.clone()));
        whole.push((link.says, link.is_suppressed || link.depth > 0, frames));
    }
    let root = whole.iter().rposition(|(_, is_aside, _)| !is_aside)?;
    let (says, _, frames) = whole.remove(root);
    let broken =
        (frames.len() == TOLD_FRAMES).then(|| format!("the virtual machine tells {TOLD_FRAMES} frames at most"));
    report.threads.push(Thread { is_crashed: true, broken, ..thread(0, name, frames) });
    let mut verdict = verdict(&says);
    for (other, is_aside, frames) in whole {
        let what = if is_aside { "suppressed" } else { "wrapped in" };
        if !is_aside {
            verdict = verdict.because(format!("it was {what} {}", super::line::cut(&other, 500)));
        }
        report.threads.push(thread(0, Some(format!("{what}: {other}")), frames));
    }
    report.crash = Some(verdict.crash());
    Some(report)
}

fn verdict(says: &str) -> Verdict {
    let class = says.split([':', ' ', '\n']).next().unwrap_or_default();
    let name = class.rsplit('.').next().unwrap_or_default();
    let verdict = match name {
        "StackOverflowError" => Verdict::new("stack_overflow", Severity::Low, "it used more stack than it may"),
        "OutOfMemoryError" => Verdict::new("out_of_memory", Severity::Low, "there was no memory left"),
        "AssertionError" | "AssertionFailedError" => Verdict::new("assert", Severity::Low, "an assertion did not hold"),
        _ => Verdict::new("exception", Severity::Low, "an exception was caught by nobody, or logged"),
    };
    verdict.saying(says)
}

/// Tells whether an exception begins with a line.
fn is_header(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("Exception in thread \"") || exception(line).is_some()
}

/// Returns the part of a line that names an exception and what it says.
fn exception(line: &str) -> Option<&str> {
    let is_name = |word: &str| {
        let name = word.rsplit(['.', '$']).next().unwrap_or_default();
        let is_plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._$".contains(&byte));
        let is_class = name.starts_with(|sign: char| sign.is_ascii_uppercase());
        is_plain
            && is_class
            && (word.contains(['.', '$']) || ["Exception", "Error", "Throwable"].iter().any(|end| name.ends_with(end)))
    };
    // A log may put its own words before it.
    let mut at = 0;
    for word in line.split(' ').take(32) {
        if is_name(word.trim_end_matches(':')) && (word.ends_with(':') || at + word.len() == line.len()) {
            return Some(&line[at..]);
        }
        at += word.len() + 1;
    }
    None
}

/// Reads the exceptions from where the first begins; `first` is where its first frame is.
fn links(lines: &[&str], begin: usize, first: usize) -> (Option<String>, Vec<Link>) {
    let header = lines[begin].trim();
    let name = header.strip_prefix("Exception in thread \"").and_then(|rest| rest.split('"').next()).map(str::to_owned);
    let says = match header.strip_prefix("Exception in thread \"").and_then(|rest| rest.split_once("\" ")) {
        Some((_, says)) => says,
        None => exception(header).unwrap_or(header),
    };
    let mut links = vec![Link { says: joined(says, &lines[begin + 1..first]), ..Link::default() }];
    let mut is_message = false;
    let base = indent(lines[begin]);
    for line in lines[first..].iter() {
        let text = line[indent(line)..].trim_end();
        let depth = indent(line).saturating_sub(base);
        let wrapped = text.strip_prefix("Caused by: ").map(|says| (says, false));
        let next = wrapped.or_else(|| text.strip_prefix("Suppressed: ").map(|says| (says, true)));
        let Some(last) = links.last_mut() else { break };
        let again = next.map_or(text, |(says, _)| says).strip_prefix(CIRCULAR);
        if let Some(again) = again {
            is_message = false;
            last.circle = Some(again.trim().trim_end_matches(']').to_owned());
        } else if let Some((says, is_suppressed)) = next {
            if links.len() >= MAX_LINKS {
                break;
            }
            links.push(Link { is_suppressed, depth, says: says.to_owned(), ..Link::default() });
            is_message = true;
        } else if let Some(frame) = frame(line) {
            is_message = false;
            last.frames.push(frame);
        } else if let Some(common) = text.strip_prefix("... ").and_then(number) {
            is_message = false;
            last.common = usize::try_from(common.0).unwrap_or(usize::MAX);
        } else if is_message && last.says.lines().count() < MAX_MESSAGE_LINES {
            last.says.push('\n');
            last.says.push_str(text);
        } else {
            break;
        }
    }
    (name, links)
}

fn joined(first: &str, more: &[&str]) -> String {
    more.iter().fold(first.to_owned(), |text, line| text + "\n" + line).trim_end().to_owned()
}

/// Returns how many bytes of a line stand before its words.
fn indent(line: &str) -> usize {
    let is_blank = |line: &str| line.len() - line.trim_start().trim_start_matches(TAB).len();
    let mut at = 0;
    while is_blank(&line[at..]) > 0 {
        at += is_blank(&line[at..]);
    }
    at
}

/// Reads `at java.base/java.lang.Integer.parseInt(Integer.java:668) ~[?:?]`.
pub(super) fn frame(line: &str) -> Option<Frame> {
    let rest = line[indent(line)..].trim_end().strip_prefix("at ")?;
    let (name, _) = rest.split_once('(')?;
    // A space before the parenthesis is how JavaScript writes it.
    if name.is_empty() || name.ends_with(' ') || name.contains(['\\', '\t']) || !name.contains('.') {
        return None;
    }
    let place = between(rest, "(", ")")?;
    let mut frame = Frame::new(Trust::Told);
    let is_lambda = name.contains("$$Lambda");
    let (module, function) = if is_lambda {
        (None, name)
    } else {
        name.rsplit_once('/').map_or((None, name), |(module, name)| (Some(module), name))
    };
    frame.module_name = module.map(|module| module.trim_end_matches('/').to_owned());
    frame.function = Some(function.to_owned());
    match place.rsplit_once(':') {
        Some((file, line)) => {
            frame.file = Some(file.to_owned());
            frame.line = line.parse().ok();
        }
        None if place.contains('.') => frame.file = Some(place.to_owned()),
        // `Native Method`, `Unknown Source`.
        None => (),
    }
    Some(frame)
}
