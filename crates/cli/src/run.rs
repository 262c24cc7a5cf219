//! `quarry run`: a program in a sandbox, as if run by hand: its input, its output, its signals, its exit code.
//!
//! What is this side's (the program if it is a file here, other files, standard input) is stored first; then the execution
//! is made, attended (`attendance.rs`) until it has ended, and this process ends as it did.

mod attendance;
mod input;
mod place;
mod terminal;

use crate::execution::recipe::RecipeArgs;
use crate::execution::{create, verdict};
use crate::exit::{Exit, Failure};
use crate::image::pull;
use crate::session::Session;
use crate::signals::Signals;
use attendance::{Attendance, End};
use clap::{Args, ValueEnum};
use client::Client;
use model::image::is_named_here;
use model::{Execution, ExecutionId, NewExecution};
use std::io::{self, IsTerminal};
use terminal::Terminal;

/// When to pull the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Pull {
    // No doc comments on these: they would stretch the help to its long form.
    #[default]
    Missing,
    Never,
    Always,
}

/// Runs a program in a sandbox, as if run by hand
///
/// Standard input, output and error are the program's, and this command ends with its exit code: 128 and the number if a
/// signal ended it, 124 if its time was up, 137 if it needed too much memory, 127 if there is no such program, 126 if it
/// cannot be executed, 125 if it never began for another reason. With --json, the last line of standard error is the
/// execution as it ended.
///
/// Command, environment, mounts and files have at most 16 KiB of words together; what is longer goes in by --file or standard
/// input.
///
/// Options of this command stand before the program; whatever stands behind it is the program's own. What keeps an execution
/// from being made at all, such as a server that is not there, ends as it does with other commands (`quarry --help`).
///
/// A program whose name holds a `/` is a file of yours: it is sent along and run from /work; only what lies under /bin,
/// /sbin, /lib, /usr, /opt and /nix is taken for the node's. With an image, programs are always the image's. Ctrl-C stops
/// the program gently, or the pull of its image, or keeps it from beginning; a second one leaves it to itself. If this
/// command is killed, the program goes on, and what it reads ends some two minutes later.
#[derive(Args)]
#[command(after_help = "Example:
  quarry run -- echo hello
  quarry run --memory 64M --time 10s -- ./solve
  quarry run --file numbers.txt -- sort -n numbers.txt
  quarry run --image debian:stable -t -- bash
  quarry run --detach --class batch -- ./scan")]
pub(crate) struct Run {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// A file of yours to see in the sandbox, at /work/NAME if no place is named
    #[arg(long, value_name = "SOURCE[:TARGET]", value_parser = place::file)]
    file: Vec<place::File>,
    /// Give it a terminal, of this one's size
    #[arg(short, long)]
    terminal: bool,
    /// Pass on what is typed, too: standard input is read even if it is a terminal
    #[arg(short, long)]
    interactive: bool,
    /// Print the execution's id and leave it to itself; it reads nothing but a file, or with -i all that comes
    #[arg(short, long)]
    detach: bool,
    /// When to pull the image first
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: Pull,
    /// Say what is done besides
    #[arg(short, long)]
    verbose: bool,
    /// The program and its arguments; with an image it may be left out, which means the image's own
    #[arg(required_unless_present = "image", trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Run {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        if self.detach && self.terminal {
            let failure = Failure::usage("usage", "what is left to itself has nobody at its terminal");
            return Err(failure.hint("leave out --detach or -t").into());
        }
        let mut new = self.recipe.request(self.command)?;
        let terminal = self.terminal.then(Terminal::find);
        new.sandbox.terminal = terminal.as_ref().map(Terminal::window);
        let program = place::program(&new)?;
        // What is wrong with the words shall be told before anything is sent.
        new.check()?;
        // From here on there is something to stop; before, a signal may end this process as any other.
        let mut signals = Signals::new()?;
        if let Some(image) = &new.image
            && let Some(exit) = provide((session, &client), image, self.pull, &mut signals).await?
        {
            return Ok(exit);
        }
        let wants = input::Wants { terminal: self.terminal, typed: self.interactive, whole: self.detach };
        let (files, is_verbose) = (self.file, self.verbose);
        let preparing = async {
            let notes = place::send((session, &client), &mut new, program, files).await?;
            let unsent = place::unsent(&new);
            if is_verbose {
                notes.iter().for_each(|note| session.output.say(note));
            }
            let feed = input::look(&client, wants, &mut new).await?;
            Ok::<_, anyhow::Error>((unsent, feed))
        };
        let (unsent, feed) = match signals.during(preparing).await {
            Ok(prepared) => prepared?,
            Err(exit) => return Ok(exit),
        };
        new.check()?;
        let execution = match begin((session, &client), &new, &mut signals).await? {
            Ok(execution) => execution,
            Err(exit) => return Ok(exit),
        };
        if self.detach {
            if let Some(exit) = signals.come() {
                signals.stop((session, &client), execution.id).await;
                return Ok(exit);
            }
            return create::told(session, &execution);
        }
        let (exit, _) = attend_one(session, execution.id, (feed, terminal), &mut signals).await?;
        if matches!(exit, Exit::Program(_)) {
            for name in unsent {
                session.output.say(&format!("note: `{name}` here was not sent along (hint: `--file {name}`)"));
            }
        }
        Ok(exit)
    }
}

