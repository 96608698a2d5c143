//! Encrypts what is kept and must not be readable where it is kept, such as the keys of linked phones: XChaCha20-Poly1305 with a random nonce (192 bits: no two are ever the same), bound to the
//! place where it is kept, so that no value can be passed off as another.
//!
//! A sealed value is `version (1) ‖ key id (4) ‖ nonce (24) ‖ ciphertext and tag`. The key id says which secret sealed it: a
//! deployment that changes its secret can tell what is still sealed under the old one.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};

use crate::secret::SecretKey;

const VERSION: u8 = 1;
const KEY_ID: usize = 4;
const NONCE: usize = 24;
const HEADER: usize = 1 + KEY_ID + NONCE;

/// Why a sealed value can't be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Sealed {
    /// Another secret sealed it.
    #[error("it was encrypted with another SANASR_SECRET_KEY")]
    OtherKey,
    /// It isn't what was sealed.
    #[error("it is damaged")]
    Damaged,
}

/// Seals and opens with the deployment's secret.
pub struct Vault {
    cipher: XChaCha20Poly1305,
    key_id: [u8; KEY_ID],
}

impl Vault {
    /// The vault of a deployment.
    pub fn new(secret: &SecretKey) -> Self {
        let mut key_id = [0; KEY_ID];
        key_id.copy_from_slice(&secret.derive("device state: key id")[..KEY_ID]);
        Self { cipher: XChaCha20Poly1305::new(&secret.derive("device state").into()), key_id }
    }

    /// Encrypts a value for a place.
    ///
    /// # Panics
    /// If the value has 256 GB or more.
    pub fn seal(&self, place: &[u8], value: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE] = rand::random();
        let payload = Payload { msg: value, aad: place };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload).expect("values are far below 256 GB");
        [&[VERSION], self.key_id.as_slice(), &nonce, &sealed].concat()
    }

    /// Decrypts the value of a place.
    ///
    /// # Errors
    /// Why it can't be opened.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Sealed> {
        let (header, ciphertext) = sealed.split_at_checked(HEADER).ok_or(Sealed::Damaged)?;
        let (key_id, nonce) = header[1..].split_at(KEY_ID);
        if header[0] != VERSION {
            return Err(Sealed::Damaged);
        }
        if key_id != self.key_id {
            return Err(Sealed::OtherKey);
        }
        let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| Sealed::Damaged)?;
        let payload = Payload { msg: ciphertext, aad: place };
        self.cipher.decrypt(&XNonce::from(nonce), payload).map_err(|_| Sealed::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vault(secret: &str) -> Vault {
        Vault::new(&SecretKey::new(secret.repeat(32)))
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_alone() {
        let (vault, other) = (vault("a"), vault("b"));
        let sealed = vault.seal(b"here", b"a ratchet");
        assert_eq!(vault.open(b"here", &sealed), Ok(b"a ratchet".to_vec()));
        assert_eq!(vault.open(b"there", &sealed), Err(Sealed::Damaged));
        assert_eq!(other.open(b"here", &sealed), Err(Sealed::OtherKey));
        assert_ne!(vault.seal(b"here", b"a ratchet"), sealed, "never the same twice");
        assert!(!sealed.windows(9).any(|w| w == b"a ratchet"));
    }

    proptest! {
        #[test]
        fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(vault("a").open(b"here", &bytes).is_err());
        }

        #[test]
        fn any_change_is_noticed(value in prop::collection::vec(any::<u8>(), 0..100), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let vault = vault("a");
            let mut sealed = vault.seal(b"here", &value);
            let at = at.index(sealed.len());
            sealed[at] ^= 1_u8 << bit;
            prop_assert!(vault.open(b"here", &sealed).is_err());
        }
    }
}
