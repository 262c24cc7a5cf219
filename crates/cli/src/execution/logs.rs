//! `quarry execution logs`: what an execution wrote, byte for byte.

use super::transcript::{self, Next, Transcript, Until};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use client::Client;
use model::{Execution, ExecutionId, Stream};

/// Prints what an execution wrote, byte for byte
///
/// What it wrote to standard error goes to standard error, unless one stream is asked for.
#[derive(Args)]
#[command(after_help = "Example:
  quarry execution logs exe_01k9yvx0g8m6f3s2d1a0q7w5e4
  quarry execution logs -f exe_01k9yvx0g8m6f3s2d1a0q7w5e4 --stream error
  quarry execution logs exe_01k9yvx0g8m6f3s2d1a0q7w5e4 --attempt 1")]
pub(crate) struct Logs {
    /// Of which one
    id: ExecutionId,
    /// Go on until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only one stream, to standard output: output or error
    #[arg(long, value_parser = stream)]
    stream: Option<Stream>,
    /// Of which attempt; of the last one that wrote anything, if nothing is said
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

fn stream(text: &str) -> Result<Stream, String> {
    let found = [Stream::Output, Stream::Error].into_iter().find(|stream| stream.as_str() == text);
    found.ok_or_else(|| "it is none of: output, error".to_owned())
}

fn missing(execution: &Execution, attempt: u32) -> Failure {
    let message = format!("execution `{}` has no attempt {attempt}", execution.id);
    let failure = Failure::new(Exit::NotFound, "attempt_not_found", message);
    failure.hint(match execution.attempt {
        0 => "none has begun yet".to_owned(),
        1 => "it has had 1 so far".to_owned(),
        last => format!("it has had {last} so far"),
    })
}

impl Logs {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session, client: &Client) -> anyhow::Result<Exit> {
        let patient = session.patient_client()?;
        // A server that is not there is told at once; one that goes away meanwhile is waited for.
        let execution = client.execution_get(self.id).await?;
        if let Some(attempt) = self.attempt.filter(|asked| !(1..=execution.attempt).contains(asked)) {
            return Err(missing(&execution, attempt).into());
        }
        let mut transcript = Transcript::new(&patient, self.id, self.attempt);
        let until = if self.follow { Until::End } else { Until::Now };
        loop {
            match transcript.next(until).await? {
                Next::Nothing(_) => return Ok(Exit::Ok),
                Next::Again(attempt) => session.output.say(&format!("attempt {attempt} begins from the beginning")),
                Next::Chunks(chunks) => {
                    for chunk in chunks.iter().filter(|chunk| self.stream.is_none_or(|only| chunk.stream == only)) {
                        let to = if self.stream.is_some() { Stream::Output } else { chunk.stream };
                        transcript::write(session, &patient, chunk, to).await?;
                    }
                }
            }
        }
    }
}
