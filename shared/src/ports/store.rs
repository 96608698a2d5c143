//! The store: the truth about users, sessions, messages, quota and usage.
//!
//! A method is one whole transaction with a business name. Whatever two processes could decide differently is decided
//! here, in a guarded statement. Accepts, pulls, settlements and receipts are *group-committed*: calls that come while a
//! transaction is under way share the next one, and a call that is alone waits for nobody. Dropping a caller's future
//! doesn't stop its write.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::accounts::Accounts;
use super::audit::{Actor, Audit};
use super::devices::Devices;
use super::files::Files;
use super::logins::Logins;
use crate::ids::{ApiKeyId, MessageId, SessionId, UserId, WorkerId};
use crate::message::{Content, Hold, Message, MessageError, MessageType, NewMessage, Status};
use crate::ports::journal::Journal;
use crate::ports::operations::Operations;
use crate::recipient::Recipient;
use crate::session::{BridgeKind, Pace, Session, SessionStatus};
use crate::time::{Day, Time};
use crate::usage::{Quota, UsageStats};
use crate::user::{KeyOwner, NewUser, User};

/// What can go wrong in the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database can't be reached or didn't answer in time; nothing was written.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The database was lost in mid-commit: it may have been written. The same call again is safe.
    #[error("the database was lost while committing: {0}")]
    OutcomeUnknown(String),
    /// Too much is waiting for the database already.
    #[error("too many requests wait for the database")]
    Overloaded,
    /// A user has as much as may be of something.
    #[error("the user's {what} have reached their limit of {limit}")]
    Full {
        /// Of what.
        what: Bounded,
        /// How much of it may be.
        limit: u64,
    },
    /// Something with this unique value exists.
    #[error("the {0} is taken")]
    Taken(&'static str),
    /// The worker's row is gone: it was declared dead, and may write nothing any more.
    #[error("this worker was declared dead")]
    Fenced,
    /// The data itself can't be stored (for example text the database has no form for).
    #[error("the data can't be stored: {0}")]
    Invalid(String),
    /// A row that no code of ours writes.
    #[error("a row can't be read: {0}")]
    Corrupt(String),
    /// A defect.
    #[error("the database refused a statement: {0}")]
    Internal(String),
}

/// What a user may have only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounded {
    /// Sessions, by number.
    Sessions,
    /// Files that are kept, by bytes.
    FileBytes,
}

impl std::fmt::Display for Bounded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sessions => "sessions",
            Self::FileBytes => "bytes of files",
        })
    }
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::OutcomeUnknown(_) | Self::Overloaded => true,
            Self::Full { .. }
            | Self::Taken(_)
            | Self::Fenced
            | Self::Invalid(_)
            | Self::Corrupt(_)
            | Self::Internal(_) => false,
        }
    }
}

/// A store's result.
pub type Result<T> = std::result::Result<T, StoreError>;

/// What became of a guarded change.
#[derive(Debug, Clone, PartialEq)]
pub enum Moved<T> {
    /// It was made.
    Done(T),
    /// It exists, but the change isn't allowed as it stands.
    Refused(T),
    /// It doesn't exist, or belongs to somebody else.
    Absent,
}

/// Whose things a caller may see and touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One user's.
    User(UserId),
    /// Everybody's.
    All,
}

impl Scope {
    /// The user, for statements that take `NULL` for everybody.
    pub const fn user(self) -> Option<UserId> {
        match self {
            Self::User(user) => Some(user),
            Self::All => None,
        }
    }
}

// ---- Accepting ----

/// The `Idempotency-Key` of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// 1 to 255 characters.
    pub key: String,
    /// SHA-256 of the request's body in canonical form: another body under the same key is refused.
    pub hash: [u8; 32],
    /// Whether the request is a batch. Its items are kept under 1, 2, …; a single message under 0. In both cases the
    /// row 0 carries the hash, so that any two requests with one key meet there.
    pub batch: bool,
}

