//! The pull: claims what can be sent now, oldest first, for many sessions at once.

use std::collections::HashMap;

use sqlx::{FromRow, Row};
use sqlx_sqlite::SqliteRow;

use super::moves::{Effects, Hex, json};
use super::script::{Answers, Script};
use super::sql::failed;
use super::transaction::Unit;
use crate::ids::{MessageId, UserId};
use crate::message::{MessageType, Status};
use crate::ports::store::{Outgoing, PullRequest, Pulled, Result, StoreError};
use crate::recipient::Recipient;
use crate::time::Time;

/// Pulls for several sessions. Two pulls of one session don't come together.
impl Unit for &PullRequest {
    type Answer = Pulled;
    const METRIC: &'static str = "sanasr_pull_batch_size";
    /// Each number of looks is a text of its own.
    const PART_MAX: usize = 8;

    fn read(requests: &[Self], now: Time) -> Result<Script> {
        let asked: Vec<_> = requests.iter().enumerate().map(|(n, r)| (n, Hex(r.worker.0), Hex(r.session.0))).collect();
        let script = Script::default().then(STANDING).bind(json(&asked)?);
        requests.iter().filter(|request| looks(request)).try_fold(script, |script, request| look(script, now, request))
    }

    fn write(requests: &[Self], now: Time, mut found: Answers) -> Result<(Script, Vec<Result<Pulled>>)> {
        let standing: HashMap<i64, (bool, bool)> =
            found.read()?.into_iter().map(|(n, alive, ready)| (n, (alive, ready))).collect();
        let mut answers = Vec::with_capacity(requests.len());
        let mut claims = Vec::new();
        let mut effects = Effects::default();
        for (n, request) in (0..).zip(requests) {
            let rows = if looks(request) { found.rows() } else { Vec::new() };
            let (alive, ready) = standing.get(&n).copied().unwrap_or_default();
            if !alive {
                answers.push(Err(StoreError::Fenced));
                continue;
            }
            let mut pulled = Pulled { now, ready, ..Pulled::default() };
            if ready && !looks(request) {
                // Nothing was looked at, so nothing may be concluded.
                pulled.next_seq = Some(request.from_seq);
            } else if ready {
                for row in candidates(request, &rows, &mut pulled)? {
                    if row.status == Status::Accepted as i16 {
                        effects.event(row.user_id, request.session, row.id, Status::Sending);
                    }
                    claims.push((row.seq, Hex(request.worker.0), request.claim));
                    pulled.messages.push(row.outgoing());
                }
            }
            answers.push(Ok(pulled));
        }
        if claims.is_empty() {
            return Ok((Script::default(), answers));
        }
        let script = Script::default().then(CLAIM).bind(json(&claims)?).bind(now);
        Ok((effects.write(script.expect_rows("messages claimed", claims.len()), now)?, answers))
    }
}

/// Whether it asks for anything to be looked at.
const fn looks(request: &PullRequest) -> bool {
    request.places > 0 && (request.scan > 0 || !request.recipients.is_empty())
}

/// Of each request: whether the worker's row exists, and whether messages of the session may be claimed by it.
const STANDING: &str = "SELECT value->>0 AS n, EXISTS (SELECT 1 FROM workers w WHERE w.id = unhex(value->>1)) AS alive,
        EXISTS (SELECT 1 FROM sessions s JOIN users u ON u.id = s.user_id
            WHERE s.id = unhex(value->>2) AND s.owner = unhex(value->>1) AND s.status = 3 AND NOT s.paused
                AND s.deleting_at IS NULL AND u.is_active) AS ready
    FROM json_each($1)";

