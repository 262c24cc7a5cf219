//! Claims: a node takes as many executions as it has free slots, and gives back what it cannot keep.
//!
//! Higher classes go first. Within a class tenants take turns, those with the fewest running first, and within a tenant
//! the oldest goes first. A node is given only what its offer fits: the queue's index is walked from one shape to the
//! next, so a million executions that need something else cost one step. What is running is counted, never kept as a
//! number that could leak. Two servers that claim at once pass over each other's rows.

use super::{Made, columns, ended, note, read, sources};
use crate::error::StoreError;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Session, Tx};
use crate::value::{Row, Value, to_json};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use model::limits::{MAX_CLAIM, MAX_LOSSES};
use model::{Class, Execution, ExecutionId, ExecutionState, Lease, Offer, Outcome, SessionId, Shape, TenantId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Shapes of one tenant and class that a claim looks at: the first of them by their texts, and, where there are more, as many
/// of the others, which take turns.
pub const MAX_SHAPES: u64 = 256;

statements! {
    /// Each class, tenant and shape that has something ready, in three walks over the index.
    QUEUES = "WITH RECURSIVE \
        class (number) AS (SELECT cast(0 AS bigint) UNION ALL SELECT number + 1 FROM class WHERE number < 2), \
        turn (class, tenant) AS ( \
            SELECT number, (SELECT min(tenant) FROM execution WHERE ready = 1 AND execution.class = class.number) \
            FROM class \
            UNION ALL \
            SELECT class, (SELECT min(execution.tenant) FROM execution WHERE ready = 1 \
                AND execution.class = turn.class AND execution.tenant > turn.tenant) \
            FROM turn WHERE tenant IS NOT NULL \
        ), \
        queue (class, tenant, shape, step) AS ( \
            SELECT class, tenant, (SELECT min(shape) FROM execution WHERE ready = 1 \
                AND execution.class = turn.class AND execution.tenant = turn.tenant), cast(1 AS bigint) \
            FROM turn WHERE tenant IS NOT NULL \
            UNION ALL \
            SELECT class, tenant, (SELECT min(execution.shape) FROM execution WHERE ready = 1 \
                AND execution.class = queue.class AND execution.tenant = queue.tenant \
                AND execution.shape > queue.shape), step + 1 \
            FROM queue WHERE shape IS NOT NULL AND step < $1 \
        ) \
        SELECT class, tenant, shape FROM queue WHERE shape IS NOT NULL ORDER BY class, tenant, shape";
    /// More shapes of one tenant and class, behind the one that is named.
    MORE = "WITH RECURSIVE queue (shape, step) AS ( \
            SELECT (SELECT min(shape) FROM execution WHERE ready = 1 AND class = $1 AND tenant = $2 AND shape > $3), \
                cast(1 AS bigint) \
            UNION ALL \
            SELECT (SELECT min(execution.shape) FROM execution WHERE ready = 1 AND class = $1 AND tenant = $2 \
                AND execution.shape > queue.shape), step + 1 \
            FROM queue WHERE shape IS NOT NULL AND step < $4 \
        ) \
        SELECT shape FROM queue WHERE shape IS NOT NULL";
    BUSY = "SELECT tenant, count(*) FROM execution WHERE session IS NOT NULL GROUP BY tenant";
    READY_SQLITE = "SELECT id, created_at FROM execution WHERE ready = 1 AND class = $1 AND tenant = $2 AND shape = $3 \
                    ORDER BY created_at, id LIMIT $4";
    READY_POSTGRES = "SELECT id, created_at FROM execution WHERE ready = 1 AND class = $1 AND tenant = $2 \
                      AND shape = $3 ORDER BY created_at, id LIMIT $4 FOR UPDATE SKIP LOCKED";
    TAKE = concat!(
        "UPDATE execution SET state = 'running', ready = 0, attempt = attempt + 1, node = $1, session = $2, \
         started_at = $3 WHERE id = $4 AND ready = 1 AND state IN ($5, $6) RETURNING ", columns!()
    );
    /// Both in one round trip, where there is only one queue to choose from.
    TAKE_FIRST_POSTGRES = concat!(
        "WITH chosen AS MATERIALIZED ( \
            SELECT id AS one FROM execution WHERE ready = 1 AND class = $1 AND tenant = $2 AND shape = $3 \
            ORDER BY created_at, id LIMIT $4 FOR UPDATE SKIP LOCKED \
         ) UPDATE execution SET state = 'running', ready = 0, attempt = attempt + 1, node = $5, session = $6, \
         started_at = $7 FROM chosen WHERE id = chosen.one AND ready = 1 AND state IN ($8, $9) RETURNING ", columns!()
    );
    HELD_SQLITE = concat!("SELECT ", columns!(), " FROM execution WHERE session = $1 ORDER BY id");
    /// Nobody may cancel one of them between the look and the move, or it would stay with a session that is gone.
    HELD_POSTGRES = concat!("SELECT ", columns!(), " FROM execution WHERE session = $1 ORDER BY id FOR UPDATE");
    REQUEUE = concat!(
        "UPDATE execution SET state = 'queued', ready = 1, losses = losses + $1, node = NULL, session = NULL, \
         started_at = NULL, usage = NULL WHERE id = $2 AND session = $3 AND state IN ($4, $5) RETURNING ", columns!()
    );
    DROP = concat!(
        "UPDATE execution SET state = $1, losses = losses + $2, node = NULL, session = NULL, ended_at = $3, \
         outcome = $4 WHERE id = $5 AND session = $6 AND state IN ($7, $8) RETURNING ", columns!()
    );
}

/// Who takes how much.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The node and its session.
    pub lease: Lease,
    /// How many at most.
    pub slots: u32,
    /// What the node has to offer; nothing said means that everything fits.
    pub offer: Option<Offer>,
    /// Whom alone the node serves; nobody named means everybody.
    pub tenant: Option<TenantId>,
}

