//! Sweeps: in chunks, each a short transaction. Messages are locked by id, then the quota.

use std::time::Duration;

use sqlx::FromRow;
use sqlx_postgres::PgConnection;
use uuid::Uuid;

use super::{Backend, Now, error, partitions, sql};
use crate::ids::{MessageId, SessionId, UserId};
use crate::message::MessageError;
use crate::ports::operations::CancelFilter;
use crate::ports::store::{AcceptedJob, Backlog, Result, Retention, SWEEP_CHUNK, Swept};
use crate::session::DELETE_GRACE;
use crate::time::{Day, Time, millis};

async fn now(connection: &mut PgConnection) -> Result<Time> {
    sqlx::query_scalar(concat!("SELECT ", now_ms!())).fetch_one(connection).await.map(Time).map_err(error)
}

/// The users' quota rows are locked before the new `seq` is drawn, as by an accept: a user's order stays the order of
/// commit.
const PROMOTE: &str = "
WITH pick AS MATERIALIZED (
    SELECT id FROM messages
    WHERE due_at IS NOT NULL AND NOT open AND due_at <= now_ms()
    ORDER BY due_at, seq LIMIT $1
), locked AS MATERIALIZED (
    SELECT m.id, m.user_id, m.send_at, m.seq
    FROM pick p JOIN messages m ON m.id = p.id
    WHERE m.status = 0
    ORDER BY m.id
    FOR NO KEY UPDATE OF m SKIP LOCKED
), q AS (
    INSERT INTO quotas AS q (user_id, day, used, accepted)
    SELECT DISTINCT user_id, now_ms() / 86400000, 0, 0 FROM locked ORDER BY 1
    ON CONFLICT (user_id, day) DO UPDATE SET want = 0
    RETURNING user_id
), placed AS MATERIALIZED (
    SELECT l.id, nextval('message_seq') AS seq
    FROM (SELECT l.* FROM locked l JOIN q ON q.user_id = l.user_id ORDER BY l.send_at, l.seq) l
), moved AS (
    UPDATE messages m
    SET status = 1, open = true, due_at = NULL, seq = p.seq, updated_at = now_ms()
    FROM placed p WHERE m.id = p.id AND m.status = 0
    RETURNING m.id, m.seq, m.user_id, m.session_id, m.expires_at, m.request_id
), event AS (
    INSERT INTO events (at, user_id, session_id, message_id, status)
    SELECT now_ms(), user_id, session_id, id, 1 FROM moved
)
SELECT m.id, m.session_id, m.expires_at - now_ms() AS life, m.request_id FROM moved m ORDER BY m.seq";

#[derive(FromRow)]
struct Promoted {
    id: MessageId,
    session_id: SessionId,
    life: i64,
    request_id: String,
}

/// Gives scheduled messages that fell due their place in the order.
pub(super) async fn promote(connection: &mut PgConnection, _: Now) -> Result<(Vec<AcceptedJob>, bool)> {
    let rows: Vec<Promoted> = sqlx::query_as(PROMOTE).bind(SWEEP_CHUNK).fetch_all(connection).await.map_err(error)?;
    let more = is_full(rows.len());
    let job = |row: Promoted| AcceptedJob {
        message: row.id,
        session: row.session_id,
        life: Duration::from_millis(u64::try_from(row.life).unwrap_or(0).max(1)),
        request_id: row.request_id,
    };
    Ok((rows.into_iter().map(job).collect(), more))
}

fn is_full(rows: usize) -> bool {
    i64::try_from(rows).is_ok_and(|rows| rows >= SWEEP_CHUNK)
}

