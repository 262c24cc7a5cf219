//! Unwind packs: what somebody sent is accepted or refused, and so is what is written of a module that makes no sense.
//!
//! A pack is refused unless each of its bytes stands where it would be written, so hardly a changed file is one. So the
//! input's end is taken for changes as well: they are done to the pack that is written of the rest.
#![no_main]

use dump::{ModuleFile, pack};
use std::path::Path;

/// Changes at an input's end, behind which a byte says how many there are.
const MAX_CHANGES: usize = 8;
/// Bytes of each: four for the place, which is counted around, one for the value.
const CHANGE_BYTES: usize = 5;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("module");
    let Ok(file) = ModuleFile::of_bytes(path, bytes.to_vec()) else { return };
    let Some(id) = file.build_id().map(<[u8]>::to_vec) else { return };
    accept(bytes.to_vec(), &id);
    let Ok(written) = pack::write(&file) else { return };
    assert!(accept(written.clone(), &id), "what is written is accepted");
    let mut changed = written;
    for change in changes(bytes) {
        let place = u32::from_le_bytes(*change.first_chunk().expect("it has five bytes"));
        let place = place as usize % changed.len();
        changed[place] = change[4];
    }
    accept(changed, &id);
});

fn changes(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (count, rest) =
        bytes.split_last().map_or((0, bytes), |(count, rest)| (usize::from(*count) % (MAX_CHANGES + 1), rest));
    rest.rchunks_exact(CHANGE_BYTES).take(count)
}

/// Takes a pack and holds it against what is promised of each; says whether it is one.
fn accept(bytes: Vec<u8>, id: &[u8]) -> bool {
    let kept = bytes.clone();
    let Ok(file) = pack::accept(Path::new("pack"), bytes, id) else { return false };
    assert_eq!(file.build_id(), Some(id));
    assert_eq!(pack::write(&file).expect("a pack is packed"), kept);
    true
}
