//! A proxy that a session reaches WhatsApp by: SOCKS5 (RFC 1928, 1929) or HTTP CONNECT (RFC 9110).

use std::fmt;

use reqwest::Url;

use crate::ids::SessionId;
use crate::vault::{Sealed, Vault};

/// The longest that is taken.
const LENGTH_MAX: usize = 500;

/// A proxy. Its credentials are shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy(Url);

impl Proxy {
    /// Reads `socks5://user:password@host:port` or `http://…`; names are resolved by the proxy.
    ///
    /// # Errors
    /// What is wrong with it and how to mend it, in a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form =
            || "Must be socks5://host:port or http://host:port, with user:password@ before the host if it needs that.";
        if text.len() > LENGTH_MAX {
            return Err(format!("A proxy has at most {LENGTH_MAX} characters."));
        }
        let url = Url::parse(text).map_err(|_| form().to_owned())?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let known = matches!(url.scheme(), "socks5" | "http");
        if !known || !bare || url.host_str().is_none_or(str::is_empty) || url.port_or_known_default().is_none() {
            return Err(form().to_owned());
        }
        if url.scheme() == "socks5" && url.port().is_none() {
            return Err("A SOCKS5 proxy needs its port: socks5://host:1080.".to_owned());
        }
        // RFC 1929 counts each of them in a byte.
        if [url.username(), url.password().unwrap_or_default()].iter().any(|part| part.len() > 255) {
            return Err("A proxy's user and password have at most 255 characters each.".to_owned());
        }
        Ok(Self(url))
    }

    /// All of it, credentials included.
    pub const fn url(&self) -> &Url {
        &self.0
    }

    /// Encrypts it for the session that it is of.
    pub fn seal(&self, vault: &Vault, session: SessionId) -> Vec<u8> {
        vault.seal(&place(session), self.0.as_str().as_bytes())
    }

    /// Decrypts one.
    ///
    /// # Errors
    /// Why it can't be opened.
    pub fn open(vault: &Vault, session: SessionId, sealed: &[u8]) -> Result<Self, Sealed> {
        let text = String::from_utf8(vault.open(&place(session), sealed)?).map_err(|_| Sealed::Damaged)?;
        Self::parse(&text).map_err(|_| Sealed::Damaged)
    }
}

fn place(session: SessionId) -> Vec<u8> {
    [session.0.as_bytes().as_slice(), b"proxy"].concat()
}

impl fmt::Display for Proxy {
    /// Without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        self.0.port_or_known_default().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretKey;

    #[test]
    fn credentials_are_kept_and_not_shown() {
        let proxy = Proxy::parse("socks5://me:pass%20word@proxy.example.org:1080").expect("a proxy");
        assert_eq!(proxy.to_string(), "socks5://proxy.example.org:1080");
        assert_eq!(format!("{proxy:?}"), proxy.to_string());
        let (vault, session) = (Vault::new(&SecretKey::new("s".repeat(32))), SessionId::generate());
        let sealed = proxy.seal(&vault, session);
        assert!(!String::from_utf8_lossy(&sealed).contains("proxy.example"));
        assert_eq!(Proxy::open(&vault, session, &sealed), Ok(proxy));
        assert!(Proxy::open(&vault, SessionId::generate(), &sealed).is_err());
        assert_eq!(Proxy::parse("http://[::1]:3128").expect("a proxy").to_string(), "http://[::1]:3128");
        assert_eq!(Proxy::parse("http://proxy").expect("a proxy").to_string(), "http://proxy:80");
    }

    #[test]
    fn what_is_no_proxy_is_refused() {
        for wrong in [
            "",
            "proxy.example.org:1080",
            "socks5://proxy.example.org",
            "socks4://proxy.example.org:1080",
            "ftp://proxy.example.org:21",
            "http://proxy.example.org/path",
            "http://proxy.example.org:99999",
            "http://",
            "socks5://:1080",
        ] {
            assert!(Proxy::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Proxy::parse(&format!("http://{}:1", "a".repeat(600))).is_err());
    }
}
