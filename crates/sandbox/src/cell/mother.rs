//! Mothers: the threads that sit in cells' groups and clone what is born there.
//!
//! What a mother clones is a copy of the spawner's memory, and the kernel copies, and later takes down, one record for each
//! mapping and one for each page. So a mother costs as little of both as can be: her stack is a slice of one mapping, its
//! guard is a mark that costs no mapping of its own, and she is no thread to the standard library nor to the allocator, but
//! the spawner's main thread on another stack. The two take turns by one word: whoever has not the turn waits in the kernel
//! and touches nothing. Measured: with a heap for each of twenty mothers a sandbox copied four times as many pages.
#![expect(
    unsafe_code,
    reason = "a thread on a stack of our own, which shares its maker's own memory, has no safe wrapper"
)]

use crate::{prompt, system};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::futex;
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a mother's stack, which an init and a program's process go on using.
const STACK_BYTES: usize = 512 * 1024;
/// Bytes at a stack's end that nobody may touch.
const GUARD_BYTES: usize = 16 * 1024;
/// Mothers whose stacks share one mapping.
const STACKS_AT_ONCE: usize = 64;
/// `MADV_GUARD_INSTALL`, since Linux 6.13.
const GUARD_INSTALL: libc::c_int = 102;

type Job = Box<dyn FnOnce() -> rustix::io::Result<i32>>;

/// Room for mothers' stacks.
#[derive(Debug, Default)]
pub(super) struct Stacks {
    /// Where the next one lies, and how many more there is room for.
    next: Option<(NonNull<u8>, usize)>,
    /// Those whose threads have ended.
    free: Vec<Stack>,
}

/// One mother's stack.
#[derive(Debug)]
struct Stack(NonNull<u8>);

// SAFETY: it is plain memory, of which there is one owner.
unsafe impl Send for Stack {}
// SAFETY: nothing is reached through a shared reference.
unsafe impl Sync for Stack {}
// SAFETY: it hands out memory that nobody else has, to one owner each.
unsafe impl Send for Stacks {}
// SAFETY: nothing is reached through a shared reference.
unsafe impl Sync for Stacks {}

impl Stacks {
    fn take(&mut self) -> rustix::io::Result<Stack> {
        if let Some(stack) = self.free.pop() {
            return Ok(stack);
        }
        let (place, left) = match self.next {
            Some((place, left)) if left > 0 => (place, left),
            _ => (map()?, STACKS_AT_ONCE),
        };
        // SAFETY: within the mapping, or right behind its end after the last one, where nothing is read.
        self.next = Some((unsafe { place.add(STACK_BYTES) }, left - 1));
        guard(place)?;
        Ok(Stack(place))
    }
}

/// Maps room for many stacks; it stays as long as the process.
fn map() -> rustix::io::Result<NonNull<u8>> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK;
    let (bytes, access) = (STACK_BYTES * STACKS_AT_ONCE, ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: the kernel chooses the place, so nothing that is there is replaced.
    let place = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, access, flags) }?;
    NonNull::new(place.cast()).ok_or(Errno::NOMEM)
}

/// Makes the lowest part of a stack unusable.
fn guard(place: NonNull<u8>) -> rustix::io::Result<()> {
    // SAFETY: the range belongs to a stack that is not used yet.
    if unsafe { libc::madvise(place.as_ptr().cast(), GUARD_BYTES, GUARD_INSTALL) } == 0 {
        return Ok(());
    }
    // SAFETY: as above; this splits the mapping, which costs more and guards as well.
    unsafe { rustix::mm::mprotect(place.as_ptr().cast(), GUARD_BYTES, rustix::mm::MprotectFlags::empty()) }
}

/// Whose turn it is.
const MAIN: u32 = 0;
const MOTHER: u32 = 1;
/// A mother who reads this ends.
const END: u32 = 2;

/// What the two share, and take turns at.
struct Desk {
    turn: AtomicU32,
    /// 0 once the thread is gone; until then the kernel keeps its number here.
    lives: AtomicU32,
    job: UnsafeCell<Option<Job>>,
    answer: UnsafeCell<rustix::io::Result<i32>>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("turn", &self.turn).finish_non_exhaustive()
    }
}

