//! A Signal device: real keys, sessions and sender keys, held in memory.
//!
//! Every party that talks to an account has one: the contacts, the members of groups and the account's own phone. Peers are
//! named `number:device`, whichever of a number's two addresses a stanza carries.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use async_trait::async_trait;
use futures_util::FutureExt;
use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;
use wacore_libsignal::protocol::{
    CiphertextMessage, Direction, GenericSignedPreKey, IdentityChange, IdentityKey, IdentityKeyPair, IdentityKeyStore,
    KeyPair, PreKeyBundle, PreKeyId, PreKeyRecord, PreKeySignalMessage, PreKeyStore, ProtocolAddress,
    SenderKeyDistributionMessage, SenderKeyMessage, SenderKeyName, SenderKeyRecord, SenderKeyStore, SessionRecord,
    SessionStore, SignalMessage, SignalProtocolError, SignedPreKeyId, SignedPreKeyRecord, SignedPreKeyStore, Timestamp,
    UsePQRatchet, group_decrypt, message_decrypt, message_encrypt, process_prekey_bundle,
    process_sender_key_distribution_message,
};

use crate::stanza::bytes;

type Result<T> = std::result::Result<T, SignalProtocolError>;

/// One device with its state.
pub(crate) struct SignalDevice {
    own: Own,
    sessions: Sessions,
    prekeys: PreKeys,
    signed: SignedPreKey,
    sender_keys: SenderKeys,
    seen: Seen,
}

impl SignalDevice {
    pub(crate) fn generate() -> Self {
        let rng = &mut rand::rng();
        let identity = IdentityKeyPair::generate(rng);
        let pair = KeyPair::generate(rng);
        let signature =
            identity.private_key().calculate_signature(&pair.public_key.serialize(), rng).expect("a fresh key signs");
        let registration_id = rand::random_range(1..0x3fff);
        Self {
            own: Own { identity, registration_id },
            sessions: Sessions(HashMap::new()),
            prekeys: PreKeys { next: 1, pairs: HashMap::new() },
            signed: SignedPreKey { id: 1, pair, signature },
            sender_keys: SenderKeys(HashMap::new()),
            seen: Seen::default(),
        }
    }

    pub(crate) fn identity(&self) -> &IdentityKeyPair {
        &self.own.identity
    }

    /// A fresh bundle of keys, as the children of `<user>` in the answer to a request for keys.
    pub(crate) fn bundle(&mut self) -> Vec<Node> {
        let key = self.fresh_prekey();
        vec![
            bytes("registration", self.own.registration_id.to_be_bytes()),
            bytes("type", [5]),
            bytes("identity", self.own.identity.public_key().public_key_bytes()),
            key,
            self.signed.node(),
        ]
    }

    /// The `<registration>` and `<keys>` of a receipt that asks for a message again.
    pub(crate) fn retry_keys(&mut self) -> [Node; 2] {
        let key = self.fresh_prekey();
        let keys = NodeBuilder::new("keys")
            .children([
                bytes("type", [5]),
                bytes("identity", self.own.identity.public_key().public_key_bytes()),
                key,
                self.signed.node(),
            ])
            .build();
        [bytes("registration", self.own.registration_id.to_be_bytes()), keys]
    }

    fn fresh_prekey(&mut self) -> Node {
        let (id, pair) = self.prekeys.generate();
        key_node("key", id, pair.public_key.public_key_bytes(), None)
    }

    /// Decrypts an `<enc>` of type `pkmsg` or `msg`; the plaintext is still padded.
    pub(crate) fn decrypt(&mut self, peer: &str, kind: &str, ciphertext: &[u8]) -> Result<Vec<u8>> {
        let message = match kind {
            "pkmsg" => CiphertextMessage::PreKeySignalMessage(PreKeySignalMessage::try_from(ciphertext)?),
            "msg" => CiphertextMessage::SignalMessage(SignalMessage::try_from(ciphertext)?),
            other => return Err(SignalProtocolError::InvalidArgument(format!("enc of type {other}"))),
        };
        match &message {
            CiphertextMessage::PreKeySignalMessage(m) => self.seen.pairwise(peer, m.message()),
            CiphertextMessage::SignalMessage(m) => self.seen.pairwise(peer, m),
            _ => {}
        }
        let decrypted = at_once(message_decrypt(
            &message,
            &address(peer),
            &mut self.sessions,
            &mut self.own,
            &mut self.prekeys,
            &self.signed,
            &mut rand::rng(),
            UsePQRatchet::No,
        ))?;
        // The library leaves a used key in its place: whoever decrypts takes it away.
        if let Some(used) = decrypted.consumed_prekey_id {
            self.prekeys.pairs.remove(&used.into());
        }
        Ok(decrypted.plaintext)
    }

    /// Takes over the key a sender uses in a group.
    pub(crate) fn learn_sender_key(&mut self, group: &str, peer: &str, distribution: &[u8]) -> Result<()> {
        let distribution = SenderKeyDistributionMessage::try_from(distribution)?;
        at_once(process_sender_key_distribution_message(&sender(group, peer), &distribution, &mut self.sender_keys))
    }

