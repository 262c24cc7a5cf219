//! Signatures: all dumps of one defect, what somebody decided about them, and which stacks belong to which.
//!
//! Invariants:
//! - `dumps` of a signature is the number of dumps that name it, after every transaction: whoever writes `dump.signature`
//!   counts in the same one (`signature/count.rs`, `signature/settle.rs`).
//! - Where a stack belongs follows from the alias of its shape, else that of its text, else the text, and then from the
//!   merges (`home`, `end`). A decision changes these and marks the stacks; their dumps follow slice by slice.
//! - What one was merged into is kept in its own row, so that it can be taken back exactly.
//!
//! The moves of single dumps are not noted in the log; the decision that moves them is.

pub(crate) mod count;
pub(crate) mod rules;
pub(crate) mod settle;

use crate::error::StoreError;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{NewChange, Operation, Tx};
use crate::value::{Row, Value, to_json};
use jiff::Timestamp;
use model::signature::{Decision, Explanation};
use model::signature::{
    MAX_ALIAS_CHAIN, MAX_REPRESENTATIVES, Signature, SignatureChange, SignatureDecided, SignatureState, Stack, Step,
};
use model::{ApiError, DumpId, ErrorKind, Noun, SignatureId, TenantId};
use std::str::FromStr;

/// The columns of a signature, in the order in which [`read`] takes them.
macro_rules! columns {
    () => {
        "id, tenant, text, title, state, merged_into, dumps, first_seen, last_seen, fixed_at, created_at, stack, rules, \
         height, decided"
    };
}

statements! {
    DECIDE = "UPDATE signature SET decided = $1 WHERE tenant = $2 AND id = $3";
    GET = concat!("SELECT ", columns!(), " FROM signature WHERE tenant = $1 AND id = $2");
    PREFIXED = concat!(
        "SELECT ", columns!(), " FROM signature WHERE tenant = $1 AND id >= $2 AND id < $3 ORDER BY id LIMIT 2"
    );
    LIST = concat!(
        "SELECT ", columns!(), " FROM signature WHERE tenant = $1 AND state <> 'merged' \
         AND (last_seen < $2 OR (last_seen = $3 AND id < $4)) ORDER BY last_seen DESC, id DESC LIMIT $5"
    );
    LIST_STATE = concat!(
        "SELECT ", columns!(), " FROM signature WHERE tenant = $1 AND state = $2 \
         AND (last_seen < $3 OR (last_seen = $4 AND id < $5)) ORDER BY last_seen DESC, id DESC LIMIT $6"
    );
    PARTS = concat!(
        "SELECT ", columns!(), " FROM signature WHERE tenant = $1 AND merged_into = $2 ORDER BY last_seen DESC LIMIT 100"
    );
    DUMPS = "SELECT id FROM dump WHERE tenant = $1 AND signature = $2 ORDER BY time DESC, id DESC LIMIT 20";
    SIGNED = "SELECT k.stack, g.explanation, k.shape, g.id, g.text FROM signed_stack AS k \
              JOIN signing AS g ON g.tenant = k.tenant AND g.number = k.number \
              WHERE k.tenant = $1 AND k.number = $2";
    REPRESENTATIVES = "SELECT s.id, s.text, g.proto FROM signature AS s \
                       JOIN signing AS g ON g.tenant = s.tenant AND g.number = s.stack \
                       WHERE s.tenant = $1 AND s.state <> 'merged' ORDER BY s.last_seen DESC, s.id DESC LIMIT $2";
    PROTO = "SELECT proto FROM signing WHERE tenant = $1 AND number = $2";
    ALIAS = "SELECT signature, made_by, at FROM signature_alias WHERE tenant = $1 AND kind = $2 AND name = $3";
    PUT_ALIAS = "INSERT INTO signature_alias (tenant, kind, name, signature, made_by, at) \
                 VALUES ($1, $2, $3, $4, $5, $6) \
                 ON CONFLICT (tenant, kind, name) DO UPDATE SET signature = excluded.signature, \
                 made_by = excluded.made_by, at = excluded.at";
    PASS_ON = "SELECT state, merged_into FROM signature WHERE tenant = $1 AND id = $2";
    TITLE = "UPDATE signature SET title = $1 WHERE tenant = $2 AND id = $3";
    FIX = "UPDATE signature SET state = 'fixed', fixed_at = $1 \
           WHERE tenant = $2 AND id = $3 AND state IN ('open', 'reopened') RETURNING id";
    REOPEN = "UPDATE signature SET state = 'reopened' WHERE tenant = $1 AND id = $2 AND state IN ('fixed') RETURNING id";
}

