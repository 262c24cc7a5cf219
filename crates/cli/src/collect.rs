//! `quarry collect`: what lies about on a machine brought to the server, each dump once.
//!
//! Of each file the head is read here, which tells what it is and mostly names it; the server is asked; only what it does
//! not have is sent, and of that only the frames that are missing. So it may run every hour, break off and be begun again.
//! Files are never removed or changed. One runs at a time on a machine, by a lock that nobody who has died can keep.

mod candidate;

use crate::dump::note::note_what_fits;
use crate::dump::object::named;
use crate::dump::packing::Packing;
use crate::dump::packs::{Apart, Shipper, complain};
use crate::dump::parcels::send;
use crate::dump::redaction::{LeftOut, left_out};
use crate::dump::upload::{announce, is_as_full, there, told_by};
use crate::exit::{Exit, Failure, Told};
use crate::output::printable;
use crate::progress::bar;
use crate::quantity;
use crate::session::Session;
use anyhow::Context;
use candidate::{Candidate, Sort, find, machine};
use clap::Args;
use client::Client;
use dump::parcel::{Packed, Split, SplitError, split_file_by, split_stream_by};
use dump::redact::RedactionRules;
use dump::{MAX_HEAD_BYTES, is_no_dump, kind};
use indicatif::ProgressBar;
use jiff::SignedDuration;
use model::Dump;
use model::dump::{Arrival, DumpChange, DumpState};
use node::parcel::Sent;
use rustix::fs::OFlags;
use serde_json::json;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Where dumps usually are; those of these folders that are not there are passed over.
const USUAL_FOLDERS: [&str; 4] = ["/var/lib/systemd/coredump", "/var/crash", "/var/cores", "/cores"];

/// Brings the dumps that lie about on this machine to the server
///
/// Without folders it looks where systemd-coredump and others keep them. Begin with --dry-run: it reads, names and asks as
/// ever, and sends nothing. What is called like a dump and is none is passed over.
#[derive(Args)]
#[command(after_help = "Example:
  quarry collect --dry-run
  quarry collect /var/lib/systemd/coredump /srv/cores --parallel 8
  quarry collect --type nginx")]
pub(crate) struct Collect {
    /// The folders, and what is in them
    #[arg(value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// Say what would be uploaded, and upload nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// How many are uploaded at once
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    parallel: u8,
    /// A file of rules (docs/redaction.md) that say what is left out of dumps before anything is sent; a dump in which it
    /// cannot be found is not sent
    #[arg(long, value_name = "RULES")]
    redact: Option<PathBuf>,
    /// Do not send what it takes to walk stacks through the modules of dumps that are found on this machine
    #[arg(long = "no-packs")]
    no_packs: bool,
    /// Only these: `core`, `crash` (of a machine), whatever they are called, or those of a program of this name
    #[arg(short, long = "type", value_name = "TYPE")]
    sort: Option<String>,
    /// The file that is locked meanwhile
    #[arg(short, long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Begin no more after this time
    #[arg(short = 'D', long, value_name = "TIME", default_value = "6h", value_parser = quantity::duration)]
    deadman: SignedDuration,
    /// Give up a dump after this time
    #[arg(short = 'e', long, value_name = "TIME", default_value = "10m", value_parser = quantity::duration)]
    timeout: SignedDuration,
}

/// What came of a file.
enum Done {
    Known,
    Would,
    Uploaded(Sent),
    /// Another program's, or another sort.
    Passed,
    /// It is nothing that anybody could look into.
    NoDump,
}

/// What a file's head tells.
struct Named {
    hash: String,
    /// The command, as the dump itself names it.
    cmd: Option<String>,
    /// How long the dump is, unless that takes unpacking it.
    size: Option<u64>,
    is_truncated: bool,
    packing: Packing,
}