/// Ends messages that a statement picks as `picked (id, was, attempts, ended)`: `ended` is the status they get unless they
/// may have been sent. What was claimed, given back or ended since it was picked is left for the next look: a claim counts
/// an attempt.
macro_rules! ending {
    ($pick:expr) => {
        concat!(
            "WITH ",
            $pick,
            ", locked AS MATERIALIZED (
    SELECT m.id, m.was, CASE WHEN m.unknown_attempts > 0 THEN 6::smallint ELSE p.ended END AS status
    FROM (SELECT * FROM picked ORDER BY id) p CROSS JOIN LATERAL (
        SELECT m.id, m.status AS was, m.unknown_attempts FROM messages m
        WHERE m.id = p.id AND m.status = p.was AND m.attempts = p.attempts OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) m
), moved AS (
    UPDATE messages m
    SET status = l.status, open = false, due_at = NULL, hold = 0, refunded = m.unknown_attempts = 0,
        error = CASE WHEN l.status = 6 THEN $2 ELSE m.error END,
        updated_at = now_ms()
    FROM locked l WHERE m.id = l.id AND m.status = l.was AND m.status IN (0, 1, 2)
    RETURNING m.id, m.user_id, m.session_id, m.quota_day, m.status, m.refunded
), event AS (
    INSERT INTO events (at, user_id, session_id, message_id, status)
    SELECT now_ms(), user_id, session_id, id, status FROM moved
), refund AS (
    INSERT INTO quotas AS q (user_id, day, want, used, accepted)
    SELECT user_id, quota_day, count(*), 0, 0 FROM moved WHERE refunded GROUP BY user_id, quota_day
    ORDER BY user_id, quota_day
    ON CONFLICT (user_id, day) DO UPDATE SET ",
            give_back!("q", "excluded.want"),
            "
), counted AS (
    INSERT INTO usage_stats AS u (user_id, day, shard, failed)
    SELECT user_id, quota_day, 0, count(*) FROM moved WHERE status = 6 GROUP BY user_id, quota_day
    ORDER BY user_id, quota_day
    ON CONFLICT (user_id, day, shard) DO UPDATE SET failed = u.failed + excluded.failed
)
SELECT id FROM moved"
        )
    };
}

/// What is being sent is left to its owner while that lives, unless it is in doubt and waits.
const EXPIRE: &str = ending!(
    "picked AS MATERIALIZED (
    SELECT m.id, m.status AS was, m.attempts, 7::smallint AS ended FROM messages m
    WHERE m.open AND m.expires_at > 0 AND m.expires_at <= now_ms()
      AND (m.status = 1 OR m.due_at IS NOT NULL OR m.claimed_by NOT IN (SELECT id FROM workers))
    ORDER BY m.expires_at LIMIT $1
)"
);

/// What a session that is marked and owned by nobody has queued.
pub(super) const DRAIN: &str = ending!(
    "picked AS MATERIALIZED (
    (SELECT m.id, m.status AS was, m.attempts, 8::smallint AS ended FROM messages m
     WHERE m.session_id = $3 AND m.open LIMIT $1)
    UNION ALL
    (SELECT m.id, m.status, m.attempts, 8::smallint FROM messages m
     WHERE m.due_at IS NOT NULL AND NOT m.open AND m.session_id = $3 ORDER BY m.session_id, m.due_at LIMIT $1)
)"
);

/// What a user has waiting and may take back: what can't have been sent, and was accepted at `$7` or before. Scheduled messages are
/// taken in the order of their session's index: a planner that knows of few would look through those of all sessions.
macro_rules! waiting {
    () => {
        "mine AS MATERIALIZED (
    SELECT id FROM sessions WHERE user_id = $3 AND ($4::text IS NULL OR name = $4 AND deleting_at IS NULL)
), picked AS MATERIALIZED (
    SELECT p.* FROM mine s CROSS JOIN LATERAL (
        (SELECT m.id, m.status AS was, m.attempts, 8::smallint AS ended FROM messages m
         WHERE m.session_id = s.id AND m.open AND m.status = 1 AND m.unknown_attempts = 0 AND m.created_at <= $7
           AND ($5::text IS NULL OR m.recipient = $5) AND ($6::text IS NULL OR m.reference = $6) LIMIT $1)
        UNION ALL
        (SELECT m.id, m.status, m.attempts, 8::smallint FROM messages m
         WHERE m.due_at IS NOT NULL AND NOT m.open AND m.session_id = s.id AND m.status = 0 AND m.unknown_attempts = 0
           AND m.created_at <= $7
           AND ($5::text IS NULL OR m.recipient = $5) AND ($6::text IS NULL OR m.reference = $6)
         ORDER BY m.session_id, m.due_at LIMIT $1)
    ) p LIMIT $1
)"
    };
}

/// Ends what isn't locked just now.
pub(super) const CANCEL: &str = ending!(waiting!());
/// Whether anything is left. What another cancel has locked is: that one may be lost before it commits.
const LEFT: &str = concat!("WITH ", waiting!(), " SELECT EXISTS (SELECT 1 FROM picked)");

