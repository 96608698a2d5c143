//! Linking by a code that the owner types into the phone.
//!
//! The code never reaches the server: it encrypts the keys that client and phone exchange through it. Whether it was right
//! shows only when the phone opens the client's last message.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use wacore::crypto::hkdf_sha256_into;
use wacore::pair_code::PairCodeUtils;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Node, NodeRef, SERVER_JID};
use wacore_libsignal::crypto::aes_256_gcm_decrypt;
use wacore_libsignal::protocol::{KeyPair, PrivateKey, PublicKey};

use crate::behaviour::PairingRefusal;
use crate::device::Device;
use crate::lock::lock;
use crate::pairing::{Pairing, complete};
use crate::stanza::{attr, bytes, child_bytes, error, jid, new_id, now_secs, number_of, result};
use crate::state::State;

/// Deriving keys from the code takes the client a while.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client that shows a code.
pub(crate) struct CodeRequest {
    number: String,
    reference: Vec<u8>,
    /// The client's key, encrypted with the code.
    wrapped: Vec<u8>,
    finish: Option<oneshot::Sender<Finish>>,
}

/// The client's last message.
struct Finish {
    bundle: Vec<u8>,
    identity: Vec<u8>,
}

/// Answers the client's part of the exchange.
pub(crate) fn request(state: &State, pairing: &Arc<Pairing>, id: &str, node: &NodeRef<'_>) -> Node {
    let Some(request) = node.get_optional_child("link_code_companion_reg") else { return result(id, []) };
    match attr(request, "stage").as_str() {
        "companion_hello" => hello(state, pairing, id, request),
        "companion_finish" => finish(pairing, id, request),
        _ => error(id, 400, "bad-request"),
    }
}

fn hello(state: &State, pairing: &Pairing, id: &str, request: &NodeRef<'_>) -> Node {
    if let Some(PairingRefusal::Code(code)) = *lock(&state.switches.pairing_refusal) {
        return error(id, code, refusal_text(code));
    }
    let number = jid(request, "jid").and_then(|jid| number_of(&jid));
    let wrapped = child_bytes(request, "link_code_pairing_wrapped_companion_ephemeral_pub");
    let (Some(number), Some(wrapped)) = (number, wrapped) else { return error(id, 400, "bad-request") };
    let reference = new_id("link-").into_bytes();
    *lock(&pairing.code) = Some(CodeRequest { number, reference: reference.clone(), wrapped, finish: None });
    let answer = NodeBuilder::new("link_code_companion_reg")
        .attr("stage", "companion_hello")
        .children([bytes("link_code_pairing_ref", reference)])
        .build();
    result(id, [answer])
}

fn finish(pairing: &Pairing, id: &str, request: &NodeRef<'_>) -> Node {
    let bundle = child_bytes(request, "link_code_pairing_wrapped_key_bundle");
    let identity = child_bytes(request, "companion_identity_public");
    let waiting = lock(&pairing.code).as_mut().and_then(|code| code.finish.take());
    let (Some(bundle), Some(identity), Some(waiting)) = (bundle, identity, waiting) else {
        return error(id, 400, "bad-request");
    };
    let _ = waiting.send(Finish { bundle, identity });
    result(id, [])
}

