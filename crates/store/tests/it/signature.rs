//! Signatures: every dump is counted once and where it belongs, what was decided by hand outlives rules, and content goes
//! by rule while what is known of it stays.

use crate::dump::{create, digest, everybody, new, note};
use crate::engine::{Fresh, Raw, on_both_engines};
use crate::sample::{at, log, refused, tenant};
use crate::specification::meant;
use crate::tally;
use model::dump::query::{DumpOrder, Earnest};
use model::dump::spec::Specification;
use model::dump::{DumpFacts, DumpFindings};
use model::signature::{
    Decision, Explanation, NewRules, STACK_VERSION, Signature, SignatureState, SignatureText, Signed, Stack,
    StackFrame, StackSigned, Step,
};
use model::{Blob, Dump, DumpKind, DumpState, NewDump, Noun, Purpose, SignatureId, TenantId};
use serde_json::json;
use std::collections::BTreeMap;
use store::{DumpKey, DumpRetention, DumpsAsked, DumpsOrder, SignatureKey, StacksAsked, Store, StoreError};

on_both_engines!(
    every_dump_is_counted_once,
    a_dump_that_another_server_moves_is_counted_once,
    one_that_is_fixed_is_reopened_by_what_happens_after,
    one_is_merged_and_taken_back,
    the_beginning_of_an_id_means_its_dumps,
    dumps_are_split_off,
    decisions_outlive_rules,
    any_moves_keep_the_counts,
    content_goes_by_rule,
    stacks_of_some_dumps_are_found,
    a_tenant_keeps_its_rules,
);

fn id(text: &str) -> SignatureId {
    SignatureId::from_bytes(*blake3::hash(text.as_bytes()).as_bytes().first_chunk().expect("is longer"))
}

fn key(text: &str) -> SignatureKey {
    id(text).into()
}

fn text(text: &str, rules: &str) -> SignatureText {
    SignatureText {
        id: id(text),
        text: text.to_owned(),
        message: None,
        proto: vec![text.to_owned(), "main".to_owned()],
        address_id: None,
        rules: rules.to_owned(),
    }
}

fn explained(why: &str) -> Explanation {
    let step = Step { frame: Some(0), what: "f".to_owned(), decision: Decision::Stop, rule: None, why: why.to_owned() };
    Explanation { steps: vec![step] }
}

/// What an analysis says of a dump whose stack is this and which rules call that.
fn found(frame: &str, called: &str, ms: i64) -> DumpFindings {
    let frame = StackFrame { key: frame.to_owned(), ..StackFrame::default() };
    let stack = Stack {
        version: STACK_VERSION,
        kind: DumpKind::Core,
        class: "abort".to_owned(),
        message: None,
        program: None,
        modules: Vec::new(),
        files: Vec::new(),
        frames: vec![frame],
        frames_cut: 0,
        addresses: Vec::new(),
    };
    DumpFindings {
        facts: DumpFacts { time: Some(at(ms)), ..DumpFacts::default() },
        stack: vec!["main".to_owned()],
        signed: Some(Box::new(Signed { signature: text(called, "r1"), stack, explanation: explained("a stop") })),
        ..DumpFindings::new(DumpState::Analysed, DumpKind::Core)
    }
}

struct Scene {
    store: Store,
    raw: Raw,
    ours: TenantId,
}

impl Scene {
    async fn new(fresh: &Fresh) -> Self {
        let store = fresh.open().await;
        let ours = tenant(&store, "ours").await;
        Self { raw: fresh.raw().await, store, ours }
    }

    /// Makes a dump and says what was found out about it.
    async fn dump(&self, hash: u64, frame: &str, called: &str, ms: i64) -> Dump {
        let new = NewDump { manifest: digest(&format!("manifest {hash}")), ..new(&format!("{hash:08x}")) };
        let made = create(&self.store, self.ours, &new, ("x", 1), &[]).await.expect("is made").dump;
        self.find(&made, &found(frame, called, ms), ms).await
    }

    async fn find(&self, dump: &Dump, findings: &DumpFindings, ms: i64) -> Dump {
        let found = self.store.dump_find(dump.id, dump.digest, findings.clone(), "node", at(ms)).await;
        found.expect("is kept")
    }

    async fn get(&self, called: &str) -> Signature {
        self.store.signature_get(key(called), self.ours).await.expect("is there").signature
    }

    async fn of(&self, dump: &Dump) -> (String, String) {
        let dump = self.store.dump_get(DumpKey::Id(dump.id), everybody(self.ours)).await.expect("is there");
        let signature = dump.signature.expect("has one");
        (signature.id, signature.text)
    }

    async fn settle(&self) {
        while self.store.signature_settle().await.expect("settles").more {}
        self.check().await;
    }

