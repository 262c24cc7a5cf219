//! A server that is killed outright under load: what it had answered is there, the log has no hole, and the next start
//! needs no hand. The server is this very program, told by its environment to be one.

use crate::engine::{Fresh, on_both_engines, soak};
use crate::sample::{Chance, accept, at, check_replay, execution, laned, tenant};
use model::{ExecutionId, ExecutionQuery, TenantId};
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use store::{Place, Store, StoreConfig};
use tokio::task::JoinSet;

on_both_engines!(loses_nothing_that_was_answered);

/// Where the child finds its database, and for which tenant it accepts executions.
const PLACE: &str = "QUARRY_TEST_CRASH_PLACE";
const TENANT: &str = "QUARRY_TEST_CRASH_TENANT";

async fn loses_nothing_that_was_answered(fresh: &Fresh) {
    let store = fresh.open().await;
    let ours = tenant(&store, "ours").await;
    store.close().await;
    let mut chance = Chance::new();
    let mut answered: Vec<ExecutionId> = Vec::new();
    for _ in 0..if soak() { 50 } else { 3 } {
        let patience = 1 + chance.below(1_500);
        let place = fresh.place();
        answered.extend(
            tokio::task::spawn_blocking(move || serve_and_kill(&place, ours, patience)).await.expect("the child began"),
        );
        let store = fresh.open().await;
        let (there, _) = store.execution_list(ours, &ExecutionQuery::default(), u32::MAX).await.expect("a page");
        let there: HashSet<_> = there.into_iter().map(|execution| execution.id).collect();
        let lost: Vec<_> = answered.iter().filter(|id| !there.contains(id)).collect();
        assert!(lost.is_empty(), "answered, and not there: {lost:?}");
        check_replay(&store, &fresh.raw().await).await;
        store.close().await;
    }
}

/// Starts a child that accepts executions, kills it once it has answered so many, and returns which.
fn serve_and_kill(place: &Place, ours: TenantId, patience: usize) -> Vec<ExecutionId> {
    let place = match place {
        Place::Folder(folder) => folder.display().to_string(),
        Place::Postgres { url, .. } => url.clone(),
    };
    let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", "crash::serves_until_killed", "--ignored", "--nocapture"])
        .envs([(PLACE, place), (TENANT, ours.to_string())])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let said = BufReader::new(child.stdout.take().expect("its output is a pipe"));
    let mut answered = Vec::new();
    for line in said.lines() {
        // A line that the end cut short is no answer.
        answered.extend(line.expect("text").parse::<ExecutionId>().ok());
        if answered.len() == patience {
            child.kill().expect("it can be killed");
        }
    }
    child.wait().expect("it ended");
    assert!(answered.len() >= patience, "the child ended by itself after {}", answered.len());
    answered
}

#[test]
#[ignore = "the child that other tests start and kill"]
fn serves_until_killed() {
    let (Ok(place), Ok(ours)) = (std::env::var(PLACE), std::env::var(TENANT)) else { return };
    let ours: TenantId = ours.parse().expect("an id");
    let place = if place.starts_with("postgres") {
        Place::Postgres { url: place, readers: 2 }
    } else {
        Place::Folder(place.into())
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        let store = Store::open(&StoreConfig::new(place), at(0)).await.expect("opens");
        let mut callers = JoinSet::new();
        for caller in 0..16 {
            let store = store.clone();
            callers.spawn(async move {
                loop {
                    let new = if caller % 4 == 0 { laned(1, "a") } else { execution(1) };
                    accept(&store, &new, ours, 1).await.expect("accepted");
                    println!("{}", new.id);
                }
            });
        }
        callers.join_all().await;
    });
}
