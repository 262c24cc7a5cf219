//! A machine's memory by physical address, as an ELF vmcore or makedumpfile's own format keeps it.

use super::inflate;
use super::source::Source;
use crate::core::elf::{Header, Layout, MAX_HEADER_BYTES, Segment};
use crate::kind::KDUMP;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Segments of a vmcore.
const MAX_SEGMENTS: u32 = 65_536;
/// Bytes of notes that are read.
const MAX_NOTE_BYTES: usize = 4 << 20;
/// Bytes of the map of pages: enough for 2 TiB of memory.
const MAX_MAP_BYTES: usize = 64 << 20;
/// Bytes of the map between two counts.
const MAP_STRIDE: usize = 512;
/// Pages that are kept unpacked.
const MAX_KEPT_PAGES: usize = 1024;
/// Bytes of pages that are unpacked, those forgotten and unpacked again counted again; logs have some MiB.
const MAX_UNPACKED_BYTES: usize = 128 << 20;
/// Segments before the nearest one that are looked at, because segments may overlap.
const MAX_LOOK_BACK: usize = 8;
/// Bytes of one packed page: it is stored as it is if packing does not help.
const MAX_PACKED_BYTES: usize = 128 << 10;

const INCOMPLETE: u32 = 8;

/// What a dump keeps of a machine, apart from its memory.
#[derive(Debug, Default)]
pub(super) struct About {
    pub(super) machine: Option<String>,
    pub(super) node: Option<String>,
    pub(super) notes: Vec<u8>,
    pub(super) vmcoreinfo: Option<Vec<u8>>,
    pub(super) phys_base: Option<u64>,
    pub(super) crashed_at: Option<u64>,
    /// Why its memory cannot be read.
    pub(super) refused: Option<String>,
    pub(super) is_truncated: bool,
}

/// Memory by physical address.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    source: Source<'a>,
    kept: Kept,
    pub(super) layout: Layout,
}

#[derive(Debug)]
enum Kept {
    /// By physical address.
    Segments(Vec<Segment>),
    Packed(Packed),
}

/// Pages that are packed one by one, those left out missing from the table.
#[derive(Debug)]
struct Packed {
    page_bytes: usize,
    table: u64,
    map: Vec<u8>,
    /// How many pages there are before each stride of the map.
    counts: Vec<u64>,
    cache: RefCell<HashMap<u64, Option<Rc<Vec<u8>>>>>,
    /// Bytes that may yet be unpacked.
    left: Cell<usize>,
}

impl<'a> Pages<'a> {
    /// Reads the headers of a dump; none if it is no dump of a kernel.
    pub(super) fn new(bytes: &'a [u8]) -> Option<(Self, About)> {
        let source = Source::new(bytes);
        let head = source.some(0, MAX_HEADER_BYTES);
        let mut about = About { is_truncated: source.is_truncated, ..About::default() };
        let (kept, layout) = if head.starts_with(KDUMP) {
            let layout = Layout { is_64: true, is_big: false };
            (Kept::Packed(packed(&source, layout, &mut about)?), layout)
        } else {
            let header = Header::parse(&head)?;
            (Kept::Segments(segments(&source, &header, bytes, &mut about)), header.layout)
        };
        Some((Self { source, kept, layout }, about))
    }

    /// Tells whether so much was unpacked that nothing more is.
    pub(super) fn is_exhausted(&self) -> bool {
        matches!(&self.kept, Kept::Packed(packed) if packed.left.get() < packed.page_bytes)
    }

    /// Reads from a physical address on, and returns how many bytes of it are there.
    pub(super) fn read(&self, physical: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let Some(address) = physical.checked_add(done as u64) else { break };
            let length = self.part(address, &mut into[done..]);
            if length == 0 {
                break;
            }
            done += length;
        }
        done
    }

    fn part(&self, address: u64, into: &mut [u8]) -> usize {
        match &self.kept {
            Kept::Segments(segments) => {
                let after = segments.partition_point(|segment| segment.physical <= address);
                let mut near = segments[after.saturating_sub(MAX_LOOK_BACK)..after].iter().rev();
                let inside = |segment: &&Segment| address - segment.physical < segment.file_bytes;
                let Some(segment) = near.find(inside) else { return 0 };
                let skip = address - segment.physical;
                let length = usize::try_from(segment.file_bytes - skip).unwrap_or(usize::MAX).min(into.len());
                let Some(offset) = segment.offset.checked_add(skip) else { return 0 };
                self.source.read(offset, &mut into[..length])
            }
            Kept::Packed(packed) => {
                let Some(page) = packed.page(&self.source, self.layout, address / packed.page_bytes as u64) else {
                    return 0;
                };
                let within = usize::try_from(address % packed.page_bytes as u64).expect("a page is not long");
                let length = (page.len() - within).min(into.len());
                into[..length].copy_from_slice(&page[within..within + length]);
                length
            }
        }
    }
}

impl Packed {
    fn page(&self, source: &Source<'_>, layout: Layout, number: u64) -> Option<Rc<Vec<u8>>> {
        if let Some(page) = self.cache.borrow().get(&number) {
            return page.clone();
        }
        let page = self.unpack(source, layout, number).map(Rc::new);
        let mut cache = self.cache.borrow_mut();
        if cache.len() >= MAX_KEPT_PAGES {
            cache.clear();
        }
        cache.insert(number, page.clone());
        page
    }

