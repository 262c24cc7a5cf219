//! Issuers as a request meets them: real keys made here, real tokens, and every way in which one can be wrong.

use super::*;
use crate::config::Secret;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm};
use rsa::pkcs1::{EncodeRsaPrivateKey, EncodeRsaPublicKey};
use rsa::pkcs8::{DecodePublicKey, EncodePublicKey, LineEnding};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// Far from the machine's clock, which nothing here may ask.
const NOW: i64 = 2_500_000_000;

/// Somebody who signs tokens.
struct Signer {
    algorithm: JwtAlgorithm,
    private: EncodingKey,
    /// What the operator puts into `key_file`.
    file: String,
}

impl Signer {
    fn new(algorithm: JwtAlgorithm) -> Self {
        match algorithm {
            JwtAlgorithm::Hs256 => {
                Self::hs256(&format!("{:032x}{:032x}", store::clock::random(), store::clock::random()))
            }
            JwtAlgorithm::Rs256 => Self::rs256(2048),
            JwtAlgorithm::Es256 => Self::pair(algorithm, &PKCS_ECDSA_P256_SHA256, EncodingKey::from_ec_der),
            JwtAlgorithm::EdDsa => Self::pair(algorithm, &PKCS_ED25519, EncodingKey::from_ed_der),
        }
    }

    fn hs256(secret: &str) -> Self {
        let private = EncodingKey::from_secret(secret.as_bytes());
        Self { algorithm: JwtAlgorithm::Hs256, private, file: secret.to_owned() }
    }

    fn rs256(bits: usize) -> Self {
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, bits).expect("a key");
        Self {
            algorithm: JwtAlgorithm::Rs256,
            private: EncodingKey::from_rsa_der(key.to_pkcs1_der().expect("encodes").as_bytes()),
            file: key.to_public_key().to_public_key_pem(LineEnding::LF).expect("encodes"),
        }
    }

    fn pair(algorithm: JwtAlgorithm, kind: &'static SignatureAlgorithm, private: fn(&[u8]) -> EncodingKey) -> Self {
        let pair = KeyPair::generate_for(kind).expect("a key");
        Self { algorithm, private: private(&pair.serialize_der()), file: pair.public_key_pem() }
    }

    fn header(&self) -> Header {
        Header::new(jwt(self.algorithm))
    }

    fn sign(&self, claims: &Value) -> String {
        encode(&self.header(), claims, &self.private).expect("signs")
    }

    fn sign_as(&self, id: &str, claims: &Value) -> String {
        encode(&Header { kid: Some(id.to_owned()), ..self.header() }, claims, &self.private).expect("signs")
    }

    /// The public key as an entry of a set.
    fn jwk(&self, id: Option<&str>) -> Value {
        let key = match self.algorithm {
            JwtAlgorithm::Hs256 => jsonwebtoken::DecodingKey::from_secret(self.file.as_bytes()),
            JwtAlgorithm::Rs256 => jsonwebtoken::DecodingKey::from_rsa_pem(self.file.as_bytes()).expect("a key"),
            JwtAlgorithm::Es256 => jsonwebtoken::DecodingKey::from_ec_pem(self.file.as_bytes()).expect("a key"),
            JwtAlgorithm::EdDsa => jsonwebtoken::DecodingKey::from_ed_pem(self.file.as_bytes()).expect("a key"),
        };
        let jwk = Jwk::from_decoding_key(&key, Some(jwt(self.algorithm))).expect("encodes");
        let mut jwk = serde_json::to_value(jwk).expect("serialises");
        if let Some(id) = id {
            jwk["kid"] = json!(id);
        }
        jwk
    }
}

fn jwt(algorithm: JwtAlgorithm) -> Algorithm {
    algorithm.as_str().parse().expect("the same words")
}

