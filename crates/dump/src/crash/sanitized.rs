//! What a sanitizer says before it gives up. Its report goes to standard error, but it keeps the text as well, somewhere in
//! memory that no symbol tells of: so it is looked for by its first words.

use crate::core::View;
use crate::core::elf::Segment;
use memchr::memmem;
use model::report::{Crash, DumpKind};

/// What every report begins with, behind the number of the process.
const MARK: &[u8] = b"==ERROR: ";
/// Bytes before that on its line: `==`, and the number.
const MAX_BEFORE: usize = 16;
/// Bytes of memory that are looked through.
const MAX_LOOKED_AT: usize = 512 << 20;
/// Bytes of a report, and how many are read: parts of it stand elsewhere too.
const MAX_REPORT_BYTES: usize = 64 << 10;
const MAX_REPORTS: usize = 16;

/// Tells whether a function is a sanitizer's own.
pub(super) fn is_sanitizer(function: &str) -> bool {
    ["__asan", "__hwasan", "__msan", "__tsan", "__ubsan", "__lsan", "__sanitizer"]
        .iter()
        .any(|own| function.starts_with(own))
}

/// Returns what the longest report says that stands in a core's memory.
pub(super) fn said(view: &View<'_>) -> Option<Crash> {
    let (mut left, mut found) = (MAX_LOOKED_AT, Vec::new());
    for piece in view.core.pieces.iter().filter(|piece| piece.flags & Segment::WRITABLE != 0) {
        let bytes = view.core.kept(piece, piece.start);
        let Some(rest) = left.checked_sub(bytes.len()) else { break };
        left = rest;
        let places = memmem::find_iter(bytes, MARK).take(MAX_REPORTS - found.len());
        found.extend(places.map(|at| text(bytes, at)));
        if found.len() == MAX_REPORTS {
            break;
        }
    }
    found.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let reports = found.into_iter().filter_map(crate::text::report);
    let mut crash = reports.filter(|report| report.kind == DumpKind::Sanitizer).find_map(|report| report.crash)?;
    crash.reasons.push("the sanitizer's own report stands in its memory".to_owned());
    Some(crash)
}

/// Returns the text around a place: from the beginning of its line to where it ends.
fn text(bytes: &[u8], at: usize) -> &[u8] {
    let start = bytes[at.saturating_sub(MAX_BEFORE)..at]
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit() || **byte == b'=')
        .count();
    let text = &bytes[at - start..];
    let text = &text[..text.len().min(MAX_REPORT_BYTES)];
    &text[..memchr::memchr(0, text).unwrap_or(text.len())]
}
