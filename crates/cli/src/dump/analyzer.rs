//! `quarry dump analyzer` and `analyzers`: scripts that look at dumps, stored under a name, shown, set, removed, listed.

use crate::blob;
use crate::exit::{Exit, Failure};
use crate::list::{ListArgs, list};
use crate::quantity;
use crate::session::Session;
use crate::thoth;
use anyhow::Context;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use client::Client;
use jiff::SignedDuration;
use model::analyzer::{
    Analyzer as Entity, AnalyzerChange, AnalyzerStored, AnalyzerVersion, MAX_ANALYZER_BYTES, Storing, StudyLimits,
    check_name,
};
use model::{ErrorKind, PageQuery};
use rustix::fs::FileType;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use tokio::io::AsyncReadExt;

/// Stores what standard input holds as an analyzer, or shows one
///
/// Each content is a version; `dump analyze` runs the current one. At a terminal, where nothing stands on standard input,
/// the analyzer is shown. A script without `#!` is run by bash; docs/analyzers.md says what it finds there.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump analyzer fmri < fmri.sh
  quarry dump analyzer fmri --show
  quarry dump analyzer fmri --versions
  quarry dump analyzer fmri --show --version 2 | quarry dump analyzer fmri
  quarry dump analyzer fmri --memory 2G --time 5m
  quarry dump analyzer fmri --on-arrival cmd=svc*
  quarry dump analyzer fmri --rm")]
pub(crate) struct Analyzer {
    /// Its name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Read it from a file rather than from standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["show", "rm"])]
    file: Option<PathBuf>,
    /// Write it to standard output
    #[arg(long, conflicts_with = "rm")]
    show: bool,
    /// Show this version rather than the current one
    #[arg(long, value_name = "N", requires = "show", value_parser = clap::value_parser!(u32).range(1..))]
    version: Option<u32>,
    /// List its versions, the newest first
    #[arg(long, conflicts_with_all = ["show", "rm", "file", "memory", "time", "on_arrival", "no_arrival"])]
    versions: bool,
    /// Remove it, its versions, and what is remembered of their studies
    #[arg(long)]
    rm: bool,
    /// Memory that it may use for one dump, such as `2G`
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes, conflicts_with_all = ["show", "rm"])]
    memory: Option<u64>,
    /// Time that it may take for one dump, such as `5m`
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, conflicts_with_all = ["show", "rm"])]
    time: Option<SignedDuration>,
    /// Run it by itself on each new dump that this specification means, once that has been analysed
    #[arg(long, value_name = "SPECIFICATION", conflicts_with_all = ["show", "rm"])]
    on_arrival: Vec<String>,
    /// Do not run it by itself any more
    #[arg(long, conflicts_with_all = ["show", "rm", "on_arrival"])]
    no_arrival: bool,
}

/// Lists the analyzers
#[derive(Args)]
#[command(after_help = "Example:\n  quarry dump analyzers")]
pub(crate) struct Analyzers {
    #[command(flatten)]
    args: ListArgs,
}

impl Analyzer {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        check_name(&self.name)?;
        let client = session.client()?;
        if self.rm {
            let removed = client.analyzer_remove(&self.name).await?;
            session.output.say(&format!("removed analyzer '{}'", removed.name));
            return Ok(Exit::Ok);
        }
        if self.versions {
            return versions(session, &client, &self.name).await;
        }
        let settings = self.settings(&client).await?;
        let has_settings = settings != AnalyzerChange::default();
        if self.show || (self.file.is_none() && !has_settings && nobody_writes()) {
            return show(session, &client, (&self.name, self.version)).await;
        }
        let content = self.content(session, has_settings).await?;
        let script = match content {
            Some(content) => Some(blob::put_bytes(&client, content).await?),
            None => None,
        };
        let stored = client.analyzer_put(&self.name, &AnalyzerChange { script, ..settings }).await?;
        told(session, &stored)
    }

    /// Returns what is said of it besides its content.
    async fn settings(&self, client: &Client) -> anyhow::Result<AnalyzerChange> {
        let mut change = AnalyzerChange::default();
        if self.memory.is_some() || self.time.is_some() {
            // One of the two alone leaves the other as it is.
            let mut limits = match client.analyzer_get(&self.name).await {
                Ok(analyzer) => analyzer.limits,
                Err(error) if error.api().is_some_and(|error| error.kind == ErrorKind::NotFound) => {
                    StudyLimits::default()
                }
                Err(error) => return Err(error.into()),
            };
            limits.memory_bytes = self.memory.unwrap_or(limits.memory_bytes);
            if let Some(time) = self.time {
                limits.wall_ms = u64::try_from(time.as_millis()).unwrap_or(0);
            }
            change.limits = Some(limits);
        }
        if self.no_arrival {
            change.on_arrival = Some(None);
        } else if !self.on_arrival.is_empty() {
            let words = self.on_arrival.iter().flat_map(|words| words.split_whitespace()).map(str::to_owned);
            change.on_arrival = Some(Some(words.collect()));
        }
        change.check()?;
        Ok(change)
    }

    /// Returns the content that it shall have, if any is given.
    async fn content(&self, session: &Session, has_settings: bool) -> anyhow::Result<Option<Vec<u8>>> {
        let mut content = Vec::new();
        if let Some(path) = &self.file {
            let cannot = || format!("`{}` cannot be read", path.display());
            let file = tokio::fs::File::open(path).await.with_context(cannot)?;
            file.take(MAX_ANALYZER_BYTES + 1).read_to_end(&mut content).await.with_context(cannot)?;
        } else if nobody_writes() {
            return Ok(None);
        } else {
            tokio::io::stdin().take(MAX_ANALYZER_BYTES + 1).read_to_end(&mut content).await?;
            if content.is_empty() && has_settings {
                return Ok(None);
            }
            session.output.say(&format!("reading analyzer '{}' from stdin", self.name));
        }
        if content.is_empty() || content.len() as u64 > MAX_ANALYZER_BYTES {
            let message = format!("an analyzer has 1 to {MAX_ANALYZER_BYTES} bytes");
            let failure = Failure::usage("analyzer_invalid", message);
            return Err(failure.hint(format!("`quarry dump analyzer {} --rm` removes it", self.name)).into());
        }
        Ok(Some(content))
    }
}

