//! Events, the API log and usage by day, as they are read.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;

use super::rows::corrupt;
use super::scan::Scan;
use super::{Backend, Connection, dialect, failed, sessions};
use crate::ids::{ApiKeyId, FamilyId, MessageId, SessionId, UserId};
use crate::message::Status;
use crate::ports::journal::{ApiLog, ApiLogFilter, Change, Event, Journal, LogPlace, Newest, UsageFilter, UsagePlace};
use crate::ports::store::{Page, Result, Scope, StoreError};
use crate::session::{Session, SessionStatus};
use crate::time::{Day, Time};
use crate::usage::UsageStats;

#[async_trait]
impl Journal for Backend {
    async fn newest_events(&self) -> Result<Newest> {
        read!(self, |c| newest_events(c))
    }

    async fn events_after(&self, scope: Scope, n: i64, limit: u32) -> Result<Vec<Event>> {
        read!(self, |c| events_after(c, scope, n, limit))
    }

    async fn events_numbered(&self, numbers: &[i64]) -> Result<Vec<Event>> {
        let numbers = numbers.to_owned();
        read!(self, |c| events_numbered(c, &numbers))
    }

    async fn events_back(&self, scope: Scope, n: i64) -> Result<i64> {
        read!(self, |c| dialect::events_back(c, scope, n))
    }

    async fn sessions_by_id(&self, ids: &[SessionId]) -> Result<Vec<Session>> {
        let ids = ids.to_owned();
        read!(self, |c| sessions::by_ids(c, &ids))
    }

    async fn keys_in_standing(&self, keys: &[ApiKeyId]) -> Result<Vec<ApiKeyId>> {
        let keys = keys.to_owned();
        lookup!(self, |c| keys_in_standing(c, &keys))
    }

    async fn logins_in_standing(&self, families: &[FamilyId]) -> Result<Vec<(FamilyId, bool)>> {
        let families = families.to_owned();
        lookup!(self, |c| logins_in_standing(c, &families))
    }

    async fn write_api_logs(&self, lines: &[ApiLog]) -> Result<()> {
        self.write_log(lines).await
    }

    async fn list_api_logs(
        &self,
        filter: &ApiLogFilter,
        after: Option<LogPlace>,
        limit: u32,
    ) -> Result<Page<ApiLog, LogPlace>> {
        let filter = filter.clone();
        self.read_log(move |c| async move { list_api_logs(c, &filter, after, limit).await }.boxed()).await
    }

    async fn list_usage(
        &self,
        filter: &UsageFilter,
        after: Option<UsagePlace>,
        limit: u32,
    ) -> Result<Page<UsageStats, UsagePlace>> {
        let filter = *filter;
        read!(self, |c| list_usage(c, &filter, after, limit))
    }
}

/// Numbers below the last one given that may be under way, when no event is there to tell.
const UNTOLD: i64 = 1_000;

/// The newest numbers, and those missing among them.
pub(crate) async fn newest_events(conn: &mut Connection) -> Result<Newest> {
    let numbers: Vec<(i64,)> = sqlx::query_as("SELECT n FROM events ORDER BY n DESC LIMIT $1")
        .bind(dialect::EVENTS_UNDER_WAY)
        .fetch_all(&mut *conn)
        .await
        .map_err(failed)?;
    let (Some((last,)), Some((first,))) = (numbers.first(), numbers.last()) else {
        let (last,): (i64,) = sqlx::query_as(last_event!()).fetch_one(conn).await.map_err(failed)?;
        let untold = UNTOLD.min(dialect::EVENTS_UNDER_WAY);
        return Ok(Newest { last, missing: ((last - untold).max(0) + 1..=last).collect() });
    };
    let mut missing = Vec::new();
    let mut next = *first;
    for (n,) in numbers.iter().rev() {
        missing.extend(next..*n);
        next = n + 1;
    }
    Ok(Newest { last: *last, missing })
}

#[derive(sqlx::FromRow)]
struct EventRow {
    n: i64,
    at: Time,
    user_id: UserId,
    session_id: SessionId,
    message_id: Option<MessageId>,
    status: i16,
}

impl From<EventRow> for Event {
    fn from(row: EventRow) -> Self {
        let change = match row.message_id {
            Some(message) => Status::from_code(row.status).map(|status| Change::Message(message, status)),
            None => SessionStatus::from_code(row.status).map(|status| Change::Session(row.session_id, status)),
        };
        Self { n: row.n, at: row.at, user: row.user_id, change: change.unwrap_or(Change::Unknown) }
    }
}