    /// Every count is what it counts, and nothing is left to be moved.
    async fn check(&self) {
        let wrong = "SELECT count(*) FROM signature AS s WHERE s.dumps <> \
                     (SELECT count(*) FROM dump AS d WHERE d.tenant = s.tenant AND d.signature = s.id)";
        assert_eq!(self.raw.number(wrong).await, 0, "signatures count their dumps");
        let wrong = "SELECT count(*) FROM signing AS g WHERE g.dumps <> \
                     (SELECT count(*) FROM dump AS d WHERE d.tenant = g.tenant AND d.signed = g.number)";
        assert_eq!(self.raw.number(wrong).await, 0, "stacks count their dumps");
        let astray = "SELECT count(*) FROM dump AS d JOIN signing AS g ON g.tenant = d.tenant AND g.number = d.signed \
                      JOIN signature AS s ON s.tenant = d.tenant AND s.id = d.signature \
                      WHERE d.signature <> g.signature OR g.is_moving <> 0 OR s.state = 'merged' \
                      OR s.text <> d.signature_text";
        assert_eq!(self.raw.number(astray).await, 0, "dumps are where they belong");
        tally::check(&self.raw).await;
    }

    /// Has other rules call stacks, by their frames, so.
    async fn rename(&self, calls: &[(&str, &str)], rules: &str) {
        let (stacks, _) = self.store.signed_stacks(self.ours, None, None, 100).await.expect("a list");
        for (frame, called) in calls {
            let stack = stacks.iter().find(|one| one.stack.frames[0].key == *frame).expect("is there");
            let signed = StackSigned {
                number: stack.number,
                signature: text(called, rules),
                explanation: explained("by other rules"),
            };
            self.store.stacks_sign(vec![signed], self.ours, at(500)).await.expect("is noted");
        }
        self.settle().await;
    }
}

async fn every_dump_is_counted_once(fresh: &Fresh) {
    let scene = Scene::new(fresh).await;
    let head = scene.store.log_bounds().await.expect("bounds").head;
    let first = scene.dump(1, "f", "abort | f", 20).await;
    scene.dump(2, "f", "abort | f", 10).await;
    scene.dump(3, "g", "abort | f", 30).await;
    let other = scene.dump(4, "h", "abort | h", 40).await;
    assert_eq!(scene.of(&first).await, (id("abort | f").to_string(), "abort | f".to_owned()));
    let expected = Signature {
        id: id("abort | f"),
        tenant: scene.ours,
        text: "abort | f".to_owned(),
        title: None,
        state: SignatureState::Open,
        merged_into: None,
        dumps: 3,
        first_seen: at(10),
        last_seen: at(30),
        fixed_at: None,
        created_at: at(20),
        decided: None,
    };
    assert_eq!(scene.get("abort | f").await, expected);
    scene.check().await;
    // Again, by the same words and by others.
    scene.find(&first, &found("f", "abort | f", 20), 50).await;
    assert_eq!(scene.get("abort | f").await.dumps, 3);
    scene.find(&first, &found("h", "abort | h", 60), 60).await;
    assert_eq!((scene.get("abort | f").await.dumps, scene.get("abort | h").await.dumps), (2, 2));
    scene.check().await;
    // What tells nothing belongs nowhere; what tells a name alone is counted by it.
    let nothing = DumpFindings { signed: None, ..found("f", "abort | f", 1) };
    scene.find(&first, &nothing, 70).await;
    scene.check().await;
    let named = model::dump::DumpSignature { id: id("abort | h").to_string(), text: "abort | h".to_owned() };
    let named = scene.find(&first, &DumpFindings { signature: Some(named.clone()), ..nothing }, 80).await;
    assert_eq!(named.signature.map(|signature| signature.text), Some("abort | h".to_owned()));
    assert_eq!(scene.get("abort | h").await.dumps, 2);
    scene.check().await;
    // What is longer than anything of ours is not believed.
    let mut long = found("f", "abort | f", 1);
    long.signed.as_mut().expect("is signed").stack.frames = vec![StackFrame::default(); 65];
    let long = scene.find(&other, &long, 90).await;
    assert_eq!(long.signature, None);
    scene.check().await;
    let (list, _) = scene.store.signature_list(scene.ours, None, None, 10).await.expect("a list");
    assert_eq!(
        list.iter().map(|one| (one.text.as_str(), one.dumps)).collect::<Vec<_>>(),
        [("abort | h", 1), ("abort | f", 2)]
    );
    let after = Some((list[0].last_seen, list[0].id));
    assert_eq!(scene.store.signature_list(scene.ours, None, after, 10).await.expect("a list").0, list[1..]);
    let found = scene.store.signature_get(key("abort | f"), scene.ours).await.expect("is there");
    assert_eq!((found.dumps.len(), found.explanation.steps[0].why.as_str()), (2, "a stop"));
    let theirs = tenant(&scene.store, "theirs").await;
    refused(
        scene.store.signature_get(key("abort | f"), theirs).await,
        &format!("signature `{}` does not exist", id("abort | f")),
    );
    let noted: Vec<_> = log(&scene.store, head).await.into_iter().filter(|one| one.noun == Noun::Signature).collect();
    assert_eq!(noted.iter().map(|one| one.state.as_str()).collect::<Vec<_>>(), ["open", "open"]);
    scene.store.close().await;
}

