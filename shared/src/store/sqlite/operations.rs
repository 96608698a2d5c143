//! Operators' views, and cancelling much at once.

use async_trait::async_trait;
use futures_util::FutureExt;

use super::{SqliteStore, housekeeping, sql};
use crate::ids::{MessageId, SessionId, UserId, WorkerId};
use crate::message::Message;
use crate::ports::operations::{CancelFilter, Operations, SessionQueue, WorkerState};
use crate::ports::store::{Page, Result, Scope, Swept};

#[async_trait]
impl Operations for SqliteStore {
    async fn list_workers(&self, after: Option<WorkerId>, limit: u32) -> Result<Page<WorkerState>> {
        sql::operations::workers(&mut *self.read().await?, after, limit).await
    }

    async fn list_queues(&self, scope: Scope, after: Option<SessionId>, limit: u32) -> Result<Page<SessionQueue>> {
        sql::operations::queues(&mut *self.read().await?, scope, after, limit).await
    }

    async fn list_dead_letters(&self, scope: Scope, after: Option<MessageId>, limit: u32) -> Result<Page<Message>> {
        sql::operations::dead_letters(&mut *self.read().await?, scope, after, limit).await
    }

    async fn dead_letter(&self, id: MessageId) -> Result<Option<Message>> {
        sql::operations::dead_letter(&mut *self.read().await?, id).await
    }

    async fn cancel_waiting(&self, user: UserId, filter: &CancelFilter) -> Result<Swept> {
        let filter = filter.clone();
        self.write(move |conn, now| async move { housekeeping::cancel_waiting(conn, now, user, &filter).await }.boxed())
            .await
    }
}
