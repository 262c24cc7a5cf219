//! Foreign issuers whose JWTs the operator trusts: from a request's headers to a user with a role.
//!
//! A request may carry one such token. Each issuer has one header, one algorithm and its own keys; what the token says
//! about its algorithm or its keys is compared with that and never followed. Time comes in as an argument. Our own
//! tokens, which begin with `qry_`, are somebody else's business and never looked at.
//!
//! Whoever is identified need not exist: whether there is such a tenant, and whether its user is made or found, the
//! caller decides. Two issuers that name the same user of the same tenant mean the same user.

mod claim;
mod header;
mod key;

pub use key::KeyError;

use crate::config::{IssuerConfig, JwtAlgorithm};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header as name};
use claim::{ClaimRules, Refusal};
use header::HeaderPattern;
use jiff::Timestamp;
use jsonwebtoken::dangerous::insecure_decode_claims;
use key::{KeyPlace, Keys};
use model::limits::MAX_CREDENTIAL_CHARS;
use model::{ApiError, ErrorKind, Role};
use serde::Deserialize;
use std::sync::{Arc, PoisonError, RwLock};

/// What our own tokens begin with.
const OWN_PREFIX: &str = "qry_";

/// Why the issuers of a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A name is taken twice.
    #[error("two issuers are called `{0}`")]
    Name(String),
    /// No header can be called so.
    #[error("the header `{header}` of issuer `{issuer}` is not the name of a header")]
    Header {
        /// Whose header it is.
        issuer: String,
        /// The name as configured.
        header: String,
    },
    /// A token in that header could be of either.
    #[error("issuers `{first}` and `{second}` read the same header; give each the `issuer` that its tokens have")]
    HeaderShared {
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// Nothing says which tenant a user belongs to.
    #[error("issuer `{0}` names no tenant; set `tenant` or `tenant_claim`, or put `{{tenant}}` into `header`")]
    Tenant(String),
    /// No tenant can be called so.
    #[error("the tenant `{tenant}` of issuer `{issuer}` is not the name of a tenant")]
    TenantName {
        /// Whose tenant it is.
        issuer: String,
        /// The name as configured.
        tenant: String,
    },
    /// Nobody would ever get in.
    #[error("issuer `{0}` gives nobody a role; set `default_role`, or both `roles_claim` and `role_map`")]
    Role(String),
    /// There is no place to take keys from, or more than one.
    #[error("issuer `{0}` needs exactly one of `key`, `key_file` and `jwks_file`")]
    Place(String),
    /// The keys cannot be used.
    #[error("the keys of issuer `{issuer}` from `{place}` cannot be used")]
    Keys {
        /// Whose keys they are.
        issuer: String,
        /// Where they are read from.
        place: String,
        /// What is wrong with them.
        #[source]
        source: KeyError,
    },
}

/// Who asks, by the word of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name of the issuer in our configuration.
    pub issuer: String,
    /// The user's name.
    pub user: String,
    /// The tenant's name. Taken from a header's name it is in lower case, so compare it without regard to case.
    pub tenant: String,
    /// What the user may be here.
    pub role: Role,
}

/// All trusted issuers.
#[derive(Debug)]
pub struct Issuers {
    issuers: Vec<Issuer>,
}

#[derive(Debug)]
struct Issuer {
    name: String,
    header: HeaderPattern,
    algorithm: JwtAlgorithm,
    rules: ClaimRules,
    place: KeyPlace,
    /// Replaced as a whole on reload; whoever verifies holds the set that was there when they began.
    keys: RwLock<Arc<Keys>>,
}

/// A token in a request, with those who might have issued it.
struct Presented<'a> {
    header: &'a HeaderName,
    value: &'a HeaderValue,
    issuers: Vec<&'a Issuer>,
}

impl Issuers {
    /// Reads all keys; refuses a configuration that is ambiguous or under which nobody could come in.
    pub fn load(configs: &[IssuerConfig]) -> Result<Self, IssuerError> {
        let issuers = configs.iter().map(Issuer::load).collect::<Result<Vec<_>, _>>()?;
        for (index, second) in issuers.iter().enumerate() {
            for first in &issuers[..index] {
                first.check_beside(second)?;
            }
        }
        Ok(Self { issuers })
    }

    /// Reads all keys again and returns the failures; an issuer whose keys cannot be read keeps those it has.
    ///
    /// Blocks on small files, so an async caller puts it on a blocking thread.
    #[must_use]
    pub fn reload(&self) -> Vec<IssuerError> {
        self.issuers.iter().filter_map(|issuer| issuer.reload().err()).collect()
    }

    /// Returns whom the request comes from, by the one foreign token that it carries; `None` if it carries none.
    pub fn identify(&self, headers: &HeaderMap, now: Timestamp) -> Option<Result<Identity, ApiError>> {
        let mut presented = headers.iter().filter_map(|(header, value)| self.presented(header, value));
        let first = presented.next()?;
        if let Some(second) = presented.next() {
            let message = format!("`{}` and `{}` both carry a JWT", first.header, second.header);
            let error = ApiError::new(ErrorKind::Unauthorised, "jwt_ambiguous", message);
            return Some(Err(error.with_hint("send one only")));
        }
        Some(first.identify(now))
    }

