//! Where SQLite's text differs from PostgreSQL's: what the shared statements are made with.

use std::collections::BTreeMap;

use sqlx_sqlite::SqliteConnection;
use uuid::Uuid;

use super::Now;
use super::moves::json;
use super::sql::failed;
use crate::ids::{SessionId, UserId};
use crate::ports::store::{Result, Scope};
use crate::store::Fault;

/// The database's clock in milliseconds. SQLite counts in whole ones, which a floating-point number of seconds hides.
macro_rules! now_ms {
    () => {
        "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)"
    };
}

/// A number, or 0 if it is less.
macro_rules! at_least_zero {
    ($($number:literal),+) => {
        concat!("max(0, ", $($number,)+ ")")
    };
}

/// One of the uuids in a parameter made by `ids`.
macro_rules! among {
    ($parameter:literal) => {
        concat!("IN (SELECT unhex(value) FROM json_each(", $parameter, "))")
    };
}

/// The arrays in a parameter that is a JSON array of them, each a row with a `value`.
macro_rules! json_rows {
    ($parameter:literal) => {
        concat!("json_each(", $parameter, ")")
    };
}

/// One of the numbers in a parameter made by `numbers`.
macro_rules! among_numbers {
    ($parameter:literal) => {
        concat!("IN (SELECT value FROM json_each(", $parameter, "))")
    };
}

/// The events of the user `$2` after the number `$1`, in order.
macro_rules! events_of_user {
    () => {
        "e.user_id = $2 AND e.n > $1 ORDER BY e.n"
    };
}

/// The highest number that an event was given.
macro_rules! last_event {
    () => {
        "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0) AS last"
    };
}

/// Locks rows against every change: there is one writer.
macro_rules! for_update {
    () => {
        ""
    };
}

/// Locks rows against removal: there is one writer.
macro_rules! for_key_share {
    () => {
        ""
    };
}

/// Leaves out rows that are locked: none are.
macro_rules! skip_locked {
    () => {
        ""
    };
}

/// A list of uuids as one parameter.
pub(crate) fn ids(ids: impl Iterator<Item = Uuid>) -> String {
    let mut text = String::from("[");
    for id in ids {
        if text.len() > 1 {
            text.push(',');
        }
        text.push('"');
        text.push_str(id.simple().encode_lower(&mut Uuid::encode_buffer()));
        text.push('"');
    }
    text.push(']');
    text
}

/// A list of numbers as one parameter.
pub(crate) fn numbers(numbers: &[i64]) -> String {
    let texts: Vec<String> = numbers.iter().map(i64::to_string).collect();
    format!("[{}]", texts.join(","))
}

/// Events with a lower number than the newest that may be under way still: none, as there is one writer.
pub(crate) const EVENTS_UNDER_WAY: i64 = 1;

/// What an (extended) result code means. <https://www.sqlite.org/rescode.html>
pub(crate) fn fault(code: &str) -> Fault {
    match code.parse::<u32>().map(|code| code & 0xff) {
        // BUSY, LOCKED, NOMEM, READONLY (a disk that turned so), INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL
        Ok(5 | 6 | 7 | 8 | 9 | 10 | 13 | 14 | 15) => Fault::Unavailable,
        // TOOBIG, CONSTRAINT, MISMATCH
        Ok(18..=20) => Fault::Data,
        _ => Fault::Defect,
    }
}

/// Adds to the count of users' requests today.
pub(crate) async fn count_requests(
    conn: &mut SqliteConnection,
    now: Now,
    shard: i64,
    counts: &BTreeMap<UserId, i64>,
) -> Result<()> {
    let counts: Vec<(i64, i64)> = counts.iter().map(|(user, count)| (user.0, *count)).collect();
    sqlx::query(
        "INSERT INTO usage_stats (user_id, day, shard, api_requests)
        SELECT value->>0, $2, $3, value->>1 FROM json_each($1) WHERE true
        ON CONFLICT (user_id, day, shard) DO UPDATE SET api_requests = api_requests + excluded.api_requests",
    )
    .bind(json(&counts)?)
    .bind(now.day())
    .bind(shard)
    .execute(conn)
    .await
    .map(drop)
    .map_err(failed)
}

/// Notes when keys were used last.
pub(crate) async fn mark_keys_used(conn: &mut SqliteConnection, used: &[(i64, i64)]) -> Result<()> {
    sqlx::query(
        "UPDATE api_keys SET last_used_at = u.at
        FROM (SELECT value->>0 AS id, value->>1 AS at FROM json_each($1)) u
        WHERE api_keys.id = u.id AND (last_used_at IS NULL OR last_used_at < u.at)",
    )
    .bind(json(used)?)
    .execute(conn)
    .await
    .map(drop)
    .map_err(failed)
}

/// The values of some of a device's keys.
pub(crate) async fn device_values(
    conn: &mut SqliteConnection,
    session: SessionId,
    kind: i16,
    keys: Vec<Vec<u8>>,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let row: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT value FROM whatsapp_state WHERE session_id = $1 AND kind = $2 AND key = $3")
                .bind(session)
                .bind(kind)
                .bind(&key)
                .fetch_optional(&mut *conn)
                .await
                .map_err(failed)?;
        found.extend(row.map(|(value,)| (key, value)));
    }
    Ok(found)
}

/// From where to read so that nothing is missed by somebody who has seen the event `n`: there is one writer, so numbers are
/// committed in their order.
pub(crate) async fn events_back(_: &mut SqliteConnection, _: Scope, n: i64) -> Result<i64> {
    Ok(n)
}
