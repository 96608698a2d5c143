//! The deployment's secret, and the keys made from it: one for each purpose, so that none is used for two.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What `SANASR_SECRET_KEY` says. It is never shown.
#[derive(Clone)]
pub struct SecretKey(String);

impl SecretKey {
    /// The secret of a deployment.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
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
    fn each_purpose_has_its_key() {
        let secret = SecretKey::new("x".repeat(32));
        assert_eq!(secret.derive("a"), secret.derive("a"));
        assert_ne!(secret.derive("a"), secret.derive("b"));
        assert_ne!(secret.derive("a"), SecretKey::new("y".repeat(32)).derive("a"));
        assert_eq!(format!("{secret:?}"), "SecretKey");
    }
}
