//! System calls that no safe wrapper has, each behind a function that cannot be misused: this is where the engine says
//! `unsafe`. Nothing here knows what a sandbox is.
#![expect(unsafe_code, reason = "clone3, execve, ioctls on network interfaces and their like have no safe wrapper")]

use rustix::io::Errno;
use rustix::thread::futex;
use std::ffi::{CStr, CString};
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

type Answer<T> = rustix::io::Result<T>;

/// The namespaces that a sandbox may have of its own, and how it is born.
pub(crate) const NEW_USER: u64 = libc::CLONE_NEWUSER as u64;
pub(crate) const NEW_PIDS: u64 = libc::CLONE_NEWPID as u64;
pub(crate) const NEW_MOUNTS: u64 = libc::CLONE_NEWNS as u64;
pub(crate) const NEW_NET: u64 = libc::CLONE_NEWNET as u64;
pub(crate) const NEW_QUEUES: u64 = libc::CLONE_NEWIPC as u64;
pub(crate) const NEW_REST: u64 =
    (libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP) as u64;
const INTO_CGROUP: u64 = 0x2_0000_0000;

fn answer(value: libc::c_long) -> Answer<libc::c_long> {
    if value < 0 { Err(last()) } else { Ok(value) }
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Makes a copy of this process and has `child` run in it, which never returns. The caller sees to it that no other thread
/// of this process holds a lock at this moment, since the copy would never see it released.
pub(crate) fn clone_process(
    flags: u64,
    group: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> std::convert::Infallible,
) -> Answer<i32> {
    let mut arguments =
        CloneArguments { flags, exit_signal: libc::SIGCHLD.cast_unsigned().into(), ..CloneArguments::default() };
    if let Some(group) = group {
        arguments.flags |= INTO_CGROUP;
        arguments.cgroup = group.as_raw_fd().cast_unsigned().into();
    }
    // SAFETY: without CLONE_VM the child has memory of its own, and its stack is a copy of this one; the structure lives
    // until the call returns in both.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut arguments), size_of::<CloneArguments>()) };
    if answer(pid)? == 0 {
        child();
    }
    i32::try_from(pid).map_err(|_| Errno::RANGE)
}

/// Waits until a word is another than this; nothing but the kernel is called meanwhile.
pub(crate) fn wait_while(word: &AtomicU32, value: u32, flags: futex::Flags) -> u32 {
    loop {
        let found = word.load(Ordering::Acquire);
        if found != value {
            return found;
        }
        // Whatever ends this, the word is looked at again.
        let _ = futex::wait(word, flags, value, None);
    }
}

/// Bytes of the stack of a process that shares its maker's memory.
const SHARER_STACK_BYTES: usize = 512 * 1024;

/// Makes a process that has this one's memory until it executes something or ends, which must not be long after `meanwhile`
/// has returned: only then does this return. Nothing is copied for it, which is most of what a process costs otherwise.
///
/// The two have one allocator, and each takes itself for the thread that owns it. So this process does nothing but call the
/// kernel until the other has left: `meanwhile` takes no memory and gives none back.
pub(crate) fn share_with<T>(
    child: impl FnOnce() -> std::convert::Infallible,
    meanwhile: impl FnOnce(i32) -> T,
) -> Answer<(i32, T)> {
    extern "C" fn begin<F: FnOnce() -> std::convert::Infallible>(child: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `share_with` keeps the place until this process has left its memory, and nobody else takes from it.
        let child = unsafe { &mut *child.cast::<Option<F>>() }.take();
        let _never = child.map(|child| child());
        leave(127)
    }
    fn with<F: FnOnce() -> std::convert::Infallible>(_: &Option<F>) -> extern "C" fn(*mut libc::c_void) -> libc::c_int {
        begin::<F>
    }
    let access = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
    let flags = rustix::mm::MapFlags::PRIVATE | rustix::mm::MapFlags::NORESERVE | rustix::mm::MapFlags::STACK;
    // SAFETY: the kernel chooses the place, so nothing that is there is replaced.
    let stack = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), SHARER_STACK_BYTES, access, flags) }?;
    let mut child = Some(child);
    let entry = with(&child);
    // The kernel writes who lives there, and 0 when it has left, or is gone.
    let there = AtomicI32::new(0);
    let flags = libc::CLONE_VM | libc::CLONE_PARENT_SETTID | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
    // SAFETY: the stack is the child's alone and is left in place until it has gone; `child` and `there` outlive that too,
    // since this waits for it below.
    let pid = unsafe {
        libc::clone(
            entry,
            stack.cast::<u8>().add(SHARER_STACK_BYTES).cast(),
            flags,
            (&raw mut child).cast(),
            there.as_ptr(),
            std::ptr::null_mut::<libc::c_void>(),
            there.as_ptr(),
        )
    };
    let outcome = answer(pid.into()).map(|_| meanwhile(pid));
    loop {
        let lives = there.load(Ordering::Acquire);
        if lives == 0 || pid < 0 {
            break;
        }
        // SAFETY: the word outlives the call, which returns when it changes.
        unsafe {
            libc::syscall(libc::SYS_futex, there.as_ptr(), libc::FUTEX_WAIT, lives, std::ptr::null::<libc::timespec>());
        }
    }
    // The stack stays: to unmap it now would interrupt every processor that either has run on.
    outcome.map(|outcome| (pid, outcome))
}

