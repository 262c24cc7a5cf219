//! Dumps of Linux kernels, in makedumpfile's formats by the first byte, or as they come.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match bytes.split_first() {
        Some((0, rest)) => fuzz::report_with_head(b"KDUMP   ", rest),
        Some((1, rest)) => fuzz::report_with_head(b"makedumpfile\0\0\0\0", rest),
        _ => drop(fuzz::report(bytes)),
    }
});