async fn a_dump_that_another_server_moves_is_counted_once(fresh: &Fresh) {
    let scene = Scene::new(fresh).await;
    let dump = scene.dump(1, "f", "abort | f", 10).await;
    scene.dump(2, "g", "abort | g", 10).await;
    let of = |called: &str| format!("WHERE tenant = '{}' AND id = '{}'", scene.ours, id(called));
    // Another server settles the stack, and commits after this one has begun to look.
    let moves = format!(
        "BEGIN; UPDATE dump SET signature = '{into}', signature_text = 'abort | g' WHERE id = '{dump}'; \
         UPDATE signing SET signature = '{into}' WHERE tenant = '{ours}' AND signature = '{from}'; \
         UPDATE signature SET dumps = dumps - 1 {leaves}; UPDATE signature SET dumps = dumps + 1 {joins};",
        into = id("abort | g"),
        from = id("abort | f"),
        dump = dump.id,
        ours = scene.ours,
        leaves = of("abort | f"),
        joins = of("abort | g"),
    );
    scene.raw.script(&moves).await;
    let findings = found("h", "abort | h", 20);
    let commits = async {
        if let Raw::Postgres(_) = &scene.raw {
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                         AND wait_event_type = 'Lock'";
            while scene.raw.number(waits).await == 0 {
                tokio::task::yield_now().await;
            }
        }
        scene.raw.script("COMMIT").await;
    };
    tokio::join!(scene.find(&dump, &findings, 30), commits);
    let counts = ["abort | f", "abort | g", "abort | h"].map(async |called| scene.get(called).await.dumps);
    assert_eq!(futures_util::future::join_all(counts).await, [0, 1, 1]);
    scene.check().await;
    scene.store.close().await;
}

async fn one_that_is_fixed_is_reopened_by_what_happens_after(fresh: &Fresh) {
    let scene = Scene::new(fresh).await;
    scene.dump(1, "f", "abort | f", 1).await;
    let fix = scene.store.signature_fix(key("abort | f"), scene.ours, ("ann", at(2))).await.expect("is fixed");
    assert_eq!((fix.state, fix.fixed_at), (SignatureState::Fixed, Some(at(2))));
    let again = scene.store.signature_fix(key("abort | f"), scene.ours, ("ann", at(3))).await;
    refused(again, &format!("signature `{}` is fixed, which does not lead to fixed", id("abort | f")));
    // Dumps here are uploaded at 3; one that happened long before the fix was only found late.
    scene.dump(2, "f", "abort | f", -5_000).await;
    assert_eq!(scene.get("abort | f").await.state, SignatureState::Fixed);
    let head = scene.store.log_bounds().await.expect("bounds").head;
    scene.dump(3, "f", "abort | f", 4).await;
    let seen = scene.get("abort | f").await;
    assert_eq!((seen.state, seen.dumps, seen.first_seen), (SignatureState::Reopened, 3, at(-5_000)));
    let noted: Vec<_> = log(&scene.store, head).await.into_iter().filter(|one| one.noun == Noun::Signature).collect();
    assert_eq!((noted.len(), noted[0].state.as_str(), noted[0].by.as_str()), (1, "reopened", "quarry"));
    scene.store.signature_fix(key("abort | f"), scene.ours, ("ann", at(9))).await.expect("is fixed");
    // Its dumps are analysed again; nothing new was seen.
    let (dumps, _) = scene.store.dump_list(scene.ours, None, 10).await.expect("a list");
    for dump in dumps {
        scene.find(&dump, &found("f", "abort | f", 4), 20).await;
    }
    assert_eq!(scene.get("abort | f").await.state, SignatureState::Fixed);
    let back = scene.store.signature_reopen(key("abort | f"), scene.ours, ("ann", at(21))).await.expect("is reopened");
    assert_eq!(back.state, SignatureState::Reopened);
    refused(
        scene.store.signature_reopen(key("abort | f"), scene.ours, ("ann", at(22))).await,
        &format!("signature `{}` is reopened, which does not lead to reopened", id("abort | f")),
    );
    scene.store.close().await;
}

