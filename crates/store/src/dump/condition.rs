//! What a specification asks, made ready for SQL, and the SQL of it.
//!
//! Patterns are resolved first, against the values that there are and that are counted: a pattern over commands becomes the few commands that
//! fit it, one over stacks becomes the few stacks, and both can then be looked up in an index. Where that are too many, the
//! pattern stays a filter. A condition is two-valued: what a dump does not have meets no test, and `NOT` turns that around,
//! so nothing below a `NOT` may come out as SQL's unknown.

use super::{DumpKey, Taken, find, property::sortable};
use crate::error::StoreError;
use crate::signature::{self, SignatureKey};
use crate::statement::Engine;
use crate::transaction::{Session, Tx};
use crate::value::{Value, to_json};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use model::dump::spec::{Comparison, Condition, DumpName, Field, Glob, Piece, Specification, Test};
use model::dump::{MAX_HASH_CHARS, found};
use model::{DumpId, TenantId};
use std::fmt::Write;

/// Different values of a column that a pattern is held against before the search; of more, each dump is looked at.
/// Where the code is tried out fewer suffice, so that both ways are gone; the same holds for the next.
const MAX_DISTINCT: usize = if cfg!(debug_assertions) { 6 } else { 10_000 };
/// Values, or stacks, that a pattern may become.
const MAX_LISTED: usize = if cfg!(debug_assertions) { 2 } else { 5_000 };

/// Characters of a long text that an index has.
const BEGINNING_CHARS: usize = 256;

/// Values that a text of SQL lists one by one.
const MAX_SPELT: usize = if cfg!(debug_assertions) { 2 } else { 16 };

/// A text of SQL and the values in it. Each value is a parameter of its own, so they appear in ascending order.
pub(super) struct Text {
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
    pub(super) engine: Engine,
}

impl Text {
    pub(super) fn new(tx: &Tx<'_>) -> Self {
        let engine = match tx.session() {
            Session::Sqlite(_) => Engine::Sqlite,
            Session::Postgres(_) => Engine::Postgres,
        };
        Self { sql: String::new(), values: Vec::new(), engine }
    }

    pub(super) fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    pub(super) fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        // Writing into a text cannot fail.
        let _ = write!(self.sql, "${}", self.values.len());
        self
    }

    /// Appends that a column is one of some texts.
    pub(super) fn among(&mut self, column: &str, texts: &[String]) {
        self.one_of(column, texts.iter().map(Value::from).collect(), to_json(&texts), "value COLLATE \"C\"");
    }

    fn among_numbers(&mut self, column: &str, numbers: &[i64]) {
        let values = numbers.iter().map(|number| Value::Int(*number)).collect();
        self.one_of(column, values, to_json(&numbers), "cast(value AS bigint)");
    }

    /// Few values stand in the text, so that the engine knows how many they are; more are one value, a list.
    fn one_of(&mut self, column: &str, values: Vec<Value>, list: String, element: &str) {
        if values.len() <= MAX_SPELT {
            self.push(column);
            for (index, value) in values.into_iter().enumerate() {
                self.push(if index == 0 { " IN (" } else { ", " }).bind(value);
            }
            self.push(")");
            return;
        }
        match self.engine {
            Engine::Sqlite => {
                self.push(column).push(" IN (SELECT value FROM json_each(").bind(list).push("))");
            }
            // An array is looked up in an index, where the planner would take the rows of a list for a table to join.
            Engine::Postgres => {
                self.push(column).push(" = ANY (ARRAY(SELECT ").push(element);
                self.push(" FROM json_array_elements_text(cast(").bind(list).push(" AS json))))");
            }
        }
    }

    fn fits(&mut self, column: &str, glob: &Glob) {
        let operator = match self.engine {
            Engine::Sqlite => " GLOB ",
            Engine::Postgres => " LIKE ",
        };
        let pattern = pattern(glob, self.engine);
        self.push(column).push(operator).bind(pattern);
    }

    /// Appends that a column begins so, as a range that its index knows.
    fn range(&mut self, column: &str, prefix: &str) {
        self.push(column).push(" >= ").bind(prefix);
        if let Some(end) = behind(prefix) {
            self.push(" AND ").push(column).push(" < ").bind(end);
        }
    }
}

