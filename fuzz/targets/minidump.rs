//! Minidumps.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::report_with_head(b"MDMP", bytes));
