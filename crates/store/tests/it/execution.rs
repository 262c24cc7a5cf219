//! Executions: accepted once, listed, cancelled, ended once, given back.

use crate::engine::{Fresh, on_both_engines};
use crate::sample::{accept, accepted, at, check_replay, end, execution, laned, lease, log, refused, tenant};
use futures_util::future::join_all;
use model::{
    Class, Execution, ExecutionId, ExecutionQuery, ExecutionState, NewExecution, Origin, OriginKind, Outcome, Usage,
};
use std::sync::Arc;
use store::{ExecutionEnd, Store, random};

on_both_engines!(
    accepts_once,
    accepts_once_of_many_at_once,
    lists_pages_newest_first,
    what_is_foreign_looks_missing,
    cancels,
    finishes_once,
    refuses_who_does_not_hold_it,
    gives_back_what_a_lost_session_held,
    counts_what_waits,
    keeps_every_kind_of_text,
);

async fn accepts_once(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    for new in [execution(1), laned(1, "a"), laned(1, "a")] {
        let before = store.log_bounds().await.expect("bounds").head;
        let made = accepted(&store, &new, ours, 5).await;
        assert_eq!((made.state, made.attempt, made.created_at), (ExecutionState::Queued, 0, at(5)));
        assert_eq!(made.recipe, new.recipe());
        assert_eq!(store.execution_get(new.id, Some(ours)).await.expect("is there"), *made);
        let (again, is_new) = accept(&store, &new, ours, 6).await.expect("the same is harmless");
        assert_eq!((again, is_new), (Arc::clone(&made), false));

        let words = format!("execution `{}` already exists, and is different", new.id);
        for other in [
            NewExecution { command: vec!["false".to_owned()], ..new.clone() },
            NewExecution { lane: Some("b".to_owned()), ..new.clone() },
            NewExecution { class: Class::Batch, ..new.clone() },
        ] {
            refused(accept(&store, &other, ours, 7).await, &words);
        }
        let origin = Origin { kind: OriginKind::Job, id: Some("j".to_owned()) };
        refused(store.execution_create(&new, ours, origin, "test", at(7)).await, &words);
        refused(accept(&store, &new, theirs, 7).await, &words);

        let changes = log(&store, before).await;
        assert_eq!(changes.len(), 1, "one change for one execution");
        assert_eq!((changes[0].state.as_str(), changes[0].by.as_str(), changes[0].at), ("queued", "test", at(5)));
        assert_eq!(changes[0].body.get(), serde_json::to_string(&*made).expect("JSON"));
    }
    check_replay(&store, &fresh.raw().await).await;
    let lanes = fresh.raw().await.texts("SELECT name, next FROM lane").await;
    assert_eq!(lanes, [["a", "2"]], "what was refused leaves no trace in a lane");
    store.close().await;
}

async fn accepts_once_of_many_at_once(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    for new in [execution(1), laned(1, "a"), laned(2, "b")] {
        let before = stores[0].log_bounds().await.expect("bounds").head;
        let made = join_all((0..64).map(|n| accept(&stores[n % 2], &new, ours, n as i64))).await;
        let made: Vec<_> = made.into_iter().map(|made| made.expect("every one is answered")).collect();
        assert_eq!(made.iter().filter(|(_, is_new)| *is_new).count(), 1);
        assert!(made.iter().all(|(execution, _)| *execution == made[0].0), "all are told the same");
        assert_eq!(log(&stores[0], before).await.len(), 1);
    }
    // Half of them ask for something else under the same id: some content wins, and only its like is accepted.
    for new in [execution(3), laned(3, "a")] {
        let other = NewExecution { command: vec!["false".to_owned()], ..new.clone() };
        let asked = |n: usize| if n.is_multiple_of(3) { &other } else { &new };
        let made = join_all((0..64).map(|n| accept(&stores[n % 2], asked(n), ours, 9))).await;
        let there = stores[0].execution_get(new.id, Some(ours)).await.expect("one is there");
        for (n, made) in made.into_iter().enumerate() {
            match made {
                Ok((execution, _)) => assert_eq!((&*execution, asked(n).recipe()), (&there, there.recipe.clone())),
                Err(error) => {
                    assert_ne!(asked(n).recipe(), there.recipe, "{error}");
                    assert_eq!(error.to_string(), format!("execution `{}` already exists, and is different", new.id));
                }
            }
        }
    }
    check_replay(&stores[0], &fresh.raw().await).await;
    let next = fresh.raw().await.texts("SELECT name, next FROM lane ORDER BY name").await;
    assert_eq!(next, [["a", "2"], ["b", "1"]], "a lane counts only what was accepted");
    for store in stores {
        store.close().await;
    }
}

