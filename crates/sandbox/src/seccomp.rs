//! The filter: a profile as a program of the kernel's packet filter, and its installation.
//!
//! It is assembled by hand as a binary search over ranges of call numbers, because the kernel runs a new filter once for
//! every number there is, to learn which calls it need never ask about again: a chain of comparisons, which is what the
//! usual makers of filters write, makes that some hundred thousand steps (docs/seccomp.md has the figures).
//! Invariants: a filter judges by the machine's own numbers only, so a call by another interface never gets past its first
//! lines; `install` allocates nothing, since it runs between a fork and an exec.
#![expect(unsafe_code, reason = "no wrapper of `seccomp` takes a program that is already made")]

use crate::profile::{Clause, GROUPS, OTHERWISE, Profile, Test, Verdict};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = 0xc000_00b7;

/// Calls of x86's 32-bit pointers on 64-bit registers have this bit.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Where the kernel shows a filter the call's number, the machine's, and the lower half of its first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Longest program that the kernel takes.
const MAX_INSTRUCTIONS: usize = 4096;

type Instruction = libc::sock_filter;

/// Returns a profile's filter. The spawner asks for each once before it makes its first process; what it has made is then
/// there in all of them.
pub(crate) fn filter(profile: Profile) -> &'static Filter {
    static FILTERS: [OnceLock<Filter>; Profile::EVERY.len()] = [const { OnceLock::new() }; Profile::EVERY.len()];
    let at = Profile::EVERY.iter().position(|one| *one == profile).unwrap_or_default();
    FILTERS[at].get_or_init(|| Filter::new(Profile::EVERY[at]))
}

/// A filter, ready to be installed in any number of processes.
pub(crate) struct Filter {
    program: Vec<Instruction>,
    asks: bool,
}

impl Filter {
    /// Returns a profile's filter.
    pub(crate) fn new(profile: Profile) -> Self {
        let ranges = ranges(profile);
        let asks = ranges.iter().any(|range| range.judgement.asks());
        let mut assembly = Assembly::default();
        assembly.search(&ranges);
        assembly.begin();
        let program = assembly.finish();
        debug_assert!(program.len() <= MAX_INSTRUCTIONS, "the table is a constant, and a test builds every profile");
        Self { program, asks }
    }

    /// Puts the filter upon the calling thread and all that it will start; `PR_SET_NO_NEW_PRIVS` must be set. Returns the
    /// listener by which init is asked, if the profile asks at all; it is closed on exec.
    pub(crate) fn install(&self) -> io::Result<Option<OwnedFd>> {
        let program = libc::sock_fprog {
            // `new` keeps it under 4096.
            len: self.program.len() as u16,
            filter: self.program.as_ptr().cast_mut(),
        };
        let flags = if self.asks { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
        // SAFETY: the kernel reads the program, which outlives the call, and writes nothing.
        let answer = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program))
        };
        match answer {
            ..0 => Err(io::Error::last_os_error()),
            // SAFETY: with this flag the answer is a descriptor that nobody else knows.
            listener if self.asks => Ok(Some(unsafe { OwnedFd::from_raw_fd(listener as i32) })),
            _ => Ok(None),
        }
    }
}

/// What is said of a call: clauses in turn, then what holds when none fits.
#[derive(Clone, Copy)]
struct Judgement {
    clauses: &'static [Clause],
    verdict: Verdict,
}

impl Judgement {
    fn asks(&self) -> bool {
        let asks = |verdict| matches!(verdict, Verdict::Ask | Verdict::Note);
        asks(self.verdict) || self.clauses.iter().any(|clause| asks(clause.verdict))
    }

    /// Ranges are joined when they are judged alike without a look at the arguments.
    fn joins(&self, other: &Self) -> bool {
        self.clauses.is_empty() && other.clauses.is_empty() && self.verdict == other.verdict
    }
}

/// Calls from this number up to the next range's.
struct Range {
    first: u32,
    judgement: Judgement,
}

/// Lays the table out over all numbers, the gaps included.
fn ranges(profile: Profile) -> Vec<Range> {
    let otherwise = Judgement { clauses: &[], verdict: OTHERWISE };
    let mut numbers = BTreeMap::new();
    for group in GROUPS {
        let (clauses, verdict) = profile.settle(group.rule);
        for (_, number) in group.calls {
            let number = u32::try_from(*number).expect("numbers of calls are small and positive");
            numbers.insert(number, Judgement { clauses, verdict });
        }
    }
    let mut ranges = vec![Range { first: 0, judgement: otherwise }];
    let mut put = |first: u32, judgement: Judgement| match ranges.last_mut() {
        Some(last) if last.judgement.joins(&judgement) => {}
        Some(last) if last.first == first => last.judgement = judgement,
        _ => ranges.push(Range { first, judgement }),
    };
    for (number, judgement) in &numbers {
        put(*number, *judgement);
        if !numbers.contains_key(&(number + 1)) {
            put(number + 1, otherwise);
        }
    }
    ranges
}