async fn merge(scene: &Scene, from: &str, into: &str) -> Result<u64, StoreError> {
    let merged = scene.store.signature_merge(key(from), (id(into), false), scene.ours, ("ann", at(50))).await;
    merged.map(|moved| moved.dumps)
}

async fn one_is_merged_and_taken_back(fresh: &Fresh) {
    let scene = Scene::new(fresh).await;
    let mut dumps = Vec::new();
    for (hash, name) in (0..).zip(["f", "g", "g", "h"]) {
        dumps.push(scene.dump(hash, name, &format!("abort | {name}"), 10 + hash as i64).await);
    }
    let dry = scene.store.signature_merge(key("abort | f"), (id("abort | g"), true), scene.ours, ("ann", at(50))).await;
    assert_eq!(dry.map(|moved| (moved.dumps, moved.dry_run)).expect("a trial"), (1, true));
    assert_eq!(scene.get("abort | f").await.state, SignatureState::Open);
    assert_eq!(merge(&scene, "abort | f", "abort | g").await.expect("is merged"), 1);
    // What comes before the settling is counted where it belongs already.
    dumps.push(scene.dump(9, "f", "abort | f", 40).await);
    assert_eq!(scene.of(&dumps[4]).await.0, id("abort | g").to_string());
    scene.settle().await;
    let (part, whole) = (scene.get("abort | f").await, scene.get("abort | g").await);
    assert_eq!((part.state, part.merged_into, part.dumps), (SignatureState::Merged, Some(whole.id), 0));
    assert_eq!((whole.dumps, whole.first_seen, whole.last_seen), (4, at(10), at(40)));
    let decided = |one: &Signature| one.decided.clone().map(|one| (one.what, one.by, one.at)).expect("is decided");
    let words = |what: String, when| (what, "ann".to_owned(), at(when));
    assert_eq!(decided(&part), words(format!("it is part of `{}`: they are one defect", whole.id), 50));
    assert_eq!(decided(&whole), words(format!("`{}` is part of it: they are one defect", part.id), 50));
    assert_eq!(scene.of(&dumps[0]).await, (whole.id.to_string(), "abort | g".to_owned()));
    let said = |from: &str| format!("signature `{}` is merged, which does not lead to merged", id(from));
    refused(merge(&scene, "abort | f", "abort | h").await, &said("abort | f"));
    refused(merge(&scene, "abort | g", "abort | g").await, &format!("`{}` is itself", whole.id));
    refused(merge(&scene, "abort | h", "abort | f").await, &format!("signature `{}` is part of another", part.id));
    // One behind the other, and back from the middle.
    merge(&scene, "abort | g", "abort | h").await.expect("is merged");
    scene.settle().await;
    assert_eq!(scene.get("abort | h").await.dumps, 5);
    scene.store.signature_reopen(key("abort | f"), scene.ours, ("ann", at(60))).await.expect("is taken back");
    scene.settle().await;
    let counts = async || {
        let mut counts = Vec::new();
        for name in ["f", "g", "h"] {
            counts.push(scene.get(&format!("abort | {name}")).await.dumps);
        }
        counts
    };
    assert_eq!(counts().await, [2, 0, 3]);
    scene.store.signature_reopen(key("abort | g"), scene.ours, ("ann", at(60))).await.expect("is taken back");
    scene.settle().await;
    assert_eq!(counts().await, [2, 2, 1]);
    let back = scene.get("abort | f").await;
    assert_eq!((back.state, back.first_seen, back.last_seen), (SignatureState::Open, at(10), at(40)));
    // A fixed one that takes in what was seen after is not fixed.
    scene.store.signature_fix(key("abort | h"), scene.ours, ("ann", at(20))).await.expect("is fixed");
    merge(&scene, "abort | f", "abort | h").await.expect("is merged");
    let whole = scene.get("abort | h").await;
    assert_eq!(whole.state, SignatureState::Reopened);
    let back = "; that was seen after it was said to be fixed, so it is open again";
    assert_eq!(decided(&whole), words(format!("`{}` is part of it: they are one defect{back}", part.id), 50));
    scene.settle().await;
    scene.store.close().await;
}

