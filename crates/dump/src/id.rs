//! The name that a dump has had since Thoth: an MD5 that never looks at the body, so that it costs a few reads however
//! large the dump is.
//!
//! - An ELF core's is over the text of each program header, in order, each followed by the bytes of its notes if it is one
//!   of notes. The text is JSON with the header's fields in the order of its C struct, numbers of 64 bits as `[high,low]`.
//!   Registers and process numbers stand in the notes, so two dumps hardly share a name.
//! - An illumos crash dump's is over its header of 8192 bytes, as they are. Thoth itself hashed how one version of Node
//!   printed that header; such names stay findable where they are noted as a dump's `alias`.
//!
//! Everything is streamed: memory is bounded whatever the file says of itself. What is cut short is hashed as far as it
//! goes. This is a name, not a proof of content; that is what digests are for.

use crate::core::elf::{ET_CORE, Header, Layout, MAX_ENTRY_BYTES, MAX_HEADER_BYTES, Segment};
use md5::{Digest, Md5};
use std::fmt::{self, Write as _};
use std::io::{self, Read, Seek, SeekFrom};

/// Segments that are counted.
pub(crate) const MAX_SEGMENTS: u32 = 1 << 20;
/// Bytes of notes that are hashed, all together.
const MAX_NOTE_BYTES: u64 = 1 << 30;
/// Bytes of an illumos crash dump's header.
const ILLUMOS_BYTES: usize = 8192;
const ILLUMOS_MAGIC: [u8; 4] = 0xdefe_c8ed_u32.to_le_bytes();
/// How much is read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Why a dump has no quick id.
#[derive(Debug, thiserror::Error)]
pub enum IdError {
    /// It cannot be read.
    #[error("the dump cannot be read")]
    Unreadable(#[from] io::Error),
    /// It announces more than anything real does.
    #[error("the dump announces more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: u64,
    },
}

/// Thoth's name of a dump: 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuickId([u8; 16]);

impl fmt::Display for QuickId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Returns the name of a dump, or none if it is of a sort that Thoth did not know.
pub fn quick_id(reader: &mut (impl Read + Seek)) -> Result<Option<QuickId>, IdError> {
    let mut first = [0; MAX_HEADER_BYTES];
    let length = read_at(reader, 0, &mut first)?;
    let first = &first[..length];
    if first.starts_with(&ILLUMOS_MAGIC) {
        return illumos(reader);
    }
    match Header::parse(first) {
        Some(header) if header.kind == ET_CORE => core(reader, &header),
        _ => Ok(None),
    }
}

fn illumos(reader: &mut (impl Read + Seek)) -> Result<Option<QuickId>, IdError> {
    let mut header = vec![0; ILLUMOS_BYTES];
    let length = read_at(reader, 0, &mut header)?;
    Ok((length == ILLUMOS_BYTES).then(|| QuickId(Md5::digest(&header).into())))
}

/// Names a core; none if there is no segment to name it by.
fn core(reader: &mut (impl Read + Seek), header: &Header) -> Result<Option<QuickId>, IdError> {
    let count = count(reader, header)?;
    if count == 0 {
        return Ok(None);
    }
    if count > MAX_SEGMENTS {
        return Err(IdError::TooMany { what: "segments", limit: u64::from(MAX_SEGMENTS) });
    }
    let mut hash = Md5::new();
    let mut text = String::new();
    let mut note_bytes = 0;
    for number in 0..count {
        let mut entry = [0; MAX_ENTRY_BYTES];
        let entry = &mut entry[..header.entry_bytes()];
        let at = header.segments_at.saturating_add(u64::from(number) * header.stride());
        let Some(segment) =
            (read_at(reader, at, entry)? == entry.len()).then(|| Segment::parse(header.layout, entry)).flatten()
        else {
            if number == 0 {
                return Ok(None);
            }
            break;
        };
        text.clear();
        describe(&mut text, header.layout, &segment);
        hash.update(text.as_bytes());
        if segment.kind == Segment::NOTE {
            note_bytes = u64::saturating_add(note_bytes, segment.file_bytes);
            if note_bytes > MAX_NOTE_BYTES {
                return Err(IdError::TooMany { what: "bytes of notes", limit: MAX_NOTE_BYTES });
            }
            hash_part(reader, &segment, &mut hash)?;
        }
    }
    Ok(Some(QuickId(hash.finalize().into())))
}

