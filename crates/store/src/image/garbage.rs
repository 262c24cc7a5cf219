//! What no image needs any more: content that a tenant has only for images, as long as no image is made of it or from it,
//! nothing that waits or runs is pinned to such an image, and nothing that waits or runs names it itself.
//!
//! What was stored since the making of an image began stays: its manifest is not known yet. Content that no image ever
//! named, which a making that failed leaves, stays an hour, because an archive is stored before its image is asked for.
//! What the tenant has for itself, or another tenant has, is nobody's business here.
//!
//! Dropping content takes two steps, so that nobody who stores the same content meanwhile is left with a row and no
//! bytes: first its name goes among the removals, as the last row that had it goes, and no row can be made while it
//! stands there; then the bytes go, and the name last. A server that dies between the steps leaves a name, which the next
//! pass finds. Two that do not see each other's transactions may still make a row and a name at once: so whoever made a row
//! looks once more, for the name and for the bytes, and whoever removes bytes looks once more for a row.

use crate::content;
use crate::error::StoreError;
use crate::parcel::number;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{NewChange, Operation, Tx};
use crate::value::{Row, to_json};
use jiff::{SignedDuration, Timestamp};
use model::image::ImageFreed;
use model::{Blob, Digest, ImageId, ImageSource, Manifest, Noun, TenantId};
use std::collections::BTreeSet;

statements! {
    IMAGES = "SELECT id, state, manifest, source FROM image \
              WHERE tenant = $1 AND (manifest IS NOT NULL OR state = 'importing') AND id > $2 ORDER BY id LIMIT $3";
    MAKING = "SELECT min(execution.started_at) FROM image JOIN execution ON execution.id = image.execution \
              WHERE image.tenant = $1 AND image.state = 'importing'";
    LAYERS = "SELECT digest, layer_at FROM blob WHERE tenant = $1 AND layer_at IS NOT NULL";
    NAMING = "SELECT blob_use.execution FROM blob_use JOIN execution ON execution.id = blob_use.execution \
              WHERE blob_use.digest = $1 AND execution.tenant = $2 AND execution.ended_at IS NULL LIMIT 1";
    PINNED = "SELECT DISTINCT image_id FROM execution WHERE tenant = $1 AND image_id IS NOT NULL AND ended_at IS NULL";
    FORGET = "UPDATE image SET manifest = NULL WHERE id = $1 AND state = 'gone'";
    /// Not what was stored again since it was looked at.
    DROP = "DELETE FROM blob WHERE tenant = $1 AND digest = $2 AND layer_at = $3 \
            RETURNING digest, size, created_at, layer_at, passing";
    DROP_ANY = "DELETE FROM blob WHERE tenant = $1 AND digest = $2 RETURNING digest, size, created_at, layer_at, passing";
    ALONE_POSTGRES = "SELECT cast(1 AS bigint) FROM pg_advisory_xact_lock($1)";
    ANYBODY = "SELECT tenant FROM blob WHERE digest = $1 LIMIT 1";
    BEGIN = "INSERT INTO blob_removal (digest, at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    PENDING = "SELECT digest FROM blob_removal WHERE (taken_at IS NULL OR taken_at < $1) \
               AND NOT EXISTS (SELECT 1 FROM blob WHERE blob.digest = blob_removal.digest) \
               ORDER BY digest LIMIT 1000";
    TAKE = "UPDATE blob_removal SET taken_at = $1 WHERE digest = $2 AND (taken_at IS NULL OR taken_at < $3) \
            AND NOT EXISTS (SELECT 1 FROM blob WHERE blob.digest = blob_removal.digest)";
    GIVE_UP = "DELETE FROM blob_removal \
               WHERE coalesce(taken_at, at) < $1 AND EXISTS (SELECT 1 FROM blob WHERE blob.digest = blob_removal.digest)";
    END = "DELETE FROM blob_removal WHERE digest = $1";
}

