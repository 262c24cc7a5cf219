//! Whether a server is well, and what it is.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer of `/healthz` and `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or what is missing.
    pub status: String,
    /// The server's version.
    pub version: String,
    /// The database engine behind it.
    pub database: String,
}
