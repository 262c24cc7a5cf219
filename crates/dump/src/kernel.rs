//! Dumps of Linux kernels: ELF vmcores, makedumpfile's own format, either of them as its stream; and what a kernel printed.
//!
//! Without the kernel's own files, VMCOREINFO is enough to find its log, and the log tells what went wrong and where. So
//! stacks are those that the kernel told itself; memory is read only on the way to the log.

mod address;
mod inflate;
mod info;
mod log;
mod oops;
mod pages;
mod source;

pub(crate) use oops::told;

use crate::core::elf::Layout;
use crate::memory::{Memory, read_some};
use address::Space;
use info::Info;
use model::report::{Crash, DumpKind, Kernel, NoteCode, Report, Severity};
use pages::{About, Pages};

/// Notes of a dump that are looked through.
const MAX_NOTES: usize = 65_536;
/// Bytes of each of the names that a kernel gives itself and its machine.
const UTS_BYTES: usize = 65;
/// The name of a machine that nobody named.
const UNNAMED: &str = "(none)";
/// Lines of the log in which the end is looked for, the last ones.
const MAX_SEARCHED_LINES: usize = 50_000;

/// Who a kernel says it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) release: Option<String>,
    pub(crate) build_id: Option<String>,
}

/// Returns who the kernel of a dump says it is, as far as it says.
pub(crate) fn identity(bytes: &[u8]) -> Identity {
    let Some((pages, about)) = Pages::new(bytes) else { return Identity::default() };
    let noted = about.vmcoreinfo.as_deref().or_else(|| vmcoreinfo(&about.notes, pages.layout));
    let info = Info::read(noted.unwrap_or_default());
    let get = |key| info.get(key).map(str::to_owned);
    Identity { release: get("OSRELEASE"), build_id: get("BUILD-ID") }
}

/// Returns the report of a kernel's dump; none if it is something else.
pub(crate) fn report(bytes: &[u8]) -> Option<Report> {
    let mut report = Report::new(DumpKind::Kernel);
    report.machine.os = Some("linux".to_owned());
    let Some((pages, about)) = Pages::new(bytes) else {
        report.is_truncated = source::Source::new(bytes).is_truncated;
        report.note(NoteCode::Broken, "the headers of the kernel's dump make no sense");
        report.kernel = Some(Kernel::default());
        return Some(report);
    };
    if about.is_truncated {
        report.is_truncated = true;
        report.note(NoteCode::Truncated, "the dump ends before what it announces");
    }
    report.machine.arch = about.machine.clone();
    report.machine.crashed_at = about.crashed_at.map(|seconds| seconds as f64);
    let noted = about.vmcoreinfo.as_deref().or_else(|| vmcoreinfo(&about.notes, pages.layout));
    let info = Info::read(noted.unwrap_or_default());
    if noted.is_none() {
        report.note(NoteCode::Missing, "there is no VMCOREINFO in the dump: nothing can be found in its memory");
    }
    let mut kernel = Kernel {
        release: info.get("OSRELEASE").map(str::to_owned),
        build_id: info.get("BUILD-ID").map(str::to_owned),
        ..Kernel::default()
    };
    report.machine.release.clone_from(&kernel.release);
    if let Some(time) = info.get("CRASHTIME").and_then(|time| time.parse::<u64>().ok()) {
        report.machine.crashed_at = Some(time as f64);
    }
    let space = space(&pages, &about, &info, &mut report);
    let named = || space.as_ref().and_then(|space| node(&info, space));
    report.machine.node = about.node.clone().or_else(named);
    let lines = space.and_then(|space| log(&pages, &info, &space, &mut report)).unwrap_or_default();
    kernel.log = Some(lines.join("\n")).filter(|log| !log.is_empty());
    kernel.info = info.into_lines();
    report.kernel = Some(kernel);
    let first = lines.len().saturating_sub(MAX_SEARCHED_LINES);
    let plain: Vec<&str> = lines[first..].iter().map(|line| oops::bare(line)).collect();
    if !oops::read(&plain, &mut report) {
        report.crash = Some(Crash {
            class: "kernel_panic".to_owned(),
            message: None,
            address: None,
            severity: Severity::Unknown,
            reasons: vec!["a kernel was dumped; its log does not say why, or is not to be found".to_owned()],
        });
    }
    crate::text::bound(&mut report);
    Some(report)
}

/// Returns the kernel's memory by its own addresses, with a note of why there is none.
fn space<'a>(pages: &'a Pages<'a>, about: &About, info: &Info, report: &mut Report) -> Option<Space<'a>> {
    if let Some(why) = &about.refused {
        report.note(NoteCode::Broken, why.as_str());
        return None;
    }
    let machine = about.machine.as_deref().unwrap_or("unknown");
    let space = Space::new(pages, info, machine, about.phys_base);
    if space.is_none() {
        report.note(NoteCode::Missing, format!("addresses of a kernel on `{machine}` cannot be translated"));
    }
    space
}

/// Returns the machine's name as the kernel's memory has it: only makedumpfile's own header holds it too.
fn node(info: &Info, memory: &impl Memory) -> Option<String> {
    let at = match info.symbol("init_uts_ns") {
        Some(at) => at.checked_add(info.offset("uts_namespace.name")?)?,
        None => info.symbol("system_utsname")?,
    };
    let names = read_some(memory, at, 2 * UTS_BYTES);
    let name = |number: usize| names.get(number * UTS_BYTES..(number + 1) * UTS_BYTES)?.split(|byte| *byte == 0).next();
    // The first names the system; whatever else stands there is nothing to believe.
    name(0).filter(|system| *system == b"Linux")?;
    let node = String::from_utf8_lossy(name(1)?).into_owned();
    (!node.is_empty() && node != UNNAMED).then_some(node)
}

/// Returns the lines of the log, with notes of why there are none.
fn log(pages: &Pages<'_>, info: &Info, space: &Space<'_>, report: &mut Report) -> Option<Vec<String>> {
    let lines = log::lines(info, space);
    if pages.is_exhausted() {
        report.note(NoteCode::Cut, "the kernel's log is spread over more pages than are unpacked");
    }
    match &lines {
        None => report.note(NoteCode::Missing, "the kernel's log is not to be found in the dump"),
        Some(lines) if lines.iter().map(|line| line.len() + 1).sum::<usize>() + 1024 > log::MAX_LOG_BYTES => {
            report.note(NoteCode::Cut, "of the kernel's log only the last part is kept");
        }
        Some(_) => (),
    }
    lines
}

/// Returns the note in which a kernel tells of itself.
fn vmcoreinfo(notes: &[u8], layout: Layout) -> Option<&[u8]> {
    let mut rest = notes;
    for _ in 0..MAX_NOTES {
        let (name, length) = (layout.u32(rest, 0)? as usize, layout.u32(rest, 4)? as usize);
        let begin = 12_usize.checked_add(name.checked_next_multiple_of(4)?)?;
        let end = begin.checked_add(length)?;
        let is_it = rest.get(12..12_usize.checked_add(name)?)?.starts_with(b"VMCOREINFO");
        if is_it {
            return rest.get(begin..end.min(rest.len()));
        }
        rest = rest.get(end.checked_next_multiple_of(4)?..)?;
    }
    None
}
