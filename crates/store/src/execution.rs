//! Executions: accepted, listed, claimed, ended. Every move is guarded by the model's legal moves inside its `UPDATE`.

pub(crate) mod claim;
pub(crate) mod lane;
pub(crate) mod retention;
pub(crate) mod retry;
pub(crate) mod unserved;

use crate::bulk::{Insert, Kind};
use crate::dump::DumpLeft;
use crate::error::StoreError;
use crate::statement::statements;
use crate::transaction::{NewChange, Operation, Tx};
use crate::value::{Row, Value, to_json};
use jiff::Timestamp;
use model::analyzer::Asked;
use model::dump::DumpFindings;
use model::{
    Execution, ExecutionId, ExecutionState, Lease, Manifest, NewExecution, Noun, Origin, OriginKind, Outcome, Recipe,
    Sandbox, SessionId, Shape, TenantId, Usage,
};
use std::sync::Arc;

/// The columns of an execution, in the order in which [`read`] takes them.
macro_rules! columns {
    () => {
        "id, tenant, state, origin_kind, origin_id, lane, class, recipe, attempt, losses, node, session, \
         created_by, created_at, started_at, ended_at, outcome, usage, dump"
    };
}
pub(crate) use columns;

statements! {
    INSERT = "INSERT INTO execution (id, tenant, state, ready, origin_kind, origin_id, lane, position, class, recipe, \
              attempt, losses, created_by, created_at, image_id, shape) \
              VALUES ($1, $2, 'queued', $3, $4, $5, $6, $7, $8, $9, 0, 0, $10, $11, $12, $13) ON CONFLICT (id) DO NOTHING";
    INSERT_MANY_POSTGRES = "INSERT INTO execution (id, tenant, state, ready, origin_kind, origin_id, lane, position, \
              class, recipe, attempt, losses, created_by, created_at, image_id, shape) \
              SELECT new.id, new.tenant, 'queued', new.ready, new.origin_kind, new.origin_id, new.lane, new.position, \
              new.class, new.recipe, 0, 0, new.created_by, new.created_at, new.image_id, new.shape \
              FROM unnest(cast($1 AS text[]), cast($2 AS text[]), cast($3 AS bigint[]), cast($4 AS text[]), \
                  cast($5 AS text[]), cast($6 AS text[]), cast($7 AS bigint[]), cast($8 AS bigint[]), \
                  cast($9 AS text[]), cast($10 AS text[]), cast($11 AS bigint[]), cast($12 AS text[]), \
                  cast($13 AS text[])) \
              AS new (id, tenant, ready, origin_kind, origin_id, lane, position, class, recipe, created_by, \
                  created_at, image_id, shape) \
              ON CONFLICT (id) DO NOTHING RETURNING id";
    GET = concat!("SELECT ", columns!(), " FROM execution WHERE id = $1");
    LIST = concat!("SELECT ", columns!(), " FROM execution WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3");
    LIST_STATE = concat!(
        "SELECT ", columns!(),
        " FROM execution WHERE tenant = $1 AND state = $2 AND id < $3 ORDER BY id DESC LIMIT $4"
    );
    CANCEL = concat!(
        "UPDATE execution SET state = 'cancelled', ready = 0, ended_at = $1, outcome = $2 \
         WHERE id = $3 AND state = 'queued' RETURNING ", columns!()
    );
    STOP = concat!(
        "UPDATE execution SET state = 'cancelling' WHERE id = $1 AND state IN ($2, $3) RETURNING ", columns!()
    );
    FINISH = concat!(
        "UPDATE execution SET state = $1, node = NULL, session = NULL, ended_at = $2, outcome = $3, usage = $4 \
         WHERE id = $5 AND attempt = $6 AND session = $7 AND state IN ($8, $9) RETURNING ", columns!()
    );
    LEAVE = "UPDATE execution SET dump = $1 WHERE id = $2";
    USE = "INSERT INTO blob_use (execution, digest) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    COUNT_WAITING = "SELECT count(*) FROM (SELECT 1 FROM execution WHERE ready = 1 LIMIT 10000) AS waiting";
}

