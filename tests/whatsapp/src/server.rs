//! The server as tests see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

use crate::account::Account;
use crate::behaviour::{Behaviour, Garbage, PairingRefusal};
use crate::contact::Contact;
use crate::group::{self, Group};
use crate::lock::lock;
use crate::state::State;
use crate::{code, http, pairing};

/// A WhatsApp server on a port of its own. It ends with its last handle.
#[derive(Clone)]
pub struct Server {
    state: Arc<State>,
    _alive: Arc<DropGuard>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.state.address)
    }
}

impl Server {
    /// Starts a server on loopback.
    ///
    /// # Panics
    /// If loopback has no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let address = listener.local_addr().expect("the address of an open port");
        let state = Arc::new(State::new(address));
        tokio::spawn(http::serve(listener, Arc::clone(&state)));
        let alive = Arc::new(state.stopped.clone().drop_guard());
        Self { state, _alive: alive }
    }

    /// Closes the port and every connection.
    pub fn stop(&self) {
        self.state.stopped.cancel();
    }

    /// Where clients connect, `ws://127.0.0.1:PORT/ws/chat`.
    pub fn url(&self) -> String {
        format!("ws://{}/ws/chat", self.state.address)
    }

    /// Host and port: of the chat server, the media host and the client's version alike.
    pub fn authority(&self) -> String {
        self.state.address.to_string()
    }

    /// Somebody with this number; the first call brings them to WhatsApp.
    pub fn contact(&self, number: &str) -> Contact {
        Contact::new(Arc::clone(&self.state), self.state.person(number))
    }

    /// Somebody who is asked for by another number than WhatsApp has: those of Brazil with and without their ninth digit.
    pub fn alias(&self, number: &str, of: &Contact) {
        lock(&self.state.aliases).insert(number.to_owned(), of.number());
    }

    /// Says that every number is on WhatsApp, from now on.
    pub fn everybody(&self) {
        self.state.switches.everybody.store(true, Ordering::Relaxed);
    }

    /// A new group of these contacts. Accounts are added to it.
    pub fn group(&self, members: &[&Contact]) -> Group {
        group::create(&self.state, members.iter().map(|contact| contact.person()).collect())
    }

    /// The owner of a number scans the text of a QR code with the phone.
    pub async fn scan(&self, qr: &str, phone_number: &str) -> Result<Account, String> {
        pairing::scan(&self.state, qr, phone_number).await.map(Account::new)
    }

    /// The owner of a number types the code that a client shows, with or without its dash.
    ///
    /// A wrong code costs the client one of its three attempts, as on a real phone.
    pub async fn enter_code(&self, phone_number: &str, code: &str) -> Result<Account, String> {
        code::enter(&self.state, phone_number, code).await.map(Account::new)
    }

    /// The account of a number: its latest linked device.
    pub fn account(&self, phone_number: &str) -> Option<Account> {
        lock(&self.state.devices).get(phone_number)?.last().cloned().map(Account::new)
    }

    /// How messages to a number or to a group are treated from now on.
    pub fn on_send(&self, to: &str, behaviour: Behaviour) {
        self.state.set_behaviour(to, behaviour);
    }

    /// Says that the clients' version is too old (405), or no longer.
    pub fn refuse_version(&self, refuse: bool) {
        self.state.switches.refuse_version.store(refuse, Ordering::Relaxed);
    }

    /// How pairings are refused from now on; `None` ends it.
    pub fn refuse_pairing(&self, refusal: Option<PairingRefusal>) {
        *lock(&self.state.switches.pairing_refusal) = refusal;
    }

    /// Whether accounts paired from now on are addressed by `lid` on the wire.
    pub fn lid_migrated(&self, migrated: bool) {
        self.state.switches.lid_migrated.store(migrated, Ordering::Relaxed);
    }

    /// Sends garbage to every client there is.
    pub fn corrupt_next_frames(&self, garbage: Garbage) {
        for outbox in lock(&self.state.connections).values() {
            outbox.garbage(garbage);
        }
    }

    /// Sends garbage to the next client that connects; during its handshake, where that is possible.
    pub fn corrupt_next_connection(&self, garbage: Garbage) {
        lock(&self.state.switches.garbage).push_back(garbage);
    }

    /// What clients were told about uploads is no longer valid: the next upload has to ask again.
    pub fn expire_media_auth(&self) {
        self.state.blobs.expire_auth();
    }

    /// Refuses uploads with this HTTP status; `None` ends it.
    pub fn refuse_uploads(&self, status: Option<u16>) {
        self.state.blobs.refuse(status);
    }

    /// Every number a client asked about, in order, repeats included.
    pub fn lookups(&self) -> Vec<String> {
        lock(&self.state.lookups).clone()
    }
}
