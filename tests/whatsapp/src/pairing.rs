//! Linking a device: a connection that waits, and the phone that takes it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Node, NodeRef, SERVER_JID};
use wacore_libsignal::crypto::hmac_sha256;
use wacore_libsignal::protocol::PublicKey;
use waproto::buffa::Message as _;
use waproto::whatsapp::{ADVDeviceIdentity, ADVSignedDeviceIdentity, ADVSignedDeviceIdentityHMAC, ClientPairingProps};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::behaviour::PairingRefusal;
use crate::code::CodeRequest;
use crate::connection::Outbox;
use crate::device::Device;
use crate::lock::lock;
use crate::stanza::{attr, bytes, child_bytes, new_id, now_secs};
use crate::state::State;

/// A client answers within milliseconds; nothing shorter would be fair on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many references a client may show one after the other.
const REFS: usize = 6;

/// What the signatures of a linked device begin with.
const ACCOUNT_SIGNATURE: [u8; 2] = [6, 0];
const DEVICE_SIGNATURE: [u8; 2] = [6, 1];

/// A connection that waits to be paired.
pub(crate) struct Pairing {
    pub(crate) outbox: Outbox,
    pub(crate) noise_key: [u8; 32],
    pub(crate) identity: [u8; 32],
    pub(crate) refs: Vec<String>,
    /// The code it shows, if it has asked for one.
    pub(crate) code: Mutex<Option<CodeRequest>>,
    success: Mutex<Option<Success>>,
}

/// A `pair-success` that waits for the client's answer.
struct Success {
    id: String,
    answer: oneshot::Sender<Result<ADVSignedDeviceIdentity, String>>,
}

/// Begins a pairing: the client gets references to show.
pub(crate) fn offer(state: &State, outbox: &Outbox, noise_key: [u8; 32], identity: [u8; 32]) -> Arc<Pairing> {
    let refs: Vec<String> = (0..REFS).map(|_| format!("2@{}", STANDARD.encode(rand::random::<[u8; 24]>()))).collect();
    let children = refs.iter().map(|reference| bytes("ref", reference.as_bytes())).collect::<Vec<_>>();
    let pairing = Arc::new(Pairing {
        outbox: outbox.clone(),
        noise_key,
        identity,
        refs,
        code: Mutex::default(),
        success: Mutex::default(),
    });
    let mut pairings = lock(&state.pairings);
    for reference in &pairing.refs {
        pairings.insert(reference.clone(), Arc::clone(&pairing));
    }
    drop(pairings);
    outbox.send(request("md", NodeBuilder::new("pair-device").children(children).build()).1);
    pairing
}

/// An `<iq>` of the server's own, and its id.
fn request(xmlns: &'static str, child: Node) -> (String, Node) {
    let id = new_id("srv-");
    let iq = NodeBuilder::new("iq")
        .attr("from", SERVER_JID)
        .attr("type", "set")
        .attr("xmlns", xmlns)
        .attr("id", id.as_str())
        .children([child])
        .build();
    (id, iq)
}

/// The owner of `number` scans what the client shows.
pub(crate) async fn scan(state: &Arc<State>, qr: &str, number: &str) -> Result<Arc<Device>, String> {
    let text = qr.rsplit('#').next().unwrap_or(qr);
    let [reference, noise_key, identity, secret, ..] = text.split(',').collect::<Vec<_>>()[..] else {
        return Err("not a QR code of WhatsApp".to_owned());
    };
    let pairing = lock(&state.pairings).get(reference).cloned().ok_or("the code has expired")?;
    if key(noise_key)? != pairing.noise_key || key(identity)? != pairing.identity {
        return Err("the keys aren't those of the connection".to_owned());
    }
    complete(state, &pairing, number, key(secret)?).await
}

fn key(text: &str) -> Result<[u8; 32], String> {
    let bytes = STANDARD.decode(text).map_err(|e| format!("a key in the QR code: {e}"))?;
    bytes.try_into().map_err(|_| "a key in the QR code isn't 32 bytes".to_owned())
}

