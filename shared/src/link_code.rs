//! A code that links a phone: the text of a QR code, or what is typed. Whoever has it can link a phone of their own to a session,
//! so it is sealed where it is kept, like the proxy. The worker seals it, and the API opens it for the session's user.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use crate::ids::SessionId;
use crate::vault::{Sealed, Vault};

/// A code, as it is kept or as it is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum LinkCode {
    /// As it is kept.
    Sealed(String),
    /// As people use it.
    Open(String),
}

impl LinkCode {
    /// Encrypts a code for the session that it is of.
    pub fn seal(vault: &Vault, session: SessionId, code: &str) -> String {
        STANDARD.encode(vault.seal(&place(session), code.as_bytes()))
    }

    /// The code as people use it.
    ///
    /// # Errors
    /// Why it can't be opened.
    pub fn open(&self, vault: &Vault, session: SessionId) -> Result<String, Sealed> {
        match self {
            Self::Open(code) => Ok(code.clone()),
            Self::Sealed(sealed) => {
                let sealed = STANDARD.decode(sealed).map_err(|_| Sealed::Damaged)?;
                let code = vault.open(&place(session), &sealed)?;
                String::from_utf8(code).map_err(|_| Sealed::Damaged)
            }
        }
    }
}

fn place(session: SessionId) -> Vec<u8> {
    [session.0.as_bytes().as_slice(), b"link code"].concat()
}

/// One that was never opened is shown to nobody.
impl Serialize for LinkCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Open(code) => serializer.serialize_str(code),
            Self::Sealed(_) => serializer.serialize_none(),
        }
    }
}

impl fmt::Debug for LinkCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkCode(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretKey;

    #[test]
    fn a_code_is_opened_for_its_session_alone() {
        let vault = Vault::new(&SecretKey::new("s".repeat(32)));
        let session = SessionId::generate();
        let sealed = LinkCode::Sealed(LinkCode::seal(&vault, session, "2@abc,def=="));
        assert_eq!(sealed.open(&vault, session).as_deref(), Ok("2@abc,def=="));
        assert_eq!(sealed.open(&vault, SessionId::generate()), Err(Sealed::Damaged));
        assert_eq!(LinkCode::Sealed("2@abc,def==".to_owned()).open(&vault, session), Err(Sealed::Damaged));
        assert_eq!(serde_json::to_string(&sealed).expect("JSON"), "null");
        assert_eq!(serde_json::to_string(&LinkCode::Open("A-B".to_owned())).expect("JSON"), "\"A-B\"");
        assert!(!format!("{:?}", LinkCode::Open("A-B".to_owned())).contains("A-B"));
    }
}
