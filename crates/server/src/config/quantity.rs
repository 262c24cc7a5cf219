//! Amounts as people write them: `64MiB`, `30d`. Reading and writing are exact inverses, so what `config show` prints can
//! be put back into the file.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

impl Bytes {
    /// Makes an amount of so many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns how many bytes there are.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns how many bytes there are, as far as this machine can address them.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Units of memory, largest first; only the binary ones are ever printed.
const BYTE_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
/// Other spellings that are understood. A bare letter is binary, as in container tools.
const BYTE_ALIASES: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A text that is not an amount of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size such as `64MiB`")]
pub struct BytesError(String);

impl FromStr for Bytes {
    type Err = BytesError;

    fn from_str(text: &str) -> Result<Self, BytesError> {
        let read = || {
            let (number, unit) = split(text.trim())?;
            let (_, factor) = BYTE_UNITS.iter().chain(&BYTE_ALIASES).find(|(name, _)| *name == unit)?;
            number.checked_mul(*factor).map(Self)
        };
        read().ok_or_else(|| BytesError(text.to_owned()))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        match BYTE_UNITS.iter().find(fits) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Units of time in milliseconds, largest first; these are printed.
const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// A unit that is understood besides.
const WEEK: (&str, u64) = ("w", 7 * 86_400_000);

/// Returns the time that a text such as `1h30m` means.
pub(super) fn duration_read(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let (number, unit) = split(&rest[..digits + letters])?;
        let (_, factor) = TIME_UNITS.iter().chain([&WEEK]).find(|(name, _)| *name == unit)?;
        total_ms = total_ms.checked_add(number.checked_mul(*factor)?)?;
        rest = rest[digits + letters..].trim_start();
    }
    // Nothing at all is not "no time".
    (!text.trim().is_empty()).then(|| Duration::from_millis(total_ms))
}

/// Returns the text that means this time; what is finer than a millisecond is cut off.
pub(super) fn duration_write(time: Duration) -> String {
    let mut rest_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, factor) in TIME_UNITS {
        if rest_ms >= factor {
            text += &format!("{}{unit}", rest_ms / factor);
            rest_ms %= factor;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Cuts `64MiB` into 64 and `MiB`.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        let check = |text: &str, bytes: u64, printed: &str| {
            let read: Bytes = text.parse().expect(text);
            assert_eq!((read.get(), read.to_string().as_str()), (bytes, printed), "{text}");
            assert_eq!(printed.parse(), Ok(read));
        };
        check("0", 0, "0");
        check("262144", 262_144, "256KiB");
        check("64MiB", 64 << 20, "64MiB");
        check(" 64 MiB ", 64 << 20, "64MiB");
        check("4G", 4 << 30, "4GiB");
        check("1000B", 1000, "1000");
        check("1GB", 1_000_000_000, "1000000000");
        check("1025KiB", 1025 << 10, "1025KiB");
        check("2048TiB", 2 << 50, "2048TiB");
        check("18446744073709551615", u64::MAX, "18446744073709551615");
        for bad in
            ["", " ", "MiB", "-1", "+1", "1.5GiB", "64mib", "1 2", "64MiBs", "18446744073709551616", "99999999999TiB"]
        {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times_read_and_print() {
        let check = |text: &str, ms: u64, printed: &str| {
            let read = duration_read(text).expect(text);
            assert_eq!((read, duration_write(read).as_str()), (Duration::from_millis(ms), printed), "{text}");
            assert_eq!(duration_read(printed), Some(read));
        };
        check("0s", 0, "0s");
        check("30s", 30_000, "30s");
        check("90s", 90_000, "1m30s");
        check("1h30m", 5_400_000, "1h30m");
        check(" 1h 30m ", 5_400_000, "1h30m");
        check("7d", 7 * 86_400_000, "7d");
        check("2w", 14 * 86_400_000, "14d");
        check("1500ms", 1500, "1s500ms");
        for bad in ["", " ", "30", "s", "1.5h", "-1s", "1s garbage", "1 parsec", "é", "1é", "99999999999999999w"] {
            assert_eq!(duration_read(bad), None, "{bad}");
        }
    }
}
