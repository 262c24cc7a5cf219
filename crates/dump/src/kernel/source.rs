//! A file that may have been written as a stream: makedumpfile's flattened form says of each block where it belongs.

use crate::kind::FLATTENED;

/// Blocks of a stream that are noted.
const MAX_BLOCKS: usize = 4 << 20;
/// Where a stream's first block is.
const HEADER_BYTES: usize = 4096;
/// Bytes before each block: where it belongs, and how long it is.
const BLOCK_HEADER_BYTES: usize = 16;
/// Blocks before the nearest one that are looked at, because blocks may overlap.
const MAX_LOOK_BACK: usize = 8;

/// The bytes of a file, by where they would stand in it.
#[derive(Debug)]
pub(super) struct Source<'a> {
    bytes: &'a [u8],
    blocks: Option<Vec<Block>>,
    pub(super) is_truncated: bool,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    offset: u64,
    length: u64,
    at: usize,
}

impl<'a> Source<'a> {
    /// Returns the file; of a stream, its blocks are noted in one pass.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        if !bytes.starts_with(FLATTENED) {
            return Self { bytes, blocks: None, is_truncated: false };
        }
        let (mut blocks, mut at, mut is_whole) = (Vec::new(), HEADER_BYTES, false);
        while let Some(header) = bytes.get(at..at.saturating_add(BLOCK_HEADER_BYTES)) {
            let number = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes were taken"));
            let (offset, length) = (number(0), number(8));
            if offset == u64::MAX {
                is_whole = true;
                break;
            }
            at += BLOCK_HEADER_BYTES;
            let left = (bytes.len() - at) as u64;
            if length > left || blocks.len() >= MAX_BLOCKS {
                blocks.push(Block { offset, length: length.min(left), at });
                break;
            }
            blocks.push(Block { offset, length, at });
            at += usize::try_from(length).expect("it is not longer than what is left");
        }
        // What was written last counts; the order is kept among those that begin at the same place.
        blocks.sort_by_key(|block| block.offset);
        Self { bytes, blocks: Some(blocks), is_truncated: !is_whole }
    }

    /// Returns how many bytes the file has, of a stream those with the places of its blocks.
    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Reads from a place on, and returns how many bytes there are.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let Some(part) = offset.checked_add(done as u64).and_then(|offset| self.part(offset)) else { break };
            let length = part.len().min(into.len() - done);
            into[done..done + length].copy_from_slice(&part[..length]);
            done += length;
        }
        done
    }

    /// Returns up to so many bytes from a place on.
    pub(super) fn some(&self, offset: u64, max: usize) -> Vec<u8> {
        let mut bytes = vec![0; max];
        let length = self.read(offset, &mut bytes);
        bytes.truncate(length);
        bytes
    }

    /// Returns what stands together from a place on; none if nothing does.
    fn part(&self, offset: u64) -> Option<&'a [u8]> {
        let Some(blocks) = &self.blocks else {
            return self.bytes.get(usize::try_from(offset).ok()?..).filter(|part| !part.is_empty());
        };
        let after = blocks.partition_point(|block| block.offset <= offset);
        let near = blocks[after.saturating_sub(MAX_LOOK_BACK)..after].iter().rev();
        let block = near.clone().find(|block| offset - block.offset < block.length)?;
        let skip = usize::try_from(offset - block.offset).ok()?;
        let length = usize::try_from(block.length).ok()?;
        // A later block may begin within this one.
        let next = blocks.get(after).map_or(u64::MAX, |next| next.offset - offset);
        let part = self.bytes.get(block.at + skip..block.at.checked_add(length)?)?;
        Some(&part[..part.len().min(usize::try_from(next).unwrap_or(usize::MAX))])
    }
}
