//! The file in which symbols are kept: how it is laid out, written, put in place, and read without trust.
//!
//! Little endian, and everything an array of `u32`, so that it is used as it lies in the file:
//!
//! ```text
//! header   magic, version, flags, base address, length, where each array begins and how long it is, checksum
//! ranges   start, node                             sorted; a place belongs to the last start before it
//! nodes    name, file, line, column, parent, entry
//! labels   start, end, name                        sorted by start
//! covered  start, end                              sorted and disjoint
//! text     length (16 bits), bytes
//! sums     the first 8 bytes of BLAKE3 of each 16 KiB between the header and here
//! ```
//!
//! Opening checks the header's sum, which covers the sums; a block is checked when it is first looked at. So opening costs
//! microseconds however large the file, a torn or damaged file is found out, and no `fsync` is needed. Since whoever can
//! write the folder can also compute sums, every number is bounds-checked as it is used, and every walk is bounded.
//! Addresses are 32 bits beyond a base: what lies farther is left out.

use super::table::{Label, NONE, Node, Stretch, Tables};
use crate::mapped::Mapped;
use crate::module::Bytes;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const MAGIC: &[u8; 16] = b"quarry symbols\r\n";
/// Raised with every change of what a cache holds or how.
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 128;
const SUMMED_BYTES: usize = 96;
const BLOCK_BYTES: usize = 16 << 10;
const SUM_BYTES: usize = 8;
/// Bytes of one cache; more than `Tables` can come to.
const MAX_CACHE_BYTES: usize = 512 << 20;
/// Labels that are looked at before the nearest one, for one that reaches farther.
const MAX_LABELS_BACK: usize = 16;
const FLAG_LABELS: u32 = 1;

const RANGES: usize = 0;
const NODES: usize = 1;
const LABELS: usize = 2;
const COVERED: usize = 3;
const TEXT: usize = 4;
const SUMS: usize = 5;
const ARRAYS: usize = 6;
/// Bytes of one item of each array.
const ITEM_BYTES: [usize; ARRAYS] = [8, 24, 12, 8, 1, SUM_BYTES];

/// A cache that is open.
#[derive(Debug)]
pub(crate) struct Cache {
    bytes: Bytes,
    base: u64,
    flags: u32,
    arrays: [(usize, usize); ARRAYS],
    checked: Box<[AtomicBool]>,
    is_broken: AtomicBool,
}

