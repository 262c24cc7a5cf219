//! The child that unpacks: it gives away everything before it reads the first byte of the archive.
#![expect(
    unsafe_code,
    reason = "closing inherited descriptors, namespaces and a filter of system calls have no safe wrapper"
)]

use super::{MAX_MESSAGE_BYTES, Outcome, Task, UnpackError, layer};
use crate::Place;
use rustix::fs::CWD;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{Resource, Rlimit, Signal, fchdir, getrlimit, pivot_root, setrlimit};
use rustix::thread::{self, CapabilitySet, CapabilitySets, UnshareFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

/// The byte by which the child asks for its ids, and by which it learns that it has them.
pub(super) const ASK: u8 = b'?';
/// Bytes of memory that reading an archive may take, besides what the program takes to start.
const MAX_MEMORY_BYTES: u64 = 512 << 20;
/// Files and folders open at once: the depth of a tree that is removed, and some.
const MAX_OPEN: u64 = 512;

/// Runs the child. A program that starts it does so before it has any thread.
pub fn main() -> ExitCode {
    crate::prompt::end();
    if close_inherited().is_err() {
        return ExitCode::FAILURE;
    }
    // As a file, so that it is written by `write`, which the list of system calls has anyway.
    let Ok(mut socket) = io::stdout().as_fd().try_clone_to_owned().map(File::from) else {
        return ExitCode::FAILURE;
    };
    let outcome = obey(&mut socket);
    let text = serde_json::to_vec(&outcome).expect("an outcome is plain words and numbers");
    if socket.write_all(&text).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn obey(socket: &mut File) -> Outcome {
    let task: Task = hear(socket).map_err(|error| UnpackError::machine("an unpacking was told nothing", &error))?;
    let input = io::stdin().as_fd().try_clone_to_owned();
    let input = File::from(input.map_err(|error| UnpackError::machine("an unpacking has no input", &error))?);
    confine(socket, &task)?;
    layer::unpack(input, &task)
}

/// Reads the line that says what to do.
fn hear(socket: &mut File) -> io::Result<Task> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() as u64 <= MAX_MESSAGE_BYTES {
        socket.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return serde_json::from_slice(&line).map_err(io::Error::other);
        }
        line.push(byte[0]);
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn confine(socket: &mut File, task: &Task) -> Result<(), UnpackError> {
    let step = |what: &'static str| move |error: rustix::io::Errno| UnpackError::machine(what, &error.into());
    let spaces = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    let memory = memory_now().map_err(|error| UnpackError::machine("the memory in use is unknown", &error))?;
    // SAFETY: of these flags only `CLONE_FILES` could surprise the rest of the program, and it is not among them.
    unsafe { thread::unshare_unsafe(spaces) }.map_err(step("a user namespace cannot be made"))?;
    let mut answer = [0];
    let asked = socket.write_all(&[ASK]).and_then(|()| socket.read_exact(&mut answer));
    asked.map_err(|error| UnpackError::machine("an unpacking was given no ids", &error))?;
    become_root(task.place).map_err(step("an unpacking cannot take its ids"))?;
    // A change of ids clears this, so it stands here and not earlier.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(step("no signal when the parent dies"))?;
    enter_folder().map_err(step("an unpacking cannot enter its folder"))?;
    drop_privileges(task.place).map_err(step("an unpacking cannot drop its privileges"))?;
    bound(memory, task.seconds_max).map_err(step("an unpacking cannot be bounded"))?;
    filter().map_err(|error| UnpackError::machine("system calls cannot be filtered", &error))
}

/// Returns the bytes of address space that this program takes.
fn memory_now() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: Option<u64> = text.split(' ').next().and_then(|pages| pages.parse().ok());
    pages.map(|pages| pages * rustix::param::page_size() as u64).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Closes everything but the three usual descriptors.
fn close_inherited() -> io::Result<()> {
    // SAFETY: the program has only just begun and holds nothing of its own yet.
    let done = unsafe { libc::close_range(3, u32::MAX, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn become_root(place: Place) -> Result<(), rustix::io::Errno> {
    use rustix::process::{Gid, Uid};
    if let Place::Range { .. } = place {
        thread::set_thread_groups(&[])?;
        thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    }
    Ok(())
}

/// Makes the folder that this process was started in its root, and lets go of everything else.
fn enter_folder() -> Result<(), rustix::io::Errno> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // By handle, because whoever root is inside may not be allowed to walk the folders above.
    let tree = open_tree(CWD, ".", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    move_mount(&tree, "", CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&tree)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// Keeps only what files of several owners take.
fn drop_privileges(place: Place) -> Result<(), rustix::io::Errno> {
    let mut kept = CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER | CapabilitySet::FSETID;
    if let Place::Range { .. } = place {
        kept |= CapabilitySet::CHOWN;
    }
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match thread::remove_capability_from_bounding_set(one) {
            // The kernel knows fewer than 64.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    thread::set_no_new_privs(true)?;
    thread::set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )
}

fn bound(memory: u64, seconds: u64) -> Result<(), rustix::io::Errno> {
    let limits = [
        (Resource::As, memory.saturating_add(MAX_MEMORY_BYTES)),
        (Resource::Cpu, seconds),
        (Resource::Nofile, MAX_OPEN),
        (Resource::Core, 0),
    ];
    for (resource, limit) in limits {
        let maximum = getrlimit(resource).maximum.map_or(limit, |maximum| maximum.min(limit));
        setrlimit(resource, Rlimit { current: Some(maximum), maximum: Some(maximum) })?;
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(())
}

/// The system calls that reading an archive and writing a tree take; any other is answered with `EPERM`.
const CALLS: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_ftruncate,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
    libc::SYS_fcntl,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Installs the list. `stat` and `lstat` and their like of old machines are not on it: nothing here calls them.
fn filter() -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let equal = |k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let answer = libc::BPF_RET | libc::BPF_K;
    // The architecture stands at byte 4 of what a filter sees, the number of the call at byte 0.
    let mut program = vec![
        statement(load, 4),
        equal(ARCHITECTURE, 1, 0),
        statement(answer, libc::SECCOMP_RET_KILL_PROCESS),
        statement(load, 0),
    ];
    for call in CALLS {
        program.push(equal(u32::try_from(*call).expect("numbers of calls are small"), 0, 1));
        program.push(statement(answer, libc::SECCOMP_RET_ALLOW));
    }
    program.push(statement(answer, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    let program =
        libc::sock_fprog { len: u16::try_from(program.len()).expect("is short"), filter: program.as_mut_ptr() };
    // SAFETY: the program is a whole one, its length is right, and it lives until the call returns; the kernel copies it.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
