//! `quarry dump show`: the report of a dump, as text for people or as the JSON that it is.
//!
//! What a report says comes from foreign bytes: it is bounded when it is read and cleaned when it is written.

use super::parcels::plain;
use crate::exit::{Exit, Failure};
use crate::output::{Output, Style, printable};
use crate::quantity;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use client::Client;
use futures_util::StreamExt;
use jiff::SignedDuration;
use model::dump::Redaction;
use model::report::{Crash, Frame, MAX_REPORT_BYTES, Module, Report, Severity, Thread, Trust};
use model::{ChangeQuery, Dump, DumpState, Noun};
use std::collections::BTreeSet;
use std::pin::pin;
use std::str::FromStr;

/// Shows what is in a dump: the signal, the stack with files and lines, the signature
///
/// A dump that has just come is waited for until somebody has looked into it. With --json it is the whole report, as
/// docs/report.md describes it.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump show 76998f82a450a891
  quarry dump show 76998f82a450a891 --thread all
  quarry dump show --json 76998f82a450a891 | jq .crash")]
pub(crate) struct Show {
    /// Its hash, the beginning of its hash, or its id
    #[arg(value_name = "DUMP", value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Whose stack to show: the number of a thread, or `all`; the one that crashed, if nothing is said
    #[arg(long, value_name = "N|all")]
    thread: Option<Whose>,
    /// For how long to wait until somebody has looked into it, such as `5m`
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = quantity::duration)]
    wait: SignedDuration,
}

/// Whose stacks are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    All,
    One(u64),
}

impl FromStr for Whose {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            number => number.parse().map(Self::One).map_err(|_| "it is the number of a thread, or `all`".to_owned()),
        }
    }
}

impl Show {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let dump = client.dump_get(&self.name).await?;
        let dump = match dump.state {
            DumpState::Received => analysed(&client, &dump, self.wait).await?,
            _ => dump,
        };
        let Some(report) = dump.report else { return Err(without_report(&dump).into()) };
        let reader = client.blob_get(report, None).await?;
        let bytes = node::parcel::read(reader, MAX_REPORT_BYTES as u64).await.map_err(plain)?;
        let report: Report = serde_json::from_slice(&bytes).context("the report cannot be read")?;
        let output = &mut session.output;
        if output.is_json() {
            // As it was stored: a newer server may say more in it than this command knows.
            output.bytes(&bytes)?;
            return Ok(Exit::Ok);
        }
        let threads = chosen(&report, self.thread)?;
        head(output, &dump, &report)?;
        for thread in &threads {
            stack(output, &report, thread)?;
        }
        rest(output, &report, &threads)?;
        Ok(Exit::Ok)
    }
}

/// Waits until somebody has looked into a dump.
async fn analysed(client: &Client, dump: &Dump, limit: SignedDuration) -> anyhow::Result<Dump> {
    let id = dump.id.to_string();
    let waiting = async {
        loop {
            // Where the log stands comes first: what ends after that is in the log.
            let head = client.head().await?;
            let now = client.dump_get(&id).await?;
            if now.state != DumpState::Received {
                return anyhow::Ok(now);
            }
            let query = ChangeQuery {
                after: Some(head),
                noun: Some(Noun::Dump),
                id: Some(id.clone()),
                ..ChangeQuery::default()
            };
            let mut changes = pin!(client.follow(&query));
            while let Some(change) = changes.next().await {
                match change {
                    Err(error) if error.is_code("cursor_gone") => break,
                    change => {
                        if change?.state != DumpState::Received.as_str() {
                            break;
                        }
                    }
                }
            }
        }
    };
    tokio::time::timeout(limit.unsigned_abs(), waiting).await.unwrap_or_else(|_| {
        let message = format!("nobody has looked into dump `{}` yet", dump.hash);
        let failure = Failure::new(Exit::Failed, "dump_waits", message);
        Err(failure.hint("a node has to take its analysis: see `quarry node ls`, or wait longer with --wait").into())
    })
}

fn without_report(dump: &Dump) -> Failure {
    let why = dump.cause.as_deref().unwrap_or("nobody has looked into it");
    let failure = Failure::new(Exit::Failed, "dump_unreadable", format!("dump `{}` has no report: {why}", dump.hash));
    match dump.state {
        DumpState::Purged => failure.hint("its content was dropped"),
        _ => failure.hint("its content is still there: `quarry dump download` fetches it"),
    }
}

