//! Findings: what of a report goes into a dump's record, and how the child that opened a dump tells both.
//!
//! The child writes one line of findings, short whatever the dump says, and behind it the report. So whoever started it
//! reads the line, and keeps the rest without looking into it.

use crate::analyse::analyse;
use crate::places::Places;
use crate::signature::{Rules, stack};
use jiff::Timestamp;
use model::analysis::MAX_FINDINGS_BYTES;
use model::dump::{DumpFacts, DumpFindings, DumpSignature};
use model::report::{DumpKind, MAX_REPORT_BYTES, NoteCode, Report};
use model::signature::Signed;
use model::{DumpState, Explanation};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// What the child is asked with.
const USAGE: &str = "usage: DUMP PLACES-AS-JSON";
/// Bytes of the places as JSON.
const MAX_PLACES_BYTES: usize = 1 << 20;
/// Microseconds of a second: the store keeps instants no finer.
const MICROSECONDS: f64 = 1e6;

/// Returns what goes into a dump's record.
pub fn findings(report: &Report) -> DumpFindings {
    if report.kind == DumpKind::Unknown {
        let broken = report.notes.iter().find(|note| note.code == NoteCode::Broken);
        let cause = broken.map_or("nothing could be made of it", |note| note.text.as_str());
        return DumpFindings::unreadable(report.kind, cause).fitted();
    }
    let state = if report.is_truncated { DumpState::Truncated } else { DumpState::Analysed };
    let stack = stack(report);
    let signed = Rules::builtin().sign(&stack);
    let (id, text) = (signed.signature.id.to_string(), signed.signature.text.clone());
    let findings = DumpFindings {
        facts: facts(report),
        stack: stack.frames.iter().map(|frame| frame.key.clone()).collect(),
        signature: Some(DumpSignature { id, text }),
        class: report.crash.as_ref().map(|crash| crash.class.clone()),
        severity: report.crash.as_ref().map(|crash| crash.severity),
        signed: Some(Box::new(Signed { stack, signature: signed.signature, explanation: signed.explanation })),
        ..DumpFindings::new(state, report.kind)
    };
    bounded(findings.fitted())
}

/// Returns findings that are as short as findings may be: first the explanation goes.
fn bounded(mut findings: DumpFindings) -> DumpFindings {
    if findings.bytes() > MAX_FINDINGS_BYTES
        && let Some(signed) = &mut findings.signed
    {
        signed.explanation = Explanation::default();
    }
    findings
}

fn facts(report: &Report) -> DumpFacts {
    let process = report.process.as_ref();
    let word = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
    let program = process.and_then(|process| process.program.as_deref()?.rsplit('/').next().map(str::to_owned));
    DumpFacts {
        time: report.machine.crashed_at.and_then(instant),
        cmd: word(process.and_then(|process| process.name.as_ref())).or(program),
        psargs: word(process.and_then(|process| process.arguments.as_ref())),
        pid: process.and_then(|process| process.pid),
        node: word(report.machine.node.as_ref()),
        platform: word(report.machine.release.as_ref()),
    }
}

/// Returns an instant as the store keeps it; none for what no instant is.
fn instant(seconds: f64) -> Option<Timestamp> {
    // What is beyond a number of 64 bits becomes the outermost one, which is beyond all instants.
    let microseconds = (seconds * MICROSECONDS) as i64;
    (seconds > 0.0).then(|| Timestamp::from_microsecond(microseconds).ok()).flatten()
}

