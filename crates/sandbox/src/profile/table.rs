//! The table itself.

use super::{Clause, Group, Rule, Test, Verdict, number};
use libc::{EAFNOSUPPORT, ENOSYS, EPERM, EPROTONOSUPPORT};

/// What a call gets that stands nowhere.
pub(crate) const OTHERWISE: Verdict = Verdict::Refuse(ENOSYS);

const ALLOW: Rule = Rule::Always(Verdict::Allow);

/// Every flag that makes a namespace, in `clone` and `unshare`; the bit of time's means something else to `clone`, where it
/// belongs to the number of a signal that nobody sends.
const NAMESPACES: &[Clause] = &[Clause { tests: &[(0, Test::AnyOf(0x7e02_0080))], verdict: Verdict::Refuse(EPERM) }];

const FAMILIES: [Clause; 8] = [
    Clause { tests: &[(0, Test::Is(libc::AF_UNIX as u32))], verdict: Verdict::Allow },
    // Up to UDP's number lie ICMP, TCP and UDP and what only a capability opens; above it lies what few have looked at.
    Clause {
        tests: &[(0, Test::Is(libc::AF_INET as u32)), (2, Test::AtMost(libc::IPPROTO_UDP as u32))],
        verdict: Verdict::Allow,
    },
    Clause {
        tests: &[(0, Test::Is(libc::AF_INET6 as u32)), (2, Test::AtMost(libc::IPPROTO_UDP as u32))],
        verdict: Verdict::Allow,
    },
    Clause {
        tests: &[(0, Test::Is(libc::AF_INET6 as u32)), (2, Test::Is(libc::IPPROTO_ICMPV6 as u32))],
        verdict: Verdict::Allow,
    },
    Clause {
        tests: &[(0, Test::Is(libc::AF_NETLINK as u32)), (2, Test::Is(libc::NETLINK_ROUTE as u32))],
        verdict: Verdict::Allow,
    },
    Clause { tests: &[(0, Test::Is(libc::AF_INET as u32))], verdict: Verdict::Refuse(EPROTONOSUPPORT) },
    Clause { tests: &[(0, Test::Is(libc::AF_INET6 as u32))], verdict: Verdict::Refuse(EPROTONOSUPPORT) },
    Clause { tests: &[(0, Test::Is(libc::AF_NETLINK as u32))], verdict: Verdict::Refuse(EPROTONOSUPPORT) },
];

/// The same where init keeps notes of sockets by which something may move in the sandbox's network; those of its own files'
/// sort do nothing there.
const FAMILIES_NOTED: [Clause; 8] = {
    let mut clauses = FAMILIES;
    let mut at = 1;
    while at < clauses.len() {
        if matches!(clauses[at].verdict, Verdict::Allow) {
            clauses[at].verdict = Verdict::Note;
        }
        at += 1;
    }
    clauses
};

const ALWAYS_NOTED: &[Clause] = &[Clause { tests: &[], verdict: Verdict::Note }];

/// Init is the first process; where there is one id only, nothing else keeps a program from it.
const OTHERS_LIMITS: &[Clause] = &[Clause { tests: &[(0, Test::Is(1))], verdict: Verdict::Refuse(EPERM) }];

const TERMINALS: &[Clause] = &[
    Clause { tests: &[(1, Test::Is(libc::TIOCSTI as u32))], verdict: Verdict::Refuse(EPERM) },
    Clause { tests: &[(1, Test::Is(libc::TIOCLINUX as u32))], verdict: Verdict::Refuse(EPERM) },
    Clause { tests: &[(1, Test::Is(libc::TIOCCONS as u32))], verdict: Verdict::Refuse(EPERM) },
    Clause { tests: &[(1, Test::Is(TIOCSETD))], verdict: Verdict::Refuse(EPERM) },
];

/// Sets a terminal's line discipline; the headers name it for some machines only.
const TIOCSETD: u32 = 0x5423;

const PERSONALITIES: &[Clause] = &[
    Clause { tests: &[(0, Test::Is(u32::MAX))], verdict: Verdict::Allow },
    Clause { tests: &[(0, Test::Masked(!HARMLESS, 0))], verdict: Verdict::Allow },
];

/// Addresses that are not random (sanitizers and debuggers ask for it), a version that begins with 2.6, and the word for
/// 32-bit machines.
const HARMLESS: u32 = libc::ADDR_NO_RANDOMIZE as u32 | libc::UNAME26 as u32 | PER_LINUX32;

