//! Merging, splitting, and the settling that follows: dumps go to the signature that their stack belongs to now.
//!
//! A decision is one short transaction, which says where stacks belong and marks them. Their dumps follow in others, each
//! bounded, whoever begins them: the request that decided, or the controller after a server died. Meanwhile each dump is
//! counted where it is, so the counts are right at every moment.

use super::{Alias, Kept, SignatureKey, again, conflict, decide, end, find, home, note, put_alias};
use crate::error::StoreError;
use crate::signature::count::NewSignature;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Session, Tx};
use crate::value::Row;
use jiff::Timestamp;
use model::signature::{MAX_ALIAS_CHAIN, Moved, Signature, SignatureState};
use model::{ApiError, DumpId, ErrorKind, SignatureId, TenantId};
use std::collections::BTreeSet;

/// Dumps that one transaction moves.
const SLICE: u64 = 500;
/// Stacks that one transaction looks at.
const MAX_STACKS: u64 = 64;
/// Transactions that whoever decided waits for; the controller does the rest.
const MAX_STEPS: usize = 400;
/// Dumps of a signature up to which it is looked up anew when it was first and last seen.
const MAX_RECOUNTED: u64 = 20_000;

statements! {
    MERGE = "UPDATE signature SET state = 'merged', merged_into = $1 \
             WHERE tenant = $2 AND id = $3 AND state IN ('open', 'fixed', 'reopened') RETURNING id";
    TAKE_IN = "UPDATE signature SET height = CASE WHEN height < $1 THEN $1 ELSE height END, \
               state = CASE WHEN state = 'fixed' AND fixed_at < $2 THEN 'reopened' ELSE state END \
               WHERE tenant = $3 AND id = $4 AND state <> 'merged' RETURNING id";
    PART = "UPDATE signature SET state = 'open', merged_into = NULL \
            WHERE tenant = $1 AND id = $2 AND state IN ('merged') RETURNING id";
    MARK = "UPDATE signing SET is_moving = 1 WHERE tenant = $1 AND signature = $2 AND is_moving = 0";
    MARK_SHAPE = "UPDATE signing SET is_moving = 1 WHERE tenant = $1 AND number IN \
                  (SELECT number FROM signed_stack WHERE tenant = $1 AND shape = $2)";
    SPLIT_DUMP = "SELECT d.signed, k.shape, d.signature, d.time, d.uploaded_at FROM dump AS d \
                  LEFT JOIN signed_stack AS k ON k.tenant = d.tenant AND k.number = d.signed \
                  WHERE d.tenant = $1 AND d.id = $2";
    SHAPE_DUMPS = "SELECT cast(coalesce(sum(g.dumps), 0) AS bigint) FROM signed_stack AS k \
                   JOIN signing AS g ON g.tenant = k.tenant AND g.number = k.number \
                   WHERE k.tenant = $1 AND k.shape = $2 AND g.signature = $3";
    MOVING_SQLITE = "SELECT g.tenant, g.number, g.id, g.signature, k.shape FROM signing AS g \
                     JOIN signed_stack AS k ON k.tenant = g.tenant AND k.number = g.number \
                     WHERE g.is_moving = 1 ORDER BY g.tenant, g.number LIMIT $1";
    MOVING_POSTGRES = "SELECT g.tenant, g.number, g.id, g.signature, k.shape FROM signing AS g \
                       JOIN signed_stack AS k ON k.tenant = g.tenant AND k.number = g.number \
                       WHERE g.is_moving = 1 ORDER BY g.tenant, g.number LIMIT $1 FOR UPDATE OF g SKIP LOCKED";
    LOCK_POSTGRES = "SELECT id FROM signature WHERE tenant = $1 AND id = $2 FOR UPDATE";
    HOLD = "UPDATE signature SET is_due = 1 WHERE tenant = $1 AND id = $2 AND state <> 'merged' RETURNING id";
    ELSEWHERE = "SELECT signature FROM dump WHERE tenant = $1 AND signed = $2 AND signature <> $3 LIMIT 1";
    MOVE = "UPDATE dump SET signature = $1, signature_text = $2 WHERE id IN (SELECT id FROM dump \
            WHERE tenant = $3 AND signed = $4 AND signature = $5 ORDER BY id LIMIT $6)";
    RETELL = "UPDATE dump SET signature_text = $1 WHERE id IN (SELECT id FROM dump \
              WHERE tenant = $2 AND signed = $3 AND signature_text <> $4 ORDER BY id LIMIT $5)";
    LEAVE = "UPDATE signature SET dumps = dumps - $1, is_due = 1 WHERE tenant = $2 AND id = $3";
    JOIN = "UPDATE signature SET dumps = dumps + $1, is_due = 1 WHERE tenant = $2 AND id = $3 RETURNING id";
    SETTLED = "UPDATE signing SET is_moving = 0, signature = $1 WHERE tenant = $2 AND number = $3";
    STACK_SEEN = "SELECT min(CASE WHEN time > 0 THEN time ELSE uploaded_at END), \
                  max(CASE WHEN time > 0 THEN time ELSE uploaded_at END) \
                  FROM dump WHERE tenant = $1 AND signed = $2 AND signature = $3";
    SEEN = "SELECT min(CASE WHEN time > 0 THEN time ELSE uploaded_at END), \
            max(CASE WHEN time > 0 THEN time ELSE uploaded_at END) FROM dump WHERE tenant = $1 AND signature = $2";
    EXTEND = "UPDATE signature SET first_seen = CASE WHEN first_seen > $1 THEN $1 ELSE first_seen END, \
              last_seen = CASE WHEN last_seen < $2 THEN $2 ELSE last_seen END WHERE tenant = $3 AND id = $4";
    SEEN_ANEW = "UPDATE signature SET first_seen = $1, last_seen = $2 WHERE tenant = $3 AND id = $4";
    STANDS_FOR = "SELECT g.signature FROM signing AS g WHERE g.tenant = $1 AND g.number = $2";
    OTHER_STACK = "SELECT number, text FROM signing WHERE tenant = $1 AND signature = $2 AND is_moving = 0 AND dumps > 0 \
                   ORDER BY number LIMIT 1";
    REPRESENT = "UPDATE signature SET stack = $1, text = $2 WHERE tenant = $3 AND id = $4";
}

