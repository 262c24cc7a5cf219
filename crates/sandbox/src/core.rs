//! Cores: what a process leaves when a signal ends it, as an ELF core file that debuggers read like the kernel's own.
//!
//! Written by the sandbox's init, which holds every thread of the process stopped meanwhile (`trace.rs`). What goes in
//! follows the process's own `coredump_filter`: anonymous and changed memory, and the first page of each mapped program, in
//! which its build id lies. What was never touched takes no room. A file is never longer than it may be: if memory must be
//! left out, stacks are the last to go, and the file stays well formed.
//! What a process says of itself is hostile: everything read of it is bounded, and what cannot be read is left out.

mod note;
mod region;

pub(crate) use note::Thread;

use crate::plan::Plan;
use region::{Region, Wanted};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, openat};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Most pieces of memory in a core; ELF's own count ends little above.
const MAX_SEGMENTS: usize = 60_000;

/// How much of a stack above where a thread stands is kept before all else.
const STACK_BYTES: u64 = 1 << 20;

/// How much of what a thread stands on may lie below its stack's pointer.
const RED_ZONE_BYTES: u64 = 128;

/// How much is copied at once.
const BUFFER_BYTES: usize = 256 << 10;

const PAGE: u64 = 4096;
const HEADER_BYTES: u64 = 64;
const ENTRY_BYTES: u64 = 56;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// Where the kernel is told what to do with cores.
const PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// The limit at which the kernel writes no core at all. At 0 it still hands one to the program that its pattern names,
/// which runs outside and as the machine's superuser.
const NO_BYTES: u64 = 1;

/// Returns how long a core of the kernel's own may be. Init writes them; where it cannot, because programs may trace each
/// other, the kernel may if it puts them into a folder inside.
pub(crate) fn kernel_bytes_max(plan: &Plan) -> u64 {
    let is_inside = || std::fs::read(PATTERN).is_ok_and(|pattern| is_plain(&pattern));
    if plan.ptrace && is_inside() { plan.limits.core_bytes.max(NO_BYTES) } else { NO_BYTES }
}

/// Tells whether a pattern is a mere name: no program, no socket, no other place.
fn is_plain(pattern: &[u8]) -> bool {
    !pattern.contains(&b'/') && !matches!(pattern.first(), None | Some(b'|' | b'@'))
}

/// A process all of whose threads are stopped.
pub(crate) struct Subject<'a> {
    /// The sandbox's `/proc`.
    pub(crate) proc: BorrowedFd<'a>,
    /// The process.
    pub(crate) pid: i32,
    /// The signal that ends it.
    pub(crate) signal: i32,
    /// The signal's own account, as the kernel gives it.
    pub(crate) account: [u8; 128],
    /// Its threads, that which got the signal first.
    pub(crate) threads: Vec<Thread>,
}

/// What has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) bytes: u64,
    pub(crate) is_truncated: bool,
}

/// A piece of memory and how much of it is in the file.
struct Segment {
    start: u64,
    end: u64,
    flags: u32,
    rank: Rank,
    kept: u64,
}

/// What goes in before what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Stacks, and the headers of programs.
    First,
    /// What belongs to a mapped file.
    Second,
    /// Everything else.
    Last,
    /// Nothing of it.
    Never,
}

impl Subject<'_> {
    /// Writes the process's core to a file that is empty, of at most so many bytes.
    pub(crate) fn write(&self, file: &File, bytes_max: u64) -> io::Result<Written> {
        let memory = File::from(self.open("mem")?);
        let regions = region::read(&self.text("smaps", region::MAX_BYTES)?);
        let notes = note::notes(self, &regions);
        let (mut segments, mut is_truncated) = self.segments(&regions)?;
        let begin = HEADER_BYTES + ENTRY_BYTES * (segments.len() as u64 + 1) + notes.len() as u64;
        let begin = begin.next_multiple_of(PAGE);
        let room = bytes_max.checked_sub(begin).ok_or(io::ErrorKind::FileTooLarge)?;
        is_truncated |= keep(&mut segments, room);
        file.write_all_at(&headers(&segments, &notes, begin), 0)?;
        let mut at = begin;
        let mut buffer = vec![0; BUFFER_BYTES];
        for segment in segments.iter().filter(|segment| segment.kept > 0) {
            copy(&memory, segment, file, at, &mut buffer)?;
            at += segment.kept;
        }
        file.set_len(at)?;
        Ok(Written { bytes: at, is_truncated })
    }

    /// Opens a file of the process's folder.
    fn open(&self, name: &str) -> io::Result<OwnedFd> {
        open(self.proc, &format!("{}/{name}", self.pid))
    }

    /// Reads a file of the process's folder, as far as it may be long.
    fn text(&self, name: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
        read(self.proc, &format!("{}/{name}", self.pid), bytes_max)
    }

    /// Cuts the regions into pieces of one rank each, in order; and tells whether some are left out for being too many.
    fn segments(&self, regions: &[Region]) -> io::Result<(Vec<Segment>, bool)> {
        let filter = self.text("coredump_filter", 64).map_or(region::FILTER, |text| region::filter(&text));
        let pages = region::Pages::new(self.open("pagemap")?);
        let mut segments = Vec::new();
        for region in regions {
            let whole = |rank| (region.start, region.end, rank);
            let pieces = match region.wanted(filter) {
                Wanted::Nothing => vec![whole(Rank::Never)],
                Wanted::Header => vec![
                    (region.start, region.start + PAGE, Rank::First),
                    (region.start + PAGE, region.end, Rank::Never),
                ],
                Wanted::Whole if region.is_file => vec![whole(Rank::Second)],
                Wanted::Whole => vec![whole(Rank::Last)],
                Wanted::Touched => self.touched(region, &pages),
            };
            let good = pieces.into_iter().filter(|(start, end, _)| start < end);
            segments.extend(good.map(|(start, end, rank)| Segment { start, end, flags: region.flags, rank, kept: 0 }));
            if segments.len() > MAX_SEGMENTS {
                segments.truncate(MAX_SEGMENTS);
                return Ok((segments, true));
            }
        }
        Ok((segments, false))
    }

    /// Returns the pieces of a region that hold something, those on which threads stand apart, and the gaps between.
    fn touched(&self, region: &Region, pages: &region::Pages) -> Vec<(u64, u64, Rank)> {
        let mut edges = Vec::new();
        for stack in self.threads.iter().filter_map(Thread::stack).filter(|stack| region.holds(*stack)) {
            let from = (stack.saturating_sub(RED_ZONE_BYTES) / PAGE * PAGE).max(region.start);
            edges.push((from, stack.saturating_add(STACK_BYTES).next_multiple_of(PAGE).min(region.end)));
        }
        edges.sort_unstable();
        let mut pieces = Vec::new();
        let mut at = region.start;
        for (start, end) in pages.touched(region) {
            pieces.push((at, start, Rank::Never));
            let mut from = start;
            for (low, high) in &edges {
                let (low, high) = ((*low).clamp(from, end), (*high).clamp(from, end));
                if low < high {
                    pieces.extend([(from, low, Rank::Last), (low, high, Rank::First)]);
                    from = high;
                }
            }
            pieces.push((from, end, Rank::Last));
            at = end;
        }
        pieces.push((at, region.end, Rank::Never));
        pieces
    }
}

