//! `quarry dump packs`: what it takes to walk stacks through the modules of a dump, each sent once.
//!
//! A server that has never seen a machine's programs cannot unwind their stacks. So whoever has them makes a *pack* of
//! each (`dump::pack`), sends those that are missing, and names all of them with the dump, which is told by no others.
//! That this fails is no failure of the upload that it belongs to.
//!
//! Modules are read mapped: a file that somebody shortens meanwhile ends the process that reads it. Where that may be a
//! stranger's file, as with what was caught, it is a process of its own that is ended.

use crate::exit::Exit;
use crate::output::{Style, printable};
use crate::progress::doing;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use client::Client;
use dump::locate::{Sought, module};
use dump::{ModuleFile, Places};
use model::Digest;
use model::pack::{MAX_ASKED_PACKS, PackName, PackNames, check_build_id};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// How long the process that makes packs of strangers' modules may take.
const MAX_APART: Duration = Duration::from_secs(300);

/// Sends what it takes to walk stacks through the modules of dumps, as far as they are on this machine
///
/// `dump upload` does so by itself. What the server has is not sent again. Build id and path of what was sent are the result; how
/// many were there already, and of how many modules there is nothing to send, is said besides. With --json all are named.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump packs core.1234
  quarry dump packs --module /usr/bin/nginx")]
pub(crate) struct Packs {
    /// The dumps
    #[arg(value_name = "FILE", required_unless_present = "module")]
    files: Vec<PathBuf>,
    /// A module, such as a program or a library
    #[arg(long, value_name = "PATH")]
    module: Vec<PathBuf>,
}

impl Packs {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let mut found = Found::default();
        let mut exit = Exit::Ok;
        for path in self.files {
            match tokio::task::block_in_place(|| of_dump(&path)) {
                Ok(modules) => found.extend(modules),
                Err(error) => exit = exit.or(session.report(&error)),
            }
        }
        for path in &self.module {
            match tokio::task::block_in_place(|| of_path(path)) {
                Some((build_id, file)) => drop(found.here.insert(build_id, file)),
                None => found.away.push(path.display().to_string()),
            }
        }
        let bar = doing(session, "making packs, and sending what is missing");
        let sent = send(&client, found).await;
        bar.finish_and_clear();
        let sent = sent?;
        if session.output.is_json() {
            session.output.json(&sent)?;
            return Ok(exit);
        }
        for Pack { build_id, path, .. } in &sent.sent {
            session.output.line(&printable(&format!("{build_id} {path}")))?;
        }
        session.output.say(&sent.told());
        Ok(exit)
    }
}

/// The modules of dumps, or those that somebody named.
#[derive(Default)]
struct Found {
    /// Those that are on this machine, by build id.
    here: BTreeMap<String, ModuleFile>,
    /// The paths of those that are not, or not as they were, or have no build id.
    away: Vec<String>,
}

impl Found {
    fn extend(&mut self, other: Self) {
        self.here.extend(other.here);
        self.away.extend(other.away);
    }
}

/// A module's build id and its path, and the digest of its pack, if it has one.
#[derive(Debug, Serialize, Deserialize)]
struct Pack {
    build_id: String,
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
}

impl Pack {
    /// Makes the pack of a module to tell its digest, of which no more is kept: all of them may be long.
    fn of(build_id: &str, file: &ModuleFile) -> Self {
        let content = check_build_id(build_id).ok().and_then(|()| dump::pack::write(file).ok());
        let digest = content.map(|content| Digest::from_bytes(*blake3::hash(&content).as_bytes()));
        Self { build_id: build_id.to_owned(), path: file.path().display().to_string(), digest }
    }

    fn name(&self) -> Option<PackName> {
        Some(PackName { build_id: self.build_id.clone(), digest: self.digest? })
    }
}

/// What came of sending packs.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Came {
    /// Those that were sent.
    sent: Vec<Pack>,
    /// Those that were there already.
    known: Vec<Pack>,
    /// Modules that none is made of, such as those of 32 bits.
    unfit: Vec<Pack>,
    /// Modules that are not on this machine.
    missing: Vec<String>,
}

impl Came {
    /// Returns the names of as many packs as a dump may name.
    fn names(&self) -> Vec<PackName> {
        self.sent.iter().chain(&self.known).filter_map(Pack::name).take(MAX_ASKED_PACKS).collect()
    }

    /// Says it in a sentence.
    fn told(&self) -> String {
        let mut parts = vec![format!("{} sent", self.sent.len()), format!("{} there already", self.known.len())];
        if !self.unfit.is_empty() {
            parts.push(format!("none to be made of {}", self.unfit.len()));
        }
        if !self.missing.is_empty() {
            parts.push(format!("{} not on this machine", self.missing.len()));
        }
        format!("packs of modules: {}", parts.join(", "))
    }
}

