//! Names of Rust, as both manglings, debug information and backtraces write them.
//!
//! `Vec<T>::push`, `<Vec<u8>>::push` and `Vec::<u8>::push` are one function; `<A as Trait>::f` and `<impl Trait for A>::f`
//! are one as well. The last segment's own generics go altogether, since the older mangling never shows them.

use super::MAX_DEPTH;
use super::native::without_clones;

/// Returns a name of Rust without hash, generics and the numbers of closures.
pub(super) fn key(name: &str) -> String {
    let name = without_clones(name);
    let name = hash(name).unwrap_or(name);
    let signs: Vec<char> = name.chars().collect();
    let text = path(&signs, 0);
    let bare = text.strip_suffix("<T>").filter(|bare| !bare.is_empty()).unwrap_or(&text);
    bare.trim_end_matches("::").to_owned()
}

/// Returns what stands before the hash that the older mangling ends a name with.
pub(super) fn hash(name: &str) -> Option<&str> {
    let (bare, hash) = name.rsplit_once("::h")?;
    (hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(bare)
}

/// Returns a path, or a type, with its generics masked.
fn path(signs: &[char], depth: usize) -> String {
    if depth > MAX_DEPTH {
        return "_".to_owned();
    }
    let mut text = String::new();
    let mut at = 0;
    while let Some(sign) = signs.get(at).copied() {
        let end = group_end(signs, at);
        let inside = signs.get(at + 1..end.saturating_sub(1)).unwrap_or_default();
        match sign {
            '<' if text.ends_with("::") && !starts(inside, "impl ") => text.truncate(text.len() - 2),
            '<' if text.ends_with('}') => (),
            '<' if is_after_word(&text) => text.push_str("<T>"),
            '<' => qualified(&mut text, inside, depth + 1),
            '{' => text.push_str(braces(inside)),
            // A crate's disambiguator, `core[0123456789abcdef]::`.
            '[' if is_after_word(&text) => (),
            '[' => {
                let item = inside.split(|sign| *sign == ';').next().unwrap_or_default();
                text.push_str(&format!("[{}]", path(item, depth + 1)));
            }
            // Arguments, as a debugger prints them.
            '(' if depth == 0 && (is_after_word(&text) || text.ends_with(['>', '}', ' '])) => (),
            '(' if inside.is_empty() => text.push_str("()"),
            '(' => text.push_str("(_)"),
            _ => {
                text.push(sign);
                at += 1;
                continue;
            }
        }
        at = end;
    }
    text.trim().to_owned()
}

/// Writes `<A as Trait>`, or only `A` where no trait is told.
fn qualified(text: &mut String, inside: &[char], depth: usize) {
    if let Some(implemented) = inside.strip_prefix(&['i', 'm', 'p', 'l', ' ']) {
        // The module that an implementation stands in says nothing, and the newer mangling does not have it.
        text.clear();
        match split(implemented, " for ") {
            Some((of, whose)) => text.push_str(&format!("<{} as {}>", path(whose, depth), path(of, depth))),
            None => text.push_str(&path(implemented, depth)),
        }
        return;
    }
    match split(inside, " as ") {
        Some((whose, of)) => text.push_str(&format!("<{} as {}>", path(whose, depth), path(of, depth))),
        None => text.push_str(&path(inside, depth)),
    }
}

fn braces(inside: &[char]) -> &'static str {
    let is = |word: &str| starts(inside, word);
    if is("closure") || is("{closure") || is("async") || is("coroutine") || is("gen") {
        "{{closure}}"
    } else if is("shim") || is("{vtable") {
        "{{vtable.shim}}"
    } else if is("impl") {
        "{impl}"
    } else if is("const") || is("{const") {
        "{{constant}}"
    } else {
        "{_}"
    }
}

fn starts(signs: &[char], word: &str) -> bool {
    let mut signs = signs.iter();
    word.chars().all(|sign| signs.next() == Some(&sign))
}

fn is_after_word(text: &str) -> bool {
    text.ends_with(|sign: char| sign.is_alphanumeric() || sign == '_')
}

