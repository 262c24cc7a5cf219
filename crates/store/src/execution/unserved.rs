//! What no node could take for long, although there are nodes: it fails and says why, rather than wait for ever.

use super::claim::Queue;
use super::{Made, columns, ended, note, read};
use crate::error::StoreError;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Session, Tx};
use crate::value::to_json;
use jiff::Timestamp;
use model::{Execution, Outcome, SetUpFault};

/// Executions that one transaction gives up.
const MAX_GIVEN_UP: u64 = 128;

statements! {
    OLD_SQLITE = "SELECT id FROM execution WHERE ready = 1 AND class = $1 AND tenant = $2 AND shape = $3 \
                  AND created_at < $4 ORDER BY created_at, id LIMIT $5";
    OLD_POSTGRES = "SELECT id FROM execution WHERE ready = 1 AND class = $1 AND tenant = $2 AND shape = $3 \
                    AND created_at < $4 ORDER BY created_at, id LIMIT $5 FOR UPDATE SKIP LOCKED";
    GIVE_UP = concat!(
        "UPDATE execution SET state = 'failed', ready = 0, ended_at = $1, outcome = $2 \
         WHERE id = $3 AND ready = 1 AND state = 'queued' RETURNING ", columns!()
    );
}

/// Gives up what has waited in a queue since before an instant, as far as one transaction goes.
struct ExecutionsGiveUp {
    queue: Queue,
    before: Timestamp,
    cause: String,
    at: Timestamp,
}

impl Operation for ExecutionsGiveUp {
    type Answer = Vec<Execution>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Execution>, StoreError> {
        let Self { queue, before, cause, at } = self;
        let old = match tx.session() {
            Session::Sqlite(_) => OLD_SQLITE,
            Session::Postgres(_) => OLD_POSTGRES,
        };
        let outcome = Outcome::SetUpFailed { cause: cause.clone(), fault: SetUpFault::Refused };
        let [class, tenant, text] = queue.values();
        let mut given_up = Vec::new();
        for row in tx.rows(old, &[class, tenant, text, (*before).into(), MAX_GIVEN_UP.into()]).await? {
            let values = [(*at).into(), to_json(&outcome).into(), row.text(0)?.into()];
            let Some(row) = tx.write(GIVE_UP, &values).await?.pop() else { continue };
            let failed = read(&row)?;
            note(tx, &failed, *at, "quarry");
            ended(tx, &failed, Made::default(), *at, "quarry").await?;
            given_up.push(failed);
        }
        Ok(given_up)
    }
}

impl Store {
    /// Gives up what has waited in a queue since before an instant, as far as one pass goes; returns what failed.
    pub async fn executions_give_up(
        &self,
        queue: &Queue,
        before: Timestamp,
        cause: String,
        at: Timestamp,
    ) -> Result<Vec<Execution>, StoreError> {
        self.write(ExecutionsGiveUp { queue: queue.clone(), before, cause, at }).await
    }
}
