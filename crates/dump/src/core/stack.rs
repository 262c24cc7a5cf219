//! The beginning of a process's first stack: its arguments and its environment, as they were when it was started.
//!
//! The kernel puts there, from low to high: the count, pointers to arguments, zero, pointers to the environment, zero,
//! and the auxiliary vector; above them lies what they point to. The core has a second copy of the vector among its notes;
//! where memory agrees with it, the pointers below are what they seem. What a program has changed since is shown changed.

use super::Core;
use super::note::{AT_EXECFN, AT_RANDOM};
use crate::memory::{Memory, read_some, read_text};

/// How much below the strings is searched.
const MAX_SEARCH_BYTES: u64 = 8 << 20;
/// Arguments, and variables of the environment.
const MAX_STRINGS: usize = 4096;
/// Bytes of one of them.
const MAX_STRING_BYTES: usize = 4096;
/// Bytes of all of them.
const MAX_STRINGS_BYTES: usize = 1 << 20;

/// What a process was started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beginning {
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<String>,
    pub(crate) program: Option<String>,
    /// Whether something was left out because there was so much.
    pub(crate) is_cut: bool,
}

/// Reads what a process was started with, as far as it can be found.
pub(crate) fn beginning(core: &Core<'_>) -> Beginning {
    let program = core.aux(AT_EXECFN).and_then(|address| read_text(core, address, MAX_STRING_BYTES));
    let mut found = Beginning { program, ..Beginning::default() };
    let Some(vector) = vector(core) else { return found };
    let Some((environment, below)) = pointers(core, vector) else { return found };
    let Some((arguments, _)) = pointers(core, below) else { return found };
    let mut left = MAX_STRINGS_BYTES;
    found.arguments = strings(core, &arguments, &mut left);
    found.environment = strings(core, &environment, &mut left);
    found.is_cut = found.arguments.len() < arguments.len() || found.environment.len() < environment.len();
    found
}

/// Finds the auxiliary vector in memory.
fn vector(core: &Core<'_>) -> Option<u64> {
    let layout = core.header.layout;
    let width = layout.word_bytes();
    let above = core.aux(AT_RANDOM).or_else(|| core.aux(AT_EXECFN))?;
    let piece = core.piece(above)?;
    let start = piece.start.max(above.saturating_sub(MAX_SEARCH_BYTES)).next_multiple_of(16);
    let bytes = read_some(core, start, usize::try_from(above.checked_sub(start)?).ok()?);
    let mut wanted = Vec::with_capacity(core.auxv.len() * 2 * width);
    for number in core.auxv.iter().flat_map(|entry| [entry.0, entry.1]) {
        let little = number.to_le_bytes();
        let part = little[..width].iter().copied();
        if layout.is_big { wanted.extend(part.rev()) } else { wanted.extend(part) }
    }
    // From above, since only what is nearest to the strings is the kernel's own.
    let last = bytes.len().checked_sub(wanted.len())? / width;
    let at = (0..=last).rev().map(|word| word * width).find(|at| bytes[*at..].starts_with(&wanted))?;
    Some(start + at as u64)
}

/// Reads pointers downwards from the zero that ends them to the zero, or the count, before them. Returns them, and where
/// the zero is that ends what lies below.
fn pointers(core: &Core<'_>, end: u64) -> Option<(Vec<u64>, u64)> {
    let layout = core.header.layout;
    let width = layout.word_bytes() as u64;
    let word = |address: u64| {
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..layout.word_bytes()];
        (core.read(address, bytes) == bytes.len()).then(|| layout.word(bytes, 0)).flatten()
    };
    let zero = end.checked_sub(width)?;
    if word(zero)? != 0 {
        return None;
    }
    let mut pointers = Vec::new();
    let mut at = zero;
    loop {
        at = at.checked_sub(width)?;
        let value = word(at)?;
        // Below the arguments stands how many there are; below the environment a zero.
        if value == 0 || value == pointers.len() as u64 {
            break;
        }
        pointers.push(value);
        if pointers.len() > 16 * MAX_STRINGS {
            return None;
        }
    }
    pointers.reverse();
    Some((pointers, at + width))
}

fn strings(core: &Core<'_>, pointers: &[u64], left: &mut usize) -> Vec<String> {
    let mut found = Vec::new();
    for pointer in pointers.iter().take(MAX_STRINGS) {
        let Some(text) = read_text(core, *pointer, MAX_STRING_BYTES) else { continue };
        let Some(rest) = left.checked_sub(text.len()) else { break };
        *left = rest;
        found.push(text);
    }
    found
}
