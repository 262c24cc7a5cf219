//! Reports of AddressSanitizer, HWAddressSanitizer, LeakSanitizer, ThreadSanitizer and MemorySanitizer, of what the runtimes
//! they share say of signals, and of libFuzzer.
//!
//! The first report of a text is told; its first stack is the one that crashed, and the others (who allocated, who freed,
//! who raced, what else leaked) are threads with a name that says so.

use super::line::{between, frame, hex_after, number_after, numbered};
use super::{NEAR_NULL, Verdict, of_signal, thread};
use model::report::{DumpKind, Frame, NoteCode, Process, Report, Severity, Thread};

/// Lines of one report that are looked through.
const MAX_REPORT_LINES: usize = 50_000;
/// Lines that say more of the memory in question.
const MAX_HINTS: usize = 16;

const NAMES: [&str; 8] = [
    "AddressSanitizer",
    "HWAddressSanitizer",
    "LeakSanitizer",
    "ThreadSanitizer",
    "MemorySanitizer",
    "UndefinedBehaviorSanitizer",
    "DataFlowSanitizer",
    "libFuzzer",
];

/// Where a report begins: who speaks, and what it says.
struct Header<'a> {
    name: &'a str,
    says: &'a str,
    pid: Option<u64>,
}

/// A stack that a report tells, and the line above it.
struct Stack<'a> {
    title: &'a str,
    frames: Vec<Frame>,
}

/// Returns the report of the first error that a sanitizer printed.
pub(super) fn report(lines: &[&str]) -> Option<Report> {
    let (at, header) = lines.iter().enumerate().find_map(|(at, line)| Some((at, header(line)?)))?;
    let rest = &lines[at + 1..lines.len().min(at + 1 + MAX_REPORT_LINES)];
    let end = rest.iter().position(|line| is_end(line)).map_or(rest.len(), |end| end + 1);
    let (body, after) = rest.split_at(end);
    let stacks = stacks(body);
    let verdict = verdict(&header, body);
    let mut report = Report::new(DumpKind::Sanitizer);
    report.process = header.pid.map(|pid| Process { pid: u32::try_from(pid).ok(), ..Process::default() });
    if let Some(name) = signal_name(header.says) {
        report.signal = Some(of_signal(name, verdict.address).0);
    }
    report.threads = threads(&header, body, stacks);
    for hint in body.iter().filter(|line| is_hint(line)).take(MAX_HINTS) {
        report.note(NoteCode::Hint, hint.trim());
    }
    let more = after.iter().filter(|line| self::header(line).is_some()).count();
    if more > 0 {
        report.note(NoteCode::Hint, format!("{more} more reports follow the first one"));
    }
    report.crash = Some(verdict.crash());
    Some(report)
}

/// Returns what a summary alone tells, where the rest of the report was lost.
pub(super) fn summary(lines: &[&str]) -> Option<Report> {
    let line = lines.iter().find_map(|line| line.trim_start().strip_prefix("SUMMARY: "))?;
    let (name, says) = line.split_once(": ")?;
    NAMES.contains(&name).then_some(())?;
    let (kind, place) = says.split_once(' ').unwrap_or((says, ""));
    let mut report = Report::new(DumpKind::Sanitizer);
    if !place.is_empty() {
        let told = match place.rsplit_once(" in ") {
            Some((source, function)) => frame(&format!("{function} {source}")),
            None => frame(place),
        };
        report.threads = vec![Thread { is_crashed: true, ..thread(0, None, vec![told]) }];
    }
    report.note(NoteCode::Truncated, "only the summary of the sanitizer's report is here");
    report.crash = Some(of_kind(&class(kind), None).saying(says).crash());
    Some(report)
}

fn header(line: &str) -> Option<Header<'_>> {
    let at = ["ERROR: ", "WARNING: "].iter().find_map(|word| Some(line.find(word)? + word.len()))?;
    let (name, says) = line[at..].split_once(": ")?;
    if !NAMES.contains(&name) || line[..at].len() > 64 {
        return None;
    }
    let pid = between(line, "==", "==").and_then(|pid| pid.parse().ok()).or_else(|| number_after(says, "(pid="));
    Some(Header { name, says: says.trim(), pid })
}

fn is_end(line: &str) -> bool {
    line.starts_with("SUMMARY: ") || line.ends_with("==ABORTING")
}

fn is_hint(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("SUMMARY: ")
        || line.starts_with("Location is ")
        || line.contains(" is located ")
        || line.contains("<== Memory access")
        || line.contains("Hint: ")
}

