//! Dumps cut into frames and put together again: equal to the last byte, with the same holes, within bounds.

use dump::parcel::{Assembler, Assembly, Frames, Packed, Split, SplitError, split_file, split_file_by, split_stream};
use dump::redact::RedactionRules;
use model::Digest;
use model::parcel::{Frame, MAX_FRAME_BYTES, Manifest};
use model::report::NoteCode;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

/// Frames that were cut, by their names.
#[derive(Default)]
struct Kept(BTreeMap<Digest, Vec<u8>>);

impl Kept {
    fn keep(&mut self, packed: Packed) {
        assert_eq!(packed.bytes.len(), packed.frame.packed as usize);
        self.0.insert(packed.frame.digest, packed.bytes);
    }

    fn bytes(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

impl Frames for &Kept {
    fn fetch(&mut self, _: usize, frame: &Frame) -> io::Result<Vec<u8>> {
        self.0.get(&frame.digest).cloned().ok_or(io::ErrorKind::NotFound.into())
    }
}

fn file_of(parts: &[(u64, &[u8])], size: u64) -> File {
    let file = tempfile::tempfile().expect("is made");
    file.set_len(size).expect("is set");
    parts.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).expect("is written"));
    file
}

fn split_whole(file: &File) -> (Split, Kept) {
    let mut kept = Kept::default();
    let split = split_file(file, &mut |packed| {
        kept.keep(packed);
        Ok(())
    });
    (split.expect("is split"), kept)
}

fn stream_whole(bytes: &[u8]) -> (Split, Kept) {
    let mut kept = Kept::default();
    let split = split_stream(bytes, &mut |packed| {
        kept.keep(packed);
        Ok(())
    });
    (split.expect("is split"), kept)
}

fn put_together(manifest: &Manifest, kept: &Kept) -> File {
    let file = tempfile::tempfile().expect("is made");
    let mut assembly = Assembly::new(manifest, &file);
    for frame in &manifest.frames {
        assembly.push(&kept.0[&frame.digest]).expect("is put there");
    }
    assembly.finish().expect("is the same");
    file
}

fn all(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().expect("is there").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("is read");
    bytes
}

/// Bytes that hardly pack, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A core with one note and these segments, page after page.
fn core(note: &[u8], segments: &[Vec<u8>]) -> Vec<u8> {
    let count = segments.len() + 1;
    let table = 64 + 56 * count;
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    bytes.resize(16, 0);
    for (value, width) in [(4_u64, 2), (62, 2), (1, 4), (0, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2)] {
        bytes.extend_from_slice(&value.to_le_bytes()[..width]);
    }
    bytes.extend_from_slice(&(count as u16).to_le_bytes());
    bytes.resize(64, 0);
    let mut at = (table + note.len()).next_multiple_of(4096) as u64;
    let mut push = |kind: u64, offset: u64, length: usize| {
        for (value, width) in [(kind, 4), (6, 4), (offset, 8), (0, 8), (0, 8)] {
            bytes.extend_from_slice(&value.to_le_bytes()[..width]);
        }
        [length as u64, length as u64, 4096].iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    };
    push(4, table as u64, note.len());
    for segment in segments {
        push(1, at, segment.len());
        at += segment.len().next_multiple_of(4096) as u64;
    }
    bytes.extend_from_slice(note);
    for segment in segments {
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes.extend_from_slice(segment);
    }
    bytes
}

