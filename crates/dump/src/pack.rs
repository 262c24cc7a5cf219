//! Unwind packs: of a module's file only what it takes to walk stacks through it and to name what is found.
//!
//! A pack is an ELF file itself, so `ModuleFile` reads it like any other: the module's headers, its notes, `.eh_frame`
//! and its index, `.debug_frame`, both tables of symbols, what tells where debug information is, and that itself if it
//! is in the module and not too long: inlined functions and lines are part of what a stack is called by, wherever it is
//! looked at. Every other section that is in memory is there without content, so that code is still known to be code;
//! segments keep their addresses and file offsets, and those that are loaded have no content. It is made on the machine
//! that has the module, sent once, and refused on arrival unless it is what `write` makes: one that says
//! less may be read, but one that holds anything else, or has its parts anywhere else, is no pack. That what it says is
//! true cannot be seen from it: whoever sends packs can lie about his own stacks, and must not be able to about
//! others'.

use crate::module::{ModuleError, ModuleFile};
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{Endian, Endianness};
use std::path::Path;

/// Bytes of a pack; debug information, and then symbols, are left out of one that would be longer.
pub const MAX_PACK_BYTES: usize = 192 << 20;
/// Bytes of debug information in a pack, as it lies in the module; of more there is none.
const MAX_DEBUG_BYTES: usize = 64 << 20;
/// Sections, and segments, of a module or a pack.
const MAX_HEADERS: usize = 4096;
/// Bytes of one section's name.
const MAX_NAME_BYTES: usize = 256;
/// Bytes of all notes.
const MAX_NOTE_BYTES: usize = 1 << 20;

const FILE_HEADER_BYTES: usize = size_of::<Header>();
const SEGMENT_BYTES: usize = size_of::<Segment>();
const SECTION_BYTES: usize = size_of::<Section>();
/// Sections that are packed with their content, besides notes. The symbols come last: they are what may be left out.
const PACKED: [&[u8]; 10] = [
    b".eh_frame",
    b".eh_frame_hdr",
    b".debug_frame",
    b".gnu_debuglink",
    b".gnu_debugaltlink",
    b".gnu_debugdata",
    b".dynsym",
    b".dynstr",
    b".symtab",
    b".strtab",
];
/// How many of them are symbols that may be left out.
const OPTIONAL: usize = 2;
/// Debug information that tells functions, files and lines, packed with its content if all of it can be.
const DEBUG: [&[u8]; 12] = [
    b".debug_abbrev",
    b".debug_addr",
    b".debug_aranges",
    b".debug_info",
    b".debug_line",
    b".debug_line_str",
    b".debug_ranges",
    b".debug_rnglists",
    b".debug_str",
    b".debug_str_offsets",
    b".debug_types",
    b".debug_sup",
];

type Header = elf::FileHeader64<Endianness>;
type Segment = elf::ProgramHeader64<Endianness>;
type Section = elf::SectionHeader64<Endianness>;

/// Why there is no pack of a module, or why a pack is refused.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The module, or the pack, is not readable.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// It is of a kind that packs are not made of.
    #[error("only 64-bit little-endian modules are packed, which `{0}` is not")]
    Foreign(String),
    /// It has no table of sections, a broken one, or too long a one.
    #[error("the headers of `{path}` are broken or too many: {cause}")]
    Headers {
        /// Which file.
        path: String,
        /// What is wrong with them.
        cause: String,
    },
    /// It has no build id, so nobody could ask for it.
    #[error("`{0}` has no build id; a pack is found by nothing else")]
    Nameless(String),
    /// It is a pack of another module.
    #[error("the pack is of build id `{found}`, not `{expected}`")]
    Other {
        /// The one it says.
        found: String,
        /// The one that was asked for.
        expected: String,
    },
    /// It is longer than packs are.
    #[error("a pack is at most {MAX_PACK_BYTES} bytes long, this one is {0}")]
    Long(usize),
    /// It holds what packs do not.
    #[error("the pack holds what no pack does: {0}")]
    Odd(String),
}

/// Returns the pack of a module; it will be accepted, since a module whose headers contradict each other has none.
pub fn write(file: &ModuleFile) -> Result<Vec<u8>, PackError> {
    let build_id = file.build_id().ok_or_else(|| PackError::Nameless(shown(file)))?;
    let parts = match Parts::of(file, (&PACKED, &DEBUG)) {
        Err(PackError::Long(_)) => match Parts::of(file, (&PACKED, &[])) {
            Err(PackError::Long(_)) => Parts::of(file, (&PACKED[..PACKED.len() - OPTIONAL], &[]))?,
            other => other?,
        },
        other => other?,
    };
    Ok(accept(file.path(), parts.write(), build_id)?.into_bytes())
}

