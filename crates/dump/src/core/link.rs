//! The names by which the dynamic linker knows what it has loaded. A debugger asks for files by them, and they often are
//! links to the files that were mapped.

use super::elf::Segment;
use super::{Core, Image};
use crate::memory::{read_some, read_text};
use model::report::{MAX_MODULES, MAX_NAME_CHARS};

/// Entries of a dynamic section.
const MAX_ENTRIES: usize = 1024;
/// The entry that says where the linker's own account is.
const DT_DEBUG: u64 = 21;
/// The entry that is the last.
const DT_NULL: u64 = 0;

impl Core<'_> {
    /// Returns what the linker adds to a file's addresses, with the name it knows it by, for each file that it has loaded.
    pub(crate) fn linked(&self, program: &Image) -> Vec<(u64, String)> {
        let mut names = Vec::new();
        let Some(mut at) = self.link_map(program) else { return names };
        // A broken list may lead in circles; its length is bounded all the same.
        for _ in 0..4 * MAX_MODULES {
            let Some([bias, name, _, next]) = self.words(at) else { break };
            let name = read_text(self, name, MAX_NAME_CHARS).filter(|name| !name.is_empty());
            names.extend(name.map(|name| (bias, name)));
            if next == 0 {
                break;
            }
            at = next;
        }
        names
    }

    /// Returns where the list of what is loaded begins.
    fn link_map(&self, program: &Image) -> Option<u64> {
        let dynamic = program.headers.iter().find(|header| header.kind == Segment::DYNAMIC)?;
        let layout = self.header.layout;
        let entry_bytes = 2 * layout.word_bytes();
        let bytes = read_some(self, program.bias?.wrapping_add(dynamic.address), MAX_ENTRIES * entry_bytes);
        let entries = bytes.chunks_exact(entry_bytes);
        let mut entries =
            entries.map_while(|entry| Some((layout.word(entry, 0)?, layout.word(entry, entry_bytes / 2)?)));
        let account =
            entries.find(|(kind, _)| matches!(*kind, DT_DEBUG | DT_NULL)).filter(|(kind, _)| *kind == DT_DEBUG);
        // Behind the version stands the first of them.
        let [_, first] = self.words(account?.1)?;
        (first != 0).then_some(first)
    }

    fn words<const N: usize>(&self, address: u64) -> Option<[u64; N]> {
        let layout = self.header.layout;
        let bytes = read_some(self, address, N * layout.word_bytes());
        let mut words = [0; N];
        for (number, word) in words.iter_mut().enumerate() {
            *word = layout.word(&bytes, number * layout.word_bytes())?;
        }
        Some(words)
    }
}
