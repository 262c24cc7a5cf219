//! Dumps looked for by a specification, page by page in the order of their times.
//!
//! The engines know little of how many rows a condition leaves, SQLite nothing, and a wrong guess costs seconds. So it is
//! looked up: of each condition that an index serves, the rows are counted up to a bound. If one has few, they are gathered
//! and the rest is held against them; if all have many, a page of those that meet them is soon found going through the
//! dumps in their order.

use super::condition::{Leaf, Preparation, Ready, Text};
use super::{COLUMNS, STACK, read};
use crate::error::StoreError;
use crate::statement::Engine;
use crate::store::Store;
use crate::transaction::{Operation, Tx};
use jiff::Timestamp;
use model::dump::query::{DumpCursor, DumpOrder};
use model::dump::spec::Specification;
use model::{Dump, TenantId};

/// Rows that are few; where the code is tried out even fewer are, so that both ways are gone.
const FEW: u64 = if cfg!(debug_assertions) { 40 } else { 3_000 };

/// A question for a page of dumps.
#[derive(Clone, Debug)]
pub struct DumpsAsked {
    /// Which ones.
    pub of: Specification,
    /// Whose.
    pub tenant: TenantId,
    /// In which order.
    pub order: DumpOrder,
    /// Behind which one the page begins.
    pub after: Option<DumpCursor>,
    /// How many at most.
    pub limit: u32,
    /// When it is asked: ages count from here.
    pub now: Timestamp,
}

/// What leads to the dumps, and what is held against each of them.
pub(super) struct Plan {
    /// Whose.
    pub(super) tenant: TenantId,
    /// What an index serves, if anything; together they name one range of it.
    pub(super) driver: Vec<Ready>,
    /// How many rows that has, if they are few.
    pub(super) few: Option<u64>,
    /// Everything else.
    pub(super) rest: Vec<Ready>,
}

impl Plan {
    /// Looks for the condition that leaves the fewest rows; those of `few` are few.
    pub(super) async fn make(
        tx: &Tx<'_>,
        of: &Specification,
        (tenant, now): (TenantId, Timestamp),
        few: u64,
    ) -> Result<Self, StoreError> {
        let ready = Preparation { tx, tenant, now }.ready(&of.condition).await?;
        let mut left = ready.conjuncts();
        let mut drivers = Vec::new();
        // What is said of one time goes together: it is a range.
        for column in ["time", "uploaded_at"] {
            let is_its = |one: &Ready| matches!(one, Ready::Leaf(Leaf::Time(of, ..)) if *of == column);
            let (range, others): (Vec<_>, Vec<_>) = left.into_iter().partition(is_its);
            left = others;
            if !range.is_empty() {
                drivers.push(range);
            }
        }
        let (drivable, mut rest): (Vec<_>, Vec<_>) = left.into_iter().partition(is_drivable);
        drivers.extend(drivable.into_iter().map(|one| vec![one]));
        let mut counted = Vec::with_capacity(drivers.len());
        for driver in drivers {
            counted.push((count(tx, tenant, &driver, few).await?, driver));
        }
        // Of several with many rows one that keeps them in their order is best.
        counted.sort_by_key(|(rows, driver)| (*rows, !is_ordered(driver)));
        let mut counted = counted.into_iter();
        let Some((rows, driver)) = counted.next() else {
            return Ok(Self { tenant, driver: Vec::new(), few: None, rest });
        };
        rest.extend(counted.flat_map(|(_, other)| other));
        Ok(Self { tenant, driver, few: Some(rows).filter(|rows| *rows < few), rest })
    }

    /// Appends `FROM … WHERE …`, with a `WITH …` before what is selected if the engine needs it.
    pub(super) fn write(&self, text: &mut Text, selected: &str) {
        let is_gathered = self.few.is_some();
        let plus = if text.engine == Engine::Sqlite { "+" } else { "" };
        if is_gathered && text.engine == Engine::Postgres {
            text.push("WITH g AS MATERIALIZED (SELECT d.* FROM dump AS d");
            self.write_driver(text);
            text.push(") SELECT ").push(selected).push(" FROM g AS d WHERE true");
        } else {
            text.push("SELECT ").push(selected).push(" FROM dump AS d");
            self.write_driver(text);
        }
        for one in &self.rest {
            text.push(" AND ");
            // The order of the index that drives goes by time, so a range of that only shortens the way.
            let is_time = matches!(one, Ready::Leaf(Leaf::Time("time", ..))) && !is_gathered;
            one.write(text, (self.tenant, if is_time { "" } else { plus }));
        }
    }