fn count(reader: &mut (impl Read + Seek), header: &Header) -> Result<u32, IdError> {
    if let Some(count) = header.count() {
        return Ok(count);
    }
    let mut section = [0; MAX_ENTRY_BYTES];
    let section = &mut section[..header.section_bytes()];
    let length = read_at(reader, header.sections_at, section)?;
    Ok(header.count_in_section(&section[..length]).unwrap_or(0))
}

/// Appends a segment's header as Thoth printed it.
fn describe(text: &mut String, layout: Layout, segment: &Segment) {
    let flags = ("p_flags", u64::from(segment.flags));
    let mut words = vec![
        ("p_offset", segment.offset),
        ("p_vaddr", segment.address),
        ("p_paddr", segment.physical),
        ("p_filesz", segment.file_bytes),
        ("p_memsz", segment.memory_bytes),
        ("p_align", segment.align),
    ];
    words.insert(if layout.is_64 { 0 } else { 5 }, flags);
    let _ = write!(text, "{{\"p_type\":{}", segment.kind);
    for (name, value) in words {
        let _ = if layout.is_64 && name != "p_flags" {
            write!(text, ",\"{name}\":[{},{}]", value >> 32, value & 0xffff_ffff)
        } else {
            write!(text, ",\"{name}\":{value}")
        };
    }
    text.push('}');
}

fn hash_part(reader: &mut (impl Read + Seek), segment: &Segment, hash: &mut Md5) -> Result<(), IdError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut at, mut left) = (segment.offset, segment.file_bytes);
    while left > 0 {
        let wanted = usize::try_from(left).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
        let length = read_at(reader, at, &mut buffer[..wanted])?;
        hash.update(&buffer[..length]);
        if length < wanted {
            break;
        }
        at = at.saturating_add(length as u64);
        left -= length as u64;
    }
    Ok(())
}

