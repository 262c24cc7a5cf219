//! The programs and libraries that were mapped, found by what the core itself has of them: their paths, and the first page
//! of each, in which the program headers and mostly the build id lie.

use super::elf::{Header, Layout, MAX_HEADER_BYTES, Segment};
use super::note::{self, AT_SYSINFO_EHDR, Mapping};
use super::{Core, Piece};
use crate::memory::{Memory, read_some};
use model::report::{MAX_MODULES, MAX_NAME_CHARS};
use std::ops::Range;

/// Program headers of one image.
const MAX_HEADERS: u32 = 256;
/// Bytes of one image's notes.
const MAX_NOTE_BYTES: u64 = 64 << 10;
/// Program headers of all images of a core together, and bytes of all their notes.
const MAX_ALL_HEADERS: usize = 1 << 20;
const MAX_ALL_NOTE_BYTES: usize = 256 << 20;
/// Bytes of the largest page that there is.
const MAX_PAGE: u64 = 1 << 16;
/// How much farther apart, or less far, two parts of a file may be mapped than they stand in it.
const MAX_SLACK: u64 = 256 << 20;
/// Bytes of an image that is copied out of a core.
const MAX_COPY_BYTES: u64 = 64 << 20;

/// What the kernel's own library is called, which comes from no file.
pub(crate) const VDSO: &str = "[vdso]";

/// Something that was mapped to be executed.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) path: String,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// None if its headers are not in the core; its file's tell, if there is one.
    pub(crate) bias: Option<u64>,
    pub(crate) build_id: Option<Vec<u8>>,
    /// Of what was mapped first: where it is, and which part of the file.
    first: (u64, u64),
    layout: Layout,
    pub(super) headers: Vec<Segment>,
}

/// What may yet be read of the headers of all images of a core: a hostile one has many that share their bytes.
struct Budget {
    headers: usize,
    note_bytes: usize,
}

impl Budget {
    fn full() -> Self {
        Self { headers: MAX_ALL_HEADERS, note_bytes: MAX_ALL_NOTE_BYTES }
    }
}

