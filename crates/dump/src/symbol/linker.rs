//! The linker's own tables: which name begins where, and the stubs through which other libraries are called.
//!
//! Several names may stand for one place; the one that others can see goes before one that they cannot, as in elfutils. A
//! stub has no name of its own: it is called after what the word it jumps through will be filled with, `malloc@plt`.

use super::table::Tables;
use crate::module::ModuleFile;
use object::read::elf::ElfFile64;
use object::{Endianness, File, Object, ObjectSection, ObjectSymbol, ObjectSymbolTable, RelocationTarget, SymbolKind};
use std::collections::HashMap;
use std::ops::Range;

/// Symbols that are read of one table.
const MAX_SYMBOLS: usize = 4 << 20;
/// Stubs of one file.
const MAX_STUBS: usize = 1 << 18;
/// Bytes of a name that are read.
const MAX_NAME_BYTES: usize = 16 << 10;
/// Bytes of all names of one table together, those that are shared counted each time.
const MAX_NAMES_BYTES: usize = 1 << 30;

struct Candidate<'a> {
    start: u64,
    size: u64,
    rank: u8,
    name: &'a [u8],
}

/// Puts all names of these files into the tables; the module's own file is the last.
pub(crate) fn read(files: &[&ModuleFile], code: &[Range<u64>], tables: &mut Tables) {
    let elves: Vec<_> = files.iter().filter_map(|file| file.elf().ok()).collect();
    let mut candidates = Vec::new();
    for elf in &elves {
        gather(elf.symbols(), code, &mut candidates);
        gather(elf.dynamic_symbols(), code, &mut candidates);
    }
    // Of those at one place the best comes first and stays; among equals the one that its table names first.
    candidates.sort_by_key(|candidate| {
        (candidate.start, candidate.size == 0, std::cmp::Reverse(candidate.rank), candidate.size)
    });
    candidates.dedup_by_key(|candidate| candidate.start);
    let next_starts: Vec<_> = candidates.iter().skip(1).map(|next| next.start).chain([u64::MAX]).collect();
    for (candidate, next) in candidates.iter().zip(next_starts) {
        let limit = end_of(code, candidate.start);
        // What has no size reaches to the next name.
        let end = if candidate.size == 0 { next.min(limit) } else { candidate.start.saturating_add(candidate.size) };
        tables.label(candidate.start, end, candidate.name);
    }
    if let Some(File::Elf64(elf)) = files.last().and_then(|file| file.elf().ok()) {
        stubs(&elf, tables);
    }
    tables.has_labels = true;
}

fn gather<'a>(
    symbols: impl Iterator<Item = impl ObjectSymbol<'a>>,
    code: &[Range<u64>],
    candidates: &mut Vec<Candidate<'a>>,
) {
    let mut left = MAX_NAMES_BYTES;
    for symbol in symbols.take(MAX_SYMBOLS) {
        let start = symbol.address();
        let is_code_like =
            matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Data | SymbolKind::Label);
        if symbol.is_undefined() || !is_code_like || end_of(code, start) == 0 || candidates.len() >= MAX_SYMBOLS {
            continue;
        }
        let Ok(name) = symbol.name_bytes() else { continue };
        // Each is looked through to its end, and many may share one that is long.
        let Some(rest) = left.checked_sub(name.len()) else { return };
        left = rest;
        // `$x` and its like mark where code and constants begin, and name nothing.
        if name.is_empty() || name.starts_with(b"$") {
            continue;
        }
        let rank = if symbol.is_local() {
            0
        } else if symbol.is_weak() {
            1
        } else {
            2
        };
        candidates.push(Candidate { start, size: symbol.size(), rank, name: &name[..name.len().min(MAX_NAME_BYTES)] });
    }
}

/// Returns the end of the range of code that an address is in, 0 if it is in none.
fn end_of(code: &[Range<u64>], address: u64) -> u64 {
    let after = code.partition_point(|range| range.start <= address);
    after.checked_sub(1).map(|index| code[index].end).filter(|end| address < *end).unwrap_or(0)
}

/// Names the stubs of x86-64: each jumps through a word that a relocation fills.
fn stubs(elf: &ElfFile64<'_, Endianness>, tables: &mut Tables) {
    if elf.architecture() != object::Architecture::X86_64 {
        return;
    }
    let Some(table) = elf.dynamic_symbol_table() else { return };
    let Some(relocations) = elf.dynamic_relocations() else { return };
    let (mut words, mut left) = (HashMap::new(), MAX_NAMES_BYTES);
    for (place, relocation) in relocations.take(MAX_SYMBOLS) {
        if let RelocationTarget::Symbol(index) = relocation.target()
            && let Ok(name) = table.symbol_by_index(index).and_then(|symbol| symbol.name_bytes())
            && !name.is_empty()
        {
            let Some(rest) = left.checked_sub(name.len()) else { break };
            left = rest;
            words.insert(place, name);
        }
    }
    let mut count = 0;
    for name in [".plt", ".plt.sec", ".plt.got"] {
        let Some(section) = elf.section_by_name(name) else { continue };
        let Ok(content) = section.data() else { continue };
        let step = if name == ".plt.got" { 8 } else { 16 };
        for (index, stub) in content.chunks_exact(step).enumerate().take(MAX_STUBS) {
            let start = section.address().wrapping_add((index * step) as u64);
            if let Some(name) = jump(stub, start).and_then(|word| words.get(&word))
                && count < MAX_STUBS
            {
                let name = [&name[..name.len().min(MAX_NAME_BYTES)], b"@plt"].concat();
                tables.label(start, start.saturating_add(step as u64), &name);
                count += 1;
            }
        }
    }
}

/// Returns where the word is that a stub jumps through: `jmp *rel32(%rip)`, perhaps after `endbr64` and a `bnd` prefix.
fn jump(stub: &[u8], start: u64) -> Option<u64> {
    let at = stub.windows(2).take(8).position(|pair| pair == [0xff, 0x25])?;
    let relative = i32::from_le_bytes(stub.get(at + 2..at + 6)?.try_into().ok()?);
    Some(start.wrapping_add(at as u64 + 6).wrapping_add_signed(i64::from(relative)))
}
