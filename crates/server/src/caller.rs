//! Who is asking: found once per request, before a byte of its body is read, and handed to the handler.
//!
//! A credential is one of our own tokens, or a JWT of an issuer that the configuration trusts. Whoever fails to prove
//! themselves pays from the bucket of their address; whoever succeeds, from their own. A token that was good a moment
//! ago is not looked up again: the server that revokes one forgets it at once, others within five seconds.

use crate::app::App;
use crate::config::IssuerConfig;
use crate::credential::{Credential, PREFIX};
use crate::error::{Answer, Failure};
use crate::issuer::Identity;
use crate::rate::CallerKind;
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};
use model::limits::MAX_CREDENTIAL_CHARS;
use model::tenant::HOUSE;
use model::user::WhoAmI;
use model::{ApiError, ErrorKind, NewTenant, Role, Scope, Tenant, TenantId, TokenId, UserId, UserState};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use store::{Bearer, StoreError, TenantKey, UserKey};
use tokio::sync::watch;

/// How long a token that was good is not looked up again.
const MEMORY: Duration = Duration::from_secs(5);
/// Tokens remembered.
const MAX_KNOWN: usize = 10_000;
/// How exactly the last use of a token is kept.
const USE_STEP: SignedDuration = SignedDuration::from_mins(1);

/// Who is asking, and what they may do.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) tenant: Tenant,
    pub(crate) user: String,
    pub(crate) user_id: Option<UserId>,
    pub(crate) role: Role,
    scopes: Vec<Scope>,
    token: Option<TokenId>,
}

impl Caller {
    /// Refuses unless the caller has the scope.
    pub(crate) fn must(&self, scope: Scope) -> Answer<()> {
        if self.may(scope) {
            return Ok(());
        }
        let error = ApiError::new(ErrorKind::Forbidden, "not_allowed", format!("`{scope}` is needed for this"));
        let hint = if !self.role.has(scope) {
            format!("you are {} in tenant `{}`; ask an admin", self.role, self.tenant.name)
        } else if scope.is_of_the_house() && !self.tenant.is_house() {
            "only the house's own tenant can do this".to_owned()
        } else {
            "your role allows it, this token does not; use another one".to_owned()
        };
        Err(error.with_hint(hint).into())
    }

    /// Tells whether the caller has the scope.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.role.has(scope)
            && (self.scopes.is_empty() || self.scopes.contains(&scope))
            && (!scope.is_of_the_house() || self.tenant.is_house())
    }

    /// Tells whether the caller's token was made for some scopes only.
    pub(crate) fn is_narrowed(&self) -> bool {
        !self.scopes.is_empty()
    }

    /// Tells whether the caller's token was made for a node and nothing else.
    pub(crate) fn is_only_a_node(&self) -> bool {
        self.scopes == [Scope::NodeRun]
    }

    /// Tells whether the caller keeps all tenants.
    pub(crate) fn keeps_the_house(&self) -> bool {
        self.role == Role::Admin && self.tenant.is_house()
    }

    /// Returns whose things an id may name: the caller's tenant's, or anybody's for who keeps the house.
    pub(crate) fn reach(&self) -> Option<TenantId> {
        (!self.keeps_the_house()).then_some(self.tenant.id)
    }

    /// Returns as whom the caller owns nodes.
    pub(crate) fn owner(&self) -> (TenantId, &str) {
        (self.tenant.id, &self.user)
    }

    /// Returns the tenant that is asked for: the caller's own, unless they keep the house and name another.
    pub(crate) async fn tenant(&self, app: &App, asked: Option<&str>) -> Answer<TenantId> {
        match asked {
            None => Ok(self.tenant.id),
            Some(name) if name.eq_ignore_ascii_case(&self.tenant.name) => Ok(self.tenant.id),
            // No database is asked for what can be no tenant's name: PostgreSQL fails on some of it.
            Some(name) if self.keeps_the_house() && can_be_tenant(name) => {
                Ok(app.store.tenant_get(TenantKey::Name(name.to_owned())).await?.id)
            }
            Some(name) => Err(ApiError::not_found("tenant", name.escape_debug()).into()),
        }
    }

    /// Returns the scopes that the caller really has.
    pub(crate) fn scopes(&self) -> Vec<Scope> {
        Scope::ALL.into_iter().filter(|scope| self.may(*scope)).collect()
    }

    /// Returns what the caller may know of themselves.
    pub(crate) fn describe(&self) -> WhoAmI {
        WhoAmI {
            user: self.user.clone(),
            tenant: self.tenant.clone(),
            role: self.role,
            scopes: self.scopes(),
            token: self.token,
        }
    }
}

/// Tells whether a tenant may be called so.
fn can_be_tenant(name: &str) -> bool {
    // The model keeps the rule with the request for a tenant; the id plays no part in it.
    NewTenant { id: TenantId::new(Timestamp::UNIX_EPOCH, 0), name: name.to_owned() }.check().is_ok()
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        let missing = || ApiError::internal("a route was reached without going through `caller::identify`");
        parts.extensions.get::<Self>().cloned().ok_or_else(|| missing().into())
    }
}

