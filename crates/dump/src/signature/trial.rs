//! What a change of rules would move, told before it is made: which buckets get another name, split or merge.
//!
//! Dumps stream by; what is kept is a count per pair of old and new bucket, so memory follows the buckets, which are bounded.

use super::rule::Rules;
use model::signature::{SignatureId, Stack};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// Pairs of old and new buckets that are told apart; beyond them, dumps are only counted.
const MAX_PAIRS: usize = 1 << 17;
/// Dumps that are named for each move.
const MAX_EXAMPLES: usize = 3;

/// What happens to a group of buckets that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveKind {
    /// One bucket becomes several.
    Split,
    /// Several buckets become one.
    Merge,
    /// Several buckets become several others.
    Mix,
    /// One bucket gets another name.
    Rename,
}

/// A bucket on one side of a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Its name.
    pub id: SignatureId,
    /// Its text.
    pub text: String,
    /// How many of the dumps are in it.
    pub dumps: u64,
}

/// A group of buckets that dumps move between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    /// What happens.
    pub kind: MoveKind,
    /// How many dumps get another signature.
    pub dumps: u64,
    /// The buckets as they are, the largest first.
    pub from: Vec<Bucket>,
    /// The buckets as they would be, the largest first.
    pub into: Vec<Bucket>,
    /// Some of the dumps that would move.
    pub examples: Vec<String>,
}

/// All that a change of rules would move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Moves {
    /// How many dumps were looked at.
    pub dumps: u64,
    /// How many of them would get another signature.
    pub moved: u64,
    /// How many buckets there are.
    pub buckets_before: u64,
    /// How many there would be.
    pub buckets_after: u64,
    /// Whether there were more buckets than are told apart.
    pub is_cut: bool,
    /// The moves, those of most dumps first.
    pub moves: Vec<Move>,
}

#[derive(Default)]
struct Pair {
    dumps: u64,
    examples: Vec<String>,
}

