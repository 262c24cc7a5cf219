//! Where a dump is cut, and what its head tells: the grid, its Thoth name, and where it should end.

use crate::core::elf::{ET_CORE, Header, Layout, MAX_ENTRY_BYTES, MAX_HEADER_BYTES, Segment};
use crate::id::{IdError, QuickId, quick_id};
use model::DumpKind;
use std::io::{self, Cursor, Read, Seek, SeekFrom};

/// Bytes that are held back from the beginning of a stream until its headers and notes are there. A head that is longer
/// costs the dump its Thoth name and its grid, and nothing else.
pub const MAX_HEAD_BYTES: u64 = 16 << 20;
/// Segments that the grid minds.
const MAX_STARTS: u32 = 1 << 20;

/// A step of the grid, and the place in the file up to which it is taken.
const STEPS: [(u64, u64); 3] = [(1 << 30, 64 << 10), (4 << 30, 256 << 10), (16 << 30, 1 << 20)];
/// The step from there on.
const LAST_STEP: u64 = 2 << 20;

/// What the head of a dump tells.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The name that Thoth would give it, if it would.
    pub hash: Option<QuickId>,
    /// Whether it is an ELF core.
    pub is_core: bool,
    /// Where its segments say that it ends.
    pub end: u64,
    /// Where the grid begins afresh.
    pub(super) starts: Vec<u64>,
}

impl Head {
    /// Reads it.
    pub fn read(reader: &mut (impl Read + Seek)) -> io::Result<Self> {
        let hash = match quick_id(reader) {
            Ok(hash) => hash,
            Err(IdError::Unreadable(error)) => return Err(error),
            // What announces more than anything real does is kept like anything else, and goes by its content.
            Err(IdError::TooMany { .. }) => None,
        };
        let mut head = Self { hash, ..Self::default() };
        head.segments(reader)?;
        Ok(head)
    }

    /// Reads it from the beginning of a stream; without a name, if the beginning is not all that the name takes.
    pub(super) fn of_beginning(bytes: &[u8]) -> io::Result<Self> {
        let mut cursor = Cursor::new(bytes);
        match needed(bytes) {
            Some(needed) if needed <= bytes.len() as u64 => Self::read(&mut cursor),
            // What is not there would be taken for the end of the dump, and give it another name.
            _ => {
                let mut head = Self::default();
                head.segments(&mut cursor)?;
                Ok(head)
            }
        }
    }

    /// Tells what sort of thing it is, as far as the head alone tells.
    pub const fn kind(&self) -> DumpKind {
        if self.is_core { DumpKind::Core } else { DumpKind::Unknown }
    }

    fn segments(&mut self, reader: &mut (impl Read + Seek)) -> io::Result<()> {
        let mut first = [0; MAX_HEADER_BYTES];
        let length = read_at(reader, 0, &mut first)?;
        let Some(header) = Header::parse(&first[..length]).filter(|header| header.kind == ET_CORE) else {
            return Ok(());
        };
        self.is_core = true;
        let count = match header.count() {
            Some(count) => count,
            None => {
                let mut section = [0; MAX_ENTRY_BYTES];
                let length = read_at(reader, header.sections_at, &mut section)?;
                header.count_in_section(&section[..length]).unwrap_or(0)
            }
        };
        for number in 0..count.min(MAX_STARTS) {
            let mut entry = [0; MAX_ENTRY_BYTES];
            let at = header.segments_at.saturating_add(u64::from(number) * header.stride());
            let length = read_at(reader, at, &mut entry[..header.entry_bytes()])?;
            let Some(segment) = Segment::parse(header.layout, &entry[..length]) else { break };
            if segment.file_bytes > 0 {
                self.end = self.end.max(segment.offset.saturating_add(segment.file_bytes));
                self.starts.push(segment.offset);
            }
        }
        self.starts.sort_unstable();
        self.starts.dedup();
        Ok(())
    }
}

/// Returns how many bytes of a stream must be there before its head can be read; none if that cannot be told yet.
pub(super) fn needed(bytes: &[u8]) -> Option<u64> {
    let first = bytes.len() as u64;
    if first < MAX_HEADER_BYTES as u64 {
        return None;
    }
    let Some(header) = Header::parse(bytes).filter(|header| header.kind == ET_CORE) else {
        // Enough for the header of an illumos dump, and for whoever looks what sort of thing it is.
        return Some(8_192);
    };
    let entry = header.entry_bytes() as u64;
    let table = |count: u32| header.segments_at.saturating_add(u64::from(count) * header.stride()).max(entry);
    let count = match header.count() {
        Some(count) => count,
        None => {
            let end = header.sections_at.saturating_add(header.section_bytes() as u64);
            let section = usize::try_from(header.sections_at).ok().and_then(|at| bytes.get(at..));
            match section.and_then(|section| header.count_in_section(section)) {
                Some(count) => count,
                None => return Some(end),
            }
        }
    };
    let mut needed = table(count);
    if needed > first {
        return Some(needed);
    }
    for number in 0..count {
        if let Some(segment) = segment_at(bytes, &header, number, header.layout).filter(|one| one.kind == Segment::NOTE)
        {
            needed = needed.max(segment.offset.saturating_add(segment.file_bytes));
        }
    }
    Some(needed)
}

fn segment_at(bytes: &[u8], header: &Header, number: u32, layout: Layout) -> Option<Segment> {
    let at = header.segments_at.checked_add(u64::from(number) * header.stride())?;
    Segment::parse(layout, bytes.get(usize::try_from(at).ok()?..)?)
}

fn read_at(reader: &mut (impl Read + Seek), at: u64, into: &mut [u8]) -> io::Result<usize> {
    if i64::try_from(at).is_err() {
        return Ok(0);
    }
    reader.seek(SeekFrom::Start(at))?;
    let mut length = 0;
    while length < into.len() {
        match reader.read(&mut into[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// The places at which a dump is cut.
#[derive(Debug)]
pub(super) struct Grid {
    starts: Vec<u64>,
    /// The next of them.
    next: usize,
}

impl Grid {
    pub(super) fn new(head: &Head) -> Self {
        Self { starts: head.starts.clone(), next: 0 }
    }

    /// Returns how long the chunk is that begins at `at`, which only ever grows.
    pub(super) fn step(&mut self, at: u64) -> usize {
        while self.starts.get(self.next).is_some_and(|start| *start <= at) {
            self.next += 1;
        }
        let step = STEPS.iter().find(|(below, _)| at < *below).map_or(LAST_STEP, |(_, step)| *step);
        let left = self.starts.get(self.next).map_or(u64::MAX, |start| start - at);
        usize::try_from(step.min(left)).expect("a step is a few megabytes at most")
    }
}