impl Cache {
    /// Opens a cache; nothing if there is none, or if it is not whole.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        Self::of(Bytes::Mapped(Mapped::open(path).ok()?))
    }

    /// Takes a cache that is in memory.
    pub(crate) fn of_image(image: Vec<u8>) -> Option<Self> {
        Self::of(Bytes::Owned(image))
    }

    fn of(bytes: Bytes) -> Option<Self> {
        let header = bytes.get(..HEADER_BYTES)?;
        let length = usize::try_from(u64_at(header, 32)?).ok()?;
        if &header[..16] != MAGIC || u32_at(header, 16)? != VERSION || length != bytes.len() || length > MAX_CACHE_BYTES
        {
            return None;
        }
        let mut arrays = [(0, 0); ARRAYS];
        for (index, array) in arrays.iter_mut().enumerate() {
            let start = usize::try_from(u32_at(header, 40 + index * 8)?).ok()?;
            let count = usize::try_from(u32_at(header, 44 + index * 8)?).ok()?;
            let end = start.checked_add(count.checked_mul(ITEM_BYTES[index])?)?;
            if start < HEADER_BYTES || end > length {
                return None;
            }
            *array = (start, count);
        }
        let (sums, count) = arrays[SUMS];
        if sums + count * SUM_BYTES != length || count != (sums - HEADER_BYTES).div_ceil(BLOCK_BYTES) {
            return None;
        }
        if arrays[..SUMS].iter().zip(ITEM_BYTES).any(|((start, count), bytes)| start + count * bytes > sums) {
            return None;
        }
        if header_sum(&header[..SUMMED_BYTES], &bytes[sums..]) != header[SUMMED_BYTES..HEADER_BYTES] {
            return None;
        }
        let (flags, base) = (u32_at(header, 20)?, u64_at(header, 24)?);
        let checked = (0..count).map(|_| AtomicBool::new(false)).collect();
        Some(Self { bytes, base, flags, arrays, checked, is_broken: AtomicBool::new(false) })
    }

    /// Returns it as it lies in a file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns whether something in it turned out to be damaged since it was opened.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Returns whether it holds the linker's symbols.
    pub(crate) fn has_labels(&self) -> bool {
        self.flags & FLAG_LABELS != 0
    }

    /// Returns whether debug information about this place was looked at when it was made.
    pub(crate) fn covers(&self, address: u64) -> bool {
        let Some(at) = self.relative(address) else { return false };
        let after = self.partition(COVERED, |item| u32_at(item, 0).is_some_and(|start| start <= at));
        after.checked_sub(1).and_then(|index| self.item(COVERED, index)).is_some_and(|item| u32_at(item, 4) > Some(at))
    }

    /// Returns the node a place belongs to.
    pub(crate) fn owner(&self, address: u64) -> Option<Node> {
        let at = self.relative(address)?;
        let after = self.partition(RANGES, |item| u32_at(item, 0).is_some_and(|start| start <= at));
        let item = self.item(RANGES, after.checked_sub(1)?)?;
        self.node(usize::try_from(u32_at(item, 4)?).ok()?)
    }

    /// Returns a node.
    pub(crate) fn node(&self, index: usize) -> Option<Node> {
        let item = self.item(NODES, index)?;
        let entry = u32_at(item, 20)?;
        Some(Node {
            name: u32_at(item, 0)?,
            file: u32_at(item, 4)?,
            line: u32_at(item, 8)?,
            column: u32_at(item, 12)?,
            parent: u32_at(item, 16)?,
            entry: self.base.wrapping_add(u64::from(entry)),
        })
    }

    /// Returns how many nodes there are.
    pub(crate) fn node_count(&self) -> usize {
        self.arrays[NODES].1
    }

    /// Returns what the linker calls a place, and where that begins.
    pub(crate) fn label_of(&self, address: u64) -> Option<Label> {
        let at = self.relative(address)?;
        let after = self.partition(LABELS, |item| u32_at(item, 0).is_some_and(|start| start <= at));
        let near = after.saturating_sub(MAX_LABELS_BACK)..after;
        near.rev().filter_map(|index| self.label(index)).find(|label| address < label.end)
    }

    /// Returns a text.
    pub(crate) fn text(&self, number: u32) -> Option<&[u8]> {
        let (start, count) = self.arrays[TEXT];
        let at = usize::try_from(number).ok()?;
        let from = at.checked_add(2).filter(|from| *from <= count)?;
        let length = self.checked(start + at, 2)?;
        let length = usize::from(u16::from_le_bytes(length.try_into().ok()?));
        let to = from.checked_add(length).filter(|to| *to <= count)?;
        self.checked(start + from, to - from)
    }

    /// Returns all stretches of code that belong to a node.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = Stretch> + '_ {
        let start = move |index| Some(self.base.wrapping_add(u64::from(u32_at(self.item(RANGES, index)?, 0)?)));
        (0..self.arrays[RANGES].1).filter_map(move |index| {
            let node = u32_at(self.item(RANGES, index)?, 4)?;
            // The last start has nothing after it and belongs to nothing.
            (node != NONE).then_some(Stretch { start: start(index)?, end: start(index + 1)?, node })
        })
    }

    /// Returns all labels.
    pub(crate) fn labels(&self) -> impl Iterator<Item = Label> + '_ {
        (0..self.arrays[LABELS].1).filter_map(|index| self.label(index))
    }

    /// Returns what was looked at.
    pub(crate) fn covered(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        (0..self.arrays[COVERED].1).filter_map(|index| {
            let item = self.item(COVERED, index)?;
            let wide = |at| Some(self.base.wrapping_add(u64::from(u32_at(item, at)?)));
            Some((wide(0)?, wide(4)?))
        })
    }

    fn label(&self, index: usize) -> Option<Label> {
        let item = self.item(LABELS, index)?;
        let wide = |at| Some(self.base.wrapping_add(u64::from(u32_at(item, at)?)));
        Some(Label { start: wide(0)?, end: wide(4)?, name: u32_at(item, 8)? })
    }

    fn relative(&self, address: u64) -> Option<u32> {
        u32::try_from(address.checked_sub(self.base)?).ok()
    }

    /// Returns how many items at an array's beginning are `before`; what is damaged is not.
    fn partition(&self, array: usize, before: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.arrays[array].1);
        while low < high {
            let middle = low.midpoint(high);
            match self.item(array, middle) {
                Some(item) if before(item) => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    fn item(&self, array: usize, index: usize) -> Option<&[u8]> {
        let (start, count) = self.arrays[array];
        let bytes = ITEM_BYTES[array];
        if index < count { self.checked(start + index * bytes, bytes) } else { None }
    }

    /// Returns bytes whose blocks have the sums they should have.
    fn checked(&self, start: usize, length: usize) -> Option<&[u8]> {
        let end = start.checked_add(length)?;
        let first = start.checked_sub(HEADER_BYTES)? / BLOCK_BYTES;
        let last = end.saturating_sub(1).checked_sub(HEADER_BYTES)? / BLOCK_BYTES;
        for block in first..=last {
            if !self.checked.get(block)?.load(Ordering::Relaxed) {
                self.check(block)?;
            }
        }
        self.bytes.get(start..end)
    }

    #[cold]
    fn check(&self, block: usize) -> Option<()> {
        let (sums, _) = self.arrays[SUMS];
        let start = HEADER_BYTES + block * BLOCK_BYTES;
        let content = self.bytes.get(start..start.saturating_add(BLOCK_BYTES).min(sums))?;
        let at = sums + block * SUM_BYTES;
        if self.bytes.get(at..at + SUM_BYTES)? != &block_sum(content)[..] {
            self.is_broken.store(true, Ordering::Relaxed);
            return None;
        }
        self.checked[block].store(true, Ordering::Relaxed);
        Some(())
    }
}

/// Returns tables, already in order, as the bytes of a cache.
pub(crate) fn image(tables: &Tables) -> Vec<u8> {
    let starts = [
        tables.stretches.first().map(|stretch| stretch.start),
        tables.labels.first().map(|label| label.start),
        tables.covered.first().map(|range| range.0),
    ];
    let base = starts.into_iter().flatten().min().unwrap_or(0);
    let relative = |address: u64| address.checked_sub(base).and_then(|beyond| u32::try_from(beyond).ok());
    let mut out = vec![0; HEADER_BYTES];
    let mut arrays = [(0, 0); ARRAYS];
    let mut close = |out: &mut Vec<u8>, index: usize, start: usize| {
        arrays[index] = (start, (out.len() - start) / ITEM_BYTES[index]);
        out.resize(out.len().next_multiple_of(4), 0);
    };

    let start = out.len();
    write_ranges(&mut out, &tables.stretches, &relative);
    close(&mut out, RANGES, start);

    let start = out.len();
    for node in &tables.nodes {
        let entry = relative(node.entry).unwrap_or(0);
        put(&mut out, &[node.name, node.file, node.line, node.column, node.parent, entry]);
    }
    close(&mut out, NODES, start);

    let start = out.len();
    for label in &tables.labels {
        if let (Some(from), Some(to)) = (relative(label.start), relative(label.end)) {
            put(&mut out, &[from, to, label.name]);
        }
    }
    close(&mut out, LABELS, start);

    let start = out.len();
    for (from, to) in &tables.covered {
        if let Some(from) = relative(*from) {
            put(&mut out, &[from, relative(*to).unwrap_or(u32::MAX)]);
        }
    }
    close(&mut out, COVERED, start);

    let start = out.len();
    out.extend_from_slice(&tables.text);
    close(&mut out, TEXT, start);

    let start = out.len();
    let sums: Vec<_> = out[HEADER_BYTES..].chunks(BLOCK_BYTES).flat_map(block_sum).collect();
    out.extend_from_slice(&sums);
    close(&mut out, SUMS, start);
    write_header(&mut out, base, if tables.has_labels { FLAG_LABELS } else { 0 }, &arrays);
    out
}

/// Puts a cache in place, whole or not at all.
pub(crate) fn keep(image: &[u8], path: &Path) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    // Called after its content, so that only writers of the same content meet, of whom either may win.
    let sum: String = image.get(SUMMED_BYTES..SUMMED_BYTES + 8).map(crate::locate::hex).unwrap_or_default();
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{sum}.part"));
    let part = path.with_file_name(name);
    let write = || {
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&part)?;
        file.write_all(image)?;
        drop(file);
        fs::rename(&part, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })
}

