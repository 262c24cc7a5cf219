//! What `scripts/fuzz` begins with: dumps that the other tests make, one of each sort, written into the folder that
//! `FUZZ_SEEDS` names. That each is read as what it is holds with and without it.

use crate::illumos::{GOOD, header};
use crate::kernel::machine::{LZO, Machine, PLAIN, SNAPPY, ZLIB, ZSTD, flattened};
use crate::minidump::made;
use crate::program::Program;
use crate::{arm, minidump, narrow};
use dump::parcel::split_stream;
use dump::{ModuleFile, Places, Symbols, analyse};
use model::parcel::{Index, Manifest};
use model::report::{DumpKind, Report};
use std::fs;
use std::path::{Path, PathBuf};

/// The most a seed may have: what is changed in a larger one is hardly ever what matters.
const MAX_SEED_BYTES: usize = 400 << 10;

/// Where seeds go.
struct Seeds(Option<PathBuf>);

impl Seeds {
    fn new() -> Self {
        Self(std::env::var_os("FUZZ_SEEDS").map(PathBuf::from))
    }

    /// Writes one for each of these targets.
    fn put(&self, targets: &[&str], name: &str, bytes: &[u8]) {
        assert!(bytes.len() <= MAX_SEED_BYTES, "{name} has {} bytes", bytes.len());
        for target in targets {
            let Some(folder) = self.0.as_ref().map(|seeds| seeds.join(target)) else { continue };
            fs::create_dir_all(&folder).expect("there is room for a folder");
            fs::write(folder.join(format!("seed-{name}")), bytes).expect("there is room for a file");
        }
    }

    /// Writes a dump, after it was read as what it should be.
    fn dump(&self, targets: &[&str], name: &str, kind: DumpKind, bytes: &[u8]) -> Report {
        let file = tempfile::NamedTempFile::new().expect("there is room for a file");
        fs::write(file.path(), bytes).expect("there is room for it");
        let report = analyse(file.path(), &Places::default());
        assert_eq!((report.kind, report.is_truncated), (kind, false), "{name}: {:?}", report.notes);
        self.put(targets, name, bytes);
        report
    }
}

#[test]
fn dumps_of_kernels() {
    let seeds = Seeds::new();
    for (name, machine) in [
        ("ring", Machine::with_ring(8192 * 5 - 128)),
        ("records", Machine::with_records()),
        ("ring-arm", Machine::with_ring(0).into_arm()),
        ("records-arm", Machine::with_records().into_arm()),
    ] {
        let put = |name: &str, bytes: &[u8]| {
            let report = seeds.dump(&["kernel"], name, DumpKind::Kernel, bytes);
            assert!(report.kernel.is_some_and(|kernel| kernel.log.is_some()), "{name}");
        };
        put(&format!("{name}-elf"), &machine.elf());
        put(&format!("{name}-elf-stream"), &flattened(&machine.elf()));
        for (packed, flags) in [("plain", PLAIN), ("zlib", ZLIB), ("lzo", LZO), ("snappy", SNAPPY), ("zstd", ZSTD)] {
            let file = machine.kdump(flags, 0);
            put(&format!("{name}-{packed}"), &file);
            put(&format!("{name}-{packed}-stream"), &flattened(&file));
        }
    }
    seeds.dump(&["kernel"], "split", DumpKind::Kernel, &Machine::with_ring(0).kdump(PLAIN, 1));
    for (name, is_big, is_64, flags) in
        [("wide", false, true, GOOD), ("narrow", true, false, GOOD), ("live", false, true, GOOD | 4)]
    {
        seeds.dump(&["illumos"], name, DumpKind::Illumos, &header(is_big, is_64, flags));
    }
}

#[test]
fn dumps_of_processes() {
    let seeds = Seeds::new();
    for (name, system) in [
        ("linux", made::LINUX),
        ("linux-32", made::LINUX_32),
        ("android", made::ANDROID),
        ("android-32", made::ANDROID_32),
        ("windows", made::WINDOWS),
        ("macos", made::MACOS),
    ] {
        seeds.dump(&["minidump"], name, DumpKind::Minidump, &made::made(system));
    }
    let [core, wide, program] = arm::samples();
    let places = ["core", "parcel", "redaction"];
    let report = seeds.dump(&places, "arm", DumpKind::Core, &core);
    seeds.dump(&places, "arm-wide", DumpKind::Core, &wide);
    seeds.put(&["module", "pack"], "arm", &program);
    // The first bytes choose the processor and what follows, and the place; then come the stack and the module.
    seeds.put(&["unwind"], "arm", &[&[1; 2][..], &[0; 512], &program].concat());
    seeds.put(&["manifest"], "report", &serde_json::to_vec(&report).expect("a report is JSON"));
    let mut frames = Vec::new();
    let split = split_stream(&core[..], &mut |packed| {
        frames.push(packed.frame);
        Ok(())
    });
    let manifest = split.expect("memory can be read").manifest.encode();
    assert!(Manifest::decode(&manifest).is_ok());
    seeds.put(&["manifest"], "manifest", &manifest);
    let index = Index { frames }.encode();
    assert!(Index::decode(&index).is_ok());
    seeds.put(&["manifest"], "index", &index);
}

#[test]
fn a_core_of_32_bits_and_its_program() {
    let Some((program, core)) = narrow::sample() else { return };
    let seeds = Seeds::new();
    let core = fs::read(core).expect("it crashed");
    let report = seeds.dump(&["core", "parcel", "redaction"], "narrow", DumpKind::Core, &core);
    assert_eq!(report.machine.arch.as_deref(), Some("x86"));
    seeds.put(&["module", "pack"], "narrow", &fs::read(&program.path).expect("it was compiled"));
}

#[test]
fn a_core_of_this_machine_and_its_symbols() {
    let seeds = Seeds::new();
    let program = Program::compile("sig.c", &["-O1", "-g", "-Wl,--build-id"]);
    let core = program.crash(&[]);
    let here = Places { roots: vec!["/".into()], ..Places::default() };
    let bytes = minidump::write(&core, &analyse(&core, &here));
    seeds.dump(&["minidump"], "core", DumpKind::Minidump, &bytes);
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let places = Places { cache: Some(folder.path().to_owned()), ..Places::default() };
    let module = fs::read(&program.path).expect("it was compiled");
    let symbols = Symbols::open(&ModuleFile::of_bytes(Path::new("module"), module).expect("it is a module"), &places);
    symbols.complete();
    symbols.keep().expect("there is room for a file");
    let cache = only_file(folder.path()).expect("symbols were kept");
    seeds.put(&["cache"], "program", &fs::read(cache).expect("it can be read"));
}

fn only_file(folder: &Path) -> Option<PathBuf> {
    let mut paths = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    paths.find_map(|path| if path.is_dir() { only_file(&path) } else { Some(path) })
}
