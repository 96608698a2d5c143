//! A message, its statuses, and the one table of the moves between them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{MediaId, MessageId, SessionId, UserId};
use crate::recipient::Recipient;
use crate::session::BridgeKind;
use crate::time::Time;

/// How long a message may wait after it falls due, unless its sender says otherwise.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(24 * 3600);
/// The longest a message may wait after it falls due, and the furthest ahead it may be scheduled.
pub const MAX_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Crashes of its actor after which a message is given up as a dead letter.
pub const MAX_CRASHES: i32 = 3;

/// Where a message stands. The numbers are the database's: a later step of the ordinary way has the greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum Status {
    /// Stored, its quota taken, waiting for `send_at`.
    Scheduled = 0,
    /// Stored, its quota taken, waiting for its turn.
    Accepted = 1,
    /// Claimed by its session's owner; may be on its way, may be in doubt.
    Sending = 2,
    /// WhatsApp's server has acknowledged it.
    Sent = 3,
    /// It reached the recipient's phone.
    Delivered = 4,
    /// The recipient has seen it.
    Read = 5,
    /// It won't be sent; `error` says why. With `unknown_outcome` it may have been.
    Failed = 6,
    /// Its time ran out before it could be sent.
    Expired = 7,
    /// Taken back by its sender before it was sent.
    Cancelled = 8,
}

impl Status {
    /// Every status, in the order of the numbers.
    pub const ALL: [Self; 9] = [
        Self::Scheduled,
        Self::Accepted,
        Self::Sending,
        Self::Sent,
        Self::Delivered,
        Self::Read,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
    ];

    /// From which statuses a message may come to this one. The statements' `WHERE` clauses follow this table, and a test
    /// tries every move against both databases.
    ///
    /// Two entries hold under a condition: `Accepted` from `Sending` is the one step back, for an attempt that definitely
    /// wasn't sent; `Sent`, `Delivered` and `Read` from `Failed` need an `unknown_outcome`, which a receipt then disproves.
    pub const fn origins(self) -> &'static [Self] {
        use Status::*;
        match self {
            Scheduled => &[],
            Accepted => &[Scheduled, Sending],
            Sending => &[Accepted, Sending],
            Sent => &[Accepted, Sending, Failed],
            Delivered => &[Accepted, Sending, Sent, Failed],
            Read => &[Accepted, Sending, Sent, Delivered, Failed],
            Failed => &[Scheduled, Accepted, Sending],
            Expired => &[Accepted, Sending],
            Cancelled => &[Scheduled, Accepted],
        }
    }

    /// Waiting or on its way: it holds up later messages to the same recipient.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Accepted | Self::Sending)
    }

    /// Nothing more is expected to happen to it.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Read | Self::Failed | Self::Expired | Self::Cancelled)
    }

    /// The word the API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Accepted => "accepted",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status that the API's word means.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }

    /// The status that the database's number means.
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as i16 == code)
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
#[expect(missing_docs, reason = "the words of the contract")]
pub enum MessageType {
    Text = 0,
    Image = 1,
    Video = 2,
    Audio = 3,
    Document = 4,
    Sticker = 5,
    Location = 6,
    Contact = 7,
}

impl MessageType {
    /// Every type, in the order of the numbers.
    pub const ALL: [Self; 8] = [
        Self::Text,
        Self::Image,
        Self::Video,
        Self::Audio,
        Self::Document,
        Self::Sticker,
        Self::Location,
        Self::Contact,
    ];

    /// The word the API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Document => "document",
            Self::Sticker => "sticker",
            Self::Location => "location",
            Self::Contact => "contact",
        }
    }

    /// The type that the API's word means.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == word)
    }

    /// The type that the database's number means.
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as i16 == code)
    }

    /// Those that carry a file.
    pub const MEDIA: [Self; 5] = [Self::Image, Self::Video, Self::Audio, Self::Document, Self::Sticker];

    /// Whether it carries a file.
    pub fn is_media(self) -> bool {
        Self::MEDIA.contains(&self)
    }
}

/// What a message says: the part that depends on its type. Kept as one JSON text, never searched.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// The text, for type `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The file, for the media types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
    /// The place, for type `location`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// The card, for type `contact`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<Contact>,
    /// The words under an image, a video or a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
}

