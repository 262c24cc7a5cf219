//! Headers of illumos crash dumps, written here as `dumphdr_t` lays them out.

use dump::{Places, analyse};
use model::report::{DumpKind, NoteCode, Report};
use std::fs;

/// The flags of a dump that is valid, complete, and compressed.
const VALID: u32 = 1;
const COMPLETE: u32 = 2;
const COMPRESSED: u32 = 8;
pub(crate) const GOOD: u32 = VALID | COMPLETE | COMPRESSED;

/// Returns the header of a machine of either order of bytes and of either width.
pub(crate) fn header(is_big: bool, is_64: bool, flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, value: u64, length: usize| {
        let all = if is_big { value.to_be_bytes() } else { value.to_le_bytes() };
        let part = if is_big { &all[8 - length..] } else { &all[..length] };
        bytes[at..at + length].copy_from_slice(part);
    };
    let word = if is_64 { 8 } else { 4 };
    put(0, 0xdefe_c8ed, 4);
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

fn told(bytes: &[u8]) -> Report {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    analyse(file.path(), &Places::default())
}

fn check(is_big: bool, is_64: bool, arch: &str) {
    let report = told(&header(is_big, is_64, GOOD));
    assert_eq!(report.kind, DumpKind::Illumos);
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
    let report = told(&header(false, true, VALID));
    assert!(report.is_truncated);
    assert_eq!(report.notes.iter().map(|note| note.code).collect::<Vec<_>>(), [NoteCode::Truncated, NoteCode::Hint]);
    let whole = header(false, true, GOOD);
    for end in 4..2000 {
        let report = told(&whole[..end]);
        assert_eq!((report.kind, report.is_truncated), (DumpKind::Illumos, end < 1864), "{end}");
    }
    assert_ne!(told(b"\xed\xc8\xfe").kind, DumpKind::Illumos);
}
