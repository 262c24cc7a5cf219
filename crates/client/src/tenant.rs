//! Tenants: create, list, get.

use crate::{Client, ClientError};
use model::{NewTenant, Page, PageQuery, Tenant, TenantId};

impl Client {
    /// Creates a tenant.
    pub async fn tenant_create(&self, new: &NewTenant) -> Result<Tenant, ClientError> {
        self.create("/v1/tenants", new).await
    }

    /// Returns a page of tenants.
    pub async fn tenant_list(&self, query: &PageQuery) -> Result<Page<Tenant>, ClientError> {
        self.list("/v1/tenants", query).await
    }

    /// Returns a tenant.
    pub async fn tenant_get(&self, id: TenantId) -> Result<Tenant, ClientError> {
        self.get(&format!("/v1/tenants/{id}"), &()).await
    }
}
