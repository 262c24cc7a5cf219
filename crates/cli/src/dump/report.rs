//! `quarry dump report`: how often the values of a property occur.

use super::selection::{Meant, find, meant, split};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use client::Client;
use model::Dump;
use model::dump::leaves;
use model::dump::query::{DumpReport, ReportQuery, ValueCount};
use model::dump::spec::Field;
use serde_json::Value;
use std::collections::BTreeMap;

/// Counts dumps by the values of a property, as JSON, the rarest first
///
/// Without a property it prints how many dumps there are.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump report cmd=svc.startd platform
  quarry dump report mtime=30d properties.triage.engineer
  quarry dump report type=core")]
pub(crate) struct Report {
    /// Which dumps, and then the property
    #[arg(value_name = "SPECIFICATION|PROPERTY")]
    words: Vec<String>,
}

impl Report {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let (words, property) = split(&self.words);
        if property.len() > 1 {
            return Err(Failure::usage("usage", "a report is of one property").into());
        }
        let client = session.client()?;
        let meant = meant(&client, words).await?;
        let query = ReportQuery { of: meant.of.clone(), property: property.first().cloned() };
        let field = query.field()?;
        let report = match meant.limit {
            None => client.dump_report(&query).await?,
            Some(_) => counted(&client, &meant, field.as_ref()).await?,
        };
        if session.output.is_json() {
            session.output.json(&report)?;
            return Ok(Exit::Ok);
        }
        if query.property.is_none() {
            session.output.line(&report.dumps.to_string())?;
            return Ok(Exit::Ok);
        }
        if report.has_more {
            session.output.say(&format!("these are the {} most frequent values", report.values.len()));
        }
        let entries =
            report.values.iter().map(|one| Ok(format!("  {}: {}", serde_json::to_string(&one.value)?, one.count)));
        let entries = entries.collect::<anyhow::Result<Vec<_>>>()?;
        match entries.is_empty() {
            true => session.output.line("{}")?,
            false => session.output.line(&format!("{{\n{}\n}}", entries.join(",\n")))?,
        }
        Ok(Exit::Ok)
    }
}

/// Counts the few dumps that a limit leaves, which the server only lists.
async fn counted(client: &Client, meant: &Meant, field: Option<&Field>) -> anyhow::Result<DumpReport> {
    let (mut dumps, mut counts) = (0, BTreeMap::new());
    find(client, meant, |found| {
        dumps += found.len() as u64;
        for value in found.iter().flat_map(|dump| field.map(|field| values(dump, field)).unwrap_or_default()) {
            *counts.entry(value).or_insert(0) += 1;
        }
        Ok(())
    })
    .await?;
    let mut values: Vec<_> = counts.into_iter().map(|(value, count)| ValueCount { value, count }).collect();
    values.sort_by_key(|one| one.count);
    Ok(DumpReport { dumps, values, has_more: false })
}

/// Returns the values that count once each: of a property every element of a list.
fn values(dump: &Dump, field: &Field) -> Vec<String> {
    if let Field::Property(path) = field {
        let leaves = leaves(&dump.properties).unwrap_or_default();
        return leaves.into_iter().filter(|(of, _)| of == path).map(|(_, leaf)| leaf.text()).collect();
    }
    let text = |value| match value {
        Value::String(text) => text,
        Value::Array(calls) => calls.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    field.of(dump).map(text).into_iter().collect()
}
