//! Random legal and illegal moves, against the store and a simple model of it at once: every answer, the execution, the
//! lists and the log must agree after each step, and in the end the log replayed must give the table.

use crate::engine::{Fresh, run, soak};
use crate::sample::{accept, at, check_replay, log, tenant};
use model::limits::MAX_LOSSES;
use model::{
    Class, Execution, ExecutionId, ExecutionQuery, ExecutionState, Input, Lease, Limits, NewExecution, NodeId, Origin,
    Outcome, SessionId, TenantId, Usage,
};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use std::collections::{BTreeMap, HashMap, VecDeque};
use store::{Engine, ExecutionEnd, Store, StoreError};

#[derive(Clone, Copy, Debug)]
enum Move {
    Create { id: u8, tenant: bool, lane: Option<bool>, class: Class, twin: bool },
    Claim { session: u8, slots: u8 },
    Finish { which: Index, attempt: i8, session: Option<u8>, outcome: u8 },
    Cancel { which: Index, whose: Option<bool> },
    Lose { session: u8 },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let class = prop_oneof![Just(Class::Human), Just(Class::Event), Just(Class::Batch)];
    let one = prop_oneof![
        5 => (0..24u8, any::<bool>(), any::<Option<bool>>(), class, any::<bool>()).prop_map(
            |(id, tenant, lane, class, twin)| Move::Create { id, tenant, lane, class, twin }
        ),
        3 => (0..3u8, 0..4u8).prop_map(|(session, slots)| Move::Claim { session, slots }),
        4 => (
            any::<Index>(),
            prop_oneof![6 => Just(0i8), 1 => Just(-1), 1 => Just(1)],
            prop_oneof![6 => Just(None), 1 => (0..3u8).prop_map(Some)],
            0..4u8,
        ).prop_map(|(which, attempt, session, outcome)| Move::Finish { which, attempt, session, outcome }),
        2 => (any::<Index>(), any::<Option<bool>>()).prop_map(|(which, whose)| Move::Cancel { which, whose }),
        1 => (0..3u8).prop_map(|session| Move::Lose { session }),
    ];
    prop::collection::vec(one, 1..70)
}

/// All that the store is expected to know.
#[derive(Default)]
struct World {
    executions: BTreeMap<ExecutionId, Execution>,
    /// In the order in which they were accepted.
    accepted: Vec<ExecutionId>,
    /// What the log must say next: the thing as it became, and who moved it.
    said: Vec<(Execution, String)>,
}

type Answer<T> = Result<T, String>;

impl World {
    fn put(&mut self, execution: &Execution, by: &str) {
        self.executions.insert(execution.id, execution.clone());
        self.said.push((execution.clone(), by.to_owned()));
    }

    fn create(&mut self, new: &NewExecution, tenant: TenantId, ms: i64) -> Answer<(Execution, bool)> {
        if let Some(there) = self.executions.get(&new.id) {
            let same = there.tenant == tenant
                && there.recipe == new.recipe()
                && there.lane == new.lane
                && there.class == new.class;
            return if same {
                Ok((there.clone(), false))
            } else {
                Err(format!("execution `{}` already exists, and is different", new.id))
            };
        }
        let execution = Execution {
            id: new.id,
            tenant,
            state: ExecutionState::Queued,
            origin: Origin::default(),
            lane: new.lane.clone(),
            class: new.class,
            recipe: new.recipe(),
            attempt: 0,
            losses: 0,
            lease: None,
            by: "test".to_owned(),
            created_at: at(ms),
            started_at: None,
            ended_at: None,
            outcome: None,
            usage: None,
            dump: None,
            waiting: None,
        };
        self.accepted.push(new.id);
        self.put(&execution, "test");
        Ok((execution, true))
    }

