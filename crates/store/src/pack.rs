//! Unwind packs: which blob holds the pack of a build id, in a tenant. The first that was sent stays.

use crate::error::StoreError;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{Operation, Tx};
use crate::value::Row;
use model::pack::Pack;
use model::{Blob, TenantId};
use std::collections::HashSet;

statements! {
    PUT = "INSERT INTO pack (tenant, build_id, digest, size, created_by, created_at) \
           VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, build_id) DO NOTHING";
    GET = "SELECT build_id, digest, size, created_by, created_at FROM pack WHERE tenant = $1 AND build_id = $2";
}

fn read(row: &Row) -> Result<Pack, StoreError> {
    Ok(Pack {
        build_id: row.text(0)?.to_owned(),
        digest: row.parsed(1)?,
        size: row.count(2)?,
        by: row.text(3)?.to_owned(),
        created_at: row.time(4)?,
    })
}

async fn find(tx: &Tx<'_>, tenant: TenantId, build_id: &str) -> Result<Option<Pack>, StoreError> {
    tx.row(GET, &[tenant.into(), build_id.into()]).await?.map(|row| read(&row)).transpose()
}

/// Keeps a pack whose blob is there, unless there is one of that build id.
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
        let pack = find(tx, self.tenant, &self.build_id).await?.ok_or(StoreError::Again)?;
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
        find(tx, self.tenant, &self.build_id).await?.ok_or_else(missing)
    }
}

struct PackFind {
    build_ids: Vec<String>,
    tenant: TenantId,
}

impl Operation for PackFind {
    type Answer = Vec<Pack>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<Pack>, StoreError> {
        let mut found = Vec::new();
        for build_id in &self.build_ids {
            found.extend(find(tx, self.tenant, build_id).await?);
        }
        Ok(found)
    }
}

impl Store {
    /// Keeps a pack whose blob is there, unless there is one; returns the one that is, and whether it is new.
    pub async fn pack_put(
        &self,
        build_id: &str,
        blob: Blob,
        tenant: TenantId,
        by: &str,
    ) -> Result<(Pack, bool), StoreError> {
        self.write(PackPut { build_id: build_id.to_owned(), blob, tenant, by: by.to_owned() }).await
    }

    /// Returns a tenant's pack of a build id.
    pub async fn pack_get(&self, build_id: &str, tenant: TenantId) -> Result<Pack, StoreError> {
        self.read(PackGet { build_id: build_id.to_owned(), tenant }).await
    }

    /// Returns a tenant's packs of some build ids; those that are not there are left out.
    pub async fn packs_find(&self, build_ids: Vec<String>, tenant: TenantId) -> Result<Vec<Pack>, StoreError> {
        self.read(PackFind { build_ids, tenant }).await
    }

    /// Returns those of some build ids of which a tenant has no pack, in their order.
    pub async fn packs_missing(&self, build_ids: Vec<String>, tenant: TenantId) -> Result<Vec<String>, StoreError> {
        let found = self.packs_find(build_ids.clone(), tenant).await?;
        let found: HashSet<_> = found.into_iter().map(|pack| pack.build_id).collect();
        Ok(build_ids.into_iter().filter(|id| !found.contains(id)).collect())
    }
}
