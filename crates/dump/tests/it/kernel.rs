//! Kernels' dumps, written here byte by byte as the formats are described: the log is found in each of them.

use dump::{Places, analyse};
use model::report::{DumpKind, NoteCode, Report};
use proptest::prelude::*;
use std::fs;
use std::io::Write;

const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// An address that only page tables translate.
const MAPPED: u64 = 0xffff_c900_0000_0000;
const PAGE: usize = 4096;
const PHYS_BASE: u64 = 0x8000;

const LOG: [&str; 6] = [
    "Linux version 6.1.0-18-amd64",
    "BUG: kernel NULL pointer dereference, address: 0000000000000018",
    "CPU: 3 PID: 4121 Comm: umount Not tainted 6.1.0-18-amd64 #1",
    "RIP: 0010:ext4_put_super+0x12/0x340 [ext4]",
    "Call Trace:\n <TASK>\n ? page_fault_oops+0x10/0x20\n generic_shutdown_super+0x74/0x110\n </TASK>",
    "Kernel panic - not syncing: Fatal exception",
];

/// A machine's memory, from its first byte on.
struct Machine {
    memory: Vec<u8>,
    info: String,
}

impl Machine {
    fn put(&mut self, physical: u64, bytes: &[u8]) {
        let at = usize::try_from(physical).unwrap();
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, physical: u64, value: u64) {
        self.put(physical, &value.to_le_bytes());
    }

    fn line(&mut self, line: &str) {
        self.info += line;
        self.info += "\n";
    }

    fn new() -> Self {
        let mut machine = Self { memory: vec![0; 64 * PAGE], info: String::new() };
        machine.line("OSRELEASE=6.1.0-18-amd64");
        machine.line("BUILD-ID=0123456789abcdef0123456789abcdef01234567");
        machine.line(&format!("NUMBER(phys_base)={PHYS_BASE}"));
        machine.line("NUMBER(pgtable_l5_enabled)=0");
        machine.line("KERNELOFFSET=d800000");
        machine.line("CRASHTIME=1600000000");
        // Four levels of tables lead to one page of text at 0x30000 and one at 0x32000.
        machine.line(&format!("SYMBOL(init_top_pgt)={:x}", IMAGE + 0x20000 - PHYS_BASE));
        machine.word(0x20000 + (MAPPED >> 39 & 0x1ff) * 8, 0x21003);
        machine.word(0x21000, 0x22003);
        machine.word(0x22000, 0x23003);
        machine.word(0x23000, 0x30000 | 1 | 1 << 63);
        machine.word(0x23008, 0x32001);
        machine
    }

    /// A machine with a ring of descriptors; the text's places begin so far on.
    fn with_ring(begin: u64) -> Self {
        let mut machine = Self::new();
        let at = |physical: u64| IMAGE + physical - PHYS_BASE;
        machine.line(&format!("SYMBOL(prb)={:x}", at(0x10000)));
        for line in [
            "OFFSET(printk_ringbuffer.desc_ring)=0",
            "OFFSET(printk_ringbuffer.text_data_ring)=48",
            "OFFSET(prb_desc_ring.count_bits)=0",
            "OFFSET(prb_desc_ring.descs)=8",
            "OFFSET(prb_desc_ring.infos)=16",
            "OFFSET(prb_desc_ring.head_id)=24",
            "OFFSET(prb_desc_ring.tail_id)=32",
            "SIZE(prb_desc)=24",
            "OFFSET(prb_desc.state_var)=0",
            "OFFSET(prb_desc.text_blk_lpos)=8",
            "OFFSET(prb_data_blk_lpos.begin)=0",
            "OFFSET(prb_data_blk_lpos.next)=8",
            "SIZE(printk_info)=88",
            "OFFSET(printk_info.ts_nsec)=8",
            "OFFSET(printk_info.text_len)=16",
            "OFFSET(prb_data_ring.size_bits)=0",
            "OFFSET(prb_data_ring.data)=8",
        ] {
            machine.line(line);
        }
        machine.word(0x10000, at(0x10100));
        machine.put(0x10100, &3_u32.to_le_bytes());
        machine.word(0x10108, at(0x11000));
        machine.word(0x10110, at(0x12000));
        let first = (1_u64 << 62) - 4;
        let ids: Vec<u64> = (0..LOG.len() as u64).map(|number| (first + number) & ((1 << 62) - 1)).collect();
        machine.word(0x10118, *ids.last().unwrap());
        machine.word(0x10120, ids[0]);
        machine.put(0x10130, &13_u32.to_le_bytes());
        machine.word(0x10138, MAPPED);
        let mut lpos = begin;
        for (number, (id, text)) in ids.iter().zip(LOG).enumerate() {
            let length = (8 + text.len() as u64).next_multiple_of(8);
            let next =
                if lpos / 8192 == (lpos + length) / 8192 { lpos + length } else { (lpos / 8192 + 1) * 8192 + length };
            let from = if lpos / 8192 == next / 8192 { lpos % 8192 } else { 0 };
            for (step, byte) in text.bytes().enumerate() {
                let place = from + 8 + step as u64;
                let page = if place < 4096 { 0x30000 } else { 0x32000 };
                machine.put(page + place % 4096, &[byte]);
            }
            let index = id & 7;
            machine.word(0x11000 + index * 24, id | (1 + number as u64 % 2) << 62);
            machine.word(0x11008 + index * 24, lpos);
            machine.word(0x11010 + index * 24, next);
            machine.word(0x12008 + index * 88, 101_442_193_000 + number as u64);
            machine.put(0x12010 + index * 88, &(text.len() as u16).to_le_bytes());
            lpos = next;
        }
        machine
    }

