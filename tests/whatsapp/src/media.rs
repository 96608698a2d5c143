//! The media host: encrypted files as clients upload them, and what a contact makes of them.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use wacore::download::{DownloadUtils, MediaType};
use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;
use waproto::whatsapp as wa;

use crate::lock::lock;
use crate::stanza::result;
use crate::state::State;

/// Uploaded files by their token, the hash of what was uploaded.
pub(crate) struct Blobs {
    files: Mutex<HashMap<String, Bytes>>,
    auth: Mutex<String>,
    refusal: Mutex<Option<u16>>,
}

/// Where files are found under the host.
pub(crate) const PATH: &str = "/v/";

impl Blobs {
    pub(crate) fn new() -> Self {
        Self { files: Mutex::default(), auth: Mutex::new(new_auth()), refusal: Mutex::default() }
    }

    /// Takes a file, if the client may upload and the file is what its token says.
    pub(crate) fn store(&self, token: &str, auth: &str, file: Bytes) -> Result<(), u16> {
        self.check(auth)?;
        if URL_SAFE_NO_PAD.encode(Sha256::digest(&file)) != token {
            return Err(400);
        }
        lock(&self.files).insert(token.to_owned(), file);
        Ok(())
    }

    /// Whether a client may upload.
    pub(crate) fn check(&self, auth: &str) -> Result<(), u16> {
        if let Some(status) = *lock(&self.refusal) {
            return Err(status);
        }
        if *lock(&self.auth) == auth { Ok(()) } else { Err(401) }
    }

    pub(crate) fn get(&self, token: &str) -> Option<Bytes> {
        lock(&self.files).get(token).cloned()
    }

    /// The permission clients have been given ends: they have to ask for a new one.
    pub(crate) fn expire_auth(&self) {
        *lock(&self.auth) = new_auth();
    }

    pub(crate) fn refuse(&self, status: Option<u16>) {
        *lock(&self.refusal) = status;
    }
}

fn new_auth() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 12]>())
}

/// Tells a client where to upload.
pub(crate) fn connection(state: &State, id: &str) -> Node {
    let host = NodeBuilder::new("host").attr("hostname", state.address.to_string()).attr("type", "primary").build();
    let media = NodeBuilder::new("media_conn")
        .attr("auth", lock(&state.blobs.auth).as_str())
        .attr("ttl", 3600)
        .attr("auth_ttl", 3600)
        .attr("max_buckets", 12)
        .children([host])
        .build();
    result(id, [media])
}

/// What a message says about its file.
struct File<'a> {
    kind: MediaType,
    direct_path: &'a Option<String>,
    key: &'a Option<Vec<u8>>,
    sha256: &'a Option<Vec<u8>>,
    enc_sha256: &'a Option<Vec<u8>>,
    length: Option<u64>,
}

macro_rules! file {
    ($message:expr, $kind:expr) => {
        $message.as_option().map(|m| File {
            kind: $kind,
            direct_path: &m.direct_path,
            key: &m.media_key,
            sha256: &m.file_sha256,
            enc_sha256: &m.file_enc_sha256,
            length: m.file_length,
        })
    };
}

/// Fetches the file of a message and decrypts it; every hash and length must be right.
pub(crate) fn open(blobs: &Blobs, message: &wa::Message) -> Result<Vec<u8>, String> {
    let file = file!(message.image_message, MediaType::Image)
        .or_else(|| file!(message.video_message, MediaType::Video))
        .or_else(|| file!(message.audio_message, MediaType::Audio))
        .or_else(|| file!(message.document_message, MediaType::Document))
        .or_else(|| file!(message.sticker_message, MediaType::Sticker))
        .ok_or("the message holds no file")?;
    let path = file.direct_path.as_deref().ok_or("no direct path")?;
    let token = path.strip_prefix(PATH).and_then(|rest| rest.split('?').next()).ok_or("a path of another host")?;
    let sealed = blobs.get(token).ok_or("the host has no such file")?;
    if file.enc_sha256.as_deref() != Some(&Sha256::digest(&sealed)[..]) {
        return Err("the hash of the encrypted file is wrong".to_owned());
    }
    let key = file.key.as_deref().ok_or("no key")?;
    let plain = DownloadUtils::verify_and_decrypt(&sealed, key, file.kind).map_err(|e| e.to_string())?;
    if file.sha256.as_deref() != Some(&Sha256::digest(&plain)[..]) {
        return Err("the hash of the file is wrong".to_owned());
    }
    if file.length != Some(plain.len() as u64) {
        return Err(format!("{} bytes, but the message says {:?}", plain.len(), file.length));
    }
    Ok(plain)
}
