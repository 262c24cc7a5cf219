//! `quarry signature try-rules` and `apply-rules`: what a file of rules would move, and the moving.
//!
//! Rules are read and asked here, on the side of whoever brings them; the server keeps texts and never reads one. Stacks
//! come page by page, so memory does not follow their number. A run that broke off is begun again: stacks that are signed
//! by these rules already are passed over.

use crate::dump::selection::meant;
use crate::exit::{Exit, Failure};
use crate::progress::counting;
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use client::Client;
use client::blob::Content;
use dump::signature::{MAX_RULES_BYTES, Move, MoveKind, Moves, Rules, try_rules};
use indicatif::ProgressBar;
use model::dump::query::Selection;
use model::signature::{MAX_SIGNED_AT_ONCE, NewRules, SignedAgain, SignedAmong, SignedQuery, SignedStack, StackSigned};
use model::{Digest, Page, SignatureId};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Stacks that wait to be signed while the next page is on its way.
const WAITING: usize = 64;
/// Stacks of one page.
const PAGE: u32 = 500;

/// Says what a file of rules would move, and changes nothing
///
/// The file is laid over the house's rules, in place of the one that the tenant has. With a specification only the dumps
/// that it means are looked at, as by `dump ls`. Exit code 1 says that the file's own examples do not hold.
#[derive(Args)]
#[command(after_help = "Example:
  quarry signature try-rules ours.toml
  quarry signature try-rules ours.toml cmd=java mtime=30d
  quarry signature try-rules ours.toml --signature 4f1d --json")]
pub(crate) struct TryRules {
    /// The rules, as docs/signatures.md has them
    file: PathBuf,
    /// Only among these dumps
    #[arg(value_name = "SPECIFICATION")]
    words: Vec<String>,
    /// Only among this signature's dumps
    #[arg(long, value_name = "SIGNATURE", value_parser = NonEmptyStringValueParser::new())]
    signature: Option<String>,
}

/// Lays a file of rules over the house's, and signs all dumps by it
///
/// Signatures keep their ids, titles and states; what was merged or split by hand stays so.
#[derive(Args)]
#[command(after_help = "Example:
  quarry signature apply-rules ours.toml --dry-run
  quarry signature apply-rules ours.toml
  quarry signature apply-rules --none")]
pub(crate) struct ApplyRules {
    /// The rules, as docs/signatures.md has them
    #[arg(required_unless_present = "none")]
    file: Option<PathBuf>,
    /// Take the tenant's file away: the house's own rules remain
    #[arg(long, conflicts_with = "file")]
    none: bool,
    /// Only say what would move
    #[arg(long)]
    dry_run: bool,
}

/// A file of rules.
struct RulesText {
    name: String,
    text: String,
    rules: Rules,
}

impl RulesText {
    /// Reads a file, and holds it to its own examples.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("`{}` cannot be read", path.display());
        let mut text = String::new();
        let file = std::fs::File::open(path).with_context(cannot)?;
        file.take(MAX_RULES_BYTES as u64 + 1).read_to_string(&mut text).with_context(cannot)?;
        let name = path.file_name().map_or_else(|| "rules".to_owned(), |name| name.to_string_lossy().into_owned());
        let name: String = name.chars().filter(|one| !one.is_control()).take(64).collect();
        let rules = Rules::with(&name, &text).map_err(|error| Failure::usage("rules_invalid", error.to_string()))?;
        // Whoever lays rules over ours means to change what ours do: only their own examples must hold.
        let own = format!("{name}:");
        let failures = rules.failures().into_iter().filter(|failure| failure.place.starts_with(&own));
        let failures: Vec<_> = failures.map(|failure| failure.to_string()).collect();
        if failures.is_empty() {
            return Ok(Self { name, text, rules });
        }
        Err(Failure::new(Exit::Failed, "rules_broken", failures.join("\n"))
            .hint("mend the rules or their examples")
            .into())
    }
}

