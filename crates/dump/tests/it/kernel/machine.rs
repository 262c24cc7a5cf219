//! A machine's memory with a kernel's log in it, and the files that hold it.

use std::io::Write;

const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// An address that only page tables translate.
const MAPPED: u64 = 0xffff_c900_0000_0000;
pub(crate) const PAGE: usize = 4096;
const PHYS_BASE: u64 = 0x8000;

/// Where the names stand that the kernel gives itself and its machine.
const NAMES: u64 = 0x1f004;

/// What makedumpfile calls each way to pack a page.
pub(crate) const PLAIN: u32 = 0;
pub(crate) const ZLIB: u32 = 1;
pub(crate) const LZO: u32 = 2;
pub(crate) const SNAPPY: u32 = 4;
pub(crate) const ZSTD: u32 = 0x20;

pub(crate) const LOG: [&str; 6] = [
    "Linux version 6.1.0-18-amd64",
    "BUG: kernel NULL pointer dereference, address: 0000000000000018",
    "CPU: 3 PID: 4121 Comm: umount Kdump: loaded Not tainted 6.1.0-18-amd64 #1",
    "RIP: 0010:ext4_put_super+0x12/0x340 [ext4]",
    "Call Trace:\n <TASK>\n ? page_fault_oops+0x10/0x20\n generic_shutdown_super+0x74/0x110\n </TASK>",
    "Kernel panic - not syncing: Fatal exception",
];

