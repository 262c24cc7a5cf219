//! `quarry dump set`, `unset`, `ticket`, `unticket`, `rm` and `reanalyse`: what is done to all dumps that are meant, in one step.

use super::selection::{Meant, check_said, meant, refuse, split};
use crate::exit::{Exit, Failure};
use crate::quantity::dumps_text;
use crate::session::Session;
use clap::Args;
use client::{Client, ClientError};
use model::Dump;
use model::dump::query::{DumpsAnalyse, DumpsChange, DumpsChanged, DumpsPurge, Earnest, Selection};
use model::dump::{DumpChange, MAX_TICKET_CHARS};
use model::limits::MAX_ROW_BYTES;
use serde_json::Value;
use std::collections::BTreeMap;
use tokio::io::AsyncReadExt;

/// Notes a property on dumps
///
/// The value is JSON, or else a text; without one, JSON is read from standard input. All dumps that are meant are changed,
/// or none.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump set 086d664357716ae7 triage bmc
  quarry dump set --dry-run cmd=svc.configd mtime=7d triage '{\"engineer\": \"bmc\"}'
  quarry dump set cmd=svc.configd triage < triage.json")]
pub(crate) struct Set {
    /// Which dumps, the property's name, and its value
    #[arg(required = true, value_name = "SPECIFICATION|PROPERTY|VALUE", allow_negative_numbers = true)]
    words: Vec<String>,
    /// Only tell which dumps would be changed
    #[arg(long, short = 'n')]
    dry_run: bool,
}

/// Takes a property away from dumps
#[derive(Args)]
#[command(after_help = "Example:\n  quarry dump unset 086d664357716ae7 triage")]
pub(crate) struct Unset {
    /// Which dumps, and the property's name
    #[arg(required = true, value_name = "SPECIFICATION|PROPERTY")]
    words: Vec<String>,
    /// Only tell which dumps would be changed
    #[arg(long, short = 'n')]
    dry_run: bool,
}

/// Notes on dumps which ticket they belong to
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump ticket 086d664357716ae7 OS-2359
  quarry dump ticket --dry-run 'stack=*utmpx_postfork*' OS-2359")]
pub(crate) struct Ticket {
    /// Which dumps, and the ticket
    #[arg(required = true, value_name = "SPECIFICATION|TICKET", allow_negative_numbers = true)]
    words: Vec<String>,
    /// Only tell which dumps would be changed
    #[arg(long, short = 'n')]
    dry_run: bool,
}

/// Takes the ticket away from dumps
#[derive(Args)]
#[command(after_help = "Example:\n  quarry dump unticket ticket=OS-2359")]
pub(crate) struct Unticket {
    /// Which dumps
    #[arg(required = true, value_name = "SPECIFICATION")]
    words: Vec<String>,
    /// Only tell which dumps would be changed
    #[arg(long, short = 'n')]
    dry_run: bool,
}

/// Drops the content of dumps; what is known of them stays
///
/// Dumps that are named are dropped at once, those that a specification means only with `--yes`.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump rm 086d664357716ae7
  quarry dump rm --dry-run otime=1y ticket=undefined
  quarry dump rm --yes otime=1y ticket=undefined")]
pub(crate) struct Rm {
    /// Which dumps
    #[arg(required = true, value_name = "SPECIFICATION")]
    words: Vec<String>,
    /// Only tell which dumps would be dropped
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Drop all that are meant, however many
    #[arg(long, short)]
    yes: bool,
}

/// Has dumps looked into again, by the symbols and the rules that there are now
///
/// What is known of them stays until that is done. Dumps that are named are taken at once, those that a specification means
/// only with `--yes`.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump reanalyse 086d664357716ae7
  quarry dump reanalyse --dry-run state=unreadable
  quarry dump reanalyse --yes cmd=nginx mtime=7d")]
pub(crate) struct Reanalyse {
    /// Which dumps
    #[arg(required = true, value_name = "SPECIFICATION")]
    words: Vec<String>,
    /// Only tell which dumps would be looked into
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Take all that are meant, however many
    #[arg(long, short)]
    yes: bool,
}

impl Set {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let (words, behind) = split(&self.words);
        let (name, value) = match behind {
            [name] => (name, None),
            [name, value] => (name, Some(value)),
            [] => return Err(refuse("it is not said which property is set")),
            [_, _, more, ..] => return Err(refuse(format!("`{more}` stands behind the value"))),
        };
        check_said(words)?;
        let meant = meant(&session.client()?, words).await?;
        let value = match value {
            Some(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone())),
            None if meant.took_input => {
                return Err(refuse("standard input names the dumps, so the value must be given"));
            }
            None => from_input().await?,
        };
        if value.is_null() {
            return Err(refuse("null is no value; `unset` takes a property away"));
        }
        let change = DumpChange { properties: [(bare(name), value)].into(), ..DumpChange::default() };
        let told = Told::new(format!("`{}` set on", bare(name)), format!("`{}` would be set on", bare(name)));
        carry_out(session, meant, change, (self.dry_run, told)).await
    }
}

