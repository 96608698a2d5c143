//! Accepting: one statement, whatever the size of the batch.
//!
//! Quota first, keys last: the quota row's lock serialises a user, so that keys need no lock order of their own, a refused
//! item never writes its key, and `seq` is drawn in the order of commit. A concurrent twin shows as 23505 on the key.
//!
//! The files that messages name are locked before everything else: none goes while its message is accepted.
//!
//! Rows are looked up item by item (`LATERAL … OFFSET 0` can't be turned round): a planner that knows of an empty table would
//! read all of it first.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::FromRow;
use sqlx_postgres::PgConnection;
use uuid::Uuid;

use super::committer::{Committer, Statement};
use crate::group_commit::{Batches, Pending, survives};
use crate::ids::{MediaId, MessageId, UserId};
use crate::message::{NewMessage, Status};
use crate::ports::audit::AuditEntry;
use crate::ports::files::FILE_KEPT;
use crate::ports::store::{AcceptHook, AcceptOutcome, AcceptRequest, AcceptedJob, StoreError};
use crate::store::audit_json;
use crate::time::{Time, millis};
use crate::usage::Quota;

/// Items of one statement, at most.
pub(super) const BATCH_MAX: usize = 512;

/// One message of one request.
pub(super) struct Item {
    user: UserId,
    message: NewMessage,
    content: String,
    /// The file that it sends, of those that are kept.
    media: Option<MediaId>,
    key: Option<ItemKey>,
    /// Its line in the audit trail, as JSON.
    line: Option<String>,
}

struct ItemKey {
    key: String,
    hash: [u8; 32],
    item: i32,
}

pub(super) struct Accept;

/// What a user is granted of what is wanted: no more than the day's limit leaves, and than [`ACCEPTED_PER_UNIT`] times the limit
/// leaves of what may be accepted. No limit is `NULL`, which `LEAST` leaves out; 9·10^17 keeps the product within `bigint`.
///
/// [`ACCEPTED_PER_UNIT`]: crate::usage::ACCEPTED_PER_UNIT
macro_rules! granted {
    () => {
        "GREATEST(0, LEAST(excluded.want, excluded.lim - q.used, LEAST(excluded.lim, 900000000000000000) * 10 - q.accepted))"
    };
}

