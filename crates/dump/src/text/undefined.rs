//! What UndefinedBehaviorSanitizer prints: a line with a place, and a stack if it was asked for.

use super::line::{frame, numbered, set_place};
use super::{Verdict, thread};
use model::report::{DumpKind, Frame, NoteCode, Report, Severity, Thread, Trust};

/// Between a place and what went wrong there.
const MARK: &str = ": runtime error: ";
/// Errors that are listed after the first one.
const MAX_LISTED: usize = 32;
/// Lines after an error among which its stack begins: the memory in question is shown between them.
const MAX_BETWEEN: usize = 8;

/// By words of the message: the class, and how bad it may be.
const CLASSES: [(&str, &str, Severity); 25] = [
    ("signed integer overflow", "integer_overflow", Severity::Low),
    ("unsigned integer overflow", "integer_overflow", Severity::Low),
    ("negation of", "integer_overflow", Severity::Low),
    ("division by zero", "division_by_zero", Severity::Low),
    ("division of", "integer_overflow", Severity::Low),
    ("shift", "shift_out_of_range", Severity::Low),
    ("misaligned", "alignment", Severity::Low),
    ("out of bounds", "index_out_of_bounds", Severity::Medium),
    ("insufficient space", "object_size", Severity::Medium),
    ("null pointer passed", "undefined_null_argument", Severity::Low),
    ("null pointer returned", "undefined_null_return", Severity::Low),
    ("to null pointer", "undefined_null_offset", Severity::Low),
    ("offset to nonnull pointer", "pointer_overflow", Severity::Medium),
    ("pointer index expression", "pointer_overflow", Severity::Medium),
    ("addition of unsigned offset", "pointer_overflow", Severity::Medium),
    ("subtraction of unsigned offset", "pointer_overflow", Severity::Medium),
    ("null pointer", "undefined_null_pointer", Severity::Low),
    ("does not point to an object", "type_confusion", Severity::High),
    ("incorrect function type", "type_confusion", Severity::High),
    ("is not a valid value", "invalid_value", Severity::Low),
    ("outside the range of representable", "float_cast_overflow", Severity::Low),
    ("without returning a value", "missing_return", Severity::Low),
    ("unreachable", "undefined_unreachable", Severity::Low),
    ("implicit conversion", "implicit_conversion", Severity::Low),
    ("variable length array bound", "array_bound", Severity::Medium),
];

/// Returns the report of the first error.
pub(super) fn report(lines: &[&str]) -> Option<Report> {
    let (at, frame_told, says) = lines.iter().enumerate().find_map(|(at, line)| {
        let (place, says) = line.split_once(MARK)?;
        let mut frame = Frame::new(Trust::Told);
        (set_place(&mut frame, place.trim()) || place == "<unknown>").then_some((at, frame, says))
    })?;
    let rest = &lines[at + 1..];
    let own = rest.iter().take_while(|line| !line.contains(MARK));
    let begin = own.take(MAX_BETWEEN).position(|line| numbered(line).is_some());
    let stack = begin.map_or(&[][..], |begin| &rest[begin..]);
    let mut frames: Vec<_> = stack.iter().map_while(|line| numbered(line)).map(|(_, rest)| frame(rest)).collect();
    match frames.first_mut() {
        // The error's own line knows the column.
        Some(first) if first.line == frame_told.line && first.column.is_none() => first.column = frame_told.column,
        Some(_) => (),
        None => frames.push(frame_told),
    }
    let mut report = Report::new(DumpKind::Sanitizer);
    report.threads = vec![Thread { is_crashed: true, ..thread(0, None, frames) }];
    for more in rest.iter().filter(|line| line.contains(MARK)).take(MAX_LISTED) {
        report.note(NoteCode::Hint, format!("then {}", more.trim()));
    }
    let told = CLASSES.iter().find(|(words, _, _)| says.contains(words));
    let (class, severity) = told.map_or(("undefined_behavior", Severity::Unknown), |told| (told.1, told.2));
    let verdict = Verdict::new(class, severity, "the language leaves open what happens then");
    let address = super::line::hex_after(says, "address 0x");
    report.crash = Some(verdict.saying(says).about(address).crash());
    Some(report)
}