/// How executions are inserted.
static INSERT_EXECUTION: Insert = {
    use Kind::{Int, Text};
    Insert {
        one: INSERT,
        many: INSERT_MANY_POSTGRES,
        kinds: &[Text, Text, Int, Text, Text, Text, Int, Int, Text, Text, Int, Text, Text],
    }
};

/// An execution's place in the list: its columns, in the order of `columns!`.
pub(crate) fn read(row: &Row) -> Result<Execution, StoreError> {
    let node = row.maybe_parsed(10)?;
    let session = row.maybe_parsed(11)?;
    Ok(Execution {
        id: row.parsed(0)?,
        tenant: row.parsed(1)?,
        state: row.word(2)?,
        origin: Origin { kind: row.word(3)?, id: row.maybe_text(4)?.map(str::to_owned) },
        lane: row.maybe_text(5)?.map(str::to_owned),
        class: match row.int(6)? {
            0 => model::Class::Human,
            1 => model::Class::Event,
            _ => model::Class::Batch,
        },
        recipe: row.json(7)?,
        attempt: u32::try_from(row.count(8)?).unwrap_or(u32::MAX),
        losses: u32::try_from(row.count(9)?).unwrap_or(u32::MAX),
        lease: node.zip(session).map(|(node, session)| Lease { node, session }),
        by: row.text(12)?.to_owned(),
        created_at: row.time(13)?,
        started_at: row.maybe_time(14)?,
        ended_at: row.maybe_time(15)?,
        outcome: row.maybe_json(16)?,
        usage: row.maybe_json(17)?,
        dump: row.maybe_parsed(18)?,
        waiting: None,
    })
}

/// Returns the two states from which a move is legal, the only one twice where there is but one. Where there are more, what
/// makes those moves names their source itself.
pub(crate) fn sources(to: ExecutionState) -> [Value; 2] {
    let from = to.reachable_from();
    let first = from.first().expect("every state can be reached");
    [first, from.get(1).unwrap_or(first)].map(|state| state.as_str().into())
}

/// Notes an execution's move for the log.
pub(crate) fn note(tx: &Tx<'_>, execution: &Execution, at: Timestamp, by: &str) {
    note_as(tx, execution, execution.state.as_str(), at, by);
}

/// Notes for the log what became of an execution, by a word of its own.
pub(crate) fn note_as(tx: &Tx<'_>, execution: &Execution, state: &'static str, at: Timestamp, by: &str) {
    tx.change(NewChange {
        at,
        tenant: execution.tenant,
        noun: Noun::Execution,
        id: execution.id.to_string(),
        state,
        by: by.to_owned(),
        body: to_json(execution),
    });
}

pub(crate) async fn get(tx: &Tx<'_>, id: ExecutionId) -> Result<Option<Execution>, StoreError> {
    tx.row(GET, &[id.into()]).await?.as_ref().map(read).transpose()
}

pub(crate) fn missing(id: ExecutionId) -> StoreError {
    StoreError::NotFound { noun: "execution", id: id.to_string() }
}

/// Accepts an execution, unless it was accepted before.
pub(crate) struct ExecutionCreate {
    execution: Arc<Execution>,
    values: Vec<Value>,
    /// The change's body, written by whoever asks rather than by the one writer.
    body: String,
}

impl ExecutionCreate {
    pub(crate) fn new(new: &NewExecution, tenant: TenantId, origin: Origin, by: &str, at: Timestamp) -> Self {
        let execution = queued(new, tenant, origin, by, at);
        let shape = Shape::of(&execution.recipe, execution.origin.kind, None);
        Self::of(execution, &shape)
    }

    /// Takes an execution as it shall stand, and what it needs of a node.
    pub(crate) fn of(execution: Execution, shape: &Shape) -> Self {
        let values = vec![
            execution.id.into(),
            execution.tenant.into(),
            Value::Int(1),
            word(execution.origin.kind),
            execution.origin.id.as_ref().into(),
            execution.lane.as_ref().into(),
            Value::Null,
            execution.class.rank().into(),
            to_json(&execution.recipe).into(),
            execution.by.as_str().into(),
            execution.created_at.into(),
            execution.recipe.image_id.into(),
            shape.text().into(),
        ];
        Self { body: to_json(&execution), values, execution: Arc::new(execution) }
    }

