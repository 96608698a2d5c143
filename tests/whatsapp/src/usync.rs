//! Questions about numbers: who is on WhatsApp, under which `lid`, with which devices.

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node, NodeRef};

use crate::lock::lock;
use crate::person::Person;
use crate::stanza::{child_bytes, jid, lid_of, result};
use crate::state::State;

/// Answers a `<usync>`.
pub(crate) fn handle(state: &State, id: &str, node: &NodeRef<'_>) -> Node {
    let Some(usync) = node.get_optional_child("usync") else { return result(id, []) };
    let children = |tag| usync.get_optional_child(tag).and_then(NodeRef::children).unwrap_or_default();
    let asked: Vec<&str> = children("query").iter().map(|protocol| protocol.tag.as_ref()).collect();
    let users: Vec<Node> = children("list").iter().filter_map(|user| answer(state, &asked, user)).collect();
    let answer = NodeBuilder::new("usync")
        .children([NodeBuilder::new("result").build(), NodeBuilder::new("list").children(users).build()]);
    result(id, [answer.build()])
}

fn answer(state: &State, asked: &[&str], user: &NodeRef<'_>) -> Option<Node> {
    let contact = child_bytes(user, "contact").and_then(|text| String::from_utf8(text).ok());
    let jid = match &contact {
        Some(number) => {
            let number = number.trim_start_matches('+');
            lock(&state.lookups).push(number.to_owned());
            let number = lock(&state.aliases).get(number).cloned().unwrap_or_else(|| number.to_owned());
            Jid::pn(number)
        }
        None => jid(user, "jid")?,
    };
    let person = state.find_jid(&jid);
    if person.is_none() && contact.is_none() {
        return None;
    }
    let person = person.as_deref();
    let answers = asked.iter().filter_map(|protocol| about(protocol, person)).collect::<Vec<_>>();
    Some(NodeBuilder::new("user").attr("jid", jid).children(answers).build())
}

fn about(protocol: &str, person: Option<&Person>) -> Option<Node> {
    match (protocol, person) {
        ("contact", known) => {
            Some(NodeBuilder::new("contact").attr("type", if known.is_some() { "in" } else { "out" }).build())
        }
        ("lid", Some(person)) => Some(NodeBuilder::new("lid").attr("val", Jid::lid(lid_of(&person.number))).build()),
        ("devices", Some(_)) => {
            let device = NodeBuilder::new("device").attr("id", 0).build();
            let list = NodeBuilder::new("device-list").children([device]).build();
            Some(NodeBuilder::new("devices").children([list]).build())
        }
        _ => None,
    }
}
