//! Dumps: made known once all of their frames are there, found by id or hash, noted on, analysed, purged.
//!
//! There is one dump of a hash in a tenant. Uploading it again never resets what was noted on it; it brings content only
//! where that had been cut short, could not be read, or was dropped. What a dump is searched by lies in columns of its
//! row, in `dump/property.rs` and in `dump/stack.rs`.

pub(crate) mod analysis;
pub(crate) mod bulk;
mod condition;
mod count;
pub(crate) mod property;
pub(crate) mod query;
pub(crate) mod retention;
pub(crate) mod signed;
pub(crate) mod stack;
mod tally;

use crate::analyzer::arrival;
use crate::content;
use crate::error::StoreError;
use crate::pack;
use crate::parcel::{self, drop_blob};
use crate::signature::count::count;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{NewChange, Operation, Session, Tx};
use crate::value::{Row, Value, to_json};
use jiff::Timestamp;
use model::dump::{Arrival, DumpArrived, DumpChange, DumpFacts, DumpFindings, DumpPurged, DumpSignature, is_hash};
use model::{ApiError, Digest, Dump, DumpId, DumpState, ErrorKind, Execution, NewDump, Noun, TenantId};
use std::collections::BTreeSet;

/// The columns of a dump, in the order in which [`read`] takes them.
macro_rules! columns {
    () => {
        "d.id, d.tenant, d.hash, d.digest, d.size, d.manifest, d.kind, d.state, d.is_truncated, d.name, d.time, d.cmd, \
         d.psargs, d.pid, d.node, d.platform, d.ticket, d.properties, s.calls, d.signature, d.signature_text, \
         d.execution, d.report, d.created_by, d.uploaded_at, d.redaction, d.purged_at, d.purged_by, d.purged_why, \
         d.class, d.severity, d.cause"
    };
}
/// What brings a dump's stack to it.
macro_rules! stack {
    () => {
        "LEFT JOIN stack AS s ON s.tenant = d.tenant AND s.number = d.stack"
    };
}
const COLUMNS: &str = columns!();
const STACK: &str = stack!();

statements! {
    INSERT = "INSERT INTO dump (id, tenant, hash, digest, size, manifest, kind, state, is_truncated, name, time, cmd, \
              psargs, pid, node, platform, properties, execution, created_by, uploaded_at, redaction) \
              VALUES ($1, $2, $3, $4, $5, $6, $7, 'received', $8, $9, $10, $11, $12, $13, $14, $15, '{}', $16, $17, $18, \
              $19) \
              ON CONFLICT DO NOTHING";
    GET = concat!("SELECT ", columns!(), " FROM dump AS d ", stack!(), " WHERE d.id = $1");
    HASHED = concat!("SELECT ", columns!(), " FROM dump AS d ", stack!(), " WHERE d.tenant = $1 AND d.hash = $2");
    PREFIXED = concat!(
        "SELECT ", columns!(), " FROM dump AS d ", stack!(), " WHERE d.tenant = $1 AND d.hash >= $2 AND d.hash < $3 ORDER BY d.hash LIMIT 2"
    );
    /// By another name that somebody noted, in the place of the hash.
    ALIASED = concat!(
        "SELECT ", columns!(), " FROM dump AS d ", stack!(), " WHERE d.tenant = $1 AND d.id IN (SELECT DISTINCT p.dump \
         FROM dump_property AS p WHERE p.tenant = $1 AND p.path = 'alias' AND p.text >= $2 AND p.text < $3 LIMIT 2) \
         ORDER BY d.id LIMIT 2"
    );
    LIST = concat!("SELECT ", columns!(), " FROM dump AS d ", stack!(), " WHERE d.tenant = $1 AND d.id < $2 ORDER BY d.id DESC LIMIT $3");
    REPLACE = "UPDATE dump SET digest = $1, size = $2, manifest = $3, kind = $4, is_truncated = $5, redaction = $6, \
               uploaded_at = CASE WHEN state = 'purged' THEN $7 ELSE uploaded_at END, \
               state = 'received', analysis = NULL, cause = NULL, tries = 0, analyse_at = 0, purged_at = NULL, purged_by = NULL, purged_why = NULL \
               WHERE id = $8 AND state IN ('received', 'analysed', 'truncated', 'unreadable', 'purged')";
    FACTS = "UPDATE dump SET time = $1, cmd = $2, psargs = $3, pid = $4, node = $5, platform = $6, \
             execution = coalesce(execution, $7) WHERE id = $8";
    HOLD_POSTGRES = concat!("SELECT ", columns!(), " FROM dump AS d ", stack!(), " WHERE d.id = $1 FOR UPDATE OF d");
    NOTE = "UPDATE dump SET ticket = $1, properties = $2 WHERE id = $3";
    FIND_OUT = "UPDATE dump SET state = $1, kind = $2, stack = $3, signature = $4, signature_text = $5, report = $6, \
                class = $7, severity = $8, cause = $9, \
                is_truncated = CASE WHEN $1 = 'truncated' THEN 1 ELSE is_truncated END \
                WHERE id = $10 AND state IN ('received', 'analysed', 'truncated', 'unreadable') RETURNING id";
    PURGE = "UPDATE dump SET state = 'purged', manifest = NULL, purged_at = $1, purged_by = $2, purged_why = $3 \
             WHERE id = $4 AND state IN ('received', 'analysed', 'truncated', 'unreadable') RETURNING id";
    OTHER_MANIFEST = "SELECT id FROM dump WHERE tenant = $1 AND manifest = $2 LIMIT 1";
    OTHER_REPORT = "SELECT id FROM dump WHERE tenant = $1 AND report = $2 LIMIT 1";
}

