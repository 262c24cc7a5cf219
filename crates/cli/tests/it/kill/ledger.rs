//! What the server has acknowledged, and the comparison of that with what it says afterwards.

use super::load::Shared;
use crate::system::Server;
use model::{Change, Digest, ExecutionId, NewExecution, Page, TokenId};
use reqwest::Method;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Contents that are fetched again; more would only take longer.
const MAX_FETCHED: usize = 100;

/// What was acknowledged.
#[derive(Default)]
pub(super) struct Ledger {
    created: Mutex<BTreeMap<ExecutionId, NewExecution>>,
    to_cancel: Mutex<Vec<ExecutionId>>,
    cancelled: Mutex<BTreeSet<ExecutionId>>,
    stored: Mutex<BTreeMap<Digest, Vec<u8>>>,
    issued: Mutex<BTreeMap<TokenId, String>>,
}

impl Ledger {
    pub(super) fn created(&self, new: NewExecution) {
        let mut created = self.created.lock().expect("is whole");
        if created.len().is_multiple_of(3) {
            self.to_cancel.lock().expect("is whole").push(new.id);
        }
        created.insert(new.id, new);
    }

    /// Returns one that nobody else is asked to cancel.
    pub(super) fn any_to_cancel(&self) -> Option<ExecutionId> {
        self.to_cancel.lock().expect("is whole").pop()
    }

    pub(super) fn cancelled(&self, id: ExecutionId) {
        self.cancelled.lock().expect("is whole").insert(id);
    }

    pub(super) fn stored(&self, digest: Digest, bytes: Vec<u8>) {
        self.stored.lock().expect("is whole").insert(digest, bytes);
    }

    pub(super) fn issued(&self, id: TokenId, secret: String) {
        self.issued.lock().expect("is whole").insert(id, secret);
    }
}

/// What everybody knows when the load is over.
pub(super) struct Followed {
    pub(super) shared: Arc<Shared>,
    pub(super) head: u64,
    pub(super) streamed: Vec<Change>,
    pub(super) commanded: Vec<Change>,
}

/// A thing's last known face, by noun and id.
type Things = BTreeMap<(String, String), Value>;

fn value(text: &str) -> Value {
    serde_json::from_str(text).expect("is JSON")
}

impl Followed {
    /// Compares what was acknowledged, what was followed, what the log says and what the tables say.
    pub(super) async fn check(&self, server: &Server) {
        let asked_again = self.shared.asked_again.load(Ordering::Relaxed);
        assert!(asked_again > 0, "no kill has interrupted anybody");
        let log = self.log().await;
        let seqs: Vec<u64> = log.iter().map(|change| change.seq).collect();
        assert_eq!(seqs, (1..=self.head).collect::<Vec<_>>(), "the log has a gap, or repeats itself");
        for (who, seen) in [("stream", &self.streamed), ("command", &self.commanded)] {
            assert_eq!(seen.len(), log.len(), "the follower by {who} has not seen everything once");
            for (seen, change) in seen.iter().zip(&log) {
                assert_eq!((seen.seq, &seen.id, seen.body.get()), (change.seq, &change.id, change.body.get()), "{who}");
            }
        }
        let tables = self.tables().await;
        let replayed = replay(&log);
        assert_eq!(replayed.keys().collect::<Vec<_>>(), tables.keys().collect::<Vec<_>>());
        for (thing, body) in &replayed {
            assert_eq!(body, &tables[thing], "the log and the table differ in {thing:?}");
        }
        self.acknowledged(&tables).await;
        self.credentials(server).await;
    }

    async fn log(&self) -> Vec<Change> {
        let mut log: Vec<Change> = Vec::new();
        loop {
            let page: Page<Change> =
                self.shared.get(&format!("/v1/changes?after={}&limit=1000&tenant=*", log.len())).await;
            if page.items.is_empty() {
                return log;
            }
            log.extend(page.items);
        }
    }

    /// Returns everything that can be listed.
    async fn tables(&self) -> Things {
        let mut things = Things::new();
        for (noun, path, key) in [
            ("execution", "/v1/executions", "id"),
            ("token", "/v1/tokens", "id"),
            ("user", "/v1/users", "id"),
            ("tenant", "/v1/tenants", "id"),
            ("blob", "/v1/blobs", "digest"),
        ] {
            let mut after = String::new();
            loop {
                let page: Page<Value> = self.shared.get(&format!("{path}?limit=1000{after}")).await;
                for thing in page.items {
                    let id = thing[key].as_str().expect("has a name").to_owned();
                    assert_eq!(things.insert((noun.to_owned(), id), faceless(thing)), None, "a thing is listed twice");
                }
                let Some(next) = page.next else { break };
                after = format!("&after={next}");
            }
        }
        things
    }

    /// Looks for everything that was acknowledged.
    async fn acknowledged(&self, tables: &Things) {
        let ledger = &self.shared.ledger;
        let (created, cancelled) =
            (ledger.created.lock().expect("is whole").clone(), ledger.cancelled.lock().expect("is whole").clone());
        assert!(
            created.len() > 100 && cancelled.len() > 10,
            "{} created, {} cancelled",
            created.len(),
            cancelled.len()
        );
        for (id, new) in &created {
            let found =
                tables.get(&("execution".to_owned(), id.to_string())).expect("an acknowledged execution is there");
            let found: model::Execution = serde_json::from_value(found.clone()).expect("is one");
            assert_eq!((found.recipe, &found.lane), (new.recipe(), &new.lane), "{id}");
            assert!(
                !cancelled.contains(id) || found.state == model::ExecutionState::Cancelled,
                "{id}: {:?}",
                found.state
            );
        }
        let stored = ledger.stored.lock().expect("is whole").clone();
        assert!(stored.len() > 3, "{} stored", stored.len());
        for (digest, bytes) in &stored {
            let blob = tables.get(&("blob".to_owned(), digest.to_string())).expect("an acknowledged blob is there");
            assert_eq!(blob["size"], bytes.len());
        }
        for (digest, bytes) in stored.iter().take(MAX_FETCHED) {
            assert!(&self.shared.content(&format!("/v1/blobs/{digest}")).await == bytes, "blob {digest} has changed");
        }
    }

    /// Shows every secret that was handed out; each must still be taken.
    async fn credentials(&self, server: &Server) {
        let issued = self.shared.ledger.issued.lock().expect("is whole").clone();
        assert!(issued.len() > 3, "{} issued", issued.len());
        for (id, secret) in issued {
            let answer = self.shared.ask_once(&secret, Method::GET, "/v1/whoami", Vec::new()).await;
            let (status, body) = answer.unwrap_or_else(|| panic!("{} does not answer", server.url));
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
            assert_eq!(value(&String::from_utf8(body).expect("is text"))["token"], id.to_string());
        }
    }
}

/// Returns what the log comes to: of each thing, what the last change says.
fn replay(log: &[Change]) -> Things {
    let change = |change: &Change| {
        let name = (change.noun.as_str().to_owned(), change.id.clone());
        (name, faceless(value(change.body.get())))
    };
    log.iter().map(change).collect()
}

/// Takes off the one thing that the log does not hear of.
fn faceless(mut thing: Value) -> Value {
    if let Some(fields) = thing.as_object_mut() {
        fields.remove("used_at");
    }
    thing
}
