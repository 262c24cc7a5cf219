//! Users whom a foreign issuer vouches for, from the header of a request to what they may do here.

use crate::answer::Answer;
use crate::app::TestApp;
use crate::engine::{Place, on_both_engines, on_sqlite};
use jiff::SignedDuration;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use model::user::WhoAmI;
use model::{Execution, NewToken, Role, UserChange, UserState};
use reqwest::Method;
use serde_json::{Value, json};
use server::config::{Config, IssuerConfig, JwtAlgorithm, Secret};
use std::collections::BTreeMap;
use store::Clock;

on_both_engines!(whoever_an_issuer_vouches_for_comes_in);
on_sqlite!(
    what_is_no_proof_is_refused,
    a_disabled_user_stays_out,
    nobody_keeps_the_house_by_a_claim,
    a_foreign_token_stops_with_its_time,
);

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Returns an issuer that is trusted.
pub(crate) fn trusted(name: &str, algorithm: JwtAlgorithm, set: impl FnOnce(&mut IssuerConfig)) -> IssuerConfig {
    let mut issuer = IssuerConfig { name: name.to_owned(), algorithm, ..IssuerConfig::default() };
    issuer.default_role = Some(Role::User);
    set(&mut issuer);
    issuer
}

/// Signs claims that hold for an hour.
pub(crate) fn hs256(app: &TestApp, key: &str, claims: &Value) -> String {
    let mut claims = claims.clone();
    if claims["exp"].is_null() {
        claims["exp"] = (app.clock.now().as_second() + 3600).into();
    }
    let key = EncodingKey::from_secret(key.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("signs")
}

/// Trusts a gateway that names the tenant in its header, as Abaco's does.
fn gateway(config: &mut Config) {
    config.issuers.push(trusted("gateway", JwtAlgorithm::Hs256, |issuer| {
        issuer.key = Some(Secret::new(KEY));
        issuer.header = "X-JWT-Assertion-{tenant}".to_owned();
        issuer.user_claim = "http://wso2.org/claims/enduser".to_owned();
        issuer.roles_claim = Some("http://wso2.org/claims/role".to_owned());
        issuer.role_map = BTreeMap::from([
            ("Internal/abaco-admin".to_owned(), Role::Admin),
            ("Internal/abaco-user".to_owned(), Role::User),
            ("Internal/everyone".to_owned(), Role::Viewer),
        ]);
        issuer.default_role = None;
    }));
}

fn claims(user: &str, role: &str) -> Value {
    json!({ "http://wso2.org/claims/enduser": user, "http://wso2.org/claims/role": role })
}

async fn ask(app: &TestApp, tenant: &str, jwt: &str, method: Method, path: &str) -> Answer {
    let header = format!("X-JWT-Assertion-{tenant}");
    app.send(app.request(method, "", path).header(header, jwt)).await
}

async fn whoever_an_issuer_vouches_for_comes_in(place: &Place) {
    let app = TestApp::start_with(place, gateway).await;
    let (one, other) = (app.tenant("One").await, app.admin("other").await);
    let check = async |roles: &str, role: Role| {
        let jwt = hs256(&app, KEY, &claims("jo", roles));
        let me: WhoAmI = ask(&app, "one", &jwt, Method::GET, "/v1/whoami").await.must(200).json();
        assert_eq!((me.user.as_str(), &me.tenant, me.role, me.token), ("jo", &one, role, None), "{roles}");
        assert!(me.scopes.iter().all(|scope| role.has(*scope) && !scope.is_of_the_house()), "{me:?}");
    };
    check("Internal/abaco-admin,Internal/everyone", Role::Admin).await;
    check("Internal/everyone,Internal/abaco-user", Role::User).await;
    check("Internal/everyone", Role::Viewer).await;
    // What they do stands in the log under their name, and is their tenant's.
    let jwt = hs256(&app, KEY, &claims("jo", "Internal/abaco-user"));
    let request = app.request(Method::POST, "", "/v1/executions").header("x-jwt-assertion-ONE", &jwt);
    let made: Execution = app.send(request.json(&app.new_execution())).await.must(201).json();
    assert_eq!((made.by.as_str(), made.tenant), ("jo", one.id));
    let path = format!("/v1/executions/{}", made.id);
    ask(&app, "other", &jwt, Method::GET, &path).await.error(404, "execution_not_found");
    ask(&app, "one", &jwt, Method::GET, "/v1/executions?tenant=other").await.error(404, "tenant_not_found");
    app.get(&other.secret, &path).await.error(404, "execution_not_found");
    // Who has no account here has no tokens either; an admin makes them for those who have.
    let admin = hs256(&app, KEY, &claims("jo", "Internal/abaco-admin"));
    let own = app.request(Method::POST, "", "/v1/tokens").header("x-jwt-assertion-one", &admin);
    app.send(own.json(&app.new_token("mine"))).await.error(400, "user_missing");
    let kim = app.somebody("One", "kim", Role::User).await;
    let theirs = app.request(Method::POST, "", "/v1/tokens").header("x-jwt-assertion-one", &admin);
    let new = NewToken { user: Some(kim.user.id), ..app.new_token("kims") };
    app.send(theirs.json(&new)).await.must(201);
    // Whom we know by the same name is the same person.
    let jwt = hs256(&app, KEY, &claims("kim", "Internal/abaco-user"));
    let path = format!("/v1/tokens/{}", kim.token.id);
    ask(&app, "one", &jwt, Method::GET, &path).await.must(200);
    app.stop().await;
}

async fn what_is_no_proof_is_refused(place: &Place) {
    let app = TestApp::start_with(place, gateway).await;
    app.tenant("one").await;
    let good = claims("jo", "Internal/abaco-user");
    let jwt = hs256(&app, KEY, &good);
    let check = async |tenant: &str, jwt: &str, status: u16, code: &str| {
        ask(&app, tenant, jwt, Method::GET, "/v1/whoami").await.error(status, code);
    };
    check("one", &hs256(&app, "another key, as long as the right", &good), 401, "jwt_invalid").await;
    check("one", &jwt[..jwt.len() - 2], 401, "jwt_invalid").await;
    check("one", "", 401, "jwt_invalid").await;
    check("one", "garbage", 401, "jwt_invalid").await;
    check("one", &"x".repeat(20_000), 401, "jwt_invalid").await;
    check("nowhere", &jwt, 401, "token_refused").await;
    check("one", &hs256(&app, KEY, &json!({ "sub": "jo" })), 401, "jwt_invalid").await;
    check("one", &hs256(&app, KEY, &claims("two words", "Internal/abaco-user")), 401, "jwt_invalid").await;
    check("one", &hs256(&app, KEY, &claims("jo", "Internal/unknown")), 403, "role_missing").await;
    let none = jsonwebtoken::encode(&Header::new(Algorithm::HS384), &good, &EncodingKey::from_secret(KEY.as_bytes()));
    check("one", &none.unwrap(), 401, "jwt_invalid").await;
    // Two at once are one too many, and a token of our own is not mended by one.
    let request = app.request(Method::GET, "", "/v1/whoami").header("x-jwt-assertion-one", &jwt);
    app.send(request.header("x-jwt-assertion-two", &jwt)).await.error(401, "jwt_ambiguous");
    let request = app.request(Method::GET, "qry_garbage", "/v1/whoami").header("x-jwt-assertion-one", &jwt);
    app.send(request).await.error(401, "token_refused");
    // In a header that is nobody's it is as good as nothing.
    app.get(&jwt, "/v1/whoami").await.error(401, "token_refused");
    app.stop().await;
}

async fn a_disabled_user_stays_out(place: &Place) {
    let app = TestApp::start_with(place, gateway).await;
    app.tenant("one").await;
    let kim = app.somebody("one", "kim", Role::User).await;
    let jwt = hs256(&app, KEY, &claims("kim", "Internal/abaco-admin"));
    let path = format!("/v1/users/{}?tenant=one", kim.user.id);
    let change = |state| UserChange { state: Some(state), role: None };
    ask(&app, "one", &jwt, Method::GET, "/v1/whoami").await.must(200);
    app.somebody("one", "ada", Role::Admin).await;
    app.json(Method::PATCH, &app.house, &path, &change(UserState::Disabled)).await.must(200);
    ask(&app, "one", &jwt, Method::GET, "/v1/whoami").await.error(401, "token_refused");
    app.json(Method::PATCH, &app.house, &path, &change(UserState::Active)).await.must(200);
    ask(&app, "one", &jwt, Method::GET, "/v1/whoami").await.must(200);
    app.stop().await;
}

async fn nobody_keeps_the_house_by_a_claim(place: &Place) {
    let staff = |config: &mut Config| {
        gateway(config);
        config.issuers.push(trusted("staff", JwtAlgorithm::Hs256, |issuer| {
            issuer.key = Some(Secret::new(KEY));
            issuer.header = "X-Staff".to_owned();
            issuer.tenant = Some("house".to_owned());
            issuer.default_role = Some(Role::Operator);
        }));
    };
    let app = TestApp::start_with(place, staff).await;
    let jwt = hs256(&app, KEY, &claims("admin", "Internal/abaco-admin"));
    for tenant in ["house", "HOUSE"] {
        ask(&app, tenant, &jwt, Method::GET, "/v1/whoami").await.error(401, "token_refused");
    }
    // The operator of the house may say that an issuer speaks for it.
    let jwt = hs256(&app, KEY, &json!({ "sub": "otto" }));
    let request = app.request(Method::GET, "", "/v1/log/levels").header("x-staff", &jwt);
    app.send(request).await.must(200);
    app.stop().await;
}

async fn a_foreign_token_stops_with_its_time(place: &Place) {
    let clock = Clock::manual(Clock::System.now());
    let app = TestApp::start_at(place, clock.clone(), gateway).await;
    app.tenant("one").await;
    let mut claims = claims("jo", "Internal/abaco-user");
    claims["exp"] = (clock.now().as_second() + 100).into();
    let jwt = hs256(&app, KEY, &claims);
    ask(&app, "one", &jwt, Method::GET, "/v1/whoami").await.must(200);
    // Clocks may differ by a minute.
    clock.advance(SignedDuration::from_secs(159));
    ask(&app, "one", &jwt, Method::GET, "/v1/whoami").await.must(200);
    clock.advance(SignedDuration::from_secs(2));
    ask(&app, "one", &jwt, Method::GET, "/v1/whoami").await.error(401, "jwt_invalid");
    app.stop().await;
}
