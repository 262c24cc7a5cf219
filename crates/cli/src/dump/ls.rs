//! `quarry dump ls`: the dumps that are meant, one a line, as Thoth's users know it.

use super::selection::{find, meant, refuse, split};
use crate::exit::Exit;
use crate::list::json_part;
use crate::output::printable;
use crate::session::Session;
use clap::Args;
use model::Dump;
use model::dump::spec::Field;
use serde_json::Value;

/// Lists dumps, from the oldest to the newest
///
/// A specification says which: all of its constraints must be met. `cmd=svc*` compares with a pattern, `mtime=6h` asks for
/// the last six hours, `ticket=undefined` for what is not set; `OR`, `NOT`, `(` and `)` are words, and `limit=5` takes the
/// newest five. Properties that are named behind it are columns. See docs/dumps.md.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump ls type=crash node=95SY9R1
  quarry dump ls mtime=3d cmd=pg_prefaulter stack
  quarry dump ls 'cmd=svc*' NOT 'ticket=OS-*' properties.triage")]
pub(crate) struct Ls {
    /// Which dumps, and then further columns
    #[arg(value_name = "SPECIFICATION|PROPERTY")]
    words: Vec<String>,
}

impl Ls {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let (words, columns) = split(&self.words);
        let columns = columns.iter().map(|name| column(name)).collect::<anyhow::Result<Vec<_>>>()?;
        let client = session.client()?;
        let meant = meant(words).await?;
        if meant.took_input {
            session.output.say("reading dump identifiers from stdin");
        }
        let mut table = Table::new(columns);
        let mut shown = 0;
        let is_json = session.output.is_json();
        if is_json {
            json_part(session, &[] as &[Dump], shown)?;
        } else {
            session.output.line(&table.head())?;
        }
        let end = find(&client, &meant, |dumps| {
            if is_json {
                json_rest(session, &dumps, shown)?;
            } else {
                for line in table.lines(&dumps) {
                    session.output.line(&line)?;
                }
            }
            shown += dumps.len() as u64;
            Ok(session.output.flush()?)
        })
        .await?;
        if is_json {
            let next = serde_json::to_string(&end.next)?;
            session.output.line(&format!("], \"next\": {next}, \"as_of\": {}}}", end.as_of))?;
        }
        Ok(Exit::Ok)
    }
}

/// Writes entries of a list whose head is written.
fn json_rest(session: &mut Session, dumps: &[Dump], shown: u64) -> anyhow::Result<()> {
    for (index, dump) in dumps.iter().enumerate() {
        let comma = if shown == 0 && index == 0 { "  " } else { ", " };
        session.output.line(&format!("{comma}{}", serde_json::to_string(dump)?))?;
    }
    Ok(())
}

fn column(name: &str) -> anyhow::Result<(String, Field)> {
    if name.contains(['=', '<', '>']) {
        return Err(refuse("can't intermix specification properties with output properties"));
    }
    let head = name.rsplit('.').next().unwrap_or(name).to_uppercase();
    Ok((head, name.parse()?))
}

/// Columns whose widths grow with what they hold.
struct Table {
    columns: Vec<(String, Field)>,
    widths: Vec<usize>,
}

impl Table {
    fn new(columns: Vec<(String, Field)>) -> Self {
        // With further columns every character counts.
        let named = if columns.is_empty() { 16 } else { "NODE/CMD".len() };
        let mut widths = vec![16, 5, 19, named, "TICKET".len()];
        widths.extend(columns.iter().map(|(head, _)| head.chars().count()));
        Self { columns, widths }
    }

    fn head(&self) -> String {
        let heads = ["NAME", "TYPE", "TIME", "NODE/CMD", "TICKET"].map(str::to_owned).into_iter();
        self.line(&heads.chain(self.columns.iter().map(|(head, _)| head.clone())).collect::<Vec<_>>())
    }

    fn lines(&mut self, dumps: &[Dump]) -> Vec<String> {
        let rows: Vec<_> = dumps.iter().map(|dump| self.row(dump)).collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        rows.iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, cells: &[String]) -> String {
        let cells = cells.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join(" ").trim_end().to_owned()
    }

    fn row(&self, dump: &Dump) -> Vec<String> {
        let facts = &dump.facts;
        let is_machine = dump.type_word() == "crash";
        let (first, second) = if is_machine { (&facts.node, &facts.cmd) } else { (&facts.cmd, &facts.node) };
        let time = facts.time.map(|time| time.strftime("%Y-%m-%dT%H:%M:%S").to_string());
        let known = [
            Some(dump.hash.chars().take(16).collect()),
            Some(dump.type_word().to_owned()),
            time,
            first.clone().or_else(|| second.clone()),
            dump.ticket.clone(),
        ];
        let further = self.columns.iter().map(|(_, field)| field.of(dump).map(shown));
        let cell = |text: Option<String>| printable(&text.filter(|text| !text.is_empty()).unwrap_or("-".to_owned()));
        known.into_iter().chain(further).map(cell).collect()
    }
}

/// Returns a value as it stands in a column.
fn shown(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Array(all) => all.into_iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
