//! The deployment's secret, and the keys made from it: one for each purpose, so that none is used for two.

use std::collections::HashSet;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The shortest secret, in characters.
pub const LENGTH_MIN: usize = 32;
/// Different characters that a secret has at least. Of texts of 32 random digits one in 800 has fewer, of 32 random
/// hexadecimal digits one in 28 million.
const DISTINCT_MIN: usize = 8;

/// What `SANASR_SECRET_KEY` says. It is never shown.
#[derive(Clone)]
pub struct SecretKey(String);

impl SecretKey {
    /// The secret of a deployment.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Reads what an operator has set.
    ///
    /// # Errors
    /// What is wrong with it, in words: it is too short, or easily guessed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let chars: Vec<char> = text.chars().collect();
        if chars.len() < LENGTH_MIN {
            return Err(format!("is too short: it must have {LENGTH_MIN} characters or more"));
        }
        let distinct = chars.iter().collect::<HashSet<_>>().len();
        let repeats = (1..=chars.len() / 2).any(|unit| chars.iter().zip(&chars[unit..]).all(|(a, b)| a == b));
        if distinct < DISTINCT_MIN || repeats {
            return Err(format!(
                "is easily guessed: it must have {DISTINCT_MIN} different characters or more, and not repeat itself; take \
                 the output of `openssl rand -hex 32`"
            ));
        }
        Ok(Self::new(text))
    }

    /// The key for one purpose: HMAC-SHA256 of the purpose's name under the secret.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(purpose.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_easily_guessed_is_no_secret() {
        for (text, why) in [
            ("short".to_owned(), "short"),
            ("x".repeat(64), "guessed"),
            ("0".repeat(32), "guessed"),
            ("ab".repeat(32), "guessed"),
            ("changeme".repeat(5), "guessed"),
            ("0123456789abcdef".repeat(2), "guessed"),
            ("0123456789abcdef0123456789abcdef0123".to_owned(), "guessed"),
            (format!("{}123456", "x".repeat(26)), "guessed"),
        ] {
            let said = SecretKey::parse(&text).expect_err(&text);
            assert!(said.contains(why), "{text}: {said}");
        }
        for good in ["a secret of tests, never of anything else", "4f9c0e2b7d61a8354f0c9e2b7d61a83b"] {
            assert!(SecretKey::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn each_purpose_has_its_key() {
        let secret = SecretKey::new("x".repeat(32));
        assert_eq!(secret.derive("a"), secret.derive("a"));
        assert_ne!(secret.derive("a"), secret.derive("b"));
        assert_ne!(secret.derive("a"), SecretKey::new("y".repeat(32)).derive("a"));
        assert_eq!(format!("{secret:?}"), "SecretKey");
    }
}
