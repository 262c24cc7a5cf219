//! `quarry tenant`: groups of users who see each other's things and nobody else's. Named by name or id.

use crate::exit::{Exit, Failure};
use crate::list::{ListArgs, list};
use crate::session::Session;
use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use client::Client;
use model::limits::MAX_PAGE;
use model::{NewTenant, PageQuery, Tenant as Entity, TenantChange, TenantId};

/// Makes tenants, groups of users who see each other's things and nobody else's
#[derive(Subcommand)]
#[command(after_help = "Example:
  quarry tenant create biology
  quarry user create ada --role admin --tenant biology")]
pub(crate) enum Tenant {
    /// Makes a tenant
    #[command(after_help = "Example:\n  quarry tenant create biology")]
    Create {
        /// What to call it
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Lists tenants
    #[command(after_help = "Example:\n  quarry tenant ls")]
    Ls(ListArgs),
    /// Changes what holds for a tenant
    #[command(after_help = "Example:\n  quarry tenant set biology --runtime runsc")]
    Set {
        /// Which one, by name or id
        #[arg(value_name = "TENANT", value_parser = NonEmptyStringValueParser::new())]
        which: String,
        /// The OCI runtime for executions in images where neither they nor the image name one; `quarry` is Quarry's own
        #[arg(long, value_name = "NAME")]
        runtime: String,
    },
    /// Shows a tenant
    #[command(after_help = "Example:\n  quarry tenant info biology")]
    Info {
        /// Which one, by name or id
        #[arg(value_name = "TENANT", value_parser = NonEmptyStringValueParser::new())]
        which: String,
    },
}

impl Tenant {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let tenant = match self {
            Self::Create { name } => {
                let id = client::id::fresh(TenantId::new);
                client.tenant_create(&NewTenant { id, name }).await?
            }
            Self::Ls(args) => {
                let row = |tenant: &Entity, session: &Session| {
                    vec![tenant.id.to_string(), session.output.time(tenant.created_at), tenant.name.clone()]
                };
                return list(session, args, &["id", "created", "name"], row, async |after, limit| {
                    client.tenant_list(&PageQuery { after, limit, tenant: None }).await
                })
                .await;
            }
            Self::Set { which, runtime } => {
                let id = find(&client, &which).await?.id;
                client.tenant_update(id, &TenantChange { runtime: Some(runtime) }).await?
            }
            Self::Info { which } => find(&client, &which).await?,
        };
        if session.output.is_json() {
            session.output.json(&tenant)?;
            return Ok(Exit::Ok);
        }
        let created = session.output.time(tenant.created_at);
        session.output.fields(&[
            ("id", Some(tenant.id.to_string())),
            ("name", Some(tenant.name)),
            ("runtime", tenant.runtime),
            ("created", Some(created)),
        ])?;
        Ok(Exit::Ok)
    }
}

async fn find(client: &Client, name: &str) -> anyhow::Result<Entity> {
    if let Ok(id) = name.parse() {
        return Ok(client.tenant_get(id).await?);
    }
    let mut after = None;
    loop {
        let page = client.tenant_list(&PageQuery { after, limit: Some(MAX_PAGE), tenant: None }).await?;
        let is_last = page.next.is_none() || page.items.is_empty();
        if let Some(found) = page.items.into_iter().find(|found| found.name == name) {
            return Ok(found);
        }
        if is_last {
            let message = format!("tenant `{name}` does not exist");
            return Err(Failure::new(Exit::NotFound, "tenant_not_found", message)
                .hint("see `quarry tenant ls`")
                .into());
        }
        after = page.next;
    }
}