    /// Tells whether a node may have it: it waits, and nobody of its lane is before it.
    fn is_ready(&self, execution: &Execution) -> bool {
        let before = |id: &&ExecutionId| {
            let other = &self.executions[*id];
            other.tenant == execution.tenant && other.lane == execution.lane && !other.state.is_final()
        };
        let first = self.accepted.iter().find(before);
        execution.state == ExecutionState::Queued && (execution.lane.is_none() || first == Some(&execution.id))
    }

    fn claim(&mut self, lease: Lease, slots: usize, ms: i64) -> Vec<Execution> {
        let mut busy: HashMap<TenantId, usize> = HashMap::new();
        for held in self.executions.values().filter(|one| one.lease.is_some()) {
            *busy.entry(held.tenant).or_default() += 1;
        }
        let mut taken = Vec::new();
        for class in Class::ALL {
            let mut waiting: BTreeMap<TenantId, VecDeque<Execution>> = BTreeMap::new();
            for one in self.executions.values().filter(|one| one.class == class && self.is_ready(one)) {
                waiting.entry(one.tenant).or_default().push_back(one.clone());
            }
            waiting.values_mut().for_each(|ones| ones.make_contiguous().sort_by_key(|one| (one.created_at, one.id)));
            while taken.len() < slots {
                let turn = waiting.iter_mut().filter(|(_, ones)| !ones.is_empty());
                let Some((whose, ones)) = turn.min_by_key(|(whose, _)| busy.get(whose).copied().unwrap_or(0)) else {
                    break;
                };
                *busy.entry(*whose).or_default() += 1;
                let one = ones.pop_front().expect("is not empty");
                let one = Execution {
                    state: ExecutionState::Running,
                    attempt: one.attempt + 1,
                    lease: Some(lease),
                    started_at: Some(at(ms)),
                    ..one
                };
                self.put(&one, &lease.node.to_string());
                taken.push(one);
            }
        }
        taken
    }

    fn finish(&mut self, end: &ExecutionEnd, ms: i64) -> Answer<Execution> {
        let there = self.executions.get(&end.id).cloned();
        let there = there.ok_or_else(|| format!("execution `{}` does not exist", end.id))?;
        let to = end.outcome.state();
        let holds = there.lease.is_some_and(|lease| lease.session == end.session);
        if there.attempt != end.attempt || !(holds || there.state.is_final()) {
            return Err(format!("attempt {} of execution `{}` does not hold it any more", end.attempt, end.id));
        }
        if holds && to.reachable_from().contains(&there.state) {
            let ended = Execution {
                state: to,
                lease: None,
                ended_at: Some(at(ms)),
                outcome: Some(end.outcome.clone()),
                usage: Some(end.usage),
                ..there
            };
            self.put(&ended, "node");
            return Ok(ended);
        }
        if there.outcome.as_ref() == Some(&end.outcome) && there.usage == Some(end.usage) {
            return Ok(there);
        }
        Err(conflict(&there, to))
    }

    fn cancel(&mut self, id: ExecutionId, tenant: Option<TenantId>, ms: i64) -> Answer<Execution> {
        let there = self.executions.get(&id).filter(|one| tenant.is_none_or(|tenant| tenant == one.tenant)).cloned();
        let there = there.ok_or_else(|| format!("execution `{id}` does not exist"))?;
        let moved = match there.state {
            ExecutionState::Queued => Execution {
                state: ExecutionState::Cancelled,
                ended_at: Some(at(ms)),
                outcome: Some(Outcome::Cancelled),
                ..there
            },
            ExecutionState::Running => Execution { state: ExecutionState::Cancelling, ..there },
            ExecutionState::Cancelling | ExecutionState::Cancelled => return Ok(there),
            _ => return Err(conflict(&there, ExecutionState::Cancelled)),
        };
        self.put(&moved, "user");
        Ok(moved)
    }

    fn lose(&mut self, session: SessionId, ms: i64) -> Vec<Execution> {
        let held = self.executions.values().filter(|one| one.lease.is_some_and(|lease| lease.session == session));
        let moved: Vec<_> = held.cloned().map(|one| after_loss(one, ms)).collect();
        moved.iter().for_each(|one| self.put(one, "server"));
        moved
    }
}