/// Returns a dump by its id, whosever it is.
pub(crate) async fn get(tx: &Tx<'_>, id: DumpId) -> Result<Option<Dump>, StoreError> {
    tx.row(GET, &[id.into()]).await?.as_ref().map(read).transpose()
}

/// Reads a dump's row.
pub(crate) fn read(row: &Row) -> Result<Dump, StoreError> {
    let text = |column| Ok::<_, StoreError>(row.maybe_text(column)?.map(str::to_owned));
    let broken = |column, why| StoreError::Broken { column, why };
    let pid = row.maybe_int(13)?.map(u32::try_from).transpose().map_err(|_| broken(13, "is no process's number"))?;
    let signature = match (text(19)?, text(20)?) {
        (Some(id), Some(text)) => Some(DumpSignature { id, text }),
        _ => None,
    };
    let purged = match (row.maybe_time(26)?, text(27)?, text(28)?) {
        (Some(at), Some(by), Some(why)) => Some(DumpPurged { at, by, why }),
        _ => None,
    };
    Ok(Dump {
        id: row.parsed(0)?,
        tenant: row.parsed(1)?,
        hash: row.text(2)?.to_owned(),
        digest: row.parsed(3)?,
        size: row.count(4)?,
        manifest: row.maybe_parsed(5)?,
        kind: row.word(6)?,
        state: row.word(7)?,
        is_truncated: row.int(8)? != 0,
        name: row.text(9)?.to_owned(),
        facts: DumpFacts {
            time: Some(row.time(10)?).filter(|time| *time != Timestamp::UNIX_EPOCH),
            cmd: text(11)?,
            psargs: text(12)?,
            pid,
            node: text(14)?,
            platform: text(15)?,
        },
        ticket: text(16)?,
        properties: row.json(17)?,
        stack: row.maybe_json(18)?.unwrap_or_default(),
        signature,
        execution: row.maybe_parsed(21)?,
        report: row.maybe_parsed(22)?,
        by: row.text(23)?.to_owned(),
        uploaded_at: row.time(24)?,
        redaction: row.maybe_json(25)?,
        purged,
        class: text(29)?,
        severity: text(30)?.map(|_| row.word(30)).transpose()?,
        cause: text(31)?,
    })
}

/// Returns the word that stands for a kind or another enum in rows.
fn word<T: serde::Serialize>(value: T) -> Value {
    to_json(&value).trim_matches('"').into()
}