/// Returns a pattern in the engine's own signs.
fn pattern(glob: &Glob, engine: Engine) -> String {
    let mut text = String::new();
    for piece in glob.pieces() {
        match (piece, engine) {
            (Piece::Many, Engine::Sqlite) => text.push('*'),
            (Piece::One, Engine::Sqlite) => text.push('?'),
            (Piece::Char(one @ ('*' | '?' | '[')), Engine::Sqlite) => text.extend(['[', *one, ']']),
            (Piece::Many, Engine::Postgres) => text.push('%'),
            (Piece::One, Engine::Postgres) => text.push('_'),
            (Piece::Char(one @ ('%' | '_' | '\\')), Engine::Postgres) => text.extend(['\\', *one]),
            (Piece::Char(one), _) => text.push(*one),
        }
    }
    text
}

/// Returns the least text behind all that begin with this one; none if there is none.
fn behind(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// How a condition is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct How<'p> {
    /// Whose dumps.
    pub(super) tenant: TenantId,
    /// What stands before each column: a plus keeps SQLite from taking an index for it.
    pub(super) plus: &'p str,
    /// What it is for.
    pub(super) part: Part,
    /// Where the dump's id and time stand.
    pub(super) key: &'static str,
}

/// What a condition is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It leads to the dumps.
    Driver,
    /// It is held against each of those that something else leads to.
    Rest,
}

/// A condition whose patterns are resolved.
#[derive(Clone, Debug)]
pub(super) enum Ready {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Leaf(Leaf),
}

