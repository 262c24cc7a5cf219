//! Errors of JavaScript, as Node.js prints those that nobody caught and logs those that somebody did, and V8's own end.
//!
//! What is told to have crashed is the deepest cause that has frames, as for Java; what wraps it, the members of an
//! `AggregateError`, and where an error was emitted or thrown again are threads with a name that says so.

use super::line::{between, cut, hex, number, place};
use super::{MAX_STACKS, Verdict, thread};
use model::report::{Address, DumpKind, Frame, NoteCode, Process, Report, Severity, Thread, Trust};

/// Lines of one message.
const MAX_MESSAGE_LINES: usize = 32;
/// Lines behind a fatal error among which its stack begins.
const MAX_BETWEEN: usize = 8;
/// Frames that an error may have in common with its cause.
const MAX_COMMON: usize = 128;
/// What the runtime says when V8 cannot go on.
const FATAL: [&str; 2] = ["FATAL ERROR: ", "# Fatal error in "];
const NATIVE: &str = "----- Native stack trace -----";
const TAIL: &str = "Node.js v";
/// Where else an error came by, with frames of its own.
const STATIONS: [&str; 2] = ["Emitted 'error' event", "Thrown at:"];

/// What an error is to the one that was printed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It, or what caused it, or what caused that.
    Chain,
    /// One of several, or something that it holds.
    Aside,
    /// Itself, elsewhere.
    Station,
}

/// One error: what it says, and its frames.
#[derive(Debug)]
struct Link {
    kind: Kind,
    says: String,
    frames: Vec<Frame>,
    /// Before which frame how many are left out that its cause has too.
    gap: Option<(usize, usize)>,
}

impl Link {
    fn new(kind: Kind, says: &str) -> Self {
        Self { kind, says: name_of(says).to_owned(), frames: Vec::new(), gap: None }
    }
}

/// Where an error that nobody caught begins.
struct Head {
    /// The line that says what it is.
    at: usize,
    /// Where it was thrown, unless that is within the runtime.
    thrown: Option<Frame>,
}

/// Returns the report of the error that ended a program, or else of the last one that was logged.
pub(super) fn report(lines: &[&str]) -> Option<Report> {
    if let Some(report) = fatal(lines) {
        return Some(report);
    }
    let head = head(lines).or_else(|| Some(Head { at: logged(lines)?, thrown: None }))?;
    let (mut links, end) = links(lines, head.at);
    close_gaps(&mut links);
    let is_whole = lines[end..].iter().take(MAX_BETWEEN).any(|line| line.starts_with(TAIL));
    let main = links.first_mut()?;
    // Who throws is mostly among the frames, or throws on what came from there; a source that cannot be read has none.
    if let Some(thrown) = head.thrown.filter(|_| !main.frames.iter().any(is_own)) {
        main.frames.insert(0, thrown);
    }
    if !is_whole && links.iter().all(|link| link.frames.is_empty()) {
        return None;
    }
    let mut report = told(links);
    if let Some(version) = lines[end..].iter().take(MAX_BETWEEN).find(|line| line.starts_with(TAIL)) {
        report.note(NoteCode::Hint, version.trim());
    }
    Some(report)
}

/// Makes a report of errors of which the first is the one that was printed.
fn told(mut links: Vec<Link>) -> Report {
    let has_frames = |link: &Link| !link.frames.is_empty();
    let deepest = links.iter().rposition(|link| link.kind == Kind::Chain && has_frames(link));
    let crashed = deepest.or_else(|| links.iter().position(has_frames)).unwrap_or(0);
    let link = links.remove(crashed);
    // Where it was thrown says nothing of what it is.
    let says = if link.kind == Kind::Station { links[0].says.clone() } else { link.says };
    let mut report = Report::new(DumpKind::Traceback);
    report.threads.push(Thread { is_crashed: true, ..thread(0, None, link.frames) });
    let mut verdict = verdict(&says);
    for (at, other) in links.into_iter().enumerate() {
        let what = match other.kind {
            Kind::Chain if at < crashed => "wrapped in: ",
            Kind::Chain => "caused by: ",
            Kind::Aside => "beside: ",
            Kind::Station => "",
        };
        if other.kind == Kind::Chain && at < crashed && other.says != says {
            verdict = verdict.because(format!("it was wrapped in {}", cut(&other.says, 500)));
        }
        report.threads.push(thread(0, Some(format!("{what}{}", other.says)), other.frames));
    }
    report.crash = Some(verdict.crash());
    report
}