    /// Decrypts an `<enc>` of type `skmsg`; the plaintext is still padded.
    pub(crate) fn decrypt_group(&mut self, group: &str, peer: &str, ciphertext: &[u8]) -> Result<Vec<u8>> {
        let message = SenderKeyMessage::try_from(ciphertext)?;
        self.seen.group(group, peer, &message, ciphertext);
        at_once(group_decrypt(ciphertext, &mut self.sender_keys, &sender(group, peer)))
    }

    /// Encrypts for a peer; `bundle` is asked for if there is no session yet. Gives the type of the `<enc>`, too.
    pub(crate) fn encrypt(
        &mut self,
        peer: &str,
        plaintext: &[u8],
        bundle: impl FnOnce() -> Option<PreKeyBundle>,
    ) -> std::result::Result<(&'static str, Vec<u8>), String> {
        let address = address(peer);
        if !self.sessions.0.contains_key(peer) {
            let bundle = bundle().ok_or_else(|| format!("{peer} has uploaded no keys"))?;
            at_once(process_prekey_bundle(
                &address,
                &mut self.sessions,
                &mut self.own,
                &bundle,
                &mut rand::rng(),
                UsePQRatchet::No,
            ))
            .map_err(|e| e.to_string())?;
        }
        let message = at_once(message_encrypt(plaintext, &address, &mut self.sessions, &mut self.own))
            .map_err(|e| e.to_string())?;
        let kind = if matches!(message, CiphertextMessage::PreKeySignalMessage(_)) { "pkmsg" } else { "msg" };
        Ok((kind, message.serialize().to_vec()))
    }

    /// How often a message key was used for two different ciphertexts: never, if the sender keeps its state well.
    pub(crate) fn reused_counters(&self) -> usize {
        self.seen.reused
    }
}

/// `<key>` or `<skey>`.
pub(crate) fn key_node(tag: &'static str, id: u32, public: &[u8], signature: Option<&[u8]>) -> Node {
    let [_, id @ ..] = id.to_be_bytes();
    let mut children = vec![bytes("id", id), bytes("value", public)];
    children.extend(signature.map(|signature| bytes("signature", signature)));
    NodeBuilder::new(tag).children(children).build()
}

/// The stores answer at once, so a future of the library never waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a store in memory answers at once")
}

fn address(peer: &str) -> ProtocolAddress {
    ProtocolAddress::new(peer, 0.into())
}

fn sender(group: &str, peer: &str) -> SenderKeyName {
    SenderKeyName::from_parts(group, peer)
}

/// Which message keys were seen, with the ciphertext they were seen for; hashes alone, so that it stays small.
#[derive(Default)]
struct Seen {
    hasher: RandomState,
    keys: HashMap<u64, u64>,
    reused: usize,
}

impl Seen {
    fn pairwise(&mut self, peer: &str, message: &SignalMessage) {
        let key = self.hasher.hash_one((peer, message.sender_ratchet_key().public_key_bytes(), message.counter()));
        self.note(key, message.serialized());
    }

    fn group(&mut self, group: &str, peer: &str, message: &SenderKeyMessage, ciphertext: &[u8]) {
        let key = self.hasher.hash_one((group, peer, message.chain_id(), message.iteration()));
        self.note(key, ciphertext);
    }

    fn note(&mut self, key: u64, ciphertext: &[u8]) {
        let ciphertext = self.hasher.hash_one(ciphertext);
        if *self.keys.entry(key).or_insert(ciphertext) != ciphertext {
            self.reused += 1;
        }
    }
}

struct Own {
    identity: IdentityKeyPair,
    registration_id: u32,
}

#[async_trait]
impl IdentityKeyStore for Own {
    async fn get_identity_key_pair(&self) -> Result<IdentityKeyPair> {
        Ok(self.identity.clone())
    }

    async fn get_local_registration_id(&self) -> Result<u32> {
        Ok(self.registration_id)
    }

    async fn save_identity(&mut self, _: &ProtocolAddress, _: &IdentityKey) -> Result<IdentityChange> {
        Ok(IdentityChange::NewOrUnchanged)
    }

    async fn is_trusted_identity(&self, _: &ProtocolAddress, _: &IdentityKey, _: Direction) -> Result<bool> {
        Ok(true)
    }

    async fn get_identity(&self, _: &ProtocolAddress) -> Result<Option<IdentityKey>> {
        Ok(None)
    }
}

struct Sessions(HashMap<String, SessionRecord>);

#[async_trait]
impl SessionStore for Sessions {
    async fn load_session(&self, address: &ProtocolAddress) -> Result<Option<SessionRecord>> {
        Ok(self.0.get(address.name()).cloned())
    }

    async fn has_session(&self, address: &ProtocolAddress) -> Result<bool> {
        Ok(self.0.contains_key(address.name()))
    }

    async fn store_session(&mut self, address: &ProtocolAddress, record: SessionRecord) -> Result<()> {
        self.0.insert(address.name().to_owned(), record);
        Ok(())
    }
}