async fn lists_pages_newest_first(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let mut made = Vec::new();
    for ms in 0..25 {
        let whose = if ms % 5 == 4 { theirs } else { ours };
        let execution = accepted(&store, &execution(ms), whose, ms).await;
        if whose == ours {
            made.insert(0, Execution::clone(&execution));
        }
    }
    for execution in made.iter_mut().step_by(4) {
        *execution = store.execution_cancel(execution.id, None, "test", at(50)).await.expect("cancels");
    }
    let head = store.log_bounds().await.expect("bounds").head;
    let pages = async |state: Option<ExecutionState>, limit: u32| {
        let mut found: Vec<Execution> = Vec::new();
        loop {
            let after = found.last().map(|last| last.id);
            let query = ExecutionQuery { state, after, ..ExecutionQuery::default() };
            let (page, as_of) = store.execution_list(ours, &query, limit).await.expect("a page");
            assert_eq!(as_of, head);
            assert!(page.len() <= limit as usize);
            if page.is_empty() {
                return found;
            }
            found.extend(page);
        }
    };
    for limit in [1, 3, 20, 1_000] {
        assert_eq!(pages(None, limit).await, made);
        for state in ExecutionState::ALL {
            let of_state: Vec<_> = made.iter().filter(|one| one.state == state).cloned().collect();
            assert_eq!(pages(Some(state), limit).await, of_state, "{state:?}");
        }
    }
    store.close().await;
}

async fn what_is_foreign_looks_missing(fresh: &Fresh) {
    let store = fresh.open().await;
    let (ours, theirs) = (tenant(&store, "ours").await, tenant(&store, "theirs").await);
    let there = accepted(&store, &execution(1), ours, 1).await.id;
    let nowhere = ExecutionId::new(at(1), random());
    for (id, whose) in [(there, Some(theirs)), (nowhere, Some(ours)), (nowhere, None)] {
        let words = format!("execution `{id}` does not exist");
        refused(store.execution_get(id, whose).await, &words);
        refused(store.execution_cancel(id, whose, "test", at(2)).await, &words);
    }
    let session = lease().session;
    let end = ExecutionEnd {
        id: nowhere,
        attempt: 1,
        session,
        outcome: Outcome::TimedOut,
        usage: Usage::default(),
        dump: None,
        manifest: None,
        findings: None,
        asked: None,
    };
    refused(store.execution_finish(end, "test", at(2)).await, &format!("execution `{nowhere}` does not exist"));
    assert_eq!(store.execution_get(there, Some(ours)).await.expect("untouched").state, ExecutionState::Queued);
    store.close().await;
}

/// Accepts an execution and has a node claim it.
async fn running(store: &Store, tenant: model::TenantId, ms: i64) -> Execution {
    accepted(store, &execution(ms), tenant, ms).await;
    store.execution_claim(lease(), 1, at(ms)).await.expect("a claim").remove(0)
}

