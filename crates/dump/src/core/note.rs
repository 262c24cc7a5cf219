//! The notes of a core: what they are called, how they lie behind each other, and what Linux puts into the common ones.
//!
//! Everything is a view of foreign bytes; a field that does not fit is absent.

use crate::core::elf::Layout;
use crate::unwind::{Arch, Registers};

pub(crate) const NT_PRSTATUS: u32 = 1;
pub(crate) const NT_PRPSINFO: u32 = 3;
pub(crate) const NT_AUXV: u32 = 6;
pub(crate) const NT_SIGINFO: u32 = 0x5349_4749;
pub(crate) const NT_FILE: u32 = 0x4649_4c45;
pub(crate) const NT_ARM_PAC_MASK: u32 = 0x406;
const NT_GNU_BUILD_ID: u32 = 3;

/// Notes that are looked at.
const MAX_NOTES: usize = 1 << 20;
/// Mapped files that are looked at.
pub(crate) const MAX_MAPPINGS: usize = 1 << 17;
/// Entries of the auxiliary vector.
const MAX_AUXV: usize = 256;
/// Bytes of a build id.
const MAX_BUILD_ID_BYTES: usize = 64;

/// One note.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note<'a> {
    pub(crate) owner: &'a [u8],
    pub(crate) kind: u32,
    pub(crate) content: &'a [u8],
}

/// The notes of one segment, one after the other; ends before the first that is not whole.
#[derive(Debug)]
pub(crate) struct Notes<'a> {
    layout: Layout,
    bytes: &'a [u8],
    align: usize,
    left: usize,
}

impl<'a> Notes<'a> {
    /// Returns the notes of a segment whose alignment is `align`.
    pub(crate) fn new(layout: Layout, bytes: &'a [u8], align: u64) -> Self {
        Self { layout, bytes, align: if align == 8 { 8 } else { 4 }, left: MAX_NOTES }
    }

    /// Tells whether something stands where no whole note does.
    pub(crate) fn is_broken(&self) -> bool {
        !self.bytes.is_empty()
    }
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        self.left = self.left.checked_sub(1)?;
        let number = |at| self.layout.u32(self.bytes, at).and_then(|number| usize::try_from(number).ok());
        let (name_bytes, content_bytes) = (number(0)?, number(4)?);
        let kind = self.layout.u32(self.bytes, 8)?;
        let name_end = 12_usize.checked_add(name_bytes)?;
        let owner = self.bytes.get(12..name_end)?;
        let start = name_end.checked_next_multiple_of(self.align)?;
        let end = start.checked_add(content_bytes)?;
        let content = self.bytes.get(start..end)?;
        // The last note's padding may be missing.
        self.bytes = self.bytes.get(end.checked_next_multiple_of(self.align)?..).unwrap_or_default();
        let owner = owner.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Note { owner, kind, content })
    }
}

/// Returns the build id that stands among a module's notes.
pub(crate) fn build_id(layout: Layout, notes: &[u8], align: u64) -> Option<Vec<u8>> {
    let mut notes = Notes::new(layout, notes, align);
    let note = notes.find(|note| note.kind == NT_GNU_BUILD_ID && note.owner == b"GNU")?;
    (1..=MAX_BUILD_ID_BYTES).contains(&note.content.len()).then(|| note.content.to_vec())
}

/// What the kernel says of one thread.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) id: u32,
    pub(crate) signal: i32,
    /// Every register by its usual name, in the kernel's order.
    pub(crate) named: Vec<(&'static str, u64)>,
    /// Those that a stack is walked by.
    pub(crate) registers: Registers,
}

