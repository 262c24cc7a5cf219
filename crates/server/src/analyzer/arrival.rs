//! The controller of arrivals: dumps that have been analysed meet the analyzers that run by themselves.
//!
//! A pass takes no hint: it asks the store what is written down there. It is woken when a node tells of an analysis, and by a
//! clock, which alone finds what other servers heard. Two servers may run it at once; each step is guarded in the store.

use super::ring;
use crate::app::App;
use model::ExecutionId;
use std::time::Duration;
use store::{MAX_ARRIVAL_STUDIES, StoreError, random};

/// How often to look without being woken.
const EVERY: Duration = Duration::from_secs(1);

/// Runs until told to stop.
pub(crate) async fn run(app: App) {
    loop {
        match pass(&app).await {
            Ok(1..) if !app.stop.is_cancelled() => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(error = error.chain(), "dumps that arrived could not be shown to analyzers"),
        }
        tokio::select! {
            () = app.analysed.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
            () = app.stop.cancelled() => return,
        }
    }
}

/// Begins studies, and returns of how many dumps it was seen who studies them.
async fn pass(app: &App) -> Result<u64, StoreError> {
    // Most passes find nothing, and a look is cheaper than a write.
    if !app.store.arrivals_wait().await? {
        return Ok(0);
    }
    let now = app.clock.now();
    let ids = (0..MAX_ARRIVAL_STUDIES).map(|_| ExecutionId::new(now, random())).collect();
    let (taken, begun) = app.store.arrivals_take(ids, now).await?;
    ring(app, &begun);
    Ok(taken)
}
