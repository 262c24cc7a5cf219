//! `quarry changes`: the log, a part of it or as it grows.

use crate::exit::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use futures_util::StreamExt;
use model::limits::MAX_PAGE;
use model::{Change, ChangeQuery, Noun};
use std::pin::pin;

/// How many changes are shown when nobody says.
const DEFAULT_LIMIT: u64 = 100;

/// Shows what happened, and with -f what happens
///
/// Every transition of every thing is one numbered change. Without --after, the list begins with the oldest change that
/// is kept, and following begins now. With --json, every change is one line.
#[derive(Args)]
#[command(after_help = "Example:
  quarry changes -f
  quarry changes --after 1200 --noun execution --limit 0
  quarry changes -f --json --noun token")]
pub(crate) struct Changes {
    /// Go on and show what happens
    #[arg(short, long)]
    follow: bool,
    /// Begin after the change of this number
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Only changes of this, such as `execution`, `dump`, `signature` or `node`
    #[arg(long, value_parser = noun)]
    noun: Option<Noun>,
    /// Only changes of this one thing
    #[arg(long)]
    id: Option<String>,
    /// How many at most; 0 means all. Without -f: 100, if nothing is said
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

fn noun(text: &str) -> Result<Noun, String> {
    let known = || Noun::ALL.map(Noun::as_str).join(", ");
    Noun::ALL.into_iter().find(|noun| noun.as_str() == text).ok_or_else(|| format!("it is none of: {}", known()))
}

impl Changes {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let query = ChangeQuery {
            after: self.after,
            noun: self.noun,
            id: self.id.clone(),
            // The client adds the tenant that is named for all commands.
            ..ChangeQuery::default()
        };
        let limit = match self.limit {
            Some(0) => u64::MAX,
            Some(limit) => limit,
            None if self.follow => u64::MAX,
            None => DEFAULT_LIMIT,
        };
        if self.follow { follow(session, &query, limit).await } else { show(session, query, limit).await }
    }
}

async fn follow(session: &mut Session, query: &ChangeQuery, limit: u64) -> anyhow::Result<Exit> {
    let client = session.client()?;
    let mut changes = pin!(client.follow(query));
    for _ in 0..limit {
        let Some(change) = changes.next().await else { break };
        session.output.refresh();
        line(session, &change?)?;
        session.output.flush()?;
    }
    Ok(Exit::Ok)
}

async fn show(session: &mut Session, mut query: ChangeQuery, limit: u64) -> anyhow::Result<Exit> {
    let client = session.client()?;
    let mut left = limit;
    while left > 0 {
        query.limit = Some(u32::try_from(left).unwrap_or(MAX_PAGE).min(MAX_PAGE));
        let mut page = client.changes(&query).await?;
        if page.items.len() as u64 > left {
            page.items.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            page.next = page.items.last().map(|change| change.seq.to_string());
        }
        for change in &page.items {
            line(session, change)?;
        }
        session.output.flush()?;
        left = left.saturating_sub(page.items.len() as u64);
        let next = page.next.as_deref().and_then(|next| next.parse::<u64>().ok());
        let moved = next.filter(|next| query.after.is_none_or(|after| *next > after));
        match moved {
            Some(next) if next < page.as_of && left > 0 => query.after = Some(next),
            Some(next) => {
                if next < page.as_of {
                    session.output.say(&format!("there are more; go on with --after {next}"));
                }
                return Ok(Exit::Ok);
            }
            None if page.items.is_empty() => return Ok(Exit::Ok),
            None => {
                return Err(Failure::new(Exit::Failed, "unexpected", "the server does not say where to go on").into());
            }
        }
    }
    Ok(Exit::Ok)
}

fn line(session: &mut Session, change: &Change) -> anyhow::Result<()> {
    let output = &mut session.output;
    if output.is_json() {
        output.json_line(change)?;
        return Ok(());
    }
    let (noun, at) = (change.noun.as_str(), output.time(change.at));
    let (state, id, by) = (&change.state, &change.id, &change.by);
    let text = format!("{:>8}  {at:<12}  {noun:<9}  {state:<11}  {id}  by {by}", change.seq);
    let text = crate::output::printable(&text);
    output.line(&text)?;
    Ok(())
}
