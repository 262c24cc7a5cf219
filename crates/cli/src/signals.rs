//! The signals that stop what this command stands for, heard before anything is sent: while it prepares, while what it
//! asked for is on its way, and while the program runs.
//!
//! What was sent cannot be called back. So after a signal the answer is still waited for, for some seconds, and what was
//! made is then stopped by whoever made it; a signal that was heard meanwhile is kept for that.

use crate::exit::Exit;
use crate::session::Session;
use client::Client;
use futures_util::FutureExt;
use model::ExecutionId;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long after a signal an answer is waited for.
const MAX_ANSWER: Duration = Duration::from_secs(5);

/// The signals that stop it.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// One that was heard and not yet acted upon.
    heard: Option<Exit>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// A signal came before anything was sent.
    Unsent(Exit),
    /// It was sent; then a signal came, and no answer did.
    Unanswered(Exit),
}

impl Left {
    /// Says what may have been left behind, and returns what to end with.
    pub(crate) fn tell(self, session: &Session, id: ExecutionId) -> Exit {
        match self {
            Self::Unsent(exit) => exit,
            Self::Unanswered(exit) => {
                let words = "the server did not answer; it may have made execution";
                session.output.say(&format!("{words} `{id}` (hint: `quarry execution cancel {id}`)"));
                exit
            }
        }
    }
}

impl Signals {
    /// Listens from now on.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            heard: None,
        })
    }

    /// Returns the exit code of the next one.
    pub(crate) async fn next(&mut self) -> Exit {
        if let Some(exit) = self.heard.take() {
            return exit;
        }
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Program(128 + 15),
            _ = self.hangup.recv() => Exit::Program(128 + 1),
        }
    }

    /// Returns the exit code of one that has come, if one has.
    pub(crate) fn come(&mut self) -> Option<Exit> {
        self.next().now_or_never()
    }

    /// Does what leaves nothing behind, unless a signal comes; then it is not done to its end.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Exit> {
        tokio::select! {
            biased;
            exit = self.next() => Err(exit),
            done = work => Ok(done),
        }
    }

    /// Sends what makes something, and returns the answer. A signal that came meanwhile is the next one.
    pub(crate) async fn sent<T>(&mut self, sending: impl Future<Output = T>) -> Result<T, Left> {
        if let Some(exit) = self.come() {
            return Err(Left::Unsent(exit));
        }
        let mut sending = pin!(sending);
        let exit = match self.during(&mut sending).await {
            Ok(answer) => return Ok(answer),
            Err(exit) => exit,
        };
        // A second signal means that nobody wants to wait for it either.
        match self.during(tokio::time::timeout(MAX_ANSWER, sending)).await {
            Ok(Ok(answer)) => {
                self.heard = Some(exit);
                Ok(answer)
            }
            Ok(Err(_)) | Err(_) => Err(Left::Unanswered(exit)),
        }
    }

    /// Stops what nobody waits for any more.
    pub(crate) async fn stop(&mut self, (session, client): (&Session, &Client), id: ExecutionId) {
        match self.during(tokio::time::timeout(MAX_ANSWER, client.execution_cancel(id))).await {
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(error))) => session.output.say(&format!("execution `{id}` cannot be stopped: {error}")),
            Ok(Err(_)) | Err(_) => session.output.say(&format!("execution `{id}` is left to itself")),
        }
    }
}
