//! Analyzers and studies: each content is a version, what was studied is remembered, and what a study asks for counts once,
//! for the study that is meant and nobody else's.

use crate::dump::{create, digest, new, parcel};
use crate::engine::{Fresh, on_both_engines};
use crate::sample::{at, end, execution, lease, refused, tenant};
use model::analyzer::{AnalyzerChange, AnalyzerIn, Asked, DumpIn, NewStudies, NewStudy, Storing, Studies, StudyState};
use model::dump::query::Earnest;
use model::dump::{DumpChange, DumpFindings};
use model::{
    Access, Blob, Dump, DumpId, DumpKind, DumpState, Execution, ExecutionId, NewExecution, Origin, Outcome, Purpose,
    Sandbox, TenantId,
};
use store::{ExecutionEnd, MAX_ARRIVAL_STUDIES, Store, random};

on_both_engines!(
    a_content_is_a_version,
    what_was_studied_is_remembered,
    what_is_asked_counts_for_the_study_that_is_meant,
    a_dump_that_arrives_meets_analyzers_once,
);

async fn blob(store: &Store, whose: TenantId, seed: &str) -> model::Digest {
    let blob = Blob { digest: digest(seed), size: 4, created_at: at(2), purpose: Purpose::Execution };
    store.blob_create(blob, whose, "ann").await.expect("is noted");
    digest(seed)
}

async fn put(store: &Store, whose: TenantId, script: &str) -> (u32, Storing) {
    let script = Some(blob(store, whose, script).await);
    let change = AnalyzerChange { script, ..AnalyzerChange::default() };
    let stored = store.analyzer_put("fmri", change, whose, ("ann", at(5))).await.expect("is stored");
    (stored.analyzer.version, stored.storing)
}

async fn dump(store: &Store, whose: TenantId, hash: &str) -> Dump {
    parcel(store, whose, &["a"], 1).await;
    create(store, whose, &new(hash), (hash, 1), &["a"]).await.expect("is made").dump
}

fn order(dump: DumpId, again: bool) -> NewStudies {
    let id = ExecutionId::new(at(6), random());
    NewStudies { version: None, studies: vec![NewStudy { dump, id }], again, earnest: Earnest::Real }
}

async fn study(store: &Store, whose: TenantId, dump: &Dump, again: bool) -> (StudyState, Option<ExecutionId>) {
    let (Studies { studies, .. }, begun) =
        store.studies_begin("fmri", order(dump.id, again), whose, ("bob", at(7))).await.expect("is answered");
    assert_eq!(begun.len(), usize::from(studies[0].state == StudyState::Begun));
    (studies[0].state, studies[0].execution)
}

fn ticket(ticket: &str) -> Option<Asked> {
    let change = DumpChange { ticket: Some(Some(ticket.to_owned())), ..DumpChange::default() };
    Some(Asked { change, ..Asked::default() })
}

/// Takes all that waits.
async fn claim(store: &Store) -> Vec<Execution> {
    store.execution_claim(lease(), 9, at(8)).await.expect("a claim")
}

async fn finish(store: &Store, held: &Execution, outcome: Outcome, asked: Option<Asked>) {
    let end = ExecutionEnd { asked, ..end(held, outcome) };
    store.execution_finish(end, "node", at(9)).await.expect("ends");
}

async fn ticket_of(store: &Store, dump: &Dump) -> Option<String> {
    let (dumps, _) = store.dump_list(dump.tenant, None, 99).await.expect("a page");
    dumps.into_iter().find(|one| one.id == dump.id).expect("is there").ticket
}

/// Fills every table of analyzers, and those of dumps.
pub(crate) async fn fill(store: &Store, whose: TenantId) {
    put(store, whose, "script").await;
    let on_arrival = Some(Some(vec!["hash=*".to_owned()]));
    let change = AnalyzerChange { on_arrival, ..AnalyzerChange::default() };
    store.analyzer_put("fmri", change, whose, ("ann", at(5))).await.expect("is stored");
    crate::dump::fill(store, whose).await;
    let (dumps, _) = store.dump_list(whose, None, 1).await.expect("a page");
    study(store, whose, &dumps[0], false).await;
}