/// A signature, with what only the store minds.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) signature: Signature,
    pub(crate) stack: i64,
    pub(crate) rules: String,
    pub(crate) height: u64,
}

/// Reads a signature's row.
pub(crate) fn read(row: &Row) -> Result<Kept, StoreError> {
    let signature = Signature {
        id: row.parsed(0)?,
        tenant: row.parsed(1)?,
        text: row.text(2)?.to_owned(),
        title: row.maybe_text(3)?.map(str::to_owned),
        state: row.word(4)?,
        merged_into: row.maybe_parsed(5)?,
        dumps: row.count(6)?,
        first_seen: row.time(7)?,
        last_seen: row.time(8)?,
        fixed_at: row.maybe_time(9)?,
        created_at: row.time(10)?,
        decided: row.maybe_json(14)?,
    };
    Ok(Kept { signature, stack: row.int(11)?, rules: row.text(12)?.to_owned(), height: row.count(13)? })
}

/// Keeps what was decided of a signature, in place of what was decided before.
pub(crate) async fn decide(
    tx: &Tx<'_>,
    (tenant, id): (TenantId, SignatureId),
    what: String,
    (by, at): (&str, Timestamp),
) -> Result<(), StoreError> {
    let decided = SignatureDecided { what, by: by.to_owned(), at };
    tx.execute(DECIDE, &[to_json(&decided).into(), tenant.into(), id.into()]).await.map(drop)
}

/// Notes a change of a signature's for the log.
pub(crate) fn note(tx: &Tx<'_>, signature: &Signature, (by, at): (&str, Timestamp)) {
    tx.change(NewChange {
        at,
        tenant: signature.tenant,
        noun: Noun::Signature,
        id: signature.id.to_string(),
        state: signature.state.as_str(),
        by: by.to_owned(),
        body: to_json(signature),
    });
}

/// How a signature is named: by its id, or a beginning of it that no other has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureKey(String);

impl FromStr for SignatureKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_digit = |one: u8| one.is_ascii_digit() || (b'a'..=b'f').contains(&one);
        match (1..=32).contains(&text.len()) && text.bytes().all(is_digit) {
            true => Ok(Self(text.to_owned())),
            false => Err("a signature is named by 1 to 32 hexadecimal digits of its id"),
        }
    }
}

impl From<SignatureId> for SignatureKey {
    fn from(id: SignatureId) -> Self {
        Self(id.to_string())
    }
}

pub(crate) async fn find(tx: &Tx<'_>, tenant: TenantId, key: &SignatureKey) -> Result<Kept, StoreError> {
    // No digit of an id sorts behind `f`.
    let (least, end) = (key.0.as_str().into(), format!("{}g", key.0).into());
    match &tx.rows(PREFIXED, &[tenant.into(), least, end]).await?[..] {
        [] => Err(StoreError::NotFound { noun: "signature", id: key.0.clone() }),
        [one] => read(one),
        _ => {
            let message = format!("more than one signature's id begins with `{}`", key.0);
            let error = ApiError::new(ErrorKind::Conflict, "signature_ambiguous", message);
            Err(StoreError::Refused(Box::new(error.with_hint("name more digits of it"))))
        }
    }
}

pub(crate) async fn get(tx: &Tx<'_>, tenant: TenantId, id: SignatureId) -> Result<Option<Kept>, StoreError> {
    tx.row(GET, &[tenant.into(), id.into()]).await?.as_ref().map(read).transpose()
}

