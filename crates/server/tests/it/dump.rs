//! Parcels and dumps over HTTP: what is proved before it is kept, who may do what, and that nobody's frames are another's.

use crate::app::TestApp;
use crate::engine::{Place, on_both_engines};
use model::dump::query::{DumpReport, DumpsChanged};
use model::dump::{Arrival, DumpArrived};
use model::parcel::{Extent, Frame, FramePlaces, FrameQuery, FramesMissing, Index, Manifest, Parcel};
use model::{Digest, Dump, DumpId, DumpKind, Execution, NewDump, OriginKind, Page, Role, Scope};
use reqwest::Method;
use serde_json::json;
use store::random;

on_both_engines!(
    a_parcel_is_proved_frame_by_frame,
    a_dump_is_made_known_when_all_of_it_is_there,
    rights_are_kept,
    many_are_meant_by_a_specification,
);

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(*blake3::hash(bytes).as_bytes())
}

/// Contents that stand for packed frames: nothing here unpacks them.
pub(crate) fn parcel(contents: &[&[u8]]) -> (Index, Vec<u8>) {
    let frame = |bytes: &&[u8]| Frame { digest: digest(bytes), packed: bytes.len() as u32, raw: 4096 };
    let index = Index { frames: contents.iter().map(frame).collect() };
    let bytes = [index.encode(), contents.concat()].concat();
    (index, bytes)
}

async fn put(app: &TestApp, token: &str, path: &str, bytes: &[u8]) -> crate::answer::Answer {
    let path = format!("{path}/{}", digest(bytes));
    app.send(app.request(Method::PUT, token, &path).body(bytes.to_vec())).await
}

pub(crate) fn manifest(frames: &[Frame]) -> Manifest {
    let bytes = frames.iter().map(|frame| u64::from(frame.raw)).sum();
    Manifest {
        size: bytes + 100,
        digest: digest(b"all"),
        extents: vec![Extent { start: 7, bytes }],
        frames: frames.to_vec(),
    }
}

pub(crate) fn new(app: &TestApp, manifest: &[u8]) -> NewDump {
    NewDump {
        id: DumpId::new(app.clock.now(), random()),
        hash: "76998f82a450a8914037e4da838ec609".to_owned(),
        manifest: digest(manifest),
        kind: DumpKind::Core,
        is_truncated: false,
        name: "core.bc.24388".to_owned(),
        facts: model::dump::DumpFacts::default(),
        execution: None,
        redaction: None,
        packs: Vec::new(),
    }
}

async fn a_parcel_is_proved_frame_by_frame(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("acme").await;
    let long = vec![7; 70_000];
    let (index, good) = parcel(&[b"one", &long, b"three"]);
    let refuse = async |bytes: &[u8], code: &str| put(&app, &ada.secret, "/v1/parcels", bytes).await.error(400, code);
    let mut foreign = good.clone();
    *foreign.last_mut().unwrap() ^= 1;
    refuse(&foreign, "parcel_invalid").await;
    refuse(&good[..good.len() - 1], "parcel_invalid").await;
    refuse(&[&good[..], b"x"].concat(), "parcel_invalid").await;
    refuse(&good[..20], "parcel_invalid").await;
    refuse(b"", "parcel_invalid").await;
    refuse(b"what is no parcel at all", "parcel_invalid").await;
    let wrong = format!("/v1/parcels/{}", digest(b"another"));
    app.send(app.request(Method::PUT, &ada.secret, &wrong).body(good.clone())).await.error(400, "digest_mismatch");
    let digests: Vec<_> = index.frames.iter().map(|frame| frame.digest).collect();
    let query = FrameQuery { digests: digests.clone() };
    let missing: FramesMissing = app.post(&ada.secret, "/v1/frames/missing", &query).await.must(200).json();
    assert_eq!(missing.missing, digests, "nothing of what was refused is there");

    let kept: Parcel = put(&app, &ada.secret, "/v1/parcels", &good).await.must(201).json();
    assert_eq!((kept.digest, kept.size, kept.frames, kept.new_frames), (digest(&good), good.len() as u64, 3, 3));
    let again: Parcel = put(&app, &ada.secret, "/v1/parcels", &good).await.must(200).json();
    assert_eq!(again.new_frames, 0);
    let missing: FramesMissing = app.post(&ada.secret, "/v1/frames/missing", &query).await.must(200).json();
    assert_eq!(missing.missing, []);
    let found: FramePlaces = app.post(&ada.secret, "/v1/frames/places", &query).await.must(200).json();
    let two = found.places.iter().find(|place| place.digest == digests[1]).expect("is there");
    let range = format!("bytes={}-{}", two.offset, two.offset + u64::from(two.packed) - 1);
    let request = app.request(Method::GET, &ada.secret, &format!("/v1/parcels/{}", two.parcel)).header("range", range);
    assert!(app.send(request).await.must(206).body == long, "a frame comes back as it is");
    let many = FrameQuery { digests: vec![digests[0]; 2_049] };
    app.post(&ada.secret, "/v1/frames/missing", &many).await.error(400, "frames_too_many");

    // Another tenant has none of it, and must bring all of it.
    let eve = app.admin("evil").await;
    let missing: FramesMissing = app.post(&eve.secret, "/v1/frames/missing", &query).await.must(200).json();
    assert_eq!(missing.missing, digests);
    app.get(&eve.secret, &format!("/v1/parcels/{}", two.parcel)).await.must(404);
    app.stop().await;
}