impl Unset {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let (words, behind) = split(&self.words);
        let [name] = behind else { return Err(refuse("one property is to be named behind the dumps")) };
        check_said(words)?;
        let change = DumpChange { properties: [(bare(name), Value::Null)].into(), ..DumpChange::default() };
        let told = Told::new(format!("`{}` taken from", bare(name)), format!("`{}` would be taken from", bare(name)));
        let told = Told { same: "did not have it", ..told };
        carry_out(session, meant(&session.client()?, words).await?, change, (self.dry_run, told)).await
    }
}

impl Ticket {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let (words, behind) = split(&self.words);
        // Whoever forgets the ticket must not put the last constraint on every dump.
        let [ticket] = behind else { return Err(refuse("one ticket, without `=`, is to be named behind the dumps")) };
        if ticket.contains('=') || ticket.chars().count() > MAX_TICKET_CHARS {
            return Err(refuse(format!("`{}` is no ticket", ticket.chars().take(80).collect::<String>())));
        }
        check_said(words)?;
        let change = DumpChange { ticket: Some(Some(ticket.clone())), ..DumpChange::default() };
        let told = Told::new(format!("ticket {ticket} set on"), format!("ticket {ticket} would be set on"));
        carry_out(session, meant(&session.client()?, words).await?, change, (self.dry_run, told)).await
    }
}

impl Unticket {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let (words, behind) = split(&self.words);
        if let [more, ..] = behind {
            return Err(refuse(format!("`{more}` is no part of a specification")));
        }
        let change = DumpChange { ticket: Some(None), ..DumpChange::default() };
        let told = Told::new("ticket taken from", "ticket would be taken from");
        let told = Told { same: "had none", ..told };
        carry_out(session, meant(&session.client()?, words).await?, change, (self.dry_run, told)).await
    }
}

impl Rm {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let told = Told::new("the content dropped of", "the content would be dropped of");
        let told = Told { same: "had none any more", ..told };
        let asked = Sweeping { words: &self.words, is_dry: self.dry_run, is_sure: self.yes, would: "dropped" };
        let purge = async |client: &Client, of, earnest| client.dumps_purge(&DumpsPurge { of, earnest }).await;
        asked.carry_out(session, told, purge).await
    }
}

impl Reanalyse {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let told = Told::new("to be looked into again:", "would be looked into again:");
        let told = Told { same: "cannot be, or will be already", ..told };
        let would = "looked into again";
        let asked = Sweeping { words: &self.words, is_dry: self.dry_run, is_sure: self.yes, would };
        let analyse = async |client: &Client, of, earnest| client.dumps_analyse(&DumpsAnalyse { of, earnest }).await;
        asked.carry_out(session, told, analyse).await
    }
}

/// An order that nobody should give to more dumps than were meant.
struct Sweeping<'w> {
    words: &'w [String],
    is_dry: bool,
    is_sure: bool,
    would: &'static str,
}

impl Sweeping<'_> {
    /// Carries it out on dumps that are named; on all that are meant only if that was said.
    async fn carry_out(
        &self,
        session: &mut Session,
        told: Told,
        order: impl AsyncFn(&Client, Selection, Earnest) -> Result<DumpsChanged, ClientError>,
    ) -> anyhow::Result<Exit> {
        let (words, behind) = split(self.words);
        if let [more, ..] = behind {
            return Err(refuse(format!("`{more}` is no part of a specification")));
        }
        let client = session.client()?;
        let meant = meant(&client, words).await?;
        let is_sure = self.is_sure || meant.is_named;
        let earnest = if self.is_dry || !is_sure { Earnest::Dry } else { Earnest::Real };
        let changed = order(&client, meant.of, earnest).await?;
        if !is_sure && !self.is_dry && changed.changed > 0 {
            let message = format!("{} would be {}", dumps_text(changed.changed), self.would);
            let failure = Failure::usage("not_sure", message);
            return Err(failure.hint("--dry-run shows which, --yes does it").into());
        }
        tell(session, &changed, (self.is_dry, told))
    }
}

/// Returns a property's name, which may have been written as in a specification.
fn bare(name: &str) -> String {
    name.strip_prefix("properties.").unwrap_or(name).to_owned()
}