    /// Answers a second request for the same id: with what is there if it is the same, else with a refusal.
    async fn again(&self, tx: &Tx<'_>) -> Result<(Arc<Execution>, bool), StoreError> {
        let there = get(tx, self.execution.id).await?.ok_or(StoreError::Again)?;
        let ours = &self.execution;
        // The name may stand for a newer image by now, and the tenant for another runtime: what was asked for is the name.
        let asked = |recipe: &Recipe| Recipe {
            image_id: None,
            sandbox: Sandbox { runtime: None, ..recipe.sandbox.clone() },
            ..recipe.clone()
        };
        let same = there.tenant == ours.tenant
            && asked(&there.recipe) == asked(&ours.recipe)
            && there.lane == ours.lane
            && there.class == ours.class
            && there.origin == ours.origin;
        if same {
            return Ok((Arc::new(there), false));
        }
        Err(StoreError::Exists { noun: "execution", id: ours.id.to_string() })
    }
}

/// Returns an execution that has just been asked for.
pub(crate) fn queued(new: &NewExecution, tenant: TenantId, origin: Origin, by: &str, at: Timestamp) -> Execution {
    Execution {
        id: new.id,
        tenant,
        state: ExecutionState::Queued,
        origin,
        lane: new.lane.clone(),
        class: new.class,
        recipe: new.recipe(),
        attempt: 0,
        losses: 0,
        lease: None,
        by: by.to_owned(),
        created_at: at,
        started_at: None,
        ended_at: None,
        outcome: None,
        usage: None,
        dump: None,
        waiting: None,
    }
}

/// What an execution made or asked for: an image, findings about a dump, notes on one; mostly nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Made<'e> {
    pub(crate) manifest: Option<&'e Manifest>,
    pub(crate) findings: Option<&'e DumpFindings>,
    pub(crate) asked: Option<&'e Asked>,
}

/// Does what the end of an execution brings about: the next one of its lane may go, the image that it was to make is ready
/// or has failed, the dump that it was to analyse has its findings or the reason why not, and what it asked for is done.
pub(crate) async fn ended(
    tx: &Tx<'_>,
    execution: &Execution,
    made: Made<'_>,
    at: Timestamp,
    by: &str,
) -> Result<(), StoreError> {
    match execution.origin.kind {
        OriginKind::Image => crate::image::finish(tx, execution, made.manifest, at, by).await?,
        OriginKind::Dump => crate::dump::analysis::finish(tx, execution, made.findings, at, by).await?,
        OriginKind::Hand | OriginKind::Message | OriginKind::Job | OriginKind::Engine | OriginKind::Retry => {}
        OriginKind::Analyzer => {}
    }
    crate::analyzer::study::finish(tx, execution, made.asked, at).await?;
    lane::leave(tx, execution).await
}

/// Tells whether what [`ended`] does for an execution touches nothing else.
pub(crate) fn ends_alone(execution: &Execution) -> bool {
    use OriginKind::{Engine, Hand, Job, Message, Retry};
    matches!(execution.origin.kind, Hand | Message | Job | Engine | Retry)
        && execution.lane.is_none()
        && execution.dump.is_none()
        && execution.recipe.sandbox.dump.is_none()
}

/// Returns an enum's word.
fn word<T: serde::Serialize>(value: T) -> Value {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text.into(),
        _ => unreachable!("enums without fields serialise as text"),
    }
}

