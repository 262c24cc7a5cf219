//! A signature as the house keeps it: all dumps of one defect in one tenant, and what was decided about them by hand.
//!
//! Which signature a dump belongs to follows from its stack: a stack that was split off by hand belongs where it was put;
//! else the text that rules made of it names the signature, by the alias that a change of rules left if there is one; and
//! from one that was merged it goes on to the one that it was merged into. So what was decided by hand survives rules.

use super::{
    Explanation, MAX_STACK_BYTES, MAX_STEPS, Proposal, SignatureId, SignatureText, Stack, Step, longest, within,
};
use crate::digest::Digest;
use crate::dump::query::Selection;
use crate::error::ApiError;
use crate::id::{DumpId, TenantId};
use crate::limits::{MAX_NAME_CHARS, MAX_ROW_BYTES};
use crate::signature::Decision;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Characters of a signature's title.
pub const MAX_TITLE_CHARS: usize = 256;
/// Signatures that may be merged one into the other, one behind the other.
pub const MAX_ALIAS_CHAIN: usize = 16;
/// Signatures that a stack is compared with when others are proposed for it: those seen last.
pub const MAX_REPRESENTATIVES: u32 = 1_000;
/// Dumps that may be named when some are split off.
pub const MAX_SPLIT_DUMPS: usize = 100;
/// Stacks that are signed again by one request.
pub const MAX_SIGNED_AT_ONCE: usize = 8;
/// Bytes of the file of rules that a tenant keeps.
pub const MAX_RULES_FILE_BYTES: u64 = 256 * 1024;

/// Life of a signature: `Open → Fixed → Reopened → Fixed…`; any of them `→ Merged`, and from there back to `Open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignatureState {
    /// Its defect is there.
    Open,
    /// Somebody said that its defect is fixed.
    Fixed,
    /// It was said to be fixed, and was seen again, or somebody took it back.
    Reopened,
    /// It is part of another.
    Merged,
}

impl SignatureState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Open, Self::Fixed, Self::Reopened, Self::Merged];

    /// Returns the states from which a move into `self` is legal. No wildcard arm: a new state must be decided here.
    pub const fn reachable_from(self) -> &'static [Self] {
        match self {
            // What was merged stands by itself again.
            Self::Open => &[Self::Merged],
            Self::Fixed => &[Self::Open, Self::Reopened],
            Self::Reopened => &[Self::Fixed],
            Self::Merged => &[Self::Open, Self::Fixed, Self::Reopened],
        }
    }

    /// Returns the state's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Fixed => "fixed",
            Self::Reopened => "reopened",
            Self::Merged => "merged",
        }
    }
}

/// All dumps of one defect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Signature {
    /// Its id: a digest of the text that it was first known by.
    pub id: SignatureId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it says today.
    pub text: String,
    /// What somebody called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Where it is in its life.
    pub state: SignatureState,
    /// The one that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_into: Option<SignatureId>,
    /// How many dumps there are of it.
    pub dumps: u64,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// When somebody last said that it is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// What was decided of it last, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<SignatureDecided>,
}

/// What was decided of a signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignatureDecided {
    /// What, and of what that follows.
    pub what: String,
    /// By whom; `quarry` if it follows from what came in.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A signature, what it was made of, and why: what an analysis sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The signature.
    pub signature: SignatureText,
    /// The stack that was signed.
    pub stack: Stack,
    /// Why it is what it is.
    pub explanation: Explanation,
}

impl Signed {
    /// Refuses what is longer than any of it is ever made.
    pub fn check(&self) -> Result<(), ApiError> {
        self.stack.check()?;
        within("bytes", serde_json::to_vec(&self.stack).map_or(usize::MAX, |text| text.len()), MAX_STACK_BYTES)?;
        self.signature.check()?;
        self.explanation.check()
    }
}

