//! The controller of the log's old end: it drops what is older or more than the configuration keeps.
//!
//! Two servers may run it at once; each step is guarded in the store.

use crate::config::RetentionConfig;
use std::time::Duration;
use store::{Clock, Retention, Store};
use tokio_util::sync::CancellationToken;

/// How often to look.
const EVERY: Duration = Duration::from_secs(10);

/// Runs until told to stop.
pub(crate) async fn run(store: Store, config: RetentionConfig, clock: Clock, stop: CancellationToken) {
    let age = jiff::SignedDuration::try_from(config.changes_age).unwrap_or(jiff::SignedDuration::MAX);
    let retention = Retention { age, bytes: config.changes_bytes.get() };
    loop {
        match store.log_retain(retention, clock.now()).await {
            Ok(done) => {
                if done.segments > 0 {
                    tracing::info!(segments = done.segments, "dropped the oldest part of the log");
                }
                if done.more {
                    continue;
                }
            }
            Err(error) => tracing::warn!(error = error.chain(), "the log's old end could not be looked after"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}
