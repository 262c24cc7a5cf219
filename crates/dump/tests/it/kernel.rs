//! Kernels' dumps, written here byte by byte as the formats are described: the log is found in each of them.

pub(crate) mod machine;

use dump::{Places, analyse};
use machine::{LOG, LZO, Machine, PAGE, PLAIN, SNAPPY, ZLIB, ZSTD, flattened};
use model::report::{DumpKind, NoteCode, Report};
use proptest::prelude::*;
use std::fs;
use std::time::{Duration, Instant};

fn told(bytes: &[u8]) -> Report {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    analyse(file.path(), &Places::default())
}

fn check(what: &str, arch: &str, bytes: &[u8]) {
    let report = told(bytes);
    assert_eq!(report.kind, DumpKind::Kernel, "{what}");
    assert!(!report.is_truncated && report.notes.is_empty(), "{what}: {:?}", report.notes);
    assert_eq!(report.machine.crashed_at, Some(1.6e9), "{what}");
    assert_eq!(report.machine.arch.as_deref(), Some(arch), "{what}");
    assert_eq!(report.machine.node.as_deref(), Some("oven"), "{what}");
    assert_eq!(report.process.as_ref().unwrap().name.as_deref(), Some("umount"), "{what}");
    assert_eq!(report.crashed().unwrap().name.as_deref(), Some("umount"), "{what}");
    let kernel = report.kernel.as_ref().unwrap();
    assert_eq!(kernel.build_id.as_deref(), Some("0123456789abcdef0123456789abcdef01234567"), "{what}");
    assert_eq!(kernel.info["KERNELOFFSET"], "d800000", "{what}");
    assert_eq!(kernel.panic.as_deref(), Some("Kernel panic - not syncing: Fatal exception"), "{what}");
    let log = kernel.log.as_deref().unwrap();
    let expected: Vec<&str> = LOG.iter().flat_map(|text| text.lines()).collect();
    let found: Vec<&str> = log.lines().map(|line| line.strip_prefix("[  101.442193] ").unwrap()).collect();
    assert_eq!(found, expected, "{what}");
    let crash = report.crash.as_ref().unwrap();
    assert_eq!((crash.class.as_str(), crash.address.unwrap().0), ("null_deref", 0x18), "{what}");
    let frames: Vec<_> =
        report.crashed().unwrap().frames.iter().map(|frame| frame.function.as_deref().unwrap()).collect();
    assert_eq!(frames, ["ext4_put_super", "generic_shutdown_super"], "{what}");
}

#[test]
fn the_log_is_found_in_every_shape_of_dump() {
    for (name, arch, machine) in [
        ("ring", "x86_64", Machine::with_ring(0)),
        ("turned", "x86_64", Machine::with_ring(8192 * 5 - 128)),
        ("records", "x86_64", Machine::with_records()),
        ("ring on another", "aarch64", Machine::with_ring(8192 * 5 - 128).into_arm()),
        ("records on another", "aarch64", Machine::with_records().into_arm()),
    ] {
        check(&format!("{name} elf"), arch, &machine.elf());
        check(&format!("{name} elf stream"), arch, &flattened(&machine.elf()));
        for (packed, flags) in [("plain", PLAIN), ("zlib", ZLIB), ("lzo", LZO), ("snappy", SNAPPY), ("zstd", ZSTD)] {
            check(&format!("{name} {packed}"), arch, &machine.kdump(flags, 0));
            check(&format!("{name} {packed} stream"), arch, &flattened(&machine.kdump(flags, 0)));
        }
    }
}

#[test]
fn a_part_of_a_split_dump_says_so() {
    let report = told(&Machine::with_ring(0).kdump(PLAIN, 1));
    let note = report.notes.iter().find(|note| note.code == NoteCode::Broken).unwrap();
    assert!(note.text.contains("--reassemble"), "{}", note.text);
    assert_eq!(report.kernel.unwrap().release.as_deref(), Some("6.1.0-18-amd64"));
}

#[test]
fn a_dump_that_ends_early_is_told_as_far_as_it_goes() {
    let machine = Machine::with_ring(0);
    for file in [machine.elf(), machine.kdump(ZLIB, 0), flattened(&machine.elf()), flattened(&machine.kdump(ZSTD, 0))] {
        for end in (PAGE..file.len()).step_by(1024) {
            let report = told(&file[..end]);
            assert_eq!((report.kind, report.is_truncated), (DumpKind::Kernel, true), "{end} of {}", file.len());
        }
    }
}

/// Reads a dump that was made to take long, and returns what is said of what was left out.
fn check_bounded(bytes: &[u8]) -> Vec<String> {
    let begin = Instant::now();
    let report = told(bytes);
    assert!(begin.elapsed() < Duration::from_secs(60), "it took {:?}", begin.elapsed());
    assert_eq!((report.kind, report.is_truncated), (DumpKind::Kernel, false));
    report.notes.into_iter().filter(|note| note.code == NoteCode::Cut).map(|note| note.text).collect()
}

#[test]
fn a_log_without_an_end_is_read_as_far_as_it_may_go() {
    let notes = check_bounded(&Machine::with_endless_records().elf());
    assert!(notes.iter().any(|note| note.contains("only the last part")), "{notes:?}");
}

#[test]
fn pages_are_unpacked_as_often_as_may_be() {
    let notes = check_bounded(&machine::many_pages(&Machine::with_far_descriptors(), 1 << 20));
    assert!(notes.iter().any(|note| note.contains("more pages than are unpacked")), "{notes:?}");
}

#[test]
fn very_many_segments_are_not_searched_one_by_one() {
    let mut machine = Machine::with_far_descriptors();
    machine.info = machine.info.replace("SIZE(prb_desc)=65536", "SIZE(prb_desc)=0");
    assert!(check_bounded(&machine.elf_after(60_000)).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_dumps_break_nothing(shape in 0_usize..4, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let machine = Machine::with_ring(0);
        let mut file = match shape {
            0 => machine.elf(),
            1 => machine.kdump(ZLIB, 0),
            2 => flattened(&machine.kdump(PLAIN, 0)),
            _ => Machine::with_records().kdump(ZSTD, 0),
        };
        for (at, byte) in changes {
            // Most of a file is empty memory; what matters is near its beginning and where the log is.
            let at = at.index(file.len());
            let at = if byte & 1 == 0 { at % 16_384 } else { at };
            if at >= 8 {
                file[at] = byte;
            }
        }
        told(&file);
    }
}