#[test]
fn a_file_comes_back_with_its_holes() {
    let (head, tail) = (noise(1, 5000), noise(2, 300_000));
    let check = |parts: &[(u64, &[u8])], size: u64| {
        let file = file_of(parts, size);
        let (split, kept) = split_whole(&file);
        assert_eq!(split.manifest.size, size);
        assert_eq!(split.manifest.digest.as_bytes(), blake3::hash(&all(&file)).as_bytes());
        assert_eq!(Manifest::decode(&split.manifest.encode()).as_ref(), Ok(&split.manifest));
        let back = put_together(&split.manifest, &kept);
        assert!(all(&back) == all(&file), "{size} bytes are not the same");
        let (was, is) = (file.metadata().expect("is there").blocks(), back.metadata().expect("is there").blocks());
        assert!(is <= was, "{is} blocks were {was}");
        let (streamed, _) = stream_whole(&all(&file));
        assert_eq!(streamed.manifest, split.manifest, "a stream is cut like a file");
    };
    check(&[], 0);
    check(&[], 40 << 20);
    check(&[(0, &head)], 5000);
    check(&[(0, &head), (7 << 20, &tail)], (7 << 20) + 300_000);
    check(&[(0, &head), (7 << 20, &tail), (9 << 20, &tail)], 64 << 20);
    check(&[(1, &tail)], 300_001);
}

#[test]
fn headers_that_lead_nowhere_hold_nothing_up() {
    let rules = RedactionRules::read("[environment]\nleave_out = [\"PATH\"]\n[[memory]]\narea = \"anonymous\"\n")
        .expect("are rules");
    let whole = core(b"note", &[noise(4, 12_288)]);
    // Behind the end, and where the kernel refuses to look: of the notes, of a segment, and of both.
    for at in [1 << 40, i64::MAX as u64, u64::MAX - 64] {
        for places in [&[64 + 8][..], &[64 + 56 + 8], &[64 + 8, 64 + 56 + 8]] {
            let mut bytes = whole.clone();
            for place in places {
                bytes[*place..*place + 8].copy_from_slice(&at.to_le_bytes());
            }
            let file = file_of(&[(0, &bytes)], bytes.len() as u64);
            assert_eq!(split_whole(&file).0.manifest.size, bytes.len() as u64, "{at:#x} at {places:?}");
            // What the rules cannot be kept with is refused in their name, not as what cannot be read.
            match split_file_by(&file, Some(&rules), &mut |_| Ok(())) {
                Ok(split) => assert_eq!(split.manifest.size, bytes.len() as u64, "{at:#x} at {places:?}"),
                Err(SplitError::Redaction(_)) => {}
                Err(error) => panic!("{at:#x} at {places:?}: {error}"),
            }
        }
    }
}

#[test]
fn a_core_is_cut_where_its_segments_begin() {
    // The same memory lies elsewhere in a second dump, since there is more before it.
    let memory = noise(3, 4 << 20);
    let first = core(b"note", &[noise(4, 12_288), memory.clone()]);
    let second = core(b"another note", &[noise(5, 20_480), noise(6, 70_000), memory]);
    let (one, kept) = stream_whole(&first);
    let (two, more) = stream_whole(&second);
    assert_ne!(one.head.hash, two.head.hash);
    assert!(!one.is_truncated() && one.head.is_core);
    let known: usize = more.0.iter().filter(|(name, _)| kept.0.contains_key(name)).map(|(_, bytes)| bytes.len()).sum();
    assert!(known >= 4 << 20, "only {known} of {} bytes are the same", more.bytes());
    // Cut short, it says so and is put together all the same; its name is of its head alone.
    let (cut, kept) = stream_whole(&first[..first.len() / 2]);
    assert!(cut.is_truncated());
    assert_eq!((cut.hash(), cut.hash().len()), (one.hash(), 32));
    assert!(all(&put_together(&cut.manifest, &kept)) == first[..first.len() / 2]);
    // Where the notes stand behind everything else, as gdb writes them, a stream has its file's name all the same.
    let mut late = core(b"at the end", &[noise(4, 12_288)]);
    let at = late.len() as u64;
    late[64 + 8..64 + 16].copy_from_slice(&at.to_le_bytes());
    late.extend_from_slice(b"at the end");
    let (file, _) = split_whole(&file_of(&[(0, &late)], late.len() as u64));
    assert_eq!((stream_whole(&late).0.hash(), file.head.hash.is_some()), (file.hash(), true));
    // What Thoth never named goes by its content.
    let (text, _) = stream_whole(b"panicked at src/main.rs");
    assert!(text.manifest.digest.to_string().starts_with(&text.hash()));
}

