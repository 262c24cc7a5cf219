//! Analyses of dumps: the execution that opens a dump is made once for each content, and its end fills the dump's record.
//!
//! A dump's row names the execution that analyses it, which is the fence: what another one says does not count. Content
//! that takes the place of what was there takes that name away, and so is analysed anew; so does somebody's order. An
//! analysis that never began because a machine failed is made again, a few times and later each time. However else it ends
//! the dump has a state, so nothing is tried for ever.

use super::{GET, again, fill, note, read};
use crate::content;
use crate::error::StoreError;
use crate::execution::{self, ExecutionCreate, queued};
use crate::image;
use crate::signature::rules::rules;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Tx};
use jiff::{SignedDuration, Timestamp};
use model::analysis::{DumpOrder, RulesOrder};
use model::dump::DumpFindings;
use model::limits::MAX_LOSSES;
use model::{
    Class, Dump, DumpId, DumpState, Execution, ExecutionId, Input, Limits, NewExecution, Origin, OriginKind, Outcome,
    Sandbox, SetUpFault, Shape,
};
use std::sync::Arc;

/// Memory of an analysis, which reads a dump where it looks and holds little of it.
const MEMORY_BYTES: u64 = 512 << 20;
/// What is added for each byte of a dump, as a part of it: tables of a dump grow with it, slowly.
const MEMORY_PART: u64 = 32;
/// The most memory of an analysis.
const MAX_MEMORY_BYTES: u64 = 4 << 30;
/// How long an analysis may take.
const WALL_MS: u64 = 60_000;
/// What an analysis may say besides its report.
const LOG_BYTES: u64 = 64 << 10;
/// Files of an analysis' own: what it finds out about symbols, until its node takes it.
const DISK_BYTES: u64 = 128 << 20;
/// How long nobody tries again after the first failure of a machine; each time it is so much longer.
const PAUSE: SignedDuration = SignedDuration::from_secs(2);
const LONGER: SignedDuration = SignedDuration::from_secs(20);

statements! {
    UNANALYSED = "SELECT id FROM dump WHERE state = 'received' AND analysis IS NULL AND manifest IS NOT NULL \
                  AND analyse_at <= $1 ORDER BY id LIMIT $2";
    TAKE = "UPDATE dump SET analysis = $1 WHERE id = $2 AND state = 'received' AND analysis IS NULL \
            AND manifest IS NOT NULL RETURNING id";
    LATER = "UPDATE dump SET analysis = NULL, tries = tries + 1, analyse_at = $1 + tries * $2 \
             WHERE id = $3 AND state = 'received' AND tries < $4 RETURNING id";
    AGAIN = "UPDATE dump SET state = 'received', analysis = NULL, cause = NULL, tries = 0, analyse_at = 0 \
             WHERE id = $1 AND state IN ('analysed', 'truncated', 'unreadable') AND manifest IS NOT NULL RETURNING id";
    OURS = "SELECT id FROM dump WHERE id = $1 AND analysis = $2";
}

/// Makes the executions that analyse dumps nobody has looked into yet, as many as there are ids for.
struct AnalysesMake {
    ids: Vec<ExecutionId>,
    at: Timestamp,
}

impl Operation for AnalysesMake {
    type Answer = Vec<Arc<Execution>>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let mut made = Vec::new();
        let rows = tx.rows(UNANALYSED, &[self.at.into(), (self.ids.len() as u64).into()]).await?;
        for (row, id) in rows.iter().zip(&self.ids) {
            let dump: DumpId = row.parsed(0)?;
            // Another server may have been quicker.
            if tx.write(TAKE, &[(*id).into(), dump.into()]).await?.is_empty() {
                continue;
            }
            let Some(dump) = tx.row(GET, &[dump.into()]).await?.as_ref().map(read).transpose()? else { continue };
            let execution = execution(&dump, *id, self.at);
            let shape = Shape::of(&execution.recipe, execution.origin.kind, None);
            made.push(ExecutionCreate::of(execution, &shape).run(tx).await?.0);
        }
        Ok(made)
    }
}

/// Returns the execution that analyses a dump. It leaves no core of its own: a dump that breaks us must not make another.
fn execution(dump: &Dump, id: ExecutionId, at: Timestamp) -> Execution {
    let memory = MEMORY_BYTES.saturating_add(dump.size / MEMORY_PART).min(MAX_MEMORY_BYTES);
    let new = NewExecution {
        id,
        lane: None,
        class: Class::Event,
        image: None,
        command: vec!["dump".to_owned(), "analyse".to_owned(), dump.hash.clone()],
        env: std::collections::BTreeMap::new(),
        input: Input::None,
        limits: Limits {
            memory_bytes: memory,
            wall_ms: WALL_MS,
            log_bytes: LOG_BYTES,
            disk_bytes: DISK_BYTES,
            core_bytes: 0,
            grace_ms: 0,
            ..Limits::default()
        },
        sandbox: Sandbox::default(),
    };
    let origin = Origin { kind: OriginKind::Dump, id: Some(dump.id.to_string()) };
    queued(&new, dump.tenant, origin, "quarry", at)
}

/// Returns what a node is told of the dump that an execution analyses; nothing, if the dump is another's by now.
pub(crate) async fn order(tx: &Tx<'_>, of: &Execution) -> Result<Option<DumpOrder>, StoreError> {
    match ours(tx, of).await? {
        Some(dump) => order_of(tx, &dump).await.map(Some),
        None => Ok(None),
    }
}

