//! Who may do what: a role is a set of scopes, and a token can only narrow it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// One thing that may be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum Scope {
    /// Follow the log.
    #[serde(rename = "change:read")]
    ChangeRead,
    /// See executions.
    #[serde(rename = "execution:read")]
    ExecutionRead,
    /// Make and cancel executions.
    #[serde(rename = "execution:write")]
    ExecutionWrite,
    /// Fetch blobs.
    #[serde(rename = "blob:read")]
    BlobRead,
    /// Store blobs.
    #[serde(rename = "blob:write")]
    BlobWrite,
    /// See images.
    #[serde(rename = "image:read")]
    ImageRead,
    /// Pull, import and remove images.
    #[serde(rename = "image:write")]
    ImageWrite,
    /// See which registries the tenant has credentials for.
    #[serde(rename = "registry:read")]
    RegistryRead,
    /// Store and remove credentials for registries.
    #[serde(rename = "registry:write")]
    RegistryWrite,
    /// See dumps, and fetch their content.
    #[serde(rename = "dump:read")]
    DumpRead,
    /// Upload dumps, and note things on them.
    #[serde(rename = "dump:write")]
    DumpWrite,
    /// See nodes.
    #[serde(rename = "node:read")]
    NodeRead,
    /// Cordon, drain and remove nodes.
    #[serde(rename = "node:write")]
    NodeWrite,
    /// Be a node: join, sync, and fetch what its executions need.
    #[serde(rename = "node:run")]
    NodeRun,
    /// See one's own tokens.
    #[serde(rename = "token:read")]
    TokenRead,
    /// Make and revoke one's own tokens.
    #[serde(rename = "token:write")]
    TokenWrite,
    /// See the tenant's users.
    #[serde(rename = "user:read")]
    UserRead,
    /// Make and change the tenant's users, and their tokens.
    #[serde(rename = "user:write")]
    UserWrite,
    /// See tenants.
    #[serde(rename = "tenant:read")]
    TenantRead,
    /// Make tenants.
    #[serde(rename = "tenant:write")]
    TenantWrite,
    /// See what the server logs.
    #[serde(rename = "log:read")]
    LogRead,
    /// Change what the server logs.
    #[serde(rename = "log:write")]
    LogWrite,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 22] = [
        Self::ChangeRead,
        Self::ExecutionRead,
        Self::ExecutionWrite,
        Self::BlobRead,
        Self::BlobWrite,
        Self::ImageRead,
        Self::ImageWrite,
        Self::RegistryRead,
        Self::RegistryWrite,
        Self::DumpRead,
        Self::DumpWrite,
        Self::NodeRead,
        Self::NodeWrite,
        Self::NodeRun,
        Self::TokenRead,
        Self::TokenWrite,
        Self::UserRead,
        Self::UserWrite,
        Self::TenantRead,
        Self::TenantWrite,
        Self::LogRead,
        Self::LogWrite,
    ];

    /// Returns the scope's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ChangeRead => "change:read",
            Self::ExecutionRead => "execution:read",
            Self::ExecutionWrite => "execution:write",
            Self::BlobRead => "blob:read",
            Self::BlobWrite => "blob:write",
            Self::ImageRead => "image:read",
            Self::ImageWrite => "image:write",
            Self::RegistryRead => "registry:read",
            Self::RegistryWrite => "registry:write",
            Self::DumpRead => "dump:read",
            Self::DumpWrite => "dump:write",
            Self::NodeRead => "node:read",
            Self::NodeWrite => "node:write",
            Self::NodeRun => "node:run",
            Self::TokenRead => "token:read",
            Self::TokenWrite => "token:write",
            Self::UserRead => "user:read",
            Self::UserWrite => "user:write",
            Self::TenantRead => "tenant:read",
            Self::TenantWrite => "tenant:write",
            Self::LogRead => "log:read",
            Self::LogWrite => "log:write",
        }
    }

    /// Tells whether the scope concerns the whole house, so that only the house's own tenant can have it.
    pub const fn is_of_the_house(self) -> bool {
        matches!(self, Self::TenantWrite | Self::LogRead | Self::LogWrite)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is not a scope or role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of: {1}")]
pub struct WordError(String, String);

impl FromStr for Scope {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| WordError(text.to_owned(), known()))
    }
}

/// What a user is in their tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks, and touches nothing.
    Viewer,
    /// Works.
    User,
    /// Keeps the machines and the log in order.
    Operator,
    /// Decides who may do what.
    Admin,
}

impl Role {
    /// Every role, least powerful first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::User, Self::Operator, Self::Admin];

    /// Returns the role's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::User => "user",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Tells whether the role has the scope.
    pub const fn has(self, scope: Scope) -> bool {
        let least = match scope {
            Scope::ChangeRead
            | Scope::ExecutionRead
            | Scope::BlobRead
            | Scope::TokenRead
            | Scope::TenantRead
            | Scope::ImageRead
            | Scope::DumpRead
            | Scope::NodeRead => Self::Viewer,
            // Who may only look may still make a token of their own, to look from elsewhere.
            Scope::TokenWrite => Self::Viewer,
            Scope::ExecutionWrite | Scope::BlobWrite | Scope::ImageWrite | Scope::DumpWrite | Scope::RegistryRead => {
                Self::User
            }
            Scope::RegistryWrite
            | Scope::NodeWrite
            | Scope::NodeRun
            | Scope::UserRead
            | Scope::LogRead
            | Scope::LogWrite => Self::Operator,
            Scope::UserWrite | Scope::TenantWrite => Self::Admin,
        };
        self as u8 >= least as u8
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| WordError(text.to_owned(), known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
            assert_eq!(serde_json::to_string(&scope).expect("serialises"), format!("\"{scope}\""));
        }
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
            assert_eq!(serde_json::to_string(&role).expect("serialises"), format!("\"{role}\""));
        }
    }

    #[test]
    fn a_higher_role_has_all_that_a_lower_one_has() {
        for scope in Scope::ALL {
            let held = Role::ALL.map(|role| role.has(scope));
            assert!(held.is_sorted(), "{scope}: {held:?}");
        }
    }
}
