//! Messages, quota and usage as their senders see them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::rows::{MessageRow, corrupt};
use super::scan::Scan;
use super::{Backend, Connection, audit, dialect, event, failed};
use crate::ids::{MessageId, SessionId, UserId};
use crate::message::{Message, Status};
use crate::ports::audit::{Action, Actor, AuditEntry, Target};
use crate::ports::store::{
    AcceptOutcome, AcceptRequest, Accepting, Awaiting, Backlog, LIST_SCAN_MAX, MessageFilter, Messages, Moved, Page,
    Result, Scope,
};
use crate::recipient::Recipient;
use crate::time::{DAY_MS, Day, Time};
use crate::usage::{Quota, UsageStats};

#[async_trait]
impl Accepting for Backend {
    async fn accept(&self, request: AcceptRequest) -> Result<Vec<AcceptOutcome>> {
        if request.items.is_empty() {
            return Ok(Vec::new());
        }
        let weight = request.items.len();
        self.groups.accept.offer(request, weight).await
    }

    async fn replay(&self, user: UserId, key: &str) -> Result<Option<(Vec<u8>, Vec<(u32, MessageId)>)>> {
        let key = key.to_owned();
        lookup!(self, |c| replay(c, user, &key))
    }

    async fn backlog(&self) -> Result<Backlog> {
        lookup!(self, |c| backlog(c))
    }
}

#[async_trait]
impl Messages for Backend {
    async fn message(&self, scope: Scope, id: MessageId) -> Result<Option<Message>> {
        read!(self, |c| message(c, scope, id))
    }

    async fn messages(&self, scope: Scope, ids: &[MessageId]) -> Result<Vec<Message>> {
        let ids = ids.to_owned();
        read!(self, |c| messages(c, scope, &ids))
    }

    async fn list_messages(
        &self,
        scope: Scope,
        filter: &MessageFilter,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<Page<Message>> {
        let filter = filter.clone();
        read!(self, |c| page(c, scope, &filter, after, limit))
    }

    async fn cancel(&self, scope: Scope, id: MessageId, by: Actor) -> Result<Moved<Message>> {
        change!(self, |c| cancel(c, scope, id, by))
    }

    async fn quota(&self, user: UserId) -> Result<Option<Quota>> {
        read!(self, |c| quota(c, user))
    }

    async fn usage_days(&self, user: UserId, from: Day, until: Day) -> Result<Vec<UsageStats>> {
        read!(self, |c| usage_days(c, user, from, until))
    }

    async fn count_requests(&self, shard: i64, requests: &[(UserId, i64)]) -> Result<()> {
        let mut counts = BTreeMap::<UserId, i64>::new();
        for (user, count) in requests {
            *counts.entry(*user).or_default() += count;
        }
        change!(self, |c, now| dialect::count_requests(c, now, shard, &counts))
    }
}

/// What a message waits for, the first that applies; the numbers are those of `rows::blocked_by`. What is under way
/// waits for nothing. A session that is gone or going isn't connected.
macro_rules! blocked_by {
    () => {
        concat!(
            "CASE WHEN m.status > 2 OR (m.status = 2 AND m.due_at IS NULL) THEN NULL
                WHEN m.status = 0 THEN 0
                WHEN u.is_active IS NOT TRUE THEN 1
                WHEN s.paused THEN 2
                WHEN s.id IS NULL OR s.status <> 3 OR s.deleting_at IS NOT NULL THEN 3
                WHEN EXISTS (SELECT 1 FROM messages e WHERE e.session_id = m.session_id AND e.recipient = m.recipient
                    AND e.open AND e.seq < m.seq) THEN 4
                WHEN m.due_at > ",
            now_ms!(),
            " THEN CASE m.hold WHEN 2 THEN 5 WHEN 3 THEN 7 ELSE 6 END
                WHEN s.paced_until > ",
            now_ms!(),
            " THEN 7 END"
        )
    };
}

macro_rules! select_messages {
    ($condition:expr) => {
        concat!(
            "SELECT m.id, m.user_id, COALESCE(s.name, '') AS session, CAST(COALESCE(s.bridge, 0) AS smallint) AS bridge,
                m.recipient, m.type AS kind, m.content, m.reply_to, m.status, m.error, m.reference, m.attempts,
                m.whatsapp_id, m.replayed_from, m.created_at, m.send_at, m.expires_at, m.sent_at, m.delivered_at,
                m.read_at, m.updated_at, ",
            blocked_by!(),
            " AS blocked_by
            FROM messages m LEFT JOIN sessions s ON s.id = m.session_id LEFT JOIN users u ON u.id = m.user_id
            WHERE ",
            $condition,
            " AND ($2 IS NULL OR m.user_id = $2)"
        )
    };
}

pub(super) use {blocked_by, select_messages};

/// One message.
pub(crate) async fn message(conn: &mut Connection, scope: Scope, id: MessageId) -> Result<Option<Message>> {
    let row: Option<MessageRow> = sqlx::query_as(select_messages!("m.id = $1"))
        .bind(id)
        .bind(scope.user())
        .fetch_optional(conn)
        .await
        .map_err(failed)?;
    row.map(Message::try_from).transpose()
}

/// Several messages, in no particular order.
pub(crate) async fn messages(conn: &mut Connection, scope: Scope, ids: &[MessageId]) -> Result<Vec<Message>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<MessageRow> = sqlx::query_as(select_messages!(concat!("m.id ", among!("$1"))))
        .bind(dialect::ids(ids.iter().map(|id| id.0)))
        .bind(scope.user())
        .fetch_all(conn)
        .await
        .map_err(failed)?;
    rows.into_iter().map(Message::try_from).collect()
}

