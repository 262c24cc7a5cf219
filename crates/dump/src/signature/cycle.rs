//! Recursion: a few frames that come again and again.
//!
//! A stack overflows wherever the recursion happens to be when the room ends, so such a crash is named by the cycle, and
//! the cycle begins with its least key. Recursions that are not regular are named by the functions met most often.

use std::collections::HashMap;

/// Frames of one cycle.
pub(crate) const MAX_LENGTH: usize = 10;
/// How often a cycle comes at least, one after the other.
pub(crate) const MIN_TIMES: usize = 3;
/// Frames that name a recursion which is not regular.
const MAX_FREQUENT: usize = 2;

/// A cycle in a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cycle {
    /// Where it begins.
    pub(crate) start: usize,
    /// How many frames it has.
    pub(crate) length: usize,
    /// How often it comes in full.
    pub(crate) times: usize,
}

/// Returns the cycle that most of the stack is made of; of equals the shortest, and of these the innermost.
pub(crate) fn find(keys: &[&str]) -> Option<Cycle> {
    let at = |start: usize, length: usize| {
        let cycle = keys.get(start..start + length)?;
        let times = keys.get(start..)?.chunks_exact(length).take_while(|chunk| *chunk == cycle).count();
        (times >= MIN_TIMES).then_some(Cycle { start, length, times })
    };
    let all = (0..keys.len()).flat_map(|start| (1..=MAX_LENGTH).filter_map(move |length| at(start, length)));
    all.min_by_key(|cycle| (usize::MAX - cycle.length * cycle.times, cycle.length, cycle.start))
}

/// Returns the frames of a cycle by number, in the order that does not depend on where it was interrupted.
pub(crate) fn rotation(keys: &[&str], cycle: Cycle) -> Vec<usize> {
    let frames: Vec<usize> = (cycle.start..cycle.start + cycle.length).filter(|at| *at < keys.len()).collect();
    let turned = |by: usize| frames.iter().cycle().skip(by).take(frames.len()).copied().collect::<Vec<_>>();
    let words = |frames: &Vec<usize>| frames.iter().filter_map(|at| keys.get(*at).copied()).collect::<Vec<_>>();
    (0..frames.len()).map(turned).min_by_key(words).unwrap_or_default()
}

/// Returns the frames, by number, whose keys come most often, if any comes often enough to be a recursion.
pub(crate) fn frequent(keys: &[&str]) -> Vec<usize> {
    let mut counts: HashMap<&str, (usize, usize)> = HashMap::new();
    for (at, key) in keys.iter().enumerate() {
        counts.entry(key).or_insert((0, at)).0 += 1;
    }
    let mut often: Vec<_> = counts.into_iter().filter(|(_, (count, _))| *count >= MIN_TIMES).collect();
    often.sort_by(|(key, (count, _)), (other, (than, _))| than.cmp(count).then_with(|| key.cmp(other)));
    // Which of them come second depends on where the stack was cut; only those as frequent as the first are sure.
    let most = often.first().map_or(0, |(_, (count, _))| *count);
    often
        .into_iter()
        .take_while(|(_, (count, _))| count + 1 >= most)
        .take(MAX_FREQUENT)
        .map(|(_, (_, at))| at)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cycles_are_found_and_turned() {
        let check = |stack: &str, expected: Option<(usize, usize, usize)>, turned: &str| {
            let keys: Vec<_> = stack.split_whitespace().collect();
            let cycle = find(&keys);
            assert_eq!(cycle.map(|cycle| (cycle.start, cycle.length, cycle.times)), expected, "{stack}");
            let frames = cycle.map(|cycle| rotation(&keys, cycle)).unwrap_or_default();
            assert_eq!(frames.iter().map(|at| keys[*at]).collect::<Vec<_>>().join(" "), turned, "{stack}");
        };
        check("f f f main", Some((0, 1, 3)), "f");
        check("f f main", None, "");
        check("b a b a b a main", Some((0, 2, 3)), "a b");
        check("x a b a b a b main", Some((1, 2, 3)), "a b");
        check("leaf c a b c a b c a b main", Some((1, 3, 3)), "a b c");
        check("a a b a a b a a b", Some((0, 3, 3)), "a a b");
        check("", None, "");
    }

    #[test]
    fn an_irregular_recursion_has_its_frequent_functions() {
        let check = |stack: &str, expected: &str| {
            let keys: Vec<_> = stack.split_whitespace().collect();
            let frames = frequent(&keys);
            assert_eq!(frames.iter().map(|at| keys[*at]).collect::<Vec<_>>().join(" "), expected, "{stack}");
        };
        check("visit list visit map visit visit map main", "visit");
        check("b a a b b a c", "a b");
        check("a b c d", "");
    }

    proptest! {
        #[test]
        fn a_cycle_is_the_same_wherever_it_is_cut(cycle in prop::collection::vec("[a-d]", 1..=6), skip in 0_usize..6) {
            let endless: Vec<_> = cycle.iter().cycle().skip(skip).take(60).map(String::as_str).collect();
            let whole: Vec<_> = cycle.iter().cycle().take(60).map(String::as_str).collect();
            let words = |keys: &[&str]| {
                let cycle = find(keys).expect("sixty frames of a cycle of six hold it");
                rotation(keys, cycle).iter().map(|at| keys[*at].to_owned()).collect::<Vec<_>>()
            };
            prop_assert_eq!(words(&endless), words(&whole));
        }
    }
}
