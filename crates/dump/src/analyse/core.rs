//! The report of an ELF core.

use super::{Stacks, Stopped};
use crate::core::note::{AT_ENTRY, auxv_name};
use crate::core::{Beginning, Core, Image, VDSO, View, beginning, signal};
use crate::crash::{crash, snapshot};
use crate::locate::{self, Sought, hex};
use crate::memory::read_some;
use crate::module::ModuleFile;
use crate::places::Places;
use crate::unwind::{Loaded, Unwinder};
use model::report::{Address, DumpKind, Found, MAX_NAME_CHARS, Machine, Module, NoteCode, Process, Report, Signal};
use std::path::Path;
use std::sync::Arc;

/// Bytes of all images that are copied out of one core.
const MAX_COPIED_BYTES: usize = 128 << 20;

/// Bytes of a module's beginning that tell it from others if it has no build id.
const PAGE_BYTES: usize = 4096;

/// Returns the report of a core; none if it is something else.
pub(super) fn report(bytes: &[u8], places: &Places) -> Option<Report> {
    let core = Core::read(bytes)?;
    let mut report = Report::new(DumpKind::Core);
    report.is_truncated = core.is_truncated;
    for (code, text) in &core.notes {
        report.note(*code, text.clone());
    }
    let beginning = beginning(&core);
    report.machine = machine(&core);
    report.process = Some(process(&core, beginning, &mut report));
    report.signal = signal_of(&core);
    let loaded = modules(&core, places, &mut report);
    let view = View { core: &core, modules: &loaded };
    let mut unwinder = Unwinder::new(&loaded, core.executable()).with_signed_bits(core.signed_bits.unwrap_or(0));
    if core.header.layout.is_big {
        unwinder = unwinder.with_big_numbers();
    }
    let mut stacks = Stacks::new(unwinder, &loaded, places);
    report.threads = stopped(&core).map(|stopped| stacks.tell(stopped, &view)).collect();
    stacks.finish(&mut report.modules);
    if report.threads.is_empty() {
        let what = core.arch.map_or_else(
            || format!("stacks of machine {} cannot be walked", core.header.machine),
            |_| "the core has no threads".to_owned(),
        );
        report.note(NoteCode::Broken, what);
    }
    report.crash = if is_snapshot(&core) { Some(snapshot()) } else { crash(&view, &report) };
    Some(report)
}

fn machine(core: &Core<'_>) -> Machine {
    let extra = core.extra.as_ref();
    let is_linux = core.account.is_some() || !core.threads.is_empty();
    Machine {
        os: is_linux.then(|| "linux".to_owned()),
        arch: Some(core.arch.map_or_else(|| core.header.machine.to_string(), |arch| arch.name().to_owned())),
        node: extra.and_then(|extra| extra.node.clone()),
        release: extra.and_then(|extra| extra.release.clone()),
        crashed_at: extra.and_then(|extra| extra.crashed_at).map(|seconds| seconds as f64),
    }
}

fn process(core: &Core<'_>, beginning: Beginning, report: &mut Report) -> Process {
    let person = core.person.as_ref();
    let extra = core.extra.as_ref();
    if beginning.is_cut {
        report.note(NoteCode::Cut, "of the arguments and the environment some are left out");
    }
    let told = extra.map(|extra| extra.arguments.join(" ")).filter(|arguments| !arguments.is_empty());
    let found = Some(beginning.arguments.join(" ")).filter(|arguments| !arguments.is_empty());
    let program = extra.and_then(|extra| extra.program.clone()).or_else(|| program(core)).or(beginning.program);
    Process {
        pid: person.map(|person| person.pid).or_else(|| core.threads.first().map(|thread| thread.id)),
        ppid: person.map(|person| person.ppid),
        uid: person.map(|person| person.uid),
        gid: person.map(|person| person.gid),
        name: person.map(|person| person.name.clone()),
        arguments: told.or(found).or_else(|| person.map(|person| person.arguments.clone())).map(cut),
        program: program.map(cut),
        environment: extra.and_then(|extra| extra.environment.clone()).unwrap_or(beginning.environment),
        auxv: core.auxv.iter().map(|(kind, value)| (auxv_name(*kind), Address(*value))).collect(),
    }
}

