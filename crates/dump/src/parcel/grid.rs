//! Where a dump is cut, and what its head tells: the grid, its Thoth name, and where it should end.

use crate::core::elf::{ET_CORE, Header, MAX_ENTRY_BYTES, MAX_HEADER_BYTES, Segment};
use crate::core::note::{NT_PRPSINFO, Notes, Person};
use crate::id::{IdError, QuickId, quick_id, read_at};
use crate::kind::{self, kind};
use crate::redact::Outline;
use model::DumpKind;
use model::dump::DumpFacts;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;

/// Bytes that are held back from the beginning of a stream until its headers are there. A longer dump whose headers are
/// longer, or of which a section says how many there are, has no grid if it comes as a stream, and goes by its content.
pub const MAX_HEAD_BYTES: u64 = 4 << 20;
/// Bytes of notes that are held while a stream goes by, so that it has the name that its file would have.
const MAX_NOTES_BYTES: u64 = 16 << 20;
/// Parts of a file that are held so.
const MAX_PARTS: usize = 64;
/// Bytes of notes that are looked at for the process: of each thread the registers alone are a few hundred.
const MAX_FACTS_BYTES: usize = 64 << 10;
/// Segments that the grid minds.
const MAX_STARTS: u32 = 1 << 20;

/// What is looked at of anything: enough for the header of an illumos dump.
const FIRST_BYTES: u64 = 8_192;

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
    /// What sort of dump begins like this.
    kind: Option<DumpKind>,
    /// What its notes say of the process it is of, if it is a core.
    pub facts: DumpFacts,
    /// Where its headers and its segments say that it ends.
    pub end: u64,
    /// Where the grid begins afresh.
    pub(super) starts: Vec<u64>,
    /// Where its memory and its notes are, if it is a core.
    pub(super) outline: Option<Outline>,
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
        let mut first = vec![0; kind::MAX_HEAD_BYTES];
        let length = read_at(reader, 0, &mut first)?;
        let mut head = Self::of_kind(kind(&first[..length]));
        head.hash = hash;
        head.segments(reader)?;
        Ok(head)
    }

    fn of_kind(kind: DumpKind) -> Self {
        // The header of an illumos dump is of one length.
        let end = if kind == DumpKind::Illumos { FIRST_BYTES } else { 0 };
        Self { kind: Some(kind), end, ..Self::default() }
    }

    /// Reads it from the beginning of a stream, as far as it is there: without a name, which takes the notes.
    pub(super) fn of_beginning(bytes: &[u8]) -> io::Result<(Self, Passing)> {
        let mut head = Self::of_kind(kind(bytes));
        let notes = head.segments(&mut Cursor::new(bytes))?;
        let length = bytes.len() as u64;
        let parts: Vec<_> = if length < MAX_HEAD_BYTES {
            // There is no more of it.
            std::iter::once(0..length).collect()
        } else {
            needed(bytes).map(|needed| std::iter::once(0..needed).chain(notes).collect()).unwrap_or_default()
        };
        Ok((head, Passing::new(parts)))
    }

    /// Tells what sort of thing it is, as far as the head alone tells.
    pub fn kind(&self) -> DumpKind {
        self.kind.unwrap_or(DumpKind::Unknown)
    }

    /// Notes the segments, and returns where there are notes.
    fn segments(&mut self, reader: &mut (impl Read + Seek)) -> io::Result<Vec<Range<u64>>> {
        let mut first = [0; MAX_HEADER_BYTES];
        let length = read_at(reader, 0, &mut first)?;
        let Some(header) = Header::parse(&first[..length]).filter(|header| header.kind == ET_CORE) else {
            return Ok(Vec::new());
        };
        let mut notes = Vec::new();
        let mut outline = Outline { layout: header.layout, loads: Vec::new(), notes: Vec::new(), is_cut: false };
        self.is_core = true;
        let count = match header.count() {
            Some(count) => count,
            None => {
                let mut section = [0; MAX_ENTRY_BYTES];
                let length = read_at(reader, header.sections_at, &mut section)?;
                let count = header.count_in_section(&section[..length]);
                outline.is_cut |= count.is_none();
                self.end = header.sections_at.saturating_add(header.section_bytes() as u64);
                count.unwrap_or(0)
            }
        };
        if let Some(last) = count.checked_sub(1) {
            let table = u64::from(last) * header.stride() + header.entry_bytes() as u64;
            self.end = self.end.max(header.segments_at.saturating_add(table));
        }
        for number in 0..count.min(MAX_STARTS) {
            let mut entry = [0; MAX_ENTRY_BYTES];
            let at = header.segments_at.saturating_add(u64::from(number) * header.stride());
            let length = read_at(reader, at, &mut entry[..header.entry_bytes()])?;
            let Some(segment) = Segment::parse(header.layout, &entry[..length]) else {
                outline.is_cut = true;
                break;
            };
            if segment.file_bytes > 0 {
                outline.take(&segment);
                let end = segment.offset.saturating_add(segment.file_bytes);
                self.end = self.end.max(end);
                self.starts.push(segment.offset);
                if segment.kind == Segment::NOTE && notes.len() <= MAX_PARTS {
                    notes.push(segment.offset..end);
                }
            }
        }
        outline.is_cut |= count > MAX_STARTS;
        self.facts = facts(reader, &outline)?;
        self.outline = Some(outline);
        self.starts.sort_unstable();
        self.starts.dedup();
        Ok(notes)
    }
}