/// A folder with key files, and a configuration that uses them.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).expect("writes");
        path
    }

    fn set(&self, keys: &[Value]) -> PathBuf {
        self.write("jwks.json", json!({ "keys": keys }).to_string())
    }

    fn trusting(&self, signer: &Signer) -> IssuerConfig {
        IssuerConfig { key_file: Some(self.write("key", &signer.file)), ..config(signer.algorithm) }
    }

    fn trusting_set(&self, algorithm: JwtAlgorithm, keys: &[Value]) -> IssuerConfig {
        IssuerConfig { jwks_file: Some(self.set(keys)), ..config(algorithm) }
    }
}

fn config(algorithm: JwtAlgorithm) -> IssuerConfig {
    IssuerConfig {
        name: "id".to_owned(),
        header: "Authorization".to_owned(),
        algorithm,
        key: None,
        key_file: None,
        jwks_file: None,
        issuer: None,
        audience: None,
        user_claim: "sub".to_owned(),
        tenant_claim: None,
        roles_claim: None,
        tenant: Some("lab".to_owned()),
        default_role: Some(Role::User),
        role_map: BTreeMap::new(),
    }
}

fn load(config: IssuerConfig) -> Issuers {
    Issuers::load(&[config]).expect("loads")
}

fn claims() -> Value {
    json!({"sub": "ada", "exp": NOW + 60})
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name: HeaderName = name.parse().expect("a header's name");
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header's value"));
    }
    headers
}

fn identify(issuers: &Issuers, pairs: &[(&str, &str)]) -> Option<Result<Identity, ApiError>> {
    issuers.identify(&headers(pairs), Timestamp::from_second(NOW).expect("in range"))
}

fn identify_token(issuers: &Issuers, token: &str) -> Result<Identity, ApiError> {
    identify(issuers, &[("authorization", &format!("Bearer {token}"))]).expect("a token is present")
}

/// Checks that the token is refused for this reason, and that nothing of it comes back.
#[track_caller]
fn check_refused(issuers: &Issuers, token: &str, reason: &str) {
    let error = identify_token(issuers, token).expect_err("must be refused");
    assert_eq!((error.code.as_str(), error.kind), ("jwt_invalid", ErrorKind::Unauthorised), "{error}");
    assert_eq!(error.message, format!("the JWT of issuer `id` is refused: {reason}"));
}

const NO_JWT: &str = "it is not a JWT with a known algorithm";
const NOT_SIGNED: &str = "its signature is not the issuer's";

/// What must hold of every algorithm, with the key as a file and in a set.
fn check_algorithm(algorithm: JwtAlgorithm) {
    let (place, signer, stranger) = (Place::new(), Signer::new(algorithm), Signer::new(algorithm));
    let ada = Identity { issuer: "id".into(), user: "ada".into(), tenant: "lab".into(), role: Role::User };
    let other = if algorithm == JwtAlgorithm::Hs256 { JwtAlgorithm::EdDsa } else { JwtAlgorithm::Hs256 };
    let other = Signer::new(other);
    let set = [signer.jwk(Some("ours")), other.jwk(Some("other"))];
    for config in [place.trusting(&signer), place.trusting_set(algorithm, &set)] {
        let issuers = load(config);
        let token = signer.sign_as("ours", &claims());
        assert_eq!(identify_token(&issuers, &token), Ok(ada.clone()));
        assert_eq!(identify_token(&issuers, &signer.sign(&claims())), Ok(ada.clone()), "the only key needs no id");

        check_refused(&issuers, &stranger.sign_as("ours", &claims()), NOT_SIGNED);
        let unlike = format!("it is not signed with {}", algorithm.as_str());
        check_refused(&issuers, &other.sign_as("ours", &claims()), &unlike);
        let mallory = signer.sign_as("ours", &json!({"sub": "mallory", "exp": NOW + 60}));
        let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
        let (mine, theirs) = (parts(&token), parts(&mallory));
        check_refused(&issuers, &format!("{}.{}.{}", mine[0], theirs[1], mine[2]), NOT_SIGNED);
        check_refused(&issuers, &format!("{}.{}.", mine[0], mine[1]), NOT_SIGNED);
        check_refused(&issuers, &format!("{token}="), "it is malformed");
        let expired = signer.sign_as("ours", &json!({"sub": "ada", "exp": NOW - 61}));
        check_refused(&issuers, &expired, "it has expired");
    }
}

