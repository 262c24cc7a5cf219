//! Tells what sort of dump a file is by its first bytes. It looks at a bounded beginning and follows no offset further,
//! so it may be asked before the rest has arrived; what is in the file is not judged.

use crate::core::elf::{ET_CORE, Header, Layout, Segment};
use crate::{illumos, text};
use model::report::DumpKind;

/// Bytes of a file's beginning that are looked at.
pub const MAX_HEAD_BYTES: usize = 256 << 10;
/// Segments of an ELF file among which notes are looked for.
const MAX_SEGMENTS: u32 = 4096;
/// Bytes among which a file must have nothing but text to be one.
const TEXT_BYTES: usize = 4096;

/// Notes that are looked through.
const MAX_NOTES: usize = 4096;
/// The names of the notes by which a kernel's dump is known.
const KERNEL_NOTES: [&[u8]; 2] = [b"VMCOREINFO\0", b"QEMU\0"];
/// The beginning of makedumpfile's own format; QEMU writes it too.
pub(crate) const KDUMP: &[u8] = b"KDUMP   ";
/// The beginning of makedumpfile's stream.
pub(crate) const FLATTENED: &[u8] = b"makedumpfile\0\0\0\0";
/// The beginning of the format before that, of netdump's time.
const DISKDUMP: &[u8] = b"DISKDUMP";
const MINIDUMP: &[u8] = b"MDMP";

/// Returns what sort of dump begins with these bytes.
pub fn kind(head: &[u8]) -> DumpKind {
    let head = &head[..head.len().min(MAX_HEAD_BYTES)];
    if [KDUMP, FLATTENED, DISKDUMP].iter().any(|magic| head.starts_with(magic)) {
        DumpKind::Kernel
    } else if head.starts_with(MINIDUMP) {
        DumpKind::Minidump
    } else if illumos::is(head) {
        DumpKind::Illumos
    } else if let Some(header) = Header::parse(head) {
        match header.kind {
            ET_CORE if is_kernel(head, &header) => DumpKind::Kernel,
            ET_CORE => DumpKind::Core,
            _ => DumpKind::Unknown,
        }
    } else if is_text(head) {
        text::kind(head)
    } else {
        DumpKind::Unknown
    }
}

/// Tells whether what begins with these bytes, up to `MAX_HEAD_BYTES` of them, is no dump whatever follows: no sort that is
/// known, and no text in which a crash may stand further on.
pub fn is_no_dump(head: &[u8]) -> bool {
    kind(head) == DumpKind::Unknown && (head.len() < MAX_HEAD_BYTES || !is_text(head))
}

/// Tells whether bytes are text, by their beginning.
pub(crate) fn is_text(head: &[u8]) -> bool {
    let head = &head[..head.len().min(TEXT_BYTES)];
    let is_odd = |byte: &&u8| **byte < 0x20 && !b"\t\n\r\x0c\x1b\x08\x07".contains(byte);
    !head.is_empty() && !head.contains(&0) && head.iter().filter(is_odd).count() * 50 <= head.len()
}

/// Tells whether a core is that of a kernel: by its notes, or by memory that has physical addresses and is the kernel's.
fn is_kernel(head: &[u8], header: &Header) -> bool {
    let entry = |number: u32| {
        let at = header.segments_at.checked_add(u64::from(number) * header.stride())?;
        Segment::parse(header.layout, head.get(usize::try_from(at).ok()?..)?)
    };
    let count = header.count().unwrap_or(0).min(MAX_SEGMENTS);
    let segments: Vec<_> = (0..count).map_while(entry).collect();
    // QEMU writes its registers as notes of its own, and knows no VMCOREINFO unless the guest told it.
    segments.iter().filter(|segment| segment.kind == Segment::NOTE).any(|segment| {
        let start = usize::try_from(segment.offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(segment.file_bytes).unwrap_or(usize::MAX));
        has_kernel_note(header.layout, head.get(start..end.min(head.len())).unwrap_or_default())
    })
}

/// Tells whether one of some notes is of those that only kernels' dumps have.
fn has_kernel_note(layout: Layout, notes: &[u8]) -> bool {
    let mut rest = notes;
    for _ in 0..MAX_NOTES {
        let Some((name, length)) = layout.u32(rest, 0).zip(layout.u32(rest, 4)) else { return false };
        let after = |length: u32| usize::try_from(length).ok()?.checked_next_multiple_of(4);
        if rest.get(12..).is_some_and(|rest| KERNEL_NOTES.iter().any(|known| rest.starts_with(known))) {
            return true;
        }
        let next = after(name).zip(after(length)).and_then(|(name, length)| name.checked_add(length)?.checked_add(12));
        let Some(next) = next.and_then(|next| rest.get(next..)) else { return false };
        rest = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &[u8], expected: DumpKind) {
        assert_eq!(kind(head), expected, "{}", String::from_utf8_lossy(&head[..head.len().min(40)]));
    }

    #[test]
    fn kinds_are_told_by_the_first_bytes() {
        check(b"KDUMP   rest", DumpKind::Kernel);
        check(b"makedumpfile\0\0\0\0rest", DumpKind::Kernel);
        check(b"MDMP\x93\xa7", DumpKind::Minidump);
        check(b"\xed\xc8\xfe\xde\x0b\0\0\0", DumpKind::Illumos);
        check(b"==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x1", DumpKind::Sanitizer);
        check(b"Traceback (most recent call last):\n  File \"a.py\", line 1, in f\nE: x\n", DumpKind::Traceback);
        check(b"[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000010\n", DumpKind::Kernel);
        check(b"dear diary\n", DumpKind::Unknown);
        check(b"", DumpKind::Unknown);
        check(b"\x7fELF", DumpKind::Unknown);
    }

    #[test]
    fn a_long_text_may_tell_of_a_crash_further_on() {
        assert!(is_no_dump(b"dear diary\n") && is_no_dump(b"") && is_no_dump(&vec![0; MAX_HEAD_BYTES]));
        assert!(!is_no_dump(&b"dear diary\n".repeat(MAX_HEAD_BYTES)[..MAX_HEAD_BYTES]));
        assert!(!is_no_dump(b"MDMP\x93\xa7"));
    }
}
