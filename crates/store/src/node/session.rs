//! Sessions: what a node says in one sync, and what it is told, as one transaction; and the end of those that fell silent.
//!
//! Every write of a session begins with the renewal of its lease, which locks its row: whoever ends a session and
//! whoever speaks under it take turns, so nothing is ever given to a session that is gone.

use super::{Return, get, go, hold_free, shut};
use crate::analyzer::study;
use crate::chunk::Appender;
use crate::dump::{DumpLeft, analysis};
use crate::error::StoreError;
use crate::execution::claim::{Claim, Queue, Turns, claim, queues};
use crate::execution::{self, ExecutionEnd, ExecutionFinish};
use crate::postgres;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Session, Tx};
use crate::value::to_json;
use crate::{image, registry};
use futures_util::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use model::analysis::DumpOrder;
use model::analyzer::Beside;
use model::node::{Held, Hold, HoldKind, Refused};
use model::{
    ApiError, Execution, ExecutionId, ExecutionState, Image, ImageId, Lease, Manifest, Node, NodeId, NodeState, Offer,
    OriginKind, SessionId, Shape, Sync, TenantId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Sessions that one pass looks at.
const MAX_EXPIRED: u32 = 256;

statements! {
    RENEW = "UPDATE session SET expires_at = $1 WHERE id = $2 AND node = $3 AND expires_at > $4 RETURNING id";
    FRESH_SQLITE = "SELECT expires_at FROM session WHERE id = $1 AND node = $2 AND expires_at > $3";
    HELD = "SELECT id, attempt, state FROM execution WHERE session = $1 ORDER BY id";
    EXPIRED = "SELECT id, node FROM session WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2";
    EXPIRE = "DELETE FROM session WHERE id = $1 AND expires_at <= $2 RETURNING id";
    CANCELLING = "SELECT session, id, attempt FROM execution WHERE state = 'cancelling' AND session IS NOT NULL \
                  LIMIT 10000";
    HOLDER = "SELECT execution.tenant, execution.attempt, execution.session, node.tenant, node.created_by \
              FROM execution LEFT JOIN node ON node.id = execution.node WHERE execution.id = $1";
    /// Nobody follows it, so the log does not hear of it.
    USED = "UPDATE execution SET usage = $1 WHERE id = $2 AND attempt = $3 AND session = $4 \
            AND state IN ('running', 'cancelling')";
    SHAPE = "SELECT shape FROM execution WHERE id = $1 AND ready = 1";
}

/// What a node says, and who it is.
#[derive(Clone, Debug)]
pub struct Report {
    /// The node.
    pub node: NodeId,
    /// Who speaks for it.
    pub owner: (TenantId, String),
    /// What it says.
    pub sync: Sync,
    /// The dumps that what it says has ended left, with what their manifests say.
    pub dumps: BTreeMap<Held, DumpLeft>,
    /// Whom alone it serves; nobody named means everybody.
    pub serves: Option<TenantId>,
    /// When it was heard.
    pub at: Timestamp,
    /// How long its lease lasts from then on.
    pub lease: SignedDuration,
}

/// An execution that a node is given, with what it takes to begin it.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// The execution.
    pub execution: Execution,
    /// The image that it runs in.
    pub manifest: Option<Manifest>,
    /// The image that it makes, whether its registry is spoken to without TLS, and the credential for it.
    pub image: Option<(Image, bool, Option<registry::Sealed>)>,
    /// The dump that it analyses.
    pub dump: Option<DumpOrder>,
    /// The dump that is beside it.
    pub beside: Option<Box<Beside>>,
}

/// What a node is told, and how it stands now.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The node.
    pub node: Node,
    /// Until when its lease lasts.
    pub expires_at: Timestamp,
    /// What its session holds now, what is new among it.
    pub held: BTreeMap<ExecutionId, (u32, ExecutionState)>,
    /// What it is given, and given again.
    pub assigned: Vec<Assigned>,
    /// What is not its own.
    pub forget: Vec<Held>,
    /// What did not count.
    pub refused: Vec<Refused>,
    /// What ended, or went back into the queue.
    pub moved: Vec<Execution>,
    /// Whether it was given all that there was for it.
    pub is_sated: bool,
}

impl Heard {
    /// Returns what is to be stopped.
    pub fn cancel(&self) -> Vec<ExecutionId> {
        let stops = self.held.iter().filter(|(_, (_, state))| *state == ExecutionState::Cancelling);
        stops.map(|(id, _)| *id).collect()
    }
}

