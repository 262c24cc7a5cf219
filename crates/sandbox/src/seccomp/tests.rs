//! The filter against the table, read once more without the assembler, and against the kernel; and what it costs.

use super::{
    ARCHITECTURE, ARGUMENTS, Filter, Instruction, MACHINE, MAX_INSTRUCTIONS, NUMBER, answer, jump, ranges, statement,
};
use crate::profile::{GROUPS, OTHERWISE, Profile, Rule, Test, Verdict};
use libc::{
    EAFNOSUPPORT, EINVAL, ENOENT, ENOSYS, EPERM, EPROTONOSUPPORT, SYS_clone, SYS_clone3, SYS_ioctl, SYS_mknodat,
    SYS_personality, SYS_ptrace, SYS_socket, SYS_unshare, c_long,
};
use std::time::{Duration, Instant};

const EVERY: [Profile; 3] = Profile::EVERY;

/// Runs a filter as the kernel would.
fn run(program: &[Instruction], machine: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
    let mut word = 0;
    let (mut at, mut steps) = (0, 0);
    loop {
        let one = program[at];
        (at, steps) = (at + 1, steps + 1);
        let code = u32::from(one.code);
        let chosen = |holds: bool| usize::from(if holds { one.jt } else { one.jf });
        match code & 0x07 {
            libc::BPF_LD => {
                word = match one.k {
                    NUMBER => number,
                    ARCHITECTURE => machine,
                    offset => arguments[((offset - ARGUMENTS) / 8) as usize] as u32,
                }
            }
            libc::BPF_ALU => word &= one.k,
            libc::BPF_RET => return (one.k, steps),
            _ => {
                at += match code & 0xf0 {
                    libc::BPF_JA => one.k as usize,
                    libc::BPF_JEQ => chosen(word == one.k),
                    libc::BPF_JGE => chosen(word >= one.k),
                    libc::BPF_JGT => chosen(word > one.k),
                    _ => chosen(word & one.k != 0),
                };
            }
        }
    }
}

/// What the table says of a call, read without the help of the assembler.
fn expected(profile: Profile, number: u32, arguments: [u64; 6]) -> Verdict {
    let Some(group) = GROUPS.iter().find(|group| group.calls.iter().any(|(_, own)| *own == i64::from(number))) else {
        return OTHERWISE;
    };
    let (clauses, verdict) = profile.settle(group.rule);
    let holds = |(argument, test): &(u8, Test)| {
        let word = arguments[usize::from(*argument)] as u32;
        match *test {
            Test::Is(value) => word == value,
            Test::AtMost(value) => word <= value,
            Test::AnyOf(bits) => word & bits != 0,
            Test::Masked(mask, value) => word & mask == value,
        }
    };
    clauses.iter().find(|clause| clause.tests.iter().all(holds)).map_or(verdict, |clause| clause.verdict)
}

#[test]
fn a_filter_says_what_the_table_says() {
    let words =
        [0, 1, 2, 3, 7, 8, 10, 16, 17, 18, 40, 58, 0x80, 0x5412, 0x541c, 0x5423, 0o020_666, 0o060_600, 0o010_644];
    let wide = [0x0002_0000, 0x0004_0000, 0x1000_0000, 0x0100_0011, 0xffff_ffff, 0xffff_ffff_0000_0001];
    for profile in EVERY {
        let filter = Filter::new(profile);
        assert!(filter.program.len() <= MAX_INSTRUCTIONS, "{} instructions", filter.program.len());
        for number in (0..600).chain([1 << 20, (1 << 30) - 1]) {
            for first in words.iter().chain(&wide) {
                for third in words {
                    let arguments = [*first, *first, third, 0, 0, 0];
                    let want = answer(expected(profile, number, arguments)).k;
                    assert_eq!(run(&filter.program, MACHINE, number, arguments).0, want, "{number} {arguments:x?}");
                }
            }
        }
        assert_eq!(run(&filter.program, 0x4000_0003, 4, [0; 6]).0, libc::SECCOMP_RET_KILL_PROCESS);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(run(&filter.program, MACHINE, super::X32 + 1, [0; 6]).0, answer(Verdict::Refuse(ENOSYS)).k);
    }
}

#[test]
fn no_call_stands_in_two_groups() {
    let mut seen = std::collections::BTreeSet::new();
    for (name, number) in GROUPS.iter().flat_map(|group| group.calls) {
        assert!(seen.insert(number), "`{name}` stands twice");
    }
}

