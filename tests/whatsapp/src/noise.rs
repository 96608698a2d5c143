//! The server's side of the Noise handshake, and the frames after it.
//!
//! Three patterns: XX (a client that doesn't know us), IK (one that knows our static key and says everything in its first
//! message), and XXfallback, our answer to an IK message made for another server's key.

use bytes::BytesMut;
use wacore_binary::consts::{NOISE_PATTERN_IK, NOISE_PATTERN_XX, NOISE_PATTERN_XXFALLBACK, WA_CONN_HEADER};
use wacore_libsignal::protocol::KeyPair;
use wacore_noise::test_util::build_cert_chain_bytes;
use wacore_noise::{HandshakeError, NoiseCipher, NoiseHandshake, framing};
use waproto::buffa::{Message as _, MessageField};
use waproto::whatsapp::handshake_message::{ClientFinish, ClientHello, ServerHello};
use waproto::whatsapp::{ClientPayload, HandshakeMessage};

/// What identifies the server: its static key and the chain of certificates for it.
pub(crate) struct Identity {
    keys: KeyPair,
    certificates: Vec<u8>,
}

impl Identity {
    pub(crate) fn generate() -> Self {
        let keys = KeyPair::generate(&mut rand::rng());
        let public: [u8; 32] = keys.public_key.public_key_bytes().try_into().expect("a Curve25519 key has 32 bytes");
        Self { keys, certificates: build_cert_chain_bytes(&public) }
    }
}

/// Who came in, and the ciphers to speak with.
pub(crate) struct Accepted {
    pub(crate) client_static: [u8; 32],
    pub(crate) payload: ClientPayload,
    pub(crate) ciphers: Ciphers,
}

/// Where a handshake stands after the client's hello.
pub(crate) enum Step {
    /// IK: the answer, and all is said.
    Done(Vec<u8>, Box<Accepted>),
    /// XX or XXfallback: the answer; the client's finish must follow.
    Answer(Vec<u8>, Box<Pending>),
}

/// A handshake that waits for the client's finish.
pub(crate) struct Pending {
    noise: NoiseHandshake,
    ephemeral: KeyPair,
}

type Result<T> = std::result::Result<T, HandshakeError>;

/// Reads the client's hello.
pub(crate) fn hello(server: &Identity, frame: &[u8]) -> Result<Step> {
    let hello = decode(frame)?.client_hello.into_option().ok_or(HandshakeError::IncompleteResponse)?;
    let ephemeral = key(hello.ephemeral.as_deref())?;
    match hello {
        ClientHello { r#static: Some(sealed), payload: Some(payload), .. } => {
            match ik(server, &ephemeral, &sealed, &payload) {
                Ok((answer, accepted)) => Ok(Step::Done(answer, Box::new(accepted))),
                Err(_) => xx(server, NOISE_PATTERN_XXFALLBACK, &ephemeral),
            }
        }
        _ => xx(server, NOISE_PATTERN_XX, &ephemeral),
    }
}

/// Reads the client's finish.
pub(crate) fn finish(pending: Pending, frame: &[u8]) -> Result<Accepted> {
    let Pending { mut noise, ephemeral } = pending;
    let finish = decode(frame)?.client_finish.into_option().ok_or(HandshakeError::IncompleteResponse)?;
    let ClientFinish { r#static: Some(sealed), payload: Some(payload), .. } = finish else {
        return Err(HandshakeError::IncompleteResponse);
    };
    let client_static = key(Some(&noise.decrypt(&sealed)?))?;
    noise.mix_shared_secret(ephemeral.private_key.serialize(), &client_static)?;
    let payload = noise.decrypt(&payload)?;
    accepted(noise, client_static, &payload)
}