fn cut(text: String) -> String {
    if text.chars().count() > MAX_NAME_CHARS { text.chars().take(MAX_NAME_CHARS).collect() } else { text }
}

/// Returns the path of the file in which the program begins.
fn program(core: &Core<'_>) -> Option<String> {
    let entry = core.aux(AT_ENTRY)?;
    let mapping = core.mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&entry))?;
    Some(mapping.path.clone())
}

fn signal_of(core: &Core<'_>) -> Option<Signal> {
    // A picture of a process that lives on tells of the signal that held it, if it tells of any.
    let is_end = |number: &i32| *number != 0 && !signal::is_harmless(*number);
    let account = core.account.filter(|account| is_end(&account.number));
    let number = account.map(|account| account.number).or_else(|| core.threads.first().map(|first| first.signal));
    let number = number.filter(is_end)?;
    let mut found = Signal { number, name: signal::name(number), ..Signal::default() };
    if let Some(account) = account {
        found.code = Some(account.code);
        found.code_name = signal::code_name(number, account.code).map(str::to_owned);
        found.address = signal::has_address(number, account.code).then_some(Address(account.address));
        found.sender = signal::has_sender(account.code).then_some(account.sender);
    }
    Some(found)
}

/// Tells whether a core is a picture of a process that lived on: it says all that cores say, and of no signal that ends one.
fn is_snapshot(core: &Core<'_>) -> bool {
    !core.threads.is_empty() && core.person.is_some() && signal_of(core).is_none()
}

/// Returns the threads as they stopped, the one that crashed first.
fn stopped(core: &Core<'_>) -> impl Iterator<Item = Stopped> {
    let has_crashed = signal_of(core).is_some();
    core.threads.iter().enumerate().map(move |(number, thread)| Stopped {
        id: u64::from(thread.id),
        name: core.extra.as_ref().and_then(|extra| extra.threads.get(&u64::from(thread.id)).cloned()),
        is_crashed: number == 0 && has_crashed,
        named: thread.named.iter().map(|(name, value)| ((*name).to_owned(), Address(*value))).collect(),
        registers: Some(thread.registers.clone()),
    })
}

/// Finds the files of what was mapped, and puts the modules into the report, in the same order.
fn modules(core: &Core<'_>, places: &Places, report: &mut Report) -> Vec<Loaded> {
    let mut left = MAX_COPIED_BYTES;
    let mut loaded: Vec<Loaded> = Vec::new();
    for image in core.images() {
        let mut found = Found::Unwind;
        let mut file = file(&image, core, places, report).map(Arc::new);
        if file.is_none() {
            file = copied(&image, core, &mut left).map(Arc::new);
            found = if file.is_some() { Found::Core } else { Found::Missing };
        }
        let bias = image.bias.or_else(|| file.as_ref().and_then(|file| image.bias_of(file.bytes())));
        let end = loaded.last().map_or(0, |last| last.end);
        // Ranges of a broken core may overlap; what is looked for by address must not.
        let start = image.start.max(end);
        if start >= image.end {
            continue;
        }
        report.modules.push(Module {
            path: image.path.clone(),
            start: Address(start),
            end: Address(image.end),
            bias: Address(bias.unwrap_or(image.start)),
            build_id: image.build_id.as_deref().map(hex),
            found,
            lack: None,
            supplementary: None,
        });
        loaded.push(Loaded::new(start, image.end, bias.unwrap_or(image.start), file.filter(|_| bias.is_some())));
    }
    loaded
}

fn copied(image: &Image, core: &Core<'_>, left: &mut usize) -> Option<ModuleFile> {
    let bytes = image.copy(core, *left)?;
    *left = left.saturating_sub(bytes.len());
    ModuleFile::of_bytes(Path::new(&image.path), bytes).ok()
}

fn file(image: &Image, core: &Core<'_>, places: &Places, report: &mut Report) -> Option<ModuleFile> {
    if image.path == VDSO {
        return None;
    }
    let head = if image.bias.is_some() { read_some(core, image.start, PAGE_BYTES) } else { Vec::new() };
    let sought = Sought { path: &image.path, build_id: image.build_id.as_deref(), head: &head };
    let located = locate::module(&sought, places);
    for note in located.notes {
        report.note(NoteCode::Missing, note);
    }
    located.file
}
