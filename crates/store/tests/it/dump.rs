//! Parcels and dumps: what is there is known, uploading again merges, and what no dump needs goes, but nothing else.

use crate::engine::{Fresh, on_both_engines};
use crate::node::{finished, join, report};
use crate::sample::{accepted, at, execution, log, refused, tenant};
use futures_util::future::join_all;
use model::dump::query::Earnest;
use model::dump::spec::Specification;
use model::dump::{
    Arrival, DumpArrived, DumpChange, DumpFacts, DumpFindings, DumpSignature, MAX_TICKET_CHARS, MAX_WORD_CHARS,
};
use model::node::Held;
use model::pack::PackName;
use model::parcel::{Frame, Index};
use model::sandbox::FileIn;
use model::{
    Blob, Digest, Dump, DumpId, DumpKind, DumpState, Execution, ExecutionId, NewDump, NewExecution, NewNode, Noun,
    Outcome, Purpose, Sandbox, SetUpFault, TenantId,
};
use serde_json::json;
use std::collections::BTreeSet;
use store::{DumpKey, DumpLeft, DumpsOrder, Store, StoreError, Taken, random};

on_both_engines!(
    frames_are_known_by_the_parcel_that_brought_them,
    a_dump_merges_and_never_resets,
    a_dump_is_found,
    what_no_dump_needs_goes,
    what_an_execution_names_stays,
    naming_a_parcel_and_removing_it_meet,
    findings_are_kept,
    the_longest_words_are_kept,
    a_dump_is_analysed_once_and_whatever_happens,
    a_machine_that_fails_is_forgiven_a_few_times,
    dumps_are_analysed_again_by_order,
    a_dump_is_told_by_the_packs_that_its_sender_named,
    packs_go_once_no_dump_needs_them,
);

pub(crate) fn digest(seed: &str) -> Digest {
    Digest::from_bytes(*blake3::hash(seed.as_bytes()).as_bytes())
}

fn frame(seed: &str) -> Frame {
    Frame { digest: digest(seed), packed: 100, raw: 4096 }
}

/// Keeps a parcel of these frames, and returns how many of them were new.
pub(crate) async fn parcel(store: &Store, whose: TenantId, frames: &[&str], ms: i64) -> u64 {
    let index = Index { frames: frames.iter().map(|seed| frame(seed)).collect() };
    let blob = Blob {
        digest: digest(&frames.join("+")),
        size: index.parcel_bytes(),
        created_at: at(ms),
        purpose: Purpose::Kept,
    };
    store.parcel_create(blob, index, whose, "ann").await.expect("is kept").0.new_frames
}

pub(crate) fn new(hash: &str) -> NewDump {
    NewDump {
        id: DumpId::new(at(1), random()),
        hash: format!("{hash:0<32}"),
        manifest: digest("manifest"),
        kind: DumpKind::Core,
        is_truncated: false,
        name: "core.1".to_owned(),
        facts: DumpFacts { time: Some(at(5)), ..DumpFacts::default() },
        execution: None,
        redaction: None,
        packs: Vec::new(),
    }
}

pub(crate) async fn create(
    store: &Store,
    whose: TenantId,
    new: &NewDump,
    content: (&str, u64),
    frames: &[&str],
) -> Result<DumpArrived, StoreError> {
    // Nobody here removes contents; that it was done is all the store need be told.
    for digest in store.removal_list(at(99)).await.expect("a list") {
        store.removal_end(digest).await.expect("is noted");
    }
    let manifest = Blob { digest: new.manifest, size: 9, created_at: at(2), purpose: Purpose::Kept };
    store.blob_create(manifest, whose, "ann").await.expect("is noted");
    let frames: Vec<_> = frames.iter().map(|seed| frame(seed)).collect();
    let parcels = store.frame_parcels(&frames, whose).await?;
    store.dump_create(new.clone(), (digest(content.0), content.1), parcels, whose, ("ann", at(3))).await
}

pub(crate) fn everybody(whose: TenantId) -> Taken {
    Taken { reach: None, namespace: whose }
}

pub(crate) async fn note(store: &Store, dump: &Dump, change: serde_json::Value) -> Dump {
    let change: DumpChange = serde_json::from_value(change).expect("is a change");
    let taken = everybody(dump.tenant);
    store.dump_note(DumpKey::Id(dump.id), taken, change, "bob", at(9)).await.expect("is noted")
}

