//! Which part of some content a request wants: one range of bytes, or all of it.
//!
//! Several ranges in one request are answered with the whole, as the standard allows.

use axum::http::{HeaderMap, header};
use std::ops::Range;

/// What a request wants of some content.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that are not there.
    Nothing,
}

/// Reads `Range`, unless `If-Range` names other content than this.
pub(super) fn wanted(headers: &HeaderMap, size: u64, tag: &str) -> Wanted {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|known| known != tag) {
        return Wanted::Whole;
    }
    let Some(spec) = text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")) else { return Wanted::Whole };
    parse(spec.trim(), size)
}

fn parse(spec: &str, size: u64) -> Wanted {
    let Some((first, last)) = spec.split_once('-').filter(|_| !spec.contains(',')) else { return Wanted::Whole };
    let (first, last) = (first.trim(), last.trim());
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) if last.is_empty() => first..size,
        (Err(_), Ok(count)) if first.is_empty() => size.saturating_sub(count)..size,
        // What is no range at all is as good as none.
        _ => return Wanted::Whole,
    };
    if range.start < range.end { Wanted::Part(range) } else { Wanted::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let check = |spec: &str, wanted: Wanted| assert_eq!(parse(spec, 100), wanted, "{spec}");
        check("0-0", Wanted::Part(0..1));
        check("0-99", Wanted::Part(0..100));
        check("10-1000", Wanted::Part(10..100));
        check("99-", Wanted::Part(99..100));
        check("-1", Wanted::Part(99..100));
        check("-1000", Wanted::Part(0..100));
        check("100-", Wanted::Nothing);
        check("100-200", Wanted::Nothing);
        check("-0", Wanted::Nothing);
        check("5-4", Wanted::Whole);
        check("0-1,5-6", Wanted::Whole);
        check("x-y", Wanted::Whole);
        check("-", Wanted::Whole);
        check("", Wanted::Whole);
        check("0-18446744073709551615", Wanted::Part(0..100));
        assert_eq!(parse("0-", 0), Wanted::Nothing);
    }
}
