//! The writer: neighbours in a group do not harm each other, a full queue says so, and what was answered stays.

use crate::engine::{Fresh, Raw, on_both_engines};
use crate::sample::{accept, accepted, at, check_replay, end, execution, laned, lease, log, refused, tenant};
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use model::{ExecutionId, ExecutionState, NewExecution, NewTenant, Outcome, TenantId};
use std::time::Duration;
use store::{ChangeFilter, Engine, StoreConfig, StoreError, random};
use tokio::task::JoinSet;

on_both_engines!(
    keeps_neighbours_from_harm,
    answers_busy_rather_than_hanging,
    writes_what_waits_when_it_closes,
    keeps_what_it_answered_when_dropped,
    works_with_a_transaction_for_each,
);

async fn keeps_neighbours_from_harm(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    let there = [laned(1, "a"), execution(1)];
    for new in &there {
        accepted(&stores[0], new, ours, 1).await;
    }
    let held = stores[0].execution_claim(lease(), 2, at(2)).await.expect("a claim");
    for round in 0..10 {
        let news: Vec<_> =
            (0..60).map(|n| if n % 2 == 0 { laned(n, &format!("l{}", n % 5)) } else { execution(n) }).collect();
        let before = stores[0].log_bounds().await.expect("bounds").head;
        let mut calls: Vec<BoxFuture<'_, bool>> = Vec::new();
        for (n, new) in news.iter().enumerate() {
            let store = &stores[n % 2];
            calls.push(
                async move { accept(store, new, ours, 3).await.expect("its neighbours do not matter").1 }.boxed(),
            );
            // Each of these is refused, some of them after having written.
            let other = NewExecution { command: vec!["other".to_owned()], ..there[n % 2].clone() };
            calls.push(async move { accept(store, &other, ours, 3).await.is_ok() }.boxed());
            let name = NewTenant { id: TenantId::new(at(0), random()), name: "ours".to_owned() };
            calls.push(async move { store.tenant_create(name, "test", at(3)).await.is_ok() }.boxed());
            let late = store::ExecutionEnd { attempt: 9, ..end(&held[0], Outcome::TimedOut) };
            calls.push(async move { store.execution_finish(late, "node", at(3)).await.is_ok() }.boxed());
            // Twins in a lane: one of them must undo what it did to the lane.
            let twin = new.clone();
            calls.push(async move { accept(store, &twin, ours, 3).await.expect("its twin does not matter").1 }.boxed());
        }
        let made = join_all(calls).await;
        assert_eq!(made.iter().filter(|made| **made).count(), 60, "round {round}: each is new for one caller");
        let changes = log(&stores[0], before).await;
        assert_eq!(changes.len(), 60);
    }
    check_replay(&stores[0], &fresh.raw().await).await;
    let raw = fresh.raw().await;
    let lanes = raw.texts("SELECT lane.next, count(*) FROM lane JOIN execution ON lane.name = execution.lane AND lane.name <> 'a' GROUP BY lane.name, lane.next").await;
    assert_eq!(lanes.len(), 5);
    for lane in lanes {
        assert_eq!(lane[0], lane[1], "a lane has counted only those who are in it");
    }
    for store in stores {
        store.close().await;
    }
}

async fn answers_busy_rather_than_hanging(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let raw = fresh.raw().await;
    raw.seize().await;
    let mut raw = Some(raw);
    let news: Vec<_> = (0..5_000).map(|_| execution(1)).collect();
    let mut calls: FuturesUnordered<_> =
        news.iter().map(|new| async { (new.id, accept(&store, new, ours, 1).await) }).collect();
    let (mut busy, mut accepted, mut failed) = (0, Vec::new(), 0);
    while let Some((id, answer)) = calls.next().await {
        match answer {
            Ok(_) => accepted.push(id),
            Err(StoreError::Busy) => busy += 1,
            Err(StoreError::Unavailable { .. }) => failed += 1,
            Err(error) => panic!("{}", error.chain()),
        }
        if busy > 0
            && let Some(raw) = raw.take()
        {
            raw.release().await;
        }
    }
    assert!(busy > 0, "5,000 do not fit into the queue");
    assert!(accepted.len() > 3_000, "{} accepted, {busy} busy, {failed} failed", accepted.len());
    for id in &accepted {
        store.execution_get(*id, None).await.expect("what was answered is there");
    }
    accepted_is_logged(&store, fresh).await;
    store.close().await;
}

/// Makes sure that every execution in the table stands in the log, whatever went wrong meanwhile.
async fn accepted_is_logged(store: &store::Store, fresh: &Fresh) {
    let executions = fresh.raw().await.number("SELECT count(*) FROM execution").await;
    let changes = log(store, 0).await.iter().filter(|change| change.noun == model::Noun::Execution).count();
    assert_eq!(executions, changes as u64, "nothing is written without its change");
}

