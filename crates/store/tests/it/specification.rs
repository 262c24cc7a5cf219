//! Dumps asked for by a specification: both engines find what the model itself says is meant, in its order and page by page;
//! they count it, and change it all or not at all.

use crate::dump::{create, digest, new, note};
use crate::engine::{Fresh, Raw, on_both_engines};
use crate::sample::{at, log, refused, tenant};
use jiff::Timestamp;
use model::dump::query::{DumpCursor, DumpOrder, Earnest};
use model::dump::spec::{Field, Specification};
use model::dump::{DumpFacts, DumpFindings, DumpSignature};
use model::report::Severity;
use model::{Dump, DumpId, DumpKind, DumpState, NewDump, Noun, TenantId};
use serde_json::json;
use std::collections::BTreeMap;
use store::{DumpsAsked, DumpsOrder, Store, random};

on_both_engines!(
    what_is_meant_is_found,
    what_is_meant_is_counted,
    what_is_meant_is_changed_at_once,
    rows_follow_the_properties,
    names_must_be_there,
    what_takes_too_long_is_refused
);

const DAY_MS: i64 = 86_400_000;

pub(crate) fn now() -> Timestamp {
    at(100 * DAY_MS)
}

/// Makes dumps that differ in all that can be asked for.
pub(crate) async fn fill(store: &Store, whose: TenantId, count: usize) -> Vec<Dump> {
    const CMDS: [&str; 7] = ["svc.startd", "svcs", "java", "node", "a*b[c]", "ä%_\\", "pg_prefaulter"];
    let mut dumps = Vec::new();
    for index in 0..count {
        let pick = |from: usize, salt: usize| (index * 7 + index / 3 + salt * 13) % from;
        let some = |value: &str, salt: usize| (pick(5, salt) > 0).then(|| value.to_owned());
        let facts = DumpFacts {
            time: (pick(9, 1) > 0).then(|| at((pick(90, 2) as i64) * DAY_MS)),
            cmd: some(CMDS[pick(CMDS.len(), 3)], 4),
            psargs: some(&format!("/usr/bin/{} -x {index}", CMDS[pick(CMDS.len(), 3)]), 5),
            pid: (pick(4, 6) > 0).then(|| 100 + pick(50, 7) as u32),
            node: some(&format!("node{}", pick(6, 8)), 9),
            platform: some(&format!("joyent_2013{:02}", pick(5, 10)), 11),
        };
        let new = NewDump {
            id: DumpId::new(at(index as i64), random()),
            facts,
            is_truncated: pick(8, 12) == 0,
            kind: DumpKind::Core,
            ..new(&format!("{:08x}", (index as u32).wrapping_mul(0x9e37_79b9)))
        };
        let content = format!("content {index}");
        let mut dump = create(store, whose, &new, (&content, 10 + index as u64), &[]).await.expect("is made").dump;
        if pick(4, 13) > 0 {
            let kind = [DumpKind::Core, DumpKind::Kernel, DumpKind::Illumos, DumpKind::Sanitizer][pick(4, 14)];
            let stack = match pick(4, 15) {
                0 => Vec::new(),
                1 => vec!["libc.so.1`raise+0x2b()".to_owned(), "utmpx_postfork+0x44()".to_owned(), "main()".to_owned()],
                2 => vec!["libc.so.1`raise+0x2b()".to_owned(), "main()".to_owned()],
                _ => vec![format!("deep_{}%", pick(3, 16)), "main()".to_owned()],
            };
            let signature = (pick(3, 17) > 0).then(|| DumpSignature {
                id: format!("sig_{}", pick(4, 18)),
                text: format!("raise | f{}", pick(4, 18)),
            });
            let state = [DumpState::Analysed, DumpState::Truncated, DumpState::Unreadable][pick(3, 19)];
            let class = (pick(5, 28) > 0).then(|| format!("{}_read", ["null", "wild", "own%"][pick(3, 29)]));
            let severity = (pick(4, 30) > 0).then(|| Severity::ALL[pick(5, 31)]);
            let cause = (state == DumpState::Unreadable).then(|| format!("it needed {} bytes", pick(3, 32)));
            let found = DumpFindings::new(state, kind);
            let findings = DumpFindings { stack, signature, class, severity, cause, ..found };
            dump = store.dump_find(dump.id, digest(&content), findings, "node", at(5)).await.expect("is kept");
        }
        let mut properties = serde_json::Map::new();
        if pick(3, 20) > 0 {
            properties.insert("level".to_owned(), [json!(1), json!(2.5), json!("2.5"), json!(-3)][pick(4, 21)].clone());
        }
        if pick(3, 22) > 0 {
            properties.insert("triage".to_owned(), {
                let who = ["bmc", "ann"][pick(2, 23)];
                json!({"who": who, "sure": pick(2, 24) == 0})
            });
        }
        if pick(6, 25) == 0 {
            properties.insert("list".to_owned(), json!(["a", "b%", {"c": [1, 2]}, []]));
        }
        let ticket = if pick(3, 26) == 0 { json!(format!("OS-{}", pick(3, 27))) } else { json!(null) };
        dump = note(store, &dump, json!({"ticket": ticket, "properties": properties})).await;
        dumps.push(dump);
    }
    dumps.sort_by_key(|dump| (dump.facts.time.map_or(0, Timestamp::as_microsecond), dump.id));
    dumps
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').filter(|word| !word.is_empty()).collect()
}

