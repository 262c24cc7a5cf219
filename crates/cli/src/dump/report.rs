//! `quarry dump report`: how often the values of a property occur.

use super::selection::{meant, split};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use model::dump::query::ReportQuery;

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
        let query = ReportQuery { of: meant.of, property: property.first().cloned() };
        query.field()?;
        let report = client.dump_report(&query).await?;
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