fn stacks<'a>(body: &[&'a str]) -> Vec<Stack<'a>> {
    let mut stacks: Vec<Stack<'_>> = Vec::new();
    let mut title = "";
    let mut is_inside = false;
    for line in body {
        match numbered(line) {
            Some((number, rest)) => {
                if !is_inside || number == 0 {
                    stacks.push(Stack { title, frames: Vec::new() });
                    is_inside = true;
                }
                if let Some(last) = stacks.last_mut() {
                    last.frames.push(frame(rest));
                }
            }
            None => {
                is_inside = false;
                if !line.trim().is_empty() {
                    title = line.trim();
                }
            }
        }
    }
    stacks
}

fn threads(header: &Header<'_>, body: &[&str], stacks: Vec<Stack<'_>>) -> Vec<Thread> {
    let number = |text: &str| {
        let mut words = text.split(|sign: char| !sign.is_ascii_alphanumeric());
        words.find_map(|word| word.strip_prefix('T')?.parse::<u64>().ok())
    };
    let made = |id: u64| {
        let start = format!("Thread T{id} (");
        let line = body.iter().find(|line| line.trim_start().starts_with(&start))?;
        between(line, "(", ")").filter(|name| !name.contains('=')).map(str::to_owned)
    };
    let told = stacks.into_iter().enumerate().map(|(at, stack)| {
        let is_crashed = at == 0;
        let id = number(stack.title).or_else(|| number(header.says).filter(|_| is_crashed)).unwrap_or(0);
        let name = if is_crashed { made(id) } else { Some(stack.title.trim_end_matches(':').to_owned()) };
        Thread { is_crashed, ..thread(id, name, stack.frames) }
    });
    told.collect()
}

/// Returns what went wrong, by the first line of a report and by what the others say of the access.
fn verdict(header: &Header<'_>, body: &[&str]) -> Verdict {
    let says = header.says;
    let access = body.iter().take(8).find_map(|line| access(line));
    let is_write = access.map(|(is_write, _)| is_write);
    let message = says.split(" at pc ").next().unwrap_or(says);
    let message = message.split(" (pc ").next().unwrap_or(message).trim_end_matches([' ', ':']);
    let address = body.iter().take(8).find_map(|line| hex_after(line, " at 0x"));
    let address = ["on address 0x", "on unknown address 0x", "double-free on 0x", "malloc()-ed: 0x"]
        .iter()
        .find_map(|words| hex_after(says, words))
        .or(address);
    let verdict = match signal_name(says) {
        Some(name) => of_fault(name, address, is_write, body),
        None => of_kind(&class(says), is_write),
    };
    let mut verdict = Verdict { message: None, ..verdict }.saying(message);
    if verdict.address.is_none() {
        verdict.address = address;
    }
    match access {
        Some((is_write, Some(size))) => {
            verdict.because(format!("it {} {size} bytes", if is_write { "wrote" } else { "read" }))
        }
        _ => verdict.because(format!("{} found it", header.name)),
    }
}

/// Returns whether a line tells of a write, and how many bytes were to be written or read.
fn access(line: &str) -> Option<(bool, Option<u64>)> {
    let line = line.trim_start();
    let lower = line.to_ascii_lowercase();
    if let Some(rest) = lower.find("caused by a ").map(|at| &lower[at + "caused by a ".len()..]) {
        return Some((rest.starts_with("write"), None)).filter(|_| !rest.starts_with("unknown"));
    }
    let is_write = ["write of size", "atomic write of size"].iter().any(|start| lower.starts_with(start));
    let is_read = ["read of size", "atomic read of size"].iter().any(|start| lower.starts_with(start));
    (is_write || is_read).then(|| (is_write, number_after(&lower, "of size")))
}

fn signal_name(says: &str) -> Option<&'static str> {
    let word = says.split_whitespace().next().unwrap_or_default();
    let name = match word {
        "SEGV" => "SIGSEGV",
        "BUS" => "SIGBUS",
        "FPE" => "SIGFPE",
        "ILL" => "SIGILL",
        "ABRT" => "SIGABRT",
        "TRAP" => "SIGTRAP",
        _ => return None,
    };
    Some(name)
}

fn of_fault(name: &str, address: Option<u64>, is_write: Option<bool>, body: &[&str]) -> Verdict {
    let hints = || body.iter().take(8).filter(|line| line.to_ascii_lowercase().contains("hint: "));
    let has = |words: &str| hints().any(|line| line.to_ascii_lowercase().contains(words));
    if !matches!(name, "SIGSEGV" | "SIGBUS") {
        return of_signal(name, address).1;
    }
    if has("pc points to the zero page") {
        return Verdict::new("null_exec", Severity::Low, "it called a function through a pointer that was never set");
    }
    if has("pc is at a non-executable region") {
        return Verdict::new("wild_exec", Severity::Critical, "it went to an address where no code is");
    }
    let is_null = address.is_some_and(|address| address < NEAR_NULL) && !has("high value address");
    let (class, severity) = match (is_write, is_null) {
        (Some(true), true) => ("null_write", Severity::Low),
        (Some(true), false) => ("wild_write", Severity::High),
        (Some(false), true) => ("null_read", Severity::Low),
        (Some(false), false) => ("wild_read", Severity::Medium),
        (None, true) => ("null_access", Severity::Low),
        (None, false) => ("wild_access", Severity::Medium),
    };
    let reason = if is_null { "it used a null pointer" } else { "it used an address that is not its own" };
    // Zero is said of an address that the processor does not tell.
    Verdict::new(class, severity, reason).about(address.filter(|address| is_null || *address != 0))
}

