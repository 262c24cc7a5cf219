//! `quarry signature`: the defects that dumps are of, what is decided about them, and the rules that tell them apart.

mod rules;

use crate::exit::Exit;
use crate::list::{ListArgs, list};
use crate::output::Style;
use crate::quantity::dumps_text;
use crate::session::Session;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use model::signature::{
    MergeInto, Moved, Signature as Entity, SignatureChange, SignatureInfo, SignatureQuery, SignatureState, SplitOff,
};

/// Shows which defects dumps are of, and decides about them
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry signature ls --state reopened
  quarry signature info 4f1d
  quarry signature merge 4f1d 90ab
  quarry signature try-rules ours.toml")]
pub(crate) enum Signature {
    Ls(Ls),
    /// Shows a signature's stack, why it is signed so, its dumps, and others that may be of the same defect
    #[command(after_help = "Example:\n  quarry signature info 4f1d")]
    Info(One),
    Title(Title),
    /// Notes that a defect is fixed; a dump of it that happens later reopens it
    #[command(after_help = "Example:\n  quarry signature fix 4f1d")]
    Fix(One),
    /// Notes that a defect is there after all; one that was merged stands by itself again
    #[command(after_help = "Example:\n  quarry signature reopen 4f1d")]
    Reopen(One),
    Merge(Merge),
    Split(Split),
    TryRules(rules::TryRules),
    ApplyRules(rules::ApplyRules),
    /// Shows the file of rules that the tenant lays over the house's
    #[command(after_help = "Example:\n  quarry signature rules > ours.toml")]
    Rules,
}

/// Which signature.
#[derive(Args)]
pub(crate) struct One {
    /// Its id, or the beginning of it
    #[arg(value_name = "SIGNATURE", value_parser = NonEmptyStringValueParser::new())]
    id: String,
}

/// Lists signatures, those seen last first
#[derive(Args)]
#[command(after_help = "Example:
  quarry signature ls
  quarry signature ls --state fixed --limit 10")]
pub(crate) struct Ls {
    /// Only those in this state; without it all but merged ones
    #[arg(long, value_enum)]
    state: Option<State>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Open,
    Fixed,
    Reopened,
    Merged,
}

impl From<State> for SignatureState {
    fn from(state: State) -> Self {
        match state {
            State::Open => Self::Open,
            State::Fixed => Self::Fixed,
            State::Reopened => Self::Reopened,
            State::Merged => Self::Merged,
        }
    }
}

/// Says what to call a signature
#[derive(Args)]
#[command(after_help = "Example:\n  quarry signature title 4f1d parser")]
pub(crate) struct Title {
    #[command(flatten)]
    one: One,
    /// The title; without it there is none any more
    #[arg(default_value = "", hide_default_value = true)]
    title: String,
}

/// Makes one signature part of another: its dumps, and those that come, belong there
///
/// Changes of rules leave it so. `reopen` takes it back.
#[derive(Args)]
#[command(after_help = "Example:
  quarry signature merge --dry-run 4f1d 90ab
  quarry signature merge 4f1d 90ab")]
pub(crate) struct Merge {
    #[command(flatten)]
    one: One,
    /// The signature that it becomes part of
    #[arg(value_name = "INTO", value_parser = NonEmptyStringValueParser::new())]
    into: String,
    /// Only say what would move
    #[arg(long)]
    dry_run: bool,
}

/// Puts dumps under a signature of their own, with all others that have their stacks
///
/// Changes of rules leave it so, and dumps that come with these stacks go there too.
#[derive(Args)]
#[command(after_help = "Example:
  quarry signature split 4f1d --dump 76998f82a450a891 --dry-run
  quarry signature split 4f1d --dump 76998f82a450a891")]
pub(crate) struct Split {
    #[command(flatten)]
    one: One,
    /// A dump, by its hash or id; several times for several
    #[arg(long = "dump", value_name = "DUMP", required = true, num_args = 1..)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    dumps: Vec<String>,
    /// Only say what would move
    #[arg(long)]
    dry_run: bool,
}

