//! Putting a dump together: front to back into a file that has the holes of the one it was, or as far as is looked at.
//!
//! Frames come from elsewhere and are proved by their names before they are unpacked; a dump that was put together whole is
//! proved by its digest too.

use super::cutter::ZEROS;
use model::Digest;
use model::parcel::{Frame, Manifest};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Unpacked frames that are held, of those looked at last: of the longest sort, 8 MiB.
const MAX_HELD_FRAMES: usize = 4;

/// Bytes of a hole that are hashed at once.
const MAX_CROSSED_BYTES: u64 = 64 << 20;

/// Why a dump cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// A frame cannot be had, or the file not be written.
    #[error("the dump cannot be put together")]
    Failed(#[from] io::Error),
    /// A frame is not the one that its name says.
    #[error("frame `{digest}` is not what its name says")]
    Foreign {
        /// Which frame.
        digest: Digest,
    },
    /// A frame does not hold what the manifest says.
    #[error("frame `{digest}` does not hold the {raw} bytes that it should")]
    Broken {
        /// Which frame.
        digest: Digest,
        /// How many it should hold.
        raw: u32,
    },
    /// The whole is not what its name says, though each part is.
    #[error("the dump that was put together is `{found}` and should be `{expected}`")]
    Different {
        /// What its digest should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
}

impl From<AssemblyError> for io::Error {
    fn from(error: AssemblyError) -> Self {
        match error {
            AssemblyError::Failed(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// Proves a frame and unpacks it.
fn unpack(frame: &Frame, packed: &[u8], into: &mut Vec<u8>) -> Result<(), AssemblyError> {
    let Frame { digest, raw, .. } = *frame;
    if blake3::hash(packed).as_bytes() != digest.as_bytes() {
        return Err(AssemblyError::Foreign { digest });
    }
    into.clear();
    into.reserve_exact(raw as usize);
    // No byte more than announced is ever unpacked: the buffer has no room for it.
    let mut unpacker = zstd::bulk::Decompressor::new()?;
    let length = unpacker.decompress_to_buffer(packed, into).map_err(|_| AssemblyError::Broken { digest, raw })?;
    if length == raw as usize { Ok(()) } else { Err(AssemblyError::Broken { digest, raw }) }
}

/// A dump being put together, frame by frame in their order.
#[derive(Debug)]
pub struct Assembly<'m> {
    manifest: &'m Manifest,
    file: &'m File,
    hasher: blake3::Hasher,
    /// The next frame.
    frame: usize,
    /// The extent that comes next, and how much of it is there.
    extent: usize,
    written: u64,
    /// How far the dump has been hashed.
    hashed: u64,
    raw: Vec<u8>,
}

impl<'m> Assembly<'m> {
    /// Begins to put a dump together in a file, which must be empty.
    pub fn new(manifest: &'m Manifest, file: &'m File) -> Self {
        let hasher = blake3::Hasher::new();
        Self { manifest, file, hasher, frame: 0, extent: 0, written: 0, hashed: 0, raw: Vec::new() }
    }

    /// Hashes a part of the hole before what comes next, which may be longer than anybody wants to wait for at once; tells
    /// whether there is more of it.
    pub fn cross(&mut self) -> bool {
        let next = self.manifest.extents.get(self.extent).map_or(self.manifest.size, |next| next.start);
        let reached = self.hashed.saturating_add(MAX_CROSSED_BYTES).min(next);
        self.hash_zeros(reached);
        self.hashed < next
    }

    /// Adds the next frame.
    pub fn push(&mut self, packed: &[u8]) -> Result<(), AssemblyError> {
        let frame = self.manifest.frames.get(self.frame).ok_or(io::Error::other("there are no more frames"))?;
        let mut raw = std::mem::take(&mut self.raw);
        unpack(frame, packed, &mut raw)?;
        self.frame += 1;
        let mut left = &raw[..];
        while let Some(extent) = self.manifest.extents.get(self.extent).filter(|_| !left.is_empty()) {
            let room = usize::try_from(extent.bytes - self.written).unwrap_or(usize::MAX);
            let (part, rest) = left.split_at(left.len().min(room));
            let at = extent.start + self.written;
            self.hash_zeros(at);
            self.hasher.update(part);
            self.file.write_all_at(part, at)?;
            self.hashed = at + part.len() as u64;
            self.written += part.len() as u64;
            if self.written == extent.bytes {
                (self.extent, self.written) = (self.extent + 1, 0);
            }
            left = rest;
        }
        self.raw = raw;
        Ok(())
    }

    /// Returns how far the dump is there.
    pub const fn reached(&self) -> u64 {
        self.hashed
    }

    /// Ends it: the file has its length, and is proved to be the dump.
    pub fn finish(mut self) -> Result<(), AssemblyError> {
        self.file.set_len(self.manifest.size)?;
        self.hash_zeros(self.manifest.size);
        let (expected, found) = (self.manifest.digest, Digest::from_bytes(*self.hasher.finalize().as_bytes()));
        if found == expected { Ok(()) } else { Err(AssemblyError::Different { expected, found }) }
    }

    fn hash_zeros(&mut self, to: u64) {
        while self.hashed < to {
            let part = usize::try_from(to - self.hashed).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.hasher.update(&ZEROS[..part]);
            self.hashed += part as u64;
        }
    }
}

/// Where frames come from.
pub trait Frames {
    /// Returns a frame's packed bytes; `number` is its place in the manifest.
    fn fetch(&mut self, number: usize, frame: &Frame) -> io::Result<Vec<u8>>;
}

/// Returns where each begins of things that lie one behind the other.
fn starts(lengths: impl Iterator<Item = u64>) -> Vec<u64> {
    let begin = |sum: &mut u64, length| {
        let start = *sum;
        *sum += length;
        Some(start)
    };
    lengths.scan(0, begin).collect()
}

/// A dump that is read where it is looked at, and nowhere else.
#[derive(Debug)]
pub struct Assembler<F> {
    manifest: Manifest,
    frames: F,
    /// Where each extent begins in what the frames hold, one behind the other.
    extent_starts: Vec<u64>,
    /// The same of each frame.
    frame_starts: Vec<u64>,
    held: VecDeque<(usize, Arc<Vec<u8>>)>,
}

impl<F: Frames> Assembler<F> {
    /// Makes a reader of a dump.
    pub fn new(manifest: Manifest, frames: F) -> Self {
        let extent_starts = starts(manifest.extents.iter().map(|extent| extent.bytes));
        let frame_starts = starts(manifest.frames.iter().map(|frame| frame.raw.into()));
        Self { manifest, frames, extent_starts, frame_starts, held: VecDeque::new() }
    }

    /// Returns how long the dump is.
    pub const fn size(&self) -> u64 {
        self.manifest.size
    }

    /// Fills `into` with what stands at a place, and returns how much there was.
    pub fn read_at(&mut self, into: &mut [u8], at: u64) -> Result<usize, AssemblyError> {
        let left = self.manifest.size.saturating_sub(at);
        let length = usize::try_from(left).map_or(into.len(), |left| left.min(into.len()));
        let mut done = 0;
        while done < length {
            let part = &mut into[done..length];
            done += self.read_part(part, at + done as u64)?;
        }
        Ok(length)
    }

    /// Reads up to the end of an extent, a hole or a frame.
    fn read_part(&mut self, into: &mut [u8], at: u64) -> Result<usize, AssemblyError> {
        let cut = |into: &[u8], bytes: u64| usize::try_from(bytes).map_or(into.len(), |bytes| bytes.min(into.len()));
        let number = self.manifest.extents.partition_point(|extent| extent.end() <= at);
        let Some(extent) = self.manifest.extents.get(number).filter(|extent| extent.start <= at) else {
            let end = self.manifest.extents.get(number).map_or(u64::MAX, |next| next.start);
            let length = cut(into, end - at);
            into[..length].fill(0);
            return Ok(length);
        };
        let place = self.extent_starts[number] + (at - extent.start);
        let length = cut(into, extent.end() - at);
        let frame = self.frame_starts.partition_point(|start| *start <= place) - 1;
        let raw = self.frame(frame)?;
        let within = usize::try_from(place - self.frame_starts[frame]).expect("a frame is short");
        let length = length.min(raw.len() - within);
        into[..length].copy_from_slice(&raw[within..within + length]);
        Ok(length)
    }

    fn frame(&mut self, number: usize) -> Result<Arc<Vec<u8>>, AssemblyError> {
        if let Some(place) = self.held.iter().position(|(held, _)| *held == number) {
            let found = self.held.remove(place).expect("was found there");
            self.held.push_front(found.clone());
            return Ok(found.1);
        }
        let frame = self.manifest.frames[number];
        let packed = self.frames.fetch(number, &frame)?;
        let mut raw = Vec::new();
        unpack(&frame, &packed, &mut raw)?;
        let raw = Arc::new(raw);
        self.held.truncate(MAX_HELD_FRAMES - 1);
        self.held.push_front((number, Arc::clone(&raw)));
        Ok(raw)
    }
}
