//! What the claims of a verified token say: whether it holds now and here, who the user is, and what they may do.
//!
//! A claim is named by its path. The whole text is tried as one name first, because there are claims called
//! `http://wso2.org/claims/enduser`; then as names with dots between them, each of which may itself contain dots, as in
//! `resource_access.my.client.roles`. What is named and has the wrong shape is refused, never taken for absent.

use crate::config::IssuerConfig;
use jiff::Timestamp;
use model::{ApiError, NewTenant, NewUser, Role, TenantId, UserId};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// How far the issuer's clock may be from ours.
const LEEWAY_SECONDS: f64 = 60.0;

/// The claims of one token.
pub(super) type Claims = Map<String, Value>;

/// Why a verified token is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The token does not hold, for the reason given.
    Invalid(String),
    /// It holds, but gives its user no role here.
    RoleMissing,
}

/// What an issuer's claims must be, and what they mean to us.
#[derive(Clone, Debug)]
pub(super) struct ClaimRules {
    pub(super) issuer: Option<String>,
    audience: Option<String>,
    user_claim: String,
    tenant_claim: Option<String>,
    tenant: Option<String>,
    roles_claim: Option<String>,
    default_role: Option<Role>,
    role_map: BTreeMap<String, Role>,
}

/// What the claims say about a user.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) user: String,
    pub(super) tenant: String,
    pub(super) role: Role,
}

impl ClaimRules {
    pub(super) fn new(config: &IssuerConfig) -> Self {
        Self {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            user_claim: config.user_claim.clone(),
            tenant_claim: config.tenant_claim.clone(),
            tenant: config.tenant.clone(),
            roles_claim: config.roles_claim.clone(),
            default_role: config.default_role,
            role_map: config.role_map.clone(),
        }
    }

    /// Reads the claims; `captured` is the tenant in the name of the header that carried the token.
    pub(super) fn read(&self, claims: &Claims, captured: Option<&str>, now: Timestamp) -> Result<Bearer, Refusal> {
        self.check(claims, now).map_err(Refusal::Invalid)?;
        let user = self.user(claims, now).map_err(Refusal::Invalid)?;
        let tenant = self.tenant(claims, captured, now).map_err(Refusal::Invalid)?;
        let role = self.role(claims).map_err(Refusal::Invalid)?.ok_or(Refusal::RoleMissing)?;
        Ok(Bearer { user, tenant, role })
    }

    fn check(&self, claims: &Claims, now: Timestamp) -> Result<(), String> {
        let now = now.as_duration().as_secs_f64();
        let expires_at = time(claims, "exp")?.ok_or("it has no claim `exp`")?;
        if now >= expires_at + LEEWAY_SECONDS {
            return Err("it has expired".to_owned());
        }
        if time(claims, "nbf")?.is_some_and(|begins_at| now < begins_at - LEEWAY_SECONDS) {
            return Err("it is not valid yet".to_owned());
        }
        if let Some(expected) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(expected)
        {
            return Err(format!("its claim `iss` is not `{expected}`"));
        }
        if let Some(expected) = &self.audience
            && !claims.get("aud").is_some_and(|audience| is_for(audience, expected))
        {
            return Err(format!("its claim `aud` does not name `{expected}`"));
        }
        Ok(())
    }

    fn user(&self, claims: &Claims, now: Timestamp) -> Result<String, String> {
        let claim = &self.user_claim;
        let name = text(claims, claim)?.ok_or_else(|| format!("it has no claim `{claim}`, which names the user"))?;
        // The model keeps the rule with the request for a user; the id and the role play no part in it.
        let asked = NewUser { id: UserId::new(now, 0), name: name.to_owned(), role: Role::Viewer };
        asked.check().map_err(|error| unfit(claim, &error))?;
        Ok(asked.name)
    }

