//! Which tenant has which content, and what for. The bytes themselves are the blobs' business; who may see them is the
//! database's. Content that was ever stored for itself stays so, whatever images are made of it.

pub(crate) mod loose;

use crate::error::StoreError;
use crate::statement::statements;
use crate::transaction::{NewChange, Operation, Tx};
use crate::value::{Row, Value, to_json};
use model::{ApiError, Blob, Digest, ErrorKind, Noun, Purpose, TenantId};

statements! {
    INSERT = "INSERT INTO blob (tenant, digest, size, created_at, layer_at, passing) VALUES ($1, $2, $3, $4, $5, $6) \
              ON CONFLICT DO NOTHING";
    GET = "SELECT digest, size, created_at, layer_at, passing FROM blob WHERE tenant = $1 AND digest = $2";
    /// Whoever drops it waits until what names it is written down, or has dropped it already.
    SHARE_POSTGRES = "SELECT digest FROM blob WHERE tenant = $1 AND digest = $2 FOR KEY SHARE";
    LOCK_POSTGRES = "SELECT digest FROM blob WHERE tenant = $1 AND digest = $2 FOR UPDATE";
    KEEP = "UPDATE blob SET layer_at = NULL, passing = 0 \
            WHERE tenant = $1 AND digest = $2 AND (layer_at IS NOT NULL OR passing = 1)";
    TOUCH = "UPDATE blob SET layer_at = $1 WHERE tenant = $2 AND digest = $3 AND layer_at IS NOT NULL";
    REMOVAL = "SELECT digest FROM blob_removal WHERE digest = $1";
    LIST = "SELECT digest, size, created_at, layer_at, passing FROM blob WHERE tenant = $1 AND digest > $2 ORDER BY digest LIMIT $3";
}

/// Returns a blob from its digest, size, age, when it was a layer last, and whether it passes.
pub(crate) fn read(row: &Row) -> Result<Blob, StoreError> {
    let purpose = match (row.maybe_int(3)?, row.int(4)?) {
        (Some(_), _) => Purpose::Image,
        (None, 0) => Purpose::Kept,
        (None, _) => Purpose::Execution,
    };
    Ok(Blob { digest: row.parsed(0)?, size: row.count(1)?, created_at: row.time(2)?, purpose })
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
        let Blob { digest, size, created_at, purpose } = self.blob;
        // This comes first: whoever is about to drop it holds the same row, and is waited for.
        loose::postpone(tx, self.tenant, digest, created_at).await?;
        if is_vanishing(tx, digest).await? {
            let message = format!("blob `{digest}` is being removed, and can be stored again in a moment");
            let error = ApiError::new(ErrorKind::Unavailable, "blob_vanishing", message);
            return Err(StoreError::Refused(Box::new(error.with_hint("try again in a second"))));
        }
        let layer_at = if purpose == Purpose::Image { created_at.into() } else { Value::Null };
        let passing = Value::Int((purpose == Purpose::Execution).into());
        let values = [self.tenant.into(), digest.into(), size.into(), created_at.into(), layer_at, passing];
        if tx.execute(INSERT, &values).await? == 0 {
            return Ok((self.store_again(tx).await?, false));
        }
        if purpose == Purpose::Execution {
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

impl BlobCreate {
    /// Notes what content that is there already was stored for this time; what two have a use for is kept.
    async fn store_again(&self, tx: &Tx<'_>) -> Result<Blob, StoreError> {
        let there = BlobGet { digest: self.blob.digest, tenant: self.tenant }.run(tx).await;
        let there = match there {
            Err(StoreError::NotFound { .. }) => return Err(StoreError::Again),
            other => other?,
        };
        let key: [Value; 2] = [self.tenant.into(), self.blob.digest.into()];
        let moved = match (there.purpose, self.blob.purpose) {
            (Purpose::Kept, _) | (Purpose::Execution, Purpose::Execution) => return Ok(there),
            (Purpose::Image, Purpose::Image) => {
                let [tenant, digest] = key;
                tx.execute(TOUCH, &[self.blob.created_at.into(), tenant, digest]).await?
            }
            _ => tx.execute(KEEP, &key).await?,
        };
        let purpose = if there.purpose == self.blob.purpose { there.purpose } else { Purpose::Kept };
        // Somebody dropped or kept it since we looked.
        if moved == 0 { Err(StoreError::Again) } else { Ok(Blob { purpose, ..there }) }
    }
}

/// Reads what is known of a tenant's content.
pub(crate) struct BlobGet {
    pub(crate) digest: Digest,
    pub(crate) tenant: TenantId,
}

impl Operation for BlobGet {
    type Answer = Blob;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let row = tx.row(GET, &[self.tenant.into(), self.digest.into()]).await?;
        let row = row.ok_or_else(|| StoreError::NotFound { noun: "blob", id: self.digest.to_string() })?;
        read(&row)
    }
}

/// Tells whether content is to be removed.
pub(crate) async fn is_vanishing(tx: &Tx<'_>, digest: Digest) -> Result<bool, StoreError> {
    Ok(tx.row(REMOVAL, &[digest.into()]).await?.is_some())
}

/// Lets nobody else name or drop a blob until the commit; who has named it so far is seen by what follows.
pub(crate) async fn lock(tx: &Tx<'_>, tenant: TenantId, digest: Digest) -> Result<(), StoreError> {
    tx.hold(LOCK_POSTGRES, &[tenant.into(), digest.into()]).await
}

/// Refuses a blob that a tenant does not have; one that it has stays until what names it is written down.
pub(crate) async fn must_have(tx: &Tx<'_>, tenant: TenantId, digest: Digest) -> Result<(), StoreError> {
    tx.hold(SHARE_POSTGRES, &[tenant.into(), digest.into()]).await?;
    BlobGet { digest, tenant }.run(tx).await.map(drop)
}

/// Refuses a blob that a tenant does not have, and keeps one that it had for an image only: an execution names it now.
pub(crate) async fn name(tx: &Tx<'_>, tenant: TenantId, digest: Digest) -> Result<Blob, StoreError> {
    tx.hold(SHARE_POSTGRES, &[tenant.into(), digest.into()]).await?;
    let blob = BlobGet { digest, tenant }.run(tx).await?;
    if blob.purpose == Purpose::Image {
        keep(tx, tenant, digest).await?;
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
