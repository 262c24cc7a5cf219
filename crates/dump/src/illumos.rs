//! Crash dumps of illumos: what their header says, without inflating anything. Dumps of machines of either byte order and
//! of either width are read; what lies behind the header is not.

use crate::core::elf::Layout;
use model::report::{Crash, DumpKind, Kernel, MAX_NAME_CHARS, Machine, NoteCode, Report, Severity, Thread};

const MAGIC: u32 = 0xdefe_c8ed;
/// Bytes of a name in `struct utsname`.
const NAME_BYTES: usize = 257;
const PANIC_BYTES: usize = 200;
const UUID_BYTES: usize = 37;

/// Where things stand in the header, up to where the width of a number matters.
const VERSION_AT: usize = 4;
const FLAGS_AT: usize = 8;
const WIDTH_AT: usize = 12;
const NAMES_AT: usize = 56;
const PLATFORM_AT: usize = NAMES_AT + 5 * NAME_BYTES;
const PANIC_AT: usize = PLATFORM_AT + NAME_BYTES;
const TIME_AT: usize = 1800;

const IS_VALID: u32 = 1;
const IS_COMPLETE: u32 = 2;
const IS_LIVE: u32 = 4;
const IS_COMPRESSED: u32 = 8;

/// Tells whether a file begins as an illumos crash dump does.
pub(crate) fn is(head: &[u8]) -> bool {
    layout(head).is_some()
}

/// Returns the report of a crash dump; none if it is something else.
pub(crate) fn report(bytes: &[u8]) -> Option<Report> {
    let layout = layout(bytes)?;
    let mut report = Report::new(DumpKind::Illumos);
    let name = |number: usize| text(bytes, NAMES_AT + number * NAME_BYTES, NAME_BYTES);
    let (system, node, release, version, machine) = (name(0), name(1), name(2), name(3), name(4));
    let words = Layout { is_64: layout.u32(bytes, WIDTH_AT) != Some(32), ..layout };
    let time = words.word(bytes, TIME_AT).filter(|time| *time > 0 && *time < 1 << 40);
    report.machine = Machine {
        os: Some("illumos".to_owned()),
        arch: machine.map(|machine| arch(&machine, words.is_64)),
        node,
        release: version.clone().or_else(|| release.clone()),
        crashed_at: time.map(|time| time as f64),
    };
    let panic = text(bytes, PANIC_AT, PANIC_BYTES);
    let mut kernel = Kernel { release, panic: panic.clone(), ..Kernel::default() };
    let mut keep = |key: &str, value: Option<String>| value.map(|value| kernel.info.insert(key.to_owned(), value));
    keep("system", system);
    keep("version", version);
    keep("platform", text(bytes, PLATFORM_AT, NAME_BYTES));
    keep("dump_version", layout.u32(bytes, VERSION_AT).map(|version| version.to_string()));
    let word_bytes = words.word_bytes();
    let page_bytes = words.word(bytes, TIME_AT + 2 * word_bytes);
    keep("page_bytes", page_bytes.map(|bytes| bytes.to_string()));
    keep("pages", words.word(bytes, TIME_AT + 5 * word_bytes).map(|pages| pages.to_string()));
    // Before version 10 there is no name of the dump.
    let uuid_at = TIME_AT + 8 * word_bytes + 4;
    let is_uuid = |uuid: &String| uuid.len() == 36 && uuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    keep("uuid", text(bytes, uuid_at, UUID_BYTES).filter(is_uuid));
    report.kernel = Some(kernel);
    flags(layout.u32(bytes, FLAGS_AT).unwrap_or(0), &mut report);
    if bytes.len() < TIME_AT + 8 * word_bytes {
        report.is_truncated = true;
        report.note(NoteCode::Truncated, "the dump ends within its header");
    }
    if let Some(panic) = panic {
        report.crash = Some(Crash {
            class: "kernel_panic".to_owned(),
            message: Some(panic),
            address: None,
            severity: Severity::Unknown,
            reasons: vec!["the kernel panicked; its stack is behind what is read of such a dump".to_owned()],
        });
        report.threads.push(Thread { is_crashed: true, ..Thread::default() });
    }
    Some(report)
}

fn flags(flags: u32, report: &mut Report) {
    if flags & IS_VALID == 0 {
        report.note(NoteCode::Broken, "the dump is not marked as valid: it may have been saved before");
    }
    if flags & IS_COMPLETE == 0 {
        report.is_truncated = true;
        report.note(NoteCode::Truncated, "the dump is not marked as complete: the machine did not finish it");
    }
    if flags & IS_COMPRESSED == 0 {
        report.note(NoteCode::Hint, "the dump is not compressed: it is a `vmcore`, or one from an old machine");
    }
    if flags & IS_LIVE != 0 {
        report.note(NoteCode::Hint, "the dump is of a machine that went on");
    }
}

fn layout(bytes: &[u8]) -> Option<Layout> {
    let orders = [false, true].map(|is_big| Layout { is_64: true, is_big });
    orders.into_iter().find(|layout| layout.u32(bytes, 0) == Some(MAGIC))
}

fn arch(machine: &str, is_64: bool) -> String {
    match machine {
        "i86pc" | "i86xpv" if is_64 => "x86_64".to_owned(),
        "i86pc" | "i86xpv" => "x86".to_owned(),
        other => other.to_owned(),
    }
}

/// Returns the text in a field, up to its zero; none if it is empty.
fn text(bytes: &[u8], at: usize, length: usize) -> Option<String> {
    let field = bytes.get(at..)?;
    let field = &field[..field.len().min(length)];
    let text = String::from_utf8_lossy(field.split(|byte| *byte == 0).next()?);
    let text: String = text.trim().chars().take(MAX_NAME_CHARS).collect();
    (!text.is_empty()).then_some(text)
}
