//! Headers of illumos crash dumps.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let head = 0xdefe_c8ed_u32.to_le_bytes();
    let mut whole = bytes.to_vec();
    whole.resize(whole.len().max(8192), 0);
    whole[..4].copy_from_slice(&head);
    let _ = dump::quick_id(&mut std::io::Cursor::new(&whole));
    fuzz::report(&whole);
});
