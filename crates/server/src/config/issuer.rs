//! The keys of `[[issuer]]`: whose foreign JWTs are trusted, and how their claims become a user of ours.
//!
//! What the keys mean to a token is decided in `crate::issuer`; here they are only read.

use crate::config::leaf::words;
use crate::config::secret::Secret;
use crate::config::section::section;
use model::permission::Role;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The part of a header's name that stands for the tenant.
pub(super) const TENANT_PART: &str = "{tenant}";

/// Keys that have no default, so that every issuer must have them.
pub(super) const REQUIRED: [&str; 2] = ["name", "algorithm"];

section! {
    /// Somebody whose JWTs are trusted.
    pub struct IssuerConfig {
        /// What we call them.
        pub name: String = String::new();
        /// The header that carries the token; `{tenant}` in its name stands for the tenant.
        pub header: String = "Authorization".to_owned();
        /// The one algorithm that their tokens are signed with.
        pub algorithm: JwtAlgorithm = JwtAlgorithm::Rs256;
        /// The secret shared with them, for HS256.
        pub key: Option<Secret> = None;
        /// A file with the shared secret or their public key as PEM.
        pub key_file: Option<PathBuf> = None;
        /// A file with their set of keys.
        pub jwks_file: Option<PathBuf> = None;
        /// The `iss` that their tokens must have.
        pub issuer: Option<String> = None;
        /// The `aud` that their tokens must have.
        pub audience: Option<String> = None;
        /// The claim that names the user.
        pub user_claim: String = "sub".to_owned();
        /// The claim that names the tenant.
        pub tenant_claim: Option<String> = None;
        /// The claim that lists roles.
        pub roles_claim: Option<String> = None;
        /// The tenant of all their users.
        pub tenant: Option<String> = None;
        /// The role of a user to whom no other is given.
        pub default_role: Option<Role> = None;
        /// Our role for each of theirs.
        pub role_map: BTreeMap<String, Role> = BTreeMap::new();
    }
}

words! {
    /// How a JWT is signed.
    pub enum JwtAlgorithm {
        /// HMAC with SHA-256.
        Hs256 = "HS256",
        /// RSA with SHA-256.
        Rs256 = "RS256",
        /// ECDSA on P-256.
        Es256 = "ES256",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}