/// Finds out who is asking, or answers in the handler's place.
pub(crate) async fn identify(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let caller = match find(&app, request.headers()).await {
        Ok(caller) => caller,
        Err(failure) => {
            let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| neighbourhood(info.0.ip()));
            // Only who fails to prove themselves pays by address: a gateway's users must not pay for each other.
            let paid = take(&app, &address.unwrap_or_default(), CallerKind::Anonymous);
            return paid.err().unwrap_or(failure).into_response();
        }
    };
    if is_of_a_node(&request) && caller.may(Scope::NodeRun) {
        // How often a node speaks follows from what it is given, and one token may stand behind thousands of nodes.
        tracing::Span::current().record("tenant", &caller.tenant.name).record("user", &caller.user);
        request.extensions_mut().insert(caller);
        return next.run(request).await;
    }
    let key = caller.token.map_or_else(|| format!("{}/{}", caller.tenant.id, caller.user), |token| token.to_string());
    // A node speaks as often as its executions make it; holding it back would hold back everybody it works for.
    if !caller.is_only_a_node()
        && let Err(failure) = take(&app, &key, CallerKind::Known)
    {
        return failure.into_response();
    }
    tracing::Span::current().record("tenant", &caller.tenant.name).record("user", &caller.user);
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Tells whether a request is one that a node makes in the course of its work.
fn is_of_a_node(request: &Request) -> bool {
    const OF_NODES: [&str; 6] = [
        "/v1/nodes/{id}/sync",
        "/v1/executions/{id}/blobs/{digest}",
        "/v1/executions/{id}/parcels/{digest}",
        "/v1/executions/{id}/frames",
        "/v1/executions/{id}/frames/missing",
        "/v1/executions/{id}/modules",
    ];
    /// What it reads, and others send.
    const INPUT: &str = "/v1/executions/{id}/input";
    request.extensions().get::<MatchedPath>().is_some_and(|path| {
        OF_NODES.contains(&path.as_str()) || (path.as_str() == INPUT && request.method() == Method::GET)
    })
}

/// Returns what an address is counted as: one host may have all of an IPv6 network of 64 bits.
fn neighbourhood(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// Finds out who sent these headers.
pub(crate) async fn find(app: &App, headers: &HeaderMap) -> Answer<Caller> {
    let now = app.clock.now();
    let bearer = bearer(headers)?;
    if let Some(text) = bearer.filter(|text| text.starts_with(PREFIX)) {
        let credential = text.parse::<Credential>().map_err(|_| refused("is not one of ours"))?;
        let bearer = match app.known.find(&credential, now) {
            Some(bearer) => bearer,
            None => look_up(app, &credential, now).await?,
        };
        note_use(app, &bearer, now).await;
        return Ok(Caller {
            tenant: bearer.tenant,
            user: bearer.user.name,
            user_id: Some(bearer.user.id),
            role: bearer.user.role,
            scopes: bearer.row.token.scopes,
            token: Some(bearer.row.token.id),
        });
    }
    match app.issuers.identify(headers, now) {
        Some(identity) => vouched(app, identity?).await,
        None if bearer.is_some() => Err(refused("is not one of ours").into()),
        None => {
            let error = ApiError::new(ErrorKind::Unauthorised, "token_missing", "no token came with this request");
            let hint = "send `Authorization: Bearer …`; the command line takes `QUARRY_TOKEN` or `quarry login`";
            Err(error.with_hint(hint).into())
        }
    }
}

/// Returns the caller whom a foreign issuer vouches for.
async fn vouched(app: &App, identity: Identity) -> Answer<Caller> {
    let tenant = match app.store.tenant_get(TenantKey::Name(identity.tenant.clone())).await {
        Err(StoreError::NotFound { .. }) => {
            return Err(refused("names a tenant that does not exist").with_hint("ask an admin of the house").into());
        }
        found => found?,
    };
    // Whoever keeps the house is named by its operator, never by a claim or a header.
    let named = |issuer: &IssuerConfig| issuer.name == identity.issuer && issuer.tenant.as_deref() == Some(HOUSE);
    if tenant.is_house() && !app.config.issuers.iter().any(named) {
        let error = refused(&format!("of issuer `{}` cannot speak for the house's own tenant", identity.issuer));
        return Err(error.with_hint("the configuration must say `tenant = \"house\"` for this issuer").into());
    }
    let user = match app.store.user_get(UserKey::Name(identity.user.clone()), tenant.id).await {
        Err(StoreError::NotFound { .. }) => None,
        found => Some(found?),
    };
    if user.as_ref().is_some_and(|user| user.state == UserState::Disabled) {
        return Err(refused("belongs to a user who is disabled").with_hint("ask an admin").into());
    }
    let (user_id, scopes, token) = (user.map(|user| user.id), Vec::new(), None);
    Ok(Caller { tenant, user: identity.user, user_id, role: identity.role, scopes, token })
}

/// Returns what stands after `Bearer`, if there is such a header.
fn bearer(headers: &HeaderMap) -> Answer<Option<&str>> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| refused("is not text"))?;
    if text.len() > MAX_CREDENTIAL_CHARS {
        return Err(refused("is too long").into());
    }
    let Some((scheme, rest)) = text.split_once(' ') else { return Err(refused("has no scheme").into()) };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(refused("is not of the scheme `Bearer`").into());
    }
    Ok(Some(rest.trim()))
}

