//! ELF cores: what a process leaves when it dies, or when somebody asks for a picture of it.
//!
//! A core is read where it lies, mapped; nothing of its body is copied. It may be cut short anywhere, announce what is not
//! there, overlap itself and lie: what can be read of it is read, and `notes` tells the rest. Linux's cores of `x86_64` and
//! `aarch64` are read whole, those of `x86` and `arm` as far as they are alike.

pub(crate) mod elf;
mod extra;
mod image;
mod link;
pub(crate) mod note;
pub(crate) mod signal;
mod stack;
mod view;

pub use extra::{EXTRA_KIND, EXTRA_OWNER, Extra, MAX_EXTRA_BYTES};
pub(crate) use image::{Image, VDSO};
pub(crate) use stack::{Beginning, beginning};
pub(crate) use view::View;

use crate::id::MAX_SEGMENTS;
use crate::mapped::Mapped;
use crate::memory::Memory;
use crate::unwind::Arch;
use elf::{ET_CORE, Header, Segment};
use model::report::{MAX_NOTES, MAX_THREADS, NoteCode};
use note::{Account, Mapping, Note, Notes, Person, Status};
use std::cell::Cell;
use std::ops::Range;

/// Bytes of notes that are read of one core, all segments together.
const MAX_NOTES_BYTES: usize = 256 << 20;

/// Returns the files with a build id that were mapped in a core: the path of each, and its build id. Of anything else, or of
/// a core that cannot be read, there are none. Some writers of cores do not tell what was executable, so that is not asked.
pub fn mapped_modules(file: &std::fs::File) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let bytes = Mapped::of(file)?;
    Ok(Core::read(&bytes).map(|core| core.built()).unwrap_or_default())
}

/// A piece of memory that a core has, or says that the process had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Where in the file its bytes are; fewer than it is long if its end was not kept.
    file_start: usize,
    file_end: usize,
    pub(crate) flags: u32,
}

/// An ELF core.
#[derive(Debug)]
pub(crate) struct Core<'a> {
    bytes: &'a [u8],
    pub(crate) header: Header,
    /// None if its processor is one we do not know; then there are no threads either.
    pub(crate) arch: Option<Arch>,
    /// By address.
    pub(crate) pieces: Vec<Piece>,
    /// In the order of the file: the kernel writes the one that crashed first.
    pub(crate) threads: Vec<Status>,
    threads_left: usize,
    pub(crate) account: Option<Account>,
    pub(crate) person: Option<Person>,
    pub(crate) auxv: Vec<(u64, u64)>,
    /// By address.
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) extra: Option<Extra>,
    /// Bits of a return address that are its signature and not its place.
    pub(crate) signed_bits: Option<u64>,
    pub(crate) is_truncated: bool,
    /// Bytes of notes that may yet be read.
    note_bytes_left: usize,
    pub(crate) notes: Vec<(NoteCode, String)>,
    /// The piece that was read last; the next read is mostly of the same.
    last: Cell<usize>,
}

