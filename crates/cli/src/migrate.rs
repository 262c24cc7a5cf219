//! `quarry migrate`: brings a database's schema up to date before the servers of a new version start.

use crate::command::Session;
use crate::exit::{Exit, Failure};
use crate::server::{PlaceArgs, explain};
use clap::Args;
use server::store_config;
use store::{Clock, Schema, Store, StoreError};

/// Brings a database up to date
///
/// A server does so as well when it starts; this does it ahead, and --check only tells. Migrations only add, so servers
/// of the version before go on working.
#[derive(Args)]
#[command(after_help = "Example:
  quarry migrate --db postgres://quarry@db.example.org/quarry
  quarry migrate --data ./quarry-data --check")]
pub(crate) struct Migrate {
    #[command(flatten)]
    place: PlaceArgs,
    /// Change nothing, and say what would be changed
    #[arg(long)]
    check: bool,
}

impl Migrate {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let config = store_config(&self.place.load(Vec::new())?.config);
        let schema = look(&config.place).await?;
        if !self.check && schema.found < schema.known {
            let store = Store::open(&config, Clock::System.now()).await.map_err(|error| explain(error.into()))?;
            store.close().await;
        }
        let output = &mut session.output;
        let Schema { engine, found, known } = schema;
        if output.is_json() {
            let (applied, version) = if self.check { (0, found) } else { (known - found, known) };
            output.json(
                &serde_json::json!({ "engine": engine, "schema": version, "known": known, "applied": applied }),
            )?;
            return Ok(Exit::Ok);
        }
        output.line(&match (found == known, self.check) {
            (true, _) => format!("{engine}: schema {known}, up to date"),
            (false, true) => format!("{engine}: schema {found}, would become {known}"),
            (false, false) => format!("{engine}: schema {found}, now {known}"),
        })?;
        Ok(Exit::Ok)
    }
}

/// Looks at a schema, and refuses one that is newer than this program.
async fn look(place: &store::Place) -> anyhow::Result<Schema> {
    let schema = Schema::look(place).await.map_err(|error| explain(error.into()))?;
    if schema.found > schema.known {
        let error = StoreError::Newer { found: schema.found, known: schema.known };
        return Err(Failure::new(Exit::Refused, "schema_newer", error.to_string())
            .hint("use the version that wrote it, or a newer one")
            .into());
    }
    Ok(schema)
}
