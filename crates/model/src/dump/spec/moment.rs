//! Instants and ages as they are written in specifications.
//!
//! An age counts backwards from when it is asked: `6h`, `2d`, `3fortnight`, a bare number of seconds, a bare unit. An
//! instant is a date, a date with a time, in UTC, or one with its zone; what is not written of it stands for all of that
//! day or second.

use super::Comparison;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// An instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So many seconds before it is asked.
    Ago(i64),
    /// This one.
    At(Timestamp),
}

impl Moment {
    /// Returns the instant that is meant when this is asked at `now`.
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(seconds) => now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }
}

/// The units of ages, in seconds.
const UNITS: [(&str, i64); 17] = [
    ("s", 1),
    ("sec", 1),
    ("second", 1),
    ("min", 60),
    ("minute", 60),
    ("h", 3_600),
    ("hour", 3_600),
    ("d", 86_400),
    ("day", 86_400),
    ("w", 604_800),
    ("week", 604_800),
    ("fortnight", 1_209_600),
    ("m", 2_678_400),
    ("month", 2_678_400),
    ("y", 31_536_000),
    ("year", 31_536_000),
    ("", 1),
];

/// The tests that an instant must pass, all of them.
pub(super) type Tests = Vec<(Comparison, Moment)>;

/// Returns the tests that compare an instant so with a value.
pub(super) fn tests(comparison: Comparison, text: &str) -> Result<Tests, String> {
    if let Some(span) = span(text) {
        return Ok(within(comparison, span));
    }
    let seconds = age(text)?;
    // What is younger comes later.
    let turned = match comparison {
        Comparison::Equal | Comparison::Less => Comparison::Greater,
        Comparison::AtMost => Comparison::AtLeast,
        Comparison::Greater => Comparison::Less,
        Comparison::AtLeast => Comparison::AtMost,
    };
    Ok(vec![(turned, Moment::Ago(seconds))])
}

/// Returns the test of what is older than an age.
pub(super) fn older(text: &str) -> Result<Tests, String> {
    age(text).map(|seconds| vec![(Comparison::Less, Moment::Ago(seconds))])
}

fn within(comparison: Comparison, (start, end): (Timestamp, Timestamp)) -> Tests {
    let (start, end) = (Moment::At(start), Moment::At(end));
    match comparison {
        Comparison::Equal => vec![(Comparison::AtLeast, start), (Comparison::Less, end)],
        Comparison::Less => vec![(Comparison::Less, start)],
        Comparison::AtMost => vec![(Comparison::Less, end)],
        Comparison::Greater => vec![(Comparison::AtLeast, end)],
        Comparison::AtLeast => vec![(Comparison::AtLeast, start)],
    }
}

fn age(text: &str) -> Result<i64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let singular = unit.strip_suffix('s').filter(|singular| singular.len() > 1).unwrap_or(unit);
    let wanted = "an age like `6h`, `2d` or `90min`, or an instant like `2026-11-21` or `2026-11-21T13:10:26`";
    if text.is_empty() || text.starts_with(|one: char| !one.is_ascii_alphanumeric()) {
        return Err(format!("it takes {wanted}"));
    }
    let Some((_, seconds)) = UNITS.iter().find(|(name, _)| *name == singular || *name == unit) else {
        let unit: String = unit.chars().take(40).collect();
        return Err(format!("invalid time suffix '{unit}'; it takes {wanted}"));
    };
    let count = if number.is_empty() { Some(1) } else { number.parse::<i64>().ok() };
    count.and_then(|count| count.checked_mul(*seconds)).ok_or_else(|| "no age is as great as this".to_owned())
}

fn span(text: &str) -> Option<(Timestamp, Timestamp)> {
    // A number alone is an age, though some would read it as a date.
    if text.len() < 8 || !text.contains('-') {
        return None;
    }
    let start = |time: DateTime| time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    if text.len() == 10
        && let Ok(date) = text.parse::<Date>()
    {
        return Some((start(date.at(0, 0, 0, 0))?, start(date.tomorrow().ok()?.at(0, 0, 0, 0))?));
    }
    let at = match text.parse::<Timestamp>() {
        Ok(at) => at,
        Err(_) => start(text.parse().ok()?)?,
    };
    let at = Timestamp::from_microsecond(at.as_microsecond()).ok()?;
    let length =
        if at.subsec_nanosecond() == 0 { SignedDuration::from_secs(1) } else { SignedDuration::from_micros(1) };
    Some((at, at.checked_add(length).ok()?))
}
