//! What is known of a dump in the form that Thoth's users know: what `info` shows, and what an analyzer finds in a file.

use super::{Dump, DumpPurged, DumpSignature, Redaction};
use crate::report::Severity;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The folder of all dumps, as Thoth knew it.
pub(super) const FOLDER: &str = "/thoth/stor/thoth/";

/// A dump in the form that Thoth's users know; what Thoth did not have stands at the end.
#[derive(Debug, Serialize)]
pub struct Known<'d> {
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
    signature: Option<&'d DumpSignature>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<Severity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redaction: Option<&'d Redaction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purged: Option<&'d DumpPurged>,
    dump_id: String,
}

impl<'d> From<&'d Dump> for Known<'d> {
    fn from(dump: &'d Dump) -> Self {
        let facts = &dump.facts;
        // Where Thoth kept it; programs take the hash from here.
        let name = format!("{FOLDER}{}", dump.hash);
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
            redaction: dump.redaction.as_ref(),
            purged: dump.purged.as_ref(),
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
