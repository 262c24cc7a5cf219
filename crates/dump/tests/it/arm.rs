//! A core of another processor, put together by hand: code of `aarch64` is compiled and linked, and a stack is laid out as
//! its instructions would have left it, with a signed return address and the kernel's own frame of a signal.

use crate::program::run;
use dump::{Extra, Places, analyse};
use model::report::{Report, Trust};
use object::{Object, ObjectSymbol};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const BASE: u64 = 0x20_0000;
const STACK: u64 = 0x7fff_0000_0000;
const STACK_BYTES: u64 = 0x4000;
/// What a signature may be: bits that no address of the program has.
const SIGNED_BITS: u64 = 0x007f_0000_0000_0000;
const SIGNATURE: u64 = 0x0055_0000_0000_0000;

/// Compiles and links the code, and returns where it is and where its symbols are.
fn link(folder: &Path) -> (PathBuf, BTreeMap<String, u64>) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/programs/arm.s");
    let (object, program) = (folder.join("arm.o"), folder.join("arm"));
    let target = "--target=aarch64-linux-gnu";
    run(Command::new("clang").args([target, "-march=armv8.3-a", "-c"]).arg(source).arg("-o").arg(&object));
    let root = run(Command::new("rustc").args(["--print", "target-libdir"]));
    let linker = Path::new(root.trim()).join("../bin/gcc-ld/ld.lld");
    run(Command::new(linker).args(["--eh-frame-hdr", "--build-id=sha1", "-o"]).arg(&program).arg(object));
    let bytes = fs::read(&program).expect("it was linked");
    let file = object::File::parse(&*bytes).expect("it is ELF");
    let symbols = file.symbols().map(|symbol| (symbol.name().expect("names are text").to_owned(), symbol.address()));
    (program.clone(), symbols.collect())
}

/// A core in the making.
struct Made {
    machine: u16,
    /// Whether the number of segments stands where the number of those that are too many does.
    is_wide: bool,
    notes: Vec<u8>,
    /// Address, flags, length in memory, and what is kept of it.
    pieces: Vec<(u64, u32, u64, Vec<u8>)>,
}

