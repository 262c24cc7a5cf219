//! Pieces of lines that several speakers share: numbers, places in sources, modules with offsets, frames with a number.

use model::report::{Address, Frame, Trust};

/// Returns no more than some bytes of a text, cut between characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// Returns the number in hexadecimal digits with which a text begins, with or without `0x`, and what follows.
pub(crate) fn hex(text: &str) -> Option<(u64, &str)> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let end = digits.find(|sign: char| !sign.is_ascii_hexdigit()).unwrap_or(digits.len());
    Some((u64::from_str_radix(&digits[..end], 16).ok()?, &digits[end..]))
}

/// Returns the number in decimal digits with which a text begins, and what follows.
pub(crate) fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Returns the number in hexadecimal digits that follows some words.
pub(crate) fn hex_after(text: &str, words: &str) -> Option<u64> {
    let at = text.find(words)? + words.len();
    hex(text[at..].trim_start()).map(|(value, _)| value)
}

/// Returns the number in decimal digits that follows some words.
pub(crate) fn number_after(text: &str, words: &str) -> Option<u64> {
    let at = text.find(words)? + words.len();
    number(text[at..].trim_start()).map(|(value, _)| value)
}

/// Tells whether a line begins as logs do, with a time or a level, and is no part of what was said before it.
pub(crate) fn is_logged(line: &str) -> bool {
    const LEVELS: [&str; 9] = ["TRACE", "DEBUG", "INFO", "NOTICE", "WARN", "WARNING", "ERROR", "CRITICAL", "FATAL"];
    let word = line.trim_start_matches(['[', '(']);
    let end = word.find(|sign: char| sign.is_whitespace() || "])|".contains(sign)).unwrap_or(word.len());
    let word = &word[..end];
    let is_time = || {
        let is_sign = |sign: char| sign.is_ascii_digit() || "-:./,TZ+".contains(sign);
        word.len() >= 8 && word.starts_with(|sign: char| sign.is_ascii_digit()) && word.chars().all(is_sign)
    };
    LEVELS.contains(&word.trim_end_matches(':')) || is_time() && word.contains([':', '-', '/'])
}

/// Returns what stands between two marks.
pub(crate) fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let rest = &text[text.find(open)? + open.len()..];
    Some(&rest[..rest.find(close)?])
}

/// Splits `file:line:column` and `file:line`; none if there is no line.
pub(crate) fn place(text: &str) -> Option<(&str, u32, Option<u32>)> {
    let (front, last) = text.rsplit_once(':')?;
    let last: u32 = last.parse().ok()?;
    match front.rsplit_once(':').and_then(|(file, line)| Some((file, line.parse().ok()?))) {
        Some((file, line)) if !file.is_empty() => Some((file, line, Some(last))),
        _ if !front.is_empty() => Some((front, last, None)),
        _ => None,
    }
}

/// Puts a place in the source into a frame.
pub(crate) fn set_place(frame: &mut Frame, text: &str) -> bool {
    let Some((file, line, column)) = place(text) else { return false };
    frame.file = Some(file.to_owned());
    frame.line = Some(line);
    frame.column = column;
    true
}

/// Splits `#3 rest` into its number and the rest.
pub(crate) fn numbered(line: &str) -> Option<(u64, &str)> {
    let (count, rest) = number(line.trim_start().strip_prefix('#')?)?;
    rest.starts_with(' ').then(|| (count, rest.trim()))
}

/// Returns the frame that a sanitizer tells in what follows the number: `0x1234 in f(int) /src/f.c:3:4 (app+0x12) (BuildId: …)`.
pub(super) fn frame(rest: &str) -> Frame {
    let mut frame = Frame::new(Trust::Told);
    let mut rest = rest;
    if rest.starts_with("0x")
        && let Some((address, after)) = hex(rest)
    {
        frame.address = Some(Address(address));
        rest = after.trim_start();
    }
    rest = rest.strip_prefix("in ").unwrap_or(rest);
    rest = rest.find(" (BuildId: ").map_or(rest, |at| &rest[..at]).trim();
    if let Some(inner) = rest.strip_suffix(')')
        && let Some((before, module)) = split_module(inner)
        && let Some((name, offset)) = module.rsplit_once("+0x")
        && let Some((offset, "")) = hex(offset)
    {
        frame.module_name = Some(name.to_owned());
        frame.offset = Some(Address(offset));
        rest = before.trim();
    }
    let rest = rest.strip_suffix("<null>").unwrap_or(rest).trim();
    let function = match split_source(rest) {
        Some((function, source)) => {
            if !set_place(&mut frame, source) {
                frame.file = Some(source.to_owned());
            }
            function
        }
        None => rest,
    };
    let is_name = |function: &&str| !matches!(*function, "" | "??" | "(<unknown module>)");
    frame.function = Some(function.trim()).filter(is_name).map(str::to_owned);
    frame
}

/// Splits what stands before the module from it: the last opening parenthesis that a space or nothing precedes.
fn split_module(text: &str) -> Option<(&str, &str)> {
    match text.rfind(" (") {
        Some(at) => Some((&text[..at], &text[at + 2..])),
        None => text.strip_prefix('(').map(|module| ("", module)),
    }
}

/// Splits a function from its source file, either of which may have spaces.
fn split_source(text: &str) -> Option<(&str, &str)> {
    let at = [" /", " ./", " ../"].iter().filter_map(|mark| text.find(mark)).min();
    let at = at.or_else(|| text.rfind(' ').filter(|at| place(&text[at + 1..]).is_some()))?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rest: &str, function: &str, place: (&str, u32, u32), module: (&str, u64)) {
        let found = frame(rest);
        let place_found = (found.file.as_deref().unwrap_or(""), found.line.unwrap_or(0), found.column.unwrap_or(0));
        let module_found = (found.module_name.as_deref().unwrap_or(""), found.offset.map_or(0, |offset| offset.0));
        assert_eq!(found.function.as_deref().unwrap_or(""), function, "{rest}");
        assert_eq!(place_found, place, "{rest}");
        assert_eq!(module_found, module, "{rest}");
    }

    #[test]
    fn frames_of_sanitizers_are_read() {
        check("0x55e84f762356 in read_node /tmp/s/uaf.c:8", "read_node", ("/tmp/s/uaf.c", 8, 0), ("", 0));
        check("0x1 in a::b(int, char) const /s p/x.cc:8:3", "a::b(int, char) const", ("/s p/x.cc", 8, 3), ("", 0));
        check("0x1 in _start (/tmp/d/app+0x21b0) (BuildId: 12ab)", "_start", ("", 0, 0), ("/tmp/d/app", 0x21b0));
        check("0x1  (/tmp/a b/app+0x21b0)", "", ("", 0, 0), ("/tmp/a b/app", 0x21b0));
        check("bump /tmp/uaf.c:13 (tsan+0x13f0)", "bump", ("/tmp/uaf.c", 13, 0), ("tsan", 0x13f0));
        check("operator new(unsigned long) <null> (app+0x4)", "operator new(unsigned long)", ("", 0, 0), ("app", 4));
        check("0x1 in operator/(A, B) uaf.c:8", "operator/(A, B)", ("uaf.c", 8, 0), ("", 0));
        check("0x1 in main", "main", ("", 0, 0), ("", 0));
        check("0x1 in f ../sysdeps/x.h:58", "f", ("../sysdeps/x.h", 58, 0), ("", 0));
    }
}
