//! A node: a machine that offers sandboxes; and `sync`, the one call by which it lives.
//!
//! A node opens a *session* when it starts and names it in every sync. The session's lease covers all that the node runs:
//! when it runs out, everything returns to the queue. What a sync says is the whole truth about what the node holds, so
//! a lost answer repairs itself at the next one.

use crate::analysis::DumpOrder;
use crate::analyzer::{Asked, Beside};
use crate::chunk::Chunk;
use crate::dump::{DumpFindings, NewDump};
use crate::error::ApiError;
use crate::execution::{Class, LimitSet, Outcome, Recipe, Usage};
use crate::id::{ExecutionId, NodeId, SessionId, TenantId};
use crate::image::{ImageOrder, Manifest, Platform};
use crate::limits::{
    MAX_CAUSE_CHARS, MAX_HELD, MAX_NAME_CHARS, MAX_RUNTIMES, MAX_SLOTS, MAX_SYNC_CHUNKS, MAX_SYNC_USED,
};
use crate::sandbox::{Network, SandboxKind, check_labels};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

/// Life of a node: `Joining → Ready → Draining → Gone`; one that falls silent is `Lost`, and may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It has said who it is, and has not synced yet.
    Joining,
    /// It takes executions, unless it is held.
    Ready,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// Its lease ran out.
    Lost,
    /// It has left.
    Gone,
}

impl NodeState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Joining, Self::Ready, Self::Draining, Self::Lost, Self::Gone];

    /// Returns the states from which a move into `self` is legal. No wildcard arm: a new state must be decided here.
    pub const fn reachable_from(self) -> &'static [Self] {
        match self {
            // A node that was lost, or has left, may come again under its own name.
            Self::Joining => &[Self::Lost, Self::Gone],
            Self::Ready => &[Self::Joining, Self::Lost],
            Self::Draining => &[Self::Joining, Self::Ready],
            Self::Lost => &[Self::Joining, Self::Ready, Self::Draining],
            Self::Gone => &[Self::Joining, Self::Ready, Self::Draining, Self::Lost],
        }
    }

    /// Returns the state's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Lost => "lost",
            Self::Gone => "gone",
        }
    }
}

/// Why a node takes nothing new although it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HoldKind {
    /// A user said so.
    Cordon,
    /// It failed to set up sandboxes too often.
    Quarantine,
    /// It is older than nodes may grow.
    Age,
}

/// What keeps a node from taking anything new, until a user lifts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hold {
    /// What sort of reason.
    pub kind: HoldKind,
    /// The reason.
    pub cause: String,
    /// Who said so.
    pub by: String,
    /// Since when.
    pub at: Timestamp,
}

/// What a node has to offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// The version of its program.
    pub version: String,
    /// Its operating system and processor.
    pub platform: Platform,
    /// The sandboxes it can build.
    pub kinds: Vec<SandboxKind>,
    /// The networks it can give.
    pub networks: Vec<Network>,
    /// Other OCI runtimes that it has, by name.
    #[serde(default)]
    pub runtimes: Vec<String>,
    /// How many executions it takes at once.
    pub slots: u32,
    /// Its processors, in thousandths.
    pub cpu_milli: u32,
    /// Its memory.
    pub memory_bytes: u64,
    /// The limits that it can enforce.
    pub enforces: LimitSet,
    /// Folders that executions may mount, as `PATH:ro` or `PATH:rw`.
    #[serde(default)]
    pub mounts: Vec<String>,
    /// Words by which executions may choose it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A node as everybody sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its id, which it keeps over restarts.
    pub id: NodeId,
    /// Whom it serves; the house's own nodes serve everybody.
    pub tenant: TenantId,
    /// Its name, unique among the living.
    pub name: String,
    /// Where in its life it is.
    pub state: NodeState,
    /// What keeps it from taking anything new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Its session, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What it offers.
    pub offer: Offer,
    /// How many executions it has now; counted when asked, so absent from the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<u32>,
    /// Who let it in.
    pub by: String,
    /// When it first joined.
    pub created_at: Timestamp,
    /// When its session began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_at: Option<Timestamp>,
    /// Until when its lease lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<Timestamp>,
}

/// A node that introduces itself. Saying it again, after a restart, is the rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewNode {
    /// The id it keeps.
    pub id: NodeId,
    /// Its name.
    #[schema(min_length = 1, max_length = 64)]
    pub name: String,
    /// The session it opens; whatever an older one of this node holds is lost now.
    pub session: SessionId,
    /// What it offers.
    pub offer: Offer,
}

impl NewNode {
    /// Refuses what is out of bounds, naming the field.
    pub fn check(&self) -> Result<(), ApiError> {
        let refuse = |field: &str, why: String| {
            Err(ApiError::invalid("node_invalid", format!("`{field}` of node `{}` {why}", self.id)))
        };
        let good = |one: char| one.is_ascii_alphanumeric() || "-_.".contains(one);
        if !(1..=MAX_NAME_CHARS).contains(&self.name.len()) || !self.name.chars().all(good) {
            return refuse("name", format!("must have 1 to {MAX_NAME_CHARS} letters, digits, `-`, `_`, `.`"));
        }
        let offer = &self.offer;
        if !(1..=MAX_SLOTS).contains(&offer.slots) {
            return refuse("offer.slots", format!("must be 1 to {MAX_SLOTS}"));
        }
        if offer.kinds.len() > 3 || offer.networks.len() > 3 || offer.kinds.is_empty() {
            return refuse("offer", "must name each kind and network once".to_owned());
        }
        let long = |words: &[String]| words.len() > MAX_RUNTIMES || words.iter().any(|word| word.len() > 4096);
        if long(&offer.runtimes) || long(&offer.mounts) || offer.version.len() > MAX_NAME_CHARS {
            return refuse("offer", format!("must name at most {MAX_RUNTIMES} runtimes and mounts"));
        }
        if let Err((field, why)) = check_labels("offer.labels", &offer.labels) {
            return refuse(field, why);
        }
        Ok(())
    }
}

