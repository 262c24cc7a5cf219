//! Signatures: what a dump is called by, so that dumps of one defect are found under one name.
//!
//! Made by `dump::signature` where the dump was opened, since it takes the rules of a tenant and a whole report; kept and
//! compared by the server, which opens nothing foreign. So what comes in here is only bounded (`check`), and a `Stack` holds
//! all that another set of rules would need to sign the same dump again.

mod bucket;
pub mod similarity;

pub use bucket::{
    MAX_ALIAS_CHAIN, MAX_REPRESENTATIVES, MAX_RULES_FILE_BYTES, MAX_SIGNED_AT_ONCE, MAX_SPLIT_DUMPS, MAX_TITLE_CHARS,
    MergeInto, Moved, NewRules, Proposed, RulesFile, Signature, SignatureChange, SignatureDecided, SignatureInfo,
    SignatureQuery, SignatureState, Signed, SignedAgain, SignedAmong, SignedQuery, SignedStack, SplitOff, StackSigned,
};

use crate::error::ApiError;
use crate::report::DumpKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// The version of how frames get their keys; stacks of different versions are not compared word by word.
pub const STACK_VERSION: u32 = 1;
/// Frames of one stack that are kept for signing again.
pub const MAX_STACK_FRAMES: usize = 64;
/// Bytes of one stack as JSON, so that it fits into a row.
pub const MAX_STACK_BYTES: usize = 16 * 1024;
/// Characters of one frame's key.
pub const MAX_KEY_CHARS: usize = 160;
/// Characters of a source file's path in a stack; what is longer loses its beginning.
pub const MAX_FILE_CHARS: usize = 96;
/// Characters of a module's name in a stack.
pub const MAX_MODULE_CHARS: usize = 96;
/// Characters of a class's name.
pub const MAX_CLASS_CHARS: usize = 64;
/// Characters of what a program said, before it is masked.
pub const MAX_MESSAGE_CHARS: usize = 512;
/// Characters of a signature's text.
pub const MAX_SIGNATURE_CHARS: usize = 255;
/// Keys that a signature keeps for searching and for comparison.
pub const MAX_PROTO_KEYS: usize = 40;
/// Addresses that sign a dump without any symbols.
pub const MAX_ADDRESSES: usize = 8;
/// Steps of one explanation.
pub const MAX_STEPS: usize = 2 * MAX_STACK_FRAMES;
/// Characters of one sentence in an explanation.
pub const MAX_WHY_CHARS: usize = 256;

/// The name of a signature: half of the BLAKE3 of its text, 32 lower-case hexadecimal characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignatureId([u8; 16]);

/// A text that is not the name of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signature's id is 32 lower-case hexadecimal characters")]
pub struct SignatureIdError;

impl SignatureId {
    /// Wraps the first half of a finished hash.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SignatureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SignatureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SignatureId {
    type Err = SignatureIdError;

    fn from_str(text: &str) -> Result<Self, SignatureIdError> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(SignatureIdError);
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| SignatureIdError)
    }
}

impl Serialize for SignatureId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SignatureId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl utoipa::PartialSchema for SignatureId {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        crate::id::text_schema("^[0-9a-f]{32}$")
    }
}

impl utoipa::ToSchema for SignatureId {}

/// What rules look at: the stack of the thread that crashed, the innermost frame first, and why it crashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Stack {
    /// `STACK_VERSION`.
    pub version: u32,
    /// What sort of dump it is from.
    pub kind: DumpKind,
    /// What went wrong: the crash's class, or else the signal's name.
    pub class: String,
    /// What was said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The name of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The names of modules that the frames are in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
    /// The source files that the frames are in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// The frames.
    #[serde(default)]
    pub frames: Vec<StackFrame>,
    /// How many frames there were beyond these.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub frames_cut: u64,
    /// The innermost places by build id and offset: the same in every crash of one build there, symbols or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One frame of a stack that rules look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StackFrame {
    /// The function without what differs between builds, or `module[build id]+offset`.
    pub key: String,
    /// Which of the stack's modules it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<u16>,
    /// Which of the stack's files it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<u16>,
    /// Whether its function is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unknown: bool,
    /// Whether it was only found by a word that looks like a return address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_scanned: bool,
    /// Whether a signal interrupted it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_interrupted: bool,
}