impl Made {
    fn note(&mut self, owner: &str, kind: u32, content: &[u8]) {
        for number in [owner.len() as u32 + 1, content.len() as u32, kind] {
            self.notes.extend(number.to_le_bytes());
        }
        for part in [format!("{owner}\0").as_bytes(), content] {
            self.notes.extend(part);
            self.notes.resize(self.notes.len().next_multiple_of(4), 0);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let count = self.pieces.len() as u64 + 1;
        let (sections, short) = if self.is_wide { (64 + 56 * count, 0xffff) } else { (0, count as u16) };
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        for (value, width) in
            [(4_u64, 2), (self.machine.into(), 2), (1, 4), (0, 8), (64, 8), (sections, 8), (0, 4), (64, 2), (56, 2)]
        {
            bytes.extend(&value.to_le_bytes()[..width]);
        }
        bytes.extend(short.to_le_bytes());
        bytes.resize(64, 0);
        let mut at = 64 + 56 * count + if self.is_wide { 64 } else { 0 };
        let mut put = |kind: u32, flags: u32, address: u64, kept: u64, memory: u64| {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            [at, address, 0, kept, memory, 4].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
            at += kept;
        };
        put(4, 0, 0, self.notes.len() as u64, 0);
        for (address, flags, memory, kept) in &self.pieces {
            put(1, *flags, *address, kept.len() as u64, *memory);
        }
        if self.is_wide {
            bytes.resize(bytes.len() + 44, 0);
            bytes.extend((count as u32).to_le_bytes());
            bytes.resize(bytes.len() + 16, 0);
        }
        bytes.extend(&self.notes);
        self.pieces.iter().for_each(|piece| bytes.extend(&piece.3));
        bytes
    }
}

/// Lays out the stack, and returns it with the registers at its inner end.
fn stack(symbols: &BTreeMap<String, u64>) -> (Vec<u8>, Vec<u64>) {
    let mut bytes = vec![0; STACK_BYTES as usize];
    let mut put = |address: u64, value: u64| {
        let at = (address - STACK) as usize;
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    let outer = STACK + STACK_BYTES - 64;
    let main = outer - 32;
    put(main + 8, symbols["after_main"]);
    let middle = main - 16;
    put(middle, main);
    put(middle + 8, symbols["after_middle"] | SIGNATURE);
    // The kernel's frame: the signal's account, the context's head, the fault's address, then the registers.
    let frame = middle - 0x1200;
    let saved = frame + 312;
    put(saved + 8 * 29, main);
    put(saved + 8 * 30, symbols["after_leaf"]);
    put(saved + 8 * 31, middle);
    put(saved + 8 * 32, symbols["leaf"]);
    let handler = frame - 16;
    put(handler + 8, symbols["tramp"]);
    let mut registers = vec![0; 34];
    registers[30] = symbols["after_deepest"];
    registers[31] = handler;
    registers[32] = symbols["deepest"];
    (bytes, registers)
}

fn core(program: &Path, symbols: &BTreeMap<String, u64>) -> Made {
    let mut made = Made { machine: 183, is_wide: false, notes: Vec::new(), pieces: Vec::new() };
    let (stack, registers) = stack(symbols);
    let mut status = vec![0; 112];
    status[12] = 5;
    status[32] = 77;
    registers.iter().for_each(|value| status.extend(value.to_le_bytes()));
    status.resize(392, 0);
    made.note("CORE", 1, &status);
    let mut account = vec![0; 128];
    account[0] = 5;
    account[8] = 1;
    account[16..24].copy_from_slice(&symbols["deepest"].to_le_bytes());
    made.note("CORE", 0x5349_4749, &account);
    let masks = [SIGNED_BITS, SIGNED_BITS].map(u64::to_le_bytes).concat();
    made.note("LINUX", 0x406, &masks);
    let mut files = Vec::new();
    for number in [2, 4096, BASE, BASE + 4096, 0, BASE + 0x10000, BASE + 0x11000, 0] {
        files.extend(u64::to_le_bytes(number));
    }
    for _ in 0..2 {
        files.extend(program.to_str().expect("its path is text").as_bytes());
        files.push(0);
    }
    made.note("CORE", 0x4649_4c45, &files);
    let mut first = fs::read(program).expect("it was linked");
    first.resize(4096, 0);
    made.pieces.push((BASE, 4, 4096, first));
    made.pieces.push((BASE + 0x10000, 5, 4096, Vec::new()));
    made.pieces.push((STACK, 6, STACK_BYTES, stack));
    made
}

/// Returns a core, and the same with its number of segments where that of too many stands, and the program that crashed.
pub(crate) fn samples() -> [Vec<u8>; 3] {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let (program, symbols) = link(folder.path());
    let mut made = core(&program, &symbols);
    let mut wide = core(&program, &symbols);
    wide.is_wide = true;
    let extra = Extra {
        arguments: vec!["serve".to_owned(), "--all".to_owned()],
        environment: Some(vec!["LANG=C".to_owned(), "TOKEN=secret".to_owned()]),
        threads: [(77, "worker".to_owned())].into(),
        node: Some("here".to_owned()),
        crashed_at: Some(1_700_000_000),
        ..Extra::default()
    };
    made.notes.extend(extra.write().expect("it is short"));
    [made.bytes(), wide.bytes(), fs::read(program).expect("it was linked")]
}

fn check(report: &Report) {
    let thread = report.crashed().expect("a signal ended it");
    let names: Vec<_> = thread.frames.iter().map(|frame| frame.function.as_deref().unwrap_or("?")).collect();
    assert_eq!(names, ["deepest", "handler", "tramp", "leaf", "middle", "main_", "_start"], "{report:?}");
    let trusts: Vec<_> = thread.frames.iter().map(|frame| frame.trust).collect();
    assert_eq!(trusts[..3], [Trust::Context, Trust::Scan, Trust::Cfi]);
    assert!(trusts[3..].iter().all(|trust| *trust == Trust::Cfi));
    assert_eq!(thread.frames.iter().position(|frame| frame.is_interrupted), Some(3));
    assert_eq!(thread.broken, None);
    assert_eq!(report.machine.arch.as_deref(), Some("aarch64"));
    assert_eq!(report.crash.as_ref().map(|crash| crash.class.as_str()), Some("trap"));
    assert_eq!(thread.registers.get("x30").map(|value| value.0), thread.frames[1].address.map(|address| address.0));
}

#[test]
fn stacks_of_arm_are_walked() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let (program, symbols) = link(folder.path());
    let path = folder.path().join("core");
    fs::write(&path, core(&program, &symbols).bytes()).expect("there is room for a file");
    check(&analyse(&path, &Places { roots: vec!["/".into()], ..Places::default() }));
}

#[test]
fn a_core_that_holds_its_code_needs_no_files() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let (program, symbols) = link(folder.path());
    let mut made = core(&program, &symbols);
    let mut code = fs::read(&program).expect("it was linked");
    code.truncate(4096);
    made.pieces[1].3 = code;
    let path = folder.path().join("core");
    fs::write(&path, made.bytes()).expect("there is room for a file");
    let report = analyse(&path, &Places::default());
    let thread = report.crashed().expect("a signal ended it");
    let offsets: Vec<_> = thread.frames.iter().filter_map(|frame| frame.offset).map(|offset| offset.0).collect();
    let names = ["deepest", "after_deepest", "tramp", "leaf", "after_leaf", "after_middle", "after_main"];
    assert_eq!(offsets, names.map(|name| symbols[name]));
    assert_eq!(report.modules[0].found, model::report::Found::Core);
}

