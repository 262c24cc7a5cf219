//! A tenant: a group of users who see each other's things and nobody else's. The first one is the house's own, and its
//! admins keep the others.

use crate::error::ApiError;
use crate::id::TenantId;
use crate::limits::MAX_NAME_CHARS;
use crate::sandbox::runtime_check;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The name of the house's own tenant.
pub const HOUSE: &str = "house";

/// A tenant as everybody sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name, unique in the house.
    pub name: String,
    /// Another OCI runtime than our own, for executions in images where neither they nor the image name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Tenant {
    /// Tells whether this is the house's own tenant.
    pub fn is_house(&self) -> bool {
        self.name == HOUSE
    }
}

/// A request for a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// The id it shall have.
    pub id: TenantId,
    /// Its name, unique in the house.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._@-]*$")]
    pub name: String,
}

impl NewTenant {
    /// Refuses a name that is out of bounds.
    pub fn check(&self) -> Result<(), ApiError> {
        name_check("tenant", &self.name)
    }
}

/// What to change of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantChange {
    /// The OCI runtime for executions in images where neither they nor the image name one; `quarry` is our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64, pattern = "^[!-~]+$")]
    pub runtime: Option<String>,
}

impl TenantChange {
    /// Refuses a name that is out of bounds.
    pub fn check(&self) -> Result<(), ApiError> {
        let said = self.runtime.as_deref().map_or(Ok(()), runtime_check);
        said.map_err(|why| ApiError::invalid("tenant_invalid", format!("`runtime` {why}")))
    }
}

/// Refuses a name that would not survive a path, a table or a shell: letters, digits, `.`, `_`, `@` and `-`.
pub(crate) fn name_check(noun: &str, name: &str) -> Result<(), ApiError> {
    let fits = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.len() <= MAX_NAME_CHARS
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte));
    if fits {
        return Ok(());
    }
    let message = format!(
        "the name of a {noun} has 1 to {MAX_NAME_CHARS} letters, digits, `.`, `_`, `@` or `-`, and begins with a letter or digit"
    );
    Err(ApiError::invalid(format!("{noun}_invalid"), message))
}