impl Core<'_> {
    /// Returns what was mapped to be executed, by address.
    pub(crate) fn images(&self) -> Vec<Image> {
        let mut images: Vec<Image> = Vec::new();
        let mut budget = Budget::full();
        for mapping in &self.mappings {
            let is_part = |last: &Image| last.path == mapping.path && last.reaches(mapping);
            if let Some(last) = images.last_mut().filter(|last| is_part(last)) {
                last.end = last.end.max(mapping.end);
            } else if images.len() < 4 * MAX_MODULES {
                images.push(self.image(mapping, &mut budget));
            } else {
                break;
            }
        }
        let own = self.aux(AT_SYSINFO_EHDR);
        // How many pieces up to each could be executed.
        let counts = self.pieces.iter().scan(0_u32, |count, piece| {
            *count += u32::from(piece.flags & Segment::EXECUTABLE != 0);
            Some(*count)
        });
        let counts: Vec<u32> = std::iter::once(0).chain(counts).collect();
        let is_executable = |image: &Image| {
            let from = self.pieces.partition_point(|piece| piece.end <= image.start);
            let to = self.pieces.partition_point(|piece| piece.start < image.end);
            counts[from.min(to)] < counts[to]
        };
        images.retain(|image| is_executable(image) || self.unsaid(image).next().is_some());
        let named: Vec<_> = images.iter().map(|image| (image.start, image.end)).collect();
        let is_named = |piece: &Piece| {
            let at = named.partition_point(|(start, _)| *start <= piece.start);
            at.checked_sub(1).is_some_and(|at| piece.start < named[at].1)
        };
        for piece in self.pieces.iter().filter(|piece| piece.flags & Segment::EXECUTABLE != 0) {
            if images.len() < 4 * MAX_MODULES
                && self.kept(piece, piece.start).starts_with(b"\x7fELF")
                && !is_named(piece)
            {
                let path = if own == Some(piece.start) { VDSO } else { "" };
                let mapping = Mapping { start: piece.start, end: piece.end, offset: 0, path: path.to_owned() };
                images.push(self.image(&mapping, &mut budget));
            }
        }
        images.sort_by_key(|image| image.start);
        images.truncate(MAX_MODULES);
        images
    }

    /// Returns the files with a build id of which the beginning was mapped, by address.
    pub(crate) fn built(&self) -> Vec<(String, Vec<u8>)> {
        let beginnings = self.mappings.iter().filter(|mapping| mapping.offset == 0).take(4 * MAX_MODULES);
        let mut budget = Budget::full();
        let images = beginnings.map(|mapping| self.image(mapping, &mut budget));
        images.filter_map(|image| Some((image.path, image.build_id?))).collect()
    }

    /// Returns where the headers of an image say there is code of which the core says nothing at all: debuggers that write
    /// cores leave it out, where a kernel says at least that it was there.
    pub(super) fn unsaid<'i>(&'i self, image: &'i Image) -> impl Iterator<Item = Range<u64>> + 'i {
        let is_code = |load: &&Segment| load.kind == Segment::LOAD && load.flags & Segment::EXECUTABLE != 0;
        let ranges = image.headers.iter().filter(is_code).filter_map(|load| {
            let start = image.bias?.wrapping_add(load.address);
            let end = start.saturating_add(load.memory_bytes).min(image.end);
            (start >= image.start && start < end).then_some(start..end)
        });
        ranges.filter(|range| self.piece(range.start).is_none())
    }

    /// Reads what a core has of the image that begins with a mapping.
    fn image(&self, mapping: &Mapping, budget: &mut Budget) -> Image {
        let mut image = Image {
            path: mapping.path.chars().take(MAX_NAME_CHARS).collect(),
            start: mapping.start,
            end: mapping.end,
            bias: None,
            build_id: None,
            first: (mapping.start, mapping.offset),
            layout: self.header.layout,
            headers: Vec::new(),
        };
        if mapping.offset == 0
            && let Some((layout, headers)) = headers(self, mapping.start)
            && let Some(rest) = budget.headers.checked_sub(headers.len())
        {
            budget.headers = rest;
            image.layout = layout;
            image.bias = bias(&headers, mapping.start, 0);
            image.build_id = image.bias.and_then(|bias| build_id(self, layout, &headers, bias, budget));
            image.headers = headers;
        }
        image
    }
}

impl Image {
    /// Tells whether what is mapped behind it from the same file is a part of it. A program may map its own file once more,
    /// anywhere: to a module that would be all that lies between.
    fn reaches(&self, mapping: &Mapping) -> bool {
        if self.bias.is_some() {
            return mapping.start < self.announced_end().saturating_add(MAX_PAGE);
        }
        // Parts of a file stand as far apart as in it, but for what no file tells and how they are aligned.
        let (start, offset) = self.first;
        let (apart, told) = (mapping.start - start, mapping.offset.saturating_sub(offset));
        told > 0 && apart.abs_diff(told) <= MAX_SLACK
    }

    /// Returns where its own headers say it ends.
    fn announced_end(&self) -> u64 {
        let Some(bias) = self.bias else { return self.end };
        let loads = self.headers.iter().filter(|header| header.kind == Segment::LOAD);
        let ends = loads.map(|load| bias.wrapping_add(load.address).saturating_add(load.memory_bytes));
        ends.max().unwrap_or(self.end)
    }

    /// Returns what is to be added to the addresses of a file that was mapped here.
    pub(crate) fn bias_of(&self, file: &[u8]) -> Option<u64> {
        let header = Header::parse(file)?;
        let headers = read_headers(&header, |at, bytes| file.get(usize::try_from(at).ok()?..)?.get(..bytes));
        bias(&headers, self.first.0, self.first.1)
    }