impl Explanation {
    /// Returns it cut to so many bytes as JSON, saying so at its end: a row must hold it.
    #[must_use]
    pub fn fitted(mut self, max_bytes: usize) -> Self {
        /// What the sentence about what is left out takes.
        const LAST: usize = 160;
        let mut left = max_bytes.saturating_sub(LAST);
        let fits = |step: &&Step| {
            let bytes = serde_json::to_vec(step).map_or(usize::MAX, |text| text.len() + 1);
            let fits = bytes <= left;
            left = left.saturating_sub(bytes);
            fits
        };
        let kept = self.steps.iter().take_while(fits).count();
        let cut = self.steps.len() - kept;
        if cut > 0 {
            self.steps.truncate(kept.min(MAX_STEPS - 1));
            let why = format!("{cut} more steps are not kept");
            self.steps.push(Step {
                frame: None,
                what: "the rest".to_owned(),
                decision: Decision::Note,
                rule: None,
                why,
            });
        }
        self
    }
}

impl SignatureText {
    /// Returns it cut to what a row may hold beside an explanation.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        let mut left = MAX_ROW_BYTES / 2;
        let fits = |key: &&String| {
            let bytes = key.len() * 2 + 3;
            let fits = bytes <= left;
            left = left.saturating_sub(bytes);
            fits
        };
        let kept = self.proto.iter().take_while(fits).count();
        self.proto.truncate(kept);
        // PostgreSQL keeps no text with it.
        self.text.retain(|one| one != '\0');
        self
    }
}

/// Which signatures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SignatureQuery {
    /// In which state; all but those that are part of another, if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SignatureState>,
    /// Where the page begins; a page's `next` goes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(max_length = 128)]
    pub after: Option<String>,
    /// How many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// Whose; only an admin of the house may name another tenant than their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// A signature with all that explains it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SignatureInfo {
    /// It.
    pub signature: Signature,
    /// The stack that stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<Stack>,
    /// Why that stack is signed as it is.
    pub explanation: Explanation,
    /// The dumps seen last.
    pub dumps: Vec<DumpId>,
    /// Those that are part of it.
    pub parts: Vec<Signature>,
    /// Those that may be of the same defect, the likeliest first.
    pub proposals: Vec<Proposed>,
}

/// A signature that may be of the same defect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Proposed {
    /// What it says.
    pub text: String,
    /// How alike the two are, and why.
    pub proposal: Proposal,
}

/// What is to be noted on a signature; what is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignatureChange {
    /// What to call it; an empty title takes it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub title: Option<String>,
}

impl SignatureChange {
    /// Refuses what no row could hold.
    pub fn check(&self) -> Result<(), ApiError> {
        if self.title.as_ref().is_some_and(|title| title.contains('\0')) {
            return Err(refuse("a title holds a character that no text may hold".to_owned()));
        }
        longest("title", &self.title, MAX_TITLE_CHARS)
    }
}

/// Which signature one is to be part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeInto {
    /// The other's id.
    pub into: SignatureId,
    /// Whether only to say what would move.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which dumps are to be split off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitOff {
    /// Dumps of the signature, each for all that have its stack.
    #[schema(min_items = 1, max_items = 100)]
    pub dumps: Vec<DumpId>,
    /// Whether only to say what would move.
    #[serde(default)]
    pub dry_run: bool,
}

impl SplitOff {
    /// Refuses what is too much at once.
    pub fn check(&self) -> Result<(), ApiError> {
        if self.dumps.is_empty() {
            return Err(refuse("no dump is named".to_owned()));
        }
        within("dumps", self.dumps.len(), MAX_SPLIT_DUMPS)
    }
}

