//! The properties of dumps as rows that they can be found by. The truth of them is the JSON in the dump's own row.
//!
//! Each row has its dump's time, so that a page of what has a property is read off an index; triggers follow the dump, and
//! count the rows by their texts (`migration/0013_dump_properties.sql`).

use crate::error::StoreError;
use crate::statement::statements;
use crate::transaction::Tx;
use crate::value::Value;
use jiff::Timestamp;
use model::Dump;
use model::dump::{Leaf, found, leaves};
use std::collections::{BTreeMap, BTreeSet};

statements! {
    ROWS = "SELECT ordinal, path, kind, text FROM dump_property WHERE dump = $1";
    REMOVE = "DELETE FROM dump_property WHERE dump = $1 AND ordinal = $2";
    INSERT = "INSERT INTO dump_property (dump, ordinal, tenant, path, kind, text, number, time) \
              VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
}

/// Has the rows of a locked dump's properties say what these do. Those that say so already are not touched: of the many
/// properties of many dumps, few become others.
pub(crate) async fn write(
    tx: &Tx<'_>,
    dump: &Dump,
    properties: &BTreeMap<String, serde_json::Value>,
) -> Result<(), StoreError> {
    let leaves = leaves(properties).map_err(|error| StoreError::Refused(Box::new(error)))?;
    let mut there: BTreeMap<(String, String, String), Vec<i64>> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for row in &tx.rows(ROWS, &[dump.id.into()]).await? {
        let says = (row.text(1)?.to_owned(), row.text(2)?.to_owned(), row.text(3)?.to_owned());
        there.entry(says).or_default().push(row.int(0)?);
        taken.insert(row.int(0)?);
    }
    let mut new = Vec::new();
    for (path, leaf) in leaves {
        // What is no text can be found by the text that JSON has for it: nobody who looks says which it is.
        let (kind, number) = match leaf {
            Leaf::Truth(_) => ("truth", None),
            Leaf::Number(ref number) => ("number", Some(sortable(number.as_f64().unwrap_or(f64::MAX)))),
            Leaf::Text(_) => ("text", None),
            Leaf::Empty => ("empty", None),
        };
        let says = (path, kind.to_owned(), found(&leaf.text()));
        // A list may have the same twice.
        if there.get_mut(&says).and_then(Vec::pop).is_none() {
            new.push((says, number));
        }
    }
    for ordinal in there.into_values().flatten() {
        tx.execute(REMOVE, &[dump.id.into(), ordinal.into()]).await?;
        taken.remove(&ordinal);
    }
    let free = (0_i64..).filter(|ordinal| !taken.contains(ordinal));
    for (((path, kind, text), number), ordinal) in new.into_iter().zip(free) {
        let values = [
            dump.id.into(),
            ordinal.into(),
            dump.tenant.into(),
            path.into(),
            kind.into(),
            text.into(),
            number.map_or(Value::Null, Value::Int),
            dump.facts.time.unwrap_or(Timestamp::UNIX_EPOCH).into(),
        ];
        tx.execute(INSERT, &values).await?;
    }
    Ok(())
}

/// Returns a whole number that sorts among others as the number does.
pub(crate) fn sortable(number: f64) -> i64 {
    // Adding nothing makes one zero of the two.
    let bits = (number + 0.0).to_bits() as i64;
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::dump::MAX_FOUND_BYTES;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_sort_as_they_are(a: f64, b: f64) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            prop_assert_eq!(a.partial_cmp(&b), Some(sortable(a).cmp(&sortable(b))));
        }
    }

    #[test]
    fn both_zeros_are_one() {
        assert_eq!(sortable(0.0), sortable(-0.0));
        assert!(sortable(-1.0) < sortable(0.0) && sortable(0.0) < sortable(1e-300));
    }

    #[test]
    fn a_long_text_is_found_by_its_beginning() {
        let text = "ü".repeat(MAX_FOUND_BYTES);
        assert_eq!(found(&text).len(), MAX_FOUND_BYTES);
        assert_eq!(found(&format!("x{text}")).len(), MAX_FOUND_BYTES - 1);
        assert_eq!(found("a\0b"), "ab");
    }
}
