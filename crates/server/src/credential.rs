//! A credential: the text of one of our own tokens, `qry_` and the token's id and 256 random bits.
//!
//! The secret part is random, so its plain hash cannot be turned back, and no slow one is needed.

use jiff::Timestamp;
use model::TokenId;
use std::fmt;
use std::str::FromStr;
use store::random;
use subtle::ConstantTimeEq;

/// What every credential begins with; a secret scanner can look for it.
pub(crate) const PREFIX: &str = "qry_";

/// The text that proves who is asking.
#[derive(Clone, Copy)]
pub(crate) struct Credential {
    /// Which token it is.
    pub(crate) id: TokenId,
    secret: [u8; 32],
}

impl Credential {
    /// Makes a new one, with a new id unless one is given.
    pub(crate) fn new(id: Option<TokenId>, now: Timestamp) -> Self {
        let mut secret = [0; 32];
        secret[..16].copy_from_slice(&random().to_le_bytes());
        secret[16..].copy_from_slice(&random().to_le_bytes());
        Self { id: id.unwrap_or_else(|| TokenId::new(now, random())), secret }
    }

    /// Returns what is kept of it.
    pub(crate) fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.secret).as_bytes()
    }

    /// Tells whether it is the one whose hash was kept, in the same time whichever it is.
    pub(crate) fn fits(&self, hash: &[u8; 32]) -> bool {
        self.hash().ct_eq(hash).into()
    }
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.id.to_string();
        let id = id.trim_start_matches(TokenId::PREFIX).trim_start_matches('_');
        write!(f, "{PREFIX}{id}_{}", blake3::Hash::from_bytes(self.secret).to_hex())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A text that is not one of our credentials.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotOurs;

impl FromStr for Credential {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let (id, secret) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(NotOurs)?;
        let id = format!("{}_{id}", TokenId::PREFIX).parse().map_err(|_| NotOurs)?;
        let secret = blake3::Hash::from_hex(secret).map_err(|_| NotOurs)?;
        Ok(Self { id, secret: *secret.as_bytes() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_reads_back_and_fits_only_its_own_hash() {
        let one = Credential::new(None, Timestamp::UNIX_EPOCH);
        let read: Credential = one.to_string().parse().expect("reads back");
        assert!(read.fits(&one.hash()) && read.id == one.id);
        let other = Credential::new(Some(one.id), Timestamp::UNIX_EPOCH);
        assert!(!other.fits(&one.hash()));
        assert!(!format!("{one:?}").contains(&one.to_string()[31..]), "the secret shows");
    }

    #[test]
    fn anything_else_is_not_ours() {
        let good = Credential::new(None, Timestamp::UNIX_EPOCH).to_string();
        for bad in
            ["", "qry_", "Bearer", &good[1..], &good[..good.len() - 1], &format!("{good}0"), &good.replace('_', "-")]
        {
            assert!(bad.parse::<Credential>().is_err(), "{bad}");
        }
    }
}
