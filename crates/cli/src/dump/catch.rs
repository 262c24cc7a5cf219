//! `quarry dump catch`: what the kernel starts, or connects to, when a program crashes.
//!
//! It may run as root while the program that crashed is held, so it does little: a look at `/proc`, one pass over the core
//! into the spool, an entry in the accounts. Nothing is parsed beyond the core's headers, no server is asked, and it ends at
//! a deadline. `quarry dump send` brings what was caught to a server later (`deliver.rs`).

mod account;
mod crash;
mod intake;
mod settings;
mod socket;
pub(super) mod spool;

pub(super) use settings::{Settings, SettingsArgs};
pub(super) use socket::MAX_AT_ONCE;
pub(super) use spool::{Spool, Stage};

use crate::exit::{Exit, Failure};
use crate::output::{Output, Style, printable};
use crate::quantity;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use crash::Crash;
use intake::{Taken, admit, take};
use serde_json::json;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinSet};

/// Takes in the core of a program that crashed; what the kernel starts
///
/// Options stand before the words, since a word may look like one.
///
/// The core comes on standard input, and the words are those that the kernel makes of `%P %u %g %s %t %c %h %e`. It is
/// kept in a spool until `quarry dump send` brings it to a server; `quarry dump install-handler` tells the kernel. Options
/// stand before the words: what follows the first word is a word, whatever it looks like.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump catch 4711 1000 1000 11 1790000000 0 myhost myprogram < core
  quarry dump catch --spool /srv/spool 4711 1000 1000 11 1790000000 0 myhost myprogram < core
  quarry dump catch --listen /run/quarry/coredump.socket
  quarry dump catch --status")]
pub(crate) struct Catch {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Be the server of the kernel's coredump socket (Linux 6.16 and later), until ended
    #[arg(long, value_name = "PATH", conflicts_with_all = ["words", "status"])]
    listen: Option<PathBuf>,
    /// Show what waits in the spool, and how often which program crashed
    #[arg(long, conflicts_with = "words")]
    status: bool,
    /// The process, its user and group, the signal, the time, the limit on cores, the machine, the program
    #[arg(value_name = "WORD", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

impl Catch {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let begun = Instant::now();
        let settings = self.settings.load()?;
        let spool = Spool::open(&settings)?;
        if self.status {
            return status(session, &spool);
        }
        if let Some(path) = &self.listen {
            return listen(session, settings, spool, path).await;
        }
        let crash = Crash::of_words(&self.words).map_err(|error| {
            Failure::usage("usage", error.to_string()).hint("the kernel's words are `%P %u %g %s %t %c %h %e`")
        })?;
        let taken = tokio::task::block_in_place(|| {
            let (place, until) = ((&settings, &spool), begun + settings.deadline());
            match admit(place, &crash, until)? {
                Ok(admitted) => {
                    let input = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
                    take(place, admitted, input, until)
                }
                Err(why) => Ok(Taken::Dropped(why)),
            }
        })?;
        tell(&mut session.output, &taken)
    }
}

/// Tells what came of a crash.
fn tell(output: &mut Output, taken: &Taken) -> anyhow::Result<Exit> {
    match taken {
        Taken::Kept(about) if output.is_json() => output.json(about)?,
        Taken::Kept(about) => {
            output.line(&about.hash)?;
            if let Some(cut) = &about.cut {
                output.say(&format!("{} is cut: {cut}", about.name));
            }
        }
        Taken::Dropped(why) => {
            let failure = Failure::new(Exit::Refused, "dump_dropped", format!("the dump was not kept: {}", why.text()));
            return Err(failure.hint("`quarry dump catch --status` shows how often that was").into());
        }
    }
    Ok(Exit::Ok)
}