async fn from_input() -> anyhow::Result<Value> {
    let mut text = String::new();
    tokio::io::stdin().take(MAX_ROW_BYTES as u64 + 1).read_to_string(&mut text).await?;
    if text.len() > MAX_ROW_BYTES {
        let message = format!("standard input has more than {MAX_ROW_BYTES} bytes, which is the most for properties");
        return Err(Failure::usage("property_too_long", message).into());
    }
    let wrong = |error| Failure::usage("property_not_json", format!("standard input is not JSON: {error}"));
    Ok(serde_json::from_str(&text).map_err(wrong)?)
}

/// The words for an order.
struct Told {
    /// For having done it.
    done: String,
    /// For what would be done.
    would: String,
    /// For dumps that are as they were.
    same: &'static str,
}

impl Told {
    fn new(done: impl Into<String>, would: impl Into<String>) -> Self {
        Self { done: done.into(), would: would.into(), same: "had it so" }
    }
}

/// What is told of an order: whether it is only tried, and in which words.
type Telling = (bool, Told);

async fn carry_out(session: &mut Session, meant: Meant, change: DumpChange, telling: Telling) -> anyhow::Result<Exit> {
    let client = session.client()?;
    change.check()?;
    let earnest = if telling.0 { Earnest::Dry } else { Earnest::Real };
    let changed = client.dumps_change(&DumpsChange { of: meant.of, change, earnest }).await?;
    tell(session, &changed, telling)
}

fn tell(session: &mut Session, changed: &DumpsChanged, (is_dry, told): Telling) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json(changed)?;
    } else if is_dry {
        for dump in &changed.dumps {
            session.output.line(&dump.hash)?;
        }
    }
    if changed.matched == 0 {
        let failure = Failure::new(Exit::NotFound, "dump_not_found", "no dump is meant");
        return Err(failure.hint("`quarry dump ls` with the same specification shows which are").into());
    }
    let Told { done, would, same: how } = told;
    let verb = if is_dry { would } else { done };
    let mut words = format!("{verb} {}", dumps_text(changed.changed));
    if changed.changed < changed.matched {
        let same = changed.matched - changed.changed;
        words.push_str(&format!("; {} {how}", dumps_text(same)));
    }
    session.output.say(&words);
    Ok(Exit::Ok)
}

/// Notes on a dump what a machine says of it by itself. Properties have only so much room, and what people note comes first:
/// what does not fit is left out, the longest parts before others, and returned in words.
pub(crate) async fn note_what_fits(
    client: &Client,
    dump: &Dump,
    change: DumpChange,
) -> Result<Vec<String>, ClientError> {
    let (change, left_out) = fitted(change, &dump.properties);
    if change != DumpChange::default() {
        client.dump_change(&dump.id.to_string(), &change).await?;
    }
    let told = |part: String| format!("there is no room for `{part}` among the properties of {}", dump.hash);
    Ok(left_out.into_iter().map(told).collect())
}

fn fitted(mut change: DumpChange, before: &BTreeMap<String, Value>) -> (DumpChange, Vec<String>) {
    let bytes = |value: &Value| serde_json::to_vec(value).map_or(0, |text| text.len());
    let mut left_out = Vec::new();
    while change.apply(before).is_err() {
        let Some((name, value)) = change.properties.iter_mut().max_by_key(|(_, value)| bytes(value)) else { break };
        let name = name.clone();
        let inner = value.as_object_mut().filter(|inner| inner.len() > 1);
        let longest = inner.and_then(|inner| {
            let longest = inner.iter().max_by_key(|(_, value)| bytes(value))?.0.clone();
            inner.remove(&longest).map(|_| longest)
        });
        match longest {
            Some(longest) => left_out.push(format!("{name}.{longest}")),
            None => {
                change.properties.remove(&name);
                left_out.push(name);
            }
        }
    }
    (change, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_has_no_room_is_left_out_from_the_longest_on() {
        let change = |properties: Value| DumpChange {
            properties: serde_json::from_value(properties).expect("is an object"),
            ..DumpChange::default()
        };
        let before = change(json!({ "notes": "x".repeat(12_000) })).properties;
        let process = json!({ "uid": 7, "modules": "m".repeat(3_000), "environment": "e".repeat(4_000) });
        let (fits, left_out) = fitted(change(json!({ "process": process, "zone": "a" })), &before);
        assert_eq!(left_out, ["process.environment"]);
        assert_eq!((&fits.properties["process"]["uid"], &fits.properties["zone"]), (&json!(7), &json!("a")));
        assert!(fits.apply(&before).is_ok());
        let full = change(json!({ "notes": "x".repeat(16_360) })).properties;
        let (fits, left_out) = fitted(change(json!({ "process": { "uid": 7 } })), &full);
        assert_eq!((fits, left_out), (DumpChange::default(), vec!["process".to_owned()]));
    }
}