async fn frames_are_known_by_the_parcel_that_brought_them(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let names: Vec<_> = ["a", "b", "c"].map(digest).to_vec();
    assert_eq!(store.frames_missing(names.clone(), ours, at(9)).await.expect("an answer"), names);
    assert_eq!(store.frames_missing(Vec::new(), ours, at(9)).await.expect("an answer"), []);
    assert_eq!(parcel(&store, ours, &["a", "b", "a"], 1).await, 2, "the same twice is one");
    assert_eq!(parcel(&store, ours, &["a", "b", "a"], 2).await, 0, "again is harmless");
    assert_eq!(parcel(&store, ours, &["b", "c"], 3).await, 1);
    assert_eq!(parcel(&store, theirs, &["c"], 4).await, 1, "each tenant has its own");
    assert_eq!(store.frames_missing(names.clone(), ours, at(9)).await.expect("an answer"), []);
    assert_eq!(store.frames_missing(names.clone(), theirs, at(9)).await.expect("an answer"), names[..2]);
    let mut places = store.frame_places(names, ours).await.expect("an answer");
    places.sort_by_key(|place| (place.parcel != digest("a+b+a"), place.offset));
    let found: Vec<_> = places.iter().map(|place| (place.digest, place.parcel, place.offset, place.packed)).collect();
    // Before the first frame stand the head of twelve bytes and forty for each.
    let expected = [("a", "a+b+a", 132), ("b", "a+b+a", 232), ("c", "b+c", 192)];
    assert_eq!(found, expected.map(|(name, parcel, at)| (digest(name), digest(parcel), at, 100)));
    store.close().await;
}

async fn a_dump_merges_and_never_resets(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let words = "some frames of the dump are not here";
    refused(create(&store, ours, &new("a"), ("half", 50), &["a"]).await, words);
    parcel(&store, ours, &["a"], 1).await;
    parcel(&store, ours, &["b"], 1).await;
    let head = store.log_bounds().await.expect("bounds").head;
    let half = NewDump { is_truncated: true, manifest: digest("half a manifest"), ..new("a") };
    let first = create(&store, ours, &half, ("half", 50), &["a"]).await.expect("is made");
    assert_eq!((first.arrival, first.dump.state, first.dump.is_truncated), (Arrival::New, DumpState::Received, true));
    let noted = note(&store, &first.dump, json!({"ticket": "OS-1", "properties": {"triage": {"who": "bmc"}}})).await;

    // The same again, by the same id or another, says what is there.
    for again in [&half, &NewDump { id: DumpId::new(at(7), 1), ..half.clone() }] {
        let again = create(&store, ours, again, ("half", 50), &["a"]).await.expect("is there");
        assert_eq!((again.arrival, again.dump), (Arrival::Known, noted.clone()));
    }
    // The whole replaces what was cut short, and adds what was not known; what was noted stays.
    let facts = DumpFacts { cmd: Some("java".to_owned()), time: Some(at(99)), ..DumpFacts::default() };
    let whole = NewDump { facts, ..new("a") };
    let merged = create(&store, ours, &whole, ("whole", 100), &["a", "b"]).await.expect("is merged");
    assert_eq!(merged.arrival, Arrival::Replaced);
    let expected = Dump {
        digest: digest("whole"),
        size: 100,
        manifest: Some(whole.manifest),
        is_truncated: false,
        facts: DumpFacts { cmd: Some("java".to_owned()), ..noted.facts.clone() },
        ..noted.clone()
    };
    assert_eq!(merged.dump, expected);
    let gone = store.blob_get(half.manifest, ours).await;
    assert!(matches!(gone, Err(StoreError::NotFound { .. })), "nobody needs half a manifest: {gone:?}");
    // What is cut short again is no match for it.
    let less = create(&store, ours, &half, ("half", 50), &["a"]).await.expect("is there");
    assert_eq!((less.arrival, &less.dump), (Arrival::Known, &expected));
    let other = NewDump { id: whole.id, ..new("b") };
    refused(
        create(&store, ours, &NewDump { id: first.dump.id, ..other }, ("x", 1), &[]).await,
        &format!("dump `{}` already exists, and is different", first.dump.id),
    );
    let dumps: Vec<_> = log(&store, head).await.into_iter().filter(|change| change.noun == Noun::Dump).collect();
    assert_eq!(dumps.len(), 3, "made, noted, replaced");
    assert_eq!(dumps[2].body.get(), serde_json::to_string(&expected).expect("JSON"));

    // Many at once, from two servers: one is made, all get the same.
    let news: Vec<_> = (0..12).map(|_| new("c")).collect();
    let made = join_all(news.iter().map(|new| create(&store, ours, new, ("c", 1), &["a"]))).await;
    let made: Vec<_> = made.into_iter().map(|made| made.expect("is made or there")).collect();
    assert_eq!(made.iter().filter(|made| made.arrival == Arrival::New).count(), 1);
    assert!(made.iter().all(|one| one.dump == made[0].dump));
    store.close().await;
}

