//! `quarry image pull`, and the making of an image in general: an execution on a node, whose log is the progress.

use super::{failed, show};
use crate::execution;
use crate::execution::transcript::{Next, Transcript, Until};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use crate::signals::Signals;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use client::Client;
use futures_util::FutureExt;
use model::{Content, ErrorKind, ExecutionId, Image as Entity, ImageId, ImageSource, ImageState, NewImage, Platform};
use std::pin::pin;
use std::time::Duration;

/// Bytes of a line of progress.
const MAX_REMARK_BYTES: usize = 4_096;
/// How long to wait before looking again at an end that is not yet written down.
const SETTLE: Duration = Duration::from_millis(50);

/// Pulls an image from a registry, through a node, and pins its digest; Ctrl-C stops that
#[derive(Args)]
#[command(after_help = "Example:
  quarry image pull debian:stable
  quarry image pull registry.example.org/team/tools:1 --platform linux/arm64
  quarry image pull localhost:5000/tools --plain-http --name tools")]
pub(crate) struct Pull {
    /// What to pull: `[HOST/]NAME[:TAG][@sha256:…]`
    #[arg(value_name = "REFERENCE", value_parser = NonEmptyStringValueParser::new())]
    reference: String,
    /// For which machines, such as `linux/arm64`; for those of the node that pulls, if nothing is said
    #[arg(long, value_name = "OS/ARCHITECTURE", value_parser = platform)]
    platform: Option<Platform>,
    /// Speak to the registry without TLS
    #[arg(long)]
    plain_http: bool,
    /// Another OCI runtime than Quarry's own for what runs in it, by the name under which nodes offer it
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// What to call it here; as it was pulled, if nothing is said
    #[arg(long)]
    name: Option<String>,
}

fn platform(text: &str) -> Result<Platform, String> {
    let mut parts = text.split('/').map(str::to_owned);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(os), Some(architecture), variant, None) if !os.is_empty() && !architecture.is_empty() => {
            Ok(Platform { os, architecture, variant })
        }
        _ => Err(format!("`{text}` is not of the form `OS/ARCHITECTURE`, such as `linux/amd64`")),
    }
}

/// What to pull, and how.
#[derive(Debug)]
pub(crate) struct Pulled {
    reference: String,
    platform: Option<Platform>,
    runtime: Option<String>,
    plain_http: bool,
    name: Option<String>,
}

impl Pulled {
    /// Names what to pull as it is usual.
    pub(crate) fn of(reference: &str) -> Self {
        Self { reference: reference.to_owned(), platform: None, runtime: None, plain_http: false, name: None }
    }
}

impl Pull {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session, client: &Client) -> anyhow::Result<Exit> {
        let Self { reference, platform, runtime, plain_http, name } = self;
        let new = request(Pulled { reference, platform, runtime, plain_http, name })?;
        match make((session, client), &new, &mut Signals::new()?).await? {
            Ok(image) => show(session, &image),
            Err(exit) => Ok(exit),
        }
    }
}

