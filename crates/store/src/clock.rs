//! Where time and randomness come in. Everything else takes them as arguments, so a test can hold time still.

use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The source of the present moment.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's.
    #[default]
    System,
    /// One that moves only when told to; microseconds since 1970.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// Returns a clock that stands still at `at`.
    pub fn manual(at: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(at.as_microsecond())))
    }

    /// Returns the present moment, cut to microseconds, which is what both databases keep.
    pub fn now(&self) -> Timestamp {
        let micros = match self {
            #[expect(clippy::disallowed_methods, reason = "this is the one place where time comes in")]
            Self::System => Timestamp::now().as_microsecond(),
            Self::Manual(micros) => micros.load(Ordering::Relaxed),
        };
        Timestamp::from_microsecond(micros).expect("the clock stands within the years 1 to 9999")
    }

    /// Moves a manual clock on; the machine's own is left alone.
    pub fn advance(&self, by: SignedDuration) {
        if let Self::Manual(micros) = self {
            micros.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }
}

/// Returns 128 bits from the operating system's random source.
pub fn random() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has randomness once it has started");
    u128::from_le_bytes(bytes)
}
