//! Puts records of dumps into a store past all of its checks, as fast as its engine takes them, for benches.
//!
//! `fill_dumps (--folder DIR | --url postgres://…) --tenant ID [--rows N]` prints one line of JSON. The store must have been
//! opened before, so that its tables are there, and must not be open now. Indexes are taken away and made again behind the
//! rows; triggers stay, so that what the store keeps count of is counted by its own means. The records name no content,
//! and the log tells nothing of them. What they are made of, `bench/dump-records` knows by the same names.
#![expect(clippy::print_stdout, reason = "it prints its result")]
#![expect(clippy::disallowed_methods, reason = "a program for benches reads the clock")]

use jiff::Timestamp;
use model::{DumpId, TenantId};
use rusqlite::{Connection, params_from_iter};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Instant;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

/// The dumps are spread over so much time before now.
const YEARS: u64 = 3;
const NODES: usize = 2_000;
const PLATFORMS: usize = 60;
const TICKETS: u64 = 3_000;
const ENGINEERS: u64 = 40;
const CALLS: u64 = 8_000;
const STACKS: usize = 20_000;
const SIGNATURES: usize = 5_000;

const DUMP: &[(&str, Type)] = &[
    ("id", Type::TEXT),
    ("tenant", Type::TEXT),
    ("hash", Type::TEXT),
    ("digest", Type::TEXT),
    ("size", Type::INT8),
    ("kind", Type::TEXT),
    ("state", Type::TEXT),
    ("is_truncated", Type::INT8),
    ("name", Type::TEXT),
    ("time", Type::INT8),
    ("cmd", Type::TEXT),
    ("psargs", Type::TEXT),
    ("pid", Type::INT8),
    ("node", Type::TEXT),
    ("platform", Type::TEXT),
    ("ticket", Type::TEXT),
    ("properties", Type::TEXT),
    ("stack", Type::INT8),
    ("signature", Type::TEXT),
    ("signature_text", Type::TEXT),
    ("created_by", Type::TEXT),
    ("uploaded_at", Type::INT8),
];
const PROPERTY: &[(&str, Type)] = &[
    ("dump", Type::TEXT),
    ("ordinal", Type::INT8),
    ("tenant", Type::TEXT),
    ("path", Type::TEXT),
    ("kind", Type::TEXT),
    ("text", Type::TEXT),
    ("number", Type::INT8),
    ("time", Type::INT8),
];
const CALL: &[(&str, Type)] = &[("tenant", Type::TEXT), ("number", Type::INT8), ("text", Type::TEXT)];
const STACK: &[(&str, Type)] = &[("tenant", Type::TEXT), ("number", Type::INT8), ("calls", Type::TEXT)];
const PLACE: &[(&str, Type)] =
    &[("tenant", Type::TEXT), ("call", Type::INT8), ("stack", Type::INT8), ("position", Type::INT8)];
const TABLES: &[&str] = &["dump", "dump_property", "stack", "call", "stack_call", "dump_count"];

/// A table's name, its columns, and rows for it.
type Around = (&'static str, &'static [(&'static str, Type)], Vec<Vec<Cell>>);

/// What stands in one column of a row.
enum Cell {
    Number(Option<i64>),
    Text(Option<String>),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).ok())
    }
}

/// Chance that is the same in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Some values of which the first come up far more often than the last.
struct Chosen(Vec<f64>);

impl Chosen {
    fn new(count: usize, steepness: f64) -> Self {
        let mut sum = 0.0;
        Self((1..=count).map(|rank| (sum += (rank as f64).powf(-steepness), sum).1).collect())
    }

    fn pick(&self, dice: &mut Dice) -> usize {
        let all = self.0.last().copied().unwrap_or_default();
        let at = dice.next() as f64 / u64::MAX as f64 * all;
        self.0.partition_point(|sum| *sum < at).min(self.0.len() - 1)
    }
}

/// What the dumps of a fleet are made of.
struct World {
    tenant: TenantId,
    now: Timestamp,
    dice: Dice,
    cmds: Vec<String>,
    cmd: Chosen,
    platform: Chosen,
    stack: Chosen,
    stacks: Vec<Vec<String>>,
}

impl World {
    fn new(tenant: TenantId, now: Timestamp) -> Self {
        let mut dice = Dice(1);
        let first = ["node", "java", "pg_prefaulter", "svc.startd", "svcs", "svccfg", "svc.configd"];
        let cmds: Vec<_> =
            first.into_iter().map(str::to_owned).chain((0..393).map(|index| format!("program{index}"))).collect();
        let call = |number: u64| format!("libc.so.1`function_{number}+0x{:x}()", number * 7 % 4_096);
        let mut deep = |_| {
            let mut calls = vec!["libc.so.1`_lwp_kill+0x15()".to_owned()];
            calls.extend((0..5 + dice.below(20)).map(|_| call(dice.below(CALLS))));
            calls.extend(["main+0x379()".to_owned(), "_start+0x83()".to_owned()]);
            calls
        };
        let stacks = (0..STACKS).map(&mut deep).collect();
        let cmd = Chosen::new(cmds.len(), 1.0);
        Self {
            tenant,
            now,
            dice,
            cmds,
            cmd,
            platform: Chosen::new(PLATFORMS, 0.7),
            stack: Chosen::new(STACKS, 0.6),
            stacks,
        }
    }

