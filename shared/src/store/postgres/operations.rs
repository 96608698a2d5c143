//! Operators' views, and cancelling much at once.

use async_trait::async_trait;

use super::{Postgres, error, housekeeping, sql};
use crate::ids::{MessageId, SessionId, UserId, WorkerId};
use crate::message::{Message, MessageError};
use crate::ports::operations::{CancelFilter, Operations, SessionQueue, WorkerState};
use crate::ports::store::{Page, Result, SWEEP_CHUNK, Scope, Swept};

#[async_trait]
impl Operations for Postgres {
    async fn list_workers(&self, after: Option<WorkerId>, limit: u32) -> Result<Page<WorkerState>> {
        self.on_pool(async |c| sql::operations::workers(c, after, limit).await).await
    }

    async fn list_queues(&self, scope: Scope, after: Option<SessionId>, limit: u32) -> Result<Page<SessionQueue>> {
        self.on_pool(async |c| sql::operations::queues(c, scope, after, limit).await).await
    }

    async fn list_dead_letters(&self, scope: Scope, after: Option<MessageId>, limit: u32) -> Result<Page<Message>> {
        self.on_pool(async |c| sql::operations::dead_letters(c, scope, after, limit).await).await
    }

    async fn dead_letter(&self, id: MessageId) -> Result<Option<Message>> {
        self.on_pool(async |c| sql::operations::dead_letter(c, id).await).await
    }

    async fn cancel_waiting(&self, user: UserId, filter: &CancelFilter) -> Result<Swept> {
        self.on_pool(async |c| {
            let messages: Vec<MessageId> = sqlx::query_scalar(housekeeping::CANCEL)
                .bind(SWEEP_CHUNK)
                .bind(MessageError::unknown_outcome().to_json())
                .bind(user)
                .bind(filter.session.as_deref())
                .bind(filter.to.as_ref())
                .bind(filter.reference.as_deref())
                .fetch_all(c)
                .await
                .map_err(error)?;
            // Some may have been locked just now: look again until none is left.
            let more = !messages.is_empty();
            Ok(Swept { messages, more })
        })
        .await
    }
}