/// `Sending` from its origins: `accepted`, or `sending` for what is in doubt. A count that is out of range is set right.
pub(super) const CLAIM: &str = "UPDATE messages SET status = 2, claimed_by = unhex(i.worker), claim = i.claim,
        attempts = max(0, min(attempts, 2147483646)) + 1,
        unknown_attempts = max(0, min(unknown_attempts, 2147483646)) + 1, due_at = NULL, hold = 0, updated_at = $2
    FROM (SELECT value->>0 AS seq, value->>1 AS worker, value->>2 AS claim FROM json_each($1)) i
    WHERE messages.seq = i.seq AND messages.status IN (1, 2)";

/// Whether `m` may be claimed, if it is the head of its recipient's queue.
macro_rules! claimable {
    () => {
        "CASE m.status
            WHEN 1 THEN (m.due_at IS NULL OR m.due_at <= $6) AND m.expires_at > $6
            WHEN 2 THEN m.claimed_by IS NOT $8 OR m.claim IS NOT $9 OR (m.due_at <= $6 AND m.expires_at > $6)
            ELSE 0 END"
    };
}

/// The rows that were examined, of which `stop` is the last.
macro_rules! examined {
    () => {
        "messages m INDEXED BY messages_open_session
            WHERE m.session_id = $1 AND m.open AND m.seq >= $2 AND m.seq <= COALESCE(stop.seq, 9223372036854775807)"
    };
}

/// One row for the look, joined with each candidate. `last` is the last row that may be examined, `stop` the last that
/// was: with all places filled none beyond the last candidate. The indexes are named, for the planner might otherwise walk
/// the whole table by `seq`, its key, through the rows of all other sessions. Of a bare parameter in `LIMIT` the planner
/// asks the value, so that the statement would be prepared anew each time, which takes longer than running it.
pub(super) const LOOK: &str = concat!(
    "WITH
    bound AS MATERIALIZED (SELECT CASE WHEN $3 > 0
        THEN (SELECT seq FROM messages INDEXED BY messages_open_session
              WHERE session_id = $1 AND open AND seq >= $2 ORDER BY seq LIMIT 1 OFFSET $3 - 1)
        ELSE $2 - 1 END AS last),
    pick AS MATERIALIZED (
        SELECT seq FROM (
            SELECT m.seq FROM messages m INDEXED BY messages_open_session
            WHERE m.session_id = $1 AND m.open AND m.seq >= $2
                AND m.seq <= COALESCE((SELECT last FROM bound), 9223372036854775807) AND ",
    claimable!(),
    "
                AND NOT EXISTS (SELECT 1 FROM messages e INDEXED BY messages_open_recipient
                    WHERE e.session_id = m.session_id AND e.recipient = m.recipient AND e.open
                        AND e.seq >= $7 AND e.seq < m.seq)
            ORDER BY m.seq LIMIT 0 + $5)
        UNION
        SELECT m.seq FROM json_each($4) f CROSS JOIN messages m
        WHERE m.seq = (SELECT e.seq FROM messages e INDEXED BY messages_open_recipient
                WHERE e.session_id = $1 AND e.recipient = f.value AND e.open AND e.seq >= $7 ORDER BY e.seq LIMIT 1)
            AND ",
    claimable!(),
    "
        ORDER BY seq LIMIT 0 + $5),
    stop AS MATERIALIZED (SELECT CASE WHEN (SELECT count(*) FROM pick) >= $5
        THEN min(COALESCE(last, 9223372036854775806), max((SELECT max(seq) FROM pick), $2 - 1))
        ELSE last END AS seq FROM bound)
    SELECT (SELECT m.seq FROM ",
    examined!(),
    " ORDER BY m.seq LIMIT 1) AS first_seq,
        stop.seq + 1 AS next_seq,
        (SELECT min(m.due_at) FROM ",
    examined!(),
    " AND m.due_at > $6) AS next_due,
        (SELECT m.seq FROM ",
    examined!(),
    " AND m.seq NOT IN (SELECT seq FROM pick)
                AND (m.status = 1 OR m.due_at IS NOT NULL OR m.claimed_by IS NOT $8 OR m.claim IS NOT $9)
            ORDER BY m.seq DESC LIMIT 1) AS waiting,
        m.seq, m.id, m.user_id, m.recipient, m.whatsapp_id, m.type AS kind, m.content, m.attempts, m.unknown_attempts,
        m.crashes, m.created_at, m.expires_at, m.request_id, m.status,
        (SELECT q.whatsapp_id FROM messages q WHERE q.id = m.reply_to) AS quoted
    FROM stop LEFT JOIN pick ON true LEFT JOIN messages m ON m.seq = pick.seq ORDER BY m.seq"
);

#[derive(FromRow)]
struct Look {
    first_seq: Option<i64>,
    next_seq: Option<i64>,
    next_due: Option<Time>,
    waiting: Option<i64>,
}

#[derive(FromRow)]
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
    /// Why the row can't be read, if it can't.
    #[sqlx(skip)]
    unreadable: Option<String>,
}

fn look(script: Script, now: Time, request: &PullRequest) -> Result<Script> {
    Ok(script
        .then(LOOK)
        .bind(request.session)
        .bind(request.from_seq)
        .bind(i64::from(request.scan))
        .bind(json(&request.recipients)?)
        .bind(i64::from(request.places))
        .bind(now)
        .bind(request.low)
        .bind(request.worker)
        .bind(request.claim))
}

/// Reads the candidates and writes down how far was looked. A row that can't be read doesn't hold the session's others up.
fn candidates(request: &PullRequest, rows: &[SqliteRow], pulled: &mut Pulled) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::with_capacity(rows.len());
    for row in rows {
        let look = Look::from_row(row).map_err(failed)?;
        pulled.first_seq = look.first_seq;
        pulled.next_seq = look.next_seq;
        pulled.next_due = look.next_due;
        pulled.waiting = look.waiting;
        if row.try_get::<Option<i64>, _>("seq").map_err(failed)?.is_some() {
            match Candidate::from_row(row).or_else(|error| Candidate::salvaged(row, &error)) {
                Ok(candidate) => candidates.push(candidate),
                Err(error) => {
                    let (session, seq) = (request.session, row.try_get::<i64, _>("seq").ok());
                    tracing::error!(%session, seq, %error, "a message's row can't be read: it is skipped, and later messages to its recipient wait");
                }
            }
        }
    }
    Ok(candidates)
}