pub(crate) fn meant(line: &str) -> Specification {
    Specification::parse(&words(line)).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn asked(whose: TenantId, line: &str, limit: u32) -> DumpsAsked {
    DumpsAsked { of: meant(line), tenant: whose, order: DumpOrder::Oldest, after: None, limit, now: now() }
}

const LINES: &[&str] = &[
    "",
    "cmd=java",
    "cmd!=java",
    "NOT cmd=java",
    "cmd=svc*",
    "cmd=*s",
    "cmd=*",
    "cmd=?ava",
    "cmd=a\\*b[c]",
    "cmd=a*[c]",
    "cmd=ä%*",
    "cmd=ä%_\\",
    "cmd=nobody",
    "cmd=n?body*",
    "cmd=\"java\"",
    "cmd=undefined",
    "cmd!=undefined",
    "cmd>=node",
    "cmd<java node=node1",
    "type=core",
    "type=crash",
    "kind=kernel OR kind=core",
    "type=c*",
    "type=x*",
    "class=null_read",
    "class=*_read severity=high",
    "class=own%*",
    "class!=wild_read",
    "class=undefined",
    "severity>=medium",
    "severity<low OR severity=critical",
    "severity=*i*",
    "NOT severity>unknown",
    "cause=*1*",
    "cause=undefined state=unreadable",
    "state=analysed",
    "state!=received",
    "state=*e*",
    "type=crash node=node1",
    "mtime=30d",
    "otime=30d",
    "mtime=60d otime=20d",
    "mtime=60d cmd=svc*",
    "time=undefined",
    "NOT otime=30d",
    "NOT mtime=30d",
    "time!=undefined",
    "time>2025-11-20",
    "time<=2025-12-24",
    "time=2025-12-01",
    "uploaded=1h",
    "uploaded<2030-01-01",
    "time=1970-01-01",
    "otime=30d OR cmd=svcs",
    "pid=101",
    "pid>120 pid<=140",
    "pid!=101",
    "pid=1?4*",
    "pid!=*1 size=1*",
    "NOT ( pid=*2* OR cmd=java )",
    "pid=undefined",
    "size>50",
    "size<20 OR size=30",
    "truncated=true",
    "truncated!=true",
    "psargs=*-x*",
    "psargs=*java*",
    "psargs=undefined",
    "node=node* platform=joyent_201303",
    "platform>joyent_201302",
    "ticket=undefined",
    "ticket=OS-1",
    "ticket=OS-*",
    "ticket!=OS-1",
    "cmd=svc* ticket=undefined",
    "NOT ( ticket=OS-1 OR cmd=java )",
    "stack=main()",
    "stack=*utmpx_postfork*",
    "stack=deep_?%",
    "stack=deep_1%",
    "stack=*raise* cmd=java",
    "stack!=*raise*",
    "stack=undefined",
    "stack=nothing*",
    "stack=*",
    "NOT stack=*",
    "signature=sig_1",
    "signature=sig_*",
    "signature.text=*f2",
    "signature=undefined",
    "hash=0*",
    "file=core.*",
    "by=ann",
    "by=bob",
    "execution=undefined",
    "execution=exe_*",
    "digest=*a*",
    "properties.level=1",
    "properties.level=2.5",
    "properties.level=\"2.5\"",
    "properties.level>0",
    "properties.level<=-3",
    "properties.level!=1",
    "properties.level=undefined",
    "properties.level=2*",
    "properties.triage=undefined",
    "properties.triage!=undefined",
    "properties.triage.who=bmc",
    "properties.triage.who=b*",
    "properties.triage.sure=true",
    "properties.triage.who>b",
    "properties.list=b%",
    "properties.list=?%",
    "properties.list.c=2",
    "properties.list.c>1",
    "properties.list=undefined cmd=svc*",
    "properties.triage.who=bmc properties.level=1",
    "properties.triage.who=bmc properties.level=2.5 node=node*",
    "properties.triage.who=bmc properties.list=undefined mtime=60d",
    "properties.triage.who=bmc NOT properties.level>1 time!=undefined",
    "properties.triage.who=bmc ( properties.level=1 OR pid=101 )",
    "properties.level>0 properties.list.c>0",
    "properties.list.c>0 cmd=svc*",
    "pid=101 properties.triage.who=ann",
    "properties.tri=undefined",
    "properties.gone=1",
    "properties.level=1 OR properties.triage.who=ann",
    "cmd=java OR cmd=svcs OR node=node3",
    "( cmd=java OR cmd=svcs ) ( type=core OR node=node2 )",
    "NOT NOT cmd=java",
    "cmd=java NOT ( node=node1 OR NOT type=core )",
    "cmd=java cmd=svcs",
    "NOT ( cmd=java ticket=OS-1 )",
    "hash=*",
];

async fn what_is_meant_is_found(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let dumps = fill(&store, ours, 150).await;
    fill(&store, theirs, 10).await;
    let mut found_any = 0;
    for line in LINES {
        let specification = meant(line);
        let expected: Vec<_> = dumps.iter().filter(|dump| specification.matches(dump, now())).collect();
        found_any += usize::from(!expected.is_empty() && expected.len() < dumps.len());
        let (found, _) =
            store.dumps_find(asked(ours, line, 1_000)).await.unwrap_or_else(|error| panic!("{line}: {error:?}"));
        let told = |dumps: &[&Dump]| dumps.iter().map(|dump| dump.hash.clone()).collect::<Vec<_>>();
        assert_eq!(told(&found.iter().collect::<Vec<_>>()), told(&expected), "{line}");
        assert!(found.iter().eq(expected.iter().copied()), "{line}");
        // The same page by page, and from the other end.
        for order in [DumpOrder::Oldest, DumpOrder::Newest] {
            let (mut after, mut paged) = (None, Vec::new());
            loop {
                let (page, _) =
                    store.dumps_find(DumpsAsked { order, after, ..asked(ours, line, 13) }).await.expect("a page");
                let Some(last) = page.last() else { break };
                after = Some(DumpCursor::behind(last));
                paged.extend(page);
            }
            if order == DumpOrder::Newest {
                paged.reverse();
            }
            assert!(paged.iter().eq(expected.iter().copied()), "{line} in pages, {order:?}");
        }
        let report = store.dumps_count(specification, None, ours, now()).await.expect("is counted");
        assert_eq!(report.dumps, expected.len() as u64, "{line}");
    }
    assert!(found_any > 70, "{found_any} of the lines tell dumps apart");
    let (few, _) = store.dumps_find(asked(ours, "limit=5", 1_000)).await.expect("a page");
    assert!(few.iter().eq(&dumps[..5]));
    store.close().await;
}

async fn what_is_meant_is_counted(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let dumps = fill(&store, ours, 120).await;
    let fields = [
        "type",
        "kind",
        "state",
        "cmd",
        "node",
        "platform",
        "ticket",
        "signature",
        "pid",
        "size",
        "time",
        "uploaded",
        "truncated",
        "by",
        "hash",
        "properties.triage.who",
        "properties.triage.sure",
        "stack",
        "signature.text",
    ];
    for line in ["", "type=core", "cmd=svc* ticket=undefined", "stack=*raise*", "cmd=nobody"] {
        for name in fields {
            let field: Field = name.parse().expect("is a field");
            let meant = meant(line);
            let mut expected = BTreeMap::new();
            let among: Vec<_> = dumps.iter().filter(|dump| meant.matches(dump, now())).collect();
            for value in among.iter().filter_map(|dump| field.of(dump)) {
                let text = match value {
                    serde_json::Value::String(text) => text,
                    serde_json::Value::Array(calls) => {
                        calls.iter().filter_map(|call| call.as_str()).collect::<Vec<_>>().join(",")
                    }
                    other => other.to_string(),
                };
                *expected.entry(text).or_insert(0) += 1;
            }
            let report = store.dumps_count(meant, Some(field), ours, now()).await.expect("is counted");
            let counts: BTreeMap<_, _> = report.values.iter().map(|one| (one.value.clone(), one.count)).collect();
            assert_eq!((report.dumps, counts), (among.len() as u64, expected), "{line}: {name}");
            assert!(report.values.is_sorted_by_key(|one| one.count), "{line}: {name}");
        }
    }
    store.close().await;
}

async fn what_is_meant_is_changed_at_once(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    fill(&store, ours, 450).await;
    let find = async |line: &str| store.dumps_find(asked(ours, line, 1_000)).await.expect("a page").0;
    let order = async |line: &str, order: DumpsOrder, earnest| {
        store.dumps_change(meant(line), (order, earnest), ours, ("bob", now())).await
    };
    let change = |change: serde_json::Value| DumpsOrder::Note(serde_json::from_value(change).expect("is a change"));
    let untold = find("ticket=undefined").await.len() as u64;
    assert!(untold > 200, "several pages are");
    let ticket = || change(json!({"ticket": "OS-9"}));
    let head = store.log_bounds().await.expect("bounds").head;
    let tried = order("ticket=undefined", ticket(), Earnest::Dry).await.expect("is tried");
    assert_eq!((tried.matched, tried.changed, tried.dumps.len() as u64), (untold, untold, untold));
    assert_eq!(find("ticket=undefined").await.len() as u64, untold);
    assert_eq!(store.log_bounds().await.expect("bounds").head, head, "what is only tried changes nothing");
    let done = order("ticket=undefined", ticket(), Earnest::Real).await.expect("is done");
    assert_eq!((done.matched, done.changed), (untold, untold));
    assert_eq!(find("ticket=OS-9").await.len() as u64, untold);
    assert_eq!(find("ticket=undefined").await.len(), 0);
    let changes: Vec<_> = log(&store, head).await.into_iter().filter(|change| change.noun == Noun::Dump).collect();
    assert_eq!(changes.len() as u64, untold, "the log has each of them");
    let again = order("ticket=OS-9", ticket(), Earnest::Real).await.expect("is done");
    assert_eq!((again.matched, again.changed), (untold, 0));
    let three = order("ticket=OS-9 limit=3", change(json!({"properties": {"seen": true}})), Earnest::Real).await;
    assert_eq!(three.expect("is done").changed, 3);
    assert_eq!(find("properties.seen=true").await.len(), 3);
    // They are those that a list shows.
    let shown = DumpsAsked { order: DumpOrder::Newest, ..asked(ours, "ticket=OS-9", 3) };
    let listed = store.dumps_find(shown).await.expect("a page").0;
    assert!(listed.iter().all(|dump| dump.properties["seen"] == json!(true)), "{listed:?}");

    // One of them cannot hold more: none of them is changed.
    let full = find("properties.seen=true").await.remove(2);
    note(&store, &full, json!({"properties": {"long": "x".repeat(15_000)}})).await;
    let more = change(json!({"properties": {"more": "y".repeat(3_000)}}));
    let over = order("properties.seen=true", more, Earnest::Real).await.expect_err("is too much").to_string();
    assert!(over.starts_with("the properties of a dump have at most"), "{over}");
    assert_eq!(find("properties.more=*").await.len(), 0);

    let purge = order("ticket=OS-9", DumpsOrder::Purge, Earnest::Dry).await.expect("is tried");
    assert_eq!((purge.changed, find("state=purged").await.len()), (untold, 0));
    let purge = order("ticket=OS-9 limit=30", DumpsOrder::Purge, Earnest::Real).await.expect("is done");
    assert_eq!((purge.changed, find("state=purged").await.len()), (30, 30));
    assert!(find("state=purged").await.iter().all(|dump| dump.manifest.is_none()));
    store.close().await;
}

/// However a dump came by its properties, its rows are those of one that was told them at once.
async fn rows_follow_the_properties(fresh: &Fresh) {
    let store = fresh.open().await;
    let raw = fresh.raw().await;
    let ours = tenant(&store, "ours").await;
    let rows = async |of: DumpId| {
        let of = of.to_string();
        raw.texts(&format!(
            "SELECT path, kind, text, coalesce(cast(number AS text), '-') FROM dump_property WHERE dump = '{of}' \
             ORDER BY 1, 2, 3, 4"
        ))
        .await
    };
    let grown = create(&store, ours, &new("a0"), ("x", 1), &[]).await.expect("is made").dump;
    let steps = [
        json!({"b": 1, "c": [1, 1, "1", true], "d": {"e": "f", "g": {}}}),
        json!({"a": "before all", "c": [1, "1", "1", 2.5]}),
        json!({"b": "1", "d": {"e": "f", "h": []}}),
        json!({"b": null, "c": null, "z": "behind all"}),
        json!({"a": null, "d": null, "z": null}),
        json!({"b": 1}),
    ];
    for (step, place) in steps.into_iter().zip(1..) {
        let dump = note(&store, &grown, json!({"properties": step})).await;
        let fresh = create(&store, ours, &new(&format!("a{place}")), ("x", 1), &[]).await.expect("is made").dump;
        note(&store, &fresh, json!({"properties": dump.properties})).await;
        assert_eq!(rows(grown.id).await, rows(fresh.id).await, "{:?}", dump.properties);
        assert_eq!(rows(grown.id).await.is_empty(), dump.properties.is_empty());
        super::tally::check(&raw).await;
    }
    store.close().await;
}

async fn names_must_be_there(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let mut made = Vec::new();
    for hash in ["aa1", "aa2", "f"] {
        made.push(create(&store, ours, &new(hash), ("x", 1), &[]).await.expect("is made").dump);
    }
    let find = async |line: &str, whose| store.dumps_find(asked(whose, line, 10)).await.map(|found| found.0.len());
    let id = made[0].id;
    for (line, count) in
        [("aa1", 1), ("aa1 OR f", 2), ("aa1 f", 0), ("NOT aa1", 2), (&id.to_string(), 1), (&format!("id={id}"), 1)]
    {
        assert_eq!(find(line, ours).await.expect("is found"), count, "{line}");
    }
    // By what is noted as another name of it, as long as no hash is meant.
    note(&store, &made[2], json!({"properties": {"alias": ["01d1", "aa1"]}})).await;
    note(&store, &made[1], json!({"properties": {"alias": "01d2"}})).await;
    for (line, expected) in [("01d1", 2), ("01d2", 1), ("aa1", 0)] {
        let found = store.dumps_find(asked(ours, line, 10)).await.expect("is found").0;
        assert_eq!(found.iter().map(|dump| dump.id).collect::<Vec<_>>(), [made[expected].id], "{line}");
    }
    refused(find("01", ours).await, "more than one dump's `alias` begins with `01`");
    refused(find("01d1", theirs).await, "dump `01d1` does not exist");
    refused(find("aa", ours).await, "more than one dump's hash begins with `aa`");
    refused(find("aa1 OR bb", ours).await, "dump `bb` does not exist");
    refused(find("aa1", theirs).await, "dump `aa1` does not exist");
    refused(find(&id.to_string(), theirs).await, &format!("dump `{id}` does not exist"));
    store.close().await;
}

/// A question that cannot be answered in time is given up, and the connection serves the next.
async fn what_takes_too_long_is_refused(fresh: &Fresh) {
    let Raw::Postgres(client) = fresh.raw().await else { return };
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    client.batch_execute("BEGIN; LOCK TABLE dump_count IN ACCESS EXCLUSIVE MODE").await.expect("is locked");
    let error = store.dumps_count(meant(""), None, ours, now()).await.expect_err("is given up");
    assert_eq!(error.to_string(), "the question took longer than 5 s and was stopped");
    client.batch_execute("COMMIT").await.expect("is unlocked");
    assert_eq!(store.dumps_count(meant(""), None, ours, now()).await.expect("is counted").dumps, 0);
    store.close().await;
}
