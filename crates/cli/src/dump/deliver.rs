//! `quarry dump send`: what was caught on its way to a server, each dump once however often this is begun.
//!
//! Nothing is kept of how far one has come: frames that are there are not sent, the dump has had its id since it was caught,
//! and what is noted on it is noted again. Only then it moves on within the spool. One sender works at a time.

use super::catch::spool::{About, BrokenFrame, frames};
use super::catch::{Settings, SettingsArgs, Spool, Stage};
use super::note::note_what_fits;
use super::packs::{Apart, Shipper, complain};
use super::parcels::send;
use crate::connection;
use crate::exit::{Exit, Failure};
use crate::progress::{bar, progress};
use crate::quantity;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use client::{Client, ClientError, Retry};
use dump::parcel::{Packed, SplitError};
use jiff::SignedDuration;
use model::dump::DumpChange;
use model::limits::MAX_CREDENTIAL_CHARS;
use model::parcel::ParcelError;
use model::{Digest, DumpId, ErrorKind, NewDump};
use std::io::Read;
use std::time::{Duration, Instant};

/// How long a call to the server is tried again by itself.
const RETRY: Duration = Duration::from_secs(5);

/// Sends what was caught to the server, the oldest first
///
/// What was sent stays in the spool until its room is needed. A sending that broke off is simply begun again.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump send
  quarry dump send --every 30s")]
pub(crate) struct Send {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Do not send what it takes to walk stacks through the modules of the programs that crashed
    #[arg(long = "no-packs")]
    no_packs: bool,
    /// Go on, and look again after each such time, such as `30s`
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    every: Option<SignedDuration>,
}

impl Send {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let settings = self.settings.load()?;
        let spool = Spool::open(&settings)?;
        let (client, token) = client(session, &settings)?;
        let _lock = spool.lock("sending", Instant::now()).map_err(|error| {
            let failure = Failure::new(Exit::Refused, "already_sending", error.to_string());
            failure.hint("one at a time sends what a spool holds")
        })?;
        let packs = if self.no_packs { Packs::None } else { Packs::Found };
        loop {
            let exit = all(session, (&client, token.as_deref()), &spool, packs).await?;
            let Some(every) = self.every else { return Ok(exit) };
            session.output.flush()?;
            tokio::time::sleep(every.unsigned_abs()).await;
        }
    }
}

/// Returns a client, and the token that it shows unless that is the stored one.
fn client(session: &Session, settings: &Settings) -> anyhow::Result<(Client, Option<String>)> {
    let (Some(url), None) = (&settings.url, &session.global.url) else {
        return Ok((session.client()?, session.global.token.clone()));
    };
    let token = match &settings.token_file {
        Some(path) => {
            let cannot = || format!("`{}` cannot be read", path.display());
            let mut text = String::new();
            let file = std::fs::File::open(path).with_context(cannot)?;
            file.take(MAX_CREDENTIAL_CHARS as u64 + 2).read_to_string(&mut text).with_context(cannot)?;
            text.trim().to_owned()
        }
        None => session.global.token.clone().unwrap_or_default(),
    };
    let retry = Retry { unreachable_max: RETRY, busy_max: RETRY, ..Retry::default() };
    Ok((connection::open_with(url, &token, retry, &session.global)?, Some(token)))
}

/// Whether packs of modules are sent too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packs {
    None,
    Found,
}

/// Sends all there is; one that cannot be sent does not keep the others, but a server that is not there does.
async fn all(
    session: &mut Session,
    (client, token): (&Client, Option<&str>),
    spool: &Spool,
    packs: Packs,
) -> anyhow::Result<Exit> {
    let mut exit = Exit::Ok;
    let shipper = (packs == Packs::Found).then(|| Shipper::new(session, (client.url(), token)));
    for id in spool.list(Stage::Caught) {
        match one(session, (client, shipper.as_ref()), spool, id).await {
            Ok(about) => {
                spool.shift(id, Stage::Caught, Stage::Sent)?;
                match session.output.is_json() {
                    true => session.output.json_line(&about)?,
                    false => session.output.line(&about.hash)?,
                }
            }
            Err(error) => {
                let is_broken = is_broken(&error);
                let is_away = matches!(
                    error.chain().find_map(|cause| cause.downcast_ref::<ClientError>()),
                    Some(error) if error.api().is_none_or(|api| api.kind == ErrorKind::Unavailable)
                );
                if is_broken {
                    spool.shift(id, Stage::Caught, Stage::Broken)?;
                }
                exit = exit.or(session.report(&error.context(format!("dump `{id}` was not sent"))));
                if is_away {
                    break;
                }
            }
        }
    }
    Ok(exit)
}

/// Tells whether what is in the spool is not what was put there, as after a loss of power; then no sending will do.
fn is_broken(error: &anyhow::Error) -> bool {
    let is_servers = error.chain().any(<dyn std::error::Error>::is::<ClientError>);
    let is_unreadable = error.chain().any(|cause| cause.is::<serde_json::Error>() || cause.is::<ParcelError>());
    error.chain().any(<dyn std::error::Error>::is::<BrokenFrame>) || (is_unreadable && !is_servers)
}

async fn one(
    session: &Session,
    (client, shipper): (&Client, Option<&Shipper>),
    spool: &Spool,
    id: DumpId,
) -> anyhow::Result<About> {
    let about = spool.about(Stage::Caught, id).context("what is known of it cannot be read")?;
    let content = spool.content(Stage::Caught, id).context("it cannot be read")?;
    let manifest = content.0.encode();
    session.output.say(&format!("sending {} as {}", about.name, about.hash));
    let bar = bar(session, Some(content.0.extents.iter().map(|extent| extent.bytes).sum()));
    let sent = send(
        client,
        move |sink| {
            frames(&content, |frame, bytes, reached| sink(Packed { frame, bytes, reached }))
                .map_err(SplitError::Refused)
        },
        &progress(&bar),
    )
    .await;
    bar.finish_and_clear();
    sent?;
    let mut packs = Vec::new();
    if let Some(shipper) = shipper {
        // Before anybody looks into the dump, who would miss them.
        let named = about.properties.get("process").and_then(|process| process["modules"].as_array());
        let paths = named.into_iter().flatten().filter_map(|path| Some(path.as_str()?.to_owned()));
        match shipper.ship(&Apart { modules: paths.collect(), ..Apart::default() }).await {
            Ok(named) => packs = named,
            Err(told) => complain(session, &told),
        }
    }
    let digest = Digest::from_bytes(*blake3::hash(&manifest).as_bytes());
    client.manifest_put(digest, manifest.into()).await?;
    let new = NewDump {
        id: about.id,
        hash: about.hash.clone(),
        manifest: digest,
        kind: about.kind,
        is_truncated: about.is_truncated,
        name: about.name.clone(),
        facts: about.facts.clone(),
        execution: None,
        redaction: about.redaction.clone(),
        packs,
    };
    let arrived = client.dump_create(&new).await?;
    let properties =
        about.properties.clone().into_iter().filter(|(name, _)| !arrived.dump.properties.contains_key(name));
    let change = DumpChange { properties: properties.collect(), ..DumpChange::default() };
    for told in note_what_fits(client, &arrived.dump, change).await? {
        session.output.complain("warning:", &told);
    }
    Ok(about)
}