/// Opens a dump and writes the findings and the report to standard output: the path comes first, then the places as JSON.
/// This is what a sandboxed child runs.
pub fn child(arguments: &[String]) -> ExitCode {
    let told = match arguments {
        [path, places] if places.len() <= MAX_PLACES_BYTES => {
            serde_json::from_str(places).map_err(|error| error.to_string()).and_then(|places: Places| {
                let report = fitted(analyse(Path::new(path), &places)).map_err(|error| error.to_string())?;
                write(&mut io::stdout().lock(), &report).map_err(|error| error.to_string())
            })
        }
        _ => Err(USAGE.to_owned()),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Nobody listening is no reason to fail otherwise.
            let _ = writeln!(io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

fn write(out: &mut impl Write, report: &Report) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &findings(report))?;
    out.write_all(b"\n")?;
    serde_json::to_writer(&mut *out, report)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Returns a report that is as short as reports may be: threads that did not crash go, the last ones first.
fn fitted(mut report: Report) -> serde_json::Result<Report> {
    loop {
        let mut length = Length(0);
        serde_json::to_writer(&mut length, &report)?;
        if length.0 < MAX_REPORT_BYTES || report.threads.len() < 2 {
            return Ok(report);
        }
        let kept = report.threads.len() / 2;
        let left_out = report.threads.len() - kept;
        report.threads.truncate(kept);
        report.note(NoteCode::Cut, format!("{left_out} threads are left out: the report would be too long"));
    }
}

/// Counts what is written.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::report::{Crash, Frame, Process, Severity, Thread, Trust};

    fn report() -> Report {
        let mut report = Report::new(DumpKind::Core);
        let name = Some("demo".to_owned());
        report.process = Some(Process { pid: Some(7), name, ..Process::default() });
        report.machine.crashed_at = Some(1.5);
        report.crash = Some(Crash {
            class: "null_write".to_owned(),
            message: None,
            address: None,
            severity: Severity::Low,
            reasons: Vec::new(),
        });
        let frame = |name: &str| Frame { function: Some(name.to_owned()), ..Frame::new(Trust::Cfi) };
        let frames = vec![frame("parse"), frame("main")];
        report.threads = vec![Thread { is_crashed: true, frames, ..Thread::default() }];
        report
    }

    #[test]
    fn findings_are_what_a_record_holds() {
        let found = findings(&report());
        assert_eq!((found.state, found.class.as_deref()), (DumpState::Analysed, Some("null_write")));
        assert_eq!(found.stack, ["parse", "main"]);
        assert_eq!(found.signature.map(|signature| signature.text).as_deref(), Some("null_write | parse"));
        assert_eq!(found.facts.time.map(Timestamp::as_microsecond), Some(1_500_000));
        assert_eq!((found.facts.cmd.as_deref(), found.facts.pid), (Some("demo"), Some(7)));
        assert!(found.signed.is_some_and(|signed| signed.check().is_ok()));
        let cut = findings(&Report { is_truncated: true, ..report() });
        assert_eq!(cut.state, DumpState::Truncated);
        let mut unknown = Report::new(DumpKind::Unknown);
        unknown.note(NoteCode::Broken, "this is no dump");
        let found = findings(&unknown);
        assert_eq!((found.state, found.cause.as_deref()), (DumpState::Unreadable, Some("this is no dump")));
    }

    #[test]
    fn no_instant_is_made_of_what_is_none() {
        for seconds in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
            assert_eq!(instant(seconds), None, "{seconds}");
        }
    }

    #[test]
    fn a_report_too_long_loses_its_last_threads() {
        let mut long = report();
        let thread = Thread { name: Some("x".repeat(1 << 20)), ..Thread::default() };
        long.threads.extend(vec![thread; 70]);
        let fitted = fitted(long).expect("is JSON");
        assert_eq!((fitted.threads.len(), fitted.notes.len()), (35, 1));
        assert!(fitted.threads[0].is_crashed);
        let mut out = Vec::new();
        write(&mut out, &report()).expect("is written");
        let (line, rest) = out.split_at(out.iter().position(|one| *one == b'\n').expect("has lines"));
        let found: DumpFindings = serde_json::from_slice(line).expect("is JSON");
        assert_eq!(found, findings(&report()));
        assert_eq!(serde_json::from_slice::<Report>(rest).expect("is JSON"), report());
    }
}