pub(crate) async fn again(tx: &Tx<'_>, tenant: TenantId, id: SignatureId) -> Result<Kept, StoreError> {
    get(tx, tenant, id).await?.ok_or(StoreError::Again)
}

/// What an alias names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alias<'a> {
    /// The text that rules made.
    Text(SignatureId),
    /// What stays the same of a stack whatever the rules.
    Shape(&'a str),
}

impl Alias<'_> {
    fn values(self) -> [Value; 2] {
        match self {
            Self::Text(id) => ["text".into(), id.into()],
            Self::Shape(shape) => ["shape".into(), shape.into()],
        }
    }
}

/// Returns the signature that an alias stands for, with who said so.
pub(crate) async fn alias(
    tx: &Tx<'_>,
    tenant: TenantId,
    alias: Alias<'_>,
) -> Result<Option<(SignatureId, String)>, StoreError> {
    let [kind, name] = alias.values();
    let row = tx.row(ALIAS, &[tenant.into(), kind, name]).await?;
    row.map(|row| Ok((row.parsed(0)?, row.text(1)?.to_owned()))).transpose()
}

/// Says which signature an alias stands for.
pub(crate) async fn put_alias(
    tx: &Tx<'_>,
    tenant: TenantId,
    alias: Alias<'_>,
    signature: SignatureId,
    (by, at): (&str, Timestamp),
) -> Result<(), StoreError> {
    let [kind, name] = alias.values();
    tx.execute(PUT_ALIAS, &[tenant.into(), kind, name, signature.into(), by.into(), at.into()]).await.map(drop)
}

/// Returns the signature that a stack belongs to, before merges.
pub(crate) async fn home(
    tx: &Tx<'_>,
    tenant: TenantId,
    shape: &str,
    text: SignatureId,
) -> Result<SignatureId, StoreError> {
    if let Some((signature, _)) = alias(tx, tenant, Alias::Shape(shape)).await? {
        return Ok(signature);
    }
    Ok(alias(tx, tenant, Alias::Text(text)).await?.map_or(text, |(signature, _)| signature))
}

/// Returns the signature that another is part of, or itself.
pub(crate) async fn end(tx: &Tx<'_>, tenant: TenantId, mut id: SignatureId) -> Result<SignatureId, StoreError> {
    for _ in 0..=MAX_ALIAS_CHAIN {
        let Some(row) = tx.row(PASS_ON, &[tenant.into(), id.into()]).await? else { return Ok(id) };
        match row.maybe_parsed(1)? {
            Some(into) if row.word::<SignatureState>(0)? == SignatureState::Merged => id = into,
            _ => return Ok(id),
        }
    }
    Err(StoreError::Broken { column: 1, why: "leads on for ever" })
}

fn conflict(id: SignatureId, state: SignatureState, wanted: SignatureState) -> StoreError {
    StoreError::Conflict { noun: "signature", id: id.to_string(), state: state.as_str(), wanted: wanted.as_str() }
}

/// A signature with what explains it.
#[derive(Clone, Debug)]
pub struct SignatureFound {
    /// It.
    pub signature: Signature,
    /// The stack that stands for it.
    pub stack: Option<Stack>,
    /// Its keys, which are compared with others'.
    pub proto: Vec<String>,
    /// Why that stack is signed as it is.
    pub explanation: Explanation,
    /// The dumps seen last.
    pub dumps: Vec<DumpId>,
    /// Those that are part of it.
    pub parts: Vec<Signature>,
}

/// The stack that stands for a signature.
#[derive(Clone, Debug)]
pub struct Representing {
    /// Which signature.
    pub id: SignatureId,
    /// What it says.
    pub text: String,
    /// Its keys.
    pub proto: Vec<String>,
}

struct SignatureFind {
    tenant: TenantId,
    key: SignatureKey,
}

impl Operation for SignatureFind {
    type Answer = SignatureFound;

