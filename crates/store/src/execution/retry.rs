//! Retries: what has ended is tried once more, as a new execution with the same recipe.

use super::{ExecutionCreate, get, missing};
use crate::error::StoreError;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Tx};
use jiff::Timestamp;
use model::{Execution, ExecutionId, ExecutionState, Input, Origin, OriginKind, Shape, TenantId};
use std::sync::Arc;

statements! {
    SHAPE = "SELECT shape FROM execution WHERE id = $1";
}

/// Tries once more what has ended.
pub(crate) struct ExecutionRetry {
    pub(crate) old: ExecutionId,
    pub(crate) new: ExecutionId,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

impl Operation for ExecutionRetry {
    type Answer = (Arc<Execution>, bool);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let old = get(tx, self.old).await?;
        let old =
            old.filter(|old| self.tenant.is_none_or(|tenant| tenant == old.tenant)).ok_or_else(|| missing(self.old))?;
        let refuse = |code: &str, why: &str, hint: &str| {
            Err(StoreError::conflict(code, format!("execution `{}` {why}", self.old), hint))
        };
        if !old.state.is_final() {
            return refuse("execution_running", "has not ended", "wait for its end, or cancel it");
        }
        if old.origin.kind == OriginKind::Image {
            return refuse("execution_of_image", "made an image", "pull or import the image again");
        }
        if old.origin.kind == OriginKind::Dump {
            return refuse("execution_of_dump", "analysed a dump", "upload the dump again if it was not whole");
        }
        if old.recipe.input == Input::Stream {
            return refuse(
                "execution_of_input",
                "read what its user sent while it ran",
                "run it again, with its input",
            );
        }
        if old.recipe.sandbox.dump.is_some() {
            return refuse("execution_of_dump", "looked at a dump", "`quarry dump analyze --again` looks at it again");
        }
        let shape = tx.row(SHAPE, &[self.old.into()]).await?;
        let shape = shape.map(|row| row.text(0).map(Shape::parse)).transpose()?.flatten();
        let execution = Execution {
            id: self.new,
            state: ExecutionState::Queued,
            origin: Origin { kind: OriginKind::Retry, id: Some(self.old.to_string()) },
            attempt: 0,
            losses: 0,
            lease: None,
            by: self.by.clone(),
            created_at: self.at,
            started_at: None,
            ended_at: None,
            outcome: None,
            usage: None,
            dump: None,
            waiting: None,
            ..old
        };
        // It needs what it needed the last time, also of what its image asked for.
        let shape = shape.unwrap_or_else(|| Shape::of(&execution.recipe, execution.origin.kind, None));
        ExecutionCreate::of(execution, &shape).run(tx).await
    }
}

impl Store {
    /// Tries once more what has ended, as a new execution; tells whether it is new.
    pub async fn execution_retry(
        &self,
        old: ExecutionId,
        new: ExecutionId,
        tenant: Option<TenantId>,
        by: &str,
        at: Timestamp,
    ) -> Result<(Arc<Execution>, bool), StoreError> {
        self.write(ExecutionRetry { old, new, tenant, by: by.to_owned(), at }).await
    }
}
