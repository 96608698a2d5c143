//! Sweeps, each a bounded part of one transaction.

use std::collections::HashMap;
use std::time::Duration;

use sqlx_sqlite::SqliteConnection;

use super::Backend;
use super::moves::{self, Effects, Hex, Move, State, json};
use super::script::Script;
use super::sql::{self, failed};
use crate::ids::{MessageId, SessionId, UserId};
use crate::message::Status;
use crate::ports::operations::CancelFilter;
use crate::ports::store::{AcceptedJob, Backlog, Result, Retention, SWEEP_CHUNK, Swept};
use crate::session::DELETE_GRACE;
use crate::time::{Time, millis};

/// Sweeps count under this shard: which process swept doesn't matter here.
const SHARD: i64 = 0;
/// Sessions that are drained in one transaction.
const DRAIN_SESSIONS: i64 = 50;

fn is_chunk(rows: usize) -> bool {
    i64::try_from(rows).is_ok_and(|rows| rows >= SWEEP_CHUNK)
}

fn before(now: Time, age: Duration) -> Time {
    Time(now.0.saturating_sub(millis(age)))
}

#[derive(sqlx::FromRow)]
struct Due {
    seq: i64,
    id: MessageId,
    user_id: UserId,
    session_id: SessionId,
    expires_at: Time,
    request_id: String,
}

const PLACE: &str = "UPDATE messages SET seq = i.next, status = 1, open = 1, due_at = NULL, updated_at = $2
    FROM (SELECT value->>0 AS seq, value->>1 AS next FROM json_each($1)) i
    WHERE messages.seq = i.seq AND messages.status = 0";

/// Gives scheduled messages that fell due new places in the order. The numbers are taken as `AUTOINCREMENT` takes them, so
/// that none is ever given twice.
pub(super) async fn promote(conn: &mut SqliteConnection, now: Time) -> Result<(Vec<AcceptedJob>, bool)> {
    let due: Vec<Due> = sqlx::query_as(
        "SELECT seq, id, user_id, session_id, expires_at, request_id FROM messages INDEXED BY messages_scheduled
        WHERE due_at IS NOT NULL AND NOT open AND due_at <= $1 AND status = 0 ORDER BY due_at, seq LIMIT $2",
    )
    .bind(now)
    .bind(SWEEP_CHUNK)
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    if due.is_empty() {
        return Ok((Vec::new(), false));
    }
    let (last,): (i64,) = sqlx::query_as("SELECT seq FROM sqlite_sequence WHERE name = 'messages'")
        .fetch_one(&mut *conn)
        .await
        .map_err(failed)?;
    let mut next = last;
    let mut effects = Effects::default();
    let mut places = Vec::with_capacity(due.len());
    let mut jobs = Vec::with_capacity(due.len());
    for row in &due {
        next += 1;
        places.push((row.seq, next));
        effects.event(row.user_id, row.session_id, row.id, Status::Accepted);
        jobs.push(AcceptedJob {
            message: row.id,
            session: row.session_id,
            life: row.expires_at.since(now),
            request_id: row.request_id.clone(),
        });
    }
    let script = Script::default()
        .then(PLACE)
        .bind(json(&places)?)
        .bind(now)
        .expect_rows("messages promoted", places.len())
        .then("UPDATE sqlite_sequence SET seq = $1 WHERE name = 'messages'")
        .bind(next);
    effects.write(script, now)?.run(conn).await?;
    Ok((jobs, is_chunk(due.len())))
}

/// Ends what is past its expiry, unless a living worker is sending it.
pub(super) async fn expire(conn: &mut SqliteConnection, now: Time) -> Result<Swept> {
    let rows: Vec<State> = sqlx::query_as(concat!(
        "SELECT ",
        state_columns!(),
        " FROM messages m INDEXED BY messages_expiry WHERE m.open AND m.expires_at <= $1
            AND (m.status = 1 OR m.due_at IS NOT NULL OR m.claimed_by IS NULL
                OR m.claimed_by NOT IN (SELECT id FROM workers))
        ORDER BY m.expires_at LIMIT $2"
    ))
    .bind(now)
    .bind(SWEEP_CHUNK)
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    end_all(conn, now, rows, Status::Expired).await
}