#[test]
fn hs256_tokens_are_verified() {
    check_algorithm(JwtAlgorithm::Hs256);
}

#[test]
fn rs256_tokens_are_verified() {
    check_algorithm(JwtAlgorithm::Rs256);
}

#[test]
fn es256_tokens_are_verified() {
    check_algorithm(JwtAlgorithm::Es256);
}

#[test]
fn eddsa_tokens_are_verified() {
    check_algorithm(JwtAlgorithm::EdDsa);
}

#[test]
fn the_token_never_chooses_algorithm_or_key() {
    let (place, signer) = (Place::new(), Signer::new(JwtAlgorithm::Rs256));
    let issuers = load(place.trusting(&signer));
    let token = signer.sign(&claims());
    let parts: Vec<&str> = token.split('.').collect();

    // {"alg":"none"}, {"alg":"none","typ":"JWT"} and {"alg":"NONE"}
    for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0", "eyJhbGciOiJOT05FIn0"] {
        check_refused(&issuers, &format!("{header}.{}.", parts[1]), NO_JWT);
        check_refused(&issuers, &format!("{header}.{}.{}", parts[1], parts[2]), NO_JWT);
    }
    // The classic: the public key, which everybody knows, taken for a shared secret.
    let key = rsa::RsaPublicKey::from_public_key_pem(&signer.file).expect("a key");
    let der = key.to_pkcs1_der().expect("encodes");
    for secret in [signer.file.as_bytes(), signer.file.trim_end().as_bytes(), der.as_bytes()] {
        let forged =
            encode(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(secret)).expect("signs");
        check_refused(&issuers, &forged, "it is not signed with RS256");
    }
    // The same key, but a hash or a padding that was not agreed.
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        let token = encode(&Header::new(algorithm), &claims(), &signer.private).expect("signs");
        check_refused(&issuers, &token, "it is not signed with RS256");
    }
    // A token that brings its own key.
    let stranger = Signer::new(JwtAlgorithm::Rs256);
    let jwk = serde_json::from_value(stranger.jwk(None)).expect("a key");
    let header = Header { jwk: Some(jwk), jku: Some("https://evil/jwks.json".into()), ..stranger.header() };
    let token = encode(&header, &claims(), &stranger.private).expect("signs");
    check_refused(&issuers, &token, NOT_SIGNED);
    let header = Header { crit: Some(vec!["b64".to_owned()]), ..signer.header() };
    let token = encode(&header, &claims(), &signer.private).expect("signs");
    check_refused(&issuers, &token, "it asks for extensions that are not known here");
}

#[test]
fn what_is_no_token_is_refused() {
    let (place, signer) = (Place::new(), Signer::new(JwtAlgorithm::Hs256));
    let issuers = load(place.trusting(&signer));
    let token = signer.sign(&claims());
    let longest = |more: usize| signer.sign(&json!({"sub": "ada", "exp": NOW + 60, "pad": "x".repeat(more)}));
    for text in ["", ".", "..", "...", "a.b.c", "ey", "👾", &token[..20], &format!("a{token}"), &format!("{token}.x")]
    {
        check_refused(&issuers, text, NO_JWT);
    }
    assert!(identify_token(&issuers, &longest(12_000)).is_ok());
    check_refused(&issuers, &longest(16_000), "it is longer than 16384 characters");
    check_refused(&issuers, &"x".repeat(1 << 20), "it is longer than 16384 characters");
    for claims in [json!([1]), json!("ada"), json!(null), json!(7)] {
        check_refused(&issuers, &signer.sign(&claims), "its claims are not a JSON object");
    }
    let deep = (0..1_000).fold(json!(1), |inner, _| json!([inner]));
    let token = signer.sign(&json!({"sub": "ada", "exp": NOW + 60, "deep": deep}));
    check_refused(&issuers, &token, "its claims are not a JSON object");
    check_refused(&issuers, &signer.sign(&json!({"sub": "ada"})), "it has no claim `exp`");
    check_refused(&issuers, &signer.sign(&json!({"exp": NOW + 60})), "it has no claim `sub`, which names the user");
    check_refused(
        &issuers,
        &signer.sign(&json!({"sub": "ada", "exp": NOW + 60, "nbf": NOW + 61})),
        "it is not valid yet",
    );
}

