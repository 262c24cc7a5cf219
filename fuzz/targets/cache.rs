//! A symbol cache that somebody damaged: whatever stands in it, asking goes on.
#![no_main]

use dump::{ModuleFile, Places, Symbols};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A module with a symbol cache of its own, and where the cache is.
struct Ground {
    module: Vec<u8>,
    places: Places,
    cache: PathBuf,
}

fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let path = std::env::var("FUZZ_MODULE").expect("FUZZ_MODULE names a small library with debug information");
        let module = std::fs::read(path).expect("it can be read");
        let folder = std::env::temp_dir().join(format!("fuzz-cache-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("there is room");
        let places = Places { cache: Some(folder.clone()), ..Places::default() };
        let file = ModuleFile::of_bytes(Path::new("module"), module.clone()).expect("it is a module");
        let symbols = Symbols::open(&file, &places);
        symbols.complete();
        symbols.keep().expect("it can be kept");
        drop(symbols);
        let cache = find(&folder).expect("there is a cache");
        Ground { module, places, cache }
    })
}

fn find(folder: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).find_map(|path| {
        if path.is_dir() { find(&path) } else { Some(path) }
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let ground = ground();
    std::fs::write(&ground.cache, bytes).expect("there is room");
    let file = ModuleFile::of_bytes(Path::new("module"), ground.module.clone()).expect("it is a module");
    let symbols = Symbols::open(&file, &ground.places);
    let mut found = Vec::new();
    for offset in (0x1000..0x1200).step_by(16) {
        symbols.find(offset, &mut found);
    }
});
