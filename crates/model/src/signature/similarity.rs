//! Likeness of two stacks by FaST (Rodrigues, Aloise, Fernandes, 2022): time linear in their frames.
//!
//! A frame weighs `position^-alpha · e^(-beta · 100 · df/N)`: more the nearer it is to the crash, less the more stacks have
//! it. The k-th frame of a function in one stack is paired with its k-th in the other and adds both weights times
//! `e^(-gamma · |distance|)`; a frame without a partner takes its weight away; the sum is divided by all weight, so it
//! lies between -1 and 1. It proposes, and never decides: identity is the signature's text.
//!
//! It stands here because the server asks it, of texts that it keeps: what is alike changes with every new bucket, merge
//! and split, so proposals are made when somebody looks, and are stored nowhere.

use crate::signature::{Likeness, MAX_PROTO_KEYS, Proposal, SignatureId, SignatureText};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Proposals for one dump.
const MAX_PROPOSALS: usize = 5;
/// Functions that a proposal is explained by.
const MAX_LIKENESSES: usize = 8;
/// What no weight falls below, so that a stack of nothing but ubiquitous frames is still divided by something.
const MIN_WEIGHT: f64 = 1e-100;

/// The knobs of the likeness.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// How fast a frame's weight falls with its distance from the crash.
    pub alpha: f64,
    /// How fast it falls with the share of stacks that have the function.
    pub beta: f64,
    /// How fast a pair's worth falls with the difference of their positions.
    pub gamma: f64,
    /// The score from which a bucket is proposed.
    pub threshold: f64,
}

impl Default for Parameters {
    /// Returns ours, chosen from a few on the stacks that `tests/it/accuracy.rs` measures, so its figures flatter them. Inlining and wrappers shift frames by one or two, so
    /// `gamma` is small; what lies near the crash says most, so `alpha` falls as fast as the position grows; `beta` halves
    /// the weight of a function for each ninth of the stacks that have it, which is what rules would skip and more.
    fn default() -> Self {
        Self { alpha: 1.0, beta: 0.08, gamma: 0.1, threshold: 0.2 }
    }
}

/// A stack ready to be compared: its functions, each with where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    keys: Vec<String>,
    /// By digest of the key, ascending.
    functions: Vec<(u64, Vec<u16>)>,
}

impl Profile {
    /// Returns the profile of a signature's keys, of which only so many count as a signature keeps.
    pub fn new(proto: &[String]) -> Self {
        let keys: Vec<String> = proto.iter().take(MAX_PROTO_KEYS).cloned().collect();
        let mut places: Vec<(u64, u16)> = keys.iter().map(|key| digest(key)).zip(0..).collect();
        places.sort_unstable();
        let mut functions: Vec<(u64, Vec<u16>)> = Vec::new();
        for (function, place) in places {
            match functions.last_mut() {
                Some((last, places)) if *last == function => places.push(place),
                _ => functions.push((function, vec![place])),
            }
        }
        Self { keys, functions }
    }
}

impl From<&SignatureText> for Profile {
    fn from(signature: &SignatureText) -> Self {
        Self::new(&signature.proto)
    }
}