impl Candidate {
    /// What claiming needs of a row that can't be read whole: its sender then ends it, and says why.
    fn salvaged(row: &SqliteRow, why: &sqlx::Error) -> std::result::Result<Self, sqlx::Error> {
        let count = |column| row.try_get::<i64, _>(column).map_or(0, |n| n.clamp(0, i32::MAX.into())).try_into();
        Ok(Self {
            seq: row.try_get("seq")?,
            id: row.try_get("id")?,
            user_id: row.try_get("user_id")?,
            recipient: row.try_get("recipient")?,
            status: row.try_get("status")?,
            whatsapp_id: String::new(),
            kind: MessageType::Text as i16,
            content: String::new(),
            attempts: count("attempts").unwrap_or_default(),
            unknown_attempts: count("unknown_attempts").unwrap_or_default(),
            crashes: count("crashes").unwrap_or_default(),
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            request_id: row.try_get("request_id").unwrap_or_default(),
            quoted: None,
            unreadable: Some(format!("its row can't be read: {why}")),
        })
    }

    fn outgoing(self) -> Outgoing {
        let kind = MessageType::from_code(self.kind);
        let content = match kind {
            _ if self.unreadable.is_some() => Err(self.unreadable.unwrap_or_default()),
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
            attempt: self.attempts.max(0).saturating_add(1),
            unknown_attempts: self.unknown_attempts.max(0).saturating_add(1),
            crashes: self.crashes,
            created_at: self.created_at,
            expires_at: self.expires_at,
            request_id: self.request_id,
        }
    }
}
