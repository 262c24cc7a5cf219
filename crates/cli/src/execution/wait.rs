//! `quarry execution wait`: until executions have ended. It looks once and then follows the log, so nothing is missed
//! and nobody polls.

use super::{said, verdict};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use client::Client;
use futures_util::StreamExt;
use jiff::SignedDuration;
use model::{ChangeQuery, Execution, ExecutionId, Noun};
use std::collections::BTreeSet;
use std::pin::pin;

use crate::quantity;

/// Waits until executions have ended; fails unless all have succeeded
///
/// Of one execution the exit code is the one that `quarry run` would have ended with.
#[derive(Args)]
#[command(after_help = "Example:
  quarry execution wait exe_01k9yvx0g8m6f3s2d1a0q7w5e4 --timeout 1m")]
pub(crate) struct Wait {
    /// Which ones
    #[arg(required = true)]
    id: Vec<ExecutionId>,
    /// For how long, such as `1m`; for ever, if nothing is said
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    timeout: Option<SignedDuration>,
}

impl Wait {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session, client: &Client) -> anyhow::Result<Exit> {
        let mut open: BTreeSet<ExecutionId> = self.id.into_iter().collect();
        let is_one = open.len() == 1;
        let told = |exit| if is_one || exit == Exit::Ok { exit } else { Exit::Failed };
        // However short the time is, what has ended already is told.
        let (exit, head) = look(session, client, &mut open).await?;
        let rest = wait(session, client, &mut open, head);
        let Some(time) = self.timeout else { return rest.await.map(|rest| told(exit.or(rest))) };
        if let Ok(rest) = tokio::time::timeout(time.unsigned_abs(), rest).await {
            return rest.map(|rest| told(exit.or(rest)));
        }
        session.output.flush()?;
        let first = open.first().map(ToString::to_string).unwrap_or_default();
        let message = match open.len() {
            1 => format!("execution `{first}` has not ended"),
            more => format!("execution `{first}` and {} more have not ended", more - 1),
        };
        Err(Failure::new(Exit::Failed, "timed_out", message).into())
    }
}

/// Looks at all that are open; returns where the log stood before, since what ends after that is in the log.
async fn look(session: &mut Session, client: &Client, open: &mut BTreeSet<ExecutionId>) -> anyhow::Result<(Exit, u64)> {
    let (mut exit, head) = (Exit::Ok, client.head().await?);
    for id in open.clone() {
        exit = exit.or(take(session, open, &client.execution_get(id).await?)?);
    }
    Ok((exit, head))
}

/// Follows the log from where somebody has looked.
async fn wait(
    session: &mut Session,
    client: &Client,
    open: &mut BTreeSet<ExecutionId>,
    mut head: u64,
) -> anyhow::Result<Exit> {
    let mut exit = Exit::Ok;
    while !open.is_empty() {
        exit = exit.or(follow(session, client, open, head).await?);
        if !open.is_empty() {
            let looked = look(session, client, open).await?;
            (exit, head) = (exit.or(looked.0), looked.1);
        }
    }
    Ok(exit)
}

/// Follows the log until all have ended, or until it must be looked again.
async fn follow(
    session: &mut Session,
    client: &Client,
    open: &mut BTreeSet<ExecutionId>,
    head: u64,
) -> anyhow::Result<Exit> {
    let only = if open.len() == 1 { open.first().map(ToString::to_string) } else { None };
    let query = ChangeQuery { after: Some(head), noun: Some(Noun::Execution), id: only, ..ChangeQuery::default() };
    let mut changes = pin!(client.follow(&query));
    let mut exit = Exit::Ok;
    while !open.is_empty() {
        let change = match changes.next().await {
            None => break,
            Some(Err(error)) if error.is_code("cursor_gone") => break,
            Some(change) => change?,
        };
        if change.id.parse().is_ok_and(|id| open.contains(&id))
            && let Ok(execution) = serde_json::from_str::<Execution>(change.body.get())
        {
            exit = exit.or(take(session, open, &execution)?);
        }
    }
    Ok(exit)
}

/// Crosses off an execution that has ended.
fn take(session: &mut Session, open: &mut BTreeSet<ExecutionId>, execution: &Execution) -> anyhow::Result<Exit> {
    if !execution.state.is_final() || !open.remove(&execution.id) {
        return Ok(Exit::Ok);
    }
    said(session, execution)?;
    session.output.flush()?;
    Ok(verdict::exit(execution))
}
