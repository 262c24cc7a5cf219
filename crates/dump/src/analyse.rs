//! Looks at a dump and tells what is in it, as a report. Nothing here fails: what cannot be read is a note.

mod core;
mod stacks;

pub(crate) use stacks::{Stacks, Stopped};

use crate::kind::{is_text, kind};
use crate::mapped::Mapped;
use crate::places::Places;
use crate::{illumos, kernel, minidump, text};
use model::report::{DumpKind, NoteCode, Report};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// What a report is asked for with, when it is asked for by a process of its own.
const USAGE: &str = "usage: DUMP [PLACES-AS-JSON]";
/// Bytes of the places as JSON.
const MAX_PLACES_BYTES: usize = 1 << 20;

/// Tells what is in a dump.
pub fn analyse(path: &Path, places: &Places) -> Report {
    match Mapped::open(path) {
        Ok(bytes) => of_bytes(&bytes, places),
        Err(error) => {
            let mut report = Report::new(DumpKind::Unknown);
            report.note(NoteCode::Broken, format!("the dump cannot be read: {error}"));
            report
        }
    }
}

fn of_bytes(bytes: &[u8], places: &Places) -> Report {
    let told = match kind(bytes) {
        DumpKind::Illumos => illumos::report(bytes),
        DumpKind::Minidump => minidump::report(bytes, places),
        DumpKind::Kernel if !is_text(bytes) => kernel::report(bytes),
        // What begins as a core may be broken too far to be told from others by its notes.
        _ => core::report(bytes, places).or_else(|| text::report(bytes)),
    };
    if let Some(report) = told {
        return report;
    }
    let mut report = Report::new(DumpKind::Unknown);
    report.note(NoteCode::Broken, "this is no sort of dump that is known");
    report
}

/// Writes the report of a dump to standard output as JSON: the path comes first, then the places as JSON. This is what a
/// child process runs.
pub fn main(arguments: &[String]) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let written = match arguments {
        [path] => write(&mut out, &analyse(Path::new(path), &Places::default())),
        [path, places] if places.len() <= MAX_PLACES_BYTES => match serde_json::from_str(places) {
            Ok(places) => write(&mut out, &analyse(Path::new(path), &places)),
            Err(error) => refuse(&format!("the places are not what they should be: {error}")),
        },
        _ => refuse(USAGE),
    };
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn write(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, report)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn refuse(why: &str) -> std::io::Result<()> {
    writeln!(std::io::stderr(), "{why}")?;
    Err(std::io::ErrorKind::InvalidInput.into())
}