/// Makes an execution that stands for a program, says so, and attends it: at a terminal, if there is one on both sides.
pub(crate) async fn attend(
    session: &mut Session,
    mut new: NewExecution,
) -> anyhow::Result<(Exit, Option<Box<Execution>>)> {
    let mut signals = Signals::new()?;
    let client = session.client()?;
    let has_terminal = is_typed() && io::stdout().is_terminal();
    let terminal = has_terminal.then(Terminal::find);
    new.sandbox.terminal = terminal.as_ref().map(Terminal::window);
    let wants = input::Wants { terminal: has_terminal, typed: false, whole: false };
    let feed = match signals.during(input::look(&client, wants, &mut new)).await {
        Ok(feed) => feed?,
        Err(exit) => return Ok((exit, None)),
    };
    new.check()?;
    let execution = match begin((session, &client), &new, &mut signals).await? {
        Ok(execution) => execution,
        Err(exit) => return Ok((exit, None)),
    };
    session.output.open(&format!(" * created interactive job -- {}", execution.id));
    session.output.open(" * waiting for session...");
    attend_one(session, execution.id, (feed, terminal), &mut signals).await
}

/// Makes an execution; or returns what to end with, if a signal kept it from being made or known.
async fn begin(
    (session, client): (&Session, &Client),
    new: &NewExecution,
    signals: &mut Signals,
) -> anyhow::Result<Result<Execution, Exit>> {
    Ok(match signals.sent(client.execution_create(new)).await {
        Ok(answer) => Ok(answer?),
        Err(left) => Err(left.tell(session, new.id)),
    })
}

async fn attend_one(
    session: &mut Session,
    id: ExecutionId,
    (feed, terminal): (Option<input::Feed>, Option<Terminal>),
    signals: &mut Signals,
) -> anyhow::Result<(Exit, Option<Box<Execution>>)> {
    let patient = session.patient_client()?;
    let attendance = Attendance { client: &patient, output: session, id };
    match attendance.run(feed, terminal, signals).await? {
        End::Left(exit) => Ok((exit, None)),
        End::Ended { execution, exit } => {
            if session.output.is_json() {
                session.output.say_json(&*execution)?;
            } else {
                verdict::tell(session, &execution);
            }
            Ok((exit, Some(execution)))
        }
    }
}

/// Sees to it that the image is there; or returns what to end with, if a signal came before it was.
async fn provide(
    (session, client): (&Session, &Client),
    image: &str,
    pull: Pull,
    signals: &mut Signals,
) -> anyhow::Result<Option<Exit>> {
    let is_wanted = match pull {
        Pull::Never => false,
        // It names what is here, or nothing.
        _ if is_named_here(image) => false,
        Pull::Always => true,
        Pull::Missing => match signals.during(pull::is_missing(client, image)).await {
            Ok(is_missing) => is_missing?,
            Err(exit) => return Ok(Some(exit)),
        },
    };
    if !is_wanted {
        return Ok(None);
    }
    let request = pull::request(pull::Pulled::of(image))?;
    session.output.say(&format!("pulling image `{image}`"));
    let made = pull::make((session, client), &request, signals).await?;
    Ok(made.err())
}

/// Tells whether standard input is a terminal.
fn is_typed() -> bool {
    io::stdin().is_terminal()
}