/// Ends this process at once, without running anything that was meant for its parent.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: the call takes no pointer and does not return.
    unsafe { libc::_exit(code) }
}

/// What became of a child.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waited {
    /// It is in this state, as `waitpid` words it.
    State(i32, i32),
    /// There are children, but nothing has become of them.
    Nothing,
    /// There is no child.
    Childless,
}

/// Asks what became of any child; waits for it unless `options` has `WNOHANG`.
pub(crate) fn wait_any(options: i32) -> Waited {
    wait_for(-1, options)
}

/// Asks what became of one child.
pub(crate) fn wait_for(pid: i32, options: i32) -> Waited {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a place for an int.
        let pid = unsafe { libc::waitpid(pid, &raw mut status, options | libc::__WALL) };
        match pid {
            0 => return Waited::Nothing,
            -1 if last() == Errno::INTR => {}
            -1 => return Waited::Childless,
            pid => return Waited::State(pid, status),
        }
    }
}

/// Sends a signal as `kill` does: -1 means everything that may be reached, another negative number a group.
pub(crate) fn kill(pid: i32, signal: i32) -> Answer<()> {
    // SAFETY: the call takes no pointer.
    answer(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Returns what the children that were waited for used: microseconds, peak bytes, bytes read and written.
pub(crate) fn children_usage() -> (u64, u64, u64, u64) {
    // SAFETY: zeroes are a valid `rusage`, and the call fills it in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let us = |time: libc::timeval| time.tv_sec.cast_unsigned() * 1_000_000 + time.tv_usec.cast_unsigned();
    (
        us(usage.ru_utime) + us(usage.ru_stime),
        usage.ru_maxrss.cast_unsigned() * 1024,
        usage.ru_inblock.cast_unsigned() * 512,
        usage.ru_oublock.cast_unsigned() * 512,
    )
}

/// Closes every descriptor but these, which must be in ascending order.
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut first: libc::c_uint = 0;
    for fd in keep {
        let fd = fd.cast_unsigned();
        if fd > first {
            close_range(first, fd - 1);
        }
        first = fd + 1;
    }
    close_range(first, libc::c_uint::MAX);
}

fn close_range(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: whoever calls `close_all_but` is a fresh child that uses no other descriptor again.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, last, 0);
    }
}

/// Closes a descriptor that its owner will never close: in a copy of the process that owns it.
pub(crate) fn close_one(fd: &OwnedFd) {
    // SAFETY: callers are children that never return to where the owner would be dropped.
    unsafe {
        libc::close(fd.as_raw_fd());
    }
}

/// Makes these the descriptors 0, 1 and 2.
pub(crate) fn set_stdio(fds: [RawFd; 3]) -> Answer<()> {
    for (to, from) in (0..).zip(fds) {
        // SAFETY: the calls take no pointer, and descriptors 0 to 2 belong to nobody in a fresh child.
        answer(unsafe { if from == to { libc::fcntl(from, libc::F_SETFD, 0) } else { libc::dup2(from, to) } }.into())?;
    }
    Ok(())
}

/// Gives each of the first three descriptors that is closed something harmless, so that nothing else takes its number.
pub(crate) fn occupy_stdio() {
    for fd in 0..3 {
        // SAFETY: the calls take no pointer but one to a constant string.
        unsafe {
            if libc::fcntl(fd, libc::F_GETFD) < 0 {
                libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            }
        }
    }
}

