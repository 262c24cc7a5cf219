//! What a Linux kernel's log says of its end: which event, in which function, by which calls.
//!
//! The first event that a kernel does not survive is told; without one, the first of those it complains of. Lines may have
//! times, levels and callers before them. Frames marked `?` were found by chance on the stack and are dropped.

use crate::text::line::{between, cut, hex, hex_after, number, number_after, set_place};
use model::report::{Address, Crash, DumpKind, Frame, Kernel, NoteCode, Process, Report, Severity, Thread, Trust};

/// Lines after an event that are looked through for what belongs to it.
const MAX_EVENT_LINES: usize = 1000;
/// Lines between the start of an event and its first frame.
const MAX_STACKS: usize = 64;
/// Bytes of a panic's text.
const MAX_PANIC_BYTES: usize = 2048;

/// How an event ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// The kernel goes on.
    Complaint,
    /// Some part of it does not.
    End,
}

/// By words of a line: the class, its weight, how bad it may be, and why.
struct Event {
    words: &'static str,
    class: &'static str,
    weight: Weight,
    severity: Severity,
    reason: &'static str,
}

const fn end(words: &'static str, class: &'static str, severity: Severity, reason: &'static str) -> Event {
    Event { words, class, weight: Weight::End, severity, reason }
}

const fn complaint(words: &'static str, class: &'static str, reason: &'static str) -> Event {
    Event { words, class, weight: Weight::Complaint, severity: Severity::Low, reason }
}

const NULL: &str = "the kernel used a null pointer";
const WILD: &str = "the kernel used an address that is not mapped";
const GAVE_UP: &str = "the kernel found that it cannot go on";
const CHECKED: &str = "a checker of memory in the kernel found it";
const STUCK: &str = "something in the kernel does not come to an end";

/// What a kernel says; where several fit a line, the first counts.
const EVENTS: [Event; 40] = [
    end("BUG: kernel NULL pointer dereference", "null_deref", Severity::Low, NULL),
    end("unable to handle kernel NULL pointer dereference", "null_deref", Severity::Low, NULL),
    end("KASAN: null-ptr-deref in range", "null_deref", Severity::Low, NULL),
    end("unable to handle kernel paging request", "page_fault", Severity::Medium, WILD),
    end("unable to handle page fault for address", "page_fault", Severity::Medium, WILD),
    end("unable to handle kernel access to user memory", "page_fault", Severity::Medium, WILD),
    end(
        "general protection fault",
        "general_protection_fault",
        Severity::Medium,
        "an address was used that no pointer can hold",
    ),
    end("kernel BUG at ", "kernel_bug", Severity::Low, "an assertion in the kernel did not hold"),
    end("divide error:", "division_by_zero", Severity::Low, "the kernel divided by zero"),
    end("double fault:", "double_fault", Severity::Medium, "a fault was met while another was dealt with"),
    end("PANIC: double fault", "double_fault", Severity::Medium, "a fault was met while another was dealt with"),
    end("stack guard page was hit", "stack_overflow", Severity::Medium, "the kernel's stack ran out"),
    end("kernel stack overflow", "stack_overflow", Severity::Medium, "the kernel's stack ran out"),
    end(
        "stack-protector: Kernel stack is corrupted",
        "stack_smashing",
        Severity::High,
        "the word that guards a frame was overwritten",
    ),
    end("BUG: KASAN: ", "kasan", Severity::High, CHECKED),
    end("BUG: KFENCE: ", "kfence", Severity::High, CHECKED),
    end("BUG: KMSAN: ", "kmsan", Severity::Medium, CHECKED),
    complaint("BUG: KCSAN: ", "kcsan", CHECKED),
    complaint("UBSAN: ", "ubsan", "the language leaves open what happens then"),
    end("softlockup: hung tasks", "soft_lockup", Severity::Low, STUCK),
    complaint("BUG: soft lockup", "soft_lockup", STUCK),
    end("panic - not syncing: hard lockup", "hard_lockup", Severity::Low, STUCK),
    complaint("hard LOCKUP", "hard_lockup", STUCK),
    end("not syncing: hung_task", "hung_task", Severity::Low, STUCK),
    complaint(" blocked for more than ", "hung_task", STUCK),
    complaint("detected stall", "rcu_stall", STUCK),
    complaint("self-detected stall", "rcu_stall", STUCK),
    end("not syncing: Fatal machine check", "machine_check", Severity::Unknown, "the machine itself told of an error"),
    end("not syncing: Fatal Machine check", "machine_check", Severity::Unknown, "the machine itself told of an error"),
    complaint("[Hardware Error]: Machine check", "machine_check", "the machine itself told of an error"),
    end("not syncing: Out of memory", "oom", Severity::Low, "there was no memory left"),
    end("not syncing: System is deadlocked on memory", "oom", Severity::Low, "there was no memory left"),
    complaint("invoked oom-killer", "oom", "there was no memory left"),
    complaint("possible circular locking dependency", "deadlock", "locks are taken in an order that can end badly"),
    complaint("possible recursive locking", "deadlock", "a lock is taken twice"),
    complaint("BUG: scheduling while atomic", "atomic_sleep", "it waits where nobody may wait"),
    complaint("BUG: sleeping function called from invalid context", "atomic_sleep", "it waits where nobody may wait"),
    end("Kernel panic - not syncing", "kernel_panic", Severity::Low, GAVE_UP),
    end("Internal error: ", "oops", Severity::Unknown, "the kernel met a trap it had not reckoned with"),
    complaint("WARNING: CPU: ", "warning", "a condition did not hold that the kernel can live with"),
];

