//! How often the values of a field occur among dumps. What the tally knows is not counted again.

use super::condition::{Leaf, Ready, Text, column, demands};
use super::query::{Plan, Selected};
use super::tally::{self, is_counted};
use crate::error::StoreError;
use crate::statement::Engine;
use crate::store::Store;
use crate::transaction::{Operation, Tx};
use crate::value::{Row, Value};
use jiff::Timestamp;
use model::TenantId;
use model::dump::query::{DumpReport, MAX_REPORT_VALUES, ValueCount};
use model::dump::spec::{Field, Specification, kind_type};
use std::collections::HashMap;

/// Rows that are few, when they are only to be counted.
pub(super) const FEW: u64 = if cfg!(debug_assertions) { 40 } else { 50_000 };

/// Different values that are counted in memory.
const MAX_TALLIED: usize = if cfg!(debug_assertions) { 20 } else { 50_000 };

struct DumpsCount {
    of: Specification,
    field: Option<Field>,
    tenant: TenantId,
    now: Timestamp,
}

impl DumpsCount {
    /// Tells by what is counted already.
    async fn told(&self, tx: &Tx<'_>, field: &Field, demands: &[Ready], dumps: u64) -> Result<DumpReport, StoreError> {
        let limit = MAX_REPORT_VALUES as u64 + 1;
        let values = match field {
            Field::Property(path) => {
                tally::values(tx, self.tenant, &tally::field(path), demands.first(), limit).await?
            }
            field => tally::values(tx, self.tenant, column(field), demands.first(), limit).await?,
        };
        let value = |(value, count)| shown(field, value).map(|value| ValueCount { value, count });
        let values = values.into_iter().filter_map(value).collect();
        Ok(DumpReport { dumps, values, has_more: false })
    }

    /// Counts by a column of the dump's own row.
    async fn by_column(&self, tx: &Tx<'_>, plan: &Plan, field: &Field) -> Result<DumpReport, StoreError> {
        let column = column(field);
        if let Some(report) = Self::by_turns(tx, plan, (field, column))? {
            return Ok(report);
        }
        let mut text = Text::new(tx);
        text.push("SELECT value, n, cast(sum(n) OVER () AS bigint) FROM (");
        // With nothing else to go by, the index of the column itself counts fastest.
        let plus = if text.engine == Engine::Sqlite && !plan.driver.is_empty() { "+" } else { "" };
        plan.write(&mut text, Selected::Of(&format!("d.{column} AS value, count(*) AS n")));
        text.push(&format!(" GROUP BY {plus}d.{column}) AS c ORDER BY n DESC, value LIMIT "));
        text.bind(MAX_REPORT_VALUES as u64 + 2);
        let rows = tx.ask(&text.sql, &text.values).await?;
        let dumps = rows.first().map_or(Ok(0), |row| row.count(2))?;
        let mut values = Vec::with_capacity(rows.len());
        for row in rows {
            let count = row.count(1)?;
            if let Some(value) = row.into_values().into_iter().next().and_then(|value| shown(field, value)) {
                values.push(ValueCount { value, count });
            }
        }
        Ok(DumpReport { dumps, values, has_more: false })
    }

    /// Counts by a column, one dump after the other, where that is faster and there are not too many values.
    fn by_turns(tx: &Tx<'_>, plan: &Plan, (field, column): (&Field, &str)) -> Result<Option<DumpReport>, StoreError> {
        // With nothing else to go by, the index of the column itself has them in their order.
        if plan.driver.is_empty() && !plan.is_in_order(column) {
            return Ok(None);
        }
        let mut text = Text::new(tx);
        plan.write(&mut text, Selected::Of(&format!("d.{column}")));
        let Some(counted) = tx.tally(&text.sql, &text.values, MAX_TALLIED)? else { return Ok(None) };
        let dumps = counted.iter().map(|(_, count)| count).sum();
        let value = |(value, count)| shown(field, value).map(|value| ValueCount { value, count });
        let mut values: Vec<_> = counted.into_iter().filter_map(value).collect();
        values.sort_by(|a, b| (b.count, &a.value).cmp(&(a.count, &b.value)));
        values.truncate(MAX_REPORT_VALUES + 1);
        Ok(Some(DumpReport { dumps, values, has_more: false }))
    }

    /// Counts by what was noted on the dumps.
    async fn by_property(&self, tx: &Tx<'_>, plan: &Plan, path: &str) -> Result<DumpReport, StoreError> {
        let mut text = Text::new(tx);
        text.push("SELECT p.text, count(*) AS n FROM (");
        plan.write(&mut text, Selected::Id);
        text.push(") AS d JOIN dump_property AS p ON p.dump = d.id AND p.path = ").bind(path);
        text.push(" GROUP BY p.text ORDER BY n DESC, p.text LIMIT ").bind(MAX_REPORT_VALUES as u64 + 1);
        let rows = tx.ask(&text.sql, &text.values).await?;
        let values = rows.iter().map(noted_value).collect::<Result<_, _>>()?;
        Ok(DumpReport { dumps: self.all(tx, plan).await?, values, has_more: false })
    }

