//! What no image needs any more: layers of removed images, as long as nothing that waits or runs is pinned to them.
//!
//! Dropping content takes two steps, so that nobody who stores the same content meanwhile is left with a row and no
//! bytes: first its name goes among the removals, as the last row that had it goes, and no row can be made while it
//! stands there; then the bytes go, and the name last. A server that dies between the steps leaves a name, which the next
//! pass finds. Whoever made a row looks once more whether the bytes are there.

use crate::error::StoreError;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{NewChange, Operation, Tx};
use crate::value::to_json;
use jiff::Timestamp;
use model::image::ImageFreed;
use model::{Blob, Digest, ImageId, Manifest, Noun, TenantId};
use std::collections::{BTreeMap, BTreeSet};

statements! {
    MANIFESTS = "SELECT id, state, manifest FROM image WHERE tenant = $1 AND manifest IS NOT NULL";
    PINNED = "SELECT DISTINCT image_id FROM execution WHERE tenant = $1 AND image_id IS NOT NULL AND ended_at IS NULL";
    FORGET = "UPDATE image SET manifest = NULL WHERE id = $1 AND state = 'gone'";
    DROP = "DELETE FROM blob WHERE tenant = $1 AND digest = $2 RETURNING digest, size, created_at, passing";
    ANYBODY = "SELECT tenant FROM blob WHERE digest = $1 LIMIT 1";
    BEGIN = "INSERT INTO blob_removal (digest, at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    PENDING = "SELECT digest FROM blob_removal ORDER BY digest LIMIT 1000";
    END = "DELETE FROM blob_removal WHERE digest = $1";
}

/// Drops a tenant's layers that no image needs.
pub(crate) struct ImageGc {
    pub(crate) tenant: TenantId,
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

impl Operation for ImageGc {
    type Answer = ImageFreed;

    async fn run(&self, tx: &Tx<'_>) -> Result<ImageFreed, StoreError> {
        let mut pinned: BTreeSet<ImageId> = BTreeSet::new();
        for row in tx.rows(PINNED, &[self.tenant.into()]).await? {
            pinned.insert(row.parsed(0)?);
        }
        let (mut needed, mut gone, mut forget) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
        for row in tx.rows(MANIFESTS, &[self.tenant.into()]).await? {
            let (id, manifest): (ImageId, Manifest) = (row.parsed(0)?, row.json(2)?);
            if row.text(1)? != "gone" || pinned.contains(&id) {
                needed.extend(manifest.layers.iter().map(|layer| layer.blob));
            } else {
                gone.extend(manifest.layers.iter().map(|layer| (layer.blob, layer.size)));
                forget.push(id);
            }
        }
        let mut freed = ImageFreed::default();
        for digest in gone.into_keys().filter(|digest| !needed.contains(digest)) {
            if let Some(blob) = self.drop_blob(tx, digest).await? {
                freed.blobs += 1;
                freed.bytes += blob.size;
            }
        }
        for id in forget {
            tx.execute(FORGET, &[id.into()]).await?;
        }
        Ok(freed)
    }
}

impl ImageGc {
    /// Takes a blob from the tenant; its content is then to be removed, if nobody else has it.
    pub(crate) async fn drop_blob(&self, tx: &Tx<'_>, digest: Digest) -> Result<Option<Blob>, StoreError> {
        let Some(row) = tx.write(DROP, &[self.tenant.into(), digest.into()]).await?.pop() else { return Ok(None) };
        let blob = crate::content::read(&row)?;
        tx.change(NewChange {
            at: self.at,
            tenant: self.tenant,
            noun: Noun::Blob,
            id: digest.to_string(),
            state: "removed",
            by: self.by.clone(),
            body: to_json(&blob),
        });
        if tx.row(ANYBODY, &[digest.into()]).await?.is_none() {
            tx.execute(BEGIN, &[digest.into(), self.at.into()]).await?;
        }
        Ok(Some(blob))
    }
}

/// Lists content that is to be removed.
struct RemovalList;

impl Operation for RemovalList {
    type Answer = Vec<Digest>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Digest>, StoreError> {
        tx.rows(PENDING, &[]).await?.iter().map(|row| row.parsed(0)).collect()
    }
}

/// Notes that content has been removed.
struct RemovalEnd(Digest);

impl Operation for RemovalEnd {
    type Answer = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        tx.execute(END, &[self.0.into()]).await.map(drop)
    }
}

/// Takes a row back whose content went while it was made.
struct BlobDrop {
    digest: Digest,
    gc: ImageGc,
}

impl Operation for BlobDrop {
    type Answer = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        self.gc.drop_blob(tx, self.digest).await.map(drop)
    }
}

impl Store {
    /// Drops a tenant's layers that no image needs; the content of those that nobody has any more is then to be removed.
    pub async fn image_gc(&self, tenant: TenantId, by: &str, at: Timestamp) -> Result<ImageFreed, StoreError> {
        self.write(ImageGc { tenant, by: by.to_owned(), at }).await
    }

    /// Takes a tenant's blob back, whose content went while its row was made.
    pub async fn blob_drop(&self, digest: Digest, tenant: TenantId, by: &str, at: Timestamp) -> Result<(), StoreError> {
        self.write(BlobDrop { digest, gc: ImageGc { tenant, by: by.to_owned(), at } }).await
    }

    /// Lists content that nobody has and that is to be removed, as far as one pass goes.
    pub async fn removal_list(&self) -> Result<Vec<Digest>, StoreError> {
        self.read(RemovalList).await
    }

    /// Notes that content has been removed: from now on it can be stored again.
    pub async fn removal_end(&self, digest: Digest) -> Result<(), StoreError> {
        self.write(RemovalEnd(digest)).await
    }
}