pub(super) const SQL: &str = concat!("
WITH item AS MATERIALIZED (
    SELECT i.*, u.max_messages_per_day AS lim, u.is_active AS active, s.id AS here
    FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::smallint[], $7::text[], $8::bigint[],
                $9::bigint[], $10::uuid[], $11::uuid[], $12::text[], $13::text[], $14::text[], $15::integer[],
                $16::bytea[], $17::uuid[], $19::text[]) WITH ORDINALITY
        AS i (id, u, s, recipient, whatsapp_id, type, content, send_at, expires_at, reply_to, replayed_from, reference,
              request_id, k, ki, h, media, line, n)
    LEFT JOIN users u ON u.id = i.u
    LEFT JOIN LATERAL (SELECT s.id, s.user_id, s.deleting_at FROM sessions s WHERE s.id = i.s OFFSET 0) s
        ON s.user_id = i.u AND s.deleting_at IS NULL
), head AS MATERIALIZED (
    SELECT i.n, k.hash = i.h AS same
    FROM item i CROSS JOIN LATERAL (
        SELECT k.hash FROM idempotency_keys k WHERE k.user_id = i.u AND k.key = i.k AND k.item = 0 OFFSET 0) k
), old AS MATERIALIZED (
    SELECT i.n, k.message_id AS id
    FROM item i CROSS JOIN LATERAL (
        SELECT k.hash, k.message_id FROM idempotency_keys k
        WHERE k.user_id = i.u AND k.key = i.k AND k.item = i.ki OFFSET 0) k
    WHERE k.hash = i.h AND k.message_id IS NOT NULL
), stored AS MATERIALIZED (
    SELECT i.n, m.created_at, m.user_id = i.u AND m.session_id = i.s AND m.request_id = i.request_id AS own
    FROM item i JOIN messages m ON m.id = i.id
), file AS MATERIALIZED (
    SELECT f.user_id, f.id
    FROM (SELECT DISTINCT i.media FROM item i WHERE i.media IS NOT NULL ORDER BY i.media) i
    CROSS JOIN LATERAL (
        SELECT m.user_id, m.id, m.gone FROM media m WHERE m.id = i.media OFFSET 0 FOR NO KEY UPDATE) f
    WHERE NOT f.gone
), live AS MATERIALIZED (
    SELECT i.*, row_number() OVER (PARTITION BY i.u ORDER BY i.n) AS rn
    FROM item i
    WHERE i.active AND i.here IS NOT NULL
      AND i.n NOT IN (SELECT n FROM head WHERE NOT same)
      AND i.n NOT IN (SELECT n FROM old)
      AND i.n NOT IN (SELECT n FROM stored)
      AND (i.media IS NULL OR (i.u, i.media) IN (SELECT user_id, id FROM file))
), q AS (
    INSERT INTO quotas AS q (user_id, day, want, lim, used, accepted, granted)
    SELECT w.u, now_ms() / 86400000, w.c, w.lim, LEAST(w.c, w.lim), LEAST(w.c, w.lim), LEAST(w.c, w.lim)
    FROM (SELECT u, lim, count(*) AS c FROM live GROUP BY u, lim) w
    ORDER BY w.u
    ON CONFLICT (user_id, day) DO UPDATE SET
        want = excluded.want,
        lim = excluded.lim,
        granted = ", granted!(), ",
        used = q.used + ", granted!(), ",
        accepted = q.accepted + ", granted!(), "
    RETURNING user_id, granted, used, accepted, lim
), granted AS MATERIALIZED (
    SELECT l.* FROM live l JOIN q ON q.user_id = l.u AND l.rn <= q.granted
), message AS (
    INSERT INTO messages (id, user_id, session_id, created_at, updated_at, quota_day, expires_at, due_at, send_at,
                          reply_to, replayed_from, media_id, status, type, open, recipient, whatsapp_id, reference,
                          request_id, content)
    SELECT g.id, g.u, g.s, now_ms(), now_ms(), now_ms() / 86400000,
           COALESCE(g.expires_at, COALESCE(g.send_at, now_ms()) + 86400000), g.send_at, g.send_at,
           g.reply_to, g.replayed_from, g.media, CASE WHEN g.send_at IS NULL THEN 1 ELSE 0 END, g.type, g.send_at IS NULL,
           g.recipient, g.whatsapp_id, g.reference, g.request_id, g.content
    FROM granted g
    ORDER BY g.n
), needed AS MATERIALIZED (
    SELECT g.media, max(COALESCE(g.expires_at, COALESCE(g.send_at, now_ms()) + 86400000)) + $18 AS until
    FROM granted g WHERE g.media IS NOT NULL GROUP BY g.media
), kept AS (
    UPDATE media f SET keep_until = GREATEST(f.keep_until, (SELECT n.until FROM needed n WHERE n.media = f.id))
    WHERE f.id = ANY(ARRAY(SELECT media FROM needed))
), audited AS (
    ", insert_audit!("(SELECT CAST(g.line AS json) AS value FROM granted g WHERE g.line IS NOT NULL ORDER BY g.n) g"), "
), key_heads AS (
    INSERT INTO idempotency_keys (user_id, key, item, hash, message_id, created_at)
    SELECT DISTINCT ON (g.u, g.k) g.u, g.k, 0, g.h, CASE WHEN g.ki = 0 THEN g.id END, now_ms()
    FROM granted g
    WHERE g.k IS NOT NULL AND g.n NOT IN (SELECT n FROM head)
    ORDER BY g.u, g.k
), key_items AS (
    INSERT INTO idempotency_keys (user_id, key, item, hash, message_id, created_at)
    SELECT g.u, g.k, g.ki, g.h, g.id, now_ms()
    FROM granted g
    WHERE g.k IS NOT NULL AND g.ki > 0
    ORDER BY g.u, g.k, g.ki
)
SELECT 0 AS what, 0::bigint AS n, now_ms() AS a, NULL::bigint AS b, NULL::bigint AS c, NULL::uuid AS id
UNION ALL SELECT 1, n, NULL, NULL, NULL, NULL FROM granted
UNION ALL SELECT 2, n, created_at, NULL, NULL, NULL FROM stored WHERE own
UNION ALL SELECT 3, n, NULL, NULL, NULL, id FROM old
UNION ALL SELECT 4, n, NULL, NULL, NULL, NULL FROM head WHERE NOT same
UNION ALL SELECT 5, n, NULL, NULL, NULL, NULL FROM item WHERE active IS NOT true
UNION ALL SELECT 6, n, NULL, NULL, NULL, NULL FROM item WHERE active AND here IS NULL
UNION ALL SELECT 7, user_id, used, accepted, lim, NULL FROM q
UNION ALL SELECT 8, n, NULL, NULL, NULL, NULL FROM item
    WHERE active AND here IS NOT NULL AND media IS NOT NULL AND (u, media) NOT IN (SELECT user_id, id FROM file)
