//! `quarry login`: keeps an address and a token for later commands, in one file that its owner alone can read.

use crate::connection;
use crate::draft::{Draft, Readers};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use anyhow::Context;
use clap::Args;
use model::WhoAmI;
use model::limits::MAX_CREDENTIAL_CHARS;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

/// Bytes of the file that is kept.
const MAX_LOGIN_BYTES: u64 = 64 << 10;

/// Keeps a server's address and a token, so that other commands need not be told
///
/// The token is read from --token-file, from --token, from a prompt that shows nothing, or from standard input. The
/// server is asked whose it is before anything is kept. The file is $XDG_CONFIG_HOME/quarry/login.json, or
/// ~/.config/quarry/login.json.
#[derive(Args)]
#[command(after_help = "Example:
  quarry login http://localhost:8080 --token-file ./token
  quarry login https://quarry.example.org
  quarry login --show
  quarry login --forget")]
pub(crate) struct Login {
    /// The server's address
    #[arg(value_name = "URL", required_unless_present_any = ["show", "forget", "url"])]
    address: Option<String>,
    /// A file that holds the token and nothing else
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Show where one is logged in, and as whom
    #[arg(long, conflicts_with_all = ["address", "token_file", "forget"])]
    show: bool,
    /// Forget the address and the token
    #[arg(long, conflicts_with_all = ["address", "token_file"])]
    forget: bool,
}

/// What is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// The server's address.
    pub(crate) url: String,
    /// The token to show there.
    pub(crate) token: String,
    /// The certificates to trust there, besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
}

impl Login {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        if self.forget {
            return forget(session);
        }
        if self.show {
            return show(session).await;
        }
        let address = self.address.or_else(|| session.global.url.clone()).unwrap_or_default();
        // A wrong address shall be told before somebody types a secret.
        let ca_file = session.global.ca_file.as_deref().map(std::path::absolute).transpose()?;
        connection::open(&address, None, ca_file.clone(), &session.global)?;
        let token = match &self.token_file {
            Some(path) => token_from_file(path)?,
            None => match session.global.token.clone() {
                Some(token) => token,
                None => token_from_input(session).await?,
            },
        };
        let client = connection::open(&address, Some(&token), ca_file.clone(), &session.global)?;
        let who = client.whoami().await?;
        let stored = Stored { url: client.url().to_owned(), token, ca_file };
        store(&stored)?;
        told(session, &stored.url, &who)
    }

    /// Returns what is kept, if anything is.
    pub(crate) fn load() -> anyhow::Result<Option<Stored>> {
        let Some(path) = path() else { return Ok(None) };
        let file = match std::fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("`{}` cannot be read", path.display()))?,
        };
        let mut text = String::new();
        let broken = || {
            Failure::usage("login_broken", format!("`{}` does not hold a login", path.display()))
                .hint("`quarry login URL` writes it anew")
        };
        file.take(MAX_LOGIN_BYTES).read_to_string(&mut text).map_err(|_| broken())?;
        Ok(Some(serde_json::from_str(&text).map_err(|_| broken())?))
    }
}

fn path() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("quarry").join("login.json"))
}

fn store(stored: &Stored) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let path = path().ok_or_else(|| {
        Failure::new(Exit::Failed, "no_home", "there is no place to keep a login")
            .hint("set HOME or XDG_CONFIG_HOME, or use QUARRY_URL and QUARRY_TOKEN instead")
    })?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("`{}` cannot be made", folder.display()))?;
    let mut draft = Draft::begin(&path, Readers::Owner)?;
    draft.write(&serde_json::to_vec_pretty(stored)?)?;
    draft.keep()
}

fn forget(session: &Session) -> anyhow::Result<Exit> {
    let removed = path().map(std::fs::remove_file);
    match removed {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Some(Ok(())) => session.output.say("forgotten; the token itself still works until it is revoked"),
        _ => session.output.say("nobody was logged in"),
    }
    Ok(Exit::Ok)
}

async fn show(session: &mut Session) -> anyhow::Result<Exit> {
    let client = session.client()?;
    let who = client.whoami().await?;
    told(session, client.url(), &who)
}

fn told(session: &mut Session, url: &str, who: &WhoAmI) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json(who)?;
        return Ok(Exit::Ok);
    }
    let scopes = who.scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    session.output.fields(&[
        ("server", Some(url.to_owned())),
        ("user", Some(who.user.clone())),
        ("tenant", Some(who.tenant.name.clone())),
        ("role", Some(who.role.to_string())),
        ("scopes", Some(scopes)),
        ("token", who.token.map(|token| token.to_string())),
    ])?;
    Ok(Exit::Ok)
}

fn token_from_file(path: &Path) -> anyhow::Result<String> {
    let file = std::fs::File::open(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
    token_from(io::BufReader::new(file)).with_context(|| format!("`{}` cannot be read", path.display()))
}

fn token_from(reader: impl BufRead) -> anyhow::Result<String> {
    let mut text = String::new();
    reader.take(MAX_CREDENTIAL_CHARS as u64 + 2).read_line(&mut text)?;
    let token = text.trim();
    if token.is_empty() {
        return Err(Failure::usage("no_token", "no token was given").into());
    }
    Ok(token.to_owned())
}

async fn token_from_input(session: &Session) -> anyhow::Result<String> {
    ask(session, "token: ", || token_from(io::stdin().lock())).await
}

/// Asks for a secret; what is typed at a terminal is not shown.
pub(crate) async fn ask(
    session: &Session,
    prompt: &str,
    read: impl FnOnce() -> anyhow::Result<String> + Send + 'static,
) -> anyhow::Result<String> {
    let hidden = if io::stdin().is_terminal() {
        session.output.prompt(prompt)?;
        Some(Hidden::begin()?)
    } else {
        None
    };
    let secret = tokio::task::spawn_blocking(read).await?;
    if hidden.is_some() {
        session.output.prompt("\n")?;
    }
    secret
}

/// A terminal that does not show what is typed. It shows again when this is dropped, on Ctrl-C too.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to show on it.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