/// Settles how much of each piece is kept, and tells whether something had to be left out.
fn keep(segments: &mut [Segment], mut room: u64) -> bool {
    let mut order: Vec<_> = (0..segments.len()).filter(|at| segments[*at].rank != Rank::Never).collect();
    order.sort_by_key(|at| (segments[*at].rank, segments[*at].end - segments[*at].start));
    let mut is_truncated = false;
    for at in order {
        let segment = &mut segments[at];
        let bytes = segment.end - segment.start;
        segment.kept = bytes.min(room / PAGE * PAGE);
        room -= segment.kept;
        is_truncated |= segment.kept < bytes;
    }
    is_truncated
}

/// Copies a piece of memory, leaving holes where it is zero or cannot be read.
fn copy(memory: &File, segment: &Segment, file: &File, at: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < segment.kept {
        let most = buffer.len().min((segment.kept - done) as usize);
        let got = match memory.read_at(&mut buffer[..most], segment.start + done) {
            Ok(got) if got > 0 => got,
            // A page that cannot be read (past the end of its file, for instance) is no reason to lose the others.
            _ => {
                done += PAGE;
                continue;
            }
        };
        for (number, page) in buffer[..got].chunks(PAGE as usize).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(page, at + done + number as u64 * PAGE)?;
            }
        }
        done += got as u64;
    }
    Ok(())
}

/// Returns what stands before the memory.
fn headers(segments: &[Segment], notes: &[u8], begin: u64) -> Vec<u8> {
    let count = segments.len() + 1;
    let mut bytes = Vec::with_capacity(begin as usize);
    // Sixty-four bits, little endian, version 1; the machine's own conventions.
    bytes.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    put_u16(&mut bytes, &[4, MACHINE]);
    put_u32(&mut bytes, &[1]);
    put_u64(&mut bytes, &[0, HEADER_BYTES, 0]);
    put_u32(&mut bytes, &[0]);
    put_u16(&mut bytes, &[HEADER_BYTES as u16, ENTRY_BYTES as u16, count as u16, 0, 0, 0]);
    put_u32(&mut bytes, &[4, 0]);
    put_u64(&mut bytes, &[HEADER_BYTES + ENTRY_BYTES * count as u64, 0, 0, notes.len() as u64, 0, 4]);
    let mut at = begin;
    for segment in segments {
        put_u32(&mut bytes, &[1, segment.flags]);
        put_u64(&mut bytes, &[at, segment.start, 0, segment.kept, segment.end - segment.start, PAGE]);
        at += segment.kept;
    }
    bytes.extend_from_slice(notes);
    bytes
}

fn put_u16(bytes: &mut Vec<u8>, values: &[u16]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn put_u32(bytes: &mut Vec<u8>, values: &[u32]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn put_u64(bytes: &mut Vec<u8>, values: &[u64]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

/// Opens a file beneath the sandbox's `/proc`.
pub(crate) fn open(proc: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    Ok(openat(proc.as_fd(), path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Reads a file beneath the sandbox's `/proc`, as far as it may be long.
pub(crate) fn read(proc: BorrowedFd<'_>, path: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(open(proc, path)?).take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn only_a_mere_name_is_left_to_the_kernel() {
        let check = |pattern: &str, want| assert_eq!(is_plain(pattern.as_bytes()), want, "{pattern}");
        check("core\n", true);
        check("core.%p", true);
        check("|/usr/lib/systemd/systemd-coredump %P", false);
        check("@/run/cores", false);
        check("/var/cores/%e", false);
        check("", false);
    }
}