/// One request: a message, or a batch under one key. Either way each item stands for itself.
#[derive(Debug, Clone)]
pub struct AcceptRequest {
    /// Whose quota it takes.
    pub user: UserId,
    /// What makes repeating it safe.
    pub key: Option<IdempotencyKey>,
    /// The messages, with their positions in the request (0 for the first): a batch's invalid items aren't here.
    pub items: Vec<(u32, NewMessage)>,
    /// Who asks.
    pub by: Actor,
}

impl AcceptRequest {
    /// A request of no messages, which changes nothing.
    pub(crate) const fn nothing() -> Self {
        Self { user: UserId(0), key: None, items: Vec::new(), by: Actor::MACHINE }
    }
}

/// What became of an item.
#[derive(Debug, Clone, PartialEq)]
pub enum AcceptOutcome {
    /// Stored and counted; or found stored, when a batch of unknown outcome was run again.
    Accepted {
        /// When, by the database's clock.
        created_at: Time,
    },
    /// The key was used for this very request: the message it made.
    Replayed(MessageId),
    /// The key was used for another request.
    KeyReused,
    /// The day's quota is used up.
    QuotaExceeded(Quota),
    /// The user is deactivated, or gone.
    UserInactive,
    /// The session is gone, or marked for deletion.
    SessionGone,
    /// The file that it names is gone, or another user's.
    FileGone,
    /// The database can't store it (nothing that validation lets through, as far as we know).
    Invalid(String),
}

/// Called once after each commit with what was newly accepted, in the order of commit. It must not block.
pub type AcceptHook = Arc<dyn Fn(&[AcceptedJob]) + Send + Sync>;

/// What a queue needs to know of an accepted message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedJob {
    /// The message.
    pub message: MessageId,
    /// Its session.
    pub session: SessionId,
    /// How long the job is of use.
    pub life: Duration,
    /// The request it came with.
    pub request_id: String,
}

/// Messages that wait, scheduled ones too, as last counted by the housekeeper.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backlog {
    /// All of them.
    pub total: i64,
    /// By user; users without any are left out.
    pub by_user: HashMap<UserId, i64>,
}

/// The accepting path.
#[async_trait]
pub trait Accepting: Send + Sync {
    /// Stores a request's messages, takes their quota and keeps its key, in one transaction with whatever else is being
    /// accepted. One outcome per item, in their order. A refused item leaves no trace. The file that an accepted message names
    /// is kept until a day after the message's end. A message that is sent for another user, or sends a dead letter again, has a
    /// line in the audit trail.
    ///
    /// No more than the day's limit is accepted, less what was given back, and no more than
    /// [`ACCEPTED_PER_UNIT`](crate::usage::ACCEPTED_PER_UNIT) times the limit, whatever was given back.
    async fn accept(&self, request: AcceptRequest) -> Result<Vec<AcceptOutcome>>;

    /// What is kept under a user's idempotency key: the hash, and the messages by item (0 for a single message, 1, 2, …
    /// for a batch's). `None` for a key that is free. So a replay needs neither quota nor a place in the backlog.
    async fn replay(&self, user: UserId, key: &str) -> Result<Option<(Vec<u8>, Vec<(u32, MessageId)>)>>;

    /// The waiting messages, as last counted.
    async fn backlog(&self) -> Result<Backlog>;
}

// ---- Reading and cancelling ----

/// Which messages to list. All conditions must hold.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the query parameters of the contract")]
pub struct MessageFilter {
    pub status: Option<Status>,
    pub session: Option<String>,
    pub to: Option<Recipient>,
    pub kind: Option<MessageType>,
    pub reference: Option<String>,
    /// Accepted at this time or later.
    pub from: Option<Time>,
    /// Accepted before this time.
    pub until: Option<Time>,
}

/// A page of a list, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T, K = Uuid> {
    /// The rows; may be fewer than asked for, even none, while `next` isn't `None`.
    pub items: Vec<T>,
    /// Where the next page begins: after (older than) this one.
    pub next: Option<K>,
}

