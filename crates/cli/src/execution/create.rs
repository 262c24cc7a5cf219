//! `quarry execution create`: accepted, and no more said. Input that no row could hold becomes a blob.

use super::recipe::RecipeArgs;
use super::show;
use crate::blob;
use crate::exit::Exit;
use crate::session::Session;
use crate::source;
use anyhow::Context;
use clap::Args;
use client::Client;
use model::limits::MAX_ROW_BYTES;
use model::{Execution, ExecutionId, Input, NewExecution, Purpose};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Runs a command in a sandbox, and prints the execution's id
///
/// It does not wait for it; `quarry run` does.
#[derive(Args)]
#[command(after_help = "Example:
  quarry execution create -- echo hello
  quarry execution create --memory 64M --time 10s --input @numbers.txt -- sort -n
  quarry execution create --class batch --lane nightly --env LEVEL=3 -- ./scan")]
pub(crate) struct Create {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// What it reads: a text, `@FILE`, or `-` for standard input
    #[arg(long, value_name = "TEXT|@FILE|-")]
    input: Option<String>,
    /// The id it shall have; asking again with the same one is harmless
    #[arg(long)]
    id: Option<ExecutionId>,
    /// The program and its arguments; with an image it may be left out, which means the image's own
    #[arg(required_unless_present = "image", last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Create {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session, client: &Client) -> anyhow::Result<Exit> {
        let mut new = self.recipe.request(self.command)?;
        new.id = self.id.unwrap_or(new.id);
        // What is wrong with the rest shall be told before anything is sent.
        new.check()?;
        if let Some(input) = self.input {
            new.input = read(session, client, &input, &new).await?;
        }
        let execution = client.execution_create(&new).await?;
        told(session, &execution)
    }
}

/// Prints an execution that was just made.
pub(crate) fn told(session: &mut Session, execution: &Execution) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        return show(session, execution);
    }
    session.output.line(&execution.id.to_string())?;
    Ok(Exit::Ok)
}

/// Reads the input; what the rest of the row leaves no room for, or is no text, becomes a blob.
async fn read(session: &Session, client: &Client, input: &str, new: &NewExecution) -> anyhow::Result<Input> {
    if input == "-" {
        return begin(client, tokio::io::stdin(), new).await;
    }
    let Some(file) = input.strip_prefix('@') else {
        return short(client, input.as_bytes().to_vec(), new).await;
    };
    let path = Path::new(file);
    let cannot = || format!("`{file}` cannot be read");
    let metadata = tokio::fs::metadata(path).await.with_context(cannot)?;
    if metadata.is_file() && metadata.len() > MAX_ROW_BYTES as u64 {
        return Ok(Input::Blob { digest: blob::put_file(session, client, path).await? });
    }
    let reader = source::open(session, path).await.with_context(cannot)?;
    begin(client, reader, new).await.with_context(cannot)
}

/// Reads as much as a row holds; if there is more, all of it goes into a blob without being held.
pub(crate) async fn begin(
    client: &Client,
    mut reader: impl AsyncRead + Unpin + Send + 'static,
    new: &NewExecution,
) -> anyhow::Result<Input> {
    let mut bytes = Vec::new();
    (&mut reader).take(MAX_ROW_BYTES as u64 + 1).read_to_end(&mut bytes).await?;
    if bytes.len() <= MAX_ROW_BYTES {
        return short(client, bytes, new).await;
    }
    let whole = std::io::Cursor::new(bytes).chain(reader);
    let blob = client.blob_post_for(Purpose::Execution, whole, Arc::new(|_| {})).await?;
    Ok(Input::Blob { digest: blob.digest })
}

/// Makes input of bytes that are known whole.
pub(crate) async fn short(client: &Client, bytes: Vec<u8>, new: &NewExecution) -> anyhow::Result<Input> {
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => {
            let input = Input::Text { text };
            // The check knows what a row holds besides, and what a text may not hold.
            let tried = NewExecution { input, ..new.clone() };
            match (tried.check(), tried.input) {
                (Err(_), Input::Text { text }) => text.into_bytes(),
                (_, input) => return Ok(input),
            }
        }
        Err(error) => error.into_bytes(),
    };
    Ok(Input::Blob { digest: blob::put_bytes(client, bytes).await? })
}