/// Sends the packs of a dump's modules, and returns their names; that it does not work is said and no more.
pub(super) async fn ship(session: &Session, client: &Client, path: &Path) -> Vec<PackName> {
    let bar = doing(session, "sending what its stacks are walked by");
    let sent = match tokio::task::block_in_place(|| of_dump(path)) {
        Ok(modules) => send(client, modules).await,
        Err(error) => Err(error),
    };
    bar.finish_and_clear();
    match sent {
        Ok(came) => {
            if !came.sent.is_empty() {
                session.output.say(&format!("sent what {} modules are unwound by", came.sent.len()));
            }
            came.names()
        }
        Err(error) => {
            complain(session, &untold(&error));
            Vec::new()
        }
    }
}

/// What packs are made of by a process of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Apart {
    /// Dumps, whose modules are meant.
    pub(crate) dumps: Vec<PathBuf>,
    /// Modules.
    pub(crate) modules: Vec<String>,
}

/// Sends the packs of modules that may be anybody's, by a process of its own.
#[derive(Clone, Debug)]
pub(crate) struct Shipper {
    url: String,
    token: Option<String>,
    ca_file: Option<PathBuf>,
    tenant: Option<String>,
}

impl Shipper {
    /// Makes one that sends to a server, showing a token unless that is the stored one.
    pub(crate) fn new(session: &Session, (url, token): (&str, Option<&str>)) -> Self {
        let (ca_file, tenant) = (session.global.ca_file.clone(), session.global.tenant.clone());
        Self { url: url.to_owned(), token: token.map(str::to_owned), ca_file, tenant }
    }

    /// Sends packs, and returns their names, or why it did not work, in words.
    pub(crate) async fn ship(&self, of: &Apart) -> Result<Vec<PackName>, String> {
        if of.dumps.is_empty() && of.modules.is_empty() {
            return Ok(Vec::new());
        }
        self.work(of).await.map_err(|error| untold(&error))
    }

    async fn work(&self, of: &Apart) -> anyhow::Result<Vec<PackName>> {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.args(["--quiet", "--json", "--url", &self.url]);
        if let Some(token) = &self.token {
            command.env("QUARRY_TOKEN", token);
        }
        if let Some(file) = &self.ca_file {
            command.arg("--ca-file").arg(file);
        }
        if let Some(tenant) = &self.tenant {
            command.args(["--tenant", tenant]);
        }
        command.args(["dump", "packs"]);
        for path in of.modules.iter().filter(|path| path.starts_with('/')) {
            command.args(["--module", path]);
        }
        command.arg("--").args(&of.dumps);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(MAX_APART, command.output()).await.context("it took too long")??;
        anyhow::ensure!(ended.status.success(), "{}", ended.status);
        Ok(serde_json::from_slice::<Came>(&ended.stdout)?.names())
    }
}

/// Says on standard error that packs were not sent.
pub(crate) fn complain(session: &Session, told: &str) {
    let label = session.output.err_style(Style::Doubtful, "note:");
    session.output.complain(&label, told);
}

fn untold(error: &anyhow::Error) -> String {
    format!("what modules are unwound by was not sent: {error:#}")
}

/// Returns the modules of a dump that are on this machine, by build id.
fn of_dump(path: &Path) -> anyhow::Result<Found> {
    let cannot = || format!("the modules of `{}` cannot be told", path.display());
    let named = dump::mapped_modules(&std::fs::File::open(path).with_context(cannot)?).with_context(cannot)?;
    let mut found = Found::default();
    for (path, build_id) in named {
        let sought = Sought { path: &path, build_id: Some(&build_id), head: &[] };
        match module(&sought, &places()).file {
            Some(file) => drop(found.here.insert(hex(&build_id), file)),
            None => found.away.push(path),
        }
    }
    Ok(found)
}

/// Returns a module by its path, with its build id.
fn of_path(path: &Path) -> Option<(String, ModuleFile)> {
    let text = path.to_str()?;
    let file = module(&Sought { path: text, ..Sought::default() }, &places()).file?;
    Some((hex(file.build_id()?), file))
}

fn places() -> Places {
    Places { roots: vec!["/".into()], ..Places::default() }
}

/// Sends those packs that are missing, and returns what came of it.
async fn send(client: &Client, found: Found) -> anyhow::Result<Came> {
    let mut came = Came { missing: found.away, ..Came::default() };
    let made = || found.here.iter().map(|(id, file)| Pack::of(id, file)).collect::<Vec<_>>();
    let made = tokio::task::block_in_place(made);
    let (mut packs, unfit): (Vec<_>, Vec<_>) = made.into_iter().partition(|pack| pack.digest.is_some());
    came.unfit = unfit;
    while !packs.is_empty() {
        let some = packs.split_off(packs.len().saturating_sub(MAX_ASKED_PACKS));
        let asked = PackNames { packs: some.iter().filter_map(Pack::name).collect() };
        let missing: HashSet<_> = client.packs_missing(&asked).await?.missing.into_iter().collect();
        for mut pack in some {
            let is_missing = pack.name().is_some_and(|name| missing.contains(&name));
            let Some(file) = found.here.get(&pack.build_id).filter(|_| is_missing) else {
                came.known.push(pack);
                continue;
            };
            let content = tokio::task::block_in_place(|| dump::pack::write(file))?;
            // A file that was changed meanwhile has another pack, which is as good.
            pack.digest = Some(client.pack_put(&pack.build_id, content.into()).await?.digest);
            came.sent.push(pack);
        }
    }
    Ok(came)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