impl StoreError {
    /// Makes the error of a session that is not whose who speaks under it, or is over.
    pub fn gone(session: SessionId) -> Self {
        Self::conflict(
            "session_gone",
            format!("session `{session}` is not the node's, or its lease ran out"),
            "end all that it holds, and join again with a new session",
        )
    }
}

/// Hears a node, and tells it what to do.
#[derive(Clone, Debug)]
pub struct Exchange {
    report: Report,
    turns: Arc<Turns>,
}

/// What came of what a node said.
#[derive(Default)]
struct Said {
    moved: Vec<Execution>,
    refused: Vec<Refused>,
}

impl Said {
    /// Keeps a refusal for the node's answer; a failure ends the whole exchange.
    fn unless_refused<T>(&mut self, result: Result<T, StoreError>, held: Held) -> Result<Option<T>, StoreError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_failure() => Err(error),
            Err(error) => {
                self.refused.push(Refused { held, error: error.into() });
                Ok(None)
            }
        }
    }
}

/// What there is for a node: what its session holds, and what waits.
type Seen = (BTreeMap<ExecutionId, (u32, ExecutionState)>, Vec<Queue>);

impl Operation for Exchange {
    type Answer = Heard;

    async fn run(&self, tx: &Tx<'_>) -> Result<Heard, StoreError> {
        let Report { sync, at, .. } = &self.report;
        let by = self.report.node.to_string();
        let (renewed, said, seen) = (renew(tx, &self.report), self.say(tx, &by), self.see(tx));
        let (mut heard, said, (held, queues)) = match tx.session() {
            Session::Sqlite(_) => (renewed.await?, said.await?, seen.await?),
            Session::Postgres(client) => {
                // The lock on the session comes before everything else, so its message must not have to ask first; nor may the look
                // at the node, whose answer is otherwise that something else has failed.
                postgres::prepare(client, RENEW).await?;
                postgres::prepare(client, super::GET).await?;
                // They begin in this order and share their round trips. Each comes to its end: what was said may have moved
                // something when it turns out that nobody may speak under this session, and then all of it must be undone.
                let (renewed, said, seen) = futures_util::join!(renewed, said, seen);
                let (renewed, said, mut seen) = (renewed?, said?, seen?);
                if !said.moved.iter().all(execution::ends_alone) {
                    seen = self.see(tx).await?;
                }
                // What was longer on its way than the look at what is held.
                seen.0.retain(|id, _| said.moved.iter().all(|moved| moved.id != *id));
                (renewed, said, seen)
            }
        };
        Said { moved: heard.moved, refused: heard.refused } = said;
        if heard.node.state == NodeState::Joining
            && let Some(node) = go(tx, heard.node.id, NodeState::Ready, *at, &by).await?
        {
            heard.node = node;
        }
        if let Some(cause) = &sync.trouble
            && heard.node.hold.is_none()
        {
            let new = Hold { kind: HoldKind::Quarantine, cause: cause.clone(), by: by.clone(), at: *at };
            // What a user said at the same moment goes first.
            if let Some(node) = hold_free(tx, heard.node.id, &new, (*at, &by)).await? {
                heard.node = node;
            }
        }
        if sync.leaving {
            let give_back = Return { session: sync.session, cost: 0, at: *at, by: &by };
            heard.moved.extend(shut(tx, &give_back).await?);
            if let Some(node) = go(tx, heard.node.id, NodeState::Gone, *at, &by).await? {
                heard.node = node;
            }
            return Ok(heard);
        }
        heard.held = held;
        self.compare(tx, &mut heard).await?;
        self.claim(tx, queues, &mut heard).await?;
        Ok(heard)
    }
}

impl Exchange {
    /// Takes in what the node says of its executions.
    async fn say(&self, tx: &Tx<'_>, by: &str) -> Result<Said, StoreError> {
        let mut said = Said::default();
        self.add_chunks(tx, &mut said).await?;
        self.finish(tx, &mut said, by).await?;
        self.note_used(tx).await?;
        Ok(said)
    }

    /// Looks at what there is for the node.
    async fn see(&self, tx: &Tx<'_>) -> Result<Seen, StoreError> {
        let Report { sync, .. } = &self.report;
        if sync.leaving {
            return Ok(Seen::default());
        }
        let queues = async { if sync.free > 0 { queues(tx, &self.turns).await } else { Ok(Vec::new()) } };
        futures_util::try_join!(held(tx, sync.session), queues)
    }

