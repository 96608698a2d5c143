//! The audit trail: logins, refusals, and what admins change: who, what, whom.
//!
//! A change and its line are one transaction, so that no change is without its line: methods that change something take an
//! [`Actor`]. What an admin does to another user's things has a line; what users do to their own has none. Logins and refusals
//! are written later, by [`Audit::write_audit`].

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::journal::LogPlace;
use super::store::{Page, Result};
use crate::ids::{ApiKeyId, MediaId, MessageId, SessionId, UserId};
use crate::message::NewMessage;
use crate::time::Time;

/// How long lines are kept.
pub const AUDIT_KEPT: Duration = Duration::from_secs(365 * 24 * 3_600);
/// Lines of each class that are kept, at most: 30 to 80 MB.
pub const AUDIT_LINES_MAX: i64 = 200_000;

/// Lines that are bounded together. A flood of one class removes no line of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Changes of users, keys and proxies.
    Change = 0,
    /// Logins, logouts and new passwords of one's own.
    Login = 1,
    /// What admins do to other users' sessions, messages and files.
    OnBehalf = 2,
    /// Refusals.
    Refusal = 3,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Change, Self::Login, Self::OnBehalf, Self::Refusal];
}

macro_rules! actions {
    ($($name:ident $word:literal $class:ident $doc:literal;)+) => {
        /// What was done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Action {
            $(#[doc = $doc] $name,)+
        }

        impl Action {
            /// Every action.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its word in the API and in the database.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// The lines that it is bounded with.
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)+ }
            }
        }
    };
}

actions! {
    Login "login" Login "A user logged in.";
    Logout "logout" Login "A user ended a login.";
    PasswordChanged "password_changed" Login "A user changed their own password.";
    LoginRefused "login_refused" Refusal "A name and a password were refused.";
    PasswordRefused "password_refused" Refusal "The current password was wrong, or may not be tried now.";
    RefreshRefused "refresh_refused" Refusal "A refresh token was refused.";
    TokenReused "token_reused" Refusal "A refresh token was used again, which ended its login.";
    CredentialsRefused "credentials_refused" Refusal "A request had no valid credentials.";
    RequestsRefused "requests_refused" Refusal "Requests beyond the address's limit, counted per address and hour.";
    UserCreated "user_created" Change "A user was made.";
    UserChanged "user_changed" Change "A user was changed.";
    UserDeleted "user_deleted" Change "A user was deleted.";
    ApiKeyCreated "api_key_created" Change "An API key was made.";
    ApiKeyRevoked "api_key_revoked" Change "An API key was revoked.";
    ProxyChanged "proxy_changed" Change "A session's proxy was set or removed.";
    SessionCreated "session_created" OnBehalf "A session was made for another user.";
    SessionChanged "session_changed" OnBehalf "Another user's session was changed.";
    SessionCommanded "session_commanded" OnBehalf "Another user's session was told to connect, to disconnect and the like.";
    SessionDeleted "session_deleted" OnBehalf "Another user's session was deleted.";
    MessageSent "message_sent" OnBehalf "A message was accepted for another user.";
    MessageCancelled "message_cancelled" OnBehalf "Another user's message was cancelled.";
    MessagesCancelled "messages_cancelled" OnBehalf "Another user's waiting messages were cancelled.";
    DeadLetterReplayed "dead_letter_replayed" OnBehalf "A dead letter was sent again.";
    FileAdded "file_added" OnBehalf "A file was uploaded for another user.";
    FileRemoved "file_removed" OnBehalf "Another user's file was removed.";
}

/// Whom or what it was done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A user.
    User(UserId),
    /// An API key.
    Key(ApiKeyId),
    /// A session.
    Session(SessionId),
    /// A message.
    Message(MessageId),
    /// A file.
    File(MediaId),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user/{id}"),
            Self::Key(id) => write!(f, "api_key/{id}"),
            Self::Session(id) => write!(f, "session/{id}"),
            Self::Message(id) => write!(f, "message/{id}"),
            Self::File(id) => write!(f, "file/{id}"),
        }
    }
}