/// Something that one field is asked.
#[derive(Clone, Debug)]
pub(super) enum Leaf {
    /// The column is one of these texts.
    Among(&'static str, Vec<String>),
    /// It is there, or not.
    Gone(&'static str),
    Compares(&'static str, Comparison, Value),
    Fits(&'static str, Glob),
    /// Whether its end is missing.
    Truncated(bool),
    /// When something was; 0 stands for nobody knowing.
    Time(&'static str, Comparison, i64),
    Stacks(Vec<i64>),
    StackFits(Glob),
    PropertyGone(String),
    /// A property has a value that meets one of these.
    Property(String, Vec<Test>),
}

/// Makes a specification's condition ready.
struct Preparation<'t> {
    tx: &'t Tx<'t>,
    tenant: TenantId,
    now: Timestamp,
}

impl Preparation<'_> {
    fn ready<'p>(&'p self, condition: &'p Condition) -> BoxFuture<'p, Result<Ready, StoreError>> {
        async move {
            let each = async |all: &'p [Condition]| {
                let mut ready = Vec::with_capacity(all.len());
                for one in all {
                    ready.push(self.ready(one).await?);
                }
                Ok::<_, StoreError>(ready)
            };
            Ok(match condition {
                Condition::All(all) => Ready::All(each(all).await?),
                Condition::Any(any) => either(any).map_or(Ready::Any(each(any).await?), Ready::Leaf),
                Condition::Not(inner) => Ready::Not(Box::new(self.ready(inner).await?)),
                Condition::Named(names) => Ready::Leaf(self.named(names).await?),
                Condition::Field(field, test) => Ready::Leaf(self.field(field, test).await?),
            })
        }
        .boxed()
    }

    fn pinned<'p>(&'p self, condition: &'p Condition) -> BoxFuture<'p, Result<Condition, StoreError>> {
        async move {
            let each = async |all: &'p [Condition]| {
                let mut pinned = Vec::with_capacity(all.len());
                for one in all {
                    pinned.push(self.pinned(one).await?);
                }
                Ok::<_, StoreError>(pinned)
            };
            Ok(match condition {
                Condition::All(all) => Condition::All(each(all).await?),
                Condition::Any(any) => Condition::Any(each(any).await?),
                Condition::Not(inner) => Condition::Not(Box::new(self.pinned(inner).await?)),
                Condition::Field(Field::Signature, Test::Text(Comparison::Equal, text)) => {
                    let is_one = |id| Condition::Field(Field::Signature, Test::Text(Comparison::Equal, id));
                    let mut ids = self.signature(text).await?;
                    match ids.pop() {
                        Some(id) if ids.is_empty() => is_one(id),
                        last => Condition::Any(ids.into_iter().chain(last).map(is_one).collect()),
                    }
                }
                Condition::Named(names) => {
                    Condition::Named(self.ids(names).await?.into_iter().map(DumpName::Id).collect())
                }
                Condition::Field(..) => condition.clone(),
            })
        }
        .boxed()
    }

    async fn named(&self, names: &[DumpName]) -> Result<Leaf, StoreError> {
        Ok(Leaf::Among("id", self.ids(names).await?.iter().map(ToString::to_string).collect()))
    }

    async fn ids(&self, names: &[DumpName]) -> Result<Vec<DumpId>, StoreError> {
        let taken = Taken { reach: Some(self.tenant), namespace: self.tenant };
        let mut ids = Vec::with_capacity(names.len());
        for name in names {
            let key = match name {
                DumpName::Id(id) => DumpKey::Id(*id),
                DumpName::Hash(hash) => DumpKey::Hash(hash.clone()),
            };
            ids.push(find(self.tx, &key, taken).await?.id);
        }
        Ok(ids)
    }

    async fn field(&self, field: &Field, test: &Test) -> Result<Leaf, StoreError> {
        if let Field::Property(path) = field {
            return Ok(match test {
                Test::Undefined => Leaf::PropertyGone(path.clone()),
                test => Leaf::Property(path.clone(), vec![test.clone()]),
            });
        }
        let column = column(field);
        Ok(match test {
            Test::Undefined => Leaf::Gone(column),
            Test::Kinds(kinds) => Leaf::Among(column, kinds.iter().map(word).collect()),
            Test::States(states) => Leaf::Among(column, states.iter().map(word).collect()),
            Test::Severities(severities) => Leaf::Among(column, severities.iter().map(word).collect()),
            // Nothing else of a dump's own row is true or false.
            Test::Truth(truth) => Leaf::Truncated(*truth),
            Test::Number(comparison, number) => Leaf::Compares(column, *comparison, (*number).into()),
            Test::Time(comparison, moment) => Leaf::Time(column, *comparison, moment.at(self.now).as_microsecond()),
            Test::Text(_, text) if *field == Field::Stack => self.stacks(Some(text), None).await?,
            Test::Fits(glob) if *field == Field::Stack => self.stacks(None, Some(glob)).await?,
            Test::Text(Comparison::Equal, text) if *field == Field::Signature => {
                Leaf::Among(column, self.signature(text).await?)
            }
            Test::Text(Comparison::Equal, text) => Leaf::Among(column, vec![text.clone()]),
            Test::Text(comparison, text) => Leaf::Compares(column, *comparison, text.into()),
            Test::Fits(glob) if is_few(column) => self.values(column, glob).await?,
            Test::Fits(glob) => Leaf::Fits(column, glob.clone()),
            Test::Amount(..) | Test::Quoted(..) => Leaf::Among(column, Vec::new()),
        })
    }

    /// Returns the id of the signature that a text names by it or its beginning, and that of the one it was merged into: dumps
    /// stand under the first until they are moved to the second.
    async fn signature(&self, text: &str) -> Result<Vec<String>, StoreError> {
        let id = match text.parse::<SignatureKey>() {
            Ok(key) if text.len() < MAX_HASH_CHARS => signature::find(self.tx, self.tenant, &key).await?.signature.id,
            _ => match text.parse() {
                Ok(id) => id,
                Err(_) => return Ok(vec![text.to_owned()]),
            },
        };
        let whole = signature::end(self.tx, self.tenant, id).await?;
        Ok([id].into_iter().chain((whole != id).then_some(whole)).map(|id| id.to_string()).collect())
    }

    /// Finds the values of an indexed column that fit a pattern, where its values are counted.
    async fn values(&self, column: &'static str, glob: &Glob) -> Result<Leaf, StoreError> {
        let prefix = glob.prefix();
        let mut text = Text::new(self.tx);
        text.push("SELECT k.value FROM dump_count AS k WHERE k.tenant = ").bind(self.tenant);
        text.push(" AND k.field = ").bind(column).push(" AND ").range("k.value", &prefix);
        text.push(" LIMIT ").bind(MAX_DISTINCT as u64 + 1);
        let rows = self.tx.ask(&text.sql, &text.values).await?;
        if rows.len() > MAX_DISTINCT {
            return Ok(Leaf::Fits(column, glob.clone()));
        }
        let mut fitting = Vec::new();
        for row in &rows {
            let value = row.text(0)?;
            if glob.fits(value) {
                fitting.push(value.to_owned());
            }
        }
        Ok(if fitting.len() > MAX_LISTED { Leaf::Fits(column, glob.clone()) } else { Leaf::Among(column, fitting) })
    }

    /// Finds the stacks that have a call of this text, or one that fits.
    async fn stacks(&self, call: Option<&String>, glob: Option<&Glob>) -> Result<Leaf, StoreError> {
        let mut text = Text::new(self.tx);
        text.push("SELECT DISTINCT p.stack FROM stack_call AS p WHERE p.tenant = ").bind(self.tenant);
        text.push(" AND p.call IN (SELECT c.number FROM call AS c WHERE c.tenant = ").bind(self.tenant).push(" AND ");
        match (call, glob) {
            (Some(call), _) => {
                text.push("c.text = ").bind(call);
            }
            (None, Some(glob)) => text.fits("c.text", glob),
            (None, None) => {
                text.push("true");
            }
        }
        text.push(") LIMIT ").bind(MAX_LISTED as u64 + 1);
        let rows = self.tx.ask(&text.sql, &text.values).await?;
        if rows.len() > MAX_LISTED {
            return Ok(Leaf::StackFits(glob.cloned().unwrap_or_else(|| Glob::exact(call.map_or("", String::as_str)))));
        }
        Ok(Leaf::Stacks(rows.iter().map(|row| row.int(0)).collect::<Result<_, _>>()?))
    }
}

/// Returns a property that is a number or the text of one, which is how `=3` is understood: one row of it tells both.
fn either(any: &[Condition]) -> Option<Leaf> {
    match any {
        [
            Condition::Field(Field::Property(path), amount @ Test::Amount(..)),
            Condition::Field(Field::Property(other), text @ Test::Text(Comparison::Equal, _)),
        ] if path == other => Some(Leaf::Property(path.clone(), vec![amount.clone(), text.clone()])),
        _ => None,
    }
}

/// Returns a condition that names dumps by their ids and signatures by their whole ones, merged ones too, so that a dump alone
/// tells whether it is met.
pub(super) async fn pinned(tx: &Tx<'_>, tenant: TenantId, condition: &Condition) -> Result<Condition, StoreError> {
    // Nothing in it depends on the time.
    Preparation { tx, tenant, now: Timestamp::UNIX_EPOCH }.pinned(condition).await
}

/// Returns what a specification demands, made ready: conditions that must all be met.
pub(super) async fn demands(
    tx: &Tx<'_>,
    of: &Specification,
    (tenant, now): (TenantId, Timestamp),
) -> Result<Vec<Ready>, StoreError> {
    Ok(Preparation { tx, tenant, now }.ready(&of.condition).await?.conjuncts())
}

fn word(of: &impl serde::Serialize) -> String {
    to_json(of).trim_matches('"').to_owned()
}

/// Returns the column that holds a field.
pub(super) const fn column(field: &Field) -> &'static str {
    match field {
        Field::Hash => "hash",
        Field::Digest => "digest",
        Field::File => "name",
        Field::Type | Field::Kind => "kind",
        Field::State => "state",
        Field::Truncated => "is_truncated",
        Field::Time => "time",
        Field::Uploaded => "uploaded_at",
        Field::Cmd => "cmd",
        Field::Psargs => "psargs",
        Field::Pid => "pid",
        Field::Node => "node",
        Field::Platform => "platform",
        Field::Ticket => "ticket",
        Field::Stack => "stack",
        Field::Signature => "signature",
        Field::SignatureText => "signature_text",
        Field::Class => "class",
        Field::Severity => "severity",
        Field::Cause => "cause",
        Field::Execution => "execution",
        Field::Size => "size",
        Field::By => "created_by",
        // Properties have a table of their own.
        Field::Property(_) => "properties",
    }
}

