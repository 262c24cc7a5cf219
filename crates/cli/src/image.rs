//! `quarry image`: what executions can run in, pulled from registries or imported from here.

mod folder;
mod import;
pub(crate) mod pull;

use crate::exit::{Exit, Failure};
use crate::list::{ListArgs, list};
use crate::quantity;
use crate::session::Session;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use client::Client;
use model::image::is_sha256;
use model::limits::MAX_PAGE;
use model::{Image as Entity, ImageId, ImageQuery, ImageSource, ImageState};

/// Pulls, imports and removes images, the files and settings that executions can run in
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry image pull debian:stable
  quarry image import --name tools:1 ./rootfs --cmd /bin/sh
  quarry run --image debian:stable -t -- bash")]
pub(crate) enum Image {
    Pull(pull::Pull),
    Import(import::Import),
    Ls(Ls),
    /// Shows an image: what it is made of, and how its program is begun
    #[command(
        after_help = "Example:\n  quarry image inspect debian:stable\n  quarry image inspect debian:stable --json"
    )]
    Inspect {
        /// Which one, by name or id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        image: String,
    },
    /// Removes images; what runs in them goes on
    ///
    /// A name goes with all that were ever made under it, so that it means nothing afterwards; an id or a digest removes one.
    #[command(after_help = "Example:\n  quarry image rm debian:stable tools:1")]
    Rm {
        /// Which ones, by name, id or digest
        #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
        image: Vec<String>,
    },
    /// Frees what no image needs any more
    #[command(after_help = "Example:\n  quarry image gc")]
    Gc,
}

/// Lists images, newest first
#[derive(Args)]
#[command(after_help = "Example:
  quarry image ls
  quarry image ls --name debian:stable --state failed")]
pub(crate) struct Ls {
    /// Only those of this name
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// Only those in this state: importing, ready, failed or gone
    #[arg(long, value_parser = state)]
    state: Option<ImageState>,
    #[command(flatten)]
    list: ListArgs,
}

fn state(text: &str) -> Result<ImageState, String> {
    let known = || ImageState::ALL.map(ImageState::as_str).join(", ");
    let found = ImageState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| format!("it is none of: {}", known()))
}

impl Image {
    /// Tells whether one is made, which hears signals itself.
    pub(crate) const fn is_made(&self) -> bool {
        matches!(self, Self::Pull(_) | Self::Import(_))
    }

    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        match self {
            Self::Pull(pull) => pull.run(session, &client).await,
            Self::Import(import) => import.run(session, &client).await,
            Self::Ls(Ls { name, state, list: args }) => {
                let head = ["id", "state", "created", "size", "digest", "name"];
                list(session, args, &head, row, async |after, limit| {
                    let after = after.map(|after| after.parse()).transpose().map_err(|_| bad_cursor(&client))?;
                    client.image_list(&ImageQuery { name: name.clone(), state, after, limit, tenant: None }).await
                })
                .await
            }
            Self::Inspect { image } => show(session, &client.image_get(&image).await?),
            Self::Rm { image } => {
                let mut exit = Exit::Ok;
                for image in image {
                    exit = exit.or(match remove(session, &client, &image).await {
                        Ok(exit) => exit,
                        Err(error) => session.report(&error),
                    });
                }
                Ok(exit)
            }
            Self::Gc => {
                let freed = client.image_gc().await?;
                if session.output.is_json() {
                    session.output.json(&freed)?;
                } else {
                    session.output.line(&format!("{} blobs, {}", freed.blobs, quantity::bytes_text(freed.bytes)))?;
                }
                Ok(Exit::Ok)
            }
        }
    }
}

fn bad_cursor(client: &Client) -> client::ClientError {
    let what = "the next page is not named by an image".to_owned();
    client::ClientError::Unexpected { url: client.url().to_owned(), what, request: None }
}

/// Removes the image of an id or a digest, or all that have a name; those that could not go are reported one by one.
async fn remove(session: &mut Session, client: &Client, which: &str) -> anyhow::Result<Exit> {
    if let Ok(id) = which.parse::<ImageId>() {
        return said(session, &client.image_remove(id).await?);
    }
    let found = client.image_get(which).await?;
    if is_sha256(which) {
        return said(session, &client.image_remove(found.id).await?);
    }
    let mut exit = Exit::Ok;
    for id in named(client, which).await? {
        exit = exit.or(match client.image_remove(id).await {
            Ok(image) => said(session, &image)?,
            Err(error) => session.report(&error.into()),
        });
    }
    Ok(exit)
}