UNION ALL SELECT 9, n, NULL, NULL, NULL, NULL FROM stored WHERE NOT own");

#[derive(FromRow)]
struct Row {
    what: i32,
    n: i64,
    a: Option<i64>,
    b: Option<i64>,
    c: Option<i64>,
    id: Option<Uuid>,
}

impl Statement for Accept {
    type Item = Item;
    type Answer = AcceptOutcome;

    async fn run(
        &self,
        connection: &mut PgConnection,
        items: &[&Item],
    ) -> Result<Vec<Result<AcceptOutcome, StoreError>>, sqlx::Error> {
        fn column<'a, T>(items: &[&'a Item], value: impl Fn(&'a Item) -> T) -> Vec<T> {
            items.iter().map(|item| value(item)).collect()
        }
        let rows: Vec<Row> = sqlx::query_as(SQL)
            .bind(column(items, |i| i.message.id.0))
            .bind(column(items, |i| i.user.0))
            .bind(column(items, |i| i.message.session.0))
            .bind(column(items, |i| i.message.recipient.as_str()))
            .bind(column(items, |i| i.message.whatsapp_id.as_str()))
            .bind(column(items, |i| i.message.kind as i16))
            .bind(column(items, |i| i.content.as_str()))
            .bind(column(items, |i| i.message.send_at.map(|t| t.0)))
            .bind(column(items, |i| i.message.expires_at.map(|t| t.0)))
            .bind(column(items, |i| i.message.reply_to.map(|id| id.0)))
            .bind(column(items, |i| i.message.replayed_from.map(|id| id.0)))
            .bind(column(items, |i| i.message.reference.as_deref()))
            .bind(column(items, |i| i.message.request_id.as_str()))
            .bind(column(items, |i| i.key.as_ref().map(|k| k.key.as_str())))
            .bind(column(items, |i| i.key.as_ref().map(|k| k.item)))
            .bind(column(items, |i| i.key.as_ref().map(|k| k.hash.as_slice())))
            .bind(column(items, |i| i.media.map(|id| id.0)))
            .bind(millis(FILE_KEPT))
            .bind(column(items, |i| i.line.as_deref()))
            .fetch_all(connection)
            .await?;
        Ok(outcomes(items, &rows))
    }

    fn invalid(&self, reason: String) -> Result<AcceptOutcome, StoreError> {
        Ok(AcceptOutcome::Invalid(reason))
    }
}

fn outcomes(items: &[&Item], rows: &[Row]) -> Vec<Result<AcceptOutcome, StoreError>> {
    let at = |row: &Row| usize::try_from(row.n - 1).unwrap_or(usize::MAX);
    let now = Time(rows.iter().find(|row| row.what == 0).and_then(|row| row.a).unwrap_or_default());
    let mut outcomes: Vec<Option<AcceptOutcome>> = vec![None; items.len()];
    let mut quotas = HashMap::new();
    let mut taken = HashSet::new();
    for row in rows {
        let outcome = match row.what {
            1 => AcceptOutcome::Accepted { created_at: now },
            2 => AcceptOutcome::Accepted { created_at: Time(row.a.unwrap_or_default()) },
            3 => AcceptOutcome::Replayed(MessageId(row.id.unwrap_or_default())),
            4 => AcceptOutcome::KeyReused,
            5 => AcceptOutcome::UserInactive,
            6 => AcceptOutcome::SessionGone,
            7 => {
                let (used, accepted) = (row.a.unwrap_or_default(), row.b.unwrap_or_default());
                quotas.insert(row.n, Quota::new(row.c, used, accepted, now.day()));
                continue;
            }
            8 => AcceptOutcome::FileGone,
            9 => {
                taken.insert(at(row));
                continue;
            }
            _ => continue,
        };
        let at = at(row);
        if let Some(slot) = outcomes.get_mut(at) {
            // What was stored or remembered before counts more than what its user or session has become since.
            let known = matches!(
                slot,
                Some(AcceptOutcome::Accepted { .. } | AcceptOutcome::Replayed(_) | AcceptOutcome::KeyReused)
            );
            if !known || matches!(outcome, AcceptOutcome::Accepted { .. }) {
                *slot = Some(outcome);
            }
        }
    }
    let refused = |item: &Item| {
        quotas
            .get(&item.user.0)
            .map(|quota| AcceptOutcome::QuotaExceeded(*quota))
            .ok_or_else(|| StoreError::Internal("an item was neither accepted nor refused".to_owned()))
    };
    let answer = |(at, (item, outcome)): (usize, (&&Item, Option<AcceptOutcome>))| match outcome {
        _ if taken.contains(&at) => Err(StoreError::Internal("another request's message has this id".to_owned())),
        Some(outcome) => Ok(outcome),
        None => refused(item),
    };
    items.iter().zip(outcomes).enumerate().map(answer).collect()
}

