//! `quarry dump`: what programs and machines left when they died.

mod analyze;
mod analyzer;
mod catch;
mod debug;
mod deliver;
mod download;
mod hook;
mod info;
mod init;
mod ls;
pub(crate) mod note;
pub(crate) mod object;
pub(crate) mod packing;
pub(crate) mod packs;
pub(crate) mod parcels;
pub(crate) mod redaction;
mod report;
pub(crate) mod selection;
mod show;
pub(crate) mod upload;

use crate::exit::Exit;
use crate::session::Session;
use clap::Subcommand;

/// Stores dumps, finds them, shows what is in them, notes on them what was found out, and fetches them again
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry dump upload core.1234
  quarry dump show 76998f82a450a891
  quarry dump ls mtime=6h cmd=java
  quarry dump info 76998f82a450a891
  quarry dump report type=core platform
  quarry dump ticket 76998f82a450a891 OS-2359
  quarry dump analyze cmd=svc.startd OS-2359-diagnose
  quarry dump debug 76998f82a450a891
  quarry dump download 76998f82a450a891 -o core")]
pub(crate) enum Dump {
    Init(init::Init),
    Upload(upload::Upload),
    Ls(ls::Ls),
    Info(info::Info),
    Report(report::Report),
    Set(note::Set),
    Unset(note::Unset),
    Ticket(note::Ticket),
    Unticket(note::Unticket),
    Rm(note::Rm),
    Reanalyse(note::Reanalyse),
    Show(show::Show),
    Analyzer(analyzer::Analyzer),
    Analyzers(analyzer::Analyzers),
    Analyze(analyze::Analyze),
    Debug(debug::Debug),
    Download(download::Download),
    Object(object::Object),
    Packs(packs::Packs),
    Catch(catch::Catch),
    Send(deliver::Send),
    InstallHandler(hook::InstallHandler),
}

impl Dump {
    /// Tells whether it stands for a program, and has its own way to stop.
    pub(crate) const fn is_program(&self) -> bool {
        matches!(self, Self::Debug(_) | Self::Catch(_))
    }

    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        match self {
            Self::Init(init) => init.run(session).await,
            Self::Upload(upload) => upload.run(session).await,
            Self::Ls(ls) => ls.run(session).await,
            Self::Info(info) => info.run(session).await,
            Self::Report(report) => report.run(session).await,
            Self::Set(set) => set.run(session).await,
            Self::Unset(unset) => unset.run(session).await,
            Self::Ticket(ticket) => ticket.run(session).await,
            Self::Unticket(unticket) => unticket.run(session).await,
            Self::Rm(rm) => rm.run(session).await,
            Self::Reanalyse(reanalyse) => reanalyse.run(session).await,
            Self::Show(show) => show.run(session).await,
            Self::Analyzer(analyzer) => analyzer.run(session).await,
            Self::Analyzers(analyzers) => analyzers.run(session).await,
            Self::Analyze(analyze) => analyze.run(session).await,
            Self::Debug(debug) => debug.run(session).await,
            Self::Download(download) => download.run(session).await,
            Self::Object(object) => object.run(session).await,
            Self::Packs(packs) => packs.run(session).await,
            Self::Catch(catch) => catch.run(session).await,
            Self::Send(send) => send.run(session).await,
            Self::InstallHandler(handler) => handler.run(session),
        }
    }
}
