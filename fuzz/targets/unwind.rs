//! Call frame information of a hostile module, walked over a hostile stack.
//!
//! A file that was changed anywhere is mostly refused as a whole, or its frames are not found any more. So what is changed
//! is either a file or, as the first byte says, the frames alone: those are put into a file that is made here.
#![no_main]

use dump::{Arch, Loaded, Memory, ModuleFile, Registers, Unwinder};
use std::path::Path;
use std::sync::Arc;

// Both fit 32 bits.
const STACK_AT: u64 = 0xbf00_0000;
const CODE_AT: u64 = 0x5555_0000;
const STACK_BYTES: usize = 512;
/// Where what is made has its code, its index and its frames.
const TEXT_AT: u64 = 0x1000;
const INDEX_AT: u64 = 0x2000;
const FRAMES_AT: u64 = 0x3000;

/// What the first byte says.
const FRAMES_ALONE: u8 = 4;
const DEBUG: u8 = 8;
const INDEXED: u8 = 16;
const SIGNED: u8 = 32;
const BIG_NUMBERS: u8 = 64;

struct Stack(Vec<u8>);

impl Stack {
    /// Makes a stack of some bytes. By its lowest bits a word stands for a place in the code or the stack, which no change
    /// of single bytes would come upon.
    fn new(bytes: &[u8], word_bytes: u8) -> Self {
        let word = |word: &[u8]| {
            let far = u64::from(word[1]);
            let value = match word[0] & 3 {
                1 => CODE_AT + TEXT_AT + 4 * far,
                2 => STACK_AT + 4 * far,
                _ => return word.to_vec(),
            };
            value.to_le_bytes()[..word.len()].to_vec()
        };
        Self(bytes.chunks_exact(word_bytes.into()).flat_map(word).collect())
    }
}

impl Memory for Stack {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let start = address.checked_sub(STACK_AT).and_then(|at| usize::try_from(at).ok());
        let Some(known) = start.and_then(|at| self.0.get(at..)) else { return 0 };
        let length = known.len().min(into.len());
        into[..length].copy_from_slice(&known[..length]);
        length
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&[choice, pc], rest)) = bytes.split_first_chunk::<2>() else { return };
    let (stack, module) = rest.split_at(rest.len().min(STACK_BYTES));
    let (arch, machine) =
        [(Arch::X86_64, 62), (Arch::Aarch64, 183), (Arch::X86, 3), (Arch::Arm, 40)][usize::from(choice & 3)];
    let made = (choice & FRAMES_ALONE != 0).then(|| made(machine, arch.word_bytes() == 8, choice, module));
    let Ok(file) = ModuleFile::of_bytes(Path::new("module"), made.unwrap_or_else(|| module.to_vec())) else { return };
    let modules = [Loaded::new(CODE_AT, CODE_AT + 0x10_0000, CODE_AT, Some(Arc::new(file)))];
    let mut registers = Registers::new(arch);
    for number in 0..16 {
        registers.set(number, STACK_AT + 16 * u64::from(number));
    }
    registers.set(arch.pc(), CODE_AT + TEXT_AT + u64::from(pc) * 4);
    registers.set(arch.sp(), STACK_AT);
    registers.set(arch.fp(), STACK_AT + 64);
    if let Some(link) = arch.link() {
        registers.set(link, CODE_AT + TEXT_AT + 64);
    }
    let mut unwinder = Unwinder::new(&modules, vec![CODE_AT..CODE_AT + 0x10_0000]);
    if choice & SIGNED != 0 {
        unwinder = unwinder.with_signed_bits(0x007f_0000_0000_0000);
    }
    if choice & BIG_NUMBERS != 0 {
        unwinder = unwinder.with_big_numbers();
    }
    let walk = unwinder.walk(&registers, &Stack::new(stack, arch.word_bytes()));
    assert!(walk.frames.len() <= model::report::MAX_FRAMES + model::report::MAX_TAIL_FRAMES);
});