    async fn add_chunks(&self, tx: &Tx<'_>, said: &mut Said) -> Result<(), StoreError> {
        let mut appenders: BTreeMap<Held, Option<Appender>> = BTreeMap::new();
        for written in &self.report.sync.chunks {
            let Held { execution, attempt } = written.held;
            if let std::collections::btree_map::Entry::Vacant(place) = appenders.entry(written.held) {
                let found = Appender::output(tx, execution, attempt, self.report.sync.session).await;
                place.insert(said.unless_refused(found, written.held)?);
            }
            let Some(Some(appender)) = appenders.get_mut(&written.held) else { continue };
            let added = match written.chunk.stream.is_inward() {
                true => Err(ApiError::invalid("chunk_invalid", "a node writes output and error alone").into()),
                false => appender.add(tx, &written.chunk).await,
            };
            said.unless_refused(added, written.held)?;
        }
        Ok(())
    }

    async fn finish(&self, tx: &Tx<'_>, said: &mut Said, by: &str) -> Result<(), StoreError> {
        for finished in &self.report.sync.finished {
            let end = ExecutionEnd {
                id: finished.held.execution,
                attempt: finished.held.attempt,
                session: self.report.sync.session,
                outcome: finished.outcome.clone(),
                usage: finished.usage,
                dump: self.report.dumps.get(&finished.held).cloned(),
                manifest: finished.manifest.clone(),
                findings: finished.findings.clone(),
                asked: finished.asked.clone(),
            };
            let ended = ExecutionFinish { end, at: self.report.at, by: by.to_owned() }.run(tx).await;
            let moved = said.unless_refused(ended, finished.held)?;
            said.moved.extend(moved);
        }
        Ok(())
    }

    /// Notes what has been used so far; of what is the session's no more, nothing.
    async fn note_used(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let Report { sync, .. } = &self.report;
        let noted = sync.used.iter().map(async |used| {
            let Held { execution, attempt } = used.held;
            let values = [to_json(&used.usage).into(), execution.into(), attempt.into(), sync.session.into()];
            tx.execute(USED, &values).await
        });
        try_join_all(noted).await.map(drop)
    }

    /// Holds what the node says it has against what it was given.
    async fn compare(&self, tx: &Tx<'_>, heard: &mut Heard) -> Result<(), StoreError> {
        let said: BTreeSet<Held> = self.report.sync.held.iter().copied().collect();
        for held in &said {
            if heard.held.get(&held.execution).is_none_or(|(attempt, _)| *attempt != held.attempt) {
                heard.forget.push(*held);
            }
        }
        let unknown: Vec<ExecutionId> = heard
            .held
            .iter()
            .filter(|(id, (attempt, _))| !said.contains(&Held { execution: **id, attempt: *attempt }))
            .map(|(id, _)| *id)
            .collect();
        for id in unknown {
            if let Some(execution) = execution::get(tx, id).await? {
                heard.assigned.push(assign(tx, execution).await?);
            }
        }
        Ok(())
    }

    async fn claim(&self, tx: &Tx<'_>, queues: Vec<Queue>, heard: &mut Heard) -> Result<(), StoreError> {
        let Report { sync, node, serves, at, .. } = &self.report;
        let again = u32::try_from(heard.assigned.len()).unwrap_or(u32::MAX);
        let slots = sync.free.saturating_sub(again);
        if heard.node.state != NodeState::Ready || heard.node.hold.is_some() || slots == 0 {
            heard.is_sated = true;
            return Ok(());
        }
        let lease = Lease { node: *node, session: sync.session };
        let offer: Option<Offer> = Some(heard.node.offer.clone());
        let taken = claim(tx, &Claim { lease, slots, offer, tenant: *serves }, queues, *at).await?;
        heard.is_sated = taken.len() < slots as usize;
        for execution in taken {
            heard.held.insert(execution.id, (execution.attempt, execution.state));
            heard.assigned.push(assign(tx, execution).await?);
        }
        Ok(())
    }
}

impl From<ApiError> for StoreError {
    fn from(error: ApiError) -> Self {
        Self::Refused(Box::new(error))
    }
}