/// Reads what the notes say of the process, which stands at their beginning.
fn facts(reader: &mut (impl Read + Seek), outline: &Outline) -> io::Result<DumpFacts> {
    let Some((range, align)) = outline.notes.first() else { return Ok(DumpFacts::default()) };
    let length = usize::try_from(range.end - range.start).map_or(MAX_FACTS_BYTES, |length| length.min(MAX_FACTS_BYTES));
    let mut bytes = vec![0; length];
    let length = read_at(reader, range.start, &mut bytes)?;
    let mut notes = Notes::new(outline.layout, &bytes[..length], *align);
    let person = notes.find(|note| note.kind == NT_PRPSINFO && note.owner == b"CORE");
    let Some(person) = person.and_then(|note| Person::read(outline.layout, note.content)) else {
        return Ok(DumpFacts::default());
    };
    let word = |text: String| Some(text).filter(|text| !text.is_empty());
    let (cmd, psargs) = (word(person.name), word(person.arguments));
    Ok(DumpFacts { cmd, psargs, pid: Some(person.pid), ..DumpFacts::default() })
}

/// Returns how many bytes of a stream the headers take, or none if they take more than are held back.
fn needed(bytes: &[u8]) -> Option<u64> {
    let Some(header) = Header::parse(bytes).filter(|header| header.kind == ET_CORE) else {
        return Some(FIRST_BYTES);
    };
    // Where the first section says how many there are, it has not come yet.
    let table = u64::from(header.count()?) * header.stride();
    Some(header.segments_at.saturating_add(table).max(FIRST_BYTES)).filter(|needed| *needed <= MAX_HEAD_BYTES)
}

/// What has gone by of the parts of a stream that its name takes.
#[derive(Debug)]
pub(super) struct Passing {
    parts: Vec<(Range<u64>, Vec<u8>)>,
    /// How much more may be held.
    left: u64,
    at: u64,
}

impl Passing {
    fn new(parts: Vec<Range<u64>>) -> Self {
        let parts = if parts.len() <= MAX_PARTS { parts } else { Vec::new() };
        let parts = parts.into_iter().map(|part| (part, Vec::new())).collect();
        Self { parts, left: MAX_HEAD_BYTES + MAX_NOTES_BYTES, at: 0 }
    }

    /// Keeps what it needs of what goes by. One of which too much would have to be held has no name; how much its headers
    /// announce does not matter, since less may come.
    pub(super) fn pass(&mut self, start: u64, bytes: &[u8]) {
        let end = start + bytes.len() as u64;
        for (part, held) in &mut self.parts {
            let (from, to) = (part.start.max(start), part.end.min(end));
            if from < to {
                let place = |at: u64| usize::try_from(at - start).expect("it lies within what goes by");
                let Some(left) = self.left.checked_sub(to - from) else {
                    self.parts.clear();
                    return;
                };
                self.left = left;
                held.extend_from_slice(&bytes[place(from)..place(to)]);
            }
        }
    }

    /// Returns up to where there is something that the name takes.
    pub(super) fn end(&self) -> u64 {
        self.parts.iter().map(|(part, _)| part.end).max().unwrap_or(0)
    }

    /// Returns the name that all that has gone by has.
    pub(super) fn hash(&mut self) -> Option<QuickId> {
        quick_id(self).ok().flatten()
    }
}

impl Read for Passing {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let holds = |part: &Range<u64>, held: &Vec<u8>| {
            let within = usize::try_from(self.at.checked_sub(part.start)?).ok()?;
            held.get(within..).filter(|left| !left.is_empty()).map(<[u8]>::len)
        };
        let Some((part, held)) = self.parts.iter().find(|(part, held)| holds(part, held).is_some()) else {
            return Ok(0);
        };
        let left = &held[usize::try_from(self.at - part.start).expect("it was looked at above")..];
        let length = left.len().min(into.len());
        into[..length].copy_from_slice(&left[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Passing {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(at) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.at = at;
        Ok(at)
    }
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
