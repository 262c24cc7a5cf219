//! What Go's runtime prints: panics, fatal errors, signals, with the stacks of all goroutines; and data races.

use super::line::{between, hex, hex_after, number, number_after, set_place};
use super::{Verdict, of_signal, thread};
use model::report::{Address, DumpKind, Frame, NoteCode, Report, Severity, Thread, Trust};

/// Lines between where a panic begins and its first goroutine.
const MAX_SAID_LINES: usize = 200;

/// Returns the report of a panic or a fatal error; none if no goroutine follows.
pub(super) fn report(lines: &[&str]) -> Option<Report> {
    let is_begin = |line: &&str| {
        ["panic: ", "fatal error: ", "SIGABRT: abort", "SIGQUIT: quit", "unexpected fault address "]
            .iter()
            .any(|start| line.starts_with(start))
    };
    if let Some(report) = race(lines) {
        return Some(report);
    }
    let first = lines.iter().position(|line| goroutine(line).is_some());
    let begin = lines.iter().position(is_begin);
    let (begin, first) = match (begin, first) {
        (Some(begin), Some(first)) if begin < first && first - begin <= MAX_SAID_LINES => (begin, first),
        (None, Some(first)) => (first, first),
        // `GOTRACEBACK=none` leaves only what it said.
        (Some(begin), None)
            if lines[begin..].iter().any(|line| line.starts_with("exit status 2") || line.starts_with("[signal ")) =>
        {
            (begin, lines.len())
        }
        _ => return None,
    };
    let mut report = Report::new(DumpKind::Traceback);
    report.threads = goroutines(&lines[first..]);
    if report.threads.iter().all(|thread| thread.frames.is_empty()) && begin == first {
        return None;
    }
    let said = &lines[begin..first];
    let crashed = report.threads.iter().position(|thread| thread.name.as_deref() == Some("running")).unwrap_or(0);
    if !said.is_empty()
        && let Some(thread) = report.threads.get_mut(crashed)
    {
        thread.is_crashed = true;
        report.threads[..=crashed].rotate_right(1);
    }
    if let Some(signal) = said.iter().find_map(|line| line.strip_prefix("[signal ")) {
        let name = signal.split(|sign: char| !sign.is_ascii_alphanumeric()).next().unwrap_or_default();
        report.signal = Some(of_signal(name, hex_after(signal, "addr=0x")).0);
    }
    report.crash = verdict(said).map(Verdict::crash);
    Some(report)
}

/// Tells what went wrong by what was said before the stacks.
fn verdict(said: &[&str]) -> Option<Verdict> {
    let first = said.first()?;
    let signal = said.iter().find_map(|line| line.strip_prefix("[signal "));
    if let Some(rest) = first.strip_prefix("panic: ") {
        // A panic while another is dealt with is printed below it, after a tab; the first is the cause.
        let more = said[1..].iter().take_while(|line| {
            let is_next =
                line.starts_with("\tpanic: ") || line.starts_with("[signal ") || line.starts_with("[recovered");
            !is_next && !line.trim().is_empty()
        });
        let mut message = rest.trim_end_matches(" [recovered]").trim_end_matches(" [recovered, repanicked]").to_owned();
        for line in more {
            message.push('\n');
            message.push_str(line);
        }
        let verdict = match signal {
            Some(signal) => {
                let name = signal.split([':', ' ']).next().unwrap_or_default();
                of_signal(name, hex_after(signal, "addr=0x")).1
            }
            None => Verdict::new("panic", Severity::Low, "it panicked"),
        };
        return Some(verdict.saying(message));
    }
    if let Some(line) = said.iter().find_map(|line| line.strip_prefix("fatal error: ")) {
        let (class, reason) = match line {
            line if line.contains("stack overflow") => ("stack_overflow", "it used more stack than it may"),
            line if line.contains("deadlock") => ("deadlock", "every goroutine waits for another"),
            line if line.contains("out of memory") || line.contains("cannot allocate memory") => {
                ("out_of_memory", "there was no memory left")
            }
            line if line.contains("concurrent map") => ("fatal_error", "goroutines are in each other's way"),
            _ => ("fatal_error", "the runtime cannot go on"),
        };
        let address = said.iter().find_map(|line| hex_after(line, "unexpected fault address 0x"));
        return Some(Verdict::new(class, Severity::Low, reason).saying(line).about(address));
    }
    let name = first.split(':').next()?;
    Some(of_signal(name, None).1.saying(*first))
}

/// Splits `goroutine 7 [chan receive, 2 minutes]:` into the number and the state.
fn goroutine(line: &str) -> Option<(u64, &str)> {
    let (id, rest) = number(line.strip_prefix("goroutine ")?)?;
    // Newer ones say more between the number and the state: `gp=0x… m=0 mp=0x…`.
    let state = between(rest, "[", "]")?;
    (line.trim_end().ends_with(':')).then(|| (id, state.split(',').next().unwrap_or(state)))
}

