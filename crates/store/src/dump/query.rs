//! Dumps looked for by a specification, page by page in the order of their times.
//!
//! The engines know little of how many rows a condition leaves, SQLite nothing, and a wrong guess costs seconds. So it is
//! looked up: of each condition that an index serves, the rows are known (`tally.rs`) or counted up to a bound. If one has
//! few, or fewer than would be passed over on the way to a full page, they are gathered and the rest is held against them;
//! if all have many, a page of those that meet them is soon found going through the dumps in their order.
//!
//! A property's rows have their dumps' ids and times, so what a property leads to is held against other properties and put
//! in its order before any dump is fetched.

use super::condition::{How, Leaf, Part, Ready, Text, demands, write_noted};
use super::{COLUMNS, STACK, read, tally};
use crate::error::StoreError;
use crate::statement::Engine;
use crate::store::Store;
use crate::transaction::{Operation, Session, Tx};
use jiff::Timestamp;
use model::dump::query::{DumpCursor, DumpOrder};
use model::dump::spec::{Specification, Test};
use model::{Dump, TenantId};

/// Rows that are few; where the code is tried out even fewer are, so that both ways are gone. The same holds for the next.
const FEW: u64 = if cfg!(debug_assertions) { 20 } else { 3_000 };
/// Rows that are counted where nobody knows how many they are.
const MAX_COUNTED: u64 = if cfg!(debug_assertions) { 60 } else { 20_000 };
/// Rows that are counted where another condition is known to have as many.
const MAX_COMPARED: u64 = if cfg!(debug_assertions) { 80 } else { 200_000 };
/// Dumps that a pattern is held against, to see how often it is met.
const SAMPLE: u64 = if cfg!(debug_assertions) { 10 } else { 1_000 };
/// Dumps that are passed over on the way to a full page, rather than going through an index.
const MAX_PASSED: u64 = if cfg!(debug_assertions) { 50 } else { 50_000 };
/// Rows that are gathered at most, though more would be passed over otherwise.
const MAX_GATHERED: u64 = 60_000;
/// Rows of which one is gone through beside another, instead of looking at each of them.
const SOME: u64 = if cfg!(debug_assertions) { 5 } else { 2_000 };
/// How many times as many rows the other may have.
const NEAR: u64 = 3;
/// One of how many dumps is taken to meet a condition that has more rows than are counted.
const UNKNOWN: u64 = 4;
/// What the index of the dumps' order has of them.
const IN_ORDER: [&str; 7] = ["kind", "cmd", "signature", "ticket", "state", "severity", "time"];
/// What a row costs that is gathered, against one that is passed over.
const GATHERING: f64 = 3.0;

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
    /// Whether its rows are few enough to be gathered first.
    pub(super) is_gathered: bool,
    /// Whether PostgreSQL might not see that, and must be kept from another way.
    pub(super) is_fenced: bool,
    /// What leads to about as many: it is gone through too, and what both lead to is meant.
    members: Vec<Vec<Ready>>,
    /// Everything else.
    pub(super) rest: Vec<Ready>,
}

impl Plan {
    /// Returns one by which this leads to all that is meant, and nothing is gathered.
    pub(super) const fn led(tenant: TenantId, driver: Vec<Ready>, rest: Vec<Ready>) -> Self {
        Self { tenant, driver, is_gathered: false, is_fenced: false, members: Vec::new(), rest }
    }