#[test]
fn a_core_that_is_cut_within_its_headers_says_so_on_arrival_and_in_its_report() {
    let whole = core(b"note", &[noise(4, 8192), noise(5, 4096)]);
    let folder = tempfile::tempdir().expect("is made");
    let path = folder.path().join("core");
    let check = |bytes: &[u8], expected: &[&str]| {
        std::fs::write(&path, bytes).expect("is written");
        let report = dump::analyse(&path, &dump::Places::default());
        let notes = report.notes.iter().filter(|note| note.code == NoteCode::Truncated).map(|note| note.text.as_str());
        let length = bytes.len();
        assert_eq!(notes.collect::<Vec<_>>(), expected, "{length}");
        let arrived = [stream_whole(bytes).0, split_whole(&file_of(&[(0, bytes)], length as u64)).0];
        let found = arrived.map(|split| split.is_truncated());
        assert_eq!((found, report.is_truncated), ([!expected.is_empty(); 2], !expected.is_empty()), "{length}");
    };
    check(&whole, &[]);
    let told = |number: u32| format!("the core's headers are cut or damaged: {number} of 3 segments are told");
    let missing = |bytes: u32| format!("the core's end is missing: {bytes} bytes of what it announces");
    check(&whole[..64], &[&told(0)]);
    check(&whole[..119], &[&told(0)]);
    // What the segments announce that are told is missing, too.
    check(&whole[..120], &[&told(1), &missing(4)]);
    check(&whole[..64 + 3 * 56 - 1], &[&told(2), &missing(4 + 8192)]);
    check(&whole[..64 + 3 * 56], &[&missing(4 + 8192 + 4096)]);
    check(&whole[..whole.len() - 5], &[&missing(5)]);
    // More than the header can say: a section says it, behind everything else.
    let mut many = whole.clone();
    many[40..48].copy_from_slice(&(whole.len() as u64).to_le_bytes());
    many[56..58].copy_from_slice(&[0xff; 2]);
    check(&many[..1000], &["the core's end is missing, which says how many segments it has", &missing(8192 + 4096)]);
}

#[test]
fn what_is_changed_little_adds_little() {
    let memory = noise(7, 8 << 20);
    let mut changed = memory.clone();
    for place in [0, 1 << 20, (3 << 20) + 17] {
        changed[place] ^= 1;
    }
    let (_, kept) = stream_whole(&core(b"a", &[memory]));
    let (_, more) = stream_whole(&core(b"b", &[changed]));
    let new: usize = more.0.iter().filter(|(name, _)| !kept.0.contains_key(name)).map(|(_, bytes)| bytes.len()).sum();
    assert!(new < 5 * (64 << 10), "{new} bytes are new");
}

#[test]
fn a_frame_that_is_not_what_it_says_is_refused() {
    let (split, kept) = stream_whole(&noise(8, 200_000));
    let file = tempfile::tempfile().expect("is made");
    let check = |manifest: &Manifest, packed: &[u8], words: &str| {
        let error = Assembly::new(manifest, &file).push(packed).expect_err("is refused");
        assert!(error.to_string().contains(words), "{error}");
    };
    let first = split.manifest.frames[0];
    let packed = &kept.0[&first.digest];
    check(&split.manifest, &packed[1..], "is not what its name says");
    let rename = |raw: u32, packed: &[u8]| {
        let mut manifest = split.manifest.clone();
        manifest.frames[0] = Frame { digest: Digest::from_bytes(*blake3::hash(packed).as_bytes()), raw, ..first };
        manifest
    };
    check(&rename(first.raw - 1, packed), packed, "does not hold");
    check(&rename(first.raw + 1, packed), packed, "does not hold");
    // What would unpack to far more than it says is stopped at what it says.
    let bomb = zstd::encode_all(&vec![0; 64 << 20][..], 1).expect("is packed");
    check(&rename(MAX_FRAME_BYTES, &bomb), &bomb, "does not hold");
    check(&rename(first.raw, b"no frame"), b"no frame", "does not hold");
    let mut other = split.manifest.clone();
    other.digest = first.digest;
    let mut assembly = Assembly::new(&other, &file);
    other.frames.iter().for_each(|frame| assembly.push(&kept.0[&frame.digest]).expect("is put there"));
    assert!(assembly.finish().is_err(), "the whole is another");
}

