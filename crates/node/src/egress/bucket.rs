//! A bucket that fills steadily and from which each deed takes one: how rates are bounded.

use std::time::Duration;
use tokio::time::Instant;

/// A bucket of permissions.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate_per_s: u32,
    burst: u32,
    /// When it would have been empty; it holds what has come in since.
    empty_at: Instant,
}

impl Bucket {
    /// Makes a full one, which holds `burst` and gains `rate_per_s`.
    pub(crate) fn new(rate_per_s: u32, burst: u32, now: Instant) -> Self {
        let full = Self::worth(rate_per_s, burst);
        Self { rate_per_s, burst, empty_at: now.checked_sub(full).unwrap_or(now) }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let oldest = now.checked_sub(Self::worth(self.rate_per_s, self.burst)).unwrap_or(now);
        let after = self.empty_at.max(oldest) + Self::worth(self.rate_per_s, 1);
        let is_there = after <= now;
        if is_there {
            self.empty_at = after;
        }
        is_there
    }

    fn worth(rate_per_s: u32, count: u32) -> Duration {
        Duration::from_nanos(u64::from(count) * 1_000_000_000 / u64::from(rate_per_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_its_burst_and_then_its_rate() {
        let start = Instant::now() + Duration::from_secs(60);
        let mut bucket = Bucket::new(10, 3, start);
        let taken =
            |bucket: &mut Bucket, ms| (0..50).filter(|_| bucket.take(start + Duration::from_millis(ms))).count();
        assert_eq!(taken(&mut bucket, 0), 3);
        assert_eq!(taken(&mut bucket, 99), 0);
        assert_eq!(taken(&mut bucket, 200), 2);
        assert_eq!(taken(&mut bucket, 60_000), 3);
    }
}