#[test]
fn keys_of_a_set_are_chosen_by_id() {
    let (place, first, second) = (Place::new(), Signer::new(JwtAlgorithm::Es256), Signer::new(JwtAlgorithm::Es256));
    let issuers = load(place.trusting_set(JwtAlgorithm::Es256, &[first.jwk(Some("1")), second.jwk(Some("2"))]));
    for (signer, id) in [(&first, "1"), (&second, "2")] {
        assert!(identify_token(&issuers, &signer.sign_as(id, &claims())).is_ok(), "{id}");
    }
    check_refused(&issuers, &first.sign_as("2", &claims()), NOT_SIGNED);
    check_refused(&issuers, &first.sign_as("3", &claims()), "its `kid` is none of the issuer's keys");
    check_refused(&issuers, &first.sign(&claims()), "it has no `kid`, and its issuer has several keys");

    // A set may hold keys for other purposes; they are as good as absent.
    let with = |name: &str, value: Value| {
        let mut jwk = second.jwk(Some("2"));
        jwk[name] = value;
        jwk
    };
    let unused = [
        with("use", json!("enc")),
        with("key_ops", json!(["encrypt"])),
        with("alg", json!("ES384")),
        with("crv", json!("P-384")),
        with("crv", json!("secp256k1")),
        with("kty", json!("RSA")),
        json!({"kty": "AKP", "kid": "2"}),
        json!({}),
    ];
    for other in unused {
        let issuers = load(place.trusting_set(JwtAlgorithm::Es256, &[first.jwk(Some("1")), other]));
        assert!(identify_token(&issuers, &first.sign_as("1", &claims())).is_ok());
        check_refused(&issuers, &second.sign_as("2", &claims()), "its `kid` is none of the issuer's keys");
    }
    let issuers = load(place.trusting_set(JwtAlgorithm::Es256, &[first.jwk(None)]));
    assert!(identify_token(&issuers, &first.sign_as("any", &claims())).is_ok(), "one key without an id");
}