struct PreKeys {
    next: u32,
    pairs: HashMap<u32, KeyPair>,
}

impl PreKeys {
    fn generate(&mut self) -> (u32, &KeyPair) {
        let id = self.next;
        self.next += 1;
        (id, self.pairs.entry(id).or_insert_with(|| KeyPair::generate(&mut rand::rng())))
    }
}

#[async_trait]
impl PreKeyStore for PreKeys {
    async fn get_pre_key(&self, id: PreKeyId) -> Result<PreKeyRecord> {
        let pair = self.pairs.get(&id.into()).ok_or(SignalProtocolError::InvalidPreKeyId)?;
        Ok(PreKeyRecord::new(id, pair))
    }

    async fn save_pre_key(&mut self, id: PreKeyId, record: &PreKeyRecord) -> Result<()> {
        self.pairs.insert(id.into(), record.key_pair()?);
        Ok(())
    }

    async fn remove_pre_key(&mut self, id: PreKeyId) -> Result<()> {
        self.pairs.remove(&id.into());
        Ok(())
    }
}

struct SignedPreKey {
    id: u32,
    pair: KeyPair,
    signature: [u8; 64],
}

impl SignedPreKey {
    fn node(&self) -> Node {
        key_node("skey", self.id, self.pair.public_key.public_key_bytes(), Some(&self.signature))
    }
}

#[async_trait]
impl SignedPreKeyStore for SignedPreKey {
    async fn get_signed_pre_key(&self, id: SignedPreKeyId) -> Result<SignedPreKeyRecord> {
        if u32::from(id) != self.id {
            return Err(SignalProtocolError::InvalidSignedPreKeyId);
        }
        Ok(SignedPreKeyRecord::new(id, Timestamp::from_epoch_millis(0), &self.pair, &self.signature))
    }

    async fn save_signed_pre_key(&mut self, _: SignedPreKeyId, _: &SignedPreKeyRecord) -> Result<()> {
        Ok(())
    }
}

struct SenderKeys(HashMap<String, SenderKeyRecord>);

#[async_trait]
impl SenderKeyStore for SenderKeys {
    async fn store_sender_key(&mut self, name: &SenderKeyName, record: SenderKeyRecord) -> Result<()> {
        self.0.insert(name.cache_key().to_owned(), record);
        Ok(())
    }

    async fn load_sender_key(&self, name: &SenderKeyName) -> Result<Option<SenderKeyRecord>> {
        Ok(self.0.get(name.cache_key()).cloned())
    }
}

#[cfg(test)]
mod tests {
    use wacore_libsignal::protocol::{create_sender_key_distribution_message, group_encrypt};

    use super::*;

    fn bundle(of: &mut SignalDevice) -> PreKeyBundle {
        let (id, pair) = of.prekeys.generate();
        let one_time = (id.into(), pair.public_key);
        PreKeyBundle::new(
            of.own.registration_id,
            0.into(),
            Some(one_time),
            of.signed.id.into(),
            of.signed.pair.public_key,
            of.signed.signature.to_vec(),
            *of.own.identity.identity_key(),
        )
        .expect("a bundle")
    }

    #[test]
    fn a_sender_that_goes_back_is_noticed() {
        let (mut alice, mut bob) = (SignalDevice::generate(), SignalDevice::generate());
        let bundle = bundle(&mut bob);
        let (kind, first) = alice.encrypt("bob", b"first", || Some(bundle)).expect("encrypted");
        let before = alice.sessions.0.clone();
        let (_, second) = alice.encrypt("bob", b"second", || None).expect("encrypted");
        assert_eq!(bob.decrypt("alice", kind, &first).expect("decrypted"), b"first");
        assert_eq!(bob.decrypt("alice", kind, &second).expect("decrypted"), b"second");
        // The same bytes again are a repetition on the wire, nothing worse.
        assert!(bob.decrypt("alice", kind, &second).is_err());
        assert_eq!(bob.reused_counters(), 0);

        alice.sessions.0 = before;
        let (_, other) = alice.encrypt("bob", b"other", || None).expect("encrypted");
        assert!(bob.decrypt("alice", kind, &other).is_err());
        assert_eq!(bob.reused_counters(), 1);
    }

    #[test]
    fn a_sender_that_goes_back_in_a_group_is_noticed() {
        let (mut alice, mut bob) = (SignalDevice::generate(), SignalDevice::generate());
        let (name, rng) = (sender("group", "alice"), &mut rand::rng());
        let key = at_once(create_sender_key_distribution_message(&name, &mut alice.sender_keys, rng)).expect("a key");
        bob.learn_sender_key("group", "alice", key.serialized()).expect("learnt");
        let before = alice.sender_keys.0.clone();
        for (text, reused) in [(b"one", 0), (b"two", 1)] {
            alice.sender_keys.0 = before.clone();
            let message = at_once(group_encrypt(&mut alice.sender_keys, &name, text, rng)).expect("encrypted");
            let _ = bob.decrypt_group("group", "alice", message.serialized());
            assert_eq!(bob.reused_counters(), reused);
        }
    }
}