/// Tells whether standard input is a terminal, or what is always empty.
fn nobody_writes() -> bool {
    let stdin = io::stdin();
    let is_null = |stat: rustix::fs::Stat| {
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        is_device && rustix::fs::major(stat.st_rdev) == 1 && rustix::fs::minor(stat.st_rdev) == 3
    };
    stdin.is_terminal() || rustix::fs::fstat(stdin).map_or(true, is_null)
}

async fn show(session: &mut Session, client: &Client, (name, version): (&str, Option<u32>)) -> anyhow::Result<Exit> {
    let (told, script) = match version {
        None => {
            let analyzer = client.analyzer_get(name).await?;
            (serde_json::to_value(&analyzer)?, analyzer.script)
        }
        Some(version) => {
            let version = find(client, name, version).await?;
            (serde_json::to_value(&version)?, version.script)
        }
    };
    if session.output.is_json() {
        session.output.json(&told)?;
        return Ok(Exit::Ok);
    }
    let mut reader = client.blob_get(script, None).await?;
    while let Some(piece) = reader.next().await? {
        session.output.bytes(&piece)?;
    }
    Ok(Exit::Ok)
}

/// Finds one version of an analyzer.
async fn find(client: &Client, name: &str, version: u32) -> anyhow::Result<AnalyzerVersion> {
    // It is the newest of those that come before the next.
    let query = PageQuery { after: version.checked_add(1).map(|next| next.to_string()), limit: Some(1), tenant: None };
    let found = client.analyzer_versions(name, &query).await?.items.into_iter().find(|found| found.version == version);
    found.ok_or_else(|| {
        let message = format!("analyzer `{name}` has no version {version}");
        let failure = Failure::new(Exit::NotFound, "version_not_found", message);
        failure.hint(format!("`quarry dump analyzer {name} --versions` lists them")).into()
    })
}

async fn versions(session: &mut Session, client: &Client, name: &str) -> anyhow::Result<Exit> {
    let current = client.analyzer_get(name).await?.version;
    let head = ["version", "current", "by", "when", "size", "digest"];
    let row = |version: &AnalyzerVersion, session: &Session| {
        vec![
            version.version.to_string(),
            if version.version == current { "yes" } else { "-" }.to_owned(),
            version.by.clone(),
            session.output.time(version.created_at),
            quantity::bytes_text(version.size),
            version.script.to_string(),
        ]
    };
    let fetch = async |after, limit| client.analyzer_versions(name, &PageQuery { after, limit, tenant: None }).await;
    list(session, ListArgs::all(), &head, row, fetch).await
}

fn told(session: &mut Session, stored: &AnalyzerStored) -> anyhow::Result<Exit> {
    let Entity { name, version, .. } = &stored.analyzer;
    if session.output.is_json() {
        session.output.json(&stored.analyzer)?;
    }
    session.output.say(&match stored.storing {
        Storing::Added => format!("added analyzer '{name}'"),
        Storing::Changed => format!("changed analyzer '{name}', which is version {version} now"),
        Storing::Same => format!("analyzer '{name}' is version {version} already"),
    });
    Ok(Exit::Ok)
}

/// Lists all analyzers by the paths that they had in Thoth.
async fn paths(session: &mut Session, client: &Client) -> anyhow::Result<Exit> {
    let mut after = None;
    loop {
        let page = client.analyzer_list(&PageQuery { after, limit: None, tenant: None }).await?;
        for analyzer in &page.items {
            session.output.line(&format!("{}{}", thoth::ANALYZERS, analyzer.name))?;
        }
        after = page.next;
        if after.is_none() {
            return Ok(Exit::Ok);
        }
    }
}

impl Analyzers {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        if thoth::is_called(std::env::args_os().next().as_deref()) && !session.output.is_json() {
            return paths(session, &client).await;
        }
        let head = ["name", "version", "by", "when", "memory", "time", "on arrival"];
        let row = |analyzer: &Entity, session: &Session| {
            let arrival = analyzer.on_arrival.as_ref().map_or_else(|| "-".to_owned(), |words| words.join(" "));
            vec![
                analyzer.name.clone(),
                analyzer.version.to_string(),
                analyzer.by.clone(),
                session.output.time(analyzer.created_at),
                quantity::bytes_text(analyzer.limits.memory_bytes),
                quantity::ms_text(analyzer.limits.wall_ms),
                arrival,
            ]
        };
        let fetch = async |after, limit| client.analyzer_list(&PageQuery { after, limit, tenant: None }).await;
        list(session, self.args, &head, row, fetch).await
    }
}
