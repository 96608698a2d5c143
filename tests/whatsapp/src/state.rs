//! What the whole server knows. Every part looks here; nothing here speaks.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use wacore_binary::Jid;

use crate::behaviour::{Behaviour, Garbage, PairingRefusal};
use crate::connection::Outbox;
use crate::device::Device;
use crate::group::GroupState;
use crate::lock::lock;
use crate::media::Blobs;
use crate::noise;
use crate::pairing::Pairing;
use crate::person::Person;
use crate::stanza::number_of;

pub(crate) struct State {
    pub(crate) address: SocketAddr,
    pub(crate) identity: noise::Identity,
    pub(crate) stopped: CancellationToken,
    pub(crate) blobs: Blobs,
    pub(crate) switches: Switches,
    /// Linked devices by phone number, in the order of their linking.
    pub(crate) devices: Mutex<HashMap<String, Vec<Arc<Device>>>>,
    /// Connections that wait to be paired, by each of the references they show.
    pub(crate) pairings: Mutex<HashMap<String, Arc<Pairing>>>,
    pub(crate) groups: Mutex<HashMap<String, Arc<GroupState>>>,
    pub(crate) lookups: Mutex<Vec<String>>,
    /// All connections past their handshake.
    pub(crate) connections: Mutex<HashMap<u64, Outbox>>,
    people: Mutex<HashMap<String, Arc<Person>>>,
    /// Numbers that people are also asked for by, and theirs.
    pub(crate) aliases: Mutex<HashMap<String, String>>,
    behaviours: Mutex<HashMap<String, Behaviour>>,
}

/// What a test has switched on for the whole server.
#[derive(Default)]
pub(crate) struct Switches {
    pub(crate) refuse_version: AtomicBool,
    pub(crate) everybody: AtomicBool,
    pub(crate) lid_migrated: AtomicBool,
    pub(crate) pairing_refusal: Mutex<Option<PairingRefusal>>,
    pub(crate) garbage: Mutex<VecDeque<Garbage>>,
}

impl State {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            identity: noise::Identity::generate(),
            stopped: CancellationToken::new(),
            blobs: Blobs::new(),
            switches: Switches::default(),
            devices: Mutex::default(),
            pairings: Mutex::default(),
            groups: Mutex::default(),
            lookups: Mutex::default(),
            connections: Mutex::default(),
            people: Mutex::default(),
            aliases: Mutex::default(),
            behaviours: Mutex::default(),
        }
    }

    /// Somebody with this number; from now on they are on WhatsApp.
    pub(crate) fn person(&self, number: &str) -> Arc<Person> {
        let mut people = lock(&self.people);
        Arc::clone(people.entry(number.to_owned()).or_insert_with(|| Arc::new(Person::new(number))))
    }

    /// Who has this number, if anybody: everybody has, once the server was told so.
    pub(crate) fn find(&self, number: &str) -> Option<Arc<Person>> {
        let known = lock(&self.people).get(number).cloned();
        known.or_else(|| self.switches.everybody.load(Ordering::Relaxed).then(|| self.person(number)))
    }

    /// Who has this address.
    pub(crate) fn find_jid(&self, jid: &Jid) -> Option<Arc<Person>> {
        self.find(&number_of(jid)?)
    }

    pub(crate) fn set_behaviour(&self, to: &str, behaviour: Behaviour) {
        lock(&self.behaviours).insert(to.to_owned(), behaviour);
    }

    /// What happens to a message to `to`. What happens once only is used up by the look.
    pub(crate) fn take_behaviour(&self, to: &str) -> Behaviour {
        let mut behaviours = lock(&self.behaviours);
        match behaviours.get(to) {
            None => Behaviour::Ack,
            Some(behaviour) if behaviour.is_once() => behaviours.remove(to).unwrap_or(Behaviour::Ack),
            Some(behaviour) => behaviour.clone(),
        }
    }

    pub(crate) fn group(&self, id: &str) -> Option<Arc<GroupState>> {
        lock(&self.groups).get(id).cloned()
    }

    /// The linked device `number:id`.
    pub(crate) fn device(&self, number: &str, id: u16) -> Option<Arc<Device>> {
        lock(&self.devices).get(number)?.iter().find(|device| device.id == id).cloned()
    }
}