fn facts_values(facts: &DumpFacts) -> [Value; 6] {
    [
        facts.time.unwrap_or(Timestamp::UNIX_EPOCH).into(),
        facts.cmd.as_deref().into(),
        facts.psargs.as_deref().into(),
        facts.pid.into(),
        facts.node.as_deref().into(),
        facts.platform.as_deref().into(),
    ]
}

fn note(tx: &Tx<'_>, dump: &Dump, (by, at): (&str, Timestamp)) {
    tx.change(NewChange {
        at,
        tenant: dump.tenant,
        noun: Noun::Dump,
        id: dump.id.to_string(),
        state: dump.state.as_str(),
        by: by.to_owned(),
        body: to_json(dump),
    });
}

/// How a dump is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpKey {
    /// By its id.
    Id(DumpId),
    /// By its hash, or a beginning of it that no other has.
    Hash(String),
}

/// Where a dump is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Whose dumps an id may name; anybody's, if nobody is named.
    pub reach: Option<TenantId>,
    /// Whose hashes are meant.
    pub namespace: TenantId,
}

async fn find(tx: &Tx<'_>, key: &DumpKey, taken: Taken) -> Result<Dump, StoreError> {
    let missing = |id: String| StoreError::NotFound { noun: "dump", id };
    match key {
        DumpKey::Id(id) => {
            let found = tx.row(GET, &[(*id).into()]).await?.as_ref().map(read).transpose()?;
            let found = found.filter(|dump| taken.reach.is_none_or(|tenant| tenant == dump.tenant));
            found.ok_or_else(|| missing(id.to_string()))
        }
        DumpKey::Hash(hash) if !is_hash(hash) => Err(missing(hash.clone())),
        DumpKey::Hash(hash) => {
            // No digit of a hash sorts behind `f`.
            let (least, end) = (hash.as_str().into(), format!("{hash}g").into());
            let key = [taken.namespace.into(), least, end];
            let mut found = tx.rows(PREFIXED, &key).await?;
            let what = if found.is_empty() { "`alias`" } else { "hash" };
            if found.is_empty() {
                found = tx.rows(ALIASED, &key).await?;
            }
            match &found[..] {
                [] => Err(missing(hash.clone())),
                [one] => read(one),
                _ => {
                    let message = format!("more than one dump's {what} begins with `{hash}`");
                    let error = ApiError::new(ErrorKind::Conflict, "dump_ambiguous", message);
                    Err(StoreError::Refused(Box::new(error.with_hint("name more digits of it, or the dump's id"))))
                }
            }
        }
    }
}

async fn again(tx: &Tx<'_>, id: DumpId) -> Result<Dump, StoreError> {
    read(&tx.row(GET, &[id.into()]).await?.ok_or(StoreError::Again)?)
}

/// Returns a dump as it is once nobody else can change it.
pub(crate) async fn locked(tx: &Tx<'_>, id: DumpId) -> Result<Dump, StoreError> {
    let sql = match tx.session() {
        Session::Sqlite(_) => GET,
        Session::Postgres(_) => HOLD_POSTGRES,
    };
    read(&tx.row(sql, &[id.into()]).await?.ok_or(StoreError::Again)?)
}

/// The same; it must still have the content that was looked at.
async fn held(tx: &Tx<'_>, looked_at: &Dump) -> Result<Dump, StoreError> {
    let dump = locked(tx, looked_at.id).await?;
    if dump.digest == looked_at.digest { Ok(dump) } else { Err(StoreError::Again) }
}

/// What a new dump is made of, as its manifest says.
#[derive(Clone, Copy, Debug)]
struct Made {
    digest: Digest,
    size: u64,
}

/// A dump that an execution left, with what its manifest says.
#[derive(Clone, Debug)]
pub struct DumpLeft {
    /// The dump.
    pub new: NewDump,
    /// The digest of its content.
    pub digest: Digest,
    /// How long that is.
    pub size: u64,
    /// The parcels that its frames are in.
    pub parcels: BTreeSet<i64>,
}