    /// A machine with the older ring of records.
    fn with_records() -> Self {
        let mut machine = Self::new();
        let at = |physical: u64| IMAGE + physical - PHYS_BASE;
        for (number, name) in ["log_buf", "log_buf_len", "log_first_idx", "log_next_idx"].iter().enumerate() {
            machine.line(&format!("SYMBOL({name})={:x}", at(0x10000 + number as u64 * 8)));
        }
        for line in [
            "SIZE(printk_log)=16",
            "OFFSET(printk_log.ts_nsec)=0",
            "OFFSET(printk_log.len)=8",
            "OFFSET(printk_log.text_len)=10",
        ] {
            machine.line(line);
        }
        machine.word(0x10000, MAPPED);
        machine.word(0x10008, 8192);
        let mut place = 4000_u64;
        machine.word(0x10010, place);
        for (number, text) in LOG.iter().enumerate() {
            if number == 3 {
                // What follows does not fit before the end.
                place = 0;
            }
            let length = (16 + text.len() as u64).next_multiple_of(8);
            let mut record = vec![0; 16];
            record[..8].copy_from_slice(&101_442_193_000_u64.to_le_bytes());
            record[8..10].copy_from_slice(&(length as u16).to_le_bytes());
            record[10..12].copy_from_slice(&(text.len() as u16).to_le_bytes());
            record.extend_from_slice(text.as_bytes());
            for (step, byte) in record.iter().enumerate() {
                let at = place + step as u64;
                machine.put(if at < 4096 { 0x30000 } else { 0x32000 } + at % 4096, &[*byte]);
            }
            place += length;
        }
        machine.word(0x10018, place);
        machine
    }