macro_rules! select_events {
    ($condition_and_order:expr) => {
        concat!(
            "SELECT e.n, e.at, e.user_id, e.session_id, e.message_id, e.status FROM events e WHERE ",
            $condition_and_order
        )
    };
}

/// The text of [`events_after`].
pub(crate) const fn events_after_text(scope: Scope) -> &'static str {
    match scope {
        Scope::User(_) => concat!(select_events!(events_of_user!()), " LIMIT $3"),
        Scope::All => select_events!("e.n > $1 AND CAST($2 AS bigint) IS NULL ORDER BY e.n LIMIT $3"),
    }
}

/// Events with a higher number.
pub(crate) async fn events_after(conn: &mut Connection, scope: Scope, n: i64, limit: u32) -> Result<Vec<Event>> {
    let rows: Vec<EventRow> = sqlx::query_as(events_after_text(scope))
        .bind(n)
        .bind(scope.user())
        .bind(i64::from(limit))
        .fetch_all(conn)
        .await
        .map_err(failed)?;
    Ok(rows.into_iter().map(Event::from).collect())
}

/// The events of these numbers that are there.
pub(crate) async fn events_numbered(conn: &mut Connection, numbers: &[i64]) -> Result<Vec<Event>> {
    let rows: Vec<EventRow> = sqlx::query_as(select_events!(concat!("e.n ", among_numbers!("$1"), " ORDER BY e.n")))
        .bind(dialect::numbers(numbers))
        .fetch_all(conn)
        .await
        .map_err(failed)?;
    Ok(rows.into_iter().map(Event::from).collect())
}

/// Those of these keys that open something.
pub(crate) async fn keys_in_standing(conn: &mut Connection, keys: &[ApiKeyId]) -> Result<Vec<ApiKeyId>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<i64> = keys.iter().map(|key| key.0).collect();
    let rows: Vec<(ApiKeyId,)> = sqlx::query_as(concat!(
        "SELECT k.id FROM api_keys k JOIN users u ON u.id = k.user_id WHERE k.id ",
        among_numbers!("$1"),
        " AND k.is_active AND u.is_active AND u.deleted_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ",
        now_ms!(),
        ")"
    ))
    .bind(dialect::numbers(&keys))
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    Ok(rows.into_iter().map(|(key,)| key).collect())
}

/// Those of these logins that live, and whether their users are admins.
pub(crate) async fn logins_in_standing(conn: &mut Connection, families: &[FamilyId]) -> Result<Vec<(FamilyId, bool)>> {
    if families.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_as(concat!(
        "SELECT f.id, u.is_staff FROM token_families f JOIN users u ON u.id = f.user_id WHERE f.id ",
        among!("$1"),
        " AND f.revoked_at IS NULL AND f.expires_at > ",
        now_ms!(),
        " AND u.is_active AND u.deleted_at IS NULL"
    ))
    .bind(dialect::ids(families.iter().map(|family| family.0)))
    .fetch_all(conn)
    .await
    .map_err(failed)
}

#[derive(sqlx::FromRow)]
struct LogRow {
    at: Time,
    n: i64,
    user_id: Option<UserId>,
    endpoint: String,
    method: String,
    status: i16,
    duration_us: i64,
    ip_address: String,
    request_id: String,
    hit: bool,
}

impl TryFrom<LogRow> for ApiLog {
    type Error = StoreError;

    fn try_from(row: LogRow) -> Result<Self> {
        Ok(Self {
            status: u16::try_from(row.status).map_err(|_| corrupt("api_logs.status", row.n, row.status))?,
            address: row.ip_address.parse().map_err(|_| corrupt("api_logs.ip_address", row.n, &row.ip_address))?,
            at: row.at,
            user: row.user_id,
            endpoint: row.endpoint,
            method: row.method,
            duration_us: row.duration_us,
            request_id: Arc::from(row.request_id),
        })
    }
}

/// Lines in the order of the list, each with whether it is asked for. Both texts have the same parameters. The time stands
/// twice: for the index, and for the choice of partitions.
macro_rules! scan_logs {
    ($whose:expr) => {
        concat!(
            "SELECT l.at, l.n, l.user_id, l.endpoint, l.method, l.status, l.duration_us, l.ip_address, l.request_id,
                (($5 IS NULL OR l.method = $5) AND ($6 IS NULL OR l.status = $6) AND ($7 IS NULL OR l.endpoint = $7)) AS hit
            FROM api_logs l WHERE l.at <= $1 AND (l.at, l.n) < ($1, $2) AND l.at >= $3 AND ",
            $whose,
            " ORDER BY l.at DESC, l.n DESC LIMIT $8"
        )
    };
}
pub(crate) const LOGS_OF_ALL: &str = scan_logs!("CAST($4 AS bigint) IS NULL");
pub(crate) const LOGS_OF_USER: &str = scan_logs!("l.user_id = $4");