/// A machine's memory, from its first byte on.
pub(crate) struct Machine {
    memory: Vec<u8>,
    pub(crate) info: String,
    is_arm: bool,
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
        let mut machine = Self { memory: vec![0; 64 * PAGE], info: String::new(), is_arm: false };
        machine.line("OSRELEASE=6.1.0-18-amd64");
        machine.line("BUILD-ID=0123456789abcdef0123456789abcdef01234567");
        machine.line(&format!("NUMBER(phys_base)={PHYS_BASE}"));
        machine.line("NUMBER(pgtable_l5_enabled)=0");
        machine.line("KERNELOFFSET=d800000");
        machine.line("CRASHTIME=1600000000");
        for (number, name) in ["Linux", "oven", "6.1.0-18-amd64"].iter().enumerate() {
            machine.put(NAMES + 65 * number as u64, name.as_bytes());
        }
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
    pub(crate) fn with_ring(begin: u64) -> Self {
        let mut machine = Self::new();
        let at = |physical: u64| IMAGE + physical - PHYS_BASE;
        machine.line(&format!("SYMBOL(prb)={:x}", at(0x10000)));
        machine.line(&format!("SYMBOL(init_uts_ns)={:x}", at(NAMES - 4)));
        machine.line("OFFSET(uts_namespace.name)=4");
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
    pub(crate) fn with_records() -> Self {
        let mut machine = Self::new();
        let at = |physical: u64| IMAGE + physical - PHYS_BASE;
        for (number, name) in ["log_buf", "log_buf_len", "log_first_idx", "log_next_idx"].iter().enumerate() {
            machine.line(&format!("SYMBOL({name})={:x}", at(0x10000 + number as u64 * 8)));
        }
        machine.line(&format!("SYMBOL(system_utsname)={:x}", at(NAMES)));
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

    /// Makes it a machine of `aarch64`, where the text lies in memory that is mapped as a whole.
    pub(crate) fn into_arm(mut self) -> Self {
        self.is_arm = true;
        self.memory.copy_within(0x32000..0x33000, 0x31000);
        self.line(&format!("NUMBER(kimage_voffset)=0x{:x}", IMAGE - PHYS_BASE));
        self.line("NUMBER(VA_BITS)=48");
        self.line("NUMBER(PHYS_OFFSET)=0x0");
        let direct = 0xffff_0000_0003_0000_u64.to_le_bytes();
        for word in self.memory.chunks_exact_mut(8).filter(|word| *word == MAPPED.to_le_bytes()) {
            word.copy_from_slice(&direct);
        }
        self
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

    /// Returns the pages that are not all zeros.
    fn kept(&self) -> Vec<usize> {
        (0..64).filter(|page| self.memory[page * PAGE..][..PAGE].iter().any(|byte| *byte != 0)).collect()
    }

    /// Makes the log one of records that take all of an address space, which is the same page over and over: each record
    /// has nothing but ends of lines.
    pub(crate) fn with_endless_records() -> Self {
        let mut machine = Self::with_records();
        machine.put(0x30000, &[b'\n'; PAGE]);
        for entry in 0..512 {
            machine.word(0x21000 + entry * 8, 0x22003);
            machine.word(0x22000 + entry * 8, 0x23003);
            machine.word(0x23000 + entry * 8, 0x30003);
        }
        machine.word(0x10008, u64::from(u32::MAX));
        machine.word(0x10010, 0);
        machine.word(0x10018, u64::from(u32::MAX) - 1);
        machine
    }

    /// Makes a machine whose descriptors are as many as may be looked at, each in a page of its own: memory is mapped as a
    /// whole, and every page but those of the beginning is the one at its end.
    pub(crate) fn with_far_descriptors() -> Self {
        let mut machine = Self::with_ring(0).into_arm();
        machine.info = machine.info.replace("SIZE(prb_desc)=24", "SIZE(prb_desc)=65536");
        machine.put(0x10100, &24_u32.to_le_bytes());
        machine.word(0x10108, 0xffff_0000_0000_0000);
        machine.word(0x10118, 1 << 20);
        machine.word(0x10120, 0);
        machine
    }

    /// Writes an ELF vmcore with a segment for each page that is kept.
    pub(crate) fn elf(&self) -> Vec<u8> {
        self.elf_after(0)
    }

    /// Writes an ELF vmcore that has so many segments that hold nothing of the log before those that do.
    pub(crate) fn elf_after(&self, idle: u64) -> Vec<u8> {
        let (note, kept) = (self.note(), self.kept());
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0".to_vec();
        file.extend_from_slice(if self.is_arm { b"\xb7\0" } else { b"\x3e\0" });
        file.extend_from_slice(&1_u32.to_le_bytes());
        // The note comes before the headers, since a kernel's dump is known by it within its beginning.
        let (note_at, headers_at) = (64, 64 + note.len() as u64);
        for number in [0_u64, headers_at, 0] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        file.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0]);
        file.extend_from_slice(&(1 + idle + kept.len() as u64).to_le_bytes());
        file.extend_from_slice(&note);
        let mut put = |kind: u32, words: [u64; 6]| {
            file.extend_from_slice(&kind.to_le_bytes());
            file.extend_from_slice(&6_u32.to_le_bytes());
            words.iter().for_each(|word| file.extend_from_slice(&word.to_le_bytes()));
        };
        put(4, [note_at, 0, 0, note.len() as u64, 0, 4]);
        let (mut at, size) = (headers_at + 56 * (1 + idle + kept.len() as u64), PAGE as u64);
        for number in 0..idle {
            put(1, [note_at, 0, (1 << 40) + number * size, 1, 1, 0]);
        }
        for page in &kept {
            put(1, [at, 0, (page * PAGE) as u64, size, size, 0]);
            at += size;
        }
        kept.iter().for_each(|page| file.extend_from_slice(&self.memory[page * PAGE..][..PAGE]));
        file
    }

    /// Writes makedumpfile's own format; pages of zeros are left out, as it does.
    pub(crate) fn kdump(&self, flags: u32, is_split: u32) -> Vec<u8> {
        let mut file = vec![0; 4 * PAGE];
        file[..8].copy_from_slice(b"KDUMP   ");
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(8, &6_u32.to_le_bytes());
        put(12 + 65, b"oven");
        put(12 + 4 * 65, if self.is_arm { b"aarch64" } else { b"x86_64" });
        for (at, number) in [(428, PAGE as u32), (432, 1), (436, 2), (440, 64)] {
            put(at, &number.to_le_bytes());
        }
        put(PAGE, &0_u64.to_le_bytes());
        put(PAGE + 12, &is_split.to_le_bytes());
        let kept = self.kept();
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
                ZLIB => {
                    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                    encoder.write_all(plain).unwrap();
                    encoder.finish().unwrap()
                }
                LZO => lzo(plain),
                SNAPPY => snappy(plain),
                ZSTD => zstd::encode_all(plain, 1).unwrap(),
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

/// Writes makedumpfile's own format of a machine in pages of 64 KiB, with so many pages, all but the first few the same.
pub(crate) fn many_pages(machine: &Machine, pages: usize) -> Vec<u8> {
    let block = 65_536;
    let pack = |plain: &[u8]| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    };
    let small = machine.kdump(PLAIN, 0);
    let map_blocks = 2 * (pages / 8).div_ceil(block);
    let mut file = vec![0; (2 + map_blocks) * block];
    file[..PAGE].copy_from_slice(&small[..PAGE]);
    for (at, number) in [(428, block as u32), (436, map_blocks as u32)] {
        file[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    let begin = (2 + map_blocks / 2) * block;
    file[begin..begin + pages / 8].fill(0xff);
    let mut packed: Vec<Vec<u8>> = machine.memory.chunks(block).map(pack).collect();
    packed.push(pack(&vec![0; block]));
    let mut at = file.len() + pages * 24;
    let mut entries: Vec<(usize, usize)> = Vec::new();
    for part in &packed {
        entries.push((at, part.len()));
        at += part.len();
    }
    for number in 0..pages {
        let (at, length) = entries[number.min(entries.len() - 1)];
        file.extend_from_slice(&(at as u64).to_le_bytes());
        file.extend_from_slice(&(length as u32).to_le_bytes());
        file.extend_from_slice(&ZLIB.to_le_bytes());
        file.extend_from_slice(&[0; 8]);
    }
    file[block + 32..block + 40].copy_from_slice(&(at as u64).to_le_bytes());
    file[block + 40..block + 48].copy_from_slice(&(machine.info.len() as u64).to_le_bytes());
    packed.iter().for_each(|part| file.extend_from_slice(part));
    file.extend_from_slice(machine.info.as_bytes());
    file
}

/// Writes a file as makedumpfile's stream: its parts in some other order, and the header once more at the end.
pub(crate) fn flattened(file: &[u8]) -> Vec<u8> {
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

/// Cuts a page into bytes and how often the last of them comes again.
fn runs(page: &[u8]) -> Vec<(&[u8], usize)> {
    let (mut runs, mut from, mut at) = (Vec::new(), 0, 1);
    while at < page.len() {
        let again = page[at..].iter().take_while(|byte| **byte == page[at - 1]).count();
        if again >= 8 {
            runs.push((&page[from..at], again));
            from = at + again;
            at = from;
        }
        at += 1;
    }
    if from < page.len() {
        runs.push((&page[from..], 0));
    }
    runs
}

/// Packs a page as LZO1X does, of which only runs of the same byte are used.
fn lzo(page: &[u8]) -> Vec<u8> {
    let long = |out: &mut Vec<u8>, code: u8, mut rest: usize| {
        out.push(code);
        while rest > 255 {
            out.push(0);
            rest -= 255;
        }
        out.push(rest as u8);
    };
    let mut out = Vec::new();
    for (bytes, again) in runs(page) {
        match (out.len(), bytes.len()) {
            (0, length @ ..=238) => out.push(17 + length as u8),
            // So few are announced by the copy before them.
            (end @ 2.., length @ ..=3) => out[end - 2] |= length as u8,
            (_, length @ ..=18) => out.push(length as u8 - 3),
            (_, length) => long(&mut out, 0, length - 18),
        }
        out.extend_from_slice(bytes);
        match again {
            0 => continue,
            1..=33 => out.push(32 | (again as u8 - 2)),
            _ => long(&mut out, 32, again - 33),
        }
        out.extend_from_slice(&[0, 0]);
    }
    out.extend_from_slice(&[17, 0, 0]);
    out
}

/// Packs a page as Snappy does, of which only runs of the same byte are used.
fn snappy(page: &[u8]) -> Vec<u8> {
    let mut out = vec![page.len() as u8 | 0x80, (page.len() >> 7) as u8];
    for (bytes, mut again) in runs(page) {
        let length = bytes.len() as u16 - 1;
        if length < 60 {
            out.push((length as u8) << 2);
        } else {
            out.push(61 << 2);
            out.extend_from_slice(&length.to_le_bytes());
        }
        out.extend_from_slice(bytes);
        while again > 0 {
            let copied = again.min(64);
            out.extend_from_slice(&[(copied as u8 - 1) << 2 | 2, 1, 0]);
            again -= copied;
        }
    }
    out
}