fn after_loss(held: Execution, ms: i64) -> Execution {
    let losses = held.losses + 1;
    let outcome = match held.state {
        ExecutionState::Cancelling => Outcome::Cancelled,
        _ if losses >= MAX_LOSSES => Outcome::NodesLost { nodes: losses },
        _ => {
            let state = ExecutionState::Queued;
            return Execution { state, losses, lease: None, started_at: None, ..held };
        }
    };
    let (state, ended_at) = (outcome.state(), Some(at(ms)));
    Execution { state, losses, lease: None, ended_at, outcome: Some(outcome), ..held }
}

fn conflict(there: &Execution, to: ExecutionState) -> String {
    format!("execution `{}` is {}, which does not lead to {}", there.id, there.state.as_str(), to.as_str())
}

/// The store, the world it should be, and the names that moves are made of.
struct Trial {
    store: Store,
    world: World,
    tenants: [TenantId; 2],
    leases: [Lease; 3],
}

fn words<T>(answer: Result<T, StoreError>) -> Answer<T> {
    answer.map_err(|error| error.to_string())
}

impl Trial {
    fn id(number: u8) -> ExecutionId {
        // Ids neither sort by the time of acceptance nor against it.
        ExecutionId::new(at(i64::from(number) * 7 % 24), number.into())
    }

    fn new_execution(id: u8, lane: Option<bool>, class: Class, twin: bool) -> NewExecution {
        NewExecution {
            id: Self::id(id),
            lane: lane.map(|lane| format!("lane {lane}")),
            class,
            image: None,
            command: vec![if twin { "true" } else { "false" }.to_owned()],
            env: BTreeMap::new(),
            input: Input::None,
            limits: Limits::default(),
            sandbox: model::Sandbox::default(),
        }
    }

    /// Returns which execution is meant; one that nobody has made, if there is none.
    fn pick(&self, which: Index) -> ExecutionId {
        match self.world.accepted.len() {
            0 => Self::id(99),
            count => self.world.accepted[which.index(count)],
        }
    }

    fn end(&self, which: Index, attempt: i8, session: Option<u8>, outcome: u8) -> ExecutionEnd {
        let id = self.pick(which);
        let there = self.world.executions.get(&id);
        let held = there.and_then(|one| one.lease).map_or(self.leases[0].session, |lease| lease.session);
        ExecutionEnd {
            id,
            attempt: there.map_or(1, |one| one.attempt).saturating_add_signed(attempt.into()),
            session: session.map_or(held, |session| self.leases[usize::from(session)].session),
            outcome: match outcome {
                0 => Outcome::Exited { code: 0 },
                1 => Outcome::Exited { code: 1 },
                2 => Outcome::TimedOut,
                _ => Outcome::Cancelled,
            },
            usage: Usage { wall_ms: 5, ..Usage::default() },
            dump: None,
            manifest: None,
            findings: None,
            asked: None,
        }
    }

