//! Loose content: stored for an execution, and perhaps named by nothing any more. It is looked at once a grace is over,
//! and goes if nothing names it then: no chunk or recipe of an execution, and no image. What a dump names is kept.
//!
//! What names a blob comes a little later than the blob itself, so whoever stores content that is loose already, or passing
//! and new, puts the look off. What is named at the look is loose no more; it becomes so again when what names it goes.

use crate::error::StoreError;
use crate::image::garbage::ImageGc;
use crate::statement::statements;
use crate::transaction::{Operation, Tx};
use jiff::{SignedDuration, Timestamp};
use model::{Digest, Manifest, TenantId};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// How long content that was just stored, or has lost a name, may be without one.
const GRACE: SignedDuration = SignedDuration::from_hours(1);
/// The same for content that is new: an image's first layer waits for its last.
pub(crate) const FIRST_GRACE: SignedDuration = SignedDuration::from_hours(24);
/// Images that are in hand at once.
const PAGE: u64 = 100;
/// Blobs that one pass looks at.
const MAX_LOOKS: u64 = 128;

statements! {
    ADD = "INSERT INTO blob_loose (tenant, digest, at) VALUES ($1, $2, $3) \
           ON CONFLICT (tenant, digest) DO UPDATE SET at = excluded.at WHERE blob_loose.at < excluded.at";
    POSTPONE = "UPDATE blob_loose SET at = $1 WHERE tenant = $2 AND digest = $3 AND at < $4";
    DUE = "SELECT tenant, digest FROM blob_loose WHERE at <= $1 ORDER BY at LIMIT $2";
    /// Whoever puts the look off meanwhile holds the row, and then there is nothing to take.
    TAKE = "DELETE FROM blob_loose WHERE tenant = $1 AND digest = $2 AND at <= $3";
    UNNAMED = "SELECT content.digest FROM blob AS content \
               WHERE content.tenant = $1 AND content.digest = $2 AND content.passing = 1 \
               AND NOT EXISTS (SELECT 1 FROM chunk JOIN execution ON execution.id = chunk.execution \
                   WHERE chunk.blob = content.digest AND execution.tenant = content.tenant) \
               AND NOT EXISTS (SELECT 1 FROM blob_use JOIN execution ON execution.id = blob_use.execution \
                   WHERE blob_use.digest = content.digest AND execution.tenant = content.tenant)";
    /// Of what an execution names.
    PASS = "UPDATE blob SET passing = 1 WHERE tenant = $1 AND digest = $2 AND ( \
                EXISTS (SELECT 1 FROM chunk JOIN execution ON execution.id = chunk.execution \
                    WHERE chunk.blob = blob.digest AND execution.tenant = blob.tenant) \
                OR EXISTS (SELECT 1 FROM blob_use JOIN execution ON execution.id = blob_use.execution \
                    WHERE blob_use.digest = blob.digest AND execution.tenant = blob.tenant) \
            ) RETURNING digest";
    MANIFESTS = "SELECT id, manifest FROM image WHERE tenant = $1 AND manifest IS NOT NULL AND id > $2 \
                 ORDER BY id LIMIT $3";
}

/// Has content looked at from an instant on.
pub(crate) async fn look_at(tx: &Tx<'_>, tenant: TenantId, digest: Digest, at: Timestamp) -> Result<(), StoreError> {
    tx.execute(ADD, &[tenant.into(), digest.into(), at.into()]).await.map(drop)
}

/// Has content looked at that has just lost a name.
pub(crate) async fn loosen(tx: &Tx<'_>, tenant: TenantId, digest: Digest, now: Timestamp) -> Result<(), StoreError> {
    look_at(tx, tenant, digest, now + GRACE).await
}

/// Puts the look at content off that is being stored, if one is near.
pub(crate) async fn postpone(tx: &Tx<'_>, tenant: TenantId, digest: Digest, now: Timestamp) -> Result<(), StoreError> {
    let at = now + GRACE;
    tx.execute(POSTPONE, &[at.into(), tenant.into(), digest.into(), at.into()]).await.map(drop)
}

/// Has content go with the last execution that names it, if one does; tells whether one does.
pub(crate) async fn let_pass(tx: &Tx<'_>, tenant: TenantId, digest: Digest) -> Result<bool, StoreError> {
    crate::content::lock(tx, tenant, digest).await?;
    Ok(!tx.write(PASS, &[tenant.into(), digest.into()]).await?.is_empty())
}

/// What one look came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Looked {
    /// Blobs that were dropped.
    pub(crate) dropped: u64,
    /// Whether there may be more to look at.
    pub(crate) more: bool,
}

/// Looks at loose content whose grace is over, and drops what nothing names.
pub(crate) struct LooseDrop {
    pub(crate) now: Timestamp,
}

impl Operation for LooseDrop {
    type Answer = Looked;

    async fn run(&self, tx: &Tx<'_>) -> Result<Looked, StoreError> {
        let due = tx.rows(DUE, &[self.now.into(), MAX_LOOKS.into()]).await?;
        let mut looked = Looked { dropped: 0, more: due.len() as u64 == MAX_LOOKS };
        let mut layers: BTreeMap<TenantId, BTreeSet<Digest>> = BTreeMap::new();
        for row in due {
            let (tenant, digest): (TenantId, Digest) = (row.parsed(0)?, row.parsed(1)?);
            if tx.execute(TAKE, &[tenant.into(), digest.into(), self.now.into()]).await? == 0 {
                continue;
            }
            crate::content::lock(tx, tenant, digest).await?;
            if tx.row(UNNAMED, &[tenant.into(), digest.into()]).await?.is_none() {
                continue;
            }
            if let Entry::Vacant(place) = layers.entry(tenant) {
                place.insert(layers_of(tx, tenant).await?);
            }
            if layers.get(&tenant).is_some_and(|layers| layers.contains(&digest)) {
                continue;
            }
            let gc = ImageGc { tenant, by: "quarry".to_owned(), at: self.now };
            looked.dropped += u64::from(gc.drop_any(tx, digest).await?.is_some());
        }
        Ok(looked)
    }
}

/// Returns the layers that a tenant's images name.
async fn layers_of(tx: &Tx<'_>, tenant: TenantId) -> Result<BTreeSet<Digest>, StoreError> {
    let (mut layers, mut after) = (BTreeSet::new(), String::new());
    loop {
        let rows = tx.rows(MANIFESTS, &[tenant.into(), after.into(), PAGE.into()]).await?;
        for row in &rows {
            let manifest: Manifest = row.json(1)?;
            layers.extend(manifest.layers.iter().map(|layer| layer.blob));
        }
        let Some(last) = rows.last().filter(|_| rows.len() as u64 == PAGE) else { return Ok(layers) };
        after = last.text(0)?.to_owned();
    }
}
