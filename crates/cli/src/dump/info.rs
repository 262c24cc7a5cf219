//! `quarry dump info`: all that is known of dumps, as the JSON that Thoth's users know.

use super::selection::{find, meant, split};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use jiff::Timestamp;
use model::Dump;
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};
use std::collections::BTreeMap;

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
        let meant = meant(&self.words).await?;
        let is_json = session.output.is_json();
        let text = |dump: &Dump| if is_json { pretty(dump) } else { pretty(&Known::from(dump)) };
        let mut is_first = true;
        if !meant.is_one {
            session.output.line("[")?;
        }
        find(&client, &meant, |dumps| {
            for dump in &dumps {
                let text = text(dump)?;
                if meant.is_one {
                    session.output.line(&text)?;
                    continue;
                }
                let comma = if std::mem::take(&mut is_first) { "" } else { ",\n" };
                let text = text.replace('\n', "\n    ");
                session.output.bytes(format!("{comma}    {text}").as_bytes())?;
            }
            Ok(())
        })
        .await?;
        if !meant.is_one {
            session.output.line(if is_first { "]" } else { "\n]" })?;
        }
        Ok(Exit::Ok)
    }
}

fn pretty(value: &impl Serialize) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    ")))?;
    Ok(String::from_utf8(bytes)?)
}

/// A dump in the form that Thoth's users know; what Thoth did not have stands at the end.
#[derive(Serialize)]
pub(super) struct Known<'d> {
    name: String,
    dump: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psargs: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'d str>,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stack: &'d [String],
    #[serde(rename = "type")]
    kind: &'static str,
    properties: &'d BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<&'d str>,
    id: &'d str,
    size: u64,
    digest: String,
    state: &'static str,
    truncated: bool,
    uploaded: Value,
    by: &'d str,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<&'d model::dump::DumpSignature>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<model::report::Severity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution: Option<String>,
    dump_id: String,
}

impl<'d> From<&'d Dump> for Known<'d> {
    fn from(dump: &'d Dump) -> Self {
        let facts = &dump.facts;
        // Where Thoth kept it; programs take the hash from here.
        let name = format!("/thoth/stor/thoth/{}", dump.hash);
        Self {
            dump: format!("{name}/{}", dump.name),
            name,
            pid: facts.pid.map(|pid| pid.to_string()),
            cmd: facts.cmd.as_deref(),
            psargs: facts.psargs.as_deref(),
            platform: facts.platform.as_deref(),
            node: facts.node.as_deref(),
            version: "1",
            time: facts.time.map(seconds),
            stack: &dump.stack,
            kind: dump.type_word(),
            properties: &dump.properties,
            ticket: dump.ticket.as_deref(),
            id: &dump.hash,
            size: dump.size,
            digest: dump.digest.to_string(),
            state: dump.state.as_str(),
            truncated: dump.is_truncated,
            uploaded: seconds(dump.uploaded_at),
            by: &dump.by,
            signature: dump.signature.as_ref(),
            class: dump.class.as_deref(),
            severity: dump.severity,
            cause: dump.cause.as_deref(),
            execution: dump.execution.map(|id| id.to_string()),
            dump_id: dump.id.to_string(),
        }
    }
}

/// Returns an instant as Thoth wrote it: in seconds, with what is left of them.
fn seconds(time: Timestamp) -> Value {
    match time.as_microsecond() {
        micros if micros % 1_000_000 == 0 => (micros / 1_000_000).into(),
        micros => (micros as f64 / 1e6).into(),
    }
}
