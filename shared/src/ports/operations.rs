//! What operators look at and do, over all users.

use async_trait::async_trait;
use serde::Serialize;
use utoipa::ToSchema;

use crate::ids::{MessageId, SessionId, UserId, WorkerId};
use crate::message::Message;
use crate::ports::audit::Actor;
use crate::ports::store::{Page, Result, Scope, Swept};
use crate::recipient::Recipient;
use crate::session::SessionStatus;
use crate::time::Time;

/// A worker process that lives, or was not declared dead yet.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct WorkerState {
    /// Its id: a new one at each start.
    #[schema(value_type = String, format = "uuid")]
    pub id: WorkerId,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Time,
    /// When others may declare it dead, unless it renews its lease until then.
    #[schema(value_type = String, format = DateTime)]
    pub lease_until: Time,
    /// Sessions that it drives.
    pub sessions: i64,
    /// Whether it promotes, expires and counts for all.
    pub is_housekeeper: bool,
}

/// What waits for a session.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SessionQueue {
    /// The session.
    #[schema(value_type = String, format = "uuid")]
    pub session_id: SessionId,
    /// Its name.
    pub session: String,
    /// Whose it is.
    #[schema(value_type = i64)]
    pub user_id: UserId,
    /// What it is doing.
    pub status: SessionStatus,
    /// Whether it sends nothing until it is resumed.
    pub paused: bool,
    /// Messages that wait, scheduled ones too; counted every few seconds.
    pub waiting: i64,
    /// How long the oldest message that isn't scheduled has waited, in milliseconds.
    pub oldest_age_ms: Option<i64>,
    /// The worker that drives it.
    #[schema(value_type = Option<String>, format = "uuid")]
    pub worker_id: Option<WorkerId>,
}

/// Which of a user's waiting messages to cancel. All conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of the contract")]
pub struct CancelFilter {
    pub session: Option<String>,
    pub to: Option<Recipient>,
    pub reference: Option<String>,
}

/// Looking at the whole.
#[async_trait]
pub trait Operations: Send + Sync {
    /// A page of workers, the latest started first, older than `after`.
    async fn list_workers(&self, after: Option<WorkerId>, limit: u32) -> Result<Page<WorkerState>>;

    /// A page of sessions' queues, newest session first by id, older than `after`.
    async fn list_queues(&self, scope: Scope, after: Option<SessionId>, limit: u32) -> Result<Page<SessionQueue>>;

    /// A page of messages that couldn't be processed, newest first by id, older than `after`.
    async fn list_dead_letters(&self, scope: Scope, after: Option<MessageId>, limit: u32) -> Result<Page<Message>>;

    /// One message that couldn't be processed.
    async fn dead_letter(&self, id: MessageId) -> Result<Option<Message>>;

    /// Cancels a chunk of a user's messages that can't have been sent, match and were accepted at `until` or before, with their
    /// units back. Call again with the time that it answers as long as there may be more, also if none was cancelled: another cancel may
    /// be at what is left, and be lost. Without `until`, what was accepted until now by the database's clock.
    async fn cancel_waiting(
        &self,
        user: UserId,
        filter: &CancelFilter,
        until: Option<Time>,
        by: Actor,
    ) -> Result<(Swept, Time)>;
}
