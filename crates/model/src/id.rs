//! Ids: one newtype per noun, written as `exe_01jd…`: a prefix that names the noun and 26 characters of Crockford base32.
//!
//! The first 48 bits are milliseconds, so ids sort by age; the other 80 are random, so nobody guesses one. Instant and
//! randomness come in from outside. There is exactly one spelling of an id: lower case, no aliases.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use ulid::Ulid;

/// Why a text is not an id of the kind that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id of the form `{prefix}_` and 26 characters")]
pub struct IdError {
    text: String,
    prefix: &'static str,
}

/// Returns the first `MAX` characters of a hostile text, so that a message never grows with its input.
fn excerpt(text: &str) -> String {
    const MAX: usize = 64;
    if text.chars().count() <= MAX { text.to_owned() } else { text.chars().take(MAX).chain(['…']).collect() }
}

fn encode(value: Ulid) -> String {
    value.to_string().to_ascii_lowercase()
}

fn decode(text: &str, prefix: &'static str) -> Result<Ulid, IdError> {
    let refuse = || IdError { text: excerpt(text), prefix };
    let body = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')).ok_or_else(refuse)?;
    let value = Ulid::from_string(body).map_err(|_| refuse())?;
    if encode(value) == body { Ok(value) } else { Err(refuse()) }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// What every id of this noun begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an id from an instant and at least 80 random bits.
            pub fn new(at: Timestamp, random: u128) -> Self {
                Self(Ulid::from_parts(u64::try_from(at.as_millisecond()).unwrap_or(0), random))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}_{}", $prefix, encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                decode(text, $prefix).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                text_schema(concat!("^", $prefix, "_[0-7][0-9a-hjkmnp-tv-z]{25}$"))
            }
        }

        impl utoipa::ToSchema for $name {}
    )*};
}

/// Returns the schema of a text that matches `pattern`.
pub(crate) fn text_schema(pattern: &str) -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .pattern(Some(pattern))
        .build()
        .into()
}

ids! {
    /// One run of one command in one sandbox.
    ExecutionId = "exe";
    /// The files and settings that an execution can run in.
    ImageId = "img";
    /// What was left of a process or a machine that died.
    DumpId = "dmp";
    /// A machine that offers sandboxes.
    NodeId = "nod";
    /// One connection of a node to the server; its lease covers all that the node runs.
    SessionId = "ses";
    /// A group of users who see each other's things and nobody else's.
    TenantId = "ten";
    /// Somebody, or something, with a role in a tenant.
    UserId = "usr";
    /// A credential.
    TokenId = "tok";
    /// One HTTP request, as named in its answer and in every log line it caused.
    RequestId = "req";
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).expect("in range")
    }

    proptest! {
        #[test]
        fn every_id_reads_back(ms in 0i64..100_000_000_000_000, random: u128) {
            let id = ExecutionId::new(at(ms), random);
            prop_assert_eq!(id.to_string().parse::<ExecutionId>(), Ok(id));
        }

        #[test]
        fn ids_sort_as_text_the_way_they_sort_in_time(a in 0i64..100_000_000_000_000, b in 0i64..100_000_000_000_000, x: u128, y: u128) {
            let (first, second) = (TokenId::new(at(a), x), TokenId::new(at(b), y));
            prop_assert_eq!(first.cmp(&second), first.to_string().cmp(&second.to_string()));
            if a != b {
                prop_assert_eq!(first < second, a < b);
            }
        }

        #[test]
        fn no_text_panics_and_what_is_read_is_the_only_spelling(text in "\\PC{0,40}") {
            if let Ok(id) = text.parse::<UserId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        let good = ExecutionId::new(at(1_763_000_000_000), 7).to_string();
        assert!(good.parse::<ExecutionId>().is_ok());
        for bad in [
            good.to_uppercase(),
            good.replace("exe_", "tok_"),
            good.replace("exe_", ""),
            format!("{good}0"),
            good[..good.len() - 1].to_owned(),
            format!("exe_8{}", "z".repeat(25)),
            String::new(),
        ] {
            assert!(bad.parse::<ExecutionId>().is_err(), "{bad} was accepted");
        }
    }
}