/// Returns all images of a name, oldest first: while they go one by one, the name never means another than before.
async fn named(client: &Client, name: &str) -> anyhow::Result<Vec<ImageId>> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let query = ImageQuery { name: Some(name.to_owned()), after, limit: Some(MAX_PAGE), ..ImageQuery::default() };
        let page = client.image_list(&query).await?;
        found.extend(page.items.iter().map(|image| image.id));
        let Some(next) = page.next else {
            found.reverse();
            return Ok(found);
        };
        after = Some(next.parse().map_err(|_| bad_cursor(client))?);
    }
}

fn row(image: &Entity, session: &Session) -> Vec<String> {
    let manifest = image.manifest.as_ref();
    let size = manifest.map(|manifest| size_text(session, manifest.size()));
    // Whoever needs all of it inspects; a pipe gets it whole.
    let chars = if session.output.is_terminal() { 19 } else { usize::MAX };
    let digest = manifest.map(|manifest| manifest.digest.chars().take(chars).collect());
    vec![
        image.id.to_string(),
        image.state.as_str().to_owned(),
        session.output.time(image.created_at),
        size.unwrap_or_else(|| "-".to_owned()),
        digest.unwrap_or_else(|| "-".to_owned()),
        image.name.clone(),
    ]
}

/// A pipe gets the exact number.
fn size_text(session: &Session, size: u64) -> String {
    if session.output.is_terminal() { quantity::bytes_text(size) } else { size.to_string() }
}

fn said(session: &mut Session, image: &Entity) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json_line(image)?;
    } else {
        let line = format!("{}  {}  {}", image.id, image.state.as_str(), image.name);
        session.output.line(&crate::output::printable(&line))?;
    }
    Ok(Exit::Ok)
}

/// Shows an image that was asked for, or just made.
fn show(session: &mut Session, image: &Entity) -> anyhow::Result<Exit> {
    let output = &mut session.output;
    if output.is_json() {
        output.json(image)?;
        return Ok(Exit::Ok);
    }
    let source = match &image.source {
        ImageSource::Registry { reference, platform, .. } => {
            let platform = platform.as_ref().map(|platform| format!(" for {platform}")).unwrap_or_default();
            format!("registry, `{reference}`{platform}")
        }
        ImageSource::Archive { blob, .. } => format!("archive, blob {blob}"),
    };
    let manifest = image.manifest.as_ref();
    let config = manifest.map(|manifest| &manifest.config);
    let words = |words: &[String]| (!words.is_empty()).then(|| crate::execution::command_text(words));
    let env = config
        .map(|config| config.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "));
    let fields = [
        ("id", Some(image.id.to_string())),
        ("name", Some(image.name.clone())),
        ("state", Some(image.state.as_str().to_owned())),
        ("cause", image.cause.clone()),
        ("source", Some(source)),
        ("digest", manifest.map(|manifest| manifest.digest.clone())),
        ("platform", manifest.map(|manifest| manifest.platform.to_string())),
        ("size", manifest.map(|manifest| quantity::bytes_text(manifest.size()))),
        ("layers", manifest.map(|manifest| manifest.layers.len().to_string())),
        ("entrypoint", config.and_then(|config| words(&config.entrypoint))),
        ("command", config.and_then(|config| words(&config.cmd))),
        ("env", env.filter(|env| !env.is_empty())),
        ("folder", config.and_then(|config| config.cwd.clone())),
        ("user", config.and_then(|config| config.user.clone())),
        ("runtime", config.and_then(|config| config.runtime.clone())),
        ("by", Some(image.by.clone())),
        ("execution", Some(image.execution.to_string())),
        ("created", Some(output.time(image.created_at))),
        ("ended", image.ended_at.map(|at| output.time(at))),
    ];
    output.fields(&fields)?;
    Ok(Exit::Ok)
}

/// Makes the failure of an image that could not be made.
fn failed(image: &Entity) -> Failure {
    let cause = image.cause.as_deref().unwrap_or("it is not said why");
    let message = format!("image `{}` could not be made: {cause}", image.name);
    Failure::new(Exit::Failed, "image_failed", message)
        .hint(format!("`quarry execution logs {}` has what its making wrote", image.execution))
}