async fn a_dump_is_found(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let mut made = Vec::new();
    for hash in ["aa1", "aa2", "f"] {
        made.push(create(&store, ours, &new(hash), ("x", 1), &[]).await.expect("is made").dump);
    }
    let get = async |text: &str, taken| {
        let key = text.parse().map_or_else(|_| DumpKey::Hash(text.to_owned()), DumpKey::Id);
        store.dump_get(key, taken).await.map(|dump| dump.id)
    };
    let (here, there) =
        (Taken { reach: Some(ours), namespace: ours }, Taken { reach: Some(theirs), namespace: theirs });
    for (text, index) in [("aa1", 0), ("aa2", 1), ("f", 2), ("f0", 2), (&made[1].hash, 1)] {
        assert_eq!(get(text, here).await.expect("is found"), made[index].id, "{text}");
        assert!(get(text, there).await.is_err(), "{text} is not theirs");
    }
    let id = made[2].id.to_string();
    assert_eq!(get(&id, here).await.expect("is found"), made[2].id);
    refused(get(&id, there).await, &format!("dump `{id}` does not exist"));
    refused(get("aa", here).await, "more than one dump's hash begins with `aa`");
    for text in ["ab", "", "AA1", "%", &"0".repeat(33)] {
        refused(get(text, here).await, &format!("dump `{text}` does not exist"));
    }
    let (page, _) = store.dump_list(ours, None, 2).await.expect("a page");
    let (rest, _) = store.dump_list(ours, Some(page[1].id), 2).await.expect("a page");
    let listed: BTreeSet<_> = page.iter().chain(&rest).map(|dump| dump.id).collect();
    assert_eq!((page.len(), rest.len(), listed), (2, 1, made.iter().map(|dump| dump.id).collect()));
    store.close().await;
}