async fn writes_what_waits_when_it_closes(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let news: Vec<_> = (0..1_500).map(|_| execution(1)).collect();
    let mut calls: Vec<_> = news.iter().map(|new| Some(accept(&store, new, ours, 1).boxed())).collect();
    // Each call is polled once, which puts it into the queue; then the store is closed.
    let mut answers = Vec::new();
    for call in &mut calls {
        if let Some(answer) = call.as_mut().and_then(FutureExt::now_or_never) {
            answers.push(answer);
            *call = None;
        }
    }
    let (rest, ()) = futures_util::join!(join_all(calls.into_iter().flatten()), store.close());
    answers.extend(rest);
    assert_eq!(answers.len(), news.len());
    for answer in answers {
        assert!(answer.expect("what waits is written").1);
    }
    refused(accept(&store, &execution(2), ours, 1).await, "the database is not available");
    let store = fresh.open().await;
    assert_eq!(log(&store, 0).await.len(), 1_501);
    store.close().await;
}

async fn keeps_what_it_answered_when_dropped(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            let mut made = Vec::new();
            for _ in 0..20 {
                made.push(accepted(&store, &execution(1), ours, 1).await.id);
            }
            made
        });
    }
    let mut made: Vec<ExecutionId> = writers.join_all().await.concat();
    // These are asked for, and then nobody waits for the answer any more.
    let news: Vec<_> = (0..50).map(|_| execution(2)).collect();
    for new in &news {
        drop(accept(&store, new, ours, 2).now_or_never());
    }
    drop(store);
    let store = reopen(fresh).await;
    made.sort();
    for id in &made {
        store.execution_get(*id, None).await.expect("what was answered is there");
    }
    accepted_is_logged(&store, fresh).await;
    let claimed = store.execution_claim(lease(), 5, at(5)).await.expect("a claim");
    assert!(claimed.iter().all(|one| one.state == ExecutionState::Running));
    store.close().await;
    if let Raw::Postgres(client) = fresh.raw().await {
        let others = "SELECT count(*) FROM pg_stat_activity \
                      WHERE datname = current_database() AND application_name = 'quarry'";
        while client.query_one(others, &[]).await.expect("counts").get::<_, i64>(0) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Opens what another store was dropped from; that one may still be writing what was asked of it.
async fn reopen(fresh: &Fresh) -> store::Store {
    loop {
        match fresh.try_open().await {
            Ok(store) => return store,
            Err(StoreError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => panic!("{}", error.chain()),
        }
    }
}

async fn works_with_a_transaction_for_each(fresh: &Fresh) {
    let config = StoreConfig { group: 1, ..StoreConfig::new(fresh.place()) };
    let store = store::Store::open(&config, at(0)).await.expect("opens");
    let ours = tenant(&store, "ours").await;
    let twin = laned(1, "a");
    let news: Vec<_> = (0..40).map(|n| if n % 4 == 0 { twin.clone() } else { execution(n) }).collect();
    let made = join_all(news.iter().map(|new| accept(&store, new, ours, 1))).await;
    assert_eq!(made.into_iter().filter(|made| made.as_ref().expect("is answered").1).count(), 31);
    check_replay(&store, &fresh.raw().await).await;
    store.close().await;
}

/// PostgreSQL goes away again and again under load.
async fn loses_nothing_when_connections_break(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let write = async |n: usize| {
        let (mut made, mut failed) = (Vec::new(), 0);
        while !stop.is_cancelled() {
            let new = if n.is_multiple_of(3) { laned(1, "a") } else { execution(1) };
            let call = tokio::time::timeout(Duration::from_secs(30), accept(&stores[n % 2], &new, ours, 1));
            match call.await.expect("nobody hangs") {
                Ok(_) => made.push(new.id),
                Err(StoreError::Unavailable { .. } | StoreError::Busy) => failed += 1,
                Err(error) => panic!("{}", error.chain()),
            }
        }
        (made, failed)
    };
    let raw = fresh.raw().await;
    let cut = async {
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            raw.script(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await;
        }
        stop.cancel();
    };
    let follow = async |n: usize| {
        let mut cursor = 0;
        while !stop.is_cancelled() {
            let mut follower = stores[n].log_follow(cursor, ChangeFilter::default());
            while let Some(page) = stop.run_until_cancelled(follower.next(500)).await {
                // The connection it reads through may break as well; then it goes on from where it was.
                let Ok(page) = page else { break };
                for change in page.items {
                    cursor += 1;
                    assert_eq!(change.seq, cursor);
                }
            }
        }
        cursor
    };
    let writers = join_all((0..12).map(write));
    let (written, (), first, second) = futures_util::join!(writers, cut, follow(0), follow(1));
    let made: Vec<ExecutionId> = written.iter().flat_map(|(made, _)| made.iter().copied()).collect();
    let failed: usize = written.iter().map(|(_, failed)| failed).sum();
    assert!(made.len() > 100 && failed > 0, "{} made, {failed} failed", made.len());
    // It recovers by itself: at most what was already broken is answered with a failure.
    for store in &stores {
        let mut tries = 0;
        while let Err(error) = accept(store, &execution(2), ours, 2).await {
            tries += 1;
            assert!(tries < 5, "{}", error.chain());
        }
    }
    for id in made {
        stores[0].execution_get(id, None).await.expect("what was answered is there");
    }
    check_replay(&stores[1], &raw).await;
    assert!(first > 50 && second > 50, "the followers went on: {first}, {second}");
    for store in stores {
        store.close().await;
    }
}

#[test]
fn postgres_loses_nothing_when_connections_break() {
    crate::engine::run(Engine::Postgres, loses_nothing_when_connections_break);
}
