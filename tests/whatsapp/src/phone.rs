//! What the owner's phone does by itself for a linked device.

use std::sync::Arc;

use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;
use waproto::buffa::MessageField;
use waproto::whatsapp as wa;
use waproto::whatsapp::message::protocol_message;
use waproto::whatsapp::message::{
    AppStateSyncKey, AppStateSyncKeyData, AppStateSyncKeyFingerprint, AppStateSyncKeyId, AppStateSyncKeyShare,
    ProtocolMessage,
};

use crate::device::Device;
use crate::stanza::{new_id, now_secs};

/// Shares the key of the app state with a device that has just been linked: it waits for it.
pub(crate) fn share_keys(device: &Arc<Device>) {
    if !device.first_key_share() {
        return;
    }
    let key = AppStateSyncKey {
        key_id: MessageField::some(AppStateSyncKeyId { key_id: Some(vec![0, 0, 0, 0, 0, 1]) }),
        key_data: MessageField::some(AppStateSyncKeyData {
            key_data: Some(rand::random::<[u8; 32]>().to_vec()),
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

fn peer_message(device: &Device, message: &wa::Message) -> Result<Node, String> {
    let plaintext = waproto::codec::message_to_vec(message);
    let bundle = || device.with_keys(crate::prekeys::Uploaded::bundle);
    let (kind, ciphertext) = device.phone.encrypt(&device.peer, &plaintext, bundle)?;
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
