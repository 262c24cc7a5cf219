//! Signatures: one name for all dumps of one defect, and the reasons for it.
//!
//! A report becomes a `Stack` (`stack`), rules decide what each frame is (`rule`), and the signature is the class, what was
//! said where that counts, and the frames down to the first that is nobody's glue: `panic | index out of bounds: … | app::load`.
//! Two dumps are of one bucket when their texts are equal; `model::signature::similarity` proposes which buckets may be one
//! all the same, and `trial` tells what a change of rules would move. Pure: the same stack and the same rules give the same
//! signature, always.

mod cycle;
mod entry;
mod example;
mod frame;
mod message;
mod pattern;
mod rule;
mod stack;
mod trial;

pub use example::Failure;
pub use model::signature::similarity::{Frequencies, Parameters, Profile, Representative, propose, similarity};
pub use rule::{MAX_OVERLAYS, MAX_PATTERNS, MAX_RULES, MAX_RULES_BYTES, RuleError, Rules};
pub use stack::stack;
pub use trial::{Bucket, Move, MoveKind, Moves, try_rules};

pub(crate) use pattern::Pattern;

use frame::{NOWHERE, short};
use model::signature::{
    Decision, Explanation, MAX_PROTO_KEYS, MAX_SIGNATURE_CHARS, MAX_STEPS, MAX_WHY_CHARS, SignatureId, SignatureText,
    Stack, StackFrame, Step,
};
use rule::{Role, Rule, Sentinels, Then};

/// Glue of one signature; a longer chain is ended, so that a rule that matches too much does no harm.
const MAX_GLUE: usize = 6;
/// Frames of a recursion that are told.
const MAX_FOLDED: usize = 3;

/// A signature and why it is what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The signature.
    pub signature: SignatureText,
    /// The decisions that led there.
    pub explanation: Explanation,
}

impl Rules {
    /// Signs a stack.
    pub fn sign(&self, stack: &Stack) -> Signed {
        let mut signer = Signer { rules: self, stack, steps: Vec::new(), cut: 0 };
        let class = if stack.class.is_empty() { "unknown" } else { stack.class.as_str() };
        let rule = self.class(class, stack.message.as_deref());
        let message = stack.message.as_deref().and_then(message::mask);
        let message_counts = rule.is_some_and(|rule| rule.message_counts) && message.is_some();
        signer.note(
            class,
            Decision::Note,
            rule.map(|rule| rule.place.as_str()),
            match rule {
                Some(rule) => &rule.why,
                None => "no rule speaks of this class: the message does not count",
            },
        );
        if let Some(message) = message.as_deref().filter(|_| message_counts) {
            signer.note(message, Decision::Note, None, "what was said counts, its values masked");
        }
        signer.cut = signer.sentinel();
        let folded = if rule.is_some_and(|rule| rule.fold) { signer.fold() } else { Vec::new() };
        let taken = if folded.is_empty() { signer.walk() } else { folded };
        let name = rule.and_then(|rule| rule.name.as_deref()).unwrap_or(class);
        let mut parts = vec![name.to_owned()];
        parts.extend(message.clone().filter(|_| message_counts));
        parts.extend(signer.told(&taken));
        let whole = parts.join(" | ");
        let text = short(&whole, MAX_SIGNATURE_CHARS);
        if text != whole {
            signer.note(&whole, Decision::Note, None, "too long: a digest stands for its end");
        }
        let proto = signer.proto(&taken);
        let address_id = (!stack.addresses.is_empty()).then(|| id(&stack.addresses.join("\n")));
        let signature =
            SignatureText { id: id(&text), text, message, proto, address_id, rules: self.digest().to_owned() };
        Signed { signature, explanation: Explanation { steps: signer.steps } }
    }
}

/// Returns the name of a signature's text.
fn id(text: &str) -> SignatureId {
    let half = blake3::hash(text.as_bytes()).as_bytes().first_chunk().copied();
    SignatureId::from_bytes(half.expect("a digest has 32 bytes"))
}

/// One signing.
struct Signer<'a> {
    rules: &'a Rules,
    stack: &'a Stack,
    steps: Vec<Step>,
    /// How many frames, from the innermost on, only say how the crash was told.
    cut: usize,
}

impl<'a> Signer<'a> {
    fn note(&mut self, what: &str, decision: Decision, rule: Option<&str>, why: &str) {
        self.step(Step {
            frame: None,
            what: what.chars().take(MAX_SIGNATURE_CHARS).collect(),
            decision,
            rule: rule.map(str::to_owned),
            why: why.to_owned(),
        });
    }