/// Writes where each stretch begins, and where nothing does; of two that overlap the first keeps the place.
fn write_ranges(out: &mut Vec<u8>, stretches: &[Stretch], relative: &impl Fn(u64) -> Option<u32>) {
    let mut reached = None;
    for stretch in stretches {
        let from = reached.map_or(stretch.start, |reached: u64| reached.max(stretch.start));
        let (Some(start), Some(_)) = (relative(from), relative(stretch.end)) else { continue };
        if from >= stretch.end {
            continue;
        }
        if let Some(gap) = reached.filter(|reached| *reached < from).and_then(relative) {
            put(out, &[gap, NONE]);
        }
        put(out, &[start, stretch.node]);
        reached = Some(stretch.end);
    }
    if let Some(end) = reached.and_then(relative) {
        put(out, &[end, NONE]);
    }
}

fn write_header(out: &mut [u8], base: u64, flags: u32, arrays: &[(usize, usize); ARRAYS]) {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    put(&mut header, &[VERSION, flags]);
    header.extend_from_slice(&base.to_le_bytes());
    header.extend_from_slice(&(out.len() as u64).to_le_bytes());
    for (start, count) in arrays {
        let narrow = |number: usize| u32::try_from(number).expect("tables are bounded far below 4 GiB");
        put(&mut header, &[narrow(*start), narrow(*count)]);
    }
    header.resize(SUMMED_BYTES, 0);
    let sum = header_sum(&header, &out[arrays[SUMS].0..]);
    header.extend_from_slice(&sum);
    out[..HEADER_BYTES].copy_from_slice(&header);
}