#[test]
fn whoever_takes_no_more_ends_it() {
    let mut taken = 0;
    let refused = split_stream(io::repeat(7).take(1 << 30), &mut |_| {
        taken += 1;
        if taken == 3 { Err("enough".into()) } else { Ok(()) }
    });
    assert!(matches!(refused, Err(SplitError::Refused(_))), "{refused:?}");
    assert_eq!(taken, 3);
}

use std::io::Read as _;

#[test]
fn headers_that_announce_more_than_comes_have_the_name_of_their_file() {
    let check = |place: usize, value: &[u8]| {
        let mut core = core(b"note", &[noise(1, 100_000)]);
        core[place..place + value.len()].copy_from_slice(value);
        let (streamed, _) = stream_whole(&core);
        let (split, _) = split_whole(&file_of(&[(0, &core)], core.len() as u64));
        assert_eq!(streamed.hash(), split.hash(), "{value:?} at {place}");
    };
    // Notes of 32 MiB and more, headers far away from each other, many of them, and none.
    check(99, &[2]);
    check(55, &[56]);
    check(57, &[0x80]);
    check(56, &[0]);
    // More than the header can say: a section does.
    check(56, &[0xff, 0xff]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_range_of_every_dump_reads_back(
        parts in proptest::collection::vec((0_u64..3_000_000, 1_usize..200_000, any::<u64>()), 0..6),
        looks in proptest::collection::vec((0_u64..3_300_000, 0_usize..300_000), 1..12),
        tail in 0_u64..100_000,
    ) {
        let mut file = tempfile::tempfile().expect("is made");
        for (at, length, seed) in &parts {
            file.write_all_at(&noise(*seed, *length), *at).expect("is written");
        }
        let size = file.metadata().expect("is there").len() + tail;
        file.set_len(size).expect("is set");
        file.flush().expect("is written");
        let whole = all(&file);
        let (split, kept) = split_whole(&file);
        prop_assert!(split.manifest.frames.iter().all(|frame| frame.raw <= MAX_FRAME_BYTES));
        let mut reader = Assembler::new(split.manifest, &kept);
        for (at, length) in looks {
            let mut found = vec![7; length];
            let read = reader.read_at(&mut found, at).expect("is read");
            let at = usize::try_from(at).expect("is small").min(whole.len());
            let expected = &whole[at..(at + length).min(whole.len())];
            prop_assert!(found[..read] == *expected, "{read} bytes at {at}");
        }
    }

    #[test]
    fn no_head_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), place in 0_usize..600, value: u8) {
        let mut core = core(b"note", &[noise(1, 100)]);
        let place = place % core.len().min(300);
        core[place] = value;
        for bytes in [&bytes[..], &core, &core[..place]] {
            let (streamed, kept) = stream_whole(bytes);
            prop_assert!(all(&put_together(&streamed.manifest, &kept)) == bytes);
            let file = file_of(&[(0, bytes)], bytes.len() as u64);
            let (split, _) = split_whole(&file);
            prop_assert_eq!(split.hash(), streamed.hash());
            prop_assert_eq!(split.manifest, streamed.manifest);
        }
    }
}
