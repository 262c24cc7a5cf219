//! What no single value shows: keys that need each other, and keys that exclude each other.
//!
//! `values` touches nothing outside; `files` opens what the configuration names, and only looks whether it is of the right
//! kind. That a certificate fits its key, or that a key fits its algorithm, is found by whoever uses them.

use crate::config::issuer::{REQUIRED, TENANT_PART};
use crate::config::problem::{Problem, Problems, excerpt};
use crate::config::section::{Draft, ISSUER};
use crate::config::source::Origins;
use crate::config::{BlobConfig, Database, IssuerConfig, JwtAlgorithm, Loaded, Origin, Secret};
use axum::http::HeaderName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The shortest secret that HS256 accepts: as long as its digest.
const MIN_HS256_BYTES: usize = 32;
/// Bytes of a certificate, key or key set.
const MAX_KEY_FILE_BYTES: u64 = 1 << 20;

/// Checks the values of a draft against each other.
pub(super) fn values(draft: &Draft, origins: &Origins, problems: &mut Problems) {
    let mut check = Check { origins, problems };
    check.pair("tls", ("certificate", draft.tls.certificate.is_some()), ("key", draft.tls.key.is_some()));
    check.rate("rate.per_second", draft.rate.per_second, "rate.burst", draft.rate.burst);
    let anonymous = (draft.rate.anonymous_per_second, draft.rate.anonymous_burst);
    check.rate("rate.anonymous_per_second", anonymous.0, "rate.anonymous_burst", anonymous.1);
    check.database(&draft.store.database);
    check.blob(&draft.blob);
    let mut names = BTreeSet::new();
    for (index, issuer) in draft.issuers.iter().enumerate() {
        let key = format!("{ISSUER}[{index}]");
        check.issuer(&key, issuer);
        check.issuer_key(&key, issuer);
        if !issuer.name.is_empty() && !names.insert(issuer.name.as_str()) {
            let message = format!("is `{}`, which another issuer is called already", excerpt(&issuer.name));
            check.say(&format!("{key}.name"), &message, None);
        }
    }
}

struct Check<'a> {
    origins: &'a Origins,
    problems: &'a mut Problems,
}

