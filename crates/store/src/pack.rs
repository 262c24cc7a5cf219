//! Unwind packs: which blobs hold packs of a build id, in a tenant, and which of them tells of a dump.
//!
//! That is the one that the dump's sender named, else the one that came first when the dump was first looked into; it stays
//! that one. So whoever sends a pack that lies has only his own dumps told by it, and those that came with none. A
//! dump that a pack was named or fetched for needs it as long as it has content. What no dump needs, and nobody has asked for since
//! an instant, goes; whoever sends a dump next is told that it is missing and sends it again. When a pack was asked for is
//! noted once a day at most, so asking writes nothing as a rule.

use crate::error::StoreError;
use crate::parcel::drop_blob;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Session, Tx};
use crate::value::Row;
use jiff::{SignedDuration, Timestamp};
use model::pack::{Pack, PackName};
use model::{Blob, Digest, DumpId, TenantId};
use std::collections::HashSet;

statements! {
    PUT = "INSERT INTO pack (tenant, build_id, digest, size, created_by, created_at, used_at) \
           VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT DO NOTHING";
    GET = "SELECT build_id, digest, size, created_by, created_at, used_at FROM pack \
           WHERE tenant = $1 AND build_id = $2 AND digest = $3";
    FIRST = "SELECT build_id, digest, size, created_by, created_at, used_at FROM pack \
             WHERE tenant = $1 AND build_id = $2 ORDER BY created_at, digest LIMIT 1";
    OF_DUMP = "SELECT digest FROM pack_use WHERE dump = $1 AND build_id = $2 AND tenant = $3";
    ASKED = "UPDATE pack SET used_at = CASE WHEN used_at < $1 THEN $1 ELSE used_at END \
             WHERE tenant = $2 AND build_id = $3 AND digest = $4";
    USE = "INSERT INTO pack_use (dump, build_id, digest, tenant) SELECT id, $1, $2, tenant FROM dump \
           WHERE id = $3 AND tenant = $4 AND manifest IS NOT NULL ON CONFLICT DO NOTHING";
    LET_GO = "DELETE FROM pack_use WHERE dump = $1";
    NEEDED = "SELECT dump FROM pack_use WHERE tenant = $1 AND build_id = $2 AND digest = $3 LIMIT 1";
    IDLE_SQLITE = "SELECT tenant, build_id, digest FROM pack WHERE used_at < $1 ORDER BY used_at LIMIT $2";
    IDLE_POSTGRES = "SELECT tenant, build_id, digest FROM pack WHERE used_at < $1 ORDER BY used_at LIMIT $2 \
                     FOR UPDATE SKIP LOCKED";
    REMOVE = "DELETE FROM pack WHERE tenant = $1 AND build_id = $2 AND digest = $3 AND used_at < $4 RETURNING digest";
    NAMED = "SELECT digest FROM pack WHERE tenant = $1 AND digest = $2 LIMIT 1";
}

/// How old a note of when a pack was asked for may be.
const STALE: SignedDuration = SignedDuration::from_hours(24);
/// Packs that one transaction looks at.
const MAX_LOOKED_AT: u64 = 64;

fn read(row: &Row) -> Result<Pack, StoreError> {
    Ok(Pack {
        build_id: row.text(0)?.to_owned(),
        digest: row.parsed(1)?,
        size: row.count(2)?,
        by: row.text(3)?.to_owned(),
        created_at: row.time(4)?,
    })
}

/// A pack, and when it was last asked for.
type Found = (Pack, Timestamp);

async fn find(tx: &Tx<'_>, tenant: TenantId, name: &PackName) -> Result<Option<Found>, StoreError> {
    let values = [tenant.into(), name.build_id.as_str().into(), name.digest.into()];
    tx.row(GET, &values).await?.map(|row| Ok((read(&row)?, row.time(5)?))).transpose()
}

async fn first(tx: &Tx<'_>, tenant: TenantId, build_id: &str) -> Result<Option<Found>, StoreError> {
    let row = tx.row(FIRST, &[tenant.into(), build_id.into()]).await?;
    row.map(|row| Ok((read(&row)?, row.time(5)?))).transpose()
}