/// Cancels what a user has waiting, and what can't have been sent.
pub(super) async fn cancel_waiting(
    conn: &mut SqliteConnection,
    now: Time,
    user: UserId,
    filter: &CancelFilter,
    until: Option<Time>,
) -> Result<(Swept, Time)> {
    let until = until.unwrap_or(now);
    let rows: Vec<State> = sqlx::query_as(concat!(
        "SELECT ",
        state_columns!(),
        " FROM sessions s CROSS JOIN messages m INDEXED BY messages_open_session ON m.session_id = s.id
        WHERE s.user_id = $1 AND ($2 IS NULL OR s.name = $2 AND s.deleting_at IS NULL)
            AND m.open AND m.status = 1 AND m.unknown_attempts = 0 AND m.created_at <= $6
            AND ($3 IS NULL OR m.recipient = $3) AND ($4 IS NULL OR m.reference = $4)
        UNION ALL SELECT ",
        state_columns!(),
        " FROM sessions s CROSS JOIN messages m INDEXED BY messages_scheduled_session ON m.session_id = s.id
        WHERE s.user_id = $1 AND ($2 IS NULL OR s.name = $2 AND s.deleting_at IS NULL)
            AND m.due_at IS NOT NULL AND NOT m.open AND m.status = 0 AND m.unknown_attempts = 0 AND m.created_at <= $6
            AND ($3 IS NULL OR m.recipient = $3) AND ($4 IS NULL OR m.reference = $4)
        LIMIT $5"
    ))
    .bind(user)
    .bind(filter.session.as_deref())
    .bind(filter.to.as_ref())
    .bind(filter.reference.as_deref())
    .bind(SWEEP_CHUNK)
    .bind(until)
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    Ok((end_all(conn, now, rows, Status::Cancelled).await?, until))
}

/// Ends messages, with their units back; those that may have been sent as `unknown_outcome`.
async fn end_all(conn: &mut SqliteConnection, now: Time, rows: Vec<State>, status: Status) -> Result<Swept> {
    let mut changes = Vec::with_capacity(rows.len());
    for row in rows {
        let mut after = row.clone();
        if status.origins().contains(&row.status.0) {
            after.end_unsent(status);
        } else {
            // What is `sending` can't be cancelled: it may have been sent.
            after.end_unknown();
        }
        changes.push(Move::new(row, after, SHARD)?);
    }
    moves::write(now, &changes)?.run(conn).await?;
    Ok(Swept { messages: changes.iter().map(Move::message).collect(), more: is_chunk(changes.len()) })
}

/// What waits, by session: all of them, and those whose count changed.
struct Counted {
    backlog: Backlog,
    oldest: Option<Duration>,
    changed: Vec<(SessionId, i64)>,
}