/// The owner of `number` types a code.
pub(crate) async fn enter(state: &Arc<State>, number: &str, code: &str) -> Result<Arc<Device>, String> {
    let code: String = code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase();
    let pairing = waiting(state, number).ok_or("no client shows a code for this number")?;
    let (wrapped, reference, finished) = {
        let mut request = lock(&pairing.code);
        let request = request.as_mut().ok_or("the client has gone")?;
        let (finish, finished) = oneshot::channel();
        request.finish = Some(finish);
        (request.wrapped.clone(), request.reference.clone(), finished)
    };

    let account = state.person(number).identity();
    let ephemeral = KeyPair::generate(&mut rand::rng());
    let own: [u8; 32] = ephemeral.public_key.public_key_bytes().try_into().map_err(|_| "a key of another length")?;
    // Deliberately slow key derivations.
    let (client, own) = tokio::task::spawn_blocking(move || {
        let client = PairCodeUtils::decrypt_primary_ephemeral_pub(&wrapped, &code).map_err(|e| e.to_string())?;
        Ok::<_, String>((client, PairCodeUtils::encrypt_ephemeral_pub(&own, &code)))
    })
    .await
    .map_err(|e| e.to_string())??;

    pairing.outbox.send(primary_hello(&reference, &own, account.public_key().public_key_bytes()));
    let finish = tokio::time::timeout(PATIENCE, finished)
        .await
        .map_err(|_| "the client doesn't answer")?
        .map_err(|_| "the client has gone")?;
    let secret = open(&finish, &ephemeral.private_key, &client, account.private_key())?;
    complete(state, &pairing, number, secret).await
}

fn waiting(state: &State, number: &str) -> Option<Arc<Pairing>> {
    let pairings = lock(&state.pairings);
    let shows = |pairing: &&Arc<Pairing>| lock(&pairing.code).as_ref().is_some_and(|code| code.number == number);
    pairings.values().find(shows).cloned()
}

fn primary_hello(reference: &[u8], wrapped: &[u8; 80], identity: &[u8]) -> Node {
    let hello = NodeBuilder::new("link_code_companion_reg")
        .attr("stage", "primary_hello")
        .children([
            bytes("link_code_pairing_wrapped_primary_ephemeral_pub", *wrapped),
            bytes("primary_identity_pub", identity),
            bytes("link_code_pairing_ref", reference),
        ])
        .build();
    NodeBuilder::new("notification")
        .attr("from", SERVER_JID)
        .attr("type", "link_code_companion_reg")
        .attr("id", new_id("code-"))
        .attr("t", now_secs())
        .children([hello])
        .build()
}

/// Opens the client's bundle; it can only be opened with the right code. Gives the secret both sides now share.
fn open(finish: &Finish, ephemeral: &PrivateKey, client: &[u8; 32], account: &PrivateKey) -> Result<[u8; 32], String> {
    let agree = |own: &PrivateKey, their: &[u8]| -> Result<[u8; 32], String> {
        let their = PublicKey::from_djb_public_key_bytes(their).map_err(|e| e.to_string())?;
        own.calculate_agreement(&their).map_err(|e| e.to_string())
    };
    let (Some(salt), Some(nonce), Some(sealed)) =
        (finish.bundle.get(..32), finish.bundle.get(32..44), finish.bundle.get(44..))
    else {
        return Err("the client's bundle is too short".to_owned());
    };
    let shared = agree(ephemeral, client)?;
    let mut bundle_key = [0; 32];
    hkdf_sha256_into(&shared, Some(salt), b"link_code_pairing_key_bundle_encryption_key", &mut bundle_key)
        .map_err(|e| e.to_string())?;
    let nonce = nonce.try_into().map_err(|_| "a nonce of another length")?;
    let mut bundle = Vec::new();
    aes_256_gcm_decrypt(&bundle_key, nonce, b"", sealed, &mut bundle).map_err(|_| "the code is wrong")?;
    if bundle.get(..32) != Some(&finish.identity[..]) {
        return Err("the client's bundle names another key".to_owned());
    }
    let random = bundle.get(64..96).ok_or("the client's bundle is too short")?;
    let identities = agree(account, &finish.identity)?;
    let mut secret = [0; 32];
    hkdf_sha256_into(&[&shared, &identities, random].concat(), None, b"adv_secret", &mut secret)
        .map_err(|e| e.to_string())?;
    Ok(secret)
}

/// The text that belongs to a refusal; a client believes the code only with it.
fn refusal_text(code: u16) -> &'static str {
    match code {
        400 => "bad-request",
        403 => "forbidden",
        429 => "rate-overlimit",
        452 => "feature-not-available",
        _ => "internal-server-error",
    }
}