/// Takes a pack that somebody sent, if it is one of the module with this build id and nothing else.
pub fn accept(path: &Path, bytes: Vec<u8>, build_id: &[u8]) -> Result<ModuleFile, PackError> {
    if bytes.len() > MAX_PACK_BYTES + (MAX_HEADERS * (SECTION_BYTES + SEGMENT_BYTES)) {
        return Err(PackError::Long(bytes.len()));
    }
    let file = ModuleFile::of_bytes(path, bytes)?;
    prove(&file, build_id)?;
    Ok(file)
}

/// Refuses what is no pack of the module with this build id.
pub(crate) fn prove(file: &ModuleFile, build_id: &[u8]) -> Result<(), PackError> {
    if file.bytes().len() > MAX_PACK_BYTES + (MAX_HEADERS * (SECTION_BYTES + SEGMENT_BYTES)) {
        return Err(PackError::Long(file.bytes().len()));
    }
    let parts = Parts::of(file, (&PACKED, &DEBUG))?;
    let found = file.build_id().ok_or_else(|| PackError::Nameless(shown(file)))?;
    if found != build_id {
        let (found, expected) = (crate::locate::hex(found), crate::locate::hex(build_id));
        return Err(PackError::Other { found, expected });
    }
    // What a pack of this pack would be is what it is; so nothing is hidden between its parts, or twice in it.
    if parts.write() != file.bytes() {
        return Err(PackError::Odd("its parts are not laid out as those of a pack are".to_owned()));
    }
    Ok(())
}

/// A section with its name, and its content if that is packed.
type Part<'a> = (&'a [u8], &'a Section, Option<&'a [u8]>);

/// What a module is made of, as far as packs go.
struct Parts<'a> {
    header: &'a Header,
    segments: &'a [Segment],
    sections: Vec<Part<'a>>,
    /// Where each of the module's sections is among those, counted from 1.
    numbers: Vec<u32>,
}

impl<'a> Parts<'a> {
    /// Looks a file's headers through; `packed` are the sections that are packed with their content, and so are those of
    /// `debug`, of which there may be less.
    fn of(file: &'a ModuleFile, (packed, debug): (&[&[u8]], &[&[u8]])) -> Result<Self, PackError> {
        let whole = file.bytes();
        let foreign = || PackError::Foreign(shown(file));
        let broken = |cause: object::Error| PackError::Headers { path: shown(file), cause: cause.to_string() };
        let header = Header::parse(whole).map_err(|_| foreign())?;
        let endian = header.endian().map_err(|_| foreign())?;
        if endian.is_big_endian() {
            return Err(foreign());
        }
        let segments = header.program_headers(endian, whole).map_err(broken)?;
        let table = header.sections(endian, whole).map_err(broken)?;
        if segments.len() > MAX_HEADERS || table.len() > MAX_HEADERS || table.len() < 2 {
            let cause = format!("{} segments and {} sections", segments.len(), table.len());
            return Err(PackError::Headers { path: shown(file), cause });
        }
        let mut parts = Self { header, segments, sections: Vec::new(), numbers: vec![0; table.len()] };
        let (mut note_bytes, mut debug_bytes, mut all_bytes) = (0, 0_usize, 0_usize);
        for (index, section) in table.enumerate().skip(1) {
            let name = table.section_name(endian, section).map_err(broken)?;
            if name.len() > MAX_NAME_BYTES {
                let cause = "a section's name is too long".to_owned();
                return Err(PackError::Headers { path: shown(file), cause });
            }
            let is_note = section.sh_type(endian) == elf::SHT_NOTE;
            let (is_packed, is_debug) = (is_note || packed.contains(&name), debug.contains(&name));
            let has_content = section.sh_type(endian) != elf::SHT_NOBITS && (is_packed || is_debug);
            let mut content = if has_content { Some(section.data(endian, whole).map_err(broken)?) } else { None };
            if is_note {
                note_bytes += content.map_or(0, <[u8]>::len);
                content = content.filter(|_| note_bytes <= MAX_NOTE_BYTES);
            }
            let bytes = content.map_or(0, <[u8]>::len);
            all_bytes = all_bytes.saturating_add(bytes);
            debug_bytes = debug_bytes.saturating_add(if is_debug { bytes } else { 0 });
            let is_loaded = section.sh_flags(endian).0 & elf::SHF_ALLOC.0 != 0;
            if content.is_some() || is_loaded {
                parts.sections.push((name, section, content));
                parts.numbers[index.0] = u32::try_from(parts.sections.len()).unwrap_or(0);
            }
        }
        if all_bytes > MAX_PACK_BYTES || debug_bytes > MAX_DEBUG_BYTES {
            return Err(PackError::Long(all_bytes));
        }
        Ok(parts)
    }