/// Rows that one page of a list looks at, at most: what bounds the cost of a filter that matches little.
pub const LIST_SCAN_MAX: i64 = 5_000;

/// Messages as their senders see them.
#[async_trait]
pub trait Messages: Send + Sync {
    /// One message.
    async fn message(&self, scope: Scope, id: MessageId) -> Result<Option<Message>>;

    /// Several messages, in no particular order; those that don't exist or belong to somebody else are left out.
    async fn messages(&self, scope: Scope, ids: &[MessageId]) -> Result<Vec<Message>>;

    /// A page of messages, newest first by id, older than `after`. It looks at [`LIST_SCAN_MAX`] rows at most.
    async fn list_messages(
        &self,
        scope: Scope,
        filter: &MessageFilter,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<Page<Message>>;

    /// Cancels a message that can't have been sent and gives its quota unit back, in one transaction.
    async fn cancel(&self, scope: Scope, id: MessageId, by: Actor) -> Result<Moved<Message>>;

    /// A user's quota today; `None` if there is no such user.
    async fn quota(&self, user: UserId) -> Result<Option<Quota>>;

    /// A user's stats of the days `from..until`, newest first; days without any are left out.
    async fn usage_days(&self, user: UserId, from: Day, until: Day) -> Result<Vec<UsageStats>>;

    /// Adds to the count of a user's requests today, under this process's own shard.
    async fn count_requests(&self, shard: i64, requests: &[(UserId, i64)]) -> Result<()>;
}

// ---- People ----

/// Users and their keys. Deleted users are absent.
#[async_trait]
pub trait People: Send + Sync {
    /// Whether any user exists.
    async fn any_user(&self) -> Result<bool>;

    /// Makes a user with its session `default`. [`StoreError::Taken`] if the name is.
    async fn create_user(&self, user: &NewUser, default_bridge: BridgeKind, by: Actor) -> Result<User>;

    /// A user by id.
    async fn user(&self, id: UserId) -> Result<Option<User>>;

    /// A user by name.
    async fn user_by_name(&self, username: &str) -> Result<Option<User>>;

    /// Sets a user's password and ends its logins; `false` if there is no such user.
    async fn set_password(&self, username: &str, password_hash: &str, by: Actor) -> Result<bool>;

    /// Activates or deactivates a user; `false` if there is no such user.
    async fn set_active(&self, user: UserId, active: bool) -> Result<bool>;

    /// Sets a user's daily limit; `false` if there is no such user.
    async fn set_limit(&self, user: UserId, max_messages_per_day: Option<i64>) -> Result<bool>;

    /// Keeps a new key.
    async fn create_api_key(
        &self,
        user: UserId,
        name: &str,
        lookup: &str,
        hash: &[u8],
        expires_at: Option<Time>,
        by: Actor,
    ) -> Result<ApiKeyId>;

    /// What stands behind the public part of a key.
    async fn key_owner(&self, lookup: &str) -> Result<Option<KeyOwner>>;

    /// Revokes a key; `false` if there is none.
    async fn revoke_api_key(&self, id: ApiKeyId, by: Actor) -> Result<bool>;
}

// ---- Sessions ----

/// What a user wants of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionCommand {
    /// Connect, and stay connected.
    Connect,
    /// Disconnect, and keep the pairing.
    Disconnect,
    /// Unlink.
    Logout,
    /// Send nothing.
    Pause,
    /// Send again.
    Resume,
}

impl SessionCommand {
    /// Its word in the audit trail: that of its endpoint.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Disconnect => "disconnect",
            Self::Logout => "logout",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}

