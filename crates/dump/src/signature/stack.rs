//! From a report to the stack that rules look at: the crashed thread's frames with their keys, and no more than a row holds.

use super::frame;
use model::report::{DumpKind, Frame, Module, Report, Trust};
use model::signature::{
    MAX_ADDRESSES, MAX_CLASS_CHARS, MAX_FILE_CHARS, MAX_MESSAGE_CHARS, MAX_MODULE_CHARS, MAX_STACK_BYTES,
    MAX_STACK_FRAMES, STACK_VERSION, Stack, StackFrame,
};

/// Returns the stack that a report is signed by: that of the thread that crashed, or else of the first.
pub fn stack(report: &Report) -> Stack {
    let mut most = MAX_STACK_FRAMES;
    loop {
        let stack = stack_of(report, most);
        let bytes = serde_json::to_string(&stack).map_or(0, |text| text.len());
        if bytes <= MAX_STACK_BYTES || most == 0 {
            return stack;
        }
        most = most * 3 / 4;
    }
}

fn stack_of(report: &Report, most: usize) -> Stack {
    let thread = report.crashed().or(report.threads.first());
    let frames = thread.map(|thread| thread.frames.as_slice()).unwrap_or_default();
    let beyond = u64::try_from(frames.len().saturating_sub(most)).unwrap_or(u64::MAX);
    let process = report.process.as_ref();
    let program = process.and_then(|process| process.name.as_deref().or(process.program.as_deref()));
    let mut stack = Stack {
        version: STACK_VERSION,
        kind: report.kind,
        class: clean(&class(report), MAX_CLASS_CHARS),
        message: message(report).map(|message| kept_lines(message, MAX_MESSAGE_CHARS)),
        program: program.map(|program| clean(program.rsplit('/').next().unwrap_or(program), MAX_MODULE_CHARS)),
        modules: Vec::new(),
        files: Vec::new(),
        frames: Vec::new(),
        frames_cut: beyond.saturating_add(thread.map_or(0, |thread| thread.frames_cut)),
        addresses: addresses(report, frames),
    };
    for frame in frames.iter().take(most) {
        let module = module_of(report, frame);
        let key = frame::key(frame, module);
        let name = frame::module_name(frame, module).map(|name| clean(name, MAX_MODULE_CHARS));
        let file = frame.file.as_deref().map(file);
        let frame = StackFrame {
            key: key.text,
            module: name.and_then(|name| number(&mut stack.modules, name)),
            file: file.and_then(|file| number(&mut stack.files, file)),
            is_unknown: key.is_unknown,
            is_scanned: frame.trust == Trust::Scan,
            is_interrupted: frame.is_interrupted,
        };
        stack.frames.push(frame);
    }
    stack
}

fn module_of<'a>(report: &'a Report, frame: &Frame) -> Option<&'a Module> {
    report.modules.get(frame.module?)
}

/// Returns the crash's class, or the best word there is instead of one.
fn class(report: &Report) -> String {
    let class = report.crash.as_ref().map(|crash| crash.class.clone()).filter(|class| !class.is_empty());
    let signal = || report.signal.as_ref().map(|signal| signal.name.to_ascii_lowercase());
    class.or_else(signal).unwrap_or_else(|| {
        let word = match report.kind {
            DumpKind::Kernel | DumpKind::Illumos => "kernel_panic",
            _ => "unknown",
        };
        word.to_owned()
    })
}

fn message(report: &Report) -> Option<&str> {
    let crash = report.crash.as_ref().and_then(|crash| crash.message.as_deref());
    crash.or_else(|| report.kernel.as_ref().and_then(|kernel| kernel.panic.as_deref())).filter(|text| !text.is_empty())
}

/// Returns the innermost places; inlined functions share theirs with the function they are part of.
fn addresses(report: &Report, frames: &[Frame]) -> Vec<String> {
    let physical = frames.iter().filter(|frame| frame.trust != Trust::Inline && frame.trust != Trust::Scan);
    let places = physical.filter_map(|frame| frame::place(frame, module_of(report, frame)));
    places.take(MAX_ADDRESSES).map(|place| frame::short(&place, MAX_MODULE_CHARS)).collect()
}

