//! One value of the configuration: how each type is read from a file or from text, and how it is shown.
//!
//! A file gives typed values and means them: `"8"` is not a number there. The environment and flags give text alone. An
//! optional value is unset by empty text.

use crate::config::problem::excerpt;
use crate::config::quantity::{Bytes, duration_read, duration_write};
use crate::config::secret::{Database, MASK, Secret, address_masked};
use model::log::LogLevel;
use model::permission::Role;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

/// Entries of one table, such as `role_map`.
const MAX_TABLE_ENTRIES: usize = 256;

/// A value as its source gives it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Given<'a> {
    /// By the environment or a flag.
    Text(&'a str),
    /// By a file.
    Toml(&'a DeValue<'a>),
}

impl<'a> Given<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Toml(value) => value.as_str(),
        }
    }

    fn integer(self) -> Option<u64> {
        match self {
            // `parse` would take `+8`, which TOML takes as well.
            Self::Text(text) => text.parse().ok(),
            Self::Toml(value) => {
                let integer = value.as_integer()?;
                u64::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
        }
    }

    fn number(self) -> Option<f64> {
        match self {
            Self::Text(text) => text.parse().ok(),
            // A whole number is a number too.
            Self::Toml(DeValue::Float(float)) => float.as_str().parse().ok(),
            Self::Toml(DeValue::Integer(integer)) if integer.radix() == 10 => integer.as_str().parse().ok(),
            Self::Toml(_) => None,
        }
    }

    fn boolean(self) -> Option<bool> {
        match self {
            Self::Text(text) => text.parse().ok(),
            Self::Toml(value) => value.as_bool(),
        }
    }

    /// Returns the value as a message may repeat it.
    fn shown(self) -> String {
        match self {
            Self::Text(text) => excerpt(&address_masked(text)),
            // With its quotes, because they may be what is wrong with it.
            Self::Toml(DeValue::String(text)) => format!("\"{}\"", excerpt(&address_masked(text))),
            Self::Toml(DeValue::Integer(integer)) => excerpt(&integer.to_string()),
            Self::Toml(DeValue::Float(float)) => excerpt(float.as_str()),
            Self::Toml(DeValue::Boolean(value)) => value.to_string(),
            Self::Toml(DeValue::Datetime(time)) => time.to_string(),
            Self::Toml(DeValue::Array(_)) => "[…]".to_owned(),
            Self::Toml(DeValue::Table(_)) => "{…}".to_owned(),
        }
    }
}

/// A type that a key may have.
pub(super) trait Leaf: Sized {
    /// What the value has to be, as a message says it after "expected".
    fn expected() -> String;
    /// Returns the value, unless it is of another type.
    fn read(given: Given<'_>) -> Option<Self>;
    /// Returns the value as it may be seen, so masked if it is secret.
    fn shown(&self) -> Value;
    /// Tells whether even a refused value must not be repeated.
    const SECRET: bool = false;
}

/// A place for a value, of whatever type.
pub(super) trait Slot {
    /// Takes a value in, or tells why not; then the old one stays.
    fn take(&mut self, given: Given<'_>) -> Result<(), String>;
    /// Returns the present value as it may be seen; nothing, when it is unset and would only take up a line.
    fn shown(&self) -> Option<Value>;
}

/// A place that takes any value of its type.
pub(super) struct Plain<'a, T>(pub(super) &'a mut T);

/// A place that takes the values of a range.
pub(super) struct Bounded<'a, T>(pub(super) &'a mut T, pub(super) RangeInclusive<T>);

/// A place in a table, which is there only when it is filled.
pub(super) struct Entry<'a, T>(pub(super) &'a mut BTreeMap<String, T>, pub(super) &'static str);

fn read<T: Leaf>(given: Given<'_>) -> Result<T, String> {
    let shown = || if T::SECRET { MASK.to_owned() } else { given.shown() };
    T::read(given).ok_or_else(|| format!("is `{}`; expected {}", shown(), T::expected()))
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl<T: Leaf> Slot for Plain<'_, T> {
    fn take(&mut self, given: Given<'_>) -> Result<(), String> {
        *self.0 = read(given)?;
        Ok(())
    }

    fn shown(&self) -> Option<Value> {
        Some(self.0.shown())
    }
}

impl<T: Leaf + PartialOrd> Slot for Bounded<'_, T> {
    fn take(&mut self, given: Given<'_>) -> Result<(), String> {
        let value: T = read(given)?;
        if !self.1.contains(&value) {
            let [shown, least, most] = [&value, self.1.start(), self.1.end()].map(|value| text_of(&value.shown()));
            return Err(format!("is `{shown}`, which is out of range; expected `{least}` to `{most}`"));
        }
        *self.0 = value;
        Ok(())
    }

    fn shown(&self) -> Option<Value> {
        Some(self.0.shown())
    }
}

impl<T: Leaf> Slot for Entry<'_, T> {
    fn take(&mut self, given: Given<'_>) -> Result<(), String> {
        // Empty text takes back what an earlier source said.
        match read::<Option<T>>(given)? {
            Some(value) => self.0.insert(self.1.to_owned(), value),
            None => self.0.remove(self.1),
        };
        Ok(())
    }

    fn shown(&self) -> Option<Value> {
        self.0.get(self.1).map(Leaf::shown)
    }
}