/// Returns what a call answers in a process of its own under the filter: 0, or its error, or -1 when the process is ended.
fn under(filter: &Filter, call: impl Fn() -> c_long) -> i32 {
    // SAFETY: the child makes system calls only, and leaves without unwinding.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if filter.install().is_err() {
                libc::_exit(255);
            }
            let code = if call() < 0 { *libc::__errno_location() } else { 0 };
            libc::_exit(code);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 }
    }
}

fn check(profile: Profile, name: &str, call: impl Fn() -> c_long, want: i32) {
    assert_eq!(under(&Filter::new(profile), call), want, "{name} with {profile:?}");
}

#[test]
fn the_kernel_takes_the_filter_and_obeys() {
    let call = |number: c_long, one: u64, two: u64, three: u64| {
        // SAFETY: none of the calls below reads or writes memory of ours but through pointers that are null.
        move || unsafe { libc::syscall(number, one, two, three, 0, 0, 0) }
    };
    let socket = |family: i32, sort: i32, protocol: i32| call(SYS_socket, family as u64, sort as u64, protocol as u64);
    for profile in EVERY {
        // Whoever is to be told, or asked, is the caller itself here, and lets go of the listener: then there is no such call.
        let made = if profile.keeps_notes { ENOSYS } else { 0 };
        check(profile, "getpid", call(libc::SYS_getpid, 0, 0, 0), 0);
        check(profile, "bpf", call(libc::SYS_bpf, 0, 0, 0), EPERM);
        check(profile, "keyctl", call(libc::SYS_keyctl, 0, 0, 0), EPERM);
        check(profile, "io_uring_setup", call(libc::SYS_io_uring_setup, 1, 0, 0), EPERM);
        check(profile, "io_setup", call(libc::SYS_io_setup, 1, 0, 0), ENOSYS);
        check(profile, "clone3", call(SYS_clone3, 0, 0, 0), ENOSYS);
        check(profile, "clone(NEWUSER)", call(SYS_clone, libc::CLONE_NEWUSER as u64, 0, 0), EPERM);
        check(profile, "unshare(NEWNET)", call(SYS_unshare, libc::CLONE_NEWNET as u64, 0, 0), EPERM);
        check(profile, "unshare(FILES)", call(SYS_unshare, libc::CLONE_FILES as u64, 0, 0), 0);
        check(profile, "socket(UNIX)", socket(libc::AF_UNIX, libc::SOCK_STREAM, 0), 0);
        check(profile, "socket(INET)", socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP), made);
        check(profile, "shmget", call(libc::SYS_shmget, 0, 0, 0o600), if made == 0 { EINVAL } else { made });
        check(profile, "socket(SCTP)", socket(libc::AF_INET, libc::SOCK_STREAM, 132), EPROTONOSUPPORT);
        check(profile, "socket(NETLINK)", socket(libc::AF_NETLINK, libc::SOCK_RAW, 0), made);
        check(profile, "socket(AUDIT)", socket(libc::AF_NETLINK, libc::SOCK_RAW, 9), EPROTONOSUPPORT);
        check(profile, "socket(VSOCK)", socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0), EAFNOSUPPORT);
        check(profile, "socket(ALG)", socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0), EAFNOSUPPORT);
        check(profile, "socket(PACKET)", socket(libc::AF_PACKET, libc::SOCK_RAW, 0), EAFNOSUPPORT);
        check(profile, "ioctl(TIOCSTI)", call(SYS_ioctl, 0, libc::TIOCSTI, 0), EPERM);
        check(profile, "ioctl(TIOCSTI), hidden", call(SYS_ioctl, 0, libc::TIOCSTI | 1 << 32, 0), EPERM);
        check(profile, "personality(?)", call(SYS_personality, 0xffff_ffff, 0, 0), 0);
        check(profile, "personality(fixed)", call(SYS_personality, libc::ADDR_NO_RANDOMIZE as u64, 0, 0), 0);
        check(profile, "personality(exec)", call(SYS_personality, 0x0040_0000, 0, 0), EPERM);
        check(profile, "mknod(device)", call(SYS_mknodat, 0, 0, u64::from(libc::S_IFCHR)), EPERM);
        check(profile, "number 600", call(600, 0, 0, 0), ENOSYS);
        check(profile, "modify_ldt", call(libc::SYS_modify_ldt, 0, 0, 0), EPERM);
        check(profile, "chroot", call(libc::SYS_chroot, 0, 0, 0), EPERM);
    }
    check(EVERY[0], "ptrace", call(SYS_ptrace, 0, 0, 0), 0);
    check(EVERY[1], "ptrace", call(SYS_ptrace, 0, 0, 0), ENOSYS);
    // SAFETY: the path is a constant.
    let nowhere = || unsafe { libc::syscall(libc::SYS_openat, -100, c"/nowhere".as_ptr(), 0) };
    check(EVERY[0], "openat", nowhere, ENOENT);
    let odd = call(libc::SYS_clock_gettime, 99, 0, 0);
    check(EVERY[0], "clock_gettime", odd, EINVAL);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_by_other_interfaces_are_stopped() {
    let old = || {
        let answer: i64;
        // SAFETY: number 20 of the 32-bit interface asks for the caller's id.
        unsafe { std::arch::asm!("int 0x80", inlateout("rax") 20_i64 => answer) };
        answer
    };
    check(EVERY[0], "int 0x80", old, -1);
    // SAFETY: the call has no arguments.
    let short = || unsafe { libc::syscall(c_long::from(super::X32) + libc::SYS_getpid) };
    check(EVERY[0], "x32", short, ENOSYS);
}