#[test]
fn keys_that_cannot_be_trusted_are_refused_at_start() {
    let place = Place::new();
    let check = |config: IssuerConfig, expected: &str| {
        let error = Issuers::load(&[config]).expect_err(expected);
        let cause = error.source().expect("a cause").to_string();
        assert!(cause.contains(expected), "{cause} does not say {expected}");
        assert!(error.to_string().starts_with("the keys of issuer `id` from `"), "{error}");
    };
    let file =
        |algorithm, content: &str| IssuerConfig { key_file: Some(place.write("key", content)), ..config(algorithm) };
    let set = |algorithm, keys: &[Value]| place.trusting_set(algorithm, keys);
    let (hs, es, ed) =
        (Signer::new(JwtAlgorithm::Hs256), Signer::new(JwtAlgorithm::Es256), Signer::new(JwtAlgorithm::EdDsa));
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");

    check(file(JwtAlgorithm::Hs256, &"x".repeat(31)), "the secret has 31 bytes");
    check(file(JwtAlgorithm::Hs256, &format!("{}\r\n", "x".repeat(31))), "the secret has 31 bytes");
    check(file(JwtAlgorithm::Hs256, ""), "the secret has 0 bytes");
    check(IssuerConfig { key: Some(Secret::new("hunter2")), ..config(JwtAlgorithm::Hs256) }, "the secret has 7 bytes");
    check(file(JwtAlgorithm::Hs256, &es.file), "HS256 needs a shared secret, and this is a PEM");
    check(file(JwtAlgorithm::Es256, &p384.serialize_pem()), "it is a private key");
    check(file(JwtAlgorithm::Es256, &p384.public_key_pem()), "it is not a public key for ES256");
    check(file(JwtAlgorithm::Es256, &ed.file), "it is not a public key for ES256");
    check(file(JwtAlgorithm::EdDsa, &es.file), "it is not a public key for EdDSA");
    check(file(JwtAlgorithm::Rs256, &es.file), "it is not a public key for RS256");
    check(file(JwtAlgorithm::Rs256, &hs.file), "it is not a public key for RS256");
    check(file(JwtAlgorithm::Rs256, &Signer::rs256(1024).file), "the RSA key has 1024 bits");
    check(file(JwtAlgorithm::Es256, &"x".repeat(1024 * 1024 + 1)), "the file is larger than 1048576 bytes");
    check(IssuerConfig { key_file: Some("/none".into()), ..config(JwtAlgorithm::Es256) }, "the file could not be read");

    check(set(JwtAlgorithm::Es256, &[]), "the set has no key for ES256");
    check(set(JwtAlgorithm::Es256, &[ed.jwk(Some("1")), hs.jwk(Some("2"))]), "the set has no key for ES256");
    check(set(JwtAlgorithm::Es256, &[es.jwk(Some("1")), es.jwk(Some("1"))]), "two keys for ES256 with the same `kid`");
    check(set(JwtAlgorithm::Es256, &[es.jwk(Some("1")), es.jwk(None)]), "several of which one has none");
    check(set(JwtAlgorithm::Es256, &vec![es.jwk(None); 257]), "the set has 257 keys");
    let broken = |name: &str, value: &str, mut jwk: Value| {
        jwk[name] = json!(value);
        [jwk]
    };
    check(set(JwtAlgorithm::Es256, &broken("x", "AAAA", es.jwk(None))), "it is not a public key for ES256");
    check(set(JwtAlgorithm::Es256, &broken("x", "not base64!", es.jwk(None))), "it is not a public key for ES256");
    check(set(JwtAlgorithm::EdDsa, &broken("x", "AAAA", ed.jwk(None))), "it is not a public key for EdDSA");
    check(set(JwtAlgorithm::EdDsa, &broken("x", "", ed.jwk(None))), "it is not a public key for EdDSA");
    check(set(JwtAlgorithm::Hs256, &broken("k", "AAAA", hs.jwk(None))), "the secret has 3 bytes");
    let rsa = json!({"kty": "RSA", "n": "AAAA", "e": "AQAB"});
    check(set(JwtAlgorithm::Rs256, &[rsa]), "the RSA key has 0 bits");
    let jwks = |text: &str| IssuerConfig { jwks_file: Some(place.write("jwks", text)), ..config(JwtAlgorithm::Es256) };
    check(jwks("{}"), "it is not a JSON Web Key Set; see line 1, column 2");
    check(jwks("hunter2"), "it is not a JSON Web Key Set");
    check(jwks("[\"hunter2\"]"), "it is not a JSON Web Key Set");
    check(jwks(&"[".repeat(10_000)), "it is not a JSON Web Key Set");
}

