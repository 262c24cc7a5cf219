//! What a program said when it gave up, without what differs from run to run.
//!
//! Of an assertion the expression counts and is kept to the letter, since its numbers stand in the source. Of all else
//! the first line counts, and in it numbers, quoted values, paths, addresses of the net and ids are masked. Code between
//! backquotes is kept: what `Option::unwrap()` says is not a value.

/// Characters of a masked message.
const MAX_MASKED_CHARS: usize = 120;
/// Characters of a quoted value; a quotation mark without its like so far on is an apostrophe.
const MAX_QUOTED_CHARS: usize = 400;
/// Digits after which a number that is part of a word is masked too: `worker1234`, but not `utf8` or `i64`.
const MIN_WORD_DIGITS: usize = 3;
/// Letters and digits after which a word of hexadecimal digits is taken for a hash.
const MIN_HASH_CHARS: usize = 8;

/// Returns what of a message is the same each time, or nothing if nothing is.
pub(crate) fn mask(message: &str) -> Option<String> {
    let message = message.trim();
    let masked = asserted(message).or_else(|| thrown(message)).unwrap_or_else(|| masked_line(spoken(message)));
    let masked: String = masked.chars().filter(|sign| !sign.is_control()).collect();
    let masked = masked.trim_matches([' ', ':', '.', ',']);
    (!masked.is_empty()).then(|| super::frame::short(masked, MAX_MASKED_CHARS))
}

/// Returns the expression of an assertion, in whatever way it was told.
fn asserted(message: &str) -> Option<String> {
    // Rust: assertion `left == right` failed: words. The values follow on lines of their own.
    if let Some(rest) = after(message, "assertion `")
        && let Some((expression, rest)) = rest.split_once("` failed")
    {
        let words = masked_line(rest.lines().next().unwrap_or_default().trim_start_matches(':').trim());
        return Some(if words.is_empty() { expression.to_owned() } else { format!("{expression}: {words}") });
    }
    // Rust's `assert!`, and BSD's and musl's `assert`, which say the place after it.
    if let Some(rest) = after(message, "ssertion failed: ") {
        let line = rest.lines().next().unwrap_or_default();
        let end = [", function ", ", file ", " (", ", at "].iter().filter_map(|mark| line.rfind(mark)).min();
        let has_place = end.is_some_and(|at| line[at..].contains(", file ") || line[at..].contains(": "));
        let expression = end.filter(|_| has_place).map_or(line, |at| &line[..at]);
        return Some(spaced(expression.trim()));
    }
    // glibc: prog: file.c:12: function: Assertion `expression' failed. So does libstdc++, between other marks.
    if let Some(rest) = after(message, "Assertion ")
        && let Some(rest) = rest.strip_prefix(['`', '\'', '"'])
        && let Some(end) = rest.find(" failed")
    {
        let expression = &rest[..end];
        return Some(spaced(expression.strip_suffix(['\'', '`', '"']).unwrap_or(expression)));
    }
    // Check failed: expression (1 vs. 2)
    let rest = after(message, "heck failed: ").or_else(|| after(message, "CHECK failed: "))?;
    let line = rest.lines().next().unwrap_or_default();
    let values = line.rfind(" (").filter(|at| line[*at..].contains(" vs. "));
    Some(spaced(values.map_or(line, |at| &line[..at]).trim_end_matches('.')))
}

/// terminate called after throwing an instance of 'std::out_of_range'\n  what():  words
fn thrown(message: &str) -> Option<String> {
    let rest = after(message, "terminate called after throwing an instance of '")?;
    let (kind, rest) = rest.split_once('\'')?;
    let words = after(rest, "what():").map(|words| masked_line(words.trim())).filter(|words| !words.is_empty());
    Some(words.map_or_else(|| kind.to_owned(), |words| format!("{kind}: {words}")))
}

/// Returns the line in which a panic says something; `thread 'main' panicked at src/main.rs:2:5:` only says where.
fn spoken(message: &str) -> &str {
    let mut lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    if first.starts_with("thread '") && first.contains("' panicked at ") {
        if first.ends_with(':') {
            return lines.next().unwrap_or(first);
        }
        // The older way: panicked at 'words', src/main.rs:2:5
        let words = after(first, "panicked at '").and_then(|rest| rest.rsplit_once("', ")).map(|(words, _)| words);
        return words.unwrap_or(first);
    }
    first
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.find(mark).and_then(|at| text.get(at + mark.len()..))
}

fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn masked_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let signs: Vec<char> = line.chars().collect();
    let mut masked = String::new();
    let mut at = 0;
    while let Some(rest) = signs.get(at..).filter(|rest| !rest.is_empty()) {
        let before = at.checked_sub(1).and_then(|before| signs.get(before)).copied();
        let taken = quoted(rest, before, &mut masked).or_else(|| word(rest, before, &mut masked));
        at += taken.unwrap_or_else(|| {
            masked.extend(rest.first());
            1
        });
    }
    let mut masked = spaced(&masked);
    // However many values there were, they were a list.
    for list in ["#, #", "# #", "'…', '…'", "\"…\", \"…\""] {
        let one = list.split([',', ' ']).next().unwrap_or(list);
        while masked.contains(list) {
            masked = masked.replace(list, one);
        }
    }
    masked
}