    /// Looks for what leads to all that is meant: the condition that leaves the fewest rows. Those of `few` are gathered.
    pub(super) async fn all(tx: &Tx<'_>, tenant: TenantId, demands: Vec<Ready>, few: u64) -> Result<Self, StoreError> {
        let worth = Worth { rows: few, most: MAX_COMPARED.max(few), page: None };
        let (mut ways, mut rest) = ways(tx, tenant, demands, worth).await?;
        if ways.is_empty() {
            return Ok(Self::led(tenant, Vec::new(), rest));
        }
        let fewest = ways[0].rows;
        // To look at each row of the one costs more than to go through both.
        let is_near = |way: &Way| fewest >= SOME && way.is_known && way.rows <= NEAR.saturating_mul(fewest);
        let near = 1 + ways[1..].iter().take_while(|way| is_near(way)).count();
        let has = |driver: &Way, way: &Way| covers(&driver.conditions, &way.conditions);
        let others = |way: &Way| ways[..near].iter().filter(|other| has(way, other)).count();
        // The index of a column may have all that is wanted of the dumps, that of a property never has.
        let is_fit = |place: &usize| near == 1 || !is_of_property(&ways[*place].conditions);
        let best = (0..near).filter(is_fit).max_by_key(|place| (others(&ways[*place]), near - place));
        let best = ways.remove(best.unwrap_or_default());
        let (covered, apart): (Vec<_>, Vec<_>) = ways.drain(..near - 1).partition(|way| has(&best, way));
        let members = apart.into_iter().map(|way| way.conditions).collect::<Vec<_>>();
        rest.extend(covered.into_iter().chain(ways).flat_map(|way| way.conditions));
        let is_gathered = best.rows < few;
        // Where nothing is held against what is gathered, the index may have all that is wanted of it.
        let is_fenced = is_gathered && members.is_empty() && !rest.is_empty();
        Ok(Self { is_gathered, is_fenced, members, ..Self::led(tenant, best.conditions, rest) })
    }

    /// Looks for what leads soonest to so many of what is meant, in the order of their times.
    pub(super) async fn page(
        tx: &Tx<'_>,
        tenant: TenantId,
        demands: Vec<Ready>,
        limit: u32,
    ) -> Result<Self, StoreError> {
        let worth = Worth { rows: MAX_COUNTED, most: MAX_COUNTED, page: Some(limit) };
        let (mut ways, mut rest) = ways(tx, tenant, demands, worth).await?;
        let all = tally::meeting(tx, tenant, &[]).await?.unwrap_or_default().max(1);
        let fewest = ways.first().map_or(u64::MAX, |way| way.rows);
        let ordered = ways.iter().position(|way| is_ordered(&way.conditions));
        let walked = ordered.map_or(all, |place| ways[place].rows);
        // One of so many is met, if no condition has to do with another.
        let met = ways.iter().fold(1.0, |met, way| met * way.rows as f64 / all as f64) * all as f64;
        let passed = (walked as f64 * f64::from(limit) / met.max(1.0)).min(walked as f64);
        let is_known = ways.first().is_some_and(|way| way.is_known && way.rows <= MAX_GATHERED);
        let is_gathered = fewest < FEW || is_known && GATHERING * (fewest as f64) < passed;
        let place = if is_gathered { Some(0) } else { ordered };
        // Sorting many costs more than passing over some: without an order there is no driver.
        let driver = place.map(|place| ways.remove(place).conditions).unwrap_or_default();
        rest.extend(ways.into_iter().flat_map(|way| way.conditions));
        Ok(Self { is_gathered, is_fenced: is_gathered, ..Self::led(tenant, driver, rest) })
    }

    /// Returns the property that leads to the dumps, if one does.
    fn noted(&self) -> Option<(&str, &[Test])> {
        match &self.driver[..] {
            [Ready::Leaf(Leaf::Property(path, tests))] => Some((path, tests)),
            _ => None,
        }
    }