impl DumpLeft {
    /// Tells whether it can be made known: whoever is in the middle of something must not be refused.
    pub(crate) async fn is_whole(&self, tx: &Tx<'_>, tenant: TenantId) -> Result<bool, StoreError> {
        match content::must_have(tx, tenant, self.new.manifest).await {
            Err(StoreError::NotFound { .. }) => return Ok(false),
            other => other?,
        }
        let is_known = tx.row(HASHED, &[tenant.into(), self.new.hash.as_str().into()]).await?.is_some();
        if !is_known && tx.row(GET, &[self.new.id.into()]).await?.is_some() {
            return Ok(false);
        }
        parcel::are_there(tx, tenant, &self.parcels).await
    }

    /// Makes it known as what an execution left, and returns its id; it must be whole.
    pub(crate) async fn keep(
        &self,
        tx: &Tx<'_>,
        execution: &Execution,
        (by, at): (&str, Timestamp),
    ) -> Result<DumpId, StoreError> {
        let mut new = NewDump { execution: Some(execution.id), ..self.new.clone() };
        new.facts.time = new.facts.time.or(Some(at));
        content::keep(tx, execution.tenant, new.manifest).await?;
        let made = Made { digest: self.digest, size: self.size };
        let (parcels, tenant, by) = (self.parcels.clone(), execution.tenant, by.to_owned());
        match (DumpCreate { new, made, parcels, tenant, by, at }).run(tx).await {
            Ok(arrived) => Ok(arrived.dump.id),
            Err(error) if error.is_failure() => Err(error),
            // It was whole a moment ago: somebody else was quicker, and what was done so far must be undone.
            Err(_) => Err(StoreError::Again),
        }
    }
}

/// Makes a dump known, or merges it with the one of its hash.
struct DumpCreate {
    new: NewDump,
    made: Made,
    parcels: BTreeSet<i64>,
    tenant: TenantId,
    by: String,
    at: Timestamp,
}

impl DumpCreate {
    async fn insert(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let NewDump { id, hash, manifest, kind, is_truncated, name, facts, execution, redaction, packs: _ } = &self.new;
        let [time, cmd, psargs, pid, node, platform] = facts_values(facts);
        let values = [
            (*id).into(),
            self.tenant.into(),
            hash.into(),
            self.made.digest.into(),
            self.made.size.into(),
            (*manifest).into(),
            word(kind),
            Value::Int((*is_truncated).into()),
            name.into(),
            time,
            cmd,
            psargs,
            pid,
            node,
            platform,
            (*execution).into(),
            self.by.as_str().into(),
            self.at.into(),
            redaction.as_ref().map(to_json).into(),
        ];
        Ok(tx.execute(INSERT, &values).await? > 0)
    }

    /// Tells whether the one that is there should have this content in place of its own.
    fn is_fuller_than(&self, there: &Dump) -> bool {
        match there.state {
            DumpState::Purged => true,
            _ if there.digest == self.made.digest => false,
            _ => there.is_truncated && (!self.new.is_truncated || self.made.size > there.size),
        }
    }

    async fn merge(&self, tx: &Tx<'_>, there: Dump) -> Result<DumpArrived, StoreError> {
        let id = Value::from(there.id);
        let is_fuller = self.is_fuller_than(&there);
        if is_fuller {
            let NewDump { manifest, kind, is_truncated, .. } = &self.new;
            let (Made { digest, size }, truncated) = (self.made, Value::Int((*is_truncated).into()));
            let redaction = self.new.redaction.as_ref().map(to_json).into();
            let content = [digest.into(), size.into(), (*manifest).into(), word(kind), truncated, redaction];
            let values: Vec<_> = content.into_iter().chain([self.at.into(), id.clone()]).collect();
            tx.execute(REPLACE, &values).await?;
            parcel::name(tx, self.tenant, &id, &self.parcels, self.at).await?;
            pack::let_go(tx, there.id).await?;
            pack::name(tx, self.tenant, there.id, &self.new.packs, self.at).await?;
        }
        let facts = there.facts.clone().or(self.new.facts.clone());
        let execution = self.new.execution.filter(|_| there.execution.is_none());
        if facts != there.facts || execution.is_some() {
            let values: Vec<_> = facts_values(&facts).into_iter().chain([execution.into(), id]).collect();
            tx.execute(FACTS, &values).await?;
        }
        // The manifest of the two that is not the dump's any more has nobody else who needs it.
        if is_fuller {
            drop_unnamed(tx, OTHER_MANIFEST, there.manifest, self.tenant, (&self.by, self.at)).await?;
        } else {
            drop_unnamed(tx, OTHER_MANIFEST, Some(self.new.manifest), self.tenant, (&self.by, self.at)).await?;
        }
        let dump = again(tx, there.id).await?;
        if dump != there {
            note(tx, &dump, (&self.by, self.at));
        }
        Ok(DumpArrived { dump, arrival: if is_fuller { Arrival::Replaced } else { Arrival::Known } })
    }
}