    async fn all(&self, tx: &Tx<'_>, plan: &Plan) -> Result<u64, StoreError> {
        let mut text = Text::new(tx);
        plan.write(&mut text, Selected::Count);
        tx.ask(&text.sql, &text.values).await?.first().map_or(Ok(0), |row| row.count(0))
    }

    /// Puts the functions of stacks in place of their numbers.
    async fn with_stacks(&self, tx: &Tx<'_>, values: &mut [ValueCount]) -> Result<(), StoreError> {
        let mut texts = HashMap::new();
        for part in values.chunks(500) {
            let mut text = Text::new(tx);
            text.push("SELECT number, calls FROM stack WHERE tenant = ").bind(self.tenant).push(" AND number IN (");
            for (index, value) in part.iter().enumerate() {
                text.push(if index == 0 { "" } else { ", " });
                text.bind(value.value.parse::<i64>().unwrap_or_default());
            }
            text.push(")");
            for row in tx.ask(&text.sql, &text.values).await? {
                texts.insert(row.int(0)?.to_string(), row.json::<Vec<String>>(1)?.join(","));
            }
        }
        for value in values {
            if let Some(text) = texts.remove(&value.value) {
                value.value = text;
            }
        }
        Ok(())
    }
}

/// Tells whether the values of a field among the dumps that meet this need not be looked for dump by dump.
fn is_told(field: &Field, demands: &[Ready]) -> bool {
    match (field, demands) {
        (Field::Property(_), all) => all.is_empty(),
        (field, []) => is_counted(column(field)),
        (field, [Ready::Leaf(Leaf::Among(of, _))]) => is_counted(of) && column(field) == *of,
        (field, [Ready::Leaf(Leaf::Stacks(_))]) => *field == Field::Stack,
        _ => false,
    }
}

fn noted_value(row: &Row) -> Result<ValueCount, StoreError> {
    Ok(ValueCount { value: row.text(0)?.to_owned(), count: row.count(1)? })
}

/// Returns the text of a column's value; none, if there is none.
fn shown(field: &Field, value: Value) -> Option<String> {
    match (field, value) {
        (Field::Time, Value::Int(0)) | (_, Value::Null | Value::Bytes(_)) => None,
        (Field::Time | Field::Uploaded, Value::Int(micros)) => {
            Timestamp::from_microsecond(micros).ok().map(|time| time.to_string())
        }
        (Field::Truncated, Value::Int(truth)) => Some((truth != 0).to_string()),
        (_, Value::Int(number)) => Some(number.to_string()),
        (Field::Type, Value::Text(kind)) => {
            let known = serde_json::from_value(kind.clone().into()).map(kind_type);
            Some(known.map_or(kind, str::to_owned))
        }
        (_, Value::Text(text)) => Some(text),
    }
}

impl Operation for DumpsCount {
    type Answer = DumpReport;
    const ASKS: bool = true;

    async fn run(&self, tx: &Tx<'_>) -> Result<DumpReport, StoreError> {
        let demands = demands(tx, &self.of, (self.tenant, self.now)).await?;
        let known = tally::meeting(tx, self.tenant, &demands).await?;
        let mut report = match (&self.field, known) {
            (None, Some(dumps)) => return Ok(DumpReport { dumps, ..DumpReport::default() }),
            (Some(field), Some(dumps)) if is_told(field, &demands) => self.told(tx, field, &demands, dumps).await?,
            (field, _) => {
                let plan = Plan::all(tx, self.tenant, demands, FEW).await?;
                match field {
                    None => return Ok(DumpReport { dumps: self.all(tx, &plan).await?, ..DumpReport::default() }),
                    Some(Field::Property(path)) => self.by_property(tx, &plan, path).await?,
                    Some(field) => self.by_column(tx, &plan, field).await?,
                }
            }
        };
        let values = &mut report.values;
        report.has_more = values.len() > MAX_REPORT_VALUES;
        values.truncate(MAX_REPORT_VALUES);
        if self.field == Some(Field::Stack) {
            self.with_stacks(tx, values).await?;
        }
        if self.field == Some(Field::Type) {
            // Two kinds may be of one type.
            let mut types: Vec<ValueCount> = Vec::new();
            for one in values.drain(..) {
                match types.iter_mut().find(|known| known.value == one.value) {
                    Some(known) => known.count += one.count,
                    None => types.push(one),
                }
            }
            *values = types;
        }
        values.sort_by(|a, b| (a.count, &a.value).cmp(&(b.count, &b.value)));
        Ok(report)
    }
}

impl Store {
    /// Counts a tenant's dumps by the values of a field, if one is named.
    pub async fn dumps_count(
        &self,
        of: Specification,
        field: Option<Field>,
        tenant: TenantId,
        now: Timestamp,
    ) -> Result<DumpReport, StoreError> {
        self.read(DumpsCount { of, field, tenant, now }).await
    }
}
