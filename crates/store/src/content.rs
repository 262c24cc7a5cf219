//! Which tenant has which content. The bytes themselves are the blobs' business; who may see them is the database's.

pub(crate) mod loose;

use crate::error::StoreError;
use crate::statement::statements;
use crate::transaction::{NewChange, Operation, Tx};
use crate::value::{Row, Value, to_json};
use model::{ApiError, Blob, Digest, ErrorKind, Noun, TenantId};

statements! {
    INSERT = "INSERT INTO blob (tenant, digest, size, created_at, passing) VALUES ($1, $2, $3, $4, $5) \
              ON CONFLICT DO NOTHING";
    GET = "SELECT digest, size, created_at, passing FROM blob WHERE tenant = $1 AND digest = $2";
    KEEP = "UPDATE blob SET passing = 0 WHERE tenant = $1 AND digest = $2 AND passing = 1";
    REMOVAL = "SELECT digest FROM blob_removal WHERE digest = $1";
    LIST = "SELECT digest, size, created_at, passing FROM blob WHERE tenant = $1 AND digest > $2 ORDER BY digest LIMIT $3";
}

/// Returns a blob from its digest, size, age, and whether it passes.
pub(crate) fn read(row: &Row) -> Result<Blob, StoreError> {
    Ok(Blob { digest: row.parsed(0)?, size: row.count(1)?, created_at: row.time(2)?, passing: row.int(3)? != 0 })
}

/// Keeps a tenant's content, whatever becomes of those that name it.
pub(crate) async fn keep(tx: &Tx<'_>, tenant: TenantId, digest: Digest) -> Result<(), StoreError> {
    tx.execute(KEEP, &[tenant.into(), digest.into()]).await.map(drop)
}

/// Notes that a tenant has some content, unless it had it before. What was passing is kept once it is stored to be kept.
pub(crate) struct BlobCreate {
    pub(crate) blob: Blob,
    pub(crate) tenant: TenantId,
    pub(crate) by: String,
}

impl Operation for BlobCreate {
    type Answer = (Blob, bool);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let Blob { digest, size, created_at, passing } = self.blob;
        // This comes first: whoever is about to drop it holds the same row, and is waited for.
        loose::postpone(tx, self.tenant, digest, created_at).await?;
        if tx.row(REMOVAL, &[digest.into()]).await?.is_some() {
            let message = format!("blob `{digest}` is being removed, and can be stored again in a moment");
            let error = ApiError::new(ErrorKind::Unavailable, "blob_vanishing", message);
            return Err(StoreError::Refused(Box::new(error.with_hint("try again in a second"))));
        }
        let passes = Value::Int(passing.into());
        let values = [self.tenant.into(), digest.into(), size.into(), created_at.into(), passes];
        if tx.execute(INSERT, &values).await? == 0 {
            if !passing {
                keep(tx, self.tenant, digest).await?;
            }
            let there = tx.row(GET, &[self.tenant.into(), digest.into()]).await?.ok_or(StoreError::Again)?;
            return Ok((read(&there)?, false));
        }
        if passing {
            loose::look_at(tx, self.tenant, digest, created_at + loose::FIRST_GRACE).await?;
        }
        tx.change(NewChange {
            at: created_at,
            tenant: self.tenant,
            noun: Noun::Blob,
            id: digest.to_string(),
            state: "stored",
            by: self.by.clone(),
            body: to_json(&self.blob),
        });
        Ok((self.blob, true))
    }
}

/// Reads what is known of a tenant's content.
pub(crate) struct BlobGet {
    pub(crate) digest: Digest,
    pub(crate) tenant: TenantId,
}

impl Operation for BlobGet {
    type Answer = Blob;

    async fn run(&self, tx: &Tx<'_>) -> Result<Blob, StoreError> {
        let row = tx.row(GET, &[self.tenant.into(), self.digest.into()]).await?;
        let missing = || StoreError::NotFound { noun: "blob", id: self.digest.to_string() };
        row.as_ref().map(read).transpose()?.ok_or_else(missing)
    }
}

/// Refuses a blob that a tenant does not have.
pub(crate) async fn must_have(tx: &Tx<'_>, tenant: TenantId, digest: Digest) -> Result<(), StoreError> {
    BlobGet { digest, tenant }.run(tx).await.map(drop)
}

/// Lists a tenant's content, by digest.
pub(crate) struct BlobList {
    pub(crate) tenant: TenantId,
    pub(crate) after: Option<Digest>,
    pub(crate) limit: u32,
}

impl Operation for BlobList {
    type Answer = (Vec<Blob>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let head = crate::change::bounds(tx).await?.head;
        let after = self.after.map_or_else(|| Value::from(""), Into::into);
        let rows = tx.rows(LIST, &[self.tenant.into(), after, self.limit.into()]).await?;
        Ok((rows.iter().map(read).collect::<Result<_, _>>()?, head))
    }
}