/// Returns the threads whose stacks are shown.
fn chosen(report: &Report, whose: Option<Whose>) -> Result<Vec<&Thread>, Failure> {
    match whose {
        Some(Whose::All) => Ok(report.threads.iter().collect()),
        None => Ok(report.crashed().or(report.threads.first()).into_iter().collect()),
        Some(Whose::One(id)) => match report.threads.iter().find(|thread| thread.id == id) {
            Some(thread) => Ok(vec![thread]),
            None => {
                let failure = Failure::new(Exit::NotFound, "thread_not_found", format!("there is no thread {id}"));
                let ids: Vec<_> = report.threads.iter().take(16).map(|thread| thread.id.to_string()).collect();
                Err(failure.hint(format!("there are {}", ids.join(", "))))
            }
        },
    }
}

fn head(output: &mut Output, dump: &Dump, report: &Report) -> anyhow::Result<()> {
    let process = report.process.clone().unwrap_or_default();
    let kernel = report.kernel.clone().unwrap_or_default();
    let crash = report.crash.as_ref();
    let fields = [
        ("dump", Some(format!("{} ({})", dump.hash, dump.id))),
        ("state", Some(dump.state.as_str().to_owned())),
        ("process", process.name.zip(process.pid).map(|(name, pid)| format!("{name}, number {pid}"))),
        ("command", process.arguments),
        ("execution", dump.execution.map(|execution| execution.to_string())),
        ("node", dump.facts.node.clone()),
        ("time", dump.facts.time.map(|time| output.time(time))),
        ("kernel", kernel.release.or(report.machine.release.clone())),
        ("panic", kernel.panic),
        ("signal", signal(report)),
        ("class", crash.map(|crash| crash.class.clone())),
        ("message", crash.and_then(|crash| crash.message.clone())),
        ("severity", crash.map(severity_text)),
        ("left out", dump.redaction.as_ref().map(Redaction::to_string)),
        ("signature", dump.signature.as_ref().map(|signature| format!("{} ({})", signature.text, signature.id))),
    ];
    Ok(output.fields(&fields)?)
}

/// Writes how bad it may be, and why.
fn severity_text(crash: &Crash) -> String {
    let word = severity(crash.severity);
    if crash.reasons.is_empty() { word.to_owned() } else { format!("{word}: {}", crash.reasons.join("; ")) }
}

fn signal(report: &Report) -> Option<String> {
    let signal = report.signal.as_ref()?;
    let code = signal.code_name.as_ref().map(|name| format!(", {name}")).unwrap_or_default();
    let address = signal.address.map(|address| format!(" at {address}")).unwrap_or_default();
    let sender = signal.sender.map(|sender| format!(", sent by {sender}")).unwrap_or_default();
    Some(format!("{}{code}{address}{sender}", signal.name))
}

const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Unknown => "unknown",
        Severity::Low => "low",
        Severity::Medium => "medium",
        Severity::High => "high",
        Severity::Critical => "critical",
    }
}

fn stack(output: &mut Output, report: &Report, thread: &Thread) -> anyhow::Result<()> {
    let name = thread.name.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default();
    let crashed = if thread.is_crashed { ", which crashed" } else { "" };
    let title = output.style(Style::Strong, &printable(&format!("thread {}{name}{crashed}", thread.id)));
    output.line("")?;
    output.line(&title)?;
    for line in frames_text(report, thread) {
        output.line(&printable(&line))?;
    }
    if let Some(broken) = &thread.broken {
        output.line(&printable(&format!("      the walk ended: {broken}")))?;
    }
    Ok(())
}

/// Writes the frames with their numbers, and where some are left out how many.
fn frames_text<'r>(report: &'r Report, thread: &'r Thread) -> impl Iterator<Item = String> + use<'r> {
    let gap = thread.gap();
    thread.numbered().enumerate().flat_map(move |(at, (number, frame))| {
        let left_out = gap.filter(|(begin, _)| *begin == at).map(|(_, count)| match count {
            1 => "   …  1 frame is left out".to_owned(),
            count => format!("   …  {count} frames are left out"),
        });
        left_out.into_iter().chain([format!("{number:>4}  {}", frame_text(report, frame))])
    })
}

