//! Counts of one sandbox's egress, readable while it runs. They tell what happened and decide nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// What went over one wire so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of streams and datagrams that left.
    pub bytes_out: u64,
    /// Bytes of streams and datagrams that came in.
    pub bytes_in: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Connections that were let go since; the difference is open.
    pub connections_ended: u64,
    /// Pairs of peers that exchanged datagrams.
    pub flows: u64,
    /// Connections and datagrams that no rule allowed.
    pub refused: u64,
    /// Connections that a rule allowed and that could not be made.
    pub failed: u64,
    /// Questions for names.
    pub questions: u64,
    /// Names that were not answered because of the rules.
    pub names_refused: u64,
    /// Packets that were thrown away: malformed, too many, or of a sort that goes nowhere.
    pub dropped: u64,
}

/// The counters behind `Counts`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) bytes_out: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) connections_ended: AtomicU64,
    pub(crate) flows: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) questions: AtomicU64,
    pub(crate) names_refused: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

/// Counts.
pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl Counters {
    /// Returns what was counted so far.
    pub(crate) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            bytes_out: read(&self.bytes_out),
            bytes_in: read(&self.bytes_in),
            connections: read(&self.connections),
            connections_ended: read(&self.connections_ended),
            flows: read(&self.flows),
            refused: read(&self.refused),
            failed: read(&self.failed),
            questions: read(&self.questions),
            names_refused: read(&self.names_refused),
            dropped: read(&self.dropped),
        }
    }
}
