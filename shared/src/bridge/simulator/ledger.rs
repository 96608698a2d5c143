//! The ledger: what WhatsApp saw, whatever happens to the process afterwards.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::ids::SessionId;
use crate::ports::bridge::SendRequest;
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
    at: Time,
}

impl Ledger {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().append(true).create(true).open(path).map(Self)
    }

    /// Appends a message in one write, so that lines of several processes don't mix. It goes into the page cache, which
    /// takes microseconds and outlives the process: no reason to leave the async thread.
    pub(super) fn append(&self, session: SessionId, message: &SendRequest) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line {
            whatsapp_id: &message.whatsapp_id,
            session_id: session,
            to: message.recipient.as_str(),
            kind: message.kind.as_str(),
            text: message.content.text.as_deref(),
            at: Time::now(),
        })?;
        line.push(b'\n');
        (&self.0).write_all(&line)
    }
}
