//! What is known of a process's memory by its minidump, and by the files of its modules where nobody could write.

use crate::memory::Memory;
use crate::unwind::{Loaded, module_at};

/// A range of memory that a minidump keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) length: usize,
    pub(super) at: usize,
}

/// The memory of a process.
#[derive(Debug)]
pub(super) struct View<'a> {
    /// By address.
    pub(super) ranges: Vec<Range>,
    pub(super) modules: &'a [Loaded],
    pub(super) bytes: &'a [u8],
}

impl View<'_> {
    fn part(&self, address: u64) -> Option<&[u8]> {
        let kept = || {
            let at = self.ranges.partition_point(|range| range.start <= address).checked_sub(1)?;
            let range = self.ranges[at];
            let skip = usize::try_from(address - range.start).ok().filter(|skip| *skip < range.length)?;
            let rest = self.bytes.get(range.at.checked_add(skip)?..)?;
            Some(&rest[..rest.len().min(range.length - skip)])
        };
        let part = kept().or_else(|| self.modules[module_at(self.modules, address)?].constant(address))?;
        (!part.is_empty()).then_some(part)
    }
}

impl Memory for View<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let Some(part) = address.checked_add(done as u64).and_then(|address| self.part(address)) else { break };
            let length = part.len().min(into.len() - done);
            into[done..done + length].copy_from_slice(&part[..length]);
            done += length;
        }
        done
    }
}
