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

#[cfg(test)]
mod tests {
    use super::*;

    fn header(is_big: bool, is_64: bool, flags: u32) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        let mut put = |at: usize, value: u64, length: usize| {
            let all = if is_big { value.to_be_bytes() } else { value.to_le_bytes() };
            let part = if is_big { &all[8 - length..] } else { &all[..length] };
            bytes[at..at + length].copy_from_slice(part);
        };
        let word = if is_64 { 8 } else { 4 };
        put(0, u64::from(MAGIC), 4);
        put(4, 10, 4);
        put(8, u64::from(flags), 4);
        put(12, word as u64 * 8, 4);
        put(1800, 1_600_000_000, word);
        put(1800 + 2 * word, 4096, word);
        put(1800 + 5 * word, 12, word);
        let mut say = |at: usize, text: &str| bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        let machine = if is_64 { "i86pc" } else { "sun4v" };
        for (number, name) in ["SunOS", "headnode", "5.11", "joyent_20200101T000000Z", machine].iter().enumerate() {
            say(56 + number * 257, name);
        }
        say(1341, "i86pc");
        say(1598, "BAD TRAP: type=e (#pf Page fault)");
        say(1800 + 8 * word + 4, "01234567-89ab-cdef-0123-456789abcdef");
        bytes
    }

    fn check(is_big: bool, is_64: bool, arch: &str) {
        let report = report(&header(is_big, is_64, 3 | 8)).unwrap();
        assert_eq!(report.machine.node.as_deref(), Some("headnode"));
        assert_eq!(report.machine.release.as_deref(), Some("joyent_20200101T000000Z"));
        assert_eq!(report.machine.arch.as_deref(), Some(arch));
        assert_eq!(report.machine.crashed_at, Some(1.6e9));
        let kernel = report.kernel.unwrap();
        assert_eq!(kernel.panic.as_deref(), Some("BAD TRAP: type=e (#pf Page fault)"));
        assert_eq!(kernel.info["uuid"], "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!((kernel.info["pages"].as_str(), kernel.info["page_bytes"].as_str()), ("12", "4096"));
        assert_eq!(report.crash.unwrap().class, "kernel_panic");
        assert!(!report.is_truncated && report.notes.is_empty(), "{:?}", report.notes);
    }

    #[test]
    fn headers_are_read_in_either_order_and_width() {
        check(false, true, "x86_64");
        check(true, false, "sun4v");
    }

    #[test]
    fn what_is_incomplete_says_so() {
        let told = report(&header(false, true, 1)).unwrap();
        assert!(told.is_truncated);
        assert_eq!(told.notes.iter().map(|note| note.code).collect::<Vec<_>>(), [NoteCode::Truncated, NoteCode::Hint]);
        let whole = header(false, true, 3 | 8);
        for end in 4..2000 {
            let told = report(&whole[..end]).unwrap();
            assert_eq!(told.is_truncated, end < 1864, "{end}");
        }
        assert!(report(b"\xed\xc8\xfe").is_none());
    }
}
