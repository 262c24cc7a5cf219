//! How many dumps have a value, without looking at them: the database's triggers keep count in the transaction that writes a
//! dump (`migration/0012_dump_counts.sql`), so a report over a million dumps reads as many rows as there are values.
//!
//! Counted is what a dump has one of and many dumps share. Times, sizes, hashes and the like are hardly ever the same twice.
//! What was noted is counted too, by its rows: of a list that holds a text twice a dump has it twice.

use super::condition::{Leaf, Ready, Text};
use crate::error::StoreError;
use crate::transaction::Tx;
use crate::value::{Row, Value};
use model::TenantId;
use model::dump::found;
use model::dump::spec::{Comparison, Test};

/// Tells whether the values of a column are counted.
pub(super) fn is_counted(column: &str) -> bool {
    const COUNTED: [&str; 12] = [
        "kind",
        "state",
        "is_truncated",
        "cmd",
        "node",
        "platform",
        "ticket",
        "signature",
        "stack",
        "created_by",
        "class",
        "severity",
    ];
    COUNTED.contains(&column)
}

/// Returns the column and the values that a condition allows, if they are counted.
fn allowed(one: &Ready) -> Option<(&'static str, Vec<String>)> {
    match one {
        Ready::Leaf(Leaf::Among(column, texts)) if is_counted(column) => Some((*column, texts.clone())),
        Ready::Leaf(Leaf::Truncated(truth)) => Some(("is_truncated", vec![i64::from(*truth).to_string()])),
        Ready::Leaf(Leaf::Stacks(stacks)) => Some(("stack", stacks.iter().map(i64::to_string).collect())),
        _ => None,
    }
}

/// Returns how many dumps meet all of these; nothing, if that is not counted.
pub(super) async fn meeting(tx: &Tx<'_>, tenant: TenantId, all: &[Ready]) -> Result<Option<u64>, StoreError> {
    let [one] = all else {
        return if all.is_empty() { every(tx, tenant).await.map(Some) } else { Ok(None) };
    };
    match one {
        Ready::Leaf(Leaf::Gone(column)) if is_counted(column) => {
            let there = sum(tx, tenant, column, None).await?;
            Ok(Some(every(tx, tenant).await?.saturating_sub(there)))
        }
        Ready::Not(inner) => match allowed(inner) {
            Some((column, values)) => {
                let met = sum(tx, tenant, column, Some(&values)).await?;
                Ok(Some(every(tx, tenant).await?.saturating_sub(met)))
            }
            None => Ok(None),
        },
        one => match allowed(one) {
            Some((column, values)) => sum(tx, tenant, column, Some(&values)).await.map(Some),
            None => Ok(None),
        },
    }
}

/// Returns how many dumps there are.
async fn every(tx: &Tx<'_>, tenant: TenantId) -> Result<u64, StoreError> {
    sum(tx, tenant, "", None).await
}

/// Returns how many dumps have one of these values; any, if none are named.
async fn sum(
    tx: &Tx<'_>,
    tenant: TenantId,
    column: &'static str,
    values: Option<&[String]>,
) -> Result<u64, StoreError> {
    if values.is_some_and(<[_]>::is_empty) {
        return Ok(0);
    }
    let mut text = Text::new(tx);
    text.push("SELECT cast(coalesce(sum(k.dumps), 0) AS bigint) FROM dump_count AS k WHERE k.tenant = ").bind(tenant);
    text.push(" AND k.field = ").bind(column);
    if let Some(values) = values {
        text.push(" AND ").among("k.value", values);
    }
    let rows = tx.ask(&text.sql, &text.values).await?;
    rows.first().map_or(Ok(0), |row| row.count(0))
}

/// Returns the name under which the values of a property are counted.
pub(super) fn field(path: &str) -> String {
    format!("properties.{path}")
}

/// Returns about how many rows have the text that a property must have, if that is all that is said: several may be of one
/// dump, or of another kind than is meant, and a number may be written in another way.
pub(super) async fn noted(tx: &Tx<'_>, tenant: TenantId, all: &[Ready]) -> Result<Option<u64>, StoreError> {
    let [Ready::Leaf(Leaf::Property(path, tests))] = all else { return Ok(None) };
    let Some(Test::Text(Comparison::Equal, with) | Test::Quoted(Comparison::Equal, with)) = tests.last() else {
        return Ok(None);
    };
    let mut text = Text::new(tx);
    text.push("SELECT k.dumps FROM dump_count AS k WHERE k.tenant = ").bind(tenant);
    text.push(" AND k.field = ").bind(field(path)).push(" AND k.value = ").bind(found(with));
    let rows = tx.ask(&text.sql, &text.values).await?;
    rows.first().map_or(Ok(Some(0)), |row| row.count(0).map(Some))
}

/// Returns the values of a counted column with their counts, the most frequent first; only those that are allowed, if
/// something is said of them.
pub(super) async fn values(
    tx: &Tx<'_>,
    tenant: TenantId,
    column: &str,
    only: Option<&Ready>,
    limit: u64,
) -> Result<Vec<(Value, u64)>, StoreError> {
    let only = only.and_then(allowed).map(|(_, values)| values);
    if only.as_ref().is_some_and(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let mut text = Text::new(tx);
    text.push("SELECT k.value, k.dumps FROM dump_count AS k WHERE k.tenant = ").bind(tenant);
    text.push(" AND k.field = ").bind(column);
    if let Some(only) = &only {
        text.push(" AND ").among("k.value", only);
    }
    text.push(" ORDER BY k.dumps DESC, k.value LIMIT ").bind(limit);
    let rows = tx.ask(&text.sql, &text.values).await?;
    let value = |row: &Row| {
        let text = row.text(0)?;
        let number = matches!(column, "is_truncated" | "stack").then(|| text.parse().map(Value::Int).ok()).flatten();
        Ok((number.unwrap_or_else(|| text.into()), row.count(1)?))
    };
    rows.iter().map(value).collect()
}