/// Tells whether there is no image of this name that is ready.
pub(crate) async fn is_missing(client: &Client, name: &str) -> anyhow::Result<bool> {
    match client.image_get(name).await {
        Ok(image) => Ok(image.state != ImageState::Ready),
        Err(error) if error.api().is_some_and(|error| error.kind == ErrorKind::NotFound) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Makes the request for an image of a registry.
pub(crate) fn request(what: Pulled) -> anyhow::Result<NewImage> {
    let Pulled { reference, platform, runtime, plain_http, name } = what;
    request_of(ImageSource::Registry { reference, platform, runtime }, name, plain_http)
}

/// Makes the request for an image.
pub(super) fn request_of(source: ImageSource, name: Option<String>, plain_http: bool) -> anyhow::Result<NewImage> {
    let (id, execution) = (client::id::fresh(ImageId::new), client::id::fresh(ExecutionId::new));
    let new = NewImage { id, execution, name, source, plain_http };
    new.check()?;
    Ok(new)
}

/// Has an image made, telling its progress; or stops that, if a signal comes, and returns what to end with.
pub(crate) async fn make(
    (session, client): (&Session, &Client),
    new: &NewImage,
    signals: &mut Signals,
) -> anyhow::Result<Result<Entity, Exit>> {
    let image = match signals.sent(client.image_create(new)).await {
        Ok(answer) => answer?,
        Err(left) => return Ok(Err(left.tell(session, new.execution))),
    };
    match signals.during(follow(session, &image)).await {
        Ok(ready) => ready.map(Ok),
        Err(exit) => {
            signals.stop((session, client), image.execution).await;
            let what = match image.source {
                ImageSource::Registry { .. } => "pull",
                ImageSource::Archive { .. } => "import",
            };
            session.output.say(&format!("the {what} of image `{}` was stopped", image.name));
            Ok(Err(exit))
        }
    }
}

/// Tells the progress of an image that is made, until it is ready.
async fn follow(session: &Session, image: &Entity) -> anyhow::Result<Entity> {
    let patient = session.patient_client()?;
    let mut telling = pin!(tell(session, &patient, image.execution));
    let mut waiting = pin!(execution::wait_reasons(session, &patient, image.execution, || {}).fuse());
    loop {
        tokio::select! {
            told = &mut telling => break told?,
            () = &mut waiting => {}
        }
    }
    loop {
        let image = patient.image_get(&image.id.to_string()).await?;
        match image.state {
            ImageState::Importing => {}
            ImageState::Ready => return Ok(image),
            ImageState::Failed => return Err(failed(&image).into()),
            ImageState::Gone => {
                let message = format!("image `{}` was removed while it was made", image.name);
                return Err(Failure::new(Exit::Refused, "image_gone", message).into());
            }
        }
        tokio::time::sleep(SETTLE).await;
    }
}

/// Says what the making of an image writes, until it has ended.
async fn tell(session: &Session, client: &Client, id: ExecutionId) -> anyhow::Result<()> {
    let mut transcript = Transcript::new(client, id, None);
    let mut remarks = Remarks::default();
    loop {
        match transcript.next(Until::End).await? {
            Next::Nothing(_) => break,
            Next::Again(_) => {
                remarks.end(|line| session.output.say(line));
                session.output.say("the node was lost; another one begins");
            }
            Next::Chunks(chunks) => {
                for chunk in &chunks {
                    // What is too long to be a remark is passed over.
                    if let Content::Inline { bytes } = &chunk.content {
                        remarks.push(&bytes.0, |line| session.output.say(line));
                    }
                }
            }
        }
    }
    remarks.end(|line| session.output.say(line));
    Ok(())
}

/// Lines out of chunks, which may end anywhere.
#[derive(Default)]
struct Remarks(Vec<u8>);

impl Remarks {
    fn push(&mut self, bytes: &[u8], mut say: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.0.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.0.len() > MAX_REMARK_BYTES {
                self.end(&mut say);
            }
        }
    }

    fn end(&mut self, mut say: impl FnMut(&str)) {
        let line = std::mem::take(&mut self.0);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\r', '\n']);
        if !line.is_empty() {
            say(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read() {
        let check = |text: &str, is_good: bool| {
            let found = platform(text);
            assert_eq!(found.is_ok(), is_good, "{text}");
            assert!(found.is_err() || found.expect("is one").to_string() == text);
        };
        check("linux/amd64", true);
        check("linux/arm64/v8", true);
        for bad in ["", "linux", "/amd64", "linux/", "a/b/c/d"] {
            check(bad, false);
        }
    }

    #[test]
    fn remarks_are_whole_lines() {
        let check = |chunks: &[&str], expected: &[&str]| {
            let (mut remarks, mut said) = (Remarks::default(), Vec::new());
            chunks.iter().for_each(|chunk| remarks.push(chunk.as_bytes(), |line| said.push(line.to_owned())));
            remarks.end(|line| said.push(line.to_owned()));
            assert_eq!(said, expected);
        };
        check(&["one\ntw", "o\nthree"], &["one", "two", "three"]);
        check(&["\n", "\r\n", "ä\r\n"], &["ä"]);
        let (long, rest) = ("x".repeat(MAX_REMARK_BYTES + 1), "y\n");
        check(&[&long, rest], &[&long, "y"]);
    }
}