#[test]
fn a_secret_may_end_with_a_line_end() {
    let (place, signer) = (Place::new(), Signer::hs256(&"0123456789abcdef".repeat(2)));
    for end in ["", "\n", "\r\n"] {
        let path = place.write("key", format!("{}{end}", signer.file));
        let issuers = load(IssuerConfig { key_file: Some(path), ..config(JwtAlgorithm::Hs256) });
        assert!(identify_token(&issuers, &signer.sign(&claims())).is_ok(), "{end:?}");
    }
    let issuers = load(IssuerConfig { key: Some(Secret::new(&signer.file)), ..config(JwtAlgorithm::Hs256) });
    assert!(identify_token(&issuers, &signer.sign(&claims())).is_ok());
}

#[test]
fn configurations_under_which_nobody_could_come_in_are_refused() {
    let secret = || Some(Secret::new("x".repeat(32)));
    let sound = || IssuerConfig { key: secret(), ..config(JwtAlgorithm::Hs256) };
    let named = |name: &str, header: &str, issuer: Option<&str>| IssuerConfig {
        name: name.to_owned(),
        header: header.to_owned(),
        issuer: issuer.map(str::to_owned),
        ..sound()
    };
    let check = |configs: &[IssuerConfig], expected: Option<&str>| {
        assert_eq!(Issuers::load(configs).err().map(|error| error.to_string()).as_deref(), expected);
    };
    check(&[], None);
    check(&[sound()], None);
    let place = "issuer `id` needs exactly one of `key`, `key_file` and `jwks_file`";
    check(&[IssuerConfig { key: None, ..sound() }], Some(place));
    check(&[IssuerConfig { key_file: Some("key".into()), ..sound() }], Some(place));
    check(&[named("id", "two words", None)], Some("the header `two words` of issuer `id` is not the name of a header"));
    let tenant = "issuer `id` names no tenant; set `tenant` or `tenant_claim`, or put `{tenant}` into `header`";
    check(&[IssuerConfig { tenant: None, ..sound() }], Some(tenant));
    check(&[IssuerConfig { tenant: None, ..named("id", "X-JWT-{tenant}", None) }], None);
    let tenant = "the tenant `my lab` of issuer `id` is not the name of a tenant";
    check(&[IssuerConfig { tenant: Some("my lab".into()), ..sound() }], Some(tenant));
    let role = "issuer `id` gives nobody a role; set `default_role`, or both `roles_claim` and `role_map`";
    check(&[IssuerConfig { default_role: None, ..sound() }], Some(role));
    check(&[IssuerConfig { default_role: None, roles_claim: Some("roles".into()), ..sound() }], Some(role));

    check(&[named("a", "X-A", None), named("b", "X-B", None)], None);
    check(&[named("a", "X-A", None), named("a", "X-B", None)], Some("two issuers are called `a`"));
    let shared = "issuers `a` and `b` read the same header; give each the `issuer` that its tokens have";
    check(&[named("a", "X-A", None), named("b", "x-a", None)], Some(shared));
    check(&[named("a", "X-A", Some("1")), named("b", "X-A", None)], Some(shared));
    check(&[named("a", "X-A", Some("1")), named("b", "X-A", Some("1"))], Some(shared));
    check(&[named("a", "X-{tenant}", None), named("b", "X-B", None)], Some(shared));
    check(&[named("a", "X-A", Some("1")), named("b", "X-A", Some("2"))], None);
}