    /// Returns where the dump's id and time stand.
    const fn key(&self) -> &'static str {
        if matches!(self.driver.as_slice(), [Ready::Leaf(Leaf::Property(..))]) { "k" } else { "d" }
    }

    /// Appends `SELECT … FROM … WHERE …` for all that is meant, each once.
    pub(super) fn write(&self, text: &mut Text, selected: Selected<'_>) {
        let Some(noted) = self.noted() else { return self.write_dumps(text, selected) };
        let (columns, is_fetched) = match selected {
            Selected::Id => ("k.id", false),
            Selected::Count => ("count(*)", false),
            Selected::Of(columns) => (columns, true),
        };
        let (light, heavy): (Vec<_>, Vec<_>) = self.rest.iter().partition(|one| is_noted(one));
        text.push("SELECT ").push(columns).push(" FROM (SELECT k.id FROM ");
        self.write_noted(text, noted);
        text.push(" WHERE true");
        self.write_members(text, "k");
        self.write_rest(text, &light);
        // A list may have what is asked for several times.
        text.push(" GROUP BY k.time, k.id) AS k");
        if is_fetched || !heavy.is_empty() {
            text.push(" CROSS JOIN dump AS d WHERE d.id = k.id");
            self.write_rest(text, &heavy);
        } else {
            text.push(" WHERE true");
        }
    }

    /// Appends the same for a page, whose order is still to be told.
    fn write_page(&self, text: &mut Text) {
        let Some(noted) = self.noted() else { return self.write_dumps(text, Selected::Id) };
        let (mut rest, heavy): (Vec<_>, Vec<_>) = self.rest.iter().partition(|one| is_noted(one));
        text.push("SELECT k.id FROM ");
        self.write_noted(text, noted);
        match (heavy.is_empty(), text.engine) {
            (true, _) => text.push(" WHERE true"),
            // Each engine would rather begin with the dumps, if it may.
            (false, Engine::Sqlite) => text.push(" CROSS JOIN dump AS d WHERE d.id = k.id"),
            (false, Engine::Postgres) => {
                text.push(" CROSS JOIN LATERAL (SELECT * FROM dump WHERE dump.id = k.id OFFSET 0) AS d WHERE true")
            }
        };
        rest.extend(heavy);
        self.write_rest(text, &rest);
    }

    fn write_noted(&self, text: &mut Text, noted: (&str, &[Test])) {
        text.push("(");
        write_noted(text, "p.dump AS id, p.time", self.tenant, noted);
        text.push(") AS k");
    }

    fn write_rest(&self, text: &mut Text, rest: &[&Ready]) {
        let plus = if text.engine == Engine::Sqlite { "+" } else { "" };
        for one in rest {
            text.push(" AND ");
            // A range of times shortens the way.
            let plus = if matches!(one, Ready::Leaf(Leaf::Time("time", ..))) { "" } else { plus };
            one.write(text, How { tenant: self.tenant, plus, part: Part::Rest, key: "k" });
        }
    }

    /// Appends that dumps are among those that the members lead to.
    fn write_members(&self, text: &mut Text, key: &str) {
        let plus = if text.engine == Engine::Sqlite { "+" } else { "" };
        for member in &self.members {
            text.push(&format!(" AND {plus}{key}.id IN ("));
            match &member[..] {
                [Ready::Leaf(Leaf::Property(path, tests))] => write_noted(text, "p.dump", self.tenant, (path, tests)),
                member => {
                    text.push("SELECT d.id FROM dump AS d WHERE ");
                    write_driver(text, self.tenant, member);
                }
            }
            text.push(")");
        }
    }

    /// Appends `SELECT … FROM … WHERE …`, with a `WITH …` before it if the engine needs it.
    fn write_dumps(&self, text: &mut Text, selected: Selected<'_>) {
        let selected = match selected {
            Selected::Id => "d.id",
            Selected::Count => "count(*)",
            Selected::Of(columns) => columns,
        };
        let is_gathered = self.is_gathered;
        let plus = if text.engine == Engine::Sqlite { "+" } else { "" };
        if self.is_fenced && text.engine == Engine::Postgres {
            text.push("WITH g AS MATERIALIZED (SELECT d.* FROM dump AS d");
            self.write_driver(text);
            text.push(") SELECT ").push(selected).push(" FROM g AS d WHERE true");
        } else {
            text.push("SELECT ").push(selected).push(" FROM dump AS d");
            if let Some(index) = self.index(selected).filter(|_| text.engine == Engine::Sqlite) {
                text.push(" INDEXED BY ").push(index);
            }
            self.write_driver(text);
        }
        self.write_members(text, "d");
        for one in &self.rest {
            text.push(" AND ");
            // The order of the index that drives goes by time, so a range of that only shortens the way.
            let is_time = matches!(one, Ready::Leaf(Leaf::Time("time", ..))) && !is_gathered;
            let plus = if is_time { "" } else { plus };
            one.write(text, How { tenant: self.tenant, plus, part: Part::Rest, key: "d" });
        }
    }

    /// Returns the index of what leads to few dumps. SQLite, which does not know that they are few, would rather go through
    /// all of another one, if that has all that is wanted; and where nothing leads to them, it does not see that one has.
    fn index(&self, selected: &str) -> Option<&'static str> {
        match &self.driver[..] {
            [Ready::Leaf(leaf)] if self.is_gathered => leaf.index(),
            [] if selected.strip_prefix("d.").is_some_and(|column| self.is_in_order(column)) => Some("dump_time"),
            _ => None,
        }
    }

    /// Tells whether nothing leads to the dumps, but the index of their order has this column and all that it takes to tell
    /// them.
    pub(super) fn is_in_order(&self, column: &str) -> bool {
        let is_held = |one: &Ready| is_held(one, &IN_ORDER);
        self.driver.is_empty() && self.members.is_empty() && IN_ORDER.contains(&column) && self.rest.iter().all(is_held)
    }

    fn write_driver(&self, text: &mut Text) {
        text.push(" WHERE ");
        write_driver(text, self.tenant, &self.driver);
    }
}