    /// Makes a dump's row and those of its properties.
    fn dump(&mut self) -> (Vec<Cell>, Vec<Vec<Cell>>) {
        let Self { dice, tenant, .. } = self;
        let micros = self.now.as_microsecond() - dice.below(YEARS * 365 * 86_400 * 1_000_000) as i64;
        let at = Timestamp::from_microsecond(micros).expect("it lies between then and now");
        let id = DumpId::new(at, u128::from(dice.next()) << 64 | u128::from(dice.next())).to_string();
        let (cmd, stack) = (&self.cmds[self.cmd.pick(dice)], self.stack.pick(dice));
        let kinds = ["kernel", "illumos", "minidump", "sanitizer"];
        let kind = kinds.get(dice.below(100) as usize).copied().unwrap_or("core");
        let pid = 2 + dice.below(99_997);
        let ticket = (dice.below(100) < 15).then(|| format!("OS-{}", dice.below(TICKETS)));
        let (mut properties, mut leaves) = ("{}".to_owned(), Vec::new());
        if dice.below(10) < 3 {
            let (engineer, level) = (format!("engineer{}", dice.below(ENGINEERS)), dice.below(10));
            properties = format!(r#"{{"triage":{{"engineer":"{engineer}","level":{level}}}}}"#);
            let mut leaf = |ordinal: u64, path: &str, kind: &str, text: String, number: Option<i64>| {
                let [dump, tenant] = [Cell::from(id.clone()), tenant.to_string().into()];
                let number = Cell::Number(number);
                let time = Cell::Number(Some(micros));
                leaves.push(vec![dump, ordinal.into(), tenant, path.into(), kind.into(), text.into(), number, time]);
            };
            leaf(0, "triage.engineer", "text", engineer, None);
            // Numbers lie as the store keeps them, in an order that is that of whole numbers.
            leaf(1, "triage.level", "number", level.to_string(), Some((level as f64).to_bits() as i64));
        }
        let row = vec![
            id.into(),
            tenant.to_string().into(),
            format!("{:016x}{:016x}", dice.next(), dice.next()).into(),
            format!("{:016x}{:016x}{:016x}{:016x}", dice.next(), dice.next(), dice.next(), dice.next()).into(),
            dice.below(1_000_000_000).into(),
            kind.into(),
            "analysed".into(),
            0.into(),
            format!("core.{cmd}.{pid}").into(),
            Cell::Number(Some(micros)),
            cmd.as_str().into(),
            format!("/usr/bin/{cmd} -f /var/tmp/{pid}").into(),
            pid.into(),
            format!("N{:06}", dice.below(NODES as u64)).into(),
            format!("joyent_20{:06}T000000Z", self.platform.pick(dice)).into(),
            Cell::Text(ticket),
            properties.into(),
            (stack as u64).into(),
            format!("sig_{}", stack % SIGNATURES).into(),
            format!("function_{} | main", stack % SIGNATURES).into(),
            "bench".into(),
            Cell::Number(Some(micros + 60_000_000)),
        ];
        (row, leaves)
    }

    /// Returns the rows of the tables around the dumps.
    fn around(&self) -> [Around; 3] {
        let tenant = self.tenant.to_string();
        let calls: BTreeSet<&str> = self.stacks.iter().flatten().map(String::as_str).collect();
        let calls: BTreeMap<&str, u64> = calls.into_iter().zip(0..).collect();
        let row = |cells: [Cell; 2]| std::iter::once(Cell::from(tenant.clone())).chain(cells).collect::<Vec<_>>();
        let mut places = BTreeSet::new();
        let mut stacks = Vec::new();
        for (stack, number) in self.stacks.iter().zip(0_u64..) {
            let text = serde_json::to_string(stack).expect("a list of texts is JSON");
            stacks.push(row([number.into(), text.into()]));
            places.extend(stack.iter().zip(0_u64..).map(|(call, position)| (calls[call.as_str()], number, position)));
        }
        let place = |(call, stack, position): (u64, u64, u64)| {
            vec![tenant.clone().into(), call.into(), stack.into(), position.into()]
        };
        let calls = calls.iter().map(|(call, number)| row([(*number).into(), (*call).into()])).collect();
        [
            ("call", CALL, calls),
            ("stack", STACK, stacks),
            ("stack_call", PLACE, places.into_iter().map(place).collect()),
        ]
    }
}

fn on_sqlite(folder: &str, world: &mut World, rows: u64) {
    let mut connection = Connection::open(format!("{folder}/quarry.db")).expect("is opened");
    for set in ["synchronous = off", "cache_size = -400000", "temp_store = memory", "threads = 2"] {
        connection.execute_batch(&format!("PRAGMA {set}")).expect("is set");
    }
    let asked = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql > '' AND tbl_name IN ('dump', 'dump_property')";
    let indexes: Vec<(String, String)> = {
        let mut statement = connection.prepare(asked).expect("is prepared");
        let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("is asked");
        found.collect::<Result<_, _>>().expect("is read")
    };
    let transaction = connection.transaction().expect("begins");
    for (name, _) in &indexes {
        transaction.execute_batch(&format!("DROP INDEX {name}")).expect("is dropped");
    }
    for (table, columns, around) in world.around() {
        let mut insert = transaction.prepare(&insertion(table, columns)).expect("is prepared");
        around.into_iter().for_each(|row| put(&mut insert, row));
    }
    let mut dump = transaction.prepare(&insertion("dump", DUMP)).expect("is prepared");
    let mut property = transaction.prepare(&insertion("dump_property", PROPERTY)).expect("is prepared");
    for _ in 0..rows {
        let (row, leaves) = world.dump();
        put(&mut dump, row);
        leaves.into_iter().for_each(|leaf| put(&mut property, leaf));
    }
    drop((dump, property));
    transaction.commit().expect("is kept");
    for (_, sql) in &indexes {
        connection.execute_batch(sql).expect("is made again");
    }
    connection.execute_batch("PRAGMA wal_checkpoint(truncate)").expect("is carried over");
}

fn insertion(table: &str, columns: &[(&str, Type)]) -> String {
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let marks = vec!["?"; names.len()].join(", ");
    format!("INSERT INTO \"{table}\" ({}) VALUES ({marks})", names.join(", "))
}

fn put(insert: &mut rusqlite::Statement<'_>, row: Vec<Cell>) {
    use rusqlite::types::Value;
    let value = |cell| match cell {
        Cell::Number(number) => number.map_or(Value::Null, Value::Integer),
        Cell::Text(text) => text.map_or(Value::Null, Value::Text),
    };
    insert.execute(params_from_iter(row.into_iter().map(value))).expect("is taken");
}

async fn on_postgres(url: &str, world: &mut World, rows: u64) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("is connected");
    let fill = async {
        let set = "SET synchronous_commit = off; SET maintenance_work_mem = '256MB'";
        client.batch_execute(set).await.expect("is set");
        let asked = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN ('dump', 'dump_property') \
                     AND indexname NOT LIKE '%_pkey'";
        let indexes = client.query(asked, &[]).await.expect("is asked");
        for row in &indexes {
            client.batch_execute(&format!("DROP INDEX {}", row.get::<_, &str>(0))).await.expect("is dropped");
        }
        for (table, columns, around) in world.around() {
            copy(&client, table, columns, around.into_iter()).await;
        }
        let mut leaves = Vec::new();
        let made = (0..rows).map(|_| {
            let (row, of) = world.dump();
            leaves.extend(of);
            row
        });
        copy(&client, "dump", DUMP, made).await;
        copy(&client, "dump_property", PROPERTY, leaves.into_iter()).await;
        for row in &indexes {
            client.batch_execute(row.get::<_, &str>(1)).await.expect("is made again");
        }
        // As it would happen by itself a minute later.
        for table in TABLES {
            client.batch_execute(&format!("VACUUM ANALYZE \"{table}\"")).await.expect("is looked at");
        }
        client.batch_execute("CHECKPOINT").await.expect("is written");
    };
    tokio::select! {
        () = fill => {}
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

async fn copy(
    client: &tokio_postgres::Client,
    table: &str,
    columns: &[(&str, Type)],
    rows: impl Iterator<Item = Vec<Cell>>,
) {
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let kinds: Vec<_> = columns.iter().map(|(_, kind)| kind.clone()).collect();
    let sql = format!("COPY \"{table}\" ({}) FROM STDIN BINARY", names.join(", "));
    let mut into = pin!(BinaryCopyInWriter::new(client.copy_in(&sql).await.expect("begins"), &kinds));
    for row in rows {
        let cells = row.iter().map(|cell| match cell {
            Cell::Number(number) => number as &(dyn ToSql + Sync),
            Cell::Text(text) => text,
        });
        into.as_mut().write(&cells.collect::<Vec<_>>()).await.expect("is taken");
    }
    into.finish().await.expect("is kept");
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let option = |name: &str| words.iter().skip_while(|word| *word != name).nth(1);
    let tenant = option("--tenant").expect("name a tenant: --tenant ID").parse().expect("is a tenant's id");
    let rows = option("--rows").map_or(1_000_000, |rows| rows.parse().expect("`--rows` needs a number"));
    let mut world = World::new(tenant, Timestamp::now());
    let begun = Instant::now();
    match (option("--folder"), option("--url")) {
        (Some(folder), None) => on_sqlite(folder, &mut world, rows),
        (None, Some(url)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
            runtime.block_on(on_postgres(url, &mut world, rows));
        }
        _ => panic!("name a place: --folder DIR or --url postgres://…"),
    }
    println!(r#"{{"rows": {rows}, "seconds": {:.3}}}"#, begun.elapsed().as_secs_f64());
}
