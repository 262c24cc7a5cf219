//! A file as memory. The one file of this crate that says `unsafe`.
//!
//! Whoever cuts a mapped file short ends this process by a signal. That is borne: what is mapped lies in folders that only
//! its own process writes, or is looked at in a sandboxed child whose end is told like any other.
#![expect(unsafe_code, reason = "mapping a file is a promise that nobody changes it, which no type can keep")]

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

/// A file as memory, read only.
#[derive(Debug)]
pub struct Mapped(Option<memmap2::Mmap>);

impl Mapped {
    /// Maps a regular file; an empty one is an empty slice.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Self::of(&File::open(path)?)
    }

    /// Maps an open file.
    pub fn of(file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        if metadata.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the map is private and read only; a file that shrinks meanwhile ends the process, as said above.
        unsafe { memmap2::MmapOptions::new().map(file) }.map(Some).map(Self)
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
