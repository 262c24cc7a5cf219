//! Modules as they lay in memory, and what their files say stood where.

use crate::core::elf::{Header, Segment};
use crate::module::{ModuleFile, Section};
use object::{Object, ObjectSection};
use std::sync::{Arc, OnceLock};

/// Parts of one file that were loaded.
const MAX_PARTS: u32 = 256;

/// A module: something that was mapped to be executed, and its file if it was found.
#[derive(Debug)]
pub struct Loaded {
    /// Where it begins in memory.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// What is added to its file's addresses to get those in memory.
    pub bias: u64,
    file: Option<Arc<ModuleFile>>,
    /// What of the file was loaded, by the file's own addresses.
    parts: Vec<Segment>,
    index: Option<u64>,
    debug_frame: OnceLock<Option<Section>>,
}

impl Loaded {
    /// Returns a module; nothing is read of its file but the headers.
    pub fn new(start: u64, end: u64, bias: u64, file: Option<Arc<ModuleFile>>) -> Self {
        let headers = file.as_ref().map(|file| headers(file.bytes())).unwrap_or_default();
        let index = headers.iter().find(|header| header.kind == Segment::EH_FRAME).map(|header| header.address);
        let mut parts: Vec<_> = headers.into_iter().filter(|header| header.kind == Segment::LOAD).collect();
        parts.sort_by_key(|part| part.address);
        Self { start, end, bias, file, parts, index, debug_frame: OnceLock::new() }
    }

    /// Returns its file.
    pub fn file(&self) -> Option<&Arc<ModuleFile>> {
        self.file.as_ref()
    }

    /// Tells whether an address is in it.
    pub fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Returns where the index of its call frame information is, as the file counts.
    pub(crate) fn index(&self) -> Option<u64> {
        self.index
    }

    /// Returns what the file has from one of its own addresses to the end of what was loaded along with it.
    pub(crate) fn part(&self, address: u64) -> Option<&[u8]> {
        self.part_of(address).map(|(_, bytes)| bytes)
    }

    /// Returns what an address in memory holds that nobody could write to.
    pub(crate) fn constant(&self, address: u64) -> Option<&[u8]> {
        let (part, bytes) = self.part_of(address.wrapping_sub(self.bias))?;
        (part.flags & Segment::WRITABLE == 0).then_some(bytes)
    }

    /// Returns a section that is loaded: where the file has it in memory, and its bytes.
    pub(crate) fn section(&self, name: &str) -> Option<(u64, &[u8])> {
        let elf = self.file.as_ref()?.elf().ok()?;
        let section = elf.section_by_name(name)?;
        let bytes = section.data().ok()?;
        (!bytes.is_empty()).then(|| (section.address(), bytes))
    }

    /// Returns `.debug_frame`, inflated if need be.
    pub(crate) fn debug_frame(&self) -> Option<&[u8]> {
        let read = || self.file.as_ref()?.section(".debug_frame");
        self.debug_frame.get_or_init(read).as_deref()
    }

    fn part_of(&self, address: u64) -> Option<(&Segment, &[u8])> {
        let at = self.parts.partition_point(|part| part.address <= address).checked_sub(1)?;
        let part = &self.parts[at];
        let skip = address - part.address;
        let left = usize::try_from(part.file_bytes.checked_sub(skip)?).ok()?;
        let start = usize::try_from(part.offset.checked_add(skip)?).ok()?;
        let bytes = self.file.as_ref()?.bytes().get(start..)?;
        (left > 0).then(|| (part, &bytes[..left.min(bytes.len())]))
    }
}

fn headers(file: &[u8]) -> Vec<Segment> {
    let Some(header) = Header::parse(file) else { return Vec::new() };
    let read = |number: u32| {
        let at = header.segments_at.checked_add(u64::from(number) * header.stride())?;
        Segment::parse(header.layout, file.get(usize::try_from(at).ok()?..)?)
    };
    (0..header.count().unwrap_or(0).min(MAX_PARTS)).map_while(read).collect()
}

/// Returns which of the modules, which are sorted by address, an address is in.
pub(crate) fn module_at(modules: &[Loaded], address: u64) -> Option<usize> {
    let at = modules.partition_point(|module| module.start <= address).checked_sub(1)?;
    modules[at].contains(address).then_some(at)
}
