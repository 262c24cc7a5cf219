//! Rules of a tenant: the file that it lays over the house's, the stacks that rules are asked about, and what other rules
//! made of them. Rules are texts of whoever brought them; nothing here reads one.
//!
//! When a stack gets another text, its signature keeps its id, its title and its state: the first text that nobody knew
//! and that comes from a signature becomes its alias (`claim`). What somebody merged stays merged: where the rules would
//! lead elsewhere, the stack is put where the decision left it.

use super::{Alias, Kept, alias, end, get, home, put_alias};
use crate::content;
use crate::error::StoreError;
use crate::signature::count::{MAX_EXPLANATION_BYTES, NewSignature};
use crate::signature::settle::mark;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Tx};
use crate::value::{Row, Value, to_json};
use jiff::Timestamp;
use model::signature::{NewRules, RulesFile, SignatureState, SignedStack, StackSigned};
use model::{SignatureId, SignatureText, TenantId};

statements! {
    RULES = "SELECT name, digest, rules, made_by, at FROM signature_rules WHERE tenant = $1";
    PUT_RULES = "INSERT INTO signature_rules (tenant, name, digest, rules, made_by, at) \
                 VALUES ($1, $2, $3, $4, $5, $6) \
                 ON CONFLICT (tenant) DO UPDATE SET name = excluded.name, digest = excluded.digest, \
                 rules = excluded.rules, made_by = excluded.made_by, at = excluded.at";
    REMOVE_RULES = "DELETE FROM signature_rules WHERE tenant = $1 RETURNING name, digest, rules, made_by, at";
    STACKS = "SELECT g.number, k.stack, g.id, g.rules, g.signature, g.dumps, \
              (SELECT d.id FROM dump AS d WHERE d.tenant = g.tenant AND d.signed = g.number LIMIT 1) \
              FROM signing AS g JOIN signed_stack AS k ON k.tenant = g.tenant AND k.number = g.number \
              WHERE g.tenant = $1 AND g.number > $2 ORDER BY g.number LIMIT $3";
    STACKS_OF = "SELECT g.number, k.stack, g.id, g.rules, g.signature, g.dumps, \
                 (SELECT d.id FROM dump AS d WHERE d.tenant = g.tenant AND d.signed = g.number LIMIT 1) \
                 FROM signing AS g JOIN signed_stack AS k ON k.tenant = g.tenant AND k.number = g.number \
                 WHERE g.tenant = $1 AND g.signature = $2 AND g.number > $3 ORDER BY g.number LIMIT $4";
    ONE = "SELECT g.id, g.signature, k.shape FROM signing AS g \
           JOIN signed_stack AS k ON k.tenant = g.tenant AND k.number = g.number \
           WHERE g.tenant = $1 AND g.number = $2";
    SIGN = "UPDATE signing SET id = $1, text = $2, proto = $3, rules = $4, explanation = $5, is_moving = 1 \
            WHERE tenant = $6 AND number = $7";
    CLAIM = "UPDATE signature SET rules = $1 WHERE tenant = $2 AND id = $3 AND rules <> $4";
    SAY = "UPDATE signature SET text = $1 WHERE tenant = $2 AND id = $3 AND stack = $4 AND text <> $5";
}

fn read(row: &Row) -> Result<RulesFile, StoreError> {
    Ok(RulesFile {
        name: row.text(0)?.to_owned(),
        blob: row.parsed(1)?,
        rules: row.text(2)?.to_owned(),
        by: row.text(3)?.to_owned(),
        at: row.time(4)?,
    })
}

/// Reads a stack with what rules make of it, how many dumps have it and one of them.
pub(crate) fn read_stack(row: &Row) -> Result<SignedStack, StoreError> {
    Ok(SignedStack {
        number: row.int(0)?,
        stack: row.json(1)?,
        id: row.parsed(2)?,
        rules: row.text(3)?.to_owned(),
        signature: row.parsed(4)?,
        dumps: row.count(5)?,
        example: row.maybe_parsed(6)?,
    })
}

