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
use crate::transaction::{Operation, Tx};
use jiff::Timestamp;
use model::dump::query::{DumpCursor, DumpOrder};
use model::dump::spec::{Specification, Test};
use model::{Dump, TenantId};

/// Rows that are few; where the code is tried out even fewer are, so that both ways are gone. The same holds for the next.
const FEW: u64 = if cfg!(debug_assertions) { 20 } else { 3_000 };
/// Rows that are counted where nobody knows how many they are.
const MAX_COUNTED: u64 = if cfg!(debug_assertions) { 60 } else { 20_000 };
/// Rows that are gathered at most, though more would be passed over otherwise.
const MAX_GATHERED: u64 = 60_000;
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
    /// Everything else.
    pub(super) rest: Vec<Ready>,
}

impl Plan {
    /// Looks for what leads to all that is meant: the condition that leaves the fewest rows. Those of `few` are gathered.
    pub(super) async fn all(tx: &Tx<'_>, tenant: TenantId, demands: Vec<Ready>, few: u64) -> Result<Self, StoreError> {
        let (mut ways, mut rest) = ways(tx, tenant, demands, few).await?;
        if ways.is_empty() {
            return Ok(Self { tenant, driver: Vec::new(), is_gathered: false, is_fenced: false, rest });
        }
        let best = ways.remove(0);
        rest.extend(ways.into_iter().flat_map(|way| way.conditions));
        let is_gathered = best.rows < few;
        // Where nothing is held against what is gathered, the index may have all that is wanted of it.
        Ok(Self { tenant, is_gathered, is_fenced: is_gathered && !rest.is_empty(), driver: best.conditions, rest })
    }

    /// Looks for what leads soonest to so many of what is meant, in the order of their times.
    pub(super) async fn page(
        tx: &Tx<'_>,
        tenant: TenantId,
        demands: Vec<Ready>,
        limit: u32,
    ) -> Result<Self, StoreError> {
        let (mut ways, mut rest) = ways(tx, tenant, demands, MAX_COUNTED).await?;
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
        Ok(Self { tenant, driver, is_gathered, is_fenced: is_gathered, rest })
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
            self.write_driver(text);
        }
        for one in &self.rest {
            text.push(" AND ");
            // The order of the index that drives goes by time, so a range of that only shortens the way.
            let is_time = matches!(one, Ready::Leaf(Leaf::Time("time", ..))) && !is_gathered;
            let plus = if is_time { "" } else { plus };
            one.write(text, How { tenant: self.tenant, plus, part: Part::Rest, key: "d" });
        }
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

/// Tells the ways that indexes know, the shortest first, and what no index serves.
async fn ways(
    tx: &Tx<'_>,
    tenant: TenantId,
    demands: Vec<Ready>,
    bound: u64,
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
    let (drivable, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(is_drivable);
    drivers.extend(drivable.into_iter().map(|one| vec![one]));
    let mut ways = Vec::with_capacity(drivers.len());
    for conditions in drivers {
        let known = match tally::meeting(tx, tenant, &conditions).await? {
            None => tally::noted(tx, tenant, &conditions).await?,
            known => known,
        };
        let (rows, is_known) = match known {
            Some(rows) => (rows, true),
            None => count(tx, tenant, &conditions, bound).await.map(|rows| (rows, rows < bound))?,
        };
        ways.push(Way { conditions, rows, is_known });
    }
    // Of several with as many rows one that keeps them in their order is best.
    ways.sort_by_key(|way| (way.rows, !is_ordered(&way.conditions)));
    Ok((ways, rest))
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
    use crate::transaction::Session;
    use rusqlite::{Connection, params_from_iter};
    use std::sync::Mutex;

    /// A schema with few rows, and a tally that says whatever the test needs.
    fn told(tenant: TenantId, tally: &[(&str, &str, u64)]) -> Mutex<Connection> {
        let connection = Connection::open_in_memory().expect("opens");
        crate::migration::on_sqlite(&connection, Timestamp::UNIX_EPOCH).expect("is made");
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
        check("properties.who=ann psargs=*x*", "COVERING INDEX dump_property_text", true);
        check("cmd=node properties.sure=true", "INDEX dump_cmd (tenant=? AND cmd=?)", true);
        check("pid=7", "INDEX dump_pid (tenant=? AND pid=?)", false);
        check("pid>7 pid<9", "INDEX dump_pid (tenant=? AND pid>?)", false);
        check(&format!("digest={}", "0".repeat(64)), "INDEX dump_digest (tenant=? AND digest=?)", false);
    }
}
