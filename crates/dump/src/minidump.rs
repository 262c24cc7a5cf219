//! Minidumps: threads, modules, memory and the exception of a process, of Linux, Android, Windows or macOS.
//!
//! The format is read here and not by the crate `minidump`: what is needed of it is five lists of fixed records, and that
//! crate brings a second parser of debug files, time and encodings. Stacks are walked as those of cores are.

mod context;
mod view;

use crate::analyse::{Stacks, Stopped};
use crate::core::elf::{Header, Layout, Segment};
use crate::crash::snapshot;
use crate::locate::{self, Sought, hex};
use crate::places::Places;
use crate::text::{Verdict, of_signal};
use crate::unwind::{Arch, Loaded, Unwinder};
use context::Context;
use model::report::{
    Address, DumpKind, Found, MAX_MODULES, MAX_NAME_CHARS, MAX_THREADS, Machine, Module, NoteCode, Process, Report,
    Severity, Signal,
};
use std::collections::HashMap;
use std::sync::Arc;
use view::{Range, View};

const MAGIC: &[u8] = b"MDMP";
/// Numbers of minidumps are of this sort, whatever machine they come from.
const LAYOUT: Layout = Layout { is_64: true, is_big: false };
/// Streams of one minidump.
const MAX_STREAMS: usize = 256;
/// Ranges of memory of one minidump.
const MAX_RANGES: usize = 1 << 20;
/// What stands for an exception where there was none: somebody asked Breakpad or Crashpad for a picture.
const PICTURES: [u32; 2] = [0xffff_ffff, 0x0517_a7ed];
/// Program headers of one module's file.
const MAX_SEGMENTS: u32 = 64;

const THREADS: u32 = 3;
const MODULES: u32 = 4;
const MEMORY: u32 = 5;
const EXCEPTION: u32 = 6;
const SYSTEM: u32 = 7;
const MEMORY_64: u32 = 9;
const MISC: u32 = 15;
const THREAD_NAMES: u32 = 24;
const LINUX_COMMAND: u32 = 0x4767_0006;

/// Where one record of each list is found, and how long it is.
const THREAD_BYTES: usize = 48;
const MODULE_BYTES: usize = 108;

const WINDOWS: &str = "windows";
const MACOS: &str = "macos";

/// A minidump whose directory was read.
struct Minidump<'a> {
    bytes: &'a [u8],
    streams: HashMap<u32, &'a [u8]>,
    is_truncated: bool,
}

/// What a minidump says of the exception.
struct Exception {
    thread: u32,
    code: u32,
    flags: u32,
    address: u64,
    parameters: [u64; 2],
    context: (usize, usize),
}

/// Returns the report of a minidump; none if it is something else.
pub(crate) fn report(bytes: &[u8], places: &Places) -> Option<Report> {
    let dump = Minidump::read(bytes)?;
    let mut report = Report::new(DumpKind::Minidump);
    report.is_truncated = dump.is_truncated;
    if dump.is_truncated {
        report.note(NoteCode::Truncated, "the minidump ends before what it announces");
    }
    let arch = dump.arch();
    report.machine = dump.machine(arch);
    report.process = Some(dump.process());
    let os = report.machine.os.clone().unwrap_or_default();
    let loaded = dump.modules(&os, places, &mut report);
    let view = View { ranges: dump.ranges(), modules: &loaded, bytes };
    let exception = dump.exception();
    let executable = loaded.iter().map(|module| module.start..module.end).collect();
    let mut stacks = Stacks::new(Unwinder::new(&loaded, executable), &loaded, places);
    let mut threads = dump.threads(arch, exception.as_ref());
    threads.sort_by_key(|thread| !thread.is_crashed);
    report.threads = threads.into_iter().map(|thread| stacks.tell(thread, &view)).collect();
    stacks.finish(&mut report.modules);
    if arch.is_none() {
        report.note(NoteCode::Broken, "stacks of this processor cannot be walked");
    }
    if let Some(exception) = exception {
        tell(&exception, &os, &mut report);
    }
    Some(report)
}

