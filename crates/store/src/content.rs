//! Which tenant has which content, and what for. The bytes themselves are the blobs' business; who may see them is the
//! database's. Content that was ever stored for itself stays so, whatever images are made of it.

use crate::error::StoreError;
use crate::statement::statements;
use crate::transaction::{NewChange, Operation, Tx};
use crate::value::{Row, Value, to_json};
use model::{ApiError, Blob, Digest, ErrorKind, Noun, Purpose, TenantId};

statements! {
    INSERT = "INSERT INTO blob (tenant, digest, size, created_at, layer_at) VALUES ($1, $2, $3, $4, $5) \
              ON CONFLICT DO NOTHING";
    GET = "SELECT digest, size, created_at, layer_at FROM blob WHERE tenant = $1 AND digest = $2";
    KEEP = "UPDATE blob SET layer_at = NULL WHERE tenant = $1 AND digest = $2 AND layer_at IS NOT NULL";
    TOUCH = "UPDATE blob SET layer_at = $1 WHERE tenant = $2 AND digest = $3 AND layer_at IS NOT NULL";
    REMOVAL = "SELECT digest FROM blob_removal WHERE digest = $1";
    LIST = "SELECT digest, size, created_at FROM blob WHERE tenant = $1 AND digest > $2 ORDER BY digest LIMIT $3";
}

fn read(row: &Row) -> Result<Blob, StoreError> {
    Ok(Blob { digest: row.parsed(0)?, size: row.count(1)?, created_at: row.time(2)? })
}

/// Notes that a tenant has some content, unless it had it before.
pub(crate) struct BlobCreate {
    pub(crate) blob: Blob,
    pub(crate) tenant: TenantId,
    pub(crate) by: String,
    pub(crate) purpose: Purpose,
}

impl Operation for BlobCreate {
    type Answer = (Blob, bool);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let Blob { digest, size, created_at } = self.blob;
        if is_vanishing(tx, digest).await? {
            let message = format!("blob `{digest}` is being removed, and can be stored again in a moment");
            let error = ApiError::new(ErrorKind::Unavailable, "blob_vanishing", message);
            return Err(StoreError::Refused(Box::new(error.with_hint("try again in a second"))));
        }
        let layer_at = match self.purpose {
            Purpose::Kept => Value::Null,
            Purpose::Image => created_at.into(),
        };
        let values = [self.tenant.into(), digest.into(), size.into(), created_at.into(), layer_at];
        if tx.execute(INSERT, &values).await? == 0 {
            return Ok((self.store_again(tx).await?, false));
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

impl BlobCreate {
    /// Notes what content that is there already was stored for this time.
    async fn store_again(&self, tx: &Tx<'_>) -> Result<Blob, StoreError> {
        let key = [self.tenant.into(), self.blob.digest.into()];
        let row = tx.row(GET, &key).await?.ok_or(StoreError::Again)?;
        let there = read(&row)?;
        if purpose(&row)? == Purpose::Kept {
            return Ok(there);
        }
        let [tenant, digest] = key;
        let moved = match self.purpose {
            Purpose::Kept => tx.execute(KEEP, &[tenant, digest]).await?,
            Purpose::Image => tx.execute(TOUCH, &[self.blob.created_at.into(), tenant, digest]).await?,
        };
        // Somebody dropped or kept it since we looked.
        if moved == 0 { Err(StoreError::Again) } else { Ok(there) }
    }
}

fn purpose(row: &Row) -> Result<Purpose, StoreError> {
    Ok(if row.maybe_int(3)?.is_some() { Purpose::Image } else { Purpose::Kept })
}

/// Reads what is known of a tenant's content.
pub(crate) struct BlobGet {
    pub(crate) digest: Digest,
    pub(crate) tenant: TenantId,
}

impl Operation for BlobGet {
    type Answer = (Blob, Purpose);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let row = tx.row(GET, &[self.tenant.into(), self.digest.into()]).await?;
        let row = row.ok_or_else(|| StoreError::NotFound { noun: "blob", id: self.digest.to_string() })?;
        Ok((read(&row)?, purpose(&row)?))
    }
}

/// Tells whether content is to be removed.
pub(crate) async fn is_vanishing(tx: &Tx<'_>, digest: Digest) -> Result<bool, StoreError> {
    Ok(tx.row(REMOVAL, &[digest.into()]).await?.is_some())
}

/// Refuses a blob that a tenant does not have.
pub(crate) async fn must_have(tx: &Tx<'_>, tenant: TenantId, digest: Digest) -> Result<(), StoreError> {
    BlobGet { digest, tenant }.run(tx).await.map(drop)
}

/// Refuses a blob that a tenant does not have, and keeps one that it had for an image only: something else names it now.
pub(crate) async fn keep(tx: &Tx<'_>, tenant: TenantId, digest: Digest) -> Result<Blob, StoreError> {
    let (blob, purpose) = BlobGet { digest, tenant }.run(tx).await?;
    if purpose == Purpose::Image {
        tx.execute(KEEP, &[tenant.into(), digest.into()]).await?;
    }
    Ok(blob)
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
