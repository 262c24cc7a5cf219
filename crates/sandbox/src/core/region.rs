//! Regions: what a process has mapped, what of it belongs into a core, and which of its pages were ever touched.
#![expect(unsafe_code, reason = "no wrapper knows the pagemap's own question")]

use super::PAGE;
use std::fs::File;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Longest account of a process's regions: some eight hundred bytes for each of the 65,530 it may have.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// Most regions.
const MAX_REGIONS: usize = 65_536;

/// Largest region of a file that is written whole because a page of it was changed.
const MAX_WHOLE_BYTES: u64 = 64 << 20;

/// Gaps up to this are no reason for a new piece.
const GAP_BYTES: u64 = 16 * PAGE;

/// Most pieces of one region.
const MAX_PIECES: usize = 16_384;

/// Largest region that is looked through page by page, where the kernel is too old to be asked for all at once.
const MAX_LISTED_BYTES: u64 = 64 << 30;

/// What the kernel takes if a process has said nothing: anonymous memory, headers of programs, huge pages.
pub(super) const FILTER: u32 = 0x33;

const ANONYMOUS: u32 = 1;
const ANONYMOUS_SHARED: u32 = 2;
const MAPPED: u32 = 4;
const MAPPED_SHARED: u32 = 8;
const HEADERS: u32 = 16;

/// A region of a process's memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) start: u64,
    pub(super) end: u64,
    /// As ELF writes them: 4 to read, 2 to write, 1 to execute.
    pub(super) flags: u32,
    /// Where in its file it begins.
    pub(super) offset: u64,
    /// The file, or what the kernel calls it.
    pub(super) name: Vec<u8>,
    pub(super) is_file: bool,
    is_shared: bool,
    is_changed: bool,
    is_excluded: bool,
}

/// What of a region belongs into a core.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing.
    Nothing,
    /// Its first page.
    Header,
    /// All of it.
    Whole,
    /// The pages that were touched.
    Touched,
}

impl Region {
    /// Tells whether an address lies in it.
    pub(super) fn holds(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Returns what of it belongs into a core, by the kernel's own rules.
    pub(super) fn wanted(&self, filter: u32) -> Wanted {
        let has = |bit| filter & bit != 0;
        if self.name == b"[vdso]" {
            return Wanted::Whole;
        }
        if self.is_excluded || self.name.starts_with(b"[vvar") || self.name == b"[vsyscall]" {
            return Wanted::Nothing;
        }
        if self.is_shared {
            // A shared mapping whose file has no name any more is memory that processes share, and nothing else holds it.
            let nameless = !self.is_file || self.name.ends_with(b" (deleted)");
            let asked = if nameless { has(ANONYMOUS_SHARED) } else { has(MAPPED_SHARED) };
            return if asked { Wanted::Touched } else { Wanted::Nothing };
        }
        if !self.is_file {
            return if has(ANONYMOUS) { Wanted::Touched } else { Wanted::Nothing };
        }
        if (self.is_changed && has(ANONYMOUS)) || has(MAPPED) {
            let is_small = self.end - self.start <= MAX_WHOLE_BYTES;
            return if is_small { Wanted::Whole } else { Wanted::Touched };
        }
        if has(HEADERS) && self.offset == 0 && self.flags & 4 != 0 { Wanted::Header } else { Wanted::Nothing }
    }
}

/// Reads the number in a process's `coredump_filter`.
pub(super) fn filter(text: &[u8]) -> u32 {
    std::str::from_utf8(text).ok().and_then(|text| u32::from_str_radix(text.trim(), 16).ok()).unwrap_or(FILTER)
}

/// Reads `smaps`: a line for each region and lines of `Name: value` after it. What makes no sense is passed over.
pub(super) fn read(text: &[u8]) -> Vec<Region> {
    let mut regions: Vec<Region> = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        if let Some(region) = opening(line) {
            if regions.len() == MAX_REGIONS {
                break;
            }
            regions.push(region);
        } else if let Some(region) = regions.last_mut() {
            describe(region, line);
        }
    }
    regions
}

