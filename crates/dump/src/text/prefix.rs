//! What a log puts before every line of a stack: a time, a host, a program's number, a container's name.
//!
//! It is known by a frame that does not begin its line while its neighbours begin alike, numbers aside. It is taken off all
//! lines that have it, and lines of others that came between them are put behind them; so whoever reads a stack finds it
//! as it was printed. Of what has no such frame nothing is changed.

use super::{java, javascript};

/// Lines above a frame among which what it belongs to begins.
const MAX_ABOVE: usize = 64;
/// Lines of others between two of the same log.
const MAX_OTHERS: usize = 64;
/// Lines on either side of a frame among which one begins alike.
const MAX_NEAR: usize = 4;
/// How often lines that came between others are looked at again.
const MAX_LOGS: usize = 4;
/// Stretches of lines that begin alike; each costs a look at the lines around it.
const MAX_STRETCHES: usize = 10_000;
/// Places of one line at which a frame may begin.
const MAX_PLACES: usize = 8;
/// How some write a tab.
const TAB: &str = "#011";

/// Returns lines without what a log puts before those of stacks.
pub(super) fn without<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let mut left = MAX_STRETCHES;
    peel(lines, MAX_LOGS, &mut left)
}

fn peel<'a>(lines: &[&'a str], logs: usize, left: &mut usize) -> Vec<&'a str> {
    let mut plain: Vec<&str> = Vec::with_capacity(lines.len());
    let mut at = 0;
    while at < lines.len() {
        let is_sought = logs > 0 && *left > 0;
        let Some(prefix) = is_sought.then(|| prefix(lines, at)).flatten() else {
            plain.push(lines[at]);
            at += 1;
            continue;
        };
        *left -= 1;
        let above = plain.split_off(plain.len().saturating_sub(MAX_ABOVE));
        let begin = above.iter().position(|line| rest(prefix, line).is_some()).unwrap_or(above.len());
        plain.extend(above.iter().filter(|line| rest(prefix, line).is_none()));
        plain.extend(above[begin..].iter().filter_map(|line| rest(prefix, line)));
        let end = end(lines, at, prefix);
        let (own, others): (Vec<&str>, Vec<&str>) =
            lines[at..end].iter().partition(|line| rest(prefix, line).is_some());
        plain.extend(own.into_iter().filter_map(|line| rest(prefix, line)));
        if !others.is_empty() {
            // What was said last does not go on in them.
            plain.push("");
            plain.extend(peel(&others, logs - 1, left));
        }
        at = end;
    }
    plain
}

/// Returns where the lines end that begin alike, from one that does.
fn end(lines: &[&str], begin: usize, prefix: &str) -> usize {
    let mut end = begin + 1;
    for (at, line) in lines.iter().enumerate().skip(end) {
        if rest(prefix, line).is_some() {
            end = at + 1;
        } else if at - end >= MAX_OTHERS {
            break;
        }
    }
    end
}

/// Returns what stands before a frame, if the lines about it begin like that.
fn prefix<'a>(lines: &[&'a str], at: usize) -> Option<&'a str> {
    let line = lines[at];
    let place = place(line)?;
    let before = line[..place].strip_suffix(TAB).unwrap_or(&line[..place]);
    let mut prefix = before.trim_end();
    let is_telling = |text: &str| text.contains(|sign: char| sign.is_alphanumeric());
    let near = || {
        let around = lines[at.saturating_sub(MAX_NEAR)..lines.len().min(at + 1 + MAX_NEAR)].iter();
        around.filter(|near| !std::ptr::eq(**near, line))
    };
    // A group of exceptions draws a rule beside its frames, which is not yet beside its head.
    while let Some(shorter) = prefix.strip_suffix('|').map(str::trim_end).filter(|shorter| is_telling(shorter))
        && near().any(|near| rest(shorter, near).is_some() && rest(prefix, near).is_none())
    {
        prefix = shorter;
    }
    if !is_telling(prefix) {
        return None;
    }
    let is_indented = line[prefix.len()..place].len() > 1 || !line[prefix.len()..place].starts_with(' ');
    let own = &line[place..];
    let is_like = |near: &&str| match rest(prefix, near) {
        // What merely ends with a place is printed twice as often as frames are printed without their blanks.
        Some(rest) if !is_indented => rest != own && self::place(rest) == Some(0),
        Some(_) => true,
        None => false,
    };
    near().any(is_like).then_some(prefix)
}