impl Stack {
    /// Returns the name of the module that a frame is in.
    pub fn module_of(&self, frame: &StackFrame) -> Option<&str> {
        self.modules.get(usize::from(frame.module?)).map(String::as_str)
    }

    /// Returns the source file that a frame is in.
    pub fn file_of(&self, frame: &StackFrame) -> Option<&str> {
        self.files.get(usize::from(frame.file?)).map(String::as_str)
    }

    /// Refuses what is longer than a stack is ever made.
    pub fn check(&self) -> Result<(), ApiError> {
        let bounds = [
            ("frames", self.frames.len(), MAX_STACK_FRAMES),
            ("modules", self.modules.len(), MAX_STACK_FRAMES),
            ("files", self.files.len(), MAX_STACK_FRAMES),
            ("addresses", self.addresses.len(), MAX_ADDRESSES),
        ];
        bounds.iter().try_for_each(|(what, count, most)| within(what, *count, *most))?;
        longest("class", [&self.class], MAX_CLASS_CHARS)?;
        longest("message", &self.message, MAX_MESSAGE_CHARS)?;
        longest("program", &self.program, MAX_MODULE_CHARS)?;
        longest("module", &self.modules, MAX_MODULE_CHARS)?;
        longest("file", &self.files, MAX_FILE_CHARS)?;
        longest("key", self.frames.iter().map(|frame| &frame.key), MAX_KEY_CHARS)?;
        longest("address", &self.addresses, MAX_KEY_CHARS)
    }
}

/// The signature of one dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SignatureText {
    /// What dumps of one defect are found by: a digest of the text.
    pub id: SignatureId,
    /// The class, the masked message where it counts, and the frames that decide, ` | ` between them.
    pub text: String,
    /// The masked message, whether it is part of the text or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The keys of all frames that are not cut off, the innermost first: what similarity compares.
    #[serde(default)]
    pub proto: Vec<String>,
    /// A digest of the innermost build ids and offsets, of a dump that has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_id: Option<SignatureId>,
    /// Which rules made it: a digest of their texts.
    pub rules: String,
}

impl SignatureText {
    /// Refuses what is longer than a signature is ever made.
    pub fn check(&self) -> Result<(), ApiError> {
        within("keys", self.proto.len(), MAX_PROTO_KEYS)?;
        longest("text", [&self.text], MAX_SIGNATURE_CHARS)?;
        longest("message", &self.message, MAX_MESSAGE_CHARS)?;
        longest("key", &self.proto, MAX_KEY_CHARS)?;
        longest("digest of rules", [&self.rules], 64)
    }
}

/// What was decided about one frame, or about the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It says how the crash was told, not where it happened: it lies above a sentinel, or is one.
    Cut,
    /// It is passed over.
    Skip,
    /// It is part of the text, and so is the frame that called it.
    Glue,
    /// It is part of the text and ends it.
    Stop,
    /// It is part of a recursion that is told once.
    Fold,
    /// It is beyond what the text needed.
    Beyond,
    /// It speaks of the whole: the class, the message, the length.
    Note,
}

impl Decision {
    /// Returns its word, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Skip => "skip",
            Self::Glue => "glue",
            Self::Stop => "stop",
            Self::Fold => "fold",
            Self::Beyond => "beyond",
            Self::Note => "note",
        }
    }
}

/// One decision and its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Step {
    /// Which frame of the stack it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<u16>,
    /// What it is about: the frame's key, the class, the message.
    pub what: String,
    /// What was decided.
    pub decision: Decision,
    /// Which rule said so, as `file:line`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Why, in a few words.
    pub why: String,
}

/// Why a signature is what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Explanation {
    /// The decisions, in the order they were made.
    pub steps: Vec<Step>,
}

impl Explanation {
    /// Returns it as lines for people.
    pub fn lines(&self) -> Vec<String> {
        self.steps.iter().map(Step::line).collect()
    }

    /// Refuses what is longer than an explanation is ever made.
    pub fn check(&self) -> Result<(), ApiError> {
        within("steps", self.steps.len(), MAX_STEPS)?;
        longest("subject", self.steps.iter().map(|step| &step.what), MAX_MESSAGE_CHARS)?;
        longest("rule", self.steps.iter().filter_map(|step| step.rule.as_ref()), MAX_WHY_CHARS)?;
        longest("reason", self.steps.iter().map(|step| &step.why), MAX_WHY_CHARS)
    }
}

