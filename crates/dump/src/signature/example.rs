//! Examples: every file of rules says what its rules make of some stacks, and is held to that.
//!
//! A frame of an example is `name @module file`, of which only the name must be; `?` is a function that is not known,
//! `@module+0x12` says where it is, and `! name` is a frame that a signal interrupted. The names are as a report has them,
//! so an example proves the making of keys too.

use super::rule::{Example, Rules};
use super::stack::stack;
use model::report::{Address, Crash, Frame, Report, Severity, Thread, Trust};
use std::fmt;

/// An example that comes out otherwise than its file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where the example is, as `file:line`.
    pub place: String,
    /// What it says.
    pub expected: String,
    /// What comes out.
    pub got: String,
    /// Why that comes out.
    pub why: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: `{}` comes out, not `{}`", self.place, self.got, self.expected)?;
        self.why.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

impl Rules {
    /// Returns the examples, of all files, that these rules do not bear out.
    pub fn failures(&self) -> Vec<Failure> {
        self.examples().iter().filter_map(|example| self.failure(example)).collect()
    }

    fn failure(&self, example: &Example) -> Option<Failure> {
        let signed = self.sign(&stack(&report(example)));
        let got = signed.signature.text;
        (got != example.signature).then(|| Failure {
            place: example.place.clone(),
            expected: example.signature.clone(),
            got,
            why: signed.explanation.lines(),
        })
    }
}

fn report(example: &Example) -> Report {
    let mut report = Report::new(example.kind);
    report.crash = Some(Crash {
        class: example.class.clone(),
        message: example.message.clone(),
        address: None,
        severity: Severity::Unknown,
        reasons: Vec::new(),
    });
    let frames = example.frames.iter().map(|text| frame(text)).collect();
    report.threads = vec![Thread { is_crashed: true, frames, ..Thread::default() }];
    report
}

fn frame(text: &str) -> Frame {
    let mut frame = Frame::new(Trust::Cfi);
    let text = match text.strip_prefix("! ") {
        Some(rest) => {
            frame.is_interrupted = true;
            rest
        }
        None => text,
    };
    let (name, place) = text.rsplit_once(" @").unwrap_or((text, ""));
    frame.function = Some(name.to_owned()).filter(|name| name != "?");
    let (module, file) = place.split_once(' ').unwrap_or((place, ""));
    let (module, offset) = module.rsplit_once("+0x").unwrap_or((module, ""));
    frame.offset = u64::from_str_radix(offset, 16).ok().map(Address);
    frame.module_name = Some(module.to_owned()).filter(|module| !module.is_empty());
    frame.file = Some(file.to_owned()).filter(|file| !file.is_empty());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_example_is_named() {
        let text = "\n[[example]]\nclass = 'x'\nframes = ['memcpy', 'parse']\nsignature = 'x | memcpy'\n";
        let failures = Rules::with("a.toml", text).unwrap().failures();
        let ours = failures.iter().filter(|failure| failure.place.starts_with("a.toml"));
        let heads: Vec<_> = ours.map(|failure| failure.to_string().lines().next().unwrap().to_owned()).collect();
        assert_eq!(heads, ["`a.toml:5`: `x | parse` comes out, not `x | memcpy`"]);
    }
}
