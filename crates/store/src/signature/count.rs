//! Counting: the one call by which a dump's findings come to a signature, in the transaction that records them.
//!
//! A dump that is analysed again leaves the signature that it was counted by and comes to the one that it has now; so
//! nothing is counted twice. One that happened after its signature was said to be fixed reopens it.

use super::{Kept, again, decide, end, home, note};
use crate::error::StoreError;
use crate::parcel::number;
use crate::statement::statements;
use crate::transaction::Tx;
use crate::value::to_json;
use jiff::{SignedDuration, Timestamp};
use model::dump::{DumpFindings, DumpSignature};
use model::limits::MAX_ROW_BYTES;
use model::signature::{
    Explanation, MAX_CLASS_CHARS, MAX_KEY_CHARS, MAX_PROTO_KEYS, STACK_VERSION, SignatureState, SignatureText, Signed,
    Stack, StackFrame,
};
use model::{Dump, DumpId, SignatureId, TenantId};

/// Bytes of an explanation that a row keeps beside a stack's keys.
pub(crate) const MAX_EXPLANATION_BYTES: usize = MAX_ROW_BYTES / 3;
/// How far a crash's own time may be off: many tell whole seconds only.
const ROUNDED: SignedDuration = SignedDuration::from_secs(1);

statements! {
    WAS_SIGNED = "SELECT signed FROM dump WHERE id = $1";
    IS_SIGNED = "UPDATE dump SET signed = $1 WHERE id = $2";
    INSERT_STACK = "INSERT INTO signed_stack (tenant, number, shape, stack) VALUES ($1, $2, $3, $4) \
                    ON CONFLICT DO NOTHING";
    INSERT_SIGNING = "INSERT INTO signing (tenant, number, id, text, proto, rules, explanation, signature, dumps, \
                      is_moving) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0) ON CONFLICT DO NOTHING";
    SIGNING = "SELECT id, text FROM signing WHERE tenant = $1 AND number = $2";
    COUNT_STACK = "UPDATE signing SET dumps = dumps + 1 WHERE tenant = $1 AND number = $2";
    UNCOUNT_STACK = "UPDATE signing SET dumps = dumps - 1 WHERE tenant = $1 AND number = $2";
    UNCOUNT = "UPDATE signature SET dumps = dumps - 1, is_due = 1 WHERE tenant = $1 AND id = $2";
    COUNT = "UPDATE signature SET dumps = dumps + $1, is_due = 1, \
             first_seen = CASE WHEN first_seen > $2 THEN $2 ELSE first_seen END, \
             last_seen = CASE WHEN last_seen < $2 THEN $2 ELSE last_seen END \
             WHERE tenant = $3 AND id = $4 AND state <> 'merged' RETURNING id";
    INSERT = "INSERT INTO signature (tenant, id, text, state, stack, dumps, first_seen, last_seen, rules, height, \
              is_due, created_at) VALUES ($1, $2, $3, 'open', $4, $5, $6, $7, $8, 0, 1, $9) ON CONFLICT DO NOTHING";
    REGRESS = "UPDATE signature SET state = 'reopened' WHERE tenant = $1 AND id = $2 AND state = 'fixed' RETURNING id";
}

