//! Values that are used but never shown: secrets, and the password inside a database's address.
//!
//! Masking errs on the side of hiding too much: an address is cut at its last `@`, whatever stands before it.

use serde::{Serialize, Serializer};
use std::fmt;

/// What stands where a secret would.
pub(super) const MASK: &str = "********";

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself, for the one who needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

/// Which database holds the rows.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Database {
    /// A file in the data folder.
    #[default]
    Sqlite,
    /// A PostgreSQL server, by its `postgres://` address, which may hold a password.
    Postgres(Secret),
}

impl Database {
    /// Reads `sqlite` or the address of a PostgreSQL server.
    pub(super) fn read(text: &str) -> Option<Self> {
        let rest = || text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        match text {
            "sqlite" => Some(Self::Sqlite),
            _ => rest().filter(|rest| !rest.is_empty()).map(|_| Self::Postgres(Secret::new(text))),
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite => f.write_str("sqlite"),
            Self::Postgres(address) => f.write_str(&address_masked(address.expose())),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns an address without its password; a text that is no address comes back as it is.
pub(super) fn address_masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let rest = match rest.rsplit_once('@') {
        None => rest.to_owned(),
        Some((person, place)) => match person.split_once(':') {
            None => format!("{person}@{place}"),
            Some((name, _)) => format!("{name}:{MASK}@{place}"),
        },
    };
    let Some((path, query)) = rest.split_once('?') else { return format!("{scheme}://{rest}") };
    let query: Vec<String> = query.split('&').map(parameter_masked).collect();
    format!("{scheme}://{path}?{}", query.join("&"))
}

/// A percent sign could spell `password` in another way, so such a name is not trusted.
fn parameter_masked(parameter: &str) -> String {
    let name = parameter.split('=').next().unwrap_or(parameter);
    let hidden = ["pass", "secret", "%"].iter().any(|word| name.to_ascii_lowercase().contains(word));
    if hidden { format!("{name}={MASK}") } else { parameter.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_survives_the_mask() {
        let check = |address: &str, masked: &str| assert_eq!(address_masked(address), masked, "{address}");
        check("sqlite", "sqlite");
        check("postgres://host/db", "postgres://host/db");
        check("postgres://quarry@host:5432/db", "postgres://quarry@host:5432/db");
        check("postgres://quarry:hunter2@host/db", "postgres://quarry:********@host/db");
        check("postgres://quarry:@host/db", "postgres://quarry:********@host/db");
        check("postgres://:hunter2@host/db", "postgres://:********@host/db");
        check("postgres://quarry:hun@ter2@host/db", "postgres://quarry:********@host/db");
        check("postgres://quarry:hun/ter?2@host/db", "postgres://quarry:********@host/db");
        check("postgres://host/db?user=q&password=hunter2", "postgres://host/db?user=q&password=********");
        check(
            "postgres://host/db?PassWord=hunter2&sslmode=require",
            "postgres://host/db?PassWord=********&sslmode=require",
        );
        check("postgres://host/db?pa%73sword=hunter2", "postgres://host/db?pa%73sword=********");
        check("postgress://q:hunter2@host", "postgress://q:********@host");
    }

    #[test]
    fn secrets_print_as_masks() {
        let secret = Secret::new("hunter2");
        let json = serde_json::to_string(&secret).expect("serialises");
        assert_eq!((format!("{secret:?} {secret}"), json), (format!("{MASK} {MASK}"), format!("\"{MASK}\"")));
        let database = Database::read("postgres://q:hunter2@host/db").expect("an address");
        assert_eq!(format!("{database:?}"), "postgres://q:********@host/db");
        assert_eq!(secret.expose(), "hunter2");
    }
}