/// Puts frames into a file that holds nothing else.
fn made(machine: u16, is_64: bool, choice: u8, frames: &[u8]) -> Vec<u8> {
    let index = index(frames);
    let mut sections: Vec<(&str, u64, &[u8])> = vec![(".text", TEXT_AT, &[])];
    match choice & (DEBUG | INDEXED) {
        0 => sections.push((".eh_frame", FRAMES_AT, frames)),
        INDEXED => sections.extend([(".eh_frame_hdr", INDEX_AT, &index[..]), (".eh_frame", FRAMES_AT, frames)]),
        _ => sections.push((".debug_frame", 0, frames)),
    }
    elf(machine, is_64, &sections)
}

/// Makes an index as linkers write it: of each entry where its code begins, if that is told as most tell it.
fn index(frames: &[u8]) -> Vec<u8> {
    let number = |at: usize| Some(u32::from_le_bytes(*frames.get(at..)?.first_chunk()?));
    let (mut pairs, mut at) = (Vec::new(), 0);
    while let Some((length, id)) = number(at).zip(number(at + 4)).filter(|(length, _)| *length > 0) {
        if let Some(code) = number(at + 8).filter(|_| id != 0) {
            let code = (FRAMES_AT as u32).wrapping_add(at as u32 + 8).wrapping_add(code);
            pairs.push((code.wrapping_sub(INDEX_AT as u32), (FRAMES_AT - INDEX_AT) as u32 + at as u32));
        }
        at = at.saturating_add(4).saturating_add(length as usize);
    }
    pairs.sort_unstable_by_key(|(code, _)| code.cast_signed());
    let head = [0x3b03_1b01, (FRAMES_AT - INDEX_AT - 4) as u32, pairs.len() as u32];
    let pairs = pairs.into_iter().flat_map(|(code, entry)| [code, entry]);
    head.into_iter().chain(pairs).flat_map(u32::to_le_bytes).collect()
}

/// Writes an ELF file of sections: their names, where they are in memory, and their content; what has none is code.
fn elf(machine: u16, is_64: bool, sections: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let word = if is_64 { 8 } else { 4 };
    let (head, entry) = if is_64 { (64, 64) } else { (52, 40) };
    let mut out = vec![0; head];
    let mut names = vec![0];
    let mut table = vec![0; entry];
    let mut put = |out: &mut Vec<u8>, name: &str, kind: u32, flags: u64, at: u64, content: &[u8]| {
        let length = if content.is_empty() { 0x1000 } else { content.len() as u64 };
        let first = [names.len() as u32, kind];
        names.extend([name.as_bytes(), b"\0"].concat());
        // What holds the names holds all of them, itself among them.
        let content = if kind == 3 { names.clone() } else { content.to_vec() };
        let length = if kind == 3 { names.len() as u64 } else { length };
        let begin = table.len();
        table.extend(first.into_iter().flat_map(u32::to_le_bytes));
        for value in [flags, at, out.len() as u64, length] {
            table.extend(&value.to_le_bytes()[..word]);
        }
        table.extend([0; 8]);
        for value in [1_u64, 0] {
            table.extend(&value.to_le_bytes()[..word]);
        }
        assert_eq!(table.len(), begin + entry);
        out.extend(content);
    };
    for (name, at, content) in sections {
        let (kind, flags) = if content.is_empty() { (8, 6) } else { (1, 2) };
        put(&mut out, name, kind, flags, *at, content);
    }
    put(&mut out, ".shstrtab", 3, 0, 0, &[]);
    let table_at = out.len() as u64;
    out.extend(table);
    let mut header = vec![0x7f, b'E', b'L', b'F', if is_64 { 2 } else { 1 }, 1, 1];
    header.resize(16, 0);
    for number in [3, machine] {
        header.extend(number.to_le_bytes());
    }
    header.extend(1_u32.to_le_bytes());
    for value in [0, 0, table_at] {
        header.extend(&value.to_le_bytes()[..word]);
    }
    header.extend(0_u32.to_le_bytes());
    for value in [head, 0, 0, entry, sections.len() + 2, sections.len() + 1] {
        header.extend((value as u16).to_le_bytes());
    }
    out[..head].copy_from_slice(&header);
    out
}
