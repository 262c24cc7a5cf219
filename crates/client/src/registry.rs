//! Registries: the credentials that a tenant has stored; their secrets never come back.

use crate::request::{MAX_ANSWER, Replay, segment};
use crate::{Client, ClientError};
use model::{NewRegistry, Page, PageQuery, Registry};
use reqwest::Method;

impl Client {
    /// Stores a credential for a registry, in place of an older one.
    pub async fn registry_put(&self, host: &str, new: &NewRegistry) -> Result<Registry, ClientError> {
        let path = format!("/v1/registries/{}", segment(host));
        self.json(Replay::Safe, || {
            self.request(Method::PUT, &path).query(&self.tenant_query()).json(new).timeout(MAX_ANSWER)
        })
        .await
    }

    /// Returns a page of the registries that the tenant has credentials for.
    pub async fn registry_list(&self, query: &PageQuery) -> Result<Page<Registry>, ClientError> {
        self.list("/v1/registries", query).await
    }

    /// Forgets the credential for a registry.
    pub async fn registry_remove(&self, host: &str) -> Result<Registry, ClientError> {
        self.act(Method::DELETE, &format!("/v1/registries/{}", segment(host)), None::<&()>).await
    }
}
