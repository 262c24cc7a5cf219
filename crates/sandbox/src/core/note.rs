//! Notes: what a core says of its process and threads beside memory, laid out as the kernel does.
#![expect(unsafe_code, reason = "registers of a traced thread are read by `ptrace`")]

use super::region::Region;
use super::{PAGE, Subject, put_u16, put_u32, put_u64, read};
use rustix::fd::BorrowedFd;

const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;

/// Sets of registers beside the general ones: the note's kind, which is `ptrace`'s word too, and who gave it its name.
#[cfg(target_arch = "x86_64")]
const MORE: &[(u32, &[u8])] = &[(NT_FPREGSET, b"CORE\0"), (0x202, b"LINUX\0")];
#[cfg(target_arch = "aarch64")]
const MORE: &[(u32, &[u8])] =
    &[(NT_FPREGSET, b"CORE\0"), (0x401, b"LINUX\0"), (0x405, b"LINUX\0"), (0x406, b"LINUX\0")];

/// Where among the general registers the stack's pointer stands, and how many there are.
#[cfg(target_arch = "x86_64")]
const STACK: usize = 19;
#[cfg(target_arch = "x86_64")]
const REGISTERS: usize = 27;
#[cfg(target_arch = "aarch64")]
const STACK: usize = 31;
#[cfg(target_arch = "aarch64")]
const REGISTERS: usize = 34;

/// Largest set of registers; AMX's tiles take eight KiB.
const MAX_REGISTER_BYTES: usize = 16 << 10;

/// Longest text of a file about a process.
const MAX_TEXT_BYTES: u64 = 4096;

/// Most bytes of names of mapped files.
const MAX_NAME_BYTES: usize = 4 << 20;

/// A stopped thread and what it holds.
pub(crate) struct Thread {
    tid: i32,
    general: Vec<u8>,
    more: Vec<(u32, &'static [u8], Vec<u8>)>,
}

impl Thread {
    /// Reads the registers of a thread that its tracer has stopped; none if it is gone.
    pub(crate) fn read(tid: i32) -> Option<Self> {
        let general = registers(tid, NT_PRSTATUS).filter(|bytes| bytes.len() == 8 * REGISTERS)?;
        let more = MORE.iter().filter_map(|(kind, name)| Some((*kind, *name, registers(tid, *kind)?)));
        Some(Self { tid, general, more: more.collect() })
    }

    /// Returns its stack's pointer.
    pub(super) fn stack(&self) -> Option<u64> {
        let bytes = self.general.get(8 * STACK..8 * STACK + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }
}

/// Returns a set of a thread's registers, if it has it.
fn registers(tid: i32, kind: u32) -> Option<Vec<u8>> {
    let mut bytes = vec![0; MAX_REGISTER_BYTES];
    let mut span = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: the kernel writes at most `iov_len` bytes to `iov_base`, and says in `iov_len` how many.
    let answer = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, kind as usize, &raw mut span) };
    bytes.truncate(span.iov_len);
    (answer == 0).then_some(bytes)
}

/// Returns all notes, in the order in which the kernel writes them: those of the first thread, of the process, of the rest.
pub(super) fn notes(subject: &Subject<'_>, regions: &[Region]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, thread) in subject.threads.iter().enumerate() {
        put(&mut bytes, NT_PRSTATUS, b"CORE\0", &status(subject, thread));
        if number == 0 {
            put(&mut bytes, NT_PRPSINFO, b"CORE\0", &process(subject));
            put(&mut bytes, NT_SIGINFO, b"CORE\0", &subject.account);
            put(&mut bytes, NT_AUXV, b"CORE\0", &subject.text("auxv", MAX_TEXT_BYTES).unwrap_or_default());
            put(&mut bytes, NT_FILE, b"CORE\0", &files(regions));
        }
        for (kind, name, registers) in &thread.more {
            put(&mut bytes, *kind, name, registers);
        }
    }
    bytes
}