fn refused(why: &str) -> ApiError {
    ApiError::new(ErrorKind::Unauthorised, "token_refused", format!("the token {why}"))
}

fn take(app: &App, caller: &str, kind: CallerKind) -> Answer<()> {
    app.rates.take(caller, kind, Instant::now()).map_err(|wait| {
        let error = ApiError::new(ErrorKind::TooMany, "too_many_requests", "too many requests from one caller");
        let seconds = wait.as_secs() + 1;
        Failure::from(error.with_hint(format!("wait {seconds} s"))).after_seconds(seconds)
    })
}

async fn look_up(app: &App, credential: &Credential, now: Timestamp) -> Answer<Bearer> {
    let losses = app.known.losses();
    let bearer = app.store.token_bearer(credential.id).await?;
    // One answer for a wrong secret and a token that never was: nobody learns which ids exist.
    let bearer =
        bearer.filter(|bearer| credential.fits(&bearer.row.hash)).ok_or_else(|| refused("is not one of ours"))?;
    let token = &bearer.row.token;
    if let Some(at) = token.revoked_at {
        return Err(refused(&format!("`{}` was revoked at {at}", token.id)).into());
    }
    if let Some(at) = token.expires_at.filter(|at| *at <= now) {
        return Err(refused(&format!("`{}` expired at {at}", token.id)).with_hint("make a new one").into());
    }
    if bearer.user.state == UserState::Disabled {
        return Err(refused("belongs to a user who is disabled").with_hint("ask an admin").into());
    }
    // What somebody lost meanwhile may be the very thing that was read before.
    if !losses.has_changed().unwrap_or(true) {
        app.known.remember(&bearer, now);
    }
    Ok(bearer)
}

/// Notes the use of a token, at most once a minute.
async fn note_use(app: &App, bearer: &Bearer, now: Timestamp) {
    let token = &bearer.row.token;
    if token.used_at.is_some_and(|at| now.duration_since(at) < USE_STEP) {
        return;
    }
    app.known.used(token.id, now);
    if let Err(error) = app.store.token_use(token.id, now).await {
        tracing::warn!(error = error.chain(), token = %token.id, "a token's use could not be noted");
    }
}

/// The tokens that were good a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Known {
    tokens: Mutex<HashMap<TokenId, (Bearer, Timestamp)>>,
    /// The node in this very process; its token is kept nowhere else and ends with the process.
    inside: OnceLock<Bearer>,
    /// Rung when somebody may have lost what they were allowed.
    losses: watch::Sender<()>,
}

impl Known {
    /// Knows the bearer of a token for as long as this process lives; only the first counts.
    pub(crate) fn admit(&self, bearer: Bearer) {
        let _ = self.inside.set(bearer);
    }

    fn find(&self, credential: &Credential, now: Timestamp) -> Option<Bearer> {
        if let Some(inside) = self.inside.get().filter(|inside| inside.row.token.id == credential.id) {
            return credential.fits(&inside.row.hash).then(|| inside.clone());
        }
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let (bearer, at) = tokens.get(&credential.id)?;
        let fresh = now.duration_since(*at).unsigned_abs() < MEMORY;
        let lives = bearer.row.token.expires_at.is_none_or(|end| end > now);
        (fresh && lives && credential.fits(&bearer.row.hash)).then(|| bearer.clone())
    }

    fn remember(&self, bearer: &Bearer, now: Timestamp) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= MAX_KNOWN {
            tokens.retain(|_, (_, at)| now.duration_since(*at).unsigned_abs() < MEMORY);
        }
        if tokens.len() < MAX_KNOWN {
            tokens.insert(bearer.row.token.id, (bearer.clone(), now));
        }
    }

    fn used(&self, id: TokenId, now: Timestamp) {
        if let Some((bearer, _)) = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&id) {
            bearer.row.token.used_at = Some(now);
        }
    }

    /// Returns a bell that rings when somebody may have lost what they were allowed, by an order to this server.
    pub(crate) fn losses(&self) -> watch::Receiver<()> {
        self.losses.subscribe()
    }

    /// Forgets a token that was revoked.
    pub(crate) fn forget(&self, id: TokenId) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.losses.send_replace(());
    }

    /// Forgets all tokens of a user whose role or state has changed.
    pub(crate) fn forget_user(&self, id: UserId) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, (bearer, _)| bearer.user.id != id);
        self.losses.send_replace(());
    }
}
