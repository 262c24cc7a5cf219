//! Specifications of dumps, a word on each line.
#![no_main]

use model::dump::spec::Specification;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let words: Vec<_> = text.lines().collect();
    let _ = Specification::parse(&words);
});
