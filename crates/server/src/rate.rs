//! How often a caller may ask: a token bucket each.
//!
//! A bucket is kept as one instant, the one at which it will be full again, so a caller who has rested that long needs no
//! bucket at all. Buckets live in two generations: a caller found in the older one moves into the younger, and when the
//! younger has been filled for as long as a bucket takes to refill, the older is dropped. Whatever is dropped then is
//! full, and forgetting it changes nothing. A flood of new callers turns the generations over sooner, so memory stays
//! bounded at `MAX_CALLERS` of each kind; the price is that callers who were silent meanwhile start with a full bucket
//! again. Known and anonymous callers are kept apart, so a flood of strangers costs no known caller anything.
//!
//! Nothing here reads a clock, and the lock is held for one look into two maps, never across an await.

use crate::config::RateConfig;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Callers of one kind whose buckets are kept at the same time.
pub const MAX_CALLERS: usize = 65_536;
/// The fastest refill that still limits anything; more per second is taken for this.
const MAX_PER_SECOND: f64 = 1e9;
/// The slowest refill: one request a day.
const MIN_PER_SECOND: f64 = 1.0 / 86_400.0;
/// The deepest bucket.
const MAX_BURST: f64 = 1e9;

/// What we know of a caller before their request is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerKind {
    /// They have proved who they are.
    Known,
    /// All we have is an address.
    Anonymous,
}

/// The buckets of all callers.
#[derive(Debug)]
pub struct Rates {
    known: Option<Buckets>,
    anonymous: Option<Buckets>,
}

impl Rates {
    /// Makes full buckets for everybody; a rate of 0 per second limits nobody of that kind.
    ///
    /// A burst below 1 counts as 1, because a bucket that never holds one request would lock its caller out for ever.
    pub fn new(config: &RateConfig) -> Self {
        Self {
            known: Buckets::new(config.per_second, config.burst, MAX_CALLERS),
            anonymous: Buckets::new(config.anonymous_per_second, config.anonymous_burst, MAX_CALLERS),
        }
    }

    /// Takes one request out of the caller's bucket, or tells how long to wait for the next one.
    ///
    /// The caller is a user's id, or an address; of an IPv6 address only the first 64 bits tell callers apart, so give
    /// no more than those. A refused request costs nothing.
    pub fn take(&self, caller: &str, kind: CallerKind, now: Instant) -> Result<(), Duration> {
        let buckets = match kind {
            CallerKind::Known => &self.known,
            CallerKind::Anonymous => &self.anonymous,
        };
        buckets.as_ref().map_or(Ok(()), |buckets| buckets.take(caller, now))
    }
}

/// The buckets of one kind of callers.
#[derive(Debug)]
struct Buckets {
    /// What one request takes out: the time that refills it.
    cost: Duration,
    /// What a full bucket holds, in the time that refills it from empty.
    depth: Duration,
    /// Callers in one generation.
    max_generation: usize,
    /// Callers are kept by a keyed hash: a hostile one can neither grow an entry nor aim at somebody else's.
    hasher: RandomState,
    generations: Mutex<Generations>,
}

/// When the bucket of each caller will be full again.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, Instant>,
    old: HashMap<u64, Instant>,
    turned_at: Option<Instant>,
}

impl Buckets {
    fn new(per_second: f64, burst: f64, max_callers: usize) -> Option<Self> {
        // Written so that a number that is none switches the limit off as 0 does; the configuration refuses it before.
        if per_second.is_nan() || per_second <= 0.0 {
            return None;
        }
        let cost = Duration::from_secs_f64(1.0 / per_second.clamp(MIN_PER_SECOND, MAX_PER_SECOND));
        let burst = if burst.is_nan() { 1.0 } else { burst.clamp(1.0, MAX_BURST) };
        Some(Self {
            cost,
            depth: cost.mul_f64(burst).max(cost),
            max_generation: max_callers / 2,
            hasher: RandomState::new(),
            generations: Mutex::default(),
        })
    }

