//! A registry: the reading half of the distribution API, believing nothing that it is told.
//!
//! Written over the HTTP client that is in the tree already instead of `oci-client`: that one neither resumes a layer
//! that broke off nor notices one that stalls, holds whole manifests of any length, and follows redirects on its own,
//! and bounds are what this file is made of. Every size and count ends somewhere; every digest is computed from the
//! bytes that came. A credential goes to the registry's host and to the token service that the registry names, over TLS
//! unless plain HTTP was asked for or the host is this machine; never to where a redirect leads. Before every request
//! `reach.rs` looks at the address it would go to.

mod challenge;
mod fetch;

use super::reach::{Reach, Registries};
use super::{Progress, Step};
use challenge::Challenge;
use model::Reference;
use model::image::Credential;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

pub(super) use fetch::Wanted;

/// Bytes of one manifest, index or configuration.
pub(super) const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// Bytes of one layer as it is packed.
pub(super) const MAX_LAYER_BYTES: u64 = 32 << 30;
/// Bytes of a refusal or of a token service's answer.
const MAX_ANSWER_BYTES: usize = 256 << 10;
/// Redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// The longest pause that a registry may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// How long a connection may take to come about.
const MAX_CONNECT: Duration = Duration::from_secs(10);
/// What manifests there are.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// How much is put up with.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long no byte may come.
    pub stall: Duration,
    /// How often something is tried without getting any further.
    pub tries: u32,
    /// The first pause between two tries; each next one is twice as long.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { stall: Duration::from_secs(30), tries: 5, pause: Duration::from_millis(500) }
    }
}

/// Why a registry gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It refused.
    #[error("registry `{host}` says {status}: {what}")]
    Status {
        /// Which registry.
        host: String,
        /// The number of its answer.
        status: u16,
        /// What was asked, and its own words.
        what: String,
    },
    /// It cannot be reached, or broke off too often.
    #[error("registry `{host}` cannot be reached: {cause}")]
    Unreachable {
        /// Which registry.
        host: String,
        /// Why.
        cause: String,
    },
    /// Its address, or that of somebody it leads to, is not public, and the node's operator has not named it.
    #[error(
        "registry `{host}` cannot be used: `{whom}` has no public address, and this node reaches no other \
         (hint: start it with `--allow-registry {whom}`)"
    )]
    Closed {
        /// Which registry.
        host: String,
        /// Who would have been reached.
        whom: String,
    },
    /// It sends nothing more.
    #[error("registry `{host}` stalled: no byte of {what} for {seconds} seconds")]
    Stalled {
        /// Which registry.
        host: String,
        /// What was asked for.
        what: String,
        /// For how long nothing came.
        seconds: u64,
    },
    /// It sent something else than what was asked for.
    #[error("registry `{host}` lied about a digest: asked {asked}, got {found}")]
    Lied {
        /// Which registry.
        host: String,
        /// What was asked for.
        asked: String,
        /// What came.
        found: String,
    },
    /// It answered with something that makes no sense, or is out of bounds.
    #[error("registry `{host}` {what}")]
    Odd {
        /// Which registry.
        host: String,
        /// What is wrong with it.
        what: String,
    },
    /// What it sent cannot be written.
    #[error("what a registry sent cannot be written: {0}")]
    Write(#[source] std::io::Error),
}

impl RegistryError {
    /// Tells whether another try may go better.
    const fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Stalled { .. })
    }
}

/// One repository of a registry.
pub(super) struct Registry<'a> {
    http: Client,
    base: Url,
    host: String,
    repository: String,
    credential: Option<&'a Credential>,
    is_plain: bool,
    patience: Patience,
    progress: &'a Progress<'a>,
    reach: Reach,
    /// What to show, once the registry has said what it wants to see.
    shown: Mutex<Option<HeaderValue>>,
}

/// A refusal as the API words it.
#[derive(Deserialize)]
struct Refusal {
    errors: Vec<RefusalEntry>,
}