fn verdict(says: &str) -> Verdict {
    let name = says.split([':', ' ', '\n']).next().unwrap_or_default();
    let verdict = match name {
        "AssertionError" => Verdict::new("assert", Severity::Low, "an assertion did not hold"),
        _ if says.contains("Maximum call stack size exceeded") => {
            Verdict::new("stack_overflow", Severity::Low, "it used more stack than it may")
        }
        _ => Verdict::new("exception", Severity::Low, "an exception was caught by nobody, or logged"),
    };
    verdict.saying(says)
}

/// Finds the last error that nobody caught: a place, its line in the source, a mark below it, and what was thrown.
fn head(lines: &[&str]) -> Option<Head> {
    let is_mark = |line: &str| !line.trim().is_empty() && line.trim().bytes().all(|byte| byte == b'^');
    let begins = (0..lines.len().saturating_sub(3)).rev();
    begins.filter(|at| is_mark(lines[at + 2])).find_map(|begin| {
        let (file, line, column) = place(lines[begin])?;
        let is_file = ["/", "file://", "[eval]", "evalmachine."].iter().any(|root| file.starts_with(root))
            || is_ours(file)
            || file.get(1..3) == Some(":\\");
        let at = (begin + 3..lines.len()).take(2).find(|at| !lines[*at].trim().is_empty())?;
        let thrown = Frame { file: Some(path(file)), line: Some(line), ..Frame::new(Trust::Told) };
        (is_file && column.is_none()).then_some(Head { at, thrown: (!is_ours(file)).then_some(thrown) })
    })
}

/// Finds the last error with frames; those that it holds stand deeper than it does.
fn logged(lines: &[&str]) -> Option<usize> {
    let begins = (1..lines.len()).filter(|at| frame(lines[*at]).is_some() && frame(lines[at - 1]).is_none());
    let found = begins.filter_map(|begin| {
        let above = (begin.saturating_sub(MAX_MESSAGE_LINES)..begin).rev();
        let mut above = above.take_while(|at| frame(lines[*at]).is_none());
        above.find(|at| error(lines[*at]).is_some())
    });
    found.reduce(|best, at| if indent(lines[best]) < indent(lines[at]) { best } else { at })
}