fn refused(code: &'static str, message: String, hint: &str) -> StoreError {
    StoreError::Refused(Box::new(ApiError::new(ErrorKind::Conflict, code, message).with_hint(hint)))
}

/// Makes one signature part of another, or says what that would move.
struct SignatureMerge {
    tenant: TenantId,
    key: SignatureKey,
    into: SignatureId,
    dry_run: bool,
    by: String,
    at: Timestamp,
}

impl Operation for SignatureMerge {
    type Answer = Moved;

    async fn run(&self, tx: &Tx<'_>) -> Result<Moved, StoreError> {
        let Kept { signature: from, height, .. } = find(tx, self.tenant, &self.key).await?;
        let into = find(tx, self.tenant, &self.into.into()).await?;
        let merged = SignatureState::Merged;
        if from.id == into.signature.id {
            return Err(refused("signature_same", format!("`{}` is itself", from.id), "name another one"));
        }
        if from.state == merged {
            return Err(conflict(from.id, from.state, merged));
        }
        if let Some(other) = into.signature.merged_into.filter(|_| into.signature.state == merged) {
            let message = format!("signature `{}` is part of another", into.signature.id);
            return Err(refused("signature_merged", message, &format!("merge into `{other}`")));
        }
        let height = height + 1;
        if height > MAX_ALIAS_CHAIN as u64 {
            let message = format!("more than {MAX_ALIAS_CHAIN} signatures would be part of each other");
            return Err(refused("signature_depth", message, "merge their parts into one directly"));
        }
        let dumps = from.dumps;
        if self.dry_run {
            return Ok(Moved { from, into: into.signature, dumps, dry_run: true });
        }
        let tenant = self.tenant.into();
        if tx.write(MERGE, &[self.into.into(), tenant, from.id.into()]).await?.is_empty() {
            return Err(conflict(from.id, from.state, merged));
        }
        let values = [height.into(), from.last_seen.into(), self.tenant.into(), self.into.into()];
        if tx.write(TAKE_IN, &values).await?.is_empty() {
            return Err(StoreError::Again);
        }
        mark(tx, self.tenant, from.id).await?;
        let who = (self.by.as_str(), self.at);
        decide(tx, (self.tenant, from.id), format!("it is part of `{}`: they are one defect", self.into), who).await?;
        let is_back = into.signature.state == SignatureState::Fixed
            && into.signature.fixed_at.is_some_and(|fixed_at| fixed_at < from.last_seen);
        let back = if is_back { "; that was seen after it was said to be fixed, so it is open again" } else { "" };
        let what = format!("`{}` is part of it: they are one defect{back}", from.id);
        decide(tx, (self.tenant, self.into), what, who).await?;
        let (from, into) = (again(tx, self.tenant, from.id).await?, again(tx, self.tenant, self.into).await?);
        note(tx, &from.signature, (&self.by, self.at));
        note(tx, &into.signature, (&self.by, self.at));
        Ok(Moved { from: from.signature, into: into.signature, dumps, dry_run: false })
    }
}

