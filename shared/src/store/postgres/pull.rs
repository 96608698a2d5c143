//! The pull: the one way from the store to a bridge, for many sessions in one statement.
//!
//! It looks first, and locks only if there is something to claim: a look that finds nothing writes nothing and waits for no
//! disk. The worker's row and then the sessions' rows are locked FOR KEY SHARE: whoever declares the worker dead, or gives a
//! session back, locks them FOR UPDATE, so that the claim sees either its right or nothing.

use std::collections::{HashMap, HashSet};

use sqlx::FromRow;
use sqlx_postgres::PgConnection;
use uuid::Uuid;

use super::committer::Statement;
use crate::ids::MessageId;
use crate::message::MessageType;
use crate::ports::store::{Outgoing, PullRequest, Pulled, StoreError};
use crate::recipient::Recipient;
use crate::time::Time;

pub(super) struct Pull;

/// Whether `m` may be claimed by the worker `$1` under `r.claim`, if it is the head of its recipient's queue.
macro_rules! claimable {
    () => {
        "((m.status = 1 OR (m.claimed_by = $1 AND m.claim = r.claim AND m.due_at IS NOT NULL))
                  AND COALESCE(m.due_at, 0) <= now_ms() AND m.expires_at > now_ms()
               OR m.status = 2 AND (m.claimed_by, m.claim) IS DISTINCT FROM ($1, r.claim))"
    };
}