/// Counts what was found out about a dump, and returns what it is to be known by; the caller writes that.
pub(crate) async fn count(
    tx: &Tx<'_>,
    dump: &Dump,
    findings: &DumpFindings,
    at: Timestamp,
) -> Result<Option<DumpSignature>, StoreError> {
    let tenant = dump.tenant;
    let was = tx.row(WAS_SIGNED, &[dump.id.into()]).await?.ok_or(StoreError::Again)?.maybe_int(0)?;
    let Some(signed) = signed(findings) else {
        leave(tx, dump, was).await?;
        tx.execute(IS_SIGNED, &[None::<i64>.into(), dump.id.into()]).await?;
        return Ok(findings.signature.clone());
    };
    let stack = keep(tx, tenant, &signed).await?;
    let row = tx.row(SIGNING, &[tenant.into(), stack.number.into()]).await?.ok_or(StoreError::Again)?;
    let (text_id, text): (SignatureId, String) = (row.parsed(0)?, row.text(1)?.to_owned());
    let id = end(tx, tenant, home(tx, tenant, &stack.shape, text_id).await?).await?;
    let is_counted = was == Some(stack.number) && dump.signature.as_ref().is_some_and(|old| old.id == id.to_string());
    if !is_counted {
        leave(tx, dump, was).await?;
        tx.execute(COUNT_STACK, &[tenant.into(), stack.number.into()]).await?;
        tx.execute(IS_SIGNED, &[stack.number.into(), dump.id.into()]).await?;
    }
    let happened = findings.facts.time.or(dump.facts.time);
    let seen = Seen { dump: dump.id, happened, uploaded: dump.uploaded_at, at };
    let new = NewSignature { tenant, id, text: &text, stack: stack.number, rules: &signed.signature.rules };
    let kept = new.count(tx, i64::from(!is_counted), &seen).await?;
    Ok(Some(DumpSignature { id: id.to_string(), text: kept.signature.text }))
}

/// Takes a dump from the signature and the stack that it was counted by.
async fn leave(tx: &Tx<'_>, dump: &Dump, stack: Option<i64>) -> Result<(), StoreError> {
    let Some(stack) = stack else { return Ok(()) };
    tx.execute(UNCOUNT_STACK, &[dump.tenant.into(), stack.into()]).await?;
    if let Some(signature) = &dump.signature {
        tx.execute(UNCOUNT, &[dump.tenant.into(), signature.id.as_str().into()]).await?;
    }
    Ok(())
}

/// When a dump was seen.
struct Seen {
    dump: DumpId,
    happened: Option<Timestamp>,
    uploaded: Timestamp,
    at: Timestamp,
}

impl Seen {
    /// Returns when it happened, as far as anybody knows; never later than now.
    fn when(&self) -> Timestamp {
        self.happened.unwrap_or(self.uploaded).min(self.at)
    }

    /// Tells whether it happened after an instant. One that was only found afterwards did not.
    fn is_after(&self, fixed_at: Timestamp) -> bool {
        let happened = self.happened.is_none_or(|at| at.saturating_add(ROUNDED).is_ok_and(|at| at > fixed_at));
        self.uploaded > fixed_at && happened
    }
}

/// A signature that may have to be made.
pub(crate) struct NewSignature<'a> {
    pub(crate) tenant: TenantId,
    pub(crate) id: SignatureId,
    pub(crate) text: &'a str,
    pub(crate) stack: i64,
    pub(crate) rules: &'a str,
}

impl NewSignature<'_> {
    async fn count(&self, tx: &Tx<'_>, more: i64, seen: &Seen) -> Result<Kept, StoreError> {
        let when = seen.when();
        let of = [self.tenant.into(), self.id.into()];
        let [tenant, id] = of.clone();
        if tx.write(COUNT, &[more.into(), when.into(), tenant, id]).await?.is_empty() {
            // One that is there was merged since it was looked at, or made by somebody else.
            self.make(tx, more, (when, when), seen.at).await?;
            return again(tx, self.tenant, self.id).await;
        }
        let kept = again(tx, self.tenant, self.id).await?;
        let fixed_at = kept.signature.fixed_at.filter(|_| kept.signature.state == SignatureState::Fixed);
        if fixed_at.is_some_and(|fixed_at| seen.is_after(fixed_at)) && !tx.write(REGRESS, &of).await?.is_empty() {
            let (what, who) =
                (format!("dump `{}` happened after it was said to be fixed", seen.dump), ("quarry", seen.at));
            decide(tx, (self.tenant, self.id), what, who).await?;
            let kept = again(tx, self.tenant, self.id).await?;
            note(tx, &kept.signature, who);
            return Ok(kept);
        }
        Ok(kept)
    }

    /// Makes it, with so many dumps seen from one instant to another.
    pub(crate) async fn make(
        &self,
        tx: &Tx<'_>,
        dumps: i64,
        (first, last): (Timestamp, Timestamp),
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let values = [
            self.tenant.into(),
            self.id.into(),
            self.text.into(),
            self.stack.into(),
            dumps.into(),
            first.into(),
            last.into(),
            self.rules.into(),
            at.into(),
        ];
        if tx.execute(INSERT, &values).await? == 0 {
            return Err(StoreError::Again);
        }
        note(tx, &again(tx, self.tenant, self.id).await?.signature, ("quarry", at));
        Ok(())
    }
}

