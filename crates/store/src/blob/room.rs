//! Room: how much content may lie in memory at once, whoever brings or fetches it.
//!
//! What is awaited first comes first. A share is taken before the memory is, held for as long as the content takes to come
//! and to be written, and nobody who holds one waits for another while its own content stands still: so there is always
//! somebody who will give room back. How slowly content may come while others wait is not decided here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that one permit stands for.
const UNIT_BYTES: u64 = 1 << 10;

/// Room for some content.
#[derive(Clone, Debug)]
pub(super) struct Room {
    units: Arc<Semaphore>,
    whole: u32,
    waiting: Arc<AtomicUsize>,
}

/// A share of the room, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(super) fn new(bytes: u64) -> Self {
        let whole = units(bytes);
        Self { units: Arc::new(Semaphore::new(whole as usize)), whole, waiting: Arc::default() }
    }

    /// Tells whether anybody waits.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits for room for so many bytes. Whoever wants more than there is gets all of it.
    pub(super) async fn take(&self, bytes: u64) -> Share {
        let wanted = units(bytes).min(self.whole);
        if let Ok(permit) = Arc::clone(&self.units).try_acquire_many_owned(wanted) {
            return Share { _permit: Some(permit) };
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        // It is never closed; were it, nothing would be bounded, and nothing lost.
        Share { _permit: Arc::clone(&self.units).acquire_many_owned(wanted).await.ok() }
    }
}

/// Somebody who waits, until dropped.
struct Waiting<'r>(&'r AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn room_that_is_taken_is_waited_for() {
        let room = Room::new(8 << 10);
        let first = room.take(6 << 10).await;
        assert!(room.take(2 << 10).now_or_never().is_some(), "there is room for both");
        let more = room.take(3 << 10);
        tokio::pin!(more);
        assert!(more.as_mut().now_or_never().is_none(), "there is not so much");
        assert!(room.is_crowded());
        drop(first);
        drop(more.await);
        assert!(!room.is_crowded());
        assert!(room.take(1 << 40).now_or_never().is_some(), "more than all is all");
    }
}