#[test]
fn only_the_issuers_headers_are_looked_at() {
    let (place, signer) = (Place::new(), Signer::new(JwtAlgorithm::Hs256));
    let bearer = place.trusting(&signer);
    let gateway = IssuerConfig {
        name: "gateway".into(),
        header: "X-JWT-Assertion-{tenant}".into(),
        tenant: None,
        ..bearer.clone()
    };
    let issuers = Issuers::load(&[bearer, gateway]).expect("loads");
    let token = signer.sign(&claims());
    let with = |scheme: &str| format!("{scheme}{token}");
    let check = |pairs: &[(&str, &str)], expected: Option<Result<(&str, &str), &str>>| {
        let found = identify(&issuers, pairs);
        let found = found.map(|result| result.map(|found| (found.issuer, found.tenant)).map_err(|error| error.code));
        let expected = expected
            .map(|result| result.map(|(issuer, tenant)| (issuer.to_owned(), tenant.to_owned())).map_err(str::to_owned));
        assert_eq!(found, expected, "{pairs:?}");
    };
    check(&[], None);
    check(&[("x-other", &token), ("cookie", &token), ("x-jwt-assertion-", &token)], None);
    for foreign in ["", "Bearer", "Bearer qry_tok_1", "bearer  qry_x", "Basic YTpi", token.as_str()] {
        check(&[("authorization", foreign)], None);
    }
    for scheme in ["Bearer ", "bearer ", "BEARER   "] {
        check(&[("authorization", &with(scheme))], Some(Ok(("id", "lab"))));
    }
    check(&[("authorization", "Bearer ")], Some(Err("jwt_invalid")));
    check(&[("authorization", "Bearer xqry_")], Some(Err("jwt_invalid")));
    check(&[("X-JWT-Assertion-Dev-Staging", &token)], Some(Ok(("gateway", "dev-staging"))));
    check(&[("x-jwt-assertion-dev", &with("Bearer "))], Some(Ok(("gateway", "dev"))));
    check(&[("x-jwt-assertion-d!v", &token)], Some(Err("jwt_invalid")));
    check(&[("x-jwt-assertion-dev", "")], Some(Err("jwt_invalid")));
    check(&[("x-jwt-assertion-dev", "qry_tok_1")], Some(Err("jwt_invalid")));
    check(&[("x-jwt-assertion-dev", &token), ("authorization", "Bearer qry_tok_1")], Some(Ok(("gateway", "dev"))));

    check(&[("x-jwt-assertion-dev", &token), ("authorization", &with("Bearer "))], Some(Err("jwt_ambiguous")));
    check(&[("x-jwt-assertion-dev", &token), ("x-jwt-assertion-prod", &token)], Some(Err("jwt_ambiguous")));
    check(&[("x-jwt-assertion-dev", &token), ("x-jwt-assertion-dev", &token)], Some(Err("jwt_ambiguous")));

    let mut bytes = HeaderMap::new();
    bytes.insert("x-jwt-assertion-dev", HeaderValue::from_bytes(b"\xff\xfe").expect("opaque bytes"));
    let found = issuers.identify(&bytes, Timestamp::UNIX_EPOCH).expect("present").expect_err("refused");
    assert_eq!(found.message, "the JWT of issuer `gateway` is refused: it is not a JWT");
}

#[test]
fn issuers_of_one_header_are_told_apart_by_their_tokens() {
    let (place, one, two) = (Place::new(), Signer::new(JwtAlgorithm::Hs256), Signer::new(JwtAlgorithm::EdDsa));
    let trust = |name: &str, signer: &Signer| IssuerConfig {
        name: name.to_owned(),
        issuer: Some(format!("https://{name}")),
        key_file: Some(place.write(name, &signer.file)),
        ..config(signer.algorithm)
    };
    let issuers = Issuers::load(&[trust("one", &one), trust("two", &two)]).expect("loads");
    let check = |signer: &Signer, iss: Value, expected: Result<&str, &str>| {
        let token = signer.sign(&json!({"sub": "ada", "exp": NOW + 60, "iss": iss}));
        let found = identify_token(&issuers, &token);
        let found = found.as_ref().map(|found| found.issuer.as_str()).map_err(|error| error.message.as_str());
        assert_eq!(found, expected);
    };
    check(&one, json!("https://one"), Ok("one"));
    check(&two, json!("https://two"), Ok("two"));
    check(&two, json!("https://one"), Err("the JWT of issuer `one` is refused: it is not signed with HS256"));
    check(&one, json!("x"), Err("the JWT of issuer `one` or `two` is refused: its claim `iss` is none of theirs"));
    check(&one, json!(null), Err("the JWT of issuer `one` or `two` is refused: its claim `iss` is none of theirs"));
    check(&one, json!(7), Err("the JWT of issuer `one` or `two` is refused: it is not a JWT"));
}

