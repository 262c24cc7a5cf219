//! Rules: what a frame is for a signature, and what a class of crashes is signed by. They are data, TOML.
//!
//! ```toml
//! [[rule]]
//! role = "skip"                     # sentinel, skip, glue or stop
//! why = "copies for others"
//! function = ["memcpy", "str*"]     # any of these; and so with module, file, class, kind
//! module = ["libc.so*"]
//! # and unknown = true, interrupted = true, innermost = […] of the stack's first frame
//! entry = true                      # every program has it: alone it is told with its program
//!
//! [[class]]
//! class = ["panic*", "assert"]      # and message = […], of the message as it was said
//! name = "broken_promise"           # what a signature says in its place
//! message_counts = true             # the masked message is part of the signature
//! fold = false                      # the stack is a recursion
//!
//! [[example]]
//! class = "null_read"
//! frames = ["memcpy @libc.so.6", "parse @app src/parse.c", "main @app"]
//! signature = "null_access | parse"
//! ```
//!
//! The first rule that matches decides, and a project's rules come before ours: so a project takes a frame back from us by
//! calling it `stop`. A *sentinel* cuts off all above it and is then what `then` says: `skip`, or `judge` for what the other
//! rules make of it. A frame that nobody speaks of is a stop. Rules may be hostile: everything has a bound, and an error
//! names the line.

use super::pattern::Pattern;
use model::report::DumpKind;
use model::signature::{MAX_CLASS_CHARS, MAX_WHY_CHARS, Stack, StackFrame};
use serde::Deserialize;
use std::sync::LazyLock;
use toml::Spanned;

/// Bytes of one file of rules.
pub const MAX_RULES_BYTES: usize = 256 * 1024;
/// Rules of one file, those on classes and examples counted too.
pub const MAX_RULES: usize = 2_000;
/// Patterns of one file.
pub const MAX_PATTERNS: usize = 10_000;
/// Projects' files that may be laid over one another.
pub const MAX_OVERLAYS: usize = 8;
/// Frames of one example.
const MAX_EXAMPLE_FRAMES: usize = 64;

/// Our own rules, in the order in which they are asked.
const BUILTIN: [(&str, &str); 13] = [
    ("class.toml", include_str!("../../rules/class.toml")),
    ("signal.toml", include_str!("../../rules/signal.toml")),
    ("sanitizer.toml", include_str!("../../rules/sanitizer.toml")),
    ("fuzz.toml", include_str!("../../rules/fuzz.toml")),
    ("allocator.toml", include_str!("../../rules/allocator.toml")),
    ("glibc.toml", include_str!("../../rules/glibc.toml")),
    ("libstdcxx.toml", include_str!("../../rules/libstdcxx.toml")),
    ("rust.toml", include_str!("../../rules/rust.toml")),
    ("go.toml", include_str!("../../rules/go.toml")),
    ("managed.toml", include_str!("../../rules/managed.toml")),
    ("kernel.toml", include_str!("../../rules/kernel.toml")),
    ("std.toml", include_str!("../../rules/std.toml")),
    ("entry.toml", include_str!("../../rules/entry.toml")),
];

/// Why a file of rules is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}:{line}`: {what} (hint: {hint})")]
pub struct RuleError {
    /// Which file.
    pub name: String,
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// What a frame is for a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// All above it is cut off.
    Sentinel,
    /// It is passed over.
    Skip,
    /// It is taken, and its caller too.
    Glue,
    /// It is taken, and ends the signature.
    Stop,
}

/// What a sentinel itself is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Then {
    /// It is cut off with what is above it.
    #[default]
    Skip,
    /// It is what the other rules say.
    Judge,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    rule: Vec<RuleText>,
    #[serde(default)]
    class: Vec<ClassText>,
    #[serde(default)]
    example: Vec<ExampleText>,
}

