//! Attendance: being there while an execution runs. What it writes is passed on, what is typed is sent, signals stop it.
//!
//! The first signal stops it gently and this goes on to its end; the second leaves it. Nobody who reads any more is as
//! good as a signal. A lost connection is taken up where it broke.

use super::input::Feed;
use super::terminal::Terminal;
use crate::execution;
use crate::execution::transcript::{self, Next, Transcript, Until};
use crate::execution::verdict;
use crate::exit::Exit;
use crate::session::Session;
use crate::signals::Signals;
use client::{Client, ClientError};
use futures_util::FutureExt;
use futures_util::future::Fuse;
use model::{ErrorKind, Execution, ExecutionId, Outcome};
use std::io;
use std::pin::pin;
use tokio::sync::Notify;

/// What shells end with when nobody reads what a program writes.
const NOBODY_READS: Exit = Exit::Program(128 + 13);

/// How an attendance ended.
pub(super) enum End {
    /// The execution has ended.
    Ended {
        /// As it ended.
        execution: Box<Execution>,
        /// What to end with.
        exit: Exit,
    },
    /// It goes on without us.
    Left(Exit),
}

/// Somebody who attends an execution.
pub(super) struct Attendance<'a> {
    pub(super) client: &'a Client,
    pub(super) output: &'a Session,
    pub(super) id: ExecutionId,
}

impl Attendance<'_> {
    /// Stays until it has ended, or until told to leave it.
    pub(super) async fn run(
        self,
        feed: Option<Feed>,
        terminal: Option<Terminal>,
        signals: &mut Signals,
    ) -> anyhow::Result<End> {
        let output = &self.output.output;
        let make_raw = || terminal.as_ref().map(|terminal| terminal.raw(output)).transpose();
        let mut raw = make_raw()?;
        let mut follow = pin!(self.follow());
        let told = Notify::new();
        let mut wait = pin!(execution::wait_reasons(self.output, self.client, self.id, || told.notify_one()).fuse());
        let mut cancel = pin!(Fuse::terminated());
        let mut fed = pin!(self.feed(feed).fuse());
        let mut stopped: Option<Exit> = None;
        loop {
            tokio::select! {
                biased;
                exit = signals.next() => {
                    if stopped.replace(exit).is_some() {
                        drop(raw);
                        output.say(&format!("execution `{}` is left to itself", self.id));
                        return Ok(End::Left(exit));
                    }
                    cancel.set(self.client.execution_cancel(self.id).fuse());
                }
                cancelled = &mut cancel => {
                    if let Err(error) = cancelled
                        && !is_over(&error)
                    {
                        output.say(&format!("execution `{}` cannot be stopped: {error}", self.id));
                    }
                }
                ended = &mut follow => {
                    output.close("");
                    drop(raw);
                    return self.ended(ended, stopped).await;
                }
                // Whoever waits for a place has no program yet that keys could mean: Ctrl-C is for us.
                () = told.notified(), if raw.is_some() => raw = None,
                () = &mut wait => {
                    if raw.is_none() {
                        raw = make_raw()?;
                    }
                }
                () = &mut fed => {}
            }
        }
    }

    /// Judges the end of what was followed.
    async fn ended(&self, ended: anyhow::Result<Box<Execution>>, stopped: Option<Exit>) -> anyhow::Result<End> {
        let output = &self.output.output;
        match ended {
            Ok(execution) => {
                let is_cancelled = matches!(execution.outcome, Some(Outcome::Cancelled));
                let exit = stopped.filter(|_| is_cancelled).unwrap_or_else(|| verdict::exit(&execution));
                Ok(End::Ended { execution, exit })
            }
            Err(error) if is_closed(&error) => {
                // A program whose reader has gone would be ended by that; so is this one.
                match self.client.execution_cancel(self.id).await {
                    Err(error) if is_over(&error) => {}
                    cancelled => drop(cancelled?),
                }
                Ok(End::Left(NOBODY_READS))
            }
            Err(error) => {
                output.say(&format!("execution `{0}` may go on; see `quarry execution logs -f {0}`", self.id));
                Err(error)
            }
        }
    }

    /// Passes on what it writes, to its end.
    async fn follow(&self) -> anyhow::Result<Box<Execution>> {
        let mut transcript = Transcript::new(self.client, self.id, None);
        loop {
            match transcript.next(Until::End).await? {
                Next::Chunks(chunks) => {
                    self.output.output.close(" - established");
                    for chunk in &chunks {
                        transcript::write(self.output, self.client, chunk, chunk.stream).await?;
                    }
                }
                Next::Again(attempt) => {
                    self.output.output.say(&format!("the node was lost; attempt {attempt} begins from the beginning"));
                }
                Next::Nothing(Some(execution)) if execution.state.is_final() => return Ok(execution),
                Next::Nothing(_) => return Ok(Box::new(self.client.execution_get(self.id).await?)),
            }
        }
    }

    /// Sends what comes in.
    async fn feed(&self, feed: Option<Feed>) {
        let Some(feed) = feed else { return };
        if let Err(error) = feed.run(self.client, self.id).await {
            self.output.output.say(&format!("standard input is not passed on any more: {error:#}"));
        }
    }
}

/// Tells whether what was to be stopped had ended before.
fn is_over(error: &ClientError) -> bool {
    error.api().is_some_and(|api| api.kind == ErrorKind::Conflict)
}

fn is_closed(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}
