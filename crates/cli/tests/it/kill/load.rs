//! The load: callers who create, cancel, store and follow, and who ask again under the same id until they are answered.
//!
//! Each of them speaks plain HTTP, so that nothing the client library does by itself hides what the server does.

use super::ledger::{Followed, Ledger};
use crate::system::{Held, House, Server, http};
use model::{
    Blob, Change, Digest, Execution, ExecutionId, ExecutionState, NewExecution, NewToken, Token, TokenId, TokenIssued,
};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Callers of each sort.
const CREATORS: u64 = 12;
const CANCELLERS: usize = 2;
/// What must have been acknowledged since the last look before anybody counts that as progress.
const PROGRESS: u64 = 50;
/// How long a caller who was refused a connection waits for word of a new server before trying by itself.
const AGAIN: Duration = Duration::from_millis(50);

/// What all callers share.
pub(super) struct Shared {
    http: reqwest::Client,
    url: String,
    token: String,
    pub(super) ledger: Ledger,
    /// Whether a server is expected to answer.
    serving: watch::Sender<bool>,
    over: watch::Sender<bool>,
    /// The number at which followers end.
    head: watch::Sender<Option<u64>>,
    acknowledged: AtomicU64,
    /// How often nobody knew what the server had done, and it was asked again.
    pub(super) asked_again: AtomicU64,
}

/// The callers at work.
pub(super) struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<()>,
    followers: JoinSet<Vec<Change>>,
    /// `quarry changes -f`, and the file it writes to.
    command: (Held, PathBuf),
}

impl Load {
    /// Sets everybody to work.
    pub(super) fn begin(server: &Server, house: &House) -> Self {
        let shared = Arc::new(Shared {
            http: http(),
            url: server.url.clone(),
            token: house.token(),
            ledger: Ledger::default(),
            serving: watch::Sender::new(true),
            over: watch::Sender::new(false),
            head: watch::Sender::new(None),
            acknowledged: AtomicU64::new(0),
            asked_again: AtomicU64::new(0),
        });
        let mut callers = JoinSet::new();
        for number in 0..CREATORS {
            callers.spawn(Arc::clone(&shared).create(number));
        }
        for _ in 0..CANCELLERS {
            callers.spawn(Arc::clone(&shared).cancel());
        }
        callers.spawn(Arc::clone(&shared).store());
        callers.spawn(Arc::clone(&shared).issue());
        let mut followers = JoinSet::new();
        followers.spawn(Arc::clone(&shared).follow());
        let path = house.home().join("followed");
        let out = std::fs::File::create(&path).expect("is made");
        let mut command = server.command(&shared.token, &["changes", "-f", "--after", "0", "--json", "--tenant", "*"]);
        command.stdout(out);
        Self { shared, callers, followers, command: (Held::start(command), path) }
    }

    /// Waits until something has been acknowledged by the present server.
    pub(super) async fn await_progress(&self) {
        let goal = self.shared.acknowledged.load(Ordering::Relaxed) + PROGRESS;
        let progress = async {
            while self.shared.acknowledged.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), progress).await.expect("the callers get on");
    }

    /// Tells the callers that the server goes away.
    pub(super) fn expect_no_server(&self) {
        self.shared.serving.send_replace(false);
    }

    /// Tells the callers that there is a server again.
    pub(super) fn expect_server(&self) {
        self.shared.serving.send_replace(true);
    }

    /// Has everybody finish what they began, and returns what they know.
    pub(super) async fn finish(mut self) -> Followed {
        self.shared.over.send_replace(true);
        while let Some(ended) = self.callers.join_next().await {
            ended.expect("no caller panics");
        }
        let head = self.shared.log_head().await;
        self.shared.head.send_replace(Some(head));
        let streamed = self.followers.join_next().await.expect("there is one").expect("no follower panics");
        let (command, path) = self.command;
        let lines = || std::fs::read_to_string(&path).expect("is text");
        let caught_up = async {
            while (lines().lines().count() as u64) < head {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), caught_up).await.expect("the command catches up");
        drop(command);
        let commanded = lines().lines().map(|line| serde_json::from_str(line).expect("is a change")).collect();
        Followed { shared: self.shared, head, streamed, commanded }
    }
}

