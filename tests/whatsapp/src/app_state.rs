//! The app state that the owner's phone shares with its linked devices: here it holds the owner's name and nothing else.
//!
//! A device that has just been linked waits for the key, and one that never learns a name waits for it at every start.

use std::sync::Arc;

use wacore::appstate::encode::encode_record;
use wacore::appstate::hash::{HashState, generate_patch_mac};
use wacore::appstate::keys::expand_app_state_keys;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Node, NodeRef};
use waproto::buffa::MessageField;
use waproto::whatsapp as wa;
use waproto::whatsapp::message::{
    AppStateSyncKey, AppStateSyncKeyData, AppStateSyncKeyFingerprint, AppStateSyncKeyId, AppStateSyncKeyShare,
    ProtocolMessage, protocol_message,
};
use waproto::whatsapp::sync_action_value::PushNameSetting;
use waproto::whatsapp::syncd_mutation::SyncdOperation;

use crate::device::Device;
use crate::prekeys::Uploaded;
use crate::stanza::{attr, bytes, new_id, now_secs, result};

/// The collection that holds the owner's name.
const COLLECTION: &str = "critical_block";

const KEY_ID: [u8; 6] = [0, 0, 0, 0, 0, 1];

/// Answers a device that asks what has changed: the name, if it has seen nothing yet.
pub(crate) fn handle(device: &Device, id: &str, node: &NodeRef<'_>) -> Node {
    let asked = node.get_optional_child("sync").and_then(NodeRef::children).unwrap_or_default();
    let collections = asked.iter().filter(|child| child.tag == "collection").map(|collection| {
        let (name, version) = (attr(collection, "name"), attr(collection, "version"));
        let is_first = name == COLLECTION && matches!(version.as_str(), "" | "0");
        let answer = NodeBuilder::new("collection")
            .attr("name", name)
            .attr("type", "result")
            .attr("version", if is_first { "1" } else { version.as_str() });
        if is_first {
            let patch = waproto::codec::syncd_patch_to_vec(&patch(device));
            answer.children([NodeBuilder::new("patches").children([bytes("patch", patch)]).build()]).build()
        } else {
            answer.build()
        }
    });
    result(id, [NodeBuilder::new("sync").children(collections.collect::<Vec<_>>()).build()])
}

/// The first patch of the collection: it sets the owner's name.
fn patch(device: &Device) -> wa::SyncdPatch {
    let keys = expand_app_state_keys(&device.app_state_key);
    let name = wa::SyncActionValue {
        timestamp: Some(0),
        push_name_setting: MessageField::some(PushNameSetting { name: Some(format!("Owner of {}", device.number)) }),
        ..Default::default()
    };
    let index = br#"["setting_pushName"]"#;
    let (mutation, _) = encode_record(SyncdOperation::SET, index, &name, &keys, &KEY_ID, &rand::random(), 1);
    let mutations = vec![mutation];
    let mut state = HashState { version: 1, ..Default::default() };
    let (_, hashed) = state.update_hash(&mutations, |_, _| Ok(None));
    hashed.expect("nothing came before");
    let mut patch = wa::SyncdPatch {
        version: MessageField::some(wa::SyncdVersion { version: Some(1) }),
        snapshot_mac: Some(state.generate_snapshot_mac(COLLECTION, &keys.snapshot_mac)),
        key_id: MessageField::some(wa::KeyId { id: Some(KEY_ID.to_vec()) }),
        mutations,
        ..Default::default()
    };
    patch.patch_mac = Some(generate_patch_mac(&patch, COLLECTION, &keys.patch_mac, 1));
    patch
}

/// Shares the key with a device that has just been linked.
pub(crate) fn share_key(device: &Arc<Device>) {
    if !device.first_key_share() {
        return;
    }
    let key = AppStateSyncKey {
        key_id: MessageField::some(AppStateSyncKeyId { key_id: Some(KEY_ID.to_vec()) }),
        key_data: MessageField::some(AppStateSyncKeyData {
            key_data: Some(device.app_state_key.to_vec()),
            fingerprint: MessageField::some(AppStateSyncKeyFingerprint {
                raw_id: Some(1),
                current_index: Some(0),
                device_indexes: vec![0, 1],
            }),
            timestamp: Some(0),
        }),
    };
    let message = wa::Message {
        protocol_message: MessageField::some(ProtocolMessage {
            r#type: Some(protocol_message::Type::APP_STATE_SYNC_KEY_SHARE),
            app_state_sync_key_share: MessageField::some(AppStateSyncKeyShare { keys: vec![key] }),
            ..Default::default()
        }),
        ..Default::default()
    };
    if let Ok(stanza) = peer_message(device, &message) {
        device.deliver(stanza);
    }
}

/// A message from the owner's phone to the device.
fn peer_message(device: &Device, message: &wa::Message) -> Result<Node, String> {
    let plaintext = waproto::codec::message_to_vec(message);
    let (kind, ciphertext) = device.phone.encrypt(&device.peer, &plaintext, || device.with_keys(Uploaded::bundle))?;
    let enc = NodeBuilder::new("enc").attr("v", 2).attr("type", kind).bytes(ciphertext).build();
    Ok(NodeBuilder::new("message")
        .attr("from", device.phone.jid())
        .attr("id", new_id("PEER"))
        .attr("type", "protocol")
        .attr("category", "peer")
        .attr("push_priority", "high")
        .attr("t", now_secs())
        .children([enc])
        .build())
}
