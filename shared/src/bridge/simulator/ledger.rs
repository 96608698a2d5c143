//! The ledger: what WhatsApp saw, whatever happens to the process afterwards.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::ids::SessionId;
use crate::ports::bridge::{Attachment, SendRequest};
use crate::time::Time;

/// A file to which every message that WhatsApp receives is appended as one line of JSON. Several processes may share it.
pub(super) struct Ledger(File);

#[derive(Serialize)]
struct Line<'a> {
    whatsapp_id: &'a str,
    session_id: SessionId,
    to: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media: Option<&'a SeenFile>,
    at: Time,
}

/// A file as it reached WhatsApp.
#[derive(Serialize)]
pub(super) struct SeenFile {
    mime_type: String,
    filename: Option<String>,
    size: u64,
    sha256: String,
}

impl SeenFile {
    /// Reads a file whole, as an upload does.
    pub(super) async fn read(file: &Attachment) -> io::Result<Self> {
        let mut bytes = tokio::fs::File::open(&file.path).await?;
        let (mut hash, mut size) = (Sha256::new(), 0);
        let mut some = vec![0; 64 << 10];
        loop {
            let read = bytes.read(&mut some).await?;
            if read == 0 {
                break;
            }
            hash.update(&some[..read]);
            size += read as u64;
        }
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { mime_type: file.mime_type.clone(), filename: file.filename.clone(), size, sha256 })
    }
}

impl Ledger {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().append(true).create(true).open(path).map(Self)
    }

    /// Appends a message in one write, so that lines of several processes don't mix. It goes into the page cache, which
    /// takes microseconds and outlives the process: no reason to leave the async thread.
    pub(super) fn append(&self, session: SessionId, message: &SendRequest, media: Option<&SeenFile>) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line {
            whatsapp_id: &message.whatsapp_id,
            session_id: session,
            to: message.recipient.as_str(),
            kind: message.kind.as_str(),
            text: message.content.text.as_deref(),
            media,
            at: Time::now(),
        })?;
        line.push(b'\n');
        (&self.0).write_all(&line)
    }
}