async fn what_no_dump_needs_goes(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    parcel(&store, ours, &["a"], 10).await;
    parcel(&store, ours, &["b"], 20).await;
    parcel(&store, ours, &["c"], 30).await;
    let dump = create(&store, ours, &new("a"), ("x", 1), &["a", "c"]).await.expect("is made").dump;
    let gc = async |before, limit| store.parcel_gc(at(before), limit, "house", at(99)).await.expect("is done").parcels;
    assert_eq!(gc(20, 10).await, 0, "it may still be named");
    // Whoever is told that a frame is there has time to name it.
    let minutes = 60_000;
    let asked = at(15 * minutes);
    assert_eq!(store.frames_missing(vec![digest("b")], ours, asked).await.expect("an answer"), []);
    assert_eq!(gc(15 * minutes, 10).await, 0);
    assert_eq!(store.frames_missing(vec![digest("b")], ours, at(20 * minutes)).await.expect("an answer"), []);
    assert_eq!(gc(15 * minutes, 10).await, 0, "what was asked for a moment ago is not noted again");
    assert_eq!(gc(15 * minutes + 1, 10).await, 1);
    let left = store.frames_missing(["a", "b", "c"].map(digest).to_vec(), ours, at(9)).await.expect("an answer");
    assert_eq!(left, [digest("b")]);
    assert_eq!(store.removal_list(at(99)).await.expect("a list"), [digest("b")], "its content is to be removed");
    store.removal_end(digest("b")).await.expect("is noted");

    let purged = store.dump_purge(DumpKey::Id(dump.id), everybody(ours), "bob", at(40)).await.expect("is purged");
    assert_eq!((purged.state, purged.manifest, &purged.hash), (DumpState::Purged, None, &dump.hash));
    assert_eq!(gc(40, 10).await, 0, "loose since then only");
    assert_eq!(gc(41, 1).await, 1, "no more than asked for at once");
    assert_eq!(gc(41, 10).await, 1);
    assert_eq!(gc(i64::from(u32::MAX), 10).await, 0);
    let raw = fresh.raw().await;
    for table in ["parcel", "frame", "dump_parcel"] {
        assert_eq!(raw.number(&format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    // What was purged comes back with its content.
    refused(create(&store, ours, &new("a"), ("x", 1), &["a"]).await, "some frames of the dump are not here");
    parcel(&store, ours, &["a"], 50).await;
    let back = create(&store, ours, &new("a"), ("x", 1), &["a"]).await.expect("is merged");
    assert_eq!((back.arrival, back.dump.state, back.dump.id), (Arrival::Replaced, DumpState::Received, dump.id));
    store.close().await;
}

async fn what_an_execution_names_stays(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    parcel(&store, ours, &["a"], 1).await;
    let dump = create(&store, ours, &new("a"), ("x", 1), &["a"]).await.expect("is made").dump;
    for report in ["first report", "second report"] {
        let blob = Blob { digest: digest(report), size: 4, created_at: at(2), purpose: Purpose::Kept };
        store.blob_create(blob, ours, "ann").await.expect("is noted");
    }
    let find = async |report: &str| {
        let findings =
            DumpFindings { report: Some(digest(report)), ..DumpFindings::new(DumpState::Analysed, DumpKind::Core) };
        store.dump_find(dump.id, dump.digest, findings, "node", at(3)).await.expect("is kept");
    };
    find("first report").await;
    // A report, a manifest and a parcel are files of an execution that waits.
    let names = ["first report", "manifest", "a"].map(digest);
    let file = |digest| FileIn { digest, target: format!("/{digest}"), executable: false };
    let files = names.map(file).to_vec();
    let waits = NewExecution { sandbox: Sandbox { files, ..Sandbox::default() }, ..execution(4) };
    accepted(&store, &waits, ours, 4).await;
    find("second report").await;
    store.dump_purge(DumpKey::Id(dump.id), everybody(ours), "bob", at(5)).await.expect("is purged");
    assert_eq!(store.parcel_gc(at(6), 10, "house", at(7)).await.expect("is done").parcels, 1);
    for name in names {
        let blob = store.blob_get(name, ours).await.expect("is named");
        assert_eq!(blob.purpose, Purpose::Execution, "it goes with what names it");
    }
    store.execution_cancel(waits.id, None, "ann", at(8)).await.expect("ends");
    let hour = 3_600_000;
    assert_eq!(store.executions_retain(at(9), at(10)).await.expect("a pass").blobs, 0);
    assert_eq!(store.executions_retain(at(9), at(11 + hour)).await.expect("a pass").blobs, 3);
    assert!(store.blob_get(digest("second report"), ours).await.is_ok(), "a dump names it");
    store.close().await;
}

async fn naming_a_parcel_and_removing_it_meet(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    for round in 0..12 {
        let (name, manifest) = (format!("frame {round}"), digest(&format!("manifest {round}")));
        parcel(&stores[0], ours, &[&name], 1).await;
        let new = NewDump { manifest, ..new(&format!("{round:x}")) };
        let parcels = stores[0].frame_parcels(&[frame(&name)], ours).await.expect("is there");
        let blob = Blob { digest: manifest, size: 9, created_at: at(2), purpose: Purpose::Kept };
        stores[0].blob_create(blob, ours, "ann").await.expect("is noted");
        let naming = stores[0].dump_create(new, (digest("x"), 1), parcels, ours, ("ann", at(3)));
        let removing = stores[1].parcel_gc(at(5), 10, "house", at(5));
        let (named, freed) = tokio::join!(naming, removing);
        let freed = freed.expect("is done").parcels;
        assert_eq!(named.is_ok(), freed == 0, "either it is named or it is gone: {named:?}");
        let missing = stores[0].frames_missing(vec![digest(&name)], ours, at(9)).await.expect("an answer");
        assert_eq!(missing.len() as u64, freed, "a frame is there as long as its parcel");
    }
    for store in stores {
        store.close().await;
    }
}

/// All that stands in one index together, as long as it may be and of letters that nothing makes shorter.
async fn the_longest_words_are_kept(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let letter = || char::from_u32(0x2_0000 + u32::try_from(random() % 0xa000).expect("is small")).expect("is one");
    let word = |chars: usize| Some((0..chars).map(|_| letter()).collect::<String>());
    let facts = DumpFacts {
        cmd: word(MAX_WORD_CHARS),
        node: word(MAX_WORD_CHARS),
        platform: word(MAX_WORD_CHARS),
        psargs: word(MAX_WORD_CHARS * 4),
        ..DumpFacts::default()
    };
    let name = word(MAX_WORD_CHARS).expect("is one");
    let dump = create(&store, ours, &NewDump { facts, name, ..new("a") }, ("x", 1), &[]).await.expect("is made").dump;
    note(&store, &dump, json!({"ticket": word(MAX_TICKET_CHARS), "properties": {"a": word(2_000)}})).await;
    let signature = DumpSignature { id: word(2_000).expect("is one"), text: word(2_000).expect("is one") };
    let findings = DumpFindings {
        signature: Some(signature),
        class: word(2_000),
        cause: word(2_000),
        stack: vec![word(2_000).expect("is one")],
        ..DumpFindings::new(DumpState::Analysed, DumpKind::Core)
    };
    store.dump_find(dump.id, dump.digest, findings, "node", at(9)).await.expect("is kept");
    store.close().await;
}

async fn findings_are_kept(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let raw = fresh.raw().await;
    let mut made = Vec::new();
    for hash in ["a", "b"] {
        made.push(create(&store, ours, &new(hash), ("x", 1), &[]).await.expect("is made").dump);
    }
    let stack = ["libc.so.1`abort+0x10e()", "main+0x379()", "main+0x379()"].map(str::to_owned).to_vec();
    let findings = DumpFindings {
        facts: DumpFacts { cmd: Some("utmpd".to_owned()), ..DumpFacts::default() },
        stack: stack.clone(),
        signature: Some(DumpSignature { id: "sig".to_owned(), text: "abort | main".to_owned() }),
        class: Some("abort".to_owned()),
        severity: Some(model::Severity::Low),
        ..DumpFindings::new(DumpState::Analysed, DumpKind::Core)
    };
    for dump in &made {
        let found = store.dump_find(dump.id, dump.digest, findings.clone(), "node", at(9)).await.expect("is kept");
        let facts = DumpFacts { cmd: Some("utmpd".to_owned()), ..dump.facts.clone() };
        let expected = Dump {
            state: DumpState::Analysed,
            facts,
            stack: stack.clone(),
            signature: findings.signature.clone(),
            class: findings.class.clone(),
            severity: findings.severity,
            ..dump.clone()
        };
        assert_eq!(found, expected);
        assert_eq!(store.dump_get(DumpKey::Id(dump.id), everybody(ours)).await.expect("is there"), expected);
    }
    let counts = ["stack", "call", "stack_call"].map(|table| format!("SELECT count(*) FROM \"{table}\""));
    assert_eq!(raw.number(&counts[0]).await, 1, "equal stacks are one");
    assert_eq!((raw.number(&counts[1]).await, raw.number(&counts[2]).await), (2, 3));
    let late = store.dump_find(made[0].id, digest("what was there before"), findings.clone(), "node", at(9)).await;
    refused(late, &format!("dump `{}` is analysed, which does not lead to analysed", made[0].id));

    let noted = note(&store, &made[0], json!({"properties": {"n": 1.5, "a": {"b": ["x", true]}, "e": {}}})).await;
    assert_eq!(noted.properties["a"], json!({"b": ["x", true]}));
    let rows = "SELECT path, kind, text, coalesce(number, 0) FROM dump_property ORDER BY ordinal";
    let rows: Vec<_> = raw.texts(rows).await.into_iter().map(|row| row[..3].join("|")).collect();
    assert_eq!(rows, ["a.b|text|x", "a.b|truth|true", "e|empty|", "n|number|1.5"]);
    note(&store, &made[0], json!({"properties": {"a": null, "e": null}})).await;
    assert_eq!(raw.number("SELECT count(*) FROM dump_property").await, 1);
    store.close().await;
}

/// Returns a dump that an execution left, of no content to speak of.
pub(crate) fn left(manifest: Digest, hash: &str, ms: i64) -> DumpLeft {
    let facts = DumpFacts::default();
    let new = NewDump { manifest, facts, id: DumpId::new(at(ms), random()), ..new(hash) };
    DumpLeft { new, digest: manifest, size: 0, parcels: BTreeSet::new() }
}

async fn a_dump_is_analysed_once_and_whatever_happens(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    let get = async |dump: &Dump| store.dump_get(DumpKey::Id(dump.id), everybody(ours)).await.expect("is there");
    let ids = || (0..8).map(|_| ExecutionId::new(at(4), random())).collect::<Vec<_>>();
    parcel(&store, ours, &["a"], 1).await;
    let mut made = Vec::new();
    for hash in ["a", "b", "c"] {
        made.push(create(&store, ours, &new(hash), (hash, 1), &["a"]).await.expect("is made").dump);
    }
    made.sort_by_key(|dump| dump.id.to_string());
    assert!(store.analyses_wait(at(6)).await.expect("an answer"));
    let (one, other) = tokio::join!(store.analyses_make(ids(), at(5)), store.analyses_make(ids(), at(5)));
    let mut analyses = [one.expect("are made"), other.expect("are made")].concat();
    analyses.sort_by_key(|analysis| analysis.origin.id.clone());
    let of: Vec<_> = analyses.iter().filter_map(|analysis| analysis.origin.id.clone()).collect();
    assert_eq!(of, made.iter().map(|dump| dump.id.to_string()).collect::<Vec<_>>(), "each is analysed once");
    assert!(!store.analyses_wait(at(6)).await.expect("an answer"));
    assert_eq!(store.analyses_make(ids(), at(6)).await.expect("are made").len(), 0);

    let takes = |ms| {
        let mut report = report(&node, ours, ms);
        report.sync.free = 8;
        report
    };
    let heard = store.node_exchange(takes(7)).await.expect("is heard");
    let order = |dump: &Dump| heard.assigned.iter().find_map(|given| given.dump.clone().filter(|of| of.id == dump.id));
    assert_eq!(order(&made[0]).map(|order| order.manifest), Some(made[0].manifest));
    let held_of = |analysis: &Execution| Held { execution: analysis.id, attempt: 1 };
    let say = async |analysis: &Execution, outcome: Outcome, findings: Option<DumpFindings>, ms| {
        let mut said = finished(&node, ours, held_of(analysis), ms);
        (said.sync.finished[0].outcome, said.sync.finished[0].findings) = (outcome, findings);
        assert_eq!(store.node_exchange(said).await.expect("is heard").refused, []);
    };
    let findings = DumpFindings {
        class: Some("null_read".to_owned()),
        stack: vec!["main".to_owned()],
        ..DumpFindings::new(DumpState::Truncated, DumpKind::Core)
    };
    say(&analyses[0], Outcome::Exited { code: 0 }, Some(findings.clone()), 8).await;
    let found = get(&made[0]).await;
    assert_eq!((found.state, found.class.as_deref(), found.stack.len()), (DumpState::Truncated, Some("null_read"), 1));
    assert!(found.is_truncated, "what came whole and is found to be cut is told to be");
    // Whatever else happens ends it too, with the reason.
    say(&analyses[1], Outcome::OutOfMemory, None, 9).await;
    let found = get(&made[1]).await;
    assert_eq!(found.state, DumpState::Unreadable);
    assert_eq!(found.cause.as_deref(), Some("its analysis needed more memory than it may"));
    assert!(!store.analyses_wait(at(6)).await.expect("an answer"), "it is not tried for ever");
    let retry = store.execution_retry(analyses[1].id, ExecutionId::new(at(9), random()), None, "ann", at(9)).await;
    refused(retry, &format!("execution `{}` analysed a dump", analyses[1].id));
    // A report that nobody stored is none; and what was said of content that has been dropped does not count.
    let lost = DumpFindings { report: Some(digest("nowhere")), ..findings.clone() };
    say(&analyses[2], Outcome::Exited { code: 0 }, Some(lost), 10).await;
    assert_eq!(get(&made[2]).await.cause.as_deref(), Some("its report was not stored"));

    // Fuller content is analysed anew, and the analysis of what was there before tells nothing of it.
    let cut = NewDump { is_truncated: true, ..new("d") };
    let dump = create(&store, ours, &cut, ("half", 1), &["a"]).await.expect("is made").dump;
    let old = store.analyses_make(ids(), at(11)).await.expect("are made").remove(0);
    create(&store, ours, &new("d"), ("whole", 2), &["a"]).await.expect("is made");
    let fresh_one = store.analyses_make(ids(), at(12)).await.expect("are made").remove(0);
    store.node_exchange(takes(13)).await.expect("is heard");
    say(&old, Outcome::Exited { code: 0 }, Some(findings.clone()), 14).await;
    assert_eq!(get(&dump).await.state, DumpState::Received);
    let analysed = DumpFindings { state: DumpState::Analysed, ..findings };
    say(&fresh_one, Outcome::Exited { code: 0 }, Some(analysed), 15).await;
    assert_eq!(get(&dump).await.state, DumpState::Analysed);
    store.close().await;
}

async fn a_machine_that_fails_is_forgiven_a_few_times(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let node = join(&store, ours, "one", 0).await;
    parcel(&store, ours, &["a"], 1).await;
    let dump = create(&store, ours, &new("a"), ("a", 1), &["a"]).await.expect("is made").dump;
    let get = async || store.dump_get(DumpKey::Id(dump.id), everybody(ours)).await.expect("is there");
    let mut ms = 10;
    // Each time it is left alone for longer, in which nobody is asked to look into it.
    for pause in [2_000, 22_000] {
        fail(&store, &node, ours, ms).await;
        assert_eq!(get().await.state, DumpState::Received);
        assert!(!store.analyses_wait(at(ms + pause - 1)).await.expect("an answer"), "it is too early");
        assert_eq!(store.analyses_make(vec![ExecutionId::new(at(ms), random())], at(ms + 1)).await.expect("asks"), []);
        ms += pause + 10;
        assert!(store.analyses_wait(at(ms)).await.expect("an answer"));
    }
    fail(&store, &node, ours, ms).await;
    let found = get().await;
    assert_eq!(
        (found.state, found.cause.as_deref()),
        (DumpState::Unreadable, Some("its analysis never began: no room"))
    );
    assert!(!store.analyses_wait(at(i64::from(i32::MAX))).await.expect("an answer"), "it is not tried for ever");
    store.close().await;
}

/// Makes the analysis that waits, and has the node's machine fail it.
async fn fail(store: &Store, node: &NewNode, ours: TenantId, ms: i64) {
    let made = store.analyses_make(vec![ExecutionId::new(at(ms), random())], at(ms)).await.expect("are made");
    let mut takes = report(node, ours, ms);
    takes.sync.free = 8;
    assert_eq!(store.node_exchange(takes).await.expect("is heard").assigned.len(), 1);
    let mut said = finished(node, ours, Held { execution: made[0].id, attempt: 1 }, ms);
    said.sync.finished[0].outcome = Outcome::SetUpFailed { cause: "no room".to_owned(), fault: SetUpFault::Machine };
    assert_eq!(store.node_exchange(said).await.expect("is heard").refused, []);
}

async fn dumps_are_analysed_again_by_order(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    parcel(&store, ours, &["a"], 1).await;
    let mut made = Vec::new();
    for hash in ["a", "b", "c"] {
        made.push(create(&store, ours, &new(hash), (hash, 1), &["a"]).await.expect("is made").dump);
    }
    let ids = || (0..8).map(|_| ExecutionId::new(at(4), random())).collect::<Vec<_>>();
    assert_eq!(store.analyses_make(ids(), at(5)).await.expect("are made").len(), 3);
    for (dump, content) in made.iter().zip(["a", "b"]) {
        let findings =
            DumpFindings { class: Some("abort".to_owned()), ..DumpFindings::new(DumpState::Analysed, DumpKind::Core) };
        store.dump_find(dump.id, digest(content), findings, "node", at(6)).await.expect("is kept");
    }
    store.dump_purge(DumpKey::Id(made[1].id), everybody(ours), "ann", at(7)).await.expect("is purged");
    let again = async |earnest| {
        let of = Specification::parse(&["hash=*"]).expect("is one");
        let changed = store.dumps_change(of, (DumpsOrder::Analyse, earnest), ours, ("ann", at(8))).await;
        let changed = changed.expect("is done");
        (changed.matched, changed.dumps.iter().map(|dump| dump.id).collect::<Vec<_>>())
    };
    // What was dropped cannot be looked into, and what is about to be is not ordered twice.
    assert_eq!(again(Earnest::Dry).await, (3, vec![made[0].id]));
    assert!(!store.analyses_wait(at(9)).await.expect("an answer"));
    assert_eq!(again(Earnest::Real).await, (3, vec![made[0].id]));
    let found = store.dump_get(DumpKey::Id(made[0].id), everybody(ours)).await.expect("is there");
    assert_eq!((found.state, found.class.as_deref()), (DumpState::Received, Some("abort")));
    assert_eq!(again(Earnest::Real).await, (3, vec![]));
    let analyses = store.analyses_make(ids(), at(10)).await.expect("are made");
    assert_eq!(analyses.len(), 1);
    assert_eq!(analyses[0].origin.id, Some(made[0].id.to_string()));
    store.close().await;
}

fn name(build_id: &str, content: &str) -> PackName {
    PackName { build_id: build_id.to_owned(), digest: digest(content) }
}

/// Of one build id there are the pack of a liar, who came first, and an honest one.
async fn a_dump_is_told_by_the_packs_that_its_sender_named(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    for (content, n) in [("lie", 1), ("truth", 2)] {
        let pack = Blob { digest: digest(content), size: 4, created_at: at(n), purpose: Purpose::Kept };
        store.blob_create(pack, ours, "ann").await.expect("is noted");
        assert!(store.pack_put("aaaa", pack, ours, "ann").await.expect("is kept").1);
        assert!(!store.pack_put("aaaa", pack, ours, "ann").await.expect("is kept").1, "again is harmless");
    }
    parcel(&store, ours, &["a"], 1).await;
    let told_by = async |dump| {
        let found = store.packs_find(vec!["aaaa".to_owned()], ours, dump, at(9)).await.expect("an answer");
        found[0].digest
    };
    let made = async |hash: &str, packs: &[PackName]| {
        let new = NewDump { packs: packs.to_vec(), ..new(hash) };
        create(&store, ours, &new, (hash, 1), &["a"]).await.expect("is made").dump.id
    };
    // One that was named and never came is as good as none.
    let (named, lost) = (made("a", &[name("aaaa", "truth")]).await, made("b", &[name("aaaa", "lost")]).await);
    let unnamed = made("c", &[]).await;
    assert_eq!(told_by(Some(named)).await, digest("truth"));
    assert_eq!([told_by(Some(lost)).await, told_by(Some(unnamed)).await, told_by(None).await], [digest("lie"); 3]);
    // It stays as it was begun: another who sends the same dump has no say.
    assert_eq!(made("c", &[name("aaaa", "truth")]).await, unnamed);
    assert_eq!(told_by(Some(unnamed)).await, digest("lie"));
    // A dump without content forgets it, and is told by what comes with its content.
    store.dump_purge(DumpKey::Id(unnamed), everybody(ours), "ann", at(10)).await.expect("is purged");
    assert_eq!(made("c", &[name("aaaa", "truth")]).await, unnamed);
    assert_eq!(told_by(Some(unnamed)).await, digest("truth"));
    store.close().await;
}

async fn packs_go_once_no_dump_needs_them(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let pack = |name: &str, n: i64| Blob { digest: digest(name), size: 4, created_at: at(n), purpose: Purpose::Kept };
    for (build_id, name) in
        [("aaaa", "needed"), ("bbbb", "idle"), ("cccc", "asked"), ("dddd", "shared"), ("eeee", "shared")]
    {
        store.blob_create(pack(name, 1), ours, "ann").await.expect("is noted");
        assert!(store.pack_put(build_id, pack(name, 1), ours, "ann").await.expect("is kept").1);
    }
    parcel(&store, ours, &["a"], 1).await;
    let made = create(&store, ours, &new("a"), ("x", 1), &["a"]).await.expect("is made").dump.id;
    let find = async |build_id: &str, dump, when| {
        store.packs_find(vec![build_id.to_owned()], ours, dump, at(when)).await.expect("an answer").len()
    };
    assert_eq!((find("aaaa", Some(made), 10).await, find("eeee", Some(made), 10).await), (1, 1));
    // Whoever asks keeps it for a while, but not each time that somebody asks again.
    let asked = vec![name("cccc", "asked"), name("cccc", "other"), name("ffff", "asked")];
    let missing = store.packs_missing(asked.clone(), ours, at(20)).await.expect("answers");
    assert_eq!(missing, asked[1..]);
    let day = 24 * 3_600_000;
    let there = async || {
        let mut there = Vec::new();
        for build_id in ["aaaa", "bbbb", "cccc", "dddd", "eeee"] {
            there.extend(store.pack_get(build_id, ours).await.ok().map(|pack| pack.build_id));
        }
        there.join(" ")
    };
    find("cccc", None, 2 * day).await;
    let pass = async |before, now| store.packs_retain(at(before), at(now)).await.expect("a pass").removed;
    assert_eq!((pass(1, 3 * day).await, pass(day, 3 * day).await, pass(day, 3 * day).await), (0, 2, 0));
    assert_eq!(there().await, "aaaa cccc eeee");
    assert!(store.blob_get(digest("idle"), ours).await.is_err());
    // The other pack of this content is needed.
    assert!(store.blob_get(digest("shared"), ours).await.is_ok());
    // What is needed is looked at again when it is as old again.
    assert_eq!((pass(3 * day, 3 * day).await, there().await.as_str()), (1, "aaaa eeee"));
    store.dump_purge(DumpKey::Id(made), everybody(ours), "ann", at(4 * day)).await.expect("is purged");
    assert_eq!((pass(4 * day, 5 * day).await, there().await.as_str()), (2, ""));
    assert!(store.blob_get(digest("shared"), ours).await.is_err());
    // A dump without content needs nothing.
    assert!(store.pack_put("aaaa", pack("needed", 6 * day), ours, "ann").await.expect("is kept").1);
    assert_eq!((find("aaaa", Some(made), 6 * day).await, pass(7 * day, 8 * day).await), (1, 1));
    store.close().await;
}

/// Makes one of everything, for tests that want every table to hold something.
pub(crate) async fn fill(store: &Store, whose: TenantId) {
    parcel(store, whose, &["a", "b"], 1).await;
    let pack = Blob { digest: digest("pack"), size: 4, created_at: at(2), purpose: Purpose::Kept };
    assert!(store.pack_put("abcd", pack, whose, "ann").await.expect("is kept").1);
    let made = create(store, whose, &new("a"), ("x", 1), &["a"]).await.expect("is made").dump;
    let stack = vec!["main".to_owned()];
    let findings = DumpFindings { stack, ..DumpFindings::new(DumpState::Analysed, DumpKind::Core) };
    store.dump_find(made.id, made.digest, findings, "node", at(9)).await.expect("is kept");
    note(store, &made, json!({"properties": {"a": 1}})).await;
    let packs = store.packs_find(vec!["abcd".to_owned()], whose, Some(made.id), at(9)).await;
    assert_eq!(packs.expect("are there").len(), 1);
    crate::signature::fill(store, &made).await;
}