impl<'a> Minidump<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        bytes.starts_with(MAGIC).then_some(())?;
        let count = LAYOUT.u32(bytes, 8).unwrap_or(0) as usize;
        let directory = LAYOUT.u32(bytes, 12).unwrap_or(0) as usize;
        let mut dump = Self { bytes, streams: HashMap::new(), is_truncated: bytes.len() < 32 };
        for number in 0..count.min(MAX_STREAMS) {
            let at = directory.saturating_add(number * 12);
            let (Some(kind), Some(length), Some(start)) =
                (LAYOUT.u32(bytes, at), LAYOUT.u32(bytes, at + 4), LAYOUT.u32(bytes, at + 8))
            else {
                dump.is_truncated = true;
                break;
            };
            let stream = dump.part(start as usize, length as usize);
            dump.is_truncated |= stream.len() < length as usize;
            dump.streams.entry(kind).or_insert(stream);
        }
        Some(dump)
    }

    /// Returns what is there of some bytes.
    fn part(&self, start: usize, length: usize) -> &'a [u8] {
        let rest = self.bytes.get(start..).unwrap_or_default();
        &rest[..rest.len().min(length)]
    }

    fn stream(&self, kind: u32) -> &'a [u8] {
        self.streams.get(&kind).copied().unwrap_or_default()
    }

    /// Returns the records of a list: their count comes first, and some writers align what follows.
    fn list(&self, kind: u32, record_bytes: usize) -> std::slice::ChunksExact<'a, u8> {
        let stream = self.stream(kind);
        let count = LAYOUT.u32(stream, 0).unwrap_or(0) as usize;
        let length = count.saturating_mul(record_bytes);
        let begin = if stream.len() == length.saturating_add(8) { 8 } else { 4 };
        let records = stream.get(begin..).unwrap_or_default();
        records[..records.len().min(length)].chunks_exact(record_bytes)
    }

    /// Returns a text in UTF-16, its length before it.
    fn text(&self, at: usize) -> Option<String> {
        let length = LAYOUT.u32(self.bytes, at)? as usize;
        let bytes = self.part(at.checked_add(4)?, length.min(MAX_NAME_CHARS * 2));
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        Some(String::from_utf16_lossy(&units)).filter(|text| !text.is_empty())
    }

    fn arch(&self) -> Option<Arch> {
        match LAYOUT.u16(self.stream(SYSTEM), 0)? {
            0 => Some(Arch::X86),
            5 => Some(Arch::Arm),
            9 => Some(Arch::X86_64),
            12 | 0x8003 => Some(Arch::Aarch64),
            _ => None,
        }
    }

    fn machine(&self, arch: Option<Arch>) -> Machine {
        let system = self.stream(SYSTEM);
        let number = LAYOUT.u16(system, 0);
        let os = match LAYOUT.u32(system, 20) {
            Some(0x8201) => Some("linux"),
            Some(0x8203) => Some("android"),
            Some(0x8101 | 0x8102) => Some(MACOS),
            Some(2) => Some(WINDOWS),
            _ => None,
        };
        let version = [8, 12, 16].map(|at| LAYOUT.u32(system, at).unwrap_or(0));
        let words = LAYOUT.u32(system, 24).filter(|at| *at > 0).and_then(|at| self.text(at as usize));
        let numbers = format!("{}.{}.{}", version[0], version[1], version[2]);
        let time = LAYOUT.u32(self.bytes, 20).filter(|time| *time > 0);
        Machine {
            os: os.map(str::to_owned),
            arch: arch.map(|arch| arch.name().to_owned()).or_else(|| number.map(|number| number.to_string())),
            node: None,
            release: if version == [0; 3] { words } else { Some(numbers) },
            crashed_at: time.map(f64::from),
        }
    }

    fn process(&self) -> Process {
        let misc = self.stream(MISC);
        let has_pid = LAYOUT.u32(misc, 4).is_some_and(|flags| flags & 1 != 0);
        let command = self.stream(LINUX_COMMAND);
        let command = &command[..command.len().min(MAX_NAME_CHARS)];
        let arguments = String::from_utf8_lossy(command).trim_end_matches('\0').replace('\0', " ");
        Process {
            pid: LAYOUT.u32(misc, 8).filter(|_| has_pid),
            arguments: Some(arguments).filter(|arguments| !arguments.is_empty()),
            ..Process::default()
        }
    }

    fn exception(&self) -> Option<Exception> {
        let stream = self.stream(EXCEPTION);
        Some(Exception {
            thread: LAYOUT.u32(stream, 0)?,
            code: LAYOUT.u32(stream, 8)?,
            flags: LAYOUT.u32(stream, 12)?,
            address: LAYOUT.u64(stream, 24)?,
            parameters: [40, 48].map(|at| LAYOUT.u64(stream, at).unwrap_or(0)),
            context: (LAYOUT.u32(stream, 164)? as usize, LAYOUT.u32(stream, 160)? as usize),
        })
    }

    fn threads(&self, arch: Option<Arch>, exception: Option<&Exception>) -> Vec<Stopped> {
        let names: HashMap<u32, String> = self
            .list(THREAD_NAMES, 12)
            .take(MAX_THREADS)
            .filter_map(|record| {
                let at = usize::try_from(LAYOUT.u64(record, 4)?).ok()?;
                Some((LAYOUT.u32(record, 0)?, self.text(at)?))
            })
            .collect();
        let threads = self.list(THREADS, THREAD_BYTES).take(MAX_THREADS).filter_map(|record| {
            let id = LAYOUT.u32(record, 0)?;
            let is_crashed = exception.is_some_and(|exception| exception.thread == id);
            // What the thread was at when it met the exception; its own is that of the handler.
            let met = exception.filter(|_| is_crashed).map(|exception| exception.context);
            let own = (LAYOUT.u32(record, 44)? as usize, LAYOUT.u32(record, 40)? as usize);
            let (start, length) = met.filter(|(_, length)| *length > 0).unwrap_or(own);
            let context = arch.and_then(|arch| Context::read(arch, self.part(start, length)));
            let (named, registers) =
                context.map_or_else(Default::default, |context| (context.named, Some(context.registers)));
            Some(Stopped { id: u64::from(id), name: names.get(&id).cloned(), is_crashed, named, registers })
        });
        threads.collect()
    }

    fn ranges(&self) -> Vec<Range> {
        let mut ranges: Vec<Range> = self
            .list(MEMORY, 16)
            .take(MAX_RANGES)
            .filter_map(|record| {
                let (length, at) = (LAYOUT.u32(record, 8)? as usize, LAYOUT.u32(record, 12)? as usize);
                Some(Range { start: LAYOUT.u64(record, 0)?, length, at })
            })
            .collect();
        let large = self.stream(MEMORY_64);
        let mut at = LAYOUT.u64(large, 8).and_then(|at| usize::try_from(at).ok());
        let count = LAYOUT.u64(large, 0).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        for record in large.get(16..).unwrap_or_default().chunks_exact(16).take(count.min(MAX_RANGES)) {
            let (Some(start), Some(length)) = (LAYOUT.u64(record, 0), LAYOUT.u64(record, 8)) else { break };
            let (Some(from), Ok(length)) = (at, usize::try_from(length)) else { break };
            ranges.push(Range { start, length, at: from });
            at = from.checked_add(length);
        }
        ranges.sort_by_key(|range| range.start);
        ranges
    }

    /// Finds the files of the modules, and puts the modules into the report, in the same order.
    fn modules(&self, os: &str, places: &Places, report: &mut Report) -> Vec<Loaded> {
        let mut records: Vec<&[u8]> = self.list(MODULES, MODULE_BYTES).take(MAX_MODULES).collect();
        records.sort_by_key(|record| LAYOUT.u64(record, 0));
        let mut loaded: Vec<Loaded> = Vec::new();
        for record in records {
            let (Some(base), Some(size)) = (LAYOUT.u64(record, 0), LAYOUT.u32(record, 8)) else { continue };
            let start = base.max(loaded.last().map_or(0, |last| last.end));
            let end = base.saturating_add(u64::from(size));
            if start >= end {
                continue;
            }
            let path = LAYOUT.u32(record, 20).and_then(|at| self.text(at as usize)).unwrap_or_default();
            let part = |at: usize| LAYOUT.u32(record, at).unwrap_or(0) as usize;
            let build_id = build_id(self.part(part(80), part(76)), os);
            let id = build_id.as_deref().and_then(bytes_of);
            let located = locate::module(&Sought { path: &path, build_id: id.as_deref(), head: &[] }, places);
            // Without a build id nothing tells that a file of that name is the one.
            let file = located.file.filter(|_| id.is_some()).map(Arc::new);
            for note in located.notes {
                report.note(NoteCode::Missing, note);
            }
            let bias = file
                .as_ref()
                .and_then(|file| first_address(file.bytes()))
                .map_or(base, |first| base.wrapping_sub(first));
            report.modules.push(Module {
                path,
                start: Address(start),
                end: Address(end),
                bias: Address(bias),
                build_id,
                found: if file.is_some() { Found::Unwind } else { Found::Missing },
                lack: None,
                supplementary: None,
            });
            loaded.push(Loaded::new(start, end, bias, file));
        }
        loaded
    }
}