impl Operation for ExecutionCreate {
    type Answer = (Arc<Execution>, bool);
    const OVERLAPS: bool = true;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let execution = &self.execution;
        for digest in execution.recipe.blobs() {
            // To know a digest proves nothing: a node hands out by digest what it has.
            match crate::content::must_have(tx, execution.tenant, digest).await {
                Err(StoreError::NotFound { .. }) if get(tx, execution.id).await?.is_some() => {
                    return self.again(tx).await;
                }
                found => found?,
            }
        }
        let inserted = match &execution.lane {
            None => tx.insert(&INSERT_EXECUTION, &self.values).await?,
            Some(lane) => {
                if get(tx, execution.id).await?.is_some() {
                    return self.again(tx).await;
                }
                let place = lane::enter(tx, execution.tenant, lane, execution.id).await?;
                let mut values = self.values.clone();
                values[2] = Value::Int(place.first.into());
                values[6] = place.position.into();
                if !tx.insert(&INSERT_EXECUTION, &values).await? {
                    // Its twin came in between: what was done to the lane must be undone.
                    return Err(StoreError::Again);
                }
                true
            }
        };
        if !inserted {
            return self.again(tx).await;
        }
        for digest in execution.recipe.blobs() {
            tx.execute(USE, &[execution.id.into(), digest.into()]).await?;
        }
        tx.change(NewChange {
            at: execution.created_at,
            tenant: execution.tenant,
            noun: Noun::Execution,
            id: execution.id.to_string(),
            state: execution.state.as_str(),
            by: execution.by.clone(),
            body: self.body.clone(),
        });
        Ok((Arc::clone(execution), true))
    }
}

/// Reads one execution.
pub(crate) struct ExecutionGet {
    pub(crate) id: ExecutionId,
    /// Whose it must be; nobody named means that anybody's will do.
    pub(crate) tenant: Option<TenantId>,
}

impl Operation for ExecutionGet {
    type Answer = Execution;

    async fn run(&self, tx: &Tx<'_>) -> Result<Execution, StoreError> {
        let found = get(tx, self.id).await?;
        found.filter(|found| self.tenant.is_none_or(|tenant| tenant == found.tenant)).ok_or_else(|| missing(self.id))
    }
}

/// Lists a tenant's executions, newest first.
pub(crate) struct ExecutionList {
    pub(crate) tenant: TenantId,
    pub(crate) state: Option<ExecutionState>,
    pub(crate) after: Option<ExecutionId>,
    pub(crate) limit: u32,
}

impl Operation for ExecutionList {
    type Answer = (Vec<Execution>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        /// Sorts after every id.
        const END: &str = "exe_~";
        let head = crate::change::bounds(tx).await?.head;
        let after = self.after.map_or_else(|| Value::from(END), Into::into);
        let rows = match self.state {
            None => tx.rows(LIST, &[self.tenant.into(), after, self.limit.into()]).await?,
            Some(state) => {
                tx.rows(LIST_STATE, &[self.tenant.into(), state.as_str().into(), after, self.limit.into()]).await?
            }
        };
        Ok((rows.iter().map(read).collect::<Result<_, _>>()?, head))
    }
}

/// Stops an execution as its user asks: at once while it waits, through its node once it runs.
pub(crate) struct ExecutionCancel {
    pub(crate) id: ExecutionId,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

impl Operation for ExecutionCancel {
    type Answer = Execution;