/// A failure, and what was being done.
struct Failed(&'static str, anyhow::Error);

/// What all uploads share.
struct Work {
    client: Client,
    machine: serde_json::Value,
    program: Option<String>,
    sort: Option<Sort>,
    is_dry: bool,
    timeout: Duration,
    left_out: LeftOut,
    shipper: Option<Shipper>,
    bar: ProgressBar,
}

impl Collect {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let _lock = lock(self.lock.as_deref())?;
        let begun = Instant::now();
        let (candidates, mut exit) = self.find(session)?;
        let all = candidates.len();
        let bar = bar(session, Some(candidates.iter().map(|candidate| candidate.bytes).sum()));
        let is_sort = |sort: &str| matches!(sort, "core" | "crash" | "all");
        let token = session.global.token.as_deref();
        let shipper = (!self.no_packs).then(|| Shipper::new(session, (client.url(), token)));
        let work = Arc::new(Work {
            shipper,
            client,
            machine: machine(),
            program: self.sort.clone().filter(|sort| !is_sort(sort)),
            sort: match self.sort.as_deref() {
                Some("core") => Some(Sort::Core),
                Some("crash") => Some(Sort::Crash),
                _ => None,
            },
            is_dry: self.dry_run,
            timeout: self.timeout.unsigned_abs(),
            left_out: self.redact.as_deref().map(left_out).transpose()?,
            bar: bar.clone(),
        });
        let (mut waiting, mut running) = (candidates.into_iter(), JoinSet::new());
        let mut counts = Counts::default();
        loop {
            let goes_on = exit != Exit::Unreachable && begun.elapsed() < self.deadman.unsigned_abs();
            while goes_on && running.len() < usize::from(self.parallel) {
                let Some(candidate) = waiting.next() else { break };
                let work = Arc::clone(&work);
                running.spawn(async move {
                    let (begun, mut said) = (Instant::now(), Vec::new());
                    let done = work.timed(&candidate, &mut said).await;
                    (candidate, done, said, begun.elapsed())
                });
            }
            let Some(finished) = running.join_next().await else { break };
            let (candidate, done, said, took) = finished.context("an upload ended in a panic")?;
            work.bar.suspend(|| {
                said.iter().for_each(|told| complain(session, told));
                counts.note(session, &candidate, &done, took)
            })?;
            if let Err(Failed(_, error)) = &done {
                let is_away = Told::of(error).is_some_and(|told| told.exit == Exit::Unreachable);
                exit = if is_away { Exit::Unreachable } else { exit.or(Exit::Failed) };
            }
        }
        bar.finish_and_clear();
        counts.left = waiting.len() as u64;
        if counts.left > 0 {
            exit = exit.or(Exit::Failed);
        }
        counts.tell(session, all, begun.elapsed())?;
        Ok(exit)
    }

    fn find(&self, session: &Session) -> anyhow::Result<(Vec<Candidate>, Exit)> {
        let usual = USUAL_FOLDERS.iter().map(PathBuf::from).filter(|folder| folder.exists());
        let folders: Vec<_> = if self.folders.is_empty() { usual.collect() } else { self.folders.clone() };
        let (mut found, mut exit) = (Vec::new(), Exit::Ok);
        for folder in folders {
            for (folder, error) in find(&folder, &mut found) {
                let error =
                    anyhow::Error::new(error).context(format!("`{}` cannot be looked through", folder.display()));
                exit = exit.or(session.report(&error));
            }
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        found.dedup_by(|one, other| one.path == other.path);
        Ok((found, exit))
    }
}

impl Work {
    async fn timed(&self, candidate: &Candidate, said: &mut Vec<String>) -> Result<Done, Failed> {
        let until = Instant::now() + self.timeout;
        let done = tokio::time::timeout_at(until.into(), self.bring(candidate, until, said)).await;
        done.unwrap_or_else(|_| Err(Failed("timeout", anyhow::anyhow!("it took longer than {:?}", self.timeout))))
    }

    async fn bring(&self, candidate: &Candidate, until: Instant, said: &mut Vec<String>) -> Result<Done, Failed> {
        let at = |stage| move |error: anyhow::Error| Failed(stage, error);
        let opened = candidate.open().map_err(at("open"))?;
        let told = candidate::Told::of(candidate, &opened);
        let is_asked_for = |cmd: Option<&str>| {
            self.program.as_deref().is_none_or(|name| cmd == Some(name) || told.is_of(name, candidate))
        };
        // Of what turns out to be another program's nothing is said.
        let mut heard = Vec::new();
        let named = match self.name(candidate, &opened, until, &mut heard).await {
            Err(_) if !is_asked_for(None) => return Ok(Done::Passed),
            named => named.map_err(at("hash"))?,
        };
        if !is_asked_for(named.as_ref().ok().and_then(|named| named.cmd.as_deref())) {
            return Ok(Done::Passed);
        }
        said.append(&mut heard);
        let named = match named {
            Ok(named) => named,
            Err(done) => return Ok(done),
        };
        let found = there(&self.client, &named.hash).await.map_err(|error| Failed("ask", error.into()))?;
        let is_enough = |found: &Dump| match named.size {
            // What somebody removed, or a rule, was there: it does not come back by itself.
            _ if found.state == DumpState::Purged => true,
            Some(size) => is_as_full(found, size, named.is_truncated),
            // Only what is unpacked has a length; what is there whole is enough.
            None => found.manifest.is_some() && !found.is_truncated,
        };
        if let Some(found) = found.filter(is_enough) {
            if !self.is_dry && found.state != DumpState::Purged {
                said.extend(self.note(&found, &told).await.map_err(at("note"))?);
            }
            return Ok(Done::Known);
        }
        if self.is_dry {
            self.try_rules(opened, named.packing, until).await.map_err(at("upload"))?;
            return Ok(Done::Would);
        }
        self.ship((candidate, &told), opened, (named.packing, until), said).await
    }

    /// Makes sure that rules would not keep a dump from being sent.
    async fn try_rules(&self, opened: File, packing: Packing, until: Instant) -> anyhow::Result<()> {
        let Some(rules) = self.left_out.clone() else { return Ok(()) };
        let split = move || split(&opened, (packing, until), Some(&rules), &mut |_| Ok(()));
        tokio::task::spawn_blocking(split).await??;
        Ok(())
    }

    /// Sends what the server lacks of a dump, and makes the dump known.
    async fn ship(
        &self,
        (candidate, told): (&Candidate, &candidate::Told),
        opened: File,
        (packing, until): (Packing, Instant),
        said: &mut Vec<String>,
    ) -> Result<Done, Failed> {
        let at = |stage| move |error: anyhow::Error| Failed(stage, error);
        let bytes = candidate.bytes;
        let (bar, moved, rules) = (self.bar.clone(), AtomicU64::new(0), self.left_out.clone());
        let progress: client::blob::Progress = Arc::new(move |reached| {
            let reached = if packing == Packing::None { reached.min(bytes) } else { 0 };
            bar.inc(reached.saturating_sub(moved.fetch_max(reached, Ordering::Relaxed)));
        });
        let sent = send(&self.client, move |sink| split(&opened, (packing, until), rules.as_deref(), sink), &progress);
        let (split, sent) = sent.await.map_err(at("upload"))?;
        let mut packs = Vec::new();
        if let Some(shipper) = &self.shipper {
            // Before anybody looks into the dump, who would miss them.
            match shipper.ship(&modules((candidate, packing), told)).await {
                Ok(named) => packs = named,
                Err(why) => said.push(why),
            }
        }
        let facts = told.facts.clone().or(told_by(&split.head, self.left_out.as_deref()));
        let facts = (candidate.name.as_str(), facts, packs);
        let arrived = announce(&self.client, &split, facts).await.map_err(at("upload"))?;
        said.extend(self.note(&arrived.dump, told).await.map_err(at("note"))?);
        Ok(match arrived.arrival {
            Arrival::Known if sent.frames == 0 => Done::Known,
            _ => Done::Uploaded(sent),
        })
    }

    /// Finds out what a file is and what it is called there; what came of it already, if it is not what is sought.
    async fn name(
        &self,
        candidate: &Candidate,
        opened: &File,
        until: Instant,
        said: &mut Vec<String>,
    ) -> anyhow::Result<Result<Named, Done>> {
        let (file, name) = (opened.try_clone()?, candidate.file_name());
        let read = move || {
            let (packing, told) = Packing::of_file(&name, &file)?;
            let mut begin = Vec::new();
            packing.open(&file, until)?.take(MAX_HEAD_BYTES as u64).read_to_end(&mut begin)?;
            if is_no_dump(&begin) {
                return Ok(Err(Done::NoDump));
            }
            let size = (packing == Packing::None).then_some(file.metadata()?.len());
            anyhow::Ok(Ok((told, packing, size, kind(&begin), file)))
        };
        let (told, packing, size, kind, file) = match tokio::task::spawn_blocking(read).await?? {
            Ok(read) => read,
            Err(done) => return Ok(Err(done)),
        };
        let sort = Sort::of(kind).unwrap_or(candidate.sort);
        if let Some(wanted) = self.sort.filter(|wanted| *wanted != sort) {
            if candidate.sort == wanted {
                said.push(format!("`{}` is not what its name says, but {}", candidate.path.display(), sort.word()));
            }
            return Ok(Err(Done::Passed));
        }
        said.extend(told);
        let (head, hash) = tokio::task::spawn_blocking(move || named(&file, packing, until)).await??;
        let is_truncated = size.is_some_and(|size| head.end > size);
        Ok(Ok(Named { hash, cmd: head.facts.cmd, size, is_truncated, packing }))
    }

    /// Notes what is not noted yet, and returns what there was no room for; what somebody noted stays.
    async fn note(&self, dump: &Dump, told: &candidate::Told) -> anyhow::Result<Vec<String>> {
        let mut change = DumpChange { properties: told.properties.clone(), ..DumpChange::default() };
        change.properties.insert("sysinfo".to_owned(), self.machine.clone());
        change.properties.retain(|name, _| !dump.properties.contains_key(name));
        change.ticket = told.ticket.clone().filter(|_| dump.ticket.is_none()).map(Some);
        Ok(note_what_fits(&self.client, dump, change).await?)
    }
}

/// Returns by what the modules of a dump are found: the dump itself, or of one that is packed only its program.
fn modules((candidate, packing): (&Candidate, Packing), told: &candidate::Told) -> Apart {
    match packing {
        Packing::None => Apart { dumps: vec![candidate.path.clone()], modules: Vec::new() },
        _ => Apart { dumps: Vec::new(), modules: told.program.clone().into_iter().collect() },
    }
}

/// Cuts a dump, whatever it is packed in.
fn split(
    opened: &File,
    (packing, until): (Packing, Instant),
    rules: Option<&RedactionRules>,
    sink: &mut dyn FnMut(Packed) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
) -> Result<Split, SplitError> {
    match packing {
        Packing::None => split_file_by(opened, rules, sink),
        _ => split_stream_by(packing.open(opened, until).map_err(SplitError::Unreadable)?, rules, sink),
    }
}

/// Takes the lock; who has died holds none.
fn lock(path: Option<&Path>) -> anyhow::Result<File> {
    let usual = || match rustix::process::geteuid().is_root() {
        true => PathBuf::from("/run/quarry-collect.lock"),
        false => std::env::temp_dir().join(format!("quarry-collect.{}.lock", rustix::process::geteuid().as_raw())),
    };
    let path = path.map_or_else(usual, Path::to_owned);
    let mut options = OpenOptions::new();
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(no_follow);
    let file = options.open(&path).with_context(|| format!("`{}` cannot be locked", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let message = format!("another one collects: `{}` is locked", path.display());
            Err(Failure::new(Exit::Refused, "already_collecting", message).into())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("`{}` cannot be locked", path.display())),
    }
}

/// What came of all files.
#[derive(Default)]
struct Counts {
    uploaded: u64,
    known: u64,
    would: u64,
    would_bytes: u64,
    no_dumps: u64,
    failed: u64,
    sent_bytes: u64,
    left: u64,
}

impl Counts {
    /// Counts a file, and tells what came of it.
    fn note(
        &mut self,
        session: &mut Session,
        file: &Candidate,
        done: &Result<Done, Failed>,
        took: Duration,
    ) -> std::io::Result<()> {
        let (word, text) = match done {
            Ok(Done::Passed) => return Ok(()),
            Ok(Done::NoDump) => {
                self.no_dumps += 1;
                ("no_dump", "no dump".to_owned())
            }
            Ok(Done::Known) => {
                self.known += 1;
                ("known", "already uploaded".to_owned())
            }
            Ok(Done::Would) => {
                self.would += 1;
                self.would_bytes += file.bytes;
                ("would_upload", format!("would upload {} ({})", file.name, quantity::bytes_text(file.bytes)))
            }
            Ok(Done::Uploaded(sent)) => {
                self.uploaded += 1;
                self.sent_bytes += sent.bytes;
                ("uploaded", format!("succeeded in {}", spent(took)))
            }
            Err(Failed(stage, error)) => {
                self.failed += 1;
                ("failed", format!("failed ({stage}): {error:#}"))
            }
        };
        match session.output.is_json() {
            true => session.output.json_line(&json!({
                "file": file.path, "bytes": file.bytes, "result": word, "text": text,
                "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            })),
            // Names are whoever's who left the file there.
            false => session.output.line(&printable(&format!("{}: {text}", file.path.display()))),
        }
    }

    fn tell(&self, session: &mut Session, all: usize, took: Duration) -> std::io::Result<()> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        if session.output.is_json() {
            return session.output.json_line(&json!({
                "node": host, "found": all, "uploaded": self.uploaded, "known": self.known, "failed": self.failed,
                "no_dump": self.no_dumps, "would_upload": self.would, "would_bytes": self.would_bytes, "sent_bytes": self.sent_bytes,
                "left": self.left, "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            }));
        }
        let mut parts = vec![format!("{} already uploaded", self.known), format!("{} failed", self.failed)];
        if self.no_dumps > 0 {
            parts.push(format!("{} no {}", self.no_dumps, if self.no_dumps == 1 { "dump" } else { "dumps" }));
        }
        if self.would > 0 {
            parts.insert(0, format!("would upload {} ({})", self.would, quantity::bytes_text(self.would_bytes)));
        } else {
            parts.insert(0, format!("{} uploaded ({} sent)", self.uploaded, quantity::bytes_text(self.sent_bytes)));
        }
        if self.left > 0 {
            parts.push(format!("{} left for the next time", self.left));
        }
        session.output.line(&format!("{host}: {} in {}", parts.join(", "), spent(took)))
    }
}

/// Writes how long something took: `0h0m3s`.
fn spent(took: Duration) -> String {
    let seconds = took.as_secs();
    format!("{}h{}m{}s", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}
