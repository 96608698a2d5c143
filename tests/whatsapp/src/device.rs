//! A linked device of an account: what the server keeps of it over its connections.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node, SERVER_JID};

use crate::account::WireMessage;
use crate::connection::Outbox;
use crate::lock::lock;
use crate::person::Person;
use crate::prekeys::Uploaded;
use crate::stanza::{lid_of, now_secs};

pub(crate) struct Device {
    pub(crate) number: String,
    pub(crate) id: u16,
    pub(crate) noise_key: [u8; 32],
    /// The owner's phone.
    pub(crate) phone: Arc<Person>,
    /// How Signal sessions with it are named.
    pub(crate) peer: String,
    /// What the app state is encrypted with.
    pub(crate) app_state_key: [u8; 32],
    active: watch::Sender<bool>,
    has_keys: watch::Sender<bool>,
    inner: Mutex<Inner>,
}

struct Inner {
    linked: bool,
    banned_until: Option<Instant>,
    connection: Option<Outbox>,
    logins: usize,
    keys: Option<Uploaded>,
    keys_shared: bool,
    /// Stanzas for it that came while it was away.
    offline: VecDeque<Node>,
    /// Stanzas it was sent and hasn't acknowledged: they are sent again after the next login.
    unsettled: VecDeque<Node>,
    /// Receipts that a test holds back.
    held: Vec<Node>,
    wire: Vec<WireMessage>,
    typing: Vec<String>,
}

impl Device {
    pub(crate) fn new(number: &str, id: u16, noise_key: [u8; 32], phone: Arc<Person>) -> Self {
        Self {
            number: number.to_owned(),
            id,
            noise_key,
            phone,
            peer: format!("{number}:{id}"),
            app_state_key: rand::random(),
            active: watch::Sender::new(false),
            has_keys: watch::Sender::new(false),
            inner: Mutex::new(Inner {
                linked: true,
                banned_until: None,
                connection: None,
                logins: 0,
                keys: None,
                keys_shared: false,
                offline: VecDeque::new(),
                unsettled: VecDeque::new(),
                held: Vec::new(),
                wire: Vec::new(),
                typing: Vec::new(),
            }),
        }
    }

    pub(crate) fn jid(&self) -> Jid {
        Jid::pn_device(self.number.as_str(), self.id)
    }

    pub(crate) fn lid(&self) -> Jid {
        Jid::lid_device(lid_of(&self.number), self.id)
    }

    /// Lets a connection in, or says which stanza refuses it. An older connection is told that it was replaced.
    pub(crate) fn login(&self, outbox: &Outbox) -> Result<(), Box<Node>> {
        let mut inner = lock(&self.inner);
        if !inner.linked {
            return Err(Box::new(failure(401).build()));
        }
        if let Some(left) = inner.banned_until.and_then(|until| until.checked_duration_since(Instant::now())) {
            let refusal = failure(402).attr("code", 101).attr("expire", left.as_secs().max(1));
            return Err(Box::new(refusal.build()));
        }
        if let Some(older) = inner.connection.replace(outbox.clone()) {
            older.send(conflict("replaced"));
            older.close();
            inner.leave();
            inner.connection = Some(outbox.clone());
        }
        inner.logins += 1;
        self.active.send_replace(false);
        outbox.send(
            NodeBuilder::new("success")
                .attr("t", now_secs())
                .attr("lid", self.lid())
                .attr("location", "loc")
                .attr("props", 1)
                .attr("creation", now_secs())
                .build(),
        );
        Ok(())
    }

    /// The client asks for what has come while it was away: all of it is sent, and what comes later as it comes.
    pub(crate) fn activate(&self, outbox: &Outbox) {
        let mut inner = lock(&self.inner);
        if inner.connection.as_ref().is_none_or(|current| current.id != outbox.id) || *self.active.borrow() {
            return;
        }
        let waiting = std::mem::take(&mut inner.offline);
        let count = waiting.len();
        if count > 0 {
            let receipts = waiting.iter().filter(|node| node.tag == "receipt").count();
            outbox.send(ib(NodeBuilder::new("offline_preview")
                .attr("count", count)
                .attr("message", count - receipts)
                .attr("receipt", receipts)
                .attr("notification", 0)
                .attr("call", 0)
                .build()));
        }
        for mut stanza in waiting {
            stanza.attrs.insert("offline", "0");
            outbox.send(stanza.clone());
            inner.unsettled.push_back(stanza);
        }
        outbox.send(ib(NodeBuilder::new("offline").attr("count", count).build()));
        self.active.send_replace(true);
    }

    /// A connection has ended.
    pub(crate) fn closed(&self, outbox: &Outbox) {
        let mut inner = lock(&self.inner);
        if inner.connection.as_ref().is_some_and(|current| current.id == outbox.id) {
            inner.leave();
            self.active.send_replace(false);
        }
    }