type Patterns = Option<Vec<Spanned<String>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    role: Spanned<Role>,
    why: String,
    #[serde(default)]
    then: Then,
    #[serde(default)]
    entry: bool,
    function: Patterns,
    module: Patterns,
    file: Patterns,
    class: Patterns,
    kind: Option<Vec<DumpKind>>,
    unknown: Option<bool>,
    interrupted: Option<bool>,
    innermost: Patterns,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassText {
    class: Spanned<Vec<Spanned<String>>>,
    message: Patterns,
    name: Option<String>,
    message_counts: Option<bool>,
    fold: Option<bool>,
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExampleText {
    #[serde(default)]
    kind: Option<DumpKind>,
    class: String,
    message: Option<String>,
    frames: Vec<String>,
    signature: Spanned<String>,
}

/// A rule on frames.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) role: Role,
    pub(crate) then: Then,
    /// Whether every program has such a frame, so that its name alone tells none apart.
    pub(crate) entry: bool,
    pub(crate) why: String,
    /// `file:line`
    pub(crate) place: String,
    function: Vec<Pattern>,
    module: Vec<Pattern>,
    file: Vec<Pattern>,
    class: Vec<Pattern>,
    kind: Vec<DumpKind>,
    unknown: Option<bool>,
    interrupted: Option<bool>,
    /// Of the stack's innermost frame, whichever frame the rule is about.
    innermost: Vec<Pattern>,
}

/// A rule on a class of crashes.
#[derive(Clone, Debug)]
pub(crate) struct ClassRule {
    class: Vec<Pattern>,
    message: Vec<Pattern>,
    /// What it is called in a signature, if not by its own word.
    pub(crate) name: Option<String>,
    pub(crate) message_counts: bool,
    pub(crate) fold: bool,
    pub(crate) why: String,
    pub(crate) place: String,
}

/// What a file of rules says that its rules do.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    pub(crate) kind: DumpKind,
    pub(crate) class: String,
    pub(crate) message: Option<String>,
    pub(crate) frames: Vec<String>,
    pub(crate) signature: String,
    pub(crate) place: String,
}

/// What files of rules say, in the order in which it is asked.
#[derive(Clone, Debug, Default)]
struct Sheet {
    rules: Vec<Rule>,
    classes: Vec<ClassRule>,
    examples: Vec<Example>,
}

/// A set of rules: a project's own before ours.
#[derive(Clone, Debug)]
pub struct Rules {
    sheet: Sheet,
    /// Rules by the first byte of the functions they match, in order; those that match any are in all of them.
    by_first: Vec<Vec<u32>>,
    /// For functions that do not begin with ASCII.
    others: Vec<u32>,
    overlays: usize,
    digest: String,
}