/// Signs stacks by both sets of rules and tells what differs; each comes with the name of a dump that has it, and with how
/// many dumps have it.
pub fn try_rules(old: &Rules, new: &Rules, stacks: impl Iterator<Item = (String, Stack, u64)>) -> Moves {
    let mut moves = Moves::default();
    let mut texts: HashMap<SignatureId, String> = HashMap::new();
    let mut pairs: BTreeMap<Ids, Pair> = BTreeMap::new();
    for (dump, stack, dumps) in stacks {
        let [before, after] = [old, new].map(|rules| rules.sign(&stack).signature);
        let ids = (before.id, after.id);
        moves.dumps += dumps;
        moves.moved += if ids.0 == ids.1 { 0 } else { dumps };
        if pairs.len() >= MAX_PAIRS && !pairs.contains_key(&ids) {
            moves.is_cut = true;
            continue;
        }
        texts.entry(before.id).or_insert(before.text);
        texts.entry(after.id).or_insert(after.text);
        let pair = pairs.entry(ids).or_default();
        pair.dumps += dumps;
        if ids.0 != ids.1 && pair.examples.len() < MAX_EXAMPLES {
            pair.examples.push(dump);
        }
    }
    let mut groups = Groups::default();
    for (before, after) in pairs.keys() {
        groups.join((Side::Before, *before), (Side::After, *after));
    }
    moves.buckets_before = groups.count(Side::Before);
    moves.buckets_after = groups.count(Side::After);
    moves.moves = groups.moves(&pairs, &texts);
    moves
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Side {
    Before,
    After,
}

type Point = (Side, SignatureId);
/// What one dump's bucket is, and what it would be.
type Ids = (SignatureId, SignatureId);

/// Buckets that are connected by dumps, each group known by one of its members.
#[derive(Default)]
struct Groups {
    numbers: HashMap<Point, usize>,
    parents: Vec<usize>,
}

impl Groups {
    fn number(&mut self, point: Point) -> usize {
        let next = self.parents.len();
        let number = *self.numbers.entry(point).or_insert(next);
        if number == next {
            self.parents.push(next);
        }
        number
    }

    fn root(&mut self, mut at: usize) -> usize {
        while self.parents[at] != at {
            // Halving the way keeps it short for all who come after.
            self.parents[at] = self.parents[self.parents[at]];
            at = self.parents[at];
        }
        at
    }

    fn join(&mut self, one: Point, other: Point) {
        let (one, other) = (self.number(one), self.number(other));
        let (one, other) = (self.root(one), self.root(other));
        self.parents[other] = one;
    }

    fn count(&self, side: Side) -> u64 {
        u64::try_from(self.numbers.keys().filter(|(of, _)| *of == side).count()).unwrap_or(u64::MAX)
    }

    fn moves(mut self, pairs: &BTreeMap<Ids, Pair>, texts: &HashMap<SignatureId, String>) -> Vec<Move> {
        let mut groups: BTreeMap<usize, Vec<(&Ids, &Pair)>> = BTreeMap::new();
        for (ids, pair) in pairs {
            let number = self.number((Side::Before, ids.0));
            groups.entry(self.root(number)).or_default().push((ids, pair));
        }
        let mut moves: Vec<Move> = groups.values().filter_map(|pairs| one_move(pairs, texts)).collect();
        moves.sort_by(|one, other| {
            let key = |of: &Move| (u64::MAX - of.dumps, of.kind, of.from.first().map(|bucket| bucket.text.clone()));
            key(one).cmp(&key(other))
        });
        moves
    }
}

fn one_move(pairs: &[(&Ids, &Pair)], texts: &HashMap<SignatureId, String>) -> Option<Move> {
    let buckets = |side: fn(&Ids) -> SignatureId| {
        let mut counts: BTreeMap<SignatureId, u64> = BTreeMap::new();
        for (ids, pair) in pairs {
            *counts.entry(side(ids)).or_default() += pair.dumps;
        }
        let text = |id| texts.get(&id).cloned().unwrap_or_default();
        let mut buckets: Vec<Bucket> =
            counts.into_iter().map(|(id, dumps)| Bucket { id, text: text(id), dumps }).collect();
        buckets.sort_by(|one, other| other.dumps.cmp(&one.dumps).then_with(|| one.text.cmp(&other.text)));
        buckets
    };
    let (from, into) = (buckets(|ids| ids.0), buckets(|ids| ids.1));
    let kind = match (from.len(), into.len()) {
        (1, 1) if from == into => return None,
        (1, 1) => MoveKind::Rename,
        (1, _) => MoveKind::Split,
        (_, 1) => MoveKind::Merge,
        _ => MoveKind::Mix,
    };
    let moved = || pairs.iter().filter(|(ids, _)| ids.0 != ids.1);
    let examples = moved().flat_map(|(_, pair)| pair.examples.iter().cloned()).take(MAX_EXAMPLES).collect();
    Some(Move { kind, dumps: moved().map(|(_, pair)| pair.dumps).sum(), from, into, examples })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::report::DumpKind;
    use model::signature::{STACK_VERSION, StackFrame};

    fn stacks() -> Vec<(String, Stack, u64)> {
        let stack = |keys: &str| Stack {
            version: STACK_VERSION,
            kind: DumpKind::Core,
            class: "abort".to_owned(),
            message: None,
            program: None,
            modules: Vec::new(),
            files: Vec::new(),
            frames: keys
                .split_whitespace()
                .map(|key| StackFrame { key: key.to_owned(), ..StackFrame::default() })
                .collect(),
            frames_cut: 0,
            addresses: Vec::new(),
        };
        let all = ["fail load main", "fail save main", "fail load main", "put load main", "quit main", "own main"];
        all.iter().enumerate().map(|(number, keys)| (format!("dump{number}"), stack(keys), 1)).collect()
    }

    fn rule(role: &str, function: &str) -> Rules {
        let text = format!("[[rule]]\nrole = '{role}'\nwhy = 'a test'\nfunction = ['{function}']\n");
        Rules::with("new.toml", &text).unwrap()
    }

    fn told(moves: &Moves) -> Vec<String> {
        let side = |buckets: &[Bucket]| {
            buckets.iter().map(|bucket| format!("{}x {}", bucket.dumps, bucket.text)).collect::<Vec<_>>().join(", ")
        };
        let line = |of: &Move| {
            let (from, into) = (side(&of.from), side(&of.into));
            format!("{:?} {}: {from} -> {into} ({})", of.kind, of.dumps, of.examples.join(" "))
        };
        moves.moves.iter().map(line).collect()
    }

    #[test]
    fn moves_are_told() {
        let check = |new: &Rules, expected: &[&str]| {
            let moves = try_rules(Rules::builtin(), new, stacks().into_iter());
            assert_eq!(told(&moves), expected);
            assert_eq!(moves.dumps, 6);
            assert_eq!(moves.moved, moves.moves.iter().map(|of| of.dumps).sum::<u64>());
        };
        check(Rules::builtin(), &[]);
        check(
            &rule("glue", "fail"),
            &["Split 3: 3x abort | fail -> 2x abort | fail | load, 1x abort | fail | save (dump0 dump2 dump1)"],
        );
        check(&rule("skip", "quit"), &["Rename 1: 1x abort | quit -> 1x abort | main (dump4)"]);
        let both = "[[rule]]\nrole = 'skip'\nwhy = 'x'\nfunction = ['quit', 'own']\n";
        check(
            &Rules::with("new.toml", both).unwrap(),
            &["Merge 2: 1x abort | own, 1x abort | quit -> 2x abort | main (dump4 dump5)"],
        );
        let mixed = "[[rule]]\nrole = 'skip'\nwhy = 'x'\nfunction = ['fail', 'put']\n";
        check(
            &Rules::with("new.toml", mixed).unwrap(),
            &["Mix 4: 3x abort | fail, 1x abort | put -> 3x abort | load, 1x abort | save (dump3 dump1 dump0)"],
        );
    }

    #[test]
    fn buckets_are_counted() {
        let moves = try_rules(Rules::builtin(), &rule("glue", "fail"), stacks().into_iter());
        assert_eq!((moves.buckets_before, moves.buckets_after, moves.is_cut), (4, 5, false));
    }
}