/// Tells whether a column has few different values, all of which are counted, and an index behind its tenant.
fn is_few(column: &str) -> bool {
    matches!(column, "cmd" | "node" | "platform" | "ticket" | "signature" | "class" | "severity" | "created_by")
}

/// Tells whether a column whose values are hardly ever the same twice has an index behind its tenant.
fn is_own(column: &str) -> bool {
    matches!(column, "id" | "hash" | "digest" | "name" | "execution" | "pid" | "size")
}

/// Tells whether an index has the beginnings of a column's texts, which may be longer than an index takes.
fn is_begun(column: &str) -> bool {
    matches!(column, "psargs" | "signature_text" | "cause")
}

/// Tells whether the index of a column has its dumps in the order of their times, where its value is one.
fn is_timed(column: &str) -> bool {
    !matches!(column, "id" | "hash" | "digest" | "execution")
}

/// Returns the beginning of a text that an index has (`migration/0016_dump_texts.sql`).
fn beginning(text: &str) -> String {
    text.chars().take(BEGINNING_CHARS).collect()
}

impl Leaf {
    /// Tells whether an index leads to the dumps that meet it.
    pub(super) fn is_drivable(&self) -> bool {
        match self {
            Self::Among(column, _) => {
                is_few(column) || is_own(column) || is_begun(column) || matches!(*column, "kind" | "state")
            }
            // An index has numbers in another order than their digits.
            Self::Fits("pid" | "size", _) => false,
            Self::Fits(column, _) => is_few(column) || is_own(column) || is_begun(column),
            Self::Compares(column, ..) => is_few(column) || is_own(column),
            // The indexes of the others leave out those that have no such thing.
            Self::Gone(column) => matches!(*column, "cmd" | "node" | "platform" | "signature" | "time"),
            Self::Truncated(truth) => *truth,
            Self::Time(..) | Self::Stacks(_) | Self::Property(..) => true,
            Self::StackFits(_) | Self::PropertyGone(_) => false,
        }
    }