async fn the_beginning_of_an_id_means_its_dumps(fresh: &Fresh) {
    let scene = Scene::new(fresh).await;
    // So many that two ids begin with the same digit.
    let mut dumps = Vec::new();
    for number in 0..17 {
        dumps.push(scene.dump(number, &format!("f{number}"), &format!("abort | f{number}"), 10).await);
    }
    let find = async |words: &str| {
        let asked = DumpsAsked {
            of: meant(words),
            tenant: scene.ours,
            order: DumpOrder::Oldest,
            after: None,
            limit: 100,
            now: at(99),
        };
        let found = scene.store.dumps_find(asked).await?;
        Ok::<_, StoreError>(found.0.iter().map(|dump| dump.id).collect::<Vec<_>>())
    };
    let whole = id("abort | f3").to_string();
    let ids: Vec<String> = (0..17).map(|number| id(&format!("abort | f{number}")).to_string()).collect();
    let is_own = |length: &usize| ids.iter().filter(|id| id.starts_with(&whole[..*length])).count() == 1;
    let least = (1..32).find(is_own).expect("they differ");
    for length in [least, 16, 32] {
        let found = find(&format!("signature={}", &whole[..length])).await.expect("is asked");
        assert_eq!(found, [dumps[3].id], "{length}");
    }
    let others = find(&format!("signature!={}", &whole[..least])).await.expect("is asked");
    assert_eq!((others.len(), others.contains(&dumps[3].id)), (16, false));
    let digits = "0123456789abcdef".chars();
    let shared = |digit: &char| ids.iter().filter(|id| id.starts_with(*digit)).count() > 1;
    let shared = digits.clone().find(shared).expect("there are more ids than digits");
    refused(
        find(&format!("signature={shared}")).await,
        &format!("more than one signature's id begins with `{shared}`"),
    );
    let strange = (0..=0xffff_u32).map(|number| format!("{number:04x}"));
    let strange = strange.into_iter().find(|begin| !ids.iter().any(|id| id.starts_with(begin))).expect("is none's");
    refused(find(&format!("signature={strange}")).await, &format!("signature `{strange}` does not exist"));
    // That of one that was merged means those of the whole, be they moved already or not.
    merge(&scene, "abort | f3", "abort | f4").await.expect("is merged");
    let mut both = [dumps[3].id, dumps[4].id];
    both.sort_unstable();
    for is_settled in [false, true] {
        for part in [&whole, &whole[..least]] {
            let mut found = find(&format!("signature={part}")).await.expect("is asked");
            found.sort_unstable();
            assert_eq!(found, both, "{part}, {is_settled}");
            let order = (DumpsOrder::Analyse, Earnest::Dry);
            let part_of = meant(&format!("signature={part}"));
            let meant = scene.store.dumps_change(part_of, order, scene.ours, ("ann", at(60))).await;
            assert_eq!(meant.expect("is asked").matched, 2, "{part}, {is_settled}");
        }
        scene.settle().await;
    }
    scene.store.close().await;
}

async fn dumps_are_split_off(fresh: &Fresh) {
    let scene = Scene::new(fresh).await;
    let mut dumps = Vec::new();
    for (hash, frame) in (0..).zip(["f1", "f1", "f2", "f3"]) {
        dumps.push(scene.dump(hash, frame, "abort | f", 10 + hash as i64).await);
    }
    let split = async |names: &[usize], dry_run: bool| {
        let names = names.iter().map(|one| dumps[*one].id).collect();
        scene.store.signature_split(key("abort | f"), (names, dry_run), scene.ours, ("ann", at(50))).await
    };
    let words = format!("all dumps of signature `{}` would leave it", id("abort | f"));
    refused(split(&[0, 2, 3], false).await, &words);
    assert_eq!(split(&[0], true).await.expect("a trial").dumps, 2, "all that have its stack");
    assert_eq!(scene.get("abort | f").await.dumps, 4);
    let moved = split(&[0], false).await.expect("is split");
    scene.settle().await;
    assert_eq!((moved.dumps, moved.into.text.as_str()), (2, "abort | f"));
    assert_eq!(scene.of(&dumps[1]).await.0, moved.into.id.to_string());
    let left = scene.get("abort | f").await;
    assert_eq!((left.dumps, left.first_seen), (2, at(12)));
    refused(split(&[0], false).await, &format!("dump `{}` does not belong to signature `{}`", dumps[0].id, left.id));
    // What comes later goes there too, and the explanation says why.
    let late = scene.dump(7, "f1", "abort | f", 30).await;
    assert_eq!(scene.of(&late).await.0, moved.into.id.to_string());
    let found = scene.store.signature_get(moved.into.id.into(), scene.ours).await.expect("is there");
    assert_eq!(found.explanation.steps[0].why, "put here by ann, whatever the rules say");
    assert_eq!(found.signature.dumps, 3);
    // Whatever the rules say.
    scene.rename(&[("f1", "abort | other"), ("f2", "abort | f"), ("f3", "abort | f")], "r2").await;
    assert_eq!(scene.of(&late).await, (moved.into.id.to_string(), "abort | other".to_owned()));
    scene.store.close().await;
}

