//! The tally of dumps by their values: what the database's triggers keep is what counting finds, whatever happened to the
//! dumps and wherever they were moved.

use crate::dump::{create, digest, new};
use crate::engine::{Fresh, Raw, on_both_engines};
use crate::sample::{at, tenant};
use crate::specification::{fill, meant, now};
use model::dump::query::Earnest;
use model::dump::{DumpFindings, DumpState};
use model::report::Severity;
use model::{DumpKind, NewDump};
use serde_json::json;
use store::{DumpRetention, DumpsOrder};

on_both_engines!(the_tally_is_right_whatever_happens);

/// The columns whose values are counted.
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

/// Holds the tally against the dumps; returns the columns in which any of them has a value.
pub(crate) async fn check(raw: &Raw) -> Vec<&'static str> {
    let mut used = Vec::new();
    for column in COUNTED {
        let counted = format!(
            "SELECT tenant, cast({column} AS text) AS value, cast(count(*) AS text) FROM dump WHERE {column} IS NOT NULL \
             GROUP BY tenant, {column} ORDER BY 1, 2"
        );
        let kept = format!(
            "SELECT tenant, value, cast(dumps AS text) FROM dump_count WHERE field = '{column}' ORDER BY tenant, value"
        );
        let counted = raw.texts(&counted).await;
        assert_eq!(raw.texts(&kept).await, counted, "{column}");
        if !counted.is_empty() {
            used.push(column);
        }
    }
    let counted = raw.texts("SELECT tenant, cast(count(*) AS text) FROM dump GROUP BY tenant ORDER BY tenant").await;
    let kept = raw.texts("SELECT tenant, cast(dumps AS text) FROM dump_count WHERE field = '' ORDER BY tenant").await;
    assert_eq!(kept, counted);
    let known = COUNTED.map(|column| format!("'{column}'")).join(", ");
    let others = format!(
        "SELECT count(*) FROM dump_count WHERE field NOT IN ('', {known}) \
                          AND field NOT LIKE 'properties.%'"
    );
    assert_eq!(raw.number(&others).await, 0, "nothing else is counted");
    let counted = "SELECT tenant, 'properties.' || path AS field, text, cast(count(*) AS text) FROM dump_property \
                   GROUP BY tenant, path, text ORDER BY 1, 2, 3";
    let kept = "SELECT tenant, field, value, cast(dumps AS text) FROM dump_count WHERE field LIKE 'properties.%' \
                ORDER BY 1, 2, 3";
    assert_eq!(raw.texts(kept).await, raw.texts(counted).await);
    // Each property has its dump's time, also when that becomes another.
    let strange = "SELECT count(*) FROM dump_property AS p JOIN dump AS d ON d.id = p.dump WHERE p.time <> d.time";
    assert_eq!(raw.number(strange).await, 0);
    used
}

async fn the_tally_is_right_whatever_happens(fresh: &Fresh) {
    let store = fresh.open().await;
    let raw = fresh.raw().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let dumps = fill(&store, ours, 120).await;
    fill(&store, theirs, 20).await;
    assert_eq!(check(&raw).await, COUNTED);
    let change = |value| DumpsOrder::Note(serde_json::from_value(value).expect("is a change"));
    for (line, order) in [
        ("cmd=java", DumpsOrder::Purge),
        ("node=node1", change(json!({"ticket": "OS-77"}))),
        ("ticket=OS-1", change(json!({"ticket": null}))),
        ("state=unreadable", DumpsOrder::Analyse),
    ] {
        let done = store.dumps_change(meant(line), (order, Earnest::Real), ours, ("bob", now())).await;
        assert!(done.expect("is done").changed > 0, "{line}");
        check(&raw).await;
    }
    // What an analysis finds out another time takes the place of what it said before.
    let again = dumps.iter().find(|dump| dump.state == DumpState::Analysed && dump.class.is_some()).expect("is there");
    let findings = DumpFindings {
        class: Some("abort".to_owned()),
        severity: Some(Severity::Low),
        stack: vec!["elsewhere".to_owned()],
        ..DumpFindings::new(DumpState::Truncated, DumpKind::Minidump)
    };
    store.dump_find(again.id, again.digest, findings, "node", at(6)).await.expect("is kept");
    check(&raw).await;
    // Content goes by rule (of each signature in its own tests); what comes again is received anew.
    let retention = DumpRetention { before: Some(now()), per_signature: None };
    let (mut purged, mut more) = (0, true);
    while more {
        let pass = store.dumps_retain(retention, now()).await.expect("a pass");
        check(&raw).await;
        (purged, more) = (purged + pass.dumps, pass.more);
    }
    assert!(purged > 64, "{purged} were purged, in more than one pass");
    let gone = dumps.iter().find(|dump| dump.ticket.is_none()).expect("is there");
    let new = NewDump { manifest: digest("manifest again"), ..new(&gone.hash) };
    let back = create(&store, ours, &new, ("content again", 9), &[]).await.expect("is there").dump;
    assert_eq!((back.id, back.state), (gone.id, DumpState::Received));
    check(&raw).await;
    store.close().await;
    assert!(raw.number("SELECT count(*) FROM dump_property WHERE time <> 0").await > 20);
    raw.script("UPDATE dump SET time = time + 1").await;
    check(&raw).await;
    raw.script("DELETE FROM dump_property; DELETE FROM dump").await;
    assert_eq!(raw.number("SELECT count(*) FROM dump_count").await, 0);
}