/// What of the dumps is selected.
#[derive(Clone, Copy, Debug)]
pub(super) enum Selected<'c> {
    /// Their ids.
    Id,
    /// How many they are.
    Count,
    /// Columns, by which they will be grouped.
    Of(&'c str),
}

/// Conditions that together name one range of an index.
struct Way {
    conditions: Vec<Ready>,
    /// How many rows it has, at least.
    rows: u64,
    /// Whether it has no more.
    is_known: bool,
}

impl Way {
    /// Returns how many rows these lead to, if somebody keeps count.
    async fn told(tx: &Tx<'_>, tenant: TenantId, conditions: &[Ready]) -> Result<Option<u64>, StoreError> {
        match tally::meeting(tx, tenant, conditions).await? {
            None => tally::noted(tx, tenant, conditions).await,
            known => Ok(known),
        }
    }

    /// Counts them, as long as they are not too many.
    async fn counted(tx: &Tx<'_>, tenant: TenantId, conditions: Vec<Ready>, bound: u64) -> Result<Self, StoreError> {
        let is_fetched = |one: &Ready| matches!(one, Ready::Leaf(leaf) if leaf.is_begun());
        // PostgreSQL does not count what is only begun in an index without a look at the dumps.
        let is_slow = matches!(tx.session(), Session::Postgres(_)) && conditions.iter().any(is_fetched);
        let bound = if is_slow { FEW } else { bound };
        let rows = count(tx, tenant, &conditions, bound).await?;
        Ok(Self { conditions, rows, is_known: rows < bound })
    }
}

/// How far it is worth looking for ways.
struct Worth {
    /// Rows that are counted of each.
    rows: u64,
    /// Rows that are counted where another way is known to have as many.
    most: u64,
    /// Dumps of a page, if one is all that is wanted.
    page: Option<u32>,
}

/// Tells the ways that indexes know, the shortest first, and what no index serves.
async fn ways(
    tx: &Tx<'_>,
    tenant: TenantId,
    demands: Vec<Ready>,
    worth: Worth,
) -> Result<(Vec<Way>, Vec<Ready>), StoreError> {
    let mut left = demands;
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
    let (searched, sought): (Vec<_>, Vec<_>) = drivable.into_iter().partition(is_searched);
    drivers.extend(sought.into_iter().map(|one| vec![one]));
    let (mut ways, mut untold) = (Vec::with_capacity(drivers.len()), Vec::new());
    for conditions in drivers {
        match Way::told(tx, tenant, &conditions).await? {
            Some(rows) => ways.push(Way { conditions, rows, is_known: true }),
            None => untold.push(conditions),
        }
    }
    let fewest = ways.iter().map(|way| way.rows).min();
    let bound = fewest.unwrap_or_default().clamp(worth.rows, worth.most);
    for conditions in untold {
        ways.push(Way::counted(tx, tenant, conditions, bound).await?);
    }
    // To go through an index costs more than a look at each of some dumps.
    let is_short = ways.iter().any(|way| way.is_known && way.rows <= MAX_COUNTED);
    for one in searched {
        let is_passed = is_short || is_left_to_the_engine(&one, tx) || {
            let walked = ways.iter().find(|way| is_ordered(&way.conditions)).map_or(&[][..], |way| &way.conditions);
            is_met_soon(tx, tenant, (walked, &one), worth.page).await?
        };
        if is_passed {
            rest.push(one);
        } else {
            ways.push(Way::counted(tx, tenant, vec![one], bound).await?);
        }
    }
    // What was counted to the bound may have any number of rows, and is taken to have a part of all. Of several with as
    // many one that keeps them in their order is best.
    let all = tally::meeting(tx, tenant, &[]).await?.unwrap_or_default();
    let guess = |way: &Way| if way.is_known { way.rows } else { way.rows.max(all / UNKNOWN) };
    ways.sort_by_key(|way| (guess(way), !is_ordered(&way.conditions)));
    Ok((ways, rest))
}