/// The head of a recipient's queue is found by a scalar subquery, an index probe per row examined: an anti-join would be
/// free to read all that is held up. BETWEEN leaves only the index by recipient in question, whatever the statistics say, and
/// LATERAL with OFFSET 0 can't be turned round.
///
/// Its cost grows with the sessions and the places together, not with their product: what a session's look found stays an
/// array in that session's row, and no intermediate result is joined with another by reading it once for each session.
pub(super) const SQL: &str = concat!(
    "
WITH want AS MATERIALIZED (
    SELECT * FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[])
        AS w (s, claim, from_seq, low, places, scan, freed)
), alive AS MATERIALIZED (
    SELECT id FROM workers WHERE id = $1
), ready AS MATERIALIZED (
    SELECT w.*
    FROM alive CROSS JOIN want w
    CROSS JOIN LATERAL (SELECT * FROM sessions s WHERE s.id = w.s OFFSET 0) s
    WHERE s.owner = $1 AND s.status = 3 AND NOT s.paused AND s.deleting_at IS NULL
      AND (SELECT u.is_active FROM users u WHERE u.id = s.user_id)
), look AS MATERIALIZED (
    SELECT r.*, c.ids, cardinality(c.ids)::bigint AS found, c.last
    FROM ready r CROSS JOIN LATERAL (
        SELECT COALESCE(array_agg(p.id), '{}') AS ids, max(p.seq) AS last
        FROM (
            SELECT u.id, u.seq
            FROM (
                (SELECT m.id, m.seq
                 FROM (
                     SELECT m.id, m.seq, m.recipient, m.status, m.due_at, m.expires_at, m.claimed_by, m.claim
                     FROM messages m
                     WHERE m.session_id = r.s AND m.open AND m.seq >= r.from_seq
                     ORDER BY m.seq
                     LIMIT r.scan
                 ) m
                 WHERE ",
    claimable!(),
    "
                   AND m.seq = (SELECT e.seq FROM messages e
                                WHERE e.session_id = r.s AND e.recipient BETWEEN m.recipient AND m.recipient AND e.open
                                  AND e.seq >= r.low
                                ORDER BY e.recipient, e.seq LIMIT 1)
                 ORDER BY m.seq
                 LIMIT r.places)
                UNION
                (SELECT m.id, m.seq
                 FROM unnest(string_to_array(r.freed, E'\n')) AS f (recipient) CROSS JOIN LATERAL (
                     SELECT m.id, m.seq, m.status, m.due_at, m.expires_at, m.claimed_by, m.claim
                     FROM messages m
                     WHERE m.session_id = r.s AND m.recipient BETWEEN f.recipient AND f.recipient AND m.open
                       AND m.seq >= r.low
                     ORDER BY m.recipient, m.seq LIMIT 1
                 ) m
                 WHERE ",
    claimable!(),
    ")
            ) u
            ORDER BY u.seq
            LIMIT r.places
        ) p
    ) c
), seen AS MATERIALIZED (
    SELECT l.s, l.from_seq, l.places, l.scan, l.found, l.last, t.rows, t.first, t.last AS scanned, t.next_due, t.waiting
    FROM look l
    CROSS JOIN LATERAL (
        SELECT count(*) AS rows, min(m.seq) AS first, max(m.seq) AS last,
               min(m.due_at) FILTER (WHERE m.due_at > now_ms()) AS next_due,
               max(m.seq) FILTER (WHERE m.id <> ALL (l.ids)
                                    AND (m.status = 1 OR m.due_at IS NOT NULL
                                         OR (m.claimed_by, m.claim) IS DISTINCT FROM ($1, l.claim))) AS waiting
        FROM (
            SELECT m.id, m.seq, m.status, m.due_at, m.claimed_by, m.claim
            FROM messages m
            WHERE m.session_id = l.s AND m.open AND m.seq >= l.from_seq
              AND m.seq <= CASE WHEN l.found < l.places THEN 9223372036854775807 ELSE l.last END
            ORDER BY m.seq
            LIMIT l.scan
        ) m
    ) t
), worker AS MATERIALIZED (
    SELECT id FROM workers WHERE id = $1 AND EXISTS (SELECT 1 FROM look WHERE found > 0) FOR KEY SHARE
), own AS MATERIALIZED (
    SELECT s.id, l.claim, l.ids
    FROM worker CROSS JOIN (SELECT l.s, l.claim, l.ids FROM look l WHERE l.found > 0 ORDER BY l.s) l
    CROSS JOIN LATERAL (SELECT * FROM sessions s WHERE s.id = l.s OFFSET 0 FOR KEY SHARE) s
    WHERE s.owner = $1 AND s.status = 3 AND NOT s.paused AND s.deleting_at IS NULL
), locked AS MATERIALIZED (
    SELECT m.id, i.claim, m.status AS was
    FROM (SELECT unnest(o.ids) AS id, o.claim FROM own o) i JOIN messages m ON m.id = i.id
    WHERE m.status = 1 AND COALESCE(m.due_at, 0) <= now_ms()
       OR m.status = 2 AND (m.due_at IS NOT NULL OR (m.claimed_by, m.claim) IS DISTINCT FROM ($1, i.claim))
    ORDER BY m.id
    FOR NO KEY UPDATE OF m
), claimed AS (
    UPDATE messages m
    SET status = 2, claimed_by = $1, claim = l.claim, attempts = LEAST(m.attempts, 2147483646) + 1,
        unknown_attempts = LEAST(m.unknown_attempts, 2147483646) + 1, due_at = NULL, hold = 0, updated_at = now_ms()
    FROM locked l
    WHERE m.id = l.id AND m.status IN (1, 2)
    RETURNING m.*, l.was
), event AS (
    INSERT INTO events (at, user_id, session_id, message_id, status)
    SELECT now_ms(), user_id, session_id, id, 2 FROM claimed WHERE was = 1
)
SELECT now_ms() AS now, s.s AS session, s.found, s.last, s.rows, s.first, s.scanned, s.next_due, s.waiting, s.from_seq,
       s.places, s.scan,
       NULL::uuid AS id, NULL::bigint AS seq, NULL::text AS recipient, NULL::text AS whatsapp_id, NULL::smallint AS kind,
       NULL::text AS content, NULL::integer AS attempts, NULL::integer AS unknown_attempts, NULL::integer AS crashes,
       NULL::bigint AS created_at, NULL::bigint AS expires_at, NULL::text AS request_id, NULL::text AS quoted
FROM alive
LEFT JOIN seen s ON s.found = 0 OR s.s IN (SELECT o.id FROM own o)
WHERE EXISTS (SELECT 1 FROM worker) OR NOT EXISTS (SELECT 1 FROM look WHERE found > 0)
UNION ALL
SELECT now_ms(), c.session_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       c.id, c.seq, c.recipient, c.whatsapp_id, c.type, c.content, c.attempts, c.unknown_attempts, c.crashes,
       c.created_at, c.expires_at, c.request_id,
       (SELECT q.whatsapp_id FROM messages q WHERE q.id = c.reply_to)
FROM claimed c"
);

#[derive(FromRow)]
struct Row {
    now: i64,
    session: Option<Uuid>,
    found: Option<i64>,
    last: Option<i64>,
    rows: Option<i64>,
    scanned: Option<i64>,
    next_due: Option<i64>,
    waiting: Option<i64>,
    first: Option<i64>,
    from_seq: Option<i64>,
    places: Option<i64>,
    scan: Option<i64>,
    id: Option<MessageId>,
    seq: Option<i64>,
    recipient: Option<Recipient>,
    whatsapp_id: Option<String>,
    kind: Option<i16>,
    content: Option<String>,
    attempts: Option<i32>,
    unknown_attempts: Option<i32>,
    crashes: Option<i32>,
    created_at: Option<i64>,
    expires_at: Option<i64>,
    request_id: Option<String>,
    quoted: Option<String>,
}

