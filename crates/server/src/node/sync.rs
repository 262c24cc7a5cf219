//! One sync: heard by the database if it must be, else answered from what is known, and held while there is nothing to
//! say.

use crate::app::App;
use crate::body::Attention;
use crate::caller::Caller;
use crate::error::Answer;
use crate::execution::core::left;
use crate::session::watch::moved;
use crate::session::{Need, Seen, TELL_AGAIN, Turn, Word};
use jiff::Timestamp;
use model::image::{Credential, ImageOrder};
use model::limits::MAX_HOLD;
use model::node::{Assignment, Held, Refused, Work};
use model::{NodeId, Sync, SyncAnswer, TenantId};
use std::collections::BTreeMap;
use std::time::Duration;
use store::{Assigned, Heard, Report, StoreError};
use tokio::time::Instant;

/// What there is to say besides how the node stands.
#[derive(Default)]
struct Said {
    assigned: Vec<Assignment>,
    forget: Vec<Held>,
    refused: Vec<Refused>,
    /// Whether the node waits to hear that it was heard.
    is_heard: bool,
}

/// Takes a session from among those that wait, however its sync ends.
struct Waiting<'w> {
    app: &'w App,
    turn: &'w Turn,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.app.sessions.leave(self.turn);
    }
}

/// Hears a node and tells it what to do.
pub(super) async fn answer(
    app: &App,
    caller: &Caller,
    node: NodeId,
    sync: Sync,
    attention: Attention,
) -> Answer<SyncAnswer> {
    let mut attention = Some(attention);
    let asked_at = app.clock.now();
    // A lease must outlive the wait, or the node would find itself without one when the answer comes.
    let wait = Duration::from_millis(sync.wait_ms).min(MAX_HOLD).min(app.config.node.lease / 2);
    let serves = (!caller.tenant.is_house()).then_some(caller.tenant.id);
    let lease = super::lease(app);
    let (tenant, by) = caller.owner();
    let dumps = BTreeMap::new();
    let mut report = Report { node, owner: (tenant, by.to_owned()), sync, dumps, serves, at: asked_at, lease };
    // Whoever names another's session gets no further, or their words would count as its node's.
    match app.sessions.is_of(report.sync.session, caller.owner()) {
        Some(true) => {}
        Some(false) => return Err(StoreError::gone(report.sync.session).into()),
        None => drop(app.store.session_renew(report.clone()).await?),
    }
    let until = Instant::now() + wait;
    let turn = app.sessions.enter(report.sync.session, !wait.is_zero() || report.sync.leaving);
    if report.sync.finished.iter().any(|finished| finished.dump.is_some()) {
        // The lease first: however long it takes to look at a dump, all that the node holds stays its own.
        let renewed = app.store.session_renew(report.clone()).await;
        renewed.inspect_err(|_| app.sessions.forget(report.sync.session))?;
        let until = Instant::now() + app.config.node.lease / 3;
        report.dumps = left(app, caller, (report.sync.session, &report.sync.finished), until).await?;
    }
    let mut is_first = true;
    loop {
        let mut said = Said::default();
        // What an older sync would be told is the newer one's to hear.
        if !is_first
            && !app.sessions.is_newest(&turn)
            && let Some(word) = app.sessions.word(report.sync.session)
        {
            return Ok(compose(word, said, asked_at));
        }
        report.at = app.clock.now();
        let is_new = std::mem::take(&mut is_first);
        let (need, seen) = app.sessions.need(&mut report.sync, is_new, caller.owner(), report.at);
        let heard = match need {
            Need::Exchange => Some(app.store.node_exchange(report.clone()).await),
            Need::Renew => Some(app.store.session_renew(report.clone()).await),
            Need::Nothing => None,
        };
        if let Some(heard) = heard {
            let heard = heard.inspect_err(|_| app.sessions.forget(report.sync.session))?;
            said = take_in(app, &mut report, &heard, (need, seen));
            if report.sync.leaving {
                return Ok(farewell(&heard, said));
            }
        }
        let Some(word) = app.sessions.word(report.sync.session) else { continue };
        let has_more = need == Need::Renew
            && app.sessions.need(&mut report.sync, false, caller.owner(), report.at).0 == Need::Exchange;
        let is_news = word.is_news || said.is_heard || !said.is_nothing();
        let is_over = Instant::now() >= until || app.stop.is_cancelled() || !app.sessions.is_newest(&turn);
        if (is_news || is_over) && !has_more {
            app.sessions.told(report.sync.session, &word);
            return Ok(compose(word, said, asked_at));
        }
        if !has_more {
            // What was said is written, and this may now wait for long.
            drop(attention.take());
            // A node that was told to stop something is told again, until it has.
            let again = Instant::now() + TELL_AGAIN;
            hold(app, &turn, if word.cancel.is_empty() { until } else { until.min(again) }).await;
        }
    }
}

