//! `quarry dump info`: all that is known of dumps, as the JSON that Thoth's users know.

use super::selection::{find, meant, split};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use model::Dump;
use model::dump::known::Known;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

/// Shows what is known of dumps, as JSON
///
/// One dump that is named, or that a file is, is shown as an object; those that a specification means as a list. The exit
/// code is 2 if the named one is not known, so that a script can ask whether a file has been uploaded.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump info 3e166b93871e7747
  quarry dump info core.19972
  quarry dump info ticket=OS-2359")]
pub(crate) struct Info {
    /// Which dumps
    #[arg(required = true, value_name = "SPECIFICATION|FILE")]
    words: Vec<String>,
}

impl Info {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        if let (_, [more, ..]) = split(&self.words) {
            return Err(Failure::usage("usage", format!("`{more}` is no part of a specification")).into());
        }
        let client = session.client()?;
        let meant = meant(&client, &self.words).await?;
        let is_json = session.output.is_json();
        let text = |dump: &Dump| if is_json { pretty(dump) } else { pretty(&Known::from(dump)) };
        let mut is_first = true;
        find(&client, &meant, |dumps| {
            for dump in &dumps {
                let text = text(dump)?;
                if meant.is_one {
                    session.output.line(&text)?;
                    continue;
                }
                // Not before there is one: what was asked for may not be there at all.
                let comma = if std::mem::take(&mut is_first) { "[\n" } else { ",\n" };
                let text = text.replace('\n', "\n    ");
                session.output.bytes(format!("{comma}    {text}").as_bytes())?;
            }
            Ok(())
        })
        .await?;
        if !meant.is_one {
            session.output.line(if is_first { "[\n]" } else { "\n]" })?;
        }
        Ok(Exit::Ok)
    }
}

fn pretty(value: &impl Serialize) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    ")))?;
    Ok(String::from_utf8(bytes)?)
}
