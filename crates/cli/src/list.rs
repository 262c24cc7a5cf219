//! A list: page after page up to a limit, as a table or as one JSON document like a page. No more than one page is held.

use crate::exit::Exit;
use crate::session::Session;
use clap::Args;
use client::ClientError;
use model::Page;
use model::limits::MAX_PAGE;
use serde::Serialize;

/// How much of a list to show.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ListArgs {
    /// How many at most; 0 means all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
}

impl ListArgs {
    /// Shows all of it.
    pub(crate) const fn all() -> Self {
        Self { limit: 0 }
    }
}

/// Shows a list, asking for its pages with `fetch(after, limit)`.
pub(crate) async fn list<T: Serialize>(
    session: &mut Session,
    args: ListArgs,
    head: &[&str],
    row: impl Fn(&T, &Session) -> Vec<String>,
    mut fetch: impl AsyncFnMut(Option<String>, Option<u32>) -> Result<Page<T>, ClientError>,
) -> anyhow::Result<Exit> {
    let mut left = if args.limit == 0 { u64::MAX } else { args.limit };
    let (mut after, mut shown, mut as_of) = (None, 0_u64, None);
    loop {
        let wanted = u32::try_from(left).unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let page = fetch(after.take(), Some(wanted)).await?;
        let as_of = *as_of.get_or_insert(page.as_of);
        let mut items = page.items;
        items.truncate(wanted as usize);
        left -= items.len() as u64;
        let is_last = left == 0 || page.next.is_none() || items.is_empty();
        if session.output.is_json() {
            json_part(session, &items, shown)?;
            if is_last {
                let next = serde_json::to_string(&page.next)?;
                session.output.line(&format!("], \"next\": {next}, \"as_of\": {as_of}}}"))?;
            }
        } else {
            let rows = items.iter().map(|item| row(item, session)).collect();
            session.output.table((shown == 0).then_some(head), rows)?;
        }
        shown += items.len() as u64;
        if is_last {
            if page.next.is_some() {
                session.output.say(&format!("there are more than {shown}; see --limit"));
            }
            return Ok(Exit::Ok);
        }
        session.output.flush()?;
        after = page.next;
    }
}

/// Writes entries of a list as JSON, after its head if nothing of it is written.
pub(crate) fn json_part<T: Serialize>(session: &mut Session, items: &[T], shown: u64) -> anyhow::Result<()> {
    if shown == 0 {
        session.output.line("{\"items\": [")?;
    }
    for (index, item) in items.iter().enumerate() {
        let comma = if shown == 0 && index == 0 { "  " } else { ", " };
        session.output.line(&format!("{comma}{}", serde_json::to_string(item)?))?;
    }
    Ok(())
}