/// Ids in the order of a list, each with whether it is asked for. All three texts have the same parameters.
macro_rules! scan_messages {
    ($range:expr) => {
        concat!(
            "SELECT m.id, (($4 IS NULL OR m.status = $4)
                AND ($5 IS NULL OR m.session_id IN (SELECT s.id FROM sessions s
                    WHERE s.name = $5 AND ($3 IS NULL OR s.user_id = $3)))
                AND ($6 IS NULL OR m.recipient = $6) AND ($7 IS NULL OR m.type = $7)
                AND ($8 IS NULL OR m.created_at >= $8) AND ($9 IS NULL OR m.created_at < $9)
                AND ($10 IS NULL OR m.reference = $10)) AS hit
            FROM messages m WHERE m.id < $1 AND m.id >= $2",
            $range,
            " ORDER BY m.id DESC LIMIT $11"
        )
    };
}
const SCAN_ALL: &str = scan_messages!("");
const SCAN_USER: &str = scan_messages!(" AND m.user_id = $3");
const SCAN_REFERENCE: &str = scan_messages!(" AND m.user_id = $3 AND m.reference = $10");

/// How far the time in a message's id, which the accepting process's clock gave, may be from `created_at`, which the
/// database's did: far more than clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_millis(DAY_MS.unsigned_abs());

