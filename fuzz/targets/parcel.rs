//! Dumps cut into frames, from a file and as a stream: the two agree, and what is put together is what was cut.
#![no_main]

use dump::parcel::{Assembler, Frames, Packed, split_file, split_stream};
use model::parcel::Frame;
use std::io;

struct Kept(Vec<Vec<u8>>);

impl Frames for Kept {
    fn fetch(&mut self, number: usize, _: &Frame) -> io::Result<Vec<u8>> {
        self.0.get(number).cloned().ok_or(io::ErrorKind::NotFound.into())
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut kept = Vec::new();
    let streamed = split_stream(bytes, &mut |packed: Packed| {
        kept.push(packed.bytes);
        Ok(())
    })
    .expect("memory can be read");
    let split = fuzz::as_file(bytes, |path| {
        let file = std::fs::File::open(path).expect("it is there");
        split_file(&file, &mut |_| Ok(())).expect("it can be read")
    });
    assert_eq!(split.hash(), streamed.hash());
    assert_eq!(split.manifest.digest, streamed.manifest.digest);
    let mut whole = vec![0; bytes.len()];
    let mut assembler = Assembler::new(streamed.manifest, Kept(kept));
    let read = assembler.read_at(&mut whole, 0).expect("it is all there");
    assert_eq!(&whole[..read], bytes);
});
