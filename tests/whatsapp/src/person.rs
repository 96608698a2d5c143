//! Somebody with a phone: a contact, the member of a group, or the owner of an account.

use std::collections::HashMap;
use std::sync::Mutex;

use wacore::messages::MessageUtils;
use wacore_binary::{Jid, Node};
use wacore_libsignal::protocol::{IdentityKeyPair, PreKeyBundle};

use crate::lock::lock;
use crate::signal::SignalDevice;
use crate::stanza::lid_of;

/// The version of the padding around a message.
const PADDING: u8 = 2;

pub(crate) struct Person {
    pub(crate) number: String,
    inner: Mutex<Inner>,
}

struct Inner {
    signal: SignalDevice,
    shown: Vec<Shown>,
    /// Where in `shown` the message of this sender with this id is.
    index: HashMap<(String, String), usize>,
    decrypt_errors: Vec<String>,
    /// How often a message that couldn't be decrypted was asked for again.
    retries: HashMap<(String, String), u8>,
}

/// A message as the phone keeps it; decoded only when somebody looks.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) from: String,
    pub(crate) group: Option<String>,
    pub(crate) id: String,
    pub(crate) plaintext: Box<[u8]>,
    pub(crate) copies: usize,
}

impl Person {
    pub(crate) fn new(number: &str) -> Self {
        Self {
            number: number.to_owned(),
            inner: Mutex::new(Inner {
                signal: SignalDevice::generate(),
                shown: Vec::new(),
                index: HashMap::new(),
                decrypt_errors: Vec::new(),
                retries: HashMap::new(),
            }),
        }
    }

    pub(crate) fn jid(&self) -> Jid {
        Jid::pn(self.number.as_str())
    }

    pub(crate) fn lid(&self) -> Jid {
        Jid::lid(lid_of(&self.number))
    }

    pub(crate) fn identity(&self) -> IdentityKeyPair {
        lock(&self.inner).signal.identity().clone()
    }

    /// A bundle of keys for whoever wants to write to this phone.
    pub(crate) fn bundle(&self) -> Vec<Node> {
        lock(&self.inner).signal.bundle()
    }

    /// Decrypts an `<enc>` from the device `peer` and takes the padding off.
    pub(crate) fn decrypt(&self, peer: &str, kind: &str, ciphertext: &[u8]) -> Result<Vec<u8>, String> {
        let padded = lock(&self.inner).signal.decrypt(peer, kind, ciphertext).map_err(|e| e.to_string())?;
        unpad(padded)
    }

    /// Decrypts an `<enc>` of a group.
    pub(crate) fn decrypt_group(&self, group: &str, peer: &str, ciphertext: &[u8]) -> Result<Vec<u8>, String> {
        let padded = lock(&self.inner).signal.decrypt_group(group, peer, ciphertext).map_err(|e| e.to_string())?;
        unpad(padded)
    }

    pub(crate) fn learn_sender_key(&self, group: &str, peer: &str, distribution: &[u8]) -> Result<(), String> {
        lock(&self.inner).signal.learn_sender_key(group, peer, distribution).map_err(|e| e.to_string())
    }

    /// Encrypts a message for the device `peer`.
    pub(crate) fn encrypt(
        &self,
        peer: &str,
        message: &[u8],
        bundle: impl FnOnce() -> Option<PreKeyBundle>,
    ) -> Result<(&'static str, Vec<u8>), String> {
        let padded = MessageUtils::pad_message_v2(message.to_vec());
        lock(&self.inner).signal.encrypt(peer, &padded, bundle)
    }

    /// Shows a message, once for each sender and id: what comes again under the same id is a copy.
    pub(crate) fn show(&self, from: &str, group: Option<&str>, id: &str, plaintext: Vec<u8>) {
        let inner = &mut *lock(&self.inner);
        inner.retries.remove(&(from.to_owned(), id.to_owned()));
        let place = *inner.index.entry((from.to_owned(), id.to_owned())).or_insert(inner.shown.len());
        if let Some(shown) = inner.shown.get_mut(place) {
            shown.copies += 1;
            return;
        }
        inner.shown.push(Shown {
            from: from.to_owned(),
            group: group.map(str::to_owned),
            id: id.to_owned(),
            plaintext: plaintext.into_boxed_slice(),
            copies: 1,
        });
    }

    /// Notes that a message couldn't be decrypted. Gives the number of this request for it, with fresh keys, or nothing if
    /// it was asked for often enough.
    pub(crate) fn failed(&self, from: &str, id: &str, error: &str) -> Option<(u8, [Node; 2])> {
        let inner = &mut *lock(&self.inner);
        inner.decrypt_errors.push(format!("{id} from {from}: {error}"));
        let count = inner.retries.entry((from.to_owned(), id.to_owned())).or_default();
        *count += 1;
        (*count <= MAX_RETRIES).then(|| (*count, inner.signal.retry_keys()))
    }

    /// A new phone: other keys, no sessions. What was shown stays.
    pub(crate) fn reinstall(&self) {
        lock(&self.inner).signal = SignalDevice::generate();
    }

    pub(crate) fn shown(&self) -> Vec<Shown> {
        lock(&self.inner).shown.clone()
    }

    pub(crate) fn decrypt_errors(&self) -> Vec<String> {
        lock(&self.inner).decrypt_errors.clone()
    }

    pub(crate) fn reused_counters(&self) -> usize {
        lock(&self.inner).signal.reused_counters()
    }
}

/// A client refuses the fifth request.
const MAX_RETRIES: u8 = 4;

fn unpad(mut padded: Vec<u8>) -> Result<Vec<u8>, String> {
    let len = MessageUtils::unpad_message_ref(&padded, PADDING).map_err(|e| e.to_string())?.len();
    padded.truncate(len);
    Ok(padded)
}