/// Lets a signature that was merged stand by itself again.
pub(super) async fn part(tx: &Tx<'_>, signature: &Signature) -> Result<(), StoreError> {
    let root = end(tx, signature.tenant, signature.id).await?;
    if tx.write(PART, &[signature.tenant.into(), signature.id.into()]).await?.is_empty() {
        return Err(conflict(signature.id, signature.state, SignatureState::Open));
    }
    // Whoever settles what is in the whole holds it, and what was settled is then seen by the marking.
    tx.hold(LOCK_POSTGRES, &[signature.tenant.into(), root.into()]).await?;
    mark(tx, signature.tenant, root).await
}

/// Puts dumps, and all that have their stacks, under a signature of their own, or says what that would move.
struct SignatureSplit {
    tenant: TenantId,
    key: SignatureKey,
    dumps: Vec<DumpId>,
    dry_run: bool,
    by: String,
    at: Timestamp,
}

/// A dump that is to be split off.
struct Leaving {
    stack: i64,
    shape: String,
    seen: Timestamp,
}

impl SignatureSplit {
    async fn leaving(&self, tx: &Tx<'_>, from: &Signature) -> Result<Vec<Leaving>, StoreError> {
        let mut leaving = Vec::new();
        for id in &self.dumps {
            let row = tx.row(SPLIT_DUMP, &[self.tenant.into(), (*id).into()]).await?;
            let row = row.ok_or_else(|| StoreError::NotFound { noun: "dump", id: id.to_string() })?;
            if row.maybe_text(2)? != Some(&from.id.to_string()) {
                let message = format!("dump `{id}` does not belong to signature `{}`", from.id);
                return Err(refused("dump_elsewhere", message, "`quarry signature info` names some that do"));
            }
            let (Some(stack), Some(shape)) = (row.maybe_int(0)?, row.maybe_text(1)?) else {
                let message = format!("dump `{id}` has no stack that it could be told by");
                return Err(refused("dump_unsigned", message, "analyse it first"));
            };
            let time = Some(row.time(3)?).filter(|time| *time > Timestamp::UNIX_EPOCH);
            let seen = time.map_or_else(|| row.time(4), Ok)?;
            leaving.push(Leaving { stack, shape: shape.to_owned(), seen });
        }
        Ok(leaving)
    }

    async fn split(
        &self,
        tx: &Tx<'_>,
        from: &Kept,
        first: &Leaving,
        shapes: &BTreeSet<&str>,
    ) -> Result<Moved, StoreError> {
        let mut dumps = 0;
        for shape in shapes {
            let of = [self.tenant.into(), (*shape).into(), from.signature.id.into()];
            dumps += tx.row(SHAPE_DUMPS, &of).await?.map_or(Ok(0), |row| row.count(0))?;
        }
        if dumps >= from.signature.dumps {
            let message = format!("all dumps of signature `{}` would leave it", from.signature.id);
            return Err(refused("signature_whole", message, "dumps of one stack stay together; name fewer stacks"));
        }
        let names = shapes.iter().copied().collect::<Vec<_>>().join(" ");
        let hash = blake3::hash(format!("split {} {names}", from.signature.id).as_bytes());
        let id = SignatureId::from_bytes(*hash.as_bytes().first_chunk().expect("a digest has 32 bytes"));
        let into = Signature {
            id,
            title: None,
            state: SignatureState::Open,
            dumps: 0,
            first_seen: first.seen,
            last_seen: first.seen,
            fixed_at: None,
            created_at: self.at,
            ..from.signature.clone()
        };
        if self.dry_run {
            return Ok(Moved { from: from.signature.clone(), into, dumps, dry_run: true });
        }
        if super::get(tx, self.tenant, id).await?.is_none() {
            let new =
                NewSignature { tenant: self.tenant, id, text: &into.text, stack: first.stack, rules: &from.rules };
            new.make(tx, 0, (first.seen, first.seen), self.at).await?;
        }
        for shape in shapes {
            put_alias(tx, self.tenant, Alias::Shape(shape), id, (&self.by, self.at)).await?;
            tx.execute(MARK_SHAPE, &[self.tenant.into(), (*shape).into()]).await?;
        }
        let who = (self.by.as_str(), self.at);
        let (stacks, left) = (shapes.len(), from.signature.id);
        let what = format!("{dumps} dumps of {stacks} stacks were split off it: they are `{id}`");
        decide(tx, (self.tenant, left), what, who).await?;
        decide(tx, (self.tenant, id), format!("it was split off `{left}`, with {stacks} of its stacks"), who).await?;
        let from = again(tx, self.tenant, left).await?;
        note(tx, &from.signature, who);
        Ok(Moved { from: from.signature, into: again(tx, self.tenant, id).await?.signature, dumps, dry_run: false })
    }
}

