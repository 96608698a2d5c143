//! Writing receipts: one statement for many sessions.

use std::collections::HashMap;

use sqlx::FromRow;
use sqlx_postgres::PgConnection;
use uuid::Uuid;

use super::committer::Statement;
use crate::ids::MessageId;
use crate::message::{MessageType, Status};
use crate::ports::store::{ReceiptBatch, StoreError};

pub(super) struct Receipts;

/// WhatsApp's clock isn't ours, and counts in seconds: what came later is never shown as earlier.
pub(super) const SQL: &str = "
WITH item AS MATERIALIZED (
    SELECT * FROM unnest($3::uuid[], $4::text[], $5::smallint[], $6::bigint[], $7::bigint[], $8::bigint[])
        AS i (s, whatsapp_id, status, sent_at, delivered_at, read_at)
), worker AS MATERIALIZED (
    SELECT id FROM workers WHERE id = $1 FOR KEY SHARE
), cand AS MATERIALIZED (
    SELECT m.id, i.status, i.delivered_at, i.read_at, m.status AS was,
           COALESCE(m.sent_at, GREATEST(i.sent_at, m.created_at)) AS sent_at
    FROM worker CROSS JOIN item i
    CROSS JOIN LATERAL (SELECT s.owner FROM sessions s WHERE s.id = i.s OFFSET 0) s
    JOIN messages m ON m.session_id = i.s AND m.whatsapp_id = i.whatsapp_id
    WHERE s.owner = $1 AND (m.status BETWEEN 1 AND 4 AND i.status > m.status OR m.status = 6 AND m.unknown_attempts > 0)
    ORDER BY m.id
    FOR NO KEY UPDATE OF m
), moved AS (
    UPDATE messages m
    SET status = c.status, open = false, due_at = NULL, hold = 0, error = NULL,
        sent_at = c.sent_at,
        delivered_at = COALESCE(m.delivered_at, CASE WHEN c.delivered_at IS NOT NULL
                                                     THEN GREATEST(c.delivered_at, c.sent_at) END),
        read_at = COALESCE(m.read_at, CASE WHEN c.read_at IS NOT NULL
                                           THEN GREATEST(c.read_at, m.delivered_at, c.delivered_at, c.sent_at) END),
        updated_at = now_ms()
    FROM cand c
    WHERE m.id = c.id AND (m.status IN (1, 2, 3, 4) AND c.status > m.status OR m.status = 6 AND m.unknown_attempts > 0)
    RETURNING m.id, m.user_id, m.session_id, m.quota_day, m.status, m.type, c.was
), event AS (
    INSERT INTO events (at, user_id, session_id, message_id, status)
    SELECT now_ms(), user_id, session_id, id, status FROM moved
), counted AS (
    INSERT INTO usage_stats AS u (user_id, day, shard, sent, failed, media_sent)
    SELECT user_id, quota_day, $2, count(*), -count(*) FILTER (WHERE was = 6), count(*) FILTER (WHERE type = ANY($9))
    FROM moved WHERE was IN (1, 2, 6)
    GROUP BY user_id, quota_day
    ORDER BY user_id, quota_day
    ON CONFLICT (user_id, day, shard) DO UPDATE
    SET sent = u.sent + excluded.sent, failed = u.failed + excluded.failed, media_sent = u.media_sent + excluded.media_sent
)
SELECT m.id, m.session_id FROM worker LEFT JOIN moved m ON true";

#[derive(FromRow)]
struct Row {
    id: Option<MessageId>,
    session_id: Option<Uuid>,
}

/// All receipts of one message as one: an `UPDATE … FROM` takes any one of several matches.
struct Folded {
    status: Status,
    sent_at: i64,
    delivered_at: Option<i64>,
    read_at: Option<i64>,
}

fn fold<'a>(items: &[&'a ReceiptBatch]) -> HashMap<(Uuid, &'a str), Folded> {
    let earliest = |known: Option<i64>, at: i64| Some(known.map_or(at, |known| known.min(at)));
    let mut folded: HashMap<(Uuid, &str), Folded> = HashMap::new();
    for batch in items {
        for receipt in &batch.receipts {
            if !matches!(receipt.status, Status::Sent | Status::Delivered | Status::Read) {
                continue;
            }
            let at = receipt.at.0;
            let one = folded.entry((batch.session.0, receipt.whatsapp_id.as_str())).or_insert(Folded {
                status: receipt.status,
                sent_at: at,
                delivered_at: None,
                read_at: None,
            });
            one.status = one.status.max(receipt.status);
            one.sent_at = one.sent_at.min(at);
            if receipt.status >= Status::Delivered {
                one.delivered_at = earliest(one.delivered_at, at);
            }
            if receipt.status == Status::Read {
                one.read_at = earliest(one.read_at, at);
            }
        }
    }
    folded
}

impl Statement for Receipts {
    type Item = ReceiptBatch;
    type Answer = Vec<MessageId>;

    async fn run(
        &self,
        connection: &mut PgConnection,
        items: &[&ReceiptBatch],
    ) -> Result<Vec<Result<Vec<MessageId>, StoreError>>, sqlx::Error> {
        let Some(first) = items.first() else { return Ok(Vec::new()) };
        let folded = fold(items);
        let rows: Vec<Row> = sqlx::query_as(SQL)
            .bind(first.worker)
            // A row of its own: settlements of this process commit at the same time and would wait for it.
            .bind(first.shard.wrapping_add(1))
            .bind(folded.keys().map(|(session, _)| *session).collect::<Vec<_>>())
            .bind(folded.keys().map(|(_, id)| *id).collect::<Vec<_>>())
            .bind(folded.values().map(|f| f.status as i16).collect::<Vec<_>>())
            .bind(folded.values().map(|f| f.sent_at).collect::<Vec<_>>())
            .bind(folded.values().map(|f| f.delivered_at).collect::<Vec<_>>())
            .bind(folded.values().map(|f| f.read_at).collect::<Vec<_>>())
            .bind(MessageType::MEDIA.map(|kind| kind as i16))
            .fetch_all(connection)
            .await?;
        if rows.is_empty() {
            return Ok(items.iter().map(|_| Err(StoreError::Fenced)).collect());
        }
        let mut moved: HashMap<Uuid, Vec<MessageId>> = HashMap::new();
        for row in rows {
            if let (Some(id), Some(session)) = (row.id, row.session_id) {
                moved.entry(session).or_default().push(id);
            }
        }
        // Two batches of one session share an answer: whoever asked first tells of the changes.
        Ok(items.iter().map(|batch| Ok(moved.remove(&batch.session.0).unwrap_or_default())).collect())
    }
}

/// One statement speaks for one worker.
pub(super) fn together() -> impl FnMut(&ReceiptBatch) -> bool + Send {
    let mut whose = None;
    move |batch| {
        let this = (batch.worker, batch.shard);
        *whose.get_or_insert(this) == this
    }
}