/// Images that are in hand at once.
const PAGE: u64 = 100;
/// How long content stays that was stored for an image and that no image has named yet.
const GRACE: SignedDuration = SignedDuration::from_hours(1);
/// How far the clocks of two servers may be apart.
const SKEW: SignedDuration = SignedDuration::from_mins(1);
/// How long whoever removes content may take from looking at its rows to having removed it. Nobody else removes it, and
/// nobody stores it, before that is over.
const REMOVAL: SignedDuration = SignedDuration::from_mins(10);

/// Drops a tenant's layers that no image needs.
pub(crate) struct ImageGc {
    pub(crate) tenant: TenantId,
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

impl Operation for ImageGc {
    type Answer = ImageFreed;

    async fn run(&self, tx: &Tx<'_>) -> Result<ImageFreed, StoreError> {
        let named = self.named(tx).await?;
        let begun = tx.row(MAKING, &[self.tenant.into()]).await?;
        let begun = begun.map(|row| row.maybe_time(0)).transpose()?.flatten();
        let mut freed = ImageFreed::default();
        for row in tx.rows(LAYERS, &[self.tenant.into()]).await? {
            let (digest, stored): (Digest, Timestamp) = (row.parsed(0)?, row.time(1)?);
            let is_in_the_making = begun.is_some_and(|begun| stored.saturating_add(SKEW).is_ok_and(|at| at >= begun));
            let is_fresh = self.at.duration_since(stored) < GRACE && !named.gone.contains(&digest);
            if named.needed.contains(&digest) || is_in_the_making || is_fresh {
                continue;
            }
            if tx.row(NAMING, &[digest.into(), self.tenant.into()]).await?.is_some() {
                continue;
            }
            if let Some(blob) = self.drop_blob(tx, digest, Some(stored)).await? {
                freed.blobs += 1;
                freed.bytes += blob.size;
            }
        }
        for id in named.forget {
            tx.execute(FORGET, &[id.into()]).await?;
        }
        Ok(freed)
    }
}

/// What images say of content.
#[derive(Default)]
struct Named {
    needed: BTreeSet<Digest>,
    /// What images were made of that are gone.
    gone: BTreeSet<Digest>,
    /// Those images.
    forget: Vec<ImageId>,
}

impl Named {
    /// Adds what one image says.
    fn add(&mut self, row: &Row, pinned: &BTreeSet<ImageId>) -> Result<(), StoreError> {
        let (id, state): (ImageId, &str) = (row.parsed(0)?, row.text(1)?);
        let manifest: Option<Manifest> = row.maybe_json(2)?;
        let source: ImageSource = row.json(3)?;
        let layers = manifest.iter().flat_map(|manifest| &manifest.layers).map(|layer| layer.blob);
        let archive = match source {
            ImageSource::Archive { blob, .. } => Some(blob),
            ImageSource::Registry { .. } => None,
        };
        match state {
            "gone" if !pinned.contains(&id) => {
                self.gone.extend(layers.chain(archive));
                self.forget.push(id);
            }
            "importing" => self.needed.extend(archive),
            _ => self.needed.extend(layers),
        }
        Ok(())
    }
}

impl ImageGc {
    async fn named(&self, tx: &Tx<'_>) -> Result<Named, StoreError> {
        let mut pinned: BTreeSet<ImageId> = BTreeSet::new();
        for row in tx.rows(PINNED, &[self.tenant.into()]).await? {
            pinned.insert(row.parsed(0)?);
        }
        let mut named = Named::default();
        let mut after = String::new();
        loop {
            let rows = tx.rows(IMAGES, &[self.tenant.into(), after.into(), PAGE.into()]).await?;
            for row in &rows {
                named.add(row, &pinned)?;
            }
            let Some(last) = rows.last().filter(|_| rows.len() as u64 == PAGE) else { return Ok(named) };
            after = last.text(0)?.to_owned();
        }
    }

