//! The bridge: drives one WhatsApp session. A worker opens a link for each session that it owns.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::ids::{SessionId, WorkerId};
use crate::message::{Content, Hold, MessageError, MessageType};
use crate::ports::store::Awaiting;
use crate::recipient::Recipient;
use crate::session::{BridgeKind, Pace};
use crate::time::Time;

/// A kind of bridge: opens links.
#[async_trait]
pub trait Bridge: Send + Sync {
    /// Which kind.
    fn kind(&self) -> BridgeKind;

    /// Whether WhatsApp takes the message id that we choose, so that an attempt in doubt may be repeated under it.
    fn repeats_under_same_id(&self) -> bool;

    /// Whether [`LinkRequest::awaiting`] is of use to it: reading that costs up to thousands of rows for each session.
    fn wants_awaiting(&self) -> bool {
        false
    }

    /// Starts to connect a session. What happens then comes as events. Dropping the link disconnects.
    async fn open(&self, session: LinkRequest, events: mpsc::Sender<BridgeEvent>) -> Arc<dyn Link>;
}

/// Who drives a session, and whether it still may.
#[derive(Clone)]
pub struct Owner {
    /// The worker: what it writes for the session is refused once the session isn't its own.
    pub worker: WorkerId,
    holds: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Owner {
    /// A worker, and what says whether its lease holds.
    pub fn new(worker: WorkerId, holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { worker, holds: Arc::new(holds) }
    }

    /// Whether something may be sent now. A process that was frozen for longer than its lease sees here that it may not.
    pub fn holds(&self) -> bool {
        (self.holds)()
    }
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.worker.fmt(f)
    }
}

/// What a bridge needs to know of a session.
#[derive(Debug, Clone)]
pub struct LinkRequest {
    /// The session.
    pub session: SessionId,
    /// Who opens it.
    pub owner: Owner,
    /// How it treats its account: changes come by [`Link::set_pace`].
    pub pace: Pace,
    /// What it reaches WhatsApp by; sealed.
    pub proxy: Option<Vec<u8>>,
    /// The number it is paired with, if it is.
    pub paired: Option<String>,
    /// The number to pair it with by a code, if its user wants that rather than a QR code.
    pub pair_phone: Option<String>,
    /// Messages that still await receipts, if [`Bridge::wants_awaiting`].
    pub awaiting: Vec<Awaiting>,
}

/// One session's connection.
#[async_trait]
pub trait Link: Send + Sync {
    /// Sends a message and waits for WhatsApp's acknowledgement. It may take arbitrarily long: the caller limits it, and a
    /// call given up is in doubt. Calls for different recipients may run side by side.
    async fn send(&self, message: &SendRequest) -> Attempt;

    /// What of the session's pace is the bridge's to keep has changed. It must not block.
    fn set_pace(&self, _pace: Pace) {}

    /// Disconnects, and keeps the pairing. No event follows.
    async fn disconnect(&self);

    /// Unlinks the session.
    async fn logout(&self);
}

/// A message for WhatsApp.
#[derive(Debug, Clone)]
pub struct SendRequest {
    /// The id to send it under.
    pub whatsapp_id: String,
    /// To whom.
    pub recipient: Recipient,
    /// What it is.
    pub kind: MessageType,
    /// What it says.
    pub content: Content,
    /// The file, for the media types.
    pub file: Option<Attachment>,
    /// The WhatsApp id of the message that it answers.
    pub quoted: Option<String>,
    /// The number of the attempt, from 1.
    pub attempt: i32,
    /// When it is worthless.
    pub expires_at: Time,
    /// How long its sender waits for the answer; then the attempt is in doubt.
    pub patience: Duration,
}

/// A file to be sent with a message: on this machine's disk, as long as the call lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Where it is.
    pub path: PathBuf,
    /// What it is, by its content.
    pub mime_type: String,
    /// In bytes.
    pub size: u64,
    /// The name that the recipient sees.
    pub filename: Option<String>,
}

/// How an attempt ended, as far as the bridge can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// WhatsApp acknowledged it.
    Sent,
    /// Definitely not sent; may work later.
    Transient(MessageError),
    /// Definitely not sent: WhatsApp restricts the account; may work when it no longer does.
    Restricted(MessageError),
    /// Not tried: it must wait so long, for this reason.
    Held(Duration, Hold),
    /// Definitely not sent, and never will be.
    Permanent(MessageError),
    /// Maybe sent.
    InDoubt(MessageError),
}

/// What a session's connection does.
#[derive(Debug)]
pub enum BridgeEvent {
    /// On its way (again).
    Connecting,
    /// A QR code to scan, and its end.
    QrCode {
        /// The raw text to draw.
        code: String,
        /// When it ends.
        expires_at: Time,
    },
    /// A code to type on the phone with the number that was asked for, and its end.
    PairCode {
        /// As it is shown to people.
        code: String,
        /// When it ends.
        expires_at: Time,
    },
    /// Paired with this number.
    Paired {
        /// In E.164 form.
        phone_number: String,
    },
    /// Ready to send.
    Connected,
    /// The connection is gone; the bridge tries to get it back.
    Disconnected {
        /// Why, in words.
        reason: String,
    },
    /// Unlinked from the phone's side.
    LoggedOut {
        /// Why, in words.
        reason: String,
    },
    /// It can't go on, and doesn't try: until its user connects it again.
    Halted {
        /// Why, in words.
        reason: String,
    },
    /// WhatsApp has banned the account for a while.
    Banned {
        /// Why, in words.
        reason: String,
        /// When that ends.
        until: Time,
    },
    /// Receipts; WhatsApp gives them again after a reconnect unless they are taken.
    Receipts(Receipts),
}

/// Receipts from WhatsApp, and the way to say that they are safe.
#[derive(Debug)]
pub struct Receipts {
    /// What came.
    pub receipts: Vec<crate::ports::store::Receipt>,
    /// Answered once they are stored.
    pub taken: Option<tokio::sync::oneshot::Sender<()>>,
}
