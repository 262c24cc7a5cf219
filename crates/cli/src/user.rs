//! `quarry user`: who may come in, and as what. Users may be named by name or id.

use crate::exit::{Exit, Failure};
use crate::list::{ListArgs, list};
use crate::session::Session;
use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use client::Client;
use model::limits::MAX_PAGE;
use model::{NewUser, PageQuery, Role, User as Entity, UserChange, UserId, UserState};

/// Makes users, and says what they may do
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry user create ada --role user
  quarry token create laptop --user ada")]
pub(crate) enum User {
    /// Makes a user
    #[command(after_help = "Example:\n  quarry user create ada --role user")]
    Create {
        /// What to call them
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// What they may do: viewer, user, operator or admin
        #[arg(long)]
        role: Role,
    },
    /// Lists users
    #[command(after_help = "Example:\n  quarry user ls")]
    Ls(ListArgs),
    /// Shows a user
    #[command(after_help = "Example:\n  quarry user info ada")]
    Info {
        /// Whom, by name or id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        user: String,
    },
    /// Gives a user another role
    #[command(after_help = "Example:\n  quarry user role ada operator")]
    Role {
        /// Whom, by name or id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        user: String,
        /// What they may do: viewer, user, operator or admin
        role: Role,
    },
    /// Keeps a user out; all their tokens are refused
    #[command(after_help = "Example:\n  quarry user disable ada")]
    Disable {
        /// Whom, by name or id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        user: String,
    },
    /// Lets a user in again
    #[command(after_help = "Example:\n  quarry user enable ada")]
    Enable {
        /// Whom, by name or id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        user: String,
    },
}

impl User {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let changed = async |user: &str, change: UserChange| -> anyhow::Result<Entity> {
            let id = find(&client, user).await?;
            Ok(client.user_change(id, &change).await?)
        };
        let user = match self {
            Self::Create { name, role } => {
                let id = client::id::fresh(UserId::new);
                client.user_create(&NewUser { id, name, role }).await?
            }
            Self::Ls(args) => {
                let head = ["id", "role", "state", "created", "name"];
                return list(session, args, &head, row, async |after, limit| {
                    client.user_list(&PageQuery { after, limit, tenant: None }).await
                })
                .await;
            }
            Self::Info { user } => client.user_get(find(&client, &user).await?).await?,
            Self::Role { user, role } => {
                changed(&user, UserChange { role: Some(role), ..UserChange::default() }).await?
            }
            Self::Disable { user } => {
                changed(&user, UserChange { state: Some(UserState::Disabled), ..UserChange::default() }).await?
            }
            Self::Enable { user } => {
                changed(&user, UserChange { state: Some(UserState::Active), ..UserChange::default() }).await?
            }
        };
        show(session, &user)
    }
}

/// Returns the id of a user who is named by name or id.
pub(crate) async fn find(client: &Client, user: &str) -> anyhow::Result<UserId> {
    if let Ok(id) = user.parse() {
        return Ok(id);
    }
    let mut after = None;
    loop {
        let page = client.user_list(&PageQuery { after, limit: Some(MAX_PAGE), tenant: None }).await?;
        if let Some(found) = page.items.iter().find(|found| found.name == user) {
            return Ok(found.id);
        }
        if page.next.is_none() || page.items.is_empty() {
            let message = format!("user `{user}` does not exist");
            return Err(Failure::new(Exit::NotFound, "user_not_found", message).hint("see `quarry user ls`").into());
        }
        after = page.next;
    }
}

fn row(user: &Entity, session: &Session) -> Vec<String> {
    vec![
        user.id.to_string(),
        user.role.to_string(),
        user.state.as_str().to_owned(),
        session.output.time(user.created_at),
        user.name.clone(),
    ]
}

fn show(session: &mut Session, user: &Entity) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json(user)?;
        return Ok(Exit::Ok);
    }
    let fields = [
        ("id", Some(user.id.to_string())),
        ("name", Some(user.name.clone())),
        ("tenant", Some(user.tenant.to_string())),
        ("role", Some(user.role.to_string())),
        ("state", Some(user.state.as_str().to_owned())),
        ("created", Some(session.output.time(user.created_at))),
    ];
    session.output.fields(&fields)?;
    Ok(Exit::Ok)
}
