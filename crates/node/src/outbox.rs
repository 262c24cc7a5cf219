//! The outbox: what attempts have told and the server has not heard yet, in order, until a sync has carried it.
//!
//! Taken out for one sync, it comes back if that sync fails; what was said stays first. It is bounded: while it is full the
//! dispatcher does not listen to the attempts, they do not read their pipes, and a program that floods waits.

use model::chunk::Content;
use model::dump::DumpFindings;
use model::limits::{MAX_HELD, MAX_SYNC_BYTES, MAX_SYNC_CHUNKS};
use model::node::{Finished, Held, Written};
use std::collections::VecDeque;

/// Bytes of chunks in one sync; base64 makes four thirds of them.
const MAX_PARCEL_BYTES: usize = MAX_SYNC_BYTES / 2;
/// Bytes of findings in one sync, unless one attempt alone has more.
const MAX_TOLD_BYTES: usize = MAX_SYNC_BYTES / 8;
/// Bytes of a chunk besides what it holds.
const CHUNK_OVERHEAD_BYTES: usize = 256;

/// What one sync carries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parcel {
    pub(crate) chunks: Vec<Written>,
    pub(crate) finished: Vec<Finished>,
}

/// What waits to be said.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    chunks: VecDeque<Written>,
    bytes: usize,
    finished: VecDeque<Finished>,
}

fn weight(written: &Written) -> usize {
    let held = if let Content::Inline { bytes } = &written.chunk.content { bytes.0.len() } else { 0 };
    held + CHUNK_OVERHEAD_BYTES
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.finished.is_empty()
    }

    /// Tells whether nothing more should be put in.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= MAX_PARCEL_BYTES || self.chunks.len() >= MAX_SYNC_CHUNKS
    }

    pub(crate) fn put_chunk(&mut self, written: Written) {
        self.bytes += weight(&written);
        self.chunks.push_back(written);
    }

    pub(crate) fn put_finished(&mut self, finished: Finished) {
        self.finished.push_back(finished);
    }

    /// Returns the attempts whose end is not said yet.
    pub(crate) fn ends(&self) -> impl Iterator<Item = Held> {
        self.finished.iter().map(|finished| finished.held)
    }

    /// Takes out as much as one sync may carry. An end goes only once all chunks of its attempt have gone.
    pub(crate) fn take(&mut self) -> Parcel {
        let mut parcel = Parcel::default();
        let mut bytes = 0;
        while let Some(next) = self.chunks.front() {
            bytes += weight(next);
            if parcel.chunks.len() == MAX_SYNC_CHUNKS || (bytes > MAX_PARCEL_BYTES && !parcel.chunks.is_empty()) {
                break;
            }
            self.bytes -= weight(next);
            parcel.chunks.extend(self.chunks.pop_front());
        }
        let mut later = VecDeque::new();
        let mut told = 0;
        for finished in self.finished.drain(..) {
            let waits = self.chunks.iter().any(|written| written.held == finished.held);
            let asked = finished.asked.as_ref().map_or(0, |asked| asked.change.bytes());
            let findings = finished.findings.as_ref().map_or(0, DumpFindings::bytes) + asked;
            told += findings;
            let is_much = told > MAX_TOLD_BYTES && findings < told;
            if waits || is_much || parcel.finished.len() == MAX_HELD {
                later.push_back(finished);
            } else {
                parcel.finished.push(finished);
            }
        }
        self.finished = later;
        parcel
    }

    /// Puts back what could not be said, before everything else.
    pub(crate) fn put_back(&mut self, parcel: Parcel) {
        for written in parcel.chunks.into_iter().rev() {
            self.bytes += weight(&written);
            self.chunks.push_front(written);
        }
        for finished in parcel.finished.into_iter().rev() {
            self.finished.push_front(finished);
        }
    }

    /// Drops what is said of an attempt that is not ours any more.
    pub(crate) fn forget(&mut self, held: Held) {
        self.chunks.retain(|written| written.held != held);
        self.bytes = self.chunks.iter().map(weight).sum();
        self.finished.retain(|finished| finished.held != held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::chunk::{Bytes, Chunk, Stream};
    use model::{ExecutionId, Outcome, Usage};

    fn held(number: u128) -> Held {
        Held { execution: ExecutionId::new(jiff::Timestamp::UNIX_EPOCH, number), attempt: 1 }
    }

    fn written(of: u128, number: u64, bytes: usize) -> Written {
        let content = Content::Inline { bytes: Bytes(vec![b'x'; bytes]) };
        let at = jiff::Timestamp::UNIX_EPOCH;
        Written { held: held(of), chunk: Chunk { number, stream: Stream::Output, at, content, end: false } }
    }

    fn finished(of: u128) -> Finished {
        let outcome = Outcome::Exited { code: 0 };
        Finished {
            held: held(of),
            outcome,
            usage: Usage::default(),
            dump: None,
            manifest: None,
            findings: None,
            asked: None,
        }
    }

    #[test]
    fn an_end_never_goes_before_the_chunks_of_its_attempt() {
        let mut outbox = Outbox::default();
        let many = MAX_PARCEL_BYTES / 16_384 + 10;
        for number in 0..many {
            outbox.put_chunk(written(1, number as u64 + 1, 16_384));
        }
        assert!(outbox.is_full());
        outbox.put_finished(finished(1));
        outbox.put_finished(finished(2));
        let first = outbox.take();
        assert_eq!(first.finished, [finished(2)]);
        assert!(first.chunks.len() < many);
        let second = outbox.take();
        assert_eq!(second.finished, [finished(1)]);
        assert_eq!(first.chunks.len() + second.chunks.len(), many);
        assert!(outbox.is_empty() && !outbox.is_full());
    }

    #[test]
    fn what_comes_back_goes_first_and_in_order() {
        let mut outbox = Outbox::default();
        for number in 1..=3 {
            outbox.put_chunk(written(1, number, 10));
        }
        let parcel = outbox.take();
        outbox.put_chunk(written(1, 4, 10));
        outbox.put_back(parcel);
        let numbers: Vec<_> = outbox.take().chunks.iter().map(|written| written.chunk.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_forgotten_is_not_said() {
        let mut outbox = Outbox::default();
        outbox.put_chunk(written(1, 1, 10));
        outbox.put_chunk(written(2, 1, 10));
        outbox.put_finished(finished(1));
        outbox.forget(held(1));
        let parcel = outbox.take();
        assert_eq!(parcel.chunks, [written(2, 1, 10)]);
        assert!(parcel.finished.is_empty() && outbox.bytes == 0);
    }
}
