//! Symbols and debug information of a hostile module.
#![no_main]

use dump::{ModuleFile, Places, Symbols};
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = ModuleFile::of_bytes(Path::new("module"), bytes.to_vec()) else { return };
    let symbols = Symbols::open(&file, &Places::default());
    let mut found = Vec::new();
    for offset in [0, 0x1000, 0x1040, 0x1139, 0x1180, u64::MAX] {
        symbols.find(offset, &mut found);
    }
    symbols.complete();
    symbols.find(0x1150, &mut found);
    let _ = (symbols.level(), symbols.lack());
});