/// A sort of trap that a kernel names after the event proper; it counts only where nothing else does.
const TRAPS: [(&str, &str); 3] = [("invalid opcode: ", "invalid_opcode"), ("Oops: ", "oops"), ("BUG: ", "bug")];

/// Returns the report of what a kernel printed; none if no kernel did.
pub(crate) fn told(lines: &[&str]) -> Option<Report> {
    let plain: Vec<&str> = lines.iter().map(|line| bare(line)).collect();
    // Whoever complains of the kernel in prose has no stack; whoever prints its log has.
    let is_log = plain.iter().any(|line| {
        [
            "Call Trace:",
            "Call trace:",
            "Modules linked in:",
            "Hardware name: ",
            "Kernel panic - not syncing",
            "RIP: 0010:",
        ]
        .iter()
        .any(|start| line.starts_with(start))
    }) || lines.iter().any(|line| line.starts_with('[') && bare(line).len() < line.len());
    let mut report = Report::new(DumpKind::Kernel);
    report.machine.os = Some("linux".to_owned());
    (is_log && read(&plain, &mut report)).then(|| {
        report.kernel.get_or_insert_default();
        report
    })
}

/// Puts into a report what the log says; false if it says nothing of an end.
pub(crate) fn read(plain: &[&str], report: &mut Report) -> bool {
    let Some((at, event, words)) = event(plain) else { return false };
    let rest = &plain[at..plain.len().min(at + MAX_EVENT_LINES)];
    let own = own(rest);
    let mut class = event.map_or_else(|| words.to_owned(), |event| sub_class(event, plain[at]));
    if let Some(null) = own.iter().find(|line| line.contains("KASAN: null-ptr-deref in range"))
        && class == "general_protection_fault"
    {
        report.note(NoteCode::Hint, null.trim());
        "null_deref".clone_into(&mut class);
    }
    let panic = plain.iter().find(|line| line.starts_with("Kernel panic - not syncing"));
    let kernel = report.kernel.get_or_insert_with(Kernel::default);
    kernel.panic = Some(cut(panic.unwrap_or(&plain[at]), MAX_PANIC_BYTES).trim().to_owned());
    let mut crash = Crash {
        class,
        message: Some(cut(plain[at], MAX_PANIC_BYTES).trim().to_owned()),
        address: address(plain[at], own).map(Address),
        severity: event.map_or(Severity::Unknown, |event| event.severity),
        reasons: vec![event.map_or("the kernel met what it had not reckoned with", |event| event.reason).to_owned()],
    };
    if crash.class == "page_fault" && own.iter().any(|line| line.contains("supervisor write access")) {
        crash.severity = Severity::High;
        crash.reasons.push("it was to be written".to_owned());
    }
    if own.iter().any(|line| line.contains("attempt to execute") || line.contains("instruction fetch in kernel mode")) {
        crash.severity = Severity::Critical;
        crash.reasons.push("the kernel went to where no code of its own is".to_owned());
    }
    report.crash = Some(crash);
    report.threads = threads(own);
    who(own, report);
    true
}

