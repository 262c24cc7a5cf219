//! Names as the linker knows them, in the words of their language: C++ and Rust, old and new.
//!
//! A mangled name may refer to parts of itself, so a short one can stand for one of any length: what comes out is cut off
//! while it is written, and how deep the demanglers may go is bounded. What they refuse is shown as it is. The suffixes that compilers add to parts and copies of
//! functions (`.cold`, `.part.0`, `.isra.0`, `.constprop.0`, `.lto_priv.0`) are shown as C++'s own demangler shows them,
//! ` [clone .cold]`; `.llvm.123` says nothing of the function and goes.

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};
use model::report::MAX_NAME_CHARS;
use std::fmt::{self, Write};

/// Bytes of a mangled name that is looked into.
const MAX_MANGLED_BYTES: usize = 16 << 10;
/// How deep names may be nested in names.
const MAX_DEPTH: u32 = 96;

/// How a number in a template is told, and how it is usual.
const LITERALS: [(&str, &str); 5] = [
    ("(unsigned int)", "u"),
    ("(long)", "l"),
    ("(unsigned long)", "ul"),
    ("(long long)", "ll"),
    ("(unsigned long long)", "ull"),
];

/// Returns a linker's name in its language's words; as it is, if it is in no language known here.
pub(crate) fn demangle(linkage: &str) -> String {
    if linkage.len() <= MAX_MANGLED_BYTES {
        let plain = linkage.split_once(".llvm.").map_or(linkage, |(plain, _)| plain);
        if let Some(name) = rust(plain).or_else(|| cpp(plain)) {
            return name;
        }
    }
    cut(linkage)
}

/// Returns whether a name is in the encoding of a language known here.
pub(crate) fn is_mangled(linkage: &str) -> bool {
    linkage.starts_with("_Z") || linkage.starts_with("_R")
}

/// Returns a text cut off where a report's names are.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_NAME_CHARS) {
        Some((end, _)) => text[..end].to_owned(),
        None => text.to_owned(),
    }
}

fn rust(mangled: &str) -> Option<String> {
    // Suffixes of parts and copies are put back as those of C++ are.
    let (stem, suffix) = split_suffix(mangled);
    let is_rust = stem.starts_with("_R") || (stem.starts_with("_ZN") && stem.contains("17h"));
    if !is_rust {
        return None;
    }
    let name = rustc_demangle::try_demangle(stem).ok()?;
    let mut text = Bounded::default();
    // Without its hash an old name is what the source says.
    let _ = write!(text, "{name:#}");
    if !suffix.is_empty() {
        let _ = write!(text, " [clone {suffix}]");
    }
    text.finish()
}

fn cpp(mangled: &str) -> Option<String> {
    if !mangled.starts_with("_Z") {
        return None;
    }
    let symbol = Symbol::new_with_options(mangled, &ParseOptions::default().recursion_limit(MAX_DEPTH)).ok()?;
    let mut text = Bounded::default();
    let options = DemangleOptions::default().recursion_limit(MAX_DEPTH);
    let outcome = symbol.structured_demangle(&mut text, &options);
    if outcome.is_err() && !text.is_full {
        return None;
    }
    text.finish().map(|text| usual(&thunk(text)))
}

/// Says of a thunk what other tools say.
fn thunk(text: String) -> String {
    let inner = text.strip_prefix("{virtual override thunk(").and_then(|rest| rest.strip_suffix(")}"));
    match inner.and_then(|inner| inner.split_once("}, ")) {
        Some((offset, target)) if offset.starts_with("{virtual offset(") => format!("virtual thunk to {target}"),
        Some((offset, target)) if offset.starts_with("{offset(") => format!("non-virtual thunk to {target}"),
        _ => text,
    }
}

/// Writes numbers in templates as other tools do: `8u`, not `(unsigned int)8`.
fn usual(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('(') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let literal = LITERALS.iter().find_map(|(cast, suffix)| {
            let number = from.strip_prefix(cast)?;
            let digits = number.find(|letter: char| !letter.is_ascii_digit() && letter != '-').unwrap_or(number.len());
            (digits > 0).then(|| (number.split_at(digits), suffix))
        });
        if let Some(((number, after), suffix)) = literal {
            out.push_str(number);
            out.push_str(suffix);
            rest = after;
        } else {
            out.push('(');
            rest = &from[1..];
        }
    }
    out.push_str(rest);
    out
}

/// Splits `name.part.0` where the suffix begins.
fn split_suffix(mangled: &str) -> (&str, &str) {
    mangled.find('.').map_or((mangled, ""), |at| mangled.split_at(at))
}

/// A text that takes only so much.
#[derive(Default)]
struct Bounded {
    text: String,
    chars: usize,
    is_full: bool,
}

impl Bounded {
    fn finish(self) -> Option<String> {
        (!self.text.is_empty()).then_some(self.text)
    }
}

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for letter in part.chars() {
            if self.chars == MAX_NAME_CHARS {
                self.is_full = true;
                return Err(fmt::Error);
            }
            self.text.push(letter);
            self.chars += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::demangle;

    #[test]
    fn names_are_told_in_their_language() {
        let check = |linkage: &str, expected: &str| assert_eq!(demangle(linkage), expected, "{linkage}");
        check("main", "main");
        check("_ZNSt6vectorIiSaIiEE9push_backEOi", "std::vector<int, std::allocator<int> >::push_back(int&&)");
        check("_ZN3fooC2Ev", "foo::foo()");
        check("_ZTv0_n24_N3fooD0Ev", "virtual thunk to foo::~foo()");
        check("_ZThn16_N3foo3barEv", "non-virtual thunk to foo::bar()");
        check("_Z3bar1TILj8ELm4ELl1ELin2EE", "bar(T<8u, 4ul, 1l, -2>)");
        check("_Z3barv.cold", "bar() [clone .cold]");
        check("_Z3barv.part.0", "bar() [clone .part.0]");
        check("_Z3barv.isra.0.cold", "bar() [clone .isra.0] [clone .cold]");
        check("_Z3barv.constprop.0", "bar() [clone .constprop.0]");
        check("_Z3barv.lto_priv.0", "bar() [clone .lto_priv.0]");
        check("_Z3barv.llvm.1234567", "bar()");
        check("baz.cold", "baz.cold");
        check("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt");
        check("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE.llvm.99", "core::fmt::Write::write_fmt");
        check("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE.cold", "core::fmt::Write::write_fmt [clone .cold]");
        check("_RNvC6_123foo3bar", "123foo::bar");
        check("_RNvC6_123foo3bar.llvm.9D1C9369", "123foo::bar");
        check("_Z", "_Z");
        check("_ZN", "_ZN");
    }

    #[test]
    fn a_name_that_blows_up_is_cut() {
        // Each round names a pair of what the round before has named: 2^34 times `int`, of 200 letters.
        let mut name = "_Z1fSt4pairIiiE".to_owned();
        for round in 0..34 {
            let last = std::char::from_digit(round, 36).expect("a digit of base 36").to_ascii_uppercase();
            name.push_str(&format!("St4pairIS{last}_S{last}_E"));
        }
        assert!(demangle(&name).chars().count() <= super::MAX_NAME_CHARS);
        assert!(demangle(&format!("_Z1f{}i", "P".repeat(15_000))).chars().count() <= super::MAX_NAME_CHARS);
        assert!(demangle(&"x".repeat(100_000)).len() <= super::MAX_NAME_CHARS);
    }
}
