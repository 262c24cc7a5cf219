//! The profile of system calls in the standard's words, for runtimes that make filters of it themselves.
//!
//! The standard cannot say all that our own filters do. A call that is allowed but for some values of an argument is
//! allowed whole, unless the exception is a set of bits: what remains so of ours are terminals, of which a bundle has none
//! but its own, devices, which no id inside may make, and the limits of a first process, which is the program itself. What
//! is refused by a rule of its own error is answered as what stands nowhere, if other values of its argument are allowed.
//! A runtime with a kernel of its own lets none of this near the machine's.

use crate::profile::{Clause, GROUPS, OTHERWISE, Profile, Test, Tracing, Verdict};
use serde_json::{Value, json};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: &str = "SCMP_ARCH_X86_64";
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: &str = "SCMP_ARCH_AARCH64";

/// Describes the filter of a bundle.
pub(super) fn describe(may_trace: bool) -> Value {
    let tracing = if may_trace { Tracing::Allowed } else { Tracing::Asked };
    let profile = Profile { tracing, keeps_notes: false };
    let mut rules = Vec::new();
    for group in GROUPS {
        let names: Vec<_> = group.calls.iter().map(|(name, _)| name.trim_start_matches("SYS_")).collect();
        let (clauses, verdict) = profile.settle(group.rule);
        match verdict {
            Verdict::Allow | Verdict::Note => rules.push(rule(&names, verdict, exceptions(clauses))),
            _ if clauses.is_empty() => rules.push(rule(&names, verdict, Vec::new())),
            Verdict::Refuse(_) | Verdict::Ask | Verdict::Kill => {
                for clause in clauses.iter().filter(|clause| clause.verdict == Verdict::Allow) {
                    let tests = clause.tests.iter().map(|(index, test)| argument(*index, *test));
                    rules.push(rule(&names, Verdict::Allow, tests.collect()));
                }
            }
        }
    }
    // What is answered as everything that stands nowhere needs no rule, and runtimes refuse one.
    let (action, error) = act(OTHERWISE);
    rules.retain(|rule| (&rule["action"], &rule["errnoRet"]) != (&action, &error));
    json!({
        "defaultAction": action, "defaultErrnoRet": error, "architectures": [ARCHITECTURE], "syscalls": rules,
    })
}

fn rule(names: &[&str], verdict: Verdict, arguments: Vec<Value>) -> Value {
    let (action, error) = act(verdict);
    let mut rule = json!({"names": names, "action": action});
    if !error.is_null() {
        rule["errnoRet"] = error;
    }
    if !arguments.is_empty() {
        rule["args"] = arguments.into();
    }
    rule
}

fn act(verdict: Verdict) -> (Value, Value) {
    match verdict {
        Verdict::Allow | Verdict::Note => ("SCMP_ACT_ALLOW".into(), Value::Null),
        Verdict::Refuse(error) => ("SCMP_ACT_ERRNO".into(), error.into()),
        // There is nobody to ask.
        Verdict::Ask => ("SCMP_ACT_ERRNO".into(), libc::EPERM.into()),
        Verdict::Kill => ("SCMP_ACT_KILL_PROCESS".into(), Value::Null),
    }
}

/// Says in one condition what the clauses refuse, if that can be said.
fn exceptions(clauses: &[Clause]) -> Vec<Value> {
    match clauses {
        [Clause { tests: [(index, Test::AnyOf(bits))], verdict: Verdict::Refuse(_) }] => {
            vec![argument(*index, Test::Masked(*bits, 0))]
        }
        _ => Vec::new(),
    }
}

/// Says what a word is held against; its upper half is never seen.
fn argument(index: u8, test: Test) -> Value {
    let (mask, value) = match test {
        Test::Is(value) => (u32::MAX, value),
        Test::Masked(mask, value) => (mask, value),
        // The greatest that is tested is one below a power of two, or is taken for the next.
        Test::AtMost(value) => (!(value | value.next_power_of_two().wrapping_sub(1)), 0),
        Test::AnyOf(bits) => (bits, bits),
    };
    json!({"index": index, "op": "SCMP_CMP_MASKED_EQ", "value": mask, "valueTwo": value})
}