/// Returns what a node is told of a dump: what it is made of, and the files it came from.
pub(crate) async fn order_of(tx: &Tx<'_>, dump: &Dump) -> Result<DumpOrder, StoreError> {
    let rules = rules(tx, dump.tenant).await?.map(|file| RulesOrder { name: file.name, blob: file.blob });
    let (files, image) = (Vec::new(), None);
    let mut order = DumpOrder { id: dump.id, manifest: dump.manifest, size: dump.size, files, image, rules };
    let died = match dump.execution {
        Some(id) => execution::get(tx, id).await?.filter(|died| died.tenant == dump.tenant),
        None => None,
    };
    if let Some(died) = died {
        if let Some(id) = died.recipe.image_id {
            order.image = image::get(tx, id).await?.and_then(|(image, _)| image.manifest);
        }
        order.files = died.recipe.sandbox.files;
    }
    Ok(order)
}

/// Returns the dump that an execution analyses.
async fn ours(tx: &Tx<'_>, of: &Execution) -> Result<Option<Dump>, StoreError> {
    let Some(id) = of.origin.id.as_ref().and_then(|id| id.parse::<DumpId>().ok()) else { return Ok(None) };
    if tx.row(OURS, &[id.into(), of.id.into()]).await?.is_none() {
        return Ok(None);
    }
    tx.row(GET, &[id.into()]).await?.as_ref().map(read).transpose()
}

/// Records what an analysis came to.
pub(crate) async fn finish(
    tx: &Tx<'_>,
    of: &Execution,
    findings: Option<&DumpFindings>,
    at: Timestamp,
    by: &str,
) -> Result<(), StoreError> {
    let Some(dump) = ours(tx, of).await? else { return Ok(()) };
    if let Some(Outcome::SetUpFailed { fault: SetUpFault::Machine, .. }) = &of.outcome
        && postponed(tx, &dump, at).await?
    {
        return Ok(());
    }
    let findings = match (&of.outcome, findings) {
        (Some(Outcome::Exited { code: 0 }), Some(findings)) => checked(tx, &dump, findings).await?,
        (Some(Outcome::Exited { code: 0 }), None) => nothing(&dump, "its analysis ended without a word"),
        (outcome, _) => nothing(&dump, &cause(outcome.as_ref())),
    };
    fill(tx, dump, &findings.fitted(), (by, at)).await.map(drop)
}

/// Has somebody look into a dump later, unless that was done often enough.
async fn postponed(tx: &Tx<'_>, dump: &Dump, at: Timestamp) -> Result<bool, StoreError> {
    let micros = |time: SignedDuration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    let first = at.saturating_add(PAUSE).unwrap_or(at);
    let values = [first.into(), micros(LONGER).into(), dump.id.into(), (MAX_LOSSES - 1).into()];
    Ok(!tx.write(LATER, &values).await?.is_empty())
}

/// Has a dump looked into again whose content is there; returns it, if it is not about to be looked into anyway.
pub(super) async fn renewed(tx: &Tx<'_>, before: &Dump, who: (&str, Timestamp)) -> Result<Option<Dump>, StoreError> {
    if tx.write(AGAIN, &[before.id.into()]).await?.is_empty() {
        return Ok(None);
    }
    let dump = again(tx, before.id).await?;
    note(tx, &dump, who);
    Ok(Some(dump))
}

/// A node may say what it likes: its findings must end the analysis, and their report be there.
async fn checked(tx: &Tx<'_>, dump: &Dump, findings: &DumpFindings) -> Result<DumpFindings, StoreError> {
    if matches!(findings.state, DumpState::Received | DumpState::Purged) {
        return Ok(nothing(dump, "its analysis did not say how it ended"));
    }
    if let Some(report) = findings.report {
        match content::must_have(tx, dump.tenant, report).await {
            Err(StoreError::NotFound { .. }) => return Ok(nothing(dump, "its report was not stored")),
            other => other?,
        }
    }
    Ok(findings.clone())
}

fn nothing(dump: &Dump, cause: &str) -> DumpFindings {
    DumpFindings::unreadable(dump.kind, cause)
}

/// Says how an execution ended that was to analyse a dump.
fn cause(outcome: Option<&Outcome>) -> String {
    match outcome {
        Some(Outcome::SetUpFailed { cause, .. }) => format!("its analysis never began: {cause}"),
        Some(Outcome::Exited { code }) => format!("its analysis ended with code {code}"),
        Some(Outcome::Signalled { signal }) => format!("its analysis was ended by signal {signal}"),
        Some(Outcome::OutOfMemory) => "its analysis needed more memory than it may".to_owned(),
        Some(Outcome::TimedOut) => "its analysis needed more time than it may".to_owned(),
        Some(Outcome::Cancelled) => "its analysis was cancelled".to_owned(),
        Some(Outcome::NodesLost { nodes }) => format!("{nodes} nodes were lost while they analysed it"),
        None => "its analysis has no outcome".to_owned(),
    }
}

impl Store {
    /// Makes the executions that analyse dumps nobody has looked into yet, at most one for each id.
    pub async fn analyses_make(&self, ids: Vec<ExecutionId>, at: Timestamp) -> Result<Vec<Arc<Execution>>, StoreError> {
        self.write(AnalysesMake { ids, at }).await
    }

    /// Tells whether there is a dump that nobody has looked into yet, and that somebody may look into now.
    pub async fn analyses_wait(&self, now: Timestamp) -> Result<bool, StoreError> {
        self.read(AnalysesWait(now)).await
    }
}

/// Tells whether there is a dump that nobody has looked into yet.
struct AnalysesWait(Timestamp);

impl Operation for AnalysesWait {
    type Answer = bool;

    async fn run(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        Ok(tx.row(UNANALYSED, &[self.0.into(), 1_u64.into()]).await?.is_some())
    }
}