    async fn run(&self, tx: &Tx<'_>) -> Result<Execution, StoreError> {
        let found = get(tx, self.id).await?;
        let found = found
            .filter(|found| self.tenant.is_none_or(|tenant| tenant == found.tenant))
            .ok_or_else(|| missing(self.id))?;
        let outcome = to_json(&Outcome::Cancelled);
        if let Some(row) = tx.write(CANCEL, &[self.at.into(), outcome.into(), self.id.into()]).await?.pop() {
            let cancelled = read(&row)?;
            note(tx, &cancelled, self.at, &self.by);
            ended(tx, &cancelled, Made::default(), self.at, &self.by).await?;
            return Ok(cancelled);
        }
        let [first, last] = sources(ExecutionState::Cancelling);
        if let Some(row) = tx.write(STOP, &[self.id.into(), first, last]).await?.pop() {
            let stopping = read(&row)?;
            note(tx, &stopping, self.at, &self.by);
            return Ok(stopping);
        }
        // Nothing to move: it is being stopped, has been, or has ended in its own way since.
        let found = get(tx, self.id).await?.unwrap_or(found);
        match found.state {
            ExecutionState::Cancelling | ExecutionState::Cancelled => Ok(found),
            // Another server moved it between our two tries.
            ExecutionState::Queued | ExecutionState::Running => Err(StoreError::Again),
            ExecutionState::Succeeded | ExecutionState::Failed | ExecutionState::Quarantined => {
                Err(StoreError::Conflict {
                    noun: "execution",
                    id: self.id.to_string(),
                    state: found.state.as_str(),
                    wanted: ExecutionState::Cancelled.as_str(),
                })
            }
        }
    }
}

/// What a node says of the end of an attempt.
#[derive(Clone, Debug)]
pub struct ExecutionEnd {
    /// Which execution.
    pub id: ExecutionId,
    /// Which attempt: the fence.
    pub attempt: u32,
    /// The session under which the node holds it.
    pub session: SessionId,
    /// How it ended.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// The dump that it left.
    pub dump: Option<DumpLeft>,
    /// The image that it made, if that was its work.
    pub manifest: Option<Manifest>,
    /// What it found out about a dump, if that was its work.
    pub findings: Option<DumpFindings>,
    /// What it asked to be done about the dump beside it.
    pub asked: Option<Asked>,
}

/// Records the end of an attempt, once.
pub(crate) struct ExecutionFinish {
    pub(crate) end: ExecutionEnd,
    pub(crate) at: Timestamp,
    pub(crate) by: String,
}

impl Operation for ExecutionFinish {
    type Answer = Execution;

    async fn run(&self, tx: &Tx<'_>) -> Result<Execution, StoreError> {
        let end = &self.end;
        let to = end.outcome.state();
        let [first, last] = sources(to);
        // A node cannot cancel what still waits; from `queued` only a user leads to `cancelled`.
        let first = if to == ExecutionState::Cancelled { last.clone() } else { first };
        // Looked at first: once the execution has moved, nothing may be refused any more.
        let dump = match &end.dump {
            None => None,
            Some(dump) => {
                let found = get(tx, end.id).await?.ok_or_else(|| missing(end.id))?;
                dump.is_whole(tx, found.tenant).await?.then_some(dump)
            }
        };
        let values = [
            to.as_str().into(),
            self.at.into(),
            to_json(&end.outcome).into(),
            to_json(&end.usage).into(),
            end.id.into(),
            end.attempt.into(),
            end.session.into(),
            first,
            last,
        ];
        if let Some(row) = tx.write(FINISH, &values).await?.pop() {
            let mut finished = read(&row)?;
            if let Some(dump) = dump {
                let dump = dump.keep(tx, &finished, (&self.by, self.at)).await?;
                tx.execute(LEAVE, &[dump.into(), end.id.into()]).await?;
                finished.dump = Some(dump);
            }
            note(tx, &finished, self.at, &self.by);
            let made =
                Made { manifest: end.manifest.as_ref(), findings: end.findings.as_ref(), asked: end.asked.as_ref() };
            ended(tx, &finished, made, self.at, &self.by).await?;
            return Ok(finished);
        }
        let found = get(tx, end.id).await?.ok_or_else(|| missing(end.id))?;
        let holds = found.lease.is_some_and(|lease| lease.session == end.session);
        if found.attempt != end.attempt || !(holds || found.state.is_final()) {
            return Err(StoreError::Stale { id: end.id.to_string(), attempt: end.attempt });
        }
        // The same words a second time: the first answer was lost on its way.
        if found.outcome.as_ref() == Some(&end.outcome) && found.usage == Some(end.usage) {
            return Ok(found);
        }
        Err(StoreError::Conflict {
            noun: "execution",
            id: end.id.to_string(),
            state: found.state.as_str(),
            wanted: to.as_str(),
        })
    }
}

/// Counts the executions that a node could take now, up to ten thousand.
pub(crate) struct ExecutionsWaiting;

impl Operation for ExecutionsWaiting {
    type Answer = u64;

    async fn run(&self, tx: &Tx<'_>) -> Result<u64, StoreError> {
        tx.row(COUNT_WAITING, &[]).await?.map_or(Ok(0), |row| row.count(0))
    }
}
