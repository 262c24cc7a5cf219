//! What goes into a statement and what comes out of a row, on either engine: integers, texts, bytes, or nothing.

use crate::error::StoreError;
use bytes::BytesMut;
use jiff::Timestamp;
use std::error::Error;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// One value of a statement or a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing.
    Null,
    /// A number, an instant in microseconds, or a truth as 0 or 1.
    Int(i64),
    /// A text, an id, a word of an enum, or JSON.
    Text(String),
    /// A hash.
    Bytes(Vec<u8>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<u64> for Value {
    /// Takes a count or a size; none of ours comes near the end of `i64`, and one that did would be cut to it.
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        value.to_owned().into()
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(kept(value))
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        value.clone().into()
    }
}

/// Returns a text without what PostgreSQL keeps no text with: what is foreign in it must not make a report fail for ever
/// there, and both engines keep the same.
fn kept(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "") } else { text }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl From<Timestamp> for Value {
    fn from(value: Timestamp) -> Self {
        Self::Int(value.as_microsecond())
    }
}

macro_rules! ids_as_values {
    ($($id:ty),*) => {$(
        impl From<$id> for Value {
            fn from(id: $id) -> Self {
                Self::Text(id.to_string())
            }
        }
    )*};
}
ids_as_values!(
    model::DumpId,
    model::ExecutionId,
    model::ImageId,
    model::NodeId,
    model::SessionId,
    model::SignatureId,
    model::TenantId,
    model::TokenId,
    model::UserId
);

impl From<model::Digest> for Value {
    fn from(digest: model::Digest) -> Self {
        Self::Text(digest.to_string())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(value) => value.to_sql_checked(ty, out),
            Self::Text(value) => value.to_sql_checked(ty, out),
            Self::Bytes(value) => value.to_sql_checked(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::TEXT | Type::BYTEA)
    }

    to_sql_checked!();
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(value) => ValueRef::Integer(*value),
            Self::Text(value) => ValueRef::Text(value.as_bytes()),
            Self::Bytes(value) => ValueRef::Blob(value),
        }))
    }
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row(Vec<Value>);