/// A page of messages, newest first. Ids are looked through in steps.
pub(crate) async fn page(
    conn: &mut Connection,
    scope: Scope,
    filter: &MessageFilter,
    after: Option<MessageId>,
    limit: u32,
) -> Result<Page<Message>> {
    let text = match scope {
        Scope::All => SCAN_ALL,
        Scope::User(_) if filter.reference.is_some() => SCAN_REFERENCE,
        Scope::User(_) => SCAN_USER,
    };
    let unfiltered = *filter == MessageFilter::default();
    let lowest = filter.from.map_or(Uuid::nil(), |from| first_id_at(Time(from.0.saturating_sub(DAY_MS))));
    let highest = filter.until.map_or(Uuid::max(), |until| first_id_at(until.plus(CLOCKS_DIFFER)));
    let place = |(id, _): &(Uuid, bool)| *id;
    let mut scan = Scan::new(limit, after.map_or(highest, |after| after.0.min(highest)));
    while let Some(size) = scan.next_step() {
        let rows: Vec<(Uuid, bool)> = sqlx::query_as(text)
            .bind(scan.below)
            .bind(lowest)
            .bind(scope.user())
            .bind(filter.status.map(|s| s as i16))
            .bind(filter.session.as_deref())
            .bind(filter.to.as_ref())
            .bind(filter.kind.map(|k| k as i16))
            .bind(filter.from)
            .bind(filter.until)
            .bind(filter.reference.as_deref())
            .bind(size)
            .fetch_all(&mut *conn)
            .await
            .map_err(failed)?;
        scan.add(size, rows, place, |(_, hit)| unfiltered || *hit);
    }
    let Page { items, next } = scan.page(place);
    let hits: Vec<MessageId> = items.into_iter().map(|(id, _)| MessageId(id)).collect();
    let mut found: HashMap<MessageId, Message> =
        messages(conn, scope, &hits).await?.into_iter().map(|m| (m.id, m)).collect();
    Ok(Page { items: hits.iter().filter_map(|id| found.remove(id)).collect(), next })
}

/// The lowest UUIDv7 of a time.
pub(crate) fn first_id_at(time: Time) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(time.0).unwrap_or(0), &[0; 10]).into_uuid()
}

/// Cancels a message that can't have been sent and gives its unit back: `Cancelled` from its origins, `scheduled` and
/// `accepted`.
const CANCEL: &str = concat!(
    "UPDATE messages SET status = 8, open = false, due_at = NULL, hold = 0, refunded = true, updated_at = ",
    now_ms!(),
    " WHERE id = $1 AND ($2 IS NULL OR user_id = $2) AND status IN (0, 1) AND unknown_attempts = 0
    RETURNING user_id, session_id, quota_day"
);

/// Cancels a message. Within a transaction.
pub(crate) async fn cancel(conn: &mut Connection, scope: Scope, id: MessageId, by: Actor) -> Result<Moved<Message>> {
    let cancelled: Option<(UserId, SessionId, Day)> =
        sqlx::query_as(CANCEL).bind(id).bind(scope.user()).fetch_optional(&mut *conn).await.map_err(failed)?;
    if let Some((user, session, day)) = cancelled {
        refund(conn, user, day).await?;
        event(conn, user, session, Some(id), Status::Cancelled as i16).await?;
        audit::note(conn, AuditEntry::on_behalf(by, user, Action::MessageCancelled, Target::Message(id))).await?;
    }
    Ok(match message(conn, scope, id).await? {
        Some(message) if cancelled.is_some() => Moved::Done(message),
        Some(message) => Moved::Refused(message),
        None => Moved::Absent,
    })
}

/// Gives one unit back to the day that it was taken from.
async fn refund(conn: &mut Connection, user: UserId, day: Day) -> Result<()> {
    sqlx::query(concat!("UPDATE quotas SET ", give_back!("quotas", "1"), " WHERE user_id = $1 AND day = $2"))
        .bind(user)
        .bind(day)
        .execute(conn)
        .await
        .map_err(failed)?;
    Ok(())
}

/// The hash under a key's item 0, and its messages by item.
pub(crate) async fn replay(
    conn: &mut Connection,
    user: UserId,
    key: &str,
) -> Result<Option<(Vec<u8>, Vec<(u32, MessageId)>)>> {
    let rows: Vec<(i32, Vec<u8>, Option<MessageId>)> = sqlx::query_as(
        "SELECT item, hash, message_id FROM idempotency_keys WHERE user_id = $1 AND key = $2 ORDER BY item",
    )
    .bind(user)
    .bind(key)
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    let Some((_, hash, _)) = rows.first() else { return Ok(None) };
    let hash = hash.clone();
    let items = rows
        .into_iter()
        .filter_map(|(item, _, message)| message.map(|message| (item, message)))
        .map(|(item, message)| match u32::try_from(item) {
            Ok(item) => Ok((item, message)),
            Err(_) => Err(corrupt("idempotency_keys.item", message, item)),
        })
        .collect::<Result<_>>()?;
    Ok(Some((hash, items)))
}