impl Rules {
    /// Returns our own rules.
    pub fn builtin() -> &'static Self {
        static RULES: LazyLock<Rules> = LazyLock::new(|| {
            let none = Rules::of(Sheet::default());
            BUILTIN.iter().rev().fold(none, |rules, (name, text)| {
                let rules = rules.over(name, text).expect("a test reads every file of ours");
                Rules { overlays: 0, ..rules }
            })
        });
        &RULES
    }

    /// Returns our own rules under those of a project.
    pub fn with(name: &str, text: &str) -> Result<Self, RuleError> {
        Self::builtin().clone().over(name, text)
    }

    /// Lays the rules of a file over these: they are asked first.
    pub fn over(self, name: &str, text: &str) -> Result<Self, RuleError> {
        let name: String = name.chars().filter(|sign| !sign.is_control()).take(MAX_WHY_CHARS / 4).collect();
        let reader = Reader { name, text };
        if self.overlays >= MAX_OVERLAYS {
            return Err(reader.error(0, format!("more than {MAX_OVERLAYS} files"), "put the rules into one file"));
        }
        let mut sheet = reader.read()?;
        sheet.rules.extend(self.sheet.rules);
        sheet.classes.extend(self.sheet.classes);
        sheet.examples.extend(self.sheet.examples);
        let digest = blake3::hash([text, &self.digest].join("\n").as_bytes()).to_hex();
        let digest = digest.chars().take(32).collect();
        Ok(Self { digest, overlays: self.overlays + 1, ..Self::of(sheet) })
    }

    /// Returns a digest of their texts, which says by which rules a signature was made.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    fn of(sheet: Sheet) -> Self {
        let mut by_first = vec![Vec::new(); 128];
        let mut others = Vec::new();
        for (number, rule) in (0_u32..).zip(&sheet.rules) {
            let firsts: Option<Vec<u8>> = rule.function.iter().map(Pattern::first).collect();
            match firsts.filter(|firsts| !firsts.is_empty()) {
                Some(mut firsts) => {
                    firsts.sort_unstable();
                    firsts.dedup();
                    for first in firsts {
                        by_first[usize::from(first)].push(number);
                    }
                }
                None => {
                    by_first.iter_mut().for_each(|numbers| numbers.push(number));
                    others.push(number);
                }
            }
        }
        Self { sheet, by_first, others, overlays: 0, digest: String::new() }
    }

    /// Returns the first rule that matches a frame; of sentinels only if they are asked for.
    pub(crate) fn judge(&self, stack: &Stack, frame: &StackFrame, sentinels: Sentinels) -> Option<&Rule> {
        let first = frame.key.as_bytes().first().copied().unwrap_or_default();
        let numbers = self.by_first.get(usize::from(first)).unwrap_or(&self.others);
        let is_asked = |rule: &&Rule| sentinels == Sentinels::Asked || rule.role != Role::Sentinel;
        let rules = numbers.iter().filter_map(|number| self.sheet.rules.get(usize::try_from(*number).ok()?));
        rules.filter(is_asked).find(|rule| rule.matches(stack, frame))
    }

    /// Returns the first rule on a class.
    pub(crate) fn class(&self, class: &str, message: Option<&str>) -> Option<&ClassRule> {
        self.sheet.classes.iter().find(|rule| rule.matches(class, message))
    }

    /// Returns what the files say that their rules do.
    pub(crate) fn examples(&self) -> &[Example] {
        &self.sheet.examples
    }
}

/// Whether a question is about sentinels too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sentinels {
    Asked,
    Passed,
}

impl Rule {
    fn matches(&self, stack: &Stack, frame: &StackFrame) -> bool {
        any(&self.function, Some(&frame.key))
            && any(&self.module, stack.module_of(frame))
            && any(&self.file, stack.file_of(frame))
            && any(&self.class, Some(&stack.class))
            && any(&self.innermost, stack.frames.first().map(|frame| frame.key.as_str()))
            && (self.kind.is_empty() || self.kind.contains(&stack.kind))
            && self.unknown.is_none_or(|unknown| unknown == frame.is_unknown)
            && self.interrupted.is_none_or(|interrupted| interrupted == frame.is_interrupted)
    }
}

impl ClassRule {
    fn matches(&self, class: &str, message: Option<&str>) -> bool {
        any(&self.class, Some(class)) && any(&self.message, message)
    }
}

/// Tells whether one of the patterns matches; none at all ask for nothing.
fn any(patterns: &[Pattern], text: Option<&str>) -> bool {
    patterns.is_empty() || text.is_some_and(|text| patterns.iter().any(|pattern| pattern.matches(text)))
}

struct Reader<'a> {
    name: String,
    text: &'a str,
}