fn ik(server: &Identity, client_ephemeral: &[u8; 32], sealed: &[u8], payload: &[u8]) -> Result<(Vec<u8>, Accepted)> {
    let own = server.keys.private_key.serialize();
    let mut noise = NoiseHandshake::new(NOISE_PATTERN_IK, &WA_CONN_HEADER)?;
    noise.authenticate(server.keys.public_key.public_key_bytes());
    noise.authenticate(client_ephemeral);
    noise.mix_shared_secret(own, client_ephemeral)?;
    let client_static = key(Some(&noise.decrypt(sealed)?))?;
    noise.mix_shared_secret(own, &client_static)?;
    let payload = noise.decrypt(payload)?;

    let ephemeral = KeyPair::generate(&mut rand::rng());
    noise.authenticate(ephemeral.public_key.public_key_bytes());
    noise.mix_shared_secret(ephemeral.private_key.serialize(), client_ephemeral)?;
    noise.mix_shared_secret(ephemeral.private_key.serialize(), &client_static)?;
    let certificates = noise.encrypt(&server.certificates)?;
    Ok((server_hello(&ephemeral, None, certificates), accepted(noise, client_static, &payload)?))
}

fn xx(server: &Identity, pattern: &str, client_ephemeral: &[u8; 32]) -> Result<Step> {
    let mut noise = NoiseHandshake::new(pattern, &WA_CONN_HEADER)?;
    noise.authenticate(client_ephemeral);
    let ephemeral = KeyPair::generate(&mut rand::rng());
    noise.authenticate(ephemeral.public_key.public_key_bytes());
    noise.mix_shared_secret(ephemeral.private_key.serialize(), client_ephemeral)?;
    let own = noise.encrypt(server.keys.public_key.public_key_bytes())?;
    noise.mix_shared_secret(server.keys.private_key.serialize(), client_ephemeral)?;
    let certificates = noise.encrypt(&server.certificates)?;
    let answer = server_hello(&ephemeral, Some(own), certificates);
    Ok(Step::Answer(answer, Box::new(Pending { noise, ephemeral })))
}

fn accepted(noise: NoiseHandshake, client_static: [u8; 32], payload: &[u8]) -> Result<Accepted> {
    let payload = ClientPayload::decode_from_slice(payload)?;
    // The client writes with the first key of the split, so it is the one to read with.
    let (read, write) = noise.finish()?;
    Ok(Accepted { client_static, payload, ciphers: Ciphers { read, reads: 0, write, writes: 0 } })
}

fn server_hello(ephemeral: &KeyPair, own: Option<Vec<u8>>, certificates: Vec<u8>) -> Vec<u8> {
    let message = HandshakeMessage {
        server_hello: MessageField::some(ServerHello {
            ephemeral: Some(ephemeral.public_key.public_key_bytes().to_vec()),
            r#static: own,
            payload: Some(certificates),
            ..Default::default()
        }),
        ..Default::default()
    };
    waproto::codec::handshake_message_to_vec(&message)
}

fn decode(frame: &[u8]) -> Result<HandshakeMessage> {
    Ok(waproto::codec::handshake_message_decode(frame)?)
}

fn key(bytes: Option<&[u8]>) -> Result<[u8; 32]> {
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(HandshakeError::InvalidKeyLength)
}

/// The two directions after the handshake; each counts its frames.
pub(crate) struct Ciphers {
    read: NoiseCipher,
    reads: u32,
    write: NoiseCipher,
    writes: u32,
}

impl Ciphers {
    /// Opens a frame of the client.
    pub(crate) fn open(&mut self, frame: &mut BytesMut) -> Result<()> {
        self.read.decrypt_in_place_with_counter(self.reads, frame)?;
        self.reads += 1;
        Ok(())
    }

    /// Seals a plaintext and appends its frame to `out`.
    pub(crate) fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let sealed = self.write.encrypt_with_counter(self.writes, plaintext)?;
        self.writes += 1;
        append_frame(&sealed, out);
        Ok(())
    }
}

/// Appends a frame: three bytes of length, then the payload.
pub(crate) fn append_frame(payload: &[u8], out: &mut Vec<u8>) {
    let frame = framing::encode_frame(payload, None).expect("the server's frames are short");
    out.extend_from_slice(&frame);
}
