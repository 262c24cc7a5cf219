//! `quarry token`: credentials.

use crate::draft::{Draft, Readers};
use crate::exit::Exit;
use crate::list::{ListArgs, list};
use crate::quantity;
use crate::session::Session;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use model::{NewToken, PageQuery, Scope, Token as Entity, TokenId};
use std::path::PathBuf;

/// Makes and revokes tokens, the credentials that commands and programs show
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry token create laptop --expires 90d
  quarry token ls")]
pub(crate) enum Token {
    Create(Create),
    /// Lists tokens
    #[command(after_help = "Example:\n  quarry token ls --limit 0")]
    Ls(ListArgs),
    /// Shows a token, without its secret
    #[command(after_help = "Example:\n  quarry token info tok_01k9yvx0g8m6f3s2d1a0q7w5e4")]
    Info {
        /// Which one
        id: TokenId,
    },
    /// Makes tokens worthless, for good
    #[command(after_help = "Example:\n  quarry token revoke tok_01k9yvx0g8m6f3s2d1a0q7w5e4")]
    Revoke {
        /// Which ones
        #[arg(required = true)]
        id: Vec<TokenId>,
    },
}

/// Makes a token and shows its secret, this one time
#[derive(Args)]
#[command(after_help = "Example:
  quarry token create laptop --expires 90d
  quarry token create ci --user robot --scope execution:write --scope blob:write --file ./token")]
pub(crate) struct Create {
    /// What to call it
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Whose it shall be, by name or id; oneself, if nobody is named
    #[arg(long)]
    user: Option<String>,
    /// What it may be used for, such as `execution:read`; all that its user may do, if nothing is said
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<Scope>,
    /// When it stops working: after a time span such as `90d`, or at an instant
    #[arg(long, value_name = "WHEN", value_parser = expiry)]
    expires: Option<Timestamp>,
    /// Write the secret into this file, for its owner alone to read, instead of showing it
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

fn expiry(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let span = quantity::duration(text)?;
    client::id::now().checked_add(span).map_err(|_| format!("`{text}` is too far away"))
}

impl Token {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        match self {
            Self::Create(create) => create.run(session).await,
            Self::Ls(args) => {
                let head = ["id", "name", "user", "state", "created", "expires", "used", "scopes"];
                list(session, args, &head, row, async |after, limit| {
                    client.token_list(&PageQuery { after, limit, tenant: None }).await
                })
                .await
            }
            Self::Info { id } => show(session, &client.token_get(id).await?),
            Self::Revoke { id } => {
                let mut exit = Exit::Ok;
                for id in id {
                    exit = exit.or(match client.token_revoke(id).await {
                        Ok(token) => said(session, &token)?,
                        Err(error) => session.report(&error.into()),
                    });
                }
                Ok(exit)
            }
        }
    }
}

impl Create {
    async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let user = match &self.user {
            Some(user) => Some(crate::user::find(&client, user).await?),
            None => None,
        };
        // The file comes first: a secret that cannot be written down would be lost.
        let draft = self.file.as_deref().map(|path| Draft::begin(path, Readers::Owner)).transpose()?;
        let id = client::id::fresh(TokenId::new);
        let new = NewToken { id, name: self.name, user, scopes: self.scope, expires_at: self.expires };
        let issued = client.token_create(&new).await?;
        if let (Some(mut draft), Some(path)) = (draft, self.file) {
            draft.write(format!("{}\n", issued.secret).as_bytes())?;
            draft.keep()?;
            session.output.say(&format!("the secret stands in `{}`", path.display()));
            if session.output.is_json() {
                session.output.json(&issued.token)?;
            } else {
                session.output.line(&issued.token.id.to_string())?;
            }
            return Ok(Exit::Ok);
        }
        if session.output.is_json() {
            session.output.json(&issued)?;
        } else {
            session.output.say(&format!("token `{}`; its secret is not shown again:", issued.token.id));
            session.output.line(&issued.secret)?;
        }
        Ok(Exit::Ok)
    }
}

fn state(token: &Entity) -> &'static str {
    let has_expired = token.expires_at.is_some_and(|at| at <= client::id::now());
    match token.revoked_at {
        Some(_) => "revoked",
        None if has_expired => "expired",
        None => "active",
    }
}

fn scopes(token: &Entity) -> String {
    let words = token.scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if words.is_empty() { "all of its user".to_owned() } else { words }
}

fn row(token: &Entity, session: &Session) -> Vec<String> {
    let output = &session.output;
    vec![
        token.id.to_string(),
        token.name.clone(),
        token.user.to_string(),
        state(token).to_owned(),
        output.time(token.created_at),
        output.time_or(token.expires_at, "never"),
        output.time_or(token.used_at, "never"),
        scopes(token),
    ]
}

fn show(session: &mut Session, token: &Entity) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json(token)?;
        return Ok(Exit::Ok);
    }
    let output = &mut session.output;
    let fields = [
        ("id", Some(token.id.to_string())),
        ("name", Some(token.name.clone())),
        ("user", Some(token.user.to_string())),
        ("tenant", Some(token.tenant.to_string())),
        ("state", Some(state(token).to_owned())),
        ("scopes", Some(scopes(token))),
        ("created", Some(output.time(token.created_at))),
        ("expires", Some(output.time_or(token.expires_at, "never"))),
        ("used", Some(output.time_or(token.used_at, "never"))),
        ("revoked", token.revoked_at.map(|at| output.time(at))),
    ];
    output.fields(&fields)?;
    Ok(Exit::Ok)
}

fn said(session: &mut Session, token: &Entity) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json_line(token)?;
    } else {
        session.output.line(&format!("{}  {}", token.id, state(token)))?;
    }
    Ok(Exit::Ok)
}
