//! The numbers of an ELF file's header and segments, in either class and either byte order.
//!
//! Cores are read by this and not by a general library, because theirs may count more than 65,535 segments, be cut short
//! anywhere, and be read as a stream. Nothing here follows an offset.

/// The bytes of the longest file header.
pub(crate) const MAX_HEADER_BYTES: usize = 64;
/// The bytes of the longest entry of either table.
pub(crate) const MAX_ENTRY_BYTES: usize = 64;

/// A file's `e_type` if it is a core.
pub(crate) const ET_CORE: u16 = 4;
/// What `e_phnum` says if the number does not fit it.
const PN_XNUM: u16 = 0xffff;

/// How wide numbers are, and in which order their bytes stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) is_64: bool,
    pub(crate) is_big: bool,
}

impl Layout {
    /// Returns the number of two bytes that stands there.
    pub(crate) fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = bytes.get(at..at.checked_add(2)?)?.try_into().expect("two bytes were taken");
        Some(if self.is_big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    /// Returns the number of four bytes that stands there.
    pub(crate) fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = bytes.get(at..at.checked_add(4)?)?.try_into().expect("four bytes were taken");
        Some(if self.is_big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// Returns the number of eight bytes that stands there.
    pub(crate) fn u64(self, bytes: &[u8], at: usize) -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(8)?)?.try_into().expect("eight bytes were taken");
        Some(if self.is_big { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    /// Returns the number as wide as an address that stands there.
    pub(crate) fn word(self, bytes: &[u8], at: usize) -> Option<u64> {
        if self.is_64 { self.u64(bytes, at) } else { self.u32(bytes, at).map(u64::from) }
    }

    /// Returns how many bytes an address takes.
    pub(crate) const fn word_bytes(self) -> usize {
        if self.is_64 { 8 } else { 4 }
    }
}

/// A file's header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) layout: Layout,
    pub(crate) kind: u16,
    pub(crate) machine: u16,
    pub(crate) segments_at: u64,
    segment_bytes: u16,
    segment_count: u16,
    pub(crate) sections_at: u64,
}

impl Header {
    /// Reads a header; none if it is no ELF, or one that makes no sense.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.get(..4)? != b"\x7fELF" {
            return None;
        }
        let layout = Layout { is_64: is_second(*bytes.get(4)?)?, is_big: is_second(*bytes.get(5)?)? };
        let (segments_at, sections_at, counts) = if layout.is_64 { (32, 40, 54) } else { (28, 32, 42) };
        let header = Self {
            layout,
            kind: layout.u16(bytes, 16)?,
            machine: layout.u16(bytes, 18)?,
            segments_at: layout.word(bytes, segments_at)?,
            segment_bytes: layout.u16(bytes, counts)?,
            segment_count: layout.u16(bytes, counts + 2)?,
            sections_at: layout.word(bytes, sections_at)?,
        };
        (header.segment_count == 0 || usize::from(header.segment_bytes) >= header.entry_bytes()).then_some(header)
    }

    /// Returns how many segments there are, or none if the first section's header says.
    pub(crate) fn count(&self) -> Option<u32> {
        (self.segment_count != PN_XNUM).then_some(u32::from(self.segment_count))
    }

    /// Returns how many segments the first section's header says there are.
    pub(crate) fn count_in_section(&self, section: &[u8]) -> Option<u32> {
        self.layout.u32(section, if self.layout.is_64 { 44 } else { 28 })
    }

    /// Returns how far one segment's header lies from the next.
    pub(crate) fn stride(&self) -> u64 {
        u64::from(self.segment_bytes)
    }

    /// Returns how many bytes of a segment's header mean something.
    pub(crate) fn entry_bytes(&self) -> usize {
        if self.layout.is_64 { 56 } else { 32 }
    }

    /// Returns how many bytes of a section's header mean something.
    pub(crate) fn section_bytes(&self) -> usize {
        if self.layout.is_64 { 64 } else { 40 }
    }
}

/// Reads one of the two values that a class and an order may have.
fn is_second(byte: u8) -> Option<bool> {
    matches!(byte, 1 | 2).then_some(byte == 2)
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) physical: u64,
    pub(crate) file_bytes: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) align: u64,
}

impl Segment {
    /// The kind of what is mapped.
    pub(crate) const LOAD: u32 = 1;
    /// The kind that tells where the linker's own tables are.
    pub(crate) const DYNAMIC: u32 = 2;
    /// The kind of notes.
    pub(crate) const NOTE: u32 = 4;
    /// The kind that tells where the index of call frame information is.
    pub(crate) const EH_FRAME: u32 = 0x6474_e550;
    /// The flag of what can be executed.
    pub(crate) const EXECUTABLE: u32 = 1;
    /// The flag of what can be written.
    pub(crate) const WRITABLE: u32 = 2;

    /// Reads a segment's header.
    pub(crate) fn parse(layout: Layout, bytes: &[u8]) -> Option<Self> {
        let word = |at| layout.word(bytes, at);
        let half = |at| layout.u32(bytes, at);
        Some(if layout.is_64 {
            Self {
                kind: half(0)?,
                flags: half(4)?,
                offset: word(8)?,
                address: word(16)?,
                physical: word(24)?,
                file_bytes: word(32)?,
                memory_bytes: word(40)?,
                align: word(48)?,
            }
        } else {
            Self {
                kind: half(0)?,
                offset: word(4)?,
                address: word(8)?,
                physical: word(12)?,
                file_bytes: word(16)?,
                memory_bytes: word(20)?,
                flags: half(24)?,
                align: word(28)?,
            }
        })
    }
}