impl Operation for SignatureSplit {
    type Answer = Moved;

    async fn run(&self, tx: &Tx<'_>) -> Result<Moved, StoreError> {
        let from = find(tx, self.tenant, &self.key).await?;
        let leaving = self.leaving(tx, &from.signature).await?;
        let shapes: BTreeSet<_> = leaving.iter().map(|one| one.shape.as_str()).collect();
        let first = leaving.iter().min_by_key(|one| (one.shape.as_str(), one.stack));
        let first = first.ok_or_else(|| refused("dumps_missing", "no dump is named".to_owned(), "name one"))?;
        self.split(tx, &from, first, &shapes).await
    }
}

/// Marks all stacks of a signature: their dumps belong elsewhere, or have to be told what it says now.
pub(super) async fn mark(tx: &Tx<'_>, tenant: TenantId, id: SignatureId) -> Result<(), StoreError> {
    tx.execute(MARK, &[tenant.into(), id.into()]).await.map(drop)
}

/// What one step of settling did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Dumps that moved.
    pub dumps: u64,
    /// Whether there is more to do at once.
    pub more: bool,
}

/// Moves dumps of stacks that are marked, as far as one transaction goes.
struct SignatureSettle;

/// A stack that is marked.
struct Moving {
    tenant: TenantId,
    number: i64,
    /// What the rules call it, and its shape.
    text: SignatureId,
    shape: String,
    /// Where its dumps were.
    from: SignatureId,
    /// Where they belong.
    into: Kept,
}

impl Operation for SignatureSettle {
    type Answer = Settled;

    async fn run(&self, tx: &Tx<'_>) -> Result<Settled, StoreError> {
        let moving = match tx.session() {
            Session::Sqlite(_) => MOVING_SQLITE,
            Session::Postgres(_) => MOVING_POSTGRES,
        };
        let rows = tx.rows(moving, &[MAX_STACKS.into()]).await?;
        // What settles may mark others: there is no more to do once none is marked.
        let mut done = Settled { dumps: 0, more: !rows.is_empty() };
        for row in &rows {
            let moving = Moving::read(tx, row).await?;
            done.dumps += moving.settle(tx, SLICE - done.dumps).await?;
            if done.dumps >= SLICE {
                return Ok(Settled { more: true, ..done });
            }
        }
        Ok(done)
    }
}

impl Moving {
    async fn read(tx: &Tx<'_>, row: &Row) -> Result<Self, StoreError> {
        let (tenant, text): (TenantId, SignatureId) = (row.parsed(0)?, row.parsed(2)?);
        let shape = row.text(4)?.to_owned();
        let into = end(tx, tenant, home(tx, tenant, &shape, text).await?).await?;
        let missing = StoreError::Broken { column: 2, why: "belongs to a signature that is not there" };
        let into = super::get(tx, tenant, into).await?.ok_or(missing)?;
        Ok(Self { tenant, number: row.int(1)?, text, shape, from: row.parsed(3)?, into })
    }

    /// Moves its dumps, up to a number of them; with room left over it is settled. Returns how many moved.
    async fn settle(&self, tx: &Tx<'_>, most: u64) -> Result<u64, StoreError> {
        let (tenant, id) = (self.tenant, self.into.signature.id);
        let text = self.into.signature.text.as_str();
        // Whoever merges it meanwhile waits for us, and then finds this stack there.
        if tx.write(HOLD, &[tenant.into(), id.into()]).await?.is_empty() {
            return Err(StoreError::Again);
        }
        // And whoever took one out of it before belongs elsewhere.
        if end(tx, tenant, home(tx, tenant, &self.shape, self.text).await?).await? != id {
            return Err(StoreError::Again);
        }
        let mut moved = 0;
        while moved < most {
            let of = [tenant.into(), self.number.into(), id.into()];
            let Some(row) = tx.row(ELSEWHERE, &of).await? else { break };
            let old = row.text(0)?;
            let values = [id.into(), text.into(), tenant.into(), self.number.into(), old.into(), (most - moved).into()];
            let count = tx.execute(MOVE, &values).await?;
            tx.execute(LEAVE, &[count.into(), tenant.into(), old.into()]).await?;
            if count == 0 || tx.write(JOIN, &[count.into(), tenant.into(), id.into()]).await?.is_empty() {
                return Err(StoreError::Again);
            }
            moved += count;
        }
        if moved >= most {
            return Ok(moved);
        }
        let left = most - moved;
        let values = [text.into(), tenant.into(), self.number.into(), text.into(), left.into()];
        let retold = tx.execute(RETELL, &values).await?;
        if retold < left {
            self.finish(tx).await?;
        }
        Ok(moved + retold)
    }