/// Sessions as their users see them. A session that is marked for deletion is absent here, and its name is free.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Makes a session. [`StoreError::Taken`] if its user has one of that name, [`StoreError::Full`] if its user has `max`
    /// already: those that are marked for deletion count until they are drained.
    async fn create_session(
        &self,
        user: UserId,
        name: &str,
        bridge: BridgeKind,
        max: u32,
        by: Actor,
    ) -> Result<Session>;

    /// One session of a user.
    async fn session(&self, user: UserId, name: &str) -> Result<Option<Session>>;

    /// A session by its id: whose it is, and its name.
    async fn session_name(&self, scope: Scope, id: SessionId) -> Result<Option<(UserId, String)>>;

    /// A page of sessions, newest first by id, older than `after`.
    async fn list_sessions(&self, scope: Scope, after: Option<SessionId>, limit: u32) -> Result<Page<Session>>;

    /// Sets a session's pace.
    async fn set_pace(&self, user: UserId, name: &str, pace: &Pace, by: Actor) -> Result<Option<Session>>;

    /// Sets what a session reaches WhatsApp by: sealed, and as it is shown.
    async fn set_proxy(
        &self,
        user: UserId,
        name: &str,
        proxy: Option<(Vec<u8>, String)>,
        by: Actor,
    ) -> Result<Option<Session>>;

    /// Writes down what a user wants. Idempotent, whatever the session's state.
    ///
    /// `Connect` makes a `disconnected`, `logged_out` or `banned` session `connecting`; `Disconnect` and `Logout` take
    /// effect at once if nobody owns the session, and otherwise by its owner.
    async fn command(&self, user: UserId, name: &str, command: SessionCommand, by: Actor) -> Result<Option<Session>>;

    /// Wants a session that isn't paired to be paired by a code, which is typed on the phone with this number (E.164);
    /// connects it. Refused if it is paired.
    async fn request_pair_code(&self, user: UserId, name: &str, phone: &str, by: Actor) -> Result<Moved<Session>>;

    /// The code that waits to be typed, sealed as it was reported, and its end.
    async fn pair_code(&self, session: SessionId) -> Result<Option<(String, Time)>>;

    /// Marks a session for deletion; `false` if there is none of that name.
    async fn delete_session(&self, user: UserId, name: &str, by: Actor) -> Result<bool>;
}

// ---- Working ----

/// What a worker must know of a session that it owns.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnedSession {
    /// The session.
    pub id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// Its name.
    pub name: String,
    /// What drives it.
    pub bridge: BridgeKind,
    /// What it was last reported to be doing.
    pub status: SessionStatus,
    /// Its user wants it connected.
    pub wanted: bool,
    /// Its user wants it unlinked.
    pub logout: bool,
    /// Sends nothing until resumed.
    pub paused: bool,
    /// Marked for deletion: stop, and give it back.
    pub deleting: bool,
    /// Its user may send.
    pub user_active: bool,
    /// It has a pairing.
    pub paired: bool,
    /// The number it is paired with.
    pub phone_number: Option<String>,
    /// The number to pair it with by a code, rather than by a QR code.
    pub pair_phone: Option<String>,
    /// When it was paired.
    pub paired_at: Option<Time>,
    /// When its ban ends.
    pub blocked_until: Option<Time>,
    /// How often its user has asked to connect it.
    pub connects: i64,
    /// What it reaches WhatsApp by; sealed.
    pub proxy: Option<Vec<u8>>,
    /// How fast it may send.
    pub pace: Pace,
}

/// What a renewal answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Renewed {
    /// The worker's sessions.
    pub sessions: Vec<OwnedSession>,
    /// How many sessions are a fair share: all that need an owner, divided by the living workers, rounded up.
    pub share: usize,
    /// Sessions that need an owner and have none.
    pub free: usize,
}

/// News of a session from its owner.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionReport {
    /// What it is doing now.
    pub status: SessionStatus,
    /// More about it, or nothing.
    pub blocked_reason: Option<String>,
    /// When that ends by itself, if it does.
    pub blocked_until: Option<Time>,
    /// It stays so until its user connects it again: nobody tries.
    pub halted: bool,
    /// The QR code that waits to be scanned and its end, or none. Sealed by [`LinkCode::seal`], as is the code below.
    ///
    /// [`LinkCode::seal`]: crate::link_code::LinkCode::seal
    pub qr: Option<(String, Time)>,
    /// The code that waits to be typed on the phone and its end, or none.
    pub pair_code: Option<(String, Time)>,
    /// A change of its pairing.
    pub pairing: Option<Pairing>,
}