    fn write_driver(&self, text: &mut Text) {
        text.push(" WHERE ");
        write_driver(text, self.tenant, &self.driver);
    }
}

fn write_driver(text: &mut Text, tenant: TenantId, driver: &[Ready]) {
    if let [Ready::Any(any)] = driver {
        // Each of them with its tenant, so that each has an index of its own.
        for (index, one) in any.iter().enumerate() {
            text.push(if index == 0 { "((" } else { ") OR (" }).push("d.tenant = ").bind(tenant).push(" AND ");
            one.write(text, (tenant, ""));
        }
        text.push("))");
        return;
    }
    text.push("d.tenant = ").bind(tenant);
    for one in driver {
        text.push(" AND ");
        one.write(text, (tenant, ""));
    }
}

fn is_drivable(one: &Ready) -> bool {
    match one {
        Ready::Leaf(leaf) => leaf.is_drivable(),
        Ready::Any(any) => {
            !any.is_empty() && any.iter().all(|one| matches!(one, Ready::Leaf(leaf) if leaf.is_drivable()))
        }
        Ready::All(_) | Ready::Not(_) => false,
    }
}

fn is_ordered(driver: &[Ready]) -> bool {
    match driver {
        [Ready::Leaf(Leaf::Time(column, ..)), ..] => *column == "time",
        [Ready::Leaf(leaf)] => leaf.is_ordered(),
        _ => false,
    }
}

/// Counts the rows that a driver leads to, as long as they are few.
async fn count(tx: &Tx<'_>, tenant: TenantId, driver: &[Ready], few: u64) -> Result<u64, StoreError> {
    let mut text = Text::new(tx);
    text.push("SELECT count(*) FROM (SELECT 1 FROM dump AS d WHERE ");
    write_driver(&mut text, tenant, driver);
    text.push(" LIMIT ").bind(few).push(") AS n");
    let rows = tx.ask(&text.sql, &text.values).await?;
    rows.first().map_or(Ok(0), |row| row.count(0))
}

/// Finds a page of dumps.
pub(crate) async fn page(tx: &Tx<'_>, asked: &DumpsAsked) -> Result<Vec<Dump>, StoreError> {
    let mut plan = Plan::make(tx, &asked.of, (asked.tenant, asked.now), FEW).await?;
    if plan.few.is_none() && !plan.driver.is_empty() && !is_ordered(&plan.driver) {
        // Sorting many costs more than passing over some.
        plan.rest.append(&mut plan.driver);
    }
    let limit = asked.of.limit.map_or(asked.limit, |limit| limit.min(asked.limit));
    let (compares, direction) = match asked.order {
        DumpOrder::Oldest => (" > (", ""),
        DumpOrder::Newest => (" < (", " DESC"),
    };
    let mut text = Text::new(tx);
    // The page's keys first: only its own rows are then fetched whole.
    text.push("SELECT ").push(COLUMNS).push(" FROM (");
    plan.write(&mut text, "d.id");
    let plus = if plan.few.is_some() && text.engine == Engine::Sqlite { "+" } else { "" };
    if let Some(after) = asked.after {
        text.push(&format!(" AND ({plus}d.time, {plus}d.id)")).push(compares);
        text.bind(after.time).push(", ").bind(after.id).push(")");
    }
    text.push(&format!(" ORDER BY {plus}d.time{direction}, {plus}d.id{direction} LIMIT ")).bind(limit);
    text.push(") AS k JOIN dump AS d ON d.id = k.id ").push(STACK);
    text.push(&format!(" ORDER BY d.time{direction}, d.id{direction}"));
    let rows = tx.ask(&text.sql, &text.values).await?;
    rows.iter().map(read).collect()
}

struct DumpsFind(DumpsAsked);

impl Operation for DumpsFind {
    type Answer = (Vec<Dump>, u64);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let head = crate::change::bounds(tx).await?.head;
        Ok((page(tx, &self.0).await?, head))
    }
}

impl Store {
    /// Finds a page of dumps, with the log's head at that moment.
    pub async fn dumps_find(&self, asked: DumpsAsked) -> Result<(Vec<Dump>, u64), StoreError> {
        self.read(DumpsFind(asked)).await
    }
}