impl<T: Leaf> Leaf for Option<T> {
    fn expected() -> String {
        T::expected()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        if given.text() == Some("") { Some(None) } else { T::read(given).map(Some) }
    }

    fn shown(&self) -> Value {
        self.as_ref().map_or_else(|| "".into(), Leaf::shown)
    }

    const SECRET: bool = T::SECRET;
}

impl Leaf for bool {
    fn expected() -> String {
        "`true` or `false`".to_owned()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        given.boolean()
    }

    fn shown(&self) -> Value {
        (*self).into()
    }
}

impl Leaf for usize {
    fn expected() -> String {
        "a whole number".to_owned()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        given.integer()?.try_into().ok()
    }

    fn shown(&self) -> Value {
        (*self).into()
    }
}

impl Leaf for f64 {
    fn expected() -> String {
        "a number".to_owned()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        given.number().filter(|number| number.is_finite())
    }

    fn shown(&self) -> Value {
        (*self).into()
    }
}

impl Leaf for String {
    fn expected() -> String {
        "text".to_owned()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        given.text().map(str::to_owned)
    }

    fn shown(&self) -> Value {
        address_masked(self).into()
    }
}

impl Leaf for PathBuf {
    fn expected() -> String {
        "a path".to_owned()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        given.text().filter(|text| !text.is_empty() && !text.contains('\0')).map(Self::from)
    }

    fn shown(&self) -> Value {
        self.display().to_string().into()
    }
}

impl Leaf for SocketAddr {
    fn expected() -> String {
        "an address and a port, such as `127.0.0.1:7070` or `[::]:7070`".to_owned()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        given.text()?.parse().ok()
    }

    fn shown(&self) -> Value {
        self.to_string().into()
    }
}

impl Leaf for Duration {
    fn expected() -> String {
        "a time such as `500ms`, `30s`, `1h30m` or `7d`".to_owned()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        duration_read(given.text()?)
    }

    fn shown(&self) -> Value {
        duration_write(*self).into()
    }
}

impl Leaf for Bytes {
    fn expected() -> String {
        "a size such as `64MiB`, or a number of bytes".to_owned()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        let from_text = || given.text()?.parse().ok();
        given.integer().map(Self::new).or_else(from_text)
    }

    fn shown(&self) -> Value {
        self.to_string().into()
    }
}

impl Leaf for Secret {
    fn expected() -> String {
        "text".to_owned()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        given.text().map(Self::new)
    }

    fn shown(&self) -> Value {
        MASK.into()
    }

    const SECRET: bool = true;
}

impl Leaf for Database {
    fn expected() -> String {
        "`sqlite` or an address such as `postgres://quarry@localhost/quarry`".to_owned()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        Self::read(given.text()?)
    }

    fn shown(&self) -> Value {
        self.to_string().into()
    }
}

impl Leaf for LogLevel {
    fn expected() -> String {
        one_of(&Self::ALL.map(Self::as_str))
    }

    fn read(given: Given<'_>) -> Option<Self> {
        given.text()?.parse().ok()
    }

    fn shown(&self) -> Value {
        self.as_str().into()
    }
}

impl Leaf for Role {
    fn expected() -> String {
        one_of(&Self::ALL.map(Self::as_str))
    }

    fn read(given: Given<'_>) -> Option<Self> {
        given.text()?.parse().ok()
    }

    fn shown(&self) -> Value {
        self.as_str().into()
    }
}

impl<T: Leaf> Leaf for BTreeMap<String, T> {
    fn expected() -> String {
        format!("a table of at most {MAX_TABLE_ENTRIES} entries, each {}", T::expected())
    }

    fn read(given: Given<'_>) -> Option<Self> {
        let Given::Toml(DeValue::Table(table)) = given else { return None };
        if table.len() > MAX_TABLE_ENTRIES {
            return None;
        }
        let entry = |name: &str, value| Some((name.to_owned(), T::read(Given::Toml(value))?));
        table.iter().map(|(name, value)| entry(name.get_ref(), value.get_ref())).collect()
    }

    fn shown(&self) -> Value {
        self.iter().map(|(name, value)| (name.clone(), value.shown())).collect::<serde_json::Map<_, _>>().into()
    }
}

/// Returns the words as a message lists them.
pub(super) fn one_of(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match words.as_slice() {
        [only] => only.clone(),
        [first, second] => format!("{first} or {second}"),
        _ => format!("one of {}", words.join(", ")),
    }
}

/// Makes an enum of fixed words into a type that a key may have.
macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Returns the word that the configuration uses.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl $crate::config::leaf::Leaf for $name {
            fn expected() -> String {
                $crate::config::leaf::one_of(&[$($word),+])
            }

            fn read(given: $crate::config::leaf::Given<'_>) -> Option<Self> {
                let text: Option<String> = $crate::config::leaf::Leaf::read(given);
                [$(Self::$variant),+].into_iter().find(|word| text.as_deref() == Some(word.as_str()))
            }

            fn shown(&self) -> serde_json::Value {
                self.as_str().into()
            }
        }
    };
}
pub(super) use words;