    /// Notes that its dumps are where they belong.
    async fn finish(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let (tenant, id) = (self.tenant, self.into.signature.id);
        tx.execute(SETTLED, &[id.into(), tenant.into(), self.number.into()]).await?;
        self.represent(tx, &self.into).await?;
        if self.from != id {
            if let Some(from) = super::get(tx, tenant, self.from).await? {
                self.represent(tx, &from).await?;
            }
            self.see(tx, self.from).await?;
            self.see(tx, id).await?;
        }
        Ok(())
    }

    /// Looks up when a signature was first and last seen, now that this stack's dumps have come or gone. Of one that has
    /// very many it is only noted that it was seen as early and as late as these.
    async fn see(&self, tx: &Tx<'_>, id: SignatureId) -> Result<(), StoreError> {
        let of = [self.tenant.into(), id.into()];
        let dumps = super::get(tx, self.tenant, id).await?.map_or(0, |kept| kept.signature.dumps);
        let (sql, seen) = match dumps {
            0 => return Ok(()),
            1..=MAX_RECOUNTED => (SEEN_ANEW, tx.row(SEEN, &of).await?),
            _ => (EXTEND, tx.row(STACK_SEEN, &[self.tenant.into(), self.number.into(), id.into()]).await?),
        };
        if let Some((first, last)) = seen.as_ref().map(seen_of).transpose()?.flatten() {
            let [tenant, id] = of;
            tx.execute(sql, &[first.into(), last.into(), tenant, id]).await?;
        }
        Ok(())
    }

    /// Has another stack stand for a signature whose own has left it.
    async fn represent(&self, tx: &Tx<'_>, kept: &Kept) -> Result<(), StoreError> {
        let (tenant, id) = (self.tenant, kept.signature.id);
        let stands = tx.row(STANDS_FOR, &[tenant.into(), kept.stack.into()]).await?;
        if stands.is_some_and(|row| row.text(0).is_ok_and(|stands| stands == id.to_string())) {
            return Ok(());
        }
        let Some(other) = tx.row(OTHER_STACK, &[tenant.into(), id.into()]).await? else { return Ok(()) };
        let (number, text) = (other.int(0)?, other.text(1)?);
        tx.execute(REPRESENT, &[number.into(), text.into(), tenant.into(), id.into()]).await?;
        if text != kept.signature.text {
            mark(tx, tenant, id).await?;
        }
        Ok(())
    }
}

/// Returns the first and the last instant of a row, if there are any.
fn seen_of(row: &Row) -> Result<Option<(Timestamp, Timestamp)>, StoreError> {
    Ok(row.maybe_time(0)?.zip(row.maybe_time(1)?))
}

impl Store {
    /// Makes one signature part of another, or says what that would move.
    pub async fn signature_merge(
        &self,
        key: SignatureKey,
        (into, dry_run): (SignatureId, bool),
        tenant: TenantId,
        (by, at): (&str, Timestamp),
    ) -> Result<Moved, StoreError> {
        self.write(SignatureMerge { tenant, key, into, dry_run, by: by.to_owned(), at }).await
    }

    /// Puts dumps, and all that have their stacks, under a signature of their own, or says what that would move.
    pub async fn signature_split(
        &self,
        key: SignatureKey,
        (dumps, dry_run): (Vec<DumpId>, bool),
        tenant: TenantId,
        (by, at): (&str, Timestamp),
    ) -> Result<Moved, StoreError> {
        self.write(SignatureSplit { tenant, key, dumps, dry_run, by: by.to_owned(), at }).await
    }

    /// Moves dumps to where they belong, step by step, as long as whoever decided waits; returns what was done.
    pub async fn signature_settle(&self) -> Result<Settled, StoreError> {
        let mut all = Settled::default();
        for _ in 0..MAX_STEPS {
            let done = self.write(SignatureSettle).await?;
            all = Settled { dumps: all.dumps + done.dumps, more: done.more };
            if !done.more {
                break;
            }
        }
        Ok(all)
    }
}