async fn decisions_outlive_rules(fresh: &Fresh) {
    let scene = Scene::new(fresh).await;
    let mut dumps = Vec::new();
    let stacks = ["a1", "a2", "b1", "c1", "d1", "d2", "d2"];
    for (hash, frame) in (0..).zip(stacks) {
        dumps.push(scene.dump(hash, frame, &frame[..1], 10 + hash as i64).await);
    }
    let title = model::signature::SignatureChange { title: Some("ours".to_owned()) };
    scene.store.signature_change(key("d"), scene.ours, title, ("ann", at(40))).await.expect("is noted");
    merge(&scene, "a", "b").await.expect("is merged");
    scene.settle().await;
    // One is cut in two, one gets another name, and one that was merged by hand gets two names, one of them another's.
    scene.rename(&[("d2", "D2"), ("d1", "D1"), ("c1", "C"), ("a1", "A1"), ("a2", "C"), ("b1", "B")], "r2").await;
    let of = async |at: usize| scene.of(&dumps[at]).await;
    assert_eq!(of(5).await, (id("d").to_string(), "D2".to_owned()), "the first keeps the id");
    assert_eq!(of(4).await, (id("D1").to_string(), "D1".to_owned()));
    assert_eq!(scene.get("d").await.title.as_deref(), Some("ours"));
    assert_eq!(of(3).await.0, id("c").to_string());
    assert_eq!((of(0).await.0, of(1).await.0, of(2).await.0), {
        let b = id("b").to_string();
        (b.clone(), b.clone(), b)
    });
    // And what comes later, by the new rules, comes to the same.
    let late = scene.dump(90, "d9", "D2", 70).await;
    assert_eq!(scene.of(&late).await, (id("d").to_string(), "D2".to_owned()));
    scene.check().await;
    // Rules that are taken back find everything as it was, but for what they made.
    let back: Vec<_> = stacks.iter().chain(&["d9"]).map(|frame| (*frame, &frame[..1])).collect();
    scene.rename(&back, "r1").await;
    assert_eq!((of(4).await.0, of(5).await.0), (id("d").to_string(), id("d").to_string()));
    assert_eq!(scene.get("D1").await.dumps, 0);
    scene.store.close().await;
}

async fn any_moves_keep_the_counts(fresh: &Fresh) {
    let scene = Scene::new(fresh).await;
    let mut state = 7_u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut dumps = Vec::new();
    for round in 0..120_u64 {
        let (frame, called) = (format!("f{}", draw(6)), format!("t{}", draw(4)));
        let (one, other) = (draw(4), draw(4));
        match draw(8) {
            0..3 => dumps.push(scene.dump(round, &frame, &called, round as i64).await),
            3 if !dumps.is_empty() => {
                let dump: &Dump = &dumps[draw(dumps.len() as u64) as usize];
                scene.find(dump, &found(&frame, &called, round as i64), round as i64).await;
            }
            4 => drop(merge(&scene, &format!("t{one}"), &format!("t{other}")).await),
            5 => {
                let key = key(&format!("t{one}"));
                drop(scene.store.signature_reopen(key, scene.ours, ("ann", at(round as i64))).await);
            }
            6 if !dumps.is_empty() => {
                let dump = &dumps[draw(dumps.len() as u64) as usize];
                let (key, _) = scene.of(dump).await;
                let key = key.parse().expect("an id");
                let split = (vec![dump.id], false);
                drop(scene.store.signature_split(key, split, scene.ours, ("ann", at(round as i64))).await);
            }
            7 => {
                let (stacks, _) = scene.store.signed_stacks(scene.ours, None, None, 100).await.expect("a list");
                let Some(stack) = stacks.get(draw(6) as usize) else { continue };
                let signed = StackSigned {
                    number: stack.number,
                    signature: text(&called, &format!("r{round}")),
                    explanation: explained("by chance"),
                };
                scene.store.stacks_sign(vec![signed], scene.ours, at(round as i64)).await.expect("is noted");
            }
            _ => {}
        }
        if round % 4 == 0 {
            scene.settle().await;
        }
    }
    scene.settle().await;
    assert!(dumps.len() > 20);
    scene.store.close().await;
}