/// Returns a number that stands for a key. Who makes two keys of one number makes two of their own functions alike.
fn digest(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// In how many stacks each function is.
#[derive(Clone, Debug, Default)]
pub struct Frequencies {
    stacks: u64,
    functions: HashMap<u64, u64>,
}

impl Frequencies {
    /// Counts the functions of some stacks.
    pub fn of<'a>(profiles: impl IntoIterator<Item = &'a Profile>) -> Self {
        let mut frequencies = Self::default();
        profiles.into_iter().for_each(|profile| frequencies.add(profile));
        frequencies
    }

    /// Counts the functions of one more stack.
    pub fn add(&mut self, profile: &Profile) {
        self.stacks += 1;
        for (function, _) in &profile.functions {
            *self.functions.entry(*function).or_default() += 1;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of stacks lie far below 2^52")]
    fn share(&self, function: u64) -> f64 {
        // A function that was never counted is as rare as can be.
        let count = self.functions.get(&function).copied().unwrap_or_default();
        if self.stacks == 0 { 0.0 } else { count as f64 / self.stacks as f64 }
    }
}

/// A bucket, as one of its stacks; a bucket may have several.
#[derive(Clone, Debug)]
pub struct Representative {
    /// Which bucket.
    pub signature: SignatureId,
    /// The stack that stands for it.
    pub profile: Profile,
}

/// A likeness with its tables made.
struct Measure<'a> {
    frequencies: &'a Frequencies,
    beta: f64,
    position: Vec<f64>,
    distance: Vec<f64>,
}

/// Returns how alike two stacks are, from -1 to 1; nothing is like an empty one.
pub fn similarity(first: &Profile, second: &Profile, frequencies: &Frequencies, parameters: &Parameters) -> f64 {
    Measure::new(frequencies, parameters).score(first, second)
}

/// Returns the buckets that a stack may belong to, the likeliest first.
pub fn propose(
    representatives: &[Representative],
    stack: &Profile,
    frequencies: &Frequencies,
    parameters: &Parameters,
) -> Vec<Proposal> {
    let measure = Measure::new(frequencies, parameters);
    let mut best: HashMap<SignatureId, (f64, &Profile)> = HashMap::new();
    for Representative { signature, profile } in representatives {
        let score = measure.score(stack, profile);
        if score >= parameters.threshold && best.get(signature).is_none_or(|(other, _)| score > *other) {
            best.insert(*signature, (score, profile));
        }
    }
    let mut best: Vec<_> = best.into_iter().collect();
    best.sort_by(|(id, (score, _)), (other_id, (other, _))| other.total_cmp(score).then_with(|| id.cmp(other_id)));
    let proposal = |(signature, (score, profile)): (SignatureId, (f64, &Profile))| Proposal {
        signature,
        score,
        explanation: measure.explain(stack, profile),
    };
    best.into_iter().take(MAX_PROPOSALS).map(proposal).collect()
}

impl<'a> Measure<'a> {
    fn new(frequencies: &'a Frequencies, parameters: &Parameters) -> Self {
        let Parameters { alpha, beta, gamma, .. } = *parameters;
        let places = || (0..MAX_PROTO_KEYS).map(|place| u32::try_from(place).map_or(f64::MAX, f64::from));
        Self {
            frequencies,
            beta,
            position: places().map(|place| (place + 1.0).powf(-alpha)).collect(),
            distance: places().map(|place| (-gamma * place).exp()).collect(),
        }
    }

    fn score(&self, first: &Profile, second: &Profile) -> f64 {
        let (mut sum, mut whole) = (0.0, 0.0);
        self.walk(first, second, |_, share, weight| {
            sum += share;
            whole += weight;
        });
        if whole > 0.0 { sum / whole } else { 0.0 }
    }

    fn explain(&self, ours: &Profile, theirs: &Profile) -> Vec<Likeness> {
        let (mut parts, mut whole) = (Vec::new(), 0.0);
        self.walk(ours, theirs, |places, share, weight| {
            whole += weight;
            parts.push((places, share));
        });
        let key = |ours_at: Option<u16>, theirs_at: Option<u16>| {
            let ours = ours_at.and_then(|at| ours.keys.get(usize::from(at)));
            ours.or_else(|| theirs_at.and_then(|at| theirs.keys.get(usize::from(at)))).cloned().unwrap_or_default()
        };
        parts.sort_by(|(places, share), (others, other)| {
            other.abs().total_cmp(&share.abs()).then_with(|| places.cmp(others))
        });
        let likeness = |((ours, theirs), share): ((Option<u16>, Option<u16>), f64)| Likeness {
            key: key(ours, theirs),
            ours,
            theirs,
            share: share / whole,
        };
        parts.into_iter().take(MAX_LIKENESSES).map(likeness).collect()
    }

    /// Walks over both stacks once, by function, and tells of each pair or lone frame its share and its weight.
    fn walk(&self, first: &Profile, second: &Profile, mut tell: impl FnMut((Option<u16>, Option<u16>), f64, f64)) {
        let (mut ours, mut theirs) = (first.functions.iter().peekable(), second.functions.iter().peekable());
        loop {
            let next = match (ours.peek(), theirs.peek()) {
                (Some((one, _)), Some((other, _))) => *one.min(other),
                (Some((one, _)), None) => *one,
                (None, Some((other, _))) => *other,
                (None, None) => return,
            };
            let is_next = |(function, _): &&(u64, Vec<u16>)| *function == next;
            let ours = ours.next_if(is_next).map_or(&[][..], |(_, places)| places);
            let theirs = theirs.next_if(is_next).map_or(&[][..], |(_, places)| places);
            let rarity = (-self.beta * 100.0 * self.frequencies.share(next)).exp().max(MIN_WEIGHT);
            for number in 0..ours.len().max(theirs.len()) {
                let (one, other) = (ours.get(number).copied(), theirs.get(number).copied());
                let weight = rarity * (self.weight(one) + self.weight(other));
                let share = match one.zip(other) {
                    Some((one, other)) => {
                        weight * self.distance.get(usize::from(one.abs_diff(other))).copied().unwrap_or_default()
                    }
                    None => -weight,
                };
                tell((one, other), share, weight);
            }
        }
    }

    fn weight(&self, place: Option<u16>) -> f64 {
        place.and_then(|place| self.position.get(usize::from(place))).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn profile(keys: &str) -> Profile {
        Profile::new(&keys.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    const PLAIN: Parameters = Parameters { alpha: 0.0, beta: 0.0, gamma: 0.0, threshold: 0.0 };

    #[test]
    fn it_is_the_published_sum() {
        let check = |first: &str, second: &str, parameters: Parameters, expected: f64| {
            let score = similarity(&profile(first), &profile(second), &Frequencies::default(), &parameters);
            assert!((score - expected).abs() < 1e-12, "{first} ~ {second}: {score}");
        };
        check("a b c", "a b c", PLAIN, 1.0);
        check("a b c", "c b a", PLAIN, 1.0);
        check("a b", "c d", PLAIN, -1.0);
        // Two pairs of weight 2 each, two lone frames of weight 1 each: (4 - 2) / 6.
        check("a b c", "a b d", PLAIN, 1.0 / 3.0);
        // The second `a` of one has no partner: (2 - 1) / 3.
        check("a a", "a", PLAIN, 1.0 / 3.0);
        // Weights 1 and 1/2; the pair is one place apart: 1.5 e^-1 - 1/2 - 1 of 3.
        let parameters = Parameters { alpha: 1.0, gamma: 1.0, ..PLAIN };
        check("a b", "c a", parameters, (1.5 * (-1.0_f64).exp() - 1.5) / 3.0);
        check("", "", PLAIN, 0.0);
        check("a", "", PLAIN, -1.0);
    }

    #[test]
    fn what_everybody_has_weighs_little() {
        let stacks: Vec<_> = (0..50).map(|number| profile(&format!("own{number} common main"))).collect();
        let frequencies = Frequencies::of(&stacks);
        let parameters = Parameters { beta: 0.05, ..PLAIN };
        let of = |first, second| similarity(&profile(first), &profile(second), &frequencies, &parameters);
        assert!(of("own1 common main", "own2 common main") < 0.0);
        assert!(of("own1 common main", "own1 other main") > 0.0);
    }

    #[test]
    fn the_likeliest_bucket_comes_first_and_says_why() {
        let id = |number: u8| SignatureId::from_bytes([number; 16]);
        let bucket = |number, keys| Representative { signature: id(number), profile: profile(keys) };
        let buckets = [
            bucket(1, "read load main"),
            bucket(2, "read parse load main"),
            bucket(2, "quite another main"),
            bucket(3, "draw paint main"),
        ];
        let stack = profile("read wrap parse load main");
        let found = propose(&buckets, &stack, &Frequencies::default(), &Parameters::default());
        assert_eq!(found.iter().map(|proposal| proposal.signature).collect::<Vec<_>>(), [id(2), id(1)]);
        assert!(found[0].score > found[1].score);
        let keys: Vec<_> = found[0].explanation.iter().map(|part| part.key.as_str()).collect();
        assert_eq!(keys.first(), Some(&"read"));
        assert!(found[0].explanation.iter().any(|part| part.key == "wrap" && part.share < 0.0));
        let sum: f64 = found[0].explanation.iter().map(|part| part.share).sum();
        assert!((sum - found[0].score).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn it_is_a_likeness(first in "[a-d]( [a-d]){0,39}", second in "[a-d]( [a-d]){0,39}") {
            let (first, second) = (profile(&first), profile(&second));
            let frequencies = Frequencies::of([&first, &second]);
            let of = |one, other| similarity(one, other, &frequencies, &Parameters::default());
            prop_assert!((-1.0 - 1e-9..=1.0 + 1e-9).contains(&of(&first, &second)));
            prop_assert!((of(&first, &second) - of(&second, &first)).abs() < 1e-9);
            prop_assert!((of(&first, &first) - 1.0).abs() < 1e-9);
        }
    }
}