/// Tells whether so many of the first dumps of a driver meet this that a page of them is soon found.
async fn is_met_soon(
    tx: &Tx<'_>,
    tenant: TenantId,
    (walked, one): (&[Ready], &Ready),
    page: Option<u32>,
) -> Result<bool, StoreError> {
    let Some(page) = page else { return Ok(false) };
    let mut text = Text::new(tx);
    text.push("SELECT count(*) FROM (SELECT ");
    let plus = if text.engine == Engine::Sqlite { "+" } else { "" };
    one.write(&mut text, How { tenant, plus, part: Part::Rest, key: "d" });
    text.push(" AS is_met FROM dump AS d WHERE ");
    write_driver(&mut text, tenant, walked);
    text.push(" ORDER BY d.time, d.id LIMIT ").bind(SAMPLE).push(") AS s WHERE s.is_met");
    let rows = tx.ask(&text.sql, &text.values).await?;
    let met = rows.first().map_or(Ok(0), |row| row.count(0))?;
    Ok(met * MAX_PASSED >= u64::from(page) * SAMPLE)
}

fn write_driver(text: &mut Text, tenant: TenantId, driver: &[Ready]) {
    let how = How { tenant, plus: "", part: Part::Driver, key: "d" };
    if let [Ready::Any(any)] = driver {
        // Each of them with its tenant, so that each has an index of its own.
        for (index, one) in any.iter().enumerate() {
            text.push(if index == 0 { "((" } else { ") OR (" }).push("d.tenant = ").bind(tenant).push(" AND ");
            one.write(text, how);
        }
        text.push("))");
        return;
    }
    text.push("d.tenant = ").bind(tenant);
    for one in driver {
        text.push(" AND ");
        one.write(text, how);
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

/// Tells whether the index that one condition is served by has all that it takes to tell the other.
fn covers(driver: &[Ready], other: &[Ready]) -> bool {
    let held: &[&str] = match driver {
        [Ready::Leaf(Leaf::Among("cmd", _))] => &["kind", "platform", "signature", "time"],
        [Ready::Leaf(Leaf::Among("node" | "platform", _))] => &["kind", "cmd", "time"],
        [Ready::Leaf(Leaf::Among("kind", _))] => &["node", "platform", "time"],
        [Ready::Leaf(Leaf::Among("signature", _))] => &["cmd", "time"],
        [Ready::Leaf(Leaf::Time("time", ..)), ..] => &IN_ORDER,
        _ => &[],
    };
    other.iter().all(|one| is_held(one, held))
}

/// Tells whether these columns are all that it takes to tell this.
fn is_held(one: &Ready, held: &[&str]) -> bool {
    match one {
        Ready::Leaf(leaf) => leaf.column().is_some_and(|of| held.contains(&of)),
        Ready::Not(inner) => is_held(inner, held),
        Ready::Any(all) | Ready::All(all) => all.iter().all(|one| is_held(one, held)),
    }
}

fn is_of_property(driver: &[Ready]) -> bool {
    matches!(driver, [Ready::Leaf(Leaf::Property(..))])
}

/// Tells whether an index must be gone through, or much of it, to find what meets this.
fn is_searched(one: &Ready) -> bool {
    match one {
        Ready::Leaf(leaf) => leaf.is_searched(),
        Ready::Any(any) => any.iter().any(is_searched),
        Ready::All(_) | Ready::Not(_) => false,
    }
}

/// Tells whether PostgreSQL may look for itself: it has an idea of how many texts fit a pattern, and goes through all dumps
/// about as fast as through an index.
fn is_left_to_the_engine(one: &Ready, tx: &Tx<'_>) -> bool {
    // Few dumps have a cause, and so few are in its index.
    let is_open = |one: &Ready| matches!(one, Ready::Leaf(Leaf::Fits(column, glob)) if glob.prefix().is_empty() && *column != "cause");
    matches!(tx.session(), Session::Postgres(_))
        && match one {
            Ready::Any(any) => any.iter().any(is_open),
            one => is_open(one),
        }
}

fn is_noted(one: &Ready) -> bool {
    match one {
        Ready::Leaf(leaf) => leaf.is_noted(),
        Ready::All(all) | Ready::Any(all) => all.iter().all(is_noted),
        Ready::Not(inner) => is_noted(inner),
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
    text.push("SELECT count(*) FROM (");
    match driver {
        // The dumps themselves need not be looked at; one that has it twice counts twice, which is near enough.
        [Ready::Leaf(Leaf::Property(path, tests))] => write_noted(&mut text, "p.dump", tenant, (path, tests)),
        driver => {
            text.push("SELECT 1 FROM dump AS d WHERE ");
            write_driver(&mut text, tenant, driver);
        }
    }
    text.push(" LIMIT ").bind(few).push(") AS n");
    let rows = tx.ask(&text.sql, &text.values).await?;
    rows.first().map_or(Ok(0), |row| row.count(0))
}

/// Finds a page of dumps.
pub(crate) async fn page(tx: &Tx<'_>, asked: &DumpsAsked) -> Result<Vec<Dump>, StoreError> {
    let text = page_text(tx, asked).await?;
    let rows = tx.ask(&text.sql, &text.values).await?;
    rows.iter().map(read).collect()
}

async fn page_text(tx: &Tx<'_>, asked: &DumpsAsked) -> Result<Text, StoreError> {
    let demands = demands(tx, &asked.of, (asked.tenant, asked.now)).await?;
    let limit = asked.of.limit.map_or(asked.limit, |limit| limit.min(asked.limit));
    let plan = Plan::page(tx, asked.tenant, demands, limit).await?;
    let (compares, direction) = match asked.order {
        DumpOrder::Oldest => (" > (", ""),
        DumpOrder::Newest => (" < (", " DESC"),
    };
    let mut text = Text::new(tx);
    // The page's keys first: only its own rows are then fetched whole.
    text.push("SELECT ").push(COLUMNS).push(" FROM (");
    plan.write_page(&mut text);
    let (key, is_noted) = (plan.key(), plan.noted().is_some());
    let plus = if plan.is_gathered && !is_noted && text.engine == Engine::Sqlite { "+" } else { "" };
    if let Some(after) = asked.after {
        text.push(&format!(" AND ({plus}{key}.time, {plus}{key}.id)")).push(compares);
        text.bind(after.time).push(", ").bind(after.id).push(")");
    }
    if is_noted {
        // A list may have what is asked for several times.
        text.push(" GROUP BY k.time, k.id");
    }
    text.push(&format!(" ORDER BY {plus}{key}.time{direction}, {plus}{key}.id{direction} LIMIT ")).bind(limit);
    text.push(") AS k JOIN dump AS d ON d.id = k.id ").push(STACK);
    text.push(&format!(" ORDER BY d.time{direction}, d.id{direction}"));
    Ok(text)
}

struct DumpsFind(DumpsAsked);

impl Operation for DumpsFind {
    type Answer = (Vec<Dump>, u64);
    const ASKS: bool = true;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::now;
    use rusqlite::{Connection, params_from_iter};
    use std::sync::Mutex;

    /// A schema with few rows, and a tally that says whatever the test needs.
    fn told(tenant: TenantId, tally: &[(&str, &str, u64)]) -> Mutex<Connection> {
        let mut connection = Connection::open_in_memory().expect("opens");
        crate::migration::on_sqlite(&mut connection, Timestamp::UNIX_EPOCH).expect("is made");
        for (field, value, dumps) in tally {
            let insert = "INSERT INTO dump_count (tenant, field, value, dumps) VALUES (?, ?, ?, ?)";
            let values = (tenant.to_string(), field, value, i64::try_from(*dumps).expect("is small"));
            connection.execute(insert, values).expect("is told");
        }
        Mutex::new(connection)
    }

    /// Returns how SQLite, which knows nothing of how many rows there are, goes about a text.
    fn steps(connection: &Mutex<Connection>, text: &Text) -> Vec<String> {
        let connection = connection.lock().expect("nobody panicked");
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", text.sql)).expect("is understood");
        let steps = statement.query_map(params_from_iter(&text.values), |row| row.get(3)).expect("is explained");
        steps.collect::<Result<_, _>>().expect("is read")
    }

    #[test]
    fn what_an_index_leads_to_is_not_looked_for_among_all() {
        let tenant = TenantId::new(Timestamp::UNIX_EPOCH, 1);
        let (many, some) = (1_000_000, 5_000);
        let tally = [
            ("", "", many),
            ("cmd", "node", many / 5),
            ("platform", "p1", many / 5),
            ("properties.who", "ann", some),
            ("properties.who", "eve", 5),
            ("created_by", "ann", some),
            ("is_truncated", "1", some),
            ("properties.sure", "true", many / 5),
            ("properties.age", "3", many / 5),
        ];
        let connection = told(tenant, &tally);
        let tx = Tx::new(Session::Sqlite(&connection));
        // What it begins with, and whether that is in the order of the page.
        let check = |line: &str, begins: &str, is_ordered: bool| {
            let words: Vec<_> = line.split(' ').collect();
            let of = Specification::parse(&words).expect("is a specification");
            let (now_at, order) = (Timestamp::UNIX_EPOCH, DumpOrder::Oldest);
            let asked = DumpsAsked { of, tenant, order, after: None, limit: 100, now: now_at };
            let steps = steps(&connection, &now(page_text(&tx, &asked)).expect("is written"));
            assert!(steps.iter().all(|step| !step.starts_with("SCAN") || step == "SCAN k"), "{line}: {steps:#?}");
            let first = steps.iter().find(|step| step.starts_with("SEARCH")).expect("looks something up");
            assert!(first.contains(begins), "{line}: {steps:#?}");
            // The page's own rows are put in their order once more when they are fetched.
            let sorts = steps.iter().filter(|step| step.starts_with("USE TEMP B-TREE")).count();
            assert_eq!(sorts == 1, is_ordered, "{line}: {steps:#?}");
        };
        check("properties.who=ann", "COVERING INDEX dump_property_text (tenant=? AND path=? AND text=?)", true);
        check("properties.who=\"ann\"", "COVERING INDEX dump_property_text (tenant=? AND path=? AND text=?)", true);
        check("properties.who=ann properties.sure=true", "COVERING INDEX dump_property_text", true);
        check("properties.who=ann properties.level>7", "COVERING INDEX dump_property_number", false);
        check("properties.who=ann properties.age=3", "COVERING INDEX dump_property_text", true);
        check("properties.who=ann properties.level=3", "COVERING INDEX dump_property_number", false);
        check("properties.who=ann platform=p1", "COVERING INDEX dump_property_text", true);
        check("properties.who=eve psargs=*x*", "COVERING INDEX dump_property_text", true);
        check("cmd=node properties.sure=true", "INDEX dump_cmd (tenant=? AND cmd=?)", true);
        check("pid=7", "INDEX dump_pid (tenant=? AND pid=?)", false);
        check("pid>7 pid<9", "INDEX dump_pid (tenant=? AND pid>?)", false);
        check(&format!("digest={}", "0".repeat(64)), "INDEX dump_digest (tenant=? AND digest=?)", false);
        check("digest=76*", "INDEX dump_digest (tenant=? AND digest>? AND digest<?)", false);
        check("hash=76*", "INDEX dump_hash (tenant=? AND hash>? AND hash<?)", false);
        check("file=core.1", "COVERING INDEX dump_name (tenant=? AND name=?)", false);
        check("file=core.*", "COVERING INDEX dump_name (tenant=? AND name>? AND name<?)", false);
        check("file=*.1", "COVERING INDEX dump_name (tenant=? AND name>?)", false);
        check("file=core.* cmd=node", "INDEX dump_name (tenant=? AND name>? AND name<?)", false);
        check("psargs=java", "INDEX dump_psargs (tenant=? AND <expr>=?)", false);
        check("psargs=java*", "INDEX dump_psargs (tenant=? AND <expr>>? AND <expr><?)", false);
        check("psargs=*x*", "INDEX dump_psargs (tenant=? AND <expr>>?)", false);
        check("signature.text=raise*", "INDEX dump_signature_text (tenant=? AND <expr>>? AND <expr><?)", false);
        check("cause=*memory*", "INDEX dump_cause (tenant=? AND <expr>>?)", false);
        check("size=7", "COVERING INDEX dump_size (tenant=? AND size=?)", false);
        check("size>7 cmd=node", "INDEX dump_size (tenant=? AND size>?)", false);
        check("by=ann", "COVERING INDEX dump_by (tenant=? AND created_by=?)", true);
        check("truncated=true", "COVERING INDEX dump_truncated (tenant=?)", true);
        check("cmd>node", "COVERING INDEX dump_cmd (tenant=? AND cmd>?)", false);
        check("cmd=undefined", "COVERING INDEX dump_cmd (tenant=? AND cmd=?)", true);
        check("signature=undefined", "COVERING INDEX dump_signature (tenant=? AND signature=?)", true);
        check(
            "properties.who=a*",
            "COVERING INDEX dump_property_text (tenant=? AND path=? AND text>? AND text<?)",
            false,
        );
    }

    #[test]
    fn what_is_counted_is_read_off_indexes_where_one_has_it() {
        let tenant = TenantId::new(Timestamp::UNIX_EPOCH, 1);
        let many = 200_000;
        let tally = [
            ("", "", 5 * many),
            ("cmd", "node", many),
            ("cmd", "rare", 10),
            ("platform", "p1", many),
            ("ticket", "T-1", many),
            ("properties.sure", "true", many),
        ];
        let connection = told(tenant, &tally);
        let tx = Tx::new(Session::Sqlite(&connection));
        let check = |line: &str, column: &str, expected: &[&str]| {
            let words: Vec<_> = line.split(' ').collect();
            let of = Specification::parse(&words).expect("is a specification");
            let ready = now(demands(&tx, &of, (tenant, Timestamp::UNIX_EPOCH))).expect("is understood");
            let plan = now(Plan::all(&tx, tenant, ready, crate::dump::count::FEW)).expect("is made");
            let mut text = Text::new(&tx);
            plan.write(&mut text, Selected::Of(column));
            let mut steps = steps(&connection, &text);
            // How it looks something up in what it has gathered is its own affair.
            steps.retain(|step| step != "CREATE BLOOM FILTER");
            assert_eq!(steps, expected, "{line}: {column}");
        };
        let by_cmd = "SEARCH d USING COVERING INDEX dump_cmd (tenant=? AND cmd=?)";
        check("cmd=node", "d.platform", &[by_cmd]);
        check("cmd=node platform=p1", "d.kind", &[by_cmd]);
        // Each is gone through once, rather than the properties of each dump.
        let sure = "SEARCH p USING COVERING INDEX dump_property_text (tenant=? AND path=? AND text=?)";
        check("cmd=node properties.sure=true", "d.platform", &[by_cmd, "LIST SUBQUERY 1", sure]);
        let ticket = "SEARCH d USING COVERING INDEX dump_ticket (tenant=? AND ticket=?)";
        check("cmd=node ticket=T-1", "d.platform", &[by_cmd, "LIST SUBQUERY 1", ticket]);
        check("cmd=node", "d.signature", &[by_cmd]);
        // What is rare is not looked for among all, though another index has what is wanted.
        check("cmd=rare", "d.ticket", &["SEARCH d USING INDEX dump_cmd (tenant=? AND cmd=?)"]);
        // Of an age, or where nothing leads to what is meant, the dumps' order has what is most asked for.
        let since = "tenant=? AND time>?";
        check("mtime=30d", "d.severity", &[&format!("SEARCH d USING COVERING INDEX dump_time ({since})")]);
        check("mtime=30d ticket=undefined", "d.cmd", &[&format!("SEARCH d USING COVERING INDEX dump_time ({since})")]);
        check("mtime=30d", "d.platform", &[&format!("SEARCH d USING COVERING INDEX dump_place ({since})")]);
        for line in ["ticket=undefined", "ticket!=undefined cmd!=node", "NOT ( cmd=node OR cmd=rare )"] {
            check(line, "d.signature", &["SEARCH d USING COVERING INDEX dump_time (tenant=?)"]);
        }
    }
}