async fn a_content_is_a_version(fresh: &Fresh) {
    let store = fresh.open().await;
    let (whose, other) = (tenant(&store, "one").await, tenant(&store, "two").await);
    refused(
        store.analyzer_put("fmri", AnalyzerChange::default(), whose, ("ann", at(4))).await,
        "analyzer `fmri` does not exist",
    );
    assert_eq!(put(&store, whose, "one").await, (1, Storing::Added));
    assert_eq!(put(&store, whose, "one").await, (1, Storing::Same));
    assert_eq!(put(&store, whose, "two").await, (2, Storing::Changed));
    assert_eq!(put(&store, whose, "one").await, (1, Storing::Changed));
    assert_eq!(put(&store, whose, "three").await, (3, Storing::Changed));
    refused(store.analyzer_get("fmri", other).await, "analyzer `fmri` does not exist");
    let foreign = AnalyzerChange { script: Some(digest("nobody's")), ..AnalyzerChange::default() };
    assert!(store.analyzer_put("fmri", foreign, whose, ("ann", at(4))).await.is_err());
    let (listed, _) = store.analyzer_list(whose, "", 9).await.expect("a page");
    assert_eq!((listed.len(), listed[0].version, listed[0].script), (1, 3, digest("three")));
    let versions = async |before, limit| {
        let (found, _) = store.analyzer_versions("fmri", whose, before, limit).await.expect("a page");
        found.iter().map(|one| (one.version, one.script)).collect::<Vec<_>>()
    };
    let all = [(3, digest("three")), (2, digest("two")), (1, digest("one"))];
    assert_eq!(versions(u32::MAX, 9).await, all);
    assert_eq!(versions(3, 1).await, all[1..2]);
    refused(store.analyzer_versions("fmri", other, 9, 9).await, "analyzer `fmri` does not exist");
    store.analyzer_remove("fmri", whose, ("ann", at(9))).await.expect("is removed");
    refused(store.analyzer_remove("fmri", whose, ("ann", at(9))).await, "analyzer `fmri` does not exist");
}

async fn what_was_studied_is_remembered(fresh: &Fresh) {
    let store = fresh.open().await;
    let whose = tenant(&store, "one").await;
    put(&store, whose, "one").await;
    let one = dump(&store, whose, "a").await;
    let (state, first) = study(&store, whose, &one, false).await;
    assert_eq!(state, StudyState::Begun);
    assert_eq!(study(&store, whose, &one, true).await, (StudyState::Running, first), "it has not ended");
    // One that fails is not remembered; one that ends well is, until another version or content comes.
    let held = claim(&store).await;
    finish(&store, &held[0], Outcome::Exited { code: 1 }, None).await;
    assert_eq!(study(&store, whose, &one, false).await.0, StudyState::Begun);
    let held = claim(&store).await;
    finish(&store, &held[0], Outcome::Exited { code: 0 }, None).await;
    assert_eq!(study(&store, whose, &one, false).await, (StudyState::Done, Some(held[0].id)));
    put(&store, whose, "two").await;
    assert_eq!(study(&store, whose, &one, false).await.0, StudyState::Begun);
    put(&store, whose, "one").await;
    assert_eq!(study(&store, whose, &one, false).await.0, StudyState::Done);
    // Asking twice with the same id begins one study.
    let again = order(one.id, true);
    for expected in [1, 0] {
        let (_, begun) = store.studies_begin("fmri", again.clone(), whose, ("bob", at(7))).await.expect("is answered");
        assert_eq!(begun.len(), expected);
    }
    // So it does when it has failed meanwhile, and stays so.
    let id = again.studies[0].id;
    let held = claim(&store).await;
    let held = held.iter().find(|held| held.id == id).expect("is given");
    finish(&store, held, Outcome::Exited { code: 1 }, None).await;
    let (_, begun) = store.studies_begin("fmri", again.clone(), whose, ("bob", at(7))).await.expect("is answered");
    let running = format!("SELECT count(*) FROM study WHERE state = 'running' AND execution = '{id}'");
    let running = fresh.raw().await.number(&running).await;
    assert_eq!((begun.len(), running), (0, 0));
    let dry = NewStudies { earnest: Earnest::Dry, ..order(dump(&store, whose, "b").await.id, false) };
    let (told, begun) = store.studies_begin("fmri", dry, whose, ("bob", at(7))).await.expect("is answered");
    assert_eq!((told.studies[0].state, told.studies[0].execution, begun.len()), (StudyState::Begun, None, 0));
    let nobody = order(DumpId::new(at(1), 7), false);
    let (told, _) = store.studies_begin("fmri", nobody, whose, ("bob", at(7))).await.expect("is answered");
    assert_eq!(told.studies[0].state, StudyState::Absent);
    let gone = NewStudies { version: Some(9), ..order(one.id, false) };
    refused(store.studies_begin("fmri", gone, whose, ("bob", at(7))).await, "analyzer `fmri@9` does not exist");
}