    fn decide(&mut self, at: usize, decision: Decision, rule: Option<&Rule>, why: &str) {
        let what = self.stack.frames[at].key.clone();
        let why = why.chars().take(MAX_WHY_CHARS).collect();
        let rule = rule.map(|rule| rule.place.clone());
        self.step(Step { frame: u16::try_from(at).ok(), what, decision, rule, why });
    }

    fn step(&mut self, step: Step) {
        if self.steps.len() < MAX_STEPS {
            self.steps.push(step);
        }
    }

    fn judge(&self, frame: &StackFrame, sentinels: Sentinels) -> Option<&'a Rule> {
        self.rules.judge(self.stack, frame, sentinels)
    }

    /// Returns how many frames the innermost sentinel cuts off.
    fn sentinel(&mut self) -> usize {
        let frames = self.stack.frames.iter().enumerate();
        let mut sentinels = frames.filter_map(|(at, frame)| {
            let rule = self.judge(frame, Sentinels::Asked).filter(|rule| rule.role == Role::Sentinel)?;
            Some((at, rule))
        });
        let Some((at, rule)) = sentinels.next() else { return 0 };
        let key = self.stack.frames[at].key.as_str();
        for above in 0..at {
            self.decide(above, Decision::Cut, Some(rule), &format!("above `{key}`"));
        }
        if rule.then == Then::Judge {
            return at;
        }
        self.decide(at, Decision::Cut, Some(rule), &rule.why);
        at + 1
    }

    /// Returns what a frame is, once sentinels have been dealt with: a further one cuts itself off, if it does that.
    fn role(&self, frame: &StackFrame) -> (Role, Option<&'a Rule>) {
        let rule = match self.judge(frame, Sentinels::Asked) {
            Some(rule) if rule.role == Role::Sentinel && rule.then == Then::Skip => return (Role::Skip, Some(rule)),
            Some(rule) if rule.role == Role::Sentinel => self.judge(frame, Sentinels::Passed),
            rule => rule,
        };
        (rule.map_or(Role::Stop, |rule| rule.role), rule)
    }

    /// Returns the frames of a recursion that name it, if it is one.
    fn fold(&mut self) -> Vec<usize> {
        let keys: Vec<&str> = self.stack.frames.iter().skip(self.cut).map(|frame| frame.key.as_str()).collect();
        let (frames, why) = match cycle::find(&keys) {
            Some(cycle) => {
                let (length, times) = (cycle.length, cycle.times);
                let why = format!("a recursion of {length} frames, {times} times or more, told from its least key on");
                (cycle::rotation(&keys, cycle), why)
            }
            None => (cycle::frequent(&keys), "an irregular recursion, told by the functions met most often".to_owned()),
        };
        let frames: Vec<usize> = frames.into_iter().map(|at| at + self.cut).collect();
        let counts = |at: &usize| self.role(&self.stack.frames[*at]).0 != Role::Skip;
        let mut told: Vec<usize> = frames.iter().copied().filter(counts).collect();
        if told.is_empty() {
            told = frames;
        }
        told.truncate(MAX_FOLDED);
        for at in &told {
            self.decide(*at, Decision::Fold, None, &why);
        }
        told
    }

    /// Returns the frames of the text: glue, and the first stop.
    fn walk(&mut self) -> Vec<usize> {
        let is_sure = |frame: &StackFrame| !frame.is_scanned;
        let taken = self.walk_over(is_sure);
        if !taken.is_empty() || !self.stack.frames.iter().any(|frame| frame.is_scanned) {
            return taken;
        }
        let unsure = "what follows was only found by words that look like return addresses";
        self.note("no frame that is sure", Decision::Note, None, unsure);
        self.walk_over(|frame| frame.is_scanned)
    }

    fn walk_over(&mut self, is_asked: impl Fn(&StackFrame) -> bool) -> Vec<usize> {
        let frames = &self.stack.frames;
        let mut taken: Vec<usize> = Vec::new();
        let asked: Vec<usize> = (self.cut..frames.len()).filter(|at| is_asked(&frames[*at])).collect();
        for (number, at) in asked.iter().copied().enumerate() {
            let frame = &frames[at];
            if frame.key == NOWHERE {
                self.decide(at, Decision::Skip, None, "nothing is known of it");
                continue;
            }
            let (role, rule) = self.role(frame);
            let why = rule.map_or("no rule speaks of it", |rule| rule.why.as_str());
            match role {
                Role::Skip | Role::Sentinel => self.decide(at, Decision::Skip, rule, why),
                Role::Glue if taken.last().is_some_and(|last| frames[*last].key == frame.key) => {
                    self.decide(at, Decision::Skip, rule, "the same glue again");
                }
                Role::Glue if taken.len() < MAX_GLUE => {
                    self.decide(at, Decision::Glue, rule, why);
                    taken.push(at);
                }
                Role::Glue | Role::Stop => {
                    let why = if role == Role::Stop { why } else { "as much glue as there may be" };
                    self.decide(at, Decision::Stop, rule, why);
                    taken.push(at);
                    let beyond = asked.len() - number - 1;
                    if beyond > 0 {
                        self.note(&format!("{beyond} frames"), Decision::Beyond, None, "not needed to tell it apart");
                    }
                    return taken;
                }
            }
        }
        taken
    }

    /// Returns the frames as the text has them.
    fn told(&mut self, taken: &[usize]) -> Vec<String> {
        let frames = &self.stack.frames;
        let any = if taken.is_empty() { self.any() } else { None };
        let taken = any.as_ref().map_or(taken, std::slice::from_ref);
        let mut told: Vec<_> = taken.iter().map(|at| frames[*at].key.clone()).collect();
        if told.is_empty() {
            told.push(self.without_frames());
        }
        let is_common = |at: &usize| self.entry(*at).is_some() || self.role(&frames[*at]).0 == Role::Glue;
        let last = taken.iter().rposition(|at| self.entry(*at).is_some()).filter(|_| taken.iter().all(is_common));
        if let Some(last) = last
            && let Some(program) = self.program(taken[last])
        {
            told[last] = format!("{} {program}", told[last]);
            let rule = self.entry(taken[last]).map(|rule| rule.place.clone());
            let why = "every program has such a frame: it is told with its program";
            self.note(&told[last], Decision::Note, rule.as_deref(), why);
        }
        told
    }

    /// Returns the innermost frame that says anything, where none counts.
    fn any(&mut self) -> Option<usize> {
        let frames = &self.stack.frames;
        let is_told = |at: &usize| frames[*at].key != NOWHERE;
        let any = (self.cut..frames.len()).find(is_told).or_else(|| (0..frames.len()).find(is_told))?;
        self.decide(any, Decision::Stop, None, "no frame counts by the rules: the innermost one stands for all");
        Some(any)
    }

    /// Returns what stands for the frames where none says anything.
    fn without_frames(&mut self) -> String {
        let program = self.stack.program.clone();
        let what = program.map_or_else(|| "no stack".to_owned(), |program| format!("no stack in {program}"));
        self.note(&what, Decision::Note, None, "there is no frame with a name or a place");
        what
    }

    /// Returns the keys of all below the cut, a recursion's once. What rules pass over stays: it is what stacks without
    /// symbols still have in common, and likeness weighs a function by how rare it is.
    fn proto(&self, taken: &[usize]) -> Vec<String> {
        let is_told = |frame: &&StackFrame| frame.key != NOWHERE;
        let frames = self.stack.frames.iter().skip(self.cut).filter(is_told);
        let mut keys: Vec<&str> = frames.map(|frame| frame.key.as_str()).collect();
        keys.dedup();
        if let Some(cycle) = cycle::find(&keys) {
            keys.drain(cycle.start + cycle.length..cycle.start + cycle.length * cycle.times);
        }
        if keys.is_empty() {
            keys = taken.iter().map(|at| self.stack.frames[*at].key.as_str()).collect();
        }
        keys.into_iter().take(MAX_PROTO_KEYS).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::report::DumpKind;
    use model::signature::STACK_VERSION;
    use proptest::prelude::*;

    fn stack_of(class: &str, keys: &[&str]) -> Stack {
        let frame = |key: &&str| StackFrame { key: (*key).to_owned(), ..StackFrame::default() };
        Stack {
            version: STACK_VERSION,
            kind: DumpKind::Core,
            class: class.to_owned(),
            message: None,
            program: Some("app".to_owned()),
            modules: Vec::new(),
            files: Vec::new(),
            frames: keys.iter().map(frame).collect(),
            frames_cut: 0,
            addresses: Vec::new(),
        }
    }

    #[test]
    fn every_file_of_ours_keeps_its_word() {
        let failures = Rules::builtin().failures();
        let lines: Vec<_> = failures.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
        assert!(Rules::builtin().examples().len() > 50, "examples are what proves the rules");
    }

    #[test]
    fn a_project_takes_a_frame_back() {
        let text = "[[rule]]\nrole = 'stop'\nwhy = 'we are the C library'\nfunction = ['memcpy']\n";
        let check = |rules: &Rules, expected: &str, rule: Option<&str>| {
            let signed = rules.sign(&stack_of("null_read", &["memcpy", "parse", "main"]));
            assert_eq!(signed.signature.text, expected);
            let step = signed.explanation.steps.iter().find(|step| step.frame == Some(0)).unwrap();
            if let Some(rule) = rule {
                assert_eq!(step.rule.as_deref(), Some(rule));
            }
        };
        check(Rules::builtin(), "null_access | parse", None);
        let ours = Rules::with("libc.toml", text).unwrap();
        check(&ours, "null_access | memcpy", Some("libc.toml:2"));
        assert_ne!(ours.digest(), Rules::builtin().digest());
    }

    #[test]
    fn decisions_are_told() {
        let mut stack = stack_of("panic", &["rust_panic", "core::panicking::panic_fmt", "memcpy", "app::load", "main"]);
        stack.message = Some("lost page 12".to_owned());
        let signed = Rules::builtin().sign(&stack);
        assert_eq!(signed.signature.text, "panic | lost page # | app::load");
        let decisions: Vec<_> =
            signed.explanation.steps.iter().map(|step| (step.frame, step.decision.as_str())).collect();
        let expected = [
            (None, "note"),
            (None, "note"),
            (Some(0), "cut"),
            (Some(1), "skip"),
            (Some(2), "skip"),
            (Some(3), "stop"),
            (None, "beyond"),
        ];
        assert_eq!(decisions, expected, "{:#?}", signed.explanation.lines());
        signed.explanation.check().unwrap();
        signed.signature.check().unwrap();
    }

    #[test]
    fn recursion_is_told_once() {
        let check = |keys: &[&str], expected: &str| {
            assert_eq!(Rules::builtin().sign(&stack_of("stack_overflow", keys)).signature.text, expected);
        };
        let turns = |cycle: &[&'static str]| cycle.iter().cycle().take(60).copied().collect::<Vec<_>>();
        check(&turns(&["walk", "visit"]), "stack_overflow | visit | walk");
        check(&turns(&["visit", "walk"]), "stack_overflow | visit | walk");
        check(&[vec!["memset", "leaf"], turns(&["walk", "visit"])].concat(), "stack_overflow | visit | walk");
        check(&turns(&["memcpy", "walk"]), "stack_overflow | walk");
        check(&turns(&["d", "c", "b", "a"]), "stack_overflow | a | d | c");
        check(&["deep", "main"], "stack_overflow | deep");
        check(&["a", "b", "a", "c", "a", "b", "b", "d", "a", "main"], "stack_overflow | a | b");
    }

    #[test]
    fn what_is_sure_comes_first() {
        let mut stack = stack_of("wild_jump", &["?", "stale", "caller", "main"]);
        stack.frames[1].is_scanned = true;
        assert_eq!(Rules::builtin().sign(&stack).signature.text, "wild_jump | caller");
        stack.frames.iter_mut().for_each(|frame| frame.is_scanned = true);
        assert_eq!(Rules::builtin().sign(&stack).signature.text, "wild_jump | stale");
    }

    #[test]
    fn there_is_always_a_signature() {
        let check = |class: &str, keys: &[&str], expected: &str| {
            assert_eq!(Rules::builtin().sign(&stack_of(class, keys)).signature.text, expected);
        };
        check("abort", &["raise", "abort"], "abort | raise");
        check("", &["?", "?"], "unknown | no stack in app");
        check("", &[], "unknown | no stack in app");
        let long = "x".repeat(160);
        let signed = Rules::builtin().sign(&stack_of(&"c".repeat(64), &[&long, "main"]));
        assert!(signed.signature.text.chars().count() <= MAX_SIGNATURE_CHARS);
    }

    #[test]
    fn an_id_never_changes() {
        let id = Rules::builtin().sign(&stack_of("null_access", &["parse"])).signature.id;
        assert_eq!(id.to_string(), "e3118fed679fb37f3ebecc6edf659a90");
    }

    proptest! {
        #[test]
        fn every_stack_is_signed(class in "[a-z_]{0,12}", keys in prop::collection::vec("[a-c?]|memcpy|abort|rust_panic|_start", 0..64), message in prop::option::of("[a-z0-9 ']{0,40}")) {
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            let mut stack = stack_of(&class, &keys);
            stack.message = message;
            let signed = Rules::builtin().sign(&stack);
            prop_assert!(signed.signature.check().is_ok());
            prop_assert!(signed.explanation.check().is_ok());
            prop_assert_eq!(&Rules::builtin().sign(&stack), &signed);
        }
    }
}