    /// Makes one move in both, and compares what they answer.
    async fn step(&mut self, step: Move, ms: i64) {
        match step {
            Move::Create { id, tenant, lane, class, twin } => {
                let (new, whose) = (Self::new_execution(id, lane, class, twin), self.tenants[usize::from(tenant)]);
                let answer = words(accept(&self.store, &new, whose, ms).await);
                let answer = answer.map(|(execution, is_new)| (Execution::clone(&execution), is_new));
                assert_eq!(answer, self.world.create(&new, whose, ms), "{step:?}");
            }
            Move::Claim { session, slots } => {
                let lease = self.leases[usize::from(session)];
                let answer = self.store.execution_claim(lease, slots.into(), at(ms)).await.expect("a claim");
                assert_eq!(answer, self.world.claim(lease, slots.into(), ms), "{step:?}");
            }
            Move::Finish { which, attempt, session, outcome } => {
                let end = self.end(which, attempt, session, outcome);
                let answer = words(self.store.execution_finish(end.clone(), "node", at(ms)).await);
                assert_eq!(answer, self.world.finish(&end, ms), "{step:?}");
            }
            Move::Cancel { which, whose } => {
                let (id, whose) = (self.pick(which), whose.map(|whose| self.tenants[usize::from(whose)]));
                let answer = words(self.store.execution_cancel(id, whose, "user", at(ms)).await);
                assert_eq!(answer, self.world.cancel(id, whose, ms), "{step:?}");
            }
            Move::Lose { session } => {
                let session = self.leases[usize::from(session)].session;
                let answer = self.store.session_lose(session, "server", at(ms)).await.expect("is lost");
                assert_eq!(answer, self.world.lose(session, ms), "{step:?}");
            }
        }
    }

    /// Compares the log after a cursor, and all that can be read; returns the new cursor.
    async fn check(&mut self, cursor: u64, ms: i64) -> u64 {
        let changes = log(&self.store, cursor).await;
        assert_eq!(changes.len(), self.world.said.len(), "as many changes as moves");
        for (change, (execution, by)) in changes.iter().zip(self.world.said.drain(..)) {
            assert_eq!(change.body.get(), serde_json::to_string(&execution).expect("JSON"));
            assert_eq!(change.id, execution.id.to_string());
            assert_eq!((change.tenant, change.state.as_str()), (execution.tenant, execution.state.as_str()));
            assert_eq!((&change.by, change.at), (&by, at(ms)));
            let there = self.store.execution_get(execution.id, Some(execution.tenant)).await.expect("is there");
            assert_eq!(there, self.world.executions[&execution.id]);
        }
        let ready = self.world.executions.values().filter(|one| self.world.is_ready(one)).count();
        assert_eq!(self.store.executions_waiting().await.expect("counts"), ready as u64);
        cursor + changes.len() as u64
    }

    async fn check_lists(&self) {
        for whose in self.tenants {
            let of_tenant = self.world.executions.values().rev().filter(|one| one.tenant == whose);
            let expected: Vec<_> = of_tenant.cloned().collect();
            let all = ExecutionQuery::default();
            assert_eq!(self.store.execution_list(whose, &all, 1_000).await.expect("a page").0, expected);
            for state in ExecutionState::ALL {
                let query = ExecutionQuery { state: Some(state), ..ExecutionQuery::default() };
                let expected: Vec<_> = expected.iter().filter(|one| one.state == state).cloned().collect();
                assert_eq!(self.store.execution_list(whose, &query, 1_000).await.expect("a page").0, expected);
            }
        }
    }
}

async fn play(fresh: &Fresh, moves: &[Move]) {
    let store = fresh.open().await;
    let mut tenants = [tenant(&store, "a").await, tenant(&store, "b").await];
    tenants.sort();
    let lease = |n: u128| Lease { node: NodeId::new(at(0), n), session: SessionId::new(at(0), n) };
    let mut trial = Trial { store, world: World::default(), tenants, leases: [lease(1), lease(2), lease(3)] };
    let mut cursor = 2;
    for (step, ms) in moves.iter().zip(100..) {
        trial.step(*step, ms).await;
        cursor = trial.check(cursor, ms).await;
    }
    trial.check_lists().await;
    check_replay(&trial.store, &fresh.raw().await).await;
    trial.store.close().await;
    // What was answered is there after a restart.
    let store = fresh.open().await;
    assert_eq!(store.log_bounds().await.expect("bounds").head, cursor);
    let trial = Trial { store, ..trial };
    trial.check_lists().await;
    trial.store.close().await;
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
    fn agree_with_the_model() {
        super::check(store::Engine::Sqlite, 40);
    }
}

mod postgres {
    #[test]
    fn agree_with_the_model() {
        super::check(store::Engine::Postgres, 8);
    }
}