/// An answer: its status, and its body.
type Answer = (StatusCode, Vec<u8>);

fn read<T: DeserializeOwned>(answer: &Answer) -> T {
    serde_json::from_slice(&answer.1).unwrap_or_else(|error| panic!("{error}: {}", text(answer)))
}

fn text((status, body): &Answer) -> String {
    format!("{status}: {}", String::from_utf8_lossy(body))
}

impl Shared {
    fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks once. Nothing comes back if the connection broke, so that nobody knows what the server did.
    pub(super) async fn ask_once(&self, token: &str, method: Method, path: &str, body: Vec<u8>) -> Option<Answer> {
        let request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(token).body(body);
        let response = request.header("content-type", "application/json").send().await.ok()?;
        let status = response.status();
        Some((status, response.bytes().await.ok()?.to_vec()))
    }

    /// Asks until there is an answer; tells whether it is the answer to the first try.
    async fn ask(&self, method: Method, path: &str, body: &[u8]) -> (Answer, bool) {
        let mut first = true;
        loop {
            if let Some(answer) = self.ask_once(&self.token, method.clone(), path, body.to_vec()).await {
                return (answer, first);
            }
            first = false;
            self.asked_again.fetch_add(1, Ordering::Relaxed);
            let mut serving = self.serving.subscribe();
            // Whether there is word or not, the next try will tell.
            let _ = tokio::time::timeout(AGAIN, serving.wait_for(|serving| *serving)).await;
        }
    }