/// Returns a line without its time, level and caller: `<4>[   12.345678][  T123] `.
pub(crate) fn bare(line: &str) -> &str {
    let mut rest = line.trim_end();
    // What a console or a journal put before it.
    if let Some(at) = rest.find("kernel: ").filter(|at| *at < 80) {
        rest = &rest[at + 8..];
    }
    if let Some(after) =
        rest.strip_prefix('<').and_then(|rest| rest.split_once('>')).filter(|(level, _)| level.len() <= 3)
    {
        rest = after.1;
    }
    for _ in 0..3 {
        let trimmed = rest.trim_start();
        let Some((inner, after)) = trimmed.strip_prefix('[').and_then(|inner| inner.split_once(']')) else { break };
        let inner = inner.trim();
        let is_time = inner.contains('.') && inner.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let is_caller = inner
            .strip_prefix(['T', 'C'])
            .is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_time && !is_caller {
            break;
        }
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    rest
}

/// Returns where the event is, and which it is; of a trap that has none of its own, its word.
fn event(plain: &[&str]) -> Option<(usize, Option<&'static Event>, &'static str)> {
    let of_line = |line: &str| {
        EVENTS.iter().find(|event| match event.words.strip_prefix("unable to handle") {
            // It is `Unable` on other processors.
            Some(rest) => line.contains("nable to handle") && line.contains(rest),
            None => line.contains(event.words),
        })
    };
    let mut first: Option<(usize, &Event)> = None;
    for (at, line) in plain.iter().enumerate() {
        let Some(event) = of_line(line).filter(|_| !line.contains("---[ end ")) else { continue };
        match first {
            Some((_, known)) if known.weight >= event.weight => (),
            // A panic because of a complaint is that complaint's end, and its stack is the complaint's.
            Some((_, known)) if known.class == event.class => (),
            _ => first = Some((at, event)),
        }
        if event.weight == Weight::End {
            break;
        }
    }
    let trap = || {
        plain.iter().enumerate().find_map(|(at, line)| {
            let (_, class) = TRAPS.iter().find(|(start, _)| line.starts_with(start))?;
            Some((at, None, *class))
        })
    };
    first.map(|(at, event)| (at, Some(event), event.class)).or_else(trap)
}

/// Returns the lines that belong to an event: up to where its trace ends, or the next event begins.
fn own<'a, 'b>(rest: &'a [&'b str]) -> &'a [&'b str] {
    let is_over = |line: &&str| line.contains("---[ end ") || line.starts_with("Kernel panic - not syncing: Fatal");
    let end = rest.iter().skip(1).position(is_over).map_or(rest.len(), |end| end + 1);
    &rest[..end]
}

/// Returns the class of an event, with what a checker calls it.
fn sub_class(event: &Event, line: &str) -> String {
    let prefix = match event.class {
        class @ ("kasan" | "kfence" | "kmsan" | "kcsan" | "ubsan") => class,
        class => return class.to_owned(),
    };
    let at = line.find(event.words).map_or(line.len(), |at| at + event.words.len());
    let kind = line[at..].split(" in ").next().unwrap_or_default().trim();
    let kind = kind.strip_prefix("slab-use-").map_or(kind, |_| kind.trim_start_matches("slab-"));
    // `use-after-free read in f`: the word of the access is not of the kind.
    let kind = kind.trim_end_matches(" read").trim_end_matches(" write").trim_end_matches(" rw");
    let kind = cut(kind, 64).to_ascii_lowercase().replace(|sign: char| !sign.is_ascii_alphanumeric(), "_");
    if kind.is_empty() { prefix.to_owned() } else { format!("{prefix}_{kind}") }
}

fn address(line: &str, own: &[&str]) -> Option<u64> {
    let words = [
        "address: ",
        "virtual address ",
        "dereference at ",
        "paging request at ",
        "page fault for address: ",
        "non-canonical address ",
    ];
    let said = words.iter().find_map(|words| hex_after(line, words));
    let kasan = || {
        own.iter().take(12).find_map(|line| {
            let is_access = line.starts_with("Read of size") || line.starts_with("Write of size");
            hex_after(line, "at addr ").filter(|_| is_access)
        })
    };
    said.or_else(kasan)
}

/// Returns the stacks: the one of the event first, then those of who allocated and freed.
fn threads(own: &[&str]) -> Vec<Thread> {
    let mut threads = vec![Thread { is_crashed: true, ..Thread::default() }];
    let mut is_trace = false;
    for line in own {
        let text = line.trim();
        if let Some(title) = title(text) {
            if threads.len() >= MAX_STACKS {
                break;
            }
            threads.push(Thread { name: Some(title.to_owned()), ..Thread::default() });
            is_trace = true;
            continue;
        }
        if text.starts_with("Call Trace:") || text.starts_with("Call trace:") {
            is_trace = threads.len() == 1;
            continue;
        }
        let Some(last) = threads.last_mut() else { break };
        let is_first = last.is_crashed;
        if let Some(place) = instruction(text) {
            // Where it was is the innermost frame; below the trace it is told once more.
            if is_first && !is_trace && last.frames.is_empty() {
                last.frames.extend(frame(place));
            }
            continue;
        }
        if is_trace {
            if text.starts_with('?') || text.contains("] ? ") {
                continue;
            }
            match frame(text) {
                // Some processors' traces begin with where it was, which is told already.
                Some(frame) if last.frames.len() == 1 && last.frames.first() == Some(&frame) => (),
                Some(frame) => last.frames.push(frame),
                None if text.starts_with('<') || text.starts_with("Call") || text.is_empty() => (),
                None => is_trace = false,
            }
        } else if is_first {
            registers(text, last);
        }
    }
    threads
}