/// Returns the file of rules that a tenant lays over the house's.
pub(crate) async fn rules(tx: &Tx<'_>, tenant: TenantId) -> Result<Option<RulesFile>, StoreError> {
    tx.row(RULES, &[tenant.into()]).await?.as_ref().map(read).transpose()
}

struct RulesGet(TenantId);

impl Operation for RulesGet {
    type Answer = Option<RulesFile>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        rules(tx, self.0).await
    }
}

struct RulesPut {
    tenant: TenantId,
    new: NewRules,
    by: String,
    at: Timestamp,
}

impl Operation for RulesPut {
    type Answer = RulesFile;

    async fn run(&self, tx: &Tx<'_>) -> Result<RulesFile, StoreError> {
        let NewRules { name, blob, rules } = &self.new;
        content::name(tx, self.tenant, *blob).await?;
        content::keep(tx, self.tenant, *blob).await?;
        let by = self.by.as_str();
        let values = [self.tenant.into(), name.into(), (*blob).into(), rules.into(), by.into(), self.at.into()];
        tx.execute(PUT_RULES, &values).await?;
        Ok(RulesFile { name: name.clone(), blob: *blob, rules: rules.clone(), by: by.to_owned(), at: self.at })
    }
}

struct RulesRemove(TenantId);

impl Operation for RulesRemove {
    type Answer = Option<RulesFile>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        tx.write(REMOVE_RULES, &[self.0.into()]).await?.first().map(read).transpose()
    }
}

struct StackList {
    tenant: TenantId,
    signature: Option<SignatureId>,
    after: Option<i64>,
    limit: u32,
}

impl Operation for StackList {
    type Answer = (Vec<SignedStack>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let head = crate::change::bounds(tx).await?.head;
        let (tenant, after) = (Value::from(self.tenant), Value::Int(self.after.unwrap_or(i64::MIN)));
        let rows = match self.signature {
            None => tx.rows(STACKS, &[tenant, after, self.limit.into()]).await?,
            Some(id) => tx.rows(STACKS_OF, &[tenant, id.into(), after, self.limit.into()]).await?,
        };
        Ok((rows.iter().map(read_stack).collect::<Result<_, _>>()?, head))
    }
}

/// Records what other rules make of stacks.
struct StacksSign {
    tenant: TenantId,
    stacks: Vec<StackSigned>,
    at: Timestamp,
}

impl Operation for StacksSign {
    type Answer = u64;

    async fn run(&self, tx: &Tx<'_>) -> Result<u64, StoreError> {
        let mut renamed = 0;
        for one in &self.stacks {
            let row = tx.row(ONE, &[self.tenant.into(), one.number.into()]).await?;
            let row = row.ok_or_else(|| StoreError::NotFound { noun: "stack", id: one.number.to_string() })?;
            let was: SignatureId = row.parsed(0)?;
            let signature = one.signature.clone().fitted();
            if was != signature.id {
                self.rename(tx, one.number, (row.text(2)?, was), &signature).await?;
                renamed += 1;
            }
            let explanation = one.explanation.clone().fitted(MAX_EXPLANATION_BYTES);
            let values = [
                signature.id.into(),
                signature.text.as_str().into(),
                to_json(&signature.proto).into(),
                signature.rules.as_str().into(),
                to_json(&explanation).into(),
                self.tenant.into(),
                one.number.into(),
            ];
            tx.execute(SIGN, &values).await?;
            self.say(tx, one.number, row.text(2)?, &signature).await?;
        }
        Ok(renamed)
    }
}

