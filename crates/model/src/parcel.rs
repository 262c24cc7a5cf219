//! How the content of a dump travels and is kept: cut into frames, many frames to a parcel, put together by a manifest.
//!
//! A *frame* is one Zstandard frame of at most 2 MiB of content, named by the BLAKE3 of its packed bytes: so the server
//! can prove a frame without unpacking it, and nobody can put other content under the name of somebody's frame. A *parcel*
//! is an index and the frames behind it; it is stored as one blob, so that many frames cost one write to the disk. A
//! *manifest* says which parts of a dump the frames hold, in their order; whatever no part covers is zero.
//!
//! Parcels and manifests are our own forms, written and read here and nowhere else; what they hold is never looked into.

use crate::digest::Digest;
use crate::error::ApiError;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes of content of one frame.
pub const MAX_FRAME_BYTES: u32 = 2 << 20;
/// Bytes of one frame as it is packed: what cannot be packed grows a little.
pub const MAX_PACKED_BYTES: u32 = MAX_FRAME_BYTES + (64 << 10);
/// Frames of one parcel.
pub const MAX_PARCEL_FRAMES: usize = 8_192;
/// Bytes of one parcel, its index included.
pub const MAX_PARCEL_BYTES: u64 = 16 << 20;
/// Frames that one question may be about: as JSON they fit into a body.
pub const MAX_ASKED_FRAMES: usize = 2_048;
/// Bytes of one dump.
pub const MAX_DUMP_BYTES: u64 = 256 << 30;
/// Frames of one dump.
pub const MAX_DUMP_FRAMES: usize = 1 << 19;
/// Parts of one dump that are not zero.
pub const MAX_EXTENTS: usize = 1 << 19;
/// Bytes of one manifest.
pub const MAX_MANIFEST_BYTES: u64 = 32 << 20;

const PARCEL_MAGIC: &[u8; 8] = b"QPARCEL1";
const MANIFEST_MAGIC: &[u8; 8] = b"QDUMPMF1";
/// Bytes of a parcel before its index: the magic and the number of frames.
pub const PARCEL_HEAD_BYTES: usize = 12;
/// Bytes of one frame in a parcel's index.
const ENTRY_BYTES: usize = 40;

/// Why bytes are no parcel or no manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParcelError(&'static str);

impl ParcelError {
    /// Makes the error of what is found wrong while it goes by.
    pub const fn new(why: &'static str) -> Self {
        Self(why)
    }
}

impl From<ParcelError> for ApiError {
    fn from(error: ParcelError) -> Self {
        Self::invalid("parcel_invalid", error.to_string())
    }
}

/// A piece of content, packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// The BLAKE3 of its packed bytes.
    pub digest: Digest,
    /// How long it is packed.
    pub packed: u32,
    /// How long it is unpacked.
    pub raw: u32,
}

impl Frame {
    fn check(&self) -> Result<(), ParcelError> {
        let fits = (1..=MAX_FRAME_BYTES).contains(&self.raw) && (1..=MAX_PACKED_BYTES).contains(&self.packed);
        if fits { Ok(()) } else { Err(ParcelError("a frame is longer than a frame may be, or empty")) }
    }
}

/// What stands at the beginning of a parcel: its frames, in the order in which they follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// The frames.
    pub frames: Vec<Frame>,
}

impl Index {
    /// Returns how long the head and the index of a parcel are, which its head tells.
    pub fn bytes(head: &[u8; PARCEL_HEAD_BYTES]) -> Result<usize, ParcelError> {
        let (magic, count) = head.split_at(PARCEL_MAGIC.len());
        if magic != PARCEL_MAGIC {
            return Err(ParcelError("it is not a parcel"));
        }
        let count = u32::from_le_bytes(count.try_into().expect("four bytes are left")) as usize;
        match count {
            1..=MAX_PARCEL_FRAMES => Ok(PARCEL_HEAD_BYTES + count * ENTRY_BYTES),
            _ => Err(ParcelError("a parcel has no frames, or more than it may")),
        }
    }

    /// Reads the head and the index of a parcel.
    pub fn decode(bytes: &[u8]) -> Result<Self, ParcelError> {
        let head = bytes.first_chunk().ok_or(ParcelError("a parcel breaks off in its head"))?;
        let entries = bytes.get(PARCEL_HEAD_BYTES..Self::bytes(head)?);
        let entries = entries.ok_or(ParcelError("a parcel breaks off in its index"))?;
        let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
        let frames = entries.iter().map(|entry| {
            let number = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
            let digest = Digest::from_bytes(*entry.first_chunk().expect("an entry is longer than a digest"));
            let frame = Frame { digest, packed: number(32), raw: number(36) };
            frame.check().map(|()| frame)
        });
        let index = Self { frames: frames.collect::<Result<_, _>>()? };
        if index.parcel_bytes() > MAX_PARCEL_BYTES {
            return Err(ParcelError("a parcel is longer than a parcel may be"));
        }
        Ok(index)
    }

