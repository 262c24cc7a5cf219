//! Samples of every noun, instants, and what a test asks of any log.

use jiff::Timestamp;
use model::{
    Change, Class, Execution, ExecutionId, ExecutionQuery, Input, Lease, Limits, NewExecution, NewTenant, NewUser,
    NodeId, Noun, Origin, Outcome, Role, SessionId, Tenant, TenantId, Token, TokenId, Usage, User, UserId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use store::{ChangeFilter, ExecutionEnd, Store, StoreError, TokenRow, random};

/// Returns an instant: so many milliseconds after the one at which every test begins.
pub(crate) fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_763_000_000_000 + ms).expect("in range")
}

/// Makes a tenant.
pub(crate) async fn tenant(store: &Store, name: &str) -> TenantId {
    let id = TenantId::new(at(0), random());
    store.tenant_create(NewTenant { id, name: name.to_owned() }, "test", at(0)).await.expect("a tenant");
    id
}

/// Makes a user.
pub(crate) async fn user(store: &Store, tenant: TenantId, name: &str, role: Role) -> User {
    let new = NewUser { id: UserId::new(at(0), random()), name: name.to_owned(), role };
    store.user_create(new, tenant, "test", at(0)).await.expect("a user").0
}

/// Returns a token that is not in the store yet.
pub(crate) fn token(tenant: TenantId, user: UserId, name: &str) -> TokenRow {
    let token = Token {
        id: TokenId::new(at(0), random()),
        tenant,
        user,
        name: name.to_owned(),
        scopes: vec![model::Scope::ExecutionRead, model::Scope::ChangeRead],
        created_at: at(1),
        expires_at: Some(at(1_000_000)),
        used_at: None,
        revoked_at: None,
    };
    TokenRow { token, hash: *blake3::hash(&random().to_le_bytes()).as_bytes() }
}

/// Returns a tenant that is not in the store yet.
pub(crate) fn house() -> (Tenant, User, TokenRow) {
    let id = TenantId::new(at(0), random());
    let tenant = Tenant { id, name: model::tenant::HOUSE.to_owned(), runtime: None, created_at: at(0) };
    let admin = User {
        id: UserId::new(at(0), random()),
        tenant: id,
        name: "admin".to_owned(),
        role: Role::Admin,
        state: model::UserState::Active,
        created_at: at(0),
    };
    let token = token(id, admin.id, "first");
    (tenant, admin, token)
}

/// Returns a request for an execution, made at an instant.
pub(crate) fn execution(ms: i64) -> NewExecution {
    NewExecution {
        id: ExecutionId::new(at(ms), random()),
        lane: None,
        class: Class::Human,
        image: Some("docker.io/library/busybox@sha256:0000".to_owned()),
        command: vec!["sh".to_owned(), "-c".to_owned(), "echo \"$MSG\" ✓".to_owned()],
        env: BTreeMap::from([("MSG".to_owned(), "hello".to_owned())]),
        input: Input::Text { text: "a\tb\n\u{1}".to_owned() },
        limits: Limits::default(),
        sandbox: model::Sandbox::default(),
    }
}

/// Returns the same in a lane.
pub(crate) fn laned(ms: i64, lane: &str) -> NewExecution {
    NewExecution { lane: Some(lane.to_owned()), ..execution(ms) }
}

/// Accepts an execution by hand; tells whether it is new.
pub(crate) async fn accept(
    store: &Store,
    new: &NewExecution,
    tenant: TenantId,
    ms: i64,
) -> Result<(Arc<Execution>, bool), StoreError> {
    store.execution_create(new, tenant, Origin::default(), "test", at(ms)).await
}

/// Accepts an execution that must be new.
pub(crate) async fn accepted(store: &Store, new: &NewExecution, tenant: TenantId, ms: i64) -> Arc<Execution> {
    let (execution, is_new) = accept(store, new, tenant, ms).await.expect("accepted");
    assert!(is_new, "{} is new", new.id);
    execution
}

/// Returns a lease of a node that nobody has seen before.
pub(crate) fn lease() -> Lease {
    Lease { node: NodeId::new(at(0), random()), session: SessionId::new(at(0), random()) }
}

/// Returns what a node says of the end of an execution that it holds.
pub(crate) fn end(held: &Execution, outcome: Outcome) -> ExecutionEnd {
    let session = held.lease.expect("a node holds it").session;
    let usage =
        Usage { wall_ms: 7, cpu_ms: 5, memory_peak_bytes: 1 << 20, read_bytes: 3, write_bytes: 4, ..Usage::default() };
    ExecutionEnd {
        id: held.id,
        attempt: held.attempt,
        session,
        outcome,
        usage,
        dump: None,
        manifest: None,
        findings: None,
        asked: None,
    }
}

/// Makes sure that something was refused with these words.
pub(crate) fn refused<T: Debug>(answer: Result<T, StoreError>, words: &str) {
    match answer {
        Ok(answer) => panic!("answered {answer:?}, should have refused: {words}"),
        Err(error) => assert_eq!(error.to_string(), words),
    }
}

/// Returns the log from a cursor to its end, having made sure that it has no holes.
pub(crate) async fn log(store: &Store, after: u64) -> Vec<Arc<Change>> {
    let mut found: Vec<Arc<Change>> = Vec::new();
    loop {
        let cursor = after + found.len() as u64;
        let page = store.log_page(cursor, &ChangeFilter::default(), 700).await.expect("a page");
        assert!(page.next <= page.head, "page to {} of a log to {}", page.next, page.head);
        if page.items.is_empty() {
            assert_eq!(cursor, page.head, "a page is empty only at the end");
            return found;
        }
        found.extend(page.items);
        for (change, seq) in found.iter().zip(after + 1..) {
            assert_eq!(change.seq, seq, "no hole, no turn");
        }
    }
}

/// Returns the last word of the log on every execution.
pub(crate) fn replay(log: &[Arc<Change>]) -> BTreeMap<ExecutionId, Execution> {
    let mut there = BTreeMap::new();
    for change in log.iter().filter(|change| change.noun == Noun::Execution) {
        let execution: Execution = serde_json::from_str(change.body.get()).expect("the body is an execution");
        assert_eq!(change.id, execution.id.to_string());
        assert_eq!(change.tenant, execution.tenant);
        if change.state == "removed" {
            assert_eq!(there.remove(&execution.id), Some(execution), "the last word is the one before");
        } else {
            assert_eq!(change.state, execution.state.as_str());
            there.insert(execution.id, execution);
        }
    }
    there
}

/// Makes sure that the log, replayed, gives what stands in the table.
pub(crate) async fn check_replay(store: &Store, raw: &crate::engine::Raw) {
    let mut replayed = replay(&log(store, 0).await);
    assert_eq!(raw.number("SELECT count(*) FROM execution").await, replayed.len() as u64);
    for whose in replayed.values().map(|execution| execution.tenant).collect::<BTreeSet<_>>() {
        let all = ExecutionQuery::default();
        for execution in store.execution_list(whose, &all, u32::MAX).await.expect("a page").0 {
            assert_eq!(replayed.remove(&execution.id), Some(execution));
        }
    }
    assert!(replayed.is_empty(), "{replayed:?} stand in the log alone");
}

/// A source of chances that can be repeated: print its seed, and set it.
pub(crate) struct Chance(u64);

impl Chance {
    /// Returns a source with a new seed.
    pub(crate) fn new() -> Self {
        Self::seeded((random() as u64) | 1)
    }

    /// Returns the source of this seed.
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the seed from here on.
    pub(crate) const fn seed(&self) -> u64 {
        self.0
    }

    /// Returns a number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}
