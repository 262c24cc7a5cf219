//! The controller of the old ends: it drops the changes that are older or more than the configuration keeps, and the
//! executions that ended before, with what was theirs alone.
//!
//! Two servers may run it at once; each step is guarded in the store, and bounded. Bytes that nobody has any more are
//! removed by the pass that looks after images.

use crate::config::RetentionConfig;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
use store::{Clock, Removed, Retained, Retention, Store, StoreError};
use tokio_util::sync::CancellationToken;

/// How often to look.
const EVERY: Duration = Duration::from_secs(10);

/// Runs until told to stop.
pub(crate) async fn run(store: Store, config: RetentionConfig, clock: Clock, stop: CancellationToken) {
    let retention = Retention { age: signed(config.changes_age), bytes: config.changes_bytes.get() };
    let age = signed(config.executions_age);
    loop {
        let now = clock.now();
        let of_log = tell_log(store.log_retain(retention, now).await);
        let before = now.checked_sub(age).unwrap_or(Timestamp::MIN);
        let of_executions = tell_executions(store.executions_retain(before, now).await);
        let pause = if of_log || of_executions { Duration::ZERO } else { EVERY };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

fn signed(age: Duration) -> SignedDuration {
    SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX)
}

/// Says what was done about the log; tells whether there is more to do at once.
fn tell_log(done: Result<Retained, StoreError>) -> bool {
    match done {
        Ok(done) => {
            if done.segments > 0 {
                tracing::info!(segments = done.segments, "dropped the oldest part of the log");
            }
            done.more
        }
        Err(error) => {
            tracing::warn!(error = error.chain(), "the log's old end could not be looked after");
            false
        }
    }
}

/// Says what was done about executions; tells whether there is more to do at once.
fn tell_executions(done: Result<Removed, StoreError>) -> bool {
    match done {
        Ok(Removed { executions, blobs, more }) => {
            if executions > 0 || blobs > 0 {
                tracing::info!(executions, blobs, "removed executions that ended long ago, and what was theirs alone");
            }
            more
        }
        Err(error) => {
            tracing::warn!(error = error.chain(), "old executions could not be removed");
            false
        }
    }
}
