//! Keys for Signal sessions: what an account uploads, and what it is told of others.

use std::collections::VecDeque;
use std::sync::Arc;

use wacore::prekeys::compute_key_bundle_digest;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Node, NodeRef};
use wacore_libsignal::protocol::{IdentityKey, PreKeyBundle, PublicKey};

use crate::app_state;
use crate::device::Device;
use crate::signal::key_node;
use crate::stanza::{bytes, child_bytes, content, error, jid, number, number_of, result};
use crate::state::State;

/// How many of the one-time keys are kept: a client uploads hundreds, and few are ever asked for.
const KEPT: usize = 16;

/// What an account's device has uploaded.
pub(crate) struct Uploaded {
    registration_id: u32,
    identity: [u8; 32],
    signed: SignedKey,
    one_time: VecDeque<(u32, [u8; 32])>,
    /// How many it has uploaded and nobody has used.
    left: usize,
}

struct SignedKey {
    id: u32,
    public: [u8; 32],
    signature: [u8; 64],
}

impl Uploaded {
    /// Takes out what is needed for a first message to the device.
    pub(crate) fn bundle(&mut self) -> Option<PreKeyBundle> {
        let key = self.one_time.pop_front();
        self.left = self.left.saturating_sub(usize::from(key.is_some()));
        let public = |key: &[u8; 32]| PublicKey::from_djb_public_key_bytes(key).ok();
        let one_time = match key {
            Some((id, key)) => Some((id.into(), public(&key)?)),
            None => None,
        };
        PreKeyBundle::new(
            self.registration_id,
            0.into(),
            one_time,
            self.signed.id.into(),
            public(&self.signed.public)?,
            self.signed.signature.to_vec(),
            IdentityKey::new(public(&self.identity)?),
        )
        .ok()
    }

    fn digest(&self) -> Node {
        let keys: Vec<&[u8]> = self.one_time.iter().map(|(_, key)| key.as_slice()).collect();
        let hash = compute_key_bundle_digest(&self.identity, &self.signed.public, &self.signed.signature, &keys);
        let ids = self.one_time.iter().map(|(id, _)| {
            let [_, id @ ..] = id.to_be_bytes();
            bytes("id", id)
        });
        NodeBuilder::new("digest")
            .children([
                bytes("registration", self.registration_id.to_be_bytes()),
                bytes("type", [5]),
                bytes("identity", self.identity),
                key_node("skey", self.signed.id, &self.signed.public, Some(&self.signed.signature)),
                NodeBuilder::new("list").children(ids).build(),
                bytes("hash", hash),
            ])
            .build()
    }
}

/// Answers what has to do with keys.
pub(crate) fn handle(state: &State, device: &Arc<Device>, id: &str, node: &NodeRef<'_>) -> Node {
    if let Some(asked) = node.get_optional_child("key") {
        return result(id, [bundles(state, asked)]);
    }
    if node.get_optional_child("digest").is_some() {
        return match device.with_keys(|keys| Some(keys.digest())) {
            Some(digest) => result(id, [digest]),
            None => error(id, 404, "item-not-found"),
        };
    }
    if node.get_optional_child("count").is_some() {
        let left = device.with_keys(|keys| Some(keys.left)).unwrap_or_default();
        return result(id, [NodeBuilder::new("count").attr("value", left).build()]);
    }
    if let Some(rotated) = node.get_optional_child("rotate").and_then(|node| node.get_optional_child("skey")) {
        let signed = signed_key(rotated);
        device.with_keys(|keys| {
            keys.signed = signed?;
            Some(())
        });
        return result(id, []);
    }
    match upload(node) {
        Some(keys) => {
            device.set_keys(keys);
            app_state::share_key(device);
            result(id, [])
        }
        None => error(id, 400, "bad-request"),
    }
}

/// Keys of the asked users; who isn't on WhatsApp has none.
fn bundles(state: &State, asked: &NodeRef<'_>) -> Node {
    let users = asked.children().unwrap_or_default().iter().filter_map(|user| {
        let jid = jid(user, "jid")?;
        let answer = NodeBuilder::new("user").attr("jid", jid.clone());
        let bundle = match state.find_jid(&jid) {
            Some(person) if jid.device == 0 => Some(person.bundle()),
            _ => companion_bundle(state, &jid),
        };
        Some(match bundle {
            Some(bundle) => answer.children(bundle).build(),
            None => answer
                .children([NodeBuilder::new("error").attr("code", 406).attr("text", "not-acceptable").build()])
                .build(),
        })
    });
    NodeBuilder::new("list").children(users.collect::<Vec<_>>()).build()
}

fn companion_bundle(state: &State, jid: &wacore_binary::Jid) -> Option<Vec<Node>> {
    let device = state.device(&number_of(jid)?, jid.device)?;
    device.with_keys(|keys| {
        let key = keys.one_time.pop_front();
        let mut bundle = vec![
            bytes("registration", keys.registration_id.to_be_bytes()),
            bytes("type", [5]),
            bytes("identity", keys.identity),
            key_node("skey", keys.signed.id, &keys.signed.public, Some(&keys.signed.signature)),
        ];
        bundle.extend(key.map(|(id, key)| key_node("key", id, &key, None)));
        Some(bundle)
    })
}

fn upload(node: &NodeRef<'_>) -> Option<Uploaded> {
    let keys = node.get_optional_child("list")?.children()?;
    Some(Uploaded {
        registration_id: number(&child_bytes(node, "registration")?),
        identity: child_bytes(node, "identity")?.try_into().ok()?,
        signed: signed_key(node.get_optional_child("skey")?)?,
        one_time: keys.iter().take(KEPT).map(one_time_key).collect::<Option<_>>()?,
        left: keys.len(),
    })
}

fn one_time_key(node: &NodeRef<'_>) -> Option<(u32, [u8; 32])> {
    Some((number(&child_bytes(node, "id")?), child_bytes(node, "value")?.try_into().ok()?))
}

fn signed_key(node: &NodeRef<'_>) -> Option<SignedKey> {
    let (id, public) = one_time_key(node)?;
    Some(SignedKey { id, public, signature: content(node.get_optional_child("signature")?)?.try_into().ok()? })
}