/// Which nodes to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NodeQuery {
    /// Only those in this state; none means all but those that have left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub state: Option<NodeState>,
    /// Only those older than this one; a page's `next` goes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub after: Option<NodeId>,
    /// How many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

/// Why a node is cordoned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cordon {
    /// The reason, for those who look.
    #[serde(default)]
    #[schema(max_length = 512)]
    pub cause: String,
}

/// An attempt that a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Of which execution.
    pub execution: ExecutionId,
    /// Which attempt.
    pub attempt: u32,
}

/// A chunk that a held execution wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// By which attempt.
    #[serde(flatten)]
    pub held: Held,
    /// What.
    pub chunk: Chunk,
}

/// What an attempt has used so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Used {
    /// Which attempt.
    #[serde(flatten)]
    pub held: Held,
    /// What.
    pub usage: Usage,
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finished {
    /// Which attempt.
    #[serde(flatten)]
    pub held: Held,
    /// How it ended.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// The core that it left, whose frames and manifest are its tenant's already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<NewDump>,
    /// The image that it made, if that was its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
    /// What it found out about a dump, if that was its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<DumpFindings>,
    /// What it asked to be done about the dump beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
}

/// What a node says: everything that it holds, and what has happened since it was last heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Sync {
    /// Its session.
    pub session: SessionId,
    /// How many more executions it would take now.
    pub free: u32,
    /// All that it holds, what it reports as finished here not among it.
    #[serde(default)]
    pub held: Vec<Held>,
    /// What was written, in order.
    #[serde(default)]
    pub chunks: Vec<Written>,
    /// What has ended.
    #[serde(default)]
    pub finished: Vec<Finished>,
    /// What has been used so far, of some that run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used: Vec<Used>,
    /// How long the answer may wait for something to say.
    #[serde(default)]
    pub wait_ms: u64,
    /// Why it takes nothing any more, if it says so itself: set-up failed too often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Whether it is leaving: its session ends with this call, and what it still holds returns to the queue.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

impl Sync {
    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<(), ApiError> {
        if self.held.len() > MAX_HELD || self.finished.len() > MAX_HELD || self.chunks.len() > MAX_SYNC_CHUNKS {
            return Err(ApiError::invalid(
                "sync_invalid",
                format!("a sync holds at most {MAX_HELD} executions and {MAX_SYNC_CHUNKS} chunks"),
            ));
        }
        if self.used.len() > MAX_SYNC_USED {
            let message = format!("a sync tells of at most {MAX_SYNC_USED} executions what they have used");
            return Err(ApiError::invalid("sync_invalid", message));
        }
        // Only the server knows how many nodes were lost.
        if self.finished.iter().any(|one| matches!(one.outcome, Outcome::NodesLost { .. })) {
            return Err(ApiError::invalid("sync_invalid", "a node cannot say that nodes were lost".to_owned()));
        }
        self.chunks.iter().try_for_each(|written| written.chunk.check())
    }

    /// Returns it with its causes cut to what a row may hold: one too long must not lose what it is the cause of.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        let ends = self.finished.iter_mut().filter_map(|finished| match &mut finished.outcome {
            Outcome::SetUpFailed { cause, .. } => Some(cause),
            _ => None,
        });
        for cause in ends.chain(&mut self.trouble) {
            if let Some((end, _)) = cause.char_indices().nth(MAX_CAUSE_CHARS) {
                cause.truncate(end);
            }
        }
        self
    }
}

/// What a node is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// Run the recipe.
    Run {
        /// The image to run it in, if it names one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<Manifest>,
        /// The dump beside it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dump: Option<Box<Beside>>,
    },
    /// Make an image.
    Image {
        /// From what.
        order: ImageOrder,
    },
    /// Find out what is in a dump.
    Dump {
        /// Which.
        order: DumpOrder,
    },
}

/// An execution that a node is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    /// Which, and the fence.
    #[serde(flatten)]
    pub held: Held,
    /// Whose.
    pub tenant: TenantId,
    /// Who is served first.
    pub class: Class,
    /// What to run, and how.
    pub recipe: Recipe,
    /// What to do.
    pub work: Work,
}

/// Something a node said that did not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refused {
    /// Of which attempt.
    #[serde(flatten)]
    pub held: Held,
    /// Why.
    pub error: ApiError,
}

/// What the server says to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyncAnswer {
    /// How long the lease lasts from the moment the node asked.
    pub lease_ms: u64,
    /// Where in its life the node is now.
    pub state: NodeState,
    /// What keeps it from taking anything new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// What it is given; also again what it was given and does not seem to know of.
    #[serde(default)]
    pub assigned: Vec<Assignment>,
    /// What it is to stop; also again.
    #[serde(default)]
    pub cancel: Vec<ExecutionId>,
    /// What is not its own any more: it is to be ended, and nothing of it counts.
    #[serde(default)]
    pub forget: Vec<Held>,
    /// What did not count.
    #[serde(default)]
    pub refused: Vec<Refused>,
}