impl Reader<'_> {
    fn error(&self, at: usize, what: impl Into<String>, hint: &str) -> RuleError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        let what: String = what.into().chars().take(MAX_WHY_CHARS).collect();
        RuleError { name: self.name.clone(), line, what, hint: hint.to_owned() }
    }

    fn read(&self) -> Result<Sheet, RuleError> {
        let bytes = self.text.len();
        if bytes > MAX_RULES_BYTES {
            let what = format!("{bytes} bytes of at most {MAX_RULES_BYTES}");
            return Err(self.error(0, what, "keep rules that still match something"));
        }
        let file: FileText = toml::from_str(self.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            self.error(at, error.message().replace('\n', " "), "see docs/signatures.md for the words a rule may use")
        })?;
        let count = file.rule.len() + file.class.len() + file.example.len();
        if count > MAX_RULES {
            let what = format!("{count} rules of at most {MAX_RULES}");
            return Err(self.error(bytes, what, "join rules of one role by listing their functions"));
        }
        let mut left = MAX_PATTERNS;
        let rules = file.rule.into_iter().map(|rule| self.rule(rule, &mut left)).collect::<Result<_, _>>()?;
        let classes = file.class.into_iter().map(|class| self.class(class, &mut left)).collect::<Result<_, _>>()?;
        let examples = file.example.into_iter().map(|example| self.example(example)).collect::<Result<_, _>>()?;
        Ok(Sheet { rules, classes, examples })
    }

    fn place(&self, at: usize) -> String {
        let RuleError { name, line, .. } = self.error(at, "", "");
        format!("{name}:{line}")
    }

    fn rule(&self, text: RuleText, left: &mut usize) -> Result<Rule, RuleError> {
        let at = text.role.span().start;
        let rule = Rule {
            role: text.role.into_inner(),
            then: text.then,
            entry: text.entry,
            why: self.why(at, text.why)?,
            place: self.place(at),
            function: self.patterns(text.function, left)?,
            module: self.patterns(text.module, left)?,
            file: self.patterns(text.file, left)?,
            class: self.patterns(text.class, left)?,
            kind: text.kind.unwrap_or_default(),
            unknown: text.unknown,
            interrupted: text.interrupted,
            innermost: self.patterns(text.innermost, left)?,
        };
        let is_about_frames = !rule.function.is_empty()
            || !rule.module.is_empty()
            || !rule.file.is_empty()
            || rule.unknown.is_some()
            || rule.interrupted.is_some();
        if !is_about_frames {
            return Err(self.error(at, "the rule matches every frame", "give it `function`, `module` or `file`"));
        }
        if rule.then == Then::Judge && rule.role != Role::Sentinel {
            return Err(self.error(at, "`then` is for sentinels", "leave it out"));
        }
        Ok(rule)
    }

    fn class(&self, text: ClassText, left: &mut usize) -> Result<ClassRule, RuleError> {
        let at = text.class.span().start;
        if text.name.as_deref().is_some_and(|name| !is_class(name)) {
            let hint = format!("give it 1 to {MAX_CLASS_CHARS} small letters, digits and `_`");
            return Err(self.error(at, "the `name` of the class is no word", &hint));
        }
        Ok(ClassRule {
            class: self.patterns(Some(text.class.into_inner()), left)?,
            message: self.patterns(text.message, left)?,
            name: text.name,
            message_counts: text.message_counts.unwrap_or_default(),
            fold: text.fold.unwrap_or_default(),
            why: self.why(at, text.why)?,
            place: self.place(at),
        })
    }

    fn example(&self, text: ExampleText) -> Result<Example, RuleError> {
        let at = text.signature.span().start;
        if text.frames.len() > MAX_EXAMPLE_FRAMES {
            let what = format!("an example of {} frames of at most {MAX_EXAMPLE_FRAMES}", text.frames.len());
            return Err(self.error(at, what, "keep the frames that the signature is made of"));
        }
        Ok(Example {
            kind: text.kind.unwrap_or(DumpKind::Core),
            class: text.class,
            message: text.message,
            frames: text.frames,
            signature: text.signature.into_inner(),
            place: self.place(at),
        })
    }

    fn why(&self, at: usize, why: String) -> Result<String, RuleError> {
        let length = why.chars().count();
        if why.trim().is_empty() || length > MAX_WHY_CHARS {
            let what = format!("a `why` of {length} characters, from 1 to {MAX_WHY_CHARS}");
            return Err(self.error(at, what, "say it in one sentence; it is shown with every decision"));
        }
        Ok(why)
    }

    fn patterns(&self, texts: Patterns, left: &mut usize) -> Result<Vec<Pattern>, RuleError> {
        let Some(texts) = texts else { return Ok(Vec::new()) };
        let read = |text: Spanned<String>| {
            let at = text.span().start;
            *left = left.checked_sub(1).ok_or_else(|| {
                self.error(at, format!("more than {MAX_PATTERNS} patterns"), "use `*` for families of functions")
            })?;
            Pattern::parse(text.as_ref()).map_err(|what| self.error(at, what, "`*` is anything, `?` one character"))
        };
        texts.into_iter().map(read).collect()
    }
}