impl StacksSign {
    /// Sees that there is a signature for a stack that gets another text.
    async fn rename(
        &self,
        tx: &Tx<'_>,
        number: i64,
        (shape, was): (&str, SignatureId),
        signature: &SignatureText,
    ) -> Result<(), StoreError> {
        let (tenant, rules) = (self.tenant, ("rules", self.at));
        if alias(tx, tenant, Alias::Shape(shape)).await?.is_some() {
            return Ok(());
        }
        let before = home(tx, tenant, shape, was).await?;
        let kept = get(tx, tenant, before).await?;
        let kept = kept.ok_or(StoreError::Broken { column: 1, why: "belongs to a signature that is not there" })?;
        let known = match alias(tx, tenant, Alias::Text(signature.id)).await? {
            Some((known, _)) => Some(known),
            None => get(tx, tenant, signature.id).await?.map(|kept| kept.signature.id),
        };
        match known {
            // Somebody merged what this stack was part of: that holds, whatever it is called now.
            Some(known) if kept.signature.state == SignatureState::Merged => {
                if end(tx, tenant, known).await? != end(tx, tenant, before).await? {
                    put_alias(tx, tenant, Alias::Shape(shape), before, rules).await?;
                }
            }
            Some(_) => {}
            None if kept.signature.state == SignatureState::Merged || claim(tx, &kept, &signature.rules).await? => {
                put_alias(tx, tenant, Alias::Text(signature.id), before, rules).await?;
            }
            None => {
                let new = NewSignature {
                    tenant,
                    id: signature.id,
                    text: &signature.text,
                    stack: number,
                    rules: &signature.rules,
                };
                let Kept { signature: from, .. } = kept;
                new.make(tx, 0, (from.first_seen, from.last_seen), self.at).await?;
            }
        }
        Ok(())
    }

    /// Has a signature say what the stack that stands for it is called now.
    async fn say(&self, tx: &Tx<'_>, number: i64, shape: &str, signature: &SignatureText) -> Result<(), StoreError> {
        let id = end(tx, self.tenant, home(tx, self.tenant, shape, signature.id).await?).await?;
        let text = signature.text.as_str();
        let values = [text.into(), self.tenant.into(), id.into(), number.into(), text.into()];
        if tx.execute(SAY, &values).await? > 0 {
            mark(tx, self.tenant, id).await?;
        }
        Ok(())
    }
}

/// Takes a signature's id for the first text that comes from it under these rules; tells whether it was still to be had.
async fn claim(tx: &Tx<'_>, kept: &Kept, rules: &str) -> Result<bool, StoreError> {
    let values = [rules.into(), kept.signature.tenant.into(), kept.signature.id.into(), rules.into()];
    Ok(tx.execute(CLAIM, &values).await? > 0)
}

impl Store {
    /// Returns the file of rules that a tenant lays over the house's.
    pub async fn signature_rules(&self, tenant: TenantId) -> Result<Option<RulesFile>, StoreError> {
        self.read(RulesGet(tenant)).await
    }

    /// Keeps the file of rules that a tenant lays over the house's, in place of an older one.
    pub async fn signature_rules_put(
        &self,
        new: NewRules,
        tenant: TenantId,
        (by, at): (&str, Timestamp),
    ) -> Result<RulesFile, StoreError> {
        self.write(RulesPut { tenant, new, by: by.to_owned(), at }).await
    }

    /// Forgets the file of rules of a tenant.
    pub async fn signature_rules_remove(&self, tenant: TenantId) -> Result<Option<RulesFile>, StoreError> {
        self.write(RulesRemove(tenant)).await
    }

    /// Lists the stacks that a tenant's dumps are signed by, with the log's head at that moment.
    pub async fn signed_stacks(
        &self,
        tenant: TenantId,
        signature: Option<SignatureId>,
        after: Option<i64>,
        limit: u32,
    ) -> Result<(Vec<SignedStack>, u64), StoreError> {
        self.read(StackList { tenant, signature, after, limit }).await
    }

    /// Records what other rules make of stacks; returns how many got another text. Their dumps are then to be settled.
    pub async fn stacks_sign(
        &self,
        stacks: Vec<StackSigned>,
        tenant: TenantId,
        at: Timestamp,
    ) -> Result<u64, StoreError> {
        self.write(StacksSign { tenant, stacks, at }).await
    }
}