/// The headers leave it out.
const PER_LINUX32: u32 = 8;

/// Bits of a mode by which devices of characters and of blocks differ from all else.
const DEVICE: Test = Test::Masked(0o130_000, 0o020_000);

const DEVICES_AT: &[Clause] = &[Clause { tests: &[(2, DEVICE)], verdict: Verdict::Refuse(EPERM) }];

#[cfg(target_arch = "x86_64")]
const DEVICES: &[Clause] = &[Clause { tests: &[(1, DEVICE)], verdict: Verdict::Refuse(EPERM) }];

const fn refuse(errno: i32) -> Rule {
    Rule::Always(Verdict::Refuse(errno))
}

/// Names calls with their numbers.
macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), number::$name)),*] };
}

/// The table.
pub(crate) const GROUPS: &[Group] = &[
    Group {
        reason: "Reading and writing what is open.",
        rule: ALLOW,
        calls: calls![
            SYS_read SYS_write SYS_pread64 SYS_pwrite64 SYS_readv SYS_writev SYS_preadv SYS_pwritev SYS_preadv2
            SYS_pwritev2 SYS_lseek SYS_close SYS_close_range SYS_dup SYS_dup3 SYS_fcntl SYS_flock SYS_fsync
            SYS_fdatasync SYS_sync SYS_syncfs SYS_sync_file_range SYS_ftruncate SYS_fallocate SYS_fadvise64
            SYS_readahead SYS_sendfile SYS_splice SYS_tee SYS_vmsplice SYS_copy_file_range SYS_getdents64 SYS_fstat
            SYS_fstatfs SYS_fchmod SYS_fchown SYS_cachestat
        ],
    },
    Group {
        reason: "Files and folders by name; what may be reached is settled by mounts, owners and Landlock.",
        rule: ALLOW,
        calls: calls![
            SYS_openat SYS_openat2 SYS_newfstatat SYS_statx SYS_statfs SYS_faccessat SYS_faccessat2 SYS_readlinkat
            SYS_mkdirat SYS_unlinkat SYS_renameat SYS_renameat2 SYS_linkat SYS_symlinkat SYS_fchmodat SYS_fchmodat2
            SYS_fchownat SYS_umask SYS_utimensat SYS_truncate SYS_getcwd SYS_chdir SYS_fchdir SYS_file_getattr
        ],
    },
    Group {
        reason: "Attributes of files.",
        rule: ALLOW,
        calls: calls![
            SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr
            SYS_llistxattr SYS_flistxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr SYS_setxattrat
            SYS_getxattrat SYS_listxattrat SYS_removexattrat
        ],
    },
    Group {
        reason: "Waiting for many things at once.",
        rule: ALLOW,
        calls: calls![
            SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2
            SYS_pipe2 SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch SYS_signalfd4
        ],
    },
    Group {
        reason: "Memory of one's own, executable too, which compilers at run time need.",
        rule: ALLOW,
        calls: calls![
            SYS_mmap SYS_munmap SYS_mprotect SYS_mremap SYS_madvise SYS_brk SYS_msync SYS_mincore SYS_mlock SYS_mlock2
            SYS_munlock SYS_mlockall SYS_munlockall SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect
            SYS_remap_file_pages SYS_membarrier SYS_mseal SYS_map_shadow_stack SYS_memfd_create SYS_memfd_secret
            SYS_mbind SYS_get_mempolicy SYS_set_mempolicy SYS_set_mempolicy_home_node
        ],
    },
    Group {
        reason: "Processes and threads inside.",
        rule: ALLOW,
        calls: calls![
            SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_kill SYS_tkill SYS_tgkill
            SYS_getpid SYS_gettid SYS_getppid SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid SYS_set_tid_address
            SYS_set_robust_list SYS_get_robust_list SYS_rseq SYS_futex SYS_futex_waitv SYS_futex_wake SYS_futex_wait
            SYS_futex_requeue SYS_pidfd_open SYS_pidfd_send_signal SYS_prctl SYS_restart_syscall
        ],
    },
    Group {
        reason: "How processes share the processor; what would favour them needs a capability that they have not.",
        rule: ALLOW,
        calls: calls![
            SYS_sched_yield SYS_sched_setaffinity SYS_sched_getaffinity SYS_sched_setparam SYS_sched_getparam
            SYS_sched_setscheduler SYS_sched_getscheduler SYS_sched_get_priority_max SYS_sched_get_priority_min
            SYS_sched_rr_get_interval SYS_sched_setattr SYS_sched_getattr SYS_getpriority SYS_setpriority
            SYS_ioprio_get SYS_ioprio_set SYS_getcpu
        ],
    },
    Group {
        reason: "Limits and accounts of one's own.",
        rule: ALLOW,
        calls: calls![
            SYS_getrlimit SYS_setrlimit SYS_getrusage SYS_times SYS_sysinfo SYS_uname
        ],
    },
    Group {
        reason: "The same of others, but not of the sandbox's init.",
        rule: Rule::Clauses(OTHERS_LIMITS, Verdict::Allow),
        calls: calls![SYS_prlimit64],
    },
    Group {
        reason: "Who one is; a sandbox maps few ids and its programs have few capabilities or none.",
        rule: ALLOW,
        calls: calls![
            SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups SYS_setuid
            SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setgroups SYS_setfsuid SYS_setfsgid
            SYS_capget SYS_capset
        ],
    },
    Group {
        reason: "Signals.",
        rule: ALLOW,
        calls: calls![
            SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigtimedwait
            SYS_rt_sigsuspend SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_sigaltstack
        ],
    },
    Group {
        reason: "Clocks and timers, none of which sets the time.",
        rule: ALLOW,
        calls: calls![
            SYS_nanosleep SYS_clock_nanosleep SYS_clock_gettime SYS_clock_getres SYS_gettimeofday SYS_timer_create
            SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete SYS_timerfd_create
            SYS_timerfd_settime SYS_timerfd_gettime SYS_getitimer SYS_setitimer
        ],
    },
    Group {
        reason: "Sockets that are open; where they lead is the network namespace's affair.",
        rule: ALLOW,
        calls: calls![
            SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_connect SYS_getsockname SYS_getpeername SYS_sendto
            SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg SYS_shutdown SYS_setsockopt SYS_getsockopt
        ],
    },
    Group {
        reason: "System V and POSIX queues, semaphores and shared memory, within the sandbox's own namespace.",
        rule: ALLOW,
        calls: calls![
            SYS_shmat SYS_shmdt SYS_shmctl SYS_semop SYS_semtimedop SYS_semctl SYS_msgsnd SYS_msgrcv SYS_msgctl
            SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr
        ],
    },
    Group {
        reason: "The same, where they are made: init notes that the namespace is not as new any more.",
        rule: Rule::Noted(&[], ALWAYS_NOTED, Verdict::Allow),
        calls: calls![SYS_shmget SYS_semget SYS_msgget SYS_mq_open],
    },
    Group {
        reason: "Randomness, and further restrictions that a program puts upon itself.",
        rule: ALLOW,
        calls: calls![
            SYS_getrandom SYS_seccomp SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "Older spellings of the above.",
        rule: ALLOW,
        calls: calls![
            SYS_open SYS_creat SYS_stat SYS_lstat SYS_access SYS_readlink SYS_mkdir SYS_rmdir SYS_unlink SYS_rename
            SYS_link SYS_symlink SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat SYS_getdents
            SYS_pipe SYS_dup2 SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_signalfd
            SYS_inotify_init SYS_fork SYS_vfork SYS_pause SYS_alarm SYS_time SYS_getpgrp SYS_arch_prctl
        ],
    },
    Group {
        reason: "A thread or process, but no namespace: those are where most of the kernel's holes were found.",
        rule: Rule::Clauses(NAMESPACES, Verdict::Allow),
        calls: calls![
            SYS_clone SYS_unshare
        ],
    },
    Group {
        reason: "Its flags lie in memory, where a filter cannot look; the C libraries then use `clone`.",
        rule: refuse(ENOSYS),
        calls: calls![SYS_clone3],
    },
    Group {
        reason: "Sockets of the families UNIX, IPv4, IPv6 and netlink's routes, and no rare protocols: no machine's \
            virtual sockets, no raw packets, no kernel ciphers.",
        rule: Rule::Noted(&FAMILIES, &FAMILIES_NOTED, Verdict::Refuse(EAFNOSUPPORT)),
        calls: calls![
            SYS_socket SYS_socketpair
        ],
    },
    Group {
        reason: "All but those that push input into a terminal, take over its console or change its line \
            discipline.",
        rule: Rule::Clauses(TERMINALS, Verdict::Allow),
        calls: calls![SYS_ioctl],
    },
    Group {
        reason: "Only what fuzzers and debuggers need: no fixed addresses changed, an older version told, and the \
            question what it is.",
        rule: Rule::Clauses(PERSONALITIES, Verdict::Refuse(EPERM)),
        calls: calls![SYS_personality],
    },
    Group {
        reason: "Pipes and sockets with names, but no devices.",
        rule: Rule::Clauses(DEVICES_AT, Verdict::Allow),
        calls: calls![SYS_mknodat],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "The same in its older spelling.",
        rule: Rule::Clauses(DEVICES, Verdict::Allow),
        calls: calls![SYS_mknod],
    },
    Group {
        reason: "Tracing, if the execution asks for it. Otherwise only a process that shares its memory with the \
            traced one may, which is how LeakSanitizer looks at itself.",
        rule: Rule::Ptrace,
        calls: calls![SYS_ptrace],
    },
    Group {
        reason: "Another process's memory and descriptors, if the execution asks for tracing.",
        rule: Rule::Debuggers,
        calls: calls![
            SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise SYS_kcmp SYS_pidfd_getfd
        ],
    },
    Group {
        reason: "Mounts are made before the program runs and stay as they are.",
        rule: refuse(EPERM),
        calls: calls![
            SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick
            SYS_move_mount SYS_open_tree SYS_open_tree_attr SYS_mount_setattr SYS_statmount SYS_listmount SYS_setns
        ],
    },
    Group {
        reason: "Handles of files reach around mounts: a container was left this way.",
        rule: refuse(EPERM),
        calls: calls![
            SYS_name_to_handle_at SYS_open_by_handle_at
        ],
    },
    Group {
        reason: "Keyrings are not separated by namespaces.",
        rule: refuse(EPERM),
        calls: calls![
            SYS_add_key SYS_request_key SYS_keyctl
        ],
    },
    Group {
        reason: "Programs and probes in the kernel, and faults handled by the program, which exploits lean on.",
        rule: refuse(EPERM),
        calls: calls![
            SYS_bpf SYS_perf_event_open SYS_userfaultfd
        ],
    },
    Group {
        reason: "A second way to most system calls, past this filter; programs that can do without it do.",
        rule: refuse(EPERM),
        calls: calls![
            SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register
        ],
    },
    Group {
        reason: "Asynchronous reads, which the kernel counts for the whole machine, so that one sandbox could take all \
            there are; who uses them has another way for kernels without.",
        rule: refuse(ENOSYS),
        calls: calls![
            SYS_io_setup SYS_io_destroy SYS_io_submit SYS_io_cancel SYS_io_getevents
        ],
    },
    Group {
        reason: "What belongs to the machine's keeper: its modules, kernel, clock, names, swap, quotas, log and \
            power.",
        rule: refuse(EPERM),
        calls: calls![
            SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot SYS_swapon SYS_swapoff
            SYS_acct SYS_quotactl SYS_quotactl_fd SYS_settimeofday SYS_clock_settime SYS_adjtimex SYS_clock_adjtime
            SYS_sethostname SYS_setdomainname SYS_syslog SYS_vhangup SYS_lookup_dcookie SYS_fanotify_init
            SYS_fanotify_mark SYS_file_setattr
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "The same, on this machine only.",
        rule: refuse(EPERM),
        calls: calls![
            SYS_kexec_file_load SYS_iopl SYS_ioperm
        ],
    },
    Group {
        reason: "Pages of other processes.",
        rule: refuse(EPERM),
        calls: calls![
            SYS_move_pages SYS_migrate_pages SYS_process_mrelease
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "Segments of 16 and 32 bits, and remains of older kernels.",
        rule: refuse(EPERM),
        calls: calls![
            SYS_modify_ldt SYS_set_thread_area SYS_get_thread_area SYS_uselib SYS_ustat SYS_sysfs SYS__sysctl
            SYS_nfsservctl SYS_getpmsg SYS_putpmsg SYS_afs_syscall
            SYS_tuxcall SYS_security SYS_vserver
        ],
    },
    Group {
        reason: "Questions about security modules, which have no answer here.",
        rule: refuse(EPERM),
        calls: calls![
            SYS_lsm_get_self_attr SYS_lsm_set_self_attr SYS_lsm_list_modules
        ],
    },
];