/// A program in the making, from its end to its beginning: what is jumped to stands before the jump is made, so equal
/// endings can be shared and every distance is known.
#[derive(Default)]
struct Assembly {
    /// The last instruction first.
    reversed: Vec<Instruction>,
    /// Where an answer stands, the nearest of its kind.
    answers: Vec<(Verdict, usize)>,
}

/// A place in an assembly, counted from the end.
type Place = usize;

impl Assembly {
    fn put(&mut self, instruction: Instruction) -> Place {
        self.reversed.push(instruction);
        self.reversed.len() - 1
    }

    /// Returns where a verdict is answered, near enough for a jump from here and the few instructions to come.
    fn answer(&mut self, verdict: Verdict) -> Place {
        let near = self.reversed.len().saturating_sub(NEAR);
        if let Some((_, place)) = self.answers.iter().rev().find(|(own, place)| *own == verdict && *place >= near) {
            return *place;
        }
        let place = self.put(answer(verdict));
        self.answers.push((verdict, place));
        place
    }

    /// Puts a jump to one of two places.
    fn branch(&mut self, condition: u32, k: u32, if_so: Place, if_not: Place) -> Place {
        let (if_so, if_not) = (self.reach(if_so, 1), self.reach(if_not, 0));
        let here = self.reversed.len();
        let away = |place: Place| u8::try_from(here - place - 1).expect("`reach` has seen to that");
        let (if_so, if_not) = (away(if_so), away(if_not));
        self.put(jump(condition, k, if_so, if_not))
    }

    /// Returns the place, or where a jump of any length leads there: a conditional one reaches 255 instructions far.
    fn reach(&mut self, place: Place, more: usize) -> Place {
        let distance = self.reversed.len() + more - place;
        if distance <= usize::from(u8::MAX) {
            return place;
        }
        let away = u32::try_from(self.reversed.len() - place - 1).expect("programs are short");
        self.put(statement(libc::BPF_JMP | libc::BPF_JA, away))
    }

    /// Halves the ranges until one is left, and judges by it. The halves hold as many numbers each as can be, for the
    /// kernel's sake, which tries every number once.
    fn search(&mut self, ranges: &[Range]) -> Place {
        if let [only] = ranges {
            return self.judge(only.judgement);
        }
        let (begin, end) = (ranges[0].first, ranges[ranges.len() - 1].first + 1);
        let middle = ranges.partition_point(|range| range.first <= begin.midpoint(end)).clamp(1, ranges.len() - 1);
        let (lower, upper) = ranges.split_at(middle);
        let above = self.search(upper);
        let below = self.search(lower);
        self.branch(libc::BPF_JGE, upper[0].first, above, below)
    }

    /// Tries clause after clause.
    fn judge(&mut self, judgement: Judgement) -> Place {
        let mut next = self.answer(judgement.verdict);
        for clause in judgement.clauses.iter().rev() {
            let mut good = self.answer(clause.verdict);
            for (argument, test) in clause.tests.iter().rev() {
                match *test {
                    Test::Is(value) => self.branch(libc::BPF_JEQ, value, good, next),
                    Test::AtMost(value) => self.branch(libc::BPF_JGT, value, next, good),
                    Test::AnyOf(bits) => self.branch(libc::BPF_JSET, bits, good, next),
                    Test::Masked(mask, value) => {
                        self.branch(libc::BPF_JEQ, value, good, next);
                        self.put(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask))
                    }
                };
                good = self.put(statement(LOAD, ARGUMENTS + 8 * u32::from(*argument)));
            }
            next = good;
        }
        next
    }

    /// Ends what comes by another machine's interface, loads the number, and goes on with what was put last.
    fn begin(&mut self) {
        #[cfg(target_arch = "x86_64")]
        {
            let native = self.reversed.len() - 1;
            let none = self.answer(Verdict::Refuse(libc::ENOSYS));
            self.branch(libc::BPF_JGE, X32, none, native);
        }
        let native = self.put(statement(LOAD, NUMBER));
        let foreign = self.put(answer(Verdict::Kill));
        self.branch(libc::BPF_JEQ, MACHINE, native, foreign);
        self.put(statement(LOAD, ARCHITECTURE));
    }

    fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }
}

/// How far an answer may lie to be used again; a test's few instructions may still come between.
const NEAR: usize = 200;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;

const fn statement(code: u32, k: u32) -> Instruction {
    Instruction { code: code as u16, jt: 0, jf: 0, k }
}

const fn jump(condition: u32, k: u32, if_so: u8, if_not: u8) -> Instruction {
    Instruction { code: (libc::BPF_JMP | condition | libc::BPF_K) as u16, jt: if_so, jf: if_not, k }
}

const fn answer(verdict: Verdict) -> Instruction {
    let value = match verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Refuse(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
        Verdict::Ask | Verdict::Note => libc::SECCOMP_RET_USER_NOTIF,
        Verdict::Kill => libc::SECCOMP_RET_KILL_PROCESS,
    };
    statement(libc::BPF_RET | libc::BPF_K, value)
}

#[cfg(test)]
mod tests;