impl SessionReport {
    /// This status, and nothing more.
    pub const fn new(status: SessionStatus) -> Self {
        Self {
            status,
            blocked_reason: None,
            blocked_until: None,
            halted: false,
            qr: None,
            pair_code: None,
            pairing: None,
        }
    }
}

/// A change of a session's pairing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pairing {
    /// Paired with this number.
    Paired(String),
    /// Unlinked: the session isn't wanted any more.
    Unlinked,
}

/// A pull for one session.
#[derive(Debug, Clone, PartialEq)]
pub struct PullRequest {
    /// Who pulls.
    pub worker: WorkerId,
    /// For which session.
    pub session: SessionId,
    /// The number of the session's actor: unique within the worker. What another claim left `sending` is in doubt.
    pub claim: i64,
    /// Messages wanted, at most.
    pub places: u32,
    /// Where to look from.
    pub from_seq: i64,
    /// Below this there is nothing unfinished: trails the oldest unfinished by a minute.
    pub low: i64,
    /// Rows to examine from there on, at most.
    pub scan: u32,
    /// Recipients whose oldest unfinished message is examined besides, wherever it is.
    pub recipients: Vec<Recipient>,
}

/// What a pull found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pulled {
    /// Claimed for the caller: each is `sending` now, with one attempt more. The oldest first.
    pub messages: Vec<Outgoing>,
    /// Where to go on, if the rows from `from_seq` on were more than the limit or the places; `None` when the look came to
    /// the end.
    pub next_seq: Option<i64>,
    /// The lowest `seq` that was examined from `from_seq` on: with `from_seq = low` that of the oldest unfinished message.
    pub first_seq: Option<i64>,
    /// The earliest time at which an examined message falls due.
    pub next_due: Option<Time>,
    /// The highest `seq` of an examined message that is neither claimed with this pull nor under way: it waits for an earlier
    /// one to its recipient, for its time or its end.
    pub waiting: Option<i64>,
    /// The database's clock.
    pub now: Time,
    /// Messages may be claimed at all: the session is the caller's, connected, neither paused nor marked, its user active.
    pub ready: bool,
}

/// A message to be given to a bridge.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// The message.
    pub id: MessageId,
    /// Its place in the order.
    pub seq: i64,
    /// To whom.
    pub recipient: Recipient,
    /// The id to send it under.
    pub whatsapp_id: String,
    /// What it is.
    pub kind: MessageType,
    /// What it says; an error if its row can't be read.
    pub content: std::result::Result<Content, String>,
    /// The WhatsApp id of the message that it answers.
    pub quoted: Option<String>,
    /// The number of this attempt, from 1.
    pub attempt: i32,
    /// Attempts that may have been sent, this one included: above 1 an earlier one is in doubt.
    pub unknown_attempts: i32,
    /// How often its actor has crashed on it.
    pub crashes: i32,
    /// When it was accepted.
    pub created_at: Time,
    /// When it is worthless.
    pub expires_at: Time,
    /// The request it came with.
    pub request_id: String,
}

/// How an attempt ended, to be written back.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// Who claimed the message.
    pub worker: WorkerId,
    /// Under which number.
    pub claim: i64,
    /// This process's shard of the usage stats.
    pub shard: i64,
    /// The message.
    pub message: MessageId,
    /// Which attempt.
    pub attempt: i32,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// WhatsApp acknowledged it.
    Sent,
    /// Definitely not sent; again after a while.
    Retry {
        /// What went wrong.
        error: MessageError,
        /// How long to wait.
        after: Duration,
        /// What the wait is called.
        hold: Hold,
    },
    /// Definitely not sent, and it never will be.
    Failed {
        /// What went wrong.
        error: MessageError,
    },
    /// Definitely not sent, and too late now.
    Expired,
    /// Maybe sent; again under the same id after a while.
    InDoubt {
        /// What is known.
        error: MessageError,
        /// How long to wait.
        after: Duration,
    },
    /// Maybe sent, and it can't be sent again.
    Unknown,
    /// Never given to the bridge: as if it had not been claimed.
    Released,
    /// Never given to WhatsApp: as if it had not been claimed, and not before a while.
    Held {
        /// How long to wait.
        after: Duration,
        /// What the wait is called.
        hold: Hold,
    },
    /// The actor crashed on it. A crash before the bridge was called takes its attempt back; the [`MAX_CRASHES`]th ends
    /// the message as a dead letter.
    ///
    /// [`MAX_CRASHES`]: crate::message::MAX_CRASHES
    Crashed {
        /// Whether the bridge had been called.
        called: bool,
        /// How long to wait.
        after: Duration,
    },
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Written: the status that the message has now.
    Done(Status),
    /// Not written: the message isn't the caller's any more, or has ended otherwise.
    Refused,
}

