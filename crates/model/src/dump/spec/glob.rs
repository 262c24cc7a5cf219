//! Patterns with `*` and `?`, which fit a text as a whole.

use super::{excerpt, refuse};
use crate::error::ApiError;

/// Stars of one pattern: engines that look for the places of each in turn take longer with every one.
const MAX_STARS: usize = 16;

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// This character.
    Char(char),
    /// Any one character.
    One,
    /// Any number of any characters.
    Many,
}

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    pieces: Vec<Piece>,
}

impl Glob {
    /// Makes a pattern of its pieces.
    pub(super) fn new(pieces: Vec<Piece>) -> Result<Self, ApiError> {
        let mut kept: Vec<Piece> = Vec::with_capacity(pieces.len());
        for piece in pieces {
            if piece != Piece::Many || kept.last() != Some(&Piece::Many) {
                kept.push(piece);
            }
        }
        let stars = kept.iter().filter(|piece| **piece == Piece::Many).count();
        if stars > MAX_STARS {
            let text: String = kept.iter().map(|piece| if let Piece::Char(one) = piece { *one } else { '*' }).collect();
            return Err(refuse(format!("pattern `{}` has more than {MAX_STARS} stars", excerpt(&text))));
        }
        Ok(Self { pieces: kept })
    }

    /// Returns the pattern that fits this text alone.
    pub fn exact(text: &str) -> Self {
        Self { pieces: text.chars().map(Piece::Char).collect() }
    }

    /// Returns its pieces; no two of several characters stand beside each other.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Returns what every text that fits begins with.
    pub fn prefix(&self) -> String {
        let fixed = self.pieces.iter().map_while(|piece| if let Piece::Char(one) = piece { Some(*one) } else { None });
        fixed.collect()
    }

    /// Tells whether a text fits.
    pub fn fits(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        // Where the last star stands and where in the text what follows it was tried: an earlier star need never move
        // again once a later one has been reached.
        let (mut piece, mut at, mut star) = (0, 0, None);
        while at < text.len() {
            match self.pieces.get(piece) {
                Some(Piece::Many) => {
                    star = Some((piece, at));
                    piece += 1;
                }
                Some(Piece::One) => (piece, at) = (piece + 1, at + 1),
                Some(Piece::Char(one)) if *one == text[at] => (piece, at) = (piece + 1, at + 1),
                _ => {
                    let Some((many, tried)) = star else { return false };
                    (piece, at, star) = (many + 1, tried + 1, Some((many, tried + 1)));
                }
            }
        }
        self.pieces[piece..].iter().all(|piece| *piece == Piece::Many)
    }
}