impl Desk {
    /// Gives the turn to the other.
    fn pass(&self, to: u32) {
        self.turn.store(to, Ordering::Release);
        // Nobody waits if the other has not come to it yet, and then sees it.
        let _ = futex::wake(&self.turn, futex::Flags::PRIVATE, 1);
    }

    /// Waits for a turn that is not the other's; says which it is.
    fn wait(&self, others: u32) -> u32 {
        system::wait_while(&self.turn, others, futex::Flags::PRIVATE)
    }
}

/// A thread that sits in a cell's groups and clones. Only the thread that started it may use it.
#[derive(Debug)]
pub(super) struct Mother {
    desk: Box<Desk>,
    stack: Stack,
}

impl Mother {
    /// Starts one who writes herself into the files of her groups.
    pub(super) fn start(tasks: Vec<PathBuf>, stacks: &mut Stacks) -> rustix::io::Result<Self> {
        let stack = stacks.take()?;
        let sit = move || {
            let me = rustix::thread::gettid().as_raw_nonzero().to_string();
            let sits = tasks.iter().try_for_each(|path| std::fs::write(path, &me));
            sits.map(|()| 0).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        let desk = Box::new(Desk {
            turn: AtomicU32::new(MOTHER),
            lives: AtomicU32::new(0),
            job: UnsafeCell::new(Some(Box::new(sit))),
            answer: UnsafeCell::new(Err(Errno::SRCH)),
        });
        if let Err(errno) = start(&stack, &desk) {
            stacks.free.push(stack);
            return Err(errno);
        }
        let mother = Self { desk, stack };
        if let Err(errno) = mother.answer() {
            mother.end(stacks);
            return Err(errno);
        }
        Ok(mother)
    }

    /// Has her clone.
    pub(super) fn bear(&self, job: Job) -> rustix::io::Result<i32> {
        // SAFETY: it is this thread's turn, so she does not look.
        unsafe { *self.desk.job.get() = Some(job) };
        self.desk.pass(MOTHER);
        self.answer()
    }

    fn answer(&self) -> rustix::io::Result<i32> {
        self.desk.wait(MOTHER);
        // SAFETY: it is this thread's turn again, so she does not write.
        unsafe { *self.desk.answer.get() }
    }

    /// Waits for her end, and takes her stack back.
    pub(super) fn end(self, stacks: &mut Stacks) {
        self.desk.pass(END);
        // The kernel wakes who waits for this word without knowing in whose memory it is.
        loop {
            // One look: what it is by a second could be 0 already, and to that nothing ever comes.
            let lives = self.desk.lives.load(Ordering::Acquire);
            if lives == 0 {
                break;
            }
            system::wait_while(&self.desk.lives, lives, futex::Flags::empty());
        }
        stacks.free.push(self.stack);
    }
}

/// Starts the thread. Until it passes the turn on, the caller may only wait.
fn start(stack: &Stack, desk: &Desk) -> rustix::io::Result<()> {
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID;
    let lives = desk.lives.as_ptr();
    // SAFETY: the stack belongs to this thread alone, above its guard; the desk outlives the thread, which `end` waits for. It
    // uses the caller's thread-local memory, which the caller does not touch while it is the other's turn.
    let tid = unsafe {
        let top = stack.0.as_ptr().add(STACK_BYTES).cast();
        let desk = std::ptr::from_ref(desk).cast_mut().cast();
        libc::clone(run, top, flags, desk, lives, std::ptr::null_mut::<c_void>(), lives)
    };
    if tid < 0 { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN)) } else { Ok(()) }
}

/// What a mother does. A panic ends the process, as it does wherever it leaves a function of the C interface.
extern "C" fn run(desk: *mut c_void) -> libc::c_int {
    // SAFETY: `start` says that it outlives this thread, and it is only ever shared.
    let desk = unsafe { &*desk.cast::<Desk>() };
    // SAFETY: the call only reads a string. Its name is all that one sees of her from outside.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"mother".as_ptr()) };
    // What she clones is built while others wait for word.
    prompt::end();
    while desk.wait(MAIN) == MOTHER {
        // SAFETY: it is her turn, so nobody else looks at the desk.
        unsafe {
            let job = (*desk.job.get()).take();
            *desk.answer.get() = job.map_or(Err(Errno::SRCH), |job| job());
        }
        desk.pass(MAIN);
    }
    // SAFETY: the call ends this thread alone and takes no pointer.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    0
}
