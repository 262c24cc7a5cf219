//! Tokens: create, list, get, revoke.

use crate::{Client, ClientError};
use model::{NewToken, Page, PageQuery, Token, TokenId, TokenIssued};
use reqwest::Method;

impl Client {
    /// Creates a token; the answer alone holds its secret.
    pub async fn token_create(&self, new: &NewToken) -> Result<TokenIssued, ClientError> {
        self.create("/v1/tokens", new).await
    }

    /// Returns a page of tokens.
    pub async fn token_list(&self, query: &PageQuery) -> Result<Page<Token>, ClientError> {
        self.list("/v1/tokens", query).await
    }

    /// Returns a token, without its secret.
    pub async fn token_get(&self, id: TokenId) -> Result<Token, ClientError> {
        self.get(&format!("/v1/tokens/{id}"), &self.tenant_query()).await
    }

    /// Makes a token worthless, for good.
    pub async fn token_revoke(&self, id: TokenId) -> Result<Token, ClientError> {
        self.act(Method::POST, &format!("/v1/tokens/{id}/revoke"), None::<&()>).await
    }
}