/// A stack that is kept.
struct KeptStack {
    number: i64,
    shape: String,
}

/// Keeps a stack and what rules made of it, unless they are there.
async fn keep(tx: &Tx<'_>, tenant: TenantId, signed: &Signed) -> Result<KeptStack, StoreError> {
    let text = to_json(&signed.stack);
    let kept = KeptStack { number: number(blake3::hash(text.as_bytes()).as_bytes()), shape: shape(&signed.stack) };
    let values = [tenant.into(), kept.number.into(), kept.shape.as_str().into(), text.into()];
    if tx.execute(INSERT_STACK, &values).await? > 0 {
        let SignatureText { id, text, proto, rules, .. } = &signed.signature;
        let belongs = end(tx, tenant, home(tx, tenant, &kept.shape, *id).await?).await?;
        let values = [
            tenant.into(),
            kept.number.into(),
            (*id).into(),
            text.into(),
            to_json(proto).into(),
            rules.into(),
            to_json(&signed.explanation).into(),
            belongs.into(),
        ];
        tx.execute(INSERT_SIGNING, &values).await?;
    }
    Ok(kept)
}

/// Returns what stays the same of a stack whatever the rules, and what a split by hand goes by: why it crashed and where.
fn shape(stack: &Stack) -> String {
    let mut hasher = blake3::Hasher::new();
    for word in std::iter::once(&stack.class).chain(stack.frames.iter().map(|frame| &frame.key)) {
        hasher.update(word.as_bytes()).update(b"\n");
    }
    hasher.finalize().to_hex().chars().take(32).collect()
}

/// Returns what findings are signed by, cut to what rows hold. Of those that only tell a name the functions are the stack,
/// and rules are not asked again about it.
fn signed(findings: &DumpFindings) -> Option<Signed> {
    if let Some(signed) = &findings.signed {
        let Signed { signature, stack, explanation } = Signed::clone(signed);
        let explanation = explanation.fitted(MAX_EXPLANATION_BYTES);
        return Some(Signed { signature: signature.fitted(), stack, explanation });
    }
    let told = findings.signature.as_ref()?;
    let cut = |text: &str, chars: usize| text.chars().take(chars).collect::<String>();
    let frames = findings.stack.iter().take(MAX_PROTO_KEYS).map(|call| cut(call, MAX_KEY_CHARS));
    let frames: Vec<_> = frames.map(|key| StackFrame { key, ..StackFrame::default() }).collect();
    let signature = SignatureText {
        id: told.id.parse().ok()?,
        text: told.text.clone(),
        message: None,
        proto: frames.iter().map(|frame| frame.key.clone()).collect(),
        address_id: None,
        rules: String::new(),
    };
    let class = cut(told.text.split(" | ").next().unwrap_or_default(), MAX_CLASS_CHARS);
    let stack = Stack {
        version: STACK_VERSION,
        kind: findings.kind,
        class,
        message: None,
        program: None,
        modules: Vec::new(),
        files: Vec::new(),
        frames,
        frames_cut: 0,
        addresses: Vec::new(),
    };
    Some(Signed { signature: signature.fitted(), stack, explanation: Explanation::default() })
}