async fn what_is_asked_counts_for_the_study_that_is_meant(fresh: &Fresh) {
    let store = fresh.open().await;
    let (whose, other) = (tenant(&store, "one").await, tenant(&store, "two").await);
    put(&store, whose, "one").await;
    let one = dump(&store, whose, "a").await;
    let run = async |outcome: Outcome, asked: Option<Asked>| {
        study(&store, whose, &one, true).await;
        let held = claim(&store).await;
        finish(&store, &held[0], outcome, asked).await;
        ticket_of(&store, &one).await
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(run(Outcome::Exited { code: 0 }, ticket("A-1")).await, some("A-1"));
    assert_eq!(run(Outcome::Exited { code: 3 }, ticket("A-2")).await, some("A-2"));
    for outcome in [Outcome::TimedOut, Outcome::Signalled { signal: 9 }, Outcome::OutOfMemory] {
        assert_eq!(run(outcome, ticket("A-3")).await, some("A-2"));
    }
    // A node's word is not trusted: what could not be said by hand cannot be said so.
    assert_eq!(run(Outcome::Exited { code: 0 }, ticket("a=b")).await, some("A-2"));
    // Of an analyzer that was removed meanwhile nothing counts.
    study(&store, whose, &one, true).await;
    let held = claim(&store).await;
    store.analyzer_remove("fmri", whose, ("ann", at(9))).await.expect("is removed");
    finish(&store, &held[0], Outcome::Exited { code: 0 }, ticket("A-4")).await;
    assert_eq!(ticket_of(&store, &one).await, some("A-2"));

    // Beside what somebody runs it counts if they said so, on a dump of their own.
    put(&store, whose, "one").await;
    let beside = async |whose: TenantId, access: Access, asked: Option<Asked>| {
        let analyzer = AnalyzerIn { name: "fmri".to_owned(), version: 1, access };
        let sandbox =
            Sandbox { dump: Some(DumpIn { id: one.id, access, analyzer: Some(analyzer) }), ..Sandbox::default() };
        let id = ExecutionId::new(at(6), random());
        let new = NewExecution { id, sandbox, ..execution(6) };
        store.execution_create(&new, whose, Origin::default(), "bob", at(6)).await.expect("is accepted");
        let held = claim(&store).await;
        finish(&store, &held[0], Outcome::Exited { code: 0 }, asked).await;
        (ticket_of(&store, &one).await, store.analyzer_get("fmri", one.tenant).await.expect("is there").version)
    };
    let edited = Some(Asked { script: Some(blob(&store, whose, "edited").await), ..Asked::default() });
    assert_eq!(beside(whose, Access::ReadOnly, ticket("B-1")).await, (some("A-2"), 1));
    assert_eq!(beside(whose, Access::ReadOnly, edited.clone()).await, (some("A-2"), 1));
    assert_eq!(beside(other, Access::ReadWrite, ticket("B-2")).await, (some("A-2"), 1));
    assert_eq!(beside(other, Access::ReadWrite, edited.clone()).await, (some("A-2"), 1));
    assert_eq!(beside(whose, Access::ReadWrite, ticket("B-3")).await, (some("B-3"), 1));
    assert_eq!(beside(whose, Access::ReadWrite, edited).await, (some("B-3"), 2));
    let unknown = Some(Asked { script: Some(digest("never stored")), ..Asked::default() });
    assert_eq!(beside(whose, Access::ReadWrite, unknown).await, (some("B-3"), 2));
}

async fn a_dump_that_arrives_meets_analyzers_once(fresh: &Fresh) {
    let store = fresh.open().await;
    let whose = tenant(&store, "one").await;
    put(&store, whose, "one").await;
    let found = async |dump: &Dump, cmd: &str| {
        let mut findings = DumpFindings::new(DumpState::Analysed, DumpKind::Core);
        findings.facts.cmd = Some(cmd.to_owned());
        store.dump_find(dump.id, dump.digest, findings, "node", at(9)).await.expect("is kept");
    };
    let take = async || {
        let ids = (0..MAX_ARRIVAL_STUDIES).map(|_| ExecutionId::new(at(9), random())).collect();
        let (taken, begun) = store.arrivals_take(ids, at(9)).await.expect("a pass");
        (taken, begun.len())
    };
    found(&dump(&store, whose, "a").await, "late").await;
    assert!(!store.arrivals_wait().await.expect("is answered"), "nobody waits for dumps");
    let on_arrival = Some(Some(vec!["cmd=late".to_owned()]));
    let change = AnalyzerChange { on_arrival, ..AnalyzerChange::default() };
    store.analyzer_put("fmri", change, whose, ("ann", at(5))).await.expect("is stored");
    let (late, other) = (dump(&store, whose, "b").await, dump(&store, whose, "c").await);
    found(&late, "late").await;
    found(&other, "other").await;
    assert!(store.arrivals_wait().await.expect("is answered"));
    assert_eq!((take().await, take().await), ((2, 1), (0, 0)));
    assert_eq!(study(&store, whose, &late, false).await.0, StudyState::Running);
    // What names nobody, or more than one, means no dump, and keeps no other from what means it.
    let other_whose = tenant(&store, "two").await;
    for words in [&["signature=0"][..], &["000000"]] {
        put(&store, other_whose, "two").await;
        let on_arrival = Some(Some(words.iter().map(|&word| word.to_owned()).collect()));
        let change = AnalyzerChange { on_arrival, ..AnalyzerChange::default() };
        store.analyzer_put("fmri", change, other_whose, ("ann", at(5))).await.expect("is stored");
        found(&dump(&store, other_whose, "d").await, "late").await;
        assert_eq!(take().await, (1, 0), "{words:?}");
    }
    // Found out about once more, it arrives once more, and what was studied is not studied again.
    let held = claim(&store).await;
    finish(&store, &held[0], Outcome::Exited { code: 0 }, None).await;
    found(&late, "late").await;
    assert_eq!(take().await, (1, 0));
}