/// Returns the rules by which the tenant's dumps are signed today.
async fn todays(client: &Client) -> anyhow::Result<Rules> {
    let Some(text) = text(client).await? else { return Ok(Rules::builtin().clone()) };
    let (name, text) = text;
    // What was kept by a later version may not be understood by this one.
    Ok(Rules::with(&name, &text).map_err(|error| Failure::new(Exit::Failed, "rules_invalid", error.to_string()))?)
}

/// Returns the name and the text of the tenant's file of rules.
async fn text(client: &Client) -> anyhow::Result<Option<(String, String)>> {
    let Some(file) = client.signature_rules().await? else { return Ok(None) };
    let mut reader = client.blob_get(file.blob, None).await?;
    anyhow::ensure!(reader.size() <= MAX_RULES_BYTES as u64, "the tenant's file of rules is too long");
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await? {
        bytes.extend_from_slice(&piece);
    }
    let text = String::from_utf8(bytes).context("the tenant's file of rules is no text")?;
    Ok(Some((file.name, text)))
}

/// Shows the tenant's file of rules.
pub(super) async fn show(session: &mut Session) -> anyhow::Result<Exit> {
    let client = session.client()?;
    if session.output.is_json() {
        session.output.json(&client.signature_rules().await?)?;
        return Ok(Exit::Ok);
    }
    match text(&client).await? {
        Some((_, text)) => session.output.bytes(text.as_bytes())?,
        None => session.output.say("the tenant has no rules of its own"),
    }
    Ok(Exit::Ok)
}

/// Which stacks are asked about; all, if nothing is said.
#[derive(Default)]
struct About {
    /// Those of these dumps.
    of: Option<Selection>,
    /// Those of this signature.
    signature: Option<SignatureId>,
}

impl About {
    async fn page(&self, client: &Client, after: Option<String>) -> anyhow::Result<Page<SignedStack>> {
        let (signature, limit) = (self.signature, Some(PAGE));
        Ok(match self.of.clone() {
            None => client.signature_stacks(&SignedQuery { signature, after, limit, tenant: None }).await?,
            Some(of) => client.signature_stacks_query(&SignedAmong { of, signature, after, limit }).await?,
        })
    }
}

/// Hands on every stack, page by page, and shows how many dumps they are of.
async fn each(
    client: &Client,
    about: &About,
    bar: &ProgressBar,
    mut take: impl AsyncFnMut(SignedStack) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let page = about.page(client, after.take()).await?;
        for stack in page.items {
            bar.inc(stack.dumps);
            // One that came without its stack cannot be asked about.
            if !stack.rules.is_empty() {
                take(stack).await?;
            }
        }
        let Some(next) = page.next else { return Ok(()) };
        after = Some(next);
    }
}

/// Says what would move.
async fn try_out(client: &Client, new: Rules, about: &About, bar: &ProgressBar) -> anyhow::Result<Moves> {
    let old = todays(client).await?;
    let (ready, mut stacks) = mpsc::channel::<SignedStack>(WAITING);
    let signing = tokio::task::spawn_blocking(move || {
        let next = || {
            let stack = stacks.blocking_recv()?;
            let dump = stack.example.map_or_else(|| stack.number.to_string(), |dump| dump.to_string());
            Some((dump, stack.stack, stack.dumps))
        };
        try_rules(&old, &new, std::iter::from_fn(next))
    });
    let asked = each(client, about, bar, async |stack| Ok(ready.send(stack).await?)).await;
    drop(ready);
    bar.finish_and_clear();
    asked?;
    signing.await.context("the stacks could not be signed")
}

impl TryRules {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let new = RulesText::read(&self.file)?;
        let mut about = About::default();
        if let Some(id) = &self.signature {
            about.signature = Some(client.signature_get(id).await?.signature.id);
        }
        if !self.words.is_empty() {
            let meant = meant(&client, &self.words).await?;
            if meant.took_input {
                session.output.say("reading dump identifiers from stdin");
            }
            about.of = Some(meant.of);
        }
        let moves = try_out(&client, new.rules, &about, &counting(session, "asking both rules")).await?;
        tell(session, &moves)
    }
}