/// Who does something, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    /// The user, if known.
    pub user: Option<UserId>,
    /// The client's address.
    pub address: Option<IpAddr>,
}

impl Actor {
    /// The command line, the first start and the service itself.
    pub const MACHINE: Self = Self { user: None, address: None };
}

/// A line to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// When it was done; `None` for the database's time of writing.
    pub at: Option<Time>,
    /// Who did it.
    pub actor: Actor,
    /// What.
    pub action: Action,
    /// To whom or what.
    pub target: Option<Target>,
    /// More about it: ids, numbers, names of fields and words of this program; nothing secret and nothing personal, as the
    /// trail outlives users.
    pub detail: Map<String, Value>,
    /// For a line that counts: its name, and how much to add to it.
    pub counted: Option<(String, i64)>,
}

impl AuditEntry {
    /// A line of a change, which is written in its transaction.
    pub fn new(actor: Actor, action: Action, target: Option<Target>) -> Self {
        Self { at: None, actor, action, target, detail: Map::new(), counted: None }
    }

    /// A line of something done now that is written later.
    pub fn now(actor: Actor, action: Action, target: Option<Target>) -> Self {
        Self { at: Some(Time::now()), ..Self::new(actor, action, target) }
    }

    /// The line of what `actor` does to `owner`'s things; `None` if they are the actor's own, or the actor is no user.
    pub fn on_behalf(actor: Actor, owner: UserId, action: Action, target: Target) -> Option<Self> {
        let other = actor.user.is_some_and(|user| user != owner);
        other.then(|| Self::new(actor, action, Some(target)).with("user_id", owner.0))
    }

    /// The line of an accepted message: one that was sent for another user, or sends a dead letter again.
    pub fn accepted(actor: Actor, owner: UserId, message: &NewMessage) -> Option<Self> {
        let Some(letter) = message.replayed_from else {
            return Self::on_behalf(actor, owner, Action::MessageSent, Target::Message(message.id));
        };
        let entry = Self::new(actor, Action::DeadLetterReplayed, Some(Target::Message(letter)));
        Some(entry.with("user_id", owner.0).with("message_id", message.id.to_string()))
    }

    /// The same with one more thing to tell.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }
}

/// A line as it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditLine {
    /// Its number.
    pub id: i64,
    /// When it was done.
    pub at: Time,
    /// Who did it.
    pub actor: Option<UserId>,
    /// From where.
    pub address: Option<String>,
    /// What, as [`Action::as_str`] has it.
    pub action: String,
    /// To whom or what.
    pub target: Option<String>,
    /// More about it.
    pub detail: Map<String, Value>,
    /// How often; more than once only in lines that count.
    pub count: i64,
}

/// Which lines to list. All conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the query parameters of the contract")]
pub struct AuditFilter {
    pub actor: Option<UserId>,
    pub action: Option<Action>,
    pub target: Option<String>,
    /// At this time or later.
    pub since: Option<Time>,
    /// Before this time.
    pub until: Option<Time>,
}

/// The audit trail.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Adds lines, in one transaction. A line that counts is added to the one of its name, if there is one; within a call
    /// those names differ.
    async fn write_audit(&self, entries: &[AuditEntry]) -> Result<()>;

    /// A page, newest first. It looks at [`LIST_SCAN_MAX`] lines at most.
    ///
    /// [`LIST_SCAN_MAX`]: super::store::LIST_SCAN_MAX
    async fn list_audit(
        &self,
        filter: &AuditFilter,
        after: Option<LogPlace>,
        limit: u32,
    ) -> Result<Page<AuditLine, LogPlace>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_has_one_word_everywhere() {
        for action in Action::ALL {
            assert_eq!(serde_json::to_value(action).ok(), Some(action.as_str().into()));
        }
    }
}
