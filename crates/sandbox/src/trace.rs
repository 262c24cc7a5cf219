//! Tracing: how a sandbox's init learns that a signal is about to end a process, while the process still stands.
//!
//! Init seizes the program before it execs, and what the program starts is seized by the kernel. Every stop is passed on at
//! once but one: where a signal that leaves a core is about to be delivered to a process that does not catch it. Then all
//! of its threads are stopped, its core is written (`core.rs`), and the signal goes on, so the status stays true. At most
//! one core is kept, the program's own before another's; once there is one of another, only the program stays traced, so
//! that a fuzzer pays for its first crash and not for its thousands.
//! A sandbox whose programs may trace each other is not traced: a process has one tracer.
//! Invariant: init's loop is the only one that waits; between two of its turns nothing here holds a thread stopped.
#![expect(unsafe_code, reason = "no wrapper knows all of `ptrace` that is needed here, nor the filter's notices")]

use crate::core::{self, Subject, Thread};
use crate::spare::Untouched;
use crate::{message, system};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::net::RecvFlags;
use rustix::thread::futex;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Signals whose default is to leave a core.
const CORE_SIGNALS: [i32; 10] = [
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGSYS,
];

/// How long the threads of a process may take to stop; one that waits for a child of `vfork` does not.
const MAX_STOP: Duration = Duration::from_millis(500);

/// Between two looks at whether a thread has stopped.
const STOP_LOOK: Duration = Duration::from_micros(100);

/// Most threads of a process that are stopped, and shown in its core.
const MAX_THREADS: usize = 4096;

/// Longest `status` of a process.
const MAX_STATUS_BYTES: u64 = 16 << 10;

/// What is traced: everything that the program starts, and nothing outlives its tracer.
const OPTIONS: i32 =
    libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;

/// What a status that init has waited for comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A stop, which has been passed on.
    Passed,
    /// A process, or a thread of one, is gone: its status is the caller's affair.
    Gone,
}

/// A core that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// How long it is.
    pub(crate) bytes: u64,
    /// Whether memory had to be left out.
    pub(crate) is_truncated: bool,
    /// The signal.
    pub(crate) signal: i32,
    /// The process, as it is known inside.
    pub(crate) pid: i32,
    /// Its name.
    pub(crate) program: String,
}

/// By which a program and its init meet before it becomes the program: its end of their wire, on which it shows its filter's
/// listener, and a word of the memory that both have until then, in which init says that it has seized it.
pub(crate) struct Meeting {
    wire: OwnedFd,
    word: AtomicU32,
}

/// What init has said.
const NOTHING: u32 = 0;
const SEIZED: u32 = 1;
const MISSED: u32 = 2;

impl Meeting {
    /// Returns what both meet by, and init's end of the wire.
    pub(crate) fn new() -> rustix::io::Result<(Self, OwnedFd)> {
        message::pair().map(|(wire, inits)| (Self { wire, word: AtomicU32::new(NOTHING) }, inits))
    }

    /// Shows init the filter's listener, without waiting.
    pub(crate) fn show(&self, listener: &OwnedFd) -> rustix::io::Result<()> {
        message::send(self.wire.as_fd(), &[0], &[listener.as_fd()])
    }

    /// Waits until init has seized this process, which it mostly has long before.
    pub(crate) fn wait(&self) -> rustix::io::Result<()> {
        let is_seized = system::wait_while(&self.word, NOTHING, futex::Flags::PRIVATE) == SEIZED;
        if is_seized { Ok(()) } else { Err(rustix::io::Errno::SRCH) }
    }

    fn say(&self, word: u32) {
        self.word.store(word, Ordering::Release);
        // Nobody may be waiting.
        let _ = futex::wake(&self.word, futex::Flags::PRIVATE, 1);
    }
}

/// Takes the listener that a program has shown before it went its way, if it came so far.
pub(crate) fn shown(wire: &OwnedFd) -> Option<OwnedFd> {
    message::receive(wire.as_fd(), &mut [0], RecvFlags::DONTWAIT).ok()?.fds.pop()
}

