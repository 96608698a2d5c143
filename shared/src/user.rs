//! Users and API keys.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::ids::{ApiKeyId, UserId};
use crate::time::Time;

/// A user: a client app's account, or an operator.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// The name to log in with; unique.
    pub username: String,
    /// Mail address, or empty.
    pub email: String,
    /// First name, or empty.
    pub first_name: String,
    /// Last name, or empty.
    pub last_name: String,
    /// May use the admin endpoints.
    pub is_staff: bool,
    /// May do anything at all.
    pub is_active: bool,
    /// Messages accepted per UTC day; no limit if `None`.
    pub max_messages_per_day: Option<i64>,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
}

/// A user to be made; it gets a session `default` with it.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// The name to log in with.
    pub username: String,
    /// The hash of its password ([`hash_password`]).
    pub password_hash: String,
    /// May use the admin endpoints.
    pub is_staff: bool,
    /// Messages accepted per UTC day; no limit if `None`.
    pub max_messages_per_day: Option<i64>,
}

/// What a presented API key stands for, as the store knows it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct KeyOwner {
    /// The key's row.
    pub key_id: ApiKeyId,
    /// SHA-256 of the whole key.
    pub hash: Vec<u8>,
    /// Not revoked.
    pub key_is_active: bool,
    /// When the key ends.
    pub expires_at: Option<Time>,
    /// Whose key it is.
    pub user_id: UserId,
    /// Whether that user may do anything.
    pub user_is_active: bool,
}

/// A key as it is shown, once, to whoever made it. Form: `sanasr_<id>_<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct RawApiKey(String);

impl RawApiKey {
    /// A new key: 256 random bits, so that a plain SHA-256 is enough to keep.
    pub fn generate() -> Self {
        use rand::RngExt;
        let mut rng = rand::rng();
        let id: String =
            (0..12).map(|_| char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[rng.random_range(0..36)])).collect();
        let secret: [u8; 32] = rng.random();
        Self(format!("sanasr_{id}_{}", URL_SAFE_NO_PAD.encode(secret)))
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part by which the key is found, and the hash by which it is known; `None` if `text` isn't shaped like a key.
    pub fn parse(text: &str) -> Option<(&str, [u8; 32])> {
        let (id, secret) = text.strip_prefix("sanasr_")?.split_once('_')?;
        let sane = |part: &str, extra: &str| {
            !part.is_empty() && part.len() <= 64 && part.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
        };
        (sane(id, "") && sane(secret, "-_")).then(|| (id, Sha256::digest(text.as_bytes()).into()))
    }

    /// What is stored of it: the part by which it is found, and its hash.
    pub fn stored(&self) -> (String, [u8; 32]) {
        let (id, hash) = Self::parse(&self.0).expect("a generated key has a key's shape");
        (id.to_owned(), hash)
    }
}

/// Hashes a password: Argon2id with 19 MiB, two passes and one lane, as OWASP's Password Storage Cheat Sheet has it.
/// It takes tens of milliseconds: call it off the async threads.
///
/// # Errors
/// Only if the operating system has no randomness.
pub fn hash_password(password: &str) -> Result<String, String> {
    use argon2::password_hash::PasswordHasher;
    argon2::Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_and_known_again() {
        let key = RawApiKey::generate();
        let (id, hash) = key.stored();
        assert_eq!(RawApiKey::parse(key.as_str()), Some((id.as_str(), hash)));
        assert!(RawApiKey::generate() != key);
        assert_eq!(key.as_str().len(), "sanasr_".len() + 12 + 1 + 43);
    }

    #[test]
    fn what_is_no_key_is_no_key() {
        for text in ["", "sanasr_", "sanasr_a", "sanasr__b", "sanasr_a_", "other_a_b", "sanasr_a_b\0", "sanasr_ä_b"] {
            assert_eq!(RawApiKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn passwords_are_hashed_with_argon2id() {
        let hash = hash_password("correct horse").expect("a hash");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    }
}