    async fn run(&self, tx: &Tx<'_>) -> Result<SignatureFound, StoreError> {
        let Kept { signature, stack, .. } = find(tx, self.tenant, &self.key).await?;
        let of = [self.tenant.into(), signature.id.into()];
        let dumps = tx.rows(DUMPS, &of).await?.iter().map(|row| row.parsed(0)).collect::<Result<_, _>>()?;
        let parts = tx.rows(PARTS, &of).await?;
        let parts = parts.iter().map(|row| read(row).map(|kept| kept.signature)).collect::<Result<Vec<_>, _>>()?;
        let mut found = SignatureFound {
            signature,
            stack: None,
            proto: Vec::new(),
            explanation: Explanation::default(),
            dumps,
            parts,
        };
        let of = [self.tenant.into(), stack.into()];
        if let Some(row) = tx.row(SIGNED, &of).await? {
            found.stack = Some(row.json(0)?);
            found.explanation = row.json(1)?;
            let (shape, id): (&str, SignatureId) = (row.text(2)?, row.parsed(3)?);
            let decided = self.decided(tx, &found.signature, (shape, id, row.text(4)?)).await?;
            found.explanation.steps.splice(0..0, decided);
        }
        if let Some(row) = tx.row(PROTO, &of).await? {
            found.proto = row.json(0)?;
        }
        Ok(found)
    }
}

impl SignatureFind {
    /// Tells what was decided about a stack beside the rules.
    async fn decided(
        &self,
        tx: &Tx<'_>,
        signature: &Signature,
        (shape, id, text): (&str, SignatureId, &str),
    ) -> Result<Vec<Step>, StoreError> {
        let step = |what: String, why: String| Step { frame: None, what, decision: Decision::Note, rule: None, why };
        let mut steps = Vec::new();
        if let Some((_, by)) = alias(tx, self.tenant, Alias::Shape(shape)).await? {
            steps.push(step(text.to_owned(), format!("put here by {by}, whatever the rules say")));
        } else if alias(tx, self.tenant, Alias::Text(id)).await?.is_some() {
            steps.push(step(text.to_owned(), format!("what rules call `{id}` keeps the id that it had by others")));
        }
        if let Some(into) = signature.merged_into {
            steps.push(step(signature.id.to_string(), format!("is part of `{into}`")));
        }
        Ok(steps)
    }
}

struct SignatureList {
    tenant: TenantId,
    state: Option<SignatureState>,
    after: Option<(Timestamp, SignatureId)>,
    limit: u32,
}

impl Operation for SignatureList {
    type Answer = (Vec<Signature>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let head = crate::change::bounds(tx).await?.head;
        let (seen, id) = self.after.map_or((Value::Int(i64::MAX), Value::from("")), |(at, id)| (at.into(), id.into()));
        let of = [self.tenant.into()];
        let page = [seen.clone(), seen, id, self.limit.into()];
        let rows = match self.state {
            None => tx.rows(LIST, &[&of[..], &page].concat()).await?,
            Some(state) => tx.rows(LIST_STATE, &[&of[..], &[state.as_str().into()], &page].concat()).await?,
        };
        Ok((rows.iter().map(|row| read(row).map(|kept| kept.signature)).collect::<Result<_, _>>()?, head))
    }
}

struct SignatureRepresentatives(TenantId);

impl Operation for SignatureRepresentatives {
    type Answer = Vec<Representing>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let rows = tx.rows(REPRESENTATIVES, &[self.0.into(), MAX_REPRESENTATIVES.into()]).await?;
        let one =
            |row: &Row| Ok(Representing { id: row.parsed(0)?, text: row.text(1)?.to_owned(), proto: row.json(2)? });
        rows.iter().map(one).collect()
    }
}

/// What somebody does to a signature alone.
enum Act {
    Title(Option<String>),
    Fix,
    Reopen,
}

struct SignatureAct {
    tenant: TenantId,
    key: SignatureKey,
    act: Act,
    by: String,
    at: Timestamp,
}

