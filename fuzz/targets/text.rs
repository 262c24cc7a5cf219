//! What sanitizers, runtimes and debuggers print.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz::report(bytes);
});
