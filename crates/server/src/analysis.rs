//! The controller of analyses: whatever dump nobody has looked into yet gets an execution that does.
//!
//! A pass takes no hint: it asks the store what is there. It is woken by whoever brings a dump here, and by a clock, which
//! alone finds what other servers took in. Two servers may run it at once; each step is guarded in the store.

use crate::app::App;
use model::{ExecutionId, Shape};
use std::time::Duration;
use store::{StoreError, random};

/// How often to look without being woken.
const EVERY: Duration = Duration::from_secs(1);
/// Analyses that one transaction makes.
const MAX_PASS: usize = 64;

/// Runs until told to stop.
pub(crate) async fn run(app: App) {
    loop {
        match pass(&app).await {
            Ok(MAX_PASS..) if !app.stop.is_cancelled() => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(error = error.chain(), "dumps that nobody has looked into could not be found"),
        }
        tokio::select! {
            () = app.arrivals.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
            () = app.stop.cancelled() => return,
        }
    }
}

/// Makes analyses, and returns how many.
async fn pass(app: &App) -> Result<usize, StoreError> {
    // Most passes find nothing, and a look is cheaper than a write.
    let now = app.clock.now();
    if !app.store.analyses_wait(now).await? {
        return Ok(0);
    }
    let ids = (0..MAX_PASS).map(|_| ExecutionId::new(now, random())).collect();
    let made = app.store.analyses_make(ids, now).await?;
    for execution in &made {
        let shape = Shape::of(&execution.recipe, execution.origin.kind, None);
        app.sessions.ring(&shape, execution.tenant, None);
    }
    Ok(made.len())
}
