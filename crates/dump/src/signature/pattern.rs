//! Patterns of rules: `*` is anything, `?` is one character, a backslash takes the next one as it is; both ends count.

/// Characters of one pattern.
pub(crate) const MAX_PATTERN_CHARS: usize = 256;
/// Stars of one pattern; each of them costs time on texts that almost match.
pub(crate) const MAX_STARS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Sign(char),
    One,
    Any,
}

/// A pattern, ready to be matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Part>);

impl Pattern {
    /// Reads a pattern, or says in a few words what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let length = text.chars().count();
        if length == 0 {
            return Err("an empty pattern matches nothing".to_owned());
        }
        if length > MAX_PATTERN_CHARS {
            return Err(format!("a pattern of {length} characters of at most {MAX_PATTERN_CHARS}"));
        }
        let mut parts = Vec::with_capacity(length);
        let mut signs = text.chars();
        while let Some(sign) = signs.next() {
            let part = match sign {
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => Part::Sign(signs.next().ok_or("a backslash at the end takes nothing")?),
                _ => Part::Sign(sign),
            };
            if part != Part::Any || parts.last() != Some(&Part::Any) {
                parts.push(part);
            }
        }
        let stars = parts.iter().filter(|part| **part == Part::Any).count();
        if stars > MAX_STARS {
            return Err(format!("a pattern of {stars} stars of at most {MAX_STARS}"));
        }
        Ok(Self(parts))
    }

    /// Returns the byte that every text it matches begins with, if that is sure.
    pub(crate) fn first(&self) -> Option<u8> {
        match self.0.first() {
            Some(Part::Sign(sign)) => u8::try_from(*sign).ok().filter(u8::is_ascii),
            _ => None,
        }
    }

    /// Tells whether the whole text matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let (mut parts, mut rest) = (self.0.as_slice(), text.chars());
        // Where to go on when what follows the last star did not match: one character further.
        let mut retry: Option<(&[Part], std::str::Chars<'_>)> = None;
        loop {
            match parts.split_first() {
                Some((Part::Any, after)) => {
                    if after.is_empty() {
                        return true;
                    }
                    (parts, retry) = (after, Some((after, rest.clone())));
                    continue;
                }
                Some((part, after)) => {
                    let mut ahead = rest.clone();
                    let next = ahead.next();
                    if next.is_some_and(|sign| *part == Part::One || *part == Part::Sign(sign)) {
                        (parts, rest) = (after, ahead);
                        continue;
                    }
                    if next.is_none() {
                        return false;
                    }
                }
                None if rest.as_str().is_empty() => return true,
                None => (),
            }
            let Some((after, mut from)) = retry.take() else { return false };
            if from.next().is_none() {
                return false;
            }
            (parts, rest, retry) = (after, from.clone(), Some((after, from)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_ends_count() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(text), expected, "{pattern} on {text}");
        };
        check("memcpy", "memcpy", true);
        check("memcpy", "memcpy2", false);
        check("mem*", "mem", true);
        check("*cpy", "memcpy", true);
        check("*cpy", "memcpy_", false);
        check("m?mcpy", "memcpy", true);
        check("m?mcpy", "mmcpy", false);
        check("*a*b*", "xxaxxbxx", true);
        check("*a*b", "xxaxxbxxb", true);
        check("*a*b", "xxbxxa", false);
        check("operator\\*", "operator*", true);
        check("operator\\*", "operatorx", false);
        check("*", "", true);
        check("é*", "état", true);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let check = |text: &str, message: &str| {
            assert_eq!(Pattern::parse(text).err().unwrap_or_default(), message);
        };
        check("", "an empty pattern matches nothing");
        check("a\\", "a backslash at the end takes nothing");
        check(&"a".repeat(257), "a pattern of 257 characters of at most 256");
        check(&"*a".repeat(9), "a pattern of 9 stars of at most 8");
        check("****", "");
    }

    /// The definition, without any thought of time.
    fn plainly(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => (0..=text.len()).any(|skip| plainly(rest, &text[skip..])),
            (['?', rest @ ..], [_, others @ ..]) => plainly(rest, others),
            ([sign, rest @ ..], [other, others @ ..]) => sign == other && plainly(rest, others),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_matches_what_it_says(pattern in "[ab?*]{1,7}", text in "[ab]{0,9}") {
            let signs = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(Pattern::parse(&pattern).unwrap().matches(&text), plainly(&signs(&pattern), &signs(&text)));
        }
    }
}