/// Writes a frame: where it is, what it is of, how it was found if that is not sure.
fn frame_text(report: &Report, frame: &Frame) -> String {
    let module = frame.module.and_then(|number| report.modules.get(number));
    let module = module.map(|module| base(&module.path)).or(frame.module_name.as_deref().map(base));
    let mut text = frame.address.map(|address| format!("{:#018x}  ", address.0)).unwrap_or_default();
    match &frame.function {
        Some(function) => {
            text.push_str(function);
            if let Some(offset) = frame.function_offset.filter(|_| frame.file.is_none()) {
                text.push_str(&format!("+{offset}"));
            }
        }
        None => text.push_str(&frame.offset.map_or_else(|| "?".to_owned(), |offset| format!("+{offset}"))),
    }
    if let Some(file) = &frame.file {
        text.push_str(&format!(" at {file}"));
        for number in [frame.line, frame.column].into_iter().flatten() {
            text.push_str(&format!(":{number}"));
        }
    }
    text.push_str(&module.map(|module| format!(" in {module}")).unwrap_or_default());
    text.push_str(match frame.trust {
        Trust::Inline => " (inlined)",
        Trust::FramePointer => " (by frame pointers)",
        Trust::Scan => " (by a word on the stack)",
        Trust::Context | Trust::Cfi | Trust::Told => "",
    });
    text.push_str(if frame.is_interrupted { " (interrupted by a signal)" } else { "" });
    text
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Writes what there is besides the stacks: other threads, the modules that they are in, notes.
fn rest(output: &mut Output, report: &Report, shown: &[&Thread]) -> anyhow::Result<()> {
    let hidden = report.threads.len() - shown.len();
    if hidden > 0 {
        output.line("")?;
        output.line(&format!("{hidden} more threads: --thread all shows them"))?;
    }
    let used: BTreeSet<_> = shown.iter().flat_map(|thread| &thread.frames).filter_map(|frame| frame.module).collect();
    let modules: Vec<_> = used.iter().filter_map(|number| report.modules.get(*number)).collect();
    if !modules.is_empty() {
        output.line("")?;
        output.table(Some(&["module", "build id", "found", "lack"]), modules.into_iter().map(module_row).collect())?;
    }
    if !report.notes.is_empty() {
        output.line("")?;
    }
    for note in &report.notes {
        let label = output.style(Style::Faint, "note:");
        output.line(&format!("{label} {}", printable(&note.text)))?;
    }
    Ok(())
}

fn module_row(module: &Module) -> Vec<String> {
    let found = serde_json::to_value(module.found).ok();
    let found = found.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    vec![module.path.clone(), text(&module.build_id), found.to_owned(), text(&module.lack)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::DumpKind;
    use model::report::{Address, Found};

    #[test]
    fn what_is_left_out_of_a_stack_is_counted() {
        let report = Report::new(DumpKind::Traceback);
        let frames = ["inner", "middle", "main"]
            .map(|name| Frame { function: Some(name.to_owned()), ..Frame::new(Trust::Told) });
        let check = |frames_cut, frames_cut_at, expected: &[&str]| {
            let thread = Thread { frames: frames.to_vec(), frames_cut, frames_cut_at, ..Thread::default() };
            assert_eq!(frames_text(&report, &thread).collect::<Vec<_>>(), expected);
        };
        check(0, None, &["   0  inner", "   1  middle", "   2  main"]);
        check(7, Some(2), &["   0  inner", "   1  middle", "   …  7 frames are left out", "   9  main"]);
        check(1, Some(1), &["   0  inner", "   …  1 frame is left out", "   2  middle", "   3  main"]);
    }

    #[test]
    fn a_frame_is_one_line() {
        let mut report = Report::new(DumpKind::Core);
        report.modules.push(Module {
            path: "/work/demo".to_owned(),
            start: Address(0),
            end: Address(1),
            bias: Address(0),
            build_id: None,
            found: Found::Debug,
            lack: None,
            supplementary: None,
        });
        let check = |frame: Frame, expected: &str| assert_eq!(frame_text(&report, &frame), expected);
        let named = Frame {
            address: Some(Address(0x1139)),
            module: Some(0),
            offset: Some(Address(0x139)),
            function: Some("parse".to_owned()),
            function_offset: Some(Address(9)),
            ..Frame::new(Trust::Cfi)
        };
        check(named.clone(), "0x0000000000001139  parse+0x9 in demo");
        let placed = Frame { file: Some("demo.c".to_owned()), line: Some(5), column: Some(8), ..named.clone() };
        check(placed.clone(), "0x0000000000001139  parse at demo.c:5:8 in demo");
        check(Frame { trust: Trust::Inline, ..placed }, "0x0000000000001139  parse at demo.c:5:8 in demo (inlined)");
        check(Frame { function: None, ..named }, "0x0000000000001139  +0x139 in demo");
        check(Frame::new(Trust::Told), "?");
    }
}
