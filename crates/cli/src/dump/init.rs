//! `quarry dump init`: what Thoth's users begin with. There is nothing to create here; it says whether all is there.

use crate::exit::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use model::Scope;
use model::dump::query::{ReportQuery, Selection};

/// Makes sure that dumps can be kept: that the server answers and lets one in
///
/// Nothing need be set up: a server has all that dumps need from its start.
#[derive(Args)]
#[command(after_help = "Example:\n  quarry dump init")]
pub(crate) struct Init {}

impl Init {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let client = session.client()?;
        let who = client.whoami().await?;
        session.output.say(&format!("using server at {}", client.url()));
        for scope in [Scope::DumpRead, Scope::DumpWrite] {
            if !who.scopes.contains(&scope) {
                let message = format!("user `{}` may not do `{}` with this token", who.user, scope.as_str());
                return Err(Failure::new(Exit::Refused, "not_allowed", message).into());
            }
        }
        let all = client.dump_report(&ReportQuery { of: Selection::default(), property: None }).await?;
        session.output.say(&format!("tenant `{}` has {} dumps", who.tenant.name, all.dumps));
        if session.output.is_json() {
            session.output.json(&serde_json::json!({"tenant": who.tenant.name, "dumps": all.dumps}))?;
        }
        Ok(Exit::Ok)
    }
}