/// Drops a blob that no dump of its tenant names by this statement.
async fn drop_unnamed(
    tx: &Tx<'_>,
    named: &'static str,
    blob: Option<Digest>,
    tenant: TenantId,
    who: (&str, Timestamp),
) -> Result<(), StoreError> {
    let Some(blob) = blob else { return Ok(()) };
    if tx.row(named, &[tenant.into(), blob.into()]).await?.is_none() {
        drop_blob(tx, blob, tenant, who).await?;
    }
    Ok(())
}

impl Operation for DumpCreate {
    type Answer = DumpArrived;

    async fn run(&self, tx: &Tx<'_>) -> Result<DumpArrived, StoreError> {
        let (id, hash) = (self.new.id, self.new.hash.as_str());
        if let Some(row) = tx.row(HASHED, &[self.tenant.into(), hash.into()]).await? {
            // Of two who bring the rest of it, the second must see what the first has brought.
            let there = locked(tx, read(&row)?.id).await?;
            // Of one that merely repeats what was answered before, the manifest may be gone already.
            if self.is_fuller_than(&there) {
                content::must_have(tx, self.tenant, self.new.manifest).await?;
            }
            return self.merge(tx, there).await;
        }
        content::must_have(tx, self.tenant, self.new.manifest).await?;
        if !self.insert(tx).await? {
            return match tx.row(GET, &[id.into()]).await? {
                Some(_) => Err(StoreError::Exists { noun: "dump", id: id.to_string() }),
                // Somebody else made one of this hash meanwhile.
                None => Err(StoreError::Again),
            };
        }
        parcel::name(tx, self.tenant, &id.into(), &self.parcels, self.at).await?;
        pack::name(tx, self.tenant, id, &self.new.packs, self.at).await?;
        let dump = again(tx, id).await?;
        note(tx, &dump, (&self.by, self.at));
        Ok(DumpArrived { dump, arrival: Arrival::New })
    }
}

struct DumpGet {
    key: DumpKey,
    taken: Taken,
}

impl Operation for DumpGet {
    type Answer = Dump;

    async fn run(&self, tx: &Tx<'_>) -> Result<Dump, StoreError> {
        find(tx, &self.key, self.taken).await
    }
}

struct DumpList {
    tenant: TenantId,
    after: Option<DumpId>,
    limit: u32,
}

impl Operation for DumpList {
    type Answer = (Vec<Dump>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        /// Sorts after every id.
        const END: &str = "dmp_~";
        let head = crate::change::bounds(tx).await?.head;
        let after = self.after.map_or_else(|| Value::from(END), Into::into);
        let rows = tx.rows(LIST, &[self.tenant.into(), after, self.limit.into()]).await?;
        Ok((rows.iter().map(read).collect::<Result<_, _>>()?, head))
    }
}

/// Notes something on a dump.
struct DumpNote {
    key: DumpKey,
    taken: Taken,
    change: DumpChange,
    by: String,
    at: Timestamp,
}

impl Operation for DumpNote {
    type Answer = Dump;