/// Init's eye on a program and all that it starts.
pub(crate) struct Tracer {
    proc: OwnedFd,
    program: i32,
    bytes_max: u64,
    file: Option<File>,
    taken: Option<Taken>,
    untouched: Untouched,
}

impl Tracer {
    /// Takes the sandbox's `/proc`, and how long a core may be.
    pub(crate) fn new(proc: OwnedFd, bytes_max: u64) -> Self {
        Self { proc, program: 0, bytes_max, file: None, taken: None, untouched: Untouched { net: true, ipc: true } }
    }

    /// Seizes the program, which gets ready meanwhile and waits for this in the end; takes no memory. Init keeps
    /// `CAP_SYS_PTRACE` in its own user namespace, since the program may become another user inside; and their memory, which
    /// is one still, may be looked at for this moment alone, when nobody else is inside yet.
    pub(crate) fn meet(&mut self, program: i32, meeting: &Meeting) {
        system::set_dumpable(1);
        let seized = self.seize(program);
        system::set_dumpable(0);
        meeting.say(if seized.is_ok() { SEIZED } else { MISSED });
    }

    fn seize(&mut self, program: i32) -> io::Result<()> {
        self.program = program;
        request(libc::PTRACE_SEIZE, program, OPTIONS as usize)
    }

    /// Returns the descriptor of the sandbox's `/proc`.
    pub(crate) fn proc(&self) -> i32 {
        self.proc.as_raw_fd()
    }

    /// Deals with what `waitpid(-1, …, __WALL)` has told. An empty file is asked for when the first core is to be written.
    pub(crate) fn handle(&mut self, pid: i32, status: i32, empty: &mut dyn FnMut() -> io::Result<File>) -> Turn {
        if !libc::WIFSTOPPED(status) {
            return Turn::Gone;
        }
        let signal = libc::WSTOPSIG(status);
        // What cannot be passed on any more has been killed meanwhile, and its end will be told.
        let _ = match status >> 16 {
            0 if CORE_SIGNALS.contains(&signal) => self.deliver(pid, signal, empty),
            0 => self.go_on(pid, signal),
            libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => request(libc::PTRACE_LISTEN, pid, 0),
            _ => self.go_on(pid, 0),
        };
        Turn::Passed
    }

    /// Returns what nobody has made anything in, as far as notes were kept.
    pub(crate) fn untouched(&self) -> Untouched {
        self.untouched
    }

    /// Returns the core that was taken, and its file.
    pub(crate) fn finish(self) -> Option<(Taken, File)> {
        self.taken.zip(self.file)
    }

    /// Lets a thread go on, with a signal or without; for good, once there is nothing more to learn of its process.
    fn go_on(&self, pid: i32, signal: i32) -> io::Result<()> {
        let is_foreign = || self.process(pid).is_none_or(|process| process.pid != self.program);
        let is_done = self.bytes_max == 0 || (self.taken.is_some() && is_foreign());
        request(if is_done { libc::PTRACE_DETACH } else { libc::PTRACE_CONT }, pid, signal as usize)
    }

    /// Delivers a signal that leaves a core if nobody catches it.
    fn deliver(&mut self, tid: i32, signal: i32, empty: &mut dyn FnMut() -> io::Result<File>) -> io::Result<()> {
        let wanted = self.process(tid).filter(|process| process.dies_of(signal) && self.wants(process.pid));
        let Some(process) = wanted else { return self.go_on(tid, signal) };
        let mut stopped = self.stop_others(process.pid, tid);
        // A core that cannot be written is none; the process dies all the same.
        if let Ok(file) = self.file.take().map_or_else(&mut *empty, Ok) {
            self.taken = self.take(&process, (tid, signal), stopped.keys().copied(), &file).ok();
            self.file = Some(file);
        }
        let answer = request(libc::PTRACE_CONT, tid, signal as usize);
        while let Some((other, status)) = stopped.pop_first() {
            self.handle(other, status, empty);
        }
        answer
    }

