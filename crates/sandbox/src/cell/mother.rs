//! Mothers: the threads that sit in cells' groups and clone what is born there.
//!
//! What a mother clones is a copy of the spawner's memory, and the kernel copies, and later takes down, one record for each
//! mapping. A thread as the standard library makes it brings four; so mothers' stacks are slices of one mapping, and their
//! guards are marks in it that cost no mapping of their own. Measured with twenty cells: a sandbox cost half the time.
#![expect(unsafe_code, reason = "a thread on a stack of our own has no safe wrapper")]

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of a mother's stack, which an init and a program's process go on using.
const STACK_BYTES: usize = 512 * 1024;
/// Bytes at a stack's end that nobody may touch.
const GUARD_BYTES: usize = 16 * 1024;
/// Mothers whose stacks share one mapping.
const STACKS_AT_ONCE: usize = 64;
/// `MADV_GUARD_INSTALL`, since Linux 6.13.
const GUARD_INSTALL: libc::c_int = 102;

type Job = Box<dyn FnOnce() -> rustix::io::Result<i32> + Send>;

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

/// A thread that sits in a cell's groups and clones.
#[derive(Debug)]
pub(super) struct Mother {
    jobs: Option<SyncSender<Job>>,
    answers: Receiver<rustix::io::Result<i32>>,
    thread: libc::pthread_t,
    stack: Stack,
}

/// What a mother begins with.
struct Beginning {
    /// The files that put her into her groups.
    tasks: Vec<PathBuf>,
    orders: Receiver<Job>,
    answers: SyncSender<rustix::io::Result<i32>>,
}

impl Mother {
    /// Starts one who writes herself into the files of her groups.
    pub(super) fn start(tasks: Vec<PathBuf>, stacks: &mut Stacks) -> rustix::io::Result<Self> {
        let (jobs, orders) = sync_channel::<Job>(1);
        let (sender, answers) = sync_channel(1);
        let stack = stacks.take()?;
        let beginning = Box::new(Beginning { tasks, orders, answers: sender });
        let thread = start(&stack, beginning)?;
        let mother = Self { jobs: Some(jobs), answers, thread, stack };
        match mother.answers.recv().unwrap_or(Err(Errno::SRCH)) {
            Ok(_) => Ok(mother),
            Err(errno) => {
                mother.end(stacks);
                Err(errno)
            }
        }
    }

    /// Has her clone.
    pub(super) fn bear(&self, job: Job) -> rustix::io::Result<i32> {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { self.answers.recv().unwrap_or(Err(Errno::SRCH)) } else { Err(Errno::SRCH) }
    }

    /// Waits for her end, and takes her stack back.
    pub(super) fn end(mut self, stacks: &mut Stacks) {
        self.jobs.take();
        // SAFETY: the thread was started by `start`, and nobody else waits for it.
        if unsafe { libc::pthread_join(self.thread, std::ptr::null_mut()) } == 0 {
            stacks.free.push(self.stack);
        }
    }
}

fn start(stack: &Stack, beginning: Box<Beginning>) -> rustix::io::Result<libc::pthread_t> {
    let beginning = Box::into_raw(beginning).cast::<c_void>();
    // SAFETY: the attributes are initialised before they are used and destroyed after; the stack belongs to this thread
    // alone, above its guard; `beginning` is taken over by `run`, or taken back here if there is no thread.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        let mut thread: libc::pthread_t = 0;
        let usable = stack.0.as_ptr().add(GUARD_BYTES).cast();
        let mut failed = libc::pthread_attr_init(&raw mut attributes);
        if failed == 0 {
            failed = libc::pthread_attr_setstack(&raw mut attributes, usable, STACK_BYTES - GUARD_BYTES);
            if failed == 0 {
                failed = libc::pthread_create(&raw mut thread, &raw const attributes, run, beginning);
            }
            libc::pthread_attr_destroy(&raw mut attributes);
        }
        if failed != 0 {
            drop(Box::from_raw(beginning.cast::<Beginning>()));
            return Err(Errno::from_raw_os_error(failed));
        }
        libc::pthread_setname_np(thread, c"mother".as_ptr());
        Ok(thread)
    }
}

/// What a mother does. A panic ends the process, as it does wherever it leaves a function of the C interface.
extern "C" fn run(beginning: *mut c_void) -> *mut c_void {
    // SAFETY: `start` made it for this thread alone.
    let beginning = unsafe { Box::from_raw(beginning.cast::<Beginning>()) };
    let me = rustix::thread::gettid().as_raw_nonzero().to_string();
    let sits = beginning.tasks.iter().try_for_each(|path| std::fs::write(path, &me));
    let sits = sits.map(|()| 0).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    if beginning.answers.send(sits).is_ok() {
        for job in beginning.orders {
            if beginning.answers.send(job()).is_err() {
                break;
            }
        }
    }
    std::ptr::null_mut()
}
