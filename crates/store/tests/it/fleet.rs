//! Random moves of a fleet: nodes join, sync, lose answers, fall silent, leave; users create and cancel. Whatever happens,
//! every move in the log is legal, attempts grow by one, an execution ends once, and in the end nothing is stuck.

use crate::engine::{Fresh, run, soak};
use crate::node::{new_node, report};
use crate::sample::{accepted, at, check_replay, execution, laned, log, tenant};
use jiff::SignedDuration;
use model::node::{Finished, Held};
use model::{Execution, ExecutionId, ExecutionState, NewNode, Noun, Outcome, SessionId, TenantId, Usage};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use std::collections::{BTreeMap, BTreeSet};
use store::{Engine, Report, Store, StoreError, random};

/// How long a node may be silent.
const LEASE: SignedDuration = SignedDuration::from_secs(30);
/// Nodes of the fleet.
const NODES: usize = 3;

#[derive(Clone, Debug)]
enum Move {
    Create {
        lane: Option<bool>,
    },
    Cancel {
        which: Index,
    },
    Join {
        node: usize,
    },
    /// A node takes so many more, ends so many of what it has, and hears the answer, or does not.
    Sync {
        node: usize,
        free: u32,
        ends: usize,
        hears: bool,
    },
    Leave {
        node: usize,
    },
    Pass {
        seconds: i64,
    },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => any::<Option<bool>>().prop_map(|lane| Move::Create { lane }),
        2 => any::<Index>().prop_map(|which| Move::Cancel { which }),
        2 => (0..NODES).prop_map(|node| Move::Join { node }),
        9 => (0..NODES, 0..4_u32, 0..3_usize, prop::bool::weighted(0.8))
            .prop_map(|(node, free, ends, hears)| Move::Sync { node, free, ends, hears }),
        1 => (0..NODES).prop_map(|node| Move::Leave { node }),
        2 => (1..40_i64).prop_map(|seconds| Move::Pass { seconds }),
    ];
    prop::collection::vec(one, 1..60)
}

/// A node as it sees itself, which may be long untrue.
struct Member {
    node: NewNode,
    is_in: bool,
    held: BTreeSet<Held>,
    /// What has ended and was not heard yet.
    ended: BTreeMap<Held, Outcome>,
}

impl Member {
    fn new(number: usize) -> Self {
        let node = new_node(&format!("n{number}"));
        Self { node, is_in: false, held: BTreeSet::new(), ended: BTreeMap::new() }
    }

    fn forget_all(&mut self) {
        self.held.clear();
        self.ended.clear();
    }

    /// Ends so many of what it has.
    fn end(&mut self, count: usize) {
        for (held, code) in self.held.iter().copied().take(count).zip(0..) {
            self.ended.entry(held).or_insert(Outcome::Exited { code });
        }
    }

    fn says(&self, whose: TenantId, ms: i64) -> Report {
        let mut report = Report { lease: LEASE, ..report(&self.node, whose, ms) };
        let is_ended = |held: &&Held| self.ended.contains_key(held);
        report.sync.held = self.held.iter().filter(|held| !is_ended(held)).copied().collect();
        let finished = self.ended.iter().map(|(held, outcome)| Finished {
            held: *held,
            outcome: outcome.clone(),
            usage: Usage { wall_ms: 1, ..Usage::default() },
            dump: None,
            manifest: None,
            findings: None,
            asked: None,
        });
        report.sync.finished = finished.collect();
        report
    }
}

struct Fleet {
    store: Store,
    whose: TenantId,
    members: Vec<Member>,
    made: Vec<ExecutionId>,
    ms: i64,
}

impl Fleet {
    async fn step(&mut self, step: &Move) {
        self.ms += 1;
        match step {
            Move::Create { lane } => {
                let new = lane.map_or_else(|| execution(self.ms), |lane| laned(self.ms, &format!("lane {lane}")));
                accepted(&self.store, &new, self.whose, self.ms).await;
                self.made.push(new.id);
            }
            Move::Cancel { which } if !self.made.is_empty() => {
                let cancelled = self.store.execution_cancel(*which.get(&self.made), None, "user", at(self.ms)).await;
                assert!(matches!(cancelled, Ok(_) | Err(StoreError::Conflict { .. })), "{cancelled:?}");
            }
            Move::Cancel { .. } => {}
            Move::Join { node } => self.join(*node).await,
            Move::Sync { node, free, ends, hears } => {
                self.members[*node].end(*ends);
                self.sync(*node, *free, *hears).await;
            }
            Move::Leave { node } => self.leave(*node).await,
            Move::Pass { seconds } => {
                self.ms += seconds * 1_000;
                self.store.sessions_expire(at(self.ms)).await.expect("a pass");
            }
        }
    }