    fn presented<'a>(&'a self, header: &'a HeaderName, value: &'a HeaderValue) -> Option<Presented<'a>> {
        let issuers: Vec<_> = self.issuers.iter().filter(|issuer| issuer.header.capture(header).is_some()).collect();
        let is_token = header != name::AUTHORIZATION
            || bearer(value.as_bytes()).is_some_and(|token| !token.starts_with(OWN_PREFIX.as_bytes()));
        (is_token && !issuers.is_empty()).then_some(Presented { header, value, issuers })
    }
}

impl Presented<'_> {
    fn identify(&self, now: Timestamp) -> Result<Identity, ApiError> {
        let names = || self.issuers.iter().map(|issuer| issuer.name.as_str()).collect::<Vec<_>>().join("` or `");
        let refuse = |reason: &str| refused(&names(), reason);
        let token = bearer(self.value.as_bytes()).unwrap_or(self.value.as_bytes());
        if token.len() > MAX_CREDENTIAL_CHARS {
            return Err(refuse(&format!("it is longer than {MAX_CREDENTIAL_CHARS} characters")));
        }
        let token = str::from_utf8(token).map_err(|_| refuse("it is not a JWT"))?;
        let issuer = match self.issuers.as_slice() {
            [only] => only,
            several => {
                // Nothing is believed yet: this only chooses whose key and `iss` the token has to match.
                let claimed = insecure_decode_claims::<Claimed>(token).map_err(|_| refuse("it is not a JWT"))?.iss;
                let is_claimed = |issuer: &&&Issuer| issuer.rules.issuer == claimed;
                several.iter().find(is_claimed).ok_or_else(|| refuse("its claim `iss` is none of theirs"))?
            }
        };
        issuer.identify(token, issuer.header.capture(self.header).flatten(), now)
    }
}

/// The one claim that tells issuers of the same header apart.
#[derive(Deserialize)]
struct Claimed {
    iss: Option<String>,
}

impl Issuer {
    fn load(config: &IssuerConfig) -> Result<Self, IssuerError> {
        let issuer = || config.name.clone();
        let header = HeaderPattern::parse(&config.header)
            .ok_or_else(|| IssuerError::Header { issuer: issuer(), header: config.header.clone() })?;
        if config.tenant.is_none() && config.tenant_claim.is_none() && !header.names_tenant() {
            return Err(IssuerError::Tenant(issuer()));
        }
        if let Some(tenant) = &config.tenant {
            claim::tenant_check(tenant, Timestamp::UNIX_EPOCH)
                .map_err(|_| IssuerError::TenantName { issuer: issuer(), tenant: tenant.clone() })?;
        }
        if config.default_role.is_none() && (config.roles_claim.is_none() || config.role_map.is_empty()) {
            return Err(IssuerError::Role(issuer()));
        }
        let place = KeyPlace::new(config).ok_or_else(|| IssuerError::Place(issuer()))?;
        let keys = keys_read(&config.name, &place, config.algorithm)?;
        Ok(Self {
            name: issuer(),
            header,
            algorithm: config.algorithm,
            rules: ClaimRules::new(config),
            place,
            keys: RwLock::new(keys),
        })
    }

    /// Refuses another issuer that could not be told from this one.
    fn check_beside(&self, other: &Self) -> Result<(), IssuerError> {
        if self.name == other.name {
            return Err(IssuerError::Name(self.name.clone()));
        }
        let (mine, theirs) = (&self.rules.issuer, &other.rules.issuer);
        let distinct = mine.is_some() && theirs.is_some() && mine != theirs;
        if self.header.overlaps(&other.header) && !distinct {
            return Err(IssuerError::HeaderShared { first: self.name.clone(), second: other.name.clone() });
        }
        Ok(())
    }

    fn reload(&self) -> Result<(), IssuerError> {
        let keys = keys_read(&self.name, &self.place, self.algorithm)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    fn identify(&self, token: &str, captured: Option<&str>, now: Timestamp) -> Result<Identity, ApiError> {
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let claims = keys.verify(token).map_err(|reason| refused(&self.name, &reason))?;
        match self.rules.read(&claims, captured, now) {
            Ok(claim::Bearer { user, tenant, role }) => Ok(Identity { issuer: self.name.clone(), user, tenant, role }),
            Err(Refusal::Invalid(reason)) => Err(refused(&self.name, &reason)),
            Err(Refusal::RoleMissing) => {
                let message = format!("issuer `{}` gives you no role that counts here", self.name);
                let error = ApiError::new(ErrorKind::Forbidden, "role_missing", message);
                Err(error.with_hint("ask the operator which of the issuer's roles `role_map` knows"))
            }
        }
    }
}

fn keys_read(issuer: &str, place: &KeyPlace, algorithm: JwtAlgorithm) -> Result<Arc<Keys>, IssuerError> {
    let name = |source| IssuerError::Keys { issuer: issuer.to_owned(), place: place.name(), source };
    place.read(algorithm).map(Arc::new).map_err(name)
}

/// Returns what follows the scheme `Bearer`, whose case does not matter.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn refused(issuer: &str, reason: &str) -> ApiError {
    let message = format!("the JWT of issuer `{issuer}` is refused: {reason}");
    ApiError::new(ErrorKind::Unauthorised, "jwt_invalid", message)
}

#[cfg(test)]
mod tests;