/// What `mount_setattr` is to change.
pub(crate) const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(crate) const NO_SUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(crate) const NO_DEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(crate) const NO_EXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Sets attributes of a mount and, if `flags` has `AT_RECURSIVE`, of all beneath it; nothing is changed if one refuses.
pub(crate) fn mount_set(mount: BorrowedFd<'_>, attributes: u64, flags: i32) -> Answer<()> {
    // SAFETY: zeroes are a valid `mount_attr`, and the call only reads it.
    answer(unsafe {
        let mut attr: libc::mount_attr = std::mem::zeroed();
        attr.attr_set = attributes;
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH,
            std::ptr::from_ref(&attr),
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Joins a new session keyring without a name, so that no key of whoever started us is in reach.
pub(crate) fn join_keyring() {
    // SAFETY: a null name means an anonymous keyring. A kernel without keyrings refuses, and then there is nothing to hide.
    unsafe {
        libc::syscall(libc::SYS_keyctl, 1, std::ptr::null::<u8>());
    }
}

/// Sets both limits of one resource.
pub(crate) fn limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> Answer<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the call only reads `limit`.
    answer(unsafe { libc::setrlimit(resource, &raw const limit) }.into()).map(drop)
}

/// Takes a terminal for this session's own.
pub(crate) fn take_terminal(fd: BorrowedFd<'_>) -> Answer<()> {
    // SAFETY: the request takes an int, not a pointer.
    answer(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Handles a signal by doing nothing, so that it interrupts what waits.
pub(crate) fn interrupt_on(signal: i32) {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler touches nothing.
    unsafe {
        libc::signal(signal, nothing as *const () as libc::sighandler_t);
    }
}

/// Blocks one signal.
pub(crate) fn block(signal: i32) {
    // SAFETY: zeroes are a valid set, and the calls only write and read it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Has no signal ignored that whoever started this process had ignored, as a shell does for what runs in its background;
/// every process made from now on has that from this one. A broken pipe stays an error where we write ourselves.
pub(crate) fn ignore_no_signals() {
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: the default touches no memory; what cannot be set is refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Sets back what this process does otherwise with signals than a fresh one: the runtime ignores PIPE, and init handles and
/// blocks CHLD.
pub(crate) fn default_signals() {
    // SAFETY: zeroes are a valid set, and the calls only read it.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Gives the calling thread, which shares no files' names with another, mounts of its own.
pub(crate) fn unshare_mounts() -> Answer<()> {
    // SAFETY: no descriptor table is unshared, so no owned descriptor changes its meaning.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
}

/// Gives the calling process, which has one thread, a new user namespace.
pub(crate) fn unshare_ids() -> Answer<()> {
    // SAFETY: no descriptor table is unshared, so no owned descriptor changes its meaning.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER) }
}

/// Puts the calling thread into a new network namespace.
pub(crate) fn unshare_network() -> Answer<()> {
    // SAFETY: no descriptor table is unshared, so no owned descriptor changes its meaning.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}

/// Puts the calling thread into a new namespace of queues, semaphores and shared memory.
pub(crate) fn unshare_queues() -> Answer<()> {
    // SAFETY: no descriptor table is unshared, so no owned descriptor changes its meaning.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWIPC) }
}

/// Takes a descriptor that another thread of this process gave up by `into_raw_fd`.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: whoever calls this got the number from a pipe into which it was written by its last owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Waits until one of the descriptors can be read or a signal comes, which is let through only meanwhile.
pub(crate) fn poll_signals(fds: &[BorrowedFd<'_>]) -> bool {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: the vector is as long as the call is told, and zeroes are a valid empty set.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, std::ptr::null(), &raw const set) > 0
    }
}

/// Becomes another program; returns only if that fails.
pub(crate) fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both lists end in a null pointer and outlive the call, as does what they point to.
    unsafe {
        libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
    }
    last()
}

/// Reads a word of the machine's configuration of itself: how many processors it has.
pub(crate) fn processors() -> u64 {
    static COUNT: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *COUNT.get_or_init(|| {
        // SAFETY: the call takes no pointer.
        let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
        u64::try_from(count).unwrap_or(1).max(1)
    })
}

/// Reads how much memory the machine has.
pub(crate) fn memory_bytes() -> u64 {
    // SAFETY: the calls take no pointer.
    let (pages, bytes) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(bytes).unwrap_or(0)
}

/// Sets this process apart: nobody traces it and it leaves no core.
pub(crate) fn set_dumpable(value: libc::c_ulong) {
    // SAFETY: the call takes no pointer.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, value, 0, 0, 0);
    }
}

/// Has the kernel use huge pages for this process' memory, or not; what it makes and becomes inherits that. Whoever shares the
/// memory shares this.
pub(crate) fn use_huge_pages(use_them: libc::c_ulong) {
    // SAFETY: the call takes no pointer.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1 - use_them.min(1), 0, 0, 0);
    }
}

/// Has a command use no huge pages from its very start: those that an allocator touches first would stay.
pub(crate) fn begin_without_huge_pages(command: &mut std::process::Command) {
    let set = || {
        use_huge_pages(0);
        Ok(())
    };
    // SAFETY: between fork and execution it does nothing but one system call.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, set) };
}

/// Has this process killed when the thread that made it ends.
pub(crate) fn die_with_parent() {
    // SAFETY: the call takes no pointer.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
    }
}

/// Has this process inherit orphans.
pub(crate) fn adopt_orphans() {
    // SAFETY: the call takes no pointer.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    }
}

/// The highest capability that there may ever be.
const LAST_CAPABILITY: libc::c_ulong = 63;

/// Drops every capability from the bounding set but those whose bits are set.
pub(crate) fn bound_capabilities(keep: u64) {
    for capability in 0..=LAST_CAPABILITY {
        if keep & (1 << capability) == 0 && !drop_bound(capability) {
            return;
        }
    }
}

/// Tells whether there is such a capability; if so it is gone.
fn drop_bound(capability: libc::c_ulong) -> bool {
    // SAFETY: the call takes no pointer.
    unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) == 0 }
}

fn interface(name: &CStr) -> libc::ifreq {
    // SAFETY: zeroes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes().iter().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    request
}

fn control(fd: BorrowedFd<'_>, call: libc::c_ulong, request: &libc::ifreq) -> Answer<()> {
    // SAFETY: every call made with it reads an `ifreq`, and those that write one write no more than that.
    answer(unsafe { libc::ioctl(fd.as_raw_fd(), call as _, std::ptr::from_ref(request)) }.into()).map(drop)
}

fn internet(address: [u8; 4]) -> libc::sockaddr {
    // SAFETY: both are plain structures of the same size, and zeroes are valid for both.
    unsafe {
        let mut place: libc::sockaddr_in = std::mem::zeroed();
        place.sin_family = libc::AF_INET as libc::sa_family_t;
        place.sin_addr.s_addr = u32::from_ne_bytes(address);
        std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(place)
    }
}

/// Brings an interface up; with an address, gives it that and the network that the mask says.
pub(crate) fn interface_up(
    socket: BorrowedFd<'_>,
    name: &CStr,
    address: Option<([u8; 4], [u8; 4], i32)>,
) -> Answer<()> {
    let mut request = interface(name);
    if let Some((address, mask, mtu)) = address {
        request.ifr_ifru.ifru_addr = internet(address);
        control(socket, libc::SIOCSIFADDR, &request)?;
        request.ifr_ifru.ifru_netmask = internet(mask);
        control(socket, libc::SIOCSIFNETMASK, &request)?;
        request.ifr_ifru.ifru_mtu = mtu;
        control(socket, libc::SIOCSIFMTU, &request)?;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    control(socket, libc::SIOCSIFFLAGS, &request)
}

/// Sends all that has no nearer way to a gateway.
pub(crate) fn route_all(socket: BorrowedFd<'_>, gateway: [u8; 4]) -> Answer<()> {
    // SAFETY: zeroes are a valid `rtentry`, and the call only reads it.
    answer(
        unsafe {
            let mut route: libc::rtentry = std::mem::zeroed();
            route.rt_dst = internet([0; 4]);
            route.rt_genmask = internet([0; 4]);
            route.rt_gateway = internet(gateway);
            route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
            libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &raw const route)
        }
        .into(),
    )
    .map(drop)
}

/// Gives an interface an address of IPv6, and the network of so many bits.
pub(crate) fn address_six(socket: BorrowedFd<'_>, index: i32, address: Ipv6Addr, bits: u32) -> Answer<()> {
    let request = libc::in6_ifreq {
        ifr6_addr: libc::in6_addr { s6_addr: address.octets() },
        ifr6_prefixlen: bits,
        ifr6_ifindex: index,
    };
    // SAFETY: on a socket of this family the call reads this structure.
    answer(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as _, &raw const request) }.into()).map(drop)
}