async fn cancels(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let cancel = async |id, ms| store.execution_cancel(id, Some(ours), "user", at(ms)).await;

    let queued = accepted(&store, &execution(1), ours, 1).await;
    let cancelled = cancel(queued.id, 2).await.expect("cancels");
    assert_eq!((cancelled.state, cancelled.ended_at), (ExecutionState::Cancelled, Some(at(2))));
    assert_eq!(cancelled.outcome, Some(Outcome::Cancelled));
    assert_eq!(cancel(queued.id, 3).await.expect("twice is harmless"), cancelled);
    assert!(store.execution_claim(lease(), 9, at(3)).await.expect("a claim").is_empty(), "nobody gets it any more");

    let held = running(&store, ours, 4).await;
    let stopping = cancel(held.id, 5).await.expect("stops");
    assert_eq!((stopping.state, stopping.lease, stopping.ended_at), (ExecutionState::Cancelling, held.lease, None));
    assert_eq!(cancel(held.id, 6).await.expect("twice is harmless"), stopping);
    let ended = store.execution_finish(end(&held, Outcome::Cancelled), "node", at(7)).await.expect("ends");
    assert_eq!((ended.state, ended.lease, ended.ended_at), (ExecutionState::Cancelled, None, Some(at(7))));
    assert_eq!(cancel(held.id, 8).await.expect("is cancelled"), ended);

    // The work may end before the order to stop arrives.
    let held = running(&store, ours, 9).await;
    cancel(held.id, 10).await.expect("stops");
    let ended = store.execution_finish(end(&held, Outcome::Exited { code: 0 }), "node", at(11)).await.expect("ends");
    assert_eq!(ended.state, ExecutionState::Succeeded);
    let words = format!("execution `{}` is succeeded, which does not lead to cancelled", held.id);
    refused(cancel(held.id, 12).await, &words);

    // A node cannot cancel of its own accord.
    let held = running(&store, ours, 13).await;
    let words = format!("execution `{}` is running, which does not lead to cancelled", held.id);
    refused(store.execution_finish(end(&held, Outcome::Cancelled), "node", at(14)).await, &words);
    check_replay(&store, &fresh.raw().await).await;
    store.close().await;
}

async fn finishes_once(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let cases = [
        (Outcome::Exited { code: 0 }, ExecutionState::Succeeded),
        (Outcome::Exited { code: 3 }, ExecutionState::Failed),
        (Outcome::Signalled { signal: 11 }, ExecutionState::Failed),
        (Outcome::OutOfMemory, ExecutionState::Failed),
        (Outcome::TimedOut, ExecutionState::Failed),
        (
            Outcome::SetUpFailed { cause: "no image".to_owned(), fault: model::SetUpFault::Refused },
            ExecutionState::Failed,
        ),
    ];
    for (outcome, state) in cases {
        let held = running(&store, ours, 1).await;
        let said = end(&held, outcome.clone());
        let ended = store.execution_finish(said.clone(), "node", at(9)).await.expect("ends");
        let expected = Execution {
            state,
            lease: None,
            ended_at: Some(at(9)),
            outcome: Some(outcome),
            usage: Some(said.usage),
            ..held.clone()
        };
        assert_eq!(ended, expected);
        let head = store.log_bounds().await.expect("bounds").head;
        assert_eq!(store.execution_finish(said.clone(), "node", at(10)).await.expect("the same words"), ended);
        let words = format!("execution `{}` is {}, which does not lead to failed", held.id, state.as_str());
        let other = ExecutionEnd { outcome: Outcome::Exited { code: 99 }, ..said.clone() };
        refused(store.execution_finish(other, "node", at(11)).await, &words);
        let other = ExecutionEnd { usage: Usage::default(), ..said };
        assert!(store.execution_finish(other, "node", at(11)).await.is_err(), "other usage is other words");
        assert_eq!(store.execution_get(held.id, None).await.expect("is there"), ended);
        assert_eq!(store.log_bounds().await.expect("bounds").head, head, "nothing more was logged");
    }
    // The same end said by many at once is one end.
    let held = running(&store, ours, 2).await;
    let head = store.log_bounds().await.expect("bounds").head;
    let said = end(&held, Outcome::TimedOut);
    let ended = join_all((0..32).map(|_| store.execution_finish(said.clone(), "node", at(12)))).await;
    let first = ended[0].as_ref().expect("ends").clone();
    assert!(ended.into_iter().all(|one| one.expect("ends") == first));
    assert_eq!(log(&store, head).await.len(), 1);
    check_replay(&store, &fresh.raw().await).await;
    store.close().await;
}

