//! Lanes: the executions of one lane run one after the other, in the order in which they were accepted.
//!
//! A lane's row names its head, the one execution of the lane that may run or runs. Its lock is what makes two servers
//! take turns: whoever enters or leaves touches that row first. A claim then needs no thought of lanes: only a head is
//! `ready`.

use crate::error::StoreError;
use crate::statement::statements;
use crate::transaction::Tx;
use model::{Execution, ExecutionId, TenantId};

statements! {
    ENTER = "INSERT INTO lane (tenant, name, next, head) VALUES ($1, $2, 1, $3) \
             ON CONFLICT (tenant, name) DO UPDATE SET next = lane.next + 1, head = coalesce(lane.head, excluded.head) \
             RETURNING next, head";
    TOUCH = "UPDATE lane SET next = next WHERE tenant = $1 AND name = $2 RETURNING head";
    WAITING = "SELECT id FROM execution WHERE tenant = $1 AND lane = $2 AND state = 'queued' ORDER BY position LIMIT 1";
    PROMOTE = "UPDATE execution SET ready = 1 WHERE id = $1 AND state = 'queued'";
    HEAD = "UPDATE lane SET head = $1 WHERE tenant = $2 AND name = $3";
    CLOSE = "DELETE FROM lane WHERE tenant = $1 AND name = $2 AND head IS NULL";
}

/// Where in its lane an execution stands.
pub(crate) struct Place {
    /// Its number in the lane.
    pub(crate) position: i64,
    /// Whether nobody is before it.
    pub(crate) first: bool,
}

/// Gives an execution the last place in its lane.
pub(crate) async fn enter(
    tx: &Tx<'_>,
    tenant: TenantId,
    lane: &str,
    execution: ExecutionId,
) -> Result<Place, StoreError> {
    let rows = tx.write(ENTER, &[tenant.into(), lane.into(), execution.into()]).await?;
    let row = rows.first().ok_or(StoreError::Broken { column: 0, why: "is missing: no lane" })?;
    Ok(Place { position: row.int(0)?, first: row.text(1)? == execution.to_string() })
}

/// Takes an execution that has ended out of its lane, and lets the next one go if it was the head.
pub(crate) async fn leave(tx: &Tx<'_>, execution: &Execution) -> Result<(), StoreError> {
    let Some(lane) = &execution.lane else { return Ok(()) };
    let (tenant, name) = (execution.tenant, lane.as_str());
    let rows = tx.write(TOUCH, &[tenant.into(), name.into()]).await?;
    let head = rows.first().map(|row| row.maybe_text(0)).transpose()?.flatten();
    if head != Some(execution.id.to_string().as_str()) {
        return Ok(());
    }
    loop {
        let Some(next) = tx.row(WAITING, &[tenant.into(), name.into()]).await? else {
            tx.execute(HEAD, &[crate::value::Value::Null, tenant.into(), name.into()]).await?;
            return tx.execute(CLOSE, &[tenant.into(), name.into()]).await.map(drop);
        };
        let next = next.text(0)?.to_owned();
        // Somebody may be cancelling it at this moment; then the one after it is next.
        if tx.execute(PROMOTE, &[next.as_str().into()]).await? == 1 {
            return tx.execute(HEAD, &[next.into(), tenant.into(), name.into()]).await.map(drop);
        }
    }
}