async fn content_goes_by_rule(fresh: &Fresh) {
    let scene = Scene::new(fresh).await;
    let mut dumps = Vec::new();
    for hash in 0..6 {
        dumps.push(scene.dump(hash, "f", "abort | f", hash as i64).await);
    }
    // Of these nothing is known that they had in common.
    let mute =
        [scene.dump(6, "?", "unknown | no stack in app", 6).await, scene.dump(7, "?", "unknown | no stack", 7).await];
    note(&scene.store, &dumps[0], json!({"ticket": "OS-1"})).await;
    note(&scene.store, &dumps[1], json!({"properties": {"pinned": true}})).await;
    note(&scene.store, &dumps[2], json!({"properties": {"pinned": "true"}})).await;
    let nothing = scene.store.dumps_retain(DumpRetention::default(), at(100)).await.expect("a pass");
    assert_eq!((nothing.dumps, nothing.more), (0, false));
    let few = DumpRetention { before: None, per_signature: Some(2) };
    assert_eq!(scene.store.dumps_retain(few, at(100)).await.expect("a pass").dumps, 2);
    assert_eq!(scene.store.dumps_retain(few, at(101)).await.expect("a pass").dumps, 0);
    let of = async |at: usize| {
        let dump = scene.store.dump_get(DumpKey::Id(dumps[at].id), everybody(scene.ours)).await.expect("is there");
        (dump.manifest.is_some(), dump.state, dump.purged)
    };
    let mut kept = Vec::new();
    for at in 0..6 {
        kept.push(of(at).await.0);
    }
    assert_eq!(kept.iter().filter(|kept| **kept).count(), 4);
    assert!(kept[0] && kept[1], "what has a ticket or is pinned stays");
    let gone = (2..6).find(|at| !kept[*at]).expect("one is gone");
    let (_, state, purged) = of(gone).await;
    let purged = purged.expect("says so");
    assert_eq!((state, purged.at, purged.by.as_str()), (DumpState::Purged, at(100), "quarry"));
    assert_eq!(purged.why, "its signature keeps the content of the 2 newest");
    assert_eq!(scene.get("abort | f").await.dumps, 6, "what is known of them stays");
    // What loses its ticket is looked at again.
    note(&scene.store, &dumps[0], json!({"ticket": null})).await;
    assert_eq!(scene.store.dumps_retain(few, at(102)).await.expect("a pass").dumps, 1);
    let old = DumpRetention { before: Some(at(1_000)), per_signature: None };
    assert_eq!(scene.store.dumps_retain(old, at(1_001)).await.expect("a pass").dumps, 4);
    assert_eq!((of(1).await.0, of(1).await.2), (true, None), "it is pinned");
    let fewer = DumpRetention { before: None, per_signature: Some(0) };
    scene.store.dumps_look_at_all().await.expect("is noted");
    assert_eq!(scene.store.dumps_retain(fewer, at(1_002)).await.expect("a pass").dumps, 0);
    for dump in &mute {
        let dump = scene.store.dump_get(DumpKey::Id(dump.id), everybody(scene.ours)).await.expect("is there");
        assert_eq!(dump.purged.map(|purged| purged.why), Some(format!("it was uploaded before {}", at(1_000))));
    }
    scene.check().await;
    // It comes again, and is what it was.
    let new = NewDump { manifest: digest("manifest again"), ..new(&format!("{gone:08x}")) };
    let again = create(&scene.store, scene.ours, &new, ("x", 1), &[]).await.expect("is there").dump;
    assert_eq!((again.state, again.purged, again.id), (DumpState::Received, None, dumps[gone].id));
    // As young as one that was never there: what is brought back is not taken away at once.
    assert_eq!(again.uploaded_at, at(3));
    scene.store.close().await;
}