/// Reads as much as there is from a place on; nothing from places that no file reaches.
pub(crate) fn read_at(reader: &mut (impl Read + Seek), at: u64, into: &mut [u8]) -> io::Result<usize> {
    if at.checked_add(into.len() as u64).is_none_or(|end| i64::try_from(end).is_err()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const NOTE: [u64; 8] = [4, 0, 0, 0, 0, 20, 0, 4];
    const LOAD: [u64; 8] = [1, 6, 4096, 0, 0, 4096, 8192, 4096];

    /// Lays out a core: kind, flags, offset, address, physical, bytes in file, bytes in memory, alignment of each segment.
    fn file(is_64: bool, is_big: bool, segments: &[[u64; 8]], wide_count: bool) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(is_64), 1 + u8::from(is_big), 1];
        bytes.resize(16, 0);
        let put = |bytes: &mut Vec<u8>, value: u64, width: usize| {
            let little = value.to_le_bytes();
            let part = little[..width].iter().copied();
            if is_big { bytes.extend(part.rev()) } else { bytes.extend(part) }
        };
        let word = if is_64 { 8 } else { 4 };
        let (header, entry) = if is_64 { (64, 56) } else { (52, 32) };
        let sections_at = if wide_count { header + entry * segments.len() as u64 } else { 0 };
        let count = if wide_count { 0xffff } else { segments.len() as u64 };
        for (value, width) in [(4, 2), (if is_64 { 62 } else { 3 }, 2), (1, 4)] {
            put(&mut bytes, value, width);
        }
        for value in [0, header, sections_at] {
            put(&mut bytes, value, word);
        }
        for (value, width) in [(0, 4), (header, 2), (entry, 2), (count, 2), (0, 2), (0, 2), (0, 2)] {
            put(&mut bytes, value, width);
        }
        for [kind, flags, rest @ ..] in segments {
            put(&mut bytes, *kind, 4);
            if is_64 {
                put(&mut bytes, *flags, 4);
            }
            rest[..5].iter().for_each(|value| put(&mut bytes, *value, word));
            if !is_64 {
                put(&mut bytes, *flags, 4);
            }
            put(&mut bytes, rest[5], word);
        }
        if wide_count {
            let before = if is_64 { 44 } else { 28 };
            bytes.resize(bytes.len() + before, 0);
            put(&mut bytes, segments.len() as u64, 4);
            bytes.resize(bytes.len() + 16, 0);
        }
        bytes
    }

    fn with_notes(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
        assert!(bytes.len() <= at, "the headers end at {}", bytes.len());
        bytes.resize(at, 0);
        bytes.extend(0..0x14);
        bytes.resize(8192, 0);
        bytes
    }

    fn id(bytes: &[u8]) -> Option<String> {
        quick_id(&mut Cursor::new(bytes)).expect("memory can be read").map(|id| id.to_string())
    }

    fn vector_64(is_big: bool, wide_count: bool, at: usize) -> Vec<u8> {
        let (mut note, mut load) = (NOTE, LOAD);
        note[2] = at as u64;
        load[3] = 0x7fff_1234_5000;
        with_notes(file(true, is_big, &[note, load], wide_count), at)
    }

    #[test]
    fn ids_are_thoths() {
        assert_eq!(id(&vector_64(false, false, 176)).as_deref(), Some("fec7fcd64d7ffd9478692ffaee45576c"));
        let (mut note, mut load) = (NOTE, LOAD);
        note[2] = 116;
        load[3] = 0x0804_8000;
        let bytes = with_notes(file(false, false, &[note, load], false), 116);
        assert_eq!(id(&bytes).as_deref(), Some("0643ff1f8fd070db3036642091e57ad0"));
        let bytes = with_notes(file(false, true, &[note, load], false), 116);
        assert_eq!(id(&bytes).as_deref(), Some("0643ff1f8fd070db3036642091e57ad0"));
    }

    #[test]
    fn byte_order_and_wide_counts_make_no_difference() {
        assert_eq!(id(&vector_64(true, false, 176)).as_deref(), Some("fec7fcd64d7ffd9478692ffaee45576c"));
        let wide = vector_64(false, true, 1024);
        assert_eq!(id(&wide), id(&vector_64(false, false, 1024)));
        assert_ne!(id(&wide), id(&vector_64(false, false, 176)));
    }

    #[test]
    fn the_body_is_not_looked_at() {
        let mut bytes = vector_64(false, false, 176);
        let before = id(&bytes);
        bytes[5000] = 1;
        assert_eq!(id(&bytes), before);
        bytes.truncate(200);
        assert_eq!(id(&bytes), before, "a dump cut short behind its notes keeps its name");
        bytes[190] ^= 1;
        assert_ne!(id(&bytes), before);
    }

    #[test]
    fn other_files_have_none() {
        let empty = file(true, false, &[], false);
        for bytes in [&b""[..], b"\x7fELF", b"MDMP and more", &[0; 9000], &empty] {
            assert_eq!(id(bytes), None);
        }
        let mut program = vector_64(false, false, 176);
        program[16] = 2;
        assert_eq!(id(&program), None);
    }

    #[test]
    fn an_illumos_dumps_is_its_headers() {
        let mut bytes = ILLUMOS_MAGIC.to_vec();
        bytes.resize(8192, 7);
        let whole = id(&bytes).expect("a header is enough");
        bytes.resize(9000, 1);
        assert_eq!(id(&bytes), Some(whole));
        assert_eq!(id(&bytes[..8191]), None);
    }

    #[test]
    fn too_many_notes_are_refused() {
        let mut note = NOTE;
        note[5] = 2 << 30;
        let bytes = file(true, false, &[note], false);
        assert!(matches!(quick_id(&mut Cursor::new(bytes)), Err(IdError::TooMany { .. })));
        let mut wide = file(true, false, &[NOTE], true);
        let at = wide.len() - 20;
        wide[at..at + 4].fill(0xff);
        assert!(matches!(quick_id(&mut Cursor::new(wide)), Err(IdError::TooMany { .. })));
    }
}