/// Reads a region's first line: `START-END rwxp OFFSET DEVICE INODE   NAME`.
fn opening(line: &[u8]) -> Option<Region> {
    let mut words = line.splitn(6, |byte| *byte == b' ');
    let mut word = || words.next().and_then(|word| std::str::from_utf8(word).ok());
    let (start, end) = word()?.split_once('-')?;
    let (access, offset, _device, inode) = (word()?, word()?, word()?, word()?);
    let number = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    let flag = |letter, bit| if access.contains(letter) { bit } else { 0 };
    let good = start < end && start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE);
    good.then(|| Region {
        start,
        end,
        flags: flag('r', 4) | flag('w', 2) | flag('x', 1),
        offset: number(offset).unwrap_or(0),
        name: unescape(words.next().unwrap_or_default().trim_ascii_start()),
        is_file: inode != "0",
        is_shared: access.ends_with('s'),
        is_changed: false,
        is_excluded: false,
    })
}

/// Takes what counts from a line about a region.
fn describe(region: &mut Region, line: &[u8]) {
    let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else { return };
    let mut words = value.split_ascii_whitespace();
    match name {
        "Anonymous" | "Swap" => region.is_changed |= words.next() != Some("0"),
        // Not to be dumped, by the program's own wish; or a device's memory, whose reading may have effects.
        "VmFlags" => region.is_excluded = words.any(|flag| matches!(flag, "dd" | "io" | "pf")),
        _ => {}
    }
}

/// Undoes the kernel's way of writing line breaks in names.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        let (byte, tail) = match rest.strip_prefix(b"\\012") {
            Some(tail) => (b'\n', tail),
            None => (*first, tail),
        };
        whole.push(byte);
        rest = tail;
    }
    whole
}

/// Which pages of a process were ever touched.
pub(super) struct Pages(File);

/// The question `PAGEMAP_SCAN` of Linux 6.7, as the kernel's headers lay it out.
#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Run {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;
const ZERO: u64 = 1 << 5;

impl Pages {
    /// Takes a process's `pagemap`.
    pub(super) fn new(pagemap: OwnedFd) -> Self {
        Self(File::from(pagemap))
    }

    /// Returns the runs of touched pages of a region in order, small gaps included.
    pub(super) fn touched(&self, region: &Region) -> Vec<(u64, u64)> {
        let mut joined: Vec<(u64, u64)> = Vec::new();
        let mut take = |start: u64, end: u64| {
            // The last piece takes in the rest of a region that is too scattered.
            let is_full = joined.len() >= MAX_PIECES;
            match joined.last_mut() {
                Some(last) if is_full || start <= last.1 + GAP_BYTES => last.1 = end,
                _ => joined.push((start, end)),
            }
        };
        if !self.scan(region, &mut take) {
            self.list(region, &mut take);
        }
        joined
    }

