//! Analyzers: stored under a name, each content a version, listed, removed. What they make of dumps is in
//! `analyzer/study.rs`, and how they meet dumps that arrive in `analyzer/arrival.rs`.
//!
//! A version's number is never given to another content while the name is there; removing the name forgets its versions and
//! what they have studied.

pub(crate) mod arrival;
pub(crate) mod study;

use crate::content;
use crate::error::StoreError;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{NewChange, Operation, Tx};
use crate::value::{Row, Value, to_json};
use jiff::Timestamp;
use model::analyzer::{
    Analyzer, AnalyzerChange, AnalyzerStored, AnalyzerVersion, MAX_ANALYZER_BYTES, MAX_ANALYZERS, MAX_ON_ARRIVAL,
    Storing, StudyLimits,
};
use model::{ApiError, Digest, ErrorKind, Noun, TenantId};

/// The columns of an analyzer, in the order in which [`read`] takes them, and where they come from.
macro_rules! select {
    () => {
        "SELECT a.tenant, a.name, a.version, v.script, v.size, a.memory_bytes, a.wall_ms, a.arrival, v.created_by, \
         v.created_at FROM analyzer AS a \
         JOIN analyzer_version AS v ON v.tenant = a.tenant AND v.name = a.name AND v.version = a.version "
    };
}

statements! {
    GET = concat!(select!(), "WHERE a.tenant = $1 AND a.name = $2");
    LIST = concat!(select!(), "WHERE a.tenant = $1 AND a.name > $2 ORDER BY a.name LIMIT $3");
    ON_ARRIVAL = concat!(select!(), "WHERE a.tenant = $1 AND a.arrival IS NOT NULL ORDER BY a.name LIMIT $2");
    HOLD_POSTGRES = "SELECT name FROM analyzer WHERE tenant = $1 AND name = $2 FOR UPDATE";
    COUNT = "SELECT count(*) FROM analyzer WHERE tenant = $1";
    INSERT = "INSERT INTO analyzer (tenant, name, version, memory_bytes, wall_ms, arrival) \
              VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    UPDATE = "UPDATE analyzer SET version = $1, memory_bytes = $2, wall_ms = $3, arrival = $4 \
              WHERE tenant = $5 AND name = $6";
    VERSION = "SELECT script FROM analyzer_version WHERE tenant = $1 AND name = $2 AND version = $3";
    KNOWN = "SELECT version FROM analyzer_version WHERE tenant = $1 AND name = $2 AND script = $3";
    VERSIONS = "SELECT version, script, size, created_by, created_at FROM analyzer_version \
                WHERE tenant = $1 AND name = $2 AND version < $3 ORDER BY version DESC LIMIT $4";
    NEWEST = "SELECT max(version) FROM analyzer_version WHERE tenant = $1 AND name = $2";
    ADD = "INSERT INTO analyzer_version (tenant, name, version, script, size, created_by, created_at) \
           VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
    REMOVE = "DELETE FROM analyzer WHERE tenant = $1 AND name = $2 RETURNING name";
    REMOVE_VERSIONS = "DELETE FROM analyzer_version WHERE tenant = $1 AND name = $2";
    REMOVE_STUDIES = "DELETE FROM study WHERE tenant = $1 AND analyzer = $2";
}

fn read(row: &Row) -> Result<Analyzer, StoreError> {
    Ok(Analyzer {
        tenant: row.parsed(0)?,
        name: row.text(1)?.to_owned(),
        version: number(row.count(2)?),
        script: row.parsed(3)?,
        size: row.count(4)?,
        limits: StudyLimits { memory_bytes: row.count(5)?, wall_ms: row.count(6)? },
        on_arrival: row.maybe_json(7)?,
        by: row.text(8)?.to_owned(),
        created_at: row.time(9)?,
    })
}

