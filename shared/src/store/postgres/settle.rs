//! Writing back how attempts ended: one statement for many.
//!
//! The lock order is everybody's: worker, messages by id, quota, counters. The claim and the attempt must be the caller's,
//! so a late statement does no harm; a definite "not sent" takes back the doubt of its own attempt alone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::FromRow;
use sqlx_postgres::PgConnection;
use uuid::Uuid;

use super::committer::Statement;
use crate::ids::WorkerId;
use crate::message::{Hold, MAX_CRASHES, MessageError, MessageType, Status};
use crate::ports::store::{Outcome, Result, Settled, Settlement, StoreError};
use crate::time::millis;

pub(super) struct Settle {
    /// Sessions that have sent since the last renewal writes it down.
    pub(super) active: Arc<Active>,
}

/// Sessions and when they sent last: written with a worker's renewal, not with every message.
pub(super) type Active = std::sync::Mutex<HashMap<Uuid, i64>>;

pub(super) const SQL: &str = concat!("
WITH item AS MATERIALIZED (
    SELECT * FROM unnest($3::uuid[], $4::bigint[], $5::integer[], $6::smallint[], $7::boolean[], $8::boolean[],
                         $9::boolean[], $10::bigint[], $11::smallint[], $12::text[])
        AS i (id, claim, attempt, goal, not_sent, uncount, crash, after, hold, error)
), worker AS MATERIALIZED (
    SELECT id FROM workers WHERE id = $1 FOR KEY SHARE
), cand AS MATERIALIZED (
    SELECT i.*, m.status AS was, m.unknown_attempts - i.not_sent::integer AS unknown, CASE WHEN i.crash AND i.goal = 6 THEN $13 ELSE LEAST(m.crashes, 2147483646) + i.crash::integer END AS crashed
    FROM worker CROSS JOIN item i JOIN messages m ON m.id = i.id
    WHERE m.claimed_by = $1 AND m.claim = i.claim
      AND (m.status = 2 AND (m.attempts = i.attempt OR i.goal = 3)
           OR m.status = 6 AND m.unknown_attempts > 0 AND i.goal = 3)
    ORDER BY m.id
    FOR NO KEY UPDATE OF m
), next AS MATERIALIZED (
    SELECT c.*, CASE WHEN c.crash AND c.crashed >= $13 THEN 6::smallint
                     WHEN c.goal = 7 AND c.unknown > 0 THEN 6::smallint
                     ELSE c.goal END AS status
    FROM cand c
), settled AS (
    UPDATE messages m
    SET status = n.status,
        open = n.status IN (1, 2),
        attempts = m.attempts - n.uncount::integer,
        unknown_attempts = n.unknown,
        crashes = n.crashed,
        due_at = CASE WHEN n.status IN (1, 2) THEN now_ms() + n.after END,
        hold = CASE WHEN n.status IN (1, 2) THEN n.hold ELSE 0 END,
        error = CASE WHEN n.status = 3 THEN NULL
                     WHEN n.status = 6 AND n.unknown > 0 THEN $14
                     WHEN n.status = 6 AND n.crash THEN COALESCE(n.error, $15)
                     ELSE COALESCE(n.error, m.error) END,
        sent_at = CASE WHEN n.status = 3 THEN COALESCE(m.sent_at, now_ms()) ELSE m.sent_at END,
        refunded = n.status IN (6, 7) AND n.unknown = 0,
        updated_at = now_ms()
    FROM next n
    WHERE m.id = n.id AND (m.status = 2 OR m.status = 6 AND m.unknown_attempts > 0 AND n.status = 3)
    RETURNING m.id, m.user_id, m.session_id, m.quota_day, m.status, m.type, m.refunded, n.was
), event AS (
    INSERT INTO events (at, user_id, session_id, message_id, status)
    SELECT now_ms(), user_id, session_id, id, status FROM settled WHERE status <> was
), refund AS (
    INSERT INTO quotas AS q (user_id, day, want, used, accepted)
    SELECT user_id, quota_day, count(*), 0, 0 FROM settled WHERE refunded GROUP BY user_id, quota_day
    ORDER BY user_id, quota_day
    ON CONFLICT (user_id, day) DO UPDATE SET ", give_back!("q", "excluded.want"), "
), counted AS (
    INSERT INTO usage_stats AS u (user_id, day, shard, sent, failed, media_sent)
    SELECT user_id, quota_day, $2,
           count(*) FILTER (WHERE status = 3),
           count(*) FILTER (WHERE status = 6) - count(*) FILTER (WHERE was = 6),
           count(*) FILTER (WHERE status = 3 AND type = ANY($16))
    FROM settled WHERE status IN (3, 6)
    GROUP BY user_id, quota_day
    ORDER BY user_id, quota_day
    ON CONFLICT (user_id, day, shard) DO UPDATE
    SET sent = u.sent + excluded.sent, failed = u.failed + excluded.failed, media_sent = u.media_sent + excluded.media_sent
)
SELECT now_ms() AS now, s.id, s.status, s.session_id FROM worker w LEFT JOIN settled s ON true");

#[derive(FromRow)]
struct Row {
    now: i64,
    id: Option<Uuid>,
    status: Option<i16>,
    session_id: Option<Uuid>,
}

/// An outcome in the statement's terms.
struct Terms {
    goal: Status,
    not_sent: bool,
    uncount: bool,
    crash: bool,
    after_ms: Option<i64>,
    hold: i16,
    error: Option<String>,
}

impl Terms {
    fn of(outcome: &Outcome) -> Self {
        let plain =
            |goal| Self { goal, not_sent: false, uncount: false, crash: false, after_ms: None, hold: 0, error: None };
        match outcome {
            Outcome::Sent => plain(Status::Sent),
            Outcome::Retry { error, after, hold } => Self {
                not_sent: true,
                after_ms: Some(millis(*after)),
                hold: *hold as i16,
                error: Some(error.to_json()),
                ..plain(Status::Accepted)
            },
            Outcome::Failed { error } => Self {
                not_sent: true,
                // A dead letter, whether or not it has crashed.
                crash: error.code == MessageError::INTERNAL,
                error: Some(error.to_json()),
                ..plain(Status::Failed)
            },
            Outcome::Expired => Self { not_sent: true, ..plain(Status::Expired) },
            Outcome::InDoubt { error, after } => Self {
                after_ms: Some(millis(*after)),
                hold: Hold::Retry as i16,
                error: Some(error.to_json()),
                ..plain(Status::Sending)
            },
            Outcome::Unknown => plain(Status::Failed),
            Outcome::Held { after, hold } => Self {
                not_sent: true,
                uncount: true,
                after_ms: Some(millis(*after)),
                hold: *hold as i16,
                ..plain(Status::Accepted)
            },
            Outcome::Released => Self { not_sent: true, uncount: true, ..plain(Status::Accepted) },
            Outcome::Crashed { called, after } => Self {
                not_sent: !called,
                uncount: !called,
                crash: true,
                after_ms: Some(millis(*after)),
                hold: Hold::Retry as i16,
                ..plain(if *called { Status::Sending } else { Status::Accepted })
            },
        }
    }
}

impl Statement for Settle {
    type Item = Settlement;
    type Answer = Settled;

    async fn run(
        &self,
        connection: &mut PgConnection,
        items: &[&Settlement],
    ) -> std::result::Result<Vec<Result<Settled>>, sqlx::Error> {
        let Some(first) = items.first() else { return Ok(Vec::new()) };
        let terms: Vec<Terms> = items.iter().map(|item| Terms::of(&item.outcome)).collect();
        let unknown = MessageError::unknown_outcome().to_json();
        let crashed = MessageError::internal("Sending it failed for a reason of ours, again and again.");
        let rows: Vec<Row> = sqlx::query_as(SQL)
            .bind(first.worker)
            .bind(first.shard)
            .bind(items.iter().map(|i| i.message.0).collect::<Vec<_>>())
            .bind(items.iter().map(|i| i.claim).collect::<Vec<_>>())
            .bind(items.iter().map(|i| i.attempt).collect::<Vec<_>>())
            .bind(terms.iter().map(|t| t.goal as i16).collect::<Vec<_>>())
            .bind(terms.iter().map(|t| t.not_sent).collect::<Vec<_>>())
            .bind(terms.iter().map(|t| t.uncount).collect::<Vec<_>>())
            .bind(terms.iter().map(|t| t.crash).collect::<Vec<_>>())
            .bind(terms.iter().map(|t| t.after_ms).collect::<Vec<_>>())
            .bind(terms.iter().map(|t| t.hold).collect::<Vec<_>>())
            .bind(terms.iter().map(|t| t.error.as_deref()).collect::<Vec<_>>())
            .bind(MAX_CRASHES)
            .bind(unknown)
            .bind(crashed.to_json())
            .bind(MessageType::MEDIA.map(|kind| kind as i16))
            .fetch_all(connection)
            .await?;
        if rows.is_empty() {
            return Ok(items.iter().map(|_| Err(StoreError::Fenced)).collect());
        }
        let done: HashMap<Uuid, Status> =
            rows.iter().filter_map(|row| Some((row.id?, Status::from_code(row.status?)?))).collect();
        if let Ok(mut active) = self.active.lock() {
            let sent = rows.iter().filter(|row| row.status == Some(Status::Sent as i16));
            active.extend(sent.filter_map(|row| Some((row.session_id?, row.now))));
        }
        Ok(items.iter().map(|i| Ok(done.get(&i.message.0).map_or(Settled::Refused, |s| Settled::Done(*s)))).collect())
    }
}

/// One statement speaks for one worker, and once for a message.
pub(super) fn together() -> impl FnMut(&Settlement) -> bool + Send {
    let (mut whose, mut messages) = (None, HashSet::new());
    move |settlement| {
        let this = (settlement.worker, settlement.shard);
        *whose.get_or_insert(this) == this && messages.insert(settlement.message)
    }
}

/// Writes down when sessions last sent.
pub(super) async fn write_last_active(
    connection: &mut PgConnection,
    worker: WorkerId,
    sent: Vec<(Uuid, i64)>,
) -> Result<()> {
    let (ids, times): (Vec<Uuid>, Vec<i64>) = sent.into_iter().unzip();
    sqlx::query(
        "WITH locked AS MATERIALIZED (
             SELECT s.id, i.at FROM sessions s JOIN unnest($2::uuid[], $3::bigint[]) AS i (id, at) ON i.id = s.id
             WHERE s.owner = $1 ORDER BY s.id FOR NO KEY UPDATE OF s)
         UPDATE sessions s SET last_active_at = l.at FROM locked l WHERE s.id = l.id",
    )
    .bind(worker)
    .bind(ids)
    .bind(times)
    .execute(connection)
    .await
    .map_err(super::error)?;
    Ok(())
}