/// Returns where the group that opens here has ended; of what is no group, where it is.
fn group_end(signs: &[char], from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, sign) in signs.iter().enumerate().skip(from) {
        match sign {
            '<' | '(' | '[' | '{' => depth += 1,
            '>' if at > 0 && matches!(signs.get(at - 1), Some('-' | '=')) => (),
            '>' | ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => (),
        }
        if depth == 0 {
            return at + 1;
        }
    }
    // It never closes: all the rest is in it, and one more, so that the inside is the whole rest.
    signs.len() + 1
}

/// Splits at the first such word that is in no group.
fn split<'a>(signs: &'a [char], word: &str) -> Option<(&'a [char], &'a [char])> {
    let mut at = 0;
    while at < signs.len() {
        let rest = signs.get(at..)?;
        if starts(rest, word) {
            return Some((signs.get(..at)?, signs.get(at + word.chars().count()..)?));
        }
        at = if matches!(rest.first(), Some('<' | '(' | '[' | '{')) { group_end(signs, at) } else { at + 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::key;

    fn check(name: &str, expected: &str) {
        assert_eq!(key(name), expected, "{name}");
    }

    #[test]
    fn both_manglings_give_one_key() {
        check("app::run::h0123456789abcdef", "app::run");
        check("app[3f5a1b2c]::run", "app::run");
        check("core::ptr::drop_in_place<alloc::string::String>", "core::ptr::drop_in_place");
        check("core::ptr::drop_in_place::<alloc::string::String>", "core::ptr::drop_in_place");
        check("alloc::vec::Vec<T,A>::push", "alloc::vec::Vec<T>::push");
        check("<alloc::vec::Vec<u8>>::push", "alloc::vec::Vec<T>::push");
        check("core::str::<impl str>::trim", "str::trim");
        check("<str>::trim", "str::trim");
        check("<[u8]>::copy_from_slice", "[u8]::copy_from_slice");
        check("app::run.llvm.123456", "app::run");
    }

    #[test]
    fn closures_have_no_number() {
        check("app::main::{{closure}}", "app::main::{{closure}}");
        check("app::main::{closure#3}", "app::main::{{closure}}");
        check("app::main::{closure_env#0}<u8>", "app::main::{{closure}}");
        check("app::serve::{async_fn#0}::{async_block#1}", "app::serve::{{closure}}::{{closure}}");
        check(
            "<app::main::{closure#0} as core::ops::function::FnOnce<()>>::call_once::{shim:vtable#0}",
            "<app::main::{{closure}} as core::ops::function::FnOnce<T>>::call_once::{{vtable.shim}}",
        );
        check("app::{impl#3}::run", "app::{impl}::run");
    }

    #[test]
    fn trait_implementations_say_whose() {
        let expected = "<app::Thing<T> as core::fmt::Debug>::fmt";
        check("<app::Thing<u8> as core::fmt::Debug>::fmt", expected);
        check("app::<impl core::fmt::Debug for app::Thing<T>>::fmt", expected);
        check(
            "<&mut I as core::iter::traits::iterator::Iterator>::next",
            "<&mut I as core::iter::traits::iterator::Iterator>::next",
        );
        check("<(A, B) as app::Pair>::swap", "<(_) as app::Pair>::swap");
        check("<fn(u8) -> u8 as app::Call>::call::<u8>", "<fn(_) -> u8 as app::Call>::call");
        check("<[u8; 12] as app::Sum>::sum", "<[u8] as app::Sum>::sum");
        check(
            "<dyn app::Shape + core::marker::Send as app::Area>::area",
            "<dyn app::Shape + core::marker::Send as app::Area>::area",
        );
    }

    #[test]
    fn debuggers_add_arguments() {
        check("app::run (x=1, y=...)", "app::run");
        check("app::run(x)", "app::run");
        check("app::main::{{closure}} (x=1)", "app::main::{{closure}}");
    }

    #[test]
    fn what_never_closes_ends() {
        check("app::Vec<T::push", "app::Vec");
        check("<app::Vec as X", "<app::Vec as X>");
        check("app::{closure", "app::{{closure}}");
        check("<<<<", "");
    }
}
