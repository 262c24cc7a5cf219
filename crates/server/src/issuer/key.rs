//! The keys that an issuer's tokens are verified with: one key, or a set in which each has an id.
//!
//! The algorithm is the configured one and never the token's choice. A key that does not fit it, that is too weak, or that
//! ought to be secret is refused when it is read, so that verifying a token has only the token to blame. No message
//! quotes a key, nor an error of a parser that might.

use crate::config::{IssuerConfig, JwtAlgorithm, Secret};
use crate::issuer::claim::Claims;
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation, decode, decode_header};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of a file with keys.
const MAX_KEY_FILE_BYTES: u64 = 1024 * 1024;
/// Keys of one set.
const MAX_SET_KEYS: usize = 256;
/// Bytes of a shared secret; RFC 7518 asks for as many as the hash has.
const MIN_SECRET_BYTES: usize = 32;
/// Bits of an RSA key; fewer can be broken.
const MIN_RSA_BITS: usize = 2048;
/// Bits of an RSA key; more are not verified by the library.
const MAX_RSA_BITS: usize = 4096;
/// Bytes of an Ed25519 key.
const ED25519_BYTES: usize = 32;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read.
    #[error("the file could not be read")]
    Read(#[source] io::Error),
    /// The file is too large to hold keys.
    #[error("the file is larger than {MAX_KEY_FILE_BYTES} bytes")]
    TooLarge,
    /// The shared secret could be guessed.
    #[error("the secret has {0} bytes; HS256 needs at least {MIN_SECRET_BYTES}; `openssl rand -hex 32` makes one")]
    Short(usize),
    /// What everybody knows is no secret.
    #[error("HS256 needs a shared secret, and this is a PEM; set `algorithm` to what the key is made for")]
    SecretIsPem,
    /// The key that signs should not be here.
    #[error("it is a private key; only the issuer should have it, and the public key is enough")]
    Private,
    /// The key is of another kind.
    #[error("it is not a public key for {0}")]
    Unfit(&'static str),
    /// The RSA key can be broken, or is too long.
    #[error("the RSA key has {0} bits; it needs {MIN_RSA_BITS} to {MAX_RSA_BITS}")]
    RsaBits(usize),
    /// The set cannot be read.
    #[error("it is not a JSON Web Key Set; see line {line}, column {column}")]
    Set {
        /// Where reading stopped.
        line: usize,
        /// Where in that line.
        column: usize,
    },
    /// The set is too large.
    #[error("the set has {0} keys; at most {MAX_SET_KEYS} are read")]
    TooMany(usize),
    /// The set has no key to use.
    #[error("the set has no key for {0}")]
    NoneFits(&'static str),
    /// Two keys of the set have the same id.
    #[error("the set has two keys for {0} with the same `kid`, or several of which one has none")]
    KeyIds(&'static str),
}

/// Where keys are read from.
#[derive(Clone, Debug)]
pub(super) enum KeyPlace {
    Inline(Secret),
    File(PathBuf),
    Set(PathBuf),
}

impl KeyPlace {
    /// Returns the one place that is configured; `None` if there is none, or more than one.
    pub(super) fn new(config: &IssuerConfig) -> Option<Self> {
        match (&config.key, &config.key_file, &config.jwks_file) {
            (Some(key), None, None) => Some(Self::Inline(key.clone())),
            (None, Some(path), None) => Some(Self::File(path.clone())),
            (None, None, Some(path)) => Some(Self::Set(path.clone())),
            _ => None,
        }
    }

    /// Returns the place's name, for messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Inline(_) => "key".to_owned(),
            Self::File(path) | Self::Set(path) => path.display().to_string(),
        }
    }

    /// Reads the keys for one algorithm.
    pub(super) fn read(&self, algorithm: JwtAlgorithm) -> Result<Keys, KeyError> {
        let keys = match self {
            Self::Inline(secret) => vec![Key { id: None, key: single(secret.expose().as_bytes(), algorithm)? }],
            Self::File(path) => vec![Key { id: None, key: single(&file_read(path)?, algorithm)? }],
            Self::Set(path) => set(&file_read(path)?, algorithm)?,
        };
        Ok(Keys { algorithm, keys })
    }
}

/// Keys of one issuer, all for one algorithm. There is at least one, and where there are more, each has its own id.
#[derive(Debug)]
pub(super) struct Keys {
    algorithm: JwtAlgorithm,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    key: DecodingKey,
}

impl Keys {
    /// Returns the claims of a token that was signed by one of these keys, or why it was not. Times are not looked at.
    pub(super) fn verify(&self, token: &str) -> Result<Claims, String> {
        let header = decode_header(token).map_err(|_| "it is not a JWT with a known algorithm")?;
        if header.alg != signed(self.algorithm) {
            return Err(format!("it is not signed with {}", self.algorithm.as_str()));
        }
        if header.crit.is_some() {
            return Err("it asks for extensions that are not known here".to_owned());
        }
        let key = self.pick(header.kid.as_deref())?;
        // The library would ask the machine's clock, and takes an `aud` that nobody asked for as a reason to refuse.
        let mut validation = Validation::new(signed(self.algorithm));
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        decode::<Claims>(token, key, &validation).map(|decoded| decoded.claims).map_err(|error| {
            let reason = match error.kind() {
                ErrorKind::InvalidSignature => "its signature is not the issuer's",
                ErrorKind::Json(_) | ErrorKind::Utf8(_) => "its claims are not a JSON object",
                _ => "it is malformed",
            };
            reason.to_owned()
        })
    }

    /// A key without an id is the only one, and stands for every id; so a single PEM key need not be called anything.
    fn pick(&self, id: Option<&str>) -> Result<&DecodingKey, String> {
        let only = || if let [only] = self.keys.as_slice() { Some(only) } else { None };
        let picked = match id {
            None => only().ok_or("it has no `kid`, and its issuer has several keys"),
            Some(id) => self
                .keys
                .iter()
                .find(|key| key.id.as_deref() == Some(id))
                .or_else(|| only().filter(|key| key.id.is_none()))
                .ok_or("its `kid` is none of the issuer's keys"),
        };
        picked.map(|picked| &picked.key).map_err(str::to_owned)
    }
}

fn signed(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::Hs256 => Algorithm::HS256,
        JwtAlgorithm::Rs256 => Algorithm::RS256,
        JwtAlgorithm::Es256 => Algorithm::ES256,
        JwtAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

fn file_read(path: &Path) -> Result<Vec<u8>, KeyError> {
    let mut content = Vec::new();
    let file = File::open(path).map_err(KeyError::Read)?;
    file.take(MAX_KEY_FILE_BYTES + 1).read_to_end(&mut content).map_err(KeyError::Read)?;
    if content.len() as u64 > MAX_KEY_FILE_BYTES { Err(KeyError::TooLarge) } else { Ok(content) }
}

/// Reads a secret as it stands, but for one line end that an editor left; or a public key as PEM.
fn single(content: &[u8], algorithm: JwtAlgorithm) -> Result<DecodingKey, KeyError> {
    let text = String::from_utf8_lossy(content);
    let key = match algorithm {
        JwtAlgorithm::Hs256 if text.contains("-----BEGIN ") => return Err(KeyError::SecretIsPem),
        JwtAlgorithm::Hs256 => {
            let secret = content.strip_suffix(b"\n").unwrap_or(content);
            Ok(DecodingKey::from_secret(secret.strip_suffix(b"\r").unwrap_or(secret)))
        }
        _ if text.contains("PRIVATE KEY-----") => return Err(KeyError::Private),
        JwtAlgorithm::Rs256 => DecodingKey::from_rsa_pem(content),
        JwtAlgorithm::Es256 => DecodingKey::from_ec_pem(content),
        JwtAlgorithm::EdDsa => DecodingKey::from_ed_pem(content),
    };
    checked(key.map_err(|_| KeyError::Unfit(algorithm.as_str()))?, algorithm)
}

/// Reads those keys of a set that are meant for the algorithm; a set may hold others for other purposes.
fn set(content: &[u8], algorithm: JwtAlgorithm) -> Result<Vec<Key>, KeyError> {
    // The parser's own message may quote what it stumbled over, which here may be a secret.
    let set: JwkSet = serde_json::from_slice(content)
        .map_err(|error| KeyError::Set { line: error.line(), column: error.column() })?;
    if set.keys.len() > MAX_SET_KEYS {
        return Err(KeyError::TooMany(set.keys.len()));
    }
    let read = |jwk: &Jwk| {
        let key = DecodingKey::from_jwk(jwk).map_err(|_| KeyError::Unfit(algorithm.as_str()))?;
        Ok(Key { id: jwk.common.key_id.clone(), key: checked(key, algorithm)? })
    };
    let keys = set.keys.iter().filter(|jwk| fits(jwk, algorithm)).map(read).collect::<Result<Vec<_>, _>>()?;
    let ids: BTreeSet<_> = keys.iter().filter_map(|key| key.id.as_deref()).collect();
    match keys.len() {
        0 => Err(KeyError::NoneFits(algorithm.as_str())),
        1 => Ok(keys),
        count if count == ids.len() => Ok(keys),
        _ => Err(KeyError::KeyIds(algorithm.as_str())),
    }
}

fn fits(jwk: &Jwk, algorithm: JwtAlgorithm) -> bool {
    let kind_fits = match (&jwk.algorithm, algorithm) {
        (AlgorithmParameters::OctetKey(_), JwtAlgorithm::Hs256)
        | (AlgorithmParameters::RSA(_), JwtAlgorithm::Rs256) => true,
        (AlgorithmParameters::EllipticCurve(key), JwtAlgorithm::Es256) => key.curve == EllipticCurve::P256,
        (AlgorithmParameters::OctetKeyPair(key), JwtAlgorithm::EdDsa) => key.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    let common = &jwk.common;
    let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    kind_fits
        && common.key_algorithm.is_none_or(|named| named == KeyAlgorithm::from(signed(algorithm)))
        && common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(verifies)
}

/// Refuses what the library would only stumble over, or not even that, when it verifies with the key.
fn checked(key: DecodingKey, algorithm: JwtAlgorithm) -> Result<DecodingKey, KeyError> {
    let unfit = || KeyError::Unfit(algorithm.as_str());
    match algorithm {
        JwtAlgorithm::Hs256 => {
            let secret = key.try_get_as_bytes().map_err(|_| unfit())?;
            if secret.len() < MIN_SECRET_BYTES {
                return Err(KeyError::Short(secret.len()));
            }
        }
        JwtAlgorithm::Rs256 => {
            let bits = match key.kind() {
                DecodingKeyKind::RsaModulusExponent { n, .. } => bits(n),
                DecodingKeyKind::SecretOrDer(der) => {
                    let components = (DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key)(der);
                    bits(&components.map_err(|_| unfit())?.0)
                }
            };
            if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
                return Err(KeyError::RsaBits(bits));
            }
        }
        // Of a longer key the library would take the beginning, and a shorter one would make it panic.
        JwtAlgorithm::EdDsa if key.try_get_as_bytes().map_or(0, <[u8]>::len) != ED25519_BYTES => return Err(unfit()),
        JwtAlgorithm::Es256 | JwtAlgorithm::EdDsa => {}
    }
    // Making a verifier finds points that are not on the curve.
    (DEFAULT_PROVIDER.verifier_factory)(&signed(algorithm), &key).map_err(|_| unfit())?;
    Ok(key)
}

fn bits(number: &[u8]) -> usize {
    let significant = number.iter().position(|&byte| byte != 0).map_or(&[][..], |first| &number[first..]);
    significant.first().map_or(0, |first| significant.len() * 8 - first.leading_zeros() as usize)
}
