//! What is known of a session, when its syncs come in one order or another.

use super::*;
use model::image::Platform;
use model::{LimitSet, Network, NodeId, Offer, SandboxKind};
use std::collections::BTreeMap;

const LEASE: SignedDuration = SignedDuration::from_secs(30);

fn node(session: SessionId) -> Node {
    let offer = Offer {
        version: "1".to_owned(),
        platform: Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None },
        kinds: vec![SandboxKind::Process],
        networks: vec![Network::None],
        runtimes: Vec::new(),
        slots: 1,
        cpu_milli: 1_000,
        memory_bytes: 1 << 30,
        enforces: LimitSet::default(),
        mounts: Vec::new(),
        labels: BTreeMap::new(),
    };
    Node {
        id: NodeId::new(Timestamp::UNIX_EPOCH, 1),
        tenant: TenantId::new(Timestamp::UNIX_EPOCH, 1),
        name: "one".to_owned(),
        state: NodeState::Ready,
        hold: None,
        session: Some(session),
        offer,
        busy: None,
        by: "ada".to_owned(),
        created_at: Timestamp::UNIX_EPOCH,
        joined_at: None,
        lease_until: None,
    }
}

fn says(session: SessionId, held: &[Held], free: u32, wait_ms: u64) -> Sync {
    Sync {
        session,
        free,
        held: held.to_vec(),
        chunks: Vec::new(),
        finished: Vec::new(),
        used: Vec::new(),
        wait_ms,
        trouble: None,
        leaving: false,
    }
}

/// What the database says of a session that holds this.
fn heard(session: SessionId, held: &[Held]) -> Heard {
    let held = held.iter().map(|held| (held.execution, (held.attempt, ExecutionState::Running))).collect();
    Heard {
        node: node(session),
        expires_at: Timestamp::UNIX_EPOCH + LEASE,
        held,
        assigned: Vec::new(),
        forget: Vec::new(),
        refused: Vec::new(),
        moved: Vec::new(),
        is_sated: true,
    }
}

struct Stand {
    sessions: Sessions,
    session: SessionId,
    one: Held,
}

impl Stand {
    /// A session with one slot, in which one execution runs.
    fn new() -> Self {
        let stand = Self {
            sessions: Sessions::default(),
            session: SessionId::new(Timestamp::UNIX_EPOCH, 1),
            one: Held { execution: ExecutionId::new(Timestamp::UNIX_EPOCH, 1), attempt: 1 },
        };
        let mut first = says(stand.session, &[stand.one], 0, 0);
        let need = stand.need(&mut first, true);
        stand.learn(&first, &[stand.one], need);
        stand
    }

    fn need(&self, sync: &mut Sync, is_new: bool) -> (Need, Seen) {
        let node = node(self.session);
        self.sessions.need(sync, is_new, (node.tenant, &node.by), Timestamp::UNIX_EPOCH)
    }

    fn learn(&self, sync: &Sync, held: &[Held], need: (Need, Seen)) {
        self.sessions.learn(sync, &heard(self.session, held), need, (None, LEASE));
    }

    fn waits(&self) -> Turn {
        self.sessions.enter(self.session, true)
    }
}

#[test]
fn what_waits_says_what_was_said_since() {
    let stand = Stand::new();
    let (turn, mut waiting) = (stand.waits(), says(stand.session, &[stand.one], 0, 9));
    assert_eq!(stand.need(&mut waiting, true).0, Need::Nothing);
    assert!(stand.sessions.wait(&turn));
    let mut report = says(stand.session, &[], 1, 0);
    stand.sessions.enter(stand.session, false);
    let need = stand.need(&mut report, true);
    stand.learn(&report, &[], need);
    assert!(stand.sessions.is_newest(&turn));
    stand.need(&mut waiting, false);
    assert_eq!((waiting.held, waiting.free), (Vec::new(), 1));
}

#[test]
fn what_waits_is_woken_if_what_it_said_was_overtaken() {
    let stand = Stand::new();
    let mut report = says(stand.session, &[], 1, 0);
    let need = stand.need(&mut report, true);
    // Sent before the report, and heard while the report is on its way to the disk.
    let (turn, mut waiting) = (stand.waits(), says(stand.session, &[stand.one], 0, 9));
    assert_eq!(stand.need(&mut waiting, true).0, Need::Nothing);
    assert!(stand.sessions.wait(&turn));
    stand.learn(&report, &[], need);
    assert!(!stand.sessions.wait(&turn), "it is not left to wait");
    assert_eq!(stand.need(&mut waiting, false).0, Need::Exchange, "and hears what it holds no more");
}

#[test]
fn what_is_woken_while_a_report_is_on_its_way_asks_again() {
    let stand = Stand::new();
    let (turn, mut waiting) = (stand.waits(), says(stand.session, &[stand.one], 0, 9));
    assert_eq!(stand.need(&mut waiting, true).0, Need::Nothing);
    assert!(stand.sessions.wait(&turn));
    let mut report = says(stand.session, &[], 1, 0);
    let need = stand.need(&mut report, true);
    // The report's transaction is over, and has found nothing, when something comes in for the one that waits.
    stand.sessions.stir();
    stand.learn(&report, &[], need);
    assert_eq!(stand.need(&mut waiting, false).0, Need::Exchange);
}
