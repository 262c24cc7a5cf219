//! An execution: one run of one command from one image in one sandbox. Everything that runs is one of these.
//!
//! What made it stands in `origin`, and only the controller that made it looks there. Executions of one `lane` run
//! strictly one after the other, in the order in which they were accepted. `attempt` is the fence: whatever a node
//! says of an execution counts only with the attempt it was given.

use crate::digest::Digest;
use crate::error::ApiError;
use crate::id::{DumpId, ExecutionId, ImageId, NodeId, SessionId, TenantId};
use crate::image::Manifest;
use crate::limits::{
    MAX_COMMAND_WORDS, MAX_CPU_MILLI, MAX_ENV_NAME_CHARS, MAX_ENV_VARIABLES, MAX_GRACE_MS, MAX_IMAGE_CHARS,
    MAX_LANE_CHARS, MAX_LOG_BYTES, MAX_MEMORY_BYTES, MAX_PIDS, MAX_ROW_BYTES, MAX_WALL_MS,
};
use crate::sandbox::{OWN_RUNTIME, Sandbox, is_default};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

/// Life of an execution: `Queued → Running → {Succeeded, Failed}`; a user's stop leads through `Cancelling` to
/// `Cancelled`; a lost lease leads back to `Queued`, and too many of them to `Quarantined`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionState {
    /// Waits for a node.
    Queued,
    /// A node has it.
    Running,
    /// A node has it and was told to stop it.
    Cancelling,
    /// It ended by itself, with exit code 0.
    Succeeded,
    /// It ended any other way.
    Failed,
    /// It was stopped, or never began, because a user said so.
    Cancelled,
    /// It took too many nodes down with it; nobody tries again.
    Quarantined,
}

impl ExecutionState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Cancelling,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Quarantined,
    ];

    /// Returns the states from which a move into `self` is legal. No wildcard arm: a new state must be decided here.
    pub const fn reachable_from(self) -> &'static [Self] {
        match self {
            Self::Queued | Self::Cancelling => &[Self::Running],
            Self::Running => &[Self::Queued],
            // The work may end before the order to stop arrives; what happened is what we record.
            Self::Succeeded => &[Self::Running, Self::Cancelling],
            // What no node could take for too long fails where it waits.
            Self::Failed => &[Self::Running, Self::Cancelling, Self::Queued],
            Self::Cancelled => &[Self::Queued, Self::Cancelling],
            Self::Quarantined => &[Self::Running],
        }
    }

    /// Tells whether nothing more can happen.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Quarantined)
    }

    /// Returns the state's word, as it stands in rows, changes and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Quarantined => "quarantined",
        }
    }
}

/// Who is served first: `human > event > batch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Somebody waits for it.
    #[default]
    Human,
    /// Something happened that it answers.
    Event,
    /// It can wait.
    Batch,
}

impl Class {
    /// Every class, first served first.
    pub const ALL: [Self; 3] = [Self::Human, Self::Event, Self::Batch];

    /// Returns the place in the order of service, 0 first.
    pub const fn rank(self) -> i64 {
        match self {
            Self::Human => 0,
            Self::Event => 1,
            Self::Batch => 2,
        }
    }
}

/// What sort of thing made an execution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OriginKind {
    /// A user, directly.
    #[default]
    Hand,
    /// A message to an actor.
    Message,
    /// A part of a job.
    Job,
    /// The analysis of a dump.
    Dump,
    /// An analyzer's study of a dump.
    Analyzer,
    /// A phase of an engine.
    Engine,
    /// The build or import of an image.
    Image,
    /// An execution that had ended, tried once more.
    Retry,
}

/// What made an execution; only the controller behind it looks here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// What sort of thing made it.
    pub kind: OriginKind,
    /// Which one, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// What an execution reads on its standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Input {
    /// Nothing.
    #[default]
    None,
    /// A short text.
    Text {
        /// The text.
        text: String,
    },
    /// A blob, for anything longer.
    Blob {
        /// Which blob.
        digest: Digest,
    },
    /// What its user sends while it runs; an empty chunk now and then says that more may come, or else it ends.
    Stream,
}