/// Whatever a specification means, page by page: the stacks of just these dumps, with just their counts.
async fn stacks_of_some_dumps_are_found(fresh: &Fresh) {
    let scene = Scene::new(fresh).await;
    let mut dumps = Vec::new();
    for number in 0..70 {
        let frame = format!("f{}", number % 7);
        let dump = scene.dump(number, &frame, &format!("abort | g{}", number % 5), (number * 37 % 71) as i64).await;
        let ticket = (number % 3 == 0).then(|| format!("OS-{}", number % 4));
        note(&scene.store, &dump, json!({"ticket": ticket, "properties": {"odd": number % 2 == 1}})).await;
        dumps.push(dump);
    }
    // One that was never signed is among those that are meant, and has no stack.
    create(&scene.store, scene.ours, &new("eeeeeeee"), ("x", 1), &[]).await.expect("is made");
    let signed = scene.raw.texts("SELECT id, cast(signed AS text) FROM dump WHERE signed IS NOT NULL").await;
    let signed: BTreeMap<_, _> = signed.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let asked = |line: &str| {
        let of = Specification::parse(&line.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>());
        of.unwrap_or_else(|error| panic!("{line}: {error}"))
    };
    let theirs = tenant(&scene.store, "theirs").await;
    for line in [
        "",
        "hash=*",
        "00000005",
        "00000005 OR 00000006 OR eeeeeeee",
        "ticket=OS-1",
        "ticket=OS-*",
        "ticket=undefined",
        "NOT ticket=OS-1 properties.odd=true",
        "properties.odd=false",
        "state=analysed",
        "state=received",
        "class=undefined",
        "limit=1",
        "limit=9",
        "limit=500",
        "ticket=OS-* limit=5",
        "ticket=nobody",
    ] {
        let order = DumpOrder::Newest;
        let page = DumpsAsked { of: asked(line), tenant: scene.ours, order, after: None, limit: 1_000, now: at(1_000) };
        let mut expected: BTreeMap<i64, (u64, String)> = BTreeMap::new();
        for dump in scene.store.dumps_find(page).await.expect("are found").0 {
            let Some(number) = signed.get(&dump.id.to_string()) else { continue };
            let entry = expected.entry(number.parse().expect("a number")).or_insert((0, dump.id.to_string()));
            *entry = (entry.0 + 1, entry.1.clone().min(dump.id.to_string()));
        }
        for signature in [None, Some(id("abort | g1"))] {
            let mut found = BTreeMap::new();
            let mut after = None;
            loop {
                let (of, tenant, limit, now) = (asked(line), scene.ours, 3, at(1_000));
                let asked = StacksAsked { of, tenant, signature, after, limit, now };
                let (stacks, _) = scene.store.signed_stacks_find(asked).await.expect("are found");
                for stack in &stacks {
                    assert!(signature.is_none_or(|id| id == stack.signature), "{line}");
                    let example = stack.example.expect("there is one").to_string();
                    assert!(found.insert(stack.number, (stack.dumps, example)).is_none(), "{line}");
                }
                let Some(last) = stacks.last() else { break };
                after = Some(last.number);
            }
            let of_signature =
                format!("SELECT cast(number AS text) FROM signing WHERE signature = '{}'", id("abort | g1"));
            let numbers = scene.raw.texts(&of_signature).await.concat();
            let mut expected = expected.clone();
            expected.retain(|number, _| signature.is_none() || numbers.contains(&number.to_string()));
            assert_eq!(found, expected, "{line} of {signature:?}");
        }
        let (of, limit, now) = (asked(line), 9, at(1_000));
        if !line.starts_with("0000") {
            let asked = StacksAsked { of, tenant: theirs, signature: None, after: None, limit, now };
            assert_eq!(scene.store.signed_stacks_find(asked).await.expect("nothing is").0, [], "{line}");
        }
    }
    scene.store.close().await;
}

async fn a_tenant_keeps_its_rules(fresh: &Fresh) {
    let scene = Scene::new(fresh).await;
    let (store, ours) = (&scene.store, scene.ours);
    let theirs = tenant(store, "theirs").await;
    assert_eq!(store.signature_rules(ours).await.expect("an answer"), None);
    let blob = Blob { digest: digest("rules"), size: 5, created_at: at(1), purpose: Purpose::Execution };
    let new = NewRules { name: "ours.toml".to_owned(), blob: blob.digest, rules: "r2".to_owned() };
    let missing = store.signature_rules_put(new.clone(), ours, ("ann", at(2))).await;
    refused(missing, &format!("blob `{}` does not exist", blob.digest));
    store.blob_create(blob, ours, "ann").await.expect("is noted");
    let put = store.signature_rules_put(new, ours, ("ann", at(2))).await.expect("is kept");
    assert_eq!(store.signature_rules(ours).await.expect("an answer"), Some(put.clone()));
    assert_eq!(store.blob_get(put.blob, ours).await.expect("is there").purpose, Purpose::Kept);
    assert_eq!(store.signature_rules(theirs).await.expect("an answer"), None);
    assert_eq!(store.signature_rules_remove(ours).await.expect("is gone"), Some(put));
    assert_eq!(store.signature_rules_remove(ours).await.expect("nothing"), None);
    scene.store.close().await;
}

/// Makes one of everything, for tests that want every table to hold something.
pub(crate) async fn fill(store: &Store, dump: &Dump) {
    let whose = dump.tenant;
    let dump = store.dump_find(dump.id, dump.digest, found("f", "abort | f", 1), "node", at(9)).await.expect("is kept");
    let (stacks, _) = store.signed_stacks(whose, None, None, 1).await.expect("a list");
    let signature = text("abort | g", "r2");
    let signed = StackSigned { number: stacks[0].number, signature, explanation: explained("by other rules") };
    store.stacks_sign(vec![signed], whose, at(10)).await.expect("is noted");
    store.signature_settle().await.expect("settles");
    let blob = Blob { digest: dump.digest, size: 5, created_at: at(1), purpose: Purpose::Kept };
    store.blob_create(blob, whose, "ann").await.expect("is noted");
    let new = NewRules { name: "ours.toml".to_owned(), blob: dump.digest, rules: "r2".to_owned() };
    store.signature_rules_put(new, whose, ("ann", at(2))).await.expect("is kept");
}
