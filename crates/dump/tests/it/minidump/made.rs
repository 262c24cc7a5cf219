//! Minidumps put together by hand, with every stream that is read, as the writers of several systems leave them.

use super::{half, word};

/// A system, as a minidump names it, and what its crash is called there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct System {
    /// Its number, and that of the processor.
    pub(crate) platform: u32,
    pub(crate) processor: u16,
    /// Number and flags of the exception.
    pub(crate) exception: (u32, u32),
    /// Bytes of a thread's registers, and where the program counter and the stack pointer stand, how wide.
    context: (usize, usize, usize, usize),
    /// Whether modules are named by their build ids.
    has_build_ids: bool,
}

const STACK: u64 = 0x7fff_0000;
const STACK_BYTES: usize = 512;
const CODE: u64 = 0x4000_0000;

/// A program of Linux, with memory in either list.
pub(crate) const LINUX: System =
    System { platform: 0x8201, processor: 9, exception: (11, 1), context: (1232, 248, 152, 8), has_build_ids: true };
pub(crate) const LINUX_32: System = System { processor: 0, context: (716, 184, 196, 4), ..LINUX };
pub(crate) const ANDROID: System = System {
    platform: 0x8203,
    processor: 0x8003,
    context: (796, 8 + 32 * 8, 8 + 31 * 8, 8),
    has_build_ids: false,
    ..LINUX
};
pub(crate) const ANDROID_32: System = System { processor: 5, context: (368, 4 + 15 * 4, 4 + 13 * 4, 4), ..ANDROID };
pub(crate) const WINDOWS: System = System { platform: 2, exception: (0xc000_0005, 0), has_build_ids: false, ..LINUX };
pub(crate) const MACOS: System = System { platform: 0x8101, processor: 12, exception: (1, 2), ..ANDROID };

/// A minidump in the making.
struct Made {
    file: Vec<u8>,
    streams: Vec<(u32, Vec<u8>)>,
}

impl Made {
    fn put(&mut self, bytes: &[u8]) -> u32 {
        let at = self.file.len() as u32;
        self.file.extend_from_slice(bytes);
        at
    }

    fn text(&mut self, text: &str) -> u32 {
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        self.put(&[&(units.len() as u32).to_le_bytes()[..], &units].concat())
    }
}

/// Returns a minidump of two threads and two modules.
pub(crate) fn made(system: System) -> Vec<u8> {
    let mut made = Made { file: vec![0; 32 + 9 * 12], streams: Vec::new() };
    about(system, &mut made);
    let first = threads(system, &mut made);
    modules(system, &mut made);
    memory(&mut made);
    let (code, flags) = system.exception;
    let mut exception = Vec::new();
    [7, 0, code, flags].iter().for_each(|number| half(&mut exception, *number));
    [0, 0x18, 2, 0, 0x18].iter().for_each(|number| word(&mut exception, *number));
    exception.resize(160, 0);
    half(&mut exception, system.context.0 as u32);
    half(&mut exception, first);
    made.streams.push((6, exception));
    let Made { mut file, streams } = made;
    let mut header = b"MDMP\x93\xa7\0\0".to_vec();
    [streams.len() as u32, 32, 0, 1_600_000_000, 0, 0].iter().for_each(|number| half(&mut header, *number));
    for (kind, stream) in streams {
        [kind, stream.len() as u32, file.len() as u32].iter().for_each(|number| half(&mut header, *number));
        file.extend_from_slice(&stream);
    }
    file[..header.len()].copy_from_slice(&header);
    file
}

/// Returns a minidump of so many threads, which all stand on one deep stack.
pub(crate) fn crowd(count: u32) -> Vec<u8> {
    // Beyond the stack that is there already.
    let deep = STACK + 0x1_0000;
    let mut file = made(LINUX);
    let stream = |file: &[u8], number: usize| {
        let entry = 32 + number * 12;
        u32::from_le_bytes(file[entry + 8..entry + 12].try_into().unwrap()) as usize
    };
    let replace = |file: &mut Vec<u8>, number: usize, stream: &[u8]| {
        let (entry, at) = (32 + number * 12, file.len() as u32);
        file[entry + 4..entry + 8].copy_from_slice(&(stream.len() as u32).to_le_bytes());
        file[entry + 8..entry + 12].copy_from_slice(&at.to_le_bytes());
        file.extend_from_slice(stream);
    };
    let first = stream(&file, 3) + 4;
    let mut thread = file[first..first + 48].to_vec();
    let context = u32::from_le_bytes(thread[44..48].try_into().unwrap()) as usize;
    // The frame pointer.
    file[context + 160..context + 168].copy_from_slice(&deep.to_le_bytes());
    let mut threads = count.to_le_bytes().to_vec();
    for number in 0..count {
        thread[..4].copy_from_slice(&number.to_le_bytes());
        threads.extend_from_slice(&thread);
    }
    replace(&mut file, 3, &threads);
    let stack: Vec<u8> = (0..4000)
        .flat_map(|number| {
            if number % 2 == 0 { deep + number * 8 + 16 } else { CODE + 0x1000 + number % 100 }.to_le_bytes()
        })
        .collect();
    let mut list = 1_u32.to_le_bytes().to_vec();
    word(&mut list, deep);
    [stack.len() as u32, file.len() as u32].iter().for_each(|number| half(&mut list, *number));
    file.extend_from_slice(&stack);
    replace(&mut file, 6, &list);
    file
}

