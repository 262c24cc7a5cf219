//! A real server in this process, the people in it, and what must hold when it has stopped.
//!
//! [`TestApp::stop`] opens the store again and fails unless the log has no gap and the last change of each execution
//! says what the execution is. An app that is dropped without it fails its test.

use crate::answer::Answer;
use crate::engine::Place;
use model::{
    Execution, ExecutionId, NewExecution, NewTenant, NewToken, NewUser, Noun, Role, Scope, Tenant, TenantId, Token,
    TokenId, TokenIssued, User, UserId,
};
use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use server::Server;
use server::config::Config;
use server::log::{Log, LogOutput};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use store::{ChangeFilter, Clock, Store, random};

/// How long to wait for what should come at once.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// A server that runs.
pub(crate) struct TestApp {
    server: Option<Server>,
    config: Config,
    pub(crate) clock: Clock,
    pub(crate) address: SocketAddr,
    pub(crate) url: String,
    /// The credential of the house's first admin.
    pub(crate) house: String,
    pub(crate) http: reqwest::Client,
}

/// Somebody with a token.
#[derive(Clone, Debug)]
pub(crate) struct Somebody {
    pub(crate) user: User,
    pub(crate) token: Token,
    pub(crate) secret: String,
}

/// Returns an HTTP client that trusts one certificate more, if one is given.
pub(crate) fn http(certificate: Option<&[u8]>) -> reqwest::Client {
    // Somebody else in this process may have installed it before us; ring is the only provider there is.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let trusted: Vec<_> = certificate.into_iter().map(|pem| reqwest::Certificate::from_pem(pem).unwrap()).collect();
    reqwest::Client::builder().no_proxy().tls_certs_only(trusted).timeout(WAIT * 2).build().expect("a client")
}

impl TestApp {
    /// Starts a server with the usual configuration of tests.
    pub(crate) async fn start(place: &Place) -> Self {
        Self::start_with(place, |_| ()).await
    }

    /// Starts a server with a configuration of one's own.
    pub(crate) async fn start_with(place: &Place, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_at(place, Clock::System, change).await
    }

    /// Starts a server whose clock is given.
    pub(crate) async fn start_at(place: &Place, clock: Clock, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = place.config();
        change(&mut config);
        // Nobody reads the lines; the levels can be looked at and changed all the same.
        let silent = LogOutput::Writer(Box::new(std::io::sink()));
        let (log, _) = Log::subscriber(&config.log, silent, clock.clone()).expect("a log");
        let server = Server::start(config.clone(), Some(log), clock.clone()).await.expect("the server starts");
        let address = server.address;
        let house = server.first_credential.clone().unwrap_or_default();
        let scheme = if server.speaks_tls() { "https://localhost" } else { "http://127.0.0.1" };
        let url = format!("{scheme}:{}", address.port());
        Self { server: Some(server), config, clock, address, url, house, http: http(None) }
    }