#[test]
fn claims_become_a_user_with_a_role() {
    let (place, signer) = (Place::new(), Signer::new(JwtAlgorithm::EdDsa));
    let issuers = load(IssuerConfig {
        user_claim: "http://wso2.org/claims/enduser".into(),
        tenant_claim: Some("org.name".into()),
        roles_claim: Some("realm_access.roles".into()),
        tenant: None,
        default_role: None,
        role_map: [("ops".to_owned(), Role::Operator), ("all".to_owned(), Role::Viewer)].into(),
        ..place.trusting(&signer)
    });
    let token = |roles: &[&str]| {
        signer.sign(&json!({
            "http://wso2.org/claims/enduser": "ada@carbon.super",
            "org": {"name": "Acme"},
            "realm_access": {"roles": roles},
            "exp": NOW + 60,
        }))
    };
    let ada =
        Identity { issuer: "id".into(), user: "ada@carbon.super".into(), tenant: "Acme".into(), role: Role::Operator };
    assert_eq!(identify_token(&issuers, &token(&["all", "ops", "admin"])), Ok(ada));
    let error = identify_token(&issuers, &token(&["admin"])).expect_err("no role");
    assert_eq!((error.code.as_str(), error.kind), ("role_missing", ErrorKind::Forbidden));
    assert!(error.message.contains("`id`"), "{error}");
}

#[test]
fn reload_takes_new_keys_and_keeps_old_ones_when_the_file_is_broken() {
    let (place, first, second) = (Place::new(), Signer::new(JwtAlgorithm::EdDsa), Signer::new(JwtAlgorithm::EdDsa));
    let set = place.trusting_set(JwtAlgorithm::EdDsa, &[first.jwk(Some("1"))]);
    let other = Signer::new(JwtAlgorithm::Hs256);
    let other = IssuerConfig { name: "other".into(), header: "X-Other".into(), ..place.trusting(&other) };
    let issuers = Issuers::load(&[other, set]).expect("loads");
    let comes_in = |signer: &Signer, id: &str| identify_token(&issuers, &signer.sign_as(id, &claims())).is_ok();
    assert!(comes_in(&first, "1") && !comes_in(&second, "2"));

    place.set(&[first.jwk(Some("1")), second.jwk(Some("2"))]);
    assert!(!comes_in(&second, "2"), "nothing changes before the reload");
    assert!(issuers.reload().is_empty());
    assert!(comes_in(&first, "1") && comes_in(&second, "2"));

    // One issuer's broken file does not stop another's keys from being replaced.
    fs::remove_file(place.folder.path().join("key")).expect("removes");
    place.set(&[second.jwk(Some("2"))]);
    let failures: Vec<String> = issuers.reload().iter().map(ToString::to_string).collect();
    assert!(matches!(failures.as_slice(), [one] if one.contains("`other`")), "{failures:?}");
    assert!(!comes_in(&first, "1") && comes_in(&second, "2"));

    place.write("jwks.json", "{");
    assert_eq!(issuers.reload().len(), 2);
    assert!(comes_in(&second, "2"));
}

#[test]
fn keys_are_never_shown() {
    let (place, secret) = (Place::new(), "hunter2-".repeat(8));
    let issuers = load(IssuerConfig { key: Some(Secret::new(&secret)), ..config(JwtAlgorithm::Hs256) });
    let jwk = json!({"kty": "oct", "k": ["hunter2"]});
    let error = Issuers::load(&[place.trusting_set(JwtAlgorithm::Hs256, &[jwk])]).expect_err("refused");
    for text in [format!("{issuers:?}"), format!("{error:?}"), format!("{error} {:?}", error.source())] {
        assert!(!text.contains("hunter2") && !text.contains("104, 117, 110"), "{text}");
    }
}