/// Returns the class of what a sanitizer says: its own word in our letters, or ours where it has a sentence.
fn class(says: &str) -> String {
    let sentences = [
        ("attempting double-free", "double_free"),
        ("attempting free on address", "invalid_free"),
        ("bad-free", "invalid_free"),
        ("detected memory leaks", "leak"),
        ("requested allocation size", "allocation_size_too_big"),
        ("allocator is out of memory", "out_of_memory"),
        ("failed to allocate", "out_of_memory"),
        ("out-of-memory", "out_of_memory"),
        ("lock-order-inversion", "deadlock"),
        ("data race", "data_race"),
        ("race on", "data_race"),
        ("deadly signal", "deadly_signal"),
        ("timeout", "timeout"),
        ("heap-use-after-free (", "heap_use_after_free"),
        ("wild-", "wild_access"),
    ];
    if let Some((_, class)) = sentences.iter().find(|(start, _)| says.starts_with(start)) {
        return (*class).to_owned();
    }
    let end = [" on ", " (", ":", " in "].iter().filter_map(|mark| says.find(mark)).min().unwrap_or(says.len());
    let word: String = says[..end].trim().chars().take(64).collect();
    let class = word.to_ascii_lowercase().replace(|sign: char| !sign.is_ascii_alphanumeric(), "_");
    let class = class.trim_matches('_');
    if class.is_empty() { "sanitizer_error".to_owned() } else { class.to_owned() }
}

/// Returns how bad what a class names may be.
fn of_kind(class: &str, is_write: Option<bool>) -> Verdict {
    let starts = |words: &[&str]| words.iter().any(|word| class.starts_with(word));
    let (severity, reason) = if starts(&["double_free", "invalid_free", "alloc_dealloc_mismatch"]) {
        (Severity::High, "memory was freed that was not allocated in that way, or freed before")
    } else if class.contains("use_after") {
        (Severity::High, "memory was used after it was given back, and may hold what somebody else put there")
    } else if class.contains("overflow") && class != "stack_overflow" || class.contains("underflow") {
        match is_write {
            Some(false) => (Severity::Medium, "it read beyond what it had"),
            _ => (Severity::High, "it wrote beyond what it had, or may have"),
        }
    } else if starts(&["negative_size_param", "tag_mismatch", "memcpy_param_overlap"]) {
        (Severity::Medium, "memory was used in a way that goes wrong sooner or later")
    } else if starts(&["use_of_uninitialized_value"]) {
        (Severity::Medium, "what it did depends on memory that nobody had set")
    } else if starts(&["data_race", "deadlock", "destroy_of", "double_lock", "unlock_of"]) {
        (Severity::Medium, "threads are in each other's way")
    } else if starts(&["leak", "thread_leak", "stack_overflow", "out_of_memory", "allocation_size", "timeout"]) {
        (Severity::Low, "it ends the program, or wears it out")
    } else {
        (Severity::Unknown, "nothing is known of how bad that is")
    };
    Verdict::new(class, severity, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(says: &str, expected: &str) {
        assert_eq!(class(says), expected, "{says}");
    }

    #[test]
    fn classes_are_words() {
        check("heap-use-after-free on address 0x602000000010 at pc 0x1", "heap_use_after_free");
        check("attempting double-free on 0x602000000010 in thread T0:", "double_free");
        check("attempting free on address which was not malloc()-ed: 0x5 in thread T0", "invalid_free");
        check("memcpy-param-overlap: memory ranges", "memcpy_param_overlap");
        check("lock-order-inversion (potential deadlock) (pid=3)", "deadlock");
        check("use-of-uninitialized-value", "use_of_uninitialized_value");
        check("thread leak (pid=4)", "thread_leak");
        check("negative-size-param: (size=-1)", "negative_size_param");
        check("", "sanitizer_error");
    }

    #[test]
    fn a_summary_alone_tells_where() {
        let lines = ["SUMMARY: AddressSanitizer: heap-buffer-overflow /src/a.c:7:3 in fill"];
        let report = summary(&lines).unwrap();
        assert_eq!(report.crash.as_ref().unwrap().class, "heap_buffer_overflow");
        let frame = &report.threads[0].frames[0];
        assert_eq!((frame.function.as_deref(), frame.line, frame.column), (Some("fill"), Some(7), Some(3)));
    }
}
