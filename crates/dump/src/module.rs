//! The file of a module: a program or a library that was mapped into what died, or what holds its debug information.
//!
//! Bytes are mapped, or owned where they were unpacked or copied from memory; either is shared, so that whoever keeps
//! symbols need not keep the module. A compressed section is unpacked within a bound that its header cannot raise.
//! Which file belongs to which module is decided in `locate.rs`.

use crate::mapped::Mapped;
use object::read::elf::{ElfFile32, ElfFile64};
use object::{CompressionFormat, File, FileKind, Object, ObjectSection, ObjectSegment, SectionFlags, SegmentFlags};
use std::fs::Metadata;
use std::io::Read;
use std::ops::{Deref, Range};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a build id that are believed; what linkers make is 8 to 32 bytes long.
const MAX_BUILD_ID_BYTES: usize = 64;
/// Bytes that one compressed section may come to.
pub(crate) const MAX_SECTION_BYTES: u64 = 192 << 20;
/// Bytes of the table of sections that go into a stamp.
const MAX_STAMPED_BYTES: usize = 1 << 20;
/// Ranges of code that a file may have.
const MAX_CODE_RANGES: usize = 65_536;

/// Why a file cannot be used as a module.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// It cannot be read.
    #[error("`{path}` cannot be read: {cause}", path = .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The machine's words.
        cause: std::io::Error,
    },
    /// It is no ELF file, or a broken one.
    #[error("`{path}` is not a whole ELF file: {cause}", path = .path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

/// The bytes of a file, wherever they are.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// In a file.
    Mapped(Mapped),
    /// In memory of ours.
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Where a file was found: the folder that stands for `/`, and the path of the file's folder in there.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) root: PathBuf,
    pub(crate) folder: PathBuf,
}

/// An ELF file of a module, or of its debug information; a copy shares its bytes.
#[derive(Clone, Debug)]
pub struct ModuleFile {
    path: PathBuf,
    bytes: Arc<Bytes>,
    build_id: Option<Vec<u8>>,
    home: Option<Home>,
    /// When it was written and last changed, where no build id tells one file from another.
    times: [i64; 4],
    /// Whether somebody sent it, who may have made it look like another from outside.
    is_sent: bool,
}

impl ModuleFile {
    /// Opens a file and looks at its headers.
    pub fn open(path: &Path) -> Result<Self, ModuleError> {
        let unreadable = |cause| ModuleError::Unreadable { path: path.to_owned(), cause };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        Self::of_file(path, &file, None)
    }

    /// Takes a file that is in memory, as a vDSO is in a core.
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, ModuleError> {
        Self::of(path, Bytes::Owned(bytes), None, None)
    }

    /// Takes a file that is open.
    pub(crate) fn of_file(path: &Path, file: &std::fs::File, home: Option<Home>) -> Result<Self, ModuleError> {
        let unreadable = |cause| ModuleError::Unreadable { path: path.to_owned(), cause };
        let metadata = file.metadata().map_err(unreadable)?;
        let bytes = Bytes::Mapped(Mapped::of(file).map_err(unreadable)?);
        Self::of(path, bytes, home, Some(&metadata))
    }

    fn of(path: &Path, bytes: Bytes, home: Option<Home>, metadata: Option<&Metadata>) -> Result<Self, ModuleError> {
        let broken = |cause: object::Error| ModuleError::Broken { path: path.to_owned(), cause: cause.to_string() };
        let elf = parse(&bytes).map_err(broken)?;
        // Notes that cannot be read are no reason to refuse symbols that can.
        let build_id = elf.build_id().unwrap_or(None);
        let build_id = build_id.filter(|id| !id.is_empty() && id.len() <= MAX_BUILD_ID_BYTES).map(<[u8]>::to_vec);
        let times = metadata.map_or([0; 4], |m| [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()]);
        Ok(Self { path: path.to_owned(), bytes: Arc::new(bytes), build_id, home, times, is_sent: false })
    }

    /// Has it told from others by all that is in it.
    pub(crate) fn sent(self) -> Self {
        Self { is_sent: true, ..self }
    }

