//! A symbol cache that somebody damaged: whatever stands in it, asking goes on. The sums are set right again, since whoever
//! can write the folder can compute them too; otherwise nothing would be reached but the sums.
#![no_main]

use dump::{ModuleFile, Places, Symbols};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where a cache says how long it is, where its sums are, and their own sum; and what each of them is about.
const LENGTH_AT: usize = 32;
const SUMS_AT: usize = 80;
const SUMMED_BYTES: usize = 96;
const HEADER_BYTES: usize = 128;
const BLOCK_BYTES: usize = 16 << 10;

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
        let whole = std::fs::read(&cache).expect("it can be read");
        assert_eq!(summed(whole.clone()), whole, "sums are computed here as they are there");
        Ground { module, places, cache }
    })
}

fn find(folder: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).find_map(|path| {
        if path.is_dir() { find(&path) } else { Some(path) }
    })
}

/// Sets the length and the sums right; what follows the last block is taken for them.
fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let (Some(body), Ok(length)) = (bytes.len().checked_sub(HEADER_BYTES), u64::try_from(bytes.len())) else {
        return bytes;
    };
    // So many blocks that they and their sums, of eight bytes each, fill the body.
    let blocks = body.div_ceil(BLOCK_BYTES + 8);
    let Some(sums) = bytes.len().checked_sub(blocks * 8).filter(|sums| *sums >= HEADER_BYTES) else { return bytes };
    bytes[LENGTH_AT..LENGTH_AT + 8].copy_from_slice(&length.to_le_bytes());
    for (at, number) in [(SUMS_AT, sums), (SUMS_AT + 4, blocks)] {
        bytes[at..at + 4].copy_from_slice(&u32::try_from(number).expect("inputs are short").to_le_bytes());
    }
    let each: Vec<u8> = bytes[HEADER_BYTES..sums]
        .chunks(BLOCK_BYTES)
        .flat_map(|block| blake3::hash(block).as_bytes()[..8].to_vec())
        .collect();
    bytes.truncate(sums);
    bytes.extend(each);
    let sum = *blake3::Hasher::new().update(&bytes[..SUMMED_BYTES]).update(&bytes[sums..]).finalize().as_bytes();
    bytes[SUMMED_BYTES..HEADER_BYTES].copy_from_slice(&sum);
    bytes
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let ground = ground();
    std::fs::write(&ground.cache, summed(bytes.to_vec())).expect("there is room");
    let file = ModuleFile::of_bytes(Path::new("module"), ground.module.clone()).expect("it is a module");
    let symbols = Symbols::open(&file, &ground.places);
    let mut found = Vec::new();
    for offset in (0x1000..0x1200).step_by(16) {
        symbols.find(offset, &mut found);
    }
});