impl ApplyRules {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let new = self.file.as_deref().map(RulesText::read).transpose()?;
        let rules = new.as_ref().map_or_else(|| Rules::builtin().clone(), |new| new.rules.clone());
        let moves = try_out(&client, rules.clone(), &About::default(), &counting(session, "asking both rules")).await?;
        if self.dry_run {
            return tell(session, &moves);
        }
        // From here on, what comes new is signed by them.
        match new {
            Some(RulesText { name, text, rules }) => {
                let (content, size) = (Content::Bytes(text.clone().into()), text.len() as u64);
                let blob = Digest::from_bytes(*blake3::hash(text.as_bytes()).as_bytes());
                client.blob_put(blob, size, &content, Arc::new(|_| ())).await?;
                client.signature_rules_put(&NewRules { name, blob, rules: rules.digest().to_owned() }).await?;
            }
            None => drop(client.signature_rules_remove().await?),
        }
        let bar = counting(session, "signing, in three rounds");
        let signed = sign(&client, &rules, &bar).await;
        bar.finish_and_clear();
        signed?;
        tell(session, &moves)
    }
}

/// Signs all stacks by other rules: first those by which each signature goes on, so that they keep its id, then the others.
async fn sign(client: &Client, rules: &Rules, bar: &ProgressBar) -> anyhow::Result<()> {
    let mut shares: HashMap<(SignatureId, SignatureId), u64> = HashMap::new();
    each(client, &About::default(), bar, async |stack| {
        *shares.entry((stack.signature, rules.sign(&stack.stack).signature.id)).or_default() += stack.dumps;
        Ok(())
    })
    .await?;
    let mut heirs: HashMap<SignatureId, (u64, SignatureId)> = HashMap::new();
    for ((from, into), dumps) in shares {
        let heir = heirs.entry(from).or_insert((dumps, into));
        *heir = (*heir).max((dumps, into));
    }
    for only_heirs in [true, false] {
        let mut batch = Vec::new();
        each(client, &About::default(), bar, async |stack| {
            if stack.rules == rules.digest() {
                return Ok(());
            }
            let signed = rules.sign(&stack.stack);
            let is_heir = heirs.get(&stack.signature).is_some_and(|(_, heir)| *heir == signed.signature.id);
            if only_heirs && !is_heir {
                return Ok(());
            }
            let explanation = signed.explanation.fitted(model::limits::MAX_ROW_BYTES / 3);
            batch.push(StackSigned { number: stack.number, signature: signed.signature, explanation });
            if batch.len() >= MAX_SIGNED_AT_ONCE {
                client.signature_stacks_sign(&SignedAgain { stacks: std::mem::take(&mut batch) }).await?;
            }
            Ok(())
        })
        .await?;
        if !batch.is_empty() {
            client.signature_stacks_sign(&SignedAgain { stacks: batch }).await?;
        }
    }
    Ok(())
}

fn tell(session: &mut Session, moves: &Moves) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json(moves)?;
        return Ok(Exit::Ok);
    }
    let word = |kind| match kind {
        MoveKind::Split => "split",
        MoveKind::Merge => "merge",
        MoveKind::Mix => "mix",
        MoveKind::Rename => "rename",
    };
    let mut rows = Vec::new();
    for Move { kind, dumps, from, into, .. } in &moves.moves {
        for number in 0..from.len().max(into.len()) {
            let side = |buckets: &[dump::signature::Bucket]| {
                buckets.get(number).map_or_else(String::new, |one| format!("{} × {}", one.dumps, one.text))
            };
            let (kind, dumps) = if number == 0 { (word(*kind), dumps.to_string()) } else { ("", String::new()) };
            rows.push(vec![kind.to_owned(), dumps, side(from), side(into)]);
        }
    }
    if !rows.is_empty() {
        session.output.table(Some(&["change", "dumps", "from", "into"]), rows)?;
    }
    let Moves { dumps, moved, buckets_before, buckets_after, is_cut, .. } = moves;
    if *is_cut {
        session
            .output
            .say("there are more texts than are told apart; some moves are not shown, though all are counted");
    }
    session
        .output
        .say(&format!("{moved} of {dumps} dumps get another text; {buckets_before} texts become {buckets_after}"));
    Ok(Exit::Ok)
}