/// Ends what is past its expiry.
pub(super) async fn expire(connection: &mut PgConnection, _: Now) -> Result<Swept> {
    let messages: Vec<MessageId> = sqlx::query_scalar(EXPIRE)
        .bind(SWEEP_CHUNK)
        .bind(MessageError::unknown_outcome().to_json())
        .fetch_all(connection)
        .await
        .map_err(error)?;
    let more = is_full(messages.len());
    Ok(Swept { messages, more })
}

/// Cancels what a user has waiting, and what can't have been sent.
pub(super) async fn cancel_waiting(
    connection: &mut PgConnection,
    _: Now,
    user: UserId,
    filter: &CancelFilter,
    until: Option<Time>,
) -> Result<(Swept, Time)> {
    let until = match until {
        Some(until) => until,
        None => now(connection).await?,
    };
    let messages: Vec<MessageId> = sqlx::query_scalar(CANCEL)
        .bind(SWEEP_CHUNK)
        .bind(MessageError::unknown_outcome().to_json())
        .bind(user)
        .bind(filter.session.as_deref())
        .bind(filter.to.as_ref())
        .bind(filter.reference.as_deref())
        .bind(until)
        .fetch_all(&mut *connection)
        .await
        .map_err(error)?;
    let more = !messages.is_empty() || is_left(connection, user, filter, until).await?;
    Ok((Swept { messages, more }, until))
}

async fn is_left(connection: &mut PgConnection, user: UserId, filter: &CancelFilter, until: Time) -> Result<bool> {
    sqlx::query_scalar(LEFT)
        .bind(1_i64)
        .bind("")
        .bind(user)
        .bind(filter.session.as_deref())
        .bind(filter.to.as_ref())
        .bind(filter.reference.as_deref())
        .bind(until)
        .fetch_one(connection)
        .await
        .map_err(error)
}

/// Cancels what marked sessions have queued and removes those that are empty.
pub(super) async fn drain_deleted(connection: &mut PgConnection, _: Now) -> Result<(Swept, Vec<SessionId>)> {
    let marked: Vec<SessionId> = sqlx::query_scalar(concat!(
        "SELECT id FROM sessions
         WHERE deleting_at IS NOT NULL AND drained_at IS NULL AND deleting_at < ",
        now_ms!(),
        " - $1 AND (owner IS NULL OR owner NOT IN (SELECT id FROM workers))
         ORDER BY deleting_at LIMIT 10",
    ))
    .bind(millis(DELETE_GRACE))
    .fetch_all(&mut *connection)
    .await
    .map_err(error)?;
    let mut swept = Swept::default();
    let mut empty = Vec::new();
    for session in marked {
        let ended: Vec<MessageId> = sqlx::query_scalar(DRAIN)
            .bind(SWEEP_CHUNK)
            .bind(MessageError::unknown_outcome().to_json())
            .bind(session)
            .fetch_all(&mut *connection)
            .await
            .map_err(error)?;
        if !ended.is_empty() {
            swept = Swept { messages: ended, more: true };
            break;
        }
        // Its messages still show its name: the row stays, marked as done. What was locked just now is still there.
        let done = sqlx::query(concat!(
            "UPDATE sessions SET queued = 0, drained_at = ",
            now_ms!(),
            " WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.session_id = $1 AND m.open)
                AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.due_at IS NOT NULL AND NOT m.open AND m.session_id = $1)",
        ))
        .bind(session)
        .execute(&mut *connection)
        .await
        .map_err(error)?;
        if done.rows_affected() > 0 {
            sql::devices::wipe(&mut *connection, session).await?;
            empty.push(session);
        }
    }
    Ok((swept, empty))
}

/// Counts what waits into the sessions' rows, and answers it with the age of the oldest waiting message.
pub(super) async fn count_backlog(store: &Backend) -> Result<(Backlog, Option<Duration>)> {
    let (ids, counts) = read!(store, |c| count_waiting(c))?;
    let oldest = {
        let ids = ids.clone();
        read!(store, |c| oldest_waiting(c, &ids))?
    };
    change!(store, |c| write_counts(c, &ids, &counts))?;
    Ok((read!(store, |c| sql::messages::backlog(c))?, oldest))
}

/// Sessions that have something waiting, and how many messages each.
async fn count_waiting(connection: &mut PgConnection) -> Result<(Vec<Uuid>, Vec<i64>)> {
    let counted: Vec<(Uuid, i64)> = sqlx::query_as(
        "SELECT session_id, count(*) FROM (
             SELECT session_id FROM messages WHERE open
             UNION ALL
             SELECT session_id FROM messages WHERE due_at IS NOT NULL AND NOT open) m
         GROUP BY session_id",
    )
    .fetch_all(connection)
    .await
    .map_err(error)?;
    Ok(counted.into_iter().unzip())
}