/// Waits until something happens to the session, or until then.
async fn hold(app: &App, turn: &Turn, until: Instant) {
    let _waiting = Waiting { app, turn };
    let rung = turn.bell.notified();
    tokio::pin!(rung);
    // It listens before it is seen to wait, so no bell is missed.
    rung.as_mut().enable();
    if !app.sessions.wait(turn) {
        return;
    }
    tokio::select! {
        () = rung => {}
        () = tokio::time::sleep_until(until) => {}
        () = app.stop.cancelled() => {}
    }
}

/// Keeps what the database said, and wakes whom it concerns.
fn take_in(app: &App, report: &mut Report, heard: &Heard, need: (Need, Seen)) -> Said {
    let sync = &mut report.sync;
    let is_heard =
        !(sync.chunks.is_empty() && sync.finished.is_empty() && sync.used.is_empty()) || sync.trouble.is_some();
    if !std::mem::take(&mut report.dumps).is_empty() {
        app.arrivals.notify_one();
    }
    if sync.finished.iter().any(|finished| finished.findings.is_some()) {
        app.analysed.notify_one();
    }
    for written in &sync.chunks {
        app.followers.ring(written.held.execution);
    }
    moved(app, &heard.moved);
    // It is said once: whatever follows in this request is about what has not been said yet.
    sync.chunks.clear();
    sync.finished.clear();
    sync.used.clear();
    sync.trouble = None;
    app.sessions.learn(sync, heard, need, (report.serves, report.lease));
    let assigned = heard.assigned.iter().map(|assigned| assignment(app, assigned)).collect();
    Said { assigned, forget: heard.forget.clone(), refused: heard.refused.clone(), is_heard }
}

impl Said {
    fn is_nothing(&self) -> bool {
        self.assigned.is_empty() && self.forget.is_empty() && self.refused.is_empty()
    }
}

fn compose(word: Word, said: Said, asked_at: Timestamp) -> SyncAnswer {
    let left = word.expires_at.duration_since(asked_at).as_millis();
    SyncAnswer {
        lease_ms: u64::try_from(left).unwrap_or(0),
        state: word.node.state,
        hold: word.node.hold.clone(),
        assigned: said.assigned,
        cancel: word.cancel,
        forget: said.forget,
        refused: said.refused,
    }
}

/// Answers a node that leaves.
fn farewell(heard: &Heard, said: Said) -> SyncAnswer {
    SyncAnswer {
        lease_ms: 0,
        state: heard.node.state,
        hold: heard.node.hold.clone(),
        assigned: Vec::new(),
        cancel: Vec::new(),
        forget: said.forget,
        refused: said.refused,
    }
}

fn assignment(app: &App, assigned: &Assigned) -> Assignment {
    let execution = &assigned.execution;
    let work = match (&assigned.dump, &assigned.image) {
        (Some(order), _) => Work::Dump { order: order.clone() },
        (None, None) => Work::Run { image: assigned.manifest.clone(), dump: assigned.beside.clone() },
        (None, Some((image, plain_http, sealed))) => Work::Image {
            order: ImageOrder {
                id: image.id,
                source: image.source.clone(),
                credential: sealed.as_ref().and_then(|sealed| open(app, image.tenant, sealed)),
                plain_http: *plain_http,
            },
        },
    };
    Assignment {
        held: Held { execution: execution.id, attempt: execution.attempt },
        tenant: execution.tenant,
        class: execution.class,
        recipe: execution.recipe.clone(),
        work,
    }
}

/// Opens a credential for the one execution that needs it.
fn open(app: &App, tenant: TenantId, sealed: &store::Sealed) -> Option<Credential> {
    let registry = &sealed.registry;
    let secret = app.seal.read(tenant, &registry.host, &sealed.secret);
    if secret.is_none() {
        tracing::error!(
            host = registry.host,
            "the credential of a registry cannot be opened: it was sealed with another key; all servers of a database \
             need the same `server.secret_key`, or the same `secret.key` in their data folders"
        );
    }
    Some(Credential { user: registry.user.clone(), secret: secret? })
}