/// Returns the part of a line that names an error and what it says.
fn error(line: &str) -> Option<&str> {
    // A log may put its own words before it.
    let mut at = 0;
    for word in line.split(' ').take(32) {
        let name = word.trim_start_matches('[').trim_end_matches([':', ']']);
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._$".contains(&byte));
        let is_error = ["Error", "Exception", "Rejection"].iter().any(|end| name.ends_with(end));
        let rest = &line[at + word.len()..];
        let is_over = word.ends_with(':') || rest.is_empty() || rest.starts_with(" [") || rest.trim() == "{";
        if is_plain && is_error && is_over {
            return Some(&line[at..]);
        }
        at += word.len() + 1;
    }
    None
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Returns what an error says, without the bracket around one that has no frames, and the brace behind.
fn name_of(says: &str) -> &str {
    let says = says.trim().trim_end_matches(" {").trim_end_matches(',');
    says.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(says)
}

/// Reads the errors from where the first begins, and returns where the last ends.
fn links(lines: &[&str], begin: usize) -> (Vec<Link>, usize) {
    let first = error(lines[begin]).unwrap_or(lines[begin]);
    let mut links = vec![Link::new(Kind::Chain, first)];
    // What an error holds has braces around it; before its frames, or where it has none, it says more.
    let mut is_message = !first.ends_with(" {");
    let mut aside: Option<usize> = None;
    for (at, line) in lines.iter().enumerate().skip(begin + 1) {
        let text = line.trim();
        let is_full = links.len() >= MAX_STACKS;
        let Some(last) = links.last_mut() else { break };
        if let Some(frame) = frame(line) {
            is_message = false;
            last.frames.push(frame);
            continue;
        }
        if let Some((count, _)) = text.strip_prefix("... ").and_then(number) {
            last.gap = Some((last.frames.len(), usize::try_from(count).unwrap_or(usize::MAX)));
            continue;
        }
        let is_station = STATIONS.iter().any(|words| text.starts_with(words));
        if text.starts_with(TAIL) || text.starts_with("(Use `node ") || is_full {
            return (links, at);
        }
        if is_message && !is_station && !text.starts_with("[cause]: ") {
            if last.says.lines().count() < MAX_MESSAGE_LINES {
                last.says.push('\n');
                last.says.push_str(line.trim_end());
                continue;
            }
            return (links, at);
        }
        aside = aside.filter(|aside| indent(line) > *aside);
        if is_station {
            links.push(Link::new(Kind::Station, text.trim_end_matches(':')));
        } else if let Some(says) = text.strip_prefix("[cause]: ") {
            let kind = if aside.is_some() { Kind::Aside } else { Kind::Chain };
            links.push(Link::new(kind, says));
        } else if indent(line) == 0 && text != "}" {
            return (links, at);
        } else if lines.get(at + 1).is_some_and(|next| frame(next).is_some()) && text != "}" {
            aside.get_or_insert(indent(line));
            links.push(Link::new(Kind::Aside, error(text).unwrap_or(text)));
        }
    }
    (links, lines.len())
}

/// Puts the frames in that an error has in common with its cause, and that were printed only there.
fn close_gaps(links: &mut [Link]) {
    for at in (0..links.len()).rev() {
        let says = links[at].says.trim_end().to_owned();
        links[at].says = says;
        let Some((before, count)) = links[at].gap.filter(|(before, _)| *before > 0) else { continue };
        let Some(cause) = links.get(at + 1) else { continue };
        let Some(same) = cause.frames.iter().position(|frame| *frame == links[at].frames[before - 1]) else { continue };
        let missing: Vec<Frame> = cause.frames.iter().skip(same + 1).take(count.min(MAX_COMMON)).cloned().collect();
        links[at].frames.splice(before..before, missing);
    }
}

/// Reads `at async Table.row [as get] (file:///src/table.mjs:5:26)` and `at /src/table.js:9:35`.
pub(super) fn frame(line: &str) -> Option<Frame> {
    let rest = line.trim().strip_prefix("at ")?.trim_end_matches(" {").trim_end_matches(',');
    let rest = rest.strip_prefix("async ").unwrap_or(rest);
    // What was evaluated names the place of that within its own.
    let split = rest.strip_suffix(')').and_then(|inner| inner.split_once(" ("));
    let (name, at) = split.map_or((None, rest), |(name, at)| (Some(name), at));
    let mut frame = Frame::new(Trust::Told);
    frame.function = name.map(|name| name.split(" [as ").next().unwrap_or(name).to_owned());
    match place(at) {
        Some((file, line, column @ Some(_))) if name.is_some() || is_file(file) => {
            frame.file = Some(path(file));
            frame.line = Some(line);
            frame.column = column;
        }
        None if at == "<anonymous>" || at == "native" || at.starts_with("wasm://") => frame.file = Some(at.to_owned()),
        None if name.is_some() && at.starts_with("index ") => (),
        _ => return None,
    }
    Some(frame)
}

/// Tells whether what no function is named with is a file, which a time of day is not; that of Rust is below a function.
fn is_file(file: &str) -> bool {
    (is_ours(file) || file.contains(['/', '\\', '.', '['])) && !file.ends_with(".rs")
}

/// Tells whether a frame is the program's own.
fn is_own(frame: &Frame) -> bool {
    frame.file.as_deref().is_some_and(|file| !is_ours(file) && file != "<anonymous>" && file != "native")
}

/// Tells whether a file is a part of the runtime.
fn is_ours(file: &str) -> bool {
    file.starts_with("node:")
}

fn path(file: &str) -> String {
    file.strip_prefix("file://").unwrap_or(file).to_owned()
}

/// Tells how V8 itself ended: what it could not do, and the frames of the native stack.
fn fatal(lines: &[&str]) -> Option<Report> {
    let at = lines.iter().position(|line| FATAL.iter().any(|words| line.starts_with(words)))?;
    let rest = &lines[at + 1..];
    let first = rest.iter().take(MAX_BETWEEN).position(|line| native(line).is_some());
    let frames: Vec<Frame> = rest[first.unwrap_or(rest.len())..].iter().map_while(|line| native(line)).collect();
    let is_told = lines[at].contains("JavaScript") || rest.iter().take(MAX_BETWEEN).any(|line| line.trim() == NATIVE);
    if !is_told && frames.is_empty() {
        return None;
    }
    let says = lines[at].trim_start_matches(FATAL[0]).trim_start_matches("# ");
    let mut report = Report::new(DumpKind::Traceback);
    let collection = lines[..at].iter().rev().find_map(|line| between(line, "[", ":0x")?.parse().ok());
    report.process = collection.map(|pid| Process { pid: Some(pid), ..Process::default() });
    report.threads = vec![Thread { is_crashed: true, ..thread(0, None, frames) }];
    let verdict = match says.contains("out of memory") {
        true => Verdict::new("out_of_memory", Severity::Low, "there was no memory left on its heap"),
        false => Verdict::new("fatal_error", Severity::Low, "the runtime cannot go on"),
    };
    report.crash = Some(verdict.saying(says).crash());
    Some(report)
}

/// Reads ` 1: 0xb78db3 node::OOMErrorHandler(char const*, v8::OOMDetails const&) [node]`.
fn native(line: &str) -> Option<Frame> {
    let (_, rest) = number(line.trim_start())?;
    let (address, rest) = hex(rest.strip_prefix(": ")?.strip_prefix("0x")?)?;
    let mut frame = Frame::new(Trust::Told);
    frame.address = Some(Address(address));
    let (name, module) = rest.rsplit_once('[').unwrap_or((rest, ""));
    frame.function = Some(name.trim().to_owned()).filter(|name| !name.is_empty());
    frame.module_name = module.trim_end().strip_suffix(']').map(str::to_owned);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_throws_on_is_not_where_it_happened() {
        let text =
            "/src/log.js:10\n  throw error;\n  ^\n\nError: lost\n    at query (/src/db.js:3:5)\n\nNode.js v20.20.2";
        let lines: Vec<&str> = text.lines().collect();
        let told = report(&lines).unwrap();
        let files: Vec<_> = told.threads[0].frames.iter().map(|frame| frame.file.as_deref()).collect();
        assert_eq!(files, [Some("/src/db.js")]);
    }

    #[test]
    fn frames_are_read() {
        let check = |line: &str, function: &str, file: &str, line_number: u32| {
            let found = frame(line).unwrap_or_else(|| panic!("{line}"));
            let told = (found.function.as_deref().unwrap_or(""), found.file.as_deref().unwrap_or(""));
            assert_eq!((told, found.line.unwrap_or(0)), ((function, file), line_number), "{line}");
        };
        check("    at row (file:///src/x.mjs:1:2)", "row", "/src/x.mjs", 1);
        check("    at async Table.row (/src/x.js:10:2) {", "Table.row", "/src/x.js", 10);
        check("    at new Foo (/src/a b/x.js:1:2),", "new Foo", "/src/a b/x.js", 1);
        check("    at Object.<anonymous> (C:\\src\\x.js:1:2)", "Object.<anonymous>", "C:\\src\\x.js", 1);
        check("    at /src/x.js:1:2", "", "/src/x.js", 1);
        check("    at async file:///src/x.mjs:1:2", "", "/src/x.mjs", 1);
        check("    at node:internal/main/run_main_module:28:49 {", "", "node:internal/main/run_main_module", 28);
        check("    at <anonymous>", "", "<anonymous>", 0);
        check("    at Array.map (<anonymous>)", "Array.map", "<anonymous>", 0);
        check("    at Function.run [as runMain] (node:run:1:2)", "Function.run", "node:run", 1);
        check("    at async Promise.all (index 0)", "Promise.all", "", 0);
        // Nor is it what Rust prints below a function.
        for line in [
            "at ./src/main.rs:3:5",
            "at com.example.Main.main(Main.java:8)",
            "   at once (soon)",
            "at noon",
            "at 12:30:00",
        ] {
            let found = frame(line);
            assert!(found.is_none(), "{line}: {found:?}");
        }
    }
}
