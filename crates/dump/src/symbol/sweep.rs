//! Decides which function a place belongs to, where functions are inlined into each other.
//!
//! One pass over the intervals in order of their start, with a stack of those that are open. An interval counts only inside
//! the one it is inlined into. Of two that overlap and do not nest the one that the file names first keeps the place, and
//! the other what is left of it; how often that may happen is bounded, so the work grows with the number of intervals and
//! not with how they overlap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Remainders of one interval that are looked at again, on average.
const MAX_REMAINDERS: usize = 8;

/// Where a scope is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) scope: u32,
    /// The scope it is inlined into.
    pub(crate) parent: Option<u32>,
    pub(crate) depth: u32,
}

/// A piece of code that belongs to one scope; `entry` is where the function around all that is inlined begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) scope: u32,
    pub(crate) entry: u64,
}

/// Returns the pieces in order, none of which overlap.
pub(crate) fn sweep(intervals: Vec<Interval>) -> Vec<Piece> {
    let intervals = joined(intervals);
    let mut sweep = Sweep {
        pieces: Vec::with_capacity(intervals.len() * 2),
        open: Vec::new(),
        at: 0,
        left: intervals.len().saturating_mul(MAX_REMAINDERS),
        waiting: intervals.into_iter().map(|interval| Reverse(Turn(interval))).collect(),
    };
    while let Some(Reverse(Turn(interval))) = sweep.waiting.pop() {
        sweep.close(interval.start);
        sweep.take(interval);
    }
    sweep.close(u64::MAX);
    sweep.pieces
}

struct Sweep {
    pieces: Vec<Piece>,
    open: Vec<Interval>,
    /// Up to where pieces are made.
    at: u64,
    waiting: BinaryHeap<Reverse<Turn>>,
    /// How many remainders may still wait.
    left: usize,
}

impl Sweep {
    /// Closes what ends before this address.
    fn close(&mut self, until: u64) {
        while let Some(last) = self.open.last().copied().filter(|last| last.end <= until) {
            self.emit(last.end);
            self.open.pop();
        }
    }

    fn take(&mut self, mut interval: Interval) {
        let around = interval.parent.map(|parent| self.open.iter().rposition(|open| open.scope == parent));
        let inside = match around {
            // Where its parent is not, it is not either, unless the parent waits as well.
            Some(None) => return self.wait(interval, self.open.last().map(|last| last.end)),
            Some(Some(index)) => index + 1,
            None => 0,
        };
        if let Some(other) = self.open.get(inside).copied() {
            if other.scope <= interval.scope {
                return self.wait(interval, Some(other.end));
            }
            self.emit(interval.start);
            for outdone in self.open.split_off(inside) {
                self.wait(outdone, Some(interval.end));
            }
        }
        if let Some(parent) = inside.checked_sub(1).map(|index| self.open[index]) {
            self.wait(interval, Some(parent.end));
            interval.end = interval.end.min(parent.end);
        }
        self.emit(interval.start);
        self.at = self.at.max(interval.start);
        self.open.push(interval);
    }

    /// Has what is left of an interval after this address wait for its turn.
    fn wait(&mut self, interval: Interval, after: Option<u64>) {
        if let Some(start) = after.filter(|after| *after < interval.end)
            && self.left > 0
        {
            self.left -= 1;
            self.waiting.push(Reverse(Turn(Interval { start, ..interval })));
        }
    }

    /// Gives what lies before this address to the innermost that is open.
    fn emit(&mut self, until: u64) {
        if let (Some(first), Some(last)) = (self.open.first(), self.open.last())
            && self.at < until
        {
            self.pieces.push(Piece { start: self.at, end: until, scope: last.scope, entry: first.start });
        }
        self.at = self.at.max(until);
    }
}