    async fn join(&mut self, node: usize) {
        let member = &mut self.members[node];
        // It ends what it has before it begins anew.
        member.forget_all();
        member.node.session = SessionId::new(at(self.ms), random());
        let joined = self.store.node_join(member.node.clone(), self.whose, "ann", at(self.ms), LEASE).await;
        joined.expect("joins");
        member.is_in = true;
    }

    async fn sync(&mut self, node: usize, free: u32, hears: bool) {
        let member = &mut self.members[node];
        if !member.is_in {
            return;
        }
        let mut said = member.says(self.whose, self.ms);
        said.sync.free = free;
        match self.store.node_exchange(said).await {
            Ok(_) if !hears => {}
            Ok(heard) => {
                for held in member.ended.keys().copied().chain(heard.forget.iter().copied()).collect::<Vec<_>>() {
                    member.held.remove(&held);
                }
                member.ended.clear();
                member.held.extend(heard.assigned.iter().map(crate::node::held));
                for id in heard.cancel() {
                    let stopped = member.held.iter().find(|held| held.execution == id).copied();
                    member.ended.extend(stopped.map(|held| (held, Outcome::Cancelled)));
                }
            }
            Err(error) => {
                assert!(error.to_string().contains("is not the node's, or its lease ran out"), "{error}");
                member.forget_all();
                member.is_in = false;
            }
        }
    }

    async fn leave(&mut self, node: usize) {
        let member = &mut self.members[node];
        if std::mem::take(&mut member.is_in) {
            let mut said = member.says(self.whose, self.ms);
            said.sync.leaving = true;
            // It may have been given up long ago; then there is nothing to leave.
            let _ = self.store.node_exchange(said).await;
            member.forget_all();
        }
    }

    /// Makes sure that the log tells of nothing but legal moves; returns how each execution stands.
    async fn check(&self) -> BTreeMap<ExecutionId, Execution> {
        let mut last: BTreeMap<ExecutionId, Execution> = BTreeMap::new();
        for change in log(&self.store, 0).await.iter().filter(|change| change.noun == Noun::Execution) {
            let now: Execution = serde_json::from_str(change.body.get()).expect("an execution");
            match last.get(&now.id) {
                None => assert_eq!((now.state, now.attempt), (ExecutionState::Queued, 0)),
                Some(before) => {
                    assert!(now.state.reachable_from().contains(&before.state), "{before:?} became {now:?}");
                    let begins = u32::from(now.state == ExecutionState::Running);
                    assert_eq!(now.attempt, before.attempt + begins, "{before:?} became {now:?}");
                    assert!(now.losses == before.losses || now.losses == before.losses + 1, "{now:?}");
                }
            }
            assert_eq!(now.outcome.is_some(), now.state.is_final(), "{now:?}");
            assert_eq!(now.lease.is_some(), matches!(now.state, ExecutionState::Running | ExecutionState::Cancelling));
            last.insert(now.id, now);
        }
        let mut lanes = BTreeSet::new();
        for held in last.values().filter(|one| one.lease.is_some()) {
            assert!(held.lane.as_ref().is_none_or(|lane| lanes.insert(lane.clone())), "two of one lane run at once");
        }
        last
    }
}

async fn play(fresh: &Fresh, moves: &[Move]) {
    let store = fresh.open().await;
    let whose = tenant(&store, "ours").await;
    let members = (0..NODES).map(Member::new).collect();
    let mut fleet = Fleet { store, whose, members, made: Vec::new(), ms: 100 };
    for step in moves {
        fleet.step(step).await;
    }
    fleet.check().await;
    // All fall silent but one, which comes back and works for as long as there is something to do.
    fleet.step(&Move::Pass { seconds: 60 }).await;
    fleet.join(0).await;
    for _ in 0..fleet.made.len() + 2 {
        fleet.step(&Move::Sync { node: 0, free: 64, ends: usize::MAX, hears: true }).await;
    }
    let ended = fleet.check().await;
    assert_eq!(ended.keys().copied().collect::<BTreeSet<_>>(), fleet.made.iter().copied().collect(), "none is lost");
    let stuck: Vec<_> = ended.values().filter(|one| !one.state.is_final()).collect();
    assert!(stuck.is_empty(), "{stuck:?}");
    let raw = fresh.raw().await;
    assert_eq!(raw.number("SELECT count(*) FROM lane").await, 0, "a lane that is done is closed");
    check_replay(&fleet.store, &raw).await;
    fleet.store.close().await;
}

fn check(engine: Engine, cases: u32) {
    let cases = if soak() { cases * 20 } else { cases };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let played = TestRunner::new(config).run(&moves(), |moves| {
        run(engine, async |fresh| play(fresh, &moves).await);
        Ok(())
    });
    played.unwrap_or_else(|failure| panic!("{failure}"));
}

mod sqlite {
    #[test]
    fn ends_everything_once() {
        super::check(store::Engine::Sqlite, 40);
    }
}

mod postgres {
    #[test]
    fn ends_everything_once() {
        super::check(store::Engine::Postgres, 8);
    }
}