/// Executions of one tenant and class that need the same of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Who is served first.
    pub class: Class,
    /// Whose they are.
    pub tenant: TenantId,
    /// What they need; nothing, if they were accepted before anybody asked.
    pub shape: Option<Shape>,
    text: String,
}

impl std::hash::Hash for Queue {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.class, self.tenant, &self.text).hash(state);
    }
}

impl Queue {
    /// Returns what the rows of its executions have in common: class, tenant and shape.
    pub(crate) fn values(&self) -> [Value; 3] {
        [self.class.rank().into(), self.tenant.into(), self.text.as_str().into()]
    }

    fn read(row: &Row) -> Result<Self, StoreError> {
        let class = usize::try_from(row.count(0)?).ok().and_then(|rank| Class::ALL.get(rank).copied());
        let class = class.ok_or(StoreError::Broken { column: 0, why: "is no class" })?;
        Self::new((class, row.parsed(1)?), row.text(2)?)
    }

    fn new((class, tenant): (Class, TenantId), text: &str) -> Result<Self, StoreError> {
        Ok(Self { class, tenant, shape: Shape::parse(text), text: text.to_owned() })
    }

    /// Tells whether a node that offers this, and serves this tenant alone if one is named, may take from it.
    pub fn suits(&self, offer: &Offer, tenant: Option<TenantId>) -> bool {
        tenant.is_none_or(|tenant| tenant == self.tenant)
            && self.shape.as_ref().is_none_or(|shape| offer.fits(shape).is_ok())
    }
}

/// Behind which shape those come whose turn it is, of each tenant and class that has more than a claim looks at.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<(Class, TenantId), String>>);

impl Turns {
    fn behind(&self, last: &Queue) -> String {
        let turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = turns.get(&(last.class, last.tenant)).filter(|behind| **behind > last.text);
        behind.unwrap_or(&last.text).clone()
    }

    /// Goes on to those behind the ones that were looked at, or back to the first.
    fn go_on(&self, seen: &[Queue]) {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.clear();
        for group in groups(seen).filter(|group| group.len() as u64 == MAX_SHAPES * 2) {
            turns.extend(group.last().map(|last| ((last.class, last.tenant), last.text.clone())));
        }
    }
}

/// Returns the queues of each tenant and class.
fn groups(queues: &[Queue]) -> impl Iterator<Item = &[Queue]> {
    queues.chunk_by(|one, other| (one.class, one.tenant) == (other.class, other.tenant))
}

/// Returns every queue that has something ready; of those who have very many, those whose turn it is.
pub(crate) async fn queues(tx: &Tx<'_>, turns: &Turns) -> Result<Vec<Queue>, StoreError> {
    let rows = tx.rows(QUEUES, &[MAX_SHAPES.into()]).await?;
    let mut queues: Vec<_> = rows.iter().map(Queue::read).collect::<Result<_, _>>()?;
    let full = groups(&queues).filter(|group| group.len() as u64 == MAX_SHAPES).filter_map(<[_]>::last);
    let more = try_join_all(full.map(async |last| {
        let values = [last.class.rank().into(), last.tenant.into(), turns.behind(last).into(), MAX_SHAPES.into()];
        let rows = tx.rows(MORE, &values).await?;
        rows.iter().map(|row| Queue::new((last.class, last.tenant), row.text(0)?)).collect::<Result<Vec<_>, _>>()
    }));
    let more = more.await?;
    if !more.is_empty() {
        queues.extend(more.into_iter().flatten());
        queues.sort_by_key(|queue| (queue.class, queue.tenant));
    }
    Ok(queues)
}