#[test]
fn a_core_of_very_many_segments_is_read() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let (program, symbols) = link(folder.path());
    let mut made = core(&program, &symbols);
    made.is_wide = true;
    for number in 0..70_000 {
        made.pieces.push((0x10_0000_0000 + number * 8192, 6, 4096, Vec::new()));
    }
    let path = folder.path().join("core");
    fs::write(&path, made.bytes()).expect("there is room for a file");
    let report = analyse(&path, &Places { roots: vec!["/".into()], ..Places::default() });
    assert!(!report.is_truncated, "{:?}", report.notes);
    check(&report);
}

#[test]
fn what_was_caught_along_with_a_core_is_told() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let (program, symbols) = link(folder.path());
    let mut made = core(&program, &symbols);
    let extra = Extra {
        arguments: vec!["serve".to_owned(), "--all".to_owned()],
        environment: Some(vec!["LANG=C".to_owned()]),
        threads: [(77, "worker".to_owned())].into(),
        node: Some("here".to_owned()),
        crashed_at: Some(1_700_000_000),
        ..Extra::default()
    };
    made.notes.extend(extra.write().expect("it is short"));
    let path = folder.path().join("core");
    fs::write(&path, made.bytes()).expect("there is room for a file");
    let report = analyse(&path, &Places { roots: vec!["/".into()], ..Places::default() });
    check(&report);
    let process = report.process.expect("it was a process");
    assert_eq!(process.arguments.as_deref(), Some("serve --all"));
    assert_eq!(process.environment, ["LANG=C"]);
    assert_eq!(report.threads[0].name.as_deref(), Some("worker"));
    assert_eq!((report.machine.node.as_deref(), report.machine.crashed_at), (Some("here"), Some(1.7e9)));
}

#[test]
fn of_an_unknown_processor_the_rest_is_told() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let (program, symbols) = link(folder.path());
    let mut made = core(&program, &symbols);
    made.machine = 243;
    let path = folder.path().join("core");
    fs::write(&path, made.bytes()).expect("there is room for a file");
    let report = analyse(&path, &Places::default());
    assert_eq!(report.machine.arch.as_deref(), Some("243"));
    assert_eq!(report.signal.as_ref().map(|signal| signal.name.as_str()), Some("SIGTRAP"));
    assert!(report.threads.is_empty() && report.notes.iter().any(|note| note.text.contains("243")), "{report:?}");
}
