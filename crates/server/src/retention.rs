//! The controller of the old ends: it drops the changes that are older or more than the configuration keeps, the
//! executions that ended before, with what was theirs alone, images and nodes that are long gone, the content of dumps by its rules, and packs that none of those
//! needs that are left. What a decision about signatures has left to be moved, it moves.
//!
//! Two servers may run it at once; each step is guarded in the store, and bounded. Bytes that nobody has any more are
//! removed by the pass that looks after images.

use crate::config::RetentionConfig;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
use store::{Clock, DumpRetention, Idle, Purged, Removed, Retained, Retention, Settled, Store, StoreError};
use tokio_util::sync::CancellationToken;

/// How often to look.
const EVERY: Duration = Duration::from_secs(10);

/// Runs until told to stop.
pub(crate) async fn run(store: Store, config: RetentionConfig, clock: Clock, stop: CancellationToken) {
    let retention = Retention { age: signed(config.changes_age), bytes: config.changes_bytes.get() };
    let age = signed(config.executions_age);
    // Whoever started us may have changed the rules.
    let mut is_looked_at = config.dumps_kept.is_none();
    loop {
        let now = clock.now();
        let of_log = tell_log(store.log_retain(retention, now).await);
        let before = now.checked_sub(age).unwrap_or(Timestamp::MIN);
        let of_executions = tell_executions(store.executions_retain(before, now).await);
        tell_forgotten("images", store.images_retain(before, now).await);
        tell_forgotten("nodes", store.nodes_retain(before, now).await);
        if !is_looked_at {
            is_looked_at = store.dumps_look_at_all().await.is_ok();
        }
        let per_signature = config.dumps_kept.map(|most| u32::try_from(most).unwrap_or(u32::MAX));
        let dumps_before = config.dumps_age.map(|age| now.checked_sub(signed(age)).unwrap_or(Timestamp::MIN));
        let of_dumps = DumpRetention { before: dumps_before, per_signature };
        let of_dumps = tell_dumps(store.dumps_retain(of_dumps, now).await);
        let of_packs = match dumps_before {
            Some(before) => tell_packs(store.packs_retain(before, now).await),
            None => false,
        };
        let of_signatures = tell_signatures(store.signature_settle().await);
        let pause =
            if of_log || of_executions || of_dumps || of_packs || of_signatures { Duration::ZERO } else { EVERY };
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

/// Says what was forgotten of images or nodes.
fn tell_forgotten(what: &str, done: Result<u64, StoreError>) {
    match done {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, what, "forgot what has been gone for long"),
        Err(error) => tracing::warn!(error = error.chain(), what, "what has been gone for long could not be forgotten"),
    }
}

/// Says what was done about the content of dumps; tells whether there is more to do at once.
fn tell_dumps(done: Result<Purged, StoreError>) -> bool {
    match done {
        Ok(Purged { dumps, more }) => {
            if dumps > 0 {
                tracing::info!(dumps, "dropped the content of dumps by rule");
            }
            more
        }
        Err(error) => {
            tracing::warn!(error = error.chain(), "the content of old dumps could not be dropped");
            false
        }
    }
}

/// Says what was done about packs; tells whether there is more to do at once.
fn tell_packs(done: Result<Idle, StoreError>) -> bool {
    match done {
        Ok(Idle { removed, more }) => {
            if removed > 0 {
                tracing::info!(packs = removed, "removed packs of modules that no dump needs any more");
            }
            more
        }
        Err(error) => {
            tracing::warn!(error = error.chain(), "idle packs could not be removed");
            false
        }
    }
}

/// Says what was done about dumps whose signature is another now; tells whether there is more to do at once.
fn tell_signatures(done: Result<Settled, StoreError>) -> bool {
    match done {
        Ok(Settled { dumps, more }) => {
            if dumps > 0 {
                tracing::info!(dumps, "moved dumps to the signatures that they belong to");
            }
            more
        }
        Err(error) => {
            tracing::warn!(error = error.chain(), "dumps could not be moved to their signatures");
            false
        }
    }
}