/// The phone of `number` takes the client in; `secret` is what it has learnt from the client by way of its owner.
pub(crate) async fn complete(
    state: &Arc<State>,
    pairing: &Arc<Pairing>,
    number: &str,
    secret: [u8; 32],
) -> Result<Arc<Device>, String> {
    let refusal = *lock(&state.switches.pairing_refusal);
    if refusal == Some(PairingRefusal::PhoneTooOld) {
        return Err("the phone knows no linked devices".to_owned());
    }
    let phone = state.person(number);
    let device = {
        let devices = lock(&state.devices);
        let id = devices.get(number).map_or(0, Vec::len) as u16 + 1;
        Arc::new(Device::new(number, id, pairing.noise_key, phone))
    };
    let secret = if refusal == Some(PairingRefusal::Forged) { [0; 32] } else { secret };
    let signed = sign(&device, &pairing.identity)?;
    let (id, stanza) = request("md", success(state, &device, &signed, &secret));
    let (answer, answered) = oneshot::channel();
    *lock(&pairing.success) = Some(Success { id, answer });
    pairing.outbox.send(stanza);
    let answer = tokio::time::timeout(PATIENCE, answered)
        .await
        .map_err(|_| "the client doesn't answer")?
        .map_err(|_| "the client has gone")??;
    verify(&signed, &answer, &pairing.identity)?;
    lock(&state.devices).entry(number.to_owned()).or_default().push(Arc::clone(&device));
    // Known from here on: the client comes back at once.
    pairing.outbox.send(NodeBuilder::new("stream:error").attr("code", 515).build());
    pairing.outbox.close();
    Ok(device)
}

/// The account vouches for the new device.
fn sign(device: &Device, identity: &[u8; 32]) -> Result<ADVSignedDeviceIdentity, String> {
    let details = ADVDeviceIdentity {
        raw_id: Some(rand::random()),
        timestamp: Some(now_secs()),
        key_index: Some(device.id.into()),
        ..Default::default()
    }
    .encode_to_vec();
    let account = device.phone.identity();
    let signature = account
        .private_key()
        .calculate_signature(&[&ACCOUNT_SIGNATURE, &details[..], identity].concat(), &mut rand::rng())
        .map_err(|e| e.to_string())?;
    Ok(ADVSignedDeviceIdentity {
        details: Some(details),
        account_signature_key: Some(account.public_key().public_key_bytes().to_vec()),
        account_signature: Some(signature.to_vec()),
        device_signature: None,
    })
}

fn success(state: &State, device: &Device, signed: &ADVSignedDeviceIdentity, secret: &[u8; 32]) -> Node {
    let details = signed.encode_to_vec();
    let identity = ADVSignedDeviceIdentityHMAC {
        hmac: Some(hmac_sha256(secret, &details).to_vec()),
        details: Some(details),
        account_type: None,
    };
    let migrated = state.switches.lid_migrated.load(std::sync::atomic::Ordering::Relaxed);
    let props = ClientPairingProps { is_chat_db_lid_migrated: Some(migrated), ..Default::default() };
    NodeBuilder::new("pair-success")
        .children([
            bytes("device-identity", identity.encode_to_vec()),
            NodeBuilder::new("device").attr("jid", device.jid()).attr("lid", device.lid()).build(),
            NodeBuilder::new("platform").attr("name", "android").build(),
            bytes("client-props", props.encode_to_vec()),
        ])
        .build()
}

/// The client must have signed exactly what the account has vouched for.
fn verify(
    signed: &ADVSignedDeviceIdentity,
    answer: &ADVSignedDeviceIdentity,
    identity: &[u8; 32],
) -> Result<(), String> {
    if (&answer.details, &answer.account_signature) != (&signed.details, &signed.account_signature) {
        return Err("the client has changed what it was sent".to_owned());
    }
    let key = PublicKey::from_djb_public_key_bytes(identity).map_err(|e| e.to_string())?;
    let details = signed.details.as_deref().unwrap_or_default();
    let account = signed.account_signature_key.as_deref().unwrap_or_default();
    let message = [&DEVICE_SIGNATURE, details, identity, account].concat();
    let signature = answer.device_signature.as_deref().unwrap_or_default();
    if key.verify_signature(&message, signature) { Ok(()) } else { Err("the device's signature is wrong".to_owned()) }
}

impl Pairing {
    /// The client has answered one of the server's requests.
    pub(crate) fn answered(&self, id: &str, node: &NodeRef<'_>) {
        let Some(success) = lock(&self.success).take_if(|success| success.id == id) else { return };
        let answer = match node.get_optional_child("error") {
            Some(error) => Err(format!("the client refuses: {} {}", attr(error, "code"), attr(error, "text"))),
            None => node
                .get_optional_child("pair-device-sign")
                .and_then(|sign| child_bytes(sign, "device-identity"))
                .and_then(|identity| ADVSignedDeviceIdentity::decode_from_slice(&identity).ok())
                .ok_or_else(|| "the client's answer holds no identity".to_owned()),
        };
        let _ = success.answer.send(answer);
    }

    /// The connection has ended, paired or not: nobody can scan it any more.
    pub(crate) fn closed(&self, state: &State) {
        let mut pairings = lock(&state.pairings);
        for reference in &self.refs {
            pairings.remove(reference);
        }
        drop(pairings);
        lock(&self.success).take();
        lock(&self.code).take();
    }
}