#[derive(Deserialize)]
struct RefusalEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl<'a> Registry<'a> {
    pub(super) fn new(
        reference: &Reference,
        (credential, plain_http): (Option<&'a Credential>, bool),
        registries: &Registries,
        progress: &'a Progress<'a>,
    ) -> Result<Self, RegistryError> {
        let host = reference.host().to_owned();
        let address = if host == "docker.io" { "registry-1.docker.io" } else { &host };
        let is_loopback = is_loopback(address);
        let is_plain = (plain_http || is_loopback) && !registries.is_tls(address);
        let odd = |what: String| RegistryError::Odd { host: host.clone(), what };
        let scheme = if is_plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{address}/v2/"))
            .map_err(|error| odd(format!("has no address: {error}")))?;
        // Somebody else in this process may have installed it before us; ring is the only provider there is.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let reach = Reach::new(registries);
        let mut builder = Client::builder()
            .dns_resolver(reach.resolver())
            .tls_certs_merge(registries.authorities.certificates())
            .user_agent(concat!("quarry/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(MAX_CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false);
        if is_loopback {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| odd(format!("cannot be spoken to: {}", innermost(&error))))?;
        let repository = reference.repository().to_owned();
        let patience = registries.patience;
        Ok(Self {
            http,
            base,
            host,
            repository,
            credential,
            is_plain,
            patience,
            progress,
            reach,
            shown: Mutex::default(),
        })
    }

    pub(super) fn odd(&self, what: impl Into<String>) -> RegistryError {
        RegistryError::Odd { host: self.host.clone(), what: what.into() }
    }

    /// Returns a manifest or index and its digest, which is the one asked for when one was.
    pub(super) async fn manifest(&self, version: &str) -> Result<(Vec<u8>, String), RegistryError> {
        let path = format!("{}/manifests/{version}", self.repository);
        let what = format!("manifest `{version}` of `{}`", self.repository);
        let (text, headers) = self.small(&path, Some(MANIFESTS), &what).await?;
        let found = sha256(&text);
        let told = headers.get("docker-content-digest").and_then(|told| told.to_str().ok());
        let asked = if version.starts_with("sha256:") { Some(version) } else { told };
        self.compare(asked.filter(|asked| asked.starts_with("sha256:")), found.clone())?;
        Ok((text, found))
    }

    /// Returns a small blob.
    pub(super) async fn blob(&self, digest: &str) -> Result<Vec<u8>, RegistryError> {
        let path = format!("{}/blobs/{digest}", self.repository);
        let (text, _) = self.small(&path, None, &format!("blob `{digest}`")).await?;
        self.compare(Some(digest), sha256(&text))?;
        Ok(text)
    }

    fn compare(&self, asked: Option<&str>, found: String) -> Result<(), RegistryError> {
        match asked {
            Some(asked) if asked != found => {
                Err(RegistryError::Lied { host: self.host.clone(), asked: asked.to_owned(), found })
            }
            _ => Ok(()),
        }
    }

    /// Fetches something that fits into memory, from its beginning again when it breaks off.
    async fn small(&self, path: &str, accept: Option<&str>, what: &str) -> Result<(Vec<u8>, HeaderMap), RegistryError> {
        let mut tried = 0;
        loop {
            let response = self.get(path, accept, 0, what).await?;
            let headers = response.headers().clone();
            match self.body(response, MAX_MANIFEST_BYTES, what).await {
                Ok(text) => return Ok((text, headers)),
                Err(error) if error.may_pass() => self.again(&mut tried, error, None).await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn body(&self, mut response: Response, bytes_max: usize, what: &str) -> Result<Vec<u8>, RegistryError> {
        let mut text = Vec::new();
        loop {
            match timeout(self.patience.stall, response.chunk()).await {
                Err(_) => return Err(self.stalled(what)),
                Ok(Err(error)) => return Err(self.unreachable(&error)),
                Ok(Ok(None)) => return Ok(text),
                Ok(Ok(Some(piece))) if text.len() + piece.len() <= bytes_max => text.extend_from_slice(&piece),
                Ok(Ok(Some(_))) => return Err(self.odd(format!("sends more than {bytes_max} bytes for {what}"))),
            }
        }
    }

    /// Asks for something from its byte `first` on, and returns the beginning of a good answer.
    async fn get(&self, path: &str, accept: Option<&str>, first: u64, what: &str) -> Result<Response, RegistryError> {
        let url = self.base.join(path).map_err(|error| self.odd(format!("has no address for {what}: {error}")))?;
        let (mut tried, mut has_asked) = (0, false);
        loop {
            let (error, wait) = match self.once(url.clone(), accept, first, what).await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !has_asked => {
                    has_asked = true;
                    self.authenticate(&response).await?;
                    continue;
                }
                Ok(response) if matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) => {
                    return Ok(response);
                }
                Ok(response) => {
                    let status = response.status();
                    let wait = retry_after(response.headers());
                    let error = self.refusal(response, what).await;
                    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
                        return Err(error);
                    }
                    (error, wait)
                }
                Err(error) if error.may_pass() => (error, None),
                Err(error) => return Err(error),
            };
            self.again(&mut tried, error, wait).await?;
        }
    }

    /// Sends one request and follows redirects, showing the credential only to the registry itself.
    async fn once(&self, url: Url, accept: Option<&str>, first: u64, what: &str) -> Result<Response, RegistryError> {
        let mut url = url;
        for _ in 0..=MAX_REDIRECTS {
            self.reach.admit(&url, &self.host).await?;
            let mut request = self.http.get(url.clone());
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if first > 0 {
                request = request.header(RANGE, format!("bytes={first}-"));
            }
            if url.origin() == self.base.origin()
                && let Some(shown) = self.shown.lock().await.clone()
            {
                request = request.header(AUTHORIZATION, shown);
            }
            let response = match timeout(self.patience.stall, request.send()).await {
                Err(_) => return Err(self.stalled(what)),
                Ok(Err(error)) => return Err(self.unreachable(&error)),
                Ok(Ok(response)) => response,
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next.ok_or_else(|| self.odd(format!("leads nowhere with {what}")))?;
            self.check_scheme(&url)?;
        }
        Err(self.odd(format!("leads on and on with {what}")))
    }

    fn check_scheme(&self, url: &Url) -> Result<(), RegistryError> {
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.is_plain => Ok(()),
            scheme => Err(self.odd(format!("leads to an address by `{scheme}`, which is not safe"))),
        }
    }

    /// Does what the registry's challenge asks for.
    async fn authenticate(&self, response: &Response) -> Result<(), RegistryError> {
        let offered = response.headers().get_all(WWW_AUTHENTICATE);
        let offered: Vec<_> = offered.iter().filter_map(|one| one.to_str().ok()).collect();
        let shown = match Challenge::choose(&offered) {
            Some(Challenge::Basic) => self.credential.map(basic),
            Some(Challenge::Bearer { realm, service, scope }) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                Some(self.token(&realm, service.as_deref(), &scope).await?)
            }
            None => return Err(self.odd("wants to be shown something that nobody here knows")),
        };
        *self.shown.lock().await = shown;
        Ok(())
    }

    /// Asks the token service that the registry names for a token.
    async fn token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<HeaderValue, RegistryError> {
        let url = Url::parse(realm).map_err(|_| self.odd("names a token service without an address"))?;
        self.check_scheme(&url)?;
        let mut query = vec![("scope", scope)];
        query.extend(service.map(|service| ("service", service)));
        let what = "a token";
        let mut tried = 0;
        let response = loop {
            self.reach.admit(&url, &self.host).await?;
            let mut request = self.http.get(url.clone()).query(&query);
            if let Some(credential) = self.credential {
                request = request.header(AUTHORIZATION, basic(credential));
            }
            let error = match timeout(self.patience.stall, request.send()).await {
                Err(_) => self.stalled(what),
                Ok(Err(error)) => self.unreachable(&error),
                Ok(Ok(response)) if response.status() == StatusCode::OK => break response,
                Ok(Ok(response)) if response.status().is_server_error() => self.refusal(response, what).await,
                Ok(Ok(response)) => return Err(self.refusal(response, what).await),
            };
            self.again(&mut tried, error, None).await?;
        };
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let text = self.body(response, MAX_ANSWER_BYTES, what).await?;
        let answer: Option<Answer> = serde_json::from_slice(&text).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        let value = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        let mut value = value.ok_or_else(|| self.odd("has a token service that gives no token"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Words a refusal, with what the registry itself says of it.
    async fn refusal(&self, response: Response, what: &str) -> RegistryError {
        let status = response.status();
        let text = self.body(response, MAX_ANSWER_BYTES, what).await.unwrap_or_default();
        let own = serde_json::from_slice::<Refusal>(&text).ok().and_then(|refusal| refusal.errors.into_iter().next());
        let own = own.map(|entry| if entry.message.is_empty() { entry.code } else { entry.message });
        let own: String = own.unwrap_or_default().chars().filter(|one| !one.is_control()).take(200).collect();
        let why = match (status.as_u16(), self.credential) {
            (401, None) => " needs a credential, and the tenant has none for this registry".to_owned(),
            (401 | 403, Some(credential)) => format!(" is not for `{}`", credential.user),
            _ if own.is_empty() => " is not to be had".to_owned(),
            _ => format!(" is not to be had: {own}"),
        };
        RegistryError::Status { host: self.host.clone(), status: status.as_u16(), what: format!("{what}{why}") }
    }

    fn stalled(&self, what: &str) -> RegistryError {
        let seconds = self.patience.stall.as_secs();
        RegistryError::Stalled { host: self.host.clone(), what: what.to_owned(), seconds }
    }

    fn unreachable(&self, error: &reqwest::Error) -> RegistryError {
        RegistryError::Unreachable { host: self.host.clone(), cause: innermost(error) }
    }

    /// Counts a try that came to nothing; says so, and waits until the next, or gives up with this error.
    async fn again(&self, tried: &mut u32, error: RegistryError, wait: Option<Duration>) -> Result<(), RegistryError> {
        *tried += 1;
        let tries = self.patience.tries;
        if *tried >= tries {
            return Err(error);
        }
        (self.progress)(Step::Again { why: error.to_string(), tried: *tried, tries });
        sleep(wait.unwrap_or_else(|| self.patience.pause * 2_u32.saturating_pow(*tried - 1))).await;
        Ok(())
    }
}

/// Returns the SHA-256 of some bytes as registries write it.
pub(super) fn sha256(bytes: &[u8]) -> String {
    named(&Sha256::digest(bytes))
}

/// Writes a finished SHA-256 as registries do.
pub(super) fn named(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text takes what is written to it");
        text
    })
}

fn basic(credential: &Credential) -> HeaderValue {
    use base64::Engine;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", credential.user, credential.secret));
    let mut value = HeaderValue::try_from(format!("Basic {pair}")).expect("base 64 is plain");
    value.set_sensitive(true);
    value
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

fn is_loopback(address: &str) -> bool {
    let name = if let Some(rest) = address.strip_prefix('[') {
        rest.split(']').next().unwrap_or_default()
    } else {
        address.split(':').next().unwrap_or_default()
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Returns the innermost cause of an error, which is the one that tells something.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