    /// Returns the column that alone tells whether it is met.
    pub(super) const fn column(&self) -> Option<&'static str> {
        match self {
            Self::Among(column, _)
            | Self::Gone(column)
            | Self::Compares(column, ..)
            | Self::Fits(column, _)
            | Self::Time(column, ..) => Some(*column),
            _ => None,
        }
    }

    /// Tells whether its index has but the beginnings of texts.
    pub(super) fn is_begun(&self) -> bool {
        matches!(self, Self::Among(column, _) | Self::Fits(column, _) if is_begun(column))
    }

    /// Returns the index that leads to the dumps that meet it, where that is one for sure.
    pub(super) fn index(&self) -> Option<&'static str> {
        match self {
            Self::Among(column, texts) if !texts.is_empty() => match *column {
                "cmd" => Some("dump_cmd"),
                "node" => Some("dump_node"),
                "platform" => Some("dump_platform"),
                "kind" => Some("dump_kind"),
                "state" => Some("dump_state"),
                "ticket" => Some("dump_ticket"),
                "signature" => Some("dump_signature"),
                _ => None,
            },
            _ => None,
        }
    }

    /// Tells whether its index tells where to begin at best, so that much of it is gone through.
    pub(super) fn is_searched(&self) -> bool {
        let is_open = |glob: &Glob| {
            let inside = glob.pieces().strip_suffix(&[Piece::Many]).unwrap_or(glob.pieces());
            inside.is_empty() || inside.iter().any(|piece| !matches!(piece, Piece::Char(_)))
        };
        match self {
            Self::Fits(_, glob) => is_open(glob),
            Self::Property(_, tests) => tests.iter().any(|test| matches!(test, Test::Fits(glob) if is_open(glob))),
            _ => false,
        }
    }

    /// Tells whether the index that leads there has its dumps in the order of their times.
    pub(super) fn is_ordered(&self) -> bool {
        match self {
            Self::Among(column, texts) => texts.len() == 1 && is_timed(column),
            Self::Property(_, tests) => {
                matches!(tests[..], [Test::Text(Comparison::Equal, _) | Test::Quoted(Comparison::Equal, _)])
            }
            Self::Compares(column, Comparison::Equal, _) => is_timed(column),
            Self::Gone(_) | Self::Truncated(_) => true,
            _ => false,
        }
    }

    /// Tells whether a row of properties, with its dump's time, is all that it takes to tell.
    pub(super) fn is_noted(&self) -> bool {
        matches!(self, Self::Property(..) | Self::PropertyGone(_) | Self::Time("time", ..) | Self::Gone("time"))
    }

    /// Appends it.
    pub(super) fn write(&self, text: &mut Text, How { tenant, plus, part, key }: How<'_>) {
        let name = |column: &str| format!("{plus}d.{column}");
        match self {
            Self::Among(_, texts) if texts.is_empty() => {
                text.push("false");
            }
            Self::Among(column, texts) if part == Part::Driver && is_begun(column) => {
                let begun: Vec<_> = texts.iter().map(|text| beginning(text)).collect();
                text.among(&begun_by(&name(column)), &begun);
                // A text that is shorter than what the index has of it is there as a whole.
                if texts.iter().any(|text| text.chars().count() >= BEGINNING_CHARS) {
                    text.push(" AND ").among(&name(column), texts);
                }
            }
            Self::Among(column, texts) => text.among(&name(column), texts),
            Self::Gone("time") => {
                text.push(&format!("{key}.time = 0"));
            }
            Self::Gone(column) => {
                text.push(&format!("d.{column} IS NULL"));
            }
            Self::Compares(column, comparison, value) => {
                text.push(&format!("{} {} ", name(column), comparison.as_str())).bind(value.clone());
            }
            Self::Fits(column, glob) if part == Part::Driver => write_fits(text, column, glob),
            Self::Fits(column @ ("pid" | "size"), glob) => text.fits(&format!("cast({} AS text)", name(column)), glob),
            Self::Fits(column, glob) => text.fits(&name(column), glob),
            Self::Truncated(truth) => {
                // A number in the text: the index has those that are, and a parameter could be anything.
                text.push(&format!("{} = {}", name("is_truncated"), i64::from(*truth)));
            }
            Self::Time(column, comparison, at) => {
                let of = if *column == "time" { key } else { "d" };
                text.push(&format!("{plus}{of}.{column} {} ", comparison.as_str())).bind(*at);
                // Whether 0 could be meant is plain where it stands; where it could not, the index is not bothered.
                if *column == "time" && comparison.passes(0.cmp(at)) {
                    text.push(&format!(" AND {key}.time <> 0"));
                }
            }
            Self::Stacks(stacks) if stacks.is_empty() => {
                text.push("false");
            }
            Self::Stacks(stacks) => text.among_numbers(&name("stack"), stacks),
            Self::StackFits(glob) => {
                // Looked up once for all dumps: the stacks are fewer than they. PostgreSQL would go from the many stacks to
                // their dumps, were it not inside of another expression.
                text.push("coalesce(")
                    .push(&name("stack"))
                    .push(" IN (SELECT p.stack FROM stack_call AS p WHERE p.tenant = ")
                    .bind(tenant);
                text.push(" AND p.call IN (SELECT c.number FROM call AS c WHERE c.tenant = ")
                    .bind(tenant)
                    .push(" AND ");
                text.fits("c.text", glob);
                text.push(")), false)");
            }
            Self::PropertyGone(path) => {
                text.push(&format!("NOT EXISTS (SELECT 1 FROM dump_property AS p WHERE p.dump = {key}.id"));
                text.push(" AND (p.path = ").bind(path);
                // What is inside of it has a dot behind its path, and the slash is the next sign.
                text.push(" OR (p.path >= ").bind(format!("{path}.")).push(" AND p.path < ").bind(format!("{path}/"));
                text.push(")))");
            }
            Self::Property(path, tests) => {
                if part == Part::Driver && self.is_drivable() {
                    text.push("d.id IN (");
                    write_noted(text, "p.dump", tenant, (path, tests));
                    text.push(")");
                } else {
                    // A dump has few properties; what an index has of all dumps is not to be gone through for each.
                    // PostgreSQL would gather those of all dumps too, were it not for the limit.
                    text.push(&format!("coalesce((SELECT true FROM dump_property AS p WHERE p.dump = {key}.id"));
                    text.push(" AND ").push(plus).push("p.path = ").bind(path).push(" AND ").push(plus);
                    write_tests(text, tests);
                    text.push(" LIMIT 1), false)");
                }
            }
        }
    }
}