fn title(text: &str) -> Option<&str> {
    let starts = [
        "Allocated by task",
        "Freed by task",
        "Last potentially related work creation",
        "Second to last potentially",
        "allocated by task",
        "freed by task",
    ];
    starts.iter().any(|start| text.starts_with(start)).then(|| text.trim_end_matches(':'))
}

/// Returns where the processor was, if the line says and it was in the kernel.
fn instruction(text: &str) -> Option<&str> {
    let place = match text.strip_prefix("RIP: ").or_else(|| text.strip_prefix("EIP: ")) {
        // The segment of programs is another.
        Some(rest) if rest.starts_with("0033:") || rest.starts_with("0023:") => return Some(""),
        Some(rest) => rest.split_once(':').map_or(rest, |(_, rest)| rest),
        None => text.strip_prefix("pc : ")?,
    };
    Some(place.trim())
}

/// Reads `[<ffffffff81>] ext4_put_super+0x12/0x340 [ext4] fs/ext4/super.c:12`.
fn frame(text: &str) -> Option<Frame> {
    let mut frame = Frame::new(Trust::Told);
    let mut text = text.trim();
    if let Some((inner, rest)) = text.strip_prefix("[<").and_then(|rest| rest.split_once(">]")) {
        frame.address = hex(inner).map(|(address, _)| Address(address)).filter(|address| address.0 != 0);
        text = rest.trim();
    }
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim();
    let is_name = |name: &str| {
        name.starts_with(|sign: char| sign.is_ascii_alphabetic() || sign == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.$".contains(&byte))
    };
    if let Some((name, offset)) = word.split_once("+0x") {
        let (offset, _) = hex(offset)?;
        frame.function_offset = Some(Address(offset));
        frame.function = Some(name.to_owned()).filter(|name| is_name(name));
        frame.function.as_ref()?;
    } else if is_name(word) && rest.ends_with("[inline]") {
        frame.function = Some(word.to_owned());
    } else if word.starts_with("0x") && rest.is_empty() {
        let (address, rest) = hex(word)?;
        frame.address = Some(Address(address));
        return rest.is_empty().then_some(frame);
    } else {
        return None;
    }
    let mut words = rest.split(' ').filter(|word| *word != "[inline]" && !word.is_empty());
    for word in words.by_ref().take(4) {
        if let Some(module) = word.strip_prefix('[') {
            frame.module_name.get_or_insert_with(|| module.trim_end_matches(']').to_owned());
        } else {
            set_place(&mut frame, word);
        }
    }
    Some(frame)
}

/// Reads `RAX: 0000000000000000 RBX: ffff888003a1b000` and `x29: ffff80001 x28: 0000`.
fn registers(text: &str, thread: &mut Thread) {
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_suffix(':') else { continue };
        let is_name = (2..=4).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let value = words.clone().next().unwrap_or_default();
        let value = value.strip_prefix("0018:").or_else(|| value.strip_prefix("0000:")).unwrap_or(value);
        if is_name
            && (8..=16).contains(&value.len())
            && thread.registers.len() < 64
            && let Ok(value) = u64::from_str_radix(value, 16)
        {
            thread.registers.entry(name.to_ascii_lowercase()).or_insert(Address(value));
        }
    }
}

/// Reads `CPU: 0 PID: 91 Comm: busybox Not tainted 6.1.0-56-cloud-amd64 #1`.
fn who(own: &[&str], report: &mut Report) {
    let Some(line) = own.iter().find(|line| line.contains("CPU: ") && line.contains(" Comm: ")) else { return };
    // A machine that keeps dumps says so first: `Comm: busybox Kdump: loaded Not tainted`.
    let ends = [" Kdump: ", " Not tainted", " Tainted: "];
    let name = ends.iter().find_map(|end| between(line, " Comm: ", end)).map(|name| name.trim().to_owned());
    report.process = Some(Process {
        pid: number_after(line, " PID: ").and_then(|pid| u32::try_from(pid).ok()),
        uid: number_after(line, " UID: ").and_then(|uid| u32::try_from(uid).ok()),
        name: name.clone(),
        ..Process::default()
    });
    if let (Some(cpu), Some(thread)) = (number_after(line, "CPU: "), report.threads.first_mut()) {
        thread.id = cpu;
        thread.name = name;
    }
    let release = line
        .split_whitespace()
        .find(|word| number(word).is_some_and(|(_, rest)| rest.starts_with('.') && word.matches('.').count() >= 1));
    if let Some(release) = release {
        report.machine.release.get_or_insert_with(|| release.to_owned());
        report.kernel.get_or_insert_default().release.get_or_insert_with(|| release.to_owned());
    }
    let tainted = between(line, "Tainted: ", release.unwrap_or("#")).map(str::trim);
    if let Some(tainted) = tainted.filter(|tainted| !tainted.is_empty()) {
        report.note(NoteCode::Hint, format!("the kernel was tainted: {tainted}"));
    }
}
