//! A token: the credential of a user. Its secret is random, shown once, and kept only as a hash.

use crate::error::ApiError;
use crate::id::{TenantId, TokenId, UserId};
use crate::limits::{MAX_TOKEN_LIFE, MAX_TOKEN_SCOPES};
use crate::permission::Scope;
use crate::tenant::name_check;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A token as its owner sees it: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its id, which is also the first part of the credential.
    pub id: TokenId,
    /// Whose user's it is.
    pub tenant: TenantId,
    /// Whose it is.
    pub user: UserId,
    /// What its owner calls it.
    pub name: String,
    /// What it may be used for; empty means all that its user may do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working, if ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

/// A request for a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// The id it shall have.
    pub id: TokenId,
    /// What its owner calls it.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._@-]*$")]
    pub name: String,
    /// For whom; the caller, if nobody is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// What it may be used for; empty means all that its user may do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub scopes: Vec<Scope>,
    /// When it stops working; never, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl NewToken {
    /// Refuses a name, a list of scopes or an expiry that is out of bounds.
    pub fn check(&self, now: Timestamp) -> Result<(), ApiError> {
        name_check("token", &self.name)?;
        if self.scopes.len() > MAX_TOKEN_SCOPES {
            let message = format!("`scopes` has {} entries of at most {MAX_TOKEN_SCOPES}", self.scopes.len());
            return Err(ApiError::invalid("token_invalid", message));
        }
        let latest = now + jiff::SignedDuration::try_from(MAX_TOKEN_LIFE).unwrap_or(jiff::SignedDuration::MAX);
        match self.expires_at {
            Some(at) if at <= now => {
                Err(ApiError::invalid("token_invalid", format!("`expires_at` is `{at}`, which has passed")))
            }
            Some(at) if at > latest => {
                Err(ApiError::invalid("token_invalid", format!("`expires_at` is `{at}`; the latest is `{latest}`")))
            }
            _ => Ok(()),
        }
    }
}

/// A new token with its secret. This answer is the only place where the secret ever stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenIssued {
    /// The token.
    pub token: Token,
    /// The credential to send as `Authorization: Bearer …`; it is not shown again.
    pub secret: String,
}