    fn take(&self, caller: &str, now: Instant) -> Result<(), Duration> {
        let caller = self.hasher.hash_one(caller);
        // Nothing in here panics half-way, so what a poisoned lock guards is still whole.
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.turn_if_due(now, self.depth, self.max_generation);
        // A caller who asks again moves into the younger generation, even if refused.
        let held = generations.young.get(&caller).copied().or_else(|| generations.old.remove(&caller));
        let full_at = held.map_or(now, |at| at.max(now));
        let missing = (full_at + self.cost).duration_since(now).saturating_sub(self.depth);
        let passes = missing.is_zero();
        generations.young.insert(caller, if passes { full_at + self.cost } else { full_at });
        if passes { Ok(()) } else { Err(missing) }
    }
}

impl Generations {
    /// Drops the older generation when all in it are full again, or when the younger one has no room left.
    ///
    /// What the older one holds was last touched before `turned_at`, and no bucket takes longer than `depth` to refill.
    fn turn_if_due(&mut self, now: Instant, depth: Duration, max_generation: usize) {
        let turned_at = *self.turned_at.get_or_insert(now);
        let refilled = now.saturating_duration_since(turned_at) >= depth;
        if refilled || self.young.len() >= max_generation {
            self.old = mem::take(&mut self.young);
            self.turned_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::thread;

    const CONFIG: RateConfig =
        RateConfig { per_second: 10.0, burst: 5.0, anonymous_per_second: 1.0, anonymous_burst: 2.0 };

    fn kept(buckets: &Buckets) -> usize {
        let generations = buckets.generations.lock().expect("nobody panicked");
        generations.young.len() + generations.old.len()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rates = Rates::new(&CONFIG);
        let start = Instant::now();
        let take = |millis| rates.take("ada", CallerKind::Known, start + Duration::from_millis(millis));
        for _ in 0..5 {
            assert_eq!(take(0), Ok(()));
        }
        assert_eq!(take(0), Err(Duration::from_millis(100)));
        assert_eq!(take(60), Err(Duration::from_millis(40)), "a refusal costs nothing");
        assert_eq!(take(100), Ok(()));
        assert_eq!(take(100), Err(Duration::from_millis(100)));
        // A request whose clock was read earlier than another's is no reason to fail.
        assert_eq!(take(50), Err(Duration::from_millis(150)));
        for _ in 0..5 {
            assert_eq!(take(10_000), Ok(()), "the bucket is full again, and no fuller");
        }
        assert_eq!(take(10_000), Err(Duration::from_millis(100)));
    }

    #[test]
    fn kinds_and_callers_do_not_share_a_bucket() {
        let rates = Rates::new(&CONFIG);
        let now = Instant::now();
        let take = |caller, kind| rates.take(caller, kind, now);
        assert_eq!(take("a", CallerKind::Anonymous), Ok(()));
        assert_eq!(take("a", CallerKind::Anonymous), Ok(()));
        assert_eq!(take("a", CallerKind::Anonymous), Err(Duration::from_secs(1)));
        assert_eq!(take("b", CallerKind::Anonymous), Ok(()));
        assert_eq!(take("a", CallerKind::Known), Ok(()));
    }

    #[test]
    fn odd_numbers_neither_panic_nor_lock_out() {
        let check = |per_second: f64, burst: f64, passes: usize| {
            let rates = Rates::new(&RateConfig { per_second, burst, ..CONFIG });
            let now = Instant::now();
            let passed = (0..1_000).take_while(|_| rates.take("a", CallerKind::Known, now).is_ok()).count();
            assert_eq!(passed, passes, "{per_second} per second, burst {burst}");
        };
        check(0.0, 0.0, 1_000);
        check(-1.0, 5.0, 1_000);
        check(f64::NAN, 5.0, 1_000);
        check(1.0, 0.0, 1);
        check(1.0, -3.0, 1);
        check(1.0, f64::NAN, 1);
        check(1.0, 2.5, 2);
        check(f64::MIN_POSITIVE, f64::INFINITY, 1_000);
        check(f64::MIN_POSITIVE, 7.0, 7);
        check(f64::INFINITY, 7.0, 7);
    }

    #[test]
    fn a_flood_of_strangers_neither_grows_nor_locks_out() {
        let rates = Rates::new(&CONFIG);
        let start = Instant::now();
        for _ in 0..5 {
            assert_eq!(rates.take("ada", CallerKind::Known, start), Ok(()));
        }
        for stranger in 0..MAX_CALLERS * 3 {
            assert_eq!(rates.take(&format!("10.{stranger}"), CallerKind::Anonymous, start), Ok(()));
        }
        assert!(kept(rates.anonymous.as_ref().expect("limited")) <= MAX_CALLERS);
        assert_eq!(rates.take("new stranger", CallerKind::Anonymous, start), Ok(()));
        assert_eq!(rates.take("ada", CallerKind::Known, start), Err(Duration::from_millis(100)), "still counted");
        assert_eq!(rates.take("eve", CallerKind::Known, start), Ok(()));
    }

    #[test]
    fn callers_who_rest_are_forgotten() {
        let buckets = Buckets::new(1.0, 10.0, MAX_CALLERS).expect("limited");
        let start = Instant::now();
        for caller in 0..100 {
            buckets.take(&caller.to_string(), start).expect("the first");
        }
        assert_eq!(kept(&buckets), 100);
        for round in 1..=3 {
            buckets.take("ada", start + Duration::from_secs(10 * round)).expect("the first of this round");
        }
        assert_eq!(kept(&buckets), 1);
    }

    #[test]
    fn threads_together_take_no_more_than_the_burst() {
        let rates = Arc::new(Rates::new(&RateConfig { per_second: 1.0, burst: 100.0, ..CONFIG }));
        let now = Instant::now();
        let taker = |rates: Arc<Rates>| {
            thread::spawn(move || (0..100).filter(|_| rates.take("a", CallerKind::Known, now).is_ok()).count())
        };
        let takers: Vec<_> = (0..4).map(|_| taker(Arc::clone(&rates))).collect();
        let passed: usize = takers.into_iter().map(|taker| taker.join().expect("no panic")).sum();
        assert_eq!(passed, 100);
    }

    /// The bucket as one would explain it: it holds so much, and gains with time until it is full.
    struct Model {
        cost: u128,
        depth: u128,
        callers: HashMap<u8, (u128, u128)>,
    }

    impl Model {
        fn take(&mut self, caller: u8, now: u128) -> Result<(), u128> {
            let (level, at) = self.callers.entry(caller).or_insert((self.depth, now));
            *level = self.depth.min(*level + (now - *at));
            *at = now;
            if *level < self.cost {
                return Err(self.cost - *level);
            }
            *level -= self.cost;
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn buckets_agree_with_the_model(
            // Only rates whose cost is a whole number of nanoseconds, so that both reckon exactly.
            per_second in prop::sample::select(vec![1_u32, 2, 5, 8, 10, 50, 1_000]),
            burst in 1_u32..20,
            moves in prop::collection::vec((0_u8..6, prop_oneof![0_u64..50, 0_u64..2_000, 0_u64..60_000]), 1..300),
        ) {
            let cost = 1_000_000_000 / u128::from(per_second);
            let mut model = Model { cost, depth: cost * u128::from(burst), callers: HashMap::new() };
            // Six callers fit into one generation; what is forgotten is forgotten because it is full.
            let buckets = Buckets::new(per_second.into(), burst.into(), 14).expect("limited");
            let (start, mut passed) = (Instant::now(), Duration::ZERO);
            for (caller, wait_ms) in moves {
                passed += Duration::from_millis(wait_ms);
                let taken = buckets.take(&caller.to_string(), start + passed).map_err(|wait| wait.as_nanos());
                prop_assert_eq!(taken, model.take(caller, passed.as_nanos()));
                prop_assert!(kept(&buckets) <= 14);
            }
        }
    }
}
