//! What is known of the places in a module's code, while it is gathered and before it becomes a cache.
//!
//! A stretch of code belongs to a *node*: a function, a line, and the node it is inlined into. Nodes that are alike are one.
//! Nothing here grows beyond its `MAX_`: what comes later is left out, and `is_full` says so.

use super::cache::{self, Cache};
use std::collections::HashMap;

/// What stands for no node, no name and no file.
pub(crate) const NONE: u32 = u32::MAX;
/// Stretches of code of one cache.
const MAX_RANGES: usize = 3 << 20;
/// Nodes of one cache.
const MAX_NODES: usize = 3 << 20;
/// Linker's symbols of one cache.
const MAX_SYMBOLS: usize = 2 << 20;
/// Bytes of names and paths of one cache.
const MAX_TEXT_BYTES: usize = 96 << 20;
/// Bytes of one name or path; longer ones are cut.
const MAX_STRING_BYTES: usize = 16 << 10;

/// A function at a line, and where that is inlined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    /// The function's name as the linker knows it.
    pub(crate) name: u32,
    /// The source file's path.
    pub(crate) file: u32,
    /// The line, 0 if there is none.
    pub(crate) line: u32,
    /// The column, 0 if there is none.
    pub(crate) column: u32,
    /// The node it is inlined into.
    pub(crate) parent: u32,
    /// Where the function begins, if it is not inlined.
    pub(crate) entry: u64,
}

/// A stretch of code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) node: u32,
}

/// What a linker's table calls a stretch of code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) name: u32,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) stretches: Vec<Stretch>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) labels: Vec<Label>,
    /// What has been looked at, so that what is not in `stretches` is known to be nowhere.
    pub(crate) covered: Vec<(u64, u64)>,
    pub(crate) text: Vec<u8>,
    /// Whether `labels` are all there are.
    pub(crate) has_labels: bool,
    /// Whether something was left out.
    pub(crate) is_full: bool,
    strings: HashMap<Box<[u8]>, u32>,
    known: HashMap<Node, u32>,
}

impl Tables {
    /// Returns the number of a text, the same for the same text.
    pub(crate) fn intern(&mut self, text: &[u8]) -> u32 {
        let text = &text[..text.len().min(MAX_STRING_BYTES)];
        if let Some(number) = self.strings.get(text) {
            return *number;
        }
        let number = self.append(text);
        if number != NONE {
            self.strings.insert(text.into(), number);
        }
        number
    }

    /// Returns a number for a text that is not expected again.
    pub(crate) fn append(&mut self, text: &[u8]) -> u32 {
        let text = &text[..text.len().min(MAX_STRING_BYTES)];
        if self.text.len() + text.len() + 2 > MAX_TEXT_BYTES {
            self.is_full = true;
            return NONE;
        }
        let number = u32::try_from(self.text.len()).expect("there are at most `MAX_TEXT_BYTES`");
        let length = u16::try_from(text.len()).expect("a string is at most `MAX_STRING_BYTES` long");
        self.text.extend_from_slice(&length.to_le_bytes());
        self.text.extend_from_slice(text);
        number
    }

    /// Returns the number of a node, the same for the same node.
    pub(crate) fn node(&mut self, node: Node) -> u32 {
        if let Some(number) = self.known.get(&node) {
            return *number;
        }
        if self.nodes.len() >= MAX_NODES {
            self.is_full = true;
            return NONE;
        }
        let number = u32::try_from(self.nodes.len()).expect("there are at most `MAX_NODES`");
        self.nodes.push(node);
        self.known.insert(node, number);
        number
    }

    /// Forgets which nodes there are, since those of another unit are other ones.
    pub(crate) fn forget_nodes(&mut self) {
        self.known.clear();
    }

    /// Adds a stretch of code.
    pub(crate) fn stretch(&mut self, stretch: Stretch) {
        if stretch.start >= stretch.end || stretch.node == NONE {
            return;
        }
        if let Some(last) = self.stretches.last_mut()
            && last.end == stretch.start
            && last.node == stretch.node
        {
            last.end = stretch.end;
        } else if self.stretches.len() < MAX_RANGES {
            self.stretches.push(stretch);
        } else {
            self.is_full = true;
        }
    }

    /// Adds a linker's symbol.
    pub(crate) fn label(&mut self, start: u64, end: u64, name: &[u8]) {
        if self.labels.len() >= MAX_SYMBOLS {
            self.is_full = true;
            return;
        }
        let name = self.append(name);
        if name != NONE {
            self.labels.push(Label { start, end, name });
        }
    }

    /// Takes over all that a cache holds; what was there before comes first where both know of a place.
    pub(crate) fn absorb(&mut self, cache: &Cache) {
        let first = self.nodes.len();
        self.forget_nodes();
        for index in 0..cache.node_count() {
            let Some(node) = cache.node(index) else { break };
            if self.nodes.len() >= MAX_NODES {
                self.is_full = true;
                break;
            }
            let mut carry = |number| cache.text(number).map_or(NONE, |text| self.intern(text));
            let (name, file) = (carry(node.name), carry(node.file));
            let parent = node.parent.checked_add(u32::try_from(first).unwrap_or(NONE)).unwrap_or(NONE);
            let parent = if node.parent == NONE { NONE } else { parent };
            self.nodes.push(Node { name, file, parent, ..node });
        }
        let limit = u32::try_from(self.nodes.len()).unwrap_or(NONE);
        for mut stretch in cache.stretches() {
            stretch.node = stretch.node.saturating_add(u32::try_from(first).unwrap_or(NONE));
            if stretch.node < limit {
                self.stretch(stretch);
            }
        }
        self.covered.extend(cache.covered());
        if !self.has_labels && cache.has_labels() {
            for label in cache.labels() {
                self.label(label.start, label.end, cache.text(label.name).unwrap_or_default());
            }
            self.has_labels = true;
        }
    }

    /// Puts all in order and returns it as the bytes of a cache.
    pub(crate) fn image(mut self) -> Vec<u8> {
        self.strings = HashMap::new();
        self.known = HashMap::new();
        // Stable, so that of two units that claim a place the one that was read first keeps it.
        self.stretches.sort_by_key(|stretch| stretch.start);
        self.labels.sort_by_key(|label| label.start);
        self.covered = joined(std::mem::take(&mut self.covered));
        cache::image(&self)
    }
}

/// Returns ranges sorted, those that touch as one.
pub(crate) fn joined(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.retain(|(start, end)| start < end);
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined
}
