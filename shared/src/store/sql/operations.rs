//! What operators look at.

use async_trait::async_trait;
use uuid::Uuid;

use super::super::{Now, sweeps};
use super::messages::{blocked_by, select_messages};
use super::rows::{MessageRow, corrupt};
use super::{Backend, Connection, audit, failed};
use crate::ids::{MessageId, SessionId, UserId, WorkerId};
use crate::message::Message;
use crate::ports::audit::{Action, Actor, AuditEntry, Target};
use crate::ports::operations::{CancelFilter, Operations, SessionQueue, WorkerState};
use crate::ports::store::{Page, Result, Scope, Swept};
use crate::session::SessionStatus;
use crate::time::Time;

#[async_trait]
impl Operations for Backend {
    async fn list_workers(&self, after: Option<WorkerId>, limit: u32) -> Result<Page<WorkerState>> {
        read!(self, |c| workers(c, after, limit))
    }

    async fn list_queues(&self, scope: Scope, after: Option<SessionId>, limit: u32) -> Result<Page<SessionQueue>> {
        read!(self, |c| queues(c, scope, after, limit))
    }

    async fn list_dead_letters(&self, scope: Scope, after: Option<MessageId>, limit: u32) -> Result<Page<Message>> {
        read!(self, |c| dead_letters(c, scope, after, limit))
    }

    async fn dead_letter(&self, id: MessageId) -> Result<Option<Message>> {
        read!(self, |c| dead_letter(c, id))
    }

    async fn cancel_waiting(
        &self,
        user: UserId,
        filter: &CancelFilter,
        until: Option<Time>,
        by: Actor,
    ) -> Result<(Swept, Time)> {
        let filter = filter.clone();
        change!(self, |c, now| cancel_waiting(c, now, user, &filter, until, by))
    }
}

/// Cancels a chunk of what a user has waiting. Within a transaction.
async fn cancel_waiting(
    conn: &mut Connection,
    now: Now,
    user: UserId,
    filter: &CancelFilter,
    until: Option<Time>,
    by: Actor,
) -> Result<(Swept, Time)> {
    let (swept, until) = sweeps::cancel_waiting(conn, now, user, filter, until).await?;
    if !swept.messages.is_empty() {
        let entry = AuditEntry::on_behalf(by, user, Action::MessagesCancelled, Target::User(user));
        audit::note(conn, entry.map(|entry| entry.with("messages", swept.messages.len()))).await?;
    }
    Ok((swept, until))
}

/// Cuts a page off rows of which one more was asked for than it has.
fn page<T>(mut items: Vec<T>, limit: u32, id: impl Fn(&T) -> Uuid) -> Page<T> {
    let size = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > size;
    items.truncate(size);
    let next = if more { items.last().map(id) } else { None };
    Page { items, next }
}

/// A page of workers.
pub(crate) async fn workers(conn: &mut Connection, after: Option<WorkerId>, limit: u32) -> Result<Page<WorkerState>> {
    let rows: Vec<(WorkerId, Time, Time, i64, bool)> = sqlx::query_as(concat!(
        "SELECT w.id, w.started_at, w.lease_until,
            (SELECT count(*) FROM sessions s WHERE s.owner = w.id) AS sessions,
            EXISTS (SELECT 1 FROM housekeeper h WHERE h.worker = w.id AND h.until > ",
        now_ms!(),
        ") AS is_housekeeper
        FROM workers w WHERE $1 IS NULL OR w.id < $1 ORDER BY w.id DESC LIMIT $2"
    ))
    .bind(after)
    .bind(i64::from(limit) + 1)
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    let state = |(id, started_at, lease_until, sessions, is_housekeeper)| WorkerState {
        id,
        started_at,
        lease_until,
        sessions,
        is_housekeeper,
    };
    Ok(page(rows.into_iter().map(state).collect(), limit, |worker| worker.id.0))
}

#[derive(sqlx::FromRow)]
struct QueueRow {
    id: SessionId,
    name: String,
    user_id: UserId,
    status: i16,
    paused: bool,
    queued: i64,
    oldest_age_ms: Option<i64>,
    owner: Option<WorkerId>,
}

impl TryFrom<QueueRow> for SessionQueue {
    type Error = crate::ports::store::StoreError;

    fn try_from(row: QueueRow) -> Result<Self> {
        Ok(Self {
            session_id: row.id,
            session: row.name,
            user_id: row.user_id,
            status: SessionStatus::from_code(row.status)
                .ok_or_else(|| corrupt("sessions.status", row.id, row.status))?,
            paused: row.paused,
            waiting: row.queued,
            oldest_age_ms: row.oldest_age_ms,
            worker_id: row.owner,
        })
    }
}

macro_rules! queues {
    ($whose:expr) => {
        concat!(
            "SELECT s.id, s.name, s.user_id, s.status, s.paused, s.queued, s.owner,
                (SELECT ",
            now_ms!(),
            " - m.created_at FROM messages m WHERE m.session_id = s.id AND m.open ORDER BY m.seq LIMIT 1) AS oldest_age_ms
            FROM sessions s WHERE ($1 IS NULL OR s.id < $1) AND s.deleting_at IS NULL AND ",
            $whose,
            " ORDER BY s.id DESC LIMIT $3"
        )
    };
}

/// A page of sessions' queues.
pub(crate) async fn queues(
    conn: &mut Connection,
    scope: Scope,
    after: Option<SessionId>,
    limit: u32,
) -> Result<Page<SessionQueue>> {
    let text = match scope {
        Scope::User(_) => queues!("s.user_id = $2"),
        Scope::All => queues!("$2 IS NULL"),
    };
    let rows: Vec<QueueRow> = sqlx::query_as(text)
        .bind(after)
        .bind(scope.user())
        .bind(i64::from(limit) + 1)
        .fetch_all(conn)
        .await
        .map_err(failed)?;
    let queues = rows.into_iter().map(SessionQueue::try_from).collect::<Result<Vec<_>>>()?;
    Ok(page(queues, limit, |queue| queue.session_id.0))
}

/// A page of dead letters: messages that ended as failed after their crashes were too many, or that couldn't be read.
pub(crate) async fn dead_letters(
    conn: &mut Connection,
    scope: Scope,
    after: Option<MessageId>,
    limit: u32,
) -> Result<Page<Message>> {
    let rows: Vec<MessageRow> = sqlx::query_as(concat!(
        select_messages!("m.crashes >= 3 AND m.status = 6 AND ($1 IS NULL OR m.id < $1)"),
        " ORDER BY m.id DESC LIMIT $3"
    ))
    .bind(after)
    .bind(scope.user())
    .bind(i64::from(limit) + 1)
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    let messages = rows.into_iter().map(Message::try_from).collect::<Result<Vec<_>>>()?;
    Ok(page(messages, limit, |message| message.id.0))
}

/// One dead letter.
pub(crate) async fn dead_letter(conn: &mut Connection, id: MessageId) -> Result<Option<Message>> {
    let row: Option<MessageRow> = sqlx::query_as(select_messages!("m.id = $1 AND m.crashes >= 3 AND m.status = 6"))
        .bind(id)
        .bind(None::<UserId>)
        .fetch_optional(conn)
        .await
        .map_err(failed)?;
    row.map(Message::try_from).transpose()
}