    /// Takes a blob from the tenant, whatever it was stored for.
    pub(crate) async fn drop_any(&self, tx: &Tx<'_>, digest: Digest) -> Result<Option<Blob>, StoreError> {
        self.drop_blob(tx, digest, None).await
    }

    /// Takes a blob from the tenant, of one that it has for images if it was stored at an instant last; its content is then to
    /// be removed, if nobody else has it.
    async fn drop_blob(
        &self,
        tx: &Tx<'_>,
        digest: Digest,
        stored: Option<Timestamp>,
    ) -> Result<Option<Blob>, StoreError> {
        // Of two tenants that drop the same content at once the second must see that the first has.
        tx.hold(ALONE_POSTGRES, &[number(digest.as_bytes()).into()]).await?;
        let values = [self.tenant.into(), digest.into()];
        let dropped = match stored {
            Some(stored) => tx.write(DROP, &[&values[..], &[stored.into()]].concat()).await?,
            None => tx.write(DROP_ANY, &values).await?,
        };
        let Some(row) = dropped.into_iter().next() else { return Ok(None) };
        let blob = content::read(&row)?;
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

/// Lists content that is to be removed and that nobody has begun to remove since an instant.
struct RemovalList(Timestamp);

impl Operation for RemovalList {
    type Answer = Vec<Digest>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Digest>, StoreError> {
        tx.rows(PENDING, &[self.0.into()]).await?.iter().map(|row| row.parsed(0)).collect()
    }
}

/// Has one of all that list content remove it, unless somebody has it after all.
struct RemovalTake {
    digest: Digest,
    at: Timestamp,
}

impl Operation for RemovalTake {
    type Answer = bool;

    async fn run(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let values = [self.at.into(), self.digest.into(), given_up(self.at).into()];
        Ok(tx.execute(TAKE, &values).await? > 0)
    }
}

/// Returns when those must have begun who are not removing anything any more.
fn given_up(at: Timestamp) -> Timestamp {
    at.saturating_sub(REMOVAL).unwrap_or(Timestamp::MIN)
}

/// Tells whether content is to be removed.
struct RemovalIs(Digest);

impl Operation for RemovalIs {
    type Answer = bool;

    async fn run(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        content::is_vanishing(tx, self.0).await
    }
}

/// Lets content be that somebody has after all.
struct RemovalGiveUp(Timestamp);

impl Operation for RemovalGiveUp {
    type Answer = u64;

    async fn run(&self, tx: &Tx<'_>) -> Result<u64, StoreError> {
        tx.execute(GIVE_UP, &[self.0.into()]).await
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
        self.gc.drop_any(tx, self.digest).await.map(drop)
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

    /// Tells whether content is about to be removed, which whoever has just made a row for it must know.
    pub async fn removal_is_pending(&self, digest: Digest) -> Result<bool, StoreError> {
        self.read(RemovalIs(digest)).await
    }

    /// Lets content be that was to be removed and that somebody has after all, long after whoever may have been removing
    /// it has ended; returns how many they were.
    pub async fn removal_give_up(&self, at: Timestamp) -> Result<u64, StoreError> {
        self.write(RemovalGiveUp(given_up(at))).await
    }

    /// Lists content that nobody has and that is to be removed, as far as one pass goes.
    pub async fn removal_list(&self, at: Timestamp) -> Result<Vec<Digest>, StoreError> {
        self.read(RemovalList(given_up(at))).await
    }

    /// Tells whether the caller is to remove content that was listed: somebody else may have begun to, or has it after all.
    pub async fn removal_take(&self, digest: Digest, at: Timestamp) -> Result<bool, StoreError> {
        self.write(RemovalTake { digest, at }).await
    }

    /// Notes that content has been removed: from now on it can be stored again.
    pub async fn removal_end(&self, digest: Digest) -> Result<(), StoreError> {
        self.write(RemovalEnd(digest)).await
    }
}