impl Row {
    /// Copies a row of SQLite.
    pub(crate) fn from_sqlite(row: &rusqlite::Row<'_>, columns: usize) -> rusqlite::Result<Self> {
        use rusqlite::types::ValueRef;
        let copy = |index| {
            Ok(match row.get_ref(index)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(value) => Value::Int(value),
                ValueRef::Text(value) => String::from_utf8_lossy(value).into_owned().into(),
                ValueRef::Blob(value) => Value::Bytes(value.to_vec()),
                ValueRef::Real(value) => {
                    return Err(rusqlite::Error::FromSqlConversionFailure(
                        index,
                        rusqlite::types::Type::Real,
                        format!("no column holds fractions, this one holds {value}").into(),
                    ));
                }
            })
        };
        (0..columns).map(copy).collect::<rusqlite::Result<_>>().map(Self)
    }

    /// Copies a row of PostgreSQL.
    pub(crate) fn from_postgres(row: &tokio_postgres::Row) -> Result<Self, tokio_postgres::Error> {
        let copy = |(index, column): (usize, &tokio_postgres::Column)| {
            Ok(match *column.type_() {
                Type::INT8 => row.try_get::<_, Option<i64>>(index)?.map_or(Value::Null, Value::Int),
                Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(index)?.map_or(Value::Null, Value::Bytes),
                _ => row.try_get::<_, Option<String>>(index)?.map_or(Value::Null, Value::Text),
            })
        };
        row.columns().iter().enumerate().map(copy).collect::<Result<_, _>>().map(Self)
    }

    /// Returns the values, for copying a row from one engine to the other.
    pub(crate) fn into_values(self) -> Vec<Value> {
        self.0
    }

    /// Returns a number that must be there.
    pub(crate) fn int(&self, index: usize) -> Result<i64, StoreError> {
        self.maybe_int(index)?.ok_or_else(|| broken(index, "is empty"))
    }

    /// Returns a number, if there is one.
    pub(crate) fn maybe_int(&self, index: usize) -> Result<Option<i64>, StoreError> {
        match self.0.get(index) {
            Some(Value::Int(value)) => Ok(Some(*value)),
            Some(Value::Null) => Ok(None),
            _ => Err(broken(index, "is no number")),
        }
    }

    /// Returns a count that must be there.
    pub(crate) fn count(&self, index: usize) -> Result<u64, StoreError> {
        u64::try_from(self.int(index)?).map_err(|_| broken(index, "is below zero"))
    }

    /// Returns a text that must be there.
    pub(crate) fn text(&self, index: usize) -> Result<&str, StoreError> {
        self.maybe_text(index)?.ok_or_else(|| broken(index, "is empty"))
    }

    /// Returns a text, if there is one.
    pub(crate) fn maybe_text(&self, index: usize) -> Result<Option<&str>, StoreError> {
        match self.0.get(index) {
            Some(Value::Text(value)) => Ok(Some(value)),
            Some(Value::Null) => Ok(None),
            _ => Err(broken(index, "is no text")),
        }
    }

    /// Returns bytes that must be there.
    pub(crate) fn bytes(&self, index: usize) -> Result<&[u8], StoreError> {
        match self.0.get(index) {
            Some(Value::Bytes(value)) => Ok(value),
            _ => Err(broken(index, "holds no bytes")),
        }
    }

    /// Returns an instant that must be there.
    pub(crate) fn time(&self, index: usize) -> Result<Timestamp, StoreError> {
        self.maybe_time(index)?.ok_or_else(|| broken(index, "is empty"))
    }

    /// Returns an instant, if there is one.
    pub(crate) fn maybe_time(&self, index: usize) -> Result<Option<Timestamp>, StoreError> {
        let instant = |micros| Timestamp::from_microsecond(micros).map_err(|_| broken(index, "is no instant"));
        self.maybe_int(index)?.map(instant).transpose()
    }

    /// Returns what a text stands for: an id or a digest.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, index: usize) -> Result<T, StoreError> {
        self.text(index)?.parse().map_err(|_| broken(index, "is not of its kind"))
    }

    /// Returns what a text stands for, if there is one.
    pub(crate) fn maybe_parsed<T: std::str::FromStr>(&self, index: usize) -> Result<Option<T>, StoreError> {
        let parse = |text: &str| text.parse().map_err(|_| broken(index, "is not of its kind"));
        self.maybe_text(index)?.map(parse).transpose()
    }

    /// Returns the enum that a word stands for.
    pub(crate) fn word<T: serde::de::DeserializeOwned>(&self, index: usize) -> Result<T, StoreError> {
        let text = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(self.text(index)?);
        T::deserialize(text).map_err(|_| broken(index, "is not a known word"))
    }

    /// Returns what a JSON text stands for.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, index: usize) -> Result<T, StoreError> {
        serde_json::from_str(self.text(index)?).map_err(|_| broken(index, "is not the JSON it should be"))
    }

    /// Returns what a JSON text stands for, if there is one.
    pub(crate) fn maybe_json<T: serde::de::DeserializeOwned>(&self, index: usize) -> Result<Option<T>, StoreError> {
        let parse = |text: &str| serde_json::from_str(text).map_err(|_| broken(index, "is not the JSON it should be"));
        self.maybe_text(index)?.map(parse).transpose()
    }
}

fn broken(index: usize, why: &'static str) -> StoreError {
    StoreError::Broken { column: index, why }
}

/// Writes one of our own types as JSON.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our own types have text keys and finite numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_without_what_an_engine_refuses() {
        assert_eq!(Value::from("a\0b\0"), Value::Text("ab".to_owned()));
        assert_eq!(Value::from("a\0b".to_owned()), Value::Text("ab".to_owned()));
        assert_eq!(Value::from(&"ab".to_owned()), Value::Text("ab".to_owned()));
        assert_eq!(Value::from(to_json(&"a\0")), Value::Text("\"a\\u0000\"".to_owned()));
    }
}
