//! Groups: who is in them, and what a client is told of them. They are addressed by `lid`, as new groups are.

use std::sync::{Arc, Mutex};

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Node, NodeRef};

use crate::account::Account;
use crate::contact::Contact;
use crate::device::Device;
use crate::lock::lock;
use crate::person::Person;
use crate::stanza::{attr, error, jid, new_id, now_secs, result};
use crate::state::State;

/// A group of contacts, and of the accounts that were added.
#[derive(Clone)]
pub struct Group {
    inner: Arc<GroupState>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group({})", self.inner.id)
    }
}

impl Group {
    /// Its address, `…@g.us`.
    pub fn id(&self) -> String {
        self.inner.id.clone()
    }

    /// Adds an account, so that it may write to the group.
    pub fn add_account(&self, account: &Account) {
        self.inner.add(Arc::clone(&account.device().phone));
    }

    /// Adds a contact.
    pub fn add(&self, contact: &Contact) {
        self.inner.add(contact.person());
    }

    /// Takes a member out, by number.
    pub fn remove(&self, number: &str) {
        lock(&self.inner.members).retain(|member| member.number != number);
    }
}

pub(crate) struct GroupState {
    pub(crate) id: String,
    members: Mutex<Vec<Arc<Person>>>,
}

impl GroupState {
    pub(crate) fn members(&self) -> Vec<Arc<Person>> {
        lock(&self.members).clone()
    }

    pub(crate) fn has(&self, number: &str) -> bool {
        lock(&self.members).iter().any(|member| member.number == number)
    }

    fn add(&self, person: Arc<Person>) {
        if !self.has(&person.number) {
            lock(&self.members).push(person);
        }
    }

    fn node(&self) -> Node {
        let members = self.members();
        let participants = members.iter().enumerate().map(|(place, member)| {
            let participant =
                NodeBuilder::new("participant").attr("jid", member.lid()).attr("phone_number", member.jid());
            if place == 0 { participant.attr("type", "superadmin").build() } else { participant.build() }
        });
        NodeBuilder::new("group")
            .attr("id", self.id.trim_end_matches("@g.us"))
            .attr("subject", "A group")
            .attr("addressing_mode", "lid")
            .attr("creation", now_secs())
            .attr("size", members.len())
            .children(participants)
            .build()
    }
}

/// Makes a group.
pub(crate) fn create(state: &State, members: Vec<Arc<Person>>) -> Group {
    let id = format!("{}@g.us", new_id("12036300000000"));
    let inner = Arc::new(GroupState { id: id.clone(), members: Mutex::new(members) });
    lock(&state.groups).insert(id, Arc::clone(&inner));
    Group { inner }
}

/// Answers questions about groups.
pub(crate) fn handle(state: &State, device: &Device, id: &str, node: &NodeRef<'_>) -> Node {
    if attr(node, "type") == "set" {
        return result(id, []);
    }
    if node.get_optional_child("participating").is_some() {
        let groups = lock(&state.groups).values().cloned().collect::<Vec<_>>();
        let own = groups.iter().filter(|group| group.has(&device.number)).map(|group| group.node());
        return result(id, [NodeBuilder::new("groups").children(own).build()]);
    }
    match jid(node, "to").and_then(|to| state.group(&to.to_string())) {
        None => error(id, 404, "item-not-found"),
        Some(group) if !group.has(&device.number) => error(id, 403, "forbidden"),
        Some(group) => result(id, [group.node()]),
    }
}