    fn note(&self) -> Vec<u8> {
        let mut note = Vec::new();
        for number in [11, self.info.len() as u32, 0] {
            note.extend_from_slice(&number.to_le_bytes());
        }
        note.extend_from_slice(b"VMCOREINFO\0\0");
        note.extend_from_slice(self.info.as_bytes());
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    fn elf(&self) -> Vec<u8> {
        let note = self.note();
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
        for number in [0_u64, 64, 0] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        file.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        let start = 176 + note.len() as u64;
        let size = self.memory.len() as u64;
        let headers = [(4_u32, [176, 0, 0, note.len() as u64, 0, 4]), (1, [start, 0, 0, size, size, 0])];
        for (kind, words) in headers {
            file.extend_from_slice(&kind.to_le_bytes());
            file.extend_from_slice(&6_u32.to_le_bytes());
            words.iter().for_each(|word: &u64| file.extend_from_slice(&word.to_le_bytes()));
        }
        file.extend_from_slice(&note);
        file.extend_from_slice(&self.memory);
        file
    }

    /// Writes makedumpfile's own format; pages of zeros are left out, as it does.
    fn kdump(&self, flags: u32, is_split: u32) -> Vec<u8> {
        let mut file = vec![0; 4 * PAGE];
        file[..8].copy_from_slice(b"KDUMP   ");
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(8, &6_u32.to_le_bytes());
        put(12 + 65, b"oven");
        put(12 + 4 * 65, b"x86_64");
        for (at, number) in [(428, PAGE as u32), (432, 1), (436, 2), (440, 64)] {
            put(at, &number.to_le_bytes());
        }
        put(PAGE, &0_u64.to_le_bytes());
        put(PAGE + 12, &is_split.to_le_bytes());
        let kept: Vec<usize> =
            (0..64).filter(|page| self.memory[page * PAGE..][..PAGE].iter().any(|byte| *byte != 0)).collect();
        for page in &kept {
            file[3 * PAGE + page / 8] |= 1 << (page % 8);
        }
        let info_at = 4 * PAGE + kept.len() * 24;
        file[PAGE + 32..PAGE + 40].copy_from_slice(&(info_at as u64).to_le_bytes());
        file[PAGE + 40..PAGE + 48].copy_from_slice(&(self.info.len() as u64).to_le_bytes());
        let mut packed = self.info.clone().into_bytes();
        for page in kept {
            let plain = &self.memory[page * PAGE..][..PAGE];
            let bytes = match flags {
                1 => {
                    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                    encoder.write_all(plain).unwrap();
                    encoder.finish().unwrap()
                }
                0x20 => zstd::encode_all(plain, 1).unwrap(),
                _ => plain.to_vec(),
            };
            file.extend_from_slice(&((info_at + packed.len()) as u64).to_le_bytes());
            file.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            file.extend_from_slice(&flags.to_le_bytes());
            file.extend_from_slice(&[0; 8]);
            packed.extend_from_slice(&bytes);
        }
        file.extend_from_slice(&packed);
        file
    }
}

/// Writes a file as makedumpfile's stream: its parts in some other order, and the header once more at the end.
fn flattened(file: &[u8]) -> Vec<u8> {
    let mut stream = vec![0; PAGE];
    stream[..12].copy_from_slice(b"makedumpfile");
    stream[23] = 1;
    stream[31] = 1;
    let mut parts: Vec<(usize, &[u8])> = file.chunks(3000).enumerate().map(|(at, part)| (at * 3000, part)).collect();
    parts.reverse();
    let zeros = [0; 100];
    parts.insert(0, (0, &zeros));
    for (at, part) in parts {
        stream.extend_from_slice(&(at as u64).to_be_bytes());
        stream.extend_from_slice(&(part.len() as u64).to_be_bytes());
        stream.extend_from_slice(part);
    }
    stream.extend_from_slice(&[0xff; 16]);
    stream
}

fn told(bytes: &[u8]) -> Report {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    analyse(file.path(), &Places::default())
}

fn check(what: &str, bytes: &[u8]) {
    let report = told(bytes);
    assert_eq!(report.kind, DumpKind::Kernel, "{what}");
    assert!(!report.is_truncated && report.notes.is_empty(), "{what}: {:?}", report.notes);
    assert_eq!(report.machine.crashed_at, Some(1.6e9), "{what}");
    assert_eq!(report.machine.arch.as_deref(), Some("x86_64"), "{what}");
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
    for (name, machine) in [
        ("ring", Machine::with_ring(0)),
        ("turned", Machine::with_ring(8192 * 5 - 128)),
        ("records", Machine::with_records()),
    ] {
        check(&format!("{name} elf"), &machine.elf());
        check(&format!("{name} elf stream"), &flattened(&machine.elf()));
        for (packed, flags) in [("plain", 0), ("zlib", 1), ("zstd", 0x20)] {
            check(&format!("{name} {packed}"), &machine.kdump(flags, 0));
            check(&format!("{name} {packed} stream"), &flattened(&machine.kdump(flags, 0)));
        }
    }
}

#[test]
fn a_part_of_a_split_dump_says_so() {
    let report = told(&Machine::with_ring(0).kdump(0, 1));
    let note = report.notes.iter().find(|note| note.code == NoteCode::Broken).unwrap();
    assert!(note.text.contains("--reassemble"), "{}", note.text);
    assert_eq!(report.kernel.unwrap().release.as_deref(), Some("6.1.0-18-amd64"));
}

#[test]
fn a_dump_that_ends_early_is_told_as_far_as_it_goes() {
    let machine = Machine::with_ring(0);
    for file in [machine.elf(), machine.kdump(1, 0), flattened(&machine.elf()), flattened(&machine.kdump(0x20, 0))] {
        for end in (PAGE..file.len()).step_by(1024) {
            let report = told(&file[..end]);
            assert_eq!((report.kind, report.is_truncated), (DumpKind::Kernel, true), "{end} of {}", file.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_dumps_break_nothing(shape in 0_usize..4, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let machine = Machine::with_ring(0);
        let mut file = match shape {
            0 => machine.elf(),
            1 => machine.kdump(1, 0),
            2 => flattened(&machine.kdump(0, 0)),
            _ => Machine::with_records().kdump(0x20, 0),
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
