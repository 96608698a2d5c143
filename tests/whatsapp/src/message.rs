//! A message of an account on its way: who decrypts it, what the sender is told.

use std::sync::Arc;
use std::time::Instant;

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, JidExt as _, Node, NodeRef};

use crate::account::WireMessage;
use crate::behaviour::Behaviour;
use crate::device::Device;
use crate::person::Person;
use crate::session::{Session, shown};
use crate::stanza::{attr, content, jid, now_secs, number_of};

/// A message stanza, as far as it matters here.
struct Sent<'a> {
    device: &'a Arc<Device>,
    to: Jid,
    id: String,
    node: &'a NodeRef<'a>,
}

/// Takes a `<message>` of the account.
pub(crate) fn receive(session: &Session, device: &Arc<Device>, node: &NodeRef<'_>) {
    let Some(to) = jid(node, "to") else { return };
    let sent = Sent { device, id: attr(node, "id"), to: to.to_non_ad(), node };
    if attr(node, "category") == "peer" {
        sent.to_own_phone();
        session.outbox.send(sent.ack(None));
        return;
    }
    let to = shown(&sent.to);
    device.note_wire(WireMessage { id: sent.id.clone(), to: to.clone(), at: Instant::now() });
    let Some(receivers) = sent.receivers(session) else {
        session.outbox.send(sent.ack(Some(403)));
        return;
    };
    let behaviour = session.state.take_behaviour(&to);
    match behaviour {
        Behaviour::NeverAck => {}
        Behaviour::Nack(code) => session.outbox.send(sent.ack(Some(code))),
        Behaviour::RetryOnce => {
            session.outbox.send(sent.ack(None));
            for person in receivers {
                device.deliver(sent.retry(&person, 1, Vec::new()));
            }
        }
        Behaviour::DropBeforeAck => {
            sent.hand_out(&receivers);
            device.disconnect(None);
        }
        Behaviour::AckAfter(time) => {
            let receipts = sent.hand_out(&receivers);
            let (ack, outbox, device) = (sent.ack(None), session.outbox.clone(), Arc::clone(device));
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                if device.is_connected_by(&outbox) {
                    outbox.send(ack);
                    receipts.into_iter().for_each(|receipt| device.deliver(receipt));
                }
            });
        }
        Behaviour::Ack | Behaviour::AckOnly | Behaviour::HoldReceipts => {
            let receipts = sent.hand_out(&receivers);
            session.outbox.send(sent.ack(None));
            match behaviour {
                Behaviour::AckOnly => {}
                Behaviour::HoldReceipts => device.hold(receipts),
                _ => receipts.into_iter().for_each(|receipt| device.deliver(receipt)),
            }
        }
    }
}

