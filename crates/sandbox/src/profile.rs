//! The profile: which system calls a sandbox may make, as a table in groups, each with its reason.
//!
//! Whatever stands nowhere in the table is answered by "no such call", so that a C library newer than the table falls back
//! to what it used before. What is listed as refused is refused for its reason, and by an error that programs expect there.
//! docs/seccomp.md shows the table to users and a test compares the two. How a table becomes a filter is `seccomp.rs`'s.

mod number;
mod table;

pub(crate) use table::{GROUPS, OTHERWISE};

/// What the kernel does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It runs it.
    Allow,
    /// It answers with this error.
    Refuse(i32),
    /// It asks whoever holds the filter's listener.
    Ask,
    /// It tells whoever holds the listener, who has it run.
    Note,
    /// It ends the process by SYS.
    Kill,
}

/// Whether processes inside may trace each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracing {
    /// They may.
    Allowed,
    /// They may not, but for those that share their memory: the sandbox's init is asked (see `trace.rs`).
    Asked,
}

/// What a word of an argument is held against. Only the lower 32 bits are seen: every argument that the table looks at is
/// an `int` to the kernel, or flags whose upper half it refuses or drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// It is this.
    Is(u32),
    /// It is at most this.
    AtMost(u32),
    /// It has one of these bits.
    AnyOf(u32),
    /// Its bits under the first are the second.
    Masked(u32, u32),
}

/// A verdict for the calls whose arguments pass all tests; the first clause that fits decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clause {
    pub(crate) tests: &'static [(u8, Test)],
    pub(crate) verdict: Verdict,
}

/// What is said of the calls of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// The same for all of them.
    Always(Verdict),
    /// What the first clause that fits says, and else the last.
    Clauses(&'static [Clause], Verdict),
    /// Allowed where processes may trace each other, and else refused.
    Debuggers,
    /// `ptrace` itself, for which init can be asked.
    Ptrace,
    /// What these clauses say, the second ones where init keeps notes, and else the last.
    Noted(&'static [Clause], &'static [Clause], Verdict),
}

/// Calls that are treated alike, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    #[cfg_attr(not(test), expect(dead_code, reason = "it is there to be read, here and in docs/seccomp.md"))]
    pub(crate) reason: &'static str,
    pub(crate) rule: Rule,
    pub(crate) calls: &'static [(&'static str, i64)],
}

/// Who a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) tracing: Tracing,
    /// Whether init notes what would make a namespace unfit for another sandbox (see `spare.rs`).
    pub(crate) keeps_notes: bool,
}

impl Profile {
    /// All that there are: where processes may trace each other, nobody listens.
    pub(crate) const EVERY: [Self; 3] = [
        Self { tracing: Tracing::Allowed, keeps_notes: false },
        Self { tracing: Tracing::Asked, keeps_notes: false },
        Self { tracing: Tracing::Asked, keeps_notes: true },
    ];

    /// Returns what the profile makes of a rule: the clauses to try, and what holds when none fits.
    pub(crate) const fn settle(self, rule: Rule) -> (&'static [Clause], Verdict) {
        match (rule, self.tracing) {
            (Rule::Always(verdict), _) => (&[], verdict),
            (Rule::Clauses(clauses, verdict), _) => (clauses, verdict),
            (Rule::Noted(_, noted, verdict), Tracing::Asked) if self.keeps_notes => (noted, verdict),
            (Rule::Noted(clauses, _, verdict), _) => (clauses, verdict),
            (Rule::Debuggers | Rule::Ptrace, Tracing::Allowed) => (&[], Verdict::Allow),
            (Rule::Ptrace, Tracing::Asked) => (&[], Verdict::Ask),
            (Rule::Debuggers, Tracing::Asked) => (&[], Verdict::Refuse(libc::EPERM)),
        }
    }
}