/// Returns the number of a text in a table, which it joins if it is new.
fn number(table: &mut Vec<String>, text: String) -> Option<u16> {
    let at = table.iter().position(|known| *known == text).unwrap_or_else(|| {
        table.push(text);
        table.len() - 1
    });
    u16::try_from(at).ok()
}

fn clean(text: &str, most: usize) -> String {
    text.chars().filter(|sign| !sign.is_control()).take(most).collect()
}

fn kept_lines(text: &str, most: usize) -> String {
    text.chars().filter(|sign| !sign.is_control() || *sign == '\n').take(most).collect()
}

/// Returns the end of a path, without the folder of a commit that Rust's own files lie in.
fn file(path: &str) -> String {
    let path = match path.strip_prefix("/rustc/").and_then(|rest| rest.split_once('/')) {
        Some((_, rest)) => format!("/rustc/{rest}"),
        None => path.to_owned(),
    };
    let signs = path.chars().filter(|sign| !sign.is_control()).count();
    clean(&path, signs).chars().skip(signs.saturating_sub(MAX_FILE_CHARS)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::report::{Address, Crash, Found, Severity, Thread};

    fn report(frames: Vec<Frame>) -> Report {
        let mut report = Report::new(DumpKind::Core);
        let crash = Crash {
            class: "null_read".to_owned(),
            message: None,
            address: None,
            severity: Severity::Low,
            reasons: Vec::new(),
        };
        report.crash = Some(crash);
        let module = |path: &str, build_id: &str| Module {
            path: path.to_owned(),
            start: Address(0),
            end: Address(0),
            bias: Address(0),
            build_id: Some(build_id.to_owned()),
            found: Found::Missing,
            lack: None,
            supplementary: None,
        };
        report.modules = vec![module("/opt/app", "aabbccddeeff"), module("/lib/libc.so.6", "112233445566")];
        report.threads = vec![Thread { is_crashed: true, frames, ..Thread::default() }];
        report
    }

    fn at(module: usize, offset: u64) -> Frame {
        Frame { module: Some(module), offset: Some(Address(offset)), ..Frame::new(Trust::Cfi) }
    }

    #[test]
    fn without_symbols_builds_tell_dumps_apart() {
        let first = stack(&report(vec![at(1, 0x10), at(0, 0x20), at(0, 0x30)]));
        assert_eq!(first.addresses, ["libc.so.6[11223344]+0x10", "app[aabbccdd]+0x20", "app[aabbccdd]+0x30"]);
        let second = stack(&report(vec![at(1, 0x10), at(0, 0x24), at(0, 0x30)]));
        let [first, second] = [first, second].map(|stack| super::super::Rules::builtin().sign(&stack).signature);
        assert_eq!(first.text, "null_access | app[aabbccdd]+0x20");
        assert_ne!(first.id, second.id);
        assert_ne!(first.address_id, second.address_id);
    }

    #[test]
    fn it_fits_into_a_row() {
        let frame = |at: usize| Frame {
            function: Some(format!("{}{at}", "\"very\" ".repeat(400))),
            file: Some(format!("/{}{at}/x.c", "é/".repeat(200))),
            module_name: Some("m".repeat(400) + &at.to_string()),
            ..Frame::new(Trust::Told)
        };
        let stack = stack(&report((0..2_000).map(frame).collect()));
        stack.check().unwrap();
        assert!(serde_json::to_string(&stack).unwrap().len() <= MAX_STACK_BYTES);
        assert_eq!(stack.frames.len() + usize::try_from(stack.frames_cut).unwrap(), 2_000);
        assert!(stack.frames.len() > 10);
    }

    #[test]
    fn a_report_that_says_nothing_has_a_stack() {
        let mut empty = Report::new(DumpKind::Kernel);
        assert_eq!(stack(&empty).class, "kernel_panic");
        empty.kind = DumpKind::Unknown;
        assert_eq!(stack(&empty).class, "unknown");
    }

    #[test]
    fn tables_hold_a_name_once() {
        let named = |file: &str| Frame { file: Some(file.to_owned()), ..at(0, 1) };
        let stack = stack(&report(vec![named("/rustc/0123abcd/library/core/src/a.rs"), named("b.c"), named("b.c")]));
        assert_eq!(stack.modules, ["app"]);
        assert_eq!(stack.files, ["/rustc/library/core/src/a.rs", "b.c"]);
        assert_eq!(stack.file_of(&stack.frames[2]), Some("b.c"));
    }
}
