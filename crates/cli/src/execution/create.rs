//! `quarry execution create`: what to run, from words on the command line. Input that no row could hold becomes a blob.

use super::show;
use crate::exit::{Exit, Failure};
use crate::session::Session;
use crate::{blob, quantity};
use anyhow::Context;
use clap::Args;
use client::Client;
use jiff::SignedDuration;
use model::limits::MAX_ROW_BYTES;
use model::{Class, Execution, ExecutionId, Input, Limits, NewExecution};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Runs a command in a sandbox, and prints the execution's id
#[derive(Args)]
#[command(after_help = "Example:
  quarry execution create -- echo hello
  quarry execution create --memory 64M --time 10s --input @numbers.txt -- sort -n
  quarry execution create --class batch --lane nightly --env LEVEL=3 -- ./scan")]
pub(crate) struct Create {
    /// The image to run in; none means the node's own files, read-only
    #[arg(long)]
    image: Option<String>,
    /// The lane to keep its turn in: at most one execution of a lane runs at a time
    #[arg(long)]
    lane: Option<String>,
    /// Who is served first: human, event or batch
    #[arg(long, default_value = "human", value_parser = class)]
    class: Class,
    /// A variable added to its environment
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// What it reads: a text, `@FILE`, or `-` for standard input
    #[arg(long, value_name = "TEXT|@FILE|-")]
    input: Option<String>,
    /// Memory it may use, such as `512M`
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    memory: Option<u64>,
    /// Cores it may use, such as `2` or `0.5`
    #[arg(long, value_name = "CORES", value_parser = quantity::cpu_milli)]
    cpus: Option<u32>,
    /// Processes and threads it may have
    #[arg(long, value_name = "N")]
    pids: Option<u32>,
    /// Time it may take, such as `30s`
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    time: Option<SignedDuration>,
    /// How much of what it prints is kept, such as `16M`
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    log_bytes: Option<u64>,
    /// The id it shall have; asking again with the same one is harmless
    #[arg(long)]
    id: Option<ExecutionId>,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn class(text: &str) -> Result<Class, String> {
    let found = Class::ALL.into_iter().find(|class| super::class_text(*class) == text);
    found.ok_or_else(|| "it is none of: human, event, batch".to_owned())
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not of the form `NAME=VALUE`")),
    }
}

impl Create {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session, client: &Client) -> anyhow::Result<Exit> {
        let input = self.input.clone();
        let mut new = self.request()?;
        // What is wrong with the rest shall be told before anything is sent.
        new.check()?;
        if let Some(input) = input {
            new.input = read(client, &input, MAX_ROW_BYTES - words_bytes(&new)).await?;
        }
        let execution = client.execution_create(&new).await?;
        told(session, &execution)
    }

    fn request(self) -> Result<NewExecution, Failure> {
        let limits = Limits::default();
        let wall_ms = match self.time {
            None => limits.wall_ms,
            Some(time) => u64::try_from(time.as_millis())
                .map_err(|_| Failure::usage("usage", "`--time` is too long").hint("such as `--time 30s`"))?,
        };
        Ok(NewExecution {
            id: self.id.unwrap_or_else(|| client::id::fresh(ExecutionId::new)),
            lane: self.lane,
            class: self.class,
            image: self.image,
            command: self.command,
            env: self.env.into_iter().collect::<BTreeMap<_, _>>(),
            input: Input::None,
            limits: Limits {
                memory_bytes: self.memory.unwrap_or(limits.memory_bytes),
                cpu_milli: self.cpus.unwrap_or(limits.cpu_milli),
                pids: self.pids.unwrap_or(limits.pids),
                wall_ms,
                log_bytes: self.log_bytes.unwrap_or(limits.log_bytes),
                ..limits
            },
            sandbox: model::Sandbox::default(),
        })
    }
}

fn told(session: &mut Session, execution: &Execution) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        return show(session, execution);
    }
    session.output.line(&execution.id.to_string())?;
    Ok(Exit::Ok)
}

/// Returns how many bytes of the row are taken; checked to be no more than a row holds.
fn words_bytes(new: &NewExecution) -> usize {
    let env: usize = new.env.iter().map(|(name, value)| name.len() + value.len()).sum();
    new.command.iter().map(String::len).sum::<usize>() + env
}

/// Reads the input; what has more than `room` bytes, or is no text, becomes a blob.
async fn read(client: &Client, input: &str, room: usize) -> anyhow::Result<Input> {
    if input == "-" {
        return begin(client, tokio::io::stdin(), room).await;
    }
    let Some(file) = input.strip_prefix('@') else {
        return short(client, input.as_bytes().to_vec(), room).await;
    };
    let path = Path::new(file);
    let cannot = || format!("`{file}` cannot be read");
    let metadata = tokio::fs::metadata(path).await.with_context(cannot)?;
    if metadata.is_file() && metadata.len() > room as u64 {
        return Ok(Input::Blob { digest: blob::put_file(client, path).await? });
    }
    let reader = tokio::fs::File::open(path).await.with_context(cannot)?;
    begin(client, reader, room).await.with_context(cannot)
}

/// Reads as much as a row holds; if there is more, all of it goes into a blob without being held.
async fn begin(
    client: &Client,
    mut reader: impl AsyncRead + Unpin + Send + 'static,
    room: usize,
) -> anyhow::Result<Input> {
    let mut bytes = Vec::new();
    (&mut reader).take(room as u64 + 1).read_to_end(&mut bytes).await?;
    if bytes.len() <= room {
        return short(client, bytes, room).await;
    }
    let whole = std::io::Cursor::new(bytes).chain(reader);
    let blob = client.blob_post(whole, Arc::new(|_| {})).await?;
    Ok(Input::Blob { digest: blob.digest })
}

async fn short(client: &Client, bytes: Vec<u8>, room: usize) -> anyhow::Result<Input> {
    let is_text = bytes.len() <= room && !bytes.contains(&0);
    match String::from_utf8(bytes) {
        Ok(text) if is_text => Ok(Input::Text { text }),
        Ok(text) => Ok(Input::Blob { digest: blob::put_bytes(client, text.into_bytes()).await? }),
        Err(error) => Ok(Input::Blob { digest: blob::put_bytes(client, error.into_bytes()).await? }),
    }
}