    async fn run(&self, tx: &Tx<'_>) -> Result<Dump, StoreError> {
        let found = find(tx, &self.key, self.taken).await?;
        // Whatever others have noted since stays.
        let before = locked(tx, found.id).await?;
        Ok(noted(tx, &before, &self.change, (&self.by, self.at)).await?.unwrap_or(before))
    }
}

/// Notes something on a dump that is locked; returns it if that made a difference.
pub(crate) async fn noted(
    tx: &Tx<'_>,
    before: &Dump,
    change: &DumpChange,
    who: (&str, Timestamp),
) -> Result<Option<Dump>, StoreError> {
    let properties = change.apply(&before.properties).map_err(|error| StoreError::Refused(Box::new(error)))?;
    let ticket = change.ticket.clone().unwrap_or_else(|| before.ticket.clone());
    if (&ticket, &properties) == (&before.ticket, &before.properties) {
        return Ok(None);
    }
    tx.execute(NOTE, &[ticket.as_deref().into(), to_json(&properties).into(), before.id.into()]).await?;
    retention::look(tx, before).await?;
    if properties != before.properties {
        property::write(tx, before, &properties).await?;
    }
    let dump = Dump { ticket, properties, ..before.clone() };
    note(tx, &dump, who);
    Ok(Some(dump))
}

/// Records what an analysis found out.
struct DumpFind {
    id: DumpId,
    /// Of which content: an analysis of what has been replaced meanwhile tells nothing of what is there now.
    digest: Digest,
    findings: DumpFindings,
    by: String,
    at: Timestamp,
}

impl Operation for DumpFind {
    type Answer = Dump;

    async fn run(&self, tx: &Tx<'_>) -> Result<Dump, StoreError> {
        let before =
            find(tx, &DumpKey::Id(self.id), Taken { reach: None, namespace: TenantId::new(self.at, 0) }).await?;
        let conflict = |state| {
            let (id, wanted) = (self.id.to_string(), self.findings.state.as_str());
            StoreError::Conflict { noun: "dump", id, state, wanted }
        };
        let is_end = !matches!(self.findings.state, DumpState::Received | DumpState::Purged);
        if before.digest != self.digest || !is_end {
            return Err(conflict(before.state.as_str()));
        }
        if let Some(report) = self.findings.report {
            content::must_have(tx, before.tenant, report).await?;
        }
        let state = before.state.as_str();
        fill(tx, before, &self.findings, (&self.by, self.at)).await?.ok_or_else(|| conflict(state))
    }
}

/// Fills a dump's record with what an analysis found out: the one place where findings enter. Their report must be there;
/// nothing is returned, and nothing done, if the dump has gone into a state that takes none.
pub(crate) async fn fill(
    tx: &Tx<'_>,
    before: Dump,
    findings: &DumpFindings,
    (by, at): (&str, Timestamp),
) -> Result<Option<Dump>, StoreError> {
    let before = held(tx, &before).await?;
    if before.state == DumpState::Purged {
        return Ok(None);
    }
    let DumpFindings { state, kind, facts, stack, class, severity, cause, report, .. } = findings;
    let signature = count(tx, &before, findings, at).await?;
    let stack = stack::write(tx, before.tenant, stack).await?;
    let values = [
        state.as_str().into(),
        word(kind),
        stack.into(),
        signature.as_ref().map(|signature| signature.id.as_str()).into(),
        signature.as_ref().map(|signature| signature.text.as_str()).into(),
        (*report).into(),
        class.as_deref().into(),
        severity.map_or(Value::Null, word),
        cause.as_deref().into(),
        before.id.into(),
    ];
    if tx.write(FIND_OUT, &values).await?.is_empty() {
        // What was counted for it must not stay.
        return Err(StoreError::Again);
    }
    let facts = facts.clone().or(before.facts);
    let values: Vec<_> = facts_values(&facts).into_iter().chain([Value::Null, before.id.into()]).collect();
    tx.execute(FACTS, &values).await?;
    if let Some(report) = report {
        // It came as an execution's, which may go; the dump stays.
        content::keep(tx, before.tenant, *report).await?;
    }
    if before.report != *report {
        drop_unnamed(tx, OTHER_REPORT, before.report, before.tenant, (by, at)).await?;
    }
    let dump = again(tx, before.id).await?;
    note(tx, &dump, (by, at));
    arrival::note(tx, &dump).await?;
    Ok(Some(dump))
}