impl Check<'_> {
    /// Reports a problem, unless the key has one of its own already and what is said here only follows from it.
    fn say(&mut self, key: &str, message: &str, hint: Option<&str>) {
        if self.problems.concern(key) {
            return;
        }
        // What is not there at all is missed where its section stands.
        let section = key.rsplit_once('.').map_or(key, |(section, _)| section);
        let origin = match self.origins.of(key) {
            Origin::Default => self.origins.of(section),
            origin => origin,
        };
        let problem = Problem::new(origin, message).key(key);
        self.problems.push(|| if let Some(hint) = hint { problem.hint(hint) } else { problem });
    }

    fn pair(&mut self, section: &str, (first, has_first): (&str, bool), (second, has_second): (&str, bool)) {
        if has_first != has_second {
            let (given, missing) = if has_first { (first, second) } else { (second, first) };
            // A refused value is missing too, but the operator has given it.
            if !self.problems.concern(&format!("{section}.{missing}")) {
                let message = format!("is given without `{section}.{missing}`");
                self.say(&format!("{section}.{given}"), &message, Some("give both or none"));
            }
        }
    }

    fn rate(&mut self, rate_key: &str, rate: f64, burst_key: &str, burst: f64) {
        if rate > 0.0 && burst < 1.0 {
            let message = format!("is `{burst}`, which lets no request through; expected at least `1`");
            self.say(burst_key, &message, Some(&format!("`{rate_key} = 0` switches the limit off")));
        }
    }

    fn database(&mut self, database: &Database) {
        let Database::Postgres(address) = database else { return };
        let place = address.expose().split_once("://").map_or("", |(_, rest)| rest);
        let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
        if address.expose().contains(char::is_whitespace) {
            self.say("store.database", "has a blank in its address", Some("write it as `%20`"));
        } else if host.is_empty() || host.starts_with([':', '/']) && !host.contains("host=") {
            let hint = "an address looks like `postgres://quarry@localhost/quarry`";
            self.say("store.database", "has no host in its address", Some(hint));
        }
    }

    fn blob(&mut self, blob: &BlobConfig) {
        let halves = (blob.access_key_id.is_some(), blob.secret_access_key.is_some());
        self.pair("blob", ("access_key_id", halves.0), ("secret_access_key", halves.1));
        if let Some(endpoint) = &blob.endpoint {
            let http = endpoint.starts_with("http://");
            if !http && !endpoint.starts_with("https://") || endpoint.contains(['@', ' ', '?', '#']) {
                let hint = "an endpoint looks like `https://s3.example.org`, without user and password";
                self.say("blob.endpoint", "is not the address of a server", Some(hint));
            } else if http && !blob.allow_http {
                let hint = "use https, or set `blob.allow_http = true`";
                self.say("blob.endpoint", "is an address without TLS", Some(hint));
            }
        }
        let Some(url) = &blob.url else {
            for (name, given) in
                [("endpoint", blob.endpoint.is_some()), ("access_key_id", halves.0), ("secret_access_key", halves.1)]
            {
                if given {
                    self.say(&format!("blob.{name}"), "is given without `blob.url`", Some("name the bucket there"));
                }
            }
            return;
        };
        let bucket = blob.bucket().map(|(bucket, _)| bucket);
        let well_named = |bucket: &str| {
            (3..=63).contains(&bucket.len())
                && bucket
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
        };
        if !bucket.is_some_and(well_named) || url.contains([' ', '?', '#', '@']) {
            let hint = "a bucket looks like `s3://bucket/prefix`; leave the key out to keep blobs in the data folder";
            self.say("blob.url", "does not name a bucket", Some(hint));
        }
    }

    fn issuer(&mut self, key: &str, issuer: &IssuerConfig) {
        let at = |name: &str| format!("{key}.{name}");
        for name in REQUIRED {
            if self.origins.of(&at(name)) == Origin::Default {
                self.say(&at(name), "is missing", None);
            }
        }
        for (name, text) in [("name", &issuer.name), ("user_claim", &issuer.user_claim)] {
            if text.is_empty() {
                self.say(&at(name), "is empty", None);
            }
        }
        let plain = issuer.header.replacen(TENANT_PART, "t", 1);
        if HeaderName::try_from(&plain).is_err() {
            let hint = format!("such as `Authorization` or `X-JWT-Assertion-{TENANT_PART}`");
            self.say(&at("header"), "is not the name of a header", Some(&hint));
        }
        let in_header = issuer.header.contains(TENANT_PART);
        if !in_header && issuer.tenant.is_none() && issuer.tenant_claim.is_none() {
            let hint = format!("set `tenant` or `tenant_claim`, or put `{TENANT_PART}` into `header`");
            self.say(&at("tenant"), "is missing, and nothing else tells a user's tenant", Some(&hint));
        }
        if issuer.default_role.is_none() && (issuer.roles_claim.is_none() || issuer.role_map.is_empty()) {
            let hint = "set `default_role`, or both `roles_claim` and `role_map`";
            self.say(&at("default_role"), "is missing, and nothing else gives anybody a role", Some(hint));
        }
        if issuer.roles_claim.is_none() && !issuer.role_map.is_empty() {
            self.say(&at("role_map"), "is given without `roles_claim`", Some("name the claim that lists the roles"));
        }
    }

    fn issuer_key(&mut self, key: &str, issuer: &IssuerConfig) {
        let at = |name: &str| format!("{key}.{name}");
        let given: Vec<&str> = [
            ("key", issuer.key.is_some()),
            ("key_file", issuer.key_file.is_some()),
            ("jwks_file", issuer.jwks_file.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect();
        if ["algorithm", "key", "key_file", "jwks_file"].iter().any(|name| self.problems.concern(&at(name))) {
            return;
        }
        let shared = issuer.algorithm == JwtAlgorithm::Hs256;
        match given.as_slice() {
            [] if shared => self.say(&at("key"), "is missing", Some("HS256 needs `key`, `key_file` or `jwks_file`")),
            [] => {
                let hint = format!("{} needs `key_file` or `jwks_file`", issuer.algorithm.as_str());
                self.say(&at("key_file"), "is missing", Some(&hint));
            }
            ["key"] if !shared => {
                let message = format!("is a shared secret, which {} has no use for", issuer.algorithm.as_str());
                self.say(&at("key"), &message, Some("put the public key into `key_file` or `jwks_file`"));
            }
            [_] => {}
            [first, second, ..] => {
                let message = format!("is given beside `{first}`");
                self.say(&at(second), &message, Some("one place of keys is enough"));
            }
        }
        let short = |secret: &Secret| secret.expose().len() < MIN_HS256_BYTES;
        if shared && issuer.key.as_ref().is_some_and(short) {
            let message = format!("is too short; HS256 needs at least {MIN_HS256_BYTES} bytes");
            self.say(&at("key"), &message, Some("`openssl rand -hex 32` makes one"));
        }
    }
}

/// Checks the files that a configuration names.
pub(super) fn files(Loaded { config, settings }: &Loaded, problems: &mut Problems) {
    let mut check = |key: String, path: &Path, fits: &dyn Fn(&[u8]) -> Result<(), &'static str>| {
        let path_shown = path.display();
        let message = match file_read(path) {
            Err(cause) => format!("names `{path_shown}`, which cannot be read: {cause}"),
            Ok(content) => match fits(&content) {
                Ok(()) => return,
                Err(cause) => format!("names `{path_shown}`, which {cause}"),
            },
        };
        problems.push(|| Problem::new(settings.origin(&key), message).key(key));
    };
    if let Some(tls) = &config.tls {
        check("tls.certificate".to_owned(), &tls.certificate, &certificate_fits);
        check("tls.key".to_owned(), &tls.key, &private_key_fits);
    }
    for (index, issuer) in config.issuers.iter().enumerate() {
        if let Some(path) = &issuer.key_file {
            let shared = issuer.algorithm == JwtAlgorithm::Hs256;
            let fits = if shared { shared_key_fits } else { public_key_fits };
            check(format!("{ISSUER}[{index}].key_file"), path, &fits);
        }
        if let Some(path) = &issuer.jwks_file {
            check(format!("{ISSUER}[{index}].jwks_file"), path, &key_set_fits);
        }
    }
}

