//! Meters: what the attempts that run have used so far, as each last heard it, until a sync takes it along.
//!
//! Only the newest measure of an attempt is held, and none of one that has ended.

use model::Usage;
use model::limits::MAX_SYNC_USED;
use model::node::{Held, Used};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// When an attempt is first measured.
pub(crate) const FIRST: Duration = Duration::from_secs(1);
/// How often it is measured from then on.
pub(crate) const EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Measures {
    latest: BTreeMap<Held, Usage>,
    /// Whose turn it is to be told.
    turns: VecDeque<Held>,
}

/// The meters of a node's attempts.
#[derive(Debug, Default)]
pub(crate) struct Meters(Mutex<Measures>);

impl Meters {
    fn lock(&self) -> MutexGuard<'_, Measures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what an attempt has used so far.
    pub(crate) fn put(&self, held: Held, usage: Usage) {
        let mut measures = self.lock();
        if measures.latest.insert(held, usage).is_none() {
            measures.turns.push_back(held);
        }
    }

    /// Forgets an attempt that has ended.
    pub(crate) fn forget(&self, held: Held) {
        self.lock().latest.remove(&held);
    }

    /// Tells whether there is anything to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().latest.is_empty()
    }

    /// Takes out as much as one sync may carry, what came first before all else.
    pub(crate) fn take(&self) -> Vec<Used> {
        let mut measures = self.lock();
        let mut taken = Vec::new();
        while taken.len() < MAX_SYNC_USED
            && let Some(held) = measures.turns.pop_front()
        {
            taken.extend(measures.latest.remove(&held).map(|usage| Used { held, usage }));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ExecutionId;

    fn held(number: u128) -> Held {
        Held { execution: ExecutionId::new(jiff::Timestamp::UNIX_EPOCH, number), attempt: 1 }
    }

    fn usage(wall_ms: u64) -> Usage {
        Usage { wall_ms, ..Usage::default() }
    }

    #[test]
    fn the_newest_measure_of_each_is_told_once_and_none_of_what_has_ended() {
        let meters = Meters::default();
        for (number, wall_ms) in [(3, 1), (1, 2), (2, 3), (3, 4)] {
            meters.put(held(number), usage(wall_ms));
        }
        meters.forget(held(1));
        let told: Vec<_> = meters.take().into_iter().map(|used| (used.held, used.usage.wall_ms)).collect();
        assert_eq!(told, [(held(3), 4), (held(2), 3)]);
        assert!(meters.is_empty() && meters.take().is_empty());
    }

    #[test]
    fn a_sync_carries_no_more_than_it_may_and_the_rest_comes_next() {
        let meters = Meters::default();
        let many = MAX_SYNC_USED + 10;
        (0..many).for_each(|number| meters.put(held(number as u128), usage(1)));
        let first = meters.take();
        assert_eq!(first.len(), MAX_SYNC_USED);
        assert_eq!((first[0].held, meters.take().len()), (held(0), 10));
    }
}
