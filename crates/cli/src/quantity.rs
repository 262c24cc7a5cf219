//! Quantities as people write them: `512M`, `30s`, `1h30m`, `90d`, `0.5` cores.

use jiff::SignedDuration;

/// Digits behind the point of a number of bytes.
const MAX_DECIMALS: usize = 9;

/// Reads a number of bytes: `4096`, `512M`, `16MiB`, `1.5G`; the units are powers of 1024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is not a number of bytes such as `4096`, `512M` or `1.5G`");
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(refuse()),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let is_whole = number.len() == whole.len();
    // A part of a byte is none.
    if part.contains('.') || part.len() > MAX_DECIMALS || (!is_whole && (part.is_empty() || shift == 0)) {
        return Err(refuse());
    }
    let scale = 10_u128.pow(u32::try_from(part.len()).unwrap_or(0));
    let whole: u64 = whole.parse().map_err(|_| refuse())?;
    let part: u64 = if is_whole { 0 } else { part.parse().map_err(|_| refuse())? };
    u64::try_from(((u128::from(whole) * scale + u128::from(part)) << shift) / scale).map_err(|_| refuse())
}

/// Reads a time span: `500ms`, `30s`, `10m`, `1h30m`, `90d`, `2w`.
pub(crate) fn duration(text: &str) -> Result<SignedDuration, String> {
    let refuse = || format!("`{text}` is not a time span such as `30s`, `10m`, `1h30m` or `90d`");
    let (mut rest, mut total_ms) = (text, 0_i64);
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        let number: i64 = rest[..digits].parse().map_err(|_| refuse())?;
        let unit_ms = match &rest[digits..unit_end] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(refuse()),
        };
        total_ms = number.checked_mul(unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or_else(refuse)?;
        rest = &rest[unit_end..];
    }
    Ok(SignedDuration::from_millis(total_ms))
}

/// Reads a number of cores, `2` or `0.5`, as thousandths of one.
pub(crate) fn cpu_milli(text: &str) -> Result<u32, String> {
    let refuse = || format!("`{text}` is not a number of cores such as `2` or `0.5`");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > 3 || !is_digits(whole) || !is_digits(part) {
        return Err(refuse());
    }
    let part: u32 = format!("{part:0<3}").parse().map_err(|_| refuse())?;
    let whole: u32 = whole.parse().map_err(|_| refuse())?;
    whole.checked_mul(1_000).and_then(|milli| milli.checked_add(part)).ok_or_else(refuse)
}

/// Writes a number of bytes: `512 MiB`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    let (whole, rest) = (bytes >> (10 * unit), bytes & ((1 << (10 * unit)) - 1));
    let tenths = (u128::from(rest) * 10) >> (10 * unit);
    if tenths == 0 { format!("{whole} {}", UNITS[unit]) } else { format!("{whole}.{tenths} {}", UNITS[unit]) }
}

/// Writes a time span of milliseconds: `1.5 s`, `3 min`.
pub(crate) fn ms_text(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 if ms.is_multiple_of(1_000) => format!("{} s", ms / 1_000),
        1_000..120_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// Writes how many dumps.
pub(crate) fn dumps_text(count: u64) -> String {
    format!("{count} dump{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(bytes(text).ok(), expected, "{text}");
        check("0", Some(0));
        check("4096", Some(4096));
        check("512M", Some(512 << 20));
        check("16MiB", Some(16 << 20));
        check("1gb", Some(1 << 30));
        check("2T", Some(2 << 40));
        check("1.5G", Some(3 << 29));
        check("0.001K", Some(1));
        check("1.5 GiB", Some(3 << 29));
        for bad in
            ["", "M", "-1", "1.5", "1.G", ".5G", "1.5.5G", "1.0123456789G", "1X", "99999999999T", "1é", "+1K", "1.+5K"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn time_spans_are_read() {
        let check = |text: &str, expected: Option<i64>| {
            assert_eq!(duration(text).ok(), expected.map(SignedDuration::from_millis), "{text}");
        };
        check("500ms", Some(500));
        check("30s", Some(30_000));
        check("1h30m", Some(5_400_000));
        check("90d", Some(7_776_000_000));
        check("2w", Some(1_209_600_000));
        for bad in ["", "30", "s", "1x", "-1s", "1h30", "99999999999999999d", "1é"] {
            check(bad, None);
        }
    }

    #[test]
    fn cores_are_read() {
        let check = |text: &str, expected: Option<u32>| assert_eq!(cpu_milli(text).ok(), expected, "{text}");
        check("1", Some(1_000));
        check("0.5", Some(500));
        check("1.25", Some(1_250));
        check("0.001", Some(1));
        for bad in ["", ".", ".5", "1.0001", "-1", "1e3", "9999999999", "+1", "0.+1"] {
            check(bad, None);
        }
    }

    #[test]
    fn quantities_are_written() {
        let check = |bytes: u64, expected: &str| assert_eq!(bytes_text(bytes), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1536, "1.5 KiB");
        check(512 << 20, "512 MiB");
        check(u64::MAX, "16777215.9 TiB");
        let check = |ms: u64, expected: &str| assert_eq!(ms_text(ms), expected);
        check(7, "7 ms");
        check(1_500, "1.5 s");
        check(30_000, "30 s");
        check(3_600_000, "60 min");
        check(u64::MAX, "5124095576030 h");
    }
}