/// Makes a dump known.
pub(crate) async fn known(app: &TestApp, token: &str) -> Dump {
    let (index, bytes) = parcel(&[b"one", b"two"]);
    let whole = manifest(&index.frames).encode();
    put(app, token, "/v1/parcels", &bytes).await.must(201);
    put(app, token, "/v1/manifests", &whole).await.must(201);
    let dump = app.post(token, "/v1/dumps", &new(app, &whole)).await.must(201).json::<DumpArrived>().dump;
    // Its analysis is made a moment later, and the log tells of it.
    let is_made = |page: &Page<Execution>| page.items.iter().any(|one| one.origin.kind == OriginKind::Dump);
    while !is_made(&app.get(token, "/v1/executions").await.must(200).json()) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    dump
}

/// Makes a dump of this hash known; of several the content is the same.
pub(crate) async fn known_as(app: &TestApp, token: &str, hash: &str) -> Dump {
    let (index, bytes) = parcel(&[b"one", b"two"]);
    let whole = manifest(&index.frames).encode();
    put(app, token, "/v1/parcels", &bytes).await;
    put(app, token, "/v1/manifests", &whole).await;
    let new = NewDump { hash: hash.to_owned(), ..new(app, &whole) };
    app.post(token, "/v1/dumps", &new).await.must(201).json::<DumpArrived>().dump
}

