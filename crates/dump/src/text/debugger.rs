//! Stacks as `gdb` and `lldb` print them.

use super::line::{between, hex, hex_after, number, number_after, numbered, set_place};
use super::{Verdict, of_signal, thread};
use model::report::{Address, DumpKind, Frame, Report, Thread, Trust};

/// Returns the report of the stacks in a debugger's output.
pub(super) fn report(lines: &[&str]) -> Option<Report> {
    let mut report = Report::new(DumpKind::Traceback);
    let mut next: Option<(u64, Option<String>, bool)> = None;
    let mut stopped: Option<Verdict> = None;
    for line in lines {
        if let Some((name, address)) = signal(line) {
            if stopped.is_none() {
                let (signal, verdict) = of_signal(&name, address);
                report.signal = Some(signal);
                stopped = Some(verdict.saying(line.trim().trim_start_matches("* ")));
            }
            if line.trim_start().starts_with("* thread #") {
                next = header(line);
            }
        } else if let Some(header) = header(line) {
            next = Some(header);
        } else if let Some((number, frame)) = frame(line) {
            if number == 0 || report.threads.is_empty() {
                let (id, name, is_current) = next.take().unwrap_or((0, None, report.threads.is_empty()));
                report.threads.push(Thread { is_crashed: is_current, ..thread(id, name, Vec::new()) });
            }
            if let Some(last) = report.threads.last_mut() {
                let is_handler =
                    last.frames.last().is_some_and(|last| last.function.as_deref() == Some("<signal handler called>"));
                last.frames.push(Frame { is_interrupted: is_handler, ..frame });
            }
        }
        if report.threads.len() > super::MAX_STACKS {
            break;
        }
    }
    let frames: usize = report.threads.iter().map(|thread| thread.frames.len()).sum();
    if frames < 2 && (frames == 0 || stopped.is_none()) {
        return None;
    }
    keep_one(&mut report.threads, stopped.is_some());
    report.crash = stopped.map(Verdict::crash);
    Some(report)
}

/// Leaves each thread once, the fullest of its stacks, and one that crashed, first.
fn keep_one(threads: &mut Vec<Thread>, has_crashed: bool) {
    let mut kept: Vec<Thread> = Vec::new();
    for thread in threads.drain(..) {
        match kept.iter_mut().find(|kept| kept.id == thread.id) {
            Some(known) if known.frames.len() < thread.frames.len() => {
                *known = Thread { is_crashed: known.is_crashed || thread.is_crashed, ..thread };
            }
            Some(_) => (),
            None => kept.push(thread),
        }
    }
    let crashed = kept.iter().position(|thread| thread.is_crashed).unwrap_or(0);
    for (at, thread) in kept.iter_mut().enumerate() {
        thread.is_crashed = has_crashed && at == crashed;
    }
    if crashed < kept.len() {
        kept[..=crashed].rotate_right(1);
    }
    *threads = kept;
}

/// Returns the signal that a line tells of, and its address.
fn signal(line: &str) -> Option<(String, Option<u64>)> {
    let words = [" received signal ", "terminated with signal ", "stop reason = signal "];
    let at = words.iter().find_map(|words| Some(line.find(words)? + words.len()))?;
    let name = line[at..].split(|sign: char| !sign.is_ascii_alphanumeric()).next()?;
    name.starts_with("SIG")
        .then(|| (name.to_owned(), hex_after(line, "address: 0x").or_else(|| hex_after(line, "address=0x"))))
}

/// Returns the number of the thread whose stack follows, its name, and whether it is the one that is looked at.
fn header(line: &str) -> Option<(u64, Option<String>, bool)> {
    let text = line.trim_start();
    let is_current = text.starts_with("* ");
    let text = text.trim_start_matches("* ");
    let rest = text.strip_prefix("Thread ").or_else(|| text.strip_prefix("thread #"))?;
    let (id, _) = number(rest)?;
    // `Thread 0x7f… (LWP 7)` is of a list, not of a stack.
    if rest.starts_with("0x") {
        return None;
    }
    let name = between(text, "name = '", "'").or_else(|| between(text, ") \"", "\"")).map(str::to_owned);
    Some((number_after(text, "LWP ").unwrap_or(id), name, is_current))
}

fn frame(line: &str) -> Option<(u64, Frame)> {
    let text = line.trim_start().trim_start_matches("* ").trim_start();
    match text.strip_prefix("frame #") {
        Some(rest) => {
            let (count, rest) = number(rest)?;
            Some((count, of_lldb(rest.strip_prefix(':')?.trim())))
        }
        None => {
            let (count, rest) = numbered(text)?;
            let is_frame = rest.starts_with("0x") || rest.contains(" (") || rest.starts_with("<signal");
            is_frame.then(|| (count, of_gdb(rest)))
        }
    }
}

/// Reads `0x55 app`f(x=1) + 12 at t.c:2:45`.
fn of_lldb(rest: &str) -> Frame {
    let mut frame = Frame::new(Trust::Told);
    let mut rest = rest;
    if let Some((address, after)) = hex(rest) {
        frame.address = Some(Address(address));
        rest = after.trim();
    }
    if let Some((module, after)) = rest.split_once('`') {
        frame.module_name = Some(module.to_owned());
        rest = after;
    }
    if let Some((before, place)) = rest.rsplit_once(" at ")
        && set_place(&mut frame, place.trim())
    {
        rest = before;
    }
    if let Some((before, offset)) = rest.rsplit_once(" + ")
        && let Some((offset, "")) = number(offset.trim())
    {
        frame.function_offset = Some(Address(offset));
        rest = before;
    }
    frame.function = Some(without_values(rest)).filter(|function| !function.is_empty());
    frame
}

/// Reads `0x55 in f (x=1) at t.c:2`, `f (x=1) from /lib/libc.so.6`, `<signal handler called>`.
fn of_gdb(rest: &str) -> Frame {
    let mut frame = Frame::new(Trust::Told);
    let mut rest = rest.trim();
    if let Some((address, after)) = hex(rest).filter(|_| rest.starts_with("0x")) {
        frame.address = Some(Address(address));
        rest = after.trim_start();
        rest = rest.strip_prefix("in ").unwrap_or(rest);
    }
    if let Some((before, place)) = rest.rsplit_once(" at ")
        && set_place(&mut frame, place.trim())
    {
        rest = before;
    } else if let Some((before, module)) = rest.rsplit_once(" from ")
        && before.ends_with(')')
    {
        frame.module_name = Some(module.trim().to_owned());
        rest = before;
    }
    let function = if rest.starts_with('<') && !rest.contains(" (") { rest.to_owned() } else { without_values(rest) };
    frame.function = Some(function).filter(|function| !function.is_empty() && function != "??");
    frame
}

/// Drops the last group, in which a debugger puts the values of the arguments.
fn without_values(call: &str) -> String {
    let call = call.trim();
    if !call.ends_with(')') {
        return call.to_owned();
    }
    let mut depth = 0_usize;
    for (at, sign) in call.char_indices().rev() {
        match sign {
            ')' => depth += 1,
            '(' => depth = depth.saturating_sub(1),
            _ => (),
        }
        if depth == 0 {
            return call[..at].trim_end().to_owned();
        }
    }
    call.to_owned()
}
