//! What rules leave out of a core never gets out, wherever the core was cut: not from a file, and not from a stream.

use dump::parcel::{Assembly, Packed, Split, SplitError, split_file_by, split_stream_by};
use dump::redact::RedactionRules;
use model::Digest;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

const RULES: &str = "[environment]\nleave_out = ['*token*', '*password*']\n";
const SECRETS: [&[u8]; 2] = [b"hunter2hunter2", b"t0psecret"];
/// Where the stack begins in memory.
const STACK: u64 = 0x7ffd_0000_0000;

/// A core, and where in it the environment ends.
struct Core {
    bytes: Vec<u8>,
    environment_end: usize,
}

/// Makes a core as the kernel does: notes, a heap, the first stack with the environment at its top, and what lies above it.
fn core(heap: &[u8]) -> Core {
    let mut stack = vec![1; 200];
    let random_at = STACK + stack.len() as u64;
    stack.extend_from_slice(&[9; 16]);
    stack.extend_from_slice(b"app\0--password=t0psecret\0HOME=/root\0MY_TOKEN=hunter2hunter2\0PATH=/bin\0");
    let words_end = stack.len();
    stack.extend_from_slice(b"/bin/app\0\0\0\0\0\0\0\0\0");
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let auxv = words(&[25, random_at, 31, STACK + words_end as u64, 0, 0]);
    let mut notes = Vec::new();
    for (kind, content) in [(1, vec![5; 100]), (6, auxv), (0x4649_4c45, words(&[0, 4096]))] {
        [5, content.len() as u32, kind].iter().for_each(|word: &u32| notes.extend_from_slice(&word.to_le_bytes()));
        notes.extend_from_slice(b"CORE\0\0\0\0");
        notes.extend_from_slice(&content);
    }
    let segments = [(4, 0, &notes[..]), (1, 0x1000, heap), (1, STACK, &stack), (1, STACK + 0x1_0000, &[7; 300])];
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    bytes.resize(16, 0);
    let count = segments.len() as u64;
    for (value, width) in
        [(4_u64, 2), (62, 2), (1, 4), (0, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (count, 2), (0, 6)]
    {
        bytes.extend_from_slice(&value.to_le_bytes()[..width]);
    }
    let mut at = bytes.len() as u64 + 56 * count;
    let mut environment_end = 0;
    for (kind, address, content) in segments {
        let length = content.len() as u64;
        for (value, width) in [(kind, 4), (6, 4), (at, 8), (address, 8), (0, 8), (length, 8), (length, 8), (4, 8)] {
            bytes.extend_from_slice(&value.to_le_bytes()[..width]);
        }
        if address == STACK {
            environment_end = at as usize + words_end;
        }
        at += length;
    }
    segments.iter().for_each(|(_, _, content)| bytes.extend_from_slice(content));
    Core { bytes, environment_end }
}

/// Frames that were handed on, by their names.
type Handed = BTreeMap<Digest, Vec<u8>>;

fn split(bytes: &[u8], rules: &str, is_stream: bool) -> (Result<Split, SplitError>, Handed) {
    let rules = RedactionRules::read(rules).expect("are rules");
    let mut handed = Handed::new();
    let mut sink = |packed: Packed| {
        handed.insert(packed.frame.digest, packed.bytes);
        Ok(())
    };
    let split = if is_stream {
        split_stream_by(bytes, Some(&rules), &mut sink)
    } else {
        let file = tempfile::tempfile().expect("is made");
        file.write_all_at(bytes, 0).expect("is written");
        split_file_by(&file, Some(&rules), &mut sink)
    };
    (split, handed)
}

fn put_together(split: &Split, handed: &Handed) -> Vec<u8> {
    let file: File = tempfile::tempfile().expect("is made");
    let mut assembly = Assembly::new(&split.manifest, &file);
    split.manifest.frames.iter().for_each(|frame| assembly.push(&handed[&frame.digest]).expect("is put there"));
    assembly.finish().expect("is the same");
    let mut bytes = vec![0; split.manifest.size as usize];
    file.read_exact_at(&mut bytes, 0).expect("is read");
    bytes
}

fn holds_a_secret(bytes: &[u8]) -> bool {
    SECRETS.iter().any(|secret| bytes.windows(secret.len()).any(|part| part == *secret))
}

#[test]
fn no_secret_gets_out_wherever_a_core_is_cut() {
    for (heap, is_stream) in [(&b"a copy: hunter2hunter2, and --password=t0psecret"[..], false), (&[3; 500], true)] {
        let Core { bytes, environment_end } = core(heap);
        assert!(holds_a_secret(&bytes));
        for cut in 0..=bytes.len() {
            let (split, handed) = split(&bytes[..cut], RULES, is_stream);
            for frame in handed.values() {
                let content = zstd::decode_all(&frame[..]).expect("is a frame");
                assert!(!holds_a_secret(&content), "a secret gets out of {cut} bytes");
            }
            match split {
                Ok(split) => {
                    assert!(cut >= environment_end, "{cut} bytes are taken without their environment");
                    assert!(!holds_a_secret(&put_together(&split, &handed)), "{cut} bytes hold a secret");
                    let redaction = split.redaction.as_ref().expect("there are rules");
                    assert_eq!((redaction.values, split.is_truncated()), (2, cut < bytes.len()), "{cut}");
                }
                Err(SplitError::Redaction(_)) => {
                    assert!(cut < environment_end, "{cut} bytes have all that the rules concern");
                    assert!(is_stream || handed.is_empty(), "something of {cut} bytes was handed on");
                }
                Err(error) => panic!("{cut}: {error}"),
            }
        }
    }
}

#[test]
fn a_copy_across_a_border_goes() {
    const PAGE: usize = 4096;
    const HEAP: usize = 100 * PAGE;
    let heap_at =
        |bytes: &[u8]| bytes.windows(PAGE).position(|part| part.iter().all(|byte| *byte == 3)).expect("is there");
    let first = heap_at(&core(&vec![3; HEAP]).bytes);
    let mut heap = vec![3; HEAP];
    // Half of each stands before a border that a pass over the core may have, by addresses or by places in the file.
    let borders = (PAGE..HEAP - PAGE).filter(|at| at.is_multiple_of(PAGE) || (at + first).is_multiple_of(PAGE));
    borders.for_each(|at| heap[at - 7..at + 7].copy_from_slice(b"hunter2hunter2"));
    let Core { bytes, .. } = core(&heap);
    let (split, handed) = split(&bytes, RULES, false);
    let told = put_together(&split.expect("is taken"), &handed);
    let rest = &told[first..first + HEAP];
    let left = rest.iter().position(|byte| *byte != 3 && *byte != 0);
    assert!(left.is_none(), "something is left of a copy at {left:?}");
    assert_eq!(rest.iter().filter(|byte| **byte == 0).count(), heap.iter().filter(|byte| **byte != 3).count());
}

#[test]
fn a_core_that_is_cut_too_early_says_so() {
    let Core { bytes, environment_end } = core(&[3; 500]);
    let check = |bytes: &[u8], rules: &str, expected: &str| {
        for is_stream in [false, true] {
            let error = split(bytes, rules, is_stream).0.expect_err("is refused").to_string();
            assert!(error.ends_with(expected), "{error}");
        }
    };
    check(&bytes[..100], RULES, "its headers are cut, or they or its notes are longer than any real core's");
    check(&bytes[..300], RULES, "its notes come behind its memory, or not whole");
    check(&bytes[..environment_end - 1], RULES, "the dump is cut before the end of its environment");
    // As many segments as the first section says, which comes last and is not there.
    let mut many = bytes.clone();
    many[40..48].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    many[56..58].copy_from_slice(&[0xff; 2]);
    check(&many, RULES, "its headers are cut, or they or its notes are longer than any real core's");
    // Of the stack the headers announce less than the environment takes.
    let mut short = bytes.clone();
    let stack_bytes = 64 + 2 * 56 + 32;
    short[stack_bytes..stack_bytes + 8].copy_from_slice(&240_u64.to_le_bytes());
    check(&short, RULES, "the memory with its environment is not in it");
    // Where the stack is not told, it cannot be left out.
    let mut lost = bytes;
    let auxv = lost.windows(8).position(|word| word == 25_u64.to_le_bytes()).expect("is there");
    lost[auxv] = 99;
    check(&lost, "[[memory]]\narea = 'stack'\n", "it does not say where its stack is");
}
