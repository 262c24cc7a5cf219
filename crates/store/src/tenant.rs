//! Tenants, and the first moment of a house: its own tenant, its first admin and that admin's token, all at once.

use crate::error::StoreError;
use crate::statement::statements;
use crate::token::{TokenRow, token_insert};
use crate::transaction::{NewChange, Operation, Tx};
use crate::user::user_insert;
use crate::value::{Row, Value, to_json};
use jiff::Timestamp;
use model::{NewTenant, Noun, OWN_RUNTIME, Tenant, TenantChange, TenantId, User};

statements! {
    INSERT = "INSERT INTO tenant (id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    GET = "SELECT id, name, created_at, runtime FROM tenant WHERE id = $1";
    NAMED = "SELECT id, name, created_at, runtime FROM tenant WHERE lower(name) = lower($1)";
    LIST = "SELECT id, name, created_at, runtime FROM tenant WHERE id > $1 ORDER BY id LIMIT $2";
    RUNTIME = "UPDATE tenant SET runtime = $1 WHERE id = $2 RETURNING id, name, created_at, runtime";
    ANY = "SELECT id FROM tenant LIMIT 1";
}

fn read(row: &Row) -> Result<Tenant, StoreError> {
    let runtime = row.maybe_text(3)?.map(str::to_owned);
    Ok(Tenant { id: row.parsed(0)?, name: row.text(1)?.to_owned(), created_at: row.time(2)?, runtime })
}

fn note(tx: &Tx<'_>, tenant: &Tenant, state: &'static str, at: Timestamp, by: &str) {
    tx.change(NewChange {
        at,
        tenant: tenant.id,
        noun: Noun::Tenant,
        id: tenant.id.to_string(),
        state,
        by: by.to_owned(),
        body: to_json(tenant),
    });
}

async fn insert(tx: &Tx<'_>, tenant: &Tenant, by: &str) -> Result<bool, StoreError> {
    let values = [tenant.id.into(), Value::from(&tenant.name), tenant.created_at.into()];
    if tx.execute(INSERT, &values).await? == 0 {
        return Ok(false);
    }
    note(tx, tenant, "created", tenant.created_at, by);
    Ok(true)
}

/// Makes the house's own tenant, its first admin and their token, if nothing was ever made here.
pub(crate) struct HouseOpen {
    pub(crate) tenant: Tenant,
    pub(crate) admin: User,
    pub(crate) token: TokenRow,
}

impl Operation for HouseOpen {
    type Answer = bool;

    async fn run(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        if tx.row(ANY, &[]).await?.is_some() {
            return Ok(false);
        }
        // Another server may be doing the same; the unique name lets one of them through.
        if !insert(tx, &self.tenant, "quarry").await? {
            return Ok(false);
        }
        user_insert(tx, &self.admin, "quarry").await?;
        token_insert(tx, &self.token, "quarry").await?;
        Ok(true)
    }
}

/// Makes a tenant, unless it was made before.
pub(crate) struct TenantCreate {
    pub(crate) new: NewTenant,
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

impl Operation for TenantCreate {
    type Answer = (Tenant, bool);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let tenant = Tenant { id: self.new.id, name: self.new.name.clone(), runtime: None, created_at: self.at };
        if insert(tx, &tenant, &self.by).await? {
            return Ok((tenant, true));
        }
        match tx.row(GET, &[tenant.id.into()]).await?.as_ref().map(read).transpose()? {
            Some(there) if there.name == tenant.name => Ok((there, false)),
            _ => Err(StoreError::Exists { noun: "tenant", id: tenant.name }),
        }
    }
}

/// Changes what holds for a tenant.
pub(crate) struct TenantUpdate {
    pub(crate) id: TenantId,
    pub(crate) change: TenantChange,
    pub(crate) by: String,
    pub(crate) at: Timestamp,
}

impl Operation for TenantUpdate {
    type Answer = Tenant;

    async fn run(&self, tx: &Tx<'_>) -> Result<Tenant, StoreError> {
        let before = TenantGet { key: TenantKey::Id(self.id) }.run(tx).await?;
        let Some(runtime) = &self.change.runtime else { return Ok(before) };
        let runtime = Some(runtime).filter(|name| *name != OWN_RUNTIME);
        if before.runtime.as_ref() == runtime {
            return Ok(before);
        }
        let rows = tx.write(RUNTIME, &[runtime.into(), self.id.into()]).await?;
        let tenant = rows.first().map_or(Ok(before), read)?;
        note(tx, &tenant, "changed", self.at, &self.by);
        Ok(tenant)
    }
}

/// Which tenant to read.
#[derive(Clone, Debug)]
pub enum TenantKey {
    /// The one with this id.
    Id(TenantId),
    /// The one with this name, whatever its case.
    Name(String),
}

/// Reads one tenant.
pub(crate) struct TenantGet {
    pub(crate) key: TenantKey,
}

impl Operation for TenantGet {
    type Answer = Tenant;

    async fn run(&self, tx: &Tx<'_>) -> Result<Tenant, StoreError> {
        let (row, id) = match &self.key {
            TenantKey::Id(id) => (tx.row(GET, &[(*id).into()]).await?, id.to_string()),
            // PostgreSQL takes no NUL in a text, and no name holds one.
            TenantKey::Name(name) if name.contains('\0') => (None, name.clone()),
            TenantKey::Name(name) => (tx.row(NAMED, &[name.into()]).await?, name.clone()),
        };
        row.as_ref().map(read).transpose()?.ok_or(StoreError::NotFound { noun: "tenant", id })
    }
}

/// Lists tenants, oldest first.
pub(crate) struct TenantList {
    pub(crate) after: Option<TenantId>,
    pub(crate) limit: u32,
}

impl Operation for TenantList {
    type Answer = (Vec<Tenant>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let head = crate::change::bounds(tx).await?.head;
        let after = self.after.map_or_else(|| Value::from(""), Into::into);
        let rows = tx.rows(LIST, &[after, self.limit.into()]).await?;
        Ok((rows.iter().map(read).collect::<Result<_, _>>()?, head))
    }
}