/// Appends a note.
fn put(bytes: &mut Vec<u8>, kind: u32, name: &[u8], content: &[u8]) {
    put_u32(bytes, &[name.len() as u32, content.len() as u32, kind]);
    for part in [name, content] {
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
}

/// What `/proc` says of a process or thread: the words of `stat` after its name.
struct Stat(Vec<String>);

impl Stat {
    fn read(proc: BorrowedFd<'_>, path: &str) -> Self {
        let text = read(proc, path, MAX_TEXT_BYTES).unwrap_or_default();
        // The name may hold anything, so the words are counted from the last bracket on.
        let text = String::from_utf8_lossy(&text).into_owned();
        let words = text.rsplit_once(')').map_or("", |(_, words)| words);
        Self(words.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// Returns a word by its number in the manual, which counts from one and begins with the id and the name.
    fn word(&self, number: usize) -> &str {
        self.0.get(number - 3).map_or("", String::as_str)
    }

    fn number(&self, number: usize) -> i64 {
        self.word(number).parse().unwrap_or(0)
    }
}

const PARENT: usize = 4;
const GROUP: usize = 5;
const SESSION: usize = 6;
const FLAGS: usize = 9;
const TIMES: [usize; 4] = [14, 15, 16, 17];
const NICE: usize = 19;

/// Lays out a thread's `elf_prstatus`.
fn status(subject: &Subject<'_>, thread: &Thread) -> Vec<u8> {
    let stat = Stat::read(subject.proc, &format!("{}/task/{}/stat", subject.pid, thread.tid));
    let mut bytes = subject.account[..4].to_vec();
    // Signal, code and error stand in another order here than in the signal's own account.
    bytes.extend_from_slice(&subject.account[8..12]);
    bytes.extend_from_slice(&subject.account[4..8]);
    put_u16(&mut bytes, &[subject.signal as u16, 0]);
    put_u64(&mut bytes, &[0, 0]);
    put_u32(&mut bytes, &[thread.tid as u32]);
    put_u32(&mut bytes, &[PARENT, GROUP, SESSION].map(|number| stat.number(number) as u32));
    for time in TIMES {
        // Hundredths of a second, as the kernel shows them to everybody.
        let hundredths = stat.number(time).max(0) as u64;
        put_u64(&mut bytes, &[hundredths / 100, hundredths % 100 * 10_000]);
    }
    bytes.extend_from_slice(&thread.general);
    put_u32(&mut bytes, &[u32::from(!thread.more.is_empty()), 0]);
    bytes
}

/// Lays out the process's `elf_prpsinfo`.
fn process(subject: &Subject<'_>) -> Vec<u8> {
    let stat = Stat::read(subject.proc, &format!("{}/stat", subject.pid));
    let status = subject.text("status", MAX_TEXT_BYTES).unwrap_or_default();
    let status = String::from_utf8_lossy(&status).into_owned();
    let id = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u32>().ok()).unwrap_or(0)
    };
    // It runs, as far as anybody is concerned, though its tracer has stopped it.
    let mut bytes = vec![0, b'R', 0, stat.number(NICE) as u8, 0, 0, 0, 0];
    put_u64(&mut bytes, &[stat.number(FLAGS) as u64]);
    put_u32(&mut bytes, &[id("Uid:"), id("Gid:"), subject.pid as u32]);
    put_u32(&mut bytes, &[PARENT, GROUP, SESSION].map(|number| stat.number(number) as u32));
    let mut name = subject.text("comm", 16).unwrap_or_default();
    name.truncate(name.iter().position(|byte| *byte == b'\n').unwrap_or(15).min(15));
    name.resize(16, 0);
    bytes.extend(name);
    let mut words = subject.text("cmdline", 79).unwrap_or_default();
    words.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    words.resize(80, 0);
    bytes.extend(words);
    bytes
}

/// Lays out which files are mapped where.
fn files(regions: &[Region]) -> Vec<u8> {
    let (mut places, mut names) = (Vec::new(), Vec::new());
    for region in regions.iter().filter(|region| region.is_file) {
        if names.len() + region.name.len() >= MAX_NAME_BYTES {
            break;
        }
        places.extend([region.start, region.end, region.offset / PAGE]);
        names.extend_from_slice(&region.name);
        names.push(0);
    }
    let mut bytes = Vec::new();
    put_u64(&mut bytes, &[places.len() as u64 / 3, PAGE]);
    put_u64(&mut bytes, &places);
    bytes.extend(names);
    bytes
}
