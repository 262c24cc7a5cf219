//! Lanes: strictly one after the other, in the order in which they were accepted, whatever happens to each.

use crate::engine::{Fresh, on_both_engines};
use crate::sample::{Chance, accepted, at, check_replay, end, execution, laned, lease, log, tenant};
use futures_util::future::join_all;
use model::{Change, Execution, ExecutionId, ExecutionState, Outcome, TenantId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use store::{Store, StoreError};

on_both_engines!(runs_in_the_order_of_the_log, keeps_its_order_through_everything, of_two_tenants_do_not_meet);

/// Follows the log and makes sure that in every lane only the oldest that has not ended ever runs.
fn check_order(log: &[Arc<Change>]) {
    let mut lanes: BTreeMap<(TenantId, String), VecDeque<ExecutionId>> = BTreeMap::new();
    for change in log.iter().filter(|change| change.noun == model::Noun::Execution) {
        let execution: Execution = serde_json::from_str(change.body.get()).expect("an execution");
        let Some(lane) = execution.lane.clone() else { continue };
        let waiting = lanes.entry((execution.tenant, lane.clone())).or_default();
        match execution.state {
            ExecutionState::Queued if execution.attempt == 0 => waiting.push_back(execution.id),
            ExecutionState::Queued | ExecutionState::Running | ExecutionState::Cancelling => {
                assert_eq!(waiting.front(), Some(&execution.id), "change {}: out of turn in {lane}", change.seq);
            }
            ExecutionState::Cancelled => waiting.retain(|id| *id != execution.id),
            ExecutionState::Succeeded | ExecutionState::Failed | ExecutionState::Quarantined => {
                assert_eq!(waiting.pop_front(), Some(execution.id), "change {}: out of turn in {lane}", change.seq);
            }
        }
    }
    assert!(lanes.values().all(VecDeque::is_empty), "somebody is stuck: {lanes:?}");
}

/// Claims and ends executions until none is left; tells in which order they were claimed.
async fn drain(store: &Store) -> Vec<ExecutionId> {
    let mut order = Vec::new();
    loop {
        let held = store.execution_claim(lease(), 5, at(900)).await.expect("a claim");
        if held.is_empty() {
            return order;
        }
        for one in held {
            order.push(one.id);
            store.execution_finish(end(&one, Outcome::Exited { code: 0 }), "node", at(901)).await.expect("ends");
        }
    }
}

async fn runs_in_the_order_of_the_log(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    let news: Vec<_> = (0..64).map(|_| laned(1, "only")).chain((0..16).map(|_| execution(1))).collect();
    join_all(news.iter().enumerate().map(|(n, new)| accepted(&stores[n % 2], new, ours, 1))).await;
    let log_before = log(&stores[0], 0).await;
    let accepted: Vec<_> = log_before.iter().filter(|change| change.body.get().contains("\"only\"")).collect();
    let order = drain(&stores[0]).await;
    let order: Vec<_> = order.iter().filter(|id| news[..64].iter().any(|new| new.id == **id)).collect();
    assert_eq!(order.len(), 64);
    for (ran, accepted) in order.into_iter().zip(accepted) {
        assert_eq!(ran.to_string(), accepted.id);
    }
    check_order(&log(&stores[0], 0).await);
    assert_eq!(fresh.raw().await.number("SELECT count(*) FROM lane").await, 0, "an empty lane leaves no row");
    for store in stores {
        store.close().await;
    }
}

/// A node that claims, ends, forgets and loses at random.
async fn node(store: &Store, ours: TenantId, seed: u64) {
    let mut chance = Chance::seeded(seed);
    let mut lease = lease();
    let mut held: Vec<Execution> = Vec::new();
    for step in 0..60 {
        let ms = 100 + step;
        match chance.below(10) {
            0..4 => held.extend(store.execution_claim(lease, 3, at(ms)).await.expect("a claim")),
            4..8 if !held.is_empty() => {
                let one = held.swap_remove(chance.below(held.len()));
                let outcome =
                    [Outcome::Exited { code: 0 }, Outcome::OutOfMemory, Outcome::Cancelled][chance.below(3)].clone();
                match store.execution_finish(end(&one, outcome), "node", at(ms)).await {
                    Ok(_) => {}
                    // Only what is being cancelled can end as cancelled.
                    Err(StoreError::Conflict { wanted: "cancelled", .. }) => held.push(one),
                    Err(error) => panic!("{error}"),
                }
            }
            8 => {
                let (page, _) =
                    store.execution_list(ours, &model::ExecutionQuery::default(), 300).await.expect("a page");
                let open: Vec<_> = page.iter().filter(|one| !one.state.is_final()).collect();
                if !open.is_empty() {
                    let id = open[chance.below(open.len())].id;
                    match store.execution_cancel(id, Some(ours), "user", at(ms)).await {
                        Ok(_) | Err(StoreError::Conflict { state: "succeeded" | "failed" | "quarantined", .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            9 if chance.below(3) == 0 => {
                store.session_lose(lease.session, "server", at(ms)).await.expect("is lost");
                lease = crate::sample::lease();
                held.clear();
            }
            _ => {}
        }
    }
    store.session_lose(lease.session, "server", at(300)).await.expect("is lost");
}

async fn keeps_its_order_through_everything(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let ours = tenant(&stores[0], "ours").await;
    let mut chance = Chance::new();
    let seed = chance.seed();
    let seeds: Vec<u64> = (0..6).map(|_| chance.below(usize::MAX) as u64 | 1).collect();
    let create = |from: usize, mut chance: Chance| {
        let store = &stores[from];
        async move {
            for n in 0..100 {
                let lane = format!("lane{}", chance.below(7));
                accepted(store, &laned(n, &lane), ours, n).await;
            }
        }
    };
    let creators = join_all((0..2).map(|from| create(from, Chance::seeded(seed.wrapping_add(from as u64) | 1))));
    let nodes = join_all(seeds.iter().enumerate().map(|(n, seed)| node(&stores[n % 2], ours, *seed)));
    futures_util::join!(creators, nodes);
    drain(&stores[0]).await;
    let log = log(&stores[0], 0).await;
    check_order(&log);
    assert_eq!(
        log.iter().filter(|change| change.state == "queued" && change.body.get().contains("\"attempt\":0")).count(),
        200
    );
    check_replay(&stores[0], &fresh.raw().await).await;
    assert_eq!(fresh.raw().await.number("SELECT count(*) FROM lane").await, 0, "seed {seed}");
    for store in stores {
        store.close().await;
    }
}

async fn of_two_tenants_do_not_meet(fresh: &Fresh) {
    let store = fresh.open().await;
    for name in ["a", "b"] {
        let whose = tenant(&store, name).await;
        for ms in 0..2 {
            accepted(&store, &laned(ms, "same name"), whose, ms).await;
        }
    }
    assert_eq!(store.execution_claim(lease(), 9, at(5)).await.expect("a claim").len(), 2, "one of each");
    store.close().await;
}