async fn refuses_who_does_not_hold_it(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let stale = |id, attempt| format!("attempt {attempt} of execution `{id}` does not hold it any more");
    let said = |id, attempt, session| {
        let (outcome, usage) = (Outcome::Exited { code: 0 }, Usage::default());
        store.execution_finish(
            ExecutionEnd {
                id,
                attempt,
                session,
                outcome,
                usage,
                dump: None,
                manifest: None,
                findings: None,
                asked: None,
            },
            "node",
            at(9),
        )
    };
    let queued = accepted(&store, &execution(1), ours, 1).await.id;
    for attempt in [0, 1] {
        refused(said(queued, attempt, lease().session).await, &stale(queued, attempt));
    }
    let held = store.execution_claim(lease(), 1, at(2)).await.expect("a claim").remove(0);
    let session = held.lease.expect("is held").session;
    for (attempt, session) in [(0, session), (2, session), (u32::MAX, session), (1, lease().session)] {
        refused(said(queued, attempt, session).await, &stale(queued, attempt));
    }
    store.session_lose(session, "server", at(3)).await.expect("is lost");
    refused(said(queued, 1, session).await, &stale(queued, 1));
    // The same node may get it again, under the same session even: the attempt tells the two apart.
    let lease = held.lease.expect("is held");
    let again = store.execution_claim(lease, 1, at(4)).await.expect("a claim").remove(0);
    assert_eq!((again.id, again.attempt), (queued, 2));
    refused(said(queued, 1, session).await, &stale(queued, 1));
    assert_eq!(said(queued, 2, session).await.expect("ends").state, ExecutionState::Succeeded);
    refused(said(queued, 1, session).await, &stale(queued, 1));
    store.close().await;
}

async fn gives_back_what_a_lost_session_held(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let [first, second] = [laned(1, "a"), execution(2)];
    for new in [&first, &laned(1, "a"), &second] {
        accepted(&store, new, ours, 1).await;
    }
    for losses in 1..=3 {
        let lease = lease();
        let held = store.execution_claim(lease, 9, at(10)).await.expect("a claim");
        assert_eq!(held.len(), if losses == 1 { 2 } else { 1 });
        assert!(held.iter().all(|one| one.attempt == losses && one.started_at == Some(at(10))));
        if losses == 1 {
            store.execution_cancel(second.id, None, "user", at(11)).await.expect("stops");
        }
        let mut lost = store.session_lose(lease.session, "server", at(12)).await.expect("is lost");
        lost.sort_by_key(|one| one.id != first.id);
        assert_eq!((lost[0].id, lost[0].losses, lost[0].lease), (first.id, losses, None));
        if losses < 3 {
            assert_eq!((lost[0].state, lost[0].started_at), (ExecutionState::Queued, None));
        } else {
            assert_eq!((lost[0].state, lost[0].ended_at), (ExecutionState::Quarantined, Some(at(12))));
            assert_eq!(lost[0].outcome, Some(Outcome::NodesLost { nodes: 3 }));
            let late = store.execution_finish(end(&held[0], Outcome::Exited { code: 0 }), "node", at(13)).await;
            let words = format!("execution `{}` is quarantined, which does not lead to succeeded", first.id);
            refused(late, &words);
        }
        if losses == 1 {
            assert_eq!((lost[1].id, lost[1].state), (second.id, ExecutionState::Cancelled));
            assert_eq!(lost[1].outcome, Some(Outcome::Cancelled));
        }
        assert!(store.session_lose(lease.session, "server", at(14)).await.expect("twice is harmless").is_empty());
    }
    let next = store.execution_claim(lease(), 9, at(20)).await.expect("a claim");
    assert_eq!(next.len(), 1, "the lane goes on behind the one that was put aside");
    check_replay(&store, &fresh.raw().await).await;
    store.close().await;
}

async fn counts_what_waits(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    assert_eq!(store.executions_waiting().await.expect("counts"), 0);
    for new in [execution(1), execution(2), laned(3, "a"), laned(4, "a"), laned(5, "b")] {
        accepted(&store, &new, ours, 1).await;
    }
    assert_eq!(store.executions_waiting().await.expect("counts"), 4, "the second of a lane does not wait for a node");
    store.execution_claim(lease(), 3, at(2)).await.expect("a claim");
    assert_eq!(store.executions_waiting().await.expect("counts"), 1);
    store.ping().await.expect("answers");
    store.close().await;
}

async fn keeps_every_kind_of_text(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    for text in ["'; DROP TABLE execution; --", "\u{feff}\u{10ffff}", "\\x00 $1 ?1 %s", "", "\r\n\t\u{7f}"] {
        let new = NewExecution {
            lane: Some(format!("lane {text}")),
            image: Some(text.to_owned()),
            command: vec![text.to_owned(); 3],
            ..execution(1)
        };
        let made = accepted(&store, &new, ours, 1).await;
        assert_eq!(store.execution_get(new.id, None).await.expect("is there"), *made);
        assert!(!accept(&store, &new, ours, 1).await.expect("the same").1);
    }
    check_replay(&store, &fresh.raw().await).await;
    store.close().await;
}