fn number(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn missing(name: &str) -> StoreError {
    StoreError::NotFound { noun: "analyzer", id: name.to_owned() }
}

async fn find(tx: &Tx<'_>, tenant: TenantId, name: &str) -> Result<Option<Analyzer>, StoreError> {
    tx.row(GET, &[tenant.into(), name.into()]).await?.as_ref().map(read).transpose()
}

/// Returns what a version of an analyzer is.
pub(crate) async fn script(
    tx: &Tx<'_>,
    tenant: TenantId,
    name: &str,
    version: u32,
) -> Result<Option<Digest>, StoreError> {
    let row = tx.row(VERSION, &[tenant.into(), name.into(), version.into()]).await?;
    row.map(|row| row.parsed(0)).transpose()
}

/// Says something of an analyzer, and stores what it is.
struct AnalyzerPut {
    name: String,
    change: AnalyzerChange,
    tenant: TenantId,
    by: String,
    at: Timestamp,
}

impl AnalyzerPut {
    /// Returns the version that a content is, which it becomes if it is none yet.
    async fn version(&self, tx: &Tx<'_>, script: Digest) -> Result<u32, StoreError> {
        let blob = content::name(tx, self.tenant, script).await?;
        if blob.size == 0 || blob.size > MAX_ANALYZER_BYTES {
            let message = format!("an analyzer has 1 to {MAX_ANALYZER_BYTES} bytes, not {}", blob.size);
            return Err(ApiError::invalid("analyzer_invalid", message).into());
        }
        // It may have come as an execution's, which may go.
        content::keep(tx, self.tenant, script).await?;
        let key = || [Value::from(self.tenant), self.name.as_str().into()];
        let [tenant, name] = key();
        if let Some(row) = tx.row(KNOWN, &[tenant, name, script.into()]).await? {
            return Ok(number(row.count(0)?));
        }
        let newest = tx.row(NEWEST, &key()).await?.map(|row| row.maybe_int(0)).transpose()?.flatten().unwrap_or(0);
        let version = number(u64::try_from(newest).unwrap_or(0)).saturating_add(1);
        let [tenant, name] = key();
        let (by, at) = (self.by.as_str().into(), self.at.into());
        let values = [tenant, name, version.into(), script.into(), blob.size.into(), by, at];
        // Somebody else stored one at the same moment.
        if tx.execute(ADD, &values).await? == 0 { Err(StoreError::Again) } else { Ok(version) }
    }

    async fn check_room(&self, tx: &Tx<'_>, there: Option<&Analyzer>) -> Result<(), StoreError> {
        let full = |message: String| {
            let error = ApiError::new(ErrorKind::Conflict, "too_many_analyzers", message);
            Err(StoreError::Refused(Box::new(error.with_hint("remove one with `quarry dump analyzer --rm NAME`"))))
        };
        let count = tx.row(COUNT, &[self.tenant.into()]).await?.map_or(Ok(0), |row| row.count(0))?;
        if there.is_none() && count >= MAX_ANALYZERS as u64 {
            return full(format!("there are {MAX_ANALYZERS} analyzers, which is the most for a tenant"));
        }
        let is_new = there.is_none_or(|there| there.on_arrival.is_none());
        if is_new && matches!(self.change.on_arrival, Some(Some(_))) {
            let running = tx.rows(ON_ARRIVAL, &[self.tenant.into(), (MAX_ON_ARRIVAL as u64).into()]).await?;
            if running.len() >= MAX_ON_ARRIVAL {
                return full(format!("{MAX_ON_ARRIVAL} analyzers run by themselves, which is the most for a tenant"));
            }
        }
        Ok(())
    }
}

impl Operation for AnalyzerPut {
    type Answer = AnalyzerStored;

    async fn run(&self, tx: &Tx<'_>) -> Result<AnalyzerStored, StoreError> {
        // What is not said stays as it is, so nobody may change it between the look and the writing.
        tx.hold(HOLD_POSTGRES, &[self.tenant.into(), self.name.as_str().into()]).await?;
        let there = find(tx, self.tenant, &self.name).await?;
        if there.is_none() && self.change.script.is_none() {
            return Err(missing(&self.name));
        }
        self.check_room(tx, there.as_ref()).await?;
        let version = match (self.change.script, &there) {
            (Some(script), _) => self.version(tx, script).await?,
            (None, Some(there)) => there.version,
            (None, None) => return Err(missing(&self.name)),
        };
        let limits = self.change.limits.or(there.as_ref().map(|there| there.limits)).unwrap_or_default();
        let before = || there.as_ref().and_then(|there| there.on_arrival.clone());
        let arrival = self.change.on_arrival.clone().unwrap_or_else(before);
        let settings = [version.into(), limits.memory_bytes.into(), limits.wall_ms.into()];
        let arrival = arrival.as_ref().map(to_json).into();
        let [tenant, name] = [Value::from(self.tenant), self.name.as_str().into()];
        let written = match &there {
            None => {
                let values: Vec<_> = [tenant, name].into_iter().chain(settings).chain([arrival]).collect();
                tx.execute(INSERT, &values).await?
            }
            Some(_) => {
                let values: Vec<_> = settings.into_iter().chain([arrival, tenant, name]).collect();
                tx.execute(UPDATE, &values).await?
            }
        };
        if written == 0 {
            return Err(StoreError::Again);
        }
        let analyzer = find(tx, self.tenant, &self.name).await?.ok_or(StoreError::Again)?;
        let storing = match &there {
            None => Storing::Added,
            Some(there) if *there == analyzer => Storing::Same,
            Some(_) => Storing::Changed,
        };
        if storing != Storing::Same {
            note(tx, &analyzer, "stored", (&self.by, self.at));
        }
        Ok(AnalyzerStored { analyzer, storing })
    }
}

/// Makes the content that somebody edited an analyzer's to its current version, if there still is an analyzer.
async fn edited(
    tx: &Tx<'_>,
    (tenant, name): (TenantId, &str),
    script: Digest,
    (by, at): (&str, Timestamp),
) -> Result<(), StoreError> {
    if find(tx, tenant, name).await?.is_none() {
        return Ok(());
    }
    let change = AnalyzerChange { script: Some(script), ..AnalyzerChange::default() };
    let put = AnalyzerPut { name: name.to_owned(), change, tenant, by: by.to_owned(), at };
    match put.run(tx).await {
        // What a node says must never keep an execution from ending.
        Err(error) if !error.is_failure() && !matches!(error, StoreError::Again) => Ok(()),
        other => other.map(drop),
    }
}

fn note(tx: &Tx<'_>, analyzer: &Analyzer, state: &'static str, (by, at): (&str, Timestamp)) {
    tx.change(NewChange {
        at,
        tenant: analyzer.tenant,
        noun: Noun::Analyzer,
        id: analyzer.name.clone(),
        state,
        by: by.to_owned(),
        body: to_json(analyzer),
    });
}

struct AnalyzerGet {
    name: String,
    tenant: TenantId,
}

impl Operation for AnalyzerGet {
    type Answer = Analyzer;

    async fn run(&self, tx: &Tx<'_>) -> Result<Analyzer, StoreError> {
        find(tx, self.tenant, &self.name).await?.ok_or_else(|| missing(&self.name))
    }
}

struct AnalyzerList {
    after: String,
    limit: u32,
    tenant: TenantId,
}

impl Operation for AnalyzerList {
    type Answer = (Vec<Analyzer>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let head = crate::change::bounds(tx).await?.head;
        let rows = tx.rows(LIST, &[self.tenant.into(), self.after.as_str().into(), self.limit.into()]).await?;
        Ok((rows.iter().map(read).collect::<Result<_, _>>()?, head))
    }
}

/// Lists the versions of an analyzer, the newest first.
struct AnalyzerVersions {
    name: String,
    tenant: TenantId,
    before: u32,
    limit: u32,
}

impl Operation for AnalyzerVersions {
    type Answer = (Vec<AnalyzerVersion>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let head = crate::change::bounds(tx).await?.head;
        find(tx, self.tenant, &self.name).await?.ok_or_else(|| missing(&self.name))?;
        let values = [self.tenant.into(), self.name.as_str().into(), self.before.into(), self.limit.into()];
        let version = |row: &Row| {
            Ok::<_, StoreError>(AnalyzerVersion {
                version: number(row.count(0)?),
                script: row.parsed(1)?,
                size: row.count(2)?,
                by: row.text(3)?.to_owned(),
                created_at: row.time(4)?,
            })
        };
        Ok((tx.rows(VERSIONS, &values).await?.iter().map(version).collect::<Result<_, _>>()?, head))
    }
}

/// Removes an analyzer, its versions, and what is remembered of their studies.
struct AnalyzerRemove {
    name: String,
    tenant: TenantId,
    by: String,
    at: Timestamp,
}

impl Operation for AnalyzerRemove {
    type Answer = Analyzer;

    async fn run(&self, tx: &Tx<'_>) -> Result<Analyzer, StoreError> {
        let analyzer = find(tx, self.tenant, &self.name).await?.ok_or_else(|| missing(&self.name))?;
        let key = [self.tenant.into(), self.name.as_str().into()];
        if tx.write(REMOVE, &key).await?.is_empty() {
            return Err(StoreError::Again);
        }
        tx.execute(REMOVE_VERSIONS, &key).await?;
        tx.execute(REMOVE_STUDIES, &key).await?;
        note(tx, &analyzer, "removed", (&self.by, self.at));
        Ok(analyzer)
    }
}

impl Store {
    /// Stores an analyzer, or says something else of it; tells what came of it.
    pub async fn analyzer_put(
        &self,
        name: &str,
        change: AnalyzerChange,
        tenant: TenantId,
        (by, at): (&str, Timestamp),
    ) -> Result<AnalyzerStored, StoreError> {
        self.write(AnalyzerPut { name: name.to_owned(), change, tenant, by: by.to_owned(), at }).await
    }

    /// Returns an analyzer by its name.
    pub async fn analyzer_get(&self, name: &str, tenant: TenantId) -> Result<Analyzer, StoreError> {
        self.read(AnalyzerGet { name: name.to_owned(), tenant }).await
    }

    /// Lists a tenant's analyzers by their names, with the log's head at that moment.
    pub async fn analyzer_list(
        &self,
        tenant: TenantId,
        after: &str,
        limit: u32,
    ) -> Result<(Vec<Analyzer>, u64), StoreError> {
        self.read(AnalyzerList { after: after.to_owned(), limit, tenant }).await
    }

    /// Lists the versions of an analyzer that came before one of this number, the newest first, with the log's head at that
    /// moment.
    pub async fn analyzer_versions(
        &self,
        name: &str,
        tenant: TenantId,
        before: u32,
        limit: u32,
    ) -> Result<(Vec<AnalyzerVersion>, u64), StoreError> {
        self.read(AnalyzerVersions { name: name.to_owned(), tenant, before, limit }).await
    }

    /// Removes an analyzer, its versions, and what is remembered of their studies.
    pub async fn analyzer_remove(
        &self,
        name: &str,
        tenant: TenantId,
        (by, at): (&str, Timestamp),
    ) -> Result<Analyzer, StoreError> {
        self.write(AnalyzerRemove { name: name.to_owned(), tenant, by: by.to_owned(), at }).await
    }
}
