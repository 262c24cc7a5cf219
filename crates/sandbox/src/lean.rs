//! Lean: what keeps a spawner small that is one role of a large binary.
//!
//! Each sandbox begins as a copy of the spawner's memory: the kernel copies a record for each page that is the spawner's own,
//! and takes it down again at the end; each page that either writes meanwhile is copied itself. Measured with the binary
//! that users run, beside a small one with the same spawner in it: 357 pages of its own instead of 71, 71 page faults for
//! a sandbox instead of 46, and a fourth more of a processor's time. Two things make the difference, and each is dealt with here.
//!
//! *Constants* that hold addresses are filled in by the loader, which makes their pages the process's own. They are put into
//! a file in memory, whose pages are everybody's. *The allocator* that suits a server spreads what it hands out over many
//! pages, for the good of many threads; a spawner has the system's.
#![expect(unsafe_code, reason = "an allocator is unsafe by its nature, as is mapping what the loader has made")]

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};

/// What a spawner finds in its environment.
const MARK: &CStr = c"QUARRY_SPAWNER";

/// Marks a program that is about to be started as a spawner.
pub(crate) fn mark(command: &mut std::process::Command) {
    // One arena is enough for one thread that works; another would be two more mappings to copy.
    command.env(MARK.to_str().expect("a constant"), "1").env("MALLOC_ARENA_MAX", "1");
}

/// An allocator that is another one but in a spawner, where it is the system's.
#[derive(Clone, Copy, Debug)]
pub struct Lean<A>(A);

impl<A> Lean<A> {
    /// Takes the one for everybody else.
    pub const fn new(other: A) -> Self {
        Self(other)
    }
}

/// What this process is, settled by its first allocation.
static ROLE: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const SPAWNER: u8 = 1;
const OTHER: u8 = 2;

fn is_spawner() -> bool {
    match ROLE.load(Ordering::Relaxed) {
        UNKNOWN => settle(),
        role => role == SPAWNER,
    }
}

#[cold]
fn settle() -> bool {
    // SAFETY: the name is a constant, and before the first allocation nobody has changed the environment.
    let is_marked = unsafe { !libc::getenv(MARK.as_ptr()).is_null() };
    ROLE.store(if is_marked { SPAWNER } else { OTHER }, Ordering::Relaxed);
    is_marked
}

// SAFETY: each call goes to one of two allocators, and in one process always to the same.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Lean<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { if is_spawner() { System.alloc(layout) } else { self.0.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { if is_spawner() { System.alloc_zeroed(layout) } else { self.0.alloc_zeroed(layout) } }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if is_spawner() { System.realloc(place, layout, bytes) } else { self.0.realloc(place, layout, bytes) }
        }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { if is_spawner() { System.dealloc(place, layout) } else { self.0.dealloc(place, layout) } }
    }
}

/// Makes the pages of this program's constants those of a file in memory. Whoever calls this has one thread. A kernel that
/// refuses leaves them as they are, which only costs more.
pub(crate) fn share_constants() {
    if let Some(constants) = constants() {
        let _ = share(constants);
    }
}

/// Finds the constants that the loader has filled in and closed: whole pages of the program itself.
fn constants() -> Option<&'static [u8]> {
    // SAFETY: the kernel tells where the program's headers lie, which stay as long as the process.
    let headers: &[libc::Elf64_Phdr] = unsafe {
        let (place, count) = (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM));
        if place == 0 {
            return None;
        }
        std::slice::from_raw_parts(place as *const libc::Elf64_Phdr, usize::try_from(count).ok()?)
    };
    let own = headers.iter().find(|header| header.p_type == libc::PT_PHDR)?;
    let moved = (headers.as_ptr() as u64).checked_sub(own.p_vaddr)?;
    let closed = headers.iter().find(|header| header.p_type == libc::PT_GNU_RELRO)?;
    let page = rustix::param::page_size() as u64;
    let begin = (moved + closed.p_vaddr) / page * page;
    let end = (moved + closed.p_vaddr + closed.p_memsz) / page * page;
    let bytes = usize::try_from(end.checked_sub(begin)?).ok()?;
    // SAFETY: the loader has made these pages readable and nothing else, so nobody writes them any more.
    Some(unsafe { std::slice::from_raw_parts(begin as *const u8, bytes) })
}

fn share(constants: &'static [u8]) -> rustix::io::Result<()> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels of before Linux 6.3 do not know that files in memory can be closed to execution.
    let made = rustix::fs::memfd_create("constants", flags | MemfdFlags::NOEXEC_SEAL);
    let mut file = File::from(made.or_else(|_| rustix::fs::memfd_create("constants", flags))?);
    file.write_all(constants).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let place = constants.as_ptr().cast_mut().cast();
    // SAFETY: the pages are replaced by pages of the same content at one stroke, and no other thread is there to see it.
    unsafe {
        rustix::mm::mmap(place, constants.len(), ProtFlags::READ, MapFlags::PRIVATE | MapFlags::FIXED, &file, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the kilobytes of the mapping at a place that are the process's own, and the mapping's name.
    fn own(place: &[u8]) -> (u64, String) {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("there is one");
        let begin = format!("{:x}-", place.as_ptr() as usize);
        let mut lines = maps.lines().skip_while(|line| !line.starts_with(&begin));
        let name = lines.next().expect("it is mapped").to_owned();
        let kilobytes = lines.find_map(|line| line.strip_prefix("Anonymous:")).expect("the kernel counts");
        (kilobytes.trim().trim_end_matches(" kB").parse().expect("a number"), name)
    }

    #[test]
    fn constants_are_shared_and_stay_what_they_are() {
        let constants = constants().expect("the loader has filled some in");
        let (before, copy) = (own(constants).0, constants.to_vec());
        assert!(before > 0);
        share(constants).expect("the kernel can");
        let (after, name) = own(constants);
        assert_eq!(after, 0, "{before} kB before: {name}");
        assert!(name.contains(" r--p ") && name.contains("memfd:constants"), "{name}");
        assert_eq!(constants, copy);
        // What is called by way of them still works.
        let words: Vec<Box<dyn std::fmt::Display>> = vec![Box::new(1), Box::new("two")];
        assert_eq!(words.iter().map(ToString::to_string).collect::<String>(), "1two");
    }

    #[test]
    fn what_is_no_spawner_has_the_other_allocator() {
        static OTHER: Lean<System> = Lean::new(System);
        assert!(!is_spawner());
        let layout = Layout::new::<u64>();
        // SAFETY: the layout is not empty, and what is got is given back with it.
        unsafe { OTHER.dealloc(OTHER.alloc_zeroed(layout), layout) };
    }
}
