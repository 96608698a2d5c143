//! The pull: claims what can be sent now, oldest first, for many sessions at once.

use std::collections::HashMap;

use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteConnection;

use super::moves::{Effects, Hex, expect_rows, json};
use super::sql::failed;
use crate::ids::{MessageId, UserId};
use crate::message::{MessageType, Status};
use crate::ports::store::{Outgoing, PullRequest, Pulled, Result, StoreError};
use crate::recipient::Recipient;
use crate::time::Time;

/// Pulls for several sessions. Two pulls of one session don't come together.
pub(super) fn write<'a>(
    conn: &'a mut SqliteConnection,
    now: Time,
    requests: &'a [&PullRequest],
) -> BoxFuture<'a, Result<Vec<Result<Pulled>>>> {
    Box::pin(pull(conn, now, requests))
}

async fn pull(conn: &mut SqliteConnection, now: Time, requests: &[&PullRequest]) -> Result<Vec<Result<Pulled>>> {
    let standing = standing(conn, requests).await?;
    let mut answers = Vec::with_capacity(requests.len());
    let mut claims = Vec::new();
    let mut effects = Effects::default();
    for (n, request) in requests.iter().enumerate() {
        let (alive, ready) = standing.get(&n).copied().unwrap_or_default();
        if !alive {
            answers.push(Err(StoreError::Fenced));
            continue;
        }
        let mut pulled = Pulled { now, ready, waiting: ready.then_some(i64::MAX), ..Pulled::default() };
        if ready && (request.places == 0 || request.scan == 0) {
            // Nothing was looked at, so nothing may be concluded.
            pulled.next_seq = Some(request.from_seq);
        } else if ready {
            for row in look(conn, now, request, &mut pulled).await? {
                if row.status == Status::Accepted as i16 {
                    effects.event(row.user_id, request.session, row.id, Status::Sending);
                }
                claims.push((row.seq, Hex(request.worker.0), request.claim));
                pulled.messages.push(row.outgoing());
            }
        }
        answers.push(Ok(pulled));
    }
    if !claims.is_empty() {
        let done = sqlx::query(CLAIM).bind(json(&claims)?).bind(now).execute(&mut *conn).await.map_err(failed)?;
        expect_rows("messages claimed", done.rows_affected(), claims.len())?;
        effects.write(conn, now).await?;
    }
    Ok(answers)
}

/// Of each request: whether the worker's row exists, and whether messages of the session may be claimed by it.
async fn standing(conn: &mut SqliteConnection, requests: &[&PullRequest]) -> Result<HashMap<usize, (bool, bool)>> {
    let asked: Vec<_> = requests.iter().enumerate().map(|(n, r)| (n, Hex(r.worker.0), Hex(r.session.0))).collect();
    let rows: Vec<(i64, bool, bool)> = sqlx::query_as(
        "SELECT value->>0 AS n, EXISTS (SELECT 1 FROM workers w WHERE w.id = unhex(value->>1)) AS alive,
            EXISTS (SELECT 1 FROM sessions s JOIN users u ON u.id = s.user_id
                WHERE s.id = unhex(value->>2) AND s.owner = unhex(value->>1) AND s.status = 3 AND NOT s.paused
                    AND s.deleting_at IS NULL AND u.is_active) AS ready
        FROM json_each($1)",
    )
    .bind(json(&asked)?)
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    Ok(rows.into_iter().filter_map(|(n, alive, ready)| Some((usize::try_from(n).ok()?, (alive, ready)))).collect())
}

/// `Sending` from its origins: `accepted`, or `sending` for what is in doubt.
pub(super) const CLAIM: &str = "UPDATE messages SET status = 2, claimed_by = unhex(i.worker), claim = i.claim,
        attempts = attempts + 1, unknown_attempts = unknown_attempts + 1, due_at = NULL, hold = 0, updated_at = $2
    FROM (SELECT value->>0 AS seq, value->>1 AS worker, value->>2 AS claim FROM json_each($1)) i
    WHERE messages.seq = i.seq AND messages.status IN (1, 2)";

