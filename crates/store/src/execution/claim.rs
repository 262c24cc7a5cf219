//! Claims: a node takes as many executions as it has free slots, and gives back what it cannot keep.
//!
//! Higher classes go first. Within a class tenants take turns, those with the fewest running first, and within a tenant
//! the oldest goes first. What is running is counted, never kept as a number that could leak. Two servers that claim at
//! once pass over each other's rows.

use super::{columns, note, read, sources};
use crate::error::StoreError;
use crate::statement::statements;
use crate::transaction::{Operation, Session, Tx};
use crate::value::{Value, to_json};
use jiff::Timestamp;
use model::limits::{MAX_CLAIM, MAX_LOSSES};
use model::{Class, Execution, ExecutionId, ExecutionState, Lease, Outcome, SessionId};
use std::collections::{HashMap, VecDeque};

statements! {
    TENANTS = "SELECT id FROM tenant WHERE EXISTS ( \
            SELECT 1 FROM execution WHERE execution.ready = 1 AND execution.class = $1 AND execution.tenant = tenant.id \
        ) ORDER BY id";
    BUSY = "SELECT tenant, count(*) FROM execution WHERE session IS NOT NULL GROUP BY tenant";
    READY_SQLITE = "SELECT id FROM execution WHERE ready = 1 AND class = $1 AND tenant = $2 \
                    ORDER BY created_at, id LIMIT $3";
    READY_POSTGRES = "SELECT id FROM execution WHERE ready = 1 AND class = $1 AND tenant = $2 \
                      ORDER BY created_at, id LIMIT $3 FOR UPDATE SKIP LOCKED";
    TAKE = concat!(
        "UPDATE execution SET state = 'running', ready = 0, attempt = attempt + 1, node = $1, session = $2, \
         started_at = $3 WHERE id = $4 AND ready = 1 AND state IN ($5, $6) RETURNING ", columns!()
    );
    HELD_SQLITE = concat!("SELECT ", columns!(), " FROM execution WHERE session = $1 ORDER BY id");
    /// Nobody may cancel one of them between the look and the move, or it would stay with a session that is gone.
    HELD_POSTGRES = concat!("SELECT ", columns!(), " FROM execution WHERE session = $1 ORDER BY id FOR UPDATE");
    REQUEUE = concat!(
        "UPDATE execution SET state = 'queued', ready = 1, losses = losses + 1, node = NULL, session = NULL, \
         started_at = NULL WHERE id = $1 AND session = $2 AND state IN ($3, $4) RETURNING ", columns!()
    );
    DROP = concat!(
        "UPDATE execution SET state = $1, losses = losses + 1, node = NULL, session = NULL, ended_at = $2, \
         outcome = $3 WHERE id = $4 AND session = $5 AND state IN ($6, $7) RETURNING ", columns!()
    );
}

/// Takes executions for a node.
pub(crate) struct ExecutionClaim {
    pub(crate) lease: Lease,
    pub(crate) slots: u32,
    pub(crate) at: Timestamp,
}

impl Operation for ExecutionClaim {
    type Answer = Vec<Execution>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Execution>, StoreError> {
        let slots = self.slots.min(MAX_CLAIM) as usize;
        let mut busy = HashMap::new();
        for row in tx.rows(BUSY, &[]).await? {
            busy.insert(row.text(0)?.to_owned(), row.count(1)?);
        }
        let mut taken = Vec::new();
        for class in Class::ALL {
            if taken.len() < slots {
                for id in self.choose(tx, class, slots - taken.len(), &mut busy).await? {
                    taken.extend(self.take(tx, id).await?);
                }
            }
        }
        Ok(taken)
    }
}

impl ExecutionClaim {
    /// Chooses executions of one class: turn by turn, the tenant with the fewest running ones first.
    async fn choose(
        &self,
        tx: &Tx<'_>,
        class: Class,
        slots: usize,
        busy: &mut HashMap<String, u64>,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        let ready = match tx.session() {
            Session::Sqlite(_) => READY_SQLITE,
            Session::Postgres(_) => READY_POSTGRES,
        };
        let mut waiting: Vec<(String, VecDeque<ExecutionId>)> = Vec::new();
        for row in tx.rows(TENANTS, &[class.rank().into()]).await? {
            let tenant = row.text(0)?;
            let values = [class.rank().into(), tenant.into(), Value::from(slots as u64)];
            let rows = tx.rows(ready, &values).await?;
            let ids = rows.iter().map(|row| row.parsed(0)).collect::<Result<_, _>>()?;
            waiting.push((tenant.to_owned(), ids));
        }
        let mut chosen = Vec::new();
        while chosen.len() < slots {
            waiting.retain(|(_, ids)| !ids.is_empty());
            let next = waiting.iter_mut().min_by_key(|(tenant, _)| busy.get(tenant).copied().unwrap_or(0));
            let Some((tenant, ids)) = next else { break };
            chosen.extend(ids.pop_front());
            *busy.entry(tenant.clone()).or_default() += 1;
        }
        Ok(chosen)
    }

    async fn take(&self, tx: &Tx<'_>, id: ExecutionId) -> Result<Option<Execution>, StoreError> {
        let [first, last] = sources(ExecutionState::Running);
        let Lease { node, session } = self.lease;
        let values = [node.into(), session.into(), self.at.into(), id.into(), first, last];
        let Some(row) = tx.write(TAKE, &values).await?.pop() else { return Ok(None) };
        let execution = read(&row)?;
        note(tx, &execution, self.at, &node.to_string());
        Ok(Some(execution))
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
        let held = match tx.session() {
            Session::Sqlite(_) => HELD_SQLITE,
            Session::Postgres(_) => HELD_POSTGRES,
        };
        let mut lost = Vec::new();
        for row in tx.rows(held, &[self.session.into()]).await? {
            let held = read(&row)?;
            let moved = match held.state {
                ExecutionState::Cancelling => self.end(tx, &held, Outcome::Cancelled).await?,
                _ if held.losses + 1 >= MAX_LOSSES => {
                    self.end(tx, &held, Outcome::NodesLost { nodes: held.losses + 1 }).await?
                }
                _ => self.requeue(tx, &held).await?,
            };
            lost.extend(moved);
        }
        Ok(lost)
    }
}

impl SessionLose {
    async fn requeue(&self, tx: &Tx<'_>, held: &Execution) -> Result<Option<Execution>, StoreError> {
        let [first, last] = sources(ExecutionState::Queued);
        let Some(row) = tx.write(REQUEUE, &[held.id.into(), self.session.into(), first, last]).await?.pop() else {
            return Ok(None);
        };
        let queued = read(&row)?;
        note(tx, &queued, self.at, &self.by);
        Ok(Some(queued))
    }

    async fn end(&self, tx: &Tx<'_>, held: &Execution, outcome: Outcome) -> Result<Option<Execution>, StoreError> {
        let to = outcome.state();
        let [first, last] = sources(to);
        let values = [
            to.as_str().into(),
            self.at.into(),
            to_json(&outcome).into(),
            held.id.into(),
            self.session.into(),
            first,
            last,
        ];
        let Some(row) = tx.write(DROP, &values).await?.pop() else { return Ok(None) };
        let ended = read(&row)?;
        note(tx, &ended, self.at, &self.by);
        super::lane::leave(tx, &ended).await?;
        Ok(Some(ended))
    }
}