/// Renews a session's lease; returns until when it lasts, if it is the node's and has not run out.
///
/// Of one that is fresh nothing is written on SQLite, which has one writer. Elsewhere the write is also what keeps another
/// server from ending the session meanwhile.
async fn extend(tx: &Tx<'_>, report: &Report) -> Result<Option<Timestamp>, StoreError> {
    let session = report.sync.session;
    if matches!(tx.session(), Session::Sqlite(_)) {
        let fresh = report.at + report.lease * 2 / 3;
        if let Some(row) = tx.row(FRESH_SQLITE, &[session.into(), report.node.into(), fresh.into()]).await? {
            return row.time(0).map(Some);
        }
    }
    let expires_at = report.at + report.lease;
    let values = [expires_at.into(), session.into(), report.node.into(), report.at.into()];
    Ok((!tx.write(RENEW, &values).await?.is_empty()).then_some(expires_at))
}

/// Renews a session's lease and looks at its node.
async fn renew(tx: &Tx<'_>, report: &Report) -> Result<Heard, StoreError> {
    let session = report.sync.session;
    let (extended, node) = futures_util::try_join!(extend(tx, report), get(tx, report.node))?;
    let node = node.filter(|node| (node.tenant, &node.by) == (report.owner.0, &report.owner.1));
    let node = node.filter(|node| node.session == Some(session));
    let (expires_at, node) = extended.zip(node).ok_or_else(|| StoreError::gone(session))?;
    Ok(Heard {
        node,
        expires_at,
        held: BTreeMap::new(),
        assigned: Vec::new(),
        forget: Vec::new(),
        refused: Vec::new(),
        moved: Vec::new(),
        is_sated: false,
    })
}

async fn held(tx: &Tx<'_>, session: SessionId) -> Result<BTreeMap<ExecutionId, (u32, ExecutionState)>, StoreError> {
    let rows = tx.rows(HELD, &[session.into()]).await?;
    let read = |row: &crate::value::Row| {
        Ok((row.parsed(0)?, (u32::try_from(row.count(1)?).unwrap_or(u32::MAX), row.word(2)?)))
    };
    rows.iter().map(read).collect()
}

/// Adds what it takes to begin an execution.
async fn assign(tx: &Tx<'_>, execution: Execution) -> Result<Assigned, StoreError> {
    let manifest = match execution.recipe.image_id {
        Some(id) => image::get(tx, id).await?.and_then(|(image, _)| image.manifest),
        None => None,
    };
    let made = match (execution.origin.kind, &execution.origin.id) {
        (OriginKind::Image, Some(id)) => id.parse::<ImageId>().ok(),
        _ => None,
    };
    let dump = if execution.origin.kind == OriginKind::Dump { analysis::order(tx, &execution).await? } else { None };
    let beside = study::beside(tx, &execution).await?;
    let Some(made) = made else { return Ok(Assigned { execution, manifest, image: None, dump, beside }) };
    let Some((made, plain_http)) = image::get(tx, made).await? else {
        return Ok(Assigned { execution, manifest, image: None, dump, beside });
    };
    let sealed = match made.source.host() {
        Some(host) => registry::get(tx, made.tenant, &host).await?,
        None => None,
    };
    Ok(Assigned { execution, manifest, image: Some((made, plain_http, sealed)), dump, beside })
}

/// Renews a lease when there is nothing else to say; shares its round trips with its equals.
struct SessionRenew {
    report: Report,
}

impl Operation for SessionRenew {
    type Answer = Heard;
    const OVERLAPS: bool = true;

    async fn run(&self, tx: &Tx<'_>) -> Result<Heard, StoreError> {
        let (heard, held) = futures_util::join!(renew(tx, &self.report), held(tx, self.report.sync.session));
        Ok(Heard { held: held?, is_sated: true, ..heard? })
    }
}

/// Finds sessions whose lease has run out.
struct ExpiredList {
    at: Timestamp,
}

impl Operation for ExpiredList {
    type Answer = Vec<(SessionId, NodeId)>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let rows = tx.rows(EXPIRED, &[self.at.into(), MAX_EXPIRED.into()]).await?;
        rows.iter().map(|row| Ok((row.parsed(0)?, row.parsed(1)?))).collect()
    }
}

/// Ends a session whose lease has run out, if it still has.
struct SessionExpire {
    session: SessionId,
    node: NodeId,
    at: Timestamp,
}