/// News of a message from the recipient's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Which message.
    pub whatsapp_id: String,
    /// What happened: [`Status::Sent`], [`Status::Delivered`] or [`Status::Read`].
    pub status: Status,
    /// When, as WhatsApp says.
    pub at: Time,
}

/// Receipts of one session, to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptBatch {
    /// Who owns the session.
    pub worker: WorkerId,
    /// The session.
    pub session: SessionId,
    /// This process's shard of the usage stats.
    pub shard: i64,
    /// The receipts, in any order, twice or for ids that we don't know.
    pub receipts: Vec<Receipt>,
}

/// A message that still awaits a receipt: what a simulator that starts afresh must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaiting {
    /// Its id at WhatsApp.
    pub whatsapp_id: String,
    /// To whom it went.
    pub recipient: Recipient,
    /// Where it stands.
    pub status: Status,
    /// When it is worthless.
    pub expires_at: Time,
}

/// What a worker does. Every write locks the worker's own row first: no row, no write ([`StoreError::Fenced`]).
#[async_trait]
pub trait Working: Send + Sync {
    /// Enters a worker with a lease, by the database's clock.
    async fn register(&self, worker: WorkerId, lease: Duration) -> Result<()>;

    /// Renews the lease, late too as long as the row exists, and answers what the worker must know.
    async fn renew(&self, worker: WorkerId, lease: Duration) -> Result<Renewed>;

    /// Takes up to `count` free sessions that need an owner.
    async fn take(&self, worker: WorkerId, count: usize) -> Result<Vec<OwnedSession>>;

    /// Gives sessions back after their actors have stopped. Those that aren't wanted become `disconnected`, wanted ones
    /// `connecting`, but for `logged_out` and `banned` ones.
    async fn give_back(&self, worker: WorkerId, sessions: &[SessionId]) -> Result<()>;

    /// Declares workers dead whose lease is over, and frees their sessions. With `blocking` it waits for rows that are
    /// locked (by a frozen transaction, which the database ends), else it leaves them. Answers who they were.
    async fn bury(&self, worker: WorkerId, blocking: bool) -> Result<Vec<WorkerId>>;

    /// Gives back what is left and removes the worker's row.
    async fn leave(&self, worker: WorkerId) -> Result<()>;

    /// Writes news of a session; `false` if it isn't the worker's any more. A change of status is an event.
    async fn report(&self, worker: WorkerId, session: SessionId, report: &SessionReport) -> Result<bool>;

    /// Says until when a session paces; `None` when it doesn't any more.
    async fn report_pacing(&self, worker: WorkerId, session: SessionId, until: Option<Time>) -> Result<()>;

    /// Claims what can be sent now. Group-committed.
    async fn pull(&self, request: PullRequest) -> Result<Pulled>;

    /// Writes how an attempt ended. Group-committed.
    async fn settle(&self, settlement: Settlement) -> Result<Settled>;

    /// Ends a message whose settlements the database refuses, so that it holds up no other: it may have been sent, so it ends as
    /// `unknown_outcome`, keeps its unit, and is a dead letter. `false` if it isn't under way under that claim any more.
    ///
    /// The message's row is written by itself, and counts in it that are out of range are set right. Its event and the user's count of
    /// failures follow if they can be written: they may be what the database refuses.
    async fn abandon(&self, worker: WorkerId, claim: i64, message: MessageId) -> Result<bool>;