fn file_read(path: &Path) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    // Opening a named pipe would wait for somebody to write into it.
    if !std::fs::metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let read = File::open(path).and_then(|file| file.take(MAX_KEY_FILE_BYTES + 1).read_to_end(&mut content));
    read.map_err(|error| error.to_string())?;
    if content.len() as u64 > MAX_KEY_FILE_BYTES {
        return Err(format!("it is larger than {MAX_KEY_FILE_BYTES} bytes"));
    }
    Ok(content)
}

fn certificate_fits(content: &[u8]) -> Result<(), &'static str> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(()),
        _ => Err("holds no certificate as PEM"),
    }
}

fn private_key_fits(content: &[u8]) -> Result<(), &'static str> {
    PrivateKeyDer::from_pem_slice(content).map(drop).map_err(|_| "holds no private key as PEM")
}

fn public_key_fits(content: &[u8]) -> Result<(), &'static str> {
    let text = String::from_utf8_lossy(content);
    match (text.contains("PRIVATE KEY-----"), text.contains("-----BEGIN ")) {
        // Whoever trusts an issuer has no business with the key that signs.
        (true, _) => Err("holds a private key where a public one is expected"),
        (false, true) => Ok(()),
        (false, false) => Err("holds no public key as PEM"),
    }
}

fn shared_key_fits(content: &[u8]) -> Result<(), &'static str> {
    if content.trim_ascii().len() < MIN_HS256_BYTES {
        return Err("is too short; HS256 needs at least 32 bytes");
    }
    Ok(())
}

fn key_set_fits(content: &[u8]) -> Result<(), &'static str> {
    let set: Value = serde_json::from_slice(content).map_err(|_| "is not JSON")?;
    match set.get("keys").and_then(Value::as_array) {
        Some(keys) if !keys.is_empty() => Ok(()),
        _ => Err("holds no `keys`"),
    }
}