fn goroutines(lines: &[&str]) -> Vec<Thread> {
    let begins: Vec<usize> = (0..lines.len()).filter(|at| goroutine(lines[*at]).is_some()).collect();
    let threads = begins.iter().enumerate().take(super::MAX_STACKS).filter_map(|(at, begin)| {
        let (id, state) = goroutine(lines[*begin])?;
        let end = begins.get(at + 1).copied().unwrap_or(lines.len());
        let (frames, gap) = frames(&lines[begin + 1..end]);
        let told = thread(id, Some(state.to_owned()), frames);
        Some(Thread { frames_cut: gap.map_or(0, |(_, count)| count), frames_cut_at: gap.map(|(at, _)| at), ..told })
    });
    threads.collect()
}

/// Returns the frames of a goroutine: a line with the call, then one with where it stands. With them, before which of them
/// how many are left out, as `...900 frames elided...` says.
fn frames(lines: &[&str]) -> (Vec<Frame>, Option<(usize, u64)>) {
    let mut frames = Vec::new();
    let mut gap = None;
    let mut lines = lines.iter();
    while let Some(line) = lines.next() {
        if line.trim().is_empty() {
            break;
        }
        if let Some((count, " frames elided...")) = line.trim().strip_prefix("...").and_then(number) {
            gap = Some((frames.len(), count)).filter(|_| count > 0);
            continue;
        }
        let is_creation = line.starts_with("created by ");
        if is_creation || line.starts_with('\t') || !(line.ends_with(')') || line.contains('(')) {
            // What created a goroutine is no frame of it; it is told for the sake of the reader, and its place with it.
            continue;
        }
        let mut frame = Frame::new(Trust::Told);
        frame.function = Some(without_arguments(line.trim()).to_owned());
        if let Some(place) = lines.as_slice().first().and_then(|line| line.strip_prefix('\t')) {
            lines.next();
            set_source(&mut frame, place);
        }
        frames.push(frame);
    }
    (frames, gap)
}

/// Reads `/src/main.go:12 +0x1d fp=0xc0 sp=0xc0 pc=0x46`.
fn set_source(frame: &mut Frame, place: &str) {
    let source = place.split(" +0x").next().unwrap_or(place);
    set_place(frame, source.split(" fp=0x").next().unwrap_or(source).trim());
    frame.function_offset = place.find(" +0x").and_then(|at| hex(&place[at + 2..])).map(|(offset, _)| Address(offset));
    frame.address = hex_after(place, " pc=0x").map(Address);
}

/// Drops the group that ends a call: `main.(*T).f({0x1, 0x2}, 0x3)`.
fn without_arguments(call: &str) -> &str {
    if !call.ends_with(')') {
        return call;
    }
    let mut depth = 0_usize;
    for (at, sign) in call.char_indices().rev() {
        match sign {
            ')' => depth += 1,
            '(' => depth = depth.saturating_sub(1),
            _ => (),
        }
        if depth == 0 {
            return if at == 0 { call } else { &call[..at] };
        }
    }
    call
}

/// Returns the report of a data race.
fn race(lines: &[&str]) -> Option<Report> {
    let at = lines.iter().position(|line| line.trim() == "WARNING: DATA RACE")?;
    let body = &lines[at + 1..];
    let end = body.iter().position(|line| line.starts_with("=====")).unwrap_or(body.len());
    let body = &body[..end];
    let mut report = Report::new(DumpKind::Sanitizer);
    let is_title = |line: &str| !line.starts_with(' ') && line.ends_with(':');
    let begins: Vec<usize> = (0..body.len()).filter(|at| is_title(body[*at])).collect();
    for (number, begin) in begins.iter().enumerate().take(super::MAX_STACKS) {
        let title = body[*begin].trim_end_matches(':');
        let end = begins.get(number + 1).copied().unwrap_or(body.len());
        let id = number_after(title, "goroutine ").or_else(|| number_after(title, "Goroutine ")).unwrap_or(0);
        let stack: Vec<Frame> = body[begin + 1..end]
            .chunks(2)
            .map_while(|pair| {
                let mut frame = Frame::new(Trust::Told);
                let call = pair.first().map(|line| line.trim()).filter(|line| !line.is_empty())?;
                frame.function = Some(without_arguments(call).to_owned());
                set_source(&mut frame, pair.get(1)?.trim());
                Some(frame)
            })
            .collect();
        report.threads.push(Thread { is_crashed: number == 0, ..thread(id, Some(title.to_owned()), stack) });
    }
    if lines.iter().filter(|line| line.trim() == "WARNING: DATA RACE").count() > 1 {
        report.note(NoteCode::Hint, "more reports follow the first one");
    }
    let title = begins.first().map_or("data race", |begin| body[*begin].trim_end_matches(':'));
    let verdict = Verdict::new("data_race", Severity::Medium, "goroutines are in each other's way").saying(title);
    report.crash = Some(verdict.about(hex_after(title, "at 0x")).crash());
    Some(report)
}