/// A register's name, and its number in DWARF if it has one that is held.
type Named = (&'static str, Option<u16>);

const X86_64: &[Named] = &[
    ("r15", Some(15)),
    ("r14", Some(14)),
    ("r13", Some(13)),
    ("r12", Some(12)),
    ("rbp", Some(6)),
    ("rbx", Some(3)),
    ("r11", Some(11)),
    ("r10", Some(10)),
    ("r9", Some(9)),
    ("r8", Some(8)),
    ("rax", Some(0)),
    ("rcx", Some(2)),
    ("rdx", Some(1)),
    ("rsi", Some(4)),
    ("rdi", Some(5)),
    ("orig_rax", None),
    ("rip", Some(16)),
    ("cs", None),
    ("eflags", None),
    ("rsp", Some(7)),
    ("ss", None),
    ("fs_base", None),
    ("gs_base", None),
    ("ds", None),
    ("es", None),
    ("fs", None),
    ("gs", None),
];
const AARCH64: &[Named] = &[
    ("x0", Some(0)),
    ("x1", Some(1)),
    ("x2", Some(2)),
    ("x3", Some(3)),
    ("x4", Some(4)),
    ("x5", Some(5)),
    ("x6", Some(6)),
    ("x7", Some(7)),
    ("x8", Some(8)),
    ("x9", Some(9)),
    ("x10", Some(10)),
    ("x11", Some(11)),
    ("x12", Some(12)),
    ("x13", Some(13)),
    ("x14", Some(14)),
    ("x15", Some(15)),
    ("x16", Some(16)),
    ("x17", Some(17)),
    ("x18", Some(18)),
    ("x19", Some(19)),
    ("x20", Some(20)),
    ("x21", Some(21)),
    ("x22", Some(22)),
    ("x23", Some(23)),
    ("x24", Some(24)),
    ("x25", Some(25)),
    ("x26", Some(26)),
    ("x27", Some(27)),
    ("x28", Some(28)),
    ("x29", Some(29)),
    ("x30", Some(30)),
    ("sp", Some(31)),
    ("pc", Some(32)),
    ("pstate", None),
];
const X86: &[Named] = &[
    ("ebx", Some(3)),
    ("ecx", Some(1)),
    ("edx", Some(2)),
    ("esi", Some(6)),
    ("edi", Some(7)),
    ("ebp", Some(5)),
    ("eax", Some(0)),
    ("ds", None),
    ("es", None),
    ("fs", None),
    ("gs", None),
    ("orig_eax", None),
    ("eip", Some(8)),
    ("cs", None),
    ("eflags", None),
    ("esp", Some(4)),
    ("ss", None),
];
const ARM: &[Named] = &[
    ("r0", Some(0)),
    ("r1", Some(1)),
    ("r2", Some(2)),
    ("r3", Some(3)),
    ("r4", Some(4)),
    ("r5", Some(5)),
    ("r6", Some(6)),
    ("r7", Some(7)),
    ("r8", Some(8)),
    ("r9", Some(9)),
    ("r10", Some(10)),
    ("fp", Some(11)),
    ("r12", Some(12)),
    ("sp", Some(13)),
    ("lr", Some(14)),
    ("pc", Some(15)),
    ("cpsr", None),
    ("orig_r0", None),
];

impl Status {
    /// Reads `elf_prstatus`.
    pub(crate) fn read(layout: Layout, arch: Arch, content: &[u8]) -> Option<Self> {
        let (id_at, registers_at) = if layout.is_64 { (32, 112) } else { (24, 72) };
        let names = match arch {
            Arch::X86_64 => X86_64,
            Arch::Aarch64 => AARCH64,
            Arch::X86 => X86,
            Arch::Arm => ARM,
        };
        let mut registers = Registers::new(arch);
        let mut named = Vec::with_capacity(names.len());
        for (number, (name, dwarf)) in names.iter().enumerate() {
            let value = layout.word(content, registers_at + number * layout.word_bytes())?;
            named.push((*name, value));
            if let Some(dwarf) = dwarf {
                registers.set(*dwarf, value);
            }
        }
        let signal = i32::from(layout.u16(content, 12)?);
        Some(Self { id: layout.u32(content, id_at)?, signal, named, registers })
    }
}

/// What the kernel says of the process.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    pub(crate) ppid: u32,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

impl Person {
    /// Reads `elf_prpsinfo`.
    pub(crate) fn read(layout: Layout, content: &[u8]) -> Option<Self> {
        let half = |at| layout.u32(content, at);
        let (uid, gid, pid, name) = if layout.is_64 {
            (half(16)?, half(20)?, 24, 40)
        } else {
            (u32::from(layout.u16(content, 8)?), u32::from(layout.u16(content, 10)?), 12, 28)
        };
        Some(Self {
            uid,
            gid,
            pid: half(pid)?,
            ppid: half(pid + 4)?,
            name: text(content.get(name..name + 16)?),
            // The kernel puts a blank behind the last argument.
            arguments: text(content.get(name + 16..name + 96)?).trim_end().to_owned(),
        })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// The signal's own account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) number: i32,
    pub(crate) code: i32,
    /// What the signals of memory say: which address.
    pub(crate) address: u64,
    /// What those that somebody sent say: who.
    pub(crate) sender: u32,
}

impl Account {
    /// Reads `siginfo_t`.
    pub(crate) fn read(layout: Layout, content: &[u8]) -> Option<Self> {
        let number = |at| layout.u32(content, at).map(u32::cast_signed);
        let rest = if layout.is_64 { 16 } else { 12 };
        Some(Self {
            number: number(0)?,
            code: number(8)?,
            address: layout.word(content, rest)?,
            sender: layout.u32(content, rest)?,
        })
    }
}

/// Reads the auxiliary vector up to its end mark.
pub(crate) fn auxv(layout: Layout, content: &[u8]) -> Vec<(u64, u64)> {
    let entry = |bytes: &[u8]| Some((layout.word(bytes, 0)?, layout.word(bytes, layout.word_bytes())?));
    let entries = content.chunks_exact(2 * layout.word_bytes()).map_while(entry);
    entries.take_while(|(kind, _)| *kind != 0).take(MAX_AUXV).collect()
}

/// A piece of a file that was mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Where in the file it begins, in bytes.
    pub(crate) offset: u64,
    pub(crate) path: String,
}

/// Reads `NT_FILE`, and whether all that it announces was there and was read.
pub(crate) fn mappings(layout: Layout, content: &[u8]) -> (Vec<Mapping>, bool) {
    let width = layout.word_bytes();
    let (Some(count), Some(page)) = (layout.word(content, 0), layout.word(content, width)) else {
        return (Vec::new(), false);
    };
    let wanted = usize::try_from(count).unwrap_or(usize::MAX);
    let names = wanted.checked_mul(3 * width).and_then(|bytes| content.get(bytes.checked_add(2 * width)?..));
    let mut names = names.unwrap_or_default().split(|byte| *byte == 0);
    let mut mappings = Vec::new();
    for number in 0..wanted.min(MAX_MAPPINGS) {
        let at = (2 + 3 * number) * width;
        let words = [0, 1, 2].map(|word| layout.word(content, at + word * width));
        let ([Some(start), Some(end), Some(pages)], Some(name)) = (words, names.next()) else { break };
        let path = String::from_utf8_lossy(name).into_owned();
        if start < end {
            mappings.push(Mapping { start, end, offset: pages.wrapping_mul(page), path });
        }
    }
    let is_whole = mappings.len() == wanted;
    (mappings, is_whole)
}

/// Returns what an entry of the auxiliary vector is called.
pub(crate) fn auxv_name(kind: u64) -> String {
    let name = match kind {
        2 => "AT_EXECFD",
        AT_PHDR => "AT_PHDR",
        4 => "AT_PHENT",
        5 => "AT_PHNUM",
        6 => "AT_PAGESZ",
        7 => "AT_BASE",
        8 => "AT_FLAGS",
        AT_ENTRY => "AT_ENTRY",
        10 => "AT_NOTELF",
        11 => "AT_UID",
        12 => "AT_EUID",
        13 => "AT_GID",
        14 => "AT_EGID",
        15 => "AT_PLATFORM",
        16 => "AT_HWCAP",
        17 => "AT_CLKTCK",
        23 => "AT_SECURE",
        24 => "AT_BASE_PLATFORM",
        AT_RANDOM => "AT_RANDOM",
        26 => "AT_HWCAP2",
        27 => "AT_RSEQ_FEATURE_SIZE",
        28 => "AT_RSEQ_ALIGN",
        29 => "AT_HWCAP3",
        30 => "AT_HWCAP4",
        AT_EXECFN => "AT_EXECFN",
        32 => "AT_SYSINFO",
        AT_SYSINFO_EHDR => "AT_SYSINFO_EHDR",
        51 => "AT_MINSIGSTKSZ",
        _ => return format!("AT_{kind}"),
    };
    name.to_owned()
}

pub(crate) const AT_PHDR: u64 = 3;
pub(crate) const AT_ENTRY: u64 = 9;
pub(crate) const AT_RANDOM: u64 = 25;
pub(crate) const AT_EXECFN: u64 = 31;
pub(crate) const AT_SYSINFO_EHDR: u64 = 33;