async fn a_dump_is_made_known_when_all_of_it_is_there(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("acme").await;
    let (index, bytes) = parcel(&[b"one", b"two"]);
    let whole = manifest(&index.frames).encode();
    let new = new(&app, &whole);
    app.post(&ada.secret, "/v1/dumps", &new).await.error(404, "blob_not_found");
    put(&app, &ada.secret, "/v1/manifests", &whole).await.must(201);
    app.post(&ada.secret, "/v1/dumps", &new).await.error(409, "frames_missing");
    put(&app, &ada.secret, "/v1/parcels", &bytes).await.must(201);
    let made: DumpArrived = app.post(&ada.secret, "/v1/dumps", &new).await.must(201).json();
    assert_eq!((made.arrival, made.dump.digest, made.dump.size), (Arrival::New, digest(b"all"), 8_292));
    let again: DumpArrived = app.post(&ada.secret, "/v1/dumps", &new).await.must(200).json();
    assert_eq!((again.arrival, &again.dump), (Arrival::Known, &made.dump));
    let broken = NewDump { manifest: digest(b"no manifest"), ..new.clone() };
    put(&app, &ada.secret, "/v1/manifests", b"no manifest").await.must(201);
    app.post(&ada.secret, "/v1/dumps", &broken).await.error(400, "manifest_invalid");
    let nameless = NewDump { hash: "76998F82".to_owned(), ..new.clone() };
    app.post(&ada.secret, "/v1/dumps", &nameless).await.error(400, "dump_invalid");

    let path = format!("/v1/dumps/{}", &made.dump.hash[..6]);
    let found: Dump = app.get(&ada.secret, &path).await.must(200).json();
    assert_eq!(found, made.dump);
    assert!(app.get(&ada.secret, &format!("{path}/manifest")).await.must(200).body == whole);
    let note = json!({"ticket": "OS-2359", "properties": {"triage": "bmc"}});
    let noted: Dump = app.json(Method::PATCH, &ada.secret, &path, &note).await.must(200).json();
    assert_eq!((noted.ticket.as_deref(), &noted.properties["triage"]), (Some("OS-2359"), &json!("bmc")));
    let mass = json!({"ticket": "cmd=java"});
    app.json(Method::PATCH, &ada.secret, &path, &mass).await.error(400, "dump_invalid");
    let again: DumpArrived = app.post(&ada.secret, "/v1/dumps", &new).await.must(200).json();
    assert_eq!(again.dump, noted, "uploading it again resets nothing");
    let page: Page<Dump> = app.get(&ada.secret, "/v1/dumps").await.must(200).json();
    assert_eq!(page.items, std::slice::from_ref(&noted));

    let purged: Dump = app.order(&ada.secret, &format!("{path}/purge")).await.must(200).json();
    assert_eq!((purged.manifest, purged.ticket.as_deref()), (None, Some("OS-2359")));
    app.get(&ada.secret, &format!("{path}/manifest")).await.error(410, "dump_purged");
    app.get(&ada.secret, "/v1/dumps/nothing").await.must(400);
    app.get(&ada.secret, "/v1/dumps/0").await.error(404, "dump_not_found");
    app.stop().await;
}

async fn rights_are_kept(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("acme").await;
    let viewer = app.somebody("acme", "vic", Role::Viewer).await;
    let bringer = app.narrow(&ada.secret, &[Scope::DumpWrite]).await;
    let (index, bytes) = parcel(&[b"one"]);
    let whole = manifest(&index.frames).encode();
    put(&app, &viewer.secret, "/v1/parcels", &bytes).await.must(403);
    put(&app, &viewer.secret, "/v1/manifests", &whole).await.must(403);
    app.post(&viewer.secret, "/v1/frames/missing", &FrameQuery { digests: Vec::new() }).await.must(403);
    // Who may only bring dumps needs nothing more to do so.
    put(&app, &bringer.secret, "/v1/parcels", &bytes).await.must(201);
    put(&app, &bringer.secret, "/v1/manifests", &whole).await.must(201);
    let made: DumpArrived = app.post(&bringer.secret, "/v1/dumps", &new(&app, &whole)).await.must(201).json();
    let path = format!("/v1/dumps/{}", made.dump.id);
    app.get(&bringer.secret, &path).await.must(403);
    app.get(&viewer.secret, &path).await.must(200);
    app.json(Method::PATCH, &viewer.secret, &path, &json!({"ticket": "x"})).await.must(403);
    app.order(&viewer.secret, &format!("{path}/purge")).await.must(403);
    let eve = app.admin("evil").await;
    for path in [path.clone(), format!("/v1/dumps/{}", made.dump.hash), format!("{path}/manifest")] {
        app.get(&eve.secret, &path).await.must(404);
        app.get(&app.house, &path).await.must(if path.contains("dmp_") { 200 } else { 404 });
    }
    app.stop().await;
}