/// The system, the process and its command.
fn about(system: System, made: &mut Made) {
    let words = made.text("6.1.0-18-amd64 #1 SMP");
    let mut stream = vec![0; 56];
    stream[..2].copy_from_slice(&system.processor.to_le_bytes());
    stream[8] = 10;
    stream[16..20].copy_from_slice(&19_045_u32.to_le_bytes());
    stream[20..24].copy_from_slice(&system.platform.to_le_bytes());
    stream[24..28].copy_from_slice(&words.to_le_bytes());
    made.streams.push((7, stream));
    let mut misc = Vec::new();
    [24, 3, 4121, 1_600_000_000, 0, 0].iter().for_each(|number| half(&mut misc, *number));
    made.streams.push((15, misc));
    made.streams.push((0x4767_0006, b"/usr/bin/serve\0--all\0".to_vec()));
}

/// The threads with their registers and names; returns where the first one's registers are.
fn threads(system: System, made: &mut Made) -> u32 {
    let (bytes, pc, sp, width) = system.context;
    let (mut threads, mut names) = (2_u32.to_le_bytes().to_vec(), 2_u32.to_le_bytes().to_vec());
    let mut first = 0;
    for (number, name) in [(7_u32, "main"), (8, "worker")] {
        let mut context = vec![0; bytes];
        let code = CODE + 0x1000 + u64::from(number) * 16;
        context[pc..pc + width].copy_from_slice(&code.to_le_bytes()[..width]);
        context[sp..sp + width].copy_from_slice(&STACK.to_le_bytes()[..width]);
        let at = made.put(&context);
        first = if first == 0 { at } else { first };
        half(&mut threads, number);
        threads.extend_from_slice(&[0; 36]);
        half(&mut threads, bytes as u32);
        half(&mut threads, at);
        let at = made.text(name);
        half(&mut names, number);
        word(&mut names, at.into());
    }
    made.streams.push((3, threads));
    made.streams.push((24, names));
    first
}

fn modules(system: System, made: &mut Made) {
    let mut modules = 2_u32.to_le_bytes().to_vec();
    for (number, path) in [(0_u64, "/usr/bin/serve"), (1, "/usr/lib/libé.so")] {
        let name = made.text(path);
        let id = [number as u8 + 0x11; 20];
        let record = if system.has_build_ids {
            [b"LEpB", &id[..]].concat()
        } else {
            [b"RSDS", &id[..16], &[2, 0, 0, 0], path.as_bytes(), &[0]].concat()
        };
        let at = made.put(&record);
        word(&mut modules, CODE + number * 0x10_0000);
        half(&mut modules, 0x8_0000);
        modules.extend_from_slice(&[0; 8]);
        half(&mut modules, name);
        modules.extend_from_slice(&[0; 52]);
        half(&mut modules, record.len() as u32);
        half(&mut modules, at);
        modules.extend_from_slice(&[0; 24]);
    }
    made.streams.push((4, modules));
}

/// A stack with addresses of code on it, half of it in either list of memory.
fn memory(made: &mut Made) {
    let stack: Vec<u8> = (0..STACK_BYTES as u64 / 8)
        .flat_map(|number| {
            if number % 5 == 2 { CODE + 0x1000 + number * 4 } else { STACK + number * 8 + 32 }.to_le_bytes()
        })
        .collect();
    let (near, far) = stack.split_at(STACK_BYTES / 2);
    let at = made.put(near);
    let mut list = 1_u32.to_le_bytes().to_vec();
    word(&mut list, STACK);
    [near.len() as u32, at].iter().for_each(|number| half(&mut list, *number));
    made.streams.push((5, list));
    let at = made.put(far);
    let mut list = Vec::new();
    let half_bytes = far.len() as u64 / 2;
    let start = STACK + near.len() as u64;
    [2, at.into(), start, half_bytes, start + half_bytes, half_bytes]
        .iter()
        .for_each(|number| word(&mut list, *number));
    made.streams.push((9, list));
}