/// Takes executions for a node.
pub(crate) struct ExecutionClaim {
    pub(crate) claim: Claim,
    pub(crate) turns: Arc<Turns>,
    pub(crate) at: Timestamp,
}

impl Operation for ExecutionClaim {
    type Answer = Vec<Execution>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Execution>, StoreError> {
        claim(tx, &self.claim, queues(tx, &self.turns).await?, self.at).await
    }
}

/// Takes executions for a node, of those queues that it suits.
pub(crate) async fn claim(
    tx: &Tx<'_>,
    claim: &Claim,
    mut queues: Vec<Queue>,
    at: Timestamp,
) -> Result<Vec<Execution>, StoreError> {
    let slots = claim.slots.min(MAX_CLAIM) as usize;
    if slots == 0 {
        return Ok(Vec::new());
    }
    queues.retain(|queue| {
        claim.tenant.is_none_or(|tenant| tenant == queue.tenant)
            && claim.offer.as_ref().is_none_or(|offer| queue.suits(offer, None))
    });
    let mut busy = HashMap::new();
    // Who has the fewest running is a question only where there are several.
    if queues.windows(2).any(|pair| pair[0].class == pair[1].class && pair[0].tenant != pair[1].tenant) {
        for row in tx.rows(BUSY, &[]).await? {
            busy.insert(row.parsed::<TenantId>(0)?, row.count(1)?);
        }
    }
    let mut taken = Vec::new();
    for class in Class::ALL {
        let queues: Vec<_> = queues.iter().filter(|queue| queue.class == class).collect();
        let left = slots - taken.len();
        let moved = match (&queues[..], tx.session()) {
            ([], _) => continue,
            _ if left == 0 => break,
            ([queue], Session::Postgres(_)) => {
                let moved = take_first(tx, queue, left, claim.lease, at).await?;
                *busy.entry(queue.tenant).or_default() += moved.len() as u64;
                moved
            }
            (queues, _) => {
                let chosen = choose(tx, queues, left, &mut busy).await?;
                let moved = try_join_all(chosen.into_iter().map(|id| take(tx, claim.lease, id, at))).await?;
                moved.into_iter().flatten().collect()
            }
        };
        for execution in moved {
            note(tx, &execution, at, &claim.lease.node.to_string());
            taken.push(execution);
        }
    }
    Ok(taken)
}

/// Takes the oldest of one queue.
async fn take_first(
    tx: &Tx<'_>,
    queue: &Queue,
    slots: usize,
    lease: Lease,
    at: Timestamp,
) -> Result<Vec<Execution>, StoreError> {
    let [first, last] = sources(ExecutionState::Running);
    let moves = [Value::from(slots as u64), lease.node.into(), lease.session.into(), at.into(), first, last];
    let values: Vec<_> = queue.values().into_iter().chain(moves).collect();
    let mut taken: Vec<_> = tx.write(TAKE_FIRST_POSTGRES, &values).await?.iter().map(read).collect::<Result<_, _>>()?;
    taken.sort_unstable_by_key(|execution| (execution.created_at, execution.id));
    Ok(taken)
}

/// Chooses executions of one class: turn by turn, the tenant with the fewest running ones first.
async fn choose(
    tx: &Tx<'_>,
    queues: &[&Queue],
    slots: usize,
    busy: &mut HashMap<TenantId, u64>,
) -> Result<Vec<ExecutionId>, StoreError> {
    let ready = match tx.session() {
        Session::Sqlite(_) => READY_SQLITE,
        Session::Postgres(_) => READY_POSTGRES,
    };
    let found = try_join_all(queues.iter().map(async |queue| {
        let [class, tenant, text] = queue.values();
        tx.rows(ready, &[class, tenant, text, Value::from(slots as u64)]).await
    }));
    let mut ages: BTreeMap<TenantId, Vec<(Timestamp, ExecutionId)>> = BTreeMap::new();
    for (queue, rows) in queues.iter().zip(found.await?) {
        let of_tenant = ages.entry(queue.tenant).or_default();
        for row in rows {
            of_tenant.push((row.time(1)?, row.parsed(0)?));
        }
    }
    let mut waiting: Vec<(TenantId, VecDeque<ExecutionId>)> = Vec::new();
    for (tenant, mut of_tenant) in ages {
        of_tenant.sort_unstable();
        waiting.push((tenant, of_tenant.into_iter().map(|(_, id)| id).collect()));
    }
    let mut chosen = Vec::new();
    while chosen.len() < slots {
        waiting.retain(|(_, ids)| !ids.is_empty());
        let next = waiting.iter_mut().min_by_key(|(tenant, _)| busy.get(tenant).copied().unwrap_or(0));
        let Some((tenant, ids)) = next else { break };
        chosen.extend(ids.pop_front());
        *busy.entry(*tenant).or_default() += 1;
    }
    Ok(chosen)
}