    /// Asks the kernel for runs, and tells whether it knows the question.
    fn scan(&self, region: &Region, take: &mut impl FnMut(u64, u64)) -> bool {
        let mut runs = [Run::default(); 512];
        let mut start = region.start;
        while start < region.end {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                flags: 0,
                start,
                end: region.end,
                walk_end: 0,
                vec: runs.as_mut_ptr() as u64,
                vec_len: runs.len() as u64,
                max_pages: 0,
                // Touched, but not the page of zeros that everybody shares.
                category_inverted: ZERO,
                category_mask: ZERO,
                category_anyof_mask: PRESENT | SWAPPED,
                return_mask: PRESENT | SWAPPED,
            };
            // SAFETY: the question is laid out as the kernel's, and the runs it names live until it is answered.
            let count = unsafe { libc::ioctl(self.0.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) };
            let Ok(count) = usize::try_from(count) else { return start > region.start };
            for run in &runs[..count.min(runs.len())] {
                take(run.start.max(region.start), run.end.min(region.end));
            }
            if scan.walk_end <= start {
                break;
            }
            start = scan.walk_end;
        }
        true
    }

    /// Looks at a word for each page.
    fn list(&self, region: &Region, take: &mut impl FnMut(u64, u64)) {
        let end = region.end.min(region.start + MAX_LISTED_BYTES);
        let mut words = vec![0; 8 * 4096];
        let mut at = region.start;
        while at < end {
            let most = words.len().min(((end - at) / PAGE * 8) as usize);
            if self.0.read_exact_at(&mut words[..most], at / PAGE * 8).is_err() {
                return;
            }
            for (number, word) in words[..most].chunks(8).enumerate() {
                // The highest bits say "present" and "swapped".
                if word[7] & 0xc0 != 0 {
                    let page = at + number as u64 * PAGE;
                    take(page, page + PAGE);
                }
            }
            at += most as u64 / 8 * PAGE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FILTER, HEADERS, MAPPED_SHARED, Wanted, filter, read};

    fn check(text: &str, bits: u32, want: &[(u64, u64, &str, Wanted)]) {
        let regions = read(text.as_bytes());
        let got: Vec<_> = regions
            .iter()
            .map(|one| (one.start, one.end, String::from_utf8_lossy(&one.name).into_owned(), one.wanted(bits)))
            .collect();
        let got: Vec<_> = got.iter().map(|(start, end, name, wanted)| (*start, *end, name.as_str(), wanted)).collect();
        let want: Vec<_> = want.iter().map(|(start, end, name, wanted)| (*start, *end, *name, wanted)).collect();
        assert_eq!(got, want, "{text}");
    }

    #[test]
    fn regions_are_wanted_as_the_kernel_wants_them() {
        let file = "1000-3000 r--p 00000000 fe:00 12   /usr/lib/a\\012b c.so\nAnonymous:   0 kB\nVmFlags: rd mr\n";
        check(file, FILTER, &[(0x1000, 0x3000, "/usr/lib/a\nb c.so", Wanted::Header)]);
        check(file, FILTER & !HEADERS, &[(0x1000, 0x3000, "/usr/lib/a\nb c.so", Wanted::Nothing)]);
        let changed = "1000-3000 rw-p 00002000 fe:00 12   /lib/x\nAnonymous:   4 kB\nVmFlags: rd wr\n";
        check(changed, FILTER, &[(0x1000, 0x3000, "/lib/x", Wanted::Whole)]);
        let later = "1000-3000 r--p 00002000 fe:00 12   /lib/x\n";
        check(later, FILTER, &[(0x1000, 0x3000, "/lib/x", Wanted::Nothing)]);
        let plain = "1000-2000 rw-p 00000000 00:00 0 \nAnonymous: 4 kB\n2000-3000 ---p 00000000 00:00 0 [heap]\n";
        check(plain, FILTER, &[(0x1000, 0x2000, "", Wanted::Touched), (0x2000, 0x3000, "[heap]", Wanted::Touched)]);
        check(
            "1000-2000 rw-p 00000000 00:00 0 \nVmFlags: rd wr dd\n",
            FILTER,
            &[(0x1000, 0x2000, "", Wanted::Nothing)],
        );
        check(
            "1000-2000 rw-p 00000000 00:05 9 /dev/x\nVmFlags: io pf\n",
            FILTER,
            &[(0x1000, 0x2000, "/dev/x", Wanted::Nothing)],
        );
        let shared = "1000-2000 rw-s 00000000 00:01 9 /memfd:x (deleted)\n3000-4000 rw-s 00000000 00:01 9 /srv/x\n";
        let want =
            |second| [(0x1000, 0x2000, "/memfd:x (deleted)", Wanted::Touched), (0x3000, 0x4000, "/srv/x", second)];
        check(shared, FILTER, &want(Wanted::Nothing));
        check(shared, FILTER | MAPPED_SHARED, &want(Wanted::Touched));
        check("7000-8000 r-xp 00000000 00:00 0 [vdso]\n", 0, &[(0x7000, 0x8000, "[vdso]", Wanted::Whole)]);
        check("7000-8000 r--p 00000000 00:00 0 [vvar]\n", FILTER, &[(0x7000, 0x8000, "[vvar]", Wanted::Nothing)]);
    }

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        for text in [
            "",
            "\n\n",
            "1000-",
            "x-y r--p 0 0 0 z",
            "2000-1000 r--p 0 0:0 0",
            "1001-2000 r--p 0 0:0 0",
            "Anonymous: 4 kB",
        ] {
            check(text, FILTER, &[]);
        }
        assert_eq!((filter(b"00000033\n"), filter(b"7f"), filter(b"\xff"), filter(b"")), (0x33, 0x7f, FILTER, FILTER));
    }
}