    /// The claim comes first, then the one that the operator set. What stands in the header's name is asked only when
    /// neither is configured: it is not signed, so it must not fill in for a claim that is missing.
    fn tenant(&self, claims: &Claims, captured: Option<&str>, now: Timestamp) -> Result<String, String> {
        let claimed = self.tenant_claim.as_ref().map(|claim| text(claims, claim)).transpose()?.flatten();
        let (name, place) = match (claimed, &self.tenant, &self.tenant_claim, captured) {
            (Some(name), _, Some(claim), _) => (name, claim.as_str()),
            (_, Some(name), _, _) => (name.as_str(), "tenant"),
            (_, None, Some(claim), _) => return Err(format!("it has no claim `{claim}`, which names the tenant")),
            (_, None, None, Some(name)) => (name, "{tenant}"),
            (_, None, None, None) => return Err("nothing names its tenant".to_owned()),
        };
        tenant_check(name, now).map_err(|error| unfit(place, &error))?;
        Ok(name.to_owned())
    }

    fn role(&self, claims: &Claims) -> Result<Option<Role>, String> {
        let claimed = self.roles_claim.as_ref().map(|claim| roles(claims, claim)).transpose()?.unwrap_or_default();
        let mapped = claimed.into_iter().filter_map(|word| self.role_map.get(word)).max().copied();
        Ok(mapped.or(self.default_role))
    }
}

/// Refuses a name that no tenant can have.
pub(super) fn tenant_check(name: &str, now: Timestamp) -> Result<(), ApiError> {
    NewTenant { id: TenantId::new(now, 0), name: name.to_owned() }.check()
}

fn unfit(place: &str, error: &ApiError) -> String {
    format!("what `{place}` holds is no such name: {}", error.message)
}

/// Finds the value that a path leads to; `null` counts as absent.
fn find<'a>(claims: &'a Claims, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value).filter(|value| !value.is_null());
    }
    // Each object is reached by one path only, so the work is bounded by the size of the token.
    path.match_indices('.').find_map(|(dot, _)| match claims.get(&path[..dot]) {
        Some(Value::Object(inner)) => find(inner, &path[dot + 1..]),
        _ => None,
    })
}

fn text<'a>(claims: &'a Claims, path: &str) -> Result<Option<&'a str>, String> {
    match find(claims, path) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("its claim `{path}` is not a text")),
    }
}

/// Returns the words of a list of roles, or of a text that commas separate, or blanks where it has no comma.
fn roles<'a>(claims: &'a Claims, path: &str) -> Result<Vec<&'a str>, String> {
    let refuse = || format!("its claim `{path}` is neither a text nor a list of texts");
    match find(claims, path) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) if text.contains(',') => Ok(text.split(',').map(str::trim).collect()),
        // A role with a blank in its name may also stand there alone.
        Some(Value::String(text)) => Ok(text.split_whitespace().chain([text.as_str()]).collect()),
        Some(Value::Array(entries)) => entries.iter().map(|entry| entry.as_str().ok_or_else(refuse)).collect(),
        Some(_) => Err(refuse()),
    }
}

/// Seconds since 1970; RFC 7519 allows fractions.
fn time(claims: &Claims, name: &str) -> Result<Option<f64>, String> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| format!("its claim `{name}` is not a number of seconds")),
    }
}