/// Some of the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSet {
    /// Memory.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub memory: bool,
    /// Processors.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cpu: bool,
    /// Processes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pids: bool,
    /// Storage traffic.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub io: bool,
}

impl LimitSet {
    /// All of them.
    pub const ALL: Self = Self { memory: true, cpu: true, pids: true, io: true };

    /// Returns those of `self` that are not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self {
            memory: self.memory && !other.memory,
            cpu: self.cpu && !other.cpu,
            pids: self.pids && !other.pids,
            io: self.io && !other.io,
        }
    }

    /// Tells whether there is none.
    pub const fn is_empty(self) -> bool {
        !(self.memory || self.cpu || self.pids || self.io)
    }
}

impl std::fmt::Display for LimitSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [(self.memory, "memory"), (self.cpu, "cpu"), (self.pids, "pids"), (self.io, "io")];
        let named: Vec<_> = words.into_iter().filter_map(|(is, word)| is.then_some(word)).collect();
        f.write_str(&named.join(", "))
    }
}

/// How much an execution may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory, swap included.
    #[schema(minimum = 1_048_576, maximum = 1_099_511_627_776_u64)]
    pub memory_bytes: u64,
    /// Thousandths of a core.
    #[schema(minimum = 10, maximum = 1_024_000)]
    pub cpu_milli: u32,
    /// Processes and threads.
    #[schema(minimum = 1, maximum = 1_048_576)]
    pub pids: u32,
    /// Time by the clock on the wall.
    #[schema(minimum = 1, maximum = 2_592_000_000_u64)]
    pub wall_ms: u64,
    /// Standard output and error that are kept.
    #[schema(minimum = 0, maximum = 1_073_741_824)]
    pub log_bytes: u64,
    /// Files of its own; they also count as memory.
    #[schema(minimum = 65_536, maximum = 1_099_511_627_776_u64)]
    pub disk_bytes: u64,
    /// Bytes a second from and to storage, each way; 0 means no limit.
    #[schema(minimum = 0, maximum = 1_099_511_627_776_u64)]
    pub io_bytes_second: u64,
    /// A core that it leaves; a longer one is cut short, 0 means that none is kept.
    #[schema(minimum = 0, maximum = 1_099_511_627_776_u64)]
    pub core_bytes: u64,
    /// How long it may tidy up after each of INT and TERM before the next signal.
    #[schema(minimum = 0, maximum = 600_000)]
    pub grace_ms: u64,
    /// Limits without which it must not run; of the others a node enforces those it can, and says which it did not.
    #[serde(skip_serializing_if = "is_default")]
    pub demand: LimitSet,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 512 << 20,
            cpu_milli: 1_000,
            pids: 256,
            wall_ms: 3_600_000,
            log_bytes: 16 << 20,
            disk_bytes: 256 << 20,
            io_bytes_second: 0,
            core_bytes: 1 << 30,
            grace_ms: 2_000,
            demand: LimitSet::default(),
        }
    }
}

/// What to run, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recipe {
    /// The image to run in; none means the node's own files, read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 512)]
    pub image: Option<String>,
    /// The image that name stood for when the execution was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<ImageId>,
    /// The program and its arguments; with an image it may be empty, which means the image's own.
    #[schema(max_items = 4096)]
    pub command: Vec<String>,
    /// Variables added to its environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What it reads.
    #[serde(default)]
    pub input: Input,
    /// How much it may use.
    #[serde(default)]
    pub limits: Limits,
    /// Where it happens.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sandbox: Sandbox,
}

impl Recipe {
    /// Returns the OCI runtime that it or its image names, if that is another than our own.
    pub fn runtime<'a>(&'a self, image: Option<&'a Manifest>) -> Option<&'a str> {
        let of_image = || image?.config.runtime.as_deref();
        self.sandbox.runtime.as_deref().or_else(of_image).filter(|name| *name != OWN_RUNTIME)
    }

    /// Returns the blobs that it names: what it reads, and the files that it sees.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> {
        let input = if let Input::Blob { digest } = self.input { Some(digest) } else { None };
        input.into_iter().chain(self.sandbox.files.iter().map(|file| file.digest))
    }
}

