//! Claims: who is served first, and that nobody gets what another has.

use crate::engine::{Fresh, on_both_engines};
use crate::sample::{accepted, at, check_replay, execution, laned, lease, tenant};
use futures_util::future::join_all;
use model::limits::MAX_CLAIM;
use model::{Class, ExecutionId, ExecutionState, NewExecution};
use std::collections::BTreeSet;

on_both_engines!(
    serves_classes_in_their_order,
    lets_tenants_take_turns,
    serves_those_with_the_fewest_running_first,
    gives_nothing_to_two,
    ends_at_its_limit,
);

async fn serves_classes_in_their_order(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let mut made = Vec::new();
    for (ms, class) in (0..).zip([Class::Batch, Class::Event, Class::Human].into_iter().cycle().take(12)) {
        let new = NewExecution { class, ..execution(ms) };
        accepted(&store, &new, ours, ms).await;
        made.push((class, ms, new.id));
    }
    made.sort();
    let mut taken = Vec::new();
    for slots in [0, 5, 1, 2, 50, 3] {
        let lease = lease();
        let got = store.execution_claim(lease, slots, at(100)).await.expect("a claim");
        assert!(got.len() <= slots as usize);
        for one in &got {
            assert_eq!((one.state, one.attempt, one.lease), (ExecutionState::Running, 1, Some(lease)));
            assert_eq!(one.started_at, Some(at(100)));
        }
        taken.extend(got.into_iter().map(|one| one.id));
    }
    assert_eq!(taken, made.into_iter().map(|(_, _, id)| id).collect::<Vec<_>>());
    check_replay(&store, &fresh.raw().await).await;
    store.close().await;
}

async fn lets_tenants_take_turns(fresh: &Fresh) {
    let store = fresh.open().await;
    let mut tenants = Vec::new();
    for (name, count) in [("many", 40), ("some", 5), ("one", 1)] {
        let whose = tenant(&store, name).await;
        for ms in 0..count {
            accepted(&store, &execution(ms), whose, ms).await;
        }
        tenants.push(whose);
    }
    let got = store.execution_claim(lease(), 9, at(100)).await.expect("a claim");
    let count = |whose| got.iter().filter(|one| one.tenant == whose).count();
    assert_eq!([count(tenants[0]), count(tenants[1]), count(tenants[2])], [4, 4, 1]);
    let first: BTreeSet<_> = got[..3].iter().map(|one| one.tenant).collect();
    assert_eq!(first.len(), 3, "each has a turn before anybody has a second");
    for whose in tenants {
        let times: Vec<_> = got.iter().filter(|one| one.tenant == whose).map(|one| one.created_at).collect();
        assert!(times.is_sorted(), "a tenant's oldest goes first");
    }
    store.close().await;
}

async fn serves_those_with_the_fewest_running_first(fresh: &Fresh) {
    let store = fresh.open().await;
    let (busy, idle) = (tenant(&store, "busy").await, tenant(&store, "idle").await);
    for ms in 0..10 {
        accepted(&store, &execution(ms), busy, ms).await;
    }
    assert_eq!(store.execution_claim(lease(), 4, at(20)).await.expect("a claim").len(), 4);
    for ms in 30..40 {
        accepted(&store, &execution(ms), idle, ms).await;
    }
    let got = store.execution_claim(lease(), 5, at(50)).await.expect("a claim");
    let idle_count = got.iter().filter(|one| one.tenant == idle).count();
    assert!((4..=5).contains(&idle_count), "the idle one catches up: {idle_count} of 5");
    store.close().await;
}

async fn gives_nothing_to_two(fresh: &Fresh) {
    let stores = fresh.open_two().await;
    let tenants = [tenant(&stores[0], "a").await, tenant(&stores[0], "b").await];
    let news: Vec<NewExecution> = (0..240)
        .map(|n| NewExecution { class: Class::ALL[n % 3], ..execution(n as i64) })
        .chain((0..60).map(|n| laned(n, &format!("lane{}", n % 30))))
        .collect();
    let made = news.iter().enumerate().map(|(n, new)| accepted(&stores[n % 2], new, tenants[n % 2], 1));
    join_all(made).await;
    // Lanes are of a tenant: thirty names, each of them with one tenant alone.
    let claimable = 240 + 30;
    let nodes = (0..16).map(|n| {
        let store = &stores[n % 2];
        async move {
            let (lease, mut got) = (lease(), Vec::new());
            let mut empty = 0;
            while empty < 3 {
                let more = store.execution_claim(lease, 4, at(10)).await.expect("a claim");
                empty = if more.is_empty() { empty + 1 } else { 0 };
                assert!(more.iter().all(|one| one.lease == Some(lease) && one.attempt == 1));
                got.extend(more.into_iter().map(|one| one.id));
            }
            got
        }
    });
    let mut taken: Vec<ExecutionId> = join_all(nodes).await.concat();
    taken.extend(stores[0].execution_claim(lease(), 1_000, at(20)).await.expect("the rest").iter().map(|one| one.id));
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len(), "nothing was given out twice");
    assert_eq!(taken.len(), claimable, "and everything was given out");
    check_replay(&stores[0], &fresh.raw().await).await;
    for store in stores {
        store.close().await;
    }
}

async fn ends_at_its_limit(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    let news: Vec<_> = (0..i64::from(MAX_CLAIM) + 5).map(execution).collect();
    join_all(news.iter().map(|new| accepted(&store, new, ours, 1))).await;
    assert_eq!(store.execution_claim(lease(), u32::MAX, at(2)).await.expect("a claim").len(), MAX_CLAIM as usize);
    assert_eq!(store.execution_claim(lease(), u32::MAX, at(2)).await.expect("a claim").len(), 5);
    store.close().await;
}