impl<'a> Core<'a> {
    /// Reads a core; none if it is something else.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let header = Header::parse(bytes).filter(|header| header.kind == ET_CORE)?;
        let mut core = Self {
            bytes,
            header,
            arch: Arch::of_machine(header.machine),
            pieces: Vec::new(),
            threads: Vec::new(),
            threads_left: 0,
            account: None,
            person: None,
            auxv: Vec::new(),
            mappings: Vec::new(),
            extra: None,
            signed_bits: None,
            is_truncated: false,
            note_bytes_left: MAX_NOTES_BYTES,
            notes: Vec::new(),
            last: Cell::new(0),
        };
        core.arch = core.arch.filter(|arch| usize::from(arch.word_bytes()) == header.layout.word_bytes());
        core.read_segments();
        if core.threads_left > 0 {
            let all = core.threads.len() + core.threads_left;
            core.note(NoteCode::Cut, format!("of {all} threads only {MAX_THREADS} are read"));
        }
        core.pieces.sort_by_key(|piece| piece.start);
        core.mappings.sort_by_key(|mapping| mapping.start);
        Some(core)
    }

    fn read_segments(&mut self) {
        let header = self.header;
        let section = usize::try_from(header.sections_at).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default();
        let count = header.count().or_else(|| header.count_in_section(section));
        // The number of segments stands at the very end of a core that has very many: what is cut short has lost it.
        let announced = count.unwrap_or(MAX_SEGMENTS);
        if count.is_none() {
            self.is_truncated = true;
            self.note(NoteCode::Truncated, "the core's end is missing, which says how many segments it has");
        }
        if announced > MAX_SEGMENTS {
            self.note(NoteCode::Cut, format!("of {announced} segments only {MAX_SEGMENTS} are read"));
        }
        let mut lost = 0_u64;
        for number in 0..announced.min(MAX_SEGMENTS) {
            let at = header.segments_at.saturating_add(u64::from(number) * header.stride());
            let bytes = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default();
            let Some(segment) = Segment::parse(header.layout, bytes) else {
                // How many there are is not known where that is missing; the first that is not there is the end then.
                if let Some(count) = count {
                    let text = format!("the core's headers are cut or damaged: {number} of {count} segments are told");
                    self.note(NoteCode::Truncated, text);
                }
                self.is_truncated = true;
                break;
            };
            let place = self.place(&segment);
            let missing = segment.file_bytes - (place.end - place.start) as u64;
            if missing > 0 && matches!(segment.kind, Segment::LOAD | Segment::NOTE) {
                lost = lost.saturating_add(missing);
                self.is_truncated = true;
            }
            match segment.kind {
                Segment::LOAD => self.read_load(&segment, place),
                Segment::NOTE => self.read_notes(&segment, place),
                _ => {}
            }
        }
        if lost > 0 {
            self.note(NoteCode::Truncated, format!("the core's end is missing: {lost} bytes of what it announces"));
        }
    }

    /// Returns where in the file a segment's bytes are, as far as the file goes.
    fn place(&self, segment: &Segment) -> Range<usize> {
        let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.bytes.len());
        cut(segment.offset)..cut(segment.offset.saturating_add(segment.file_bytes))
    }

    fn read_load(&mut self, segment: &Segment, place: Range<usize>) {
        let end = segment.address.saturating_add(segment.memory_bytes);
        if segment.address < end {
            let most = usize::try_from(segment.memory_bytes).unwrap_or(usize::MAX);
            self.pieces.push(Piece {
                start: segment.address,
                end,
                file_start: place.start,
                file_end: place.end.min(place.start.saturating_add(most)),
                flags: segment.flags,
            });
        }
    }

    fn read_notes(&mut self, segment: &Segment, place: Range<usize>) {
        // Many segments may tell of the same bytes.
        let Some(rest) = self.note_bytes_left.checked_sub(place.len()) else {
            self.note(
                NoteCode::Cut,
                format!("more than {MAX_NOTES_BYTES} bytes of notes are announced; the rest is not read"),
            );
            return;
        };
        self.note_bytes_left = rest;
        let bytes = &self.bytes[place];
        let mut notes = Notes::new(self.header.layout, bytes, segment.align);
        for note in notes.by_ref() {
            self.read_note(&note);
        }
        if notes.is_broken() {
            self.note(NoteCode::Broken, "a note is not whole; those behind it are not read");
        }
    }

    fn read_note(&mut self, note: &Note<'_>) {
        let layout = self.header.layout;
        match (note.owner, note.kind) {
            (b"CORE", note::NT_PRSTATUS) => self.read_status(note.content),
            (b"CORE", note::NT_PRPSINFO) => self.person = Person::read(layout, note.content),
            // Newer kernels write one for each thread; the first is that of the one that crashed.
            (b"CORE", note::NT_SIGINFO) if self.account.is_none() => {
                self.account = Account::read(layout, note.content);
            }
            (b"CORE", note::NT_AUXV) => self.auxv = note::auxv(layout, note.content),
            (b"CORE", note::NT_FILE) => {
                let (mappings, is_whole) = note::mappings(layout, note.content);
                self.mappings = mappings;
                if !is_whole {
                    self.note(NoteCode::Broken, "the list of mapped files is not whole");
                }
            }
            (b"LINUX", note::NT_ARM_PAC_MASK) => self.signed_bits = layout.u64(note.content, 8),
            (EXTRA_OWNER, EXTRA_KIND) => {
                self.extra = Extra::read(note.content);
                if self.extra.is_none() {
                    self.note(NoteCode::Broken, "what was caught along with the core cannot be read");
                }
            }
            _ => {}
        }
    }

    fn read_status(&mut self, content: &[u8]) {
        let Some(arch) = self.arch else { return };
        match Status::read(self.header.layout, arch, content) {
            Some(status) if self.threads.len() < MAX_THREADS => self.threads.push(status),
            Some(_) => self.threads_left += 1,
            None => self.note(NoteCode::Broken, "a thread's registers are not whole"),
        }
    }

    fn note(&mut self, code: NoteCode, text: impl Into<String>) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push((code, text.into()));
        }
    }

    /// Returns the piece that an address is in.
    pub(crate) fn piece(&self, address: u64) -> Option<&Piece> {
        let is_in = |piece: &&Piece| (piece.start..piece.end).contains(&address);
        if let Some(piece) = self.pieces.get(self.last.get()).filter(is_in) {
            return Some(piece);
        }
        let at = self.pieces.partition_point(|piece| piece.start <= address).checked_sub(1)?;
        let piece = self.pieces.get(at).filter(is_in)?;
        self.last.set(at);
        Some(piece)
    }

    /// Returns what of a piece was kept, from an address in it on.
    pub(crate) fn kept(&self, piece: &Piece, address: u64) -> &'a [u8] {
        let skip = usize::try_from(address - piece.start).unwrap_or(usize::MAX);
        let kept = self.bytes.get(piece.file_start..piece.file_end).unwrap_or_default();
        kept.get(skip..).unwrap_or_default()
    }

    /// Returns an entry of the auxiliary vector.
    pub(crate) fn aux(&self, kind: u64) -> Option<u64> {
        self.auxv.iter().find(|entry| entry.0 == kind).map(|entry| entry.1)
    }

    /// Returns what could be executed, by address and with neighbours joined.
    pub(crate) fn executable(&self) -> Vec<Range<u64>> {
        let pieces = self.pieces.iter().filter(|piece| piece.flags & Segment::EXECUTABLE != 0);
        let mut all: Vec<_> = pieces.map(|piece| piece.start..piece.end).collect();
        for image in self.images() {
            all.extend(self.unsaid(&image));
        }
        all.sort_unstable_by_key(|range| range.start);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for range in all {
            match ranges.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => ranges.push(range),
            }
        }
        ranges
    }
}

impl Memory for Core<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let Some(address) = address.checked_add(done as u64) else { break };
            let Some(piece) = self.piece(address) else { break };
            let kept = self.kept(piece, address);
            let length = kept.len().min(into.len() - done);
            if length == 0 {
                break;
            }
            into[done..done + length].copy_from_slice(&kept[..length]);
            done += length;
        }
        done
    }
}