/// Who has an execution now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// The node.
    pub node: NodeId,
    /// The node's session; when it ends, everything under it returns to the queue.
    pub session: SessionId,
}

/// What sort of thing kept an execution from beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SetUpFault {
    /// What was asked for cannot be done.
    #[default]
    Refused,
    /// There is no such program.
    NoProgram,
    /// The program is there and cannot be executed.
    NotExecutable,
    /// The machine, the server or a registry failed.
    Machine,
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The program returned.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// A signal ended it.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// It needed more memory than its limit.
    OutOfMemory,
    /// It needed more time than its limit.
    TimedOut,
    /// A user stopped it.
    Cancelled,
    /// It never began.
    SetUpFailed {
        /// Why, for people.
        cause: String,
        /// Why, for programs.
        #[serde(default, skip_serializing_if = "is_default")]
        fault: SetUpFault,
    },
    /// Too many nodes were lost while they had it.
    NodesLost {
        /// How many.
        nodes: u32,
    },
}

impl Outcome {
    /// Returns the state in which this outcome leaves its execution.
    pub const fn state(&self) -> ExecutionState {
        match self {
            Self::Exited { code: 0 } => ExecutionState::Succeeded,
            Self::Exited { .. }
            | Self::Signalled { .. }
            | Self::OutOfMemory
            | Self::TimedOut
            | Self::SetUpFailed { .. } => ExecutionState::Failed,
            Self::Cancelled => ExecutionState::Cancelled,
            Self::NodesLost { .. } => ExecutionState::Quarantined,
        }
    }
}

/// What an execution used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Usage {
    /// Time by the clock on the wall.
    pub wall_ms: u64,
    /// Time on processors, user and system.
    pub cpu_ms: u64,
    /// The most memory at one moment.
    pub memory_peak_bytes: u64,
    /// Bytes read from storage.
    pub read_bytes: u64,
    /// Bytes written to storage.
    pub write_bytes: u64,
    /// Processes that ended because memory ran out.
    #[serde(skip_serializing_if = "is_default")]
    pub oom_kills: u32,
    /// What it wrote to standard output and error, kept or not.
    pub log_bytes: u64,
    /// Limits that its node could not enforce.
    #[serde(skip_serializing_if = "is_default")]
    pub unenforced: LimitSet,
}

/// An execution as everybody sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Execution {
    /// Its id.
    pub id: ExecutionId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where in its life it is.
    pub state: ExecutionState,
    /// What made it.
    pub origin: Origin,
    /// The lane it keeps its turn in, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// Who is served first.
    pub class: Class,
    /// What runs, and how.
    #[serde(flatten)]
    pub recipe: Recipe,
    /// How often a node has been given it.
    pub attempt: u32,
    /// How many nodes were lost while they had it.
    pub losses: u32,
    /// Who has it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Who asked for it.
    pub by: String,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When a node last took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What it used; while it runs, what its node last told, of which the log says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The dump that it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<DumpId>,
    /// Why nobody has it yet, if it waits for more than its turn; found out when asked, so absent from the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

/// A request to try once more what has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// The id that the new execution shall have.
    pub id: ExecutionId,
}

/// A request for an execution. The id is the client's, so that asking twice is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExecution {
    /// The id it shall have.
    pub id: ExecutionId,
    /// The lane to keep its turn in; at most one execution of a lane runs at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128)]
    pub lane: Option<String>,
    /// Who is served first.
    #[serde(default)]
    pub class: Class,
    /// The image to run in; none means the node's own files, read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 512)]
    pub image: Option<String>,
    /// The program and its arguments; with an image it may be empty, which means the image's own.
    #[schema(max_items = 4096)]
    pub command: Vec<String>,
    /// Variables added to its environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What it reads.
    #[serde(default)]
    pub input: Input,
    /// How much it may use.
    #[serde(default)]
    pub limits: Limits,
    /// Where it happens.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sandbox: Sandbox,
}

