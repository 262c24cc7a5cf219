//! Manifests and parcels as they come over the network, and dumps put together by manifests that lie.
#![no_main]

use dump::parcel::{Assembler, Frames};
use model::parcel::{Frame, Manifest};
use std::io;

/// Gives the same bytes for every frame.
struct Same<'b>(&'b [u8]);

impl Frames for Same<'_> {
    fn fetch(&mut self, _: usize, _: &Frame) -> io::Result<Vec<u8>> {
        Ok(self.0.to_vec())
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert_eq!(manifest.encode(), bytes);
        let mut into = vec![0; 4096];
        let _ = Assembler::new(manifest, Same(bytes)).read_at(&mut into, 0);
    }
    let _ = model::parcel::Index::decode(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = serde_json::from_str::<model::report::Report>(text);
    }
});
