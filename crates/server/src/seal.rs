//! The seal: how secrets of registries are kept. Only a server with the key reads them, and only for the one execution
//! that needs them; the database alone tells nothing.
//!
//! What is sealed is bound to its tenant and host, so a row copied elsewhere does not open.

use crate::config::ServerConfig;
use model::TenantId;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use store::random;

/// Bytes of a key's file.
const MAX_KEY_BYTES: u64 = 4096;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[error("the key in `{path}` cannot be read or made")]
pub struct SealError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// A key that seals and opens.
pub(crate) struct Seal {
    key: LessSafeKey,
}

impl Seal {
    /// Takes the configured key, or that of the data folder, which is made if it is missing.
    pub(crate) fn open(config: &ServerConfig) -> Result<Self, SealError> {
        if let Some(secret) = &config.secret_key {
            return Ok(Self::new(secret.expose().as_bytes()));
        }
        let path = config.data.join("secret.key");
        let text = keep(&path).map_err(|source| SealError { path, source })?;
        Ok(Self::new(text.trim_ascii()))
    }

    fn new(text: &[u8]) -> Self {
        let bytes = blake3::derive_key("quarry 2025 secrets of registries", text);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("the key is as long as the cipher's");
        Self { key: LessSafeKey::new(key) }
    }

    /// Seals a secret for a tenant and a host.
    pub(crate) fn close(&self, tenant: TenantId, host: &str, secret: &str) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&random().to_le_bytes()[..NONCE_LEN]);
        let mut text = secret.as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), about(tenant, host), &mut text)
            .expect("a secret is far shorter than the cipher's limit");
        [nonce.to_vec(), text].concat()
    }

    /// Opens what was sealed with this key for this tenant and host.
    pub(crate) fn read(&self, tenant: TenantId, host: &str, sealed: &[u8]) -> Option<String> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let opened = self.key.open_in_place(nonce, about(tenant, host), &mut text).ok()?;
        String::from_utf8(opened.to_vec()).ok()
    }
}

fn about(tenant: TenantId, host: &str) -> Aad<Vec<u8>> {
    Aad::from(format!("{tenant} {host}").into_bytes())
}

/// Returns the key of a file, which is made if it is missing.
fn keep(path: &Path) -> std::io::Result<Vec<u8>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if !path.try_exists()? {
        make(path)?;
    }
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(MAX_KEY_BYTES).read_to_end(&mut text)?;
    if text.trim_ascii().len() < 32 {
        return Err(std::io::Error::other("it holds fewer than 32 bytes"));
    }
    Ok(text)
}

/// Makes a key's file, which has its name only once it is whole: who is killed meanwhile leaves none, or all of it.
fn make(path: &Path) -> std::io::Result<()> {
    let draft = path.with_extension(format!("{:032x}", random()));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut file| {
        writeln!(file, "{:032x}{:032x}", random(), random())?;
        file.sync_all()?;
        match std::fs::hard_link(&draft, path) {
            // Whoever was sooner has made it.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            // Not every file system has links.
            Err(_) => std::fs::rename(&draft, path),
            Ok(()) => Ok(()),
        }
    });
    let _ = std::fs::remove_file(&draft);
    written?;
    path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn only_the_same_key_tenant_and_host_open_a_secret() {
        let [ours, theirs] = [1, 2].map(|n| TenantId::new(Timestamp::UNIX_EPOCH, n));
        let seal = Seal::new(b"one");
        let sealed = seal.close(ours, "example.org", "hush");
        assert!(!sealed.windows(4).any(|part| part == b"hush"));
        assert_eq!(seal.read(ours, "example.org", &sealed).as_deref(), Some("hush"));
        assert_ne!(sealed, seal.close(ours, "example.org", "hush"));
        let mut broken = sealed.clone();
        broken[20] ^= 1;
        for (seal, tenant, host, text) in [
            (&Seal::new(b"two"), ours, "example.org", &sealed),
            (&seal, theirs, "example.org", &sealed),
            (&seal, ours, "example.com", &sealed),
            (&seal, ours, "example.org", &broken),
            (&seal, ours, "example.org", &Vec::new()),
        ] {
            assert_eq!(seal.read(tenant, host, text), None);
        }
    }

    #[test]
    fn many_that_make_a_key_at_once_have_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret.key");
        let made: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..16).map(|_| scope.spawn(|| keep(&path).expect("is made"))).collect();
            makers.into_iter().map(|maker| maker.join().expect("ends")).collect()
        });
        assert!(made.iter().all(|key| *key == made[0]), "{made:?}");
    }

    #[test]
    fn the_key_of_a_folder_is_made_once_and_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("inner/secret.key");
        let first = keep(&path).expect("is made");
        assert_eq!(keep(&path).expect("is there"), first);
        assert_eq!(std::fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path().join("inner")).expect("is there").count(), 1, "no draft is left");
        std::fs::write(&path, "short").expect("writes");
        assert!(keep(&path).is_err());
    }
}