/// Returns the beginning of a column, as an index has it.
fn begun_by(column: &str) -> String {
    format!("substr({column}, 1, {BEGINNING_CHARS})")
}

/// Appends that a column fits a pattern, so that its index is gone through where the pattern's beginning is; without one,
/// the index as a whole is still far less than all dumps.
fn write_fits(text: &mut Text, column: &str, glob: &Glob) {
    let whole = format!("d.{column}");
    let is_cut = is_begun(column);
    let kept = if is_cut { begun_by(&whole) } else { whole.clone() };
    text.range(&kept, &beginning(&glob.prefix()));
    text.push(" AND ");
    if !is_cut {
        return text.fits(&kept, glob);
    }
    // The dump itself is only looked at where the index has not all of the text.
    text.push("(").fits(&kept, glob);
    text.push(&format!(" AND length({kept}) < {BEGINNING_CHARS} OR length({kept}) = {BEGINNING_CHARS} AND "));
    text.fits(&whole, glob);
    text.push(")");
}

/// Appends what is selected of the properties that meet one of some tests; each test has an index of its own.
pub(super) fn write_noted(text: &mut Text, selected: &str, tenant: TenantId, (path, tests): (&str, &[Test])) {
    for (index, test) in tests.iter().enumerate() {
        text.push(if index == 0 { "" } else { " UNION " }).push("SELECT ").push(selected);
        text.push(" FROM dump_property AS p WHERE p.tenant = ").bind(tenant);
        text.push(" AND p.path = ").bind(path).push(" AND ");
        write_test(text, test);
    }
}