impl NewExecution {
    /// Refuses what no node could run or no row could hold, naming the field.
    pub fn check(&self) -> Result<(), ApiError> {
        let refuse = |field: &str, why: String| {
            Err(ApiError::invalid("execution_invalid", format!("`{field}` of execution `{}` {why}", self.id)))
        };
        if let Err((field, why)) = check_words(self) {
            return refuse(field, why);
        }
        if let Err((field, why)) = check_room(self) {
            return refuse(field, why).map_err(|error| error.with_hint(TOO_LONG_HINT));
        }
        if let Err((field, why)) = check_limits(&self.limits) {
            return refuse(field, why);
        }
        Ok(())
    }

    /// Returns what to run, and how.
    pub fn recipe(&self) -> Recipe {
        Recipe {
            image: self.image.clone(),
            image_id: None,
            command: self.command.clone(),
            env: self.env.clone(),
            input: self.input.clone(),
            limits: self.limits,
            sandbox: self.sandbox.clone(),
        }
    }
}

/// What to do with what is too long to be said in words.
const TOO_LONG_HINT: &str = "put the words into a script or a list and send it along as a file (`quarry run --file`), or \
                             what is read into a blob or standard input";

/// Bytes of a word besides its own: its quotes, and what parts it from the next.
const WORD_BYTES: usize = 3;