    /// Returns the server.
    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs until it is stopped")
    }

    /// Returns the server's store.
    pub(crate) fn store(&self) -> &Store {
        self.server().store()
    }

    /// Stops the server, and holds what it leaves behind against what must hold.
    pub(crate) async fn stop(mut self) {
        self.server.take().expect("it runs until it is stopped").stop().await;
        let opened = Store::open(&server::store_config(&self.config), self.clock.now()).await;
        let store = opened.expect("the store opens again");
        let (head, newest) = read_log(&store).await;
        assert!(head > 0, "the house itself stands in the log");
        for (id, body) in newest {
            let found = store.execution_get(id, None).await.expect("what the log tells of is there");
            let found = serde_json::to_value(&found).unwrap();
            assert_eq!(found, body, "the last change of `{id}` does not say what it is");
        }
        store.close().await;
    }

    /// Begins a request; an empty token sends none.
    pub(crate) fn request(&self, method: Method, token: &str, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        if token.is_empty() { request } else { request.bearer_auth(token) }
    }

    /// Sends a request and reads its answer whole.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let (http, request) = request.build_split();
        let request = request.expect("a request");
        let asked = format!("{} {}", request.method(), request.url());
        let response = http.execute(request).await.unwrap_or_else(|error| panic!("{asked}: {error:?}"));
        Answer::read(asked, response).await
    }

    /// Gets a path.
    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(self.request(Method::GET, token, path)).await
    }

    /// Sends a body of JSON.
    pub(crate) async fn json(&self, method: Method, token: &str, path: &str, body: &impl Serialize) -> Answer {
        self.send(self.request(method, token, path).json(body)).await
    }

    /// Posts a body of JSON.
    pub(crate) async fn post(&self, token: &str, path: &str, body: &impl Serialize) -> Answer {
        self.json(Method::POST, token, path, body).await
    }

    /// Posts nothing, to a verb.
    pub(crate) async fn order(&self, token: &str, path: &str) -> Answer {
        self.send(self.request(Method::POST, token, path)).await
    }

    /// Makes a tenant.
    pub(crate) async fn tenant(&self, name: &str) -> Tenant {
        let new = NewTenant { id: TenantId::new(self.clock.now(), random()), name: name.to_owned() };
        self.post(&self.house, "/v1/tenants", &new).await.must(201).json()
    }

    /// Makes a user of a tenant with a token that may do all that they may.
    pub(crate) async fn somebody(&self, tenant: &str, name: &str, role: Role) -> Somebody {
        let new = NewUser { id: UserId::new(self.clock.now(), random()), name: name.to_owned(), role };
        let path = format!("/v1/users?tenant={tenant}");
        let user: User = self.post(&self.house, &path, &new).await.must(201).json();
        let new = NewToken { user: Some(user.id), ..self.new_token("first") };
        let path = format!("/v1/tokens?tenant={tenant}");
        let issued: TokenIssued = self.post(&self.house, &path, &new).await.must(201).json();
        Somebody { user, token: issued.token, secret: issued.secret }
    }

    /// Makes a tenant with an admin.
    pub(crate) async fn admin(&self, tenant: &str) -> Somebody {
        self.tenant(tenant).await;
        self.somebody(tenant, "ada", Role::Admin).await
    }

    /// Makes a token of one's own that may do only this.
    pub(crate) async fn narrow(&self, secret: &str, scopes: &[Scope]) -> TokenIssued {
        let new = NewToken { scopes: scopes.to_vec(), ..self.new_token("narrow") };
        self.post(secret, "/v1/tokens", &new).await.must(201).json()
    }

    /// Returns a request for a token.
    pub(crate) fn new_token(&self, name: &str) -> NewToken {
        let id = TokenId::new(self.clock.now(), random());
        NewToken { id, name: name.to_owned(), user: None, scopes: Vec::new(), expires_at: None }
    }

    /// Returns a request for an execution.
    pub(crate) fn new_execution(&self) -> NewExecution {
        NewExecution {
            id: ExecutionId::new(self.clock.now(), random()),
            lane: None,
            class: model::Class::Human,
            image: None,
            command: vec!["true".to_owned()],
            env: BTreeMap::new(),
            input: model::Input::None,
            limits: model::Limits::default(),
            sandbox: model::Sandbox::default(),
        }
    }

    /// Makes an execution.
    pub(crate) async fn execution(&self, token: &str) -> Execution {
        self.post(token, "/v1/executions", &self.new_execution()).await.must(201).json()
    }

    /// Returns the newest number of the log.
    pub(crate) async fn head(&self) -> u64 {
        self.store().log_bounds().await.expect("a log").head
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        assert!(self.server.is_none() || std::thread::panicking(), "the app was not stopped: call `stop`");
    }
}

/// Reads the whole log, which must have no gap; returns its head and each execution's last body.
async fn read_log(store: &Store) -> (u64, BTreeMap<ExecutionId, serde_json::Value>) {
    let bounds = store.log_bounds().await.expect("a log");
    let (mut cursor, mut newest) = (bounds.floor, BTreeMap::new());
    while cursor < bounds.head {
        let page = store.log_page(cursor, &ChangeFilter::default(), 500).await.expect("a page");
        assert!(!page.items.is_empty(), "the log ends at {cursor} and should end at {}", bounds.head);
        for change in &page.items {
            assert_eq!(change.seq, cursor + 1, "the log has a gap");
            cursor = change.seq;
            let body: serde_json::Value = serde_json::from_str(change.body.get()).expect("a body is JSON");
            if change.noun == Noun::Execution {
                assert_eq!(body["state"], change.state.as_str(), "change {cursor}");
                newest.insert(change.id.parse().expect("an id"), body);
            }
        }
    }
    (bounds.head, newest)
}
