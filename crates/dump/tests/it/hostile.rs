//! Cores made to cost more than they are worth, or to be told by what chance put where: each is over soon, and none is told
//! by more than it holds.

use dump::{Places, analyse};
use model::report::{NoteCode, Report};
use std::fs;
use std::time::{Duration, Instant};

const X86_64: u64 = 62;
const AARCH64: u64 = 183;
const CODE: u64 = 0x1000_0000;
const STACK: u64 = 0x2000_0000;
/// How long any of them may take, also where nothing is optimised.
const MAX_TIME: Duration = Duration::from_secs(60);

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn note(owner: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for number in [owner.len() as u32 + 1, content.len() as u32, kind] {
        note.extend_from_slice(&number.to_le_bytes());
    }
    for part in [&[owner, b"\0"].concat(), content] {
        note.extend_from_slice(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// A thread that was stopped by signal 11, with some of its registers.
fn thread(number: u32, machine: u64, registers: &[(usize, u64)]) -> Vec<u8> {
    let mut all = vec![0; if machine == X86_64 { 27 } else { 34 }];
    registers.iter().for_each(|(register, value)| all[*register] = *value);
    let mut content = vec![0; 112];
    (content[0], content[12]) = (11, 11);
    content[32..36].copy_from_slice(&number.to_le_bytes());
    note(b"CORE", 1, &[content, words(&all), vec![0; 8]].concat())
}

/// A list of mapped files: start, end and offset of each, and its path.
fn files(files: &[(u64, u64, u64, &str)]) -> Vec<u8> {
    let mut content = words(&[files.len() as u64, 4096]);
    files.iter().for_each(|(start, end, offset, _)| content.extend(words(&[*start, *end, offset / 4096])));
    files.iter().for_each(|(.., path)| content.extend([path.as_bytes(), b"\0"].concat()));
    note(b"CORE", 0x4649_4c45, &content)
}

/// Where a segment is in memory, its flags, how long it is there, and what of it is in the file.
type Load<'l> = (u64, u64, u64, &'l [u8]);

/// Puts a core together, which announces its notes as often as is said.
fn core(machine: u64, notes: &[u8], times: usize, loads: &[Load<'_>]) -> Vec<u8> {
    let count = times + loads.len();
    let head = 64 + 56 * count;
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    let fields =
        [(4, 2), (machine, 2), (1, 4), (0, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (count as u64, 2), (0, 6)];
    let put = |bytes: &mut Vec<u8>, fields: &[(u64, usize)]| {
        fields.iter().for_each(|(value, width)| bytes.extend_from_slice(&value.to_le_bytes()[..*width]));
    };
    put(&mut bytes, &fields);
    let mut at = head + notes.len();
    for _ in 0..times {
        let length = notes.len() as u64;
        put(&mut bytes, &[(4, 4), (0, 4), (head as u64, 8), (0, 8), (0, 8), (length, 8), (0, 8), (4, 8)]);
    }
    for (address, flags, memory, content) in loads {
        let length = content.len() as u64;
        put(
            &mut bytes,
            &[(1, 4), (*flags, 4), (at as u64, 8), (*address, 8), (0, 8), (length, 8), (*memory, 8), (1, 8)],
        );
        at += content.len();
    }
    bytes.extend_from_slice(notes);
    loads.iter().for_each(|(.., content)| bytes.extend_from_slice(content));
    bytes
}

fn report(core: &[u8]) -> Report {
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("core");
    fs::write(&path, core).expect("is written");
    let begun = Instant::now();
    let report = analyse(&path, &Places::default());
    assert!(begun.elapsed() < MAX_TIME, "it took {:?}", begun.elapsed());
    report
}

#[test]
fn guessed_frames_whose_addresses_are_signed_are_found() {
    const MASK: u64 = 0x007f_0000_0000_0000;
    let told = |signature: u64| {
        let mut stack = vec![0; 4096];
        let frames = [0x100, 0x200, 0x300, 0x400];
        for (at, number) in frames.iter().zip(1_u64..) {
            let next = frames.get(number as usize).map_or(0, |next| STACK + *next as u64);
            let caller = (CODE + 0x1000 + 0x100 * number) | (signature << 48);
            stack[*at..at + 16].copy_from_slice(&words(&[next, caller]));
        }
        let registers = [(29, STACK + 0x100), (30, CODE + 0x104), (31, STACK + 0x40), (32, CODE + 0x200)];
        let masks = note(b"LINUX", 0x406, &words(&[MASK, MASK]));
        let files = files(&[(CODE, CODE + 0x1_0000, 0, "/usr/bin/program")]);
        let notes = [thread(7, AARCH64, &registers), masks, files].concat();
        let core = core(AARCH64, &notes, 1, &[(CODE, 5, 0x1_0000, b""), (STACK, 6, 4096, &stack)]);
        let report = report(&core);
        report.threads[0].frames.iter().map(|frame| frame.address).collect::<Vec<_>>()
    };
    let plain = told(0);
    assert!(plain.len() > 4, "{plain:?}");
    assert_eq!(told(0x35), plain);
}

#[test]
fn a_program_that_maps_its_own_file_again_is_no_wider() {
    let (program, again) = (0x5555_0000_0000, 0x7f00_0000_0000);
    let heap = program + 0x100_0000;
    let notes = [
        thread(7, X86_64, &[(16, heap), (19, STACK)]),
        files(&[(program, program + 0x1_0000, 0, "/bin/it"), (again, again + 0x1_0000, 0x1000, "/bin/it")]),
    ];
    let loads: [Load<'_>; 4] = [
        (program, 5, 0x1_0000, b""),
        (heap, 6, 0x1000, &[1; 64]),
        (again, 4, 0x1_0000, b""),
        (STACK, 6, 0x1000, &[0; 64]),
    ];
    let report = report(&core(X86_64, &notes.concat(), 1, &loads));
    let module = report.modules.iter().find(|module| module.start.0 == program).expect("it is there");
    assert!(module.end.0 <= heap, "{module:?}");
    assert_eq!(report.threads[0].frames[0].module, None, "the heap is in no module");
}

#[test]
fn bytes_that_many_headers_share_are_read_only_so_often() {
    let many = [thread(7, X86_64, &[]), note(b"X", 99, b"").repeat(60_000)].concat();
    let told = report(&core(X86_64, &many, 20_000, &[]));
    assert!(told.notes.iter().any(|note| note.code == NoteCode::Cut), "{:?}", told.notes);
}

#[test]
fn a_stack_that_only_guesses_lead_through_ends() {
    // Frames that are looked for, and behind them what looks like the return from a signal, which leads to the first again.
    let mut code = vec![0x90; 4096];
    for at in [0x10, 0x40] {
        code[at..at + 5].copy_from_slice(&[0xe8, 0, 0, 0, 0]);
    }
    code[0x15..0x1e].copy_from_slice(&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05]);
    let mut stack = Vec::new();
    for number in 0..60 {
        stack.extend(words(&[1; 511]));
        stack.extend(words(&[if number == 59 { CODE + 0x15 } else { CODE + 0x45 }]));
    }
    let mut saved = [0; 17];
    (saved[15], saved[16]) = (STACK, CODE + 0x45);
    stack.extend([vec![0; 40], words(&saved)].concat());
    let threads: Vec<u8> =
        (0..180).flat_map(|number| thread(100 + number, X86_64, &[(16, CODE + 0x45), (19, STACK)])).collect();
    let length = stack.len() as u64;
    let report = report(&core(X86_64, &threads, 1, &[(CODE, 5, 4096, &code), (STACK, 6, length, &stack)]));
    assert_eq!(report.threads.len(), 180);
    assert!(report.threads.iter().all(|thread| thread.broken.is_some()));
}