/// A page of the API log. Lines are looked through in steps, as messages are.
pub(crate) async fn list_api_logs(
    conn: &mut Connection,
    filter: &ApiLogFilter,
    after: Option<LogPlace>,
    limit: u32,
) -> Result<Page<ApiLog, LogPlace>> {
    let text = if filter.user.is_some() { LOGS_OF_USER } else { LOGS_OF_ALL };
    let highest = (filter.until.unwrap_or(Time(i64::MAX)), 0);
    let place = |row: &LogRow| (row.at, row.n);
    let mut scan = Scan::new(limit, after.map_or(highest, |after| after.min(highest)));
    while let Some(size) = scan.next_step() {
        let rows: Vec<LogRow> = sqlx::query_as(text)
            .bind(scan.below.0)
            .bind(scan.below.1)
            .bind(filter.from.unwrap_or(Time(i64::MIN)))
            .bind(filter.user)
            .bind(filter.method.as_deref())
            .bind(filter.status.map(|status| i16::try_from(status).unwrap_or(i16::MAX)))
            .bind(filter.endpoint.as_deref())
            .bind(size)
            .fetch_all(&mut *conn)
            .await
            .map_err(failed)?;
        scan.add(size, rows, place, |row| row.hit);
    }
    let Page { items, next } = scan.page(place);
    Ok(Page { items: items.into_iter().map(ApiLog::try_from).collect::<Result<_>>()?, next })
}

/// The users and days of a page are found by the indexes of both tables, and then summed up. Both texts have the same
/// parameters.
macro_rules! usage_page {
    ($whose:expr) => {
        concat!(
            "SELECT k.user_id, k.day, COALESCE(MAX(q.accepted), 0) AS messages_accepted,
                CAST(COALESCE(SUM(u.sent), 0) AS bigint) AS messages_sent,
                CAST(COALESCE(SUM(u.failed), 0) AS bigint) AS messages_failed,
                CAST(COALESCE(SUM(u.media_sent), 0) AS bigint) AS media_sent,
                CAST(COALESCE(SUM(u.api_requests), 0) AS bigint) AS api_requests
            FROM (
                SELECT * FROM (SELECT day, user_id FROM quotas
                    WHERE day <= $1 AND (day, user_id) < ($1, $2) AND day >= $3 AND ",
            $whose,
            " ORDER BY day DESC, user_id DESC LIMIT $5) a
                UNION SELECT * FROM (SELECT DISTINCT day, user_id FROM usage_stats
                    WHERE day <= $1 AND (day, user_id) < ($1, $2) AND day >= $3 AND ",
            $whose,
            " ORDER BY day DESC, user_id DESC LIMIT $5) b
                ORDER BY day DESC, user_id DESC LIMIT $5) k
            LEFT JOIN quotas q ON q.user_id = k.user_id AND q.day = k.day
            LEFT JOIN usage_stats u ON u.user_id = k.user_id AND u.day = k.day
            GROUP BY k.user_id, k.day ORDER BY k.day DESC, k.user_id DESC"
        )
    };
}
pub(crate) const USAGE_OF_ALL: &str = usage_page!("CAST($4 AS bigint) IS NULL");
pub(crate) const USAGE_OF_USER: &str = usage_page!("user_id = $4");

/// A page of usage by user and day.
pub(crate) async fn list_usage(
    conn: &mut Connection,
    filter: &UsageFilter,
    after: Option<UsagePlace>,
    limit: u32,
) -> Result<Page<UsageStats, UsagePlace>> {
    let text = if filter.user.is_some() { USAGE_OF_USER } else { USAGE_OF_ALL };
    let limit = limit.max(1);
    // No user's id is below 1: before the whole day.
    let highest = (filter.until, UserId(0));
    let below: (Day, UserId) = after.map_or(highest, |after| after.min(highest));
    let mut items: Vec<UsageStats> = sqlx::query_as(text)
        .bind(below.0)
        .bind(below.1)
        .bind(filter.from)
        .bind(filter.user)
        .bind(i64::from(limit) + 1)
        .fetch_all(conn)
        .await
        .map_err(failed)?;
    let size = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > size;
    items.truncate(size);
    let next = if more { items.last().map(|stats| (stats.day, stats.user_id)) } else { None };
    Ok(Page { items, next })
}