    /// Returns the image as a file, put together from what the core has of it; none if it has not what stacks are walked
    /// by. Names of sections are not kept: they lie outside of what is mapped.
    pub(crate) fn copy(&self, core: &Core<'_>, most: usize) -> Option<Vec<u8>> {
        let most = MAX_COPY_BYTES.min(most as u64);
        let bias = self.bias?;
        let index = self.headers.iter().find(|header| header.kind == Segment::EH_FRAME)?;
        core.read(bias.wrapping_add(index.address), &mut [0; 12]).checked_sub(12)?;
        let loads = || self.headers.iter().filter(|header| header.kind == Segment::LOAD);
        if self.path == VDSO {
            // It is mapped whole, with more behind it than its headers call loaded.
            let bytes = usize::try_from((self.end - self.start).min(most)).ok()?;
            return Some(read_some(core, self.start, bytes));
        }
        let size = loads().map(|load| load.offset.saturating_add(load.file_bytes)).max()?;
        let mut bytes = vec![0; usize::try_from(size).ok().filter(|size| *size as u64 <= most)?];
        for load in loads() {
            let start = usize::try_from(load.offset).ok()?;
            let end = start.checked_add(usize::try_from(load.file_bytes).ok()?)?;
            read_pages(core, bias.wrapping_add(load.address), bytes.get_mut(start..end)?);
        }
        forget_sections(self.layout, &mut bytes);
        Some(bytes)
    }
}

/// Reads what is known, page by page, and leaves the rest as it is.
fn read_pages(memory: &impl Memory, address: u64, into: &mut [u8]) {
    const PAGE: usize = 4096;
    let mut done = 0;
    while done < into.len() {
        let read = memory.read(address.wrapping_add(done as u64), &mut into[done..]);
        // What is missing is missing to the end of its page.
        done = if done + read < into.len() { (done + read + 1).next_multiple_of(PAGE) } else { into.len() };
    }
}

fn forget_sections(layout: Layout, bytes: &mut [u8]) {
    let (at, width, counts) = if layout.is_64 { (40, 8, 60) } else { (32, 4, 48) };
    for range in [at..at + width, counts..counts + 4] {
        if let Some(field) = bytes.get_mut(range) {
            field.fill(0);
        }
    }
}

/// Reads the program headers of an image in memory.
fn headers(memory: &impl Memory, start: u64) -> Option<(Layout, Vec<Segment>)> {
    let header = Header::parse(&read_some(memory, start, MAX_HEADER_BYTES))?;
    let table_bytes = usize::try_from(header.stride() * u64::from(MAX_HEADERS)).ok()?;
    let table = read_some(memory, start.checked_add(header.segments_at)?, table_bytes);
    let entry = |at: u64, bytes: usize| {
        let at = usize::try_from(at.checked_sub(header.segments_at)?).ok()?;
        table.get(at..)?.get(..bytes)
    };
    Some((header.layout, read_headers(&header, entry)))
}

fn read_headers<'a>(header: &Header, entry: impl Fn(u64, usize) -> Option<&'a [u8]>) -> Vec<Segment> {
    let count = header.count().unwrap_or(0).min(MAX_HEADERS);
    let read = |number: u32| {
        let at = header.segments_at.checked_add(u64::from(number) * header.stride())?;
        Segment::parse(header.layout, entry(at, header.entry_bytes())?)
    };
    (0..count).map_while(read).collect()
}

/// Returns what is added to a file's addresses, if its byte at `offset` was mapped at `address`.
fn bias(headers: &[Segment], address: u64, offset: u64) -> Option<u64> {
    const PAGE_MASK: u64 = !0xfff;
    let mut loads = headers.iter().filter(|header| header.kind == Segment::LOAD);
    let load = loads
        .find(|load| (load.offset & PAGE_MASK..load.offset.saturating_add(load.file_bytes.max(1))).contains(&offset))?;
    Some(address.wrapping_sub(load.address.wrapping_add(offset.wrapping_sub(load.offset))))
}

fn build_id(
    memory: &impl Memory,
    layout: Layout,
    headers: &[Segment],
    bias: u64,
    budget: &mut Budget,
) -> Option<Vec<u8>> {
    headers.iter().filter(|header| header.kind == Segment::NOTE).find_map(|header| {
        let bytes = usize::try_from(header.file_bytes.min(MAX_NOTE_BYTES)).ok()?;
        budget.note_bytes = budget.note_bytes.checked_sub(bytes)?;
        note::build_id(layout, &read_some(memory, bias.wrapping_add(header.address), bytes), header.align)
    })
}