fn header_sum(header: &[u8], sums: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(header).update(sums).finalize().as_bytes()
}

fn block_sum(content: &[u8]) -> [u8; SUM_BYTES] {
    let hash = blake3::hash(content);
    *hash.as_bytes().first_chunk().expect("a digest is 32 bytes long")
}

fn put(out: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a small cache with everything in it.
    fn small() -> Vec<u8> {
        let mut tables = Tables::default();
        let mut parent = NONE;
        for (index, name) in ["outer", "middle", "inner"].into_iter().enumerate() {
            let (name, file) = (tables.intern(name.as_bytes()), tables.intern(b"/src/file.c"));
            parent = tables.node(Node { name, file, line: 7, column: 3, parent, entry: 0x1000 });
            let start = 0x1000 + index as u64 * 0x10;
            tables.stretch(Stretch { start, end: start + 8, node: parent });
        }
        tables.label(0x1000, 0x1040, b"outer");
        tables.label(0x1040, 0x1050, b"other");
        tables.has_labels = true;
        tables.covered.push((0x1000, 0x1100));
        tables.image()
    }

    /// Makes the sums right again, as somebody hostile would.
    fn seal(image: &mut [u8]) {
        let at = 40 + SUMS * 8;
        let sums = u32_at(image, at).and_then(|sums| usize::try_from(sums).ok()).unwrap_or(0);
        if (HEADER_BYTES..=image.len()).contains(&sums) {
            let made: Vec<_> = image[HEADER_BYTES..sums].chunks(BLOCK_BYTES).flat_map(block_sum).collect();
            let length = made.len().min(image.len() - sums);
            image[sums..sums + length].copy_from_slice(&made[..length]);
            let sum = header_sum(&image[..SUMMED_BYTES], &image[sums..]);
            image[SUMMED_BYTES..HEADER_BYTES].copy_from_slice(&sum);
        }
    }

    /// Asks everything that can be asked of a cache.
    fn exhaust(cache: &Cache) -> usize {
        let mut answers = 0;
        for address in (0xff0..0x1060).chain([0, u64::MAX, 1 << 40]) {
            answers += usize::from(cache.covers(address));
            answers += usize::from(cache.owner(address).is_some());
            answers += cache.label_of(address).and_then(|label| cache.text(label.name)).map_or(0, <[u8]>::len);
        }
        let mut tables = Tables::default();
        tables.absorb(cache);
        answers + tables.image().len()
    }

    #[test]
    fn what_is_kept_is_found() {
        let cache = Cache::of_image(small()).expect("a cache that was just made is whole");
        let name = |address| cache.owner(address).and_then(|node| cache.text(node.name)).map(<[u8]>::to_vec);
        assert_eq!(name(0x1000), Some(b"outer".to_vec()));
        assert_eq!(name(0x1007), Some(b"outer".to_vec()));
        assert_eq!(name(0x1008), None);
        assert_eq!(name(0x1027), Some(b"inner".to_vec()));
        assert_eq!(name(0x1028), None);
        assert_eq!(name(0xfff), None);
        assert!(cache.covers(0x10ff) && !cache.covers(0x1100) && !cache.covers(0xfff));
        let label = |address| cache.label_of(address).and_then(|label| cache.text(label.name)).map(<[u8]>::to_vec);
        assert_eq!(
            (label(0x103f), label(0x1040), label(0x1050)),
            (Some(b"outer".to_vec()), Some(b"other".to_vec()), None)
        );
    }

    #[test]
    fn a_cache_made_to_mislead_is_borne() {
        let whole = small();
        let mut sealed = whole.clone();
        seal(&mut sealed);
        assert_eq!(sealed, whole, "sealing makes the sums that were there");
        let mut opened = 0;
        for at in (16..whole.len()).step_by(2) {
            for value in [0_u32, 1, 2, 0x7fff_ffff, 0xffff_fffe, u32::MAX] {
                let mut image = whole.clone();
                let end = (at + 4).min(image.len());
                image[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
                seal(&mut image);
                if let Some(cache) = Cache::of_image(image) {
                    opened += 1;
                    exhaust(&cache);
                }
            }
        }
        assert!(opened > whole.len() / 2, "{opened} of {}", whole.len() * 3);
    }
}