/// A file to send: exactly one of `url` and `id`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Media {
    /// Where the worker fetches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub url: Option<String>,
    /// A file that we keep: uploaded before, or with the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub id: Option<MediaId>,
    /// What the file is, by its content or else by what its sender declared; of one that we keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub mime_type: Option<String>,
    /// The name the recipient sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub filename: Option<String>,
    /// For audio: shown as a voice note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub voice: Option<bool>,
}

/// A place on the map, in degrees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// −90 to 90.
    pub latitude: f64,
    /// −180 to 180.
    pub longitude: f64,
    /// The place's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// The place's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub address: Option<String>,
}

/// A contact card: a name with a phone number, or a whole vCard.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// The name, with `phone_number`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// The phone number in E.164 form, with `name`.
    #[serde(default, alias = "phone", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub phone_number: Option<String>,
    /// A vCard's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub vcard: Option<String>,
}

/// Why a message failed, or why its last attempt did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageError {
    /// A stable word for programs.
    pub code: String,
    /// A sentence for people.
    pub detail: String,
    /// Whether the same message might succeed later.
    pub retryable: bool,
}

impl MessageError {
    /// `code` of a message that may have been sent and can't be said to have been.
    pub const UNKNOWN_OUTCOME: &'static str = "unknown_outcome";
    /// `code` of a message that couldn't be processed.
    pub const INTERNAL: &'static str = "internal";

    /// An error in words.
    pub fn new(code: &str, detail: impl Into<String>, retryable: bool) -> Self {
        Self { code: code.to_owned(), detail: detail.into(), retryable }
    }

    /// It may have been sent; nobody can tell.
    pub fn unknown_outcome() -> Self {
        Self::new(
            Self::UNKNOWN_OUTCOME,
            "The message may have reached WhatsApp, but no acknowledgement came. Sending it again as a new message may show it twice.",
            false,
        )
    }

    /// As it is stored.
    pub fn to_json(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// It couldn't be processed: a dead letter.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(Self::INTERNAL, detail, false)
    }
}

/// What a waiting message waits for: the first that applies, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockedBy {
    /// Its `send_at`.
    Scheduled,
    /// Its user to be activated again.
    UserInactive,
    /// Its session to be resumed.
    SessionPaused,
    /// Its session to be connected.
    SessionNotConnected,
    /// An earlier message to the same recipient.
    EarlierMessage,
    /// WhatsApp to lift a restriction of the account.
    Restricted,
    /// The next attempt after a transient failure, or after one in doubt.
    Retry,
    /// The session's pace.
    Pacing,
}

impl BlockedBy {
    /// Each of them, the first that applies first.
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::UserInactive,
        Self::SessionPaused,
        Self::SessionNotConnected,
        Self::EarlierMessage,
        Self::Restricted,
        Self::Retry,
        Self::Pacing,
    ];

    /// The word the API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::UserInactive => "user_inactive",
            Self::SessionPaused => "session_paused",
            Self::SessionNotConnected => "session_not_connected",
            Self::EarlierMessage => "earlier_message",
            Self::Restricted => "restricted",
            Self::Retry => "retry",
            Self::Pacing => "pacing",
        }
    }
}

/// Why a message isn't tried again before its `due_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum Hold {
    /// A transient failure or an attempt in doubt.
    Retry = 1,
    /// WhatsApp restricts the account.
    Restricted = 2,
    /// The session's care for its account: first messages to new recipients are spread.
    Pacing = 3,
}

/// A message to be accepted. Everything that makes it what it is is fixed here, so that the same batch can be run again.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Its id.
    pub id: MessageId,
    /// Its session, which belongs to its user.
    pub session: SessionId,
    /// To whom.
    pub recipient: Recipient,
    /// Its id at WhatsApp ([`crate::ids::new_whatsapp_id`]).
    pub whatsapp_id: String,
    /// What it is.
    pub kind: MessageType,
    /// What it says.
    pub content: Content,
    /// The message that it answers.
    pub reply_to: Option<MessageId>,
    /// The dead letter that it replays.
    pub replayed_from: Option<MessageId>,
    /// The client's own mark.
    pub reference: Option<String>,
    /// When to send it, if not at once.
    pub send_at: Option<Time>,
    /// When it is worthless; [`DEFAULT_LIFE`] after it falls due if `None`.
    pub expires_at: Option<Time>,
    /// The request it came with, for the worker's log lines.
    pub request_id: String,
}

