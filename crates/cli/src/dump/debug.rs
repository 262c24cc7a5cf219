//! `quarry dump debug`: a debugger at a dump, or the shell in which an analyzer is edited and tried on one.
//!
//! Either is an execution like any other, attended as `quarry run` attends one, in a sandbox on a node; nothing of the dump
//! comes here but what is shown.

use super::selection::{find, meant, refuse, split};
use crate::exit::{Exit, Failure};
use crate::run;
use crate::session::Session;
use clap::Args;
use client::Client;
use model::analyzer::{AnalyzerIn, DumpIn, check_name};
use model::{Access, Class, Dump, DumpKind, ExecutionId, Input, Limits, NewExecution, Outcome, Sandbox};
use std::collections::BTreeMap;

/// Memory of a debugger, which reads the dump where it lies and holds the symbols.
const MEMORY_BYTES: u64 = 2 << 30;
/// How long somebody may sit at it.
const WALL_MS: u64 = 12 * 3_600_000;

/// Opens a debugger at a dump, or tries and edits an analyzer on it
///
/// It is gdb, or lldb where there is no gdb, with the files that the program had, or what unwind packs and debuginfod
/// servers know of them; of a kernel it is crash or drgn. With an analyzer's name it is a shell beside the dump: $THOTH_ANALYZER is the analyzer, `thoth_analyze` runs it, and what it was
/// edited to becomes its new version if the shell ends with 0. The exit code is the debugger's or the shell's; it is 3 for
/// a dump whose content was dropped, and for a text, which no debugger opens.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump debug 76998f82a450a891
  quarry dump debug 76998f82a450a891 -- -batch -ex bt
  quarry dump debug --lldb cmd=bc limit=1
  quarry dump debug --drgn type=crash limit=1
  quarry dump debug 004a8bf33b2cd204 MANTA-1817-diagnose")]
pub(crate) struct Debug {
    /// Which dump, and perhaps an analyzer's name
    #[arg(required = true, value_name = "SPECIFICATION|ANALYZER")]
    words: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// Memory that it may use, such as `8G`
    #[arg(long, value_name = "BYTES", value_parser = crate::quantity::bytes)]
    memory: Option<u64>,
    /// What the debugger or the shell is given besides
    #[arg(last = true, value_name = "ARGUMENT", allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Which debugger is to be taken.
#[derive(Args)]
#[group(multiple = false)]
struct Which {
    /// Take gdb
    #[arg(long)]
    gdb: bool,
    /// Take lldb
    #[arg(long)]
    lldb: bool,
    /// Take crash, which opens dumps of kernels
    #[arg(long)]
    crash: bool,
    /// Take drgn, which opens dumps of kernels
    #[arg(long)]
    drgn: bool,
}

impl Which {
    /// Returns the word by which the node is told; none leaves it to the node.
    fn word(&self) -> Option<String> {
        let words = [(self.gdb, "--gdb"), (self.lldb, "--lldb"), (self.crash, "--crash"), (self.drgn, "--drgn")];
        words.into_iter().find_map(|(is_meant, word)| is_meant.then(|| word.to_owned()))
    }
}

impl Debug {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let (words, behind) = split(&self.words);
        let name = match behind {
            [] => None,
            [name] => Some(name.clone()),
            [_, more, ..] => return Err(refuse(format!("`{more}` stands behind the analyzer"))),
        };
        name.as_deref().map_or(Ok(()), check_name)?;
        let client = session.client()?;
        let dump = one(&client, words).await?;
        check(&dump, name.as_deref())?;
        let analyzer = match &name {
            Some(name) => Some(client.analyzer_get(name).await?),
            None => None,
        };
        let mut command = match &analyzer {
            Some(_) => vec!["thoth_shell".to_owned()],
            None => ["debug".to_owned()].into_iter().chain(self.which.word()).collect(),
        };
        command.extend(self.arguments);
        let beside = DumpIn {
            id: dump.id,
            // A debugger asks for nothing; an analyzer does as it will when it is run on many.
            access: if analyzer.is_some() { Access::ReadWrite } else { Access::ReadOnly },
            analyzer: analyzer.as_ref().map(|analyzer| AnalyzerIn {
                name: analyzer.name.clone(),
                version: analyzer.version,
                access: Access::ReadWrite,
            }),
        };
        session.output.say(&format!("debugging {}", dump.hash));
        let (exit, execution) = run::attend(session, request(command, beside, self.memory)).await?;
        let is_well = execution.is_some_and(|one| matches!(one.outcome, Some(Outcome::Exited { code: 0 })));
        if let Some(before) = analyzer.filter(|_| is_well) {
            let now = client.analyzer_get(&before.name).await?;
            if now.version > before.version + 1 {
                let between = now.version - before.version - 1;
                let words = format!("{between} version(s) of analyzer '{}' were stored by others meanwhile", now.name);
                session.output.say(&words);
            }
            if now.version != before.version {
                session.output.say(&format!("stored analyzer '{}', which is version {} now", now.name, now.version));
            }
        }
        Ok(exit)
    }
}

/// Refuses what nothing can be opened at, before anything is begun.
fn check(dump: &Dump, analyzer: Option<&str>) -> Result<(), Failure> {
    let hash = &dump.hash;
    let refuse = |code, message: String| Err(Failure::new(Exit::Refused, code, message));
    if dump.manifest.is_none() {
        let gone = dump.purged.as_ref().map(|gone| format!(" at {} by `{}`: {}", gone.at, gone.by, gone.why));
        let message = format!("dump `{hash}` cannot be opened: its content was dropped{}", gone.unwrap_or_default());
        let hint = "`dump show` and `dump info` tell what was found out before; uploading it again brings it back";
        return refuse("dump_purged", message).map_err(|failure| failure.hint(hint));
    }
    let is_text = matches!(dump.kind, DumpKind::Sanitizer | DumpKind::Traceback);
    if is_text && analyzer.is_none() {
        let message = format!("dump `{hash}` is a text that was printed, which no debugger opens");
        let hint = "`dump show` tells what is in it, `dump download` fetches it, and an analyzer may look at it";
        return refuse("dump_not_debuggable", message).map_err(|failure| failure.hint(hint));
    }
    Ok(())
}

fn request(command: Vec<String>, beside: DumpIn, memory: Option<u64>) -> NewExecution {
    NewExecution {
        id: client::id::fresh(ExecutionId::new),
        lane: None,
        class: Class::Human,
        image: None,
        command,
        env: BTreeMap::new(),
        input: Input::None,
        limits: Limits {
            memory_bytes: memory.unwrap_or(MEMORY_BYTES),
            wall_ms: WALL_MS,
            core_bytes: 0,
            ..Limits::default()
        },
        sandbox: Sandbox { dump: Some(beside), ..Sandbox::default() },
    }
}

/// Returns the one dump that is meant.
async fn one(client: &Client, words: &[String]) -> anyhow::Result<Dump> {
    super::selection::check_said(words)?;
    let meant = meant(client, words).await?;
    let mut found = Vec::new();
    let gather = |dumps: Vec<Dump>| {
        found.extend(dumps);
        Ok(())
    };
    find(client, &meant, gather).await?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Failure::new(Exit::NotFound, "dump_not_found", "no dump is meant").into()),
        many => {
            let message = format!("specification matches {many} dumps; cannot debug interactively");
            Err(Failure::usage("specification_too_wide", message).hint("`limit=1` takes the newest").into())
        }
    }
}