    /// Sends a stanza, now or after the next login.
    pub(crate) fn deliver(&self, stanza: Node) {
        let mut inner = lock(&self.inner);
        let active = *self.active.borrow();
        match &inner.connection {
            Some(outbox) if active => {
                outbox.send(stanza.clone());
                inner.unsettled.push_back(stanza);
            }
            _ => inner.offline.push_back(stanza),
        }
    }

    /// The client has acknowledged the `tag` with this id.
    pub(crate) fn settle(&self, tag: &str, id: &str, kind: &str, participant: &str) {
        let same = |node: &Node| {
            let attr = |name| node.attrs.get(name).map(|value| value.as_str().into_owned()).unwrap_or_default();
            let whose = attr("participant");
            node.tag == tag
                && attr("id") == id
                && (tag == "message" || attr("type") == kind)
                && (participant.is_empty() || whose.is_empty() || whose == participant)
        };
        let mut inner = lock(&self.inner);
        if let Some(place) = inner.unsettled.iter().position(same) {
            inner.unsettled.remove(place);
        }
    }

    pub(crate) fn unsettled(&self) -> usize {
        let inner = lock(&self.inner);
        inner.unsettled.len() + inner.offline.len()
    }

    pub(crate) fn hold(&self, receipts: impl IntoIterator<Item = Node>) {
        lock(&self.inner).held.extend(receipts);
    }

    pub(crate) fn release(&self, count: usize) {
        let mut inner = lock(&self.inner);
        let count = count.min(inner.held.len());
        let released: Vec<_> = inner.held.drain(..count).collect();
        drop(inner);
        for receipt in released {
            self.deliver(receipt);
        }
    }

    pub(crate) fn set_keys(&self, keys: Uploaded) {
        lock(&self.inner).keys = Some(keys);
        self.has_keys.send_replace(true);
    }

    /// Waits until it has uploaded keys: before that nobody can write to it.
    pub(crate) async fn wait_for_keys(&self) {
        // The sender lives as long as the device.
        let _ = self.has_keys.subscribe().wait_for(|uploaded| *uploaded).await;
    }

    pub(crate) fn with_keys<T>(&self, look: impl FnOnce(&mut Uploaded) -> Option<T>) -> Option<T> {
        lock(&self.inner).keys.as_mut().and_then(look)
    }

    /// Whether the phone still has to share its keys of the app state; asked once.
    pub(crate) fn first_key_share(&self) -> bool {
        !std::mem::replace(&mut lock(&self.inner).keys_shared, true)
    }

    pub(crate) fn note_wire(&self, message: WireMessage) {
        lock(&self.inner).wire.push(message);
    }

    pub(crate) fn note_typing(&self, to: String) {
        lock(&self.inner).typing.push(to);
    }

    pub(crate) fn wire(&self) -> Vec<WireMessage> {
        lock(&self.inner).wire.clone()
    }

    pub(crate) fn typing(&self) -> Vec<String> {
        lock(&self.inner).typing.clone()
    }

    pub(crate) fn logins(&self) -> usize {
        lock(&self.inner).logins
    }

    pub(crate) fn is_linked(&self) -> bool {
        lock(&self.inner).linked
    }

    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.active.subscribe()
    }

    pub(crate) fn is_active(&self) -> bool {
        *self.active.borrow()
    }

    pub(crate) fn is_connected_by(&self, outbox: &Outbox) -> bool {
        lock(&self.inner).connection.as_ref().is_some_and(|current| current.id == outbox.id)
    }

    /// The client has given the link up itself.
    pub(crate) fn unlink(&self) {
        lock(&self.inner).linked = false;
    }

    pub(crate) fn ban(&self, time: Option<Duration>) {
        lock(&self.inner).banned_until = time.map(|time| Instant::now() + time);
    }

    /// Ends the connection there is, with a last word or abruptly.
    pub(crate) fn disconnect(&self, last: Option<Node>) {
        let mut inner = lock(&self.inner);
        if let Some(outbox) = inner.connection.clone() {
            match last {
                Some(stanza) => {
                    outbox.send(stanza);
                    outbox.close();
                }
                None => outbox.drop_socket(),
            }
            inner.leave();
            self.active.send_replace(false);
        }
    }
}

impl Inner {
    /// Without a connection, what it hasn't acknowledged waits for the next one.
    fn leave(&mut self) {
        self.connection = None;
        while let Some(stanza) = self.unsettled.pop_back() {
            self.offline.push_front(stanza);
        }
    }
}

/// The refusal of a login.
pub(crate) fn failure(reason: u16) -> NodeBuilder {
    NodeBuilder::new("failure").attr("reason", reason).attr("location", "loc")
}

/// The end of a stream because of something that happened elsewhere.
pub(crate) fn conflict(kind: &'static str) -> Node {
    let code = if kind == "replaced" { 440 } else { 401 };
    NodeBuilder::new("stream:error")
        .attr("code", code)
        .children([NodeBuilder::new("conflict").attr("type", kind).build()])
        .build()
}

fn ib(child: Node) -> Node {
    NodeBuilder::new("ib").attr("from", SERVER_JID).children([child]).build()
}