/// Counts what waits: one pass over the partial indexes. A read.
async fn count(conn: &mut SqliteConnection, now: Time) -> Result<Counted> {
    let open: Vec<(SessionId, i64, i64)> = sqlx::query_as(
        "SELECT session_id, count(*) AS waiting, min(seq) AS first FROM messages INDEXED BY messages_open_session
        WHERE open GROUP BY session_id",
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    let scheduled: Vec<(SessionId, i64)> = sqlx::query_as(
        "SELECT session_id, count(*) AS waiting FROM messages INDEXED BY messages_scheduled_session
        WHERE due_at IS NOT NULL AND NOT open GROUP BY session_id",
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    let firsts: Vec<i64> = open.iter().map(|(_, _, first)| *first).collect();
    let (oldest,): (Option<Time>,) =
        sqlx::query_as("SELECT min(created_at) AS oldest FROM messages WHERE seq IN (SELECT value FROM json_each($1))")
            .bind(json(&firsts)?)
            .fetch_one(&mut *conn)
            .await
            .map_err(failed)?;
    let sessions: Vec<(SessionId, UserId, i64)> =
        sqlx::query_as("SELECT id, user_id, queued FROM sessions").fetch_all(conn).await.map_err(failed)?;

    let mut waiting: HashMap<SessionId, i64> = HashMap::new();
    for (session, count) in open.into_iter().map(|(session, count, _)| (session, count)).chain(scheduled) {
        *waiting.entry(session).or_default() += count;
    }
    let mut backlog = Backlog { total: waiting.values().sum(), ..Backlog::default() };
    let mut changed = Vec::new();
    for (session, user, queued) in sessions {
        let count = waiting.get(&session).copied().unwrap_or(0);
        if count > 0 {
            *backlog.by_user.entry(user).or_default() += count;
        }
        if count != queued {
            changed.push((session, count));
        }
    }
    Ok(Counted { backlog, oldest: oldest.map(|at| now.since(at)), changed })
}

/// Counts what waits into the sessions' rows, and answers it with the age of the oldest waiting message.
pub(super) async fn count_backlog(store: &Backend) -> Result<(Backlog, Option<Duration>)> {
    let counted = read!(store, |c| count(c, Time::now()))?;
    if !counted.changed.is_empty() {
        let changed = counted.changed;
        change!(store, |c| write_counts(c, &changed))?;
    }
    Ok((counted.backlog, counted.oldest))
}

/// Writes the sessions' counts down.
async fn write_counts(conn: &mut SqliteConnection, changed: &[(SessionId, i64)]) -> Result<()> {
    let rows: Vec<(Hex, i64)> = changed.iter().map(|(session, count)| (Hex(session.0), *count)).collect();
    sqlx::query(
        "UPDATE sessions SET queued = i.waiting
        FROM (SELECT unhex(value->>0) AS id, value->>1 AS waiting FROM json_each($1)) i WHERE sessions.id = i.id",
    )
    .bind(json(&rows)?)
    .execute(conn)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Cancels what marked sessions have queued and removes those that are empty.
pub(super) async fn drain_deleted(conn: &mut SqliteConnection, now: Time) -> Result<(Swept, Vec<SessionId>)> {
    let marked: Vec<(SessionId,)> = sqlx::query_as(
        "SELECT id FROM sessions INDEXED BY sessions_deleting
        WHERE deleting_at IS NOT NULL AND drained_at IS NULL AND deleting_at <= $1 AND owner IS NULL
        ORDER BY deleting_at LIMIT $2",
    )
    .bind(before(now, DELETE_GRACE))
    .bind(DRAIN_SESSIONS)
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    let mut swept = Swept { more: i64::try_from(marked.len()).is_ok_and(|n| n >= DRAIN_SESSIONS), ..Swept::default() };
    let mut removed = Vec::new();
    for (session,) in marked {
        let part = drain(conn, now, session).await?;
        swept.messages.extend(part.messages);
        if part.more {
            swept.more = true;
            break;
        }
        sql::devices::wipe(&mut *conn, session).await?;
        // Its messages still show its name: the row stays as long as they do.
        sqlx::query(
            "UPDATE sessions SET drained_at = $2, paired = 0, queued = 0, qr_code = NULL, qr_expires_at = NULL
            WHERE id = $1",
        )
        .bind(session)
        .bind(now)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
        removed.push(session);
    }
    Ok((swept, removed))
}

/// A chunk of one session's waiting messages.
async fn drain(conn: &mut SqliteConnection, now: Time, session: SessionId) -> Result<Swept> {
    let mut rows: Vec<State> = sqlx::query_as(concat!(
        "SELECT ",
        state_columns!(),
        " FROM messages m INDEXED BY messages_open_session WHERE m.session_id = $1 AND m.open ORDER BY m.seq LIMIT $2"
    ))
    .bind(session)
    .bind(SWEEP_CHUNK)
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    if !is_chunk(rows.len()) {
        let left = SWEEP_CHUNK - i64::try_from(rows.len()).unwrap_or(0);
        let scheduled: Vec<State> = sqlx::query_as(concat!(
            "SELECT ",
            state_columns!(),
            " FROM messages m INDEXED BY messages_scheduled_session
            WHERE m.due_at IS NOT NULL AND NOT m.open AND m.session_id = $1 ORDER BY m.due_at LIMIT $2"
        ))
        .bind(session)
        .bind(left)
        .fetch_all(&mut *conn)
        .await
        .map_err(failed)?;
        rows.extend(scheduled);
    }
    end_all(conn, now, rows, Status::Cancelled).await
}

/// How old usage stats are whose shards are folded: nobody writes to them often any more.
const FOLD_AFTER_DAYS: i64 = 2;

/// Removes what is kept no longer; `true` if there may be more.
pub(super) async fn retire(store: &Backend, retention: &Retention) -> Result<bool> {
    let retention = *retention;
    let logs = store.logs.retire(before(Time::now(), retention.api_logs), retention.api_log_lines).await?;
    let rest = change!(store, |c, now| retire_rows(c, now, &retention))?;
    Ok(logs || rest)
}

async fn retire_rows(conn: &mut SqliteConnection, now: Time, retention: &Retention) -> Result<bool> {
    let mut more = false;
    // `n` follows the time, so that the oldest need no index of their own.
    let gone = sqlx::query("DELETE FROM events WHERE n IN (SELECT n FROM events ORDER BY n LIMIT $2) AND at < $1")
        .bind(before(now, retention.events))
        .bind(SWEEP_CHUNK)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    more |= is_chunk(usize::try_from(gone.rows_affected()).unwrap_or(usize::MAX));
    let gone = sqlx::query(
        "DELETE FROM idempotency_keys WHERE (user_id, key, item) IN (SELECT user_id, key, item FROM idempotency_keys
            INDEXED BY idempotency_keys_age WHERE created_at < $1 ORDER BY created_at LIMIT $2)",
    )
    .bind(before(now, retention.idempotency_keys))
    .bind(SWEEP_CHUNK)
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    more |= is_chunk(usize::try_from(gone.rows_affected()).unwrap_or(usize::MAX));
    more |= super::sql::logins::retire(conn, now).await?;
    fold_usage(conn, now.day().0 - FOLD_AFTER_DAYS).await?;
    Ok(more)
}

/// Sums the shards of days before `day` into shard 0.
async fn fold_usage(conn: &mut SqliteConnection, day: i64) -> Result<()> {
    let (any,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT 1 FROM usage_stats INDEXED BY usage_stats_unfolded WHERE day < $1 AND shard <> 0) AS found")
            .bind(day)
            .fetch_one(&mut *conn)
            .await
            .map_err(failed)?;
    if !any {
        return Ok(());
    }
    for text in [
        "INSERT INTO usage_stats (user_id, day, shard, sent, failed, media_sent, api_requests)
        SELECT user_id, day, 0, sum(sent), sum(failed), sum(media_sent), sum(api_requests) FROM usage_stats INDEXED BY usage_stats_unfolded
        WHERE day < $1 AND shard <> 0 GROUP BY user_id, day
        ON CONFLICT (user_id, day, shard) DO UPDATE SET sent = sent + excluded.sent, failed = failed + excluded.failed,
            media_sent = media_sent + excluded.media_sent, api_requests = api_requests + excluded.api_requests",
        "DELETE FROM usage_stats INDEXED BY usage_stats_unfolded WHERE day < $1 AND shard <> 0",
    ] {
        sqlx::query(text).bind(day).execute(&mut *conn).await.map_err(failed)?;
    }
    Ok(())
}