    fn unpack(&self, source: &Source<'_>, layout: Layout, number: u64) -> Option<Vec<u8>> {
        let entry = self.rank(number)?.checked_mul(24)?.checked_add(self.table)?;
        self.left.set(self.left.get().checked_sub(self.page_bytes)?);
        let entry = source.some(entry, 24);
        let (offset, length, flags) = (layout.u64(&entry, 0)?, layout.u32(&entry, 8)?, layout.u32(&entry, 12)?);
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_PACKED_BYTES)?;
        let bytes = source.some(offset, length);
        (bytes.len() == length).then(|| inflate::page(flags, &bytes, self.page_bytes)).flatten()
    }

    /// Returns how many pages come before one that is there.
    fn rank(&self, number: u64) -> Option<u64> {
        let at = usize::try_from(number / 8).ok()?;
        let bit = 1_u8 << (number % 8);
        let byte = *self.map.get(at)?;
        if byte & bit == 0 {
            return None;
        }
        let stride = at / MAP_STRIDE;
        let between = ones(&self.map[stride * MAP_STRIDE..at]);
        Some(self.counts[stride] + between + u64::from((byte & (bit - 1)).count_ones()))
    }
}

fn ones(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(byte.count_ones())).sum()
}

fn segments(source: &Source<'_>, header: &Header, bytes: &[u8], about: &mut About) -> Vec<Segment> {
    let mut count = header.count().unwrap_or(0);
    if header.count().is_none() {
        count = header.count_in_section(&source.some(header.sections_at, header.section_bytes())).unwrap_or(0);
    }
    let read = |number: u32| {
        let at = header.segments_at.checked_add(u64::from(number) * header.stride())?;
        Segment::parse(header.layout, &source.some(at, header.entry_bytes()))
    };
    let mut segments: Vec<Segment> = (0..count.min(MAX_SEGMENTS)).map_while(read).collect();
    for note in segments.iter().filter(|segment| segment.kind == Segment::NOTE) {
        let room = MAX_NOTE_BYTES - about.notes.len();
        let length = usize::try_from(note.file_bytes).unwrap_or(usize::MAX).min(room).min(bytes.len());
        about.notes.extend(source.some(note.offset, length));
    }
    about.machine = crate::unwind::Arch::of_machine(header.machine).map(|arch| arch.name().to_owned());
    let is_short = |segment: &Segment| {
        let end = segment.offset.saturating_add(segment.file_bytes);
        segment.file_bytes > 0 && source.some(end.saturating_sub(1), 1).is_empty()
    };
    about.is_truncated |= segments.iter().any(is_short) || segments.len() < count as usize;
    segments.retain(|segment| segment.kind == Segment::LOAD && segment.file_bytes > 0);
    segments.sort_by_key(|segment| segment.physical);
    segments
}

fn packed(source: &Source<'_>, layout: Layout, about: &mut About) -> Option<Packed> {
    let head = source.some(0, 4096);
    let name = |number: usize| {
        let field = head.get(12 + number * 65..12 + (number + 1) * 65)?;
        let text = String::from_utf8_lossy(field.split(|byte| *byte == 0).next()?).into_owned();
        (!text.is_empty()).then_some(text)
    };
    about.node = name(1).filter(|name| name != super::UNNAMED);
    about.machine = name(4);
    about.crashed_at = layout.u64(&head, 408).filter(|time| *time > 0 && *time < 1 << 40);
    let block = u64::from(layout.u32(&head, 428)?);
    let (sub_blocks, map_blocks) = (u64::from(layout.u32(&head, 432)?), u64::from(layout.u32(&head, 436)?));
    if !block.is_power_of_two() || !(4096..=65_536).contains(&block) {
        about.refused = Some(format!("pages of {block} bytes are not known"));
        return Some(Packed::none());
    }
    about.is_truncated |= layout.u32(&head, 424)? & INCOMPLETE != 0;
    let sub = source.some(block, 104);
    about.phys_base = layout.u64(&sub, 0);
    if layout.u32(&sub, 12).is_some_and(|split| split != 0) {
        let how = "it is one part of a split dump; `makedumpfile --reassemble` joins the parts";
        about.refused = Some(how.to_owned());
    }
    let part = |at: usize| {
        let (offset, length) = (layout.u64(&sub, at)?, layout.u64(&sub, at + 8)?);
        let length = usize::try_from(length).ok().filter(|length| (1..=MAX_NOTE_BYTES).contains(length))?;
        (offset > 0).then(|| source.some(offset, length))
    };
    about.vmcoreinfo = part(32);
    about.notes = part(48).unwrap_or_default();
    let map_at = block.checked_mul(1 + sub_blocks)?;
    let half = map_blocks.checked_mul(block)? / 2;
    let length = usize::try_from(half).unwrap_or(usize::MAX);
    let map = source.some(map_at.checked_add(half)?, length.min(MAX_MAP_BYTES).min(source.length()));
    about.is_truncated |= map.len() < length;
    let mut counts = Vec::with_capacity(map.len() / MAP_STRIDE + 1);
    let mut count = 0;
    for part in map.chunks(MAP_STRIDE) {
        counts.push(count);
        count += ones(part);
    }
    let table = map_at.checked_add(half.checked_mul(2)?)?;
    // Pages are written one after the other, so the last one tells whether all are there.
    if let Some(last) = count.checked_sub(1) {
        let entry = source.some(last.checked_mul(24)?.checked_add(table)?, 24);
        let end =
            layout.u64(&entry, 0).zip(layout.u32(&entry, 8)).map(|(at, length)| at.saturating_add(u64::from(length)));
        about.is_truncated |= end.is_none_or(|end| source.some(end.saturating_sub(1), 1).is_empty());
    }
    Some(Packed { page_bytes: usize::try_from(block).ok()?, table, map, counts, ..Packed::none() })
}

impl Packed {
    fn none() -> Self {
        Self {
            page_bytes: 4096,
            table: 0,
            map: Vec::new(),
            counts: Vec::new(),
            cache: RefCell::default(),
            left: Cell::new(MAX_UNPACKED_BYTES),
        }
    }
}
