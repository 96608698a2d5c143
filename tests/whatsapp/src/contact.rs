//! A contact as tests see it: somebody the accounts write to.

use std::sync::Arc;

use wacore_binary::Jid;
use wacore_binary::builder::NodeBuilder;
use waproto::whatsapp as wa;

use crate::account::Account;
use crate::media;
use crate::person::Person;
use crate::stanza::{new_id, now_secs};
use crate::state::State;

/// Somebody on WhatsApp, with a phone that decrypts what it gets.
#[derive(Clone)]
pub struct Contact {
    state: Arc<State>,
    person: Arc<Person>,
}

/// A message as a contact sees it.
#[derive(Debug, Clone)]
pub struct Received {
    /// The number of the account that sent it.
    pub from_account: String,
    /// The group it was sent to, if it was.
    pub group: Option<String>,
    /// Its id.
    pub id: String,
    /// What it says.
    pub message: wa::Message,
    /// How often a message with this id came and could be decrypted.
    pub copies: usize,
}

impl std::fmt::Debug for Contact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Contact({})", self.person.number)
    }
}

impl Contact {
    pub(crate) fn new(state: Arc<State>, person: Arc<Person>) -> Self {
        Self { state, person }
    }

    pub(crate) fn person(&self) -> Arc<Person> {
        Arc::clone(&self.person)
    }

    /// The phone number.
    pub fn number(&self) -> String {
        self.person.number.clone()
    }

    /// The address made from the phone number.
    pub fn jid(&self) -> Jid {
        self.person.jid()
    }

    /// The address that hides the phone number.
    pub fn lid(&self) -> Jid {
        self.person.lid()
    }

    /// What the phone shows: each message once, in the order of the first arrivals.
    pub fn messages(&self) -> Vec<Received> {
        let decode = |shown: crate::person::Shown| Received {
            message: waproto::codec::message_decode(&shown.plaintext).unwrap_or_default(),
            from_account: shown.from,
            group: shown.group,
            id: shown.id,
            copies: shown.copies,
        };
        self.person.shown().into_iter().map(decode).collect()
    }

    /// Fetches the file of a message from the media host, checks its hashes and decrypts it.
    pub async fn download(&self, received: &Received) -> Result<Vec<u8>, String> {
        media::open(&self.state.blobs, &received.message)
    }

    /// What couldn't be decrypted; the sender was asked for it again.
    pub fn decrypt_errors(&self) -> Vec<String> {
        self.person.decrypt_errors()
    }

    /// The contact moves to a new phone: its keys change, and it can't decrypt what is sent with the old ones. It asks for
    /// such messages again, with its new keys.
    pub fn reinstall(&self) {
        self.person.reinstall();
    }

    /// How often a message key was used for two different ciphertexts.
    pub fn reused_counters(&self) -> usize {
        self.person.reused_counters()
    }

    /// Writes to an account, as soon as its client has uploaded keys. An account that isn't connected gets the message after
    /// its next login. Gives the message's id.
    ///
    /// # Panics
    /// If the keys of the account's client are no keys.
    pub async fn write(&self, to: &Account, text: &str) -> String {
        let message = wa::Message { conversation: Some(text.to_owned()), ..Default::default() };
        let device = to.device();
        device.wait_for_keys().await;
        let bundle = || device.with_keys(crate::prekeys::Uploaded::bundle);
        let plaintext = waproto::codec::message_to_vec(&message);
        let (kind, ciphertext) =
            self.person.encrypt(&device.peer, &plaintext, bundle).expect("the account can be written to");
        let id = new_id("3EB0C0");
        let enc = NodeBuilder::new("enc").attr("v", 2).attr("type", kind).bytes(ciphertext).build();
        device.deliver(
            NodeBuilder::new("message")
                .attr("from", self.jid())
                .attr("sender_lid", self.lid())
                .attr("id", id.as_str())
                .attr("type", "text")
                .attr("t", now_secs())
                .attr("notify", self.person.number.as_str())
                .children([enc])
                .build(),
        );
        id
    }
}
