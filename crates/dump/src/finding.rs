//! Findings: what of a report goes into a dump's record, and how the child that opened a dump tells both.
//!
//! The child writes one line (`model::analysis::Told`), short whatever the dump says: findings, what modules would tell more
//! if they were there, and how long is what follows: the report, and the files of symbols that it made. So whoever started
//! it reads the line, and keeps the rest without looking into it; the child itself needs no folder outside to write to.

use crate::analyse::analyse;
use crate::locate::wanted;
use crate::places::Places;
use crate::signature::{MAX_RULES_BYTES, Rules, stack};
use jiff::Timestamp;
use model::analysis::{MAX_FINDINGS_BYTES, MAX_SYMBOL_FILES, MAX_SYMBOLS_BYTES, SymbolFile, Told};
use model::dump::{DumpFacts, DumpFindings, DumpSignature};
use model::report::{DumpKind, MAX_REPORT_BYTES, NoteCode, Report};
use model::signature::Signed;
use model::{DumpState, Explanation};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the child is asked with.
const USAGE: &str = "usage: DUMP PLACES-AS-JSON [RULES NAME]";
/// Bytes of the places as JSON.
const MAX_PLACES_BYTES: usize = 1 << 20;
/// Microseconds of a second: the store keeps instants no finer.
const MICROSECONDS: f64 = 1e6;

/// Returns what goes into a dump's record, by our own rules.
pub fn findings(report: &Report) -> DumpFindings {
    findings_by(report, Rules::builtin())
}

fn findings_by(report: &Report, rules: &Rules) -> DumpFindings {
    if report.kind == DumpKind::Unknown {
        let broken = report.notes.iter().find(|note| note.code == NoteCode::Broken);
        let cause = broken.map_or("nothing could be made of it", |note| note.text.as_str());
        return DumpFindings::unreadable(report.kind, cause).fitted();
    }
    let state = if report.is_truncated { DumpState::Truncated } else { DumpState::Analysed };
    let stack = stack(report);
    let signed = rules.sign(&stack);
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

/// Opens a dump and writes what is found to standard output: the path comes first, then the places as JSON, then a tenant's
/// rules and what they are called, if there are any. This is what a sandboxed child runs.
pub fn child(arguments: &[String]) -> ExitCode {
    let told = match arguments {
        [path, places] => tell(Path::new(path), places, None),
        [path, places, rules, name] => tell(Path::new(path), places, Some((Path::new(rules), name))),
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

fn tell(path: &Path, places: &str, rules: Option<(&Path, &str)>) -> Result<(), String> {
    if places.len() > MAX_PLACES_BYTES {
        return Err(USAGE.to_owned());
    }
    let places: Places = serde_json::from_str(places).map_err(|error| error.to_string())?;
    let mut report = analyse(path, &places);
    let rules = rules.map(|(path, name)| overlay(path, name)).transpose();
    let rules = rules.unwrap_or_else(|why| {
        report.note(NoteCode::Hint, format!("it is signed by the house's rules alone: {why}"));
        None
    });
    let (report, report_bytes) = fitted(report).map_err(|error| error.to_string())?;
    let symbols = places.fresh.as_deref().map(made).unwrap_or_default();
    let told = Told {
        findings: findings_by(&report, rules.as_ref().unwrap_or(Rules::builtin())),
        report_bytes,
        wanted: wanted(&report),
        symbols: symbols.iter().map(|(file, _)| file.clone()).collect(),
    };
    write(&mut io::stdout().lock(), &told, &report, symbols).map_err(|error| error.to_string())
}

/// Reads a tenant's rules, and lays them over ours.
fn overlay(path: &Path, name: &str) -> Result<Rules, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_RULES_BYTES as u64 + 1).read_to_string(&mut text));
    read.map_err(|error| format!("`{name}` cannot be read: {error}"))?;
    Rules::with(name, &text).map_err(|error| error.to_string())
}

/// Returns the files of symbols that were made, as many as may be.
fn made(folder: &Path) -> Vec<(SymbolFile, PathBuf)> {
    let mut found = Vec::new();
    let mut left = MAX_SYMBOLS_BYTES;
    for folder in fs::read_dir(folder).into_iter().flatten().flatten() {
        for entry in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            let name = format!("{}/{}", folder.file_name().to_string_lossy(), entry.file_name().to_string_lossy());
            let Ok(bytes) = entry.metadata().map(|metadata| metadata.len()) else { continue };
            let file = SymbolFile { name, bytes };
            if file.place().is_some() && bytes <= left && found.len() < MAX_SYMBOL_FILES {
                left -= bytes;
                found.push((file, entry.path()));
            }
        }
    }
    found
}

fn write(out: &mut impl Write, told: &Told, report: &Report, symbols: Vec<(SymbolFile, PathBuf)>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, told)?;
    out.write_all(b"\n")?;
    serde_json::to_writer(&mut *out, report)?;
    for (file, path) in symbols {
        let written = io::copy(&mut File::open(path)?.take(file.bytes), out)?;
        if written != file.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    out.flush()
}

/// Returns a report that is as short as reports may be, and how long it is: threads that did not crash go, the last first.
fn fitted(mut report: Report) -> serde_json::Result<(Report, u64)> {
    loop {
        let mut length = Length(0);
        serde_json::to_writer(&mut length, &report)?;
        if length.0 < MAX_REPORT_BYTES || report.threads.len() < 2 {
            return Ok((report, length.0 as u64));
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
        assert_eq!(found.signature.map(|signature| signature.text).as_deref(), Some("null_access | parse"));
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
        let (fitted, _) = fitted(long).expect("is JSON");
        assert_eq!((fitted.threads.len(), fitted.notes.len()), (35, 1));
        assert!(fitted.threads[0].is_crashed);
    }

    #[test]
    fn a_child_tells_how_long_what_follows_is() {
        let folder = tempfile::tempdir().expect("is made");
        fs::create_dir(folder.path().join("ab")).expect("is made");
        fs::write(folder.path().join("ab/cd-ef.symbols"), "symbols").expect("is written");
        fs::write(folder.path().join("ab/cd-ef.symbols.part"), "half").expect("is written");
        let symbols = made(folder.path());
        let (report, report_bytes) = fitted(report()).expect("is JSON");
        let files = symbols.iter().map(|(file, _)| file.clone()).collect();
        let told = Told { findings: findings(&report), report_bytes, wanted: wanted(&report), symbols: files };
        assert_eq!(told.symbols, [SymbolFile { name: "ab/cd-ef.symbols".to_owned(), bytes: 7 }]);
        let mut out = Vec::new();
        write(&mut out, &told, &report, symbols).expect("is written");
        let (line, rest) = out.split_at(out.iter().position(|one| *one == b'\n').expect("has lines") + 1);
        assert_eq!(serde_json::from_slice::<Told>(line).expect("is JSON"), told);
        let (json, symbols) = rest.split_at(usize::try_from(report_bytes).expect("is short"));
        assert_eq!((serde_json::from_slice::<Report>(json).expect("is JSON"), symbols), (report, &b"symbols"[..]));
    }
}
