//! Accepting an execution for a node that waits for one: it is accepted, given and noted in one transaction, and on
//! PostgreSQL nearly in one round trip.

use super::{ExecutionCreate, columns, note, read, sources};
use crate::error::StoreError;
use crate::node::session::{Exchange, Heard, Report};
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Tx};
use jiff::Timestamp;
use model::{Execution, ExecutionId, ExecutionState, Image, NewExecution, Origin, Shape, TenantId};
use std::sync::Arc;

statements! {
    /// Nothing else may be ready, or it would have to be asked whose turn it is; and the node must still take something.
    TAKE_ALONE = concat!(
        "UPDATE execution SET state = 'running', ready = 0, attempt = attempt + 1, node = $1, session = $2, \
         started_at = $3 WHERE id = $4 AND ready = 1 AND state IN ($5, $6) \
         AND NOT EXISTS (SELECT 1 FROM execution AS other WHERE other.ready = 1 AND other.id <> execution.id) \
         AND EXISTS (SELECT 1 FROM session JOIN node ON node.id = session.node AND node.session = session.id \
             WHERE session.id = $7 AND node.id = $8 AND session.expires_at > $9 \
             AND node.state = 'ready' AND node.hold IS NULL) RETURNING ", columns!()
    );
}

/// An execution that was asked for, and what the node is told that waited for one.
#[derive(Debug)]
pub struct Accepted {
    /// The execution, as it was accepted.
    pub execution: Arc<Execution>,
    /// Whether it is new.
    pub is_new: bool,
    /// What the node is told, if one waited.
    pub heard: Option<Result<Heard, StoreError>>,
}

/// Accepts an execution, and hears the node that waits.
struct ExecutionAccept {
    create: ExecutionCreate,
    exchange: Exchange,
}

impl Operation for ExecutionAccept {
    type Answer = Accepted;

    async fn run(&self, tx: &Tx<'_>) -> Result<Accepted, StoreError> {
        let id = self.create.id();
        // What is polled first is sent first: the execution is there when the node is given it.
        let (made, heard) = if self.create.is_one_statement() {
            futures_util::join!(self.create.run(tx), self.exchange.give(tx, id))
        } else {
            (self.create.run(tx).await, self.exchange.run(tx).await)
        };
        let (execution, is_new) = made?;
        match heard {
            Err(error) if error.is_failure() => Err(error),
            // A refusal has written nothing, and is the node's affair alone.
            heard => Ok(Accepted { execution, is_new, heard: Some(heard) }),
        }
    }
}

/// Takes the one execution that is ready, if there is no other.
pub(crate) async fn take_alone(tx: &Tx<'_>, to: &Report, id: ExecutionId) -> Result<Option<Execution>, StoreError> {
    let (node, session, at) = (to.node, to.sync.session, to.at);
    let [first, last] = sources(ExecutionState::Running);
    let given = [node.into(), session.into(), at.into(), id.into(), first, last];
    let guard = [session.into(), node.into(), at.into()];
    let values: Vec<_> = given.into_iter().chain(guard).collect();
    let taken = tx.write(TAKE_ALONE, &values).await?.pop().as_ref().map(read).transpose()?;
    if let Some(taken) = &taken {
        note(tx, taken, at, &node.to_string());
    }
    Ok(taken)
}

impl Store {
    /// Accepts an execution that was asked for by hand, and gives it to a node that waits, if that is the next to be given.
    pub async fn execution_accept(
        &self,
        new: &NewExecution,
        tenant: TenantId,
        (by, at): (&str, Timestamp),
        waiting: Option<Report>,
    ) -> Result<Accepted, StoreError> {
        self.accept(ExecutionCreate::new(new, tenant, Origin::default(), by, at), waiting).await
    }

    /// Accepts one that runs in an image, likewise.
    pub async fn execution_accept_in(
        &self,
        new: &NewExecution,
        image: &Image,
        (by, at): (&str, Timestamp),
        waiting: Option<Report>,
    ) -> Result<Accepted, StoreError> {
        let mut execution = super::queued(new, image.tenant, Origin::default(), by, at);
        execution.recipe.image_id = Some(image.id);
        let shape = Shape::of(&execution.recipe, execution.origin.kind, image.manifest.as_ref());
        self.accept(ExecutionCreate::of(execution, &shape), waiting).await
    }

    async fn accept(&self, create: ExecutionCreate, waiting: Option<Report>) -> Result<Accepted, StoreError> {
        let Some(report) = waiting else {
            let (execution, is_new) = self.write(create).await?;
            return Ok(Accepted { execution, is_new, heard: None });
        };
        self.write(ExecutionAccept { create, exchange: Exchange::new(report) }).await
    }
}