/// The same profile as a chain of comparisons, as makers of filters usually write it.
fn chain(profile: Profile) -> Vec<Instruction> {
    let mut program = vec![statement(super::LOAD, NUMBER)];
    let ranges = ranges(profile);
    for (range, next) in ranges.iter().zip(ranges.iter().skip(1)) {
        for number in range.first..next.first {
            let mut one = super::Assembly::default();
            one.judge(range.judgement);
            let mut body = one.finish();
            program.push(jump(libc::BPF_JEQ, number, 0, body.len() as u8));
            program.append(&mut body);
        }
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, answer(OTHERWISE).k));
    program
}

#[test]
#[ignore = "prints the figures of docs/seccomp.md; run it on a quiet machine, in release"]
fn installing() {
    let profile = EVERY[0];
    let searched = Filter::new(profile);
    let chained = Filter { program: chain(profile), asks: false };
    let empty = Filter { program: vec![answer(Verdict::Allow)], asks: false };
    for (name, filter) in [("one answer", &empty), ("search", &searched), ("chain", &chained)] {
        let steps: usize = (0..470).map(|number| run(&filter.program, MACHINE, number, [0; 6]).1).sum();
        let mut times: Vec<_> = (0..200).map(|_| time_of(filter)).collect();
        times.sort();
        println!(
            "{name}: {} ranges, {} instructions, {steps} steps, p50 {:?}, p99 {:?}",
            ranges(profile).len(),
            filter.program.len(),
            times[100],
            times[197]
        );
    }
}

/// Measures an installation in a process of its own.
fn time_of(filter: &Filter) -> Duration {
    let mut ends = [0; 2];
    // SAFETY: the child makes system calls only, and leaves without unwinding; the pipe's ends are ours.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        let child = libc::fork();
        if child == 0 {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let begin = Instant::now();
            if filter.install().is_err() {
                libc::_exit(1);
            }
            let nanos = begin.elapsed().as_nanos() as u64;
            libc::write(ends[1], (&raw const nanos).cast(), 8);
            libc::_exit(0);
        }
        let mut nanos = 0_u64;
        libc::close(ends[1]);
        assert_eq!(libc::read(ends[0], (&raw mut nanos).cast(), 8), 8, "the filter could not be installed");
        libc::close(ends[0]);
        libc::waitpid(child, std::ptr::null_mut(), 0);
        Duration::from_nanos(nanos)
    }
}

/// The table as docs/seccomp.md shows it.
fn shown() -> String {
    let mut text = String::new();
    for group in GROUPS {
        let rule = match group.rule {
            Rule::Always(Verdict::Refuse(ENOSYS)) => "`ENOSYS`".to_owned(),
            Rule::Always(Verdict::Refuse(_)) => "`EPERM`".to_owned(),
            Rule::Always(_) => "allowed".to_owned(),
            Rule::Clauses(..) => "by its arguments".to_owned(),
            Rule::Debuggers => "with `ptrace`".to_owned(),
            Rule::Ptrace => "init is asked".to_owned(),
            Rule::Noted([], ..) => "noted".to_owned(),
            Rule::Noted(..) => "by its arguments, noted".to_owned(),
        };
        let names: Vec<_> = group.calls.iter().map(|(name, _)| name.trim_start_matches("SYS_")).collect();
        text += &format!("| {rule} | {} | `{}` |\n", group.reason, names.join("` `"));
    }
    text
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_page_shows_the_table() {
    let page = include_str!("../../../../docs/seccomp.md");
    let table = shown();
    assert!(page.contains(&table), "docs/seccomp.md must show this table:\n{table}");
}
