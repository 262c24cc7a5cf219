//! Echoes: copies of what is left out, and pieces of them, wherever else they stand. A program and its runtime copy their
//! environment before they do anything else, into memory and through vector registers that are saved on the stack.

use super::RedactionRules;
use std::collections::HashSet;

/// Bytes of the shortest piece that is known again: shorter ones are anybody's.
pub(super) const PIECE_BYTES: usize = 8;
/// Bytes behind a border by which a piece that begins before it is known.
pub(super) const AHEAD_BYTES: usize = PIECE_BYTES - 1;
/// Bytes of all values together that are looked for.
const MAX_BYTES: usize = 1 << 20;
/// Bits of the sieve that most places do not pass.
const SIEVE_BITS: u32 = 18;

/// What is looked for.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    pieces: HashSet<u64>,
    sieve: Vec<u64>,
}

fn slot(piece: u64) -> (usize, u64) {
    let place = piece.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SIEVE_BITS);
    ((place >> 6) as usize, 1 << (place & 63))
}

impl Echoes {
    /// Takes the values that rules leave out of the words of an environment; none if they are longer than is looked for.
    pub(super) fn of(words: &[u8], rules: &RedactionRules) -> Option<Self> {
        let mut echoes = Self { pieces: HashSet::new(), sieve: vec![0; 1 << (SIEVE_BITS - 6)] };
        let mut bytes = 0;
        for word in words.split(|byte| *byte == 0) {
            let Some(at) = word.iter().position(|byte| *byte == b'=') else { continue };
            let (name, value) = (&word[..at], &word[at + 1..]);
            if name.len() > super::MAX_NAME_BYTES || !rules.leaves_out(&String::from_utf8_lossy(name)) {
                continue;
            }
            bytes += value.len();
            if bytes > MAX_BYTES {
                return None;
            }
            for piece in value.windows(PIECE_BYTES) {
                echoes.add(u64::from_le_bytes(piece.try_into().expect("a window is that long")));
            }
        }
        Some(echoes)
    }

    fn add(&mut self, piece: u64) {
        // Zeros are what is left where something was left out.
        if piece != 0 && self.pieces.insert(piece) {
            let (at, bit) = slot(piece);
            self.sieve[at] |= bit;
        }
    }

    /// Tells whether there is anything to look for.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Writes zeros over every piece, and over what `carried` says of the beginning; returns how many bytes went, and how
    /// many go of what follows. `ahead` is how that begins: a copy that stands across the border is known by it.
    pub(super) fn silence(&self, bytes: &mut [u8], ahead: &[u8], carried: usize) -> (u64, usize) {
        if self.pieces.is_empty() {
            return (0, 0);
        }
        let border = bytes.len().saturating_sub(AHEAD_BYTES);
        let last: Vec<u8> = bytes[border..].iter().chain(ahead).copied().collect();
        let (mut gone, mut until) = (0, carried);
        for at in 0..bytes.len() {
            // What was written over before is never looked at again.
            let piece = if at < border { bytes.get(at..) } else { last.get(at - border..) };
            if piece.and_then(<[u8]>::first_chunk).is_some_and(|piece| self.knows(u64::from_le_bytes(*piece))) {
                until = at + PIECE_BYTES;
            }
            if at < until {
                bytes[at] = 0;
                gone += 1;
            }
        }
        (gone, until.saturating_sub(bytes.len()))
    }

    fn knows(&self, piece: u64) -> bool {
        let (slot, bit) = slot(piece);
        self.sieve[slot] & bit != 0 && self.pieces.contains(&piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_pieces_go() {
        let rules = RedactionRules::read("[environment]\nleave_out = ['*TOKEN*']\n").expect("are rules");
        let echoes =
            Echoes::of(b"a\0HOME=/root/of/all\0A_TOKEN=0123456789abcdef\0TOKEN=short\0", &rules).expect("fits");
        let check = |text: &[u8], expected: &[u8]| {
            // Wherever borders are, the same goes.
            for piece in 1..=text.len().max(1) {
                let (mut bytes, mut gone, mut carried) = (Vec::new(), 0, 0);
                for start in (0..text.len()).step_by(piece) {
                    let end = text.len().min(start + piece);
                    let mut part = text[start..end].to_vec();
                    let (went, left) =
                        echoes.silence(&mut part, &text[end..text.len().min(end + AHEAD_BYTES)], carried);
                    (gone, carried) = (gone + went, left);
                    bytes.extend(part);
                }
                assert_eq!(bytes, expected, "{} in pieces of {piece}", String::from_utf8_lossy(text));
                assert_eq!(gone, text.iter().zip(expected).filter(|(a, b)| a != b).count() as u64);
                assert_eq!(carried, 0);
            }
        };
        check(b"x0123456789abcdefy", b"x\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0y");
        check(b"3456789a", b"\0\0\0\0\0\0\0\0");
        check(b"..23456789..89abcdef", b"..\0\0\0\0\0\0\0\0..\0\0\0\0\0\0\0\0");
        check(b"3456789 /root/of/all short", b"3456789 /root/of/all short");
        check(b"", b"");
        check(b"0123", b"0123");
    }

    #[test]
    fn more_than_is_looked_for_is_said() {
        let rules = RedactionRules::read("[environment]\nleave_out = ['A']\n").expect("are rules");
        assert!(Echoes::of(&[b"A=".as_slice(), &[b'x'; MAX_BYTES]].concat(), &rules).is_some());
        assert!(Echoes::of(&[b"A=".as_slice(), &[b'x'; MAX_BYTES + 1]].concat(), &rules).is_none());
    }
}