impl Sent<'_> {
    fn is_group(&self) -> bool {
        self.to.is_group()
    }

    /// Who gets the message, the owner's phone aside; `None` if the account may not write there.
    fn receivers(&self, session: &Session) -> Option<Vec<Arc<Person>>> {
        let own = &self.device.number;
        let people = if self.is_group() {
            let group = session.state.group(&self.to.to_string()).filter(|group| group.has(own))?;
            match jid(self.node, "participant").and_then(|jid| number_of(&jid)) {
                // A member has asked for the message again: it is for them alone.
                Some(asked) => group.members().into_iter().filter(|member| member.number == asked).collect(),
                None => group.members(),
            }
        } else {
            session.state.find_jid(&self.to).into_iter().collect()
        };
        Some(people.into_iter().filter(|person| person.number != *own).collect())
    }

    /// Lets everybody decrypt; gives the receipts for the message.
    fn hand_out(&self, receivers: &[Arc<Person>]) -> Vec<Node> {
        self.to_own_phone();
        let mut receipts = Vec::with_capacity(receivers.len() * 2);
        for person in receivers {
            match self.decrypt(person) {
                Ok(plaintext) => {
                    let group = self.is_group().then(|| self.to.to_string());
                    person.show(&self.device.number, group.as_deref(), &self.id, plaintext);
                    receipts.push(self.receipt(person, None).build());
                    receipts.push(self.receipt(person, Some("read")).build());
                }
                Err(error) => {
                    if let Some((count, keys)) = person.failed(&self.device.number, &self.id, &error) {
                        receipts.push(self.retry(person, count, keys.into()));
                    }
                }
            }
        }
        receipts
    }

    fn decrypt(&self, person: &Person) -> Result<Vec<u8>, String> {
        let own = self.pairwise(person);
        // What stands directly under the message is for the group, or for the one it is sent to again.
        let common = self.node.get_optional_child("enc");
        if !self.is_group() {
            return open(self.device, person, own.or(common).ok_or("nothing for this device")?);
        }
        if let Some(enc) = own {
            self.learn_sender_key(person, &open(self.device, person, enc)?)?;
        }
        let enc = common.ok_or("nothing for the group")?;
        if attr(enc, "type") != "skmsg" {
            let plaintext = open(self.device, person, enc)?;
            self.learn_sender_key(person, &plaintext)?;
            return Ok(plaintext);
        }
        let ciphertext = content(enc).ok_or("an empty enc")?;
        person.decrypt_group(&self.to.to_string(), &self.device.peer, &ciphertext)
    }

    fn learn_sender_key(&self, person: &Person, plaintext: &[u8]) -> Result<(), String> {
        let message = waproto::codec::message_decode(plaintext).map_err(|e| e.to_string())?;
        let distribution = message.sender_key_distribution_message.as_option();
        match distribution.and_then(|d| d.axolotl_sender_key_distribution_message.as_deref()) {
            Some(key) => person.learn_sender_key(&self.to.to_string(), &self.device.peer, key),
            None => Ok(()),
        }
    }

    /// The copy for the owner's phone; it shows nothing, but its session has to stay in step.
    fn to_own_phone(&self) {
        let phone = &self.device.phone;
        let is_for_phone = number_of(&self.to).as_ref() == Some(&self.device.number);
        let common = self.node.get_optional_child("enc").filter(|_| is_for_phone);
        let Some(enc) = self.pairwise(phone).or(common) else { return };
        if let Err(error) = open(self.device, phone, enc) {
            let _ = phone.failed(&self.device.number, &self.id, &error);
        }
    }

    /// The `<enc>` that was made for one person.
    fn pairwise(&self, person: &Person) -> Option<&NodeRef<'_>> {
        let list = self.node.get_optional_child("participants")?.children()?;
        let own = list.iter().find(|to| {
            jid(to, "jid").is_some_and(|jid| jid.device == 0 && number_of(&jid).as_ref() == Some(&person.number))
        });
        own?.get_optional_child("enc")
    }

    fn ack(&self, refusal: Option<u16>) -> Node {
        let ack = NodeBuilder::new("ack")
            .attr("class", "message")
            .attr("id", self.id.as_str())
            .attr("from", self.to.clone())
            .attr("t", now_secs());
        match refusal {
            Some(code) => ack.attr("error", code).build(),
            None => ack.build(),
        }
    }

    fn receipt(&self, person: &Person, kind: Option<&'static str>) -> NodeBuilder {
        let mut receipt = NodeBuilder::new("receipt")
            .attr("from", self.to.clone())
            .attr("id", self.id.as_str())
            .attr("t", now_secs());
        if let Some(kind) = kind {
            receipt = receipt.attr("type", kind);
        }
        if self.is_group() {
            receipt = receipt.attr("participant", person.lid()).attr("participant_pn", person.jid());
        }
        receipt
    }

    /// Asks for the message again.
    fn retry(&self, person: &Person, count: u8, keys: Vec<Node>) -> Node {
        let retry = NodeBuilder::new("retry")
            .attr("v", 1)
            .attr("count", count)
            .attr("id", self.id.as_str())
            .attr("t", now_secs())
            .build();
        let mut children = vec![retry];
        children.extend(keys);
        self.receipt(person, Some("retry")).children(children).build()
    }
}

fn open(device: &Device, person: &Person, enc: &NodeRef<'_>) -> Result<Vec<u8>, String> {
    let ciphertext = content(enc).ok_or("an empty enc")?;
    person.decrypt(&device.peer, &attr(enc, "type"), &ciphertext)
}