/// What waits, as last counted into the sessions' rows.
pub(crate) async fn backlog(conn: &mut Connection) -> Result<Backlog> {
    let rows: Vec<(UserId, i64)> = sqlx::query_as(
        "SELECT user_id, CAST(SUM(queued) AS bigint) AS queued FROM sessions WHERE queued > 0 GROUP BY user_id",
    )
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    Ok(Backlog { total: rows.iter().map(|(_, n)| n).sum(), by_user: rows.into_iter().collect() })
}

/// A user's quota today.
pub(crate) async fn quota(conn: &mut Connection, user: UserId) -> Result<Option<Quota>> {
    let row: Option<(Option<i64>, i64, i64, Day)> = sqlx::query_as(concat!(
        "SELECT u.max_messages_per_day, COALESCE(q.used, 0) AS used, COALESCE(q.accepted, 0) AS accepted, t.today
        FROM users u CROSS JOIN (SELECT ",
        now_ms!(),
        " / 86400000 AS today) t LEFT JOIN quotas q ON q.user_id = u.id AND q.day = t.today WHERE u.id = $1"
    ))
    .bind(user)
    .fetch_optional(conn)
    .await
    .map_err(failed)?;
    Ok(row.map(|(limit, used, accepted, today)| Quota::new(limit, used, accepted, today)))
}

/// A user's stats of the days `from..until`, newest first.
pub(crate) async fn usage_days(conn: &mut Connection, user: UserId, from: Day, until: Day) -> Result<Vec<UsageStats>> {
    sqlx::query_as(
        "SELECT x.user_id, x.day, CAST(SUM(x.accepted) AS bigint) AS messages_accepted,
            CAST(SUM(x.sent) AS bigint) AS messages_sent, CAST(SUM(x.failed) AS bigint) AS messages_failed,
            CAST(SUM(x.media_sent) AS bigint) AS media_sent, CAST(SUM(x.api_requests) AS bigint) AS api_requests
        FROM (SELECT user_id, day, accepted, 0 AS sent, 0 AS failed, 0 AS media_sent, 0 AS api_requests FROM quotas
                WHERE user_id = $1 AND day >= $2 AND day < $3
            UNION ALL SELECT user_id, day, 0, sent, failed, media_sent, api_requests FROM usage_stats
                WHERE user_id = $1 AND day >= $2 AND day < $3) x
        GROUP BY x.user_id, x.day ORDER BY x.day DESC",
    )
    .bind(user)
    .bind(from)
    .bind(until)
    .fetch_all(conn)
    .await
    .map_err(failed)
}

/// The newest messages of a session that may have been sent and aren't read, oldest first; looked for among the newest
/// [`LIST_SCAN_MAX`] of its user, as no index is worth having for this.
pub(crate) async fn awaiting_receipts(conn: &mut Connection, session: SessionId, limit: u32) -> Result<Vec<Awaiting>> {
    let mut rows: Vec<(Uuid, String, Recipient, i16, Time)> = sqlx::query_as(
        "SELECT m.id, m.whatsapp_id, m.recipient, m.status, m.expires_at
        FROM (SELECT id, session_id, whatsapp_id, recipient, status, unknown_attempts, expires_at FROM messages
            WHERE user_id = (SELECT user_id FROM sessions WHERE id = $1) ORDER BY id DESC LIMIT $3) m
        WHERE m.session_id = $1 AND (m.status IN (3, 4) OR (m.status IN (1, 2, 6) AND m.unknown_attempts > 0))
        ORDER BY m.id DESC LIMIT $2",
    )
    .bind(session)
    .bind(i64::from(limit))
    .bind(LIST_SCAN_MAX)
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    rows.reverse();
    rows.into_iter()
        .map(|(id, whatsapp_id, recipient, status, expires_at)| {
            let status = Status::from_code(status).ok_or_else(|| corrupt("messages.status", id, status))?;
            Ok(Awaiting { whatsapp_id, recipient, status, expires_at })
        })
        .collect()
}
