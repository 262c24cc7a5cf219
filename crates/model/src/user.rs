//! A user: somebody, or some program, with a role in one tenant.

use crate::error::ApiError;
use crate::id::{TenantId, TokenId, UserId};
use crate::permission::{Role, Scope};
use crate::tenant::{Tenant, name_check};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Life of a user: `Active ⇄ Disabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UserState {
    /// May come in.
    Active,
    /// Stays out; all their tokens are refused.
    Disabled,
}

impl UserState {
    /// Every state.
    pub const ALL: [Self; 2] = [Self::Active, Self::Disabled];

    /// Returns the states from which a move into `self` is legal.
    pub const fn reachable_from(self) -> &'static [Self] {
        match self {
            Self::Active => &[Self::Disabled],
            Self::Disabled => &[Self::Active],
        }
    }

    /// Returns the state's word, as it stands in rows, changes and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
        }
    }
}

/// A user as everybody sees them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Their id.
    pub id: UserId,
    /// Whose user they are.
    pub tenant: TenantId,
    /// Their name, unique in the tenant.
    pub name: String,
    /// What they are in the tenant.
    pub role: Role,
    /// Whether they may come in.
    pub state: UserState,
    /// When they were made.
    pub created_at: Timestamp,
}

/// A request for a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The id they shall have.
    pub id: UserId,
    /// Their name, unique in the tenant.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._@-]*$")]
    pub name: String,
    /// What they are in the tenant.
    pub role: Role,
}

impl NewUser {
    /// Refuses a name that is out of bounds.
    pub fn check(&self) -> Result<(), ApiError> {
        name_check("user", &self.name)
    }
}

/// What to change of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    /// Their new role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Whether they may come in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<UserState>,
}

/// Who is asking, as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// The user's name.
    pub user: String,
    /// The tenant they are in.
    pub tenant: Tenant,
    /// What they are in it.
    pub role: Role,
    /// What they may do by this credential: their role's scopes, narrowed by those of the token.
    pub scopes: Vec<Scope>,
    /// The token they came with; none if a foreign issuer vouches for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
}
