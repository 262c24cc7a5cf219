//! The pass behind the bells, once a second: leases that ran out, what other servers did, nodes that grew too old,
//! what no node could take.
//!
//! Several servers may run it at once: each step is guarded in the store.

use super::unserved::Unserved;
use crate::app::App;
use crate::image;
use jiff::SignedDuration;
use model::node::HoldKind;
use model::{Execution, ExecutionState, Shape};
use std::time::Duration;
use store::StoreError;

/// How often to look.
const EVERY: Duration = Duration::from_secs(1);
/// How many passes go by between two looks at what no node could take.
const UNSERVED_EVERY: u32 = 5;
/// How many passes go by between two looks at content that is to be removed.
const REMOVALS_EVERY: u32 = 60;

/// Runs until told to stop.
pub(crate) async fn run(app: App) {
    let mut passes: u32 = 0;
    let mut unserved = Unserved::default();
    loop {
        let is_turn = passes.is_multiple_of(UNSERVED_EVERY);
        if let Err(error) = pass(&app, is_turn.then_some(&mut unserved)).await {
            tracing::warn!(error = error.chain(), "nodes could not be looked after");
        }
        if passes.is_multiple_of(REMOVALS_EVERY) {
            image::remove_contents(&app).await;
        }
        passes = passes.wrapping_add(1);
        if app.stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}

async fn pass(app: &App, unserved: Option<&mut Unserved>) -> Result<(), StoreError> {
    let now = app.clock.now();
    for (session, lost) in app.store.sessions_expire(now).await? {
        tracing::info!(%session, executions = lost.len(), "a node has fallen silent; what it held goes back");
        app.sessions.forget(session);
        moved(app, &lost);
    }
    app.sessions.forget_silent(now);
    retire(app).await?;
    app.sessions.touch_stopping(&app.store.cancelling_list().await?);
    let queues = app.store.queue_turn().await?;
    app.sessions.serve(&queues);
    if let Some(unserved) = unserved {
        unserved.look(app, &queues).await?;
    }
    Ok(())
}

/// Holds and drains the nodes that are older than nodes may grow.
async fn retire(app: &App) -> Result<(), StoreError> {
    let Some(age) = app.config.node.max_age else { return Ok(()) };
    let now = app.clock.now();
    let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
    let Ok(before) = now.checked_sub(age) else { return Ok(()) };
    for node in app.sessions.older_than(before) {
        let cause = format!("it began before {before}, and a node grows no older than {age:#}");
        let held = app.store.node_hold(&node, (HoldKind::Age, cause), "quarry", now).await?;
        app.store.node_drain(&held, "quarry", now).await?;
        if let Some(session) = node.session {
            app.sessions.touch(session);
        }
    }
    Ok(())
}

/// Wakes whoever waits for executions that have ended or gone back into the queue.
pub(crate) fn moved(app: &App, executions: &[Execution]) {
    for execution in executions {
        if execution.state == ExecutionState::Queued {
            // The platform of its image is not known here: the worst is a node woken for nothing.
            let shape = Shape::of(&execution.recipe, execution.origin.kind, None);
            app.sessions.ring(&shape, execution.tenant, execution.recipe.image_id);
        } else if execution.lane.is_some() {
            app.sessions.stir();
        }
        app.followers.ring(execution.id);
    }
}