async fn take(tx: &Tx<'_>, lease: Lease, id: ExecutionId, at: Timestamp) -> Result<Option<Execution>, StoreError> {
    let [first, last] = sources(ExecutionState::Running);
    let values = [lease.node.into(), lease.session.into(), at.into(), id.into(), first, last];
    tx.write(TAKE, &values).await?.pop().as_ref().map(read).transpose()
}

/// Finds every queue that has something ready.
struct QueueList {
    turns: Arc<Turns>,
}

impl Operation for QueueList {
    type Answer = Vec<Queue>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Queue>, StoreError> {
        queues(tx, &self.turns).await
    }
}

/// Gives back all that a lost session held: what ran goes to the queue, or aside if it has cost too many nodes; what
/// was to be stopped is stopped.
pub(crate) struct SessionLose {
    pub(crate) session: SessionId,
    pub(crate) at: Timestamp,
    pub(crate) by: String,
}

impl Operation for SessionLose {
    type Answer = Vec<Execution>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Execution>, StoreError> {
        Return { session: self.session, cost: 1, at: self.at, by: &self.by }.all(tx).await
    }
}

/// How what a session held is given back.
pub(crate) struct Return<'r> {
    pub(crate) session: SessionId,
    /// How many losses it counts as: one, or none if the node left in order.
    pub(crate) cost: u32,
    pub(crate) at: Timestamp,
    pub(crate) by: &'r str,
}

impl Return<'_> {
    /// Gives all of it back.
    pub(crate) async fn all(&self, tx: &Tx<'_>) -> Result<Vec<Execution>, StoreError> {
        let held = match tx.session() {
            Session::Sqlite(_) => HELD_SQLITE,
            Session::Postgres(_) => HELD_POSTGRES,
        };
        let mut lost = Vec::new();
        for row in tx.rows(held, &[self.session.into()]).await? {
            let held = read(&row)?;
            let losses = held.losses + self.cost;
            let moved = match held.state {
                ExecutionState::Cancelling => self.end(tx, &held, Outcome::Cancelled).await?,
                _ if self.cost > 0 && losses >= MAX_LOSSES => {
                    self.end(tx, &held, Outcome::NodesLost { nodes: losses }).await?
                }
                _ => self.requeue(tx, &held).await?,
            };
            lost.extend(moved);
        }
        Ok(lost)
    }

    async fn requeue(&self, tx: &Tx<'_>, held: &Execution) -> Result<Option<Execution>, StoreError> {
        let [first, last] = sources(ExecutionState::Queued);
        let values = [self.cost.into(), held.id.into(), self.session.into(), first, last];
        let Some(row) = tx.write(REQUEUE, &values).await?.pop() else { return Ok(None) };
        let queued = read(&row)?;
        note(tx, &queued, self.at, self.by);
        Ok(Some(queued))
    }

    async fn end(&self, tx: &Tx<'_>, held: &Execution, outcome: Outcome) -> Result<Option<Execution>, StoreError> {
        let to = outcome.state();
        let [first, last] = sources(to);
        let values = [
            to.as_str().into(),
            self.cost.into(),
            self.at.into(),
            to_json(&outcome).into(),
            held.id.into(),
            self.session.into(),
            first,
            last,
        ];
        let Some(row) = tx.write(DROP, &values).await?.pop() else { return Ok(None) };
        let done = read(&row)?;
        note(tx, &done, self.at, self.by);
        ended(tx, &done, Made::default(), self.at, self.by).await?;
        Ok(Some(done))
    }
}

impl Store {
    /// Gives a node as many executions as it has slots for.
    pub async fn execution_claim(&self, lease: Lease, slots: u32, at: Timestamp) -> Result<Vec<Execution>, StoreError> {
        self.execution_claim_for(Claim { lease, slots, offer: None, tenant: None }, at).await
    }

    /// Gives a node as many executions as it asks for, of those that it can serve.
    pub async fn execution_claim_for(&self, claim: Claim, at: Timestamp) -> Result<Vec<Execution>, StoreError> {
        self.write(ExecutionClaim { claim, turns: self.turns(), at }).await
    }

    /// Returns every queue that has something ready; of those who have very many, those whose turn it is.
    pub async fn queue_list(&self) -> Result<Vec<Queue>, StoreError> {
        self.read(QueueList { turns: self.turns() }).await
    }

    /// Gives the others their turn, and returns what `queue_list` would. Claims look at these until this is called again.
    pub async fn queue_turn(&self) -> Result<Vec<Queue>, StoreError> {
        let turns = self.turns();
        turns.go_on(&self.queue_list().await?);
        self.queue_list().await
    }
}
