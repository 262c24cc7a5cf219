//! Users: who is asking, create, list, get, change.

use crate::{Client, ClientError};
use model::{NewUser, Page, PageQuery, User, UserChange, UserId, WhoAmI};
use reqwest::Method;

impl Client {
    /// Returns who this client is, as the server sees it.
    pub async fn whoami(&self) -> Result<WhoAmI, ClientError> {
        self.get("/v1/whoami", &()).await
    }

    /// Creates a user.
    pub async fn user_create(&self, new: &NewUser) -> Result<User, ClientError> {
        self.create("/v1/users", new).await
    }

    /// Returns a page of users.
    pub async fn user_list(&self, query: &PageQuery) -> Result<Page<User>, ClientError> {
        self.list("/v1/users", query).await
    }

    /// Returns a user.
    pub async fn user_get(&self, id: UserId) -> Result<User, ClientError> {
        self.get(&format!("/v1/users/{id}"), &self.tenant_query()).await
    }

    /// Changes a user's role or state.
    pub async fn user_change(&self, id: UserId, change: &UserChange) -> Result<User, ClientError> {
        self.act(Method::PATCH, &format!("/v1/users/{id}"), Some(change)).await
    }
}
