//! Names: answers what a sandbox asks of its DNS server, by datagram or by stream, as far as its rules cover the name.
//!
//! An address is pinned in the sandbox's reach before the answer that names it leaves. Questions are bounded in rate and
//! in number; those too many get no answer, which every resolver survives by asking again.

use super::bucket::Bucket;
use super::count::{Counters, add};
use super::message::{Family, MAX_STREAM_BYTES, Outcome, Question, Transport};
use super::outside::{Outside, ResolveError};
use super::reach::Reach;
use super::rule::is_name;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// Questions that may wait for their answers at once.
const MAX_QUESTIONS: usize = 64;
/// Questions a second, for long.
const MAX_QUESTIONS_PER_S: u32 = 100;
/// Questions at once after a silence.
const MAX_QUESTION_BURST: u32 = 200;
/// How long a stream may bring nothing before it is closed.
const MAX_STREAM_SILENCE: Duration = Duration::from_secs(30);

/// What answers a sandbox's questions.
#[derive(Debug)]
pub(crate) struct Names {
    outside: Arc<Outside>,
    reach: Arc<Mutex<Reach>>,
    bucket: Mutex<Bucket>,
    waiting: Semaphore,
    counters: Arc<Counters>,
}

impl Names {
    /// Makes one for a sandbox with this reach.
    pub(crate) fn new(outside: Arc<Outside>, reach: Arc<Mutex<Reach>>, counters: Arc<Counters>) -> Self {
        let bucket = Mutex::new(Bucket::new(MAX_QUESTIONS_PER_S, MAX_QUESTION_BURST, Instant::now()));
        Self { outside, reach, bucket, waiting: Semaphore::new(MAX_QUESTIONS), counters }
    }

    /// Answers a message, if it is worth an answer.
    pub(crate) async fn answer(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let may_ask = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        let place = self.waiting.try_acquire().ok().filter(|_| may_ask);
        let Some(_place) = place else {
            add(&self.counters.dropped, 1);
            return None;
        };
        add(&self.counters.questions, 1);
        let question = match Question::parse(message, transport) {
            Ok(question) => question,
            Err(answer) => return answer,
        };
        // What some resolver would take for an address in disguise is no name.
        if !is_name(&question.name) || !self.reach().covers(&question.name) {
            add(&self.counters.names_refused, 1);
            tracing::debug!(name = question.name, "egress: a name that no rule covers");
            return Some(question.answer(Outcome::Unknown, &[]));
        }
        if question.family() == Family::Neither {
            return Some(question.answer(Outcome::Answered, &[]));
        }
        Some(self.resolve(&question).await)
    }

    async fn resolve(&self, question: &Question<'_>) -> Vec<u8> {
        let found = match self.outside.resolve(&question.name).await {
            Ok(found) => found,
            Err(ResolveError::Unknown) => return question.answer(Outcome::Unknown, &[]),
            Err(ResolveError::Failed) => return question.answer(Outcome::Failed, &[]),
        };
        let addresses = self.reach().admit(&question.name, &found);
        if addresses.is_empty() && !found.is_empty() {
            add(&self.counters.names_refused, 1);
            tracing::debug!(name = question.name, "egress: a name that leads only where a sandbox may not go");
            return question.answer(Outcome::Refused, &[]);
        }
        question.answer(Outcome::Answered, &addresses)
    }

    fn reach(&self) -> std::sync::MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the questions of a stream, one after the other, until it ends.
    pub(crate) async fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut message = Vec::new();
        loop {
            let Ok(length) = timeout(MAX_STREAM_SILENCE, stream.read_u16()).await? else { return Ok(()) };
            message.resize(length.into(), 0);
            timeout(MAX_STREAM_SILENCE, stream.read_exact(&mut message)).await??;
            let Some(answer) = self.answer(&message, Transport::Tcp).await else { return Ok(()) };
            debug_assert!(answer.len() <= MAX_STREAM_BYTES);
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            timeout(MAX_STREAM_SILENCE, stream.write_all(&length.to_be_bytes())).await??;
            timeout(MAX_STREAM_SILENCE, stream.write_all(&answer)).await??;
        }
    }
}
