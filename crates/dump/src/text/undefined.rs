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
        // What a server written in Go says of a request has the same words, and a client's address before them.
        let (before, says) = line.split_once(MARK).filter(|(before, _)| !before.contains("panic serving "))?;
        let place = place(before.trim());
        let mut frame = Frame::new(Trust::Told);
        (set_place(&mut frame, place) || place == "<unknown>").then_some((at, frame, says))
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

/// Returns the place that ends what stands before an error, without what a log puts before that. Only a path with which
/// the line begins may have blanks.
fn place(before: &str) -> &str {
    let is_path = ["/", "./", "../"].iter().any(|root| before.starts_with(root));
    if is_path && ![": ", "] ", "\t"].iter().any(|mark| before.contains(mark)) {
        return before;
    }
    before.rsplit(char::is_whitespace).next().unwrap_or(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_same_behind_any_log() {
        let check = |line: &str, file: &str, line_number: u32, column: u32| {
            let told = report(&[line]).unwrap_or_else(|| panic!("nothing is told: {line}"));
            let frame = &told.threads[0].frames[0];
            let found = (frame.file.as_deref(), frame.line, frame.column);
            assert_eq!(found, (Some(file), Some(line_number), Some(column)), "{line}");
            assert_eq!(told.crash.as_ref().map(|crash| crash.class.as_str()), Some("shift_out_of_range"));
        };
        let says = ": runtime error: shift exponent 40 is too large for 32-bit type 'int'";
        check(&format!("ub.c:3:24{says}"), "ub.c", 3, 24);
        check(&format!("/src/my project/ub.c:3:24{says}"), "/src/my project/ub.c", 3, 24);
        check(&format!("../my project/ub.c:3:24{says}"), "../my project/ub.c", 3, 24);
        check(&format!("2026-11-22 10:00:01 app[12]: ub.c:3:24{says}"), "ub.c", 3, 24);
        check(&format!("2026-11-22T10:00:01Z host app[12]: /src/ub.c:3:24{says}"), "/src/ub.c", 3, 24);
        check(&format!("/usr/bin/app[12]: /src/ub.c:3:24{says}"), "/src/ub.c", 3, 24);
        check(&format!("[ 12.5]\tlib/ub.c:3:24{says}"), "lib/ub.c", 3, 24);
        let unknown = report(&["app[12]: <unknown>: runtime error: load of null pointer of type 'int'"]);
        assert_eq!(unknown.map(|told| told.threads[0].frames[0].file.clone()), Some(None));
    }
}
