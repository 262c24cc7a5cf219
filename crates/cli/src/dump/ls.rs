//! `quarry dump ls`: the dumps that are meant, one a line, as Thoth's users know it.

use super::selection::{Meant, find, meant, refuse, split};
use crate::exit::Exit;
use crate::list::json_part;
use crate::output::printable;
use crate::session::Session;
use clap::Args;
use client::Client;
use model::Dump;
use model::dump::spec::Field;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

/// Rows that are waited for before the head is written, so that it has their widths; of more, later ones may be wider.
const MAX_HELD: usize = 4_096;

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
        let meant = meant(&client, words).await?;
        if meant.took_input {
            session.output.say("reading dump identifiers from stdin");
        }
        if session.output.is_json() {
            return json(session, &client, &meant).await;
        }
        let (mut table, mut held, mut is_begun) = (Table::new(columns), Vec::new(), false);
        find(&client, &meant, |dumps| {
            let rows = table.rows(&dumps);
            if !is_begun {
                held.extend(rows);
                if held.len() < MAX_HELD {
                    return Ok(());
                }
                is_begun = true;
                table.write(session, std::mem::take(&mut held), Head::Shown)?;
            } else {
                table.write(session, rows, Head::Over)?;
            }
            Ok(session.output.flush()?)
        })
        .await?;
        if !is_begun {
            table.write(session, held, Head::Shown)?;
        }
        Ok(Exit::Ok)
    }
}

/// Lists them as one JSON document.
async fn json(session: &mut Session, client: &Client, meant: &Meant) -> anyhow::Result<Exit> {
    let mut shown = 0;
    json_part(session, &[] as &[Dump], shown)?;
    let end = find(client, meant, |dumps| {
        json_rest(session, &dumps, shown)?;
        shown += dumps.len() as u64;
        Ok(session.output.flush()?)
    })
    .await?;
    let next = serde_json::to_string(&end.next)?;
    session.output.line(&format!("], \"next\": {next}, \"as_of\": {}}}", end.as_of))?;
    Ok(Exit::Ok)
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
    let head = printable(&name.rsplit('.').next().unwrap_or(name).to_uppercase());
    Ok((head, name.parse()?))
}

/// Whether a head is written above rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Shown,
    /// It is there already.
    Over,
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
        widths.extend(columns.iter().map(|(head, _)| head.width()));
        Self { columns, widths }
    }

    /// Writes rows below a head, or below those that were written.
    fn write(&self, session: &mut Session, rows: Vec<Vec<String>>, head: Head) -> anyhow::Result<()> {
        if head == Head::Shown {
            session.output.line(&self.head())?;
        }
        for row in rows {
            session.output.line(&self.line(&row))?;
        }
        Ok(())
    }

    fn head(&self) -> String {
        let heads = ["NAME", "TYPE", "TIME", "NODE/CMD", "TICKET"].map(str::to_owned).into_iter();
        self.line(&heads.chain(self.columns.iter().map(|(head, _)| head.clone())).collect::<Vec<_>>())
    }

    /// Returns the cells of some dumps, and widens the columns to them.
    fn rows(&mut self, dumps: &[Dump]) -> Vec<Vec<String>> {
        let rows: Vec<_> = dumps.iter().map(|dump| self.row(dump)).collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        rows
    }

    fn line(&self, cells: &[String]) -> String {
        let padded = |(cell, width): (&String, &usize)| cell.clone() + &" ".repeat(width.saturating_sub(cell.width()));
        cells.iter().zip(&self.widths).map(padded).collect::<Vec<_>>().join(" ").trim_end().to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_they_hold() {
        let columns = ["properties.triage.engineer", "size"].map(|name| column(name).expect("is one")).to_vec();
        let mut table = Table::new(columns);
        let mut dump: Dump = serde_json::from_value(serde_json::json!({
            "id": "dmp_01k9yvx0g8m6f3s2d1a0q7w5e4", "tenant": "ten_01k9yvx0g8m6f3s2d1a0q7w5e4",
            "hash": "0123456789abcdef0123456789abcdef", "digest": "ab".repeat(32), "size": 7, "kind": "core",
            "state": "received", "name": "core", "cmd": "a-command-with-a-long-name", "by": "ann",
            "uploaded_at": "2026-01-01T00:00:00Z",
        }))
        .expect("is a dump");
        let plain = dump.clone();
        dump.facts.cmd = Some("漢字e\u{301}\u{202e}".to_owned());
        dump.properties.insert("triage".to_owned(), serde_json::json!({ "engineer": ["bmc", "名前"] }));
        let rows = table.rows(&[plain, dump]);
        let lines: Vec<_> = std::iter::once(table.head()).chain(rows.iter().map(|row| table.line(row))).collect();
        assert_eq!(
            lines,
            [
                "NAME             TYPE  TIME                NODE/CMD                   TICKET ENGINEER SIZE",
                "0123456789abcdef core  -                   a-command-with-a-long-name -      -        7",
                "0123456789abcdef core  -                   漢字e\u{301}\\u{202e}              -      bmc,名前 7",
            ]
        );
    }
}