fn write_tests(text: &mut Text, tests: &[Test]) {
    for (index, test) in tests.iter().enumerate() {
        text.push(if index == 0 { "(" } else { " OR " });
        write_test(text, test);
    }
    text.push(")");
}

fn write_test(text: &mut Text, test: &Test) {
    match test {
        Test::Amount(comparison, number) => {
            text.push(&format!("p.number {} ", comparison.as_str())).bind(sortable(*number));
        }
        Test::Text(comparison, with) => {
            text.push(&format!("p.text {} ", comparison.as_str())).bind(found(with));
        }
        Test::Quoted(comparison, with) => {
            text.push(&format!("p.text {} ", comparison.as_str())).bind(found(with)).push(" AND p.kind = 'text'");
        }
        Test::Fits(glob) => {
            text.range("p.text", &glob.prefix());
            text.push(" AND ").fits("p.text", glob);
        }
        // No property is asked these.
        Test::Undefined
        | Test::Kinds(_)
        | Test::States(_)
        | Test::Severities(_)
        | Test::Truth(_)
        | Test::Number(..)
        | Test::Time(..) => {
            text.push("false");
        }
    }
}

impl Ready {
    /// Returns the conditions that must all be met.
    fn conjuncts(self) -> Vec<Self> {
        match self {
            Self::All(all) => all.into_iter().flat_map(Self::conjuncts).collect(),
            one => vec![one],
        }
    }

    /// Appends it.
    pub(super) fn write(&self, text: &mut Text, how: How<'_>) {
        let mut list = |all: &[Self], between: &str, none: &str| {
            if all.is_empty() {
                text.push(none);
            }
            for (index, one) in all.iter().enumerate() {
                text.push(if index == 0 { "(" } else { between });
                one.write(text, how);
            }
            text.push(if all.is_empty() { "" } else { ")" });
        };
        match self {
            Self::All(all) => list(all, " AND ", "true"),
            Self::Any(any) => list(any, " OR ", "false"),
            Self::Not(inner) => {
                text.push("NOT coalesce((");
                inner.write(text, how);
                text.push("), false)");
            }
            Self::Leaf(leaf) => {
                text.push("(");
                leaf.write(text, how);
                text.push(")");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_text_is_behind_all_with_the_prefix() {
        let check = |prefix: &str, expected: Option<&str>| assert_eq!(behind(prefix).as_deref(), expected);
        check("svc", Some("svd"));
        check("a\u{d7ff}", Some("a\u{e000}"));
        check("a\u{10ffff}", Some("b"));
        check("\u{10ffff}", None);
        check("", None);
    }
}
