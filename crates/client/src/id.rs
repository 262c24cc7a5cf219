//! New ids, made by the client so that asking twice is harmless. Time and randomness come in here and nowhere else.

use jiff::Timestamp;

/// Returns the present moment of this machine, cut to microseconds, as the server keeps it.
pub fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the one place where time comes into the client")]
    let micros = Timestamp::now().as_microsecond();
    Timestamp::from_microsecond(micros).expect("the clock stands within the years 1 to 9999")
}

/// Makes an id that nobody has used: `fresh(ExecutionId::new)`.
pub fn fresh<I>(make: fn(Timestamp, u128) -> I) -> I {
    make(now(), random())
}

/// Returns 128 bits from the operating system's random source.
pub(crate) fn random() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has randomness once it has started");
    u128::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ExecutionId;

    #[test]
    fn ids_differ() {
        assert_ne!(fresh(ExecutionId::new), fresh(ExecutionId::new));
    }
}
