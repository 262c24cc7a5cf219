//! Echoes: copies of what is left out, and pieces of them, wherever else they stand. A program and its runtime copy their
//! environment before they do anything else, into memory and through vector registers that are saved on the stack.

use super::RedactionRules;
use std::collections::HashSet;

/// Bytes of the shortest piece that is known again: shorter ones are anybody's.
pub(super) const PIECE_BYTES: usize = 8;
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

    /// Writes zeros over every piece; returns how many bytes went.
    pub(super) fn silence(&self, bytes: &mut [u8]) -> u64 {
        if self.pieces.is_empty() {
            return 0;
        }
        let (mut gone, mut at) = (0, 0);
        // Up to where the last piece that was found reaches, which may go on beyond it.
        let mut until = 0;
        while let Some(piece) = bytes.get(at..at + PIECE_BYTES) {
            let piece = u64::from_le_bytes(piece.try_into().expect("it is that long"));
            let (slot, bit) = slot(piece);
            if self.sieve[slot] & bit != 0 && self.pieces.contains(&piece) {
                until = at + PIECE_BYTES;
            }
            if at < until {
                bytes[at] = 0;
                gone += 1;
            }
            at += 1;
        }
        for byte in &mut bytes[at..until.max(at)] {
            *byte = 0;
            gone += 1;
        }
        gone
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
            let mut bytes = text.to_vec();
            let gone = echoes.silence(&mut bytes);
            assert_eq!(bytes, expected, "{}", String::from_utf8_lossy(text));
            assert_eq!(gone, text.iter().zip(expected).filter(|(a, b)| a != b).count() as u64);
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
