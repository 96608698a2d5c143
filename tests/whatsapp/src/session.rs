//! A client past its handshake: who it is, and where its stanzas go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wacore_binary::{Jid, NodeRef};
use waproto::whatsapp::ClientPayload;

use crate::connection::Outbox;
use crate::device::{Device, failure};
use crate::pairing::Pairing;
use crate::stanza::{attr, jid, result};
use crate::state::State;
use crate::{app_state, code, group, media, message, pairing, prekeys, usync};

pub(crate) struct Session {
    pub(crate) state: Arc<State>,
    pub(crate) outbox: Outbox,
    role: Role,
}

enum Role {
    /// Shows a code and waits for a phone.
    Pairing(Arc<Pairing>),
    Linked(Arc<Device>),
    /// Was told why it may not come in.
    Refused,
}

impl Session {
    /// Lets a client in, or tells it why not.
    pub(crate) fn open(state: Arc<State>, outbox: Outbox, client_static: [u8; 32], payload: ClientPayload) -> Self {
        let role = if state.switches.refuse_version.load(Ordering::Relaxed) {
            refuse(&outbox, 405)
        } else if let Some(registration) = payload.device_pairing_data.as_option() {
            match registration.e_ident.as_deref().and_then(|key| key.try_into().ok()) {
                Some(identity) => Role::Pairing(pairing::offer(&state, &outbox, client_static, identity)),
                None => refuse(&outbox, 400),
            }
        } else {
            login(&state, &outbox, client_static, &payload)
        };
        Self { state, outbox, role }
    }

    /// Takes a stanza of the client.
    pub(crate) fn handle(&self, node: &NodeRef<'_>) {
        match (&self.role, node.tag.as_ref()) {
            (Role::Pairing(pairing), "iq") => self.handle_pairing_iq(pairing, node),
            (Role::Linked(device), "iq") => self.handle_iq(device, node),
            (Role::Linked(device), "message") => message::receive(self, device, node),
            (Role::Linked(device), "ack") => {
                device.settle(&attr(node, "class"), &attr(node, "id"), &attr(node, "type"), &attr(node, "participant"));
            }
            (Role::Linked(device), "receipt") => settle_messages(device, node),
            (Role::Linked(device), "chatstate") => {
                if let Some(to) = jid(node, "to").filter(|_| node.get_optional_child("composing").is_some()) {
                    device.note_typing(shown(&to));
                }
            }
            _ => {}
        }
    }

    /// The connection has ended.
    pub(crate) fn closed(&self) {
        match &self.role {
            Role::Pairing(pairing) => pairing.closed(&self.state),
            Role::Linked(device) => device.closed(&self.outbox),
            Role::Refused => {}
        }
    }

    fn handle_pairing_iq(&self, pairing: &Arc<Pairing>, node: &NodeRef<'_>) {
        let id = attr(node, "id");
        match attr(node, "type").as_str() {
            "result" | "error" => pairing.answered(&id, node),
            _ if node.get_optional_child("link_code_companion_reg").is_some() => {
                self.outbox.send(code::request(&self.state, pairing, &id, node));
            }
            _ => self.outbox.send(result(&id, [])),
        }
    }

    fn handle_iq(&self, device: &Arc<Device>, node: &NodeRef<'_>) {
        let kind = attr(node, "type");
        if kind != "get" && kind != "set" {
            return;
        }
        let id = attr(node, "id");
        let answer = match attr(node, "xmlns").as_str() {
            "encrypt" => prekeys::handle(&self.state, device, &id, node),
            "usync" => usync::handle(&self.state, &id, node),
            "w:g2" => group::handle(&self.state, device, &id, node),
            "w:m" => media::connection(&self.state, &id),
            "w:sync:app:state" => app_state::handle(device, &id, node),
            "md" if node.get_optional_child("remove-companion-device").is_some() => {
                device.unlink();
                result(&id, [])
            }
            _ => result(&id, []),
        };
        self.outbox.send(answer);
        if node.get_optional_child("active").is_some() {
            device.activate(&self.outbox);
        }
    }
}

fn login(state: &Arc<State>, outbox: &Outbox, client_static: [u8; 32], payload: &ClientPayload) -> Role {
    let number = payload.username.unwrap_or_default().to_string();
    let id = payload.device.and_then(|id| u16::try_from(id).ok()).unwrap_or_default();
    let Some(device) = state.device(&number, id).filter(|device| device.noise_key == client_static) else {
        return refuse(outbox, 401);
    };
    match device.login(outbox) {
        Ok(()) => Role::Linked(device),
        Err(refusal) => {
            outbox.send(*refusal);
            outbox.close();
            Role::Refused
        }
    }
}

fn refuse(outbox: &Outbox, reason: u16) -> Role {
    outbox.send(failure(reason).build());
    outbox.close();
    Role::Refused
}

/// A receipt for messages says that they have arrived; it may name several.
fn settle_messages(device: &Device, node: &NodeRef<'_>) {
    device.settle("message", &attr(node, "id"), "", &attr(node, "participant"));
    let items = node.get_optional_child("list").and_then(NodeRef::children).unwrap_or_default();
    for item in items {
        device.settle("message", &attr(item, "id"), "", &attr(node, "participant"));
    }
}

/// An address as tests name it: a number, or the id of a group.
pub(crate) fn shown(jid: &Jid) -> String {
    crate::stanza::number_of(jid).unwrap_or_else(|| jid.to_string())
}