/// Drops a dump's content, and keeps what is known of it.
struct DumpPurge {
    key: DumpKey,
    taken: Taken,
    by: String,
    at: Timestamp,
}

impl Operation for DumpPurge {
    type Answer = Dump;

    async fn run(&self, tx: &Tx<'_>) -> Result<Dump, StoreError> {
        let found = find(tx, &self.key, self.taken).await?;
        let before = locked(tx, found.id).await?;
        Ok(dropped(tx, &before, (&self.by, self.at)).await?.unwrap_or(before))
    }
}

/// Drops the content of a dump that is locked because somebody asked for it; returns it if there was any.
async fn dropped(tx: &Tx<'_>, before: &Dump, who: (&str, Timestamp)) -> Result<Option<Dump>, StoreError> {
    let (by, at) = who;
    let purged = DumpPurged { at, by: by.to_owned(), why: "somebody dropped it".to_owned() };
    purge(tx, before, &purged).await
}

/// Drops the content of a dump that is locked, saying when and why; returns it if there was any.
async fn purge(tx: &Tx<'_>, before: &Dump, purged: &DumpPurged) -> Result<Option<Dump>, StoreError> {
    let DumpPurged { at, by, why } = purged;
    let values = [(*at).into(), by.into(), why.into(), before.id.into()];
    if tx.write(PURGE, &values).await?.is_empty() {
        return Ok(None);
    }
    parcel::name(tx, before.tenant, &before.id.into(), &BTreeSet::new(), *at).await?;
    pack::let_go(tx, before.id).await?;
    drop_unnamed(tx, OTHER_MANIFEST, before.manifest, before.tenant, (by, *at)).await?;
    let dump = again(tx, before.id).await?;
    note(tx, &dump, (by, *at));
    Ok(Some(dump))
}

impl Store {
    /// Makes a dump known whose manifest says that it has this digest and size and whose frames are in these parcels.
    pub async fn dump_create(
        &self,
        new: NewDump,
        (digest, size): (Digest, u64),
        parcels: BTreeSet<i64>,
        tenant: TenantId,
        (by, at): (&str, Timestamp),
    ) -> Result<DumpArrived, StoreError> {
        let made = Made { digest, size };
        self.write(DumpCreate { new, made, parcels, tenant, by: by.to_owned(), at }).await
    }

    /// Returns one dump.
    pub async fn dump_get(&self, key: DumpKey, taken: Taken) -> Result<Dump, StoreError> {
        self.read(DumpGet { key, taken }).await
    }

    /// Lists a tenant's dumps, those uploaded last first, with the log's head at that moment.
    pub async fn dump_list(
        &self,
        tenant: TenantId,
        after: Option<DumpId>,
        limit: u32,
    ) -> Result<(Vec<Dump>, u64), StoreError> {
        self.read(DumpList { tenant, after, limit }).await
    }

    /// Notes something on a dump.
    pub async fn dump_note(
        &self,
        key: DumpKey,
        taken: Taken,
        change: DumpChange,
        by: &str,
        at: Timestamp,
    ) -> Result<Dump, StoreError> {
        self.write(DumpNote { key, taken, change, by: by.to_owned(), at }).await
    }

    /// Records what an analysis found out of the content of this digest.
    pub async fn dump_find(
        &self,
        id: DumpId,
        digest: Digest,
        findings: DumpFindings,
        by: &str,
        at: Timestamp,
    ) -> Result<Dump, StoreError> {
        self.write(DumpFind { id, digest, findings: findings.fitted(), by: by.to_owned(), at }).await
    }

    /// Drops a dump's content, and keeps what is known of it.
    pub async fn dump_purge(&self, key: DumpKey, taken: Taken, by: &str, at: Timestamp) -> Result<Dump, StoreError> {
        self.write(DumpPurge { key, taken, by: by.to_owned(), at }).await
    }
}