impl Step {
    fn line(&self) -> String {
        let frame = self.frame.map_or_else(String::new, |frame| format!("#{frame}"));
        let rule = self.rule.as_ref().map_or_else(String::new, |rule| format!(" ({rule})"));
        format!("{frame:<4}{:<7}{}: {}{rule}", self.decision.as_str(), self.what, self.why)
    }
}

/// A bucket that a dump may belong to, though its signature is another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Proposal {
    /// Which bucket.
    pub signature: SignatureId,
    /// How alike they are, from -1 to 1.
    pub score: f64,
    /// The frames that made them alike or different, the weightiest first.
    pub explanation: Vec<Likeness>,
}

/// What one function adds to or takes from the likeness of two stacks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Likeness {
    /// The frame's key.
    pub key: String,
    /// Where it is in the stack that was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ours: Option<u16>,
    /// Where it is in the bucket's stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub theirs: Option<u16>,
    /// Its share of the score.
    pub share: f64,
}

impl Proposal {
    /// Returns it as lines for people.
    pub fn lines(&self) -> Vec<String> {
        let place = |at: Option<u16>| at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        let line = |part: &Likeness| {
            format!("{:+.2}  #{} ~ #{}  {}", part.share, place(part.ours), place(part.theirs), part.key)
        };
        std::iter::once(format!("{:.2} {}", self.score, self.signature))
            .chain(self.explanation.iter().map(line))
            .collect()
    }
}

fn within(what: &str, count: usize, most: usize) -> Result<(), ApiError> {
    if count <= most {
        return Ok(());
    }
    Err(ApiError::invalid("signature_invalid", format!("{count} {what} of at most {most}")))
}

fn longest<'a>(what: &str, texts: impl IntoIterator<Item = &'a String>, most: usize) -> Result<(), ApiError> {
    let longest = texts.into_iter().map(|text| text.chars().count()).max().unwrap_or(0);
    if longest <= most {
        return Ok(());
    }
    Err(ApiError::invalid("signature_invalid", format!("a {what} of {longest} characters of at most {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let check = |text: &str, is_one: bool| {
            let id = text.parse::<SignatureId>();
            assert_eq!(id.is_ok(), is_one, "{text}");
            if let Ok(id) = id {
                assert_eq!(id.to_string(), text);
                assert_eq!(serde_json::from_str::<SignatureId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
            }
        };
        check("00112233445566778899aabbccddeeff", true);
        check("00112233445566778899aabbccddeefF", false);
        check("+0112233445566778899aabbccddeeff", false);
        check("0011", false);
        check("", false);
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let stack = |frames: usize, chars: usize| Stack {
            version: STACK_VERSION,
            kind: DumpKind::Core,
            class: "abort".to_owned(),
            message: None,
            program: None,
            modules: Vec::new(),
            files: Vec::new(),
            frames: vec![StackFrame { key: "k".repeat(chars), ..StackFrame::default() }; frames],
            frames_cut: 0,
            addresses: Vec::new(),
        };
        let check = |stack: &Stack, message: Option<&str>| {
            assert_eq!(stack.check().err().map(|error| error.message), message.map(str::to_owned));
        };
        check(&stack(MAX_STACK_FRAMES, MAX_KEY_CHARS), None);
        check(&stack(MAX_STACK_FRAMES + 1, 1), Some("65 frames of at most 64"));
        check(&stack(1, MAX_KEY_CHARS + 1), Some("a key of 161 characters of at most 160"));
    }

    #[test]
    fn an_explanation_is_short_lines() {
        let step = Step {
            frame: Some(0),
            what: "memcpy".to_owned(),
            decision: Decision::Skip,
            rule: Some("glibc.toml:3".to_owned()),
            why: "copies for others".to_owned(),
        };
        let note = Step {
            frame: None,
            what: "abort".to_owned(),
            decision: Decision::Note,
            rule: None,
            why: "the class".to_owned(),
        };
        let explanation = Explanation { steps: vec![note, step] };
        let expected = ["    note   abort: the class", "#0  skip   memcpy: copies for others (glibc.toml:3)"];
        assert_eq!(explanation.lines(), expected);
        explanation.check().unwrap();
    }
}