impl Operation for SessionExpire {
    type Answer = Vec<Execution>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Execution>, StoreError> {
        if tx.write(EXPIRE, &[self.session.into(), self.at.into()]).await?.is_empty() {
            return Ok(Vec::new());
        }
        let lost = Return { session: self.session, cost: 1, at: self.at, by: "quarry" }.all(tx).await?;
        if get(tx, self.node).await?.is_some_and(|node| node.session == Some(self.session)) {
            go(tx, self.node, NodeState::Lost, self.at, "quarry").await?;
        }
        Ok(lost)
    }
}

/// Finds what is being stopped, by session.
struct CancellingList;

impl Operation for CancellingList {
    type Answer = Vec<(SessionId, Held)>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let read = |row: &crate::value::Row| {
            let attempt = u32::try_from(row.count(2)?).unwrap_or(u32::MAX);
            Ok((row.parsed(0)?, Held { execution: row.parsed(1)?, attempt }))
        };
        tx.rows(CANCELLING, &[]).await?.iter().map(read).collect()
    }
}

/// Finds whose an execution is and who holds it.
struct HolderGet {
    id: ExecutionId,
}

/// Whose an execution is, and who holds it.
struct Holder {
    tenant: TenantId,
    attempt: u32,
    session: Option<SessionId>,
    owner: Option<(TenantId, String)>,
}

impl Operation for HolderGet {
    type Answer = Option<Holder>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let Some(row) = tx.row(HOLDER, &[self.id.into()]).await? else { return Ok(None) };
        let node = row.maybe_parsed(3)?.zip(row.maybe_text(4)?.map(str::to_owned));
        let attempt = u32::try_from(row.count(1)?).unwrap_or(u32::MAX);
        Ok(Some(Holder { tenant: row.parsed(0)?, attempt, session: row.maybe_parsed(2)?, owner: node }))
    }
}

/// Reads what an execution that waits needs of a node.
struct ShapeGet {
    id: ExecutionId,
}

impl Operation for ShapeGet {
    type Answer = Option<Option<Shape>>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let row = tx.row(SHAPE, &[self.id.into()]).await?;
        row.map(|row| row.text(0).map(Shape::parse)).transpose()
    }
}

impl Store {
    /// Hears what a node says and tells it what to do, in one transaction.
    pub async fn node_exchange(&self, report: Report) -> Result<Heard, StoreError> {
        self.write(Exchange { report: Report { sync: report.sync.fitted(), ..report }, turns: self.turns() }).await
    }

    /// Renews a node's lease, and tells how it stands.
    pub async fn session_renew(&self, report: Report) -> Result<Heard, StoreError> {
        self.write(SessionRenew { report }).await
    }

    /// Ends the sessions whose lease has run out, as far as one pass goes; returns them and what they gave back.
    pub async fn sessions_expire(&self, at: Timestamp) -> Result<Vec<(SessionId, Vec<Execution>)>, StoreError> {
        let mut ended = Vec::new();
        for (session, node) in self.read(ExpiredList { at }).await? {
            ended.push((session, self.write(SessionExpire { session, node, at }).await?));
        }
        Ok(ended)
    }

    /// Returns what is being stopped, and under which sessions.
    pub async fn cancelling_list(&self) -> Result<Vec<(SessionId, Held)>, StoreError> {
        self.read(CancellingList).await
    }

    /// Returns the tenant of an execution, if this session of this owner's node holds this attempt.
    pub async fn fence_check(
        &self,
        held: Held,
        session: SessionId,
        owner: (TenantId, &str),
    ) -> Result<TenantId, StoreError> {
        let holder = self.read(HolderGet { id: held.execution }).await?.filter(|holder| {
            let by = holder.owner.as_ref().map(|(tenant, by)| (*tenant, by.as_str()));
            (holder.attempt, holder.session, by) == (held.attempt, Some(session), Some(owner))
        });
        let stale = || StoreError::Stale { id: held.execution.to_string(), attempt: held.attempt };
        holder.map(|holder| holder.tenant).ok_or_else(stale)
    }

    /// Tells whether a node of this owner holds an execution now.
    pub async fn execution_is_held_by(&self, id: ExecutionId, owner: (TenantId, &str)) -> Result<bool, StoreError> {
        let holder = self.read(HolderGet { id }).await?;
        let by = holder.and_then(|holder| holder.owner);
        Ok(by.is_some_and(|(tenant, by)| (tenant, by.as_str()) == owner))
    }

    /// Returns what an execution needs of a node, if a node could take it now.
    pub async fn execution_shape(&self, id: ExecutionId) -> Result<Option<Option<Shape>>, StoreError> {
        self.read(ShapeGet { id }).await
    }
}
