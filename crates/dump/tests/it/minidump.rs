//! Minidumps, written here from the cores of programs that crash: their stacks are those of the cores.

pub(crate) mod made;

use crate::program::Program;
use dump::{Places, analyse};
use made::System;
use model::report::{DumpKind, Report};
use object::{Object, ObjectSegment};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

/// Where each register stands in the record of x86_64.
const REGISTERS: [(&str, usize); 17] = [
    ("rax", 120),
    ("rcx", 128),
    ("rdx", 136),
    ("rbx", 144),
    ("rsp", 152),
    ("rbp", 160),
    ("rsi", 168),
    ("rdi", 176),
    ("r8", 184),
    ("r9", 192),
    ("r10", 200),
    ("r11", 208),
    ("r12", 216),
    ("r13", 224),
    ("r14", 232),
    ("r15", 240),
    ("rip", 248),
];

fn half(into: &mut Vec<u8>, number: u32) {
    into.extend_from_slice(&number.to_le_bytes());
}

fn word(into: &mut Vec<u8>, number: u64) {
    into.extend_from_slice(&number.to_le_bytes());
}

/// Writes a minidump of what a core's report tells, with the core's memory.
pub(crate) fn write(core: &Path, report: &Report) -> Vec<u8> {
    let mut file = vec![0; 32 + 6 * 12];
    let put = |file: &mut Vec<u8>, bytes: &[u8]| {
        let at = file.len() as u32;
        file.extend_from_slice(bytes);
        at
    };
    let mut streams: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut system = vec![0; 56];
    system[0] = 9;
    system[20..24].copy_from_slice(&0x8201_u32.to_le_bytes());
    streams.push((7, system));
    let (mut threads, mut first) = ((report.threads.len() as u32).to_le_bytes().to_vec(), 0);
    for thread in &report.threads {
        let mut context = vec![0; 1232];
        for (name, at) in REGISTERS {
            context[at..at + 8].copy_from_slice(&thread.registers[name].0.to_le_bytes());
        }
        let at = put(&mut file, &context);
        first = if first == 0 { at } else { first };
        half(&mut threads, u32::try_from(thread.id).unwrap());
        threads.extend_from_slice(&[0; 36]);
        half(&mut threads, 1232);
        half(&mut threads, at);
    }
    streams.push((3, threads));
    let mut modules = (report.modules.len() as u32).to_le_bytes().to_vec();
    for module in &report.modules {
        let units: Vec<u8> = module.path.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let name = put(&mut file, &[&(units.len() as u32).to_le_bytes()[..], &units].concat());
        let id = module.build_id.as_deref().unwrap_or_default().as_bytes();
        let id: Vec<u8> =
            id.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
        let record = put(&mut file, &[b"LEpB", &id[..]].concat());
        word(&mut modules, module.start.0);
        half(&mut modules, u32::try_from(module.end.0 - module.start.0).unwrap());
        modules.extend_from_slice(&[0; 8]);
        half(&mut modules, name);
        modules.extend_from_slice(&[0; 52]);
        half(&mut modules, 4 + id.len() as u32);
        half(&mut modules, record);
        modules.extend_from_slice(&[0; 24]);
    }
    streams.push((4, modules));
    let signal = report.signal.as_ref().unwrap();
    let mut exception = Vec::new();
    half(&mut exception, u32::try_from(report.threads[0].id).unwrap());
    half(&mut exception, 0);
    half(&mut exception, signal.number as u32);
    half(&mut exception, signal.code.unwrap_or(0) as u32);
    word(&mut exception, 0);
    word(&mut exception, signal.address.map_or(0, |address| address.0));
    exception.resize(160, 0);
    half(&mut exception, 1232);
    half(&mut exception, first);
    streams.push((6, exception));
    let bytes = fs::read(core).unwrap();
    let object = object::File::parse(&bytes[..]).unwrap();
    let parts: Vec<(u64, &[u8])> = object
        .segments()
        .map(|part| (part.address(), part.data().unwrap()))
        .filter(|part| !part.1.is_empty())
        .collect();
    let mut memory = Vec::new();
    word(&mut memory, parts.len() as u64);
    let start = file.len() as u64;
    word(&mut memory, start);
    for (address, part) in parts {
        word(&mut memory, address);
        word(&mut memory, part.len() as u64);
        put(&mut file, part);
    }
    streams.push((9, memory));
    let mut header = b"MDMP\x93\xa7\0\0".to_vec();
    for number in [streams.len() as u32, 32, 0, 1_600_000_000, 0, 0] {
        half(&mut header, number);
    }
    for (kind, stream) in streams {
        half(&mut header, kind);
        half(&mut header, stream.len() as u32);
        half(&mut header, file.len() as u32);
        file.extend_from_slice(&stream);
    }
    file[..header.len()].copy_from_slice(&header);
    file
}