impl Operation for SignatureAct {
    type Answer = Signature;

    async fn run(&self, tx: &Tx<'_>) -> Result<Signature, StoreError> {
        let Kept { signature: before, .. } = find(tx, self.tenant, &self.key).await?;
        let of = [self.tenant.into(), before.id.into()];
        let moved = match &self.act {
            Act::Title(title) if *title == before.title => return Ok(before),
            Act::Title(title) => {
                let [tenant, id] = of;
                tx.execute(TITLE, &[title.as_deref().into(), tenant, id]).await?;
                None
            }
            Act::Fix => {
                let [tenant, id] = of;
                Some((tx.write(FIX, &[self.at.into(), tenant, id]).await?, SignatureState::Fixed))
            }
            Act::Reopen if before.state == SignatureState::Merged => {
                settle::part(tx, &before).await?;
                None
            }
            Act::Reopen => Some((tx.write(REOPEN, &of).await?, SignatureState::Reopened)),
        };
        if let Some((rows, wanted)) = moved
            && rows.is_empty()
        {
            return Err(conflict(before.id, before.state, wanted));
        }
        let what = match (&self.act, before.merged_into) {
            (Act::Title(_), _) => None,
            (Act::Fix, _) => Some("its defect is said to be fixed".to_owned()),
            (Act::Reopen, Some(whole)) => Some(format!("it stands by itself again, and is no part of `{whole}`")),
            (Act::Reopen, None) => Some("its defect is said to be there after all".to_owned()),
        };
        if let Some(what) = what {
            decide(tx, (self.tenant, before.id), what, (&self.by, self.at)).await?;
        }
        let after = again(tx, self.tenant, before.id).await?.signature;
        note(tx, &after, (&self.by, self.at));
        Ok(after)
    }
}

impl Store {
    /// Returns a signature with what explains it.
    pub async fn signature_get(&self, key: SignatureKey, tenant: TenantId) -> Result<SignatureFound, StoreError> {
        self.read(SignatureFind { tenant, key }).await
    }

    /// Lists a tenant's signatures, those seen last first, with the log's head at that moment.
    pub async fn signature_list(
        &self,
        tenant: TenantId,
        state: Option<SignatureState>,
        after: Option<(Timestamp, SignatureId)>,
        limit: u32,
    ) -> Result<(Vec<Signature>, u64), StoreError> {
        self.read(SignatureList { tenant, state, after, limit }).await
    }

    /// Returns the stacks that stand for a tenant's signatures, as many as are compared.
    pub async fn signature_representatives(&self, tenant: TenantId) -> Result<Vec<Representing>, StoreError> {
        self.read(SignatureRepresentatives(tenant)).await
    }

    /// Notes something on a signature.
    pub async fn signature_change(
        &self,
        key: SignatureKey,
        tenant: TenantId,
        change: SignatureChange,
        (by, at): (&str, Timestamp),
    ) -> Result<Signature, StoreError> {
        let Some(title) = change.title else { return Ok(self.signature_get(key, tenant).await?.signature) };
        let act = Act::Title(Some(title).filter(|title| !title.is_empty()));
        self.write(SignatureAct { tenant, key, act, by: by.to_owned(), at }).await
    }

    /// Notes that a signature's defect is fixed.
    pub async fn signature_fix(
        &self,
        key: SignatureKey,
        tenant: TenantId,
        (by, at): (&str, Timestamp),
    ) -> Result<Signature, StoreError> {
        self.write(SignatureAct { tenant, key, act: Act::Fix, by: by.to_owned(), at }).await
    }

    /// Notes that a signature's defect is there after all, or lets one that was merged stand by itself again.
    pub async fn signature_reopen(
        &self,
        key: SignatureKey,
        tenant: TenantId,
        (by, at): (&str, Timestamp),
    ) -> Result<Signature, StoreError> {
        self.write(SignatureAct { tenant, key, act: Act::Reopen, by: by.to_owned(), at }).await
    }
}