/// Notes that a pack was asked for, and for which dump, if it was for one; nothing if it is not there.
async fn used(
    tx: &Tx<'_>,
    tenant: TenantId,
    name: &PackName,
    (dump, at): (Option<DumpId>, Timestamp),
) -> Result<(), StoreError> {
    let (build_id, digest) = (name.build_id.as_str(), name.digest);
    let is_there = tx.execute(ASKED, &[at.into(), tenant.into(), build_id.into(), digest.into()]).await? > 0;
    if let Some(dump) = dump.filter(|_| is_there) {
        tx.execute(USE, &[build_id.into(), digest.into(), dump.into(), tenant.into()]).await?;
    }
    Ok(())
}

/// Has a dump be told by packs that its sender named, as far as they are there, and by no others of their modules.
pub(crate) async fn name(
    tx: &Tx<'_>,
    tenant: TenantId,
    dump: DumpId,
    packs: &[PackName],
    at: Timestamp,
) -> Result<(), StoreError> {
    for name in packs {
        used(tx, tenant, name, (Some(dump), at)).await?;
    }
    Ok(())
}

/// Notes that a dump needs no packs any more: it has no content.
pub(crate) async fn let_go(tx: &Tx<'_>, dump: DumpId) -> Result<(), StoreError> {
    tx.execute(LET_GO, &[dump.into()]).await.map(drop)
}

/// Keeps a pack whose blob is there.
struct PackPut {
    build_id: String,
    blob: Blob,
    tenant: TenantId,
    by: String,
}

impl Operation for PackPut {
    type Answer = (Pack, bool);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let values = [
            self.tenant.into(),
            self.build_id.as_str().into(),
            self.blob.digest.into(),
            self.blob.size.into(),
            self.by.as_str().into(),
            self.blob.created_at.into(),
        ];
        let is_new = tx.execute(PUT, &values).await? > 0;
        let name = PackName { build_id: self.build_id.clone(), digest: self.blob.digest };
        let (pack, _) = find(tx, self.tenant, &name).await?.ok_or(StoreError::Again)?;
        Ok((pack, is_new))
    }
}

struct PackGet {
    build_id: String,
    tenant: TenantId,
}

impl Operation for PackGet {
    type Answer = Pack;

    async fn run(&self, tx: &Tx<'_>) -> Result<Pack, StoreError> {
        let missing = || StoreError::NotFound { noun: "module", id: self.build_id.clone() };
        Ok(first(tx, self.tenant, &self.build_id).await?.ok_or_else(missing)?.0)
    }
}

/// Finds the packs of some build ids that tell of a dump, or those that came first.
struct PackFind {
    build_ids: Vec<String>,
    tenant: TenantId,
    dump: Option<DumpId>,
}

impl Operation for PackFind {
    type Answer = Vec<Found>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let mut found = Vec::new();
        for build_id in &self.build_ids {
            let named = match self.dump {
                Some(dump) => tx.row(OF_DUMP, &[dump.into(), build_id.as_str().into(), self.tenant.into()]).await?,
                None => None,
            };
            found.extend(match named {
                Some(row) => {
                    let name = PackName { build_id: build_id.clone(), digest: row.parsed(0)? };
                    find(tx, self.tenant, &name).await?
                }
                None => first(tx, self.tenant, build_id).await?,
            });
        }
        Ok(found)
    }
}

/// Finds packs by their names.
struct PackCheck {
    packs: Vec<PackName>,
    tenant: TenantId,
}

impl Operation for PackCheck {
    type Answer = Vec<Found>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let mut found = Vec::new();
        for name in &self.packs {
            found.extend(find(tx, self.tenant, name).await?);
        }
        Ok(found)
    }
}

fn named(pack: &Pack) -> PackName {
    PackName { build_id: pack.build_id.clone(), digest: pack.digest }
}

/// Notes that packs were asked for, and for which dump, if it was for one.
struct PackUse {
    packs: Vec<PackName>,
    tenant: TenantId,
    dump: Option<DumpId>,
    at: Timestamp,
}

impl Operation for PackUse {
    type Answer = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        for name in &self.packs {
            used(tx, self.tenant, name, (self.dump, self.at)).await?;
        }
        Ok(())
    }
}

/// What one look at idle packs came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Idle {
    /// Packs that were removed.
    pub removed: u64,
    /// Whether there is more to do at once.
    pub more: bool,
}