/// Takes a quoted value and masks it; of code between backquotes the words are kept.
fn quoted(rest: &[char], before: Option<char>, masked: &mut String) -> Option<usize> {
    let open = *rest.first().filter(|sign| matches!(sign, '\'' | '"' | '`' | '‘' | '“'))?;
    if open == '\'' && before.is_some_and(char::is_alphanumeric) {
        return None;
    }
    let close = |sign: char| match open {
        '‘' => sign == '’',
        '“' => sign == '”',
        '`' => sign == '`' || sign == '\'',
        _ => sign == open,
    };
    let end = rest.iter().take(MAX_QUOTED_CHARS).skip(1).position(|sign| close(*sign))? + 1;
    let inside = rest.get(1..end)?;
    let is_code = |sign: &char| sign.is_alphabetic() || "_:.()<>&*!=, ".contains(*sign);
    match open {
        '`' if inside.iter().all(is_code) => masked.extend(rest.get(..=end)?),
        '"' | '“' => masked.push_str("\"…\""),
        _ => masked.push_str("'…'"),
    }
    Some(end + 1)
}

/// Takes a word that is a number, a hash, a path or an address of the net, and masks it.
fn word(rest: &[char], before: Option<char>, masked: &mut String) -> Option<usize> {
    let is_inside = before.is_some_and(|sign| sign.is_alphanumeric() || sign == '_');
    if !is_inside {
        if let Some(length) = path(rest) {
            masked.push_str("<path>");
            return Some(length);
        }
        if let Some(length) = url(rest) {
            masked.push_str("<url>");
            return Some(length);
        }
        if let Some(length) = uuid(rest) {
            masked.push_str("<uuid>");
            return Some(length);
        }
        if let Some(length) = hash(rest) {
            masked.push('#');
            return Some(length);
        }
    }
    number(rest, is_inside, masked)
}

fn run(rest: &[char], is_part: impl Fn(char) -> bool) -> usize {
    rest.iter().take_while(|sign| is_part(**sign)).count()
}

fn path(rest: &[char]) -> Option<usize> {
    let length = run(rest, |sign| !sign.is_whitespace() && !"'\"`()[]<>,;|".contains(sign));
    let word: String = rest.get(..length)?.iter().collect();
    let word = word.trim_end_matches([':', '.', '!', '?']);
    let slashes = word.matches(['/', '\\']).count();
    let has_drive = word.as_bytes().get(1..3).is_some_and(|sign| sign == b":\\" || sign == b":/");
    let name = word.rsplit(['/', '\\']).next().unwrap_or_default();
    let has_extension = name
        .split_once('.')
        .is_some_and(|(stem, rest)| !stem.is_empty() && rest.starts_with(|sign: char| sign.is_ascii_alphabetic()));
    let is_path = has_drive
        || (word.starts_with('/') && slashes >= 2)
        || (word.starts_with("./") || word.starts_with("../"))
        || (slashes >= 1 && has_extension && !word.contains("://"));
    is_path.then(|| word.chars().count())
}