/// Checks what is read of a minidump that was put together by hand.
fn check(system: System, arch: &str, os: &str, class: &str, id: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), made::made(system)).unwrap();
    let report = analyse(file.path(), &Places::default());
    assert_eq!((report.kind, report.is_truncated), (DumpKind::Minidump, false), "{system:?}");
    assert_eq!((report.machine.arch.as_deref(), report.machine.os.as_deref()), (Some(arch), Some(os)), "{system:?}");
    let process = report.process.as_ref().unwrap();
    assert_eq!((process.pid, process.arguments.as_deref()), (Some(4121), Some("/usr/bin/serve --all")), "{system:?}");
    let names: Vec<_> = report.threads.iter().map(|thread| thread.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["main", "worker"], "{system:?}");
    assert!(report.threads.iter().all(|thread| thread.frames.len() > 1), "{system:?}: {:?}", report.threads);
    assert_eq!(report.crash.as_ref().unwrap().class, class, "{system:?}");
    let modules: Vec<_> =
        report.modules.iter().map(|module| (module.path.as_str(), module.build_id.as_deref().unwrap())).collect();
    assert_eq!(modules[0], ("/usr/bin/serve", id), "{system:?}");
    assert_eq!(modules[1].0, "/usr/lib/libé.so", "{system:?}");
}

#[test]
fn minidumps_of_several_systems_are_read() {
    let build_id = "11".repeat(20);
    let uuid = "11".repeat(16);
    let signed = "11".repeat(16) + "2";
    check(made::LINUX, "x86_64", "linux", "null_access", &build_id);
    check(made::LINUX_32, "x86", "linux", "null_access", &build_id);
    check(made::ANDROID, "aarch64", "android", "null_access", &uuid);
    check(made::ANDROID_32, "arm", "android", "null_access", &uuid);
    check(made::WINDOWS, "x86_64", "windows", "null_read", &signed);
    check(made::MACOS, "aarch64", "macos", "null_access", &signed);
}

#[test]
fn threads_with_very_many_frames_are_told_as_far_as_they_fit() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), made::crowd(400)).unwrap();
    let report = analyse(file.path(), &Places::default());
    let frames: usize = report.threads.iter().map(|thread| thread.frames.len()).sum();
    assert_eq!((report.threads.len(), frames), (400, 200_000));
    assert!(report.threads[0].frames.len() > 500);
    let last = report.threads.last().unwrap();
    assert!(last.frames.is_empty() && last.broken.as_ref().unwrap().contains("all threads together"), "{last:?}");
}

fn places() -> Places {
    Places { roots: vec!["/".into()], ..Places::default() }
}

#[test]
fn stacks_are_those_of_the_core() {
    let program = Program::compile("faults.c", &["-O1", "-g", "-pthread"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("minidump");
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/programs/faults.c")).unwrap();
    let ways = ["null_read", "null_write", "wild_read", "abort", "assert"]
        .into_iter()
        .filter(|way| source.contains(&format!("\"{way}\"")));
    let mut count = 0;
    for way in ways {
        let core = program.crash(&[way]);
        let expected = analyse(&core, &places());
        fs::write(&path, write(&core, &expected)).unwrap();
        let found = analyse(&path, &places());
        assert_eq!(found.kind, DumpKind::Minidump, "{way}");
        assert!(!found.is_truncated, "{way}");
        assert_eq!(found.machine.os.as_deref(), Some("linux"), "{way}");
        assert_eq!(found.signal.as_ref().unwrap().name, expected.signal.as_ref().unwrap().name, "{way}");
        assert_eq!(found.signal.as_ref().unwrap().address, expected.signal.as_ref().unwrap().address, "{way}");
        let told = |report: &Report| {
            let frames = report.crashed().unwrap().frames.iter();
            frames.map(|frame| (frame.address, frame.function.clone(), frame.line, frame.trust)).collect::<Vec<_>>()
        };
        assert_eq!(told(&found), told(&expected), "{way}");
        assert!(told(&found).iter().any(|frame| frame.1.as_deref() == Some("main")), "{way}: {:?}", told(&found));
        count += 1;
        let whole = fs::read(&path).unwrap();
        for end in (0..whole.len()).step_by(whole.len() / 24 + 1) {
            fs::write(&path, &whole[..end]).unwrap();
            assert_eq!(analyse(&path, &Places::default()).is_truncated, end >= 4, "{way} {end}");
        }
    }
    assert!(count > 0, "none of the ways to crash is known");
}

#[test]
fn a_picture_that_was_asked_for_is_no_crash() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (mut system, code) in [(made::LINUX, u32::MAX), (made::WINDOWS, 0x0517_a7ed)] {
        system.exception = (code, 0);
        fs::write(file.path(), made::made(system)).unwrap();
        let report = analyse(file.path(), &Places::default());
        assert_eq!(report.crash.as_ref().map(|crash| crash.class.as_str()), Some("snapshot"), "{code:#x}");
        assert!(report.signal.is_none() && report.crashed().is_none(), "{code:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_minidumps_break_nothing(bytes in prop::collection::vec(any::<u8>(), 0..4000), streams in prop::collection::vec((prop::sample::select(vec![3_u32, 4, 5, 6, 7, 9, 15, 24, 0x4767_0006]), 0_u32..4100, 0_u32..4100), 0..12)) {
        let mut file = b"MDMP\x93\xa7\0\0".to_vec();
        for number in [streams.len() as u32, 32, 0, 0, 0, 0] {
            half(&mut file, number);
        }
        for (kind, length, at) in streams {
            half(&mut file, kind);
            half(&mut file, length);
            half(&mut file, at);
        }
        file.extend_from_slice(&bytes);
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(path.path(), &file).unwrap();
        let report = analyse(path.path(), &Places::default());
        prop_assert_eq!(report.kind, DumpKind::Minidump);
    }
}