    /// Tells whether a process's core would be kept.
    fn wants(&self, pid: i32) -> bool {
        self.bytes_max > 0 && self.taken.as_ref().is_none_or(|taken| pid == self.program && taken.pid != pid)
    }

    /// Writes a core in place of the one before.
    fn take(
        &self,
        process: &Process,
        (tid, signal): (i32, i32),
        others: impl Iterator<Item = i32>,
        file: &File,
    ) -> io::Result<Taken> {
        let threads: Vec<_> = std::iter::once(tid).chain(others).filter_map(Thread::read).collect();
        let subject =
            Subject { proc: self.proc.as_fd(), pid: process.pid, signal, account: account(tid, signal), threads };
        file.set_len(0)?;
        let written = subject.write(file, self.bytes_max)?;
        Ok(Taken {
            bytes: written.bytes,
            is_truncated: written.is_truncated,
            signal,
            pid: process.pid,
            program: process.name.clone(),
        })
    }

    /// Stops all threads of a process but one, and returns with which status each has stopped. What does not stop in time
    /// is left running.
    fn stop_others(&self, pid: i32, tid: i32) -> BTreeMap<i32, i32> {
        let mut stopped = BTreeMap::new();
        let mut seen = BTreeSet::from([tid]);
        let end = Instant::now() + MAX_STOP;
        // Again and again, because a thread that still runs may start another.
        loop {
            let fresh: Vec<_> = self.threads(pid).into_iter().filter(|other| seen.insert(*other)).collect();
            // One that starts others as fast as they are stopped shall not be waited for.
            if fresh.is_empty() || Instant::now() >= end {
                return stopped;
            }
            for other in fresh {
                // Who cannot be interrupted is gone, or nobody's to stop.
                let is_asked = request(libc::PTRACE_INTERRUPT, other, 0).is_ok();
                if let Some(status) = is_asked.then(|| wait(other, end)).flatten() {
                    stopped.insert(other, status);
                }
            }
        }
    }

    /// Lists the threads of a process.
    fn threads(&self, pid: i32) -> Vec<i32> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(folder) = openat(self.proc.as_fd(), format!("{pid}/task"), flags, Mode::empty()) else {
            return Vec::new();
        };
        let Ok(entries) = Dir::new(folder) else { return Vec::new() };
        let number = |entry: rustix::fs::DirEntry| entry.file_name().to_str().ok()?.parse().ok();
        entries.filter_map(|entry| number(entry.ok()?)).take(MAX_THREADS).collect()
    }

    /// Looks at the process of a thread.
    fn process(&self, tid: i32) -> Option<Process> {
        Process::read(self.proc.as_fd(), tid)
    }

    /// Answers one notice of the filter. Whether somebody may `ptrace`: only who shares its memory with the traced one may;
    /// init lets go of it then, since a process has one tracer. That somebody makes a socket, or a queue, a semaphore or shared
    /// memory: they may, and it is kept in mind.
    pub(crate) fn answer(&mut self, listener: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the kernel wants the notice zeroed, and fills it.
        let mut notice: libc::seccomp_notif = unsafe { zeroed() };
        // SAFETY: the notice is as long as the kernel's own of this version, and longer ones are not written.
        let got = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notice) };
        if got != 0 {
            return Err(io::Error::last_os_error());
        }
        let is_good = match i64::from(notice.data.nr) {
            libc::SYS_ptrace => {
                self.lets_trace(notice.pid as i32, notice.data.args[0] as u32, notice.data.args[1] as i32)
            }
            libc::SYS_socket | libc::SYS_socketpair => {
                self.untouched.net = false;
                true
            }
            _ => {
                self.untouched.ipc = false;
                true
            }
        };
        let mut answer = libc::seccomp_notif_resp {
            id: notice.id,
            val: 0,
            error: if is_good { 0 } else { -libc::EPERM },
            flags: if is_good { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32 } else { 0 },
        };
        // SAFETY: the kernel reads the answer and writes nothing. Who asked may be gone, which is no harm.
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
        Ok(())
    }

    /// Settles whether one thread may trace another, and lets go of the other's process if it may.
    fn lets_trace(&self, asker: i32, what: u32, target: i32) -> bool {
        let (Some(asking), Some(traced)) = (self.process(asker), self.process(target)) else { return false };
        if asking.pid == traced.pid || !shares_memory(asking.pid, traced.pid) {
            return false;
        }
        if what == libc::PTRACE_ATTACH || what == libc::PTRACE_SEIZE {
            for (other, _) in self.stop_others(traced.pid, 0) {
                let _ = request(libc::PTRACE_DETACH, other, 0);
            }
        }
        true
    }
}

