//! Tenants: create, list, get, change.

use crate::{Client, ClientError};
use model::{NewTenant, Page, PageQuery, Tenant, TenantChange, TenantId};
use reqwest::Method;

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

    /// Changes what holds for a tenant.
    pub async fn tenant_update(&self, id: TenantId, change: &TenantChange) -> Result<Tenant, ClientError> {
        self.act(Method::PATCH, &format!("/v1/tenants/{id}"), Some(change)).await
    }
}