/// A route of IPv6, as the kernel reads it; the fields of the one in `libc` cannot be set.
#[repr(C)]
struct RouteSix {
    to: [u8; 16],
    from: [u8; 16],
    gateway: [u8; 16],
    kind: u32,
    to_bits: u16,
    from_bits: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    index: i32,
}

/// Sends all of IPv6 that has no nearer way to a gateway.
pub(crate) fn route_all_six(socket: BorrowedFd<'_>, index: i32, gateway: Ipv6Addr) -> Answer<()> {
    let route = RouteSix {
        to: [0; 16],
        from: [0; 16],
        gateway: gateway.octets(),
        kind: 0,
        to_bits: 0,
        from_bits: 0,
        metric: 1,
        info: 0,
        flags: u32::from(libc::RTF_UP | libc::RTF_GATEWAY),
        index,
    };
    // SAFETY: on a socket of this family the call reads an `in6_rtmsg`, which is laid out like this structure.
    answer(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) }.into()).map(drop)
}

/// Makes of an open `/dev/net/tun` the other end of a new interface.
pub(crate) fn make_tun(fd: &OwnedFd, name: &CStr) -> Answer<()> {
    let mut request = interface(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the call reads and writes an `ifreq`.
    answer(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, std::ptr::from_mut(&mut request)) }.into())
        .map(drop)
}