    /// Lays the pack out: header, segments, contents, names, sections.
    fn write(&self) -> Vec<u8> {
        let endian = Endianness::Little;
        let mut out = vec![0; FILE_HEADER_BYTES + self.segments.len() * SEGMENT_BYTES];
        let mut names = vec![0];
        let mut headers = Vec::new();
        // Where each content went: from the module's file to the pack.
        let mut moved = Vec::new();
        for (name, section, content) in &self.sections {
            let mut header = **section;
            header.sh_name.set(endian, narrow(names.len()));
            names.extend_from_slice(name);
            names.push(0);
            out.resize(out.len().next_multiple_of(8), 0);
            header.sh_offset.set(endian, out.len() as u64);
            let link = usize::try_from(section.sh_link.get(endian)).ok();
            header.sh_link.set(endian, link.and_then(|link| self.numbers.get(link)).copied().unwrap_or(0));
            match content {
                Some(content) => {
                    moved.push((section.sh_offset.get(endian), content.len() as u64, out.len() as u64));
                    out.extend_from_slice(content);
                }
                None => header.sh_type.set(endian, elf::SHT_NOBITS),
            }
            headers.push(header);
        }
        let names_at = out.len();
        let own_name = names.len();
        names.extend_from_slice(b".shstrtab\0");
        out.extend_from_slice(&names);
        out.resize(out.len().next_multiple_of(8), 0);
        let sections_at = out.len();
        out.resize(sections_at + SECTION_BYTES, 0);
        headers.push(name_table(own_name, names_at, names.len()));
        for header in &headers {
            out.extend_from_slice(object::pod::bytes_of(header));
        }
        self.write_segments(&mut out, &moved);
        let mut header = *self.header;
        header.e_phoff.set(endian, if self.segments.is_empty() { 0 } else { FILE_HEADER_BYTES as u64 });
        header.e_shoff.set(endian, sections_at as u64);
        header.e_shnum.set(endian, u16::try_from(headers.len() + 1).unwrap_or(0));
        header.e_shstrndx.set(endian, elf::SymbolSection(u16::try_from(headers.len()).unwrap_or(0)));
        header.e_phnum.set(endian, u16::try_from(self.segments.len()).unwrap_or(0));
        out[..FILE_HEADER_BYTES].copy_from_slice(object::pod::bytes_of(&header));
        out
    }

    fn write_segments(&self, out: &mut [u8], moved: &[(u64, u64, u64)]) {
        let endian = Endianness::Little;
        for (index, segment) in self.segments.iter().enumerate() {
            let mut header = *segment;
            let (from, length) = (segment.p_offset(endian), segment.p_filesz(endian));
            let kept = moved.iter().find(|(start, bytes, _)| {
                length > 0 && *start <= from && from.saturating_add(length) <= start.saturating_add(*bytes)
            });
            match kept {
                Some((start, _, to)) if segment.p_type(endian) != elf::PT_LOAD => {
                    header.p_offset.set(endian, to + (from - start));
                }
                _ => header.p_filesz.set(endian, 0),
            }
            let at = FILE_HEADER_BYTES + index * SEGMENT_BYTES;
            out[at..at + SEGMENT_BYTES].copy_from_slice(object::pod::bytes_of(&header));
        }
    }
}

fn name_table(name: usize, start: usize, length: usize) -> Section {
    let endian = Endianness::Little;
    let mut header = Section {
        sh_name: Default::default(),
        sh_type: Default::default(),
        sh_flags: Default::default(),
        sh_addr: Default::default(),
        sh_offset: Default::default(),
        sh_size: Default::default(),
        sh_link: Default::default(),
        sh_info: Default::default(),
        sh_addralign: Default::default(),
        sh_entsize: Default::default(),
    };
    header.sh_name.set(endian, narrow(name));
    header.sh_type.set(endian, elf::SHT_STRTAB);
    header.sh_offset.set(endian, start as u64);
    header.sh_size.set(endian, length as u64);
    header.sh_addralign.set(endian, 1);
    header
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("names of sections are bounded by the file, and that by what was read of it")
}

fn shown(file: &ModuleFile) -> String {
    file.path().display().to_string()
}