fn url(rest: &[char]) -> Option<usize> {
    let length = run(rest, |sign| !sign.is_whitespace() && !"'\"`<>,;".contains(sign));
    let word: String = rest.get(..length)?.iter().collect();
    let (scheme, _) = word.split_once("://")?;
    (!scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(length)
}

fn uuid(rest: &[char]) -> Option<usize> {
    const LENGTH: usize = 36;
    let word = rest.get(..LENGTH)?;
    let is_fit = |(at, sign): (usize, &char)| match at {
        8 | 13 | 18 | 23 => *sign == '-',
        _ => sign.is_ascii_hexdigit(),
    };
    let ends = rest.get(LENGTH).is_none_or(|sign| !sign.is_alphanumeric());
    (ends && word.iter().enumerate().all(is_fit)).then_some(LENGTH)
}

fn hash(rest: &[char]) -> Option<usize> {
    let length = run(rest, char::is_alphanumeric);
    let word = rest.get(..length)?;
    let is_hash =
        length >= MIN_HASH_CHARS && word.iter().all(char::is_ascii_hexdigit) && word.iter().any(char::is_ascii_digit);
    is_hash.then_some(length)
}

fn number(rest: &[char], is_inside: bool, masked: &mut String) -> Option<usize> {
    let (sign, digits) = match rest {
        ['-' | '+', digits @ ..] if !is_inside => (1, digits),
        _ => (0, rest),
    };
    if let ['0', 'x' | 'X', hex @ ..] = digits {
        let length = run(hex, |sign| sign.is_ascii_hexdigit() || sign == '_');
        if length > 0 {
            masked.push('#');
            return Some(sign + 2 + length);
        }
    }
    let whole = run(digits, |sign| sign.is_ascii_digit());
    if whole == 0 {
        return None;
    }
    if is_inside && whole < MIN_WORD_DIGITS {
        masked.extend(digits.get(..whole)?);
        return Some(whole);
    }
    let rest = digits.get(whole..).unwrap_or_default();
    let fraction = match rest {
        ['.' | ',' | ':' | '_', fraction @ ..] if fraction.first().is_some_and(char::is_ascii_digit) => {
            1 + run(fraction, |sign| sign.is_ascii_digit() || sign == '.' || sign == ':' || sign == '_')
        }
        _ => 0,
    };
    let exponent = match rest.get(fraction..).unwrap_or_default() {
        ['e' | 'E', '-' | '+', digits @ ..] => {
            Some(run(digits, |sign| sign.is_ascii_digit())).filter(|count| *count > 0)
        }
        _ => None,
    };
    masked.push('#');
    Some(sign + whole + fraction + exponent.map_or(0, |count| count + 2))
}

#[cfg(test)]
mod tests {
    use super::mask;
    use proptest::prelude::*;

    fn check(message: &str, expected: &str) {
        assert_eq!(mask(message).as_deref().unwrap_or_default(), expected, "{message}");
    }

    #[test]
    fn an_assertion_is_its_expression() {
        check("prog: parse.c:12: int parse(char *): Assertion `count < 16' failed.", "count < 16");
        check("prog: parse.c:12: parse: Assertion `x == 'a'' failed.", "x == 'a'");
        check(
            "/usr/include/c++/12/bits/stl_vector.h:1123: reference std::vector<int>::operator[](size_type): Assertion '__n < this->size()' failed.",
            "__n < this->size()",
        );
        check("assertion failed: self.len  <= 12", "self.len <= 12");
        check("assertion `left == right` failed\n  left: 1\n right: 2", "left == right");
        check("assertion `left == right` failed: page 12 of 13\n  left: 1\n right: 2", "left == right: page # of #");
        check("Assertion failed: (n > 0), function f, file x.c, line 12.", "(n > 0)");
        check("Assertion failed: n > 0 (x.c: f: 12)", "n > 0");
        check("Check failed: a == b (1 vs. 2)", "a == b");
    }

    #[test]
    fn values_are_masked() {
        check(
            "index out of bounds: the len is 3 but the index is 17",
            "index out of bounds: the len is # but the index is #",
        );
        check("index out of range [5] with length 3", "index out of range [#] with length #");
        check("called `Option::unwrap()` on a `None` value", "called `Option::unwrap()` on a `None` value");
        check(
            "called `Result::unwrap()` on an `Err` value: Os { code: 2, kind: NotFound, message: \"No such file\" }",
            "called `Result::unwrap()` on an `Err` value: Os { code: #, kind: NotFound, message: \"…\" }",
        );
        check("no entry found for key 'abc def'", "no entry found for key '…'");
        check("can't open /var/lib/app/state.db: errno 2", "can't open <path>: errno #");
        check("cannot read src/main.rs:12:3: bad", "cannot read <path>: bad");
        check("cannot read C:\\Users\\me\\a.txt now", "cannot read <path> now");
        check("request 123e4567-e89b-12d3-a456-426614174000 failed", "request <uuid> failed");
        check("GET https://example.org/a?b=1 failed", "GET <url> failed");
        check("object deadbeef01 at 0x7fff12345000 lost", "object # at # lost");
        check("took 1.5e-3 s, -12 of 1_000 in 12:30:59", "took # s, # of # in #");
        check("worker1234 of utf8 i64 base64", "worker# of utf8 i64 base64");
        check("list [1, 2, 3] and [4, 5]", "list [#] and [#]");
        check("attempt to add with overflow", "attempt to add with overflow");
        check("a/b or c", "a/b or c");
        check("free(): invalid pointer", "free(): invalid pointer");
        check("*** stack smashing detected ***: terminated", "*** stack smashing detected ***: terminated");
        check("", "");
        check("\n\n", "");
    }

    #[test]
    fn what_says_only_where_is_left_out() {
        check("thread 'main' panicked at src/main.rs:2:5:\nboom 12", "boom #");
        check("thread 'main' panicked at 'boom 12', src/main.rs:2:5", "boom #");
        check(
            "terminate called after throwing an instance of 'std::out_of_range'\n  what():  vector::_M_range_check: __n (which is 5) >= this->size() (which is 3)",
            "std::out_of_range: vector::_M_range_check: __n (which is #) >= this->size() (which is #)",
        );
        check("terminate called after throwing an instance of 'int'", "int");
    }

    proptest! {
        #[test]
        fn no_message_is_too_strange(message in "[-a-f0-9x'\"`/\\\\.:,() \n#é]{0,120}") {
            if let Some(masked) = mask(&message) {
                prop_assert!(masked.chars().count() <= super::MAX_MASKED_CHARS);
                prop_assert!(!masked.contains('\n'));
            }
        }

        #[test]
        fn numbers_do_not_tell_apart(first: u32, second: i64) {
            prop_assert_eq!(mask(&format!("lost {first} of them")), mask(&format!("lost {second} of them")));
        }
    }
}