/// What a merge or a split does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Moved {
    /// The signature that dumps leave.
    pub from: Signature,
    /// The one that they come to; of a trial as it would begin.
    pub into: Signature,
    /// How many dumps that is.
    pub dumps: u64,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// The file of rules that a tenant lays over the house's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RulesFile {
    /// What it is called; explanations name it.
    pub name: String,
    /// Its text, a blob.
    pub blob: Digest,
    /// A digest of all rules with these laid over them, as signatures name it.
    pub rules: String,
    /// Who brought it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A file of rules to be laid over the house's; its text was stored as a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRules {
    /// What it is called.
    #[schema(min_length = 1, max_length = 64)]
    pub name: String,
    /// Its text, a blob.
    pub blob: Digest,
    /// A digest of all rules with these laid over them.
    #[schema(max_length = 64)]
    pub rules: String,
}

impl NewRules {
    /// Refuses what no row could hold.
    pub fn check(&self) -> Result<(), ApiError> {
        if self.name.is_empty() || self.name.chars().any(char::is_control) {
            return Err(refuse("a file of rules has a name without control characters".to_owned()));
        }
        longest("name", [&self.name], MAX_NAME_CHARS)?;
        longest("digest of rules", [&self.rules], 64)
    }
}

/// Which stacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SignedQuery {
    /// Of which signature; of all, if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, pattern = "^[0-9a-f]{32}$")]
    pub signature: Option<SignatureId>,
    /// Where the page begins; a page's `next` goes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(max_length = 128)]
    pub after: Option<String>,
    /// How many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// Whose; only an admin of the house may name another tenant than their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// A question for the stacks of some dumps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignedAmong {
    /// Of which dumps; with `limit=`, of the newest of them.
    pub of: Selection,
    /// Only those of a signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<SignatureId>,
    /// Where the page begins; a page's `next` goes here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub after: Option<String>,
    /// How many on the page at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

/// A stack that dumps have, and how it is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedStack {
    /// Its number.
    pub number: i64,
    /// It.
    pub stack: Stack,
    /// What rules call it.
    pub id: SignatureId,
    /// By which rules; none if whoever sent it told only the name.
    pub rules: String,
    /// The signature that its dumps belong to.
    pub signature: SignatureId,
    /// How many dumps have it; where some dumps are asked about, how many of these.
    pub dumps: u64,
    /// One of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<DumpId>,
}

/// Stacks that were signed by other rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignedAgain {
    /// Each with its number.
    #[schema(max_items = 8)]
    pub stacks: Vec<StackSigned>,
}

/// A stack that was signed by other rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StackSigned {
    /// The stack's number.
    pub number: i64,
    /// Its signature by these rules.
    pub signature: SignatureText,
    /// Why it is that.
    pub explanation: Explanation,
}

impl SignedAgain {
    /// Refuses what is too much at once.
    pub fn check(&self) -> Result<(), ApiError> {
        within("stacks", self.stacks.len(), MAX_SIGNED_AT_ONCE)?;
        self.stacks.iter().try_for_each(|one| one.signature.check().and_then(|()| one.explanation.check()))
    }
}

fn refuse(message: String) -> ApiError {
    ApiError::invalid("signature_invalid", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_fits_and_says_what_is_left_out() {
        let step = |number: usize| Step {
            frame: None,
            what: format!("function {number}"),
            decision: Decision::Skip,
            rule: None,
            why: "x".repeat(100),
        };
        let check = |steps: usize, max_bytes: usize, last: &str| {
            let explanation = Explanation { steps: (0..steps).map(step).collect() }.fitted(max_bytes);
            assert!(serde_json::to_vec(&explanation.steps).expect("is JSON").len() <= max_bytes);
            assert_eq!(explanation.steps.last().map(|step| step.why.as_str()), Some(last));
            explanation.check().expect("is bounded");
        };
        check(3, 4_096, &"x".repeat(100));
        check(MAX_STEPS, 4_096, "102 more steps are not kept");
        check(3, 200, "3 more steps are not kept");
    }

    #[test]
    fn every_state_can_be_left() {
        for state in SignatureState::ALL {
            let leads = SignatureState::ALL.iter().any(|into| into.reachable_from().contains(&state));
            assert!(leads, "{state:?}");
            assert!(!state.reachable_from().contains(&state), "{state:?}");
        }
    }
}
