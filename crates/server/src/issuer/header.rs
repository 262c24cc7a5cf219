//! Where an issuer's tokens stand in a request: a header whose name may have a `{tenant}` part.
//!
//! Names of headers know no case, and `HeaderMap` holds them in lower case however they were sent. So a tenant that is
//! captured from a name is always in lower case, whatever the tenant is really called.

use axum::http::HeaderName;

/// What stands for the tenant in the name of a header.
const TENANT_PART: &str = "{tenant}";

/// Which headers carry an issuer's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeaderPattern {
    before: String,
    /// What follows the tenant; `None` when the name has no such part.
    after: Option<String>,
}

impl HeaderPattern {
    /// Reads the name of a header; `None` when no header could be called so, or when every header would be.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        HeaderName::try_from(text.replacen(TENANT_PART, "t", 1)).ok()?;
        let Some((before, after)) = text.split_once(TENANT_PART) else {
            return Some(Self { before: text, after: None });
        };
        let open = before.is_empty();
        (!open).then(|| Self { before: before.to_owned(), after: Some(after.to_owned()) })
    }

    /// Tells whether the name says which tenant a token is for.
    pub(super) fn names_tenant(&self) -> bool {
        self.after.is_some()
    }

    /// Returns the tenant part of a name that matches; the inner `None` is for a pattern without that part.
    pub(super) fn capture<'a>(&self, name: &'a HeaderName) -> Option<Option<&'a str>> {
        let rest = name.as_str().strip_prefix(self.before.as_str())?;
        match &self.after {
            None => rest.is_empty().then_some(None),
            Some(after) => rest.strip_suffix(after.as_str()).filter(|tenant| !tenant.is_empty()).map(Some),
        }
    }

    /// Tells whether one header could match both; errs on the side of yes.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        fn reaches(a: &str, b: &str) -> bool {
            a.starts_with(b) || b.starts_with(a)
        }
        match (&self.after, &other.after) {
            (None, None) => self.before == other.before,
            (None, Some(after)) => self.before.starts_with(&other.before) && self.before.ends_with(after),
            (Some(_), None) => other.overlaps(self),
            (Some(mine), Some(theirs)) => {
                reaches(&self.before, &other.before) && (mine.ends_with(theirs.as_str()) || theirs.ends_with(mine))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HeaderPattern {
        HeaderPattern::parse(text).expect("a header's name")
    }

    #[test]
    fn names_are_captured_without_regard_to_case() {
        let check = |text: &str, name: &'static str, expected: Option<Option<&str>>| {
            let name = HeaderName::try_from(name).expect("a header's name");
            assert_eq!(pattern(text).capture(&name), expected, "{text} on {name}");
        };
        check("Authorization", "authorization", Some(None));
        check("Authorization", "AUTHORIZATION", Some(None));
        check("Authorization", "authorization-more", None);
        check("X-JWT-Assertion-{tenant}", "x-jwt-assertion-Dev-Staging", Some(Some("dev-staging")));
        check("X-JWT-Assertion-{tenant}", "X-JWT-ASSERTION-dev.org", Some(Some("dev.org")));
        check("X-JWT-Assertion-{tenant}", "x-jwt-assertion-", None);
        check("X-JWT-Assertion-{tenant}", "x-jwt-assertion", None);
        check("X-{tenant}-JWT", "x-dev-jwt", Some(Some("dev")));
        check("X-{tenant}-JWT", "x--jwt", None);
        check("X-{tenant}-JWT", "x-jwt", None);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "two words", "X-{tenant}-{tenant}", "X-{user}", "{tenant}", "{tenant}-jwt", "X-Ä", "X:"] {
            assert_eq!(HeaderPattern::parse(text), None, "{text}");
        }
    }

    #[test]
    fn overlaps_are_seen() {
        let check = |a: &str, b: &str, expected: bool| {
            assert_eq!(pattern(a).overlaps(&pattern(b)), expected, "{a} and {b}");
            assert_eq!(pattern(b).overlaps(&pattern(a)), expected, "{b} and {a}");
        };
        check("Authorization", "authorization", true);
        check("Authorization", "X-JWT", false);
        check("X-JWT-{tenant}", "x-jwt-dev", true);
        check("X-JWT-{tenant}", "X-JWT-Assertion-{tenant}", true);
        check("X-JWT-{tenant}", "X-Token-{tenant}", false);
        check("X-{tenant}-a", "X-{tenant}-b", false);
        check("X-{tenant}-a", "X-{tenant}-b-a", true);
        check("X-{tenant}-a", "X-dev-b", false);
    }
}
