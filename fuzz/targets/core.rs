//! ELF cores, 64 bits wide and narrower; the name that a core has, too.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut whole = bytes.to_vec();
    whole.resize(whole.len().max(20), 0);
    whole[..4].copy_from_slice(b"\x7fELF");
    // The type of the file: a core, in either order of bytes.
    let order = usize::from(whole[5] == 2);
    whole[16..18].fill(0);
    whole[16 + order] = 4;
    let _ = dump::quick_id(&mut std::io::Cursor::new(&whole));
    fuzz::report(&whole);
});
