//! Registries: a tenant's credential for each host. What is kept of the secret is sealed by whoever asks; nothing here
//! can open it.

use crate::error::StoreError;
use crate::statement::statements;
use crate::store::Store;
use crate::transaction::{NewChange, Operation, Tx};
use crate::value::{Row, Value, to_json};
use jiff::Timestamp;
use model::{Noun, Registry, TenantId};
use std::fmt;

statements! {
    PUT = "INSERT INTO registry (tenant, host, account, created_at, secret) VALUES ($1, $2, $3, $4, $5) \
           ON CONFLICT (tenant, host) DO UPDATE SET account = excluded.account, created_at = excluded.created_at, \
           secret = excluded.secret";
    GET = "SELECT host, account, created_at, secret FROM registry WHERE tenant = $1 AND host = $2";
    LIST = "SELECT host, account, created_at FROM registry WHERE tenant = $1 AND host > $2 ORDER BY host LIMIT $3";
    REMOVE = "DELETE FROM registry WHERE tenant = $1 AND host = $2 RETURNING host, account, created_at";
}

/// A credential whose secret cannot be read without a key that is not in the database.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What everybody of the tenant may see of it.
    pub registry: Registry,
    /// The sealed secret.
    pub secret: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("registry", &self.registry).finish_non_exhaustive()
    }
}

fn read(row: &Row) -> Result<Registry, StoreError> {
    Ok(Registry { host: row.text(0)?.to_owned(), user: row.text(1)?.to_owned(), created_at: row.time(2)? })
}

fn note(tx: &Tx<'_>, registry: &Registry, tenant: TenantId, (state, by, at): (&'static str, &str, Timestamp)) {
    let (id, body, by) = (registry.host.clone(), to_json(registry), by.to_owned());
    tx.change(NewChange { at, tenant, noun: Noun::Registry, id, state, by, body });
}

/// Returns a tenant's credential for a host.
pub(crate) async fn get(tx: &Tx<'_>, tenant: TenantId, host: &str) -> Result<Option<Sealed>, StoreError> {
    let row = tx.row(GET, &[tenant.into(), host.into()]).await?;
    row.map(|row| Ok(Sealed { registry: read(&row)?, secret: row.bytes(3)?.to_vec() })).transpose()
}

struct RegistryPut {
    sealed: Sealed,
    tenant: TenantId,
    by: String,
}

impl Operation for RegistryPut {
    type Answer = Registry;

    async fn run(&self, tx: &Tx<'_>) -> Result<Registry, StoreError> {
        let registry = &self.sealed.registry;
        let values = [
            self.tenant.into(),
            registry.host.as_str().into(),
            registry.user.as_str().into(),
            registry.created_at.into(),
            self.sealed.secret.as_slice().into(),
        ];
        tx.execute(PUT, &values).await?;
        note(tx, registry, self.tenant, ("stored", &self.by, registry.created_at));
        Ok(registry.clone())
    }
}

struct RegistryRemove {
    tenant: TenantId,
    host: String,
    by: String,
    at: Timestamp,
}

impl Operation for RegistryRemove {
    type Answer = Registry;

    async fn run(&self, tx: &Tx<'_>) -> Result<Registry, StoreError> {
        let removed = tx.write(REMOVE, &[self.tenant.into(), self.host.as_str().into()]).await?;
        let missing = || StoreError::NotFound { noun: "registry", id: self.host.clone() };
        let registry = removed.first().map(read).transpose()?.ok_or_else(missing)?;
        note(tx, &registry, self.tenant, ("removed", &self.by, self.at));
        Ok(registry)
    }
}

struct RegistryList {
    tenant: TenantId,
    after: Option<String>,
    limit: u32,
}

impl Operation for RegistryList {
    type Answer = (Vec<Registry>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let head = crate::change::bounds(tx).await?.head;
        let after = Value::from(self.after.as_deref().unwrap_or_default());
        let rows = tx.rows(LIST, &[self.tenant.into(), after, self.limit.into()]).await?;
        Ok((rows.iter().map(read).collect::<Result<_, _>>()?, head))
    }
}

impl Store {
    /// Stores a tenant's credential for a registry, in place of an older one.
    pub async fn registry_put(&self, sealed: Sealed, tenant: TenantId, by: &str) -> Result<Registry, StoreError> {
        self.write(RegistryPut { sealed, tenant, by: by.to_owned() }).await
    }

    /// Forgets a tenant's credential for a registry.
    pub async fn registry_remove(
        &self,
        host: &str,
        tenant: TenantId,
        by: &str,
        at: Timestamp,
    ) -> Result<Registry, StoreError> {
        self.write(RegistryRemove { tenant, host: host.to_owned(), by: by.to_owned(), at }).await
    }

    /// Lists the registries that a tenant has credentials for, with the log's head at that moment.
    pub async fn registry_list(
        &self,
        tenant: TenantId,
        after: Option<String>,
        limit: u32,
    ) -> Result<(Vec<Registry>, u64), StoreError> {
        self.read(RegistryList { tenant, after, limit }).await
    }
}