    /// Returns where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns its bytes to keep; those that others have too, or that lie in a file, are copied.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        match Arc::try_unwrap(self.bytes) {
            Ok(Bytes::Owned(bytes)) => bytes,
            Ok(mapped) => mapped.to_vec(),
            Err(shared) => shared.to_vec(),
        }
    }

    /// Returns the build id it says it has.
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// Returns it as ELF; this was seen to work when it was opened.
    pub fn elf(&self) -> object::Result<File<'_>> {
        parse(&self.bytes)
    }

    /// Returns where its bytes are, to be kept longer than itself.
    pub(crate) fn shared(&self) -> Arc<Bytes> {
        Arc::clone(&self.bytes)
    }

    /// Returns the folder it was found in, if it was looked for in a root.
    pub(crate) fn home(&self) -> Option<&Home> {
        self.home.as_ref()
    }

    /// Returns whether it has a section of this name with something in it.
    pub(crate) fn has_section(&self, name: &str) -> bool {
        self.elf().is_ok_and(|elf| {
            elf.section_by_name(name).is_some_and(|section| section.file_range().is_some_and(|(_, size)| size > 0))
        })
    }

    /// Returns whether a section is compressed and, as it lies there, at least this long.
    pub(crate) fn is_compressed(&self, name: &str, bytes: u64) -> bool {
        let packed = |elf: File<'_>| elf.section_by_name(name)?.compressed_file_range().ok();
        let packed = self.elf().ok().and_then(packed);
        packed.is_some_and(|packed| packed.format != CompressionFormat::None && packed.compressed_size >= bytes)
    }

    /// Returns the content of a section, unpacked; nothing if it has none, or if that is broken or too long.
    pub(crate) fn section(&self, name: &str) -> Option<Section> {
        let elf = self.elf().ok()?;
        let section = elf.section_by_name(name)?;
        let packed = section.compressed_file_range().ok()?;
        let start = usize::try_from(packed.offset).ok()?;
        let end = start.checked_add(usize::try_from(packed.compressed_size).ok()?)?;
        let bytes = self.bytes.get(start..end)?;
        match packed.format {
            CompressionFormat::None => Some(Section::Shared(self.shared(), start..end)),
            _ if packed.uncompressed_size > MAX_SECTION_BYTES => None,
            CompressionFormat::Zlib => unpack(flate2::read::ZlibDecoder::new(bytes), packed.uncompressed_size),
            CompressionFormat::Zstandard => {
                unpack(zstd::stream::read::Decoder::with_buffer(bytes).ok()?, packed.uncompressed_size)
            }
            _ => None,
        }
    }

    /// Returns where its code is, sorted, as its program headers count addresses.
    pub(crate) fn code(&self) -> Vec<Range<u64>> {
        let Ok(elf) = self.elf() else { return Vec::new() };
        let executable = |section: &object::Section<'_, '_>| match section.flags() {
            SectionFlags::Elf { sh_flags, .. } => sh_flags.0 & object::elf::SHF_EXECINSTR.0 != 0,
            _ => false,
        };
        let ranges = |start: u64, size: u64| start..start.saturating_add(size);
        let sections = elf.sections().filter(executable).map(|section| ranges(section.address(), section.size()));
        let mut code: Vec<_> = sections.filter(|range| !range.is_empty()).take(MAX_CODE_RANGES).collect();
        if code.is_empty() {
            let executable = |segment: &object::Segment<'_, '_>| match segment.flags() {
                SegmentFlags::Elf { p_flags, .. } => p_flags.0 & object::elf::PF_X.0 != 0,
                _ => false,
            };
            let segments = elf.segments().filter(executable).map(|segment| ranges(segment.address(), segment.size()));
            code = segments.filter(|range| !range.is_empty()).take(MAX_CODE_RANGES).collect();
        }
        code.sort_unstable_by_key(|range| (range.start, range.end));
        code
    }

    /// Returns what tells this file from any other without reading it: its build id, its length and its headers, and where
    /// there is no build id the times at which it was changed, the last of which no program can set. What was sent is read.
    pub(crate) fn stamp(&self) -> [u8; 32] {
        if self.is_sent {
            return *blake3::hash(&self.bytes).as_bytes();
        }
        let mut hasher = blake3::Hasher::new();
        let length = self.bytes.len() as u64;
        hasher.update(&length.to_le_bytes());
        hasher.update(self.bytes.get(..64).unwrap_or(&self.bytes));
        let from = match self.elf() {
            Ok(File::Elf64(elf)) => elf.elf_header().e_shoff.get(elf.endian()),
            Ok(File::Elf32(elf)) => u64::from(elf.elf_header().e_shoff.get(elf.endian())),
            _ => 0,
        };
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(self.bytes.len());
        let to = from.saturating_add(MAX_STAMPED_BYTES).min(self.bytes.len());
        // The table of sections is the last thing in files as linkers write them; a longer rest is not worth reading.
        hasher.update(&self.bytes[from..to.min(from.saturating_add(16 << 10))]);
        match &self.build_id {
            Some(id) => {
                hasher.update(id);
            }
            None => {
                self.times.iter().for_each(|time| {
                    hasher.update(&time.to_le_bytes());
                });
                if self.times == [0; 4] {
                    hasher.update(&self.bytes);
                }
            }
        }
        *hasher.finalize().as_bytes()
    }
}

/// The content of a section.
#[derive(Debug)]
pub(crate) enum Section {
    /// As it is in the file.
    Shared(Arc<Bytes>, Range<usize>),
    /// Unpacked.
    Owned(Vec<u8>),
}

impl Deref for Section {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Shared(bytes, range) => bytes.get(range.clone()).unwrap_or_default(),
            Self::Owned(bytes) => bytes,
        }
    }
}

fn unpack(reader: impl Read, size: u64) -> Option<Section> {
    let mut bytes = Vec::new();
    // What the header says is reserved only as far as it is likely; the rest must come in fact.
    bytes.try_reserve_exact(usize::try_from(size).ok()?).ok()?;
    reader.take(size).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == size).then_some(Section::Owned(bytes))
}

fn parse(bytes: &[u8]) -> object::Result<File<'_>> {
    match FileKind::parse(bytes)? {
        FileKind::Elf32 => ElfFile32::parse(bytes).map(File::Elf32),
        _ => ElfFile64::parse(bytes).map(File::Elf64),
    }
}