/// Commits what is gathered until all callers are gone. Each process has two of these: while one waits for the disk, the
/// other gathers.
pub(super) async fn serve(
    mut batches: Batches<AcceptRequest, Vec<AcceptOutcome>>,
    mut committer: Committer<Accept>,
    on_accept: AcceptHook,
) {
    while let Some(batch) = batches.next(together()).await {
        if !survives(commit_batch(batch, &mut committer, &on_accept)).await {
            committer.reconnect();
        }
    }
    committer.close().await;
}

/// Twins of one key are folded by waiting for the next batch, where the first one's row is found.
fn together() -> impl FnMut(&AcceptRequest) -> bool + Send {
    let mut keys = HashSet::new();
    move |request| request.key.as_ref().is_none_or(|key| keys.insert((request.user, key.key.clone())))
}

async fn commit_batch(
    batch: Vec<Pending<AcceptRequest, Vec<AcceptOutcome>>>,
    committer: &mut Committer<Accept>,
    on_accept: &AcceptHook,
) {
    let mut items = Vec::new();
    let mut callers = Vec::with_capacity(batch.len());
    for pending in batch {
        let (request, answer) = pending.into_parts();
        callers.push((request.items.len(), answer));
        let AcceptRequest { user, key, items: messages, by } = request;
        items.extend(messages.into_iter().map(|(position, message)| {
            let content = serde_json::to_string(&message.content).unwrap_or_else(|_| "{}".to_owned());
            let key = key.as_ref().map(|key| ItemKey {
                key: key.key.clone(),
                hash: key.hash,
                item: if key.batch { i32::try_from(position + 1).unwrap_or(i32::MAX) } else { 0 },
            });
            let media = message.content.media.as_ref().and_then(|media| media.id);
            let line = AuditEntry::accepted(by, user, &message).map(|entry| audit_json(&entry).to_string());
            Item { user, message, content, media, key, line }
        }));
    }
    metrics::histogram!("sanasr_accept_batch_size").record(u32::try_from(items.len()).unwrap_or(u32::MAX));
    let items: Vec<&Item> = items.iter().collect();
    let mut outcomes = Vec::with_capacity(items.len());
    for part in items.chunks(BATCH_MAX) {
        let answers = committer.run(part).await;
        let jobs: Vec<AcceptedJob> = part.iter().zip(&answers).filter_map(|(item, answer)| job(item, answer)).collect();
        if !jobs.is_empty() {
            on_accept(&jobs);
        }
        outcomes.extend(answers);
    }
    let mut outcomes = outcomes.into_iter();
    for (count, answer) in callers {
        answer.send(whole(outcomes.by_ref().take(count).collect()));
    }
}

/// A request's answer. If a part of it was stored and another part failed, only repeating it can tell: saying "nothing was
/// accepted" would be a lie.
fn whole(outcomes: Vec<Result<AcceptOutcome, StoreError>>) -> Result<Vec<AcceptOutcome>, StoreError> {
    let stored = outcomes.iter().any(|outcome| matches!(outcome, Ok(AcceptOutcome::Accepted { .. })));
    outcomes.into_iter().collect::<Result<_, _>>().map_err(|error| match error {
        StoreError::Unavailable(text) if stored => StoreError::OutcomeUnknown(text),
        other => other,
    })
}

fn job(item: &Item, answer: &Result<AcceptOutcome, StoreError>) -> Option<AcceptedJob> {
    let Ok(AcceptOutcome::Accepted { created_at }) = answer else { return None };
    (item.message.initial_status() == Status::Accepted).then(|| AcceptedJob {
        message: item.message.id,
        session: item.message.session,
        life: item.message.expires_at(*created_at).since(*created_at).max(Duration::from_millis(1)),
        request_id: item.message.request_id.clone(),
    })
}
