//! Receipts: they come in any order, more than once, and before the acknowledgement is written.

use std::collections::HashMap;

use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteConnection;

use super::dialect;
use super::moves::{self, Hex, Move, State, json};
use super::settle::alive;
use super::sql::failed;
use crate::ids::{MessageId, SessionId, WorkerId};
use crate::message::Status;
use crate::ports::store::{Receipt, ReceiptBatch, Result, StoreError};
use crate::time::Time;

/// Writes receipts. Two batches of one session don't come together.
pub(super) fn write<'a>(
    conn: &'a mut SqliteConnection,
    now: Time,
    batches: &'a [&ReceiptBatch],
) -> BoxFuture<'a, Result<Vec<Result<Vec<MessageId>>>>> {
    Box::pin(receipts(conn, now, batches))
}

/// All that is known of one message, with the earliest time of each kind.
#[derive(Debug, Clone, Copy, Default)]
struct News {
    sent: Option<i64>,
    delivered: Option<i64>,
    read: Option<i64>,
}

impl News {
    fn add(&mut self, receipt: &Receipt) {
        let time = match receipt.status {
            Status::Sent => &mut self.sent,
            Status::Delivered => &mut self.delivered,
            Status::Read => &mut self.read,
            // No bridge gives any other.
            _ => return,
        };
        *time = earliest(*time, Some(receipt.at.0));
    }

    fn status(self) -> Option<Status> {
        let step = |time: Option<i64>, status| time.map(|_| status);
        step(self.read, Status::Read).or(step(self.delivered, Status::Delivered)).or(step(self.sent, Status::Sent))
    }

    /// What they make of a message; `None` if nothing. A later step implies the earlier ones.
    fn apply(self, row: &State) -> Option<State> {
        let status = self.status()?;
        let disproves = row.status.0 == Status::Failed && row.unknown_attempts > 0;
        let advances = (Status::Accepted..=Status::Delivered).contains(&row.status.0) && row.status.0 < status;
        if !disproves && !advances {
            return None;
        }
        let mut after = row.clone();
        after.end(status);
        after.error = None;
        let delivered = earliest(self.delivered, self.read);
        // WhatsApp's clock isn't ours, and counts in seconds: what came later is never shown as earlier.
        let mut earlier = row.created_at;
        let mut step = |known: Option<i64>, told: Option<i64>| {
            let at = known.or(told.map(|at| at.max(earlier)));
            earlier = at.unwrap_or(earlier);
            at
        };
        after.sent_at = step(row.sent_at, earliest(self.sent, delivered));
        after.delivered_at = step(row.delivered_at, delivered);
        after.read_at = step(row.read_at, self.read);
        Some(after)
    }
}

fn earliest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}

async fn receipts(
    conn: &mut SqliteConnection,
    now: Time,
    batches: &[&ReceiptBatch],
) -> Result<Vec<Result<Vec<MessageId>>>> {
    let alive = alive(conn, batches.iter().map(|b| b.worker)).await?;
    let owners = owners(conn, batches).await?;
    let mut news: HashMap<(SessionId, &str), News> = HashMap::new();
    for batch in batches.iter().filter(|b| alive.contains(&b.worker) && owners.get(&b.session) == Some(&b.worker)) {
        for receipt in &batch.receipts {
            news.entry((batch.session, &receipt.whatsapp_id)).or_default().add(receipt);
        }
    }
    let shards: HashMap<SessionId, i64> = batches.iter().map(|b| (b.session, b.shard)).collect();
    let mut changed: HashMap<SessionId, Vec<MessageId>> = HashMap::new();
    let mut changes = Vec::new();
    for (whatsapp_id, row) in matching(conn, news.keys().copied()).await? {
        let session = row.session_id;
        let Some(news) = news.get(&(session, whatsapp_id.as_str())) else { continue };
        if let Some(after) = news.apply(&row) {
            let change = Move::new(row, after, shards.get(&session).copied().unwrap_or(0))?;
            changed.entry(session).or_default().push(change.message());
            changes.push(change);
        }
    }
    moves::write(conn, now, &changes).await?;
    let answer = |batch: &&ReceiptBatch| {
        if alive.contains(&batch.worker) {
            Ok(changed.remove(&batch.session).unwrap_or_default())
        } else {
            Err(StoreError::Fenced)
        }
    };
    Ok(batches.iter().map(answer).collect())
}

async fn owners(conn: &mut SqliteConnection, batches: &[&ReceiptBatch]) -> Result<HashMap<SessionId, WorkerId>> {
    let rows: Vec<(SessionId, WorkerId)> = sqlx::query_as(
        "SELECT id, owner FROM sessions WHERE id IN (SELECT unhex(value) FROM json_each($1)) AND owner IS NOT NULL",
    )
    .bind(dialect::ids(batches.iter().map(|b| b.session.0)))
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    Ok(rows.into_iter().collect())
}

#[derive(sqlx::FromRow)]
struct Match {
    whatsapp_id: String,
    #[sqlx(flatten)]
    state: State,
}

pub(super) const MATCH: &str = concat!(
    "SELECT m.whatsapp_id, ",
    state_columns!(),
    " FROM json_each($1) i CROSS JOIN messages m INDEXED BY messages_whatsapp_id
    WHERE m.session_id = unhex(i.value->>0) AND m.whatsapp_id = i.value->>1"
);

async fn matching(
    conn: &mut SqliteConnection,
    ids: impl Iterator<Item = (SessionId, &str)>,
) -> Result<Vec<(String, State)>> {
    let ids: Vec<(Hex, &str)> = ids.map(|(session, whatsapp_id)| (Hex(session.0), whatsapp_id)).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<Match> = sqlx::query_as(MATCH).bind(json(&ids)?).fetch_all(conn).await.map_err(failed)?;
    Ok(rows.into_iter().map(|row| (row.whatsapp_id, row.state)).collect())
}