    /// Reads something that must be there.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (answer, _) = self.ask(Method::GET, path, b"").await;
        assert_eq!(answer.0, 200, "{path}: {}", text(&answer));
        read(&answer)
    }

    /// Reads content.
    pub(super) async fn content(&self, path: &str) -> Vec<u8> {
        let ((status, body), _) = self.ask(Method::GET, path, b"").await;
        assert_eq!(status, 200, "{path}");
        body
    }

    async fn log_head(&self) -> u64 {
        self.get::<model::Page<Change>>("/v1/changes?limit=1").await.as_of
    }

    async fn create(self: Arc<Self>, caller: u64) {
        for number in 0.. {
            if self.is_over() {
                return;
            }
            let new = request(caller, number);
            let body = serde_json::to_vec(&new).expect("serialises");
            let (answer, first) = self.ask(Method::POST, "/v1/executions", &body).await;
            // Without a broken connection nobody else can have made it; with one, either may be.
            assert!(answer.0 == 201 || (answer.0 == 200 && !first), "{}", text(&answer));
            let made: Execution = read(&answer);
            assert_eq!((made.id, &made.recipe, &made.lane), (new.id, &new.recipe(), &new.lane));
            self.ledger.created(new);
            self.acknowledge();
        }
    }

    async fn cancel(self: Arc<Self>) {
        while !self.is_over() {
            let Some(id) = self.ledger.any_to_cancel() else {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            let (answer, _) = self.ask(Method::POST, &format!("/v1/executions/{id}/cancel"), b"").await;
            // Asking twice is harmless: the second answer is that of the first.
            assert_eq!(answer.0, 200, "{}", text(&answer));
            assert_eq!(read::<Execution>(&answer).state, ExecutionState::Cancelled);
            self.ledger.cancelled(id);
            self.acknowledge();
        }
    }

    async fn store(self: Arc<Self>) {
        /// The sizes of contents, from nothing to several pieces; what is not empty is long enough to be unique.
        const SIZES: [usize; 5] = [0, 16, 4_000, 70_000, 1_500_000];
        for number in 0_usize.. {
            if self.is_over() {
                return;
            }
            let seed = store::random().to_le_bytes();
            let bytes: Vec<u8> = seed.iter().copied().cycle().take(SIZES[number % SIZES.len()]).collect();
            let content = client::blob::Content::Bytes(bytes.clone().into());
            let (digest, size): (Digest, u64) = content.digest().await.expect("is in memory");
            let (answer, first) = self.ask(Method::PUT, &format!("/v1/blobs/{digest}"), &bytes).await;
            // Nothing is stored often.
            assert!(answer.0 == 201 || (answer.0 == 200 && (!first || size == 0)), "{}", text(&answer));
            assert_eq!(read::<Blob>(&answer).size, size);
            self.ledger.stored(digest, bytes);
            self.acknowledge();
        }
    }

    async fn issue(self: Arc<Self>) {
        while !self.is_over() {
            let id = client::id::fresh(TokenId::new);
            let new = NewToken { id, name: "soak".to_owned(), user: None, scopes: Vec::new(), expires_at: None };
            let body = serde_json::to_vec(&new).expect("serialises");
            let (answer, first) = self.ask(Method::POST, "/v1/tokens", &body).await;
            if answer.0 == 409 && !first {
                // It was made, and its secret went down with the server: there is no second chance to learn it.
                let token: Token = self.get(&format!("/v1/tokens/{id}")).await;
                assert_eq!(token.name, "soak");
                continue;
            }
            assert_eq!(answer.0, 201, "{}", text(&answer));
            let issued: TokenIssued = read(&answer);
            self.ledger.issued(id, issued.secret);
            self.acknowledge();
        }
    }

    /// Follows the log of everybody from its beginning, coming back with the last number seen.
    async fn follow(self: Arc<Self>) -> Vec<Change> {
        let mut seen = Vec::new();
        let end = self.head.subscribe();
        loop {
            self.follow_once(&mut seen).await;
            if end.borrow().is_some_and(|head| head == seen.len() as u64) {
                return seen;
            }
            let mut serving = self.serving.subscribe();
            // Whether there is word or not, the next try will tell.
            let _ = tokio::time::timeout(AGAIN, serving.wait_for(|serving| *serving)).await;
        }
    }

    /// Follows until the connection breaks or the end is reached. Every event must be the very next one.
    async fn follow_once(&self, seen: &mut Vec<Change>) {
        let request = self.http.get(format!("{}/v1/changes?tenant=*", self.url)).bearer_auth(&self.token);
        let request = request.header("accept", "text/event-stream").header("last-event-id", seen.len());
        let Ok(mut response) = request.send().await else { return };
        assert_eq!(response.status(), 200);
        let mut text = Vec::new();
        let mut end = self.head.subscribe();
        loop {
            if end.borrow_and_update().is_some_and(|head| head == seen.len() as u64) {
                return;
            }
            let piece = tokio::select! {
                piece = response.chunk() => piece,
                _ = end.changed() => continue,
            };
            let Ok(Some(piece)) = piece else { return };
            text.extend_from_slice(&piece);
            while let Some(at) = text.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = text.drain(..at + 2).collect();
                take(std::str::from_utf8(&event).expect("is text"), seen);
            }
        }
    }
}

/// Reads an event.
fn take(event: &str, seen: &mut Vec<Change>) {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
    let id = field("id: ").map(|id| id.parse::<u64>().expect("is a number"));
    let place = seen.len() as u64;
    match field("data: ") {
        Some(data) => {
            let change: Change = serde_json::from_str(data).expect("is a change");
            assert_eq!((change.seq, id), (place + 1, Some(place + 1)), "an event is not the next one");
            seen.push(change);
        }
        // Nothing is filtered out, so the cursor never moves past what was seen.
        None => assert!(id.is_none_or(|id| id == place), "the cursor moved to {id:?} from {place}"),
    }
}

/// Returns a request that can be told from every other; some have a lane.
fn request(caller: u64, number: u64) -> NewExecution {
    NewExecution {
        id: client::id::fresh(ExecutionId::new),
        lane: number.is_multiple_of(5).then(|| format!("lane-{}", caller % 3)),
        class: model::Class::default(),
        image: None,
        command: vec!["echo".to_owned(), format!("{caller} {number}")],
        env: [("CALLER".to_owned(), caller.to_string())].into(),
        input: model::Input::Text { text: "x".repeat(usize::try_from(number % 700).expect("is small")) },
        limits: model::Limits::default(),
        sandbox: model::Sandbox::default(),
    }
}