/// An interval, in the order in which they are opened: by start, outer ones first, then as the file names them.
#[derive(PartialEq, Eq)]
struct Turn(Interval);

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |turn: &Self| (turn.0.start, turn.0.depth, turn.0.scope, turn.0.end);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Makes intervals of one scope that touch into one.
fn joined(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_by_key(|interval| (interval.scope, interval.start));
    intervals.dedup_by(|next, last| {
        let touch = next.scope == last.scope && next.start <= last.end;
        if touch {
            last.end = last.end.max(next.end);
        }
        touch
    });
    intervals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(intervals: &[(u64, u64, u32, Option<u32>, u32)], expected: &[(u64, u64, u32, u64)]) {
        let interval = |&(start, end, scope, parent, depth)| Interval { start, end, scope, parent, depth };
        let found = sweep(intervals.iter().map(interval).collect());
        let expected: Vec<_> =
            expected.iter().map(|&(start, end, scope, entry)| Piece { start, end, scope, entry }).collect();
        assert_eq!(found, expected, "{intervals:?}");
    }

    #[test]
    fn the_innermost_keeps_the_place() {
        check(&[], &[]);
        check(&[(10, 20, 0, None, 0)], &[(10, 20, 0, 10)]);
        let nested = [(10, 30, 0, None, 0), (12, 20, 1, Some(0), 1), (14, 16, 2, Some(1), 2), (25, 30, 3, Some(0), 1)];
        let pieces =
            [(10, 12, 0, 10), (12, 14, 1, 10), (14, 16, 2, 10), (16, 20, 1, 10), (20, 25, 0, 10), (25, 30, 3, 10)];
        check(&nested, &pieces);
        // Same start: the outer one is opened first.
        check(&[(10, 20, 1, Some(0), 1), (10, 20, 0, None, 0)], &[(10, 20, 1, 10)]);
        // Two parts, as of a function and what of it is seldom used.
        check(&[(50, 60, 0, None, 0), (10, 20, 0, None, 0)], &[(10, 20, 0, 10), (50, 60, 0, 50)]);
        // Parts that touch are one part, also for what is inlined across.
        check(
            &[(10, 20, 0, None, 0), (20, 30, 0, None, 0), (15, 25, 1, Some(0), 1)],
            &[(10, 15, 0, 10), (15, 25, 1, 10), (25, 30, 0, 10)],
        );
    }

    #[test]
    fn what_does_not_nest_is_left_out() {
        check(&[(10, 20, 1, Some(0), 1)], &[]);
        check(&[(10, 20, 0, None, 0), (12, 14, 2, Some(7), 1)], &[(10, 20, 0, 10)]);
        check(&[(10, 20, 0, None, 0), (15, 25, 1, Some(0), 1)], &[(10, 15, 0, 10), (15, 20, 1, 10)]);
    }

    #[test]
    fn the_first_named_keeps_the_place_and_the_other_the_rest() {
        check(&[(10, 20, 0, None, 0), (15, 25, 1, None, 0)], &[(10, 20, 0, 10), (20, 25, 1, 20)]);
        check(&[(10, 20, 1, None, 0), (15, 25, 0, None, 0)], &[(10, 15, 1, 10), (15, 25, 0, 15)]);
        let siblings = [(0, 40, 0, None, 0), (10, 20, 1, Some(0), 1), (15, 30, 2, Some(0), 1), (16, 28, 3, Some(2), 2)];
        let pieces = [(0, 10, 0, 0), (10, 20, 1, 0), (20, 28, 3, 0), (28, 30, 2, 0), (30, 40, 0, 0)];
        check(&siblings, &pieces);
        let late = [(0, 40, 0, None, 0), (10, 30, 2, Some(0), 1), (12, 28, 3, Some(2), 2), (15, 20, 1, Some(0), 1)];
        let pieces = [
            (0, 10, 0, 0),
            (10, 12, 2, 0),
            (12, 15, 3, 0),
            (15, 20, 1, 0),
            (20, 28, 3, 0),
            (28, 30, 2, 0),
            (30, 40, 0, 0),
        ];
        check(&late, &pieces);
    }

    #[test]
    fn overlaps_without_end_come_to_an_end() {
        let many = (0..20_000).map(|n: u32| Interval {
            start: u64::from(n),
            end: 40_000 - u64::from(n % 7),
            scope: 20_000 - n,
            parent: None,
            depth: 0,
        });
        assert!(sweep(many.collect()).len() < 400_000);
    }
}