/// One row for the look, joined with each candidate. `last` is the last row that may be examined, `stop` the last that
/// was: with all places filled that of the last candidate. The indexes are named, for the planner might otherwise walk
/// the whole table by `seq`, its key, through the rows of all other sessions.
pub(super) const LOOK: &str = "WITH
    bound AS MATERIALIZED (SELECT (SELECT seq FROM messages INDEXED BY messages_open_session
        WHERE session_id = $1 AND open AND seq >= $2 ORDER BY seq LIMIT 1 OFFSET $3 - 1) AS last),
    cand AS MATERIALIZED (SELECT m.seq, m.id, m.user_id, m.recipient, m.whatsapp_id, m.type AS kind, m.content,
            m.attempts, m.unknown_attempts, m.crashes, m.created_at, m.expires_at, m.request_id, m.status,
            (SELECT q.whatsapp_id FROM messages q WHERE q.id = m.reply_to) AS quoted
        FROM messages m INDEXED BY messages_open_session
        WHERE m.session_id = $1 AND m.open AND m.seq >= $2
            AND m.seq <= COALESCE((SELECT last FROM bound), 9223372036854775807)
            AND m.recipient NOT IN (SELECT value FROM json_each($4))
            AND CASE m.status
                WHEN 1 THEN (m.due_at IS NULL OR m.due_at <= $6) AND m.expires_at > $6
                WHEN 2 THEN m.claimed_by IS NOT $8 OR m.claim IS NOT $9 OR (m.due_at <= $6 AND m.expires_at > $6)
                ELSE 0 END
            AND NOT EXISTS (SELECT 1 FROM messages e INDEXED BY messages_open_recipient
                WHERE e.session_id = m.session_id AND e.recipient = m.recipient AND e.open
                    AND e.seq >= $7 AND e.seq < m.seq)
        ORDER BY m.seq LIMIT $5),
    stop AS MATERIALIZED (SELECT CASE WHEN (SELECT count(*) FROM cand) >= $5 THEN (SELECT max(seq) FROM cand)
        ELSE (SELECT last FROM bound) END AS seq)
    SELECT (SELECT seq FROM messages INDEXED BY messages_open_session
            WHERE session_id = $1 AND open AND seq >= $2 ORDER BY seq LIMIT 1) AS first_seq,
        stop.seq + 1 AS next_seq,
        (SELECT min(due_at) FROM messages INDEXED BY messages_open_session
            WHERE session_id = $1 AND open AND seq >= $2 AND seq <= COALESCE(stop.seq, 9223372036854775807)
                AND due_at > $6) AS next_due,
        cand.*
    FROM stop LEFT JOIN cand ON true ORDER BY cand.seq";

#[derive(sqlx::FromRow)]
struct Look {
    first_seq: Option<i64>,
    next_seq: Option<i64>,
    next_due: Option<Time>,
}

#[derive(sqlx::FromRow)]
struct Candidate {
    seq: i64,
    id: MessageId,
    user_id: UserId,
    recipient: Recipient,
    whatsapp_id: String,
    kind: i16,
    content: String,
    attempts: i32,
    unknown_attempts: i32,
    crashes: i32,
    created_at: Time,
    expires_at: Time,
    request_id: String,
    status: i16,
    quoted: Option<String>,
}

/// Looks for candidates and writes down how far it looked.
async fn look(
    conn: &mut SqliteConnection,
    now: Time,
    request: &PullRequest,
    pulled: &mut Pulled,
) -> Result<Vec<Candidate>> {
    use sqlx::{FromRow, Row};
    let rows = sqlx::query(LOOK)
        .bind(request.session)
        .bind(request.from_seq)
        .bind(i64::from(request.scan))
        .bind("[]")
        .bind(i64::from(request.places))
        .bind(now)
        .bind(request.low)
        .bind(request.worker)
        .bind(request.claim)
        .fetch_all(conn)
        .await
        .map_err(failed)?;
    let mut candidates = Vec::with_capacity(rows.len());
    for row in &rows {
        let look = Look::from_row(row).map_err(failed)?;
        pulled.first_seq = look.first_seq;
        pulled.next_seq = look.next_seq;
        pulled.next_due = look.next_due;
        if row.try_get::<Option<i64>, _>("seq").map_err(failed)?.is_some() {
            candidates.push(Candidate::from_row(row).map_err(failed)?);
        }
    }
    Ok(candidates)
}

impl Candidate {
    fn outgoing(self) -> Outgoing {
        let kind = MessageType::from_code(self.kind);
        let content = match kind {
            Some(_) => serde_json::from_str(&self.content).map_err(|e| format!("its content can't be read: {e}")),
            None => Err(format!("its type is {}", self.kind)),
        };
        Outgoing {
            id: self.id,
            seq: self.seq,
            recipient: self.recipient,
            whatsapp_id: self.whatsapp_id,
            kind: kind.unwrap_or(MessageType::Text),
            content,
            quoted: self.quoted,
            attempt: self.attempts + 1,
            unknown_attempts: self.unknown_attempts + 1,
            crashes: self.crashes,
            created_at: self.created_at,
            expires_at: self.expires_at,
            request_id: self.request_id,
        }
    }
}