type Refusal = Result<(), (&'static str, String)>;

fn check_words(new: &NewExecution) -> Refusal {
    let chars = |text: &str, max: usize| (1..=max).contains(&text.chars().count()) && !text.contains('\0');
    if new.lane.as_deref().is_some_and(|lane| !chars(lane, MAX_LANE_CHARS)) {
        return Err(("lane", format!("must have 1 to {MAX_LANE_CHARS} characters")));
    }
    if new.image.as_deref().is_some_and(|image| !chars(image, MAX_IMAGE_CHARS)) {
        return Err(("image", format!("must have 1 to {MAX_IMAGE_CHARS} characters")));
    }
    if new.command.is_empty() && new.image.is_none() {
        return Err(("command", "must have a word at least".to_owned()));
    }
    if new.command.first().is_some_and(String::is_empty) || new.command.iter().any(|word| word.contains('\0')) {
        return Err(("command", "must begin with a program and hold no NUL".to_owned()));
    }
    if new.env.len() > MAX_ENV_VARIABLES {
        return Err(("env", format!("must have at most {MAX_ENV_VARIABLES} variables")));
    }
    if new
        .env
        .iter()
        .any(|(name, value)| !chars(name, MAX_ENV_NAME_CHARS) || name.contains('=') || value.contains('\0'))
    {
        return Err(("env", format!("needs names of 1 to {MAX_ENV_NAME_CHARS} characters without `=`, and no NUL")));
    }
    if matches!(&new.input, Input::Text { text } if text.contains('\0')) {
        return Err(("input", "must hold no NUL; put it into a blob".to_owned()));
    }
    new.sandbox.check()?;
    if new.image.is_none() && (new.sandbox.runtime.is_some() || new.sandbox.entrypoint.is_some()) {
        return Err(("image", "is needed for a runtime or an entrypoint".to_owned()));
    }
    Ok(())
}

/// Refuses what is too long for a row.
fn check_room(new: &NewExecution) -> Refusal {
    let words = new.command.len();
    if words > MAX_COMMAND_WORDS {
        return Err(("command", format!("has {words} words of {MAX_COMMAND_WORDS}")));
    }
    let bytes = new.sandbox.bytes()
        + new.command.iter().map(|word| word.len() + WORD_BYTES).sum::<usize>()
        + new.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
        + if let Input::Text { text } = &new.input { text.len() } else { 0 };
    if bytes > MAX_ROW_BYTES {
        return Err(("command, env, sandbox and input", format!("have {bytes} bytes of {MAX_ROW_BYTES}")));
    }
    Ok(())
}

fn check_limits(limits: &Limits) -> Refusal {
    let within = |field, value: u64, min: u64, max: u64| {
        if (min..=max).contains(&value) {
            Ok(())
        } else {
            Err((field, format!("is {value}; it must be {min} to {max}")))
        }
    };
    within("limits.memory_bytes", limits.memory_bytes, 1 << 20, MAX_MEMORY_BYTES)?;
    within("limits.cpu_milli", limits.cpu_milli.into(), 10, MAX_CPU_MILLI.into())?;
    within("limits.pids", limits.pids.into(), 1, MAX_PIDS.into())?;
    within("limits.wall_ms", limits.wall_ms, 1, MAX_WALL_MS)?;
    within("limits.log_bytes", limits.log_bytes, 0, MAX_LOG_BYTES)?;
    within("limits.disk_bytes", limits.disk_bytes, 1 << 16, MAX_MEMORY_BYTES)?;
    within("limits.io_bytes_second", limits.io_bytes_second, 0, MAX_MEMORY_BYTES)?;
    within("limits.core_bytes", limits.core_bytes, 0, MAX_MEMORY_BYTES)?;
    within("limits.grace_ms", limits.grace_ms, 0, MAX_GRACE_MS)
}

/// Which executions to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExecutionQuery {
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub state: Option<ExecutionState>,
    /// Only those older than this one; a page's `next` goes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub after: Option<ExecutionId>,
    /// How many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// Whose; only an admin of the house may name another tenant than their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Access, Mount};

    fn new() -> NewExecution {
        NewExecution {
            id: ExecutionId::new(Timestamp::UNIX_EPOCH, 1),
            lane: None,
            class: Class::Human,
            image: None,
            command: vec!["true".to_owned()],
            env: BTreeMap::new(),
            input: Input::None,
            limits: Limits::default(),
            sandbox: Sandbox::default(),
        }
    }

    #[test]
    fn a_final_state_leads_nowhere_and_every_other_leads_on() {
        for from in ExecutionState::ALL {
            let next = ExecutionState::ALL.iter().filter(|to| to.reachable_from().contains(&from)).count();
            assert_eq!(next == 0, from.is_final(), "{from:?}");
        }
    }

    #[test]
    fn every_outcome_ends_in_a_final_state() {
        let outcomes = [
            Outcome::Exited { code: 0 },
            Outcome::Exited { code: 1 },
            Outcome::Signalled { signal: 11 },
            Outcome::OutOfMemory,
            Outcome::TimedOut,
            Outcome::Cancelled,
            Outcome::SetUpFailed { cause: "no such image".to_owned(), fault: SetUpFault::Refused },
            Outcome::NodesLost { nodes: 3 },
        ];
        assert!(outcomes.iter().all(|outcome| outcome.state().is_final()));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        let check = |change: &dyn Fn(&mut NewExecution), field: &str| {
            let mut new = new();
            change(&mut new);
            let error = new.check().expect_err(field);
            assert!(error.message.contains(&format!("`{field}`")), "{error}");
        };
        assert!(new().check().is_ok());
        check(&|new| new.command.clear(), "command");
        check(&|new| new.command = vec![String::new()], "command");
        check(&|new| new.command.push("a\0b".to_owned()), "command");
        check(&|new| new.command = vec!["x".to_owned(); MAX_COMMAND_WORDS + 1], "command");
        check(&|new| new.lane = Some(String::new()), "lane");
        check(&|new| new.lane = Some("l".repeat(MAX_LANE_CHARS + 1)), "lane");
        check(&|new| new.image = Some(String::new()), "image");
        check(&|new| drop(new.env.insert("A=B".to_owned(), String::new())), "env");
        check(&|new| new.input = Input::Text { text: "x".repeat(MAX_ROW_BYTES) }, "command, env, sandbox and input");
        let mount =
            |target: &str| Mount { source: "/data".to_owned(), target: target.to_owned(), access: Access::ReadOnly };
        check(&|new| new.sandbox.mounts = vec![mount("/a"), mount("//a/./")], "sandbox.mounts");
        check(&|new| new.sandbox.mounts = vec![mount("//")], "sandbox.mounts");
        check(&|new| new.limits.memory_bytes = 0, "limits.memory_bytes");
        check(&|new| new.limits.pids = 0, "limits.pids");
        check(&|new| new.limits.wall_ms = MAX_WALL_MS + 1, "limits.wall_ms");
    }
}