/// `kcmp`'s word for memory.
const KCMP_VM: i32 = 1;

/// Tells whether two processes have one memory between them.
fn shares_memory(one: i32, other: i32) -> bool {
    // SAFETY: the call compares and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) == 0 }
}

/// What `/proc` says of a process that counts here.
struct Process {
    pid: i32,
    name: String,
    caught: u64,
    ignored: u64,
}

impl Process {
    fn read(proc: BorrowedFd<'_>, tid: i32) -> Option<Self> {
        let text = core::read(proc, &format!("{tid}/status"), MAX_STATUS_BYTES).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let mask = |name| u64::from_str_radix(value(name)?, 16).ok();
        Some(Self {
            pid: value("Tgid:")?.parse().ok()?,
            name: value("Name:")?.to_owned(),
            caught: mask("SigCgt:")?,
            ignored: mask("SigIgn:")?,
        })
    }

    /// Tells whether a signal that is being delivered ends the process. What was forced upon it although it was ignored
    /// or blocked has been set back to its default by then.
    const fn dies_of(&self, signal: i32) -> bool {
        (self.caught | self.ignored) & (1 << (signal - 1)) == 0
    }
}

/// Waits until a thread has stopped; none if it is gone, or does not in time. How it ended is left for init's loop to learn:
/// it may be the program.
fn wait(tid: i32, end: Instant) -> Option<i32> {
    const STOPPED: i32 = 0x7f;
    loop {
        match look(tid, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT)? {
            Some((libc::CLD_TRAPPED | libc::CLD_STOPPED, _)) => {
                let (_, code) = look(tid, libc::WSTOPPED)??;
                return Some((code << 8) | STOPPED);
            }
            Some(_) => return None,
            None if Instant::now() < end => std::thread::sleep(STOP_LOOK),
            None => return None,
        }
    }
}

/// Asks what became of a thread: how its state changed, if it did; none if it is nobody's to ask for.
#[expect(clippy::option_option, reason = "no such thread, and nothing new of it, are two answers of the kernel's")]
fn look(tid: i32, what: i32) -> Option<Option<(i32, i32)>> {
    let id = libc::id_t::try_from(tid).ok()?;
    // SAFETY: zeroes are a valid account, which the kernel fills; of a child the fields that are read are those it fills.
    unsafe {
        let mut told: libc::siginfo_t = zeroed();
        let asked = libc::waitid(libc::P_PID, id, &raw mut told, what | libc::__WALL | libc::WNOHANG);
        (asked == 0).then(|| (told.si_pid() != 0).then(|| (told.si_code, told.si_status())))
    }
}

/// Returns a signal's own account.
fn account(tid: i32, signal: i32) -> [u8; 128] {
    let mut account = [0; 128];
    // SAFETY: the kernel writes a `siginfo`, which is as long as this.
    let answer = unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, tid, null_mut::<c_void>(), account.as_mut_ptr()) };
    if answer != 0 {
        account = [0; 128];
        account[..4].copy_from_slice(&signal.to_le_bytes());
    }
    account
}

/// Makes a request whose argument is a number.
fn request(what: libc::c_uint, pid: i32, argument: usize) -> io::Result<()> {
    // SAFETY: the requests made here read and write no memory of ours.
    match unsafe { libc::ptrace(what, pid, null_mut::<c_void>(), argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;
