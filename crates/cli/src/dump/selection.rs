//! Which dumps a command means: the words of a specification, names from standard input, or a file that is one itself.

use super::object::hash_of;
use super::upload::there;
use crate::exit::{Exit, Failure};
use client::Client;
use model::dump::query::{DumpOrder, DumpQuery, Selection, is_name};
use model::dump::spec::{MAX_NAMED, Specification};
use model::limits::{DEFAULT_PAGE, MAX_PAGE};
use model::{ApiError, Dump};
use std::path::Path;
use tokio::io::AsyncReadExt;

/// Bytes of names on standard input.
const MAX_INPUT_BYTES: u64 = 1 << 20;

/// What some words mean.
pub(crate) struct Meant {
    pub(crate) of: Selection,
    /// How many of them at most.
    pub(super) limit: Option<u32>,
    /// Whether one dump is named, so that one is told of.
    pub(super) is_one: bool,
    /// Whether nothing but names say which.
    pub(super) is_named: bool,
    /// Whether standard input has been read to its end.
    pub(crate) took_input: bool,
}

/// Finds out what words mean, reading standard input or a file's head if they say so.
pub(crate) async fn meant(client: &Client, words: &[String]) -> anyhow::Result<Meant> {
    if let [word] = words
        && let Some(of) = local(client, word).await?
    {
        return Ok(Meant { of, limit: None, is_one: true, is_named: true, took_input: false });
    }
    let mut of = Selection { words: words.to_vec(), names: Vec::new() };
    let specification = Specification::parse(&of.words)?;
    let took_input = specification.is_stdin;
    if took_input {
        of.words.retain(|word| !word.ends_with("=stdin"));
        of.names = read_names().await?;
    }
    let is_named = of.parse()?.condition.is_named();
    let is_one = is_named && !took_input && of.words.len() == 1;
    Ok(Meant { of, limit: specification.limit, is_one, is_named, took_input })
}

/// Returns the dump that a file is, if a word names one rather than a dump or a constraint. What may be either is the dump
/// that there is, and else the file.
async fn local(client: &Client, word: &str) -> anyhow::Result<Option<Selection>> {
    let is_keyword = matches!(word, "AND" | "OR" | "NOT" | "(" | ")");
    let is_file = || Path::new(word).is_file();
    let is_plain = !word.contains(['=', '<', '>']) && !is_keyword;
    let is_other = match is_name(word) {
        true => !is_file() || !matches!(there(client, word).await, Ok(None)),
        false => !(is_plain || word.contains('/') && is_file()),
    };
    if is_other {
        return Ok(None);
    }
    if !is_file() {
        let failure = Failure::new(Exit::NotFound, "dump_not_found", format!("dump `{word}` does not exist"));
        let hint = "a dump is named by digits of its hash, its id, or a file that it is; `cmd=java` means many";
        return Err(failure.hint(hint).into());
    }
    let hash = hash_of(Path::new(word)).await?.hash;
    Ok(Some(Selection { words: vec![hash], names: Vec::new() }))
}

async fn read_names() -> anyhow::Result<Vec<String>> {
    let mut text = String::new();
    tokio::io::stdin().take(MAX_INPUT_BYTES).read_to_string(&mut text).await?;
    let names: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Failure::usage("specification_invalid", "\"stdin\" specified, but no dumps provided").into());
    }
    if names.len() > MAX_NAMED {
        let message = format!("{} dumps are named on standard input; at most {MAX_NAMED} are allowed", names.len());
        return Err(Failure::usage("specification_invalid", message).hint("use `split -l` and `xargs`").into());
    }
    Ok(names)
}

/// Returns the words of a specification, and those that stand behind it.
pub(super) fn split(words: &[String]) -> (&[String], &[String]) {
    words.split_at(Specification::length(words))
}

/// Makes sure that somebody said which dumps are meant.
pub(super) fn check_said(words: &[String]) -> anyhow::Result<()> {
    if words.is_empty() {
        let failure = Failure::usage("usage", "it is not said which dumps are meant");
        return Err(failure.hint("every dump there is has a hash: `hash=*`").into());
    }
    Ok(())
}

/// Returns the error of words that are not what they should be.
pub(super) fn refuse(message: impl Into<String>) -> anyhow::Error {
    ApiError::invalid("specification_invalid", message.into()).into()
}

/// Hands all dumps that are meant to `each`, page by page, from the oldest to the newest; with a limit it is the newest.
pub(super) async fn find(
    client: &Client,
    meant: &Meant,
    mut each: impl FnMut(Vec<Dump>) -> anyhow::Result<()>,
) -> anyhow::Result<End> {
    let order = if meant.limit.is_some() { DumpOrder::Newest } else { DumpOrder::Oldest };
    let mut query = DumpQuery { of: meant.of.clone(), order, after: None, limit: Some(DEFAULT_PAGE) };
    let most = meant.limit.map_or(usize::MAX, |limit| limit as usize);
    let mut newest = Vec::new();
    let mut first = None;
    loop {
        let page = client.dump_query(&query).await?;
        // What happened since the first page may be on the others or not: who goes on from the log goes on from there.
        first.get_or_insert(page.as_of);
        query.after = page.next;
        // The first page shall be there soon, the others in few steps.
        query.limit = Some(MAX_PAGE);
        match meant.limit {
            None => each(page.items)?,
            Some(_) => newest.extend(page.items),
        }
        if query.after.is_none() || newest.len() >= most {
            break;
        }
    }
    newest.truncate(most);
    newest.reverse();
    if !newest.is_empty() {
        each(newest)?;
    }
    Ok(End { next: query.after, as_of: first.unwrap_or_default() })
}

/// How a list ended.
pub(super) struct End {
    /// Where the next page would begin, had the list gone on.
    pub(super) next: Option<String>,
    /// The log's head when it began.
    pub(super) as_of: u64,
}