impl NewMessage {
    /// When it expires, if it is accepted at `created_at`. The statements compute the same.
    pub fn expires_at(&self, created_at: Time) -> Time {
        self.expires_at.unwrap_or_else(|| self.send_at.unwrap_or(created_at).plus(DEFAULT_LIFE))
    }

    /// Its status on acceptance.
    pub fn initial_status(&self) -> Status {
        if self.send_at.is_some() { Status::Scheduled } else { Status::Accepted }
    }
}

/// A message as its sender sees it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// Whose it is.
    pub user_id: UserId,
    /// The name of its session.
    pub session: String,
    /// The bridge of its session.
    pub bridge: BridgeKind,
    /// To whom, in canonical form.
    pub to: Recipient,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: MessageType,
    /// The text.
    pub text: Option<String>,
    /// The file.
    pub media: Option<Media>,
    /// The place.
    pub location: Option<Location>,
    /// The card.
    pub contact: Option<Contact>,
    /// The words under a file.
    pub caption: Option<String>,
    /// The message that it answers.
    pub reply_to: Option<MessageId>,
    /// Where it stands.
    pub status: Status,
    /// Why it failed, or why its last attempt did.
    pub error: Option<MessageError>,
    /// What it waits for.
    pub blocked_by: Option<BlockedBy>,
    /// The client's own mark.
    pub reference: Option<String>,
    /// How often it was given to the bridge.
    pub attempts: i32,
    /// Its id at WhatsApp.
    pub whatsapp_id: String,
    /// The dead letter that it replays.
    pub replayed_from: Option<MessageId>,
    /// When it was accepted, by the database's clock.
    pub created_at: Time,
    /// When it is to be sent, if not at once.
    pub send_at: Option<Time>,
    /// When it is worthless.
    pub expires_at: Time,
    /// When WhatsApp's server acknowledged it.
    pub sent_at: Option<Time>,
    /// When it reached the recipient's phone.
    pub delivered_at: Option<Time>,
    /// When the recipient saw it.
    pub read_at: Option<Time>,
    /// When its row last changed.
    pub updated_at: Time,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_status() -> impl Strategy<Value = Status> {
        prop::sample::select(Status::ALL.to_vec())
    }

    proptest! {
        /// However the table is walked, a status never moves backwards and never leaves an end, but for the two
        /// exceptions that it names.
        #[test]
        fn no_path_goes_backwards_or_leaves_an_end(path in prop::collection::vec(any_status(), 1..40)) {
            let mut at = Status::Scheduled;
            for to in path {
                if !to.origins().contains(&at) {
                    continue;
                }
                let step_back = at == Status::Sending && to == Status::Accepted;
                let disproved = at == Status::Failed && matches!(to, Status::Sent | Status::Delivered | Status::Read);
                prop_assert!(to >= at || step_back || disproved, "{at:?} to {to:?}");
                prop_assert!(!at.is_final() || disproved, "{at:?} is an end, yet leads to {to:?}");
                at = to;
            }
        }
    }

    #[test]
    fn what_was_sent_is_never_cancelled_or_failed() {
        for end in [Status::Cancelled, Status::Failed, Status::Expired] {
            for sent in [Status::Sent, Status::Delivered, Status::Read] {
                assert!(!end.origins().contains(&sent));
            }
        }
    }

    #[test]
    fn words_and_numbers_are_read_back() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
            assert_eq!(Status::from_code(status as i16), Some(status));
            assert_eq!(serde_json::to_value(status).expect("a word"), status.as_str());
        }
        for kind in MessageType::ALL {
            assert_eq!(MessageType::parse(kind.as_str()), Some(kind));
            assert_eq!(MessageType::from_code(kind as i16), Some(kind));
        }
    }
}