fn is_for(audience: &Value, expected: &str) -> bool {
    match audience {
        Value::String(text) => text == expected,
        Value::Array(entries) => entries.iter().any(|entry| entry.as_str() == Some(expected)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: i64 = 1_800_000_000;

    fn rules() -> ClaimRules {
        ClaimRules {
            issuer: None,
            audience: None,
            user_claim: "sub".to_owned(),
            tenant_claim: None,
            tenant: Some("lab".to_owned()),
            roles_claim: None,
            default_role: Some(Role::User),
            role_map: BTreeMap::new(),
        }
    }

    fn object(value: Value) -> Claims {
        match value {
            Value::Object(claims) => claims,
            other => panic!("{other} is not an object"),
        }
    }

    /// Reads claims that have a user and an expiry unless they say otherwise.
    fn read(rules: &ClaimRules, extra: Value, captured: Option<&str>) -> Result<Bearer, Refusal> {
        let mut claims = object(json!({"sub": "ada", "exp": NOW + 300}));
        for (name, value) in object(extra) {
            // In these tests, `null` takes a claim away.
            if value.is_null() {
                claims.remove(&name)
            } else {
                claims.insert(name, value)
            };
        }
        rules.read(&claims, captured, Timestamp::from_second(NOW).expect("in range"))
    }

    #[test]
    fn paths_lead_to_literal_names_first() {
        let claims = object(json!({
            "http://wso2.org/claims/enduser": "literal",
            "realm_access": {"roles": ["nested"], "null": null, "text": "leaf"},
            "realm_access.roles": ["flat"],
            "resource_access": {"my.client": {"roles": ["dotted"]}, "my": {"other": 1}},
            "http://wso2": {"org/claims/enduser": "decoy"},
            "list": [{"roles": "unreachable"}],
        }));
        let check = |path: &str, expected: Value| assert_eq!(find(&claims, path), Some(&expected), "{path}");
        check("http://wso2.org/claims/enduser", json!("literal"));
        check("realm_access.roles", json!(["flat"]));
        check("realm_access.text", json!("leaf"));
        check("resource_access.my.client.roles", json!(["dotted"]));
        check("resource_access.my.other", json!(1));
        for path in
            ["", ".", "..", "realm_access.", ".roles", "realm_access.null", "list.roles", "list.0.roles", "none"]
        {
            assert_eq!(find(&claims, path), None, "{path}");
        }
    }

    #[test]
    fn times_are_checked_with_leeway() {
        let check = |extra: Value, reason: Option<&str>| {
            let expected = reason.map_or(Ok(()), |reason| Err(Refusal::Invalid(reason.to_owned())));
            assert_eq!(read(&rules(), extra.clone(), None).map(|_| ()), expected, "{extra}");
        };
        check(json!({"exp": NOW}), None);
        check(json!({"exp": NOW - 59}), None);
        check(json!({"exp": NOW - 60}), Some("it has expired"));
        check(json!({"exp": NOW as f64 - 59.5}), None);
        check(json!({"exp": 0}), Some("it has expired"));
        check(json!({"exp": -1e300}), Some("it has expired"));
        check(json!({"exp": 1e300}), None);
        check(json!({"exp": u64::MAX}), None);
        check(json!({"exp": null}), Some("it has no claim `exp`"));
        check(json!({"exp": "2030-01-01"}), Some("its claim `exp` is not a number of seconds"));
        check(json!({"exp": (NOW + 300).to_string()}), Some("its claim `exp` is not a number of seconds"));
        check(json!({"nbf": NOW + 60}), None);
        check(json!({"nbf": NOW + 61}), Some("it is not valid yet"));
        check(json!({"nbf": 1e300}), Some("it is not valid yet"));
        check(json!({"nbf": []}), Some("its claim `nbf` is not a number of seconds"));
    }

    #[test]
    fn issuer_and_audience_must_be_the_configured_ones() {
        let rules = ClaimRules { issuer: Some("https://id".into()), audience: Some("quarry".into()), ..rules() };
        let check = |extra: Value, reason: Option<&str>| {
            let expected = reason.map_or(Ok(()), |reason| Err(Refusal::Invalid(reason.to_owned())));
            assert_eq!(read(&rules, extra.clone(), None).map(|_| ()), expected, "{extra}");
        };
        let (iss, aud) = ("its claim `iss` is not `https://id`", "its claim `aud` does not name `quarry`");
        check(json!({"iss": "https://id", "aud": "quarry"}), None);
        check(json!({"iss": "https://id", "aud": ["other", "quarry"]}), None);
        check(json!({"iss": "https://id/", "aud": "quarry"}), Some(iss));
        check(json!({"iss": ["https://id"], "aud": "quarry"}), Some(iss));
        check(json!({"aud": "quarry"}), Some(iss));
        check(json!({"iss": "https://id"}), Some(aud));
        check(json!({"iss": "https://id", "aud": "Quarry"}), Some(aud));
        check(json!({"iss": "https://id", "aud": []}), Some(aud));
        check(json!({"iss": "https://id", "aud": {"quarry": true}}), Some(aud));
    }

    #[test]
    fn users_have_names_that_a_user_can_have() {
        let check = |user: Value, expected: Option<&str>| {
            let read = read(&rules(), json!({"sub": user.clone()}), None);
            match (expected, read) {
                (Some(name), Ok(bearer)) => assert_eq!(bearer.user, name),
                (None, Err(Refusal::Invalid(reason))) => assert!(reason.contains("`sub`"), "{user}: {reason}"),
                (_, other) => panic!("{user}: {other:?}"),
            }
        };
        check(json!("ada"), Some("ada"));
        check(json!("ada@carbon.super"), Some("ada@carbon.super"));
        check(json!("Ada.Lovelace-1_x"), Some("Ada.Lovelace-1_x"));
        check(json!("PRIMARY/ada"), None);
        check(json!("ada lovelace"), None);
        check(json!("@ada"), None);
        check(json!("a".repeat(65)), None);
        check(json!("ädä"), None);
        check(json!(""), None);
        check(json!(42), None);
        check(json!(["ada"]), None);
        check(json!(null), None);
    }

    #[test]
    fn tenants_come_from_claim_then_setting_then_header() {
        let check = |claim: Option<&str>, set: Option<&str>, captured: Option<&str>, expected: Result<&str, &str>| {
            let rules =
                ClaimRules { tenant_claim: claim.map(str::to_owned), tenant: set.map(str::to_owned), ..rules() };
            let read = read(&rules, json!({"org": {"name": "Acme"}, "bad": "a/b", "number": 7}), captured);
            match (expected, read) {
                (Ok(name), Ok(bearer)) => assert_eq!(bearer.tenant, name),
                (Err(part), Err(Refusal::Invalid(reason))) => assert!(reason.contains(part), "{reason}"),
                (expected, read) => panic!("{expected:?}: {read:?}"),
            }
        };
        check(Some("org.name"), Some("lab"), Some("dev"), Ok("Acme"));
        check(Some("org.none"), Some("lab"), Some("dev"), Ok("lab"));
        check(Some("org.none"), None, Some("dev"), Err("it has no claim `org.none`"));
        check(Some("org"), Some("lab"), None, Err("its claim `org` is not a text"));
        check(Some("number"), Some("lab"), None, Err("its claim `number` is not a text"));
        check(Some("bad"), Some("lab"), None, Err("what `bad` holds"));
        check(None, Some("lab"), Some("dev"), Ok("lab"));
        check(None, None, Some("dev"), Ok("dev"));
        check(None, None, Some("d!v"), Err("what `{tenant}` holds"));
        check(None, None, None, Err("nothing names its tenant"));
    }

    #[test]
    fn the_highest_mapped_role_wins() {
        let map = [("Internal/admin", Role::Admin), ("staff", Role::User), ("lab ops", Role::Operator)];
        let map: BTreeMap<String, Role> = map.into_iter().map(|(word, role)| (word.to_owned(), role)).collect();
        let check = |roles: Value, default_role: Option<Role>, expected: Result<Role, Refusal>| {
            let rules =
                ClaimRules { roles_claim: Some("roles".to_owned()), role_map: map.clone(), default_role, ..rules() };
            assert_eq!(
                read(&rules, json!({"roles": roles.clone()}), None).map(|bearer| bearer.role),
                expected,
                "{roles}"
            );
        };
        check(json!(["staff", "Internal/admin", "other"]), None, Ok(Role::Admin));
        check(json!(["lab ops", "staff"]), None, Ok(Role::Operator));
        check(json!("other,staff"), None, Ok(Role::User));
        check(json!("other, lab ops"), None, Ok(Role::Operator));
        check(json!("staff Internal/admin"), None, Ok(Role::Admin));
        check(json!("lab ops"), None, Ok(Role::Operator));
        check(json!("staff"), Some(Role::Admin), Ok(Role::User));
        check(json!(["other"]), Some(Role::Viewer), Ok(Role::Viewer));
        check(json!(null), Some(Role::Viewer), Ok(Role::Viewer));
        check(json!([]), None, Err(Refusal::RoleMissing));
        check(json!("STAFF"), None, Err(Refusal::RoleMissing));
        check(json!(["not staff"]), None, Err(Refusal::RoleMissing));
        check(json!(null), None, Err(Refusal::RoleMissing));
        let malformed = "its claim `roles` is neither a text nor a list of texts";
        for roles in [json!(7), json!({"staff": true}), json!(["staff", 7]), json!([["staff"]])] {
            check(roles, Some(Role::User), Err(Refusal::Invalid(malformed.to_owned())));
        }
    }
}
