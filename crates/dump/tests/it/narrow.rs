//! Cores of 32 bits: read as those of 64 are, down to the lines, and cut at any place without harm.

use crate::program::Program;
use dump::{Places, analyse};
use model::report::{DumpKind, Trust};
use std::fs;
use std::path::PathBuf;

/// Returns a program of 32 bits and its core; none, with the reason printed, where this machine runs no such programs.
pub(crate) fn sample() -> Option<(Program, PathBuf)> {
    if cfg!(not(target_arch = "x86_64")) {
        print_reason("programs of 32 bits run on x86_64 alone");
        return None;
    }
    let options = ["-m32", "-O1", "-g", "-static", "-nostdlib", "-fno-stack-protector", "-Wl,--build-id=sha1"];
    let program = Program::compile("narrow.c", &options);
    let core = program.crash(&[]);
    Some((program, core))
}

#[expect(clippy::print_stderr, reason = "whoever reads the test's output should know that it saw nothing")]
fn print_reason(why: &str) {
    eprintln!("left out: {why}");
}

#[test]
fn a_core_of_32_bits_is_read_down_to_the_lines() {
    let Some((program, core)) = sample() else { return };
    let report = analyse(&core, &Places { roots: vec!["/".into()], ..Places::default() });
    assert_eq!((report.kind, report.is_truncated), (DumpKind::Core, false), "{:?}", report.notes);
    assert_eq!(report.machine.arch.as_deref(), Some("x86"));
    let process = report.process.as_ref().unwrap();
    assert_eq!(process.program.as_deref(), program.path.to_str());
    assert!(process.environment.iter().any(|line| line == "QUARRY_TEST=kept"), "{:?}", process.environment);
    let signal = report.signal.as_ref().unwrap();
    assert_eq!((signal.number, signal.address.unwrap().0), (11, 0));
    assert_eq!(report.crash.as_ref().unwrap().class, "null_access");
    let thread = report.crashed().unwrap();
    assert_eq!(thread.registers["eip"], thread.frames[0].address.unwrap());
    let frames: Vec<_> =
        thread.frames.iter().map(|frame| (frame.function.as_deref().unwrap(), frame.trust, frame.line)).collect();
    let expected = [
        ("walk", Trust::Context, Some(8)),
        ("sum", Trust::Cfi, Some(16)),
        ("begin", Trust::Cfi, Some(20)),
        ("_start", Trust::Cfi, None),
    ];
    assert_eq!(frames, expected);
}

#[test]
fn a_core_of_32_bits_that_ends_early_is_told_as_far_as_it_goes() {
    let Some((program, core)) = sample() else { return };
    let bytes = fs::read(&core).unwrap();
    let cut = program.path.with_extension("cut");
    for end in (4096..bytes.len()).step_by(4096) {
        fs::write(&cut, &bytes[..end]).unwrap();
        let report = analyse(&cut, &Places::default());
        assert_eq!((report.kind, report.is_truncated), (DumpKind::Core, true), "{end} of {}", bytes.len());
        assert_eq!(report.machine.arch.as_deref(), Some("x86"), "{end}");
    }
}