impl Row {
    fn outgoing(self) -> Option<Outgoing> {
        let kind = MessageType::from_code(self.kind?);
        let content = match kind {
            Some(_) => serde_json::from_str(&self.content?).map_err(|e| format!("content: {e}")),
            None => Err("an unknown type".to_owned()),
        };
        Some(Outgoing {
            id: self.id?,
            seq: self.seq?,
            recipient: self.recipient?,
            whatsapp_id: self.whatsapp_id?,
            kind: kind.unwrap_or(MessageType::Text),
            content,
            quoted: self.quoted,
            attempt: self.attempts?,
            unknown_attempts: self.unknown_attempts?,
            crashes: self.crashes?,
            created_at: Time(self.created_at?),
            expires_at: Time(self.expires_at?),
            request_id: self.request_id?,
        })
    }

    /// Where to go on, if the look ended before the session's last row.
    fn next_seq(&self) -> Option<i64> {
        let from_seq = self.from_seq?;
        if self.rows? >= self.scan? {
            return Some(self.scanned.map_or(from_seq, |scanned| scanned + 1));
        }
        (self.found? >= self.places?).then(|| self.last.map_or(from_seq, |last| from_seq.max(last + 1)))
    }
}

impl Statement for Pull {
    type Item = PullRequest;
    type Answer = Pulled;

    async fn run(
        &self,
        connection: &mut PgConnection,
        items: &[&PullRequest],
    ) -> Result<Vec<Result<Pulled, StoreError>>, sqlx::Error> {
        let Some(worker) = items.first().map(|item| item.worker) else { return Ok(Vec::new()) };
        fn column<'a, T>(items: &[&'a PullRequest], value: impl Fn(&'a PullRequest) -> T) -> Vec<T> {
            items.iter().map(|item| value(item)).collect()
        }
        // A recipient holds no line break; no text at all stands for no recipient.
        let freed = |item: &PullRequest| {
            let recipients: Vec<&str> = item.recipients.iter().map(Recipient::as_str).collect();
            (!recipients.is_empty()).then(|| recipients.join("\n"))
        };
        let rows: Vec<Row> = sqlx::query_as(SQL)
            .bind(worker)
            .bind(column(items, |i| i.session.0))
            .bind(column(items, |i| i.claim))
            .bind(column(items, |i| i.from_seq))
            .bind(column(items, |i| i.low))
            .bind(column(items, |i| i64::from(i.places)))
            .bind(column(items, |i| i64::from(i.scan)))
            .bind(column(items, freed))
            .fetch_all(connection)
            .await?;
        Ok(answers(items, rows))
    }
}

fn answers(items: &[&PullRequest], mut rows: Vec<Row>) -> Vec<Result<Pulled, StoreError>> {
    let Some(now) = rows.first().map(|row| Time(row.now)) else {
        return items.iter().map(|_| Err(StoreError::Fenced)).collect();
    };
    // What was seen of a session before what was claimed of it.
    rows.sort_by_key(|row| row.id.is_some());
    let mut sessions: HashMap<Uuid, Pulled> = HashMap::new();
    for row in rows {
        let Some(session) = row.session else { continue };
        if row.id.is_none() {
            let seen = Pulled {
                messages: Vec::new(),
                next_seq: row.next_seq(),
                first_seq: row.first,
                next_due: row.next_due.map(Time),
                waiting: row.waiting,
                now,
                ready: true,
            };
            sessions.insert(session, seen);
        } else if let Some(pulled) = sessions.get_mut(&session) {
            pulled.messages.extend(row.outgoing());
        }
    }
    let answer = |item: &&PullRequest| {
        let mut pulled = sessions.remove(&item.session.0).unwrap_or(Pulled { now, ..Pulled::default() });
        pulled.messages.sort_by_key(|message| message.seq);
        Ok(pulled)
    };
    items.iter().map(answer).collect()
}

/// One statement speaks for one worker, and once for a session.
pub(super) fn together() -> impl FnMut(&PullRequest) -> bool + Send {
    let (mut worker, mut sessions) = (None, HashSet::new());
    move |pull| *worker.get_or_insert(pull.worker) == pull.worker && sessions.insert(pull.session)
}