async fn write_counts(connection: &mut PgConnection, sessions: &[Uuid], counts: &[i64]) -> Result<()> {
    sqlx::query(
        "WITH locked AS MATERIALIZED (
             SELECT s.id, COALESCE(c.n, 0) AS n
             FROM sessions s LEFT JOIN unnest($1::uuid[], $2::bigint[]) AS c (id, n) ON c.id = s.id
             WHERE s.queued <> COALESCE(c.n, 0)
             ORDER BY s.id FOR NO KEY UPDATE OF s)
         UPDATE sessions s SET queued = l.n FROM locked l WHERE s.id = l.id",
    )
    .bind(sessions)
    .bind(counts)
    .execute(connection)
    .await
    .map(drop)
    .map_err(error)
}

async fn oldest_waiting(connection: &mut PgConnection, sessions: &[Uuid]) -> Result<Option<Duration>> {
    let oldest_ms: Option<i64> = sqlx::query_scalar(concat!(
        "SELECT max(",
        now_ms!(),
        " - f.created_at)
         FROM unnest($1::uuid[]) AS s (id)
         CROSS JOIN LATERAL (
             SELECT m.created_at FROM messages m WHERE m.session_id = s.id AND m.open ORDER BY m.seq LIMIT 1) f",
    ))
    .bind(sessions)
    .fetch_one(connection)
    .await
    .map_err(error)?;
    Ok(oldest_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
}

/// Days whose stats may still be written by a process that counts late.
const FOLD_AFTER_DAYS: i64 = 2;

/// Removes what is kept no longer; `true` if there may be more. Each table in a transaction of its own, so that none holds
/// another's locks.
pub(super) async fn retire(store: &Backend, retention: &Retention) -> Result<bool> {
    let now = read!(store, |c| now(c))?;
    let before = |age: Duration| Time(now.0.saturating_sub(millis(age)));
    let keys_before = before(retention.idempotency_keys);
    let mut more = change!(store, |c| fold_usage(c, Day(now.day().0 - FOLD_AFTER_DAYS)))?;
    more |= change!(store, |c| retire_idempotency_keys(c, keys_before))?;
    more |= change!(store, |c| super::sql::logins::retire(c, now))?;
    for (table, before) in
        [(&partitions::EVENTS, before(retention.events)), (&partitions::API_LOGS, before(retention.api_logs))]
    {
        more |= change!(store, |c| partitions::keep(c, table, now, before))?;
    }
    let lines = retention.api_log_lines;
    more |= change!(store, |c| partitions::keep_lines(c, lines))?;
    Ok(more)
}

async fn retire_idempotency_keys(connection: &mut PgConnection, before: Time) -> Result<bool> {
    let done = sqlx::query(
        "DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2))",
    )
    .bind(before)
    .bind(SWEEP_CHUNK)
    .execute(connection)
    .await
    .map_err(error)?;
    Ok(done.rows_affected() >= SWEEP_CHUNK.unsigned_abs())
}

async fn fold_usage(connection: &mut PgConnection, before: Day) -> Result<bool> {
    let folded = sqlx::query(
        "WITH old AS MATERIALIZED (
             SELECT user_id, day, shard FROM usage_stats WHERE day < $1 AND shard <> 0
             ORDER BY day, user_id, shard LIMIT $2 FOR UPDATE SKIP LOCKED),
         gone AS (
             DELETE FROM usage_stats u USING old o
             WHERE u.user_id = o.user_id AND u.day = o.day AND u.shard = o.shard
             RETURNING u.*)
         INSERT INTO usage_stats AS u (user_id, day, shard, sent, failed, media_sent, api_requests)
         SELECT user_id, day, 0, sum(sent), sum(failed), sum(media_sent), sum(api_requests)
         FROM gone GROUP BY user_id, day ORDER BY user_id, day
         ON CONFLICT (user_id, day, shard) DO UPDATE
         SET sent = u.sent + excluded.sent, failed = u.failed + excluded.failed,
             media_sent = u.media_sent + excluded.media_sent, api_requests = u.api_requests + excluded.api_requests",
    )
    .bind(before)
    .bind(SWEEP_CHUNK)
    .execute(connection)
    .await
    .map_err(error)?;
    Ok(folded.rows_affected() >= SWEEP_CHUNK.unsigned_abs())
}