    /// Writes receipts; answers the messages that changed. Group-committed.
    async fn receipts(&self, batch: ReceiptBatch) -> Result<Vec<MessageId>>;

    /// The newest messages of a session that may have been sent and aren't read, oldest first.
    async fn awaiting_receipts(&self, session: SessionId, limit: u32) -> Result<Vec<Awaiting>>;
}

// ---- Housekeeping ----

/// What a sweep did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// The messages that changed.
    pub messages: Vec<MessageId>,
    /// There may be more: call again.
    pub more: bool,
}

/// Rows that a sweep changes in one transaction.
pub const SWEEP_CHUNK: i64 = 1_000;

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Events.
    pub events: Duration,
    /// Lines of the API log.
    pub api_logs: Duration,
    /// Idempotency keys.
    pub idempotency_keys: Duration,
    /// Messages that were cancelled or expired (by their last change).
    pub unsent: Duration,
    /// Messages that have ended (by their last change); for ever if `None`.
    pub messages: Option<Duration>,
    /// Lines of the API log, at most, whatever their age: about, on PostgreSQL.
    pub api_log_lines: i64,
    /// Lines of the audit trail.
    pub audit: Duration,
    /// Lines of each class of the audit trail, at most, whatever their age.
    pub audit_lines: i64,
}

/// What one worker at a time does for all. Every method is safe to run twice at once.
#[async_trait]
pub trait Housekeeping: Send + Sync {
    /// Becomes or stays the housekeeper for `term`; `false` if another worker is.
    async fn lead(&self, worker: WorkerId, term: Duration) -> Result<bool>;

    /// Gives scheduled messages that fell due their place in the order, up to [`SWEEP_CHUNK`]: `accepted`, with a new
    /// `seq` in the order of `send_at`. Answers their jobs.
    async fn promote(&self) -> Result<(Vec<AcceptedJob>, bool)>;

    /// Ends what is past its expiry: `expired` with the unit back, or `unknown_outcome` if it may have been sent. What is
    /// being sent is left to its owner while that lives.
    async fn expire(&self) -> Result<Swept>;

    /// Counts what waits into the sessions' rows, and answers it with the age of the oldest waiting message.
    async fn count_backlog(&self) -> Result<(Backlog, Option<Duration>)>;

    /// Cancels what the sessions that are marked for deletion have queued, once [`DELETE_GRACE`] has passed and they are
    /// given back, and removes those that are empty. Answers the sessions removed, whose queues must go, too.
    ///
    /// [`DELETE_GRACE`]: crate::session::DELETE_GRACE
    async fn drain_deleted(&self) -> Result<(Swept, Vec<SessionId>)>;

    /// Removes what is kept no longer, in chunks; `true` if there may be more. Folds old shards of usage stats. Messages are
    /// looked at a few times each and then no more: those that are over are removed a little later than when they are, at most
    /// twice as late as they ended after they were accepted.
    async fn retire(&self, retention: &Retention) -> Result<bool>;
}

/// The whole store.
#[async_trait]
pub trait Store:
    Accepting
    + Messages
    + People
    + Accounts
    + Logins
    + Sessions
    + Files
    + Journal
    + Audit
    + Working
    + Devices
    + Housekeeping
    + Operations
{
    /// Whether the database answers.
    async fn ping(&self) -> Result<()>;

    /// Whether what writes lives and moves: [`StoreError::Unavailable`] if a part of it has ended, or if nothing could be
    /// written for 10 s (a disk that is full, a writer that hangs). How fast it is doesn't matter. Answers at once.
    fn moves(&self) -> Result<()>;

    /// This deployment's id: it keeps two deployments on one broker or Redis apart.
    fn deployment(&self) -> &str;

    /// Waits for what is being written and closes.
    async fn close(&self);
}