    /// Writes the head and the index of a parcel.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PARCEL_HEAD_BYTES + self.frames.len() * ENTRY_BYTES);
        bytes.extend_from_slice(PARCEL_MAGIC);
        bytes.extend_from_slice(&u32::try_from(self.frames.len()).unwrap_or(u32::MAX).to_le_bytes());
        for frame in &self.frames {
            bytes.extend_from_slice(frame.digest.as_bytes());
            bytes.extend_from_slice(&frame.packed.to_le_bytes());
            bytes.extend_from_slice(&frame.raw.to_le_bytes());
        }
        bytes
    }

    /// Returns how long the whole parcel is.
    pub fn parcel_bytes(&self) -> u64 {
        let head = (PARCEL_HEAD_BYTES + self.frames.len() * ENTRY_BYTES) as u64;
        head + self.frames.iter().map(|frame| u64::from(frame.packed)).sum::<u64>()
    }

    /// Returns how long the parcel would be with one frame more.
    pub fn bytes_with(&self, frame: &Frame) -> u64 {
        self.parcel_bytes() + ENTRY_BYTES as u64 + u64::from(frame.packed)
    }

    /// Returns the frames with where each begins in the parcel.
    pub fn places(&self) -> impl Iterator<Item = (u64, Frame)> + '_ {
        let first = (PARCEL_HEAD_BYTES + self.frames.len() * ENTRY_BYTES) as u64;
        self.frames.iter().scan(first, |at, frame| {
            let here = *at;
            *at += u64::from(frame.packed);
            Some((here, *frame))
        })
    }
}

/// A part of a dump that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub bytes: u64,
}

impl Extent {
    /// Returns where it ends.
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

/// What a dump is made of: the frames, one behind the other, hold its extents, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// How long the dump is.
    pub size: u64,
    /// The BLAKE3 of the whole dump.
    pub digest: Digest,
    /// Its parts that are not zero, by their place.
    pub extents: Vec<Extent>,
    /// The frames that hold them.
    pub frames: Vec<Frame>,
}

impl Manifest {
    /// Returns how long all frames are packed, the same one as often as it occurs.
    pub fn packed_bytes(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.packed)).sum()
    }

    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.extents.len() * 6 + self.frames.len() * 38);
        bytes.extend_from_slice(MANIFEST_MAGIC);
        bytes.extend_from_slice(self.digest.as_bytes());
        push(&mut bytes, self.size);
        push(&mut bytes, self.extents.len() as u64);
        let mut end = 0;
        for extent in &self.extents {
            push(&mut bytes, extent.start.saturating_sub(end));
            push(&mut bytes, extent.bytes);
            end = extent.end();
        }
        push(&mut bytes, self.frames.len() as u64);
        for frame in &self.frames {
            bytes.extend_from_slice(frame.digest.as_bytes());
            push(&mut bytes, frame.packed.into());
            push(&mut bytes, frame.raw.into());
        }
        bytes
    }

    /// Reads it, refusing what does not add up.
    pub fn decode(bytes: &[u8]) -> Result<Self, ParcelError> {
        let mut bytes = Bytes(bytes);
        if bytes.array::<8>()? != *MANIFEST_MAGIC {
            return Err(ParcelError("it is not a dump's manifest"));
        }
        let digest = Digest::from_bytes(bytes.array()?);
        let size = bytes.number()?;
        if size > MAX_DUMP_BYTES {
            return Err(ParcelError("the dump is longer than a dump may be"));
        }
        let count = bytes.count(MAX_EXTENTS, 2)?;
        let (mut extents, mut end, mut held) = (Vec::with_capacity(count), 0_u64, 0_u64);
        for number in 0..count {
            let (gap, length) = (bytes.number()?, bytes.number()?);
            let start = end.saturating_add(gap);
            end = start.saturating_add(length);
            if length == 0 || end > size || (gap == 0 && number > 0) {
                return Err(ParcelError("an extent is empty, touches the one before, or lies beyond the dump's end"));
            }
            held += length;
            extents.push(Extent { start, bytes: length });
        }
        let count = bytes.count(MAX_DUMP_FRAMES, 34)?;
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            let digest = Digest::from_bytes(bytes.array()?);
            let mut short = || u32::try_from(bytes.number()?).map_err(|_| ParcelError("a frame is too long"));
            let frame = Frame { digest, packed: short()?, raw: short()? };
            frame.check()?;
            held = held.checked_sub(frame.raw.into()).ok_or(ParcelError("the frames hold more than the extents"))?;
            frames.push(frame);
        }
        if held != 0 || !bytes.0.is_empty() {
            return Err(ParcelError("the frames hold less than the extents, or something stands behind them"));
        }
        Ok(Self { size, digest, extents, frames })
    }
}

