//! The BLAKE3 tree of a blob, cut at blocks of 1 MiB.
//!
//! The chaining values of the blocks merge into the root, which is the digest; so with that list at hand any block can
//! be checked alone. Every block is hashed once: the root comes from merging, never from a second pass. Content of one
//! block or less has no such list, since its root is not a merge; there the digest itself is the check.
//!
//! Knows nothing of stores and streams.

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::{Bytes, BytesMut};
use model::Digest;

/// Bytes of one block; a power of two of BLAKE3's chunks, so that every block is a subtree.
pub(super) const BLOCK_BYTES: usize = 1 << 20;
/// The length of the content stands before the list, so that a blob cut short is noticed at once.
const HEAD_BYTES: u64 = 8;

/// A digest and what is needed to check any block of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    root: Digest,
    /// One for each block, in order; empty for content of one block or less.
    values: Vec<ChainingValue>,
}

impl Tree {
    /// Hashes content that is at hand as a whole.
    pub(super) fn of(content: &[u8]) -> Self {
        if content.len() <= BLOCK_BYTES {
            return Self::of_one_block(Digest::from_bytes(*blake3::hash(content).as_bytes()));
        }
        let values = block_values(0, content.chunks(BLOCK_BYTES));
        Self::of_values(values).expect("content longer than a block has two")
    }

    /// Hashes content that is at hand block by block.
    pub(super) fn of_blocks(blocks: &[Bytes]) -> Self {
        match blocks {
            [] => Self::of(&[]),
            [block] => Self::of(block),
            many => Self::of_values(block_values(0, many.iter().map(Bytes::as_ref))).expect("there are two"),
        }
    }

    /// Returns the tree of content of one block or less.
    pub(super) const fn of_one_block(root: Digest) -> Self {
        Self { root, values: Vec::new() }
    }

    /// Merges the values of at least two blocks; none when there are fewer.
    pub(super) fn of_values(values: Vec<ChainingValue>) -> Option<Self> {
        let mut level = values.clone();
        while level.len() > 2 {
            // An odd one out at the right edge moves up as it is: a left subtree is always complete.
            level = level
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => merge_subtrees_non_root(left, right, Mode::Hash),
                    rest => rest[0],
                })
                .collect();
        }
        let [left, right] = level.as_slice() else { return None };
        Some(Self { root: Digest::from_bytes(*merge_subtrees_root(left, right, Mode::Hash).as_bytes()), values })
    }

    /// Returns the digest of the content.
    pub(super) const fn root(&self) -> Digest {
        self.root
    }

    /// Returns whether `block` is the block `index` of the content.
    pub(super) fn verifies(&self, index: u64, block: &[u8]) -> bool {
        if self.values.is_empty() {
            return index == 0 && Self::of(block) == *self;
        }
        let value = usize::try_from(index).ok().and_then(|index| self.values.get(index));
        !block.is_empty() && block.len() <= BLOCK_BYTES && value == Some(&block_value(index, block))
    }

    /// Returns the list as it is stored beside the blob, or none when the content is one block or less.
    pub(super) fn encode(&self, size: u64) -> Option<Bytes> {
        if self.values.is_empty() {
            return None;
        }
        let mut bytes = BytesMut::from(&size.to_le_bytes()[..]);
        self.values.iter().for_each(|value| bytes.extend_from_slice(value));
        Some(bytes.freeze())
    }

    /// Reads a stored list, which is believed only when it leads to `digest`.
    pub(super) fn decode(stored: &[u8], digest: Digest, size: u64) -> Option<Self> {
        let (head, list) = stored.split_first_chunk::<8>()?;
        let (values, []) = list.as_chunks::<{ blake3::OUT_LEN }>() else { return None };
        if u64::from_le_bytes(*head) != size || values.len() as u64 != blocks(size) {
            return None;
        }
        Self::of_values(values.to_vec()).filter(|tree| tree.root == digest)
    }
}

/// Returns how many blocks content of `size` bytes has.
pub(super) const fn blocks(size: u64) -> u64 {
    size.div_ceil(BLOCK_BYTES as u64)
}

/// Returns how long the stored list is for content of `size` bytes.
pub(super) const fn encoded_bytes(size: u64) -> u64 {
    HEAD_BYTES + blocks(size) * blake3::OUT_LEN as u64
}

/// Returns the values of some blocks, of which the first is number `first`.
pub(super) fn block_values<'b>(first: u64, blocks: impl Iterator<Item = &'b [u8]>) -> Vec<ChainingValue> {
    (first..).zip(blocks).map(|(index, block)| block_value(index, block)).collect()
}

fn block_value(index: u64, block: &[u8]) -> ChainingValue {
    Hasher::new().set_input_offset(index * BLOCK_BYTES as u64).update(block).finalize_non_root()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        Hasher::new().update(&size.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn plain(bytes: &[u8]) -> Digest {
        Digest::from_bytes(*blake3::hash(bytes).as_bytes())
    }

    #[test]
    fn the_root_is_the_digest() {
        let check = |size: usize| {
            let bytes = content(size);
            let tree = Tree::of(&bytes);
            assert_eq!(tree.root(), plain(&bytes), "{size}");
            let stored = tree.encode(size as u64);
            assert_eq!(stored.is_some(), size > BLOCK_BYTES);
            if let Some(stored) = stored {
                assert_eq!(stored.len() as u64, encoded_bytes(size as u64));
                assert_eq!(Tree::decode(&stored, tree.root(), size as u64), Some(tree.clone()));
            }
            for (index, block) in (0..).zip(bytes.chunks(BLOCK_BYTES)) {
                assert!(tree.verifies(index, block), "{size} {index}");
                assert!(!tree.verifies(index + 1, block), "{size} {index}");
                assert!(!tree.verifies(index, &block[..block.len() - 1]), "{size} {index}");
            }
        };
        [0, 1, 1023, 1024, 1025].into_iter().for_each(check);
        for count in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17] {
            [count * BLOCK_BYTES - 1, count * BLOCK_BYTES, count * BLOCK_BYTES + 1].into_iter().for_each(check);
        }
    }

    #[test]
    fn a_false_list_is_not_believed() {
        let size = 3 * BLOCK_BYTES + 5;
        let tree = Tree::of(&content(size));
        let stored = tree.encode(size as u64).expect("four blocks have a list");
        let check = |stored: &[u8], size: usize| {
            assert_eq!(Tree::decode(stored, tree.root(), size as u64), None, "{} {size}", stored.len());
        };
        for length in [0, 7, 8, stored.len() - 32, stored.len() - 1] {
            check(&stored[..length], size);
        }
        check(&[&stored[..], &[0; 32]].concat(), size);
        [0, size - 1, size + 1, size + BLOCK_BYTES].into_iter().for_each(|size| check(&stored, size));
        for place in 0..stored.len() {
            let mut broken = stored.to_vec();
            broken[place] ^= 1;
            check(&broken, size);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn one_changed_bit_shows_in_its_block_only(size in 1..4 * BLOCK_BYTES, at: prop::sample::Index, bit in 0_u8..8) {
            let mut bytes = content(size);
            let tree = Tree::of(&bytes);
            let place = at.index(size);
            bytes[place] ^= 1 << bit;
            for (index, block) in (0..).zip(bytes.chunks(BLOCK_BYTES)) {
                prop_assert_eq!(tree.verifies(index, block), index != (place / BLOCK_BYTES) as u64);
            }
        }
    }
}