/// Returns where in a line a frame begins, as some speaker tells it.
fn place(line: &str) -> Option<usize> {
    let begins = |at: usize| at == 0 || line[..at].ends_with(char::is_whitespace) || line[..at].ends_with(TAB);
    let places = |words: &'static str| line.match_indices(words).map(|(at, _)| at).filter(|at| begins(*at));
    let is_python = |at: &usize| line[*at..].contains("\", line ");
    let is_rust = |call: &str| super::line::place(call).is_some_and(|(file, ..)| file.ends_with(".rs"));
    let is_call = |at: &usize| {
        let call = &line[*at..];
        java::frame(call).is_some() || javascript::frame(call).is_some() || is_rust(call)
    };
    let is_native = |at: &usize| {
        let rest = line[at + 1..].trim_start_matches(|sign: char| sign.is_ascii_digit());
        rest.len() < line.len() - at - 1 && rest.starts_with(" 0x")
    };
    let found = places("File \"").take(MAX_PLACES).find(is_python);
    let found = found.or_else(|| places("at ").take(MAX_PLACES).find(is_call));
    found.or_else(|| places("#").take(MAX_PLACES).find(is_native)).or_else(|| {
        // Of Go the place stands on a line of its own.
        let begin = line.find(".go:").and_then(|at| line[..at].rfind([' ', '\t']))?;
        let number = line[begin..].split(".go:").nth(1)?.trim_start_matches(|sign: char| sign.is_ascii_digit());
        number.starts_with(" +0x").then_some(begin + 1)
    })
}

/// Returns what follows in a line that begins like another, without the blank between; numbers may differ.
fn rest<'a>(prefix: &str, line: &'a str) -> Option<&'a str> {
    if let Some(same) = line.strip_prefix(prefix).filter(|rest| !rest.starts_with(|sign: char| sign.is_ascii_digit())) {
        return Some(same.strip_prefix(' ').unwrap_or(same));
    }
    let (mut prefix, mut line) = (prefix, line);
    while let Some(sign) = prefix.chars().next() {
        let numbers = number(prefix).zip(number(line));
        if let Some((after, line_after)) = numbers {
            (prefix, line) = (after, line_after);
            continue;
        }
        line = line.strip_prefix(sign)?;
        prefix = &prefix[sign.len_utf8()..];
    }
    Some(line.strip_prefix(' ').unwrap_or(line))
}

/// Returns what follows a number, with the blanks that it is padded by and its fraction.
fn number(text: &str) -> Option<&str> {
    let is_digit = |sign: char| sign.is_ascii_digit();
    let skip = |text: &str| text.trim_start_matches(is_digit).len();
    let digits = text.trim_start_matches(' ');
    let after = &digits[digits.len() - skip(digits)..];
    if after.len() == digits.len() {
        return None;
    }
    let fraction = after.strip_prefix(['.', ',']).filter(|fraction| fraction.starts_with(is_digit));
    Some(fraction.map_or(after, |fraction| &fraction[fraction.len() - skip(fraction)..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let found = without(&text.lines().collect::<Vec<_>>()).join("\n");
        assert_eq!(found, expected.lines().collect::<Vec<_>>().join("\n"), "{text}");
    }

    #[test]
    fn what_begins_alike_is_read_without_it() {
        check("app[9]: E: x\napp[10]: \tat a.b(C.java:1)\napp[11]: done", "E: x\n\tat a.b(C.java:1)\ndone");
        check("[ 9.5] E: x\n[10] \tat a.b(C.java:1)\n[ 11.25]\n[12] y", "E: x\n\tat a.b(C.java:1)\n\ny");
        // Others' lines come behind, and are themselves read so.
        check(
            "a |   File \"x.py\", line 1, in f\nb | \tat a.b(C.java:1)\na |     f()\nb | \tat a.c(C.java:2)",
            "  File \"x.py\", line 1, in f\n    f()\n\n\tat a.b(C.java:1)\n\tat a.c(C.java:2)",
        );
        // A log's own words stay where only the first line has them.
        check(
            "a | 10:00 ERROR Traceback:\na |   File \"x.py\", line 1, in f\na |     f()",
            "10:00 ERROR Traceback:\n  File \"x.py\", line 1, in f\n    f()",
        );
        check("a: at a.b(C.java:1)\na: at a.c(C.java:2)", "at a.b(C.java:1)\nat a.c(C.java:2)");
    }

    #[test]
    fn what_has_nothing_before_it_stays() {
        for text in [
            "E: x\n\tat a.b(C.java:1)\n\tat a.c(C.java:2)",
            "  | Traceback\n  |   File \"x.py\", line 1, in f\n  |     f()",
            "lost at f (/src/a.js:1:2)\nlost at f (/src/a.js:1:2)",
            "see File \"x.py\", line 1, in f\nno such thing\n\n",
        ] {
            check(text, text);
        }
    }
}