/// Tells whether this can stand for a class of crashes.
fn is_class(name: &str) -> bool {
    let is_sign = |sign: u8| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == b'_';
    (1..=MAX_CLASS_CHARS).contains(&name.len()) && name.bytes().all(is_sign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn errors_name_their_line() {
        let check = |text: &str, expected: &str| {
            let error = Rules::with("ours.toml", text).err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(error, expected);
        };
        check("[[rule]]\nrole = 'skip'\nwhy = 'x'\nfunction = ['a']\n", "");
        check(
            "\n[[rule]]\nrole = 'skip'\nwhy = 'x'\nfunction = ['a',\n '']\n",
            "`ours.toml:6`: an empty pattern matches nothing (hint: `*` is anything, `?` one character)",
        );
        check(
            "\n[[rule]]\nrole = 'skip'\nwhy = 'x'\n",
            "`ours.toml:3`: the rule matches every frame (hint: give it `function`, `module` or `file`)",
        );
        check(
            "[[rule]]\nrole = 'skip'\nwhy = 'x'\nfuncton = ['a']\n",
            "`ours.toml:4`: unknown field `functon`, expected one of `role`, `why`, `then`, `entry`, `function`, `module`, \
             `file`, `class`, `kind`, `unknown`, `interrupted`, `innermost` (hint: see docs/signatures.md for the words a rule may use)",
        );
        check(
            "[[rule]]\nrole = 'skip'\nwhy = ''\nfunction = ['a']\n",
            "`ours.toml:2`: a `why` of 0 characters, from 1 to 256 (hint: say it in one sentence; it is shown with every \
             decision)",
        );
        check(
            "[[class]]\nclass = ['a']\nname = 'a | b'\nwhy = 'x'\n",
            "`ours.toml:2`: the `name` of the class is no word (hint: give it 1 to 64 small letters, digits and `_`)",
        );
        let many = "[[rule]]\nrole='skip'\nwhy='x'\nfunction=['a']\n".repeat(MAX_RULES + 1);
        check(
            &many,
            "`ours.toml:8005`: 2001 rules of at most 2000 (hint: join rules of one role by listing their functions)",
        );
        let patterns = format!("[[rule]]\nrole='skip'\nwhy='x'\nfunction=[{}]\n", "'a',".repeat(MAX_PATTERNS + 1));
        check(&patterns, "`ours.toml:4`: more than 10000 patterns (hint: use `*` for families of functions)");
        check(
            &"#".repeat(MAX_RULES_BYTES + 1),
            "`ours.toml:1`: 262145 bytes of at most 262144 (hint: keep rules that still match something)",
        );
    }

    #[test]
    fn overlays_are_few() {
        let over = |rules: Rules| rules.over("a.toml", "");
        let most = (0..MAX_OVERLAYS).try_fold(Rules::builtin().clone(), |rules, _| over(rules));
        assert!(over(most.unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "[\\[\\]a-z=\"'{}\n.#0-9]{0,200}") {
            if let Err(error) = Rules::with("x", &text) {
                prop_assert!(error.line <= 1 + text.matches('\n').count());
            }
        }
    }
}
