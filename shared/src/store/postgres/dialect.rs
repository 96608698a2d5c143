//! Where PostgreSQL's text differs from SQLite's: what the shared statements are made with.

use std::collections::BTreeMap;

use sqlx_postgres::PgConnection;
use uuid::Uuid;

use super::committer::is_connection_code;
use super::{Now, error};
use crate::ids::{SessionId, UserId};
use crate::ports::journal::UNDER_WAY_MAX;
use crate::ports::store::{Result, Scope};
use crate::store::Fault;
use crate::time::millis;

/// The database's clock in milliseconds, the same throughout a statement.
macro_rules! now_ms {
    () => {
        "now_ms()"
    };
}

/// A number, or 0 if it is less.
macro_rules! at_least_zero {
    ($($number:literal),+) => {
        concat!("GREATEST(0, ", $($number,)+ ")")
    };
}

/// One of the uuids in a parameter made by `ids`.
macro_rules! among {
    ($parameter:literal) => {
        concat!("= ANY(", $parameter, ")")
    };
}

/// One of the numbers in a parameter made by `numbers`.
macro_rules! among_numbers {
    ($parameter:literal) => {
        concat!("= ANY(", $parameter, ")")
    };
}

/// The events of the user `$2` after the number `$1`, in order. Asked by user and number together, or a planner that expects
/// many of a user's events would look for them among everybody's, which takes long if there are few.
macro_rules! events_of_user {
    () => {
        "(e.user_id, e.n) > ($2, $1) AND e.user_id <= $2 ORDER BY e.user_id, e.n"
    };
}

/// The highest number that an event was given, committed or not.
macro_rules! last_event {
    () => {
        "SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS last FROM event_n"
    };
}

/// Locks rows against every change.
macro_rules! for_update {
    () => {
        " FOR UPDATE"
    };
}

/// Locks rows against removal.
macro_rules! for_key_share {
    () => {
        " FOR KEY SHARE"
    };
}

/// Leaves out rows that are locked.
macro_rules! skip_locked {
    () => {
        " SKIP LOCKED"
    };
}

/// The arrays in a parameter that is a JSON array of them, each a row with a `value`.
macro_rules! json_rows {
    ($parameter:literal) => {
        concat!("json_array_elements(CAST(CAST(", $parameter, " AS text) AS json)) AS rows(value)")
    };
}

/// A list of uuids as one parameter.
pub(crate) fn ids(ids: impl Iterator<Item = Uuid>) -> Vec<Uuid> {
    ids.collect()
}

/// A list of numbers as one parameter.
pub(crate) fn numbers(numbers: &[i64]) -> Vec<i64> {
    numbers.to_vec()
}

/// Events with a lower number than the newest that may be under way still: so many of the last numbers are looked through
/// for missing ones when somebody begins to read.
pub(crate) const EVENTS_UNDER_WAY: i64 = 20_000;

/// What an error code means. <https://www.postgresql.org/docs/15/errcodes-appendix.html>
pub(crate) fn fault(code: &str) -> Fault {
    match code {
        "40P01" | "40001" | "55P03" | "57014" => Fault::Unavailable,
        code if is_connection_code(code) => Fault::Unavailable,
        code if code.starts_with("22") || code.starts_with("23") || code.starts_with("54") => Fault::Data,
        _ => Fault::Defect,
    }
}

/// Adds to the count of users' requests today.
pub(crate) async fn count_requests(
    connection: &mut PgConnection,
    _: Now,
    shard: i64,
    counts: &BTreeMap<UserId, i64>,
) -> Result<()> {
    let (users, counts): (Vec<i64>, Vec<i64>) = counts.iter().map(|(user, count)| (user.0, *count)).unzip();
    sqlx::query(concat!(
        "INSERT INTO usage_stats AS u (user_id, day, shard, api_requests)
         SELECT r.user_id, ",
        now_ms!(),
        " / 86400000, $1, r.n FROM unnest($2::bigint[], $3::bigint[]) AS r (user_id, n)
         ORDER BY r.user_id
         ON CONFLICT (user_id, day, shard) DO UPDATE SET api_requests = u.api_requests + excluded.api_requests"
    ))
    .bind(shard)
    .bind(users)
    .bind(counts)
    .execute(connection)
    .await
    .map(drop)
    .map_err(error)
}

/// Notes when keys were used last.
pub(crate) async fn mark_keys_used(connection: &mut PgConnection, used: &[(i64, i64)]) -> Result<()> {
    let (ids, times): (Vec<i64>, Vec<i64>) = used.iter().copied().unzip();
    sqlx::query(
        "WITH locked AS MATERIALIZED (
             SELECT k.id, u.at FROM unnest($1::bigint[], $2::bigint[]) AS u (id, at) JOIN api_keys k ON k.id = u.id
             WHERE k.last_used_at IS NULL OR k.last_used_at < u.at
             ORDER BY k.id
             FOR NO KEY UPDATE OF k
         )
         UPDATE api_keys k SET last_used_at = l.at FROM locked l WHERE k.id = l.id",
    )
    .bind(ids)
    .bind(times)
    .execute(connection)
    .await
    .map(drop)
    .map_err(error)
}

/// The values of some of a device's keys.
pub(crate) async fn device_values(
    connection: &mut PgConnection,
    session: SessionId,
    kind: i16,
    keys: Vec<Vec<u8>>,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    sqlx::query_as("SELECT key, value FROM whatsapp_state WHERE session_id = $1 AND kind = $2 AND key = ANY ($3)")
        .bind(session)
        .bind(kind)
        .bind(keys)
        .fetch_all(connection)
        .await
        .map_err(error)
}

/// The newest event that is so much older than the event `$1`; 0 if none is, nothing if the event is gone. As it is asked,
/// the user's own is found by the index of user and number.
macro_rules! back {
    ($before:literal, $order:literal) => {
        concat!(
            "SELECT COALESCE((SELECT b.n FROM events b WHERE ",
            $before,
            " AND b.at < e.at - $3 ORDER BY ",
            $order,
            " LIMIT 1), 0) FROM events e WHERE e.n = $1"
        )
    };
}

/// From where to read so that nothing is missed by somebody who has seen the event `n`.
pub(crate) async fn events_back(connection: &mut PgConnection, scope: Scope, n: i64) -> Result<i64> {
    let text = match scope {
        Scope::User(_) => back!("(b.user_id, b.n) < ($2, $1) AND b.user_id >= $2", "b.user_id DESC, b.n DESC"),
        Scope::All => back!("b.n < $1 AND CAST($2 AS bigint) IS NULL", "b.n DESC"),
    };
    let back: Option<i64> = sqlx::query_scalar(text)
        .bind(n)
        .bind(scope.user())
        .bind(millis(UNDER_WAY_MAX))
        .fetch_optional(connection)
        .await
        .map_err(error)?;
    Ok(back.unwrap_or(n))
}