/// Appends a number, seven bits to a byte, the lowest first.
fn push(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// What is left to read.
struct Bytes<'b>(&'b [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ParcelError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(ParcelError("a manifest breaks off"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, ParcelError> {
        let mut number = 0;
        for shift in (0..63).step_by(7) {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                // The one spelling of a number: what ends in a zero could have ended before.
                return if byte == 0 && shift > 0 { Err(ParcelError("a number is misspelt")) } else { Ok(number) };
            }
        }
        Err(ParcelError("a number is too large"))
    }

    /// Reads how many things follow, each of so many bytes at least.
    fn count(&mut self, max: usize, least_bytes: usize) -> Result<usize, ParcelError> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if count > max || count > self.0.len() / least_bytes {
            return Err(ParcelError("a manifest announces more than it holds, or more than it may"));
        }
        Ok(count)
    }
}

/// A question about frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FrameQuery {
    /// Which ones.
    #[schema(max_items = 2048)]
    pub digests: Vec<Digest>,
}

impl FrameQuery {
    /// Refuses a question about too many.
    pub fn check(&self) -> Result<(), ApiError> {
        if self.digests.len() <= MAX_ASKED_FRAMES {
            return Ok(());
        }
        let message = format!("{} frames are asked for; at most {MAX_ASKED_FRAMES} are allowed", self.digests.len());
        Err(ApiError::invalid("frames_too_many", message).with_hint("ask in several requests"))
    }
}

/// Which frames are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FramesMissing {
    /// Those of the question, in its order.
    pub missing: Vec<Digest>,
}

/// Where a frame is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FramePlace {
    /// Which frame.
    pub digest: Digest,
    /// The parcel that it is in.
    pub parcel: Digest,
    /// Where in the parcel it begins.
    pub offset: u64,
    /// How long it is packed.
    pub packed: u32,
    /// How long it is unpacked.
    pub raw: u32,
}

/// Where frames are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FramePlaces {
    /// Those of the question that are there, in no promised order.
    pub places: Vec<FramePlace>,
}

/// A parcel as it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Parcel {
    /// The BLAKE3 of all of it.
    pub digest: Digest,
    /// How long it is.
    pub size: u64,
    /// How many frames it brought.
    pub frames: u64,
    /// How many of them were not there before.
    pub new_frames: u64,
    /// When it was stored.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(seed: u8, packed: u32, raw: u32) -> Frame {
        Frame { digest: Digest::from_bytes([seed; 32]), packed, raw }
    }

    fn manifest() -> Manifest {
        Manifest {
            size: 1 << 20,
            digest: Digest::from_bytes([9; 32]),
            extents: vec![Extent { start: 0, bytes: 4096 }, Extent { start: 8192, bytes: 300 }],
            frames: vec![frame(1, 100, 4000), frame(2, 50, 396)],
        }
    }

    #[test]
    fn a_manifest_and_a_parcel_read_back() {
        let manifest = manifest();
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));
        let index = Index { frames: manifest.frames };
        let bytes = index.encode();
        assert_eq!(Index::bytes(bytes.first_chunk().expect("is long enough")), Ok(bytes.len()));
        assert_eq!(Index::decode(&bytes), Ok(index.clone()));
        let places: Vec<_> = index.places().map(|(at, frame)| (at, frame.packed)).collect();
        assert_eq!(places, [(92, 100), (192, 50)]);
        assert_eq!(index.parcel_bytes(), 242);
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let check = |change: fn(&mut Manifest)| {
            let mut manifest = manifest();
            change(&mut manifest);
            assert!(Manifest::decode(&manifest.encode()).is_err(), "{manifest:?}");
        };
        check(|manifest| manifest.size = 8492 - 1);
        check(|manifest| manifest.size = MAX_DUMP_BYTES + 1);
        check(|manifest| manifest.extents[1].bytes = 301);
        check(|manifest| manifest.extents[1].bytes = 299);
        check(|manifest| manifest.extents[1].bytes = 0);
        check(|manifest| manifest.extents[1].start = 4096);
        check(|manifest| manifest.extents[1].bytes = u64::MAX >> 2);
        check(|manifest| manifest.frames[0].raw = 0);
        check(|manifest| manifest.frames[0].raw = MAX_FRAME_BYTES + 1);
        check(|manifest| manifest.frames[0].packed = MAX_PACKED_BYTES + 1);
        check(|manifest| manifest.frames.clear());
        let check = |frames: Vec<Frame>| assert!(Index::decode(&Index { frames }.encode()).is_err());
        check(Vec::new());
        check(vec![frame(1, 0, 1)]);
        check(vec![frame(1, 1, 1); MAX_PARCEL_FRAMES + 1]);
        check(vec![frame(1, MAX_FRAME_BYTES, MAX_FRAME_BYTES); 8]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_is_read_is_the_only_spelling(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), place in 0_usize..150, value: u8,
        ) {
            let mut changed = manifest().encode();
            let place = place % changed.len();
            changed[place] = value;
            for bytes in [&bytes, &changed, &changed[..place].to_vec()] {
                if let Ok(manifest) = Manifest::decode(bytes) {
                    prop_assert_eq!(&manifest.encode(), bytes);
                }
                let _ = Index::decode(bytes);
            }
        }
    }
}
