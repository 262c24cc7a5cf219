//! What is kept of dumps: content goes by rule, oldest first, and what is known of them stays, with when and why.
//!
//! A dump with a ticket keeps its content, and so does one whose property `pinned` is true. Of each signature the newest
//! few keep theirs, besides those and besides dumps without a stack, which only have in common that nothing is known. A signature is looked at when something came to it or left it since (`is_due`), so a pass
//! over a million quiet dumps costs nothing.

use super::{locked, purge};
use crate::error::StoreError;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Session, Tx};
use crate::value::Row;
use jiff::Timestamp;
use model::dump::DumpPurged;
use model::{Dump, DumpId, TenantId};

/// Dumps that one transaction purges.
const MAX_PURGED: u64 = 64;
/// Signatures that one transaction looks at.
const MAX_LOOKED_AT: u64 = 64;

statements! {
    OLD_SQLITE = "SELECT d.id FROM dump AS d WHERE d.manifest IS NOT NULL AND d.ticket IS NULL AND d.uploaded_at < $1 \
                  AND NOT EXISTS (SELECT 1 FROM dump_property AS p WHERE p.dump = d.id AND p.path = 'pinned' \
                  AND p.kind = 'truth' AND p.text = 'true') ORDER BY d.uploaded_at LIMIT $2";
    OLD_POSTGRES = "SELECT d.id FROM dump AS d WHERE d.manifest IS NOT NULL AND d.ticket IS NULL AND d.uploaded_at < $1 \
                    AND NOT EXISTS (SELECT 1 FROM dump_property AS p WHERE p.dump = d.id AND p.path = 'pinned' \
                    AND p.kind = 'truth' AND p.text = 'true') ORDER BY d.uploaded_at LIMIT $2 FOR UPDATE SKIP LOCKED";
    /// Not those that say nothing of where they crashed: what they have in common is no defect.
    MANY = "SELECT d.id FROM dump AS d WHERE d.tenant = $1 AND d.signature = $2 AND d.manifest IS NOT NULL \
            AND (d.stack IS NOT NULL OR d.signature_text NOT LIKE '%| no stack%') \
            AND d.ticket IS NULL AND NOT EXISTS (SELECT 1 FROM dump_property AS p WHERE p.dump = d.id \
            AND p.path = 'pinned' AND p.kind = 'truth' AND p.text = 'true') \
            ORDER BY d.uploaded_at DESC, d.id DESC LIMIT $3 OFFSET $4";
    DUE_SQLITE = "SELECT tenant, id FROM signature WHERE is_due = 1 ORDER BY tenant, id LIMIT $1";
    DUE_POSTGRES = "SELECT tenant, id FROM signature WHERE is_due = 1 ORDER BY tenant, id LIMIT $1 \
                    FOR UPDATE SKIP LOCKED";
    LOOKED = "UPDATE signature SET is_due = 0 WHERE tenant = $1 AND id = $2";
    LOOK = "UPDATE signature SET is_due = 1 WHERE tenant = $1 AND id = $2 AND is_due = 0";
    LOOK_AT_ALL = "UPDATE signature SET is_due = 1 WHERE is_due = 0";
}

/// Has retention look at a dump's signature: what keeps the dump may have been taken away.
pub(super) async fn look(tx: &Tx<'_>, dump: &Dump) -> Result<(), StoreError> {
    let Some(signature) = &dump.signature else { return Ok(()) };
    tx.execute(LOOK, &[dump.tenant.into(), signature.id.as_str().into()]).await.map(drop)
}

/// By which rules content of dumps goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpRetention {
    /// That of dumps uploaded before an instant.
    pub before: Option<Timestamp>,
    /// That of all but so many newest dumps of a signature.
    pub per_signature: Option<u32>,
}

/// What one pass purged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Dumps that lost their content.
    pub dumps: u64,
    /// Whether there is more to do at once.
    pub more: bool,
}

/// Tells whether somebody keeps a dump's content.
fn is_kept(dump: &Dump) -> bool {
    dump.ticket.is_some() || dump.properties.get("pinned") == Some(&serde_json::Value::Bool(true))
}

struct DumpsRetain {
    retention: DumpRetention,
    now: Timestamp,
}

impl Operation for DumpsRetain {
    type Answer = Purged;

    async fn run(&self, tx: &Tx<'_>) -> Result<Purged, StoreError> {
        let (mut dumps, mut more) = (0, false);
        if let Some(before) = self.retention.before {
            let old = match tx.session() {
                Session::Sqlite(_) => OLD_SQLITE,
                Session::Postgres(_) => OLD_POSTGRES,
            };
            let rows = tx.rows(old, &[before.into(), MAX_PURGED.into()]).await?;
            more = rows.len() as u64 == MAX_PURGED;
            dumps += self.purge(tx, &rows, &format!("it was uploaded before {before}")).await?;
        }
        let Some(most) = self.retention.per_signature else { return Ok(Purged { dumps, more }) };
        let due = match tx.session() {
            Session::Sqlite(_) => DUE_SQLITE,
            Session::Postgres(_) => DUE_POSTGRES,
        };
        let due = tx.rows(due, &[MAX_LOOKED_AT.into()]).await?;
        more |= due.len() as u64 == MAX_LOOKED_AT;
        for row in &due {
            if dumps >= MAX_PURGED {
                return Ok(Purged { dumps, more: true });
            }
            let (tenant, id): (TenantId, &str) = (row.parsed(0)?, row.text(1)?);
            let values = [tenant.into(), id.into(), MAX_PURGED.into(), most.into()];
            let rows = tx.rows(MANY, &values).await?;
            let why = format!("its signature keeps the content of the {most} newest");
            dumps += self.purge(tx, &rows, &why).await?;
            if rows.len() as u64 == MAX_PURGED {
                return Ok(Purged { dumps, more: true });
            }
            tx.execute(LOOKED, &[tenant.into(), id.into()]).await?;
        }
        Ok(Purged { dumps, more })
    }
}

impl DumpsRetain {
    async fn purge(&self, tx: &Tx<'_>, rows: &[Row], why: &str) -> Result<u64, StoreError> {
        let purged = DumpPurged { at: self.now, by: "quarry".to_owned(), why: why.to_owned() };
        let mut count = 0;
        for row in rows {
            let id: DumpId = row.parsed(0)?;
            let dump = locked(tx, id).await?;
            // Somebody may have spoken for it since it was found.
            if is_kept(&dump) {
                continue;
            }
            count += u64::from(purge(tx, &dump, &purged).await?.is_some());
        }
        Ok(count)
    }
}

/// Has retention look at every signature.
struct SignaturesLookAt;

impl Operation for SignaturesLookAt {
    type Answer = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        tx.execute(LOOK_AT_ALL, &[]).await.map(drop)
    }
}

impl Store {
    /// Drops content of dumps by rule, as far as one transaction goes.
    pub async fn dumps_retain(&self, retention: DumpRetention, now: Timestamp) -> Result<Purged, StoreError> {
        if retention == DumpRetention::default() {
            return Ok(Purged::default());
        }
        self.write(DumpsRetain { retention, now }).await
    }

    /// Has retention look at every signature, since the rule may be another than before.
    pub async fn dumps_look_at_all(&self) -> Result<(), StoreError> {
        self.write(SignaturesLookAt).await
    }
}