/// Serves the coredump socket until it is told to end; then it is gone at once, and what is being taken in is finished.
async fn listen(session: &mut Session, settings: Settings, spool: Spool, path: &Path) -> anyhow::Result<Exit> {
    let listener = socket::listen(path)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    session.output.line(&format!("listening at {}", path.display()))?;
    session.output.flush()?;
    let (place, mut catching) = (Arc::new((settings, spool)), JoinSet::new());
    loop {
        let ended = tokio::select! {
            accepted = listener.accept(), if catching.len() < MAX_AT_ONCE => {
                let stream = accepted?.0.into_std()?;
                stream.set_nonblocking(false)?;
                let place = Arc::clone(&place);
                // A thread of its own each: what is taken in is read, packed and written without a pause.
                catching.spawn_blocking(move || socket::serve((&place.0, &place.1), stream));
                continue;
            }
            Some(caught) = catching.join_next() => { caught_one(session, caught)?; continue; }
            _ = terminate.recv() => Exit::Ok,
            _ = interrupt.recv() => Exit::Interrupted,
        };
        drop(listener);
        let _ = std::fs::remove_file(path);
        loop {
            tokio::select! {
                caught = catching.join_next() => match caught {
                    Some(caught) => caught_one(session, caught)?,
                    None => return Ok(ended),
                },
                // Told twice, it leaves what is not finished; that is counted by whoever opens the spool next.
                _ = terminate.recv() => return Ok(Exit::Failed),
                _ = interrupt.recv() => return Ok(Exit::Interrupted),
            }
        }
    }
}

/// Says what came of one of many crashes.
fn caught_one(session: &mut Session, caught: Result<anyhow::Result<Taken>, JoinError>) -> anyhow::Result<()> {
    let taken = caught.context("taking a core in ended in a panic")?;
    if let Err(error) = taken.and_then(|taken| tell(&mut session.output, &taken)) {
        let label = session.output.err_style(Style::Doubtful, "note:");
        session.output.complain(&label, &format!("{error:#}"));
    }
    // Whoever started it may have stopped reading; that is no reason to stop catching.
    let _ = session.output.flush();
    Ok(())
}

fn status(session: &mut Session, spool: &Spool) -> anyhow::Result<Exit> {
    let accounts = spool.accounts()?;
    let sum = accounts.sum();
    let stages: Vec<_> = Stage::ALL
        .into_iter()
        .map(|stage| {
            let abouts: Vec<_> = spool.list(stage).into_iter().map(|id| (id, spool.about(stage, id).ok())).collect();
            (stage, spool.bytes(stage), abouts)
        })
        .collect();
    if session.output.is_json() {
        let shown: serde_json::Map<_, _> = stages
            .iter()
            .map(|(stage, bytes, abouts)| {
                let dumps: Vec<_> = abouts.iter().map(|(id, about)| json!({ "id": id, "about": about })).collect();
                (stage.folder().to_owned(), json!({ "bytes": bytes, "dumps": dumps }))
            })
            .collect();
        session
            .output
            .json(&json!({ "sum": sum, "programs": accounts.programs, "others": accounts.others, "spool": shown }))?;
        return Ok(Exit::Ok);
    }
    for (stage, bytes, abouts) in &stages {
        let text = format!("{:<8} {} dumps, {}", stage.folder(), abouts.len(), quantity::bytes_text(*bytes));
        session.output.line(&text)?;
        for (id, about) in abouts {
            let text = about.as_ref().map_or_else(String::new, |about| format!("{} {}", about.hash, about.name));
            let text = printable(&text);
            session.output.line(&format!("  {id} {text}"))?;
        }
    }
    for (program, account) in accounts.programs.iter().map(|(name, account)| (&**name, account)).chain([("all", &sum)])
    {
        let dropped: Vec<_> = account.dropped.iter().map(|(why, count)| format!("{count} {why:?}")).collect();
        let dropped = if dropped.is_empty() { "none".to_owned() } else { dropped.join(", ").to_lowercase() };
        let text = format!(
            "{}: {} seen, {} kept ({} cut), dropped: {dropped}",
            printable(program),
            account.seen,
            account.kept,
            account.cut
        );
        session.output.line(&text)?;
    }
    Ok(Exit::Ok)
}