async fn many_are_meant_by_a_specification(place: &Place) {
    let app = TestApp::start(place).await;
    let ada = app.admin("acme").await;
    let first = known(&app, &ada.secret).await;
    let whole = manifest(&parcel(&[b"one", b"two"]).0.frames).encode();
    put(&app, &ada.secret, "/v1/manifests", &whole).await.must(200);
    for index in 0..4 {
        let new = NewDump { hash: format!("{index:032x}"), name: format!("core.{index}"), ..new(&app, &whole) };
        app.post(&ada.secret, "/v1/dumps", &new).await.must(201);
    }
    let ask = async |secret: &str, verb: &str, body: serde_json::Value| {
        app.post(secret, &format!("/v1/dumps/{verb}"), &body).await
    };
    let of = |words: &[&str]| json!({"words": words});
    let page: Page<Dump> =
        ask(&ada.secret, "query", json!({"of": of(&["file=core.?"]), "limit": 3})).await.must(200).json();
    assert_eq!((page.items.len(), page.next.is_some()), (3, true));
    let rest = json!({"of": of(&["file=core.?"]), "limit": 3, "after": page.next});
    let rest: Page<Dump> = ask(&ada.secret, "query", rest).await.must(200).json();
    assert_eq!((rest.items.len(), rest.next), (1, None));
    let named = json!({"of": {"names": [first.hash, first.id.to_string()]}});
    assert_eq!(
        ask(&ada.secret, "query", named).await.must(200).json::<Page<Dump>>().items,
        std::slice::from_ref(&first)
    );
    ask(&ada.secret, "query", json!({"of": {"names": ["0123"]}})).await.error(404, "dump_not_found");
    ask(&ada.secret, "query", json!({"of": {"names": ["0000"]}})).await.error(409, "dump_ambiguous");
    ask(&ada.secret, "query", json!({"of": of(&["frob=1"])})).await.error(400, "specification_invalid");
    ask(&ada.secret, "query", json!({"of": of(&["dump=stdin"])})).await.error(400, "specification_invalid");
    ask(&ada.secret, "query", json!({"after": "x"})).await.error(400, "after_invalid");
    ask(&ada.secret, "report", json!({"of": of(&["limit=3"])})).await.error(400, "specification_invalid");
    ask(&ada.secret, "report", json!({"property": "frob"})).await.error(400, "specification_invalid");
    let report: DumpReport = ask(&ada.secret, "report", json!({"property": "type"})).await.must(200).json();
    assert_eq!((report.dumps, report.values[0].count, &*report.values[0].value), (5, 5, "core"));

    // Who may look may not change, and nobody means what is another tenant's.
    let vera = app.somebody("acme", "vera", Role::Viewer).await;
    let ticket =
        |words: &[&str], earnest: &str| json!({"of": of(words), "change": {"ticket": "OS-1"}, "earnest": earnest});
    ask(&vera.secret, "query", json!({})).await.must(200);
    ask(&vera.secret, "change", ticket(&["type=core"], "dry")).await.error(403, "not_allowed");
    ask(&vera.secret, "purge", json!({"of": of(&["type=core"])})).await.error(403, "not_allowed");
    ask(&vera.secret, "analyse", json!({"of": of(&["type=core"])})).await.error(403, "not_allowed");
    ask(&ada.secret, "analyse", json!({"of": of(&["limit=3"])})).await.error(400, "specification_invalid");
    // What nobody has looked into yet is looked into anyway.
    let again: DumpsChanged = ask(&ada.secret, "analyse", json!({"of": of(&["hash=*"])})).await.must(200).json();
    assert!(again.matched > 0 && again.changed == 0, "{again:?}");
    let eve = app.admin("evil").await;
    let theirs: DumpsChanged = ask(&eve.secret, "change", ticket(&["type=core"], "real")).await.must(200).json();
    assert_eq!((theirs.matched, theirs.changed), (0, 0));
    ask(&ada.secret, "change", ticket(&[], "real")).await.error(400, "specification_invalid");
    ask(&ada.secret, "change", ticket(&["limit=1"], "real")).await.error(400, "specification_invalid");
    let mass = json!({"of": of(&["type=core"]), "change": {"ticket": "cmd=java"}});
    ask(&ada.secret, "change", mass).await.error(400, "dump_invalid");
    let dry: DumpsChanged = ask(&ada.secret, "change", ticket(&["type=core"], "dry")).await.must(200).json();
    let real: DumpsChanged = ask(&ada.secret, "change", ticket(&["type=core"], "real")).await.must(200).json();
    assert_eq!((dry.changed, real.changed, dry.dumps), (5, 5, real.dumps));
    let purge = json!({"of": of(&["ticket=OS-1", "file=core.?"])});
    let purged: DumpsChanged = ask(&ada.secret, "purge", purge).await.must(200).json();
    assert_eq!((purged.matched, purged.changed), (4, 4));
    let path = format!("/v1/dumps/{}/manifest", first.hash);
    app.get(&ada.secret, &path).await.must(200);
    app.stop().await;
}