/// Returns where a file's first segment lies, as its program headers count.
fn first_address(file: &[u8]) -> Option<u64> {
    let header = Header::parse(file)?;
    let read = |number: u32| {
        let at = header.segments_at.checked_add(u64::from(number) * header.stride())?;
        Segment::parse(header.layout, file.get(usize::try_from(at).ok()?..)?)
    };
    let mut segments = (0..header.count()?.min(MAX_SEGMENTS)).map_while(read);
    segments.find(|segment| segment.kind == Segment::LOAD).map(|segment| segment.address & !0xfff)
}

/// Returns a module's name for its build, from its CodeView record: of ELF files the build id, of others what debuggers ask
/// symbol servers for.
fn build_id(record: &[u8], os: &str) -> Option<String> {
    match record.get(..4)? {
        b"LEpB" => Some(hex(record.get(4..)?.get(..64.min(record.len() - 4))?)).filter(|id| !id.is_empty()),
        b"RSDS" => {
            let id = record.get(4..20)?;
            if matches!(os, "linux" | "android") {
                return Some(hex(id));
            }
            let age = LAYOUT.u32(record, 20)?;
            let (first, second, third) = (LAYOUT.u32(id, 0)?, LAYOUT.u16(id, 4)?, LAYOUT.u16(id, 6)?);
            Some(format!("{first:08x}{second:04x}{third:04x}{}{age:x}", hex(&id[8..])))
        }
        _ => None,
    }
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Tells of the exception: the signal, or what stands for it on other systems.
fn tell(exception: &Exception, os: &str, report: &mut Report) {
    if PICTURES.contains(&exception.code) {
        report.crash = Some(snapshot());
        report.threads.iter_mut().for_each(|thread| thread.is_crashed = false);
        return;
    }
    let pc = report.crashed().and_then(|thread| thread.frames.first()).and_then(|frame| frame.address).map(|pc| pc.0);
    let verdict = match os {
        WINDOWS => windows(exception),
        MACOS => {
            let name = match exception.code {
                1 => "SIGSEGV",
                2 => "SIGILL",
                3 => "SIGFPE",
                6 => "SIGTRAP",
                _ => "SIGABRT",
            };
            of_signal(name, Some(exception.address).filter(|_| exception.code == 1)).1
        }
        _ => {
            let number = exception.code.cast_signed();
            let code = exception.flags.cast_signed();
            let address = crate::core::signal::has_address(number, code).then_some(exception.address);
            let (signal, verdict) = of_signal(&crate::core::signal::name(number), address);
            let code_name = crate::core::signal::code_name(number, code).map(str::to_owned);
            report.signal = Some(Signal { number, code: Some(code), code_name, ..signal });
            verdict
        }
    };
    let is_execution = pc.is_some() && pc == verdict.address && verdict.class.ends_with("_access");
    let verdict = if is_execution && verdict.class == "null_access" {
        Verdict { class: "null_exec".to_owned(), ..verdict }.because("it called a function through a null pointer")
    } else if is_execution {
        let verdict = Verdict { class: "wild_exec".to_owned(), severity: Severity::Critical, ..verdict };
        verdict.because("it went to an address where no code is")
    } else {
        verdict
    };
    report.crash = Some(verdict.crash());
}

fn windows(exception: &Exception) -> Verdict {
    let [what, address] = exception.parameters;
    let verdict = match exception.code {
        0xc000_0005 => {
            let (verb, severity) = match what {
                0 => ("read", Severity::Medium),
                1 => ("write", Severity::High),
                _ => ("exec", Severity::Critical),
            };
            if address < 64 << 10 {
                return Verdict::new(format!("null_{verb}"), Severity::Low, "it used a null pointer")
                    .about(Some(address));
            }
            let reason = "it used an address that is not its own";
            return Verdict::new(format!("wild_{verb}"), severity, reason).about(Some(address));
        }
        0xc000_00fd => Verdict::new("stack_overflow", Severity::Low, "it used more stack than it has"),
        0xc000_0374 => {
            Verdict::new("heap_corruption", Severity::High, "the allocator found its own records overwritten")
        }
        0xc000_0409 => Verdict::new("abort", Severity::Low, "it gave up by itself"),
        0xc000_0094 => Verdict::new("division_by_zero", Severity::Low, "an integer was divided by zero"),
        0xc000_001d => Verdict::new("illegal_instruction", Severity::Medium, "what it executed is no instruction"),
        0x8000_0003 => Verdict::new("trap", Severity::Low, "it executed an instruction that is there to stop it"),
        0xe06d_7363 => Verdict::new("uncaught_exception", Severity::Low, "an exception was caught by nobody"),
        code => Verdict::new("exception", Severity::Unknown, format!("exception {code:#x} ended it")),
    };
    verdict.about(Some(exception.address))
}
