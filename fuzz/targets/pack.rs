//! Unwind packs: what somebody sent is accepted or refused, and what is written of a module is accepted.
#![no_main]

use dump::{ModuleFile, pack};
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("module");
    let Ok(file) = ModuleFile::of_bytes(path, bytes.to_vec()) else { return };
    let Some(id) = file.build_id().map(<[u8]>::to_vec) else { return };
    let _ = pack::accept(path, bytes.to_vec(), &id);
    if let Ok(written) = pack::write(&file) {
        let _ = pack::accept(path, written, &id);
    }
});
