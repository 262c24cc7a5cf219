//! `quarry dump packs`: what it takes to walk stacks through the modules of a dump, each sent once.
//!
//! A server that has never seen a machine's programs cannot unwind their stacks. So whoever has them makes a *pack* of each
//! (`dump::pack`), sends those that are missing, and names all of them with the dump, which is told by no others. That this fails is no failure of the upload that it belongs to.
//!
//! Modules are read mapped: a file that somebody shortens meanwhile ends the process that reads it. Where that may be a
//! stranger's file, as with what was caught, it is a process of its own that is ended.

use crate::exit::Exit;
use crate::output::Style;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use client::Client;
use dump::locate::{Sought, module};
use dump::{ModuleFile, Places};
use model::Digest;
use model::pack::{MAX_ASKED_PACKS, PackName, PackNames, check_build_id};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// How long the process that makes packs of strangers' modules may take.
const MAX_APART: Duration = Duration::from_secs(300);

/// Sends what it takes to walk stacks through the modules of dumps, as far as they are on this machine
///
/// `dump upload` does so by itself. What the server has is not sent again.
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
        let mut found = BTreeMap::new();
        let mut exit = Exit::Ok;
        for path in self.files {
            match tokio::task::block_in_place(|| of_dump(&path)) {
                Ok(modules) => found.extend(modules),
                Err(error) => exit = exit.or(session.report(&error)),
            }
        }
        found.extend(tokio::task::block_in_place(|| {
            self.module.iter().filter_map(|path| of_path(path)).collect::<Vec<_>>()
        }));
        let packs = send(&client, found).await?;
        for pack in &packs {
            match session.output.is_json() {
                true => session.output.json_line(pack)?,
                false if pack.is_new => {
                    session.output.line(&format!("{} {}", pack.name.build_id, pack.path.display()))?;
                }
                false => {}
            }
        }
        let (sent, there) = counts(&packs);
        session.output.say(&match (sent, there) {
            (0, 0) => "no module is on this machine that packs are made of".to_owned(),
            (0, there) => format!("nothing to send: the server has the packs of {there} modules"),
            (sent, 0) => format!("sent the packs of {sent} modules"),
            (sent, there) => format!("sent the packs of {sent} modules; those of {there} were there"),
        });
        Ok(exit)
    }
}

/// A pack that the server has now.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Packed {
    #[serde(flatten)]
    name: PackName,
    /// Of which file.
    path: PathBuf,
    /// Whether it was sent.
    is_new: bool,
}

/// Returns how many packs were sent, and how many were there.
fn counts(packs: &[Packed]) -> (usize, usize) {
    let sent = packs.iter().filter(|pack| pack.is_new).count();
    (sent, packs.len() - sent)
}

/// Sends the packs of a dump's modules, and returns their names; that it does not work is said and no more.
pub(super) async fn ship(session: &Session, client: &Client, path: &Path) -> Vec<PackName> {
    let sent = match tokio::task::block_in_place(|| of_dump(path)) {
        Ok(modules) => send(client, modules).await,
        Err(error) => Err(error),
    };
    match sent {
        Ok(packs) => {
            let (sent, _) = counts(&packs);
            if sent > 0 {
                session.output.say(&format!("sent what {sent} modules are unwound by"));
            }
            names(packs)
        }
        Err(error) => {
            complain(session, &untold(&error));
            Vec::new()
        }
    }
}

/// Returns the names of as many packs as a dump may name.
fn names(packs: Vec<Packed>) -> Vec<PackName> {
    packs.into_iter().map(|pack| pack.name).take(MAX_ASKED_PACKS).collect()
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
        let packs = serde_json::Deserializer::from_slice(&ended.stdout).into_iter::<Packed>();
        Ok(names(packs.collect::<Result<_, _>>()?))
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
fn of_dump(path: &Path) -> anyhow::Result<BTreeMap<String, ModuleFile>> {
    let cannot = || format!("the modules of `{}` cannot be told", path.display());
    let named = dump::mapped_modules(&std::fs::File::open(path).with_context(cannot)?).with_context(cannot)?;
    let find = |(path, build_id): (String, Vec<u8>)| {
        let sought = Sought { path: &path, build_id: Some(&build_id), head: &[] };
        Some((hex(&build_id), module(&sought, &places()).file?))
    };
    Ok(named.into_iter().filter_map(find).collect())
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

/// Sends those packs that are missing, and returns all.
async fn send(client: &Client, modules: BTreeMap<String, ModuleFile>) -> anyhow::Result<Vec<Packed>> {
    // Of each only its digest is kept, and it is written again if it is missing: all of them may be long.
    let named = |(build_id, file): (&String, &ModuleFile)| {
        check_build_id(build_id).ok()?;
        // What packs are not made of, such as 32-bit modules, is left out.
        let digest = Digest::from_bytes(*blake3::hash(&dump::pack::write(file).ok()?).as_bytes());
        let name = PackName { build_id: build_id.clone(), digest };
        Some(Packed { name, path: file.path().to_owned(), is_new: false })
    };
    let mut packs: Vec<_> = tokio::task::block_in_place(|| modules.iter().filter_map(named).collect());
    for packs in packs.chunks_mut(MAX_ASKED_PACKS) {
        let asked = PackNames { packs: packs.iter().map(|pack| pack.name.clone()).collect() };
        let missing = client.packs_missing(&asked).await?.missing;
        for pack in packs.iter_mut().filter(|pack| missing.contains(&pack.name)) {
            let Some(file) = modules.get(&pack.name.build_id) else { continue };
            let content = tokio::task::block_in_place(|| dump::pack::write(file))?;
            // A file that was changed meanwhile has another pack, which is as good.
            pack.name.digest = client.pack_put(&pack.name.build_id, content.into()).await?.digest;
            pack.is_new = true;
        }
    }
    Ok(packs)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