/// Removes packs that nobody has asked for since an instant and that no dump needs.
struct PacksRetain {
    before: Timestamp,
    now: Timestamp,
}

impl Operation for PacksRetain {
    type Answer = Idle;

    async fn run(&self, tx: &Tx<'_>) -> Result<Idle, StoreError> {
        let idle = match tx.session() {
            Session::Sqlite(_) => IDLE_SQLITE,
            Session::Postgres(_) => IDLE_POSTGRES,
        };
        let rows = tx.rows(idle, &[self.before.into(), MAX_LOOKED_AT.into()]).await?;
        let mut done = Idle { removed: 0, more: rows.len() as u64 == MAX_LOOKED_AT };
        for row in &rows {
            let (tenant, build_id, digest): (TenantId, &str, Digest) = (row.parsed(0)?, row.text(1)?, row.parsed(2)?);
            if tx.row(NEEDED, &[tenant.into(), build_id.into(), digest.into()]).await?.is_some() {
                // It is looked at again once it is as old again.
                tx.execute(ASKED, &[self.now.into(), tenant.into(), build_id.into(), digest.into()]).await?;
                continue;
            }
            let values = [tenant.into(), build_id.into(), digest.into(), self.before.into()];
            let Some(row) = tx.write(REMOVE, &values).await?.pop() else { continue };
            let digest: Digest = row.parsed(0)?;
            done.removed += 1;
            if tx.row(NAMED, &[tenant.into(), digest.into()]).await?.is_none() {
                drop_blob(tx, digest, tenant, ("quarry", self.now)).await?;
            }
        }
        Ok(done)
    }
}

impl Store {
    /// Keeps a pack whose blob is there; tells whether it is new.
    pub async fn pack_put(
        &self,
        build_id: &str,
        blob: Blob,
        tenant: TenantId,
        by: &str,
    ) -> Result<(Pack, bool), StoreError> {
        self.write(PackPut { build_id: build_id.to_owned(), blob, tenant, by: by.to_owned() }).await
    }

    /// Returns a tenant's first pack of a build id.
    pub async fn pack_get(&self, build_id: &str, tenant: TenantId) -> Result<Pack, StoreError> {
        self.read(PackGet { build_id: build_id.to_owned(), tenant }).await
    }

    /// Returns a tenant's packs of some build ids: those that tell of a dump, else those that came first, which from now on
    /// tell of it. Those that are not there are left out.
    pub async fn packs_find(
        &self,
        build_ids: Vec<String>,
        tenant: TenantId,
        dump: Option<DumpId>,
        at: Timestamp,
    ) -> Result<Vec<Pack>, StoreError> {
        let found = self.read(PackFind { build_ids, tenant, dump }).await?;
        self.packs_note(&found, tenant, (dump, at)).await?;
        Ok(found.into_iter().map(|(pack, _)| pack).collect())
    }

    /// Returns those of some packs that a tenant does not have, in their order.
    pub async fn packs_missing(
        &self,
        packs: Vec<PackName>,
        tenant: TenantId,
        at: Timestamp,
    ) -> Result<Vec<PackName>, StoreError> {
        let found = self.read(PackCheck { packs: packs.clone(), tenant }).await?;
        self.packs_note(&found, tenant, (None, at)).await?;
        let found: HashSet<_> = found.iter().map(|(pack, _)| named(pack)).collect();
        Ok(packs.into_iter().filter(|name| !found.contains(name)).collect())
    }

    async fn packs_note(
        &self,
        found: &[Found],
        tenant: TenantId,
        (dump, at): (Option<DumpId>, Timestamp),
    ) -> Result<(), StoreError> {
        let is_to_be_noted = |asked: &Timestamp| dump.is_some() || at.duration_since(*asked) > STALE;
        let stale = found.iter().filter(|(_, asked)| is_to_be_noted(asked));
        let packs: Vec<_> = stale.map(|(pack, _)| named(pack)).collect();
        if packs.is_empty() { Ok(()) } else { self.write(PackUse { packs, tenant, dump, at }).await }
    }

    /// Removes packs that nobody has asked for since an instant and that no dump with content needs, as far as one
    /// transaction goes.
    pub async fn packs_retain(&self, before: Timestamp, now: Timestamp) -> Result<Idle, StoreError> {
        self.write(PacksRetain { before, now }).await
    }
}
