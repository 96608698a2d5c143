//! Users and API keys.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;

use crate::ids::{ApiKeyId, UserId};
use crate::time::Time;

/// A user: a client app's account, or an operator.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct User {
    /// Its id.
    #[schema(value_type = i64)]
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
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Time,
}

/// A user to be made; it gets a session `default` with it.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// The name to log in with.
    pub username: String,
    /// The hash of its password ([`Password::hash`](crate::password::Password::hash)).
    pub password_hash: String,
    /// May use the admin endpoints.
    pub is_staff: bool,
    /// Messages accepted per UTC day; no limit if `None`.
    pub max_messages_per_day: Option<i64>,
}

/// What changes of a user: only what is given.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the fields of a user")]
pub struct UserChange {
    pub username: Option<String>,
    /// A new password ends the user's logins.
    pub password_hash: Option<String>,
    pub email: Option<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub is_staff: Option<bool>,
    pub is_active: Option<bool>,
    /// `Some(None)` means no limit.
    pub max_messages_per_day: Option<Option<i64>>,
}

/// Which users to list. All conditions must hold.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the query parameters of the contract")]
pub struct UserFilter {
    pub username: Option<String>,
    pub is_active: Option<bool>,
    pub is_staff: Option<bool>,
}

/// The longest username, in characters.
pub const USERNAME_MAX: usize = 150;

/// A username in the one form (NFKC) in which it is stored and compared. Upper and lower case differ, as they always did
/// where users come from.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub fn parse_username(text: &str) -> Result<String, &'static str> {
    const LENGTH: &str = "A username has 1 to 150 characters.";
    // No character that a name may have takes more.
    if text.len() > USERNAME_MAX * 16 {
        return Err(LENGTH);
    }
    let name: String = text.nfkc().collect();
    if name.is_empty() || name.chars().count() > USERNAME_MAX {
        return Err(LENGTH);
    }
    if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("A username has no spaces and no control characters.");
    }
    Ok(name)
}

/// An API key as it is shown after it was made: without its secret.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct ApiKey {
    /// Its id.
    #[schema(value_type = i64)]
    pub id: ApiKeyId,
    /// Whose key it is.
    #[schema(value_type = i64)]
    pub user_id: UserId,
    /// What it was called by whoever made it.
    pub name: String,
    /// How the key begins: enough to recognise it.
    pub prefix: String,
    /// Neither revoked nor past its end.
    pub is_active: bool,
    /// When it ends; never if null.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Time>,
    /// When it was last used, some seconds late.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Time>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
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
    fn a_username_has_one_form() {
        assert_eq!(parse_username("Am\u{65}\u{301}lie").as_deref(), Ok("Am\u{e9}lie"));
        assert_eq!(parse_username("ｒｏｏｔ").as_deref(), Ok("root"));
        assert!(parse_username(&"ä".repeat(150)).is_ok());
        let long = "a".repeat(151);
        for wrong in ["", "a b", "a\u{a0}b", "a\nb", "a\0", "\u{3000}", &long, &"x".repeat(1 << 20)] {
            assert!(parse_username(wrong).is_err(), "{wrong:.20}");
        }
    }

    #[test]
    fn what_is_no_key_is_no_key() {
        for text in ["", "sanasr_", "sanasr_a", "sanasr__b", "sanasr_a_", "other_a_b", "sanasr_a_b\0", "sanasr_ä_b"] {
            assert_eq!(RawApiKey::parse(text), None, "{text}");
        }
    }
}