impl Signature {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        match self {
            Self::Ls(ls) => ls.run(session).await,
            Self::Info(One { id }) => info(session, &client.signature_get(&id).await?),
            Self::Title(Title { one, title }) => {
                let change = SignatureChange { title: Some(title) };
                change.check()?;
                show(session, &client.signature_change(&one.id, &change).await?)
            }
            Self::Fix(One { id }) => show(session, &client.signature_fix(&id).await?),
            Self::Reopen(One { id }) => show(session, &client.signature_reopen(&id).await?),
            Self::Merge(Merge { one, into, dry_run }) => {
                let into = client.signature_get(&into).await?.signature.id;
                moved(session, &client.signature_merge(&one.id, &MergeInto { into, dry_run }).await?)
            }
            Self::Split(Split { one, dumps: names, dry_run }) => {
                let mut dumps = Vec::new();
                for name in names {
                    dumps.push(client.dump_get(&name).await?.id);
                }
                moved(session, &client.signature_split(&one.id, &SplitOff { dumps, dry_run }).await?)
            }
            Self::TryRules(trial) => trial.run(session).await,
            Self::ApplyRules(apply) => apply.run(session).await,
            Self::Rules => rules::show(session).await,
        }
    }
}

impl Ls {
    async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let state = self.state.map(Into::into);
        let row = |one: &Entity, session: &Session| {
            let seen = session.output.time(one.last_seen);
            let says = one.title.clone().unwrap_or_else(|| one.text.clone());
            let id = one.id.to_string().chars().take(16).collect();
            vec![id, one.state.as_str().to_owned(), one.dumps.to_string(), seen, says]
        };
        let head = ["id", "state", "dumps", "last seen", "signature"];
        list(session, self.list, &head, row, async |after, limit| {
            client.signature_list(&SignatureQuery { state, after, limit, tenant: None }).await
        })
        .await
    }
}

fn fields(session: &mut Session, one: &Entity) -> anyhow::Result<()> {
    let output = &session.output;
    let (first, last) = (output.time(one.first_seen), output.time(one.last_seen));
    let fixed = one.fixed_at.map(|at| output.time(at));
    let decided = one.decided.as_ref().map(|one| format!("{}, by {} {}", one.what, one.by, output.time(one.at)));
    session.output.fields(&[
        ("id", Some(one.id.to_string())),
        ("signature", Some(one.text.clone())),
        ("title", one.title.clone()),
        ("state", Some(one.state.as_str().to_owned())),
        ("part of", one.merged_into.map(|into| into.to_string())),
        ("dumps", Some(one.dumps.to_string())),
        ("first seen", Some(first)),
        ("last seen", Some(last)),
        ("fixed", fixed),
        ("decided", decided),
    ])?;
    Ok(())
}

fn show(session: &mut Session, one: &Entity) -> anyhow::Result<Exit> {
    match session.output.is_json() {
        true => session.output.json(one)?,
        false => fields(session, one)?,
    }
    Ok(Exit::Ok)
}

fn moved(session: &mut Session, moved: &Moved) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json(moved)?;
        return Ok(Exit::Ok);
    }
    let (dumps, verb) = (dumps_text(moved.dumps), if moved.dry_run { "would move" } else { "moved" });
    session.output.say(&format!("{dumps} {verb} from `{}` to `{}`", moved.from.id, moved.into.id));
    session.output.line(&moved.into.id.to_string())?;
    Ok(Exit::Ok)
}

fn info(session: &mut Session, info: &SignatureInfo) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json(info)?;
        return Ok(Exit::Ok);
    }
    fields(session, &info.signature)?;
    if let Some(stack) = &info.stack {
        let lines = stack.frames.iter().enumerate().map(|(number, frame)| {
            let place = stack.file_of(frame).or(stack.module_of(frame));
            place.map_or_else(|| format!("#{number:<3}{}", frame.key), |at| format!("#{number:<3}{}  {at}", frame.key))
        });
        section(session, "stack", lines.collect())?;
    }
    section(session, "why", info.explanation.lines())?;
    section(session, "dumps", info.dumps.iter().map(ToString::to_string).collect())?;
    let part = |part: &Entity| format!("{}  {}", part.id, part.text);
    section(session, "parts", info.parts.iter().map(part).collect())?;
    let proposals = info.proposals.iter().flat_map(|one| {
        let mut lines = one.proposal.lines();
        if let Some(first) = lines.first_mut() {
            *first = format!("{first}  {}", one.text);
        }
        lines
    });
    section(session, "perhaps the same", proposals.collect())?;
    Ok(Exit::Ok)
}

/// Writes lines under a head; none without lines.
fn section(session: &mut Session, head: &str, lines: Vec<String>) -> anyhow::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    session.output.line("")?;
    let head = session.output.style(Style::Strong, head);
    session.output.line(&head)?;
    for line in lines {
        session.output.line(&format!("  {}", crate::output::printable(&line)))?;
    }
    Ok(())
}
