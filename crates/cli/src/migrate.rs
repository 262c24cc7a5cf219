//! `quarry migrate`: brings a database's schema up to date before the servers of a new version start, and moves an
//! embedded install to a database and a bucket.
//!
//! A move copies the contents first, then all rows in one transaction: a row always has its content, and a move that
//! broke off is simply begun again. Nothing is taken away from the folder that is moved.

use crate::exit::{Exit, Failure};
use crate::progress;
use crate::server::{PlaceArgs, explain, explain_at};
use crate::session::Session;
use clap::Args;
use futures_util::TryStreamExt;
use indicatif::ProgressBar;
use jiff::Timestamp;
use server::config::{Config, Database};
use server::log::{Log, LogOutput};
use server::{blob_config, store_config};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use store::blob::{BlobConfig, Blobs, BodyError};
use store::{Clock, Place, Schema, Store, StoreConfig, StoreError, Summary};

/// Brings a database up to date, or moves a data folder to a database and a bucket
///
/// A server brings its schema up to date as well when it starts; this does it ahead, and --check only tells. Migrations
/// only add, so servers of the version before go on working. With --from, everything that the folder holds is copied:
/// the target must be empty, and no server may run on the folder meanwhile.
#[derive(Args)]
#[command(after_help = "Example:
  quarry migrate --db postgres://quarry@db.example.org/quarry
  quarry migrate --data ./quarry-data --check
  quarry migrate --from ./quarry-data --db postgres://quarry@db.example.org/quarry --blobs s3://quarry-blobs")]
pub(crate) struct Migrate {
    #[command(flatten)]
    place: PlaceArgs,
    /// Move all that this data folder holds
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    from: Option<PathBuf>,
    /// Change nothing, and say what would be changed
    #[arg(long)]
    check: bool,
}

impl Migrate {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let config = self.place.load(Vec::new())?.config;
        if let Some(from) = &self.from {
            return move_all(session, from, &config).await;
        }
        let (log, config) = (config.log.clone(), store_config(&config));
        if let Place::Folder(folder) = &config.place {
            refuse_absent(folder)?;
        }
        let schema = look(&config.place).await?;
        if !self.check && schema.found < schema.known {
            // A large database takes minutes, and the store says how far it is.
            Log::start(&log, LogOutput::Stderr, Clock::System)?;
            open(&config, Clock::System.now()).await?.close().await;
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
async fn look(place: &Place) -> anyhow::Result<Schema> {
    let schema = Schema::look(place).await.map_err(|error| unusable(place, error))?;
    if schema.found > schema.known {
        let error = StoreError::Newer { found: schema.found, known: schema.known };
        return Err(Failure::new(Exit::Refused, "schema_newer", error.to_string())
            .hint("use the version that wrote it, or a newer one")
            .into());
    }
    Ok(schema)
}

async fn open(config: &StoreConfig, now: Timestamp) -> anyhow::Result<Store> {
    Store::open(config, now).await.map_err(|error| unusable(&config.place, error))
}

fn unusable(place: &Place, error: StoreError) -> anyhow::Error {
    match place {
        Place::Folder(folder) => explain_at(folder, &error.into()),
        Place::Postgres { .. } => explain(&error.into()),
    }
}

/// Refuses a folder in which no house stands.
fn refuse_absent(folder: &Path) -> Result<(), Failure> {
    if folder.join("quarry.db").exists() {
        return Ok(());
    }
    let message = format!("`{}` holds no house: there is no `quarry.db` in it", folder.display());
    Err(Failure::new(Exit::NotFound, "house_not_found", message).hint("name its folder, or a database with --db"))
}

/// Moves all that a folder holds to where the configuration says.
async fn move_all(session: &mut Session, from: &Path, config: &Config) -> anyhow::Result<Exit> {
    refuse_absent(from)?;
    if matches!(config.store.database, Database::Sqlite) && is_same(from, &config.server.data) {
        return Err(Failure::usage("same_place", "a folder cannot be moved to itself")
            .hint("name --db, or another --data")
            .into());
    }
    let now = Clock::System.now();
    let source = open(&StoreConfig::new(Place::Folder(from.to_owned())), now).await?;
    let moved = async {
        let target = open(&store_config(config), now).await?;
        let moved = copy(session, from, &source, &target, config).await;
        target.close().await;
        moved
    };
    let moved = moved.await;
    source.close().await;
    let (blobs, summary) = moved?;
    let output = &mut session.output;
    if output.is_json() {
        let tables: BTreeMap<_, _> = summary.tables.into_iter().collect();
        output.json(&serde_json::json!({ "blobs": blobs, "rows": tables, "head": summary.head }))?;
    } else {
        let rows = summary.tables.iter().map(|(_, rows)| rows).sum::<u64>();
        output.line(&format!("moved; blobs: {blobs}, rows: {rows}, and the log goes on after {}", summary.head))?;
    }
    Ok(Exit::Ok)
}

fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().ok().zip(other.canonicalize().ok()).is_some_and(|(one, other)| one == other)
}

async fn copy(
    session: &Session,
    from: &Path,
    source: &Store,
    target: &Store,
    config: &Config,
) -> anyhow::Result<(u64, Summary)> {
    let bar = progress::moving(session);
    let blobs = copy_blobs(&bar, from, config).await?;
    let summary = store::transfer(source, target, |progress| {
        bar.set_message(progress.table);
        bar.set_position(progress.rows);
    });
    let summary = summary.await.map_err(|error| unmoved(&error))?;
    bar.finish_and_clear();
    Ok((blobs, summary))
}

/// Says why nothing was moved.
fn unmoved(error: &StoreError) -> Failure {
    let failure = |exit, code| Failure::new(exit, code, format!("nothing was moved: {}", error.chain()));
    match error {
        StoreError::Occupied { .. } => {
            failure(Exit::Refused, "target_not_empty").hint("name a new, empty database with --db")
        }
        _ => failure(Exit::Failed, "move_failed").hint("the folder is as it was; mend the cause and do the same again"),
    }
}

/// Copies every content that the target does not have; each is verified as it is read, and again as it is written.
async fn copy_blobs(bar: &ProgressBar, from: &Path, config: &Config) -> anyhow::Result<u64> {
    let source = Blobs::open(BlobConfig::Local { folder: from.join("blob") })?;
    let target = Blobs::open(blob_config(config))?;
    bar.set_message("blob");
    let mut count = 0;
    let mut list = source.list();
    while let Some((digest, size)) = list.try_next().await? {
        if target.head(digest).await? != Some(size) {
            let reading = source.get(digest, None).await?;
            target.put(Some(digest), reading.stream.map_err(BodyError::from), size).await?;
        }
        count += 1;
        bar.set_position(count);
    }
    Ok(count)
}
