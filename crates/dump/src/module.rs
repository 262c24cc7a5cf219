//! The file of a module: a program or a library that was mapped into what died.

use crate::mapped::Mapped;
use object::read::elf::{ElfFile32, ElfFile64};
use object::{File, FileKind, Object};
use std::ops::Deref;
use std::path::{Path, PathBuf};

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
enum Bytes {
    Mapped(Mapped),
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

/// An ELF file of a module, or of its debug information.
#[derive(Debug)]
pub struct ModuleFile {
    path: PathBuf,
    bytes: Bytes,
    build_id: Option<Vec<u8>>,
}

impl ModuleFile {
    /// Opens a file and looks at its headers.
    pub fn open(path: &Path) -> Result<Self, ModuleError> {
        let bytes = Mapped::open(path).map_err(|cause| ModuleError::Unreadable { path: path.to_owned(), cause })?;
        Self::of(path, Bytes::Mapped(bytes))
    }

    /// Takes a file that is in memory, as a vDSO is in a core.
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, ModuleError> {
        Self::of(path, Bytes::Owned(bytes))
    }

    fn of(path: &Path, bytes: Bytes) -> Result<Self, ModuleError> {
        let broken = |cause: object::Error| ModuleError::Broken { path: path.to_owned(), cause: cause.to_string() };
        let build_id = parse(&bytes).map_err(broken)?.build_id().map_err(broken)?.map(<[u8]>::to_vec);
        Ok(Self { path: path.to_owned(), bytes, build_id })
    }

    /// Returns where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the build id it says it has.
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// Returns it as ELF; this was seen to work when it was opened.
    pub fn elf(&self) -> object::Result<File<'_>> {
        parse(&self.bytes)
    }
}

fn parse(bytes: &[u8]) -> object::Result<File<'_>> {
    match FileKind::parse(bytes)? {
        FileKind::Elf32 => ElfFile32::parse(bytes).map(File::Elf32),
        _ => ElfFile64::parse(bytes).map(File::Elf64),
    }
}
